"""THREATS 26: message IDs replayed, old, jumping, at the end: a cached response or a drop."""

from __future__ import annotations

import random

import pytest

from agent.datagram import Dropped, Path, Transmit
from agent.wire.codes import ExchangeType
from tests.support.attacker import FROM_A, answers_of, flow, outputs_of
from tests.support.exchanges import REQUESTS, Scene, state_of
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


@pytest.mark.parametrize("scene", REQUESTS, ids=lambda s: s.name)
def test_the_very_same_octets_get_the_very_same_answer(scene: Scene) -> None:
    """Nothing is done twice: one answer, kept and sent again."""
    pair, true = scene.start()
    receiver = pair.other(true.sender)
    pair.deliver(true)
    (answer,) = pair.pending
    pair.pending.clear()
    before = state_of(receiver)
    for _ in range(5):
        receiver.ike.receive(true.arriving, true.data, pair.now)
        (again,) = outputs_of(receiver)
        assert isinstance(again, Transmit)
        assert again.data == answer.data
        assert state_of(receiver) == before


def test_the_last_message_id_is_not_followed_by_the_first() -> None:
    """§2.2: they never wrap. A peer that goes on is not heard; we ask for a rekeying before:

    tests/unit/ike/test_rekey_ike.py::test_message_ids_end_in_time
    """
    pair = established(make_pair())
    last = (1 << 32) - 1
    pair.b.sa.incoming.next_id = last
    sa = pair.a.sa
    header = sa.header(ExchangeType.INFORMATIONAL, last, is_response=False)
    pair.b.ike.receive(FROM_A, sa.protection.seal(header, [], pair.a.ike.random), pair.now)
    assert len(answers_of(pair.b)) == 1
    for number in (0, 1, last - 1):
        header = header._replace(message_id=number)
        pair.b.ike.receive(FROM_A, sa.protection.seal(header, [], pair.a.ike.random), pair.now)
        assert [type(o) for o in outputs_of(pair.b)] == [Dropped]
