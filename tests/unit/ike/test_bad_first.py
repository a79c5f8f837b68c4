"""IKE_SA_INIT with everything that can be wrong, in both roles: silence or one short answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.datagram import Dropped, Transmit
from agent.ike.events import Redirected
from agent.ike.redirect import RedirectClient
from agent.ike.settings import IkeSettings
from agent.ike.states import IkeState
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.message import decode_message, encode_message
from agent.wire.payloads import (
    Encrypted,
    EncryptedFragment,
    KePayload,
    NotifyPayload,
    SaPayload,
)
from agent.wire.redirect import GatewayId
from tests.support import damage
from tests.support.attacker import outputs_of
from tests.support.damage import Damage, Kind
from tests.support.exchanges import (
    CRITICAL,
    KE,
    NO_PROPOSAL,
    P,
    following,
)
from tests.support.pair import A_TO_B, B_ADDRESS, ike_proposals, make_pair

if TYPE_CHECKING:
    from agent.ike.extension import Extension
    from agent.wire.message import Message
    from agent.wire.payloads import Payload
    from tests.support.pair import (
        Datagram,
        Pair,
    )


REDIRECT = "N(REDIRECT)"
ELSEWHERE, NAMED = GatewayId.of_host("203.0.113.9"), GatewayId.of_host("gw2.example.org")
ALWAYS_COOKIES = IkeSettings(cookie_threshold=0)


def _first(
    settings: IkeSettings | None = None, *extensions: Extension
) -> tuple[Pair, Datagram, Message]:
    pair = make_pair(child=True, settings=settings)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now, extensions)
    true = following(pair)
    return pair, true, decode_message(true.data)


def _plain(message: Message, bad: Damage) -> bytes:
    data = bytearray(encode_message(message.header, ()) + bad.octets)
    data[16] = bad.first
    data[24:28] = len(data).to_bytes(4, "big")
    return bytes(data)


FIRST_ANSWERS = {
    Kind.MALFORMED: {""},
    Kind.CRITICAL: {CRITICAL},
    Kind.TWICE: {"", "SA KE No"},
    Kind.MISSING: {"", "SA KE No"},
    Kind.SHORT: {"", "SA KE No", NO_PROPOSAL, KE},
    Kind.LENGTH: {"", "SA KE No", NO_PROPOSAL, KE},
    Kind.NONSENSE: {"", NO_PROPOSAL},
    Kind.HARMLESS: {"SA KE No"},
}


def _answers(bad: Damage, *, is_sent_elsewhere: bool) -> set[str]:
    allowed = FIRST_ANSWERS[bad.kind]
    if not is_sent_elsewhere or bad.kind in (Kind.MALFORMED, Kind.CRITICAL):
        return allowed
    # Who does not say readably that it takes redirects is let in; what it offers is for the other
    # gateway to judge.
    return {REDIRECT} if bad.kind is Kind.HARMLESS else allowed | {REDIRECT}


# What a client says of redirects (RFC 5685 §9), and where the gateway sends it, if anywhere.
CLIENTS = {
    "nothing": ((), None),
    "REDIRECT_SUPPORTED": ((RedirectClient(),), None),
    "REDIRECTED_FROM": ((RedirectClient(B_ADDRESS.ip),), None),
    "REDIRECTED_FROM IPv6": ((RedirectClient(bytes(15) + b"\1"),), None),
    "sent elsewhere": ((RedirectClient(),), ELSEWHERE),
    "sent elsewhere once more": ((RedirectClient(B_ADDRESS.ip),), NAMED),
}


@pytest.mark.parametrize("client", CLIENTS)
def test_first_requests_that_are_damaged(client: str) -> None:
    """Silence, or one answer that is no longer than the request; nothing kept but what it asks."""
    extensions, gateway = CLIENTS[client]
    bad_ones = list(damage.chains(_first(None, *extensions)[2].payloads))
    wrong = []
    for bad in bad_ones:
        pair, true, message = _first(None, *extensions)
        pair.b.ike.first_contact = lambda path: gateway
        data = _plain(message, bad)
        pair.b.ike.receive(true.arriving, data, pair.now)
        outputs = outputs_of(pair.b)
        sent = [o.data for o in outputs if isinstance(o, Transmit)]
        answer = " ".join(pair.describe(pair.b, d).removeprefix("IKE_SA_INIT! ") for d in sent)
        kept = len(pair.b.ike.half_open)
        if (
            answer not in _answers(bad, is_sent_elsewhere=gateway is not None)
            or sum(map(len, sent)) > 1.1 * len(data)
            or kept != (answer == "SA KE No")
            or kept != len(pair.b.ike._by_spi)
            or (pair.b.ike.next_timeout() is None) != (kept == 0)
        ):
            wrong.append((bad.name, answer, kept))
    assert not wrong
    assert len(bad_ones) > 500


def test_first_requests_from_who_has_not_shown_its_address() -> None:
    """While cookies are asked for: whatever comes, no state, no timer, no public-key operation."""
    pair, true, message = _first(ALWAYS_COOKIES)
    pair.b.ike._key_exchange = None  # type: ignore[assignment]  # whoever calls it fails
    for bad in damage.chains(message.payloads):
        data = _plain(message, bad)
        pair.now += 1.0
        pair.b.ike.receive(true.arriving, data, pair.now)
        outputs = outputs_of(pair.b)
        sent = [o.data for o in outputs if isinstance(o, Transmit)]
        said = {pair.describe(pair.b, d) for d in sent}
        assert said <= {"IKE_SA_INIT! N(COOKIE)", f"IKE_SA_INIT! {CRITICAL}"}, bad.name
        assert len(outputs) == 1, bad.name
        assert sum(map(len, sent)) <= 1.1 * len(data)
    assert len(pair.b.ike.half_open) == len(pair.b.ike._by_spi) == len(pair.b.ike._schedule) == 0
    assert pair.b.ike.next_timeout() is None


def test_first_responses_that_are_damaged() -> None:
    """Not believed: what is not acceptable does not end the attempt, the true answer does."""
    pair, true, _ = _first()
    pair.deliver(true)
    answer = following(pair)
    for bad in damage.chains(decode_message(answer.data).payloads):
        # Some of these are answers, and so is one with another notify or none.
        notify = bad.payload == P.N
        if notify or bad.kind in (Kind.HARMLESS, Kind.SHORT, Kind.TWICE, Kind.MISSING):
            continue
        data = _plain(decode_message(answer.data), bad)
        pair.a.ike.receive(answer.arriving, data, pair.now)
        assert [type(o) for o in outputs_of(pair.a)] == [Dropped], bad.name
    pair.deliver(answer)
    pair.settle()
    assert pair.a.sa.established


@pytest.mark.parametrize("kept", [(P.SA,), (P.SA, P.KE), (P.SA, P.NONCE), (P.KE, P.NONCE), ()])
def test_first_responses_with_an_error_and_a_part_of_the_rest(kept: tuple[int, ...]) -> None:
    """An error excuses what is missing (§2.21.1); it makes no answer of what is there."""
    pair, true, _ = _first()
    pair.deliver(true)
    answer = following(pair)
    message = decode_message(answer.data)
    payloads = [p for p in message.payloads if p.payload_type in kept]
    error = NotifyPayload(NotifyType.NO_ADDITIONAL_SAS)
    bad = encode_message(message.header, [*payloads, error])
    pair.a.ike.receive(answer.arriving, bad, pair.now)
    assert [o for o in outputs_of(pair.a) if isinstance(o, Transmit)] == []
    pair.deliver(answer)
    pair.settle()
    assert pair.a.sa.established


@pytest.mark.parametrize("chosen", ["x25519", "ecp256"])
@pytest.mark.parametrize("public", ["x25519", "ecp256"])
def test_first_responses_with_a_group_in_two_places(chosen: str, public: str) -> None:
    """§2.7, §3.4: what was chosen, what is there and what we sent have to be the same."""
    pair = make_pair(ike=("aes128gcm16-prfsha256-x25519-ecp256",))
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.deliver(following(pair))
    answer = following(pair)
    message = decode_message(answer.data)
    (proposal,) = ike_proposals(f"aes128gcm16-prfsha256-{chosen}")
    swapped: list[Payload] = []
    for payload in message.payloads:
        match payload:
            case SaPayload():
                swapped.append(SaPayload((proposal,)))
            case KePayload(data=data):
                swapped.append(KePayload({"x25519": 31, "ecp256": 19}[public], data))
            case _:
                swapped.append(payload)
    octets = encode_message(message.header, swapped)
    pair.a.ike.receive(answer.arriving, octets, pair.now)
    assert pair.a.sa.state is (
        IkeState.AUTH_SENT if chosen == public == "x25519" else IkeState.INIT_SENT
    )


@pytest.mark.parametrize("gateway", [ELSEWHERE, NAMED], ids=["address", "name"])
def test_redirects_in_the_first_response_that_are_damaged(gateway: GatewayId) -> None:
    """Only the very gateway is followed, once, with our nonce; the attempt goes on all the same."""

    def redirected() -> tuple[Pair, Datagram]:
        pair, true, _ = _first(None, RedirectClient())
        pair.b.ike.first_contact = lambda path: gateway
        pair.deliver(true)
        pair.b.ike.first_contact = lambda path: None
        return pair, following(pair)

    pair, answer = redirected()
    (notify,) = (p for p in decode_message(answer.data).payloads if isinstance(p, NotifyPayload))
    gateways, tried = set(), 0
    bad_ones = list(damage.chains([notify]))
    for at in range(10, len(notify.encode()) + 4):  # the identity and the nonce, octet by octet
        octets = bytearray(damage.chain(damage.raw([notify]))[1])
        octets[at] ^= 0x20
        bad_ones.append(Damage(f"octet {at}", Kind.NONSENSE, P.N, P.N, bytes(octets)))
    for bad in bad_ones:
        pair, answer = redirected()
        data = _plain(decode_message(answer.data), bad)
        pair.a.ike.receive(answer.arriving, data, pair.now)
        outputs = outputs_of(pair.a)
        assert not [o for o in outputs if isinstance(o, Transmit)], bad.name
        followed = [o.gateway for o in outputs if isinstance(o, Redirected)]
        assert len(followed) + sum(isinstance(o, Dropped) for o in outputs) <= 1, bad.name
        gateways.update(followed)
        tried += bad.kind is not Kind.HARMLESS and not followed
        assert pair.a.sa.path == A_TO_B
        pair.sleep(5)
        assert pair.a.sa.established, bad.name
    assert tried > 50
    # One octet of the name can make another name, of the address another address: who wrote it saw
    # the nonce, and sends us on one attempt as anybody does who sees it.
    assert all(g.type == gateway.type for g in gateways)
    assert len(gateways) <= 1 + len(gateway.data)


def test_first_requests_with_a_wrong_header() -> None:
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
    for exchange in sorted({0, 1, 2, 33, *ExchangeType, 99, 240, 255} - {34}):
        data = encode_message(message.header._replace(exchange=exchange), message.payloads)
        pair.b.ike.receive(true.arriving, data, pair.now)
        assert [type(o) for o in outputs_of(pair.b)] == [Dropped], exchange
    assert not pair.b.ike._by_spi
    pair.deliver(true)
    pair.settle()
    assert pair.a.sa.established


def test_first_requests_that_are_encrypted() -> None:
    """There is no key yet: an SK or SKF payload, alone or behind what is due, is none."""
    pair, true, message = _first()
    for secret in (Encrypted(P.SA, bytes(60)), EncryptedFragment(P.SA, 1, 1, bytes(60))):
        for payloads in ((secret,), (*message.payloads, secret)):
            data = encode_message(message.header, payloads)
            pair.b.ike.receive(true.arriving, data, pair.now)
            assert [type(o) for o in outputs_of(pair.b)] == [Dropped]
    assert not pair.b.ike._by_spi
    pair.deliver(true)
    answer = following(pair)
    spoiled = decode_message(answer.data)
    for secret in (Encrypted(P.SA, bytes(60)), EncryptedFragment(P.SA, 1, 1, bytes(60))):
        for payloads in ((secret,), (*spoiled.payloads, secret)):
            data = encode_message(spoiled.header, payloads)
            pair.a.ike.receive(answer.arriving, data, pair.now)
            assert [type(o) for o in outputs_of(pair.a)] == [Dropped]
    pair.deliver(answer)
    pair.settle()
    assert pair.a.sa.established
