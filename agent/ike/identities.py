"""One IKE SA with a peer between two identities: RFC 7296 §2.4 (INITIAL_CONTACT), mediation.md §6.

A newer IKE SA replaces the older one. Where each side started one at the same time, both sides have
to keep the same one, in whatever order they saw them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.ike.events import CloseReason

if TYPE_CHECKING:
    from agent.ike.sa import IkeSa

# Two IKE SAs, started by each of the two within this time, are one collision and not a restart.
COLLISION_SECONDS: Final = 10.0

Key = tuple[str, object, object]


class Identities:
    """The established IKE SA of each peer between each pair of identities, for those unique.

    Two peers may have one pair of identities, each with a proof of its own: a machine that has a
    tunnel to its mediation server. Who proves the one takes nothing from the other.
    """

    __slots__ = ("_ike_ids",)

    def __init__(self) -> None:
        self._ike_ids: dict[Key, int] = {}

    def is_first_contact(self, sa: IkeSa) -> bool:
        """Whether no other IKE SA exists with whom `sa` is meant to reach: INITIAL_CONTACT."""
        assert sa.peer is not None
        if not sa.peer.unique or sa.peer.remote_id is None:
            return False
        # It speaks of the identities (§2.4), whichever peer of ours they are.
        pair = _key(sa)[1:]
        return all(key[1:] != pair for key in self._ike_ids)

    def on_established(self, sa: IkeSa, now: float, *, initial_contact: bool) -> None:
        """End the older one, or the new one if that has to yield."""
        assert sa.peer is not None
        if not sa.peer.unique:
            return
        key = _key(sa)
        older = sa.table.sa(self._ike_ids.get(key, 0))
        if older is not None and older is not sa:
            if _yields(sa, older, now):
                sa.delete(CloseReason.REPLACED, "two at once", now)
                return
            if initial_contact and older.started_by_us == sa.started_by_us:
                older.close(CloseReason.REPLACED, "", now)  # nobody is there to be told
            else:
                older.delete(CloseReason.REPLACED, "", now)
            sa.table.touch(older)
        self._ike_ids[key] = sa.ike_id

    def on_gone(self, sa: IkeSa) -> None:
        """`sa` is in use no more."""
        key = _key(sa)
        if self._ike_ids.get(key) == sa.ike_id:
            del self._ike_ids[key]


def _key(sa: IkeSa) -> Key:
    assert sa.peer is not None
    remote = sa.remote_id or sa.peer.remote_id
    return (sa.peer.name, sa.peer.local_id.key, remote.key if remote else None)


def _yields(newer: IkeSa, older: IkeSa, now: float) -> bool:
    """Both sides started one at the same time: the one with the lower SPIs stays."""
    crossed = newer.started_by_us != older.started_by_us
    if not crossed or now - older.established_at > COLLISION_SECONDS:
        return False
    return older.spis < newer.spis
