"""Run the daemon in the foreground, as the service does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agent.layout import Layout

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much is logged, and whether the keys are."""
    parser.add_argument("-v", "--verbose", action="store_true", help="log every detail")
    parser.add_argument(
        "--keylog",
        type=Path,
        metavar="FILE",
        help="for debugging: append the keys of all connections to FILE, in Wireshark's formats;"
        " whoever has FILE can read all traffic",
    )


def run(args: argparse.Namespace) -> int:
    """Until SIGTERM."""
    return start(args, mediate=None)


def start(args: argparse.Namespace, mediate: str | None) -> int:
    """Run; with `mediate` not None as a mediation server that others reach under that address."""
    if "asyncio" not in sys.modules and "ssl" not in sys.modules:
        # asyncio imports ssl if it is there, which costs 4 MB that nothing here needs.
        sys.modules["ssl"] = None  # type: ignore[assignment]
        import asyncio

        del sys.modules["ssl"]
    else:
        import asyncio
    from agent.serve import serve

    return asyncio.run(serve(Layout(args.root), mediate, verbose=args.verbose, keylog=args.keylog))
