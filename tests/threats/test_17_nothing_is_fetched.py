"""THREATS 17: hash-and-URL, OCSP, CRL and redirects: nothing is fetched, nothing leads away.

That no room of the protocol can fetch is tests/test_architecture.py: they import no sockets.
"""

from __future__ import annotations

import ast
from pathlib import Path as File

import pytest

from agent.datagram import Transmit
from agent.ike.events import IkeSaClosed, IkeSaEstablished
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.message import decode_message, encode_message, encode_payloads
from agent.wire.payloads import CertPayload, CertreqPayload, NotifyPayload
from tests.support.attacker import outputs_of
from tests.support.exchanges import REQUESTS, RESPONSES, connecting, following, payloads_of, sealed
from tests.support.pair import A_TO_B, make_pair

URL = b"http://198.18.0.66/" + b"x" * 40
# RFC 7296 §3.6: hash and URL of an X.509 certificate (12) and of a bundle (13), CRL (7), OCSP (14).
LOOK_UP = {
    "hash and URL": CertPayload(12, bytes(20) + URL),
    "hash and URL of a bundle": CertPayload(13, bytes(20) + URL),
    "a hash and no URL": CertPayload(12, bytes(20)),
    "half a hash": CertPayload(13, bytes(7)),
    "a CRL": CertPayload(7, b"\x30\x03\x02\x01\x01" + URL),
    "an OCSP response": CertPayload(14, b"\x30\x03\x0a\x01\x00" + URL),
    "a request for hash and URL": CertreqPayload(12, bytes(20)),
}


@pytest.mark.parametrize("name", LOOK_UP)
@pytest.mark.parametrize("scene", [REQUESTS[0], RESPONSES[0]], ids=["request", "response"])
def test_certificates_by_url(scene, name: str) -> None:
    """Beside a proof by a pinned key they are ignored; every datagram goes to the peer."""
    pair, true = scene.start()
    message, cipher = payloads_of(pair, true)
    payloads = [message.payloads[0], LOOK_UP[name], *message.payloads[1:]]
    receiver = pair.other(true.sender)
    data = sealed(message, cipher, *encode_payloads(payloads))
    receiver.ike.receive(true.arriving, data, pair.now)
    outputs = outputs_of(receiver)
    sent = [o for o in outputs if isinstance(o, Transmit)]
    assert {o.path.remote for o in sent} <= {true.arriving.remote}
    assert sum(isinstance(o, IkeSaEstablished) for o in outputs) == 1
    assert not any(isinstance(o, IkeSaClosed) for o in outputs)


def test_we_never_ask_for_a_look_up() -> None:
    """RFC 7296 §3.7: HTTP_CERT_LOOKUP_SUPPORTED would invite it."""
    pair, true = connecting(0)()
    seen = []
    for _ in range(4):
        seen += pair.message(true.sender, true.data).payloads
        pair.deliver(true)
        if not pair.pending:
            break
        true = following(pair)
    kinds = {p.type for p in seen if isinstance(p, NotifyPayload)}
    assert NotifyType.HTTP_CERT_LOOKUP_SUPPORTED not in kinds
    assert not [p for p in seen if isinstance(p, CertPayload | CertreqPayload) and p.encoding > 11]


def test_no_library_that_fetches_is_anywhere_in_the_daemon() -> None:
    """Not only in the pure rooms: no HTTP client, no name of one, in agent or board."""
    root = File(__file__).parent.parent.parent
    fetchers = {
        "urllib.request",
        "http.client",
        "requests",
        "httpx",
        "aiohttp",
        "ftplib",
        "urllib3",
    }
    for file in [*root.glob("agent/**/*.py"), *root.glob("board/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            assert not fetchers & set(names), file


GATEWAYS = {
    "an address": b"\1\4\xc6\x12\0\x42",
    "IPv6": b"\2\x10" + bytes(15) + b"\1",
    "a name": b"\3\x0cevil.example",
    "a length that lies": b"\1\xff\xc6\x12\0\x42",
    "nothing": b"",
    "an unknown kind": b"\x09\1x",
}


@pytest.mark.parametrize("name", GATEWAYS)
def test_a_forged_redirect_of_a_first_request(name: str) -> None:
    """Without our nonce (RFC 5685 §3) it is nobody's: not one octet goes to the other gateway."""
    pair = make_pair(child=True)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    true = following(pair)
    header = decode_message(true.data).header._replace(is_initiator=False, is_response=True)
    answer = encode_message(header, [NotifyPayload(NotifyType.REDIRECT, GATEWAYS[name])])
    for _ in range(100):
        pair.a.ike.receive(A_TO_B, answer, pair.now)
    assert not [o for o in outputs_of(pair.a) if isinstance(o, Transmit)]
    pair.pending.append(true)
    pair.settle()
    assert pair.a.sa.established
    assert pair.a.sa.path == A_TO_B


def test_a_redirect_that_nobody_proved() -> None:
    """A plain REDIRECT in each exchange that is under way changes no path and no state."""
    for scene in REQUESTS:
        pair, true = scene.start()
        paths = {sa.path for side in (pair.a, pair.b) for sa in side.ike._by_spi.values()}
        header = decode_message(true.data).header
        for exchange in (header.exchange, ExchangeType.INFORMATIONAL):
            for is_response in (False, True):
                lie = header._replace(
                    exchange=exchange,
                    is_response=is_response,
                    is_initiator=header.is_initiator != is_response,
                )
                data = encode_message(lie, [NotifyPayload(NotifyType.REDIRECT, GATEWAYS["a name"])])
                side = true.sender if is_response else pair.other(true.sender)
                side.ike.receive(side.ike._by_spi and A_TO_B, data, pair.now)
        pair.pending.append(true)
        pair.settle()
        assert pair.a.sa.established
        assert {sa.path for s in (pair.a, pair.b) for sa in s.ike._by_spi.values()} <= paths
