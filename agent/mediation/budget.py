"""How many checks an attempt may send to whom, and how many it may answer (mediation.md §5).

A server or a peer can name any address, and spoof any source. So what an address that does not
want to hear from us can get is bounded, per address and in all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.mediation.settings import (
    ANSWER_BURST,
    ANSWER_RATE,
    HEARD_ENDPOINT_BUDGET,
    SILENT_ENDPOINT_BUDGET,
    TRIGGERED_RESERVE,
    UNANSWERED_BUDGET,
)

if TYPE_CHECKING:
    from agent.datagram import Address


class Bucket:
    """A token bucket: `burst` at once, `rate` a second."""

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, burst: float, rate: float, now: float) -> None:
        self._burst = burst
        self._rate = rate
        self._level = burst
        self._at = now

    def take(self, now: float) -> bool:
        """Whether one more is allowed; if so it is taken."""
        self._level = min(self._burst, self._level + max(0.0, now - self._at) * self._rate)
        self._at = max(self._at, now)
        if self._level < 1:
            return False
        self._level -= 1
        return True


class CheckBudget:
    """Checks sent and answers given in one attempt."""

    __slots__ = ("_answered", "_answers", "_heard", "_sent", "_unanswered")

    def __init__(self, now: float) -> None:
        self._sent: dict[Address, int] = {}
        self._heard: set[Address] = set()
        self._answered: set[Address] = set()
        self._unanswered = 0
        self._answers = Bucket(ANSWER_BURST, ANSWER_RATE, now)

    @property
    def unanswered(self) -> int:
        """Checks to endpoints that never answered one, all together."""
        return self._unanswered

    def allows(self, remote: Address, *, reserve: int = 0, triggered: bool = False) -> bool:
        """Whether one more check may go to `remote`. `reserve` are kept for others."""
        if remote in self._answered:
            return True
        limit = HEARD_ENDPOINT_BUDGET if remote in self._heard else SILENT_ENDPOINT_BUDGET
        if self._sent.get(remote, 0) >= limit:
            return False
        kept = 0 if triggered else TRIGGERED_RESERVE + reserve
        return self._unanswered + kept < UNANSWERED_BUDGET

    def was_asked(self, remote: Address) -> bool:
        """Whether a check went to `remote` before."""
        return remote in self._sent or remote in self._answered

    def is_spent(self, remote: Address) -> bool:
        """Whether no check may go to `remote` any more, whatever happens to the others."""
        return not self.allows(remote, triggered=True)

    def spend(self, remote: Address) -> None:
        """One check goes to `remote`."""
        if remote not in self._answered:
            self._sent[remote] = self._sent.get(remote, 0) + 1
            self._unanswered += 1

    def heard(self, remote: Address) -> None:
        """An authenticated check came from `remote`: it is not silent (if it was not spoofed)."""
        self._heard.add(remote)

    def answered(self, remote: Address) -> None:
        """`remote` answered one of our checks."""
        self._answered.add(remote)
        self._unanswered -= self._sent.pop(remote, 0)

    def may_answer(self, now: float) -> bool:
        """Whether one more check may be answered; if so it counts."""
        return self._answers.take(now)
