"""Invariants of certificates, names, tickets and redirects under octets of any kind.

One sentence each; seconds, repeatable.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.crypto import ticket as ticket_file
from agent.crypto.certificates import InvalidCertificate, read_certificate
from agent.crypto.certification_path import MAX_SIGNATURES, check_certificate
from agent.crypto.public_keys import AnyPublicKey
from agent.crypto.signatures import ED25519, KeyKind
from agent.crypto.ticket import InvalidTicket, TicketState, open_ticket, seal_ticket
from agent.ike.events import IkeSaEstablished, Redirected
from agent.ike.redirect import RedirectClient, leads_astray
from agent.wire.codes import IdType, NotifyType
from agent.wire.der import SEQUENCE, content_of, encode_element, read_elements
from agent.wire.distinguished_name import comparable, encode_name, name_text
from agent.wire.errors import WireError
from agent.wire.identity import Identification
from agent.wire.message import decode_message, encode_message, encode_payloads
from agent.wire.payloads import CertPayload, NoncePayload, NotifyPayload
from agent.wire.text import MAX_TEXT
from tests.fuzz.der import altered
from tests.fuzz.mutate import mutated
from tests.support.attacker import outputs_of
from tests.support.certificates import AT, IPSEC_IKE, Issued, issue, signed_as
from tests.support.exchanges import connecting, payloads_of, sealed
from tests.support.feature_scenes import REQUESTS
from tests.support.pair import A_TO_B, seeded
from tests.unit.crypto.test_ticket import KEY, NOW, STATE

# Nothing here but the seeds of the tests is random: Ed25519 signs the same in every run.
ROOT = issue("fuzz root", kind=KeyKind.ED25519)
SUB = issue("fuzz sub", ROOT, ca=True, kind=KeyKind.ED25519)
NAMES = ("bob@example.org", "gw.example.org", "192.0.2.7", "2001:db8::7")


def _with_rsa(issued: Issued) -> Issued:
    """The same certificate for an RSA key that nobody has."""
    modulus = int.from_bytes(seeded("modulus")(256), "big") | 1 << 2047 | 1
    spki = (
        RSAPublicNumbers(65537, modulus)
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    signed, _, _ = read_elements(content_of(issued.der, SEQUENCE))
    parts = [part.octets for part in read_elements(signed.content)]
    parts[6] = spki
    der = encode_element(SEQUENCE, encode_element(SEQUENCE, *parts), ED25519.algorithm, b"\3\1\0")
    return signed_as(Issued(issued.name, issued.kind, der), SUB, ED25519)


LEAVES = [
    issue("bob", SUB, names=NAMES, kind=kind, purposes=(IPSEC_IKE,))
    for kind in (KeyKind.P256, KeyKind.ED25519)
]
LEAVES.append(_with_rsa(LEAVES[0]))
BOB = Identification.parse("bob@example.org")
CORPUS = [ROOT.der, SUB.der, *(leaf.der for leaf in LEAVES)]


def _any_der(source: random.Random) -> bytes:
    seed = source.choice(CORPUS)
    return altered(source, seed) if source.random() < 0.7 else mutated(source, seed)


def test_any_octets_are_a_certificate_or_one_kind_of_error():
    source = random.Random(30)
    said: set[str] = set()
    read = 0
    for _ in range(6000):
        der = _any_der(source)
        try:
            certificate = read_certificate(der)
        except InvalidCertificate as error:
            said.add(str(error))
            continue
        read += 1
        assert certificate.name.isascii()
        assert certificate.name.isprintable()
        assert len(certificate.name) <= MAX_TEXT
        assert len(repr(certificate)) < 1000
    assert read > 100
    assert len(said) > 3
    assert all(_is_sentence(text) for text in said)


def _is_sentence(text: str) -> bool:
    return text.isprintable() and 0 < len(text) < 500


@settings(max_examples=500)
@given(st.binary(max_size=300))
def test_any_octets_are_elements_a_key_and_a_certificate_or_their_errors(data):
    with suppress(WireError):
        assert b"".join(e.octets for e in read_elements(data)) == data
    with suppress(ValueError):
        AnyPublicKey(data)
    with suppress(InvalidCertificate):
        read_certificate(data)


def test_any_chain_costs_a_dozen_signatures_and_proves_the_true_key_or_nothing(monkeypatch):
    source = random.Random(31)
    verified = []
    real = AnyPublicKey.verify_as

    def counted(key: AnyPublicKey, *arguments: object) -> bool:
        verified.append(key)
        return real(key, *arguments)

    monkeypatch.setattr(AnyPublicKey, "verify_as", counted)
    keys = {leaf.certificate.public_key for leaf in LEAVES}
    said: set[str] = set()
    good = 0
    for _ in range(1200):
        chain = []
        for _ in range(source.randrange(1, 8)):
            with suppress(InvalidCertificate):
                der = source.choice(CORPUS) if source.random() < 0.6 else _any_der(source)
                chain.append(read_certificate(der))
        if not chain:
            continue
        verified.clear()
        try:
            check_certificate(chain[0], chain[1:], [ROOT.certificate], BOB, AT)
        except InvalidCertificate as error:
            said.add(str(error))
        else:
            good += 1
            assert chain[0].public_key in keys
        assert len(verified) <= MAX_SIGNATURES
    assert good > 20
    assert len(said) > 3
    assert all(_is_sentence(text) for text in said)


def test_any_certificates_in_ike_auth_have_one_answer_and_establish_nobody():
    source = random.Random(32)
    scene = REQUESTS[0]
    assert "certificates" in scene.name
    for _ in range(500):
        pair, true = scene.start()
        message, cipher = payloads_of(pair, true)
        payloads = [
            replace(p, data=altered(source, p.data)) if isinstance(p, CertPayload) else p
            for p in message.payloads
        ]
        if payloads == list(message.payloads):
            continue
        data = sealed(message, cipher, *encode_payloads(payloads))
        pair.b.ike.receive(true.arriving, data, pair.now)
        pair.drain()
        assert [d.sender for d in pair.pending] == [pair.b]
        assert not pair.b.events(IkeSaEstablished)
        assert len(pair.b.ike) == 0


def test_any_name_is_one_line_and_the_same_as_itself():
    source = random.Random(33)
    seeds = [encode_name(text) for text in ("C=CH, O=Ex, CN=bob", "CN=a, OU=b, OU=c, DC=x, E=a@b")]
    for _ in range(4000):
        seed = source.choice(seeds)
        data = altered(source, seed) if source.random() < 0.7 else mutated(source, seed)
        identity = Identification(IdType.ID_DER_ASN1_DN, data)
        assert identity.text == name_text(data)
        assert identity.text.isascii()
        assert identity.text.isprintable()
        assert len(identity.text) <= MAX_TEXT
        assert comparable(comparable(data)) == comparable(data)
        assert identity.matches(Identification(IdType.ID_DER_ASN1_DN, comparable(data)))


def test_any_change_of_a_ticket_is_refused():
    source = random.Random(34)
    random_octets = seeded("fuzz tickets")
    for _ in range(2500):
        ticket = seal_ticket(KEY, STATE, random_octets)
        bad = mutated(source, ticket)
        try:
            assert open_ticket([KEY], bad, NOW) == STATE
        except InvalidTicket:
            continue
        assert bad == ticket


def test_whatever_is_sealed_in_a_ticket_is_a_state_or_the_one_error():
    """As another version of us, or one whose memory failed, could have made it."""
    source = random.Random(35)
    seed = ticket_file._encode(STATE)
    read = 0
    for number in range(3000):
        content = mutated(source, seed)
        salt = number.to_bytes(32, "big")
        head = ticket_file._HEAD.pack(ticket_file.VERSION, KEY.id, salt)
        cipher, iv = ticket_file._cipher(KEY, salt)
        try:
            state = open_ticket([KEY], head + cipher.seal(iv, content, head), NOW)
        except InvalidTicket:
            continue
        assert isinstance(state, TicketState)
        assert state.chosen.protocol
        read += 1
    assert read > 100


def test_any_redirect_in_any_place_leads_to_one_place_at_most_and_harms_nobody():
    """In IKE_SA_INIT with our nonce, where nobody is proven: the attempt goes on."""
    source = random.Random(36)
    followed = 0
    for number in range(1500):
        pair, true = connecting(0)()
        (sa,) = pair.a.ike.sas()
        sa.extensions = (*sa.extensions, RedirectClient())
        asked = decode_message(true.data)
        nonce = asked.first(NoncePayload)
        assert nonce is not None
        header = asked.header._replace(is_initiator=False, is_response=True)
        gateway = source.choice((b"\1\4\xcb\0\x71\x09", b"\2\x10" + bytes(16), b"\3\7gw.test"))
        for _ in range(3):
            data = mutated(source, gateway, times=2) + nonce.data
            notify = NotifyPayload(NotifyType.REDIRECT, data)
            pair.a.ike.receive(A_TO_B, encode_message(header, [notify]), pair.now)
        places = [o.gateway for o in outputs_of(pair.a) if isinstance(o, Redirected)]
        assert len(places) <= 1
        for place in places:
            followed += 1
            assert place.host.isascii()
            assert place.host.isprintable()
            if place.ip is not None:
                assert isinstance(leads_astray(place.ip, A_TO_B.remote.ip), bool)
        if number % 10 == 0:
            pair.pending.append(true)
            pair.settle()
            assert pair.a.sa.established
            assert pair.a.sa.path == A_TO_B
    assert followed > 300
