"""RSA, ECDSA and Ed25519 keys from PEM files and SubjectPublicKeyInfo: RFC 5280 §4.1.2.7, RFC 5480.

Loads cryptography's serialization, so only where such a key or a certificate is configured; the
Ed25519 keys of this machine and of paired peers need `keys` alone. Taken are RSA from 2048 to 8192
bits, P-256, P-384, P-521 and Ed25519, each in the one encoding that DER has for it. Left out:
encrypted private keys, keys that are limited to RSASSA-PSS, other curves.
"""

from __future__ import annotations

import binascii
from functools import cache
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from agent.crypto.digest import sha256
from agent.crypto.keys import MAX_KEY_FILE, InvalidKey, PublicKey
from agent.crypto.signatures import HASH_LENGTHS, KeyKind, legacy_method
from agent.wire.codes import HashId

if TYPE_CHECKING:
    from agent.crypto.signatures import Scheme

    PrivateHalf = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
    PublicHalf = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

RSA_MINIMUM: Final = 2048  # bits; below it a key counts as weak (RFC 8247 §4.1.2)
RSA_MAXIMUM: Final = 8192  # bits; a peer's key of 16384 would cost milliseconds to verify with
# Exponents above this serve nobody, and verifying takes as long as they are.
RSA_MAXIMUM_EXPONENT: Final = (1 << 32) - 1
MAX_SPKI: Final = 2048  # octets; RSA-8192 has 1058

_CURVES: Final = {
    "secp256r1": KeyKind.P256,
    "secp384r1": KeyKind.P384,
    "secp521r1": KeyKind.P521,
}
_WANTED: Final = "RSA of 2048 bits or more, ECDSA on P-256, P-384 or P-521, or Ed25519 is wanted"


class AnyPublicKey:
    """A public key of any kind that we take, compared by its SubjectPublicKeyInfo."""

    __slots__ = ("_key", "kind", "spki")

    def __init__(self, spki: bytes) -> None:
        """From DER, as it stands in certificates and CERT payloads. Raises InvalidKey."""
        if len(spki) > MAX_SPKI:
            raise InvalidKey("this is too long for a public key")
        try:
            # Numbers that make no key (RSA with an exponent of 1) show in one or in the other,
            # depending on the version of cryptography.
            self.kind, self._key = _checked(serialization.load_der_public_key(spki))
        except InvalidKey:
            raise
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise InvalidKey(f"this is no public key that can be used: {_WANTED}") from None
        if _spki_of(self._key) != spki:
            raise InvalidKey("this public key is not in the encoding that everybody uses")
        if self.kind is KeyKind.ED25519:
            PublicKey(spki[-32:])  # no key of small order
        self.spki = spki

    def verify_as(self, scheme: Scheme, data: bytes, signature: bytes) -> bool:
        """See Verifier. Cannot fail, whatever the octets are."""
        if not scheme.fits(self.kind):
            return False
        key = self._key
        try:
            if isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(signature, data)
            elif isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, data, ec.ECDSA(_hash(scheme.hash)))
            else:
                key.verify(signature, data, _padding(scheme), _hash(scheme.hash))
        except (InvalidSignature, ValueError):
            return False
        return True

    def verify_legacy(self, method: int, data: bytes, signature: bytes) -> bool:
        """See Verifier. Cannot fail, whatever the octets are."""
        legacy = legacy_method(self.kind)
        if legacy is None or legacy[0] != method or len(signature) != 2 * legacy[2]:
            return False
        r, s = (int.from_bytes(half, "big") for half in _halves(signature))
        return self.verify_as(legacy[1], data, encode_dss_signature(r, s))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnyPublicKey) and self.spki == other.spki

    def __hash__(self) -> int:
        return hash(self.spki)

    def __repr__(self) -> str:
        return f"AnyPublicKey({self.kind.value}, sha256={sha256(self.spki).hex()[:16]})"


