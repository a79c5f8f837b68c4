"""Which path each tunnel's IKE SA uses, and the keepalives that hold a NAT's mapping open.

RFC 3948 §4. Keepalives are for every IKE SA behind a NAT, also those with a mediator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.datagram import Path, Transmit
from agent.wire.esp import KEEPALIVE

if TYPE_CHECKING:
    from agent.timers import Schedule

KEEPALIVE_SECONDS = 20.0  # RFC 3948 §4: below the 30 s after which bad NATs forget UDP
KIND = "keepalive"
"""The first word of the keys in the schedule."""


class Paths:
    """One of the engine; `schedule` is its own, in which keepalives have a kind of key."""

    def __init__(self, schedule: Schedule[tuple[str, str]]) -> None:
        self.by_path: dict[Path, int] = {}
        """To know whose traffic goes there."""
        self._of: dict[int, Path] = {}
        self._keepalives: dict[int, Path] = {}
        self._schedule = schedule

    def __len__(self) -> int:
        return len(self._of)

    def ike_ids(self) -> list[int]:
        """All tunnels' IKE SAs."""
        return list(self._of)

    def note(self, ike_id: int, path: Path | None) -> None:
        """The IKE SA of a tunnel uses `path` from now on, None: it is gone."""
        before = self._of.pop(ike_id, None)
        if before is not None and self.by_path.get(before) == ike_id:
            del self.by_path[before]
        if path is not None:
            self._of[ike_id] = path
            self.by_path[path] = ike_id

    def keep_alive(self, ike_id: int, path: Path | None, now: float) -> None:
        """From now on there is a NAT on `path`; None: keepalives are of no use any more."""
        if path is None:
            self._keepalives.pop(ike_id, None)
            self._schedule.set((KIND, str(ike_id)), None)
        else:
            self._keepalives[ike_id] = path
            self._schedule.set((KIND, str(ike_id)), now + KEEPALIVE_SECONDS)

    def move(self, ike_id: int, path: Path) -> None:
        """Keepalives, if there are any, go along `path` from now on."""
        if ike_id in self._keepalives:
            self._keepalives[ike_id] = path

    def keepalive(self, ike_id: int, now: float) -> Transmit | None:
        """The one that is due."""
        path = self._keepalives.get(ike_id)
        if path is None:
            return None
        self._schedule.set((KIND, str(ike_id)), now + KEEPALIVE_SECONDS)
        return Transmit(path, KEEPALIVE)
