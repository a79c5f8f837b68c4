"""Read points: `get cabin boiler`, `get cabin boiler.setpoint`; on the gateway: `get boiler`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.cli.ask import ask, print_json, show_progress, shown, table
from agent.errors import UnavailableError

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What."""
    parser.add_argument("peer", nargs="?", default="", help="the gateway; none: this machine")
    parser.add_argument("what", metavar="DEVICE[.POINT]", help="a device, or one point of it")
    parser.add_argument("--json", action="store_true", help="for scripts")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon, which asks the gateway."""
    device, _, point = args.what.partition(".")
    request: dict[str, Any] = {"command": "get", "peer": args.peer, "device": device}
    if point:
        request["point"] = point
    result = ask(args.root, request, None if args.json else show_progress)
    if args.json:
        print_json(result)
        return 0
    points = result.get("points", [result]) if isinstance(result, dict) else result
    print(table([row(p) for p in points]))
    failed = [p for p in points if p.get("error")]
    return UnavailableError.exit_code if failed and len(failed) == len(points) else 0


def row(point: dict[str, Any]) -> tuple[str, ...]:
    """Name, value with unit, limits or trouble."""
    name = str(point.get("name", ""))
    if point.get("error"):
        return (name, "–", str(point["error"]))
    limits = ""
    if point.get("writable") and point.get("min") is not None:
        limits = f"{point['min']} to {point.get('max')}"
    value = f"{shown(point.get('value'))} {point.get('unit', '')}".strip()
    return (name, value, limits)
