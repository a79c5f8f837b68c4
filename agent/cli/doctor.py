"""Find out what is wrong: rights, devices, files, clock, network, daemon, registration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.cli.ask import print_json
from agent.layout import Layout
from agent.operations.doctor import Finding, examine

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How."""
    parser.add_argument("--json", action="store_true", help="for scripts")


def run(args: argparse.Namespace) -> int:
    """Look at everything; 0 if nothing is wrong, 1 otherwise."""
    findings = examine(Layout(args.root))
    if args.json:
        print_json([{"what": f.what, "ok": f.ok, "text": f.text} for f in findings])
    else:
        for finding in findings:
            print(_line(finding))
    return 0 if all(f.ok is not False for f in findings) else 1


def _line(finding: Finding) -> str:
    mark = {True: "ok  ", False: "FAIL", None: "note"}[finding.ok]
    return f"{mark}  {finding.what}: {finding.text}"
