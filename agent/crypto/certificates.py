"""X.509 certificates as values: what of RFC 5280 §4 a certification path is judged by.

The outer structure and its octets (signed part, names, key, AlgorithmIdentifier) are read here,
strictly; extensions and times by cryptography.x509, which is loaded with this module: only where a
certificate is configured. Whether a certificate is to be believed is `certification_path`'s matter.
"""

from __future__ import annotations

import binascii
import re
import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from agent.crypto.digest import sha1
from agent.crypto.keys import InvalidKey
from agent.crypto.public_keys import AnyPublicKey
from agent.records import record
from agent.wire.codes import IdType
from agent.wire.der import SEQUENCE, content_of, read_elements
from agent.wire.errors import WireError
from agent.wire.payloads import Identification

if TYPE_CHECKING:
    from collections.abc import Iterable

    _Extensions = Iterable[x509.Extension[x509.ExtensionType]]

T = TypeVar("T")

# Octets of one certificate: RSA-8192 with a dozen names has 4 kB.
MAX_CERTIFICATE: Final = 8192
# Of a file with certificates: some thirty CAs.
MAX_CERTIFICATE_FILE: Final = 65536
MAX_ALT_NAMES: Final = 64

_BIT_STRING: Final = 0x03
_VERSION: Final = 0xA0
_PEM: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]*)-----END CERTIFICATE-----"
)
# Those that are looked at. Others may stand in a certificate unless they are critical (§4.2).
_HONOURED: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)


class InvalidCertificate(ValueError):
    """A certificate that cannot be read or is not to be believed; the text says why."""


@record(frozen=True, slots=True, repr=False, kw_only=True)
class Certificate:
    """One certificate. Names are DER; times are seconds since 1970, both inclusive.

    `usages` and `purposes` are None where the certificate does not limit itself. `obstacle` names
    what in it cannot be honoured here, so that nothing may be concluded from it.
    """

    der: bytes
    signed: bytes
    algorithm: bytes
    signature: bytes
    subject: Identification
    issuer: Identification
    public_key: AnyPublicKey
    not_before: float
    not_after: float
    alt_names: tuple[Identification, ...]
    is_ca: bool
    path_length: int | None
    usages: frozenset[str] | None
    purposes: frozenset[str] | None
    obstacle: str

    @property
    def name(self) -> str:
        """For people, in one line of printable ASCII."""
        return self.subject.text

    @property
    def is_self_issued(self) -> bool:
        """RFC 5280 §3.2."""
        return self.subject.matches(self.issuer)

    @property
    def authority(self) -> bytes:
        """What CERTREQ names this CA by: SHA-1 of its public key, 20 octets (RFC 7296 §3.7)."""
        return sha1(self.public_key.spki)

    def names(self, identity: Identification) -> bool:
        """Whether it is issued to `identity`: an alternative name of its type, or the subject."""
        if identity.id_type == IdType.ID_DER_ASN1_DN:
            return self.subject.matches(identity)
        return any(name.matches(identity) for name in self.alt_names)

    def __repr__(self) -> str:
        return f"<Certificate {self.name}>"


