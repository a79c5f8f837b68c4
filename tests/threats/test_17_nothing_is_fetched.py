"""THREATS 17: hash-and-URL, OCSP, CRL and redirects: nothing is fetched, nothing leads away.

That no room of the protocol can fetch is tests/test_architecture.py: they import no sockets.
Redirects are bounded, five in five minutes:
tests/unit/ike/test_redirect.py::test_five_in_five_minutes
tests/unit/engine/test_redirect.py::test_two_that_send_to_each_other
tests/unit/engine/test_redirect.py::test_forged_redirects_while_the_gateway_is_off_are_bounded
tests/unit/engine/test_redirect.py::test_a_name_with_a_hundred_addresses
"""

from __future__ import annotations

import ast
import socket
from pathlib import Path as File
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from agent.crypto.signatures import KeyKind
from agent.datagram import Path, Transmit
from agent.ike.events import IkeSaClosed, IkeSaEstablished
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.message import decode_message, encode_message, encode_payloads
from agent.wire.payloads import CertPayload, CertreqPayload, NotifyPayload
from tests.support.attacker import outputs_of
from tests.support.certificates import issue
from tests.support.exchanges import REQUESTS, RESPONSES, connecting, following, payloads_of, sealed
from tests.support.feature_scenes import ROOT, certified, changed_pair
from tests.support.pair import A_ADDRESS, A_TO_B, B_ADDRESS, Pair, make_pair

if TYPE_CHECKING:
    from tests.support.pair import Datagram

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


# Where a certificate says that more is to be had (RFC 5280 §4.2.1.13, §4.2.1.15, §4.2.2).
def _url(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(f"http://198.18.0.66/{text}")


_POINTS = [x509.DistributionPoint([_url("crl"), _url("crl2")], None, None, None)]
_ACCESS = [
    x509.AccessDescription(AuthorityInformationAccessOID.OCSP, _url("ocsp")),
    x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, _url("ca.crt")),
]
_STAPLE = x509.TLSFeature([x509.TLSFeatureType.status_request])  # "must staple"
ADDRESSES = {
    "OCSP and CA issuers": (x509.AuthorityInformationAccess(_ACCESS), False),
    "CRL": (x509.CRLDistributionPoints(_POINTS), False),
    "delta CRL": (x509.FreshestCRL(_POINTS), False),
    "OCSP stapled": (_STAPLE, False),
    "a CRL that is critical": (x509.CRLDistributionPoints(_POINTS), True),
    "a delta CRL that is critical": (x509.FreshestCRL(_POINTS), True),
}


@pytest.fixture
def nobody_calls(monkeypatch):
    """Whoever makes a socket or asks for a name fails."""

    def no(*args: object, **more: object) -> None:
        raise AssertionError("something is fetched")

    for name in ("socket", "getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, no)


def _run(pair: Pair) -> tuple[list, list]:
    """Everything that both said, and to where."""
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    paths = []
    for _ in range(100):
        pair.drain()
        if not pair.pending:
            break
        paths.append(pair.pending[0].path)
        pair.deliver(pair.pending.pop(0))
    return [*pair.a.outputs, *pair.b.outputs], paths


@pytest.mark.parametrize("place", ["end", "between"])
@pytest.mark.parametrize("name", ADDRESSES)
def test_addresses_in_certificates(name: str, place: str, nobody_calls) -> None:
    """What a certificate names is not looked for; where that may not be ignored, it is refused."""
    more = (ADDRESSES[name],)
    between = issue("sub", ROOT, ca=True, more=more if place == "between" else ())
    changes = certified()
    for who in "ab":
        own = issue(
            who,
            between,
            names=(f"{who}@example.org",),
            kind=KeyKind.ED25519,
            more=more if place == "end" else (),
        )
        changes = {**changes, who: {**changes[who], "certificates": (own.der, between.der)}}
        changes[who]["local_auth"] = own.key
    outputs, paths = _run(changed_pair(changes))
    assert set(paths) <= {A_TO_B, Path(B_ADDRESS, A_ADDRESS)}
    assert len(paths) == 4
    up = sum(isinstance(o, IkeSaEstablished) for o in outputs)
    refused = [o.detail for o in outputs if isinstance(o, IkeSaClosed)]
    if "critical" in name:
        assert up == 0
        assert any("its critical extension" in detail for detail in refused)
    else:
        assert (up, refused) == (2, [])


@pytest.mark.parametrize("name", LOOK_UP)
@pytest.mark.parametrize("count", [2, 3])
def test_where_a_certificate_is_demanded(count: int, name: str, nobody_calls) -> None:
    """In its place: refused. Beside it hash and URL are refused, the rest does not matter."""
    for instead in (True, False):
        pair = changed_pair(certified())
        pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
        for _ in range(count):
            pair.deliver(following(pair))
        true = following(pair)
        receiver = pair.other(true.sender)
        message, cipher = payloads_of(pair, true)
        kept = [p for p in message.payloads if not (instead and isinstance(p, CertPayload))]
        data = sealed(message, cipher, *encode_payloads([*kept, LOOK_UP[name]]))
        receiver.ike.receive(true.arriving, data, pair.now)
        outputs = outputs_of(receiver)
        sent = [o for o in outputs if isinstance(o, Transmit)]
        assert {o.path.remote for o in sent} <= {true.arriving.remote}
        closed = [o.detail for o in outputs if isinstance(o, IkeSaClosed)]
        by_url = LOOK_UP[name].encoding in (12, 13) and isinstance(LOOK_UP[name], CertPayload)
        if by_url:
            assert closed == ["a certificate is elsewhere (hash and URL); none is fetched"]
        elif instead:
            assert closed == ["the peer showed no certificate"]
        else:
            assert closed == []
        assert any(isinstance(o, IkeSaEstablished) for o in outputs) is not bool(closed)


@pytest.mark.parametrize("start", [connecting(0), lambda: _certified_first()])
def test_we_never_ask_for_a_look_up(start) -> None:
    """RFC 7296 §3.7: HTTP_CERT_LOOKUP_SUPPORTED would invite it."""
    pair, true = start()
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


def _certified_first() -> tuple[Pair, Datagram]:
    pair = changed_pair(certified())
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    return pair, following(pair)


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
