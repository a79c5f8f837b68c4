"""When to try to open a port again: soon at first, then less often, never in a storm."""

from __future__ import annotations

FIRST_DELAY = 0.25  # a pulled and re-plugged adapter is enumerated within a second
LAST_DELAY = 3.0  # an adapter that comes back is in use again within five seconds
HEALTHY_SECONDS = 5.0  # a port that failed sooner after opening goes on with the longer delay


class Backoff:
    """Delays in seconds; `now` is monotonic."""

    __slots__ = ("_delay", "_opened")

    def __init__(self) -> None:
        self._delay = FIRST_DELAY
        self._opened: float | None = None

    def opened(self, now: float) -> None:
        """The port was opened."""
        self._opened = now

    def failed(self, now: float) -> float:
        """The port failed, or could not be opened: how long to wait before the next try."""
        if self._opened is not None and now - self._opened >= HEALTHY_SECONDS:
            self._delay = FIRST_DELAY
        self._opened = None
        delay = self._delay
        self._delay = min(self._delay * 2, LAST_DELAY)
        return delay
