"""How a peer is proven, and what we prove ourselves with: the keys of a table, and files they name.

One thing proves a peer: its Ed25519 key, a key of any kind in a file, the hash of one, a
certificate under given CAs, or a pre-shared key. Certificates and keys of other kinds are loaded
only where one is named, as they bring cryptography.x509 with them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from agent.config.values import PPK_MINIMUM, PSK_MINIMUM, SignatureConfig
from agent.crypto.auth import parse_key_text
from agent.errors import ConfigError
from agent.wire.payloads import Identification

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.crypto.certificates import Certificate
    from agent.crypto.public_keys import PrivateKey
    from agent.toml_table import Table

    Read = Callable[[str], bytes] | None

T = TypeVar("T")
NO_SIGNATURES: Final = SignatureConfig()
_REMOTE: Final = ("key", "key_file", "key_sha256", "ca_files", "psk", "psk_file")
_OF_OTHER_KINDS: Final = ("key_file", "key_sha256", "ca_files")
_OWN: Final = ("local_key_file", "local_certificate_files")
MAX_OWN_CERTIFICATES: Final = 6  # nobody follows a longer path


def _secret(table: Table, name: str, read: Read) -> bytes | None:
    """The octets of `name` or of the file that `name`_file says; empty where none is read."""
    secret: bytes | None = None
    if table.has(name):
        secret = table.text(name).encode()
    if table.has(f"{name}_file"):
        path = table.text(f"{name}_file")
        if secret is not None:
            raise table.wrong(f"{name}_file", f"give {name} or {name}_file, not both.")
        if read is None:  # only looked at, not used
            return b""
        secret = _octets(table, f"{name}_file", path, read).strip()
    return secret


def _psk(table: Table, read: Read) -> bytes | None:
    """The pre-shared key, refused if it is weak."""
    psk = _secret(table, "psk", read)
    looked_at = read is None and table.has("psk_file")
    if psk is not None and not looked_at and _is_weak(psk, PSK_MINIMUM, 5):
        where = "psk_file" if table.has("psk_file") else "psk"
        raise _weak_psk(table, where)
    return psk


def read_ppk(table: Table, read: Read) -> tuple[bytes | None, str, bool]:
    """Postquantum preshared key, its name, and whether it is required."""
    ppk = _secret(table, "ppk", read)
    name, required = table.text("ppk_id"), table.flag("ppk_required", True)
    if ppk is None:
        for key in ("ppk_id", "ppk_required"):
            if table.has(key):
                raise table.wrong(key, "it says nothing without ppk or ppk_file.")
        return None, "", False
    if not 1 <= len(name.encode()) <= 255:
        raise table.missing("ppk_id", "the name by which both sides know this ppk.")
    looked_at = read is None and table.has("ppk_file")
    if not looked_at and _is_weak(ppk, PPK_MINIMUM, 8):
        where = "ppk_file" if table.has("ppk_file") else "ppk"
        raise ConfigError(  # it never repeats the key
            f"{table.source}: [{table.name}] {where}: this postquantum preshared key is too weak; "
            f"use {PPK_MINIMUM} random characters or more (openssl rand -base64 32)."
        )
    return ppk, name, required


def _is_weak(secret: bytes, least: int, kinds: int) -> bool:
    """Whether it is short, of few characters, or a short one over and over."""
    repeats = (n for n in range(1, len(secret)) if secret.startswith(secret[n:]))
    return next(repeats, len(secret)) < least or len(set(secret)) < kinds


def _weak_psk(table: Table, key: str) -> ConfigError:
    """The error for a weak pre-shared key; it never repeats the key."""
    return ConfigError(
        f"{table.source}: [{table.name}] {key}: this pre-shared key is too weak, as it can be "
        f"guessed offline; use {PSK_MINIMUM} random characters or more "
        "(openssl rand -base64 24), or better a public key."
    )


def read_proofs(
    table: Table, read: Read, *, wanted: str = "give one of", beside_psk: str = ""
) -> tuple[bytes | None, bytes | None, SignatureConfig]:
    """The one thing that proves the other side, its Ed25519 key (32 octets), a pre-shared key or

    something else. Raises ConfigError; where nothing is given it says what is `wanted`, and for a
    pre-shared key besides another proof what to do, `beside_psk`.
    """
    key, psk = table.parsed("key", parse_key_text, None), _psk(table, read)
    given = [name for name in _REMOTE if table.has(name)]
    if not given:
        raise table.missing("key", f"{wanted} key, key_file, key_sha256, ca_files, psk.")
    if len(given) > 1:
        advice = f" {beside_psk}" if psk is not None and beside_psk else ""
        raise table.wrong(given[-1], f"give {given[0]} or {given[-1]}, not both.{advice}")
    if given[0] not in _OF_OTHER_KINDS:
        return key, psk, NO_SIGNATURES
    from agent.crypto.public_keys import load_pem_public_key

    signatures = SignatureConfig(
        public_key=_loaded(table, "key_file", read, load_pem_public_key),
        key_sha256=table.parsed("key_sha256", _parse_sha256, b""),
        anchors=_anchors(table, read),
    )
    return None, None, signatures


def read_own(
    table: Table, read: Read, theirs: SignatureConfig = NO_SIGNATURES, psk: bytes | None = None
) -> SignatureConfig:
    """`theirs`, and what we prove ourselves with, if that is no Ed25519 key of this machine's.

    Raises ConfigError, also where a pre-shared key leaves nothing to be proven with it.
    """
    given = [name for name in _OWN if table.has(name)]
    if not given:
        return theirs
    if psk is not None:
        raise table.wrong(given[0], "it says nothing beside a pre-shared key.")
    from agent.crypto.public_keys import load_any_private_key

    own_key = _loaded(table, "local_key_file", read, load_any_private_key)
    own_certificates = _own_certificates(table, own_key, read)
    return replace(theirs, own_key=own_key, own_certificates=own_certificates)


def read_remote_id(table: Table, key: bytes | None) -> Identification:
    """What the other side is called: as it says, else by its Ed25519 key. Raises ConfigError."""
    remote_id = read_identity(table, "id")
    if remote_id is not None:
        return remote_id
    if key is None:
        given = next(filter(table.has, _REMOTE))
        raise table.missing("id", f"the identity that the other side proves with {given}.")
    return Identification.key_id(key)


def read_identity(table: Table, name: str) -> Identification | None:
    """An identity as people write it. Raises ConfigError."""
    return table.parsed(name, Identification.parse, None)


def read_local_id(table: Table, signatures: SignatureConfig) -> Identification | None:
    """Our identity; it has to stand in our certificate, if we have one. Raises ConfigError."""
    local_id = read_identity(table, "local_id")
    if signatures.own_certificates:
        own = signatures.own_certificates[0]
        if local_id is None:
            return own.subject
        if not own.names(local_id):
            names = ", ".join(str(name) for name in (*own.alt_names, own.subject))
            raise table.wrong("local_id", f"our certificate is for {names}.")
    elif signatures.own_key is not None and local_id is None:
        raise table.missing("local_id", "the identity that we prove with local_key_file.")
    return local_id


def _anchors(table: Table, read: Read) -> tuple[Certificate, ...]:
    found = _certificates(table, "ca_files", read)
    if found:
        from agent.crypto.certification_path import issuer_problem

        for anchor in found:
            if problem := issuer_problem(anchor):
                why = f"the certificate of {anchor.name} {problem}; for a single key use key_file."
                raise table.wrong("ca_files", why)
    return found


def _own_certificates(
    table: Table, own_key: PrivateKey | None, read: Read
) -> tuple[Certificate, ...]:
    name = "local_certificate_files"
    if table.has(name) and not table.has("local_key_file"):
        raise table.missing("local_key_file", f"the private key of {name}.")
    found = _certificates(table, name, read)
    if found:
        from agent.crypto.certification_path import signer_problem

        assert own_key is not None
        if found[0].public_key.spki != own_key.spki:
            why = "the first certificate is not that of local_key_file; ours comes first."
            raise table.wrong(name, why)
        if problem := signer_problem(found[0]):
            raise table.wrong(name, f"the certificate of {found[0].name} {problem}.")
        if len(found) > MAX_OWN_CERTIFICATES:
            raise table.wrong(name, f"{MAX_OWN_CERTIFICATES} certificates at most, ours first.")
    return found


def _certificates(table: Table, name: str, read: Read) -> tuple[Certificate, ...]:
    """All certificates of the files that `name` lists, in their order."""
    paths = table.texts(name)
    if table.has(name) and not paths:
        raise table.wrong(name, 'a list of files is wanted, like ["ca.pem"].')
    if not paths or read is None:
        return ()
    from agent.crypto.certificates import load_certificates

    found: list[Certificate] = []
    for path in paths:
        try:
            found += load_certificates(_octets(table, name, path, read))
        except ValueError as error:
            raise table.wrong(name, f"{path}: {error}.") from None
    return tuple(found)


def _loaded(table: Table, name: str, read: Read, load: Callable[[bytes], T]) -> T | None:
    """What `load` makes of the file that `name` says."""
    if not table.has(name) or read is None:
        return None
    try:
        return load(_octets(table, name, table.text(name), read))
    except ValueError as error:
        raise table.wrong(name, f"{error}.") from None


def _octets(table: Table, name: str, path: str, read: Callable[[str], bytes]) -> bytes:
    try:
        return read(path)
    except OSError as error:
        raise table.wrong(name, f"{path} cannot be read: {error.strerror}.") from None


def _parse_sha256(text: str) -> bytes:
    digits = text.replace(":", "").strip()
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", digits):
        raise ValueError(
            "64 hexadecimal digits are wanted, as `openssl pkey -pubin -in bob.pem -outform DER | "
            "sha256sum` prints them."
        )
    return bytes.fromhex(digits)
