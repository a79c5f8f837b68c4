"""Run a mediation server: others register here and find each other. Prints what they need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.cli import run as run_command

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The address to print, for a server whose own name is not the public one; and as `run`."""
    parser.add_argument(
        "--address", default="", help="host or host:port by which others reach this server"
    )
    run_command.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Until SIGTERM."""
    return run_command.start(args, args.address)
