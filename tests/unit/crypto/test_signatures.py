"""Signatures of RFC 7427 and RFC 4754: published encodings and vectors, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, padding, rsa

from agent.crypto.auth import (
    InvalidKey,
    SigningKey,
    encode_signature_auth,
    scheme_of_auth,
    sign_auth,
    verify_signature_auth,
)
from agent.crypto.public_keys import (
    MAX_SPKI,
    AnyPublicKey,
    PrivateKey,
    load_any_private_key,
    load_pem_public_key,
)
from agent.crypto.signatures import (
    ANNOUNCED,
    ANNOUNCEMENT,
    ECDSA,
    ED25519,
    RSA_PKCS1,
    RSA_PSS,
    SCHEMES,
    KeyKind,
    choose,
    decode_announcement,
    scheme_of,
)
from agent.wire.codes import AuthMethod, HashId
from agent.wire.der import encode_element
from tests.support.keys import private_key
from tests.support.vectors import vector_json, wycheproof

KINDS = list(KeyKind)


# https://www.rfc-editor.org/rfc/rfc7427 appendix A.1 and A.3, RFC 8420 appendix A
@pytest.mark.parametrize(
    ("scheme", "octets"),
    [
        (RSA_PKCS1[0], "300d06092a864886f70d01010b0500"),
        (RSA_PKCS1[1], "300d06092a864886f70d01010c0500"),
        (RSA_PKCS1[2], "300d06092a864886f70d01010d0500"),
        (ECDSA[0], "300a06082a8648ce3d040302"),
        (ECDSA[1], "300a06082a8648ce3d040303"),
        (ECDSA[2], "300a06082a8648ce3d040304"),
        (ED25519, "300506032b6570"),
        # DER leaves the default trailer field out, as OpenSSL does.
        (
            RSA_PSS[0],
            "304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f7"
            "0d010108300d06096086480165030402010500a203020120",
        ),
    ],
)
def test_algorithm_identifiers(scheme, octets):
    assert scheme.algorithm.hex() == octets
    assert scheme_of(bytes.fromhex(octets)) is scheme


# https://www.rfc-editor.org/rfc/rfc7427 appendix A.4.3, with the trailer field said
def test_rsa_pss_as_the_rfc_prints_it():
    octets = (
        "3046 0609 2a86 4886 f70d 0101 0a30 39a0 0f30 0d06 0960 8648 0165 0304 0201 0500"
        "a11c 301a 0609 2a86 4886 f70d 0101 0830 0d06 0960 8648 0165 0304 0201 0500 a203"
        "0201 20a3 0302 0101"
    )
    assert scheme_of(bytes.fromhex(octets)) is RSA_PSS[0]


def test_null_parameters_may_be_left_out():
    """RFC 4055 §5 for PKCS #1 v1.5, §2.1 for each of the two hashes of RSASSA-PSS."""
    for scheme in RSA_PKCS1:
        bare = b"\x30\x0b" + scheme.algorithm[2:-2]
        assert scheme_of(bare) is scheme
    sha256 = "0609608648016503040201"
    one, none = "300d" + sha256 + "0500", "300b" + sha256
    of_mask = "06092a864886f70d010108"
    for first, second in ((one, one), (one, none), (none, one), (none, none)):
        mask = of_mask + second
        parts = f"a0{len(first) // 2:02x}{first}"
        parts += f"a1{len(mask) // 2 + 2:02x}30{len(mask) // 2:02x}{mask}a203020120"
        body = f"06092a864886f70d01010a30{len(parts) // 2:02x}{parts}"
        assert scheme_of(bytes.fromhex(f"30{len(body) // 2:02x}{body}")) is RSA_PSS[0]


