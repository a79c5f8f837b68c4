"""ML-KEM against published vectors: keys from seeds, decapsulation, keys that are none.

What wants to choose the randomness of encapsulation, or has an expanded private key without its
seed, cannot be run: the cryptography package takes neither.
"""

from __future__ import annotations

import pytest

from agent.crypto import kem
from agent.crypto.kex import (
    InvalidKeyExchange,
    UnsupportedGroup,
    generate_key_exchange,
    public_length,
    supports_group,
)
from agent.wire.codes import KeyExchangeId
from tests.support.vectors import vector_json, wycheproof

GROUPS = {"ML-KEM-768": KeyExchangeId.ML_KEM_768, "ML-KEM-1024": KeyExchangeId.ML_KEM_1024}

needs_kem = pytest.mark.skipif(not kem.is_there(), reason="this cryptography has no ML-KEM")


def from_seed(group: int, seed: str) -> kem.Decapsulation:
    made = generate_key_exchange(group, lambda n: bytes.fromhex(seed)[:n])
    assert isinstance(made, kem.Decapsulation)
    return made


@needs_kem
@pytest.mark.parametrize("name", GROUPS)
def test_both_halves(name: str) -> None:
    group = GROUPS[name]
    ours = from_seed(group, "07" * 64)
    theirs = generate_key_exchange(group, lambda n: b"", answering=True)
    assert theirs.public == b""
    secret = theirs.shared(ours.public)
    assert ours.shared(theirs.public) == secret
    assert len(secret) == 32
    assert len(ours.public) == public_length(group)
    again = generate_key_exchange(group, lambda n: b"", answering=True)
    assert again.shared(ours.public) != secret


@needs_kem
def test_acvp_keys() -> None:
    """https://github.com/usnistgov/ACVP-Server gen-val/json-files/ML-KEM-keyGen-FIPS203"""
    count = 0
    for group in vector_json("acvp/ML-KEM-keyGen-FIPS203.internalProjection.json.gz")["testGroups"]:
        if (number := GROUPS.get(group["parameterSet"])) is None:
            continue
        for case in group["tests"]:
            ours = from_seed(number, case["d"] + case["z"])
            assert ours.public.hex().upper() == case["ek"]
            count += 1
    assert count == 50


@needs_kem
def test_acvp_encapsulation_keys() -> None:
    """https://github.com/usnistgov/ACVP-Server gen-val/json-files/ML-KEM-encapDecap-FIPS203"""
    file = "acvp/ML-KEM-encapDecap-FIPS203.internalProjection.json.gz"
    seen = {True: 0, False: 0}
    for group in vector_json(file)["testGroups"]:
        number = GROUPS.get(group["parameterSet"])
        if number is None or group["function"] != "encapsulationKeyCheck":
            continue
        for case in group["tests"]:
            theirs = generate_key_exchange(number, lambda n: b"", answering=True)
            seen[case["testPassed"]] += 1
            if case["testPassed"]:
                theirs.shared(bytes.fromhex(case["ek"]))
            else:
                with pytest.raises(InvalidKeyExchange):
                    theirs.shared(bytes.fromhex(case["ek"]))
    assert min(seen.values()) > 3


@needs_kem
@pytest.mark.parametrize("name", GROUPS)
def test_wycheproof(name: str) -> None:
    """https://github.com/C2SP/wycheproof testvectors_v1/mlkem_*_test.json"""
    results = set()
    for _, case in wycheproof(f"mlkem_{name.removeprefix('ML-KEM-')}"):
        if len(case["seed"]) != 2 * kem.SEED_LENGTH:
            continue  # ours are always that long
        ours = from_seed(GROUPS[name], case["seed"])
        results.add(case["result"])
        if case["result"] == "valid":
            assert ours.public.hex() == case["ek"]
            assert ours.shared(bytes.fromhex(case["c"])).hex() == case["K"]
        else:
            with pytest.raises(InvalidKeyExchange):
                ours.shared(bytes.fromhex(case["c"]))
    assert results == {"valid", "invalid"}


@needs_kem
def test_wycheproof_keys_from_seeds() -> None:
    """https://github.com/C2SP/wycheproof testvectors_v1/mlkem_768_keygen_seed_test.json"""
    cases = list(wycheproof("mlkem_768_keygen_seed"))
    for _, case in cases:
        assert from_seed(KeyExchangeId.ML_KEM_768, case["seed"]).public.hex() == case["ek"]
    assert len(cases) == 100


@needs_kem
def test_wycheproof_encapsulation_keys() -> None:
    """https://github.com/C2SP/wycheproof testvectors_v1/mlkem_768_encaps_test.json"""
    results = set()
    for _, case in wycheproof("mlkem_768_encaps"):
        theirs = generate_key_exchange(KeyExchangeId.ML_KEM_768, lambda n: b"", answering=True)
        results.add(case["result"])
        if case["result"] == "valid":
            theirs.shared(bytes.fromhex(case["ek"]))
            assert len(theirs.public) == 1088
        else:
            with pytest.raises(InvalidKeyExchange):
                theirs.shared(bytes.fromhex(case["ek"]))
    assert results == {"valid", "invalid"}


@needs_kem
@pytest.mark.parametrize("name", GROUPS)
def test_every_other_length_is_refused(name: str) -> None:
    group = GROUPS[name]
    ours = from_seed(group, "01" * 64)
    theirs = generate_key_exchange(group, lambda n: b"", answering=True)
    theirs.shared(ours.public)
    for length in (0, 1, 31, 1087, 1089, 1183, 1185, 1567, 1569, 65535):
        with pytest.raises(InvalidKeyExchange):
            theirs.shared(bytes(length))
        with pytest.raises(InvalidKeyExchange):
            ours.shared(bytes(length))


@needs_kem
def test_a_ciphertext_that_was_changed_gives_another_secret() -> None:
    """FIPS 203 §6.3: implicit rejection."""
    ours = from_seed(KeyExchangeId.ML_KEM_768, "01" * 64)
    theirs = generate_key_exchange(KeyExchangeId.ML_KEM_768, lambda n: b"", answering=True)
    secret = theirs.shared(ours.public)
    changed = theirs.public[:-1] + bytes((theirs.public[-1] ^ 1,))
    assert ours.shared(changed) != secret
    assert ours.shared(changed) == ours.shared(changed)


def test_a_package_without_ml_kem(monkeypatch) -> None:
    def none() -> None:
        raise ImportError

    monkeypatch.setattr(kem, "_makers", none)
    kem.is_there.cache_clear()
    try:
        assert not supports_group(KeyExchangeId.ML_KEM_768)
        with pytest.raises(UnsupportedGroup):
            generate_key_exchange(KeyExchangeId.ML_KEM_768, bytes)
        with pytest.raises(UnsupportedGroup):
            generate_key_exchange(KeyExchangeId.ML_KEM_768, bytes, answering=True)
    finally:
        monkeypatch.undo()
        kem.is_there.cache_clear()
    assert not supports_group(KeyExchangeId.ML_KEM_512)


@needs_kem
def test_the_public_constructors_do_the_same() -> None:
    """For a version whose inside looks different."""
    for group, (private, public) in kem._public_makers().items():
        key = private(b"\7" * 64)
        encoded = key.public_key().public_bytes_raw()
        assert encoded == from_seed(group, "07" * 64).public
        secret, ciphertext = public(encoded).encapsulate()
        assert key.decapsulate(ciphertext) == secret