class PrivateKey:
    """A private key of any kind. Its repr shows the public half's hash."""

    __slots__ = ("_key", "kind", "spki")

    def __init__(self, key: PrivateHalf) -> None:
        """Raises InvalidKey for what we do not take."""
        self.kind, public = _checked(key.public_key())
        self._key = key
        self.spki = _spki_of(public)
        if self.kind is KeyKind.RSA and self.spki != _spki_of(key.public_key()):
            raise InvalidKey("this private key is limited to RSASSA-PSS, which others cannot read")

    def sign_as(self, scheme: Scheme, data: bytes) -> bytes:
        """See Signer."""
        key = self._key
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return key.sign(data)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key.sign(data, ec.ECDSA(_hash(scheme.hash)))
        return key.sign(data, _padding(scheme), _hash(scheme.hash))

    def sign_legacy(self, data: bytes) -> tuple[int, bytes] | None:
        """See Signer."""
        legacy = legacy_method(self.kind)
        if legacy is None:
            return None
        method, scheme, size = legacy
        r, s = decode_dss_signature(self.sign_as(scheme, data))
        return method, r.to_bytes(size, "big") + s.to_bytes(size, "big")

    def __repr__(self) -> str:
        return f"PrivateKey({self.kind.value}, sha256={sha256(self.spki).hex()[:16]})"


def load_pem_public_key(data: bytes) -> AnyPublicKey:
    """From a file with BEGIN PUBLIC KEY, or its DER. Raises InvalidKey."""
    if len(data) > MAX_KEY_FILE:
        raise InvalidKey("this is too long for a key")
    begin, end = b"-----BEGIN PUBLIC KEY-----", b"-----END PUBLIC KEY-----"
    if begin not in data:
        if b"-----BEGIN" in data:
            raise InvalidKey("a PEM file with BEGIN PUBLIC KEY is needed")
        return AnyPublicKey(data)
    try:
        return AnyPublicKey(binascii.a2b_base64(data.partition(begin)[2].partition(end)[0]))
    except binascii.Error:
        raise InvalidKey("the PEM file is damaged") from None


def load_any_private_key(data: bytes) -> PrivateKey:
    """From a PEM file (PKCS #8, or the older forms for RSA and EC). Raises InvalidKey, which

    shows no octets.
    """
    if len(data) > MAX_KEY_FILE:
        raise InvalidKey("this is too long for a key")
    try:
        key = serialization.load_pem_private_key(data, None)
    except TypeError:
        raise InvalidKey("this private key needs a password; store it without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidKey(f"this is no private key in PEM that can be used: {_WANTED}") from None
    if not isinstance(
        key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
    ):
        raise InvalidKey(_WANTED)
    return PrivateKey(key)


def _checked(key: object) -> tuple[KeyKind, PublicHalf]:
    """Raises InvalidKey for kinds and sizes that are not taken.

    What comes back is made anew of its numbers, as older versions of cryptography remember that a
    point was compressed or an RSA key limited to PSS, and would write it so again.
    """
    if isinstance(key, ed25519.Ed25519PublicKey):
        return KeyKind.ED25519, key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name], key.public_numbers().public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise InvalidKey(_WANTED)
    if key.key_size < RSA_MINIMUM:
        raise InvalidKey(
            f"an RSA key of {key.key_size} bits is too weak: {RSA_MINIMUM} or more are wanted"
        )
    if key.key_size > RSA_MAXIMUM or key.public_numbers().e > RSA_MAXIMUM_EXPONENT:
        raise InvalidKey(
            f"an RSA key of {key.key_size} bits with such an exponent takes too long: at most"
            f" {RSA_MAXIMUM} bits and an exponent below 2^32 are wanted"
        )
    return KeyKind.RSA, key.public_numbers().public_key()


def _spki_of(key: PublicHalf) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _halves(data: bytes) -> tuple[bytes, bytes]:
    return data[: len(data) // 2], data[len(data) // 2 :]


@cache
def _hash(hash_id: HashId) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512:
    match hash_id:
        case HashId.SHA2_256:
            return hashes.SHA256()
        case HashId.SHA2_384:
            return hashes.SHA384()
        case _:
            return hashes.SHA512()


def _padding(scheme: Scheme) -> padding.PSS | padding.PKCS1v15:
    if not scheme.is_pss:
        return padding.PKCS1v15()
    return padding.PSS(padding.MGF1(_hash(scheme.hash)), HASH_LENGTHS[scheme.hash])
