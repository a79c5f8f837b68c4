"""The command line: one small module a command, imported only when it is called.

Exit codes follow sysexits. No traceback reaches a person: an error is one sentence on stderr.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from agent import __version__
from agent.errors import HearthgateError, UsageError

# name → what it does, in the order of the first hour
COMMANDS = {
    "demo": "show the main job on this one machine",
    "mediate": "run a mediation server",
    "setup": "make this machine a gateway: keys, configuration, service",
    "run": "run the daemon in the foreground",
    "invite": "invite somebody to connect to this gateway",
    "accept": "accept an invitation: pair this machine with a gateway",
    "connect": "open the tunnel to a gateway and show what is behind it",
    "disconnect": "close the tunnel and stop asking for it",
    "status": "what the daemon is doing",
    "get": "read points of a device",
    "set": "change a point of a device",
    "peers": "who is paired with this machine",
    "grant": "change what a peer may do here",
    "revoke": "forget a peer or an invitation",
    "audit": "who wrote what to the devices",
    "doctor": "find out what is wrong",
    "check-config": "check the configuration file",
    "rekey": "make new session keys with a peer now",
    "export-identity": "save keys and pairings of this board, encrypted",
    "import-identity": "give this board the identity of the one it replaces",
    "service": "install or remove the system service",
    "completion": "print shell completion for bash, zsh or fish",
}
EX_SOFTWARE, EX_USAGE, EX_INTERRUPTED, EX_IOERR = 70, 64, 130, 74


class Parser(argparse.ArgumentParser):
    """Errors become ours, with a hint at the help."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """Raises UsageError instead of leaving."""
        raise UsageError(f"{message}. See `{self.prog} --help`.")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        return _run(arguments)
    except HearthgateError as error:
        print(f"hearthgate: {error.sentence}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return EX_INTERRUPTED
    except BrokenPipeError:
        # `hearthgate status | head`: nobody reads any more. Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EX_IOERR
    except Exception as error:
        from board.errors import BoardError

        if isinstance(error, BoardError):
            print(f"hearthgate: {error.sentence}", file=sys.stderr)
            return error.exit_code
        return _unexpected(error)


def _run(arguments: list[str]) -> int:
    top = _top_parser()
    options, rest = top.parse_known_args(_before_command(arguments))
    if options.version:
        print(f"hearthgate {__version__}")
        return 0
    command = arguments[len(_before_command(arguments)) :]
    if not command:
        print(_overview())
        return 0 if options.help else EX_USAGE
    name = command[0]
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else "`hearthgate --help` lists the commands."
        raise UsageError(f"There is no command {name!r}; {hint}")
    if rest:
        raise UsageError(f"{rest[0]}: unknown option before the command.")
    module = importlib.import_module(f"agent.cli.{name.replace('-', '_')}")
    parser = Parser(prog=f"hearthgate {name}", description=module.__doc__)
    parser.add_argument("--root", type=Path, default=options.root, help=argparse.SUPPRESS)
    module.add_arguments(parser)
    return int(module.run(parser.parse_args(command[1:])))


def _top_parser() -> Parser:
    parser = Parser(prog="hearthgate", add_help=False)
    parser.add_argument("--root", type=Path, default=Path(os.environ.get("HEARTHGATE_ROOT", "/")))
    parser.add_argument("--version", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    return parser


def _before_command(arguments: list[str]) -> list[str]:
    at = 0
    while at < len(arguments) and arguments[at].startswith("-"):
        at += 2 if arguments[at] == "--root" else 1
    return arguments[:at]


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hearthgate [--root DIR] COMMAND …",
            "",
            "Reach the devices behind somebody's NAT router through a direct, encrypted tunnel.",
            "",
            *lines,
            "",
            "`hearthgate COMMAND --help` says more. --root DIR moves all files below DIR.",
        ]
    )


def _unexpected(error: Exception) -> int:
    if os.environ.get("HEARTHGATE_DEBUG"):
        raise error
    print(
        f"hearthgate: this should not have happened ({type(error).__name__}: {error}). "
        "With HEARTHGATE_DEBUG=1 the details are shown; please report them.",
        file=sys.stderr,
    )
    return EX_SOFTWARE
