"""The replay window equals a model that remembers every number (THREATS 29)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ipsec.replay import WINDOW, ReplayWindow


class Model:
    """RFC 4303 §3.4.3 without any cleverness."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.top = 0

    def is_fresh(self, sequence: int) -> bool:
        return sequence > 0 and sequence > self.top - WINDOW and sequence not in self.seen

    def mark(self, sequence: int) -> None:
        self.seen.add(sequence)
        self.top = max(self.top, sequence)


near = st.integers(-2 * WINDOW, 2 * WINDOW) | st.integers(-3, 3)
steps = st.lists(st.tuples(near, st.booleans(), st.integers(1, 5)), max_size=60)


@given(steps, st.sampled_from([0, 1, WINDOW, 2**31, 2**32 - 2, 2**32 + 5, 2**63]))
def test_equals_the_naive_model(steps, start):
    window, model = ReplayWindow(), Model()
    if start:
        window.mark(start)
        model.mark(start)
    for offset, authentic, count in steps:
        first = model.top + offset
        for sequence in range(first, first + count):
            assert window.is_fresh(sequence) == model.is_fresh(sequence)
            if authentic and model.is_fresh(sequence):
                window.mark(sequence)
                model.mark(sequence)
            assert window.top == model.top


def test_the_top_may_be_moved_along_a_run_by_its_owner():
    # esp.InboundEsp writes `top` itself while packets come in order.
    window, model = ReplayWindow(), Model()
    for sequence in range(1, 3000):
        model.mark(sequence)
    window.top = 2999
    window.mark(3005)
    model.mark(3005)
    for sequence in range(3005 - WINDOW - 3, 3008):
        assert window.is_fresh(sequence) == model.is_fresh(sequence), sequence


@pytest.mark.parametrize(
    ("sequence", "fresh"),
    [(0, False), (-1, False), (1, True), (2**32 - 1, True), (2**64 - 1, True)],
)
def test_before_the_first_packet(sequence, fresh):
    assert ReplayWindow().is_fresh(sequence) is fresh


def test_edges_of_the_window():
    window = ReplayWindow()
    window.mark(WINDOW + 10)
    assert not window.is_fresh(WINDOW + 10)
    assert not window.is_fresh(10)
    assert window.is_fresh(11)
    window.mark(11)
    assert not window.is_fresh(11)
    assert window.is_fresh(12)


def test_checking_changes_nothing():
    window = ReplayWindow()
    assert window.is_fresh(2**31)
    assert window.top == 0
    assert window.is_fresh(1)


@given(st.integers(0, 2**64 - 2**33), st.integers(0, 2**32 - 1))
def test_extended_is_the_only_number_that_fits(top, low):
    # RFC 4303 appendix A2.2: within the window, or less than 2^32 beyond its bottom.
    window = ReplayWindow()
    window.top = top
    number = window.extended(low)
    assert number % 2**32 == low
    assert top - WINDOW < number <= top - WINDOW + 2**32


def test_extended_across_the_wrap():
    window = ReplayWindow()
    window.mark(2**32 - 2)
    assert window.extended(2**32 - 1) == 2**32 - 1
    assert window.extended(0) == 2**32
    window.mark(2**32 + 3)
    assert window.extended(2**32 - 1) == 2**32 - 1
    assert window.extended(4) == 2**32 + 4


def test_a_number_before_the_first_does_not_exist():
    window = ReplayWindow()
    window.mark(5)
    assert not window.is_fresh(window.extended(2**32 - 10))
