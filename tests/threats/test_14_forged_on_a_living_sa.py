"""THREATS 14: forged words about a living SA: it stays, where it is; at most one probe.

tests/unit/ike/test_redirect.py::test_forged_on_a_living_sa_changes_nothing
tests/unit/engine/test_redirect.py::test_forged_redirects_while_the_gateway_is_off_are_bounded
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agent.datagram import Address, Path, Received, Transmit
from agent.engine.events import PeerChanged, TunnelDown
from agent.ike.cookies import STRAY_ANSWERS_IN_ALL
from agent.ike.events import IkeSaEstablished, Redirected
from agent.ike.redirect import RedirectClient
from agent.ike.settings import IkeSettings
from agent.ike.states import PROBE_SECONDS
from agent.wire.codes import ExchangeType, NotifyType, ProtocolId
from agent.wire.message import Header, decode_message, encode_message
from agent.wire.payloads import (
    DeletePayload,
    NoncePayload,
    NotifyPayload,
)
from agent.wire.redirect import GatewayId, Redirect
from tests.support import feature_scenes
from tests.support.attacker import FROM_A, answers_of, outputs_of
from tests.support.exchanges import REQUESTS
from tests.support.feature_scenes import resuming
from tests.support.pair import (
    A_ADDRESS,
    A_TO_B,
    B_ADDRESS,
    Pair,
    established,
    make_pair,
)
from tests.unit.engine.machines import Scene

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.pair import Datagram


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


OUTAGE = 30.0  # seconds: a modem that dials in again, a router that restarts its radio


@pytest.mark.parametrize("step", [0.5, 0.7, 10.0])
def test_a_forged_hint_during_an_outage_ends_nothing(step: float) -> None:
    """RFC 7296 §2.4, §2.21.4: who sees both SPIs shortens nothing and has nothing sent by it."""
    asked = {}
    for is_forged in (False, True):
        pair = established(make_pair(child=True))
        pair.a.ike.check_liveness(pair.a.sa.ike_id, pair.now)
        for _ in range(int(OUTAGE / step)):
            if is_forged:
                pair.a.ike.receive(Path(A_ADDRESS, B_ADDRESS), _hint(pair), pair.now)
            pair.sleep(step, deliver=False)
        asked[is_forged] = [at for at, line in pair.sent if "--> b: INFORMATIONAL?" in line]
        pair.sleep(IkeSettings().longest_interval)
        assert pair.a.sa.established
        assert pair.a.sa.outgoing.task is None  # and it was answered
        assert pair.a.installed
    assert asked[True] == asked[False]


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


REDIRECTS = {
    "an address": Redirect(GatewayId.of_host("198.18.0.66")),
    "IPv6": Redirect(GatewayId.of_host("2001:db8::66")),
    "a name": Redirect(GatewayId.of_host("evil.example")),
}


def _redirectable(start: Callable[[], tuple[Pair, Datagram]]) -> tuple[Pair, Datagram]:
    pair, true = start()
    (sa,) = pair.a.ike.sas()
    sa.extensions = (*sa.extensions, RedirectClient())
    return pair, true


@pytest.mark.parametrize("knows_nonce", [False, True])
@pytest.mark.parametrize("name", REDIRECTS)
def test_in_ike_session_resume(name: str, knows_nonce: bool) -> None:
    """Nothing is followed without our nonce; who sees it causes one attempt beside, and we resume.

    The ticket goes to nobody else: where we are sent, we begin with IKE_SA_INIT.
    """
    pair, true = _redirectable(resuming(0))
    asked = decode_message(true.data)
    nonce = asked.first(NoncePayload)
    assert nonce is not None
    header = asked.header._replace(is_initiator=False, is_response=True)
    said = nonce.data if knows_nonce else bytes(len(nonce.data))
    forged = replace(REDIRECTS[name], nonce=said).encode()
    others = [forged, forged[:-1], forged[: 2 + forged[1]], b"", b"\x09\1x" + said]
    for data in others * 20:
        notify = NotifyPayload(NotifyType.REDIRECT, data)
        pair.a.ike.receive(A_TO_B, encode_message(header, [notify]), pair.now)
    outputs = outputs_of(pair.a)
    assert not [o for o in outputs if isinstance(o, Transmit)]
    followed = [o for o in outputs if isinstance(o, Redirected)]
    assert [(o.gateway, o.proven) for o in followed] == (
        [(REDIRECTS[name].gateway, False)] if knows_nonce else []
    )
    pair.pending.append(true)
    pair.settle()
    assert pair.a.last(IkeSaEstablished).resumed
    assert pair.a.sa.path == A_TO_B


@pytest.mark.parametrize("name", REDIRECTS)
def test_in_every_exchange_of_a_client_that_takes_redirects(name: str) -> None:
    """In the clear, with true SPIs, true and false message IDs, from the peer's address."""
    for scene in (*REQUESTS, *feature_scenes.REQUESTS):
        pair, true = _redirectable(scene.start)
        told = len(pair.a.events(Redirected))
        header = decode_message(true.data).header
        for exchange in (header.exchange, ExchangeType.INFORMATIONAL, ExchangeType.IKE_AUTH):
            for number in (0, header.message_id, header.message_id + 1):
                for flags in ((True, False), (False, True), (False, False), (True, True)):
                    lie = header._replace(
                        exchange=exchange,
                        message_id=number,
                        is_initiator=flags[0],
                        is_response=flags[1],
                    )
                    for nonce in (b"", bytes(32)):
                        data = replace(REDIRECTS[name], nonce=nonce).encode()
                        notify = NotifyPayload(NotifyType.REDIRECT, data)
                        pair.a.ike.receive(A_TO_B, encode_message(lie, [notify]), pair.now)
        pair.drain()
        assert len(pair.a.events(Redirected)) == told, scene.name
        (sa,) = pair.a.ike.sas()
        assert sa.path == A_TO_B
        pair.pending.append(true)
        pair.settle()
        if "redirect" not in scene.name:
            assert pair.a.sa.established, scene.name