# The same, A.1.1, A.2.1, A.2.2, A.3.1, A.4.1, A.4.2: SHA-1 or DSA
@pytest.mark.parametrize(
    "octets",
    [
        "300d06092a864886f70d0101050500",
        "300906072a8648ce380403",
        "300b0609608648016503040302",
        "300906072a8648ce3d0401",
        "300d06092a864886f70d01010a3000",
        "303e06092a864886f70d01010a3031a00b300906052b0e03021a0500a118301606092a864886f70d010108"
        "300906052b0e03021a0500a203020114a303020101",
        # RSA with parameters that are not NULL, ECDSA and Ed25519 with NULL, something behind it
        "300d06092a864886f70d01010b3000",
        "300c06082a8648ce3d0403020500",
        "300706032b65700500",
        "300506032b657000",
        "",
    ],
)
def test_what_is_not_known(octets):
    assert scheme_of(bytes.fromhex(octets)) is None


def test_pss_salt_and_mask_are_of_the_hash():
    """A.4.3 with a salt of 20 octets, or MGF1 with another hash than the message's."""
    good = RSA_PSS[0].algorithm
    assert scheme_of(good.replace(bytes.fromhex("020120"), bytes.fromhex("020114"))) is None
    sha256, sha384 = "608648016503040201", "608648016503040202"
    head, tail = good.hex().rsplit(sha256, 1)
    other = bytes.fromhex(head + sha384 + tail)
    assert scheme_of(other) is None


def test_every_hash_is_announced_and_sha1_is_not():
    assert {scheme.hash for scheme in SCHEMES} == set(ANNOUNCED)
    assert HashId.SHA1 not in ANNOUNCED
    assert ANNOUNCEMENT.hex() == "0002000300040005"
    assert decode_announcement(ANNOUNCEMENT) == set(ANNOUNCED)
    assert decode_announcement(b"\0\2\0") == {2}
    assert decode_announcement(b"") == frozenset()


@pytest.mark.parametrize(
    ("kind", "hashes_", "expected"),
    [
        (KeyKind.P256, {2, 3, 4, 5}, ECDSA[0]),
        (KeyKind.P384, {2, 3, 4, 5}, ECDSA[1]),
        (KeyKind.P521, {2, 3, 4, 5}, ECDSA[2]),
        (KeyKind.P384, {2, 4}, ECDSA[2]),
        (KeyKind.P521, {1, 2}, ECDSA[0]),
        (KeyKind.RSA, {2, 3, 4, 5}, RSA_PSS[0]),
        (KeyKind.RSA, {1, 4}, RSA_PSS[2]),
        (KeyKind.ED25519, {2, 5}, ED25519),
        (KeyKind.ED25519, {2, 3, 4}, None),
        (KeyKind.RSA, {1, 5}, None),
        (KeyKind.P256, {1, 5}, None),
        (KeyKind.P256, set(), None),
    ],
)
def test_the_choice_is_among_what_the_peer_announced(kind, hashes_, expected):
    assert choose(kind, frozenset(hashes_)) is expected


def test_rsa_follows_who_has_pkcs1_only():
    assert choose(KeyKind.RSA, frozenset({3, 4}), like=RSA_PKCS1[0]) is RSA_PKCS1[1]
    assert choose(KeyKind.RSA, frozenset({3, 4}), like=RSA_PSS[0]) is RSA_PSS[1]
    assert choose(KeyKind.RSA, frozenset({2}), like=ECDSA[0]) is RSA_PSS[0]
    assert choose(KeyKind.P256, frozenset({2}), like=RSA_PKCS1[0]) is ECDSA[0]


# -- published vectors ---------------------------------------------------------------------------

VECTORS = [
    ("ecdsa_secp256r1_sha256", ECDSA[0], 484),
    ("rsa_pss_2048_sha256_mgf1_32", RSA_PSS[0], 108),
    ("rsa_signature_2048_sha256", RSA_PKCS1[0], 259),
]


# https://github.com/C2SP/wycheproof testvectors_v1
@pytest.mark.parametrize(("name", "scheme", "count"), VECTORS, ids=[v[0] for v in VECTORS])
def test_wycheproof(name, scheme, count):
    done = 0
    for group, v in wycheproof(name):
        done += 1
        key = AnyPublicKey(bytes.fromhex(group["publicKeyDer"]))
        assert load_pem_public_key(group["publicKeyPem"].encode()) == key
        message, signature = bytes.fromhex(v["msg"]), bytes.fromhex(v["sig"])
        # "acceptable" is a DigestInfo without NULL (RFC 8017 §9.2 wants it): not taken.
        good = v["result"] == "valid"
        assert key.verify_as(scheme, message, signature) is good, v["tcId"]
        data = encode_signature_auth(signature, scheme.algorithm)
        assert verify_signature_auth(key, message, data) is good, v["tcId"]
    assert done == count


