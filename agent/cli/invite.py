"""Invite somebody: prints one line to hand over, single use. Whoever has it first, is in."""

from __future__ import annotations

import re
import sys
import time
from typing import TYPE_CHECKING

from agent.cli.ask import ask, print_json
from agent.config import ROLES
from agent.errors import UsageError

if TYPE_CHECKING:
    import argparse

DAY = 86400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Name, role, expiry."""
    parser.add_argument("name", help="what to call the invited machine, like laptop")
    parser.add_argument(
        "--role",
        default="operator",
        choices=ROLES[1:],
        help="reader: points; operator: points within limits (default); technician: also raw "
        "serial, Modbus with writes, MQTT; owner: all of it",
    )
    parser.add_argument("--expires", default="24h", help="30m, 24h (default) or 7d")
    parser.add_argument("--json", action="store_true", help="one object for scripts")
    parser.add_argument("--no-qr", action="store_true", help="print the line only")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon for one."""
    request = {
        "command": "invite",
        "name": args.name,
        "role": args.role,
        "seconds": seconds(args.expires),
    }
    result = ask(args.root, request)
    if args.json:
        print_json(result)
        return 0
    line = result["invitation"]
    if not args.no_qr and sys.stdout.isatty():
        _print_qr(line)
    print(line)
    until = (
        time.strftime("until %Y-%m-%d %H:%M", time.localtime(result["expires"]))
        if result["expires"]
        else f"for {args.expires} of running time, as this board's clock is not set"
    )
    print(
        f"\nSingle use, {until}, as {args.role}. On the other machine:\n"
        f"  sudo hearthgate accept {line[:12]}…",
        file=sys.stderr,
    )
    return 0


def seconds(text: str) -> int:
    """`30m`, `24h`, `7d`. Raises UsageError."""
    match = re.fullmatch(r"([1-9][0-9]{0,3})([mhd])", text)
    if match is None:
        raise UsageError(f"{text!r} is no time; 30m, 24h or 7d are.")
    return int(match[1]) * {"m": 60, "h": 3600, "d": DAY}[match[2]]


def _print_qr(line: str) -> None:
    try:
        import segno
    except ImportError:
        return  # an optional package; the line itself is enough
    segno.make(line, error="l").terminal(compact=True)
