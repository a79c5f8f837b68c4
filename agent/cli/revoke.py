"""Forget a peer or an invitation; what it had open is closed at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.cli.ask import ask

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whom."""
    parser.add_argument("peer", help="the name of the peer, or of an unused invitation")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon."""
    ask(args.root, {"command": "revoke", "peer": args.peer})
    print(f"{args.peer} is forgotten.")
    return 0
