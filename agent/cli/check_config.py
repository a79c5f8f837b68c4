"""Check the configuration file without starting anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.ask import print_json
from agent.house import read_config
from agent.layout import Layout

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which file."""
    parser.add_argument("file", nargs="?", type=Path, help="instead of the installed one")
    parser.add_argument("--json", action="store_true", help="for scripts")


def run(args: argparse.Namespace) -> int:
    """Read it; the first mistake is the error."""
    config = read_config(Layout(args.root), args.file)
    summary = {
        "mediators": [m.name for m in config.mediators],
        "mediates": config.mediate is not None,
        "peers": [p.name for p in config.peers],
        "devices": [d.name for d in config.devices],
    }
    if args.json:
        print_json(summary)
    else:
        print("The configuration is right:")
        for key, value in summary.items():
            shown = ", ".join(value) if isinstance(value, list) else ("yes" if value else "no")
            print(f"  {key:<10} {shown or 'none'}")
    return 0
