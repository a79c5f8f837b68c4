"""Ed25519 keys as text, as files and as what is derived from them."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

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

SEED = bytes(range(32))
KEY = SigningKey(SEED)

# https://www.rfc-editor.org/rfc/rfc8410 section 10.1 and 10.3: the same private key without and
# with its public half, and the public key.
RFC8410_PUBLIC = b"""-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
"""
RFC8410_PRIVATE = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
"""
RFC8410_PRIVATE_V2 = b"""-----BEGIN PRIVATE KEY-----
MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
oB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrB
Z9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PRIVATE KEY-----
"""


def test_rfc8410():
    key = load_private_key(RFC8410_PRIVATE)
    public = load_public_key(RFC8410_PUBLIC)
    assert key.public == public.raw
    assert key.pem() == RFC8410_PRIVATE
    assert public.pem() == RFC8410_PUBLIC
    assert load_private_key(RFC8410_PRIVATE_V2).public == public.raw


@given(seed=st.binary(min_size=32, max_size=32))
def test_our_files_are_what_others_write(seed):
    key = SigningKey(seed)
    theirs = Ed25519PrivateKey.from_private_bytes(seed)
    assert key.pem() == theirs.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    assert key.public_key().pem() == theirs.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert load_private_key(key.pem()).seed == load_private_key(seed).seed == seed
    for form in (key.public_key().pem(), key.public, key_text(key.public).encode() + b"\n"):
        assert load_public_key(form) == key.public_key()


def test_keys_in_der():
    theirs = Ed25519PrivateKey.from_private_bytes(SEED)
    der = theirs.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    assert load_private_key(der).public == KEY.public
    der = theirs.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert load_public_key(der).raw == KEY.public


def x25519_pem() -> bytes:
    return x25519.X25519PrivateKey.from_private_bytes(SEED).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def encrypted_pem() -> bytes:
    return Ed25519PrivateKey.from_private_bytes(SEED).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * 31,
        b"x" * 33,
        b"x" * 48,
        b"x" * 20000,
        RFC8410_PUBLIC,
        RFC8410_PRIVATE[:-30],
        RFC8410_PRIVATE.replace(b"MC4", b"M"),
        b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n",
        RFC8410_PRIVATE + b"\n" * 20000,
        bytes.fromhex("302e020102300506032b657004220420") + SEED,  # a version that nobody defined
        bytes.fromhex("302e020100300506032b657004220420") + SEED + b"\0",
        x25519_pem(),
        encrypted_pem(),
    ],
)
def test_what_is_no_private_key(data):
    with pytest.raises(InvalidKey) as caught:
        load_private_key(data)
    assert "1HV" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize(
    "data", [b"", b"x" * 31, b"\xff" * 43, b"x" * 44, RFC8410_PRIVATE, RFC8410_PUBLIC[:40]]
)
def test_what_is_no_public_key(data):
    with pytest.raises(InvalidKey):
        load_public_key(data)


@given(data=st.binary(max_size=120))
def test_no_octets_raise_anything_else(data):
    for load in (load_private_key, load_public_key):
        try:
            load(data)
        except InvalidKey:
            continue
        assert len(data.strip()) in (43, 44) or len(data) in (32, 48)


@given(raw=st.binary(min_size=32, max_size=32))
def test_key_text_is_base64url(raw):
    text = key_text(raw)
    assert text == base64.urlsafe_b64encode(raw).decode().rstrip("=")
    assert len(text) == 43
    assert parse_key_text(text) == parse_key_text(f" {text}\n") == raw


@given(text=st.text(max_size=60))
def test_any_other_text_is_refused(text):
    try:
        raw = parse_key_text(text)
    except InvalidKey:
        return
    assert key_text(raw) == text.strip()  # "000…", which is a key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A" * 42,
        "A" * 44,
        "A" * 42 + "=",
        "A" * 42 + "B",  # the last character has two bits that must be zero
        "A" * 42 + "+",
        "A" * 42 + "/",
        "A" * 42 + "\x00",
        "A" * 42 + "\u00c4",
        "A" * 20 + " " + "A" * 22,
        "A" * 20 + "!!!" + "A" * 20,
        "A" * 40 + "===",
    ],
)
def test_texts_that_are_nearly_keys(text):
    with pytest.raises(InvalidKey):
        parse_key_text(text)


