"""When to try again: doubling, capped, with jitter so that 400 gateways do not come back as one."""

from __future__ import annotations

from collections.abc import Callable

Random = Callable[[int], bytes]


class Backoff:
    """Delays in seconds; each is drawn from the upper half of its step."""

    __slots__ = ("_first", "_limit", "_random", "_step")

    def __init__(self, random: Random, first: float, limit: float) -> None:
        self._random = random
        self._first = first
        self._limit = limit
        self._step = first

    def next_delay(self) -> float:
        """The next delay; the one after it is twice as long, up to the limit."""
        step, self._step = self._step, min(self._step * 2, self._limit)
        return step * (0.5 + int.from_bytes(self._random(2), "big") / 131072)

    def reset(self) -> None:
        """It worked: begin with the first delay again."""
        self._step = self._first
