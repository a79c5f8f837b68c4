"""Run a mediation server: others register here and find each other. Prints what they need.

With --drain the server that runs here already sends everybody to another one. Tunnels stay up."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from agent.cli import run as run_command

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The address to print, for a server whose own name is not the public one; and as `run`."""
    parser.add_argument(
        "--address", default="", help="host or host:port by which others reach this server"
    )
    parser.add_argument(
        "--drain",
        default="",
        metavar="OTHER",
        help="start nothing: all who are registered with the server that runs here move to OTHER, "
        "host#key as `hearthgate mediate` printed it there",
    )
    run_command.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Until SIGTERM; with --drain until all have gone, or the rest does not go."""
    if args.drain:
        return _drain(args)
    return run_command.start(args, args.address)


def _drain(args: argparse.Namespace) -> int:
    from agent.cli.ask import ask
    from agent.errors import TemporaryError
    from agent.operations.setup import parse_mediator

    address, key = parse_mediator(args.drain)
    try:
        done = ask(args.root, {"command": "drain", "address": address, "key": key}, _show_progress)
    except KeyboardInterrupt:
        said = (
            "The server goes on sending everybody there (`hearthgate status`) until it is stopped."
        )
        print(f"\n{said}", file=sys.stderr, end="")
        raise
    moved = f"{done['moved']} moved to {done['to']} in {done['seconds']:.1f} s"
    if done["left"]:
        raise TemporaryError(
            f"{moved}, {done['left']} left: they do not reach it, or do not take redirects. This "
            "server goes on sending everybody there (`hearthgate status`) until it is stopped."
        )
    print(f"{moved}, nobody is left. Who comes later is sent there too while this server runs.")
    return 0


def _show_progress(line: dict[str, Any]) -> None:
    seconds, moved, left = line.get("seconds", 0), line.get("moved", 0), line.get("left", 0)
    print(f"  {seconds:6.1f} s  {moved} moved, {left} left", file=sys.stderr)
