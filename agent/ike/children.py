"""Which IKE SA has which Child SA, by the SPI of either direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.ike.child import ChildSa
    from agent.ike.sa import IkeSa

# RFC 4303 §2.1: SPIs up to 255 are reserved.
_LOWEST_SPI: Final = 256


class Children:
    """The Child SAs of all IKE SAs. An IKE SA has its own in `IkeSa.children`."""

    __slots__ = ("_owners", "_random", "_spis_out")

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._owners: dict[bytes, IkeSa] = {}  # by spi_in
        self._spis_out: dict[bytes, bytes] = {}  # → spi_in

    @property
    def spis_in(self) -> frozenset[bytes]:
        """Our SPIs that are in use."""
        return frozenset(self._owners)

    @property
    def spis_out(self) -> frozenset[bytes]:
        """SPIs of peers that are in use."""
        return frozenset(self._spis_out)

    def new_spi(self) -> bytes:
        """An ESP SPI that is not in use here."""
        while True:
            spi = self._random(4)
            if int.from_bytes(spi, "big") >= _LOWEST_SPI and spi not in self._owners:
                return spi

    def add(self, sa: IkeSa, child: ChildSa) -> None:
        """A Child SA was installed."""
        if sa.children is None:
            sa.children = {}
        sa.children[child.spi_in] = child
        self._owners[child.spi_in] = sa
        self._spis_out[child.spi_out] = child.spi_in

    def inherit(self, sa: IkeSa) -> None:
        """`sa` has taken over the Child SAs that it has now."""
        for spi in sa.children or ():
            self._owners[spi] = sa

    def forget(self, child: ChildSa) -> None:
        """A Child SA was removed."""
        self._owners.pop(child.spi_in, None)
        if self._spis_out.get(child.spi_out) == child.spi_in:
            del self._spis_out[child.spi_out]

    def find(self, spi_in: bytes) -> tuple[IkeSa, ChildSa] | None:
        """The Child SA that we call `spi_in`, and whose it is."""
        sa = self._owners.get(spi_in)
        child = (sa.children or {}).get(spi_in) if sa is not None else None
        return (sa, child) if sa is not None and child is not None else None

    def user_of(self, spi_out: bytes) -> IkeSa | None:
        """The IKE SA with a Child SA that the peer calls `spi_out` (SPIs of peers may coincide)."""
        found = self.find(self._spis_out.get(spi_out, b""))
        return found[0] if found is not None and found[1].spi_out == spi_out else None