# Points of small order, by adding them up here with the formulas of RFC 8032 §5.1.4.

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def add(a, b):
    (x1, y1), (x2, y2) = a, b
    product = D * x1 * x2 * y1 * y2 % P
    x3 = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P
    y3 = (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P
    return x3, y3


def small_order_points():
    """All multiples of a point of order 8: of (2^252 + ...) times the base point's curve mates."""
    order = 2**252 + 27742317777372353535851937790883648493
    y = 2
    while True:
        y += 1
        xx = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        x = pow(xx, (P + 3) // 8, P)
        if (x * x - xx) % P:
            x = x * pow(2, (P - 1) // 4, P) % P
        if (x * x - xx) % P:
            continue
        point, total, n = (x, y), (0, 1), order
        while n:
            if n & 1:
                total = add(total, point)
            point, n = add(point, point), n >> 1
        multiples, at = [], (0, 1)
        for _ in range(8):
            multiples.append(at)
            at = add(at, total)
        if len(set(multiples)) == 8:
            return multiples


def test_keys_of_small_order_are_refused():
    """Under such a key anybody can make a signature; nobody may be pinned to it."""
    seen = set()
    for _x, y in small_order_points():
        for value in (y, y + P):  # also written beyond the prime
            if value >= 1 << 255:
                continue
            for sign in (0, 1 << 255):
                raw = (value | sign).to_bytes(32, "little")
                seen.add(raw)
                with pytest.raises(InvalidKey, match="small order"):
                    PublicKey(raw)
                with pytest.raises(InvalidKey):
                    load_public_key(raw)
    assert len(seen) == 14


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_keys_of_other_lengths(length):
    with pytest.raises(InvalidKey):
        PublicKey(b"\x05" * length)
    with pytest.raises(InvalidKey):
        SigningKey(b"\x05" * length)


def test_a_key_that_is_no_point_verifies_nothing():
    assert not PublicKey(b"\x02" + bytes(31)).verify(b"", bytes(64))


def test_public_keys_are_values():
    assert KEY.public_key() == PublicKey(KEY.public)
    assert len({KEY.public_key(), PublicKey(KEY.public)}) == 1
    assert KEY.public_key() != PublicKey(b"\x05" * 32)
    assert KEY.public_key() != KEY.public
    assert str(KEY.public_key()) == key_text(KEY.public)


def test_a_signing_key_does_not_show_itself():
    for text in (repr(KEY), str(KEY), f"{KEY}"):
        assert key_text(KEY.public) in text
        assert SEED.hex() not in text
        assert key_text(SEED) not in text
        assert "\\x01" not in text
    assert not hasattr(KEY, "__dict__")


def test_generate_takes_its_octets_from_the_source():
    assert SigningKey.generate(lambda n: SEED[:n]).public == KEY.public


def test_derived_keys_are_independent():
    one, two = SigningKey.derive(SEED, "identity"), SigningKey.derive(SEED, "mediation")
    assert one.public == SigningKey.derive(SEED, "identity").public
    assert len({one.public, two.public, KEY.public}) == 3
    assert SigningKey.derive(SEED[:16], "identity").public != one.public
    with pytest.raises(InvalidKey):
        SigningKey.derive(SEED[:15], "identity")


def test_inner_address():
    address = inner_address(KEY.public)
    digest = hashlib.sha256(b"hearthgate address" + KEY.public).digest()
    assert address == b"\xfd" + digest[:15]
    assert len(address) == 16


def test_pseudonym_hash():
    assert len(pseudonym_hash(b"a")) == 16
    assert pseudonym_hash(b"a") == hashlib.sha256(b"hearthgate pseudonyma").digest()[:16]
