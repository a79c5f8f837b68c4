"""A small certification authority for tests, with a switch for each thing that can be wrong."""

from __future__ import annotations

import ipaddress
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from agent.crypto.certificates import Certificate, read_certificate
from agent.crypto.signatures import KeyKind
from agent.timers import WallTime
from agent.wire.der import content_of, encode_element, read_elements
from tests.support.keys import private_key, private_key_pem, raw_private_key

if TYPE_CHECKING:
    from agent.crypto.public_keys import PrivateKey
    from agent.crypto.signatures import Scheme

NOW = datetime(2026, 6, 1, tzinfo=UTC)
AT = WallTime(NOW.timestamp(), True)
YEAR = timedelta(days=365)

IPSEC_IKE = "1.3.6.1.5.5.7.3.17"
SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
ANY_PURPOSE = "2.5.29.37.0"

_HASHES = {
    KeyKind.ED25519: None,
    KeyKind.P384: hashes.SHA384(),
    KeyKind.P521: hashes.SHA512(),
}


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    name: str
    kind: KeyKind
    der: bytes = field(repr=False)

    @property
    def key(self) -> PrivateKey:
        """The private key."""
        return private_key(self.kind, self.name)

    @property
    def key_pem(self) -> bytes:
        """The same as a file."""
        return private_key_pem(self.kind, self.name)

    @property
    def certificate(self) -> Certificate:
        """As we read it."""
        return read_certificate(self.der)

    @property
    def pem(self) -> bytes:
        """As a file."""
        return x509.load_der_x509_certificate(self.der).public_bytes(serialization.Encoding.PEM)


def subject(name: str) -> x509.Name:
    """The distinguished name of `name`."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "hearthgate tests"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def subject_text(name: str) -> str:
    """The same as people write it."""
    return f"O=hearthgate tests, CN={name}"


def issue(
    name: str,
    issuer: Issued | None = None,
    *,
    kind: KeyKind = KeyKind.P256,
    issuer_name: str = "",
    ca: bool | None = None,
    path_length: int | None = None,
    usage: tuple[str, ...] | None = None,
    purposes: tuple[str, ...] = (),
    names: tuple[str, ...] = (),
    begins: datetime = NOW - YEAR,
    ends: datetime = NOW + YEAR,
    more: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    hash_algorithm: Any = None,
) -> Issued:
    """A certificate for the key called `name`; without an `issuer` signed by itself, as a CA.

    `issuer_name` replaces what it says about its issuer; `usage`: words of x509.KeyUsage.
    """
    ca = issuer is None if ca is None else ca
    signer = issuer or Issued(name, kind, b"")
    key = raw_private_key(kind, name)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject(name))
        .issuer_name(subject(issuer_name or signer.name))
        .public_key(key.public_key())
        .serial_number(zlib.crc32(f"{name} {signer.name}".encode()) + 1)
        .not_valid_before(begins.replace(tzinfo=None))
        .not_valid_after(ends.replace(tzinfo=None))
    )
    extensions = list(more)
    if ca:
        extensions.append((x509.BasicConstraints(True, path_length), True))
    if usage is None:
        usage = ("key_cert_sign", "crl_sign") if ca else ("digital_signature",)
    if usage:
        extensions.append((_key_usage(usage), True))
    if purposes:
        oids = [x509.ObjectIdentifier(purpose) for purpose in purposes]
        extensions.append((x509.ExtendedKeyUsage(oids), False))
    if names:
        extensions.append((x509.SubjectAlternativeName([_alt_name(n) for n in names]), False))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    algorithm = hash_algorithm or _HASHES.get(signer.kind, hashes.SHA256())
    made = builder.sign(raw_private_key(signer.kind, signer.name), algorithm)
    return Issued(name, kind, made.public_bytes(serialization.Encoding.DER))


def _key_usage(words: tuple[str, ...]) -> x509.KeyUsage:
    all_words = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{word: word in words for word in all_words})


def _alt_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.RFC822Name(text) if "@" in text else x509.DNSName(text)


def signed_as(issued: Issued, issuer: Issued, scheme: Scheme) -> Issued:
    """The same certificate, signed with another algorithm."""
    tbs, _, _ = read_elements(content_of(issued.der, 0x30))
    parts = read_elements(tbs.content)
    octets = [part.octets for part in parts]
    octets[2] = scheme.algorithm
    body = encode_element(0x30, *octets)
    signature = issuer.key.sign_as(scheme, body)
    der = encode_element(0x30, body, scheme.algorithm, encode_element(3, b"\0", signature))
    return Issued(issued.name, issued.kind, der)


def tampered(issued: Issued, old: bytes, new: bytes) -> Issued:
    """The same certificate with some of its octets replaced by as many others."""
    assert len(old) == len(new)
    assert old in issued.der
    return Issued(issued.name, issued.kind, issued.der.replace(old, new))
