"""Keys of other kinds and certificates in hearthgate.toml: what is read, and each mistake."""

from __future__ import annotations

import subprocess
import sys

import cryptography
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from agent.config import MediatedPeerConfig, MediatorConfig, PeerConfig, load_config
from agent.config.values import SignatureConfig
from agent.crypto.public_keys import AnyPublicKey
from agent.crypto.signatures import KeyKind
from agent.errors import ConfigError
from agent.wire.payloads import Identification
from tests.support.certificates import issue
from tests.support.keys import private_key, private_key_pem, public_key_pem
from tests.unit.config.test_config import KEY, MEDIATOR, OTHER, PEER, PSK

VERSION = int(cryptography.__version__.split(".")[0])
ROOT = issue("root")
SUB = issue("sub", ROOT, ca=True)
OWN = issue("own", SUB, kind=KeyKind.RSA, names=("own.example.org",))
WEAK_RSA = rsa.generate_private_key(65537, 1024).private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)
_CONSTRAINED = x509.NameConstraints([x509.DNSName("example.org")], None)
FILES = {
    "narrow.pem": issue("narrow", more=((_CONSTRAINED, True),)).pem,
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


SERVER = f"""
[mediate]
[mediate.peer.one]
id = "one"
psk = "{PSK}"
[mediate.peer.two]
id = "two"
key = "{OTHER}"
[mediator.secret]
address = "med.example.org"
id = "ms"
local_id = "me"
psk = "{PSK}"
"""


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


# Where another side is proven: the table, and how its own half of the keys is told from the others.
TABLES = {
    "peer": '[peer.x]\nid = "bob"\nassign = "10.3.0.1"\n',
    "mediator": '[mediator.x]\naddress = "192.0.2.1"\nid = "bob"\n',
    "mediate.peer": '[mediate.peer.x]\nid = "bob"\n',
}
ALL = pytest.mark.parametrize("table", TABLES)


def text_of(table: str, text: str) -> str:
    """In `table`; a server proves itself with one thing to all its peers."""
    lines = text.splitlines()
    own = [line for line in lines if table == "mediate.peer" and line.startswith("local_")]
    rest = [line for line in lines if line not in own]
    server = ["[mediate]", *own] if own else []
    return "\n".join((*server, TABLES[table], *rest))


def signing(table: str, text: str) -> PeerConfig | MediatorConfig | MediatedPeerConfig:
    config = load_config(text_of(table, text), "test.toml", from_files)
    (found,) = (
        *config.peers,
        *config.mediators,
        *(config.mediate.peers if config.mediate is not None else ()),
    )
    assert found.remote_id == Identification.parse("bob")
    return found


@ALL
def test_a_key_of_any_kind_in_a_file(table):
    peer = signing(table, 'key_file = "bob.pub"')
    assert peer.key is peer.psk is None
    assert peer.signatures.public_key == AnyPublicKey(private_key(KeyKind.P384).spki)
    assert peer.local_id is None  # and this machine's own Ed25519 key
    peer = signing(table, 'key_file = "bob.pub"\nlocal_key_file = "ec.key"\nlocal_id = "me"')
    assert peer.signatures.own_key is not None
    assert peer.signatures.own_key.spki == private_key(KeyKind.P384).spki
    assert peer.signatures.public_key == AnyPublicKey(private_key(KeyKind.P384).spki)
    assert peer.local_id == Identification.parse("me")
    assert "PRIVATE" not in repr(peer)


@ALL
def test_the_hash_of_a_key(table):
    digits = "0123456789abcdef" * 4
    assert signing(table, f'key_sha256 = "{digits}"').signatures.key_sha256.hex() == digits
    colons = ":".join(digits[i : i + 2].upper() for i in range(0, 64, 2))
    assert signing(table, f'key_sha256 = "{colons}"').signatures.key_sha256.hex() == digits


OURS = 'local_key_file = "own.key"\n'


@ALL
def test_certificates(table):
    both = 'ca_files = ["root.pem", "sub.pem"]\n' + OURS
    for files in ('"chain.pem"', '["own.pem", "sub.pem"]'):
        peer = signing(table, both + f"local_certificate_files = {files}")
        assert peer.signatures.anchors == (ROOT.certificate, SUB.certificate)
        assert peer.signatures.own_certificates == (OWN.certificate, SUB.certificate)
        assert peer.local_id == OWN.certificate.subject
        assert peer.signatures.own_key is not None
    named = both + 'local_certificate_files = "own.pem"\nlocal_id = "own.example.org"'
    assert str(signing(table, named).local_id) == "own.example.org"
    # One side by certificate, the other by a key.
    own = OURS + 'local_certificate_files = "own.pem"\n'
    for theirs in ('key_file = "bob.pub"', f'key = "{KEY}"'):
        peer = signing(table, own + theirs)
        assert peer.signatures.own_certificates == (OWN.certificate,)
        assert peer.signatures.anchors == ()


def test_a_mediator_by_another_proof_is_not_of_our_kind():
    """Whom we invite knows an address and an Ed25519 key."""
    for text in ('key_file = "bob.pub"', 'ca_files = "root.pem"', f'key_sha256 = "{"ab" * 32}"'):
        assert not signing("mediator", text).is_ours
    assert signing("mediator", f'key = "{KEY}"').is_ours
    own = 'local_key_file = "ec.key"\nlocal_id = "me"\n'
    assert not signing("mediator", own + f'key = "{KEY}"').is_ours


def test_a_server_has_its_own_identity_for_those_without_a_certificate():
    """Our kind knows it by its key, whatever the certificate says."""
    own = f'[mediate]\n{OURS}local_certificate_files = "own.pem"\n'
    mediate = load_config(own + TABLES["mediate.peer"] + f'key = "{KEY}"', "t", from_files).mediate
    assert mediate is not None
    assert mediate.local_id is None
    assert mediate.peers[0].local_id == OWN.certificate.subject


def test_a_certificate_is_nothing_to_who_has_a_pre_shared_key():
    own = f'[mediate]\n{OURS}local_certificate_files = "own.pem"\n'
    secret = f'[mediate.peer.y]\nid = "y"\npsk = "{PSK}"\npsk_both = true\n'
    text = own + TABLES["mediate.peer"] + f'key = "{KEY}"\n' + secret
    mediate = load_config(text, "t", from_files).mediate
    assert mediate is not None
    assert mediate.peers[1].local_id is None
    assert mediate.peers[1].signatures == SignatureConfig()
    mediate = load_config(text.replace("psk_both = true", ""), "t", from_files).mediate
    assert mediate is not None
    assert mediate.peers[1].signatures == mediate.peers[0].signatures
    named = text.replace("[mediate]", '[mediate]\nlocal_id = "own.example.org"', 1)
    mediate = load_config(named, "t", from_files).mediate
    assert mediate is not None
    assert [str(peer.local_id) for peer in mediate.peers] == ["own.example.org"] * 2


@pytest.mark.parametrize("peer", ["", TABLES["mediate.peer"] + f'psk = "{PSK}"\npsk_both = true'])
def test_a_server_without_anybody_to_show_its_certificate_to(peer):
    said = sentence(f'[mediate]\nlocal_id = "me"\nlocal_key_file = "ec.key"\n{peer}')
    assert '[mediate] local_key_file = "ec.key": no [mediate.peer.NAME]' in said


def test_a_server_proves_the_same_to_all_its_peers():
    said = sentence(TABLES["mediate.peer"] + f'key = "{KEY}"\n{OURS}')
    assert "[mediate.peer.x] local_key_file is an unknown key" in said


def test_the_name_in_a_certificate():
    peer = load_config(
        '[peer.x]\nid = "O=hearthgate tests, CN=bob"\nca_files = "root.pem"\nassign = "10.3.0.1"',
        "t",
        from_files,
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
        (  # else nobody under it would ever be let in, and that would be said only then
            'ca_files = ["root.pem", "narrow.pem"]',
            "ca_files",
            "CN=narrow is of no use: its names are constrained (nameConstraints)",
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
@pytest.mark.parametrize("table", ["peer", "mediator"])
def test_mistakes_with_signatures(table, text, place, advice):
    said = sentence(text_of(table, text))
    assert place in said
    assert advice in said
    assert f"[{table}.x]" in said


@pytest.mark.parametrize(
    ("own", "place", "advice"),
    [
        ('local_key_file = "ec.key"', "local_id is missing", "that we prove"),
        ('local_certificate_files = "own.pem"', "local_key_file is missing", "the private key"),
        (
            OURS + 'local_certificate_files = "own.pem"\nlocal_id = "me"',
            'local_id = "me"',
            "our certificate is for own.example.org",
        ),
    ],
)
def test_mistakes_with_the_signatures_of_a_server(own, place, advice):
    said = sentence(text_of("mediate.peer", f'key = "{KEY}"\n{own}'))
    assert f"[mediate] {place}" in said
    assert advice in said


def test_files_are_not_wanted_where_they_are_only_looked_at():
    text = f'ca_files = "root.pem"\n{OURS}local_certificate_files = "own.pem"'
    for table in TABLES:
        config = load_config(text_of(table, text))
        assert not any(p.signatures.anchors for p in (*config.peers, *config.mediators))


@pytest.mark.skipif(VERSION < 45, reason="older cryptography loads all of itself in any case")
def test_certificates_load_only_what_they_need():
    """Memory: a machine without certificates never sees the library for them."""
    program = (
        "import sys; from agent.config import load_config; import agent.profiles, agent.peers; "
        "import agent.crypto.auth; "
        f"config = load_config({PEER + MEDIATOR + SERVER!r}); "
        "keys = agent.profiles.Keys(*map(agent.crypto.auth.SigningKey, (bytes(32), bytes(32)))); "
        "known = agent.peers.Peers(); agent.profiles.peers(config, keys, known); "
        "agent.profiles.mediators(config, keys, known); agent.profiles.server(config, keys); "
        "print([n for n in sys.modules if n.startswith('cryptography.x509')"
        " or n in ('agent.crypto.certificates', 'agent.crypto.public_keys')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
