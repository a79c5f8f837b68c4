"""The AUTH payload: RFC 7296 §2.15, RFC 7427, RFC 8420.

    InitiatorSignedOctets = RealMessage1 | NonceRData | prf(SK_pi, RestOfInitIDPayload)
    PSK        AUTH = prf( prf(Shared Secret, "Key Pad for IKEv2"), <SignedOctets> )
    signature  AUTH = length | AlgorithmIdentifier | signature over <SignedOctets>

Each side signs its own first message, the *other* side's nonce and its own ID payload body (ID
type, three zero octets, identification; no generic header). Which signatures there are is in
`signatures`, the keys that make them in `keys` and `public_keys`.
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
from agent.crypto.signatures import ED25519, scheme_of

if TYPE_CHECKING:
    from agent.crypto.algorithms import Prf
    from agent.crypto.signatures import Scheme, Signer, Verifier

__all__ = [
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
    "scheme_of_auth",
    "sign_auth",
    "verify_psk_auth",
    "verify_signature_auth",
]

KEY_PAD: Final = b"Key Pad for IKEv2"


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


def encode_signature_auth(signature: bytes, algorithm: bytes = ED25519.algorithm) -> bytes:
    """Authentication data of a Digital Signature AUTH payload."""
    return bytes((len(algorithm),)) + algorithm + signature


def decode_signature_auth(data: bytes) -> SignatureAuth:
    """The inverse of `encode_signature_auth`. Raises InvalidAuthData, for any octets."""
    end = 1 + data[0] if data else 0
    if end <= 1 or len(data) <= end:
        raise InvalidAuthData("algorithm or signature missing")
    return SignatureAuth(data[1:end], data[end:])


def sign_auth(key: Signer, octets: bytes, scheme: Scheme = ED25519) -> bytes:
    """Authentication data that proves `key`; `scheme` has to fit it."""
    return encode_signature_auth(key.sign_as(scheme, octets), scheme.algorithm)


def scheme_of_auth(data: bytes) -> Scheme | None:
    """The signature algorithm of Authentication data, None if it is none of ours. Cannot fail."""
    try:
        return scheme_of(decode_signature_auth(data).algorithm)
    except InvalidAuthData:
        return None


def verify_signature_auth(key: Verifier, octets: bytes, data: bytes) -> bool:
    """Whether `data` proves that the peer has `key`. Cannot fail, whatever the octets are."""
    scheme = scheme_of_auth(data)
    if scheme is None:
        return False
    return key.verify_as(scheme, octets, decode_signature_auth(data).signature)
