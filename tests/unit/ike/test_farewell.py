"""The last answer of an IKE SA when it is lost, RFC 7296 §2.1; what a Delete of one is, §3.11."""

from __future__ import annotations

import pytest

from agent.datagram import Address, Path
from agent.ike.events import CloseReason, IkeSaClosed
from agent.ike.exchange import MAX_ELSEWHERE
from agent.ike.farewell import FAREWELL_SECONDS, MAX_FAREWELLS
from agent.wire.codes import ExchangeType, NotifyType, ProtocolId
from agent.wire.payloads import DeletePayload, NoncePayload
from tests.support.attacker import answers_of
from tests.support.pair import A_TO_B, Pair, Side, established, make_pair


def lose_the_answer_to_a_delete(name: str = "a") -> tuple[Pair, Side, Side, bytes, Path]:
    """Who deletes, the other one, the request and the path on which the other one got it."""
    pair = established(make_pair(child=True))
    side = getattr(pair, name)
    side.ike.close(side.sa.ike_id, pair.now)
    pair.drain()
    (request,) = pair.pending
    pair.pending.clear()
    pair.deliver(request)
    pair.pending.clear()
    return pair, side, pair.other(side), request.data, request.arriving


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_answer_to_a_delete_comes_again(name: str) -> None:
    pair, side, other, _, _ = lose_the_answer_to_a_delete(name)
    assert not other.ike.sas()
    started = pair.now
    pair.sent.clear()
    pair.sleep(60)
    said = [line.split(" ", 3)[3] for _, line in pair.sent]
    assert said == ["INFORMATIONAL? D(IKE)", "INFORMATIONAL!"]
    assert pair.sent[-1][0] - started < 1
    assert len(other.events(IkeSaClosed)) == 1
    assert not side.ike._by_spi
    assert not other.ike._by_spi


def test_so_does_an_error_that_ends_the_sa() -> None:
    pair = established(make_pair(child=True))
    answers: list = []
    pair.a.ike.request(
        pair.a.sa.ike_id,
        ExchangeType.CREATE_CHILD_SA,
        [NoncePayload(bytes(32))],
        lambda m, now: answers.append(m),
        pair.now,
    )
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? No
        a x-- b: CREATE_CHILD_SA! N(INVALID_SYNTAX)
        """
    )
    pair.sleep(1)
    assert answers
    assert answers[0] is not None
    assert pair.a.last(IkeSaClosed).reason is CloseReason.PROTOCOL_ERROR


def test_only_the_very_same_request_is_answered() -> None:
    pair, _, other, request, path = lose_the_answer_to_a_delete()
    for at in (0, 20, 23, 40, len(request) - 1):
        changed = request[:at] + bytes((request[at] ^ 1,)) + request[at + 1 :]
        other.ike.receive(path, changed, pair.now)
    said = {pair.describe(other, answer) for answer in answers_of(other)}
    assert said == {"INFORMATIONAL! N(INVALID_IKE_SPI)"}
    other.ike.receive(path, request, pair.now)
    (answer,) = answers_of(other)
    assert len(answer) <= 1.1 * len(request)


def test_not_for_ever() -> None:
    """Then it is a message of an SA that nobody here knows."""
    pair, _, other, request, path = lose_the_answer_to_a_delete()
    pair.now += FAREWELL_SECONDS + 0.1
    other.ike.receive(path, request, pair.now)
    (answer,) = answers_of(other)
    assert pair.describe(other, answer) == "INFORMATIONAL! N(INVALID_IKE_SPI)"


def test_not_often_to_where_the_peer_was_not() -> None:
    """Who caught the request repeats it in the name of a victim."""
    pair, _, other, request, path = lose_the_answer_to_a_delete()
    victim = Path(path.local, Address.parse("203.0.113.99", 4500))
    for _ in range(100):
        other.ike.receive(victim, request, pair.now)
    assert len(answers_of(other)) == MAX_ELSEWHERE
    other.ike.receive(path, request, pair.now)
    assert len(answers_of(other)) == 1


def test_no_more_than_so_many_are_kept() -> None:
    """The oldest go first; what is too old goes with the next that comes."""
    pair, _, other, _, path = lose_the_answer_to_a_delete()
    kept = other.ike.farewells
    (spi,) = kept._kept
    last = kept._kept[spi]
    for number in range(MAX_FAREWELLS):
        kept.keep(number.to_bytes(8, "big"), last.incoming, path, pair.now)
    assert len(kept._kept) == MAX_FAREWELLS
    assert spi not in kept._kept
    kept.keep(spi, last.incoming, path, pair.now + FAREWELL_SECONDS + 1)
    assert len(kept._kept) == 1


def test_nothing_is_kept_for_one_who_has_proven_nothing() -> None:
    pair = make_pair()
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.settle()
    pair.b.sa.remote_id = None
    pair.a.ike.close(pair.a.sa.ike_id, pair.now)
    pair.settle()
    assert not pair.b.ike.sas()
    assert not pair.b.ike.farewells._kept


# -- what a Delete of an IKE SA is -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("size", [4, 8])
def test_a_delete_for_ike_with_spis_is_none(name: str, size: int) -> None:
    """§3.11: the size MUST be zero for IKE. It is a value out of range, and said to be one."""
    pair = established(make_pair(child=True))
    side = getattr(pair, name)
    payload = DeletePayload(ProtocolId.IKE, (side.sa.spis[:size],))
    said: list = []
    ask = side.ike.request
    ask(side.sa.ike_id, 37, [payload], lambda m, now: said.append(m), pair.now)
    pair.settle()
    (answer,) = said
    assert answer.notify(NotifyType.INVALID_SYNTAX) is not None
    assert pair.other(side).last(IkeSaClosed).reason is CloseReason.PROTOCOL_ERROR
    assert side.last(IkeSaClosed).reason is CloseReason.PROTOCOL_ERROR
