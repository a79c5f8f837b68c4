"""Change what a peer may do here; it holds at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.cli.ask import ask, print_json
from agent.config import ROLES
from agent.errors import UsageError

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Role, single grants."""
    parser.add_argument("peer", help="the name of the peer")
    parser.add_argument("role", nargs="?", choices=ROLES, help="its new role")
    parser.add_argument(
        "--add",
        action="append",
        default=[],
        metavar="GRANT",
        help="read:boiler, write:boiler.setpoint, connect:ems-bus, raw-write:boiler/10-19, tcp:22",
    )
    parser.add_argument("--remove", action="append", default=[], metavar="GRANT")
    parser.add_argument("--json", action="store_true", help="one object for scripts")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon."""
    if args.role is None and not args.add and not args.remove:
        raise UsageError("Nothing to change: give a role, --add or --remove.")
    request = {"command": "grant", "peer": args.peer, "add": args.add, "remove": args.remove}
    if args.role is not None:
        request["role"] = args.role
    result = ask(args.root, request)
    if args.json:
        print_json(result)
    else:
        extra = " and " + ", ".join(result["grants"]) if result["grants"] else ""
        print(f"{result['peer']} is {result['role']}{extra}.")
    return 0
