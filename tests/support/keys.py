"""Private keys of every kind, each by its name."""

from __future__ import annotations

import hashlib
from functools import cache

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from agent.crypto.public_keys import PrivateKey
from agent.crypto.signatures import KeyKind

_CURVES = {
    KeyKind.P256: ec.SECP256R1,
    KeyKind.P384: ec.SECP384R1,
    KeyKind.P521: ec.SECP521R1,
}


@cache
def raw_private_key(kind: KeyKind, name: str = "") -> PrivateKey:
    """The key called `name` of this kind, as cryptography has it; the same in every run but RSA."""
    if kind is KeyKind.RSA:
        return rsa.generate_private_key(65537, 2048)
    seed = hashlib.sha256(f"{kind.name} {name}".encode()).digest()
    if kind is KeyKind.ED25519:
        return ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    return ec.derive_private_key(int.from_bytes(seed, "big"), _CURVES[kind]())


@cache
def private_key(kind: KeyKind, name: str = "") -> PrivateKey:
    """The same as we have it."""
    return PrivateKey(raw_private_key(kind, name))


def private_key_pem(kind: KeyKind, name: str = "") -> bytes:
    """The same as a file, PKCS #8."""
    return raw_private_key(kind, name).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_key_pem(kind: KeyKind, name: str = "") -> bytes:
    """Its public half as a file, SubjectPublicKeyInfo."""
    public = raw_private_key(kind, name).public_key()
    return public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
