"""How two sides prove who they are: every kind of key, raw and certified, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from agent.crypto import auth as crypto_auth
from agent.crypto.digest import sha256
from agent.crypto.public_keys import AnyPublicKey
from agent.crypto.signatures import ANNOUNCEMENT, ECDSA, RSA_PKCS1, RSA_PSS, KeyKind
from agent.ike.certificates import MAX_CERTIFICATES, requests, that_fit
from agent.ike.events import CloseReason, IkeKeysDerived, IkeSaClosed
from agent.ike.extension import Extension
from agent.ike.pad import AnyKeyAuth, CertificateAuth, KeyAuth, PskAuth
from agent.timers import WallTime
from agent.wire.codes import AuthMethod, CertEncoding, ExchangeType, NotifyType
from agent.wire.message import decode_message, encode_message
from agent.wire.payloads import (
    AuthPayload,
    CertPayload,
    CertreqPayload,
    Identification,
    NotifyPayload,
)
from tests.support.certificates import AT, NOW, YEAR, Issued, issue
from tests.support.keys import private_key
from tests.support.pair import A_ADDRESS, A_TO_B, B_ADDRESS, Pair, make_peers, make_side
from tests.support.rfc_auth import check_proofs, conversation

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.wire.payloads import Payload

# One proposal alone would leave no room for a CERTREQ in the answer.
IKE = ("aes128gcm16-prfsha256-x25519", "aes256gcm16-prfsha384-x25519")
ROOT = issue("root")
SUB = issue("sub", ROOT, ca=True)
KINDS = list(KeyKind)
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def pair_of(
    a: dict[str, Any],
    b: dict[str, Any],
    *,
    wall: Callable[[], WallTime] = lambda: AT,
    extensions: tuple[Extension, ...] = (),
    start: bool = True,
) -> Pair:
    """`a` and `b`: what is different from two Ed25519 keys in how that side sees the other."""
    peer_b, peer_a = make_peers(ike=IKE)
    pair = Pair(
        make_side("a", A_ADDRESS, [replace(peer_b, **a)], wall=wall),
        make_side("b", B_ADDRESS, [replace(peer_a, **b)], wall=wall),
    )
    if start:
        pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now, extensions)
    return pair


def up(pair: Pair) -> bool:
    pair.settle()
    sas = [*pair.a.ike.sas(), *pair.b.ike.sas()]
    return len(sas) == 2 and all(sa.established for sa in sas)


def refused_by(pair: Pair, side: str) -> str:
    """Nobody is up; why `side` (and it alone) would not have the other."""
    assert not up(pair)
    assert len(pair.a.ike) == len(pair.b.ike) == 0
    closed = getattr(pair, side).last(IkeSaClosed)
    assert closed.reason is CloseReason.AUTHENTICATION_FAILED
    other = (pair.b if side == "a" else pair.a).events(IkeSaClosed)
    if side == "b":  # to the initiator every reason looks the same
        assert [(c.reason, c.detail) for c in other] == [
            (CloseReason.AUTHENTICATION_FAILED, "AUTHENTICATION_FAILED")
        ]
    return closed.detail


def certified(name: str, kind: KeyKind = KeyKind.P256, **more: Any) -> Issued:
    return issue(name, SUB, kind=kind, names=(f"{name}@example.org",), **more)


def shows(issued: Issued, *above: Issued) -> dict[str, Any]:
    """What a side proves itself with."""
    chain = (issued.der, *(one.der for one in above or (SUB,)))
    return {"local_auth": issued.key, "certificates": chain}


def trusts(*anchors: Issued) -> dict[str, Any]:
    """What a side demands."""
    return {
        "remote_auth": CertificateAuth(anchors=tuple(a.certificate for a in anchors or (ROOT,)))
    }


A, B = certified("a"), certified("b")
USUAL_A, USUAL_B = {**shows(A), **trusts()}, {**shows(B), **trusts()}


class Meddler(Extension):
    """Changes the payloads of the initiator's requests, before they are signed or encrypted."""

    def __init__(self, change: Callable[[ExchangeType | int, list[Payload]], None]) -> None:
        self.change = change

    def on_request_building(self, sa, exchange, payloads) -> None:
        self.change(exchange, payloads)


