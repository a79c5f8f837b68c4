"""Change a point: `set cabin boiler.setpoint 21.5`; limits are checked where the device is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from agent.cli.ask import ask, print_json, show_progress, shown
from agent.errors import UsageError

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What, and to which value."""
    parser.add_argument("words", nargs="+", metavar="[PEER] DEVICE.POINT VALUE")
    parser.add_argument("--json", action="store_true", help="for scripts")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon, which asks the gateway."""
    if len(args.words) not in (2, 3):
        raise UsageError("Give [PEER] DEVICE.POINT VALUE, like: set cabin boiler.setpoint 21.5")
    *peer, what, value = args.words
    if not peer and "." not in what and "." in value:
        raise UsageError(f"The value is missing: set {what} {value} VALUE")
    device, dot, point = what.partition(".")
    if not dot or not point:
        raise UsageError(f"{what!r} names no point; write it as DEVICE.POINT.")
    request = {
        "command": "set",
        "peer": peer[0] if peer else "",
        "device": device,
        "point": point,
        "value": parse_value(value),
    }
    result = ask(args.root, request, None if args.json else show_progress)
    if args.json:
        print_json(result)
        return 0
    unit = result.get("unit", "")
    print(f"{what} is {shown(result.get('value'))} {unit}".rstrip())
    for key in ("note", "warning"):
        if result.get(key):
            print(f"  {result[key]}")
    return 0


def parse_value(text: str) -> float | bool:
    """A number, on or off. Raises UsageError."""
    if text.lower() in ("on", "true"):
        return True
    if text.lower() in ("off", "false"):
        return False
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"{text[:40]!r} is no value: a number, on or off is.") from None
    if not math.isfinite(value):
        raise UsageError(f"{text!r} is no value that a device could take.")
    return value
