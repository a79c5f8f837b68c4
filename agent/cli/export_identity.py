"""Save keys, pairings and configuration of this board in one encrypted file, for its replacement.

Whoever has the file and its password is this board: keep it like a key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent.layout import Layout
from agent.operations.identity import export_identity, files_left_out, read_password

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to."""
    parser.add_argument("file", type=Path, help="the file to write (it must not exist)")
    parser.add_argument("--password-file", type=Path, help="instead of asking on the terminal")


def run(args: argparse.Namespace) -> int:
    """Write it."""
    export_identity(Layout(args.root), args.file, read_password(args.password_file, repeat=True))
    print(f"{args.file} holds this board's identity, encrypted. Stop this board before another")
    print("one takes its place: two with one identity keep throwing each other off.")
    for path in files_left_out(Layout(args.root)):
        print(f"Not in it: {path}, which the configuration names; copy it to the same place there.")
    return 0
