"""What the room loads: memory is counted in PERFORMANCE.md, and hashlib alone is 3.8 MB."""

from __future__ import annotations

import subprocess
import sys

import cryptography
import pytest

VERSION = int(cryptography.__version__.split(".")[0])

HEAVY = ("hashlib", "hmac", "ssl", "cryptography.x509")
RARE = (
    "cryptography.hazmat.primitives.serialization.base",
    "cryptography.hazmat.primitives.asymmetric.dh",
)

A_SESSION = """
import sys
from agent.crypto import algorithms, auth, kex, keymat
a, b = (kex.generate_key_exchange(31, lambda n, i=i: bytes((i,)) * n) for i in (1, 2))
prf = algorithms.make_prf(5)
keys = keymat.derive_ike_keys(
    prf, keymat.skeyseed(prf, b"nonces", a.shared(b.public)),
    ni=b"n", nr=b"n", spi_i=b"s", spi_r=b"s", encr_length=20, integ_length=0)
for frugal in (False, True):
    c = algorithms.make_cipher(20, 128, None, keys.sk_ei, frugal=frugal)
    c.open(bytes(8), c.seal(bytes(8), b"text", b""), b"")
key = auth.load_private_key(auth.SigningKey(bytes(32)).pem())
public = auth.load_public_key(key.public_key().pem())
assert auth.verify_signature_auth(public, b"1", auth.sign_auth(key, b"1"))
assert auth.verify_psk_auth(prf, b"k", b"o", auth.psk_auth(prf, b"k", b"o"))
print("\\n".join(sys.modules))
"""


@pytest.mark.skipif(VERSION < 45, reason="older cryptography loads all of itself in any case")
def test_a_whole_session_loads_nothing_heavy():
    out = subprocess.run(
        [sys.executable, "-c", A_SESSION], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "agent.crypto.kex" in out
    assert [name for name in (*HEAVY, *RARE) if name in out] == []


A_COMMAND = """
import sys
from agent.crypto import auth
key = auth.PublicKey(auth.parse_key_text("A" * 41 + "BQ"))
assert auth.load_public_key(key.pem()) == key
print("\\n".join(sys.modules))
"""


def test_reading_a_key_does_not_load_cryptography():
    out = subprocess.run(
        [sys.executable, "-c", A_COMMAND], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "agent.crypto.auth" in out
    assert [name for name in ("cryptography", "hashlib") if name in out] == []
