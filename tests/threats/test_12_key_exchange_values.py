"""THREATS 12: public values that are none are refused, and the refusal costs always the same."""

from __future__ import annotations

import sys

import pytest

from agent.crypto.kex import generate_key_exchange, supports_group
from agent.wire.codes import ExchangeType
from agent.wire.message import Header, encode_message
from agent.wire.payloads import (
    KePayload,
    NoncePayload,
    SaPayload,
)
from tests.support.attacker import FROM_A, answers_of
from tests.support.pair import (
    ike_proposals,
    make_pair,
    seeded,
)

# Group, its word, octets of its public values.
GROUPS = [
    (31, "x25519", 32),
    (19, "ecp256", 64),
    (20, "ecp384", 96),
    (21, "ecp521", 132),
    (14, "modp2048", 256),
    (15, "modp3072", 384),
    (16, "modp4096", 512),
]


@pytest.mark.parametrize("bad", ["zeros", "one", "ones", "short", "long", "empty", "another"])
@pytest.mark.parametrize(("group", "word", "size"), GROUPS)
def test_bad_public_values(group: int, word: str, size: int, bad: str) -> None:
    """THREATS 12, for each group: zero, of low order, beyond the prime or off the curve."""
    public = {
        "zeros": bytes(size),
        "one": b"\1" + bytes(31) if word == "x25519" else bytes(size - 1) + b"\1",
        "ones": b"\xff" * size if word != "x25519" else b"\xec" + b"\xff" * 30 + b"\x7f",
        "short": b"\5" * (size - 1),
        "long": b"\5" * (size + 1),
        "empty": b"",
        "another": b"\5" * (100 if word != "x25519" else 64),
    }[bad]
    proposals = ike_proposals(f"aes128gcm16-prfsha256-{word}")
    pair = make_pair(ike=(f"aes128gcm16-prfsha256-{word}",))
    header = Header(b"attacker", bytes(8), ExchangeType.IKE_SA_INIT, True, False, 0)
    payloads = [SaPayload(proposals), KePayload(group, public), NoncePayload(b"n" * 32)]
    pair.b.ike.receive(FROM_A, encode_message(header, payloads), pair.now)
    assert answers_of(pair.b) == []
    assert not pair.b.ike._by_spi
    assert not pair.b.ike._current


def _work(word: str, group: int, public: bytes, name: str) -> int:
    """Function calls that the refusal of `public` takes, with this randomness of ours."""
    pair = make_pair(ike=(f"aes128gcm16-prfsha256-{word}",))
    pair.b.ike.random = seeded(name)
    header = Header(b"attacker", bytes(8), ExchangeType.IKE_SA_INIT, True, False, 0)
    sa = SaPayload(ike_proposals(f"aes128gcm16-prfsha256-{word}"))
    data = encode_message(header, [sa, KePayload(group, public), NoncePayload(b"n" * 32)])
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    pair.b.ike.receive(FROM_A, data, pair.now)  # imports and caches
    sys.setprofile(count)
    try:
        pair.b.ike.receive(FROM_A, data, pair.now)
    finally:
        sys.setprofile(None)
    assert answers_of(pair.b) == []
    return calls


@pytest.mark.parametrize(("group", "word", "size"), [g for g in GROUPS if g[1] != "modp4096"])
def test_a_refusal_does_not_hang_on_our_secret(group: int, word: str, size: int) -> None:
    """Whatever our private value is, the same steps are taken for the same bad one.

    (Seconds are not counted here; a key pair drawn anew is the only thing that differs.)
    """
    bad = bytes(size) if word != "x25519" else b"\1" + bytes(31)
    assert len({_work(word, group, bad, name) for name in ("one", "two", "three")}) == 1


@pytest.mark.skipif(not supports_group(36), reason="this cryptography has no ML-KEM")
def test_bad_ml_kem_ciphertexts_look_like_good_ones() -> None:
    """Implicit rejection (FIPS 203 §6.3): no error, another secret; the proof fails, not before."""
    said = set()
    for at in (None, 0, 500, 1087):
        kem = generate_key_exchange(36, seeded("kem"))
        other = generate_key_exchange(36, seeded("other"), answering=True)
        good = other.shared(kem.public)
        ciphertext = bytearray(other.public)
        if at is not None:
            ciphertext[at] ^= 1
        shared = kem.shared(bytes(ciphertext))
        said.add(len(shared))
        assert (shared == good) == (at is None)
    assert said == {32}
