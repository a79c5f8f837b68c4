"""PRF, prf+ and all key derivations of RFC 7296 §2.13 to §2.18, against published vectors."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from agent.crypto.algorithms import Prf, UnsupportedAlgorithm, make_prf, prf_plus, supports_prf
from agent.crypto.keymat import (
    child_keymat,
    derive_child_keys,
    derive_ike_keys,
    rekeyed_skeyseed,
    skeyseed,
)
from agent.wire.codes import PrfId
from tests.support.vectors import rsp_cases, vector_json, vector_octets, wycheproof

SHA2_256 = PrfId.PRF_HMAC_SHA2_256
SHA2 = {
    "256": SHA2_256,
    "384": PrfId.PRF_HMAC_SHA2_384,
    "512": PrfId.PRF_HMAC_SHA2_512,
}

# SHA-1 and SHA-224 have no row; the class takes them, so that all published cases can be run.
SHA_1 = Prf(PrfId.PRF_HMAC_SHA1, hashes.SHA1())
CAVP = {
    "SHA-1": SHA_1,
    "SHA-224": Prf(0, hashes.SHA224()),
    **{f"SHA-{bits}": make_prf(prf_id) for bits, prf_id in SHA2.items()},
}


# https://csrc.nist.gov/projects/cryptographic-algorithm-validation-program (SP 800-135, CAVS 12.0)
@pytest.mark.parametrize("name", CAVP)
def test_nist_cavp(name):
    prf = CAVP[name]
    done = 0
    for header, v in rsp_cases(vector_octets("nist-cavp-ikev2/ikev2.rsp.gz").decode()):
        if name not in header:
            continue
        done += 1
        # The file drops leading zeros of g^ir, but those of the group's length belong to it.
        size = -(-int(header["g^ir length"]) // 8) * 2
        ni, nr, spi_i, spi_r = (bytes.fromhex(v[k]) for k in ("Ni", "Nr", "SPIi", "SPIr"))
        shared, again = (bytes.fromhex(v[k].zfill(size)) for k in ("g^ir", "g^ir (new)"))
        dkm, length = bytes.fromhex(v["DKM"]), int(header["Child SA DKM length"]) // 8

        seed = skeyseed(prf, ni + nr, shared)
        assert seed.hex() == v["SKEYSEED"]
        assert prf_plus(prf, seed, ni + nr + spi_i + spi_r, len(dkm)) == dkm
        sk_d = dkm[: prf.length]
        assert child_keymat(prf, sk_d, b"", ni, nr, length).hex() == v["DKM(Child SA)"]
        assert child_keymat(prf, sk_d, again, ni, nr, length).hex() == v["DKM(Child SA D-H)"]
        assert rekeyed_skeyseed(prf, sk_d, again, ni, nr).hex() == v["SKEYSEED(Rekey)"]

        # What is left for the four keys in between; the shortest DKM ends within SK_pr.
        room = max(len(dkm) - 3 * prf.length, 40)
        integ, encr = room // 8, room // 2 - room // 8
        keys = derive_ike_keys(
            prf,
            seed,
            ni=ni,
            nr=nr,
            spi_i=spi_i,
            spi_r=spi_r,
            encr_length=encr,
            integ_length=integ,
        )
        cut = [keys.sk_d, keys.sk_ai, keys.sk_ar, keys.sk_ei, keys.sk_er, keys.sk_pi, keys.sk_pr]
        assert b"".join(cut)[: len(dkm)] == dkm[: sum(map(len, cut))]
        assert [len(k) for k in cut[1:5]] == [integ, integ, encr, encr]
    assert done >= 40


def test_nist_cavp_is_all_there():
    cases = list(rsp_cases(vector_octets("nist-cavp-ikev2/ikev2.rsp.gz").decode()))
    assert len(cases) == 280
    assert all(any(name in header for name in CAVP) for header, _ in cases)


# https://android.googlesource.com/platform/frameworks/opt/net/ike SaRecordTest: HMAC-SHA1, AES-128
def test_aosp_ike_and_child_keys():
    v = vector_json("aosp-ike/aosp_hex_constants.json")["SaRecordTest"]
    v = {k.replace("_HEX_STRING", ""): bytes.fromhex(x) for k, x in v.items()}
    ni, nr = v["IKE_NONCE_INIT"], v["IKE_NONCE_RESP"]
    seed = skeyseed(SHA_1, ni + nr, v["IKE_SHARED_DH_KEY"])
    assert seed == v["IKE_SKEYSEED"]
    keys = derive_ike_keys(
        SHA_1,
        seed,
        ni=ni,
        nr=nr,
        spi_i=v["IKE_INIT_SPI"],
        spi_r=v["IKE_RESP_SPI"],
        encr_length=16,
        integ_length=20,
    )
    assert keys.sk_d == v["IKE_SK_D"]
    assert (keys.sk_ai, keys.sk_ar) == (v["IKE_SK_AUTH_INIT"], v["IKE_SK_AUTH_RESP"])
    assert (keys.sk_ei, keys.sk_er) == (v["IKE_SK_ENCR_INIT"], v["IKE_SK_ENCR_RESP"])
    assert (keys.sk_pi, keys.sk_pr) == (v["IKE_SK_PRF_INIT"], v["IKE_SK_PRF_RESP"])
    child = derive_child_keys(SHA_1, keys.sk_d, ni=ni, nr=nr, encr_length=16, integ_length=20)
    assert child.encr_i == v["FIRST_CHILD_ENCR_INIT"]
    assert child.encr_r == v["FIRST_CHILD_ENCR_RESP"]
    assert child.integ_i == v["FIRST_CHILD_AUTH_INIT"]
    assert child.integ_r == v["FIRST_CHILD_AUTH_RESP"]


# https://www.rfc-editor.org/rfc/rfc4434 section 3, rfc4615 section 4: keys of 16, 10 and 18 octets
@pytest.mark.parametrize(
    ("name", "prf_id"),
    [
        ("rfc4434_aes_xcbc_prf_128", PrfId.PRF_AES128_XCBC),
        ("rfc4615_aes_cmac_prf_128", PrfId.PRF_AES128_CMAC),
    ],
)
def test_prfs_of_aes(name, prf_id):
    prf = make_prf(prf_id)
    lengths = set()
    for v in vector_json("rfc/rfc_vectors.json")[name]:
        key = bytes.fromhex(v["key"])
        lengths.add(len(key))
        assert prf(key, bytes.fromhex(v["message"])).hex() == v["output"]
    assert lengths == {10, 16, 18}
    assert supports_prf(prf_id)
    assert make_prf(prf_id) is prf
    assert prf.length == prf.preferred_key_length == 16


# https://www.rfc-editor.org/rfc/rfc3566 section 4.6: AES-XCBC-MAC with the key 00 01 .. 0f; test
# cases 1 to 7, whose messages are 0, 3, 16, 20, 32, 34 octets counted up and 1,000 zeros.
@pytest.mark.parametrize(
    ("message", "mac"),
    [
        (b"", "75f0251d528ac01c4573dfd584d79f29"),
        (bytes(range(3)), "5b376580ae2f19afe7219ceef172756f"),
        (bytes(range(16)), "d2a246fa349b68a79998a4394ff7a263"),
        (bytes(range(20)), "47f51b4564966215b8985c63055ed308"),
        (bytes(range(32)), "f54f0ec8d2b9f3d36807734bd5283fd4"),
        (bytes(range(34)), "becbb3bccdb518a30677d5481fb6b4d8"),
        (bytes(1000), "f0dafee895db30253761103b5d84528f"),
    ],
)
def test_rfc3566(message, mac):
    assert make_prf(PrfId.PRF_AES128_XCBC)(bytes(range(16)), message).hex() == mac


# https://github.com/C2SP/wycheproof testvectors_v1/aes_cmac_test.json
def test_wycheproof_cmac():
    prf = make_prf(PrfId.PRF_AES128_CMAC)
    done = 0
    for group, v in wycheproof("aes_cmac"):
        if group["keySize"] != 128:
            continue  # other lengths are hashed first
        done += 1
        out = prf(bytes.fromhex(v["key"]), bytes.fromhex(v["msg"]))
        assert out.hex().startswith(v["tag"]) is (v["result"] == "valid"), v["tcId"]
    assert done > 60


def test_nonces_are_cut_for_aes_only():
    """RFC 7296 §2.14: "only the first 64 bits of Ni and the first 64 bits of Nr"."""
    ni, nr = bytes(range(32)), bytes(range(100, 124))
    for prf_id in (PrfId.PRF_AES128_XCBC, PrfId.PRF_AES128_CMAC):
        assert make_prf(prf_id).nonce_key(ni, nr) == ni[:8] + nr[:8]
    assert make_prf(SHA2_256).nonce_key(ni, nr) == ni + nr


# https://www.rfc-editor.org/rfc/rfc4868 section 2.7.1 (PRF) and 2.7.2 (whole outputs)
def test_rfc4868_prf():
    done = 0
    for v in vector_json("rfc/rfc_vectors.json")["rfc4868_prf_auth"]:
        for name, out in v["out"].items():
            bits = name.removeprefix("PRF-HMAC-SHA-")
            if bits in SHA2:
                done += 1
                prf = make_prf(SHA2[bits])
                assert prf(bytes.fromhex(v["key"]), bytes.fromhex(v["data"])).hex() == out
    assert done >= 18


# https://github.com/C2SP/wycheproof testvectors_v1/hmac_sha256_test.json, 384, 512
@pytest.mark.parametrize("bits", SHA2)
def test_wycheproof_hmac(bits):
    prf = make_prf(SHA2[bits])
    done = 0
    for _group, v in wycheproof(f"hmac_sha{bits}"):
        done += 1
        out = prf(bytes.fromhex(v["key"]), bytes.fromhex(v["msg"]))
        assert out.hex().startswith(v["tag"]) is (v["result"] == "valid"), v["tcId"]
    assert done == 174


# https://github.com/C2SP/wycheproof testvectors_v1/hkdf_sha256_test.json: the second half of HKDF
# (RFC 5869 §2.3) is prf+ of RFC 7296, up to its 255th block.
def test_wycheproof_hkdf_expand_is_prf_plus():
    prf = make_prf(SHA2_256)
    refused = 0
    for _group, v in wycheproof("hkdf_sha256"):
        key = prf(bytes.fromhex(v["salt"]) or bytes(32), bytes.fromhex(v["ikm"]))
        if v["result"] == "valid":
            assert prf_plus(prf, key, bytes.fromhex(v["info"]), v["size"]).hex() == v["okm"]
        else:
            refused += 1
            with pytest.raises(ValueError, match="255"):
                prf_plus(prf, key, bytes.fromhex(v["info"]), v["size"])
    assert refused


@pytest.mark.parametrize("bits", SHA2)
def test_prf_lengths(bits):
    prf = make_prf(SHA2[bits])
    assert prf.length == prf.preferred_key_length == int(bits) // 8 == len(prf(b"", b""))
    assert prf.id == SHA2[bits]
    assert make_prf(SHA2[bits]) is prf


def test_prfs_that_are_not_offered():
    for prf_id in (PrfId.PRF_HMAC_MD5, PrfId.PRF_HMAC_SHA1, 0, 65535):
        assert not supports_prf(prf_id)
        with pytest.raises(UnsupportedAlgorithm):
            make_prf(prf_id)
    assert all(supports_prf(prf_id) for prf_id in SHA2.values())


@given(
    bits=st.sampled_from(sorted(SHA2)),
    key=st.binary(max_size=100),
    seed=st.binary(max_size=100),
    length=st.integers(0, 1000),
    shorter=st.integers(0, 1000),
)
def test_a_shorter_prf_plus_is_a_prefix(bits, key, seed, length, shorter):
    prf = make_prf(SHA2[bits])
    out = prf_plus(prf, key, seed, length)
    assert len(out) == length
    assert prf_plus(prf, key, seed, min(shorter, length)) == out[:shorter]


def test_child_keys_in_the_order_of_the_rfc():
    """RFC 7296 §2.17: initiator's before responder's, encryption before integrity."""
    prf = make_prf(SHA2_256)
    keys = derive_child_keys(
        prf, b"d", shared=b"gir", ni=b"i", nr=b"r", encr_length=36, integ_length=32
    )
    material = prf_plus(prf, b"d", b"girir", 136)
    assert keys.encr_i + keys.integ_i + keys.encr_r + keys.integ_r == material
    assert (len(keys.encr_i), len(keys.integ_i)) == (36, 32)


def test_keys_are_not_shown():
    prf = make_prf(SHA2_256)
    ike = derive_ike_keys(
        prf, b"s", ni=b"i", nr=b"r", spi_i=b"1", spi_r=b"2", encr_length=4, integ_length=4
    )
    child = derive_child_keys(prf, ike.sk_d, ni=b"i", nr=b"r", encr_length=4, integ_length=4)
    assert repr(ike) == "IkeKeys()"
    assert repr(child) == "ChildKeys()"
