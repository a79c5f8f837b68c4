"""Make new session keys with a connected peer now; it happens by itself in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.cli.ask import ask

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose, and which."""
    parser.add_argument("peer", help="the name of the peer")
    parser.add_argument("--ike", action="store_true", help="of the IKE SA, not of the tunnel")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon."""
    ask(args.root, {"command": "rekey", "peer": args.peer, "ike": args.ike})
    print(f"{args.peer}: new keys are being made.")
    return 0
