"""THREATS 25: simultaneous rekeys and deletes in every order: one pair of SAs on both sides.

Every order, with everything twice, and with each datagram lost once. Random ones, for hours of
virtual time: tests/unit/ike/test_agreement.py::test_rekeyings_end_in_one_pair
tests/unit/ike/test_agreement.py::test_deletes_among_them
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.ike.create_child_sa import CreateChild
from tests.support.pair import Pair, Side, established, make_pair
from tests.unit.ike.test_agreement import _agree as agree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEPTH = 8  # choices that are gone through; by then both procedures are over
MOST = 120  # orders of one scene with everything twice, where each datagram has its echo in flight


def _rekey_child(pair: Pair, side: Side) -> None:
    side.ike.rekey_child(next(iter(side.installed)), pair.now)


def _rekey_ike(pair: Pair, side: Side) -> None:
    side.ike.rekey_ike(side.ike.sas()[0].ike_id, pair.now)


def _delete_child(pair: Pair, side: Side) -> None:
    side.delete_child(next(iter(side.installed)), pair.now)


def _create_child(pair: Pair, side: Side) -> None:
    side.submit(CreateChild(), pair.now)


VERBS = {
    "rekey child": _rekey_child,
    "rekey ike": _rekey_ike,
    "delete child": _delete_child,
    "create child": _create_child,
}
# (what a does, what b does) at the same moment
SCENES = [(one, other) for one in VERBS for other in VERBS]


def _run(
    verbs: tuple[Callable, Callable], choices: list[int], *, twice: bool, lost: int
) -> list[int]:
    """One run; returns how many could have been delivered next, at each choice."""
    pair = established(make_pair(child=True))
    for verb, side in zip(verbs, (pair.a, pair.b), strict=True):
        verb(pair, side)
    pair.drain()
    widths: list[int] = []
    for step in range(100):
        if not pair.pending:
            break
        widths.append(len(pair.pending))
        pick = choices[step] if step < len(choices) else 0
        datagram = pair.pending.pop(pick)
        pair.now += 0.001
        if step == lost:
            continue
        pair.deliver(datagram)
        if twice:
            pair.deliver(datagram)
    else:
        raise AssertionError("this never ends")
    pair.sleep(120)
    names = [verb.__name__ for verb in verbs]
    agree(pair, with_child=not any("delete" in n or "create" in n for n in names))
    return widths


def _orders(run: Callable[[list[int]], list[int]]) -> Iterator[list[int]]:
    """Goes through all choices, depth first."""
    choices: list[int] = []
    for _ in range(MOST):
        widths = run(choices)[:DEPTH]
        yield choices
        choices = choices + [0] * (len(widths) - len(choices))
        while choices and choices[-1] + 1 >= widths[len(choices) - 1]:
            choices.pop()
        if not choices:
            return
        choices[-1] += 1


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("scene", SCENES, ids=" meets ".join)
def test_in_every_order(scene: tuple[str, str], twice: bool) -> None:
    verbs = (VERBS[scene[0]], VERBS[scene[1]])
    count = sum(1 for _ in _orders(lambda c: _run(verbs, c, twice=twice, lost=-1)))
    assert count >= 4


@pytest.mark.parametrize("scene", SCENES, ids=" meets ".join)
def test_each_datagram_lost(scene: tuple[str, str]) -> None:
    """One after the other, in both orders of the first two."""
    verbs = (VERBS[scene[0]], VERBS[scene[1]])
    for first in (0, 1):
        for lost in range(8):
            _run(verbs, [first], twice=False, lost=lost)
