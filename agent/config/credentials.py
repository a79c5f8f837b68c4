"""How a peer is proven, and what we prove ourselves with: the keys of a table, and files they name.

One thing proves a peer: its Ed25519 key, a key of any kind in a file, the hash of one, a
certificate under given CAs, or a pre-shared key. Certificates and keys of other kinds are loaded
only where one is named, as they bring cryptography.x509 with them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar

from agent.config.values import PPK_MINIMUM, PSK_MINIMUM, SignatureConfig
from agent.crypto.auth import parse_key_text
from agent.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.crypto.certificates import Certificate
    from agent.crypto.public_keys import PrivateKey
    from agent.toml_table import Table
    from agent.wire.payloads import Identification

    Read = Callable[[str], bytes] | None

T = TypeVar("T")
NO_SIGNATURES: Final = SignatureConfig()
_REMOTE: Final = ("key", "key_file", "key_sha256", "ca_files", "psk", "psk_file")
_FILES: Final = ("key_file", "ca_files", "local_key_file", "local_certificate_files")
MAX_OWN_CERTIFICATES: Final = 6  # nobody follows a longer path


def read_key(table: Table) -> bytes | None:
    """The Ed25519 key of the other side, 32 octets."""
    return table.parsed("key", parse_key_text, None)


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


def read_psk(table: Table, read: Read) -> bytes | None:
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


def read_signatures(
    table: Table, key: bytes | None, psk: bytes | None, read: Read
) -> SignatureConfig:
    """What proves a peer besides `key` and `psk`, and our own key for it. Raises ConfigError."""
    given = _given(table)
    if not given:
        raise table.missing("key", "give one of key, key_file, key_sha256, ca_files, psk.")
    if len(given) > 1:
        raise table.wrong(given[-1], f"give {given[0]} or {given[-1]}, not both.")
    for name in ("local_key_file", "local_certificate_files"):
        if psk is not None and table.has(name):
            raise table.wrong(name, "it says nothing beside a pre-shared key.")
    if not any(map(table.has, _FILES)) and not table.has("key_sha256"):
        return NO_SIGNATURES
    from agent.crypto.public_keys import load_any_private_key, load_pem_public_key

    own_key = _loaded(table, "local_key_file", read, load_any_private_key)
    return SignatureConfig(
        public_key=_loaded(table, "key_file", read, load_pem_public_key),
        key_sha256=table.parsed("key_sha256", _parse_sha256, b""),
        anchors=_anchors(table, read),
        own_key=own_key,
        own_certificates=_own_certificates(table, own_key, read),
    )


def credential_of(table: Table) -> str:
    """The key of the table that says how the other side is proven, for sentences."""
    return _given(table)[0]


def _given(table: Table) -> list[str]:
    return [name for name in _REMOTE if table.has(name)]


def check_identities(
    table: Table, signatures: SignatureConfig, local_id: Identification | None
) -> Identification | None:
    """Our identity for this peer; it has to stand in our certificate. Raises ConfigError."""
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