# https://android.googlesource.com/platform/frameworks/opt/net/ike IkeAuthDigitalSignPayloadTest
def test_aosp_names_sha256_with_rsa():
    v = vector_json("aosp-ike/aosp_hex_constants.json")["IkeAuthDigitalSignPayloadTest"]
    data = bytes.fromhex(v["AUTH_PAYLOAD_BODY_GENERIC_DIGITAL_SIGN_HEX_STRING"])[4:]
    assert scheme_of_auth(data) is RSA_PKCS1[0]


# strongswan_auth.txt says where it comes from
STRONGSWAN = [
    line.split()
    for line in (Path(__file__).parent / "strongswan_auth.txt").read_text().splitlines()
    if not line.startswith("#")
]
SPOKEN = {
    "ECDSA_WITH_SHA256_DER": ECDSA[0],
    "ECDSA_WITH_SHA384_DER": ECDSA[1],
    "ECDSA_WITH_SHA512_DER": ECDSA[2],
    "RSA_EMSA_PSS_SHA2_256_SALT_32": RSA_PSS[0],
    "RSA_EMSA_PKCS1_SHA2_256": RSA_PKCS1[0],
}


@pytest.mark.parametrize("vector", STRONGSWAN, ids=[vector[0] for vector in STRONGSWAN])
def test_strongswan(vector):
    name, method = vector[0], int(vector[2])
    spki, octets, data = (bytes.fromhex(vector[at]) for at in (1, 3, 4))
    key = AnyPublicKey(spki)
    other = octets[:-1] + bytes((octets[-1] ^ 1,))
    if method == AuthMethod.DIGITAL_SIGNATURE:
        assert scheme_of_auth(data) is SPOKEN[name]
        assert verify_signature_auth(key, octets, data)
        assert not verify_signature_auth(key, other, data)
    else:
        assert key.verify_legacy(method, octets, data)
        assert not key.verify_legacy(method, other, data)
        assert not verify_signature_auth(key, octets, data)


# -- all kinds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_signed_verifies_and_nothing_else(kind):
    key, other = private_key(kind), private_key(kind, "other")
    public = AnyPublicKey(key.spki)
    for scheme in (s for s in SCHEMES if s.fits(kind)):
        data = sign_auth(key, b"octets", scheme)
        assert data[1 : 1 + data[0]] == scheme.algorithm
        assert verify_signature_auth(public, b"octets", data)
        assert not verify_signature_auth(public, b"octetz", data)
        assert not verify_signature_auth(AnyPublicKey(other.spki), b"octets", data)
        for end in (0, 1, len(scheme.algorithm), len(scheme.algorithm) + 1, len(data) - 1):
            assert not verify_signature_auth(public, b"octets", data[:end])
        flipped = bytearray(data)
        flipped[-5] ^= 1
        assert not verify_signature_auth(public, b"octets", bytes(flipped))
        # The same signature under another name.
        for alien in SCHEMES:
            if alien is not scheme:
                renamed = encode_signature_auth(data[1 + data[0] :], alien.algorithm)
                assert not verify_signature_auth(public, b"octets", renamed)


def test_sha1_never():
    """A good signature with SHA-1, under its own name and under those of SHA-2."""
    key = rsa.generate_private_key(65537, 2048)
    signature = key.sign(b"octets", padding.PKCS1v15(), hashes.SHA1())
    public = AnyPublicKey(PrivateKey(key).spki)
    sha1 = bytes.fromhex("300d06092a864886f70d0101050500")
    for algorithm in (sha1, *(s.algorithm for s in RSA_PKCS1)):
        data = encode_signature_auth(signature, algorithm)
        assert not verify_signature_auth(public, b"octets", data)


