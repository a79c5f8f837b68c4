"""THREATS 26: message IDs replayed, old, jumping, at the end: a cached response or a drop."""

from __future__ import annotations

import random

from agent.datagram import Path
from agent.wire.codes import ExchangeType
from tests.support.attacker import FROM_A, flow, outputs_of
from tests.support.pair import (
    A_ADDRESS,
    A_TO_B,
    B_ADDRESS,
    Pair,
    established,
    make_pair,
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


def _probe(pair: Pair, name: str) -> None:
    side = getattr(pair, name)
    side.ike.check_liveness(side.sa.ike_id, pair.now)
    pair.drain()


def test_old_and_future_message_ids_are_dropped() -> None:
    pair = established(make_pair())
    recorded = []
    for _ in range(3):
        _probe(pair, "a")
        recorded.append(pair.pending[0])
        pair.settle()
    future = pair.b.sa.incoming.next_id
    pair.deliver(recorded[0])
    pair.deliver(recorded[1])
    pair.quiet()
    assert pair.b.drops == ["message_id"] * 2
    header = pair.a.sa.header(ExchangeType.INFORMATIONAL, future + 1, is_response=False)
    for number in (future + 1, future + 2, 0xFFFFFFFF):
        data = pair.a.sa.protection.seal(header._replace(message_id=number), [], pair.a.ike.random)
        pair.b.ike.receive(Path(B_ADDRESS, A_ADDRESS), data, pair.now)
    pair.quiet()
    assert pair.b.drops == ["message_id"] * 5


def test_the_same_id_with_other_content_is_dropped() -> None:
    pair = established(make_pair())
    _probe(pair, "a")
    pair.settle()
    header = pair.a.sa.header(
        ExchangeType.INFORMATIONAL, pair.b.sa.incoming.next_id - 1, is_response=False
    )
    data = pair.a.sa.protection.seal(header, [], pair.a.ike.random)
    pair.b.ike.receive(Path(B_ADDRESS, A_ADDRESS), data, pair.now)
    pair.quiet()
    assert pair.b.drops == ["message_id"]
