"""THREATS 14: forged words about a living SA: it stays, where it is; at most one probe."""

from __future__ import annotations

from agent.datagram import Address, Path
from agent.ike.cookies import STRAY_ANSWERS_IN_ALL
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.message import Header, encode_message
from agent.wire.payloads import (
    NotifyPayload,
)
from tests.support.attacker import FROM_A, answers_of
from tests.support.pair import (
    A_ADDRESS,
    B_ADDRESS,
    Pair,
    established,
    make_pair,
)


def test_unknown_spis() -> None:
    """§2.21.4: a request may be told, rarely; a response and a check of mediation never."""
    pair = make_pair()
    header = Header(b"i" * 8, b"r" * 8, ExchangeType.INFORMATIONAL, True, False, 5)
    data = encode_message(header, [NotifyPayload(NotifyType.ME_CONNECTID, bytes(16))])
    for _ in range(20):
        pair.b.ike.receive(FROM_A, data, pair.now)
    (answer,) = answers_of(pair.b)
    assert pair.describe(pair.b, answer) == "INFORMATIONAL! N(INVALID_IKE_SPI)"
    # Other addresses too, but not more than so many all together.
    for number in range(2 * STRAY_ANSWERS_IN_ALL):
        other = Path(B_ADDRESS, Address(b"\xcb\x00" + number.to_bytes(2, "big"), 4500))
        pair.b.ike.receive(other, data, pair.now)
    assert 0.9 * STRAY_ANSWERS_IN_ALL < len(answers_of(pair.b)) < STRAY_ANSWERS_IN_ALL
    pair.now += 10
    zero = header._replace(initiator_spi=bytes(8), responder_spi=bytes(8))
    for other in (header._replace(is_response=True), zero):
        payload = NotifyPayload(NotifyType.ME_CONNECTID, bytes(16))
        pair.b.ike.receive(FROM_A, encode_message(other, [payload]), pair.now)
    assert answers_of(pair.b) == []
    assert pair.b.ike.next_timeout() is None


def _hint(pair: Pair) -> bytes:
    """Somebody says in b's name that it does not know a's SA."""
    sa = pair.a.sa
    header = Header(sa.spis[:8], sa.spis[8:], ExchangeType.INFORMATIONAL, False, True, 7)
    return encode_message(header, [NotifyPayload(NotifyType.INVALID_IKE_SPI)])


def test_a_forged_hint_does_no_harm_to_one_who_lives() -> None:
    """THREATS 14: however many come, at most one probe in ten seconds, and the SA stays."""
    pair = established(make_pair())
    for _ in range(200):
        pair.a.ike.receive(Path(A_ADDRESS, B_ADDRESS), _hint(pair), pair.now)
        pair.sleep(0.1)
    assert pair.a.sa.established
    assert sum("--> b: INFORMATIONAL?" in line for _, line in pair.sent) <= 3
