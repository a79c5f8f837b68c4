"""Open the tunnel to a gateway and show what is behind it. It then stays up until `disconnect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.cli.ask import ask, print_json, show_progress, table
from agent.errors import HearthgateError

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whom."""
    parser.add_argument("peer", help="the name of the gateway")
    parser.add_argument("--json", action="store_true", help="one object for scripts")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon, then ask the gateway for its devices."""
    progress = None if args.json else show_progress
    result = ask(args.root, {"command": "connect", "peer": args.peer}, progress)
    devices: list[dict[str, Any]] = []
    try:
        found = ask(args.root, {"command": "devices", "peer": args.peer})
        devices = found["devices"] if isinstance(found, dict) else found
    except HearthgateError as error:
        result["devices_error"] = error.sentence  # a peer without hearthgate's page (strongSwan)
    if args.json:
        print_json({**result, "devices": devices})
        return 0
    status = result["status"]
    rtt = status.get("round_trip_ms")
    print(
        f"{args.peer}  up, direct, {f'{rtt:.0f} ms' if rtt else 'measuring'}   {result['address']}"
    )
    shown = table([device_row(d, result["address"]) for d in devices], "  ")
    print(shown or f"  nothing to show: {result.get('devices_error', 'nothing is granted')}")
    return 0


def device_row(device: dict[str, Any], address: str) -> tuple[str, ...]:
    """Name, type, where it is reached, how it is."""
    kind, port = device.get("type", ""), device.get("port")
    where = f"tcp [{address}]:{port}" if port else ""
    points = device.get("points") or []
    count = points if isinstance(points, int) else len(points)
    about = str(device.get("line") or device.get("state") or "")
    if kind == "modbus":
        writable = device.get("writable", 0)
        about = f"{count} points, {writable} writable"
    return (str(device.get("name", "")), kind, where, about)
