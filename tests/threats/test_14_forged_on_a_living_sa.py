"""THREATS 14: forged words about a living SA: it stays, where it is; at most one probe."""

from __future__ import annotations

import pytest

from agent.datagram import Address, Path, Received
from agent.engine.events import PeerChanged, TunnelDown
from agent.ike.cookies import STRAY_ANSWERS_IN_ALL
from agent.ike.states import PROBE_SECONDS
from agent.wire.codes import ExchangeType, NotifyType, ProtocolId
from agent.wire.message import Header, encode_message
from agent.wire.payloads import (
    DeletePayload,
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
from tests.unit.engine.machines import Scene


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


@pytest.mark.parametrize("name", ["a", "b"])
def test_unencrypted_messages_on_a_living_sa(name: str) -> None:
    """THREATS 14: forged INVALID_SPI, INVALID_IKE_SPI, DELETE: at most one probe in a while."""
    pair = established(make_pair(child=True))
    side = getattr(pair, name)
    path = Path(side.address, pair.other(side).address)
    for notify in (NotifyType.INVALID_IKE_SPI, NotifyType.INVALID_SPI, NotifyType.REDIRECT):
        for is_response in (True, False):
            header = Header(
                initiator_spi=side.sa.spis[:8],
                responder_spi=side.sa.spis[8:],
                exchange=ExchangeType.INFORMATIONAL,
                is_initiator=not side.sa.is_initiator,
                is_response=is_response,
                message_id=0,
            )
            for message_id in (0, side.sa.incoming.next_id, side.sa.outgoing.next_id):
                data = encode_message(
                    header._replace(message_id=message_id), [NotifyPayload(notify)]
                )
                side.ike.receive(path, data, pair.now)
    pair.drain()
    assert len(pair.pending) <= 1
    pair.settle()
    assert side.sa.established
    assert side.sa.path == path


ELSEWHERE = Address.parse("198.18.0.66", 4500)
FORGED_WORDS = {
    "INVALID_SPI": [NotifyPayload(NotifyType.INVALID_SPI, b"spi!")],
    "INVALID_IKE_SPI": [NotifyPayload(NotifyType.INVALID_IKE_SPI)],
    "REDIRECT": [NotifyPayload(NotifyType.REDIRECT, b"\1\4\xc6\x12\0\x42")],
    "REDIRECT to a name": [NotifyPayload(NotifyType.REDIRECT, b"\3\x0cevil.example")],
    "DELETE of the IKE SA": [DeletePayload(ProtocolId.IKE)],
    "DELETE of all Child SAs": [DeletePayload(ProtocolId.ESP, (b"spi1", b"spi2"))],
    "AUTHENTICATION_FAILED": [NotifyPayload(NotifyType.AUTHENTICATION_FAILED)],
    "QUICK_CRASH_DETECTION": [NotifyPayload(NotifyType.QUICK_CRASH_DETECTION, bytes(16))],
}


@pytest.mark.parametrize("source", ["the peer's address", "elsewhere"])
@pytest.mark.parametrize("name", FORGED_WORDS)
def test_a_living_tunnel(name: str, source: str) -> None:
    """With every SPI that is seen on the way, as request and response, for half a minute."""
    scene = Scene().connected()
    gateway = scene.gateway
    (sa,) = (s for s in gateway.engine._ike.sas() if s.children)
    spi_in = next(iter(sa.children))
    true = sa.path
    path = true if source == "the peer's address" else Path(true.local, ELSEWHERE)
    told = len(gateway.of(PeerChanged)), len(gateway.of(TunnelDown))
    payloads = FORGED_WORDS[name]
    sent, seconds = 0, 30
    for _ in range(seconds):
        for spis in (sa.spis, bytes(16), sa.spis[:8] + bytes(8)):
            for flags in ((False, False), (False, True), (True, False), (True, True)):
                for number in (0, sa.incoming.next_id, sa.outgoing.next_id):
                    header = Header(spis[:8], spis[8:], 37, *flags, number)
                    data = bytes(4) + encode_message(header, payloads)
                    gateway.engine.receive_datagrams([Received(path, data)], scene.now)
        for other in (b"\xff", b"\xff" * 9, spi_in + bytes(40), bytes(4)):
            gateway.engine.receive_datagrams([Received(path, other)], scene.now)
        transmits = gateway.drain(scene.now)
        sent += sum(t.path == path or t.path == true for t in transmits)
        gateway._transmits += transmits
        scene.run(1)
    assert sa.established
    assert sa.path == true
    assert gateway.engine._ike.sa(sa.ike_id) is sa
    assert spi_in in sa.children
    assert (len(gateway.of(PeerChanged)), len(gateway.of(TunnelDown))) == told
    # One probe in ten seconds; the same again where the network takes its time to answer.
    assert sent <= 2 * (1 + seconds / PROBE_SECONDS) + seconds  # and INVALID_IKE_SPI once a second
    assert scene.echoes()
