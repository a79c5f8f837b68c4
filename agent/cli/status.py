"""What the daemon is doing, in a few lines; --watch goes on telling."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from agent.cli.ask import ask, duration, print_json, table

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How."""
    parser.add_argument("--json", action="store_true", help="everything, for scripts")
    parser.add_argument("--watch", action="store_true", help="then each change as it happens")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon."""
    if args.watch:
        ask(args.root, {"command": "watch"}, _show_json if args.json else _show_event)
        return 0
    status = ask(args.root, {"command": "status"})
    if args.json:
        print_json(status)
    else:
        print(describe(status))
    return 0


def describe(status: dict[str, Any]) -> str:
    """The whole status for people."""
    lines = [f"{status['name']}  {status['address']}  up {duration(status['uptime'])}"]
    if status.get("mediates"):
        server = status.get("server") or {}
        lines.append(
            f"  mediates at {status['mediates']}: {server.get('registered', 0)} registered"
            + _draining(server)
        )
    lines += [_mediator(m) for m in status["mediators"]]
    rows = [_peer(p) for p in status["peers"]]
    if rows:
        lines.append(table(rows, "  "))
    rows = [_device(d) for d in status["devices"]]
    if rows:
        lines.append(table(rows, "  "))
    if status.get("get_and_set"):
        lines.append(f"  get and set  closed  {status['get_and_set']}")
    for f in status.get("forwards", []):
        lines.append(f"  forward  {f['peer']} {f['device']}  at {f['host']}:{f['port']}")
    for invitation in status.get("invitations", []):
        if not invitation["used"]:
            lines.append(f"  invitation  {invitation['name']} ({invitation['role']}), not used yet")
    return "\n".join(lines)


def _draining(server: dict[str, Any]) -> str:
    to = server.get("draining_to")
    return f", draining to {to}: {server.get('moved', 0)} moved" if to else ""


def _mediator(m: dict[str, Any]) -> str:
    text = f"  mediator {m['name']}  {m['state']}"
    if m["moved_from"]:
        text += f" at {m['address']} (instead of {m['moved_from']})"
    if m["state"] == "registered":
        seen = f", seen as {m['reflexive']}" if m["reflexive"] else ""
        resumed = ", resumed by ticket" if m["resumed"] else ""
        return f"{text} for {duration(m['since'])}{seen}{resumed}, {m['suite']}"
    if m["state"] == "waiting":
        text += f", again in {duration(m['retry_in'])}"
    return text + (f": {m['error']}" if m["error"] else "")


def _peer(p: dict[str, Any]) -> tuple[str, ...]:
    about = ""
    if p["state"] == "up":
        rtt = f"{p['round_trip_ms']:.0f} ms, " if p["round_trip_ms"] else ""
        about = f"{p['path']}, {rtt}{duration(p['since'])}, {p['suite']}"
    elif p["error"]:
        about = p["error"]
    role = "" if p["role"] == "none" else p["role"]  # it is a gateway of ours: nothing granted
    return ("peer", p["name"], p["state"], role, about)


def _device(d: dict[str, Any]) -> tuple[str, ...]:
    return (
        "device",
        str(d.get("name", "")),
        str(d.get("type", "")),
        f"tcp port {d['port']}" if d.get("port") else "",
        " ".join(str(d.get(key, "")) for key in ("state", "reason") if d.get(key)),
    )


def _show_json(line: dict[str, Any]) -> None:
    print(json.dumps(line, ensure_ascii=False), flush=True)


def _show_event(line: dict[str, Any]) -> None:
    if line.get("event") == "Status":
        print(describe(line["status"]), flush=True)
        return
    what = {"MediatorChanged": "mediator", "PeerChanged": "peer"}.get(line["event"], "")
    parts = [what, line.get("name", ""), line.get("state", ""), line.get("text", "")]
    if line.get("error"):
        parts.append(f"({line['error']})")
    print(time.strftime("%H:%M:%S"), *[p for p in parts if p], flush=True)
