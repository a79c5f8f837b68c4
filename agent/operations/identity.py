"""A board is replaced: its keys, pairings and configuration in one encrypted file.

Format: `hgid1` | salt 16 | nonce 12 | AES-256-GCM( JSON ), key = scrypt(password, salt). The
header is authenticated with it.
"""

from __future__ import annotations

import base64
import contextlib
import getpass
import json
import os
import sys
from typing import TYPE_CHECKING

from agent.config import load_config
from agent.crypto.auth import load_private_key
from agent.errors import HearthgateError, InputError
from agent.layout import Layout
from agent.moves import Moves
from agent.operations.setup import daemon_runs
from agent.peers import Peers
from board import storage
from board.errors import BoardError

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = b"hgid1"
SALT, NONCE = 16, 12
# About 0.1 s and 32 MB on a Raspberry Pi: dear for guessing, bearable for once in a board's life.
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**15, 8, 1
PASSWORD_MINIMUM = 8
MAX_FILE = 4 << 20
# What reading a file raises that somebody else has made, with a password that fits.
_DAMAGED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def export_identity(layout: Layout, target: Path, password: str) -> None:
    """Write `target`. Raises InputError, StorageError."""
    files = {
        name: base64.b64encode(data).decode()
        for name, path in _files(layout).items()
        if (data := storage.read_file(path)) is not None
    }
    if "identity" not in files or "mediation" not in files:
        raise InputError(f"There are no keys in {layout.keys} yet; nothing to save.")
    if target.exists():
        raise InputError(f"{target} exists already; choose another name.")
    salt, nonce = os.urandom(SALT), os.urandom(NONCE)
    plain = json.dumps({"files": files}).encode()
    sealed = _cipher(password, salt).encrypt(nonce, plain, MAGIC + salt)
    storage.write_file(target, MAGIC + salt + nonce + sealed, mode=0o600)


def import_identity(layout: Layout, source: Path, password: str, *, replace: bool) -> list[Path]:
    """Write what `source` holds; returns the files written. Nothing is written unless all fits."""
    from cryptography.exceptions import InvalidTag

    data = storage.read_file(source)
    if data is None:
        raise InputError(f"{source}: there is no such file.")
    if not data.startswith(MAGIC) or not SALT + NONCE < len(data) <= MAX_FILE:
        raise InputError(f"{source} was not made by `hearthgate export-identity`.")
    at = len(MAGIC)
    salt, nonce, sealed = data[at : at + SALT], data[at + SALT : at + 28], data[at + 28 :]
    try:
        plain = _cipher(password, salt).decrypt(nonce, sealed, MAGIC + salt)
        files = {k: base64.b64decode(v) for k, v in json.loads(plain)["files"].items()}
    except InvalidTag:
        raise InputError("The password is wrong, or the file is damaged.") from None
    except _DAMAGED:
        raise InputError(f"{source} is damaged.") from None
    targets = _files(layout)
    _check(files, source)
    if daemon_runs(layout.root):
        raise InputError(
            "A daemon runs here and would write its own pairings over the new ones; stop it first "
            "(systemctl stop hearthgate, or /etc/init.d/hearthgate stop)."
        )
    if not replace and any(targets[k].exists() for k in ("identity", "mediation")):
        raise InputError(
            f"This board has keys of its own in {layout.keys}; --replace gives them up for good."
        )
    for folder in (layout.keys, layout.state):
        storage.make_folder(folder)
    written = []
    # Keys last: until they are there, the board is what it was.
    for name in sorted(files, key=lambda name: name in ("identity", "mediation")):
        mode = 0o644 if name == "config" else 0o600
        if storage.write_file(targets[name], files[name], mode=mode):
            written.append(targets[name])
    return written


def files_left_out(layout: Layout) -> list[Path]:
    """The files of keys and certificates that the configuration names: not in the export."""
    named: list[Path] = []

    def read(path: str) -> bytes:
        named.append(layout.config.parent / path)
        return storage.read_file(named[-1]) or b""

    data = storage.read_file(layout.config)
    with contextlib.suppress(
        ValueError, HearthgateError, BoardError
    ):  # mistakes are told elsewhere
        load_config((data or b"").decode(), str(layout.config), read)
    return named


def read_password(file: Path | None, *, repeat: bool = False) -> str:
    """From a file's first line, else from the terminal. Raises InputError."""
    if file is not None:
        data = storage.read_file(file)
        if data is None:
            raise InputError(f"{file}: there is no such file.")
        password = data.decode("utf-8", "replace").partition("\n")[0]
    elif not sys.stdin.isatty():
        raise InputError("There is no terminal to ask for the password; give --password-file.")
    else:
        password = getpass.getpass("Password: ")
        if repeat and getpass.getpass("Again: ") != password:
            raise InputError("The two are not the same.")
    if len(password) < PASSWORD_MINIMUM:
        raise InputError(f"The password needs {PASSWORD_MINIMUM} characters or more.")
    return password


def _files(layout: Layout) -> dict[str, Path]:
    return {
        "identity": layout.identity_key,
        "mediation": layout.mediation_key,
        "peers": layout.peers,
        "mediators": layout.moves,
        "config": layout.config,
    }


def _check(files: dict[str, bytes], source: Path) -> None:
    try:
        if not {"identity", "mediation"} <= files.keys() <= {*_files(Layout())}:
            raise ValueError("keys are missing")
        load_private_key(files["identity"])
        load_private_key(files["mediation"])
        if "config" in files:
            load_config(files["config"].decode(), str(source))
        if "peers" in files:
            Peers.from_json(json.loads(files["peers"])["content"])
        if "mediators" in files:
            Moves.from_json(json.loads(files["mediators"])["content"])
    except _DAMAGED as error:
        raise InputError(f"{source} is damaged: {error}.") from None


def _cipher(password: str, salt: bytes):  # type: ignore[no-untyped-def]  # noqa: ANN202
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    kdf = Scrypt(salt=salt, length=32, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P)
    return AESGCM(kdf.derive(password.encode()))
