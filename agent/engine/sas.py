"""What stands with one peer: its IKE SAs and their Child SAs, as a connection counts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Sas:
    """The established IKE SAs by ike_id, the newest last.

    Two for a moment when both sides began at once or one of them restarted; ike decides which goes.
    """

    __slots__ = ("_children", "_initiated")

    def __init__(self) -> None:
        self._children: dict[int, set[bytes]] = {}
        self._initiated: set[int] = set()

    def __len__(self) -> int:
        return len(self._children)

    def __contains__(self, ike_id: int) -> bool:
        return ike_id in self._children

    def __iter__(self) -> Iterator[int]:
        return iter(self._children)

    @property
    def newest(self) -> int | None:
        """The one that carries on."""
        return next(reversed(self._children), None)

    @property
    def children(self) -> list[bytes]:
        """SPIs of all Child SAs inbound."""
        return sorted(spi for spis in self._children.values() for spi in spis)

    def is_initiated(self, ike_id: int | None) -> bool:
        """Whether we began it."""
        return ike_id in self._initiated

    def add(self, ike_id: int, *, initiated: bool) -> None:
        """One more is up, without Child SAs so far."""
        if initiated:
            self._initiated.add(ike_id)
        self._children[ike_id] = set()

    def remove(self, ike_id: int) -> None:
        """It ended. Nothing happens if it is not there."""
        self._children.pop(ike_id, None)
        self._initiated.discard(ike_id)

    def clear(self) -> None:
        """None of them counts any more."""
        self._children.clear()
        self._initiated.clear()

    def add_child(self, ike_id: int, spi: bytes) -> None:
        """A Child SA of an IKE SA that is there."""
        self._children[ike_id].add(spi)

    def replace_child(self, ike_id: int, old: bytes, new: bytes) -> None:
        """A rekeying exchanged one for another."""
        if (spis := self._children.get(ike_id)) is not None:
            spis.discard(old)
            spis.add(new)

    def remove_child(self, ike_id: int, spi: bytes) -> bool:
        """A Child SA is gone; whether its IKE SA, which is there, has others."""
        self._children[ike_id].discard(spi)
        return bool(self._children[ike_id])
