"""Close the tunnel to a gateway and stop asking for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.cli.ask import ask

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whom."""
    parser.add_argument("peer", help="the name of the gateway")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon."""
    ask(args.root, {"command": "disconnect", "peer": args.peer})
    print(f"{args.peer} disconnected.")
    return 0
