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
    parser.add_argument(
        "--forward",
        action="store_true",
        help="offer what is granted there on 127.0.0.1 too, for tools without IPv6, until "
        "`disconnect` or the end of the daemon",
    )
    parser.add_argument("--json", action="store_true", help="one object for scripts")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon, then ask the gateway for its devices."""
    progress = None if args.json else show_progress
    request = {"command": "connect", "peer": args.peer, "forward": args.forward}
    result = ask(args.root, request, progress)
    devices: list[dict[str, Any]] = []
    try:
        found = ask(args.root, {"command": "devices", "peer": args.peer}, progress)
        devices = found.get("devices", []) if isinstance(found, dict) else found
    except HearthgateError as error:
        result["devices_error"] = error.sentence  # a peer without hearthgate's page (strongSwan)
    if args.json:
        print_json({**result, "devices": devices})
        return 0
    status = result["status"]
    rtt = status.get("round_trip_ms")
    print(
        f"{args.peer}  up, direct, {f'{rtt:.0f} ms' if rtt else 'measuring'}   {result['address']}"
        + (f"  {result['ipv4']}" if result.get("ipv4") else "")
    )
    shown = table([device_row(d, result["address"]) for d in devices], "  ")
    nothing = result.get("devices_error", "it has no device yet, or none for us")
    print(shown or f"  nothing to show: {nothing}")
    if args.forward:
        print(_forwarded(args.peer, result.get("forwards", [])))
    return 0


def _forwarded(peer: str, forwards: list[dict[str, Any]]) -> str:
    if not forwards:
        return "  nothing to forward: no service there may be connected to with this role"
    rows = [(str(f["device"]), f"tcp {f['host']}:{f['port']}") for f in forwards]
    return f"  and here until `hearthgate disconnect {peer}`:\n" + table(rows, "  ")


def device_row(device: dict[str, Any], address: str) -> tuple[str, ...]:
    """Name, type, where it is reached, how it is."""
    kind, port = str(device.get("type", "")), device.get("port")
    where = f"tcp [{address}]:{port}" if port else ""
    if device.get("reachable") is False:  # no use to show a port that is shut for us
        where = "get and set" if kind == "modbus" else "not granted"
    about = str(device.get("line") or device.get("state") or "")
    if kind == "modbus":
        count = device.get("points", 0)
        about = f"{count} point{'' if count == 1 else 's'}, {device.get('writable', 0)} writable"
    if device.get("reason"):
        about = str(device["reason"])
    return (str(device.get("name", "")), kind, where, about)
