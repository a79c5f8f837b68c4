"""Is the peer still there (RFC 7296 §2.4)? An empty INFORMATIONAL after some silence.

Anything proven counts as heard, ESP too (the engine says so). The timer is not moved with each
packet: it looks when it fires, so a packet costs nothing here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.ike.extension import Extension
from agent.ike.informational import check_liveness

if TYPE_CHECKING:
    from agent.ike.sa import IkeSa


class Liveness(Extension):
    """Probes after `interval` seconds of silence; without an answer the IKE SA times out."""

    __slots__ = ("_at", "_interval")

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._at: float | None = None

    def on_established(self, sa: IkeSa, now: float) -> None:
        """See Extension."""
        self._at = now + self._interval

    def next_timeout(self) -> float | None:
        """See Extension."""
        return self._at

    def on_timer(self, sa: IkeSa, now: float) -> None:
        """See Extension."""
        due = sa.last_seen + self._interval
        if now >= due:
            check_liveness(sa, now)
            due = now + self._interval
        self._at = due
