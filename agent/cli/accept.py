"""Accept an invitation: pairs this machine with a gateway; both then hold each other's key."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from agent.cli.ask import ask, print_json, show_progress
from agent.operations.setup import ensure_daemon

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The line, and what to call the gateway."""
    parser.add_argument("invitation", help="the line that begins with hg1: (or - to read it)")
    parser.add_argument("--name", default="", help="what to call the gateway here")
    parser.add_argument("--json", action="store_true", help="one object for scripts")


def run(args: argparse.Namespace) -> int:
    """Hand the line to the daemon, which is installed and started if there is none."""
    line = sys.stdin.readline() if args.invitation == "-" else args.invitation
    from agent.invitation import decode_invitation

    decode_invitation(line)  # a mistyped line is told before anything is installed
    ensure_daemon(args.root, lambda text: print(f"  {text}", file=sys.stderr))
    request = {"command": "accept", "invitation": line.strip(), "name": args.name}
    result = ask(args.root, request, None if args.json else show_progress)
    if args.json:
        print_json(result)
        return 0
    print(f"Paired with {result['peer']}; your role there is {result['role']}.")
    print(f"  hearthgate connect {result['peer']}")
    return 0
