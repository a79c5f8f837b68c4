"""The command line: one small module a command, imported only when it is called.

Exit codes follow sysexits. No traceback reaches a person: an error is one sentence on stderr.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

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
DAEMONS = ("run", "mediate")
EX_SOFTWARE, EX_USAGE, EX_UNAVAILABLE, EX_INTERRUPTED, EX_IOERR = 70, 64, 69, 130, 74


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if sys.stdout is None or sys.stderr is None:  # closed by who called: `>&-`, some init systems
        nowhere = open(os.devnull, "w")  # noqa: SIM115  # as long as the process lives
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without ° shows ?
    try:
        code = _run(arguments)
        sys.stdout.flush()  # here, where a closed pipe or a full disk can still be told
        return code
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
    except OSError as error:
        if os.environ.get("HEARTHGATE_DEBUG"):
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"hearthgate: {where}{error.strerror or error}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EX_IOERR
    except Exception as error:
        from board.errors import BoardError

        if isinstance(error, BoardError):
            print(f"hearthgate: {error.sentence}", file=sys.stderr)
            return error.exit_code
        return _unexpected(error)


def _run(arguments: list[str]) -> int:
    root, name, words = _split(arguments)
    if name in ("", "--help", "-h"):
        print(_overview())
        return 0 if name else EX_USAGE
    if name == "--version":
        print(f"hearthgate {__version__}")
        return 0
    if name not in COMMANDS:
        raise UsageError(_unknown(name))
    module = importlib.import_module(f"agent.cli.{name.replace('-', '_')}")
    if name in DAEMONS and (plain := _plain_options(name, words)) is not None:
        # argparse with all that it imports would stay in the daemon's memory: 1.2 MB.
        return int(module.run(SimpleNamespace(root=root, **plain)))
    from agent.cli.parser import parse

    return int(module.run(parse(name, module, root, words)))


def _split(arguments: list[str]) -> tuple[Path, str, list[str]]:
    """Root, command and its words. `--root` may stand before the command. Raises UsageError."""
    root, rest = os.environ.get("HEARTHGATE_ROOT", "/"), list(arguments)
    while rest and rest[0].startswith("--root"):
        option, equals, value = rest.pop(0).partition("=")
        if option != "--root" or (not equals and not rest):
            raise UsageError("--root wants a folder: --root DIR.")
        root = value if equals else rest.pop(0)
    if not rest:
        return Path(root), "", []
    return Path(root), rest[0], rest[1:]


def _plain_options(name: str, words: list[str]) -> dict[str, object] | None:
    """The few options of the daemons; None for anything else (--help, mistakes)."""
    plain: dict[str, object] = {"verbose": False, "address": "", "keylog": None, "drain": ""}
    left = list(words)
    while left:
        word = left.pop(0)
        if word in ("-v", "--verbose"):
            plain["verbose"] = True
        elif word == "--address" and left and name == "mediate":
            plain["address"] = left.pop(0)
        else:
            return None
    return plain


def _unknown(name: str) -> str:
    import difflib

    if name.startswith("-"):
        return f"{name[:40]!r} is no option; `hearthgate --help` lists the commands."
    near = difflib.get_close_matches(name, COMMANDS, 1)
    hint = f"did you mean {near[0]}?" if near else "`hearthgate --help` lists the commands."
    return f"There is no command {name[:40]!r}; {hint}"


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
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("agent"):
        print(
            f"hearthgate: the Python package {error.name} is missing: install it, or, in a "
            "checkout, remove the folder .venv and call ./hearthgate again.",
            file=sys.stderr,
        )
        return EX_UNAVAILABLE
    print(
        f"hearthgate: this should not have happened ({type(error).__name__}: {error}). "
        "With HEARTHGATE_DEBUG=1 the details are shown; please report them.",
        file=sys.stderr,
    )
    return EX_SOFTWARE
