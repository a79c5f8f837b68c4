"""When to try again: doubling, capped, with jitter so that 400 gateways do not come back as one."""

from __future__ import annotations

from collections.abc import Callable

Random = Callable[[int], bytes]


STABLE_SECONDS = 150.0  # longer than a peer needs to notice by itself that it was thrown out
SHORT_ONES = 3  # so many short successes in a row may be bad luck


class Backoff:
    """Delays in seconds; each is drawn from the upper half of its step.

    A success that lasted makes the next delay the first one again. Short ones do so only a few
    times in a row: two boards with one identity would throw each other off for ever.
    """

    __slots__ = ("_first", "_limit", "_random", "_short", "_step")

    def __init__(self, random: Random, first: float, limit: float) -> None:
        self._random = random
        self._first = first
        self._limit = limit
        self._step = first
        self._short = 0

    def next_delay(self, at_most: float | None = None) -> float:
        """The next delay; the one after it is twice as long, up to the limit."""
        step, self._step = self._step, min(self._step * 2, self._limit)
        if at_most is not None:
            step = min(step, at_most)
        return step * (0.5 + int.from_bytes(self._random(2), "big") / 131072)

    def reset(self) -> None:
        """Somebody asks, or the network is another: begin with the first delay again."""
        self._step = self._first
        self._short = 0

    def on_lost(self, seconds: float) -> bool:
        """It worked for `seconds`, then ended. True if it is time to suspect another machine."""
        self._short = 0 if seconds >= STABLE_SECONDS else self._short + 1
        if self._short <= SHORT_ONES:
            self._step = self._first
        return self._short == SHORT_ONES + 1