@pytest.mark.parametrize(
    ("kind", "method", "size"),
    [
        (KeyKind.P256, AuthMethod.ECDSA_SHA256_P256, 64),
        (KeyKind.P384, AuthMethod.ECDSA_SHA384_P384, 96),
        (KeyKind.P521, AuthMethod.ECDSA_SHA512_P521, 132),
    ],
)
def test_rfc_4754(kind, method, size):
    key = private_key(kind)
    public = AnyPublicKey(key.spki)
    signed = key.sign_legacy(b"octets")
    assert signed is not None
    assert signed[0] == method
    signature = signed[1]
    assert len(signature) == size
    assert public.verify_legacy(method, b"octets", signature)
    assert not public.verify_legacy(method, b"octetz", signature)
    assert not public.verify_legacy(method, b"octets", bytes(size))
    assert not public.verify_legacy(method, b"octets", signature[:-1])
    assert not public.verify_legacy(method, b"octets", b"\0" + signature + b"\0")
    r, s = signature[: size // 2], signature[size // 2 :]
    assert not public.verify_legacy(method, b"octets", b"\0" + r + b"\0" + s)  # one form only
    for wrong in (1, 2, 3, 9, 10, 11, 14):
        assert public.verify_legacy(wrong, b"octets", signature) is (wrong == method)


# https://www.rfc-editor.org/rfc/rfc4754 section 8.1 (ECDSA-256; the private key w is printed there)
def test_rfc_4754_ecdsa_256():
    w = "DC51D3866A15BACDE33D96F992FCA99DA7E6EF0934E7097559C27F1614C88A7F"
    r = "CB28E0999B9C7715FD0A80D8E47A77079716CBBF917DD72E97566EA1C066957C"
    s = "86FA3BB4E26CAD5BF90B7F81899256CE7594BB1EA0C89212748BFF3B3D5B0315"
    key = PrivateKey(ec.derive_private_key(int(w, 16), ec.SECP256R1()))
    public = AnyPublicKey(key.spki)
    signature = bytes.fromhex(r + s)
    assert public.verify_legacy(AuthMethod.ECDSA_SHA256_P256, b"abc", signature)
    assert not public.verify_legacy(AuthMethod.ECDSA_SHA256_P256, b"abd", signature)


@pytest.mark.parametrize("kind", [KeyKind.RSA, KeyKind.ED25519])
def test_there_is_no_older_method(kind):
    key = private_key(kind)
    assert key.sign_legacy(b"x") is None
    for method in range(16):
        assert not AnyPublicKey(key.spki).verify_legacy(method, b"x", bytes(256))


def test_both_ed25519_classes_agree():
    seed = bytes(range(32))
    ours = SigningKey(seed)
    other = load_any_private_key(ours.pem())
    assert ours.spki == other.spki == ours.public_key().spki
    assert ours.sign_as(ED25519, b"x") == other.sign_as(ED25519, b"x")
    for key in (ours.public_key(), AnyPublicKey(ours.spki)):
        assert verify_signature_auth(key, b"x", sign_auth(other, b"x"))
    assert not ours.public_key().verify_as(ECDSA[0], b"x", ours.sign(b"x"))


# -- what is no key ------------------------------------------------------------------------------


def _pem(key, form=serialization.PrivateFormat.PKCS8, password=None) -> bytes:
    hidden = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    return key.private_bytes(serialization.Encoding.PEM, form, hidden)


def _spki(key, **more) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _rsa_spki(exponent: int, modulus: int = 0) -> bytes:
    """A key of RSA with any numbers, which no library makes."""
    modulus = modulus or private_key(KeyKind.RSA)._key.public_key().public_numbers().n
    numbers = [
        encode_element(2, number.to_bytes(number.bit_length() // 8 + 1, "big"))
        for number in (modulus, exponent)
    ]
    rsa_encryption = bytes.fromhex("300d06092a864886f70d0101010500")
    bits = encode_element(3, b"\0", encode_element(0x30, *numbers))
    return encode_element(0x30, rsa_encryption, bits)


P256 = ec.derive_private_key(5, ec.SECP256R1())


@pytest.mark.parametrize("form", ["TraditionalOpenSSL", "PKCS8"])
def test_older_forms_of_files(form):
    for key in (P256, rsa.generate_private_key(65537, 2048)):
        loaded = load_any_private_key(_pem(key, getattr(serialization.PrivateFormat, form)))
        assert loaded.spki == _spki(key)
        assert "sha256=" in repr(loaded)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: _pem(rsa.generate_private_key(65537, 1024)), "1024 bits is too weak: 2048"),
        (lambda: _pem(ec.derive_private_key(5, ec.SECP256K1())), "P-256, P-384"),
        (lambda: _pem(ed448.Ed448PrivateKey.generate()), "P-256, P-384"),
        (lambda: _pem(P256, password=b"secret"), "needs a password"),
        (lambda: b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no private"),
        (lambda: b"nothing", "no private key in PEM"),
        (lambda: b"", "no private key in PEM"),
        (lambda: bytes(20000), "too long"),
    ],
)
def test_private_keys_that_are_not_taken(make, sentence):
    with pytest.raises(InvalidKey, match=sentence) as caught:
        load_any_private_key(make())
    assert str(caught.value).isprintable()


def test_public_keys_that_are_not_taken():
    good = _spki(P256)
    assert AnyPublicKey(good).kind is KeyKind.P256
    assert AnyPublicKey(_rsa_spki(65537)).kind is KeyKind.RSA
    point = P256.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    )
    compressed = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point
    of_pss = AnyPublicKey(private_key(KeyKind.RSA).spki).spki.replace(
        bytes.fromhex("300d06092a864886f70d0101010500"),
        bytes.fromhex("300d06092a864886f70d01010a0500"),
    )
    low_order = bytes.fromhex("302a300506032b6570032100") + bytes(32)
    small = _spki(rsa.generate_private_key(65537, 1024))
    off_curve = good[:-1] + bytes((good[-1] ^ 1,))
    bad = (
        *map(_rsa_spki, (0, 1, 2, 65536)),  # cryptography 38 loads these
        compressed,
        of_pss,
        low_order,
        small,
        off_curve,
        good + b"\0",
        good[:-1],
        b"",
        bytes(5000),
    )
    for octets in bad:
        with pytest.raises(InvalidKey) as caught:
            AnyPublicKey(octets)
        assert str(caught.value).isprintable()
    serialization.load_der_public_key(compressed)  # the library would take it


