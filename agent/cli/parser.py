"""argparse for the commands: its errors become ours, with a hint at the help."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from agent.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would leave the process."""

    def error(self, message: str) -> NoReturn:
        """What argparse found wrong."""
        raise UsageError(f"{message}. See `{self.prog} --help`.")


def parse(name: str, module: ModuleType, root: Path, words: list[str]) -> argparse.Namespace:
    """The options of one command. Raises UsageError; --help prints and leaves."""
    parser = Parser(prog=f"hearthgate {name}", description=module.__doc__)
    parser.add_argument("--root", type=Path, default=root, help=argparse.SUPPRESS)
    module.add_arguments(parser)
    # Intermixed: options may stand between positional words (`get cabin --json boiler`).
    return parser.parse_intermixed_args(words)
