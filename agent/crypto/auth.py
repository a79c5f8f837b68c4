"""The AUTH payload and the keys behind it: RFC 7296 §2.15, RFC 7427, RFC 8420 (Ed25519).

    InitiatorSignedOctets = RealMessage1 | NonceRData | prf(SK_pi, RestOfInitIDPayload)
    PSK      AUTH = prf( prf(Shared Secret, "Key Pad for IKEv2"), <SignedOctets> )
    Ed25519  AUTH = length | AlgorithmIdentifier | signature over <SignedOctets> (not over a hash)

Each side signs its own first message, the *other* side's nonce and its own ID payload body (ID
type, three zero octets, identification; no generic header). How keys are stored and written is in
`keys`. Left out here: certificates, RSA, ECDSA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from agent.crypto.digest import bytes_eq
from agent.crypto.keys import (
    InvalidKey,
    PublicKey,
    SigningKey,
    inner_address,
    key_text,
    load_private_key,
    load_public_key,
    parse_key_text,
    pseudonym_hash,
)

if TYPE_CHECKING:
    from agent.crypto.algorithms import Prf

__all__ = [
    "ED25519_ALGORITHM",
    "InvalidAuthData",
    "InvalidKey",
    "PublicKey",
    "SignatureAuth",
    "SigningKey",
    "auth_octets",
    "decode_signature_auth",
    "encode_signature_auth",
    "inner_address",
    "key_text",
    "load_private_key",
    "load_public_key",
    "parse_key_text",
    "pseudonym_hash",
    "psk_auth",
    "sign_auth",
    "verify_psk_auth",
    "verify_signature_auth",
]

KEY_PAD: Final = b"Key Pad for IKEv2"

# RFC 8420 appendix A: SEQUENCE { OID 1.3.101.112 }, no parameters.
ED25519_ALGORITHM: Final = bytes.fromhex("300506032b6570")


class InvalidAuthData(ValueError):
    """Authentication data of a Digital Signature AUTH payload that cannot be taken apart."""


class SignatureAuth(NamedTuple):
    """What a Digital Signature AUTH payload holds (RFC 7427 §3)."""

    algorithm: bytes
    """DER AlgorithmIdentifier as it was sent."""
    signature: bytes


def auth_octets(message: bytes, nonce: bytes, prf: Prf, sk_p: bytes, id_body: bytes) -> bytes:
    """What a side signs: its first `message`, the peer's `nonce`, its `id_body` under `sk_p`."""
    return message + nonce + prf(sk_p, id_body)


def psk_auth(prf: Prf, psk: bytes, octets: bytes) -> bytes:
    """Authentication data of Shared Key Message Integrity Code."""
    return prf(prf(psk, KEY_PAD), octets)


def verify_psk_auth(prf: Prf, psk: bytes, octets: bytes, data: bytes) -> bool:
    """Whether `data` proves the pre-shared key; in constant time. Cannot fail."""
    return bytes_eq(psk_auth(prf, psk, octets), data)


def encode_signature_auth(signature: bytes, algorithm: bytes = ED25519_ALGORITHM) -> bytes:
    """Authentication data of a Digital Signature AUTH payload."""
    return bytes((len(algorithm),)) + algorithm + signature


def decode_signature_auth(data: bytes) -> SignatureAuth:
    """The inverse of `encode_signature_auth`. Raises InvalidAuthData, for any octets."""
    end = 1 + data[0] if data else 0
    if end <= 1 or len(data) <= end:
        raise InvalidAuthData("algorithm or signature missing")
    return SignatureAuth(data[1:end], data[end:])


def sign_auth(key: SigningKey, octets: bytes) -> bytes:
    """Authentication data that proves `key`."""
    return encode_signature_auth(key.sign(octets))


def verify_signature_auth(key: PublicKey, octets: bytes, data: bytes) -> bool:
    """Whether `data` proves that the peer has `key`. Cannot fail, whatever the octets are."""
    try:
        auth = decode_signature_auth(data)
    except InvalidAuthData:
        return False
    return auth.algorithm == ED25519_ALGORITHM and key.verify(octets, auth.signature)
