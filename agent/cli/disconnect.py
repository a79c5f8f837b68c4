"""Close the tunnel to a gateway and stop asking for it."""

from __future__ import annotations

import argparse

from agent.cli.ask import ask


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whom."""
    parser.add_argument("peer", help="the name of the gateway")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon."""
    ask(args.root, {"command": "disconnect", "peer": args.peer})
    print(f"{args.peer} disconnected.")
    return 0
