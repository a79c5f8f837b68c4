"""Bounds on what an attempt sends and answers: mediation.md §5, THREATS 19 and 21."""

from __future__ import annotations

from agent.datagram import Address
from agent.mediation.budget import Bucket, CheckBudget

ONE, TWO = Address(b"\x0a\x00\x00\x01", 4500), Address(b"\x0a\x00\x00\x02", 4500)


def spend_all(budget: CheckBudget, remote: Address, *, triggered: bool = False) -> int:
    count = 0
    while budget.allows(remote, triggered=triggered):
        budget.spend(remote)
        count += 1
        assert count < 1000
    return count


def test_eight_to_an_endpoint_that_stays_silent() -> None:
    budget = CheckBudget(0.0)
    assert spend_all(budget, ONE) == 8
    assert budget.is_spent(ONE)
    assert not budget.is_spent(TWO)


def test_fifty_in_all_of_which_some_are_kept_for_triggered_ones() -> None:
    budget = CheckBudget(0.0)
    remotes = [Address(bytes([10, 0, 1, i]), 4500) for i in range(17)]
    assert sum(spend_all(budget, r) for r in remotes) == 44
    assert sum(spend_all(budget, r, triggered=True) for r in remotes) == 6
    assert budget.unanswered == 50


def test_hearing_is_not_answering() -> None:
    """Whoever knows the key can spoof checks: more is allowed, but never without bound."""
    budget = CheckBudget(0.0)
    budget.heard(ONE)
    assert spend_all(budget, ONE, triggered=True) == 28
    assert budget.unanswered == 28


def test_an_answer_gives_back_what_was_spent() -> None:
    budget = CheckBudget(0.0)
    spend_all(budget, ONE)
    budget.answered(ONE)
    assert budget.unanswered == 0
    budget.spend(ONE)
    assert budget.unanswered == 0
    assert budget.allows(ONE)


def test_reserve() -> None:
    budget = CheckBudget(0.0)
    assert budget.allows(ONE, reserve=43)
    assert not budget.allows(ONE, reserve=44)


def test_bucket() -> None:
    bucket = Bucket(3, 2.0, 100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(100.4)
    assert bucket.take(100.5)
    assert not bucket.take(99.0)  # a clock that goes back gives nothing
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_answers_are_bounded() -> None:
    budget = CheckBudget(0.0)
    assert sum(budget.may_answer(0.0) for _ in range(10_000)) == 64
    assert sum(budget.may_answer(1.0) for _ in range(10_000)) == 40
