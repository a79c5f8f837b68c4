"""X25519, ECP, MODP: vectors, and THREATS.md 12 (values that give a secret away)."""

from __future__ import annotations

import random as random_module
import sys
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.crypto import kex
from agent.crypto.kex import (
    InvalidKeyExchange,
    UnsupportedGroup,
    generate_key_exchange,
    public_length,
    supports_group,
)
from agent.crypto.modp import MODP_2048 as ROW_2048
from agent.crypto.modp import MODP_3072 as ROW_3072
from agent.crypto.modp import MODP_4096 as ROW_4096
from agent.wire.codes import KeyExchangeId
from tests.support.vectors import vector_json, wycheproof

X25519 = KeyExchangeId.CURVE25519
ECP_256 = KeyExchangeId.ECP_256
MODP_2048 = KeyExchangeId.MODP_2048
ECPS = [ECP_256, KeyExchangeId.ECP_384, KeyExchangeId.ECP_521]
ECP_SIZE = dict(zip(ECPS, (32, 48, 66), strict=True))
MODPS = {
    MODP_2048: (ROW_2048, 124476),
    KeyExchangeId.MODP_3072: (ROW_3072, 1690314),
    KeyExchangeId.MODP_4096: (ROW_4096, 240904),
}
MODP_2048_PRIME = ROW_2048.prime
GROUPS = [X25519, *ECPS, *MODPS]
SECRET = {
    X25519: 32,
    **ECP_SIZE,
    **{g: row.prime.bit_length() // 8 for g, (row, _) in MODPS.items()},
}
ecps = pytest.mark.parametrize("group", ECPS, ids=lambda g: g.name)
modps = pytest.mark.parametrize("group", MODPS, ids=lambda g: g.name)
groups = pytest.mark.parametrize("group", GROUPS, ids=lambda g: g.name)

P_256 = 2**256 - 2**224 + 2**192 + 2**96 - 1
P_256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def giving(*octets: bytes):
    """A random source that gives these strings, each for a request of its length, and no more."""
    left = list(octets)

    def draw(count: int) -> bytes:
        value = left.pop(0)
        assert len(value) == count
        return value

    return draw


def seeded(seed: int):
    return random_module.Random(seed).randbytes


@groups
@settings(deadline=None, max_examples=10)
@given(i=st.integers(0, 2**32), r=st.integers(0, 2**32))
def test_both_sides_agree(group, i, r):
    ours = generate_key_exchange(group, seeded(i))
    theirs = generate_key_exchange(group, seeded(r))
    secret = ours.shared(theirs.public)
    assert secret == theirs.shared(ours.public)
    assert ours.group == group
    assert len(ours.public) == public_length(group)
    assert len(secret) == SECRET[group]


@groups
def test_the_same_octets_give_the_same_key(group):
    first, second, other = (generate_key_exchange(group, seeded(s)) for s in (1, 1, 2))
    assert first.public == second.public != other.public


@groups
def test_nothing_private_is_shown(group):
    ours = generate_key_exchange(group, lambda n: bytes(range(1, n + 1)))
    assert bytes(range(1, 9)).hex() not in repr(ours)
    assert not hasattr(ours, "__dict__")


@groups
@settings(deadline=None, max_examples=15)
@given(data=st.binary(max_size=600))
def test_no_octets_raise_anything_else(group, data):
    ours = generate_key_exchange(group, seeded(0))
    for public in (data, data.ljust(public_length(group), b"\1")[: public_length(group)]):
        try:
            assert len(ours.shared(public)) == SECRET[group]
        except InvalidKeyExchange:
            continue
        assert len(public) == public_length(group)


@groups
def test_every_other_length_is_refused(group):
    """THREATS.md 12."""
    ours = generate_key_exchange(group, seeded(0))
    public = generate_key_exchange(group, seeded(1)).public
    for wrong in (b"", public[:-1], public + b"\0", b"\0" + public, public[1:], b"\4" + public):
        with pytest.raises(InvalidKeyExchange):
            ours.shared(wrong)


# X25519


# https://www.rfc-editor.org/rfc/rfc8031 appendix A. Its fixed values are printed before clamping.
def test_rfc8031():
    v = {
        k: bytes.fromhex(x)
        for k, x in vector_json("rfc/rfc_vectors.json")["rfc8031_x25519"].items()
    }
    ours = generate_key_exchange(X25519, giving(v["random_i"]))
    theirs = generate_key_exchange(X25519, giving(v["random_r"]))
    assert (ours.public, theirs.public) == (v["pub_i"], v["pub_r"])
    assert ours.shared(theirs.public) == theirs.shared(ours.public) == v["shared"]


# https://github.com/C2SP/wycheproof testvectors_v1/x25519_test.json
def test_wycheproof_x25519():
    refused = 0
    for _group, v in wycheproof("x25519"):
        ours = generate_key_exchange(X25519, giving(bytes.fromhex(v["private"])))
        if "ZeroSharedSecret" in v["flags"]:
            refused += 1
            with pytest.raises(InvalidKeyExchange):
                ours.shared(bytes.fromhex(v["public"]))
        else:
            assert ours.shared(bytes.fromhex(v["public"])).hex() == v["shared"], v["tcId"]
    assert refused > 10


# https://github.com/usnistgov/ACVP-Server gen-val/json-files/XECDH-SSC-RFC7748
def test_acvp_x25519():
    done = 0
    for group in vector_json("acvp/XECDH-SSC-RFC7748.internalProjection.json.gz")["testGroups"]:
        if group["curve"] != "Curve25519":
            continue
        for v in group["tests"]:
            z = v.get("z") or v["hashZ"]
            ours = generate_key_exchange(X25519, giving(bytes.fromhex(v["privateServer"])))
            assert ours.public == bytes.fromhex(v["publicServer"])
            try:
                secret = ours.shared(bytes.fromhex(v["publicIut"])).hex().upper()
            except InvalidKeyExchange:
                secret = ""
            assert (secret == z) is v["testPassed"], v["tcId"]
            done += 1
    assert done >= 20


# https://cr.yp.to/ecdh.html, "How do I validate Curve25519 public keys?": the points of order 1, 2,
# 4 and 8 of the curve and its twist, and the same beyond the prime.
LOW_ORDER = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize("top_bit", [0, 0x80])  # RFC 7748 §5: masked
@pytest.mark.parametrize("public", LOW_ORDER)
def test_x25519_of_low_order(public, top_bit):
    """THREATS.md 12."""
    octets = bytes.fromhex(public)
    octets = octets[:31] + bytes((octets[31] | top_bit,))
    for seed in range(3):
        with pytest.raises(InvalidKeyExchange):
            generate_key_exchange(X25519, seeded(seed)).shared(octets)


# ECP


# https://www.rfc-editor.org/rfc/rfc5903 section 8.1 to 8.3
def test_rfc5903():
    done = []
    for v in vector_json("rfc/rfc_vectors.json")["rfc5903_ecp_ke"]:
        group = KeyExchangeId(v["group"])
        done.append(group)
        size = ECP_SIZE[group]
        i, r = (bytes.fromhex(v[k]).rjust(size, b"\0") for k in "ir")
        ours = generate_key_exchange(group, giving(i))
        theirs = generate_key_exchange(group, giving(r))
        assert ours.public.hex() == v["gix"] + v["giy"] == v["KEi_payload"][16:]
        assert theirs.public.hex() == v["grx"] + v["gry"] == v["KEr_payload"][16:]
        assert ours.shared(theirs.public).hex() == theirs.shared(ours.public).hex() == v["girx"]
    assert done == ECPS


# https://github.com/C2SP/wycheproof testvectors_v1/ecdh_secp256r1_ecpoint_test.json, 384, 521
@ecps
def test_wycheproof_ecp(group):
    agreed = refused = 0
    size = ECP_SIZE[group]
    bits = group.name.removeprefix("ECP_")
    for _group, v in wycheproof(f"ecdh_secp{bits}r1_ecpoint"):
        private = bytes.fromhex(v["private"])[-size:].rjust(size, b"\0")
        public = bytes.fromhex(v["public"])
        ours = generate_key_exchange(group, giving(private))
        if v["result"] == "valid":
            agreed += 1
            assert public[0] == 4
            assert ours.shared(public[1:]).hex() == v["shared"], v["tcId"]
        elif public[:1] != b"\4" or len(public) != 1 + 2 * size:
            continue  # compressed forms and other lengths, which IKE cannot express
        else:
            refused += 1
            with pytest.raises(InvalidKeyExchange):
                ours.shared(public[1:])
    assert agreed > 200
    assert refused > 10


@ecps
def test_the_order_of_a_curve(group):
    """order - 1 is a private value, order and 0 are drawn again: the constant is right."""
    order = kex._ECP[group][1]
    size = ECP_SIZE[group]
    last, zero, none = (n.to_bytes(size, "big") for n in (order - 1, 0, order))
    ours = generate_key_exchange(group, giving(none, zero, last))
    one = generate_key_exchange(group, giving((1).to_bytes(size, "big")))
    # (order - 1) G = -G: the same x as G, the other y.
    assert ours.public[:size] == one.public[:size]
    assert ours.public[size:] != one.public[size:]


@given(x=st.integers(0, 2**256 - 1), y=st.integers(0, 2**256 - 1))
def test_ecp_off_the_curve(x, y):
    """THREATS.md 12, RFC 6989 §2.3."""
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    on_curve = x < P_256 and y < P_256 and (y * y - x * x * x + 3 * x - b) % P_256 == 0
    assert not on_curve  # one in 2^256
    ours = generate_key_exchange(ECP_256, seeded(0))
    with pytest.raises(InvalidKeyExchange):
        ours.shared(x.to_bytes(32, "big") + y.to_bytes(32, "big"))


def test_ecp_coordinates_beyond_the_prime():
    """THREATS.md 12: the same point written with x + p is not accepted."""
    ours = generate_key_exchange(ECP_256, seeded(0))
    b_root = 0x66485C780E2F83D72433BD5D84A06BB6541C2AF31DAE871728BF856A174F93F4  # y of x = 0
    for x in (0, P_256):
        public = x.to_bytes(32, "big") + b_root.to_bytes(32, "big")
        if x == 0:
            assert len(ours.shared(public)) == 32
        else:
            with pytest.raises(InvalidKeyExchange):
                ours.shared(public)
    with pytest.raises(InvalidKeyExchange):
        ours.shared(bytes(64))  # what some write for the point at infinity


def test_ecp_scalars_out_of_range_are_drawn_again():
    low, high = bytes(32), P_256_ORDER.to_bytes(32, "big")
    least = (1).to_bytes(32, "big")
    ours = generate_key_exchange(ECP_256, giving(low, high, b"\xff" * 32, least))
    assert ours.public == generate_key_exchange(ECP_256, giving(least)).public


def test_a_broken_random_source_does_not_hang():
    draws = 0

    def zeros(count: int) -> bytes:
        nonlocal draws
        draws += 1
        return bytes(count)

    with pytest.raises(RuntimeError, match="random"):
        generate_key_exchange(ECP_256, zeros)
    assert draws == kex.MAX_SCALAR_DRAWS


# MODP-2048


def arctan_of_inverse(x: int, one: int) -> int:
    """one * arctan(1/x), by its series."""
    total = term = one // x
    n, sign = 1, 1
    while term:
        term //= x * x
        n, sign = n + 2, -sign
        total += sign * (term // n)
    return total


# https://www.rfc-editor.org/rfc/rfc3526 sections 3 to 5 define the primes by the digits of pi.
@modps
def test_the_primes_are_those_of_rfc3526(group):
    row, addend = MODPS[group]
    bits = row.prime.bit_length()
    one = 1 << (bits - 130 + 64)
    pi = 4 * (4 * arctan_of_inverse(5, one) - arctan_of_inverse(239, one)) >> 64
    assert 2**bits - 2 ** (bits - 64) - 1 + 2**64 * (pi + addend) == row.prime


@modps
def test_exponents_are_twice_as_long_as_the_strength(group):
    """NIST SP 800-57 part 1, table 2, and interpolated as in FIPS 140 IG 7.5 for 4096."""
    strength = {2048: 112, 3072: 128, 4096: 152}[MODPS[group][0].prime.bit_length()]
    assert MODPS[group][0].exponent_length * 8 > 2 * strength


@modps
@settings(deadline=None, max_examples=5)
@given(data=st.data())
def test_modp_is_modular_exponentiation(group, data):
    """Against Python's own arithmetic, the octets of the exponent with its top bit set."""
    row = MODPS[group][0]
    size, octets = row.prime.bit_length() // 8, row.exponent_length
    i, r = (data.draw(st.binary(min_size=octets, max_size=octets)) for _ in "ir")
    a, b = (int.from_bytes(x, "big") | 1 << octets * 8 - 1 for x in (i, r))
    ours = generate_key_exchange(group, giving(i))
    assert int.from_bytes(ours.public, "big") == pow(2, a, row.prime)
    theirs = pow(2, b, row.prime)
    secret = ours.shared(theirs.to_bytes(size, "big"))
    assert int.from_bytes(secret, "big") == pow(theirs, a, row.prime)
    assert len(secret) == size


def test_modp_keeps_leading_zeros():
    """RFC 7296 §2.14: g^ir is as long as the prime. One secret in 256 begins with a zero."""
    ours = generate_key_exchange(MODP_2048, giving(bytes(32)))
    a = 1 << 255
    value = next(
        v
        for v in (pow(2, e, MODP_2048_PRIME) for e in range(2048, 9999))
        if pow(v, a, MODP_2048_PRIME) >> 2040 == 0
    )
    secret = ours.shared(value.to_bytes(256, "big"))
    assert secret[0] == 0
    assert len(secret) == 256


@modps
@pytest.mark.parametrize("value", ["0", "1", "p-1", "p", "p+1", "all ones"])
def test_modp_values_that_fix_the_secret(group, value):
    """THREATS.md 12, RFC 6989 §2.1."""
    p = MODPS[group][0].prime
    bits = p.bit_length()
    number = {"0": 0, "1": 1, "p-1": p - 1, "p": p, "p+1": p + 1, "all ones": 2**bits - 1}[value]
    ours = generate_key_exchange(group, seeded(0))
    with pytest.raises(InvalidKeyExchange):
        ours.shared(number.to_bytes(bits // 8, "big"))


def test_modp_does_not_warn():
    """Newer versions of cryptography warn that these groups will go; a user can do nothing."""
    kex._dh.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate_key_exchange(MODP_2048, seeded(0)).shared(
            generate_key_exchange(MODP_2048, seeded(1)).public
        )


def test_a_cryptography_without_finite_fields(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.dh", None)
    kex._dh.cache_clear()
    assert not supports_group(MODP_2048)
    assert supports_group(X25519)
    with pytest.raises(UnsupportedGroup, match="no group 14"):
        generate_key_exchange(MODP_2048, seeded(0))


def test_groups_that_are_not_offered():
    for group in (0, 1, 2, 5, 22, 23, 24, 65535):  # RFC 8247 §2.4
        assert not supports_group(group)
        with pytest.raises(UnsupportedGroup):
            generate_key_exchange(group, seeded(0))
        with pytest.raises(UnsupportedGroup):
            public_length(group)
    assert all(supports_group(group) for group in GROUPS)
