"""Keys of other kinds and certificates in hearthgate.toml: what is read, and each mistake."""

from __future__ import annotations

import subprocess
import sys

import cryptography
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from agent.config import PeerConfig, load_config
from agent.crypto.public_keys import AnyPublicKey
from agent.crypto.signatures import KeyKind
from agent.errors import ConfigError
from tests.support.certificates import issue
from tests.support.keys import private_key, private_key_pem, public_key_pem
from tests.unit.config.test_config import PEER, PSK

VERSION = int(cryptography.__version__.split(".")[0])
ROOT = issue("root")
SUB = issue("sub", ROOT, ca=True)
OWN = issue("own", SUB, kind=KeyKind.RSA, names=("own.example.org",))
WEAK_RSA = rsa.generate_private_key(65537, 1024).private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)
FILES = {
    "root.pem": ROOT.pem,
    "sub.pem": SUB.pem,
    "own.pem": OWN.pem,
    "chain.pem": OWN.pem + SUB.pem,
    "own.key": OWN.key_pem,
    "ec.key": private_key_pem(KeyKind.P384),
    "bob.pub": public_key_pem(KeyKind.P384),
    "agreement.pem": issue("own", SUB, kind=KeyKind.RSA, usage=("key_agreement",)).pem,
    "weak.key": WEAK_RSA,
    "noise": b"noise",
}


def from_files(path: str) -> bytes:
    if path not in FILES:
        raise FileNotFoundError(2, "No such file or directory")
    return FILES[path]


def sentence(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(text, "test.toml", from_files)
    said = caught.value.sentence
    assert said.startswith("test.toml: ")
    assert said.isprintable()
    return said


def signing(text: str) -> PeerConfig:
    return load_config(f'[peer.x]\nid = "bob"\n{text}', "test.toml", from_files).peers[0]


def test_a_key_of_any_kind_in_a_file():
    peer = signing('key_file = "bob.pub"')
    assert peer.key is peer.psk is None
    assert peer.signatures.public_key == AnyPublicKey(private_key(KeyKind.P384).spki)
    assert peer.local_id is None  # and this machine's own Ed25519 key
    peer = signing('key_file = "bob.pub"\nlocal_key_file = "ec.key"\nlocal_id = "me"')
    assert peer.signatures.own_key is not None
    assert peer.signatures.own_key.spki == private_key(KeyKind.P384).spki
    assert "PRIVATE" not in repr(peer)


def test_the_hash_of_a_key():
    digits = "0123456789abcdef" * 4
    assert signing(f'key_sha256 = "{digits}"').signatures.key_sha256.hex() == digits
    colons = ":".join(digits[i : i + 2].upper() for i in range(0, 64, 2))
    assert signing(f'key_sha256 = "{colons}"').signatures.key_sha256.hex() == digits


OURS = 'local_key_file = "own.key"\n'


def test_certificates():
    both = 'ca_files = ["root.pem", "sub.pem"]\n' + OURS
    for files in ('"chain.pem"', '["own.pem", "sub.pem"]'):
        peer = signing(both + f"local_certificate_files = {files}")
        assert peer.signatures.anchors == (ROOT.certificate, SUB.certificate)
        assert peer.signatures.own_certificates == (OWN.certificate, SUB.certificate)
        assert peer.local_id == OWN.certificate.subject
        assert peer.signatures.own_key is not None
    peer = signing(both + 'local_certificate_files = "own.pem"\nlocal_id = "own.example.org"')
    assert str(peer.local_id) == "own.example.org"
    # One side by certificate, the other by a key.
    assert signing(OURS + 'key_file = "bob.pub"\nlocal_certificate_files = "own.pem"')


def test_the_name_in_a_certificate():
    peer = load_config(
        '[peer.x]\nid = "O=hearthgate tests, CN=bob"\nca_files = "root.pem"', "t", from_files
    ).peers[0]
    assert peer.remote_id.matches(issue("bob").certificate.subject)


@pytest.mark.parametrize(
    ("text", "place", "advice"),
    [
        ('key_file = "none"', 'key_file = "none": none cannot be read', "No such file"),
        ('key_file = "own.key"', 'key_file = "own.key"', "BEGIN PUBLIC KEY"),
        ('key_file = "noise"', 'key_file = "noise"', "RSA of 2048 bits or more"),
        ('key_sha256 = "abc"', 'key_sha256 = "abc"', "64 hexadecimal digits"),
        ('key_file = "bob.pub"\nca_files = "root.pem"', "ca_files", "key_file or ca_files"),
        (f'psk = "{PSK}"\nkey_file = "bob.pub"', "psk is wrong", "key_file or psk"),
        ("ca_files = []", "ca_files = []", 'like ["ca.pem"]'),
        ('ca_files = "own.pem"', "ca_files", "CN=own is not one of a CA"),
        ('ca_files = ["root.pem", "noise"]', "ca_files", "noise: a PEM file with BEGIN CERT"),
        ('ca_files = ["root.pem", "gone"]', "ca_files", "gone cannot be read: No such file"),
        (f'psk = "{PSK}"\nlocal_key_file = "own.key"', "local_key_file", "beside a pre-shared"),
        ('key_file = "bob.pub"\nlocal_key_file = "ec.key"', "local_id is missing", "that we prove"),
        (
            'key_file = "bob.pub"\nlocal_key_file = "weak.key"\nlocal_id = "me"',
            'local_key_file = "weak.key"',
            "an RSA key of 1024 bits is too weak: 2048 or more",
        ),
        (
            'ca_files = "root.pem"\nlocal_certificate_files = "own.pem"',
            "local_key_file is missing",
            "the private key of local_certificate_files",
        ),
        (
            'ca_files = "root.pem"\nlocal_key_file = "ec.key"\nlocal_certificate_files = "own.pem"',
            "local_certificate_files",
            "not that of local_key_file",
        ),
        (
            f'ca_files = "root.pem"\n{OURS}local_certificate_files = ["sub.pem", "own.pem"]',
            "local_certificate_files",
            "ours comes first",
        ),
        (
            f'ca_files = "root.pem"\n{OURS}local_certificate_files = "agreement.pem"',
            "local_certificate_files",
            "does not allow signatures",
        ),
        (
            f'ca_files = "root.pem"\n{OURS}local_certificate_files = "own.pem"\nlocal_id = "me"',
            'local_id = "me"',
            "our certificate is for own.example.org, O=hearthgate tests, CN=own",
        ),
        (
            f'ca_files = "root.pem"\n{OURS}local_certificate_files = ["own.pem"'
            + ', "sub.pem"' * 6
            + "]",
            "local_certificate_files",
            "6 certificates at most",
        ),
    ],
)
def test_mistakes_with_signatures(text, place, advice):
    said = sentence(f'[peer.x]\nid = "bob"\n{text}')
    assert place in said
    assert advice in said
    assert "[peer.x]" in said


def test_files_are_not_wanted_where_they_are_only_looked_at():
    text = f'[peer.x]\nid = "a"\nca_files = "root.pem"\n{OURS}local_certificate_files = "own.pem"'
    assert load_config(text).peers[0].signatures.anchors == ()


@pytest.mark.skipif(VERSION < 45, reason="older cryptography loads all of itself in any case")
def test_certificates_load_only_what_they_need():
    """Memory: a machine without certificates never sees the library for them."""
    program = (
        "import sys; from agent.config import load_config; import agent.profiles; "
        f"load_config({PEER!r}); "
        "print([n for n in sys.modules if n.startswith('cryptography.x509')"
        " or n in ('agent.crypto.certificates', 'agent.crypto.public_keys')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
