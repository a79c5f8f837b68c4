"""Give this board the identity that `export-identity` saved on the one it replaces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent.layout import Layout
from agent.operations.identity import import_identity, read_password

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where from."""
    parser.add_argument("file", type=Path, help="the file that export-identity wrote")
    parser.add_argument("--password-file", type=Path, help="instead of asking on the terminal")
    parser.add_argument("--replace", action="store_true", help="give up the keys that are here")


def run(args: argparse.Namespace) -> int:
    """Read it, write keys, peers and configuration."""
    written = import_identity(
        Layout(args.root), args.file, read_password(args.password_file), replace=args.replace
    )
    for path in written:
        print(f"written: {path}")
    print("Now start it: systemctl restart hearthgate, or `sudo hearthgate service install` where")
    print("there is no service yet, or `hearthgate run`. Who is paired needs to do nothing.")
    return 0
