"""IKE_SESSION_RESUME with everything that can be wrong, in both roles (RFC 5723 §4.3.2).

Silence, one short answer, or the handshake that there would have been without a ticket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.datagram import Dropped, Transmit
from agent.ike.events import IkeSaEstablished
from agent.ike.settings import IkeSettings
from agent.ike.tickets import Tickets
from agent.wire.codes import ExchangeType
from agent.wire.message import decode_message, encode_message
from agent.wire.payloads import Encrypted, EncryptedFragment
from tests.support import damage
from tests.support.attacker import outputs_of
from tests.support.damage import Damage, Kind
from tests.support.exchanges import CRITICAL, P, following
from tests.support.feature_scenes import resuming
from tests.support.pair import A_TO_B

if TYPE_CHECKING:
    from agent.wire.message import Message
    from tests.support.pair import Datagram, Pair

NACK = "N(TICKET_NACK)"
ALWAYS_COOKIES = IkeSettings(cookie_threshold=0)
MANY = 300

ANSWERS = {
    Kind.MALFORMED: {""},
    Kind.CRITICAL: {CRITICAL},
    Kind.TWICE: {"", "No"},
    Kind.MISSING: {"", "No"},
    Kind.SHORT: {"", "No", NACK},
    Kind.LENGTH: {"", "No"},
    Kind.HARMLESS: {"No"},
}


def _first(settings: IkeSettings | None = None) -> tuple[Pair, Datagram, Message]:
    """The request with a ticket; what the ticket stands for is no SA any more on either side."""
    pair, true = resuming(0)()
    if settings is not None:
        pair.b.ike.settings = settings
        pair.b.ike.half_open._settings = settings
    return pair, true, decode_message(true.data)


def _plain(message: Message, bad: Damage) -> bytes:
    data = bytearray(encode_message(message.header, ()) + bad.octets)
    data[16] = bad.first
    data[24:28] = len(data).to_bytes(4, "big")
    return bytes(data)


def _refuse_all(pair: Pair) -> None:
    """b has lost the keys of its tickets."""
    pair.b.ike._tickets.keys = ()


def _said(pair: Pair, sent: list[bytes]) -> str:
    return " ".join(pair.describe(pair.b, d).removeprefix("IKE_SESSION_RESUME! ") for d in sent)


def _kept(pair: Pair) -> int:
    ike = pair.b.ike
    assert len(ike.half_open) == len(ike._by_spi) == len(ike._schedule)
    assert (ike.next_timeout() is None) == (len(ike.half_open) == 0)
    return len(ike.half_open)


def test_requests_that_are_damaged() -> None:
    """Silence, or one answer that is no longer than the request; nothing kept but what it asks."""
    pair, _, message = _first()
    bad_ones = list(damage.chains(message.payloads))
    wrong = []
    for bad in bad_ones:
        pair, true, message = _first()
        data = _plain(message, bad)
        pair.b.ike.receive(true.arriving, data, pair.now)
        outputs = outputs_of(pair.b)
        sent = [o.data for o in outputs if isinstance(o, Transmit)]
        answer, kept = _said(pair, sent), _kept(pair)
        if (
            answer not in ANSWERS[bad.kind]
            or sum(map(len, sent)) > 1.1 * len(data)
            or kept != (answer == "No")
        ):
            wrong.append((bad.name, answer, kept))
        # What was taken from the request does not matter to who has no keys: a proof is due.
        assert not any(isinstance(o, IkeSaEstablished) for o in outputs)
    assert not wrong
    assert len(bad_ones) > MANY


def test_tickets_that_are_damaged() -> None:
    """Refused at each octet that is another one, with a refusal that keeps nothing."""
    pair, true, message = _first()
    at = next(i for i, p in enumerate(message.payloads) if getattr(p, "type", 0) == 16413)
    body = message.payloads[at].encode()
    for index in range(4, len(body)):
        pair.now += 1.0
        parts = damage.raw(message.payloads)
        changed = body[:index] + bytes((body[index] ^ 1,)) + body[index + 1 :]
        parts[at] = parts[at]._replace(body=changed)
        bad = Damage("", Kind.NONSENSE, P.N, *damage.chain(parts))
        pair.b.ike.receive(true.arriving, _plain(message, bad), pair.now)
        sent = [o.data for o in outputs_of(pair.b) if isinstance(o, Transmit)]
        assert _said(pair, sent) == NACK
        assert _kept(pair) == 0


def test_requests_from_who_has_not_shown_its_address(monkeypatch) -> None:
    """While cookies are asked for: whatever comes, no state, no timer, and no ticket is opened."""
    pair, true, message = _first(ALWAYS_COOKIES)
    monkeypatch.setattr(Tickets, "open", None)  # whoever calls it fails
    answered = 0
    for bad in damage.chains(message.payloads):
        data = _plain(message, bad)
        pair.now += 1.0
        pair.b.ike.receive(true.arriving, data, pair.now)
        outputs = outputs_of(pair.b)
        sent = [o.data for o in outputs if isinstance(o, Transmit)]
        assert _said(pair, sent) in ("", "N(COOKIE)", CRITICAL), bad.name
        assert len(outputs) == 1, bad.name
        assert sum(map(len, sent)) <= 1.1 * len(data)
        assert _kept(pair) == 0
        answered += bool(sent)
    assert answered > MANY / 10


@pytest.mark.parametrize("refused", [False, True], ids=["accepted", "TICKET_NACK"])
def test_responses_that_are_damaged(refused: bool) -> None:
    """Not believed; then the true answer is what counts."""
    pair, true, _ = _first()
    if refused:
        _refuse_all(pair)
    pair.deliver(true)
    answer = following(pair)
    message = decode_message(answer.data)
    tried = 0
    for bad in damage.chains(message.payloads):
        # Some of these are answers, and so is one with another notify or none; to be refused,
        # whatever stands beside the refusal, costs a handshake and nothing else.
        if bad.payload in (P.N, P.SK, P.SKF) and (refused or bad.kind is not Kind.MALFORMED):
            continue
        if bad.kind in (Kind.HARMLESS, Kind.SHORT, Kind.TWICE, Kind.MISSING):
            continue
        data = _plain(message, bad)
        pair.a.ike.receive(answer.arriving, data, pair.now)
        assert [type(o) for o in outputs_of(pair.a)] == [Dropped], bad.name
        tried += 1
    assert tried > 20
    pair.deliver(answer)
    pair.settle()
    for side in (pair.a, pair.b):
        assert side.last(IkeSaEstablished).resumed is not refused


@pytest.mark.parametrize("refused", [False, True], ids=["accepted", "TICKET_NACK"])
def test_each_damaged_response_before_the_true_one(refused: bool) -> None:
    """Both sides sign what they saw, so an acceptance that was changed ends the attempt, as with

    IKE_SA_INIT; anything else costs a handshake at most. The next attempt finds nothing in its way.
    """
    pair, true, _ = _first()
    if refused:
        _refuse_all(pair)
    pair.deliver(true)
    for bad in damage.chains(decode_message(following(pair).data).payloads):
        if bad.kind is Kind.MALFORMED:
            continue
        pair, true, _ = _first()
        if refused:
            _refuse_all(pair)
        pair.deliver(true)
        answer = following(pair)
        data = _plain(decode_message(answer.data), bad)
        pair.a.ike.receive(answer.arriving, data, pair.now)
        pair.drain()
        pair.pending.append(answer)
        pair.settle()
        pair.sleep(200)
        if not pair.a.ike.sas():
            assert not refused, bad.name
            assert not pair.a.events(IkeSaEstablished), bad.name
            assert len(pair.b.ike._by_spi) == _kept(pair) == 0, bad.name
            pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
            pair.settle()
        assert pair.a.sa.established, bad.name
        assert pair.b.sa.established, bad.name
        assert pair.a.sa.protection.sk_d == pair.b.sa.protection.sk_d
        assert len(pair.a.ike._by_spi) == len(pair.b.ike._by_spi) == 1, bad.name


def test_requests_with_a_wrong_header() -> None:
    pair, true, message = _first()
    refused = {
        "no SPI": {"initiator_spi": bytes(8)},
        "a responder SPI": {"responder_spi": b"r" * 8},
        "message ID": {"message_id": 1},
        "last message ID": {"message_id": (1 << 32) - 1},
        "from the responder": {"is_initiator": False},
        "a response": {"is_response": True},
        "a response from the responder": {"is_initiator": False, "is_response": True},
    }
    for name, changes in refused.items():
        data = encode_message(message.header._replace(**changes), message.payloads)
        pair.b.ike.receive(true.arriving, data, pair.now)
        assert [type(o) for o in outputs_of(pair.b)] == [Dropped], name
    for exchange in sorted({0, 1, 2, 33, *ExchangeType, 99, 240, 255} - {message.header.exchange}):
        data = encode_message(message.header._replace(exchange=exchange), message.payloads)
        pair.b.ike.receive(true.arriving, data, pair.now)
        assert [type(o) for o in outputs_of(pair.b)] == [Dropped], exchange
    assert _kept(pair) == 0
    pair.deliver(true)
    pair.settle()
    assert pair.a.last(IkeSaEstablished).resumed


def test_requests_and_responses_that_are_encrypted() -> None:
    """There are no keys yet: an SK or SKF payload, alone or behind what is due, is none."""
    pair, true, message = _first()
    for receiver in (pair.b, pair.a):
        for secret in (Encrypted(P.NONCE, bytes(60)), EncryptedFragment(P.NONCE, 1, 1, bytes(60))):
            for payloads in ((secret,), (*message.payloads, secret)):
                data = encode_message(message.header, payloads)
                receiver.ike.receive(true.arriving, data, pair.now)
                assert [type(o) for o in outputs_of(receiver)] == [Dropped]
        if receiver is pair.b:
            assert _kept(pair) == 0
            pair.deliver(true)
            true = following(pair)
            message = decode_message(true.data)
    pair.deliver(true)
    pair.settle()
    assert pair.a.last(IkeSaEstablished).resumed