def test_a_modulus_that_takes_long():
    """The largest is taken; one with more bits is not, however short its octets are."""
    assert AnyPublicKey(_rsa_spki(65537, (1 << 8191) + 1)).kind is KeyKind.RSA
    with pytest.raises(InvalidKey, match="takes too long"):
        AnyPublicKey(_rsa_spki(65537, (1 << 8192) + 1))
    with pytest.raises(InvalidKey, match="too long for a public key"):
        AnyPublicKey(_rsa_spki(65537, (1 << 8 * MAX_SPKI) + 1))


def test_an_exponent_that_takes_long():
    n = rsa.generate_private_key(65537, 2048).public_key().public_numbers().n
    octets = rsa.RSAPublicNumbers((1 << 40) + 1, n).public_key()
    spki = octets.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with pytest.raises(InvalidKey, match="takes too long"):
        AnyPublicKey(spki)


def test_files_of_public_keys():
    pem = P256.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert load_pem_public_key(pem) == load_pem_public_key(_spki(P256)) == AnyPublicKey(_spki(P256))
    assert hash(load_pem_public_key(pem)) == hash(AnyPublicKey(_spki(P256)))
    for wrong, sentence in (
        (_pem(P256), "BEGIN PUBLIC KEY"),
        (pem.replace(b"M", b"*"), "damaged|no public key"),
        (pem[:60], "damaged|no public key"),
        (bytes(20000), "too long"),
    ):
        with pytest.raises(InvalidKey, match=sentence):
            load_pem_public_key(wrong)
