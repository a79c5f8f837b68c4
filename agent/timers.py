"""Deadlines without a clock: `now` comes in as monotonic seconds, one deadline goes out.

`Timers` is the small table of one object (an IKE SA has a handful of them). `Schedule` is the
whole's table over many objects (ten thousand peers of a mediator): a heap with stale entries
left in place until they surface, so that moving a deadline costs O(log n).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable
from typing import Final, Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)


class WallTime(NamedTuple):
    """What is known of the date, which many boards do not know after a start.

    `seconds` since 1970. Where the clock cannot be right (`is_believed` False) this is the latest
    time that has certainly passed: it was seen earlier, or this program was made then.
    """

    seconds: float
    is_believed: bool


NO_DATE: Final = WallTime(math.inf, False)
"""Where nobody tells the date: whatever ends some day is over."""


class Timers(Generic[K]):
    """Deadlines of one object, by a named reason (an enum "when to …")."""

    __slots__ = ("_deadlines",)

    def __init__(self) -> None:
        self._deadlines: dict[K, float] = {}

    def set(self, key: K, deadline: float) -> None:
        """Arm `key` for `deadline` (monotonic seconds), replacing what was armed."""
        self._deadlines[key] = deadline

    def stop(self, key: K) -> None:
        """Disarm `key`; nothing happens if it was not armed. Cannot fail."""
        self._deadlines.pop(key, None)

    def clear(self) -> None:
        """Disarm everything."""
        self._deadlines.clear()

    def deadline(self, key: K) -> float | None:
        """When `key` is due, or None."""
        return self._deadlines.get(key)

    def next_deadline(self) -> float | None:
        """The earliest deadline, or None if nothing is armed."""
        return min(self._deadlines.values(), default=None)

    def expired(self, now: float) -> list[K]:
        """Take out and return what is due at `now`, the earliest first."""
        due = sorted(
            (k for k, at in self._deadlines.items() if at <= now),
            key=self._deadlines.__getitem__,
        )
        for key in due:
            del self._deadlines[key]
        return due


class Schedule(Generic[K]):
    """The next deadline of each of many objects.

    Deadlines mostly move away, so a later one only replaces the value in `_current`: the entry in
    the heap stays, and is moved when it comes to the top.
    """

    __slots__ = ("_count", "_current", "_heap", "_queued")

    def __init__(self) -> None:
        self._current: dict[K, float] = {}
        self._queued: dict[K, float] = {}  # the entry in the heap that counts
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._current)

    def set(self, key: K, deadline: float | None) -> None:
        """Put `key` at `deadline` (monotonic seconds); None takes it out."""
        if deadline is None:
            self._current.pop(key, None)
            return
        self._current[key] = deadline
        queued = self._queued.get(key)
        if queued is None or deadline < queued:
            self._push(key, deadline)
            if len(self._heap) > 64 + 4 * len(self._current):
                self._compact()

    def next_deadline(self) -> float | None:
        """The earliest deadline, or None."""
        while self._heap:
            at, _, key = self._heap[0]
            queued, deadline = self._queued.get(key), self._current.get(key)
            if at == queued == deadline:
                return deadline
            heapq.heappop(self._heap)
            if at == queued:
                del self._queued[key]
                if deadline is not None:
                    self._push(key, deadline)
        return None

    def expired(self, now: float) -> list[K]:
        """Take out and return the keys due at `now`, the earliest first."""
        due: list[K] = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            key = heapq.heappop(self._heap)[2]
            del self._current[key], self._queued[key]
            due.append(key)
        return due

    def _push(self, key: K, deadline: float) -> None:
        self._count += 1
        self._queued[key] = deadline
        heapq.heappush(self._heap, (deadline, self._count, key))

    def _compact(self) -> None:
        self._queued = dict(self._current)
        self._heap = [(at, count, key) for count, (key, at) in enumerate(self._current.items())]
        self._count = len(self._heap)
        heapq.heapify(self._heap)
