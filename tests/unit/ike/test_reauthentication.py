"""Repeated authentication, RFC 4478: said by the responder, heeded by the initiator."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.ike.events import CloseReason, IkeSaClosed, ReauthenticationDue
from agent.ike.reauthentication import AGAIN_SECONDS, GRACE_SECONDS, SHORTEST_SECONDS
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.payloads import NotifyPayload
from tests.support.pair import A_TO_B, Pair, make_pair


def pair_of(a: float = 0, b: float = 0) -> Pair:
    """`a` and `b`: how long a proof is good for that side."""
    pair = make_pair(child=True)
    for side, seconds in ((pair.a, a), (pair.b, b)):
        side.book.peers = [replace(side.peer, auth_seconds=seconds)]
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    return pair


def tell(pair: Pair, side: str, data: bytes) -> None:
    ike = getattr(pair, side).ike
    notify = NotifyPayload(NotifyType.AUTH_LIFETIME, data)
    (sa,) = ike.sas()
    ike.request(sa.ike_id, ExchangeType.INFORMATIONAL, [notify], lambda m, at: None, pair.now)
    pair.settle()


def due(pair: Pair) -> int:
    return len(pair.a.events(ReauthenticationDue))


def test_the_responder_says_how_long() -> None:
    pair = pair_of(b=3600)
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        a --> b: IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT) SA TSi TSr
        a <-- b: IKE_AUTH! IDr AUTH N(AUTH_LIFETIME) SA TSi TSr
        """
    )
    pair.sleep(3600 - 60 - 1)
    assert due(pair) == 0
    pair.sleep(2)
    assert due(pair) == 1
    pair.sleep(AGAIN_SECONDS)
    assert due(pair) == 2


def test_the_responder_deletes_what_was_not_repeated() -> None:
    """§2: soon after the end, also when the IKE SA has been rekeyed in between."""
    pair = pair_of(b=300)
    pair.settle()
    pair.sleep(200)
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    pair.sleep(100 + GRACE_SECONDS - 1)
    assert pair.b.events(IkeSaClosed) == []
    pair.sleep(2)
    assert pair.a.last(IkeSaClosed).reason is CloseReason.BY_PEER
    assert "not repeated" in pair.b.last(IkeSaClosed).detail
    assert not pair.b.installed


def test_repeated_in_time_the_old_one_goes_and_the_tunnel_stays() -> None:
    pair = pair_of(b=300)
    pair.settle()
    old = pair.a.sa.ike_id
    for _ in range(3):
        while not any(d.ike_id == old for d in pair.a.events(ReauthenticationDue)):
            pair.sleep(10)
        new = pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
        pair.settle()
        assert pair.a.last(IkeSaClosed).ike_id == old
        assert pair.a.last(IkeSaClosed).reason is CloseReason.REPLACED
        old = new
    pair.sleep(60)
    assert pair.a.sa.established
    assert pair.b.sa.established
    assert len(pair.a.installed) == len(pair.b.installed) == 1


def test_ones_own_policy_may_want_it_earlier() -> None:
    """§5."""
    pair = pair_of(a=100, b=3600)
    pair.settle()
    pair.sleep(89)
    assert due(pair) == 0
    pair.sleep(2)
    assert due(pair) == 1


def test_ones_own_policy_does_not_prolong_it() -> None:
    """§2: the responder deletes the IKE SA whatever the initiator would like."""
    pair = pair_of(a=3600, b=100)
    pair.settle()
    pair.sleep(91)
    assert due(pair) == 1


def test_nobody_wants_it() -> None:
    pair = pair_of()
    pair.settle()
    pair.sleep(100_000)
    assert due(pair) == 0
    assert not any("AUTH_LIFETIME" in line for _, line in pair.sent)


def test_later_and_at_once() -> None:
    """§2: an INFORMATIONAL may say it at any time, zero means now."""
    pair = pair_of()
    pair.settle()
    pair.sleep(100)
    tell(pair, "b", (0).to_bytes(4, "big"))
    pair.sleep(0.1)
    assert due(pair) == 1


@pytest.mark.parametrize("seconds", [0, 1, 5])
def test_a_lifetime_that_is_too_short(seconds: int) -> None:
    """§5: the initiator sets a limit, whatever the responder says and how often."""
    pair = pair_of()
    pair.settle()
    for _ in range(20):
        tell(pair, "b", seconds.to_bytes(4, "big"))
    pair.sleep(SHORTEST_SECONDS - 2)
    assert due(pair) == 0
    pair.sleep(2)
    assert due(pair) == 1


def test_who_did_not_begin_is_not_told_what_to_do() -> None:
    """Only the original responder may say it."""
    pair = pair_of()
    pair.settle()
    tell(pair, "a", (0).to_bytes(4, "big"))
    pair.sleep(100)
    assert pair.b.events(ReauthenticationDue) == []
    assert pair.b.sa.established


@pytest.mark.parametrize("data", [b"", bytes(3), bytes(5), bytes(400)])
def test_not_a_lifetime(data: bytes) -> None:
    pair = pair_of()
    pair.settle()
    tell(pair, "b", data)
    pair.sleep(100)
    assert due(pair) == 0
