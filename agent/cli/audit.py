"""Who wrote what to the devices of this gateway, and what was refused."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agent.cli.ask import ask, print_json, shown, table

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much."""
    parser.add_argument("-n", "--count", type=int, default=20, help="how many records (20)")
    parser.add_argument("--json", action="store_true", help="for scripts")


def run(args: argparse.Namespace) -> int:
    """Ask the daemon."""
    records = ask(args.root, {"command": "audit", "count": args.count})
    if args.json:
        print_json(records)
        return 0
    rows = []
    for r in records:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(r.get("time") or 0))
        what = ".".join(str(r[k]) for k in ("device", "point") if r.get(k))
        change = " → ".join(shown(r[k]) for k in ("old", "new") if r.get(k) is not None)
        rows.append((when, str(r.get("peer", "")), what, change, str(r.get("result", ""))))
    print(table(rows) or "No writes yet.")
    return 0