def in_auth(change: Callable[[list[Payload]], None]) -> tuple[Extension, ...]:
    def only_there(exchange: ExchangeType | int, payloads: list[Payload]) -> None:
        if exchange == ExchangeType.IKE_AUTH:
            change(payloads)

    return (Meddler(only_there),)


# -- what is signed --------------------------------------------------------------------------------


def test_each_side_signs_what_the_rfc_says() -> None:
    """RFC 7296 §2.15, from the datagrams and the keys that are told: SK_pi of who began, SK_pr."""
    psk = PskAuth(secret=b"0" * 20)
    by_psk = {"local_auth": psk, "remote_auth": psk}
    pair = pair_of(by_psk, by_psk)
    seen = conversation(pair)
    check_proofs(pair, seen, [pair.a.last(IkeKeysDerived).keys], psk.secret)


# -- keys of every kind --------------------------------------------------------------------------


@kinds
def test_pinned_keys(kind):
    key, other = private_key(kind, "one"), private_key(kind, "two")
    pair = pair_of(
        {"local_auth": key, "remote_auth": pinned(other.spki)},
        {"local_auth": other, "remote_auth": pinned(key.spki)},
    )
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        a --> b: IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT)
        a <-- b: IKE_AUTH! IDr AUTH
        """
    )
    assert up(pair)


def pinned(spki: bytes) -> AnyKeyAuth:
    return AnyKeyAuth(sha256=sha256(spki), key=AnyPublicKey(spki))


def by_hash(spki: bytes) -> AnyKeyAuth:
    return AnyKeyAuth(sha256=sha256(spki))


@kinds
def test_raw_keys_in_band(kind):
    """RFC 7670: whose hash is pinned is asked for the key."""
    key, other = private_key(kind, "one"), private_key(kind, "two")
    pair = pair_of(
        {"local_auth": key, "remote_auth": by_hash(other.spki)},
        {"local_auth": other, "remote_auth": by_hash(key.spki)},
    )
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No CERTREQ
        a --> b: IKE_AUTH? IDi CERT CERTREQ IDr AUTH N(INITIAL_CONTACT)
        a <-- b: IKE_AUTH! IDr CERT AUTH
        """
    )
    assert up(pair)


