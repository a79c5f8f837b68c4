"""THREATS 26: message IDs replayed, old, jumping, at the end: a cached response or a drop."""

from __future__ import annotations

import random

from tests.support.attacker import FROM_A, flow, outputs_of
from tests.support.pair import (
    A_TO_B,
)


def test_recorded_datagrams_again_in_any_order() -> None:
    """THREATS 26: replays change nothing."""
    chance = random.Random(3)
    pair, seen = flow()
    before = (pair.a.sa.spis, pair.b.sa.spis, len(pair.b.installed))
    for _ in range(600):
        name, data = chance.choice(seen)
        side = getattr(pair, name)
        side.ike.receive(A_TO_B if name == "a" else FROM_A, data, pair.now)
        outputs_of(side)
    assert before == (pair.a.sa.spis, pair.b.sa.spis, len(pair.b.installed))
    assert pair.b.sa.path == FROM_A
