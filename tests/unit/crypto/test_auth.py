"""AUTH by pre-shared key and by Ed25519: published vectors, and what a peer may send instead."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from agent.crypto.algorithms import Prf, make_prf
from agent.crypto.auth import (
    InvalidAuthData,
    InvalidKey,
    PublicKey,
    SignatureAuth,
    SigningKey,
    auth_octets,
    decode_signature_auth,
    encode_signature_auth,
    psk_auth,
    sign_auth,
    verify_psk_auth,
    verify_signature_auth,
)
from agent.crypto.digest import bytes_eq, sha1, sha256
from agent.crypto.signatures import ED25519
from agent.wire.codes import PrfId
from tests.support.vectors import vector_json, wycheproof

PRF = make_prf(PrfId.PRF_HMAC_SHA2_256)
SHA_1 = Prf(PrfId.PRF_HMAC_SHA1, hashes.SHA1())  # for published cases only
KEY = SigningKey(bytes(range(32)))


# https://android.googlesource.com/platform/frameworks/opt/net/ike IkeAuthPskPayloadTest
def test_aosp_psk_auth():
    v = vector_json("aosp-ike/aosp_hex_constants.json")["IkeAuthPskPayloadTest"]
    v = {k.removesuffix("_HEX_STRING"): bytes.fromhex(x) for k, x in v.items()}
    octets = auth_octets(
        v["PSK_IKE_INIT_REQUEST"],
        v["PSK_NONCE_RESP"],
        SHA_1,
        v["PSK_SKP"],
        v["PSK_ID_INITIATOR_PAYLOAD"],
    )
    data = v["PSK_AUTH_PAYLOAD_SIGNATURE"]
    assert psk_auth(SHA_1, v["PSK"], octets) == data
    assert verify_psk_auth(SHA_1, v["PSK"], octets, data)
    assert not verify_psk_auth(SHA_1, v["PSK"] + b"4", octets, data)


# The same source, IkeAuthPayloadTest: the octets that are signed, and prf(SK_pi, ID body)
def test_aosp_signed_octets():
    v = vector_json("aosp-ike/aosp_hex_constants.json")["IkeAuthPayloadTest"]
    v = {k.removesuffix("_HEX_STRING"): bytes.fromhex(x) for k, x in v.items()}
    octets = auth_octets(
        v["PSK_IKE_INIT_REQUEST"], v["PSK_NONCE_RESP"], SHA_1, v["PSK_SKP"], v["PSK_ID_PAYLOAD"]
    )
    assert octets == v["PSK_INIT_SIGNED_OCTETS"]
    assert octets.endswith(v["PSK_SIGNED_OCTETS_APPENDIX"])


# https://www.rfc-editor.org/rfc/rfc8420 section 2, https://www.rfc-editor.org/rfc/rfc7427 section 3
def test_signature_auth_data():
    v = vector_json("rfc/rfc_vectors.json")["rfc8420"]
    assert bytes.fromhex(v["ed25519_algorithm_identifier"]) == ED25519.algorithm
    data = sign_auth(KEY, b"octets")
    assert data[:8].hex() == "07" + v["ed25519_algorithm_identifier"]
    assert len(data) == 8 + 64
    assert verify_signature_auth(KEY.public_key(), b"octets", data)
    assert not verify_signature_auth(KEY.public_key(), b"octetz", data)
    assert not verify_signature_auth(SigningKey(bytes(32)).public_key(), b"octets", data)


# The same AOSP source, IkeAuthDigitalSignPayloadTest: RSA with SHA-256 and 2048 bits
def test_aosp_digital_signature_is_taken_apart():
    v = vector_json("aosp-ike/aosp_hex_constants.json")["IkeAuthDigitalSignPayloadTest"]
    body = bytes.fromhex(v["AUTH_PAYLOAD_BODY_GENERIC_DIGITAL_SIGN_HEX_STRING"])[4:]
    auth = decode_signature_auth(body)
    assert auth.algorithm.hex() == "300d06092a864886f70d01010b0500"
    assert len(auth.signature) == 256
    assert encode_signature_auth(auth.signature, auth.algorithm) == body
    assert not verify_signature_auth(KEY.public_key(), b"", body)


# https://github.com/C2SP/wycheproof testvectors_v1/ed25519_test.json
def test_wycheproof_ed25519():
    done = 0
    for group, v in wycheproof("ed25519"):
        done += 1
        key = PublicKey(bytes.fromhex(group["publicKey"]["pk"]))
        msg, sig = bytes.fromhex(v["msg"]), bytes.fromhex(v["sig"])
        assert key.verify(msg, sig) is (v["result"] == "valid"), v["tcId"]
        data = encode_signature_auth(sig)
        assert verify_signature_auth(key, msg, data) is (v["result"] == "valid")
    assert done == 151


# https://github.com/usnistgov/ACVP-Server gen-val/json-files/EDDSA-SigVer-1.0
def test_acvp_ed25519():
    done = 0
    for group in vector_json("acvp/EDDSA-SigVer-1.0.internalProjection.json.gz")["testGroups"]:
        if group["curve"] != "ED-25519" or group["preHash"]:
            continue
        for v in group["tests"]:
            done += 1
            try:
                key = PublicKey(bytes.fromhex(v["q"]))
            except InvalidKey:
                assert not v["testPassed"]
                continue
            valid = key.verify(bytes.fromhex(v["message"]), bytes.fromhex(v["signature"]))
            assert valid is v["testPassed"], v["tcId"]
    assert done == 5


# https://www.rfc-editor.org/rfc/rfc8032 section 7.1, tests 1 to 3
@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bac"
            "c61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e"
            "458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290"
            "ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ],
)
def test_rfc8032(seed, public, message, signature):
    key = SigningKey.from_seed(bytes.fromhex(seed))
    assert key.public.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert key.public_key().verify(bytes.fromhex(message), bytes.fromhex(signature))


@pytest.mark.parametrize("data", ["", "00", "0001", "01", "0130", "07300506032b6570", "ff" * 64])
def test_auth_data_that_cannot_be_taken_apart(data):
    with pytest.raises(InvalidAuthData):
        decode_signature_auth(bytes.fromhex(data))
    assert not verify_signature_auth(KEY.public_key(), b"octets", bytes.fromhex(data))


@given(data=st.binary(max_size=100))
def test_no_octets_are_taken_for_a_proof(data):
    assert not verify_signature_auth(KEY.public_key(), b"octets", data)
    assert not verify_psk_auth(PRF, b"secret", b"octets", data)
    try:
        auth = decode_signature_auth(data)
    except InvalidAuthData:
        return
    assert encode_signature_auth(auth.signature, auth.algorithm) == data


def test_every_bit_of_auth_data_counts():
    data = sign_auth(KEY, b"octets")
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not verify_signature_auth(KEY.public_key(), b"octets", bytes(flipped))
    for end in range(len(data)):
        assert not verify_signature_auth(KEY.public_key(), b"octets", data[:end])


@given(algorithm=st.binary(min_size=1, max_size=255), signature=st.binary(min_size=1))
def test_decoding_undoes_encoding(algorithm, signature):
    data = encode_signature_auth(signature, algorithm)
    assert decode_signature_auth(data) == SignatureAuth(algorithm, signature)


@given(a=st.binary(max_size=40), b=st.binary(max_size=40))
def test_bytes_eq(a, b):
    assert bytes_eq(a, b) is (a == b)
    assert bytes_eq(a, bytes(a))


# https://csrc.nist.gov/projects/cryptographic-standards-and-guidelines/example-values, "abc"
def test_digests():
    assert sha1(b"abc").hex() == "a9993e364706816aba3e25717850c26c9cd0d89d"
    assert (
        sha256(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
