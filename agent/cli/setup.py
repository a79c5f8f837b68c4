"""Make this machine a gateway: finds board and serial ports, writes the configuration, installs
and starts the service. MEDIATOR is what `hearthgate mediate` printed: host#key (quote it)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.errors import HearthgateError
from agent.layout import Layout
from agent.operations.setup import SYSTEM_ROOT, install_service, prepare
from board.errors import BoardError

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The mediator."""
    parser.add_argument("mediator", metavar="MEDIATOR", help="host#key of the mediation server")
    parser.add_argument("--name", default="", help="what this machine is called (its host name)")
    parser.add_argument(
        "--no-service", action="store_true", help="write the configuration, start nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Prepare, then start."""
    layout = Layout(args.root)
    found = prepare(layout, args.mediator, args.name)
    print(f"Board: {found.board}")
    for port in found.ports:
        print(f"Serial port: {port.name}  {port.description}")
    if not found.ports:
        print("Serial port: none found; plug the adapter in and add a [device.NAME] later.")
    verb = "written" if found.config_written else "was there already, fits and stays as it is"
    print(f"Configuration: {found.config} {verb}")
    if args.no_service:
        print(f"Next: {_command(args)} run")
        return 0
    try:
        status = install_service(args.root)
    except (HearthgateError, BoardError) as error:
        print(f"Service: {error.sentence}")
        print(f"Next: {_command(args)} run, then {_command(args)} invite NAME")
        return 0
    print(f"Service: {status.detail}")
    print("Next: hearthgate status, then hearthgate invite NAME")
    return 0


def _command(args: argparse.Namespace) -> str:
    return "hearthgate" if args.root == SYSTEM_ROOT else f"hearthgate --root {args.root}"