def date_text(seconds: float) -> str:
    """A day, for people."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def read_certificate(der: bytes) -> Certificate:
    """From DER. Raises InvalidCertificate, for any octets."""
    if len(der) > MAX_CERTIFICATE:
        raise InvalidCertificate("it is too long for a certificate")
    try:
        signed, algorithm, signature = read_elements(content_of(der, SEQUENCE))
        parts = read_elements(content_of(signed.octets, SEQUENCE))
        if parts and parts[0].tag == _VERSION:
            del parts[0]
        _serial, inner, issuer, _validity, subject, spki = parts[:6]
        if inner.octets != algorithm.octets:  # RFC 5280 §4.1.1.2
            raise InvalidCertificate("it names two signature algorithms")
        if signature.tag != _BIT_STRING or signature.content[:1] != b"\0":
            raise InvalidCertificate("it has no signature")
        public_key = AnyPublicKey(spki.octets)
    except InvalidKey as error:
        raise InvalidCertificate(str(error)) from None
    except (WireError, ValueError) as error:
        if isinstance(error, InvalidCertificate):
            raise
        raise InvalidCertificate("it is no X.509 certificate") from None
    not_before, not_after, extensions = _contents(der)
    return Certificate(
        der=der,
        signed=signed.octets,
        algorithm=algorithm.octets,
        signature=signature.content[1:],
        subject=Identification(IdType.ID_DER_ASN1_DN, subject.octets),
        issuer=Identification(IdType.ID_DER_ASN1_DN, issuer.octets),
        public_key=public_key,
        not_before=not_before,
        not_after=not_after,
        alt_names=_alt_names(extensions),
        is_ca=(basic := _extension(extensions, x509.BasicConstraints)) is not None and basic.ca,
        path_length=basic.path_length if basic is not None else None,
        usages=_usages(_extension(extensions, x509.KeyUsage)),
        purposes=_purposes(_extension(extensions, x509.ExtendedKeyUsage)),
        obstacle=_obstacle(extensions),
    )


def load_certificates(data: bytes) -> tuple[Certificate, ...]:
    """All certificates of a PEM file, in their order; at least one. Raises InvalidCertificate."""
    if len(data) > MAX_CERTIFICATE_FILE:
        raise InvalidCertificate("this file is too long for a few certificates")
    found = _PEM.findall(data)
    if not found or data.count(b"-----BEGIN CERTIFICATE-----") != len(found):
        raise InvalidCertificate("a PEM file with BEGIN CERTIFICATE is needed")
    try:
        return tuple(read_certificate(binascii.a2b_base64(body)) for body in found)
    except binascii.Error:
        raise InvalidCertificate("the PEM file is damaged") from None


def _contents(der: bytes) -> tuple[float, float, list[x509.Extension[x509.ExtensionType]]]:
    """Begin, end and extensions. Raises InvalidCertificate."""
    try:
        with warnings.catch_warnings():
            # What the library would rather not read (serial numbers below 1) harms nobody here.
            warnings.simplefilter("ignore")
            certificate = x509.load_der_x509_certificate(der)
            extensions = list(certificate.extensions)
            if hasattr(certificate, "not_valid_before_utc"):
                times = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            else:  # cryptography before 42
                times = (
                    certificate.not_valid_before.replace(tzinfo=UTC),
                    certificate.not_valid_after.replace(tzinfo=UTC),
                )
    except Exception:  # the library has a dozen kinds of them, other ones in each version
        raise InvalidCertificate("it is no X.509 certificate, or damaged") from None
    return times[0].timestamp(), times[1].timestamp(), extensions


def _extension(extensions: _Extensions, kind: type[T]) -> T | None:
    return next((e.value for e in extensions if isinstance(e.value, kind)), None)


def _alt_names(extensions: _Extensions) -> tuple[Identification, ...]:
    """Host names, mail names and addresses; the other kinds are no identities of IKE."""
    names: list[Identification] = []
    extension = _extension(extensions, x509.SubjectAlternativeName)
    for name in list(extension or ())[:MAX_ALT_NAMES]:
        if isinstance(name, x509.DNSName):
            names.append(Identification(IdType.ID_FQDN, name.value.encode()))
        elif isinstance(name, x509.RFC822Name):
            names.append(Identification(IdType.ID_RFC822_ADDR, name.value.encode()))
        elif isinstance(name, x509.IPAddress) and hasattr(name.value, "packed"):
            packed = name.value.packed
            kind = IdType.ID_IPV4_ADDR if len(packed) == 4 else IdType.ID_IPV6_ADDR
            names.append(Identification(kind, packed))
    return tuple(names)


def _usages(usage: x509.KeyUsage | None) -> frozenset[str] | None:
    if usage is None:
        return None
    words = ("digital_signature", "content_commitment", "key_cert_sign")
    return frozenset(word for word in words if getattr(usage, word))


def _purposes(usage: x509.ExtendedKeyUsage | None) -> frozenset[str] | None:
    return frozenset(oid.dotted_string for oid in usage) if usage is not None else None


def _obstacle(extensions: _Extensions) -> str:
    for extension in extensions:
        if extension.oid == ExtensionOID.NAME_CONSTRAINTS:
            return "its names are constrained (nameConstraints), which is not looked at here"
        if extension.critical and extension.oid not in _HONOURED:
            return f"its critical extension {extension.oid.dotted_string} is not known here"
    return ""
