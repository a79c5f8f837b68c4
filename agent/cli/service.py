"""Install, remove or look at the system service that runs the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.errors import RefusedError
from agent.operations.setup import SYSTEM_ROOT, check_root, install_service
from board.service import find_service

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do."""
    parser.add_argument("action", choices=("install", "remove", "status"))


def run(args: argparse.Namespace) -> int:
    """Do it. Configuration, keys and state are never removed."""
    import os

    if args.action == "install":
        print(f"Service: {install_service(args.root).detail}")
        return 0
    check_root(args.root)
    service = find_service(SYSTEM_ROOT)
    if args.action == "status":
        status = service.status()
        enabled = "starts at boot" if status.is_enabled else "does not start at boot"
        print(f"Service: {status.detail}, {enabled}")
        return 0 if status.is_active else 3
    if os.geteuid() != 0:
        raise RefusedError("Removing the service takes root: try again with sudo.")
    removed = service.remove()
    print("Service: removed." if removed else "Service: there was none.")
    print("Configuration, keys and state are still there.")
    return 0