@kinds
def test_certificates(kind):
    pair = pair_of(
        {**shows(certified("a", kind)), **trusts()}, {**shows(certified("b", kind)), **trusts()}
    )
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No CERTREQ
        """
    )
    if kind is not KeyKind.RSA:  # which comes in fragments
        request = pair.message(pair.a, pair.pending[0].data)
        asked = CertreqPayload(CertEncoding.X509_SIGNATURE, ROOT.certificate.authority)
        assert request.all(CertreqPayload) == (asked,)
        encoding = CertEncoding.X509_SIGNATURE
        chain = pair.a.peer.certificates
        assert request.all(CertPayload) == tuple(CertPayload(encoding, der) for der in chain)
    assert up(pair)


def test_each_side_its_own_way():
    """A certificate here, a pinned Ed25519 key there; a pre-shared key and RSA."""
    rsa = private_key(KeyKind.RSA)
    assert up(pair_of(shows(A), {"remote_auth": trusts()["remote_auth"]}))
    assert up(
        pair_of(
            {"local_auth": PskAuth(secret=b"s" * 32), "remote_auth": pinned(rsa.spki)},
            {"local_auth": rsa, "remote_auth": PskAuth(secret=b"s" * 32)},
        )
    )


def test_the_identity_may_be_the_subject():
    name = Identification.parse("O=hearthgate tests, CN=a")
    assert up(pair_of({**USUAL_A, "local_id": name}, {**USUAL_B, "remote_id": name}))


# -- RFC 7427 ------------------------------------------------------------------------------------


def auth_of(pair: Pair) -> list[AuthPayload]:
    """Notes the AUTH payloads as they pass."""
    seen = []
    pair.drain()
    while pair.pending:
        datagram = pair.pending.pop(0)
        message = pair.message(datagram.sender, datagram.data)
        seen += message.all(AuthPayload)
        pair.deliver(datagram)
    return seen


def announcing(hashes: bytes) -> tuple[Extension, ...]:
    """The initiator announces these hashes."""

    def change(exchange: ExchangeType | int, payloads: list[Payload]) -> None:
        if exchange == ExchangeType.IKE_SA_INIT:
            old = NotifyPayload(NotifyType.SIGNATURE_HASH_ALGORITHMS, ANNOUNCEMENT)
            payloads[payloads.index(old)] = replace(old, data=hashes)

    return (Meddler(change),)


def test_both_announce_what_they_can_verify():
    pair = pair_of({}, {})
    pair.drain()
    for _ in range(2):
        message = decode_message(pair.pending[0].data)
        notify = message.notify(NotifyType.SIGNATURE_HASH_ALGORITHMS)
        assert notify is not None
        assert notify.data.hex() == "0002000300040005"
        pair.deliver(pair.pending.pop(0))


@pytest.mark.parametrize(
    ("kind", "hashes", "scheme"),
    [
        (KeyKind.P384, "00020003", ECDSA[1]),
        (KeyKind.P384, "0002", ECDSA[0]),
        (KeyKind.P256, "00010004", ECDSA[2]),
        (KeyKind.RSA, "0003", RSA_PSS[1]),
        (KeyKind.RSA, "000400030002", RSA_PSS[0]),
    ],
)
def test_the_hash_is_one_that_the_peer_announced(kind, hashes, scheme):
    key = private_key(kind)
    pair = pair_of(
        {"remote_auth": pinned(key.spki)},
        {"local_auth": key},
        extensions=announcing(bytes.fromhex(hashes)),
    )
    _, auth = auth_of(pair)
    assert auth.method == AuthMethod.DIGITAL_SIGNATURE
    assert auth.data[1 : 1 + auth.data[0]] == scheme.algorithm
    assert up(pair)


@pytest.mark.parametrize("kind", [KeyKind.RSA, KeyKind.P256, KeyKind.ED25519])
def test_nothing_is_signed_for_who_takes_no_hash_of_ours(kind):
    key = private_key(kind)
    pair = pair_of(
        {"remote_auth": pinned(key.spki)}, {"local_auth": key}, extensions=announcing(b"\0\1")
    )
    assert refused_by(pair, "b") == f"the peer takes no {kind.value} signatures"


def test_rsa_answers_pkcs1_with_pkcs1(monkeypatch):
    """RFC 7427 §5: an initiator that signs so perhaps knows nothing newer."""
    rsa, other = private_key(KeyKind.RSA), private_key(KeyKind.RSA, "other")
    pair = pair_of(
        {"local_auth": rsa, "remote_auth": pinned(other.spki)},
        {"local_auth": other, "remote_auth": pinned(rsa.spki)},
    )
    real = crypto_auth.sign_auth
    # Only of the initiator: it signs first.
    first = iter([RSA_PKCS1[2]])
    monkeypatch.setattr(
        "agent.ike.proof.sign_auth", lambda key, octets, s: real(key, octets, next(first, s))
    )
    one, two = auth_of(pair)
    assert one.data[1 : 1 + one.data[0]] == RSA_PKCS1[2].algorithm
    assert two.data[1 : 1 + two.data[0]] == RSA_PKCS1[0].algorithm
    assert up(pair)


def test_threat_13_stripped_hash_algorithms():
    """On the way taken out, or made worse: both sides sign what they sent and saw."""
    p384 = private_key(KeyKind.P384)
    sees, shows_it = {"remote_auth": pinned(p384.spki)}, {"local_auth": p384}
    for data in (b"", b"\0\2", b"\0\1\0\2\0\3\0\4\0\5", None):
        for direction in (0, 1):
            pair = pair_of(
                {"local_auth": p384, **sees}, {**shows_it, "remote_auth": pinned(p384.spki)}
            )
            pair.drain()
            for number in (0, 1):
                datagram = pair.pending.pop(0)
                if number == direction:
                    datagram = replace(datagram, data=_with_hashes(datagram.data, data))
                pair.deliver(datagram)
            assert not up(pair)
            reasons = {c.reason for s in (pair.a, pair.b) for c in s.events(IkeSaClosed)}
            # An answer that leaves the initiator no way to sign is not even taken.
            waits = pair.a.drops == ["invalid_response"]
            assert waits or CloseReason.AUTHENTICATION_FAILED in reasons
            assert waits == (direction == 1 and data == b"")
            assert len(pair.a.ike) == len(pair.b.ike) == 0


def _with_hashes(octets: bytes, hashes: bytes | None) -> bytes:
    message = decode_message(octets)
    payloads = []
    for payload in message.payloads:
        if isinstance(payload, NotifyPayload) and payload.type == 16431:
            if hashes is None:
                continue
            payload = replace(payload, data=hashes)
        payloads.append(payload)
    return encode_message(message.header, payloads)


def test_signatures_that_nobody_takes():
    """SHA-1 by its own name, garbage, an empty identifier."""
    key = private_key(KeyKind.RSA)
    for head in ("0f300d06092a864886f70d0101050500", "00", "ff" + "30" * 20, "07300506032b6570"):

        def change(payloads, head=head):
            at = next(i for i, p in enumerate(payloads) if isinstance(p, AuthPayload))
            payloads[at] = replace(payloads[at], data=bytes.fromhex(head) + bytes(256))

        pair = pair_of(
            {"local_auth": key}, {"remote_auth": pinned(key.spki)}, extensions=in_auth(change)
        )
        assert refused_by(pair, "b") == "the proof is wrong"


@pytest.mark.parametrize("method", [0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 255])
@pytest.mark.parametrize("usual", [2, 14])
def test_a_good_proof_under_the_number_of_another_method(usual, method):
    """What is proven has to be proven as the method says that stands beside it."""

    def change(payloads):
        at = next(i for i, p in enumerate(payloads) if isinstance(p, AuthPayload))
        payloads[at] = replace(payloads[at], method=method)

    psk = PskAuth(secret=b"s" * 32)
    own, demanded = ({"local_auth": psk}, {"remote_auth": psk}) if usual == 2 else ({}, {})
    pair = pair_of(own, demanded, extensions=in_auth(change))
    if method == usual:
        assert up(pair)
    else:
        assert refused_by(pair, "b") == "the proof is wrong"


# -- before RFC 7427 -----------------------------------------------------------------------------


def without_rfc_7427(exchange: ExchangeType | int, payloads: list[Payload]) -> None:
    if exchange == ExchangeType.IKE_SA_INIT:
        payloads.remove(NotifyPayload(NotifyType.SIGNATURE_HASH_ALGORITHMS, ANNOUNCEMENT))


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (KeyKind.P256, AuthMethod.ECDSA_SHA256_P256),
        (KeyKind.P384, AuthMethod.ECDSA_SHA384_P384),
        (KeyKind.P521, AuthMethod.ECDSA_SHA512_P521),
    ],
)
def test_ecdsa_by_rfc_4754(kind, method):
    """Neither side announces anything, so both use the method of the curve."""
    key = private_key(kind)
    own = {"local_auth": key, "remote_auth": pinned(key.spki)}
    pair = pair_of(own, own, extensions=(Meddler(without_rfc_7427),))
    assert [auth.method for auth in auth_of(pair)] == [method, method]
    assert up(pair)


@pytest.mark.parametrize("kind", [KeyKind.RSA, KeyKind.ED25519])
def test_no_older_method_for_others(kind):
    """RSA Digital Signature is SHA-1 in practice; Ed25519 has none."""
    key = private_key(kind)
    pair = pair_of(
        {"local_auth": PskAuth(secret=b"s" * 32), "remote_auth": pinned(key.spki)},
        {"local_auth": key, "remote_auth": PskAuth(secret=b"s" * 32)},
        extensions=(Meddler(without_rfc_7427),),
    )
    assert refused_by(pair, "b") == f"the peer takes no {kind.value} signatures (RFC 7427)"


def test_an_initiator_waits_for_a_better_answer_than_one_without_hashes():
    """IKE_SA_INIT is not proven: the answer is dropped, as every other that leads nowhere."""
    key = private_key(KeyKind.RSA)
    pair = pair_of({"local_auth": key}, {"remote_auth": pinned(key.spki)})
    pair.drain()
    pair.deliver(pair.pending.pop(0))
    good = pair.pending.pop(0)
    pair.deliver(replace(good, data=_with_hashes(good.data, None)))
    assert pair.a.drops == ["invalid_response"]
    pair.pending.append(good)
    assert up(pair)


def test_who_announced_hashes_may_not_use_the_older_methods():
    key = private_key(KeyKind.P256)

    def change(payloads):
        at = next(i for i, p in enumerate(payloads) if isinstance(p, AuthPayload))
        payloads[at] = AuthPayload(AuthMethod.ECDSA_SHA256_P256, payloads[at].data[-64:])

    pair = pair_of(
        {"local_auth": key}, {"remote_auth": pinned(key.spki)}, extensions=in_auth(change)
    )
    assert refused_by(pair, "b") == "the proof is wrong"


# -- THREATS 18 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("demand", ["key", "hash", "certificate", "ed25519"])
def test_threat_18_a_psk_never_stands_in_for_a_key(demand):
    psk = PskAuth(secret=b"s" * 32)
    demands = {
        "key": pinned(A.key.spki),
        "hash": by_hash(A.key.spki),
        "certificate": trusts()["remote_auth"],
        "ed25519": KeyAuth(public=bytes(range(32))),
    }
    # The certificate is shown, and its key never used.
    pair = pair_of({**shows(A), "local_auth": psk}, {"remote_auth": demands[demand]})
    assert refused_by(pair, "b") in (
        "the proof is wrong",
        "the peer did not show the raw public key that is pinned",
    )
    pair = pair_of({"remote_auth": demands[demand]}, {**shows(A), "local_auth": psk})
    assert (
        "proof is wrong" in (detail := refused_by(pair, "a"))
        or "show" in detail
        or ("not b@example.org's" in detail)
    )


def test_a_key_never_stands_in_for_a_psk():
    pair = pair_of(shows(A), {"remote_auth": PskAuth(secret=b"s" * 32)})
    assert refused_by(pair, "b") == "the proof is wrong"


# -- raw public keys -----------------------------------------------------------------------------


def test_a_raw_key_that_is_not_pinned():
    key, other = private_key(KeyKind.P256, "one"), private_key(KeyKind.P256, "two")
    pair = pair_of({"local_auth": other}, {"remote_auth": by_hash(key.spki)})
    assert "did not show the raw public key" in refused_by(pair, "b")

    # Shown, but whoever shows it has another.
    def change(payloads):
        at = next(i for i, p in enumerate(payloads) if isinstance(p, CertPayload))
        payloads[at] = replace(payloads[at], data=key.spki)

    pair = pair_of(
        {"local_auth": other}, {"remote_auth": by_hash(key.spki)}, extensions=in_auth(change)
    )
    assert refused_by(pair, "b") == "the proof is wrong"


def test_a_pinned_key_is_not_replaced_in_band():
    """What is shown does not count where the key itself is known."""
    key, other = private_key(KeyKind.P256, "one"), private_key(KeyKind.P256, "two")
    show = in_auth(lambda p: p.append(CertPayload(CertEncoding.RAW_PUBLIC_KEY, other.spki)))
    demands = {"remote_auth": pinned(key.spki)}
    assert refused_by(pair_of({"local_auth": other}, demands, extensions=show), "b")
    assert up(pair_of({"local_auth": key}, demands, extensions=show))


def test_octets_that_are_no_key():
    for octets in (b"", b"\x30", bytes(5000)):
        show = in_auth(lambda p, o=octets: p.append(CertPayload(CertEncoding.RAW_PUBLIC_KEY, o)))
        pair = pair_of({}, {"remote_auth": by_hash(octets)}, extensions=show)
        assert refused_by(pair, "b")


# -- certificates that do not do -----------------------------------------------------------------


@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda n: certified(n, begins=NOW - 2 * YEAR, ends=NOW - YEAR), "ended on 2025-06-01"),
        (lambda n: certified(n, begins=NOW + YEAR, ends=NOW + 2 * YEAR), "begins on 2027-06-01"),
        (lambda n: issue(n, SUB, names=("eve@example.org",)), "is not .@example.org's"),
        (lambda n: issue(n, issue("false"), names=(f"{n}@example.org",)), "no CA that is trusted"),
        (lambda n: certified(n, usage=("key_agreement",)), "keyUsage"),
        (lambda n: certified(n, purposes=("1.3.6.1.5.5.7.3.1",)), "extendedKeyUsage"),
    ],
)
def test_who_shows_a_wrong_certificate(side, make, sentence):
    wrong = shows(make("b" if side == "a" else "a"))
    if side == "b":
        pair = pair_of({**USUAL_A, **wrong}, USUAL_B)
    else:
        pair = pair_of(USUAL_A, {**USUAL_B, **wrong})
    assert re.search(sentence, refused_by(pair, side))


def test_somebody_elses_certificate():
    """Shown by one who has not its key."""
    pair = pair_of({**USUAL_A, "local_auth": certified("eve").key}, USUAL_B)
    assert refused_by(pair, "b") == "the proof is wrong"


def test_no_certificate_at_all():
    assert (
        refused_by(pair_of({"local_auth": A.key}, USUAL_B), "b") == "the peer showed no certificate"
    )
    pair = pair_of({**USUAL_A, "certificates": (b"nothing",)}, USUAL_B)
    assert refused_by(pair, "b") == "the peer's certificate: it is no X.509 certificate"


def test_octets_between_that_are_no_certificates():
    chain = (A.der, b"", b"\x30\x03abc", bytes(9000), SUB.der)
    assert up(pair_of({**USUAL_A, "certificates": chain}, USUAL_B))


def test_too_many_certificates():
    chain = (A.der, *[SUB.der] * (MAX_CERTIFICATES - 1))
    assert up(pair_of({**USUAL_A, "certificates": chain}, USUAL_B))
    pair = pair_of({**USUAL_A, "certificates": (*chain, SUB.der)}, USUAL_B)
    assert refused_by(pair, "b") == f"more than {MAX_CERTIFICATES} certificates"


@pytest.mark.parametrize(
    "encoding", [CertEncoding.HASH_AND_URL_X509, CertEncoding.HASH_AND_URL_X509_BUNDLE]
)
def test_threat_17_hash_and_url(encoding):
    """Refused, even beside a certificate that would do; and nobody is told that we could."""
    url = bytes(20) + b"http://192.0.2.1/certificate"
    show = in_auth(lambda p: p.append(CertPayload(encoding, url)))
    detail = refused_by(pair_of(USUAL_A, USUAL_B, extensions=show), "b")
    assert detail == "a certificate is elsewhere (hash and URL); none is fetched"
    pair = pair_of(USUAL_A, USUAL_B)
    assert up(pair)
    assert not any("HTTP_CERT_LOOKUP" in line for _, line in pair.sent)


@pytest.mark.parametrize(
    "encoding", [CertEncoding.CRL, CertEncoding.OCSP, CertEncoding.PKCS7_WRAPPED_X509, 200]
)
def test_other_encodings_are_not_looked_at(encoding):
    show = in_auth(lambda p: p.insert(1, CertPayload(encoding, b"something")))
    assert up(pair_of(USUAL_A, USUAL_B, extensions=show))


def test_certificates_are_not_read_where_none_is_demanded(monkeypatch):
    """A pinned peer may show what it likes: it costs nothing."""

    def never(der: bytes) -> None:
        raise AssertionError("read")

    monkeypatch.setattr("agent.crypto.certificates.read_certificate", never)
    chain = {"certificates": tuple(bytes((n,)) * 100 for n in range(40))}
    assert up(pair_of(chain, {}))


def test_a_board_whose_clock_is_in_1970():
    """What is known is the latest time seen; what begins later is let in, what is over is not."""
    unsure = WallTime(NOW.timestamp(), False)
    later = certified("a", begins=NOW + YEAR, ends=NOW + 2 * YEAR)
    over = certified("a", begins=NOW - 2 * YEAR, ends=NOW - YEAR)
    assert up(pair_of({**USUAL_A, **shows(later)}, USUAL_B, wall=lambda: unsure))
    pair = pair_of({**USUAL_A, **shows(over)}, USUAL_B, wall=lambda: unsure)
    assert "ended on 2025-06-01" in refused_by(pair, "b")


def test_without_a_date_nobody_is_let_in_by_certificate():
    peer_b, peer_a = make_peers()
    pair = Pair(
        make_side("a", A_ADDRESS, [replace(peer_b, **USUAL_A)]),
        make_side("b", B_ADDRESS, [replace(peer_a, **USUAL_B)]),
    )
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    assert "ended on" in refused_by(pair, "b")


# -- asking --------------------------------------------------------------------------------------


def test_a_responder_asks_for_no_more_than_its_answer_may_hold():
    """THREATS 8: each anchor has 20 octets, and the initiator has proven nothing."""
    roots = tuple(issue(f"root {n}") for n in range(40))
    pair = pair_of(USUAL_A, {**USUAL_B, **trusts(*roots, ROOT)})
    pair.drain()
    request = pair.pending[0].data
    pair.deliver(pair.pending.pop(0))
    answer = pair.pending[0].data
    assert len(answer) <= 1.1 * len(request)
    assert up(pair)


def test_many_trust_anchors_leave_room_for_a_raw_key():
    """Who has one to show waits to be asked for it (RFC 7670 §3)."""
    roots = tuple(issue(f"root {n}").certificate for n in range(40))
    key = private_key(KeyKind.P256, "one")
    asked = requests([CertificateAuth(anchors=roots), by_hash(key.spki)])
    for room in range(5, 1000):
        fitting = that_fit(asked, room)
        assert CertreqPayload(CertEncoding.RAW_PUBLIC_KEY, b"") in fitting


def test_what_fits():
    x509 = CertreqPayload(CertEncoding.X509_SIGNATURE, bytes(60))
    raw = CertreqPayload(CertEncoding.RAW_PUBLIC_KEY, b"")
    assert that_fit((x509, raw), 70) == (x509, raw)
    assert that_fit((x509, raw), 69) == (x509,)
    assert that_fit((x509, raw), 64) == (replace(x509, data=bytes(40)), raw)
    assert that_fit((x509, raw), 25) == (replace(x509, data=bytes(20)),)
    assert that_fit((x509, raw), 24) == ()
    assert that_fit((raw,), 5) == (raw,)
    assert that_fit((raw,), 4) == ()
    assert that_fit((), 100) == ()


def test_the_mediation_server_asks_for_nothing():
    from agent.engine.authority import Authority

    authority = Authority(())
    request = decode_message(_first_request())
    assert authority.certificate_requests(request) == ()


def _first_request() -> bytes:
    pair = pair_of({}, {})
    pair.drain()
    return pair.pending[0].data
