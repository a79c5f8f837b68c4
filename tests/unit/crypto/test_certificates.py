"""Certification paths: what is believed, and each single thing that must not be."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from agent.crypto import certification_path
from agent.crypto.certificates import (
    MAX_ALT_NAMES,
    MAX_CERTIFICATE,
    InvalidCertificate,
    load_certificates,
    read_certificate,
)
from agent.crypto.certification_path import MAX_PATH, MAX_SIGNATURES, check_certificate
from agent.crypto.digest import sha1
from agent.crypto.public_keys import AnyPublicKey
from agent.crypto.signatures import ECDSA, ED25519, RSA_PKCS1, RSA_PSS, KeyKind
from agent.timers import WallTime
from agent.wire.codes import IdType
from agent.wire.der import content_of, encode_element, read_elements
from agent.wire.payloads import Identification
from tests.support.certificates import (
    ANY_PURPOSE,
    AT,
    IPSEC_IKE,
    NOW,
    SERVER_AUTH,
    YEAR,
    Issued,
    issue,
    signed_as,
    subject_text,
    tampered,
)

ROOT = issue("root")
SUB = issue("sub", ROOT, ca=True)
NAMES = ("bob@example.org", "gw.example.org", "192.0.2.7", "2001:db8::7")
BOB = issue("bob", SUB, names=NAMES)
BOB_ID = Identification.parse("bob@example.org")


def check(
    leaf: Issued = BOB,
    *others: Issued,
    anchors: tuple[Issued, ...] = (ROOT,),
    identity: Identification = BOB_ID,
    at: WallTime = AT,
) -> None:
    check_certificate(
        leaf.certificate,
        [other.certificate for other in others],
        [anchor.certificate for anchor in anchors],
        identity,
        at,
    )


def refused(sentence: str, leaf: Issued, *others: Issued, **more) -> None:
    with pytest.raises(InvalidCertificate, match=sentence) as caught:
        check(leaf, *others, **more)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


def chain(length: int, **more) -> list[Issued]:
    """The root, and `length` CAs below it."""
    made = [ROOT]
    for n in range(length):
        made.append(issue(f"ca {n}", made[-1], ca=True, **more))
    return made


# -- what is believed ----------------------------------------------------------------------------


def test_a_chain_in_any_order():
    other = issue("elsewhere")
    check(BOB, SUB)
    check(BOB, other, SUB, ROOT, BOB)
    check(BOB, SUB, anchors=(other, ROOT))
    check(BOB, anchors=(SUB,))  # an anchor need not be a root
    check(BOB, anchors=(SUB, ROOT))
    check(issue("bob", ROOT, names=NAMES))


@pytest.mark.parametrize(
    "name", [*NAMES, "BOB@Example.org", subject_text("bob"), "O=Hearthgate Tests, CN=BOB"]
)
def test_names(name):
    check(BOB, SUB, identity=Identification.parse(name))


@pytest.mark.parametrize("kind", list(KeyKind))
def test_keys_of_all_kinds(kind):
    root = issue("root", kind=kind)
    sub = issue("sub", root, kind=kind, ca=True)
    check(issue("bob", sub, kind=kind, names=NAMES), sub, anchors=(root,))


@pytest.mark.parametrize(
    "scheme", [ED25519, *ECDSA, *RSA_PSS, *RSA_PKCS1], ids=lambda scheme: scheme.name
)
def test_signatures_of_all_kinds(scheme):
    kind = next(kind for kind in KeyKind if scheme.fits(kind))
    root = issue("root", kind=kind)
    bob = signed_as(issue("bob", root, names=NAMES), root, scheme)
    check(bob, anchors=(root,))
    body = bob.der[:-1] + bytes((bob.der[-1] ^ 1,))
    refused("was not signed by", Issued("bob", KeyKind.P256, body), anchors=(root,))


@pytest.mark.parametrize("purposes", [(IPSEC_IKE,), (ANY_PURPOSE,), (SERVER_AUTH, IPSEC_IKE)])
def test_purposes(purposes):
    check(issue("bob", ROOT, names=NAMES, purposes=purposes))


@pytest.mark.parametrize(
    "usage",
    [(), ("digital_signature",), ("content_commitment",), ("digital_signature", "key_agreement")],
)
def test_usages(usage):
    """RFC 4945 §5.1.3.2: no keyUsage, or one of two bits in it."""
    check(issue("bob", ROOT, names=NAMES, usage=usage))


def test_a_ca_without_key_usage():
    """RFC 5280 §6.1.4 (n): only if it is there."""
    root = issue("root", usage=())
    check(issue("bob", root, names=NAMES), anchors=(root,))


def test_path_lengths_that_are_kept():
    """§4.2.1.9: the number of CAs between; who renews himself is not counted."""
    zero = issue("zero", ROOT, ca=True, path_length=0)
    check(issue("bob", zero, names=NAMES), zero)
    root = issue("root", path_length=1)
    sub = issue("sub", root, ca=True)
    check(issue("bob", sub, names=NAMES), sub, anchors=(root,))
    renewed = issue("zero", zero, kind=KeyKind.P384, ca=True, path_length=0)
    check(issue("bob", renewed, names=NAMES), renewed, zero)


def test_the_longest_path():
    cas = chain(MAX_PATH - 2)
    bob = issue("bob", cas[-1], names=NAMES)
    check(bob, *cas[1:])
    cas = chain(MAX_PATH - 1)
    bob = issue("bob", cas[-1], names=NAMES)
    refused(f"more than {MAX_PATH} certificates", bob, *cas[1:])


def test_what_signed_the_anchor_does_not_matter():
    """It is trusted by its key: also with a signature of SHA-1, or by nobody known."""
    root = tampered(ROOT, ROOT.certificate.signature[-8:], bytes(8))
    check(BOB, SUB, anchors=(root,))


def test_an_unknown_extension_that_is_not_critical():
    more = ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\0"), False),)
    check(issue("bob", ROOT, names=NAMES, more=more))


# -- what is not ---------------------------------------------------------------------------------


def test_wrong_names():
    for name in (
        *("eve@example.org", "example.org", "bob", "a.gw.example.org", "*.example.org"),
        *("192.0.2.8", "::ffff:192.0.2.7", "CN=bob", "O=hearthgate tests, CN=bo"),
    ):
        refused("is not .*'s", BOB, SUB, identity=Identification.parse(name))
    # The right text as another type, the subject's octets as a key ID, no name at all.
    for kind, data in (
        (IdType.ID_FQDN, b"bob@example.org"),
        (IdType.ID_RFC822_ADDR, b"gw.example.org"),
        (IdType.ID_KEY_ID, b"bob@example.org"),
        (IdType.ID_KEY_ID, BOB.certificate.subject.data),
        (IdType.ID_DER_ASN1_DN, b"0\0"),
        (IdType.ID_NULL, b""),
    ):
        refused("is not .*'s", BOB, SUB, identity=Identification(kind, data))
    # A common name is no host name.
    refused(
        "is not", issue("gw.example.org", ROOT), identity=Identification.parse("gw.example.org")
    )


def test_a_wildcard_is_nobody():
    star = issue("star", ROOT, names=("*.example.org",))
    refused("is not", star, identity=Identification.parse("gw.example.org"))


def test_a_ca_that_is_not_trusted():
    other = issue("other")
    refused("no CA that is trusted here", BOB, SUB, anchors=(other,))
    refused("no CA that is trusted here", BOB, SUB, anchors=())
    refused("no CA that is trusted here", BOB)  # the one between is missing
    eve = issue("bob", names=NAMES, usage=("digital_signature", "key_cert_sign"))  # by itself
    refused("no CA that is trusted here", eve, eve)


def test_a_ca_of_the_same_name():
    """What a name fits proves nothing: the signature does."""
    false_root = Issued("false", KeyKind.P256, b"")
    forged = issue("bob", false_root, issuer_name="root", names=NAMES)
    refused("was not signed by O=hearthgate tests, CN=root", forged)
    false_sub = issue("false", false_root, issuer_name="root", ca=True)
    refused(
        "was not signed", issue("bob", Issued("false", KeyKind.P256, b""), names=NAMES), false_sub
    )


@pytest.mark.parametrize("who", ["peer", "between", "anchor"])
@pytest.mark.parametrize(
    ("begins", "ends", "sentence"),
    [
        (NOW - 2 * YEAR, NOW - timedelta(seconds=1), "ended on 2026-05-31 23:59 UTC"),
        (NOW + timedelta(seconds=1), NOW + YEAR, "begins on 2026-06-01 00:00 UTC"),
    ],
    ids=["over", "not yet"],
)
def test_times(who, begins, ends, sentence):
    times = {"begins": begins, "ends": ends}
    root = issue("root", **(times if who == "anchor" else {}))
    sub = issue("sub", root, ca=True, **(times if who == "between" else {}))
    bob = issue("bob", sub, names=NAMES, **(times if who == "peer" else {}))
    refused(sentence, bob, sub, anchors=(root,))


def test_the_second_is_exact():
    bob = issue("bob", ROOT, names=NAMES, begins=NOW, ends=NOW)
    check(bob)
    refused("ended on", bob, at=WallTime(AT.seconds + 1, True))
    refused("begins on", bob, at=WallTime(AT.seconds - 1, True))


def test_a_clock_that_cannot_be_right():
    """THREATS 38: what is over by the time that is known is refused; the rest is let in."""
    known = AT.seconds
    later = issue("bob", ROOT, names=NAMES, begins=NOW + YEAR, ends=NOW + 2 * YEAR)
    over = issue("bob", ROOT, names=NAMES, ends=NOW - timedelta(days=1))
    check(BOB, SUB, at=WallTime(known, False))
    check(later, at=WallTime(known, False))
    refused("begins on", later, at=WallTime(known, True))
    refused("ended on", over, at=WallTime(known, False))
    # 1970 itself is never taken for the time: then the same certificates begin later.
    refused("begins on", BOB, SUB, at=WallTime(0.0, True))


@pytest.mark.parametrize("usage", [("key_agreement",), ("key_encipherment",), ("key_cert_sign",)])
def test_a_key_that_may_not_sign(usage):
    refused("does not allow signatures", issue("bob", ROOT, names=NAMES, usage=usage))


def test_other_purposes():
    refused("for other purposes", issue("bob", ROOT, names=NAMES, purposes=(SERVER_AUTH,)))
    sub = issue("sub", ROOT, ca=True, purposes=(SERVER_AUTH,))
    refused("CN=sub is for other purposes", issue("bob", sub, names=NAMES), sub)


def test_who_is_no_ca():
    alice = issue("alice", ROOT, names=("alice@example.org",))
    forged = issue("bob", alice, names=NAMES)
    refused("CN=alice is not one of a CA", forged, alice)
    more = ((x509.BasicConstraints(False, None), True),)
    alice = issue("alice", ROOT, usage=("key_cert_sign",), more=more)
    refused("CN=alice is not one of a CA", issue("bob", alice, names=NAMES), alice)
    sub = issue("sub", ROOT, ca=True, usage=("digital_signature", "crl_sign"))
    refused("does not allow to sign certificates", issue("bob", sub, names=NAMES), sub)
    refused("is not one of a CA", forged, anchors=(alice,))


def test_path_lengths_that_are_exceeded():
    zero = issue("zero", ROOT, ca=True, path_length=0)
    sub = issue("sub", zero, ca=True)
    refused("CN=zero allows 0 more CAs below it, not 1", issue("bob", sub, names=NAMES), sub, zero)
    root = issue("root", path_length=0)
    sub = issue("sub", root, ca=True)
    refused("CN=root allows 0 more", issue("bob", sub, names=NAMES), sub, anchors=(root,))


def test_a_loop_ends():
    one = issue("one", Issued("two", KeyKind.P256, b""), ca=True)
    two = issue("two", one, ca=True)
    refused("no CA that is trusted here", issue("bob", one, names=NAMES), one, two)
    own = issue("sub", Issued("sub", KeyKind.P256, b""), ca=True)
    refused("no CA that is trusted here", BOB, own)


def test_what_is_critical_and_not_known():
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\0")
    policy = x509.CertificatePolicies(
        [x509.PolicyInformation(x509.ObjectIdentifier("1.2.3"), None)]
    )
    inhibit = x509.InhibitAnyPolicy(0)
    constraints = x509.NameConstraints([x509.DNSName("example.org")], None)
    for extension, critical, sentence in (
        (unknown, True, "critical extension 1.2.3.4"),
        (policy, True, "critical extension 2.5.29.32"),
        (inhibit, True, "critical extension 2.5.29.54"),
        (constraints, True, "nameConstraints"),
        (constraints, False, "nameConstraints"),
    ):
        more = ((extension, critical),)
        refused(sentence, issue("bob", ROOT, names=NAMES, more=more))
        sub = issue("sub", ROOT, ca=True, more=more)
        refused(f"CN=sub is of no use: .*{sentence}", issue("bob", sub, names=NAMES), sub)
        root = issue("root", more=more)
        refused(sentence, issue("bob", root, names=NAMES), anchors=(root,))


def test_sha1_never():
    root = issue("root", kind=KeyKind.RSA)
    bob = issue("bob", root, names=NAMES)
    sha1_rsa = bytes.fromhex("06092a864886f70d010105")
    bob = tampered(bob, bytes.fromhex("06092a864886f70d01010b"), sha1_rsa)
    refused("an algorithm not in use", bob, anchors=(root,))


def test_tampered_with():
    sub = tampered(SUB, SUB.certificate.public_key.spki, issue("eve").certificate.public_key.spki)
    refused(
        "CN=sub was not signed by",
        issue("bob", Issued("eve", KeyKind.P256, b""), issuer_name="sub", names=NAMES),
        sub,
    )
    refused("was not signed by", tampered(BOB, b"gw.example.org", b"gx.example.org"), SUB)


def test_many_that_fit_cost_a_bounded_number_of_signatures(monkeypatch):
    """THREATS 1: names can be made to fit as one likes; verifying is what costs."""
    false = [issue(f"false {n}", issuer_name="sub") for n in range(6)]
    crowd = [
        issue("sub", Issued(f"false {n}", KeyKind.P256, b""), issuer_name="sub", kind=kind, ca=True)
        for n in range(len(false))
        for kind in (KeyKind.P256, KeyKind.P384, KeyKind.ED25519)
    ]
    count = 0
    real = AnyPublicKey.verify_as

    def counted(self, scheme, data, signature):
        nonlocal count
        count += 1
        return real(self, scheme, data, signature)

    monkeypatch.setattr(AnyPublicKey, "verify_as", counted)
    refused("was not signed by|too many", BOB, *crowd)
    assert count <= MAX_SIGNATURES == certification_path.MAX_SIGNATURES
    count = 0
    refused("was not signed by", BOB, *[crowd[1]] * 7)
    assert count == 1  # what came several times is one


# -- reading -------------------------------------------------------------------------------------


def test_what_is_read():
    made = SUB.certificate
    assert made.name == "O=hearthgate tests, CN=sub"
    assert repr(made) == "<Certificate O=hearthgate tests, CN=sub>"
    assert made.authority == sha1(made.public_key.spki)
    assert made.is_ca
    assert made.path_length is None
    assert BOB.certificate.usages == {"digital_signature"}
    assert BOB.certificate.purposes is None
    library = x509.load_der_x509_certificate(BOB.der)
    assert BOB.certificate.signed == library.tbs_certificate_bytes
    assert BOB.certificate.signature == library.signature
    assert BOB.certificate.subject.data == library.subject.public_bytes()


def test_files():
    assert load_certificates(SUB.pem + b"some text\n" + ROOT.pem) == (
        SUB.certificate,
        ROOT.certificate,
    )
    for data, sentence in (
        (b"", "BEGIN CERTIFICATE"),
        (BOB.key_pem, "BEGIN CERTIFICATE"),
        (BOB.der, "BEGIN CERTIFICATE"),
        (BOB.pem[:-30], "BEGIN CERTIFICATE"),
        (ROOT.pem + BOB.pem[:100], "BEGIN CERTIFICATE"),
        (BOB.pem.replace(b"MII", b"MI", 1), "no X.509|damaged"),
        (bytes(70000), "too long"),
    ):
        with pytest.raises(InvalidCertificate, match=sentence):
            load_certificates(data)


def test_weak_keys_and_two_algorithms():
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding

    weak = rsa.generate_private_key(65537, 1024)
    name = x509.Name([])
    builder = x509.CertificateBuilder(name, name, weak.public_key(), 1)
    builder = builder.not_valid_before(NOW.replace(tzinfo=None))
    made = builder.not_valid_after(NOW.replace(tzinfo=None)).sign(weak, hashes.SHA256())
    with pytest.raises(InvalidCertificate, match="1024 bits is too weak"):
        read_certificate(made.public_bytes(Encoding.DER))
    ecdsa = ECDSA[0].algorithm
    der = (
        BOB.der[: BOB.der.rindex(ecdsa)]
        + ECDSA[1].algorithm
        + BOB.der[BOB.der.rindex(ecdsa) + len(ecdsa) :]
    )
    with pytest.raises(InvalidCertificate, match="two signature algorithms"):
        read_certificate(der)


def test_the_longest_certificate():
    comment = x509.ObjectIdentifier("1.2.3.4")
    room = MAX_CERTIFICATE - len(BOB.der)

    def padded(octets: int) -> Issued:
        extension = x509.UnrecognizedExtension(comment, bytes(octets))
        return issue("bob", SUB, names=NAMES, more=((extension, False),), kind=KeyKind.ED25519)

    check(padded(room - 200), SUB)
    with pytest.raises(InvalidCertificate, match="too long"):
        read_certificate(padded(room + 200).der)


def test_names_beyond_the_bound_are_nobodys():
    names = [f"host-{n}.example.org" for n in range(MAX_ALT_NAMES + 2)]
    many = issue("many", SUB, names=tuple(names))
    check(many, SUB, identity=Identification.parse(names[MAX_ALT_NAMES - 1]))
    refused("is not", many, SUB, identity=Identification.parse(names[MAX_ALT_NAMES]))


@pytest.mark.parametrize("bits", ["030100", "0300", "03020700", "040100"])
def test_a_signature_that_is_no_string_of_octets(bits):
    """BIT STRING without octets, with bits that are left over; another type."""
    parts = read_elements(content_of(BOB.der, 0x30))
    last = bytes.fromhex(bits)
    der = encode_element(0x30, parts[0].octets, parts[1].octets, last)
    with pytest.raises(InvalidCertificate):
        check_certificate(read_certificate(der), [SUB.certificate], [ROOT.certificate], BOB_ID, AT)
    if bits != "030100":
        with pytest.raises(InvalidCertificate, match="no signature"):
            read_certificate(der)


def test_every_truncation():
    for end in range(len(BOB.der)):
        with pytest.raises(InvalidCertificate):
            read_certificate(BOB.der[:end])
    with pytest.raises(InvalidCertificate):
        read_certificate(BOB.der + b"\0")


@given(st.data())
def test_no_octets_can_harm(data):
    """A certificate, one octet changed: read and not believed, or one kind of error."""
    at = data.draw(st.integers(0, len(BOB.der) - 1))
    octet = data.draw(st.integers(0, 255))
    der = BOB.der[:at] + bytes((octet,)) + BOB.der[at + 1 :]
    if der == BOB.der:
        return
    with pytest.raises(InvalidCertificate):
        check_certificate(read_certificate(der), [SUB.certificate], [ROOT.certificate], BOB_ID, AT)


@pytest.mark.parametrize("count", range(7))
def test_too_few_parts(count):
    """Well-formed DER with less in it than a certificate has, nothing included."""
    algorithm = encode_element(0x30)
    for tag in (0x30, 0xA0, 0x02):
        signed = encode_element(0x30, encode_element(tag) * count)
        for parts in ((), (signed,), (signed, algorithm), (signed, algorithm, b"\x03\x01\0")):
            with pytest.raises(InvalidCertificate):
                read_certificate(encode_element(0x30, *parts))
