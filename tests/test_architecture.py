"""Who imports whom: the table of ARCHITECTURE.md, read from the sources and enforced.

Every import counts, also inside functions and under TYPE_CHECKING: what a room's types need, it
depends on. The rules stand in the tables below; `violations` applies them to one source text, so
that the negative cases at the end prove that each of them can fail.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

COMMON = {"timers", "datagram", "errors", "records", "status"}
"""Import nothing of ours; everyone may import them. (`agent` itself holds the version.)"""

PURE = {
    "wire", "crypto", "timers", "datagram", "config", "ike", "mediation", "ipsec", "nat",
    "bridge", "engine", "control", "errors", "status", "toml_table", "layout", "invitation",
    "peers", "profiles", "moves",
}  # fmt: skip

IMPORTS: dict[str, set[str]] = {
    # room: the rooms of agent that it may import, besides COMMON and itself
    **{name: set() for name in COMMON},
    "wire": set(),
    "crypto": {"wire"},
    "ike": {"wire", "crypto"},
    "mediation": {"wire", "crypto", "ike"},
    "ipsec": {"wire", "crypto"},
    "nat": {"wire", "crypto"},
    "bridge": set(),
    "engine": {"ike", "mediation", "ipsec", "nat", "wire", "crypto", "invitation"},
    "io": {"wire.esp"},
    "web": {"bridge", "control"},
    # What stands between files, people and the engine: values and pure functions on them.
    "toml_table": set(),
    "layout": set(),
    "config": {"wire", "crypto", "bridge", "toml_table"},
    "invitation": {"wire", "crypto"},
    "peers": {"crypto", "invitation", "bridge"},
    "moves": {"config", "crypto", "ike", "engine"},
    "profiles": {"config", "wire", "crypto", "bridge", "ike", "ipsec", "engine", "invitation",
                 "peers", "moves"},
    "control": {"bridge"},
    "operations": {"config", "control", "crypto", "io", "board", "invitation", "layout", "peers",
                   "moves", "bridge", "toml_table", "house"},
    "cli": {"config", "control", "operations", "daemon", "layout", "invitation", "io", "crypto",
            "wire", "bridge", "peers", "profiles", "house", "serve", "board"},
    "__main__": {"cli"},
}  # fmt: skip
EVERYTHING = {"daemon", "house", "ticket_keys", "commands", "forward", "services", "serve",
              "tunnels"}  # fmt: skip
"""The composition root and the files that it is cut into."""

IMPURE = {"asyncio", "os", "random", "secrets", "select", "selectors", "socket", "threading",
          "time", "subprocess", "fcntl", "signal", "tempfile", "shutil", "serial", "ssl",
          "ctypes", "mmap", "termios", "pty", "multiprocessing", "concurrent", "uuid",
          "locale", "http", "urllib", "logging.handlers"}  # fmt: skip
"""What a pure room may not import: whatever reads the world or changes it."""
IMPURE_CALLS = {"open", "input", "print", "exec", "eval", "__import__", "breakpoint"}

SYSTEM = {"socket", "select", "selectors", "fcntl", "termios", "tty", "pty", "ctypes", "mmap",
          "serial", "paho", "ssl"}  # fmt: skip
"""Ways to the operating system that only agent/io uses."""
SYSTEM_EXCEPTIONS = {
    # (room, module): why
    ("daemon", "socket"): "names address families when it tells io what to open",
    ("services", "socket"): "names address families when it tells io what to listen on",
    ("commands", "socket"): "the host name that a machine is called by",
    ("house", "socket"): "the host name that a machine is called by",
    ("operations", "pty"): "the demo's simulated controller sits on a pseudo-terminal",
    ("operations", "termios"): "the demo's simulated controller sits on a pseudo-terminal",
    ("operations", "tty"): "the demo's simulated controller sits on a pseudo-terminal",
    ("operations", "select"): "the demo's simulated controller waits for octets",
    ("operations", "socket"): "doctor opens sockets to see whether it may",
    ("operations", "fcntl"): "doctor asks the kernel for a TUN device to see whether it may",
    ("web", "socket"): "names the type of the listening socket that the daemon hands over",
    ("cli", "socket"): "names address families",
    ("cli", "select"): "a command waits for the daemon and the keyboard",
}
NOWHERE = {
    "hashlib": "cryptography hashes too, and hashlib loads a second OpenSSL (3.7 MB)",
    "hmac": "it imports hashlib; use cryptography's HMAC and constant_time.bytes_eq",
    "random": "randomness is passed in and comes from os.urandom",
    "pickle": "nothing that was stored or received may run",
}
ONLY_IN = {
    "cryptography": {
        "crypto",
        "ike",
        "mediation",
        "engine",
        "bridge",
        "invitation",
        "peers",
        "operations",
    },
    "microdot": {"web"},
    "serial": {"io"},
    "paho": {"io"},
    "subprocess": {"operations", "cli"},
    "segno": {"cli"},
}
"""Modules that only some rooms of agent may use (beyond these: board is free in its own house)."""


def imports_of(tree: ast.AST, package: str) -> list[tuple[str, int]]:
    """(absolute module name, line) of every import; `from a import b` counts as both a and a.b."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            found += [(f"{base}.{alias.name}", node.lineno) for alias in node.names]
    return found


def room_of(module: str) -> str:
    """`agent.ike.sa` lives in `ike`, `agent.config` in `config`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def may_import(room: str, target: str) -> bool:
    """Whether the table lets `room` import `target` (as "agent.wire.esp.classify" or "board.x")."""
    if room in EVERYTHING:
        return True
    allowed = IMPORTS.get(room, set())
    if target.startswith("board"):
        return "board" in allowed
    inside = target.removeprefix("agent.")
    first = inside.split(".")[0]
    if first in COMMON | {room, "__version__"} or inside == "agent":
        return True
    return any(inside == name or inside.startswith(name + ".") for name in allowed)


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What in `source`, the text of `module`, breaks the rules; empty if nothing does."""
    tree = ast.parse(source)
    package = module if is_package else module.rpartition(".")[0]
    found = []
    for name, line in imports_of(tree, package):
        reason = _ours(module, name) or _foreign(module, name)
        if reason:
            found.append(f"{module}:{line} imports {name}: {reason}")
    if module.startswith("agent.") and room_of(module) in PURE:
        found += [
            f"{module}:{node.lineno} reads the clock ({node.attr}): the room is pure"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today")
            if isinstance(node.value, ast.Name) and node.value.id in ("datetime", "date")
        ]
        found += [
            f"{module}:{node.lineno} calls {node.func.id}(): the room is pure"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in IMPURE_CALLS
        ]
    return found


def _ours(module: str, name: str) -> str:
    top = name.split(".")[0]
    if top not in ("agent", "board"):
        return ""
    if module.startswith("board"):
        return "" if top == "board" else "board knows nothing of the agent"
    if module == "agent":
        return "the package itself imports nothing"
    room = room_of(module)
    if room not in IMPORTS and room not in EVERYTHING:
        return f"the room '{room}' is not in the table; add it there and to ARCHITECTURE.md"
    return "" if may_import(room, name) else f"the table does not let {room} do so"


def _foreign(module: str, name: str) -> str:
    if not module.startswith("agent"):
        return ""
    top, room = name.split(".")[0], room_of(module)
    if top in NOWHERE:
        return NOWHERE[top]
    if room in PURE and (top in IMPURE or name in IMPURE):
        return f"{room} is pure"
    if top in SYSTEM and room != "io" and (room, top) not in SYSTEM_EXCEPTIONS:
        return "only agent/io calls the operating system"
    if top in ONLY_IN and room not in ONLY_IN[top]:
        return f"only {', '.join(sorted(ONLY_IN[top]))} may use {top}"
    return ""


def modules() -> list[tuple[str, Path]]:
    """(module name, file) of everything under agent/ and board/."""
    found = []
    for top in ("agent", "board"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = list(path.relative_to(ROOT).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts.pop()
            found.append((".".join(parts), path))
    return found


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: str(value)[-60:])
def test_imports_follow_the_table(module: str, path: Path) -> None:
    found = violations(module, path.read_text(), is_package=path.name == "__init__.py")
    assert not found, "\n".join(found)


def test_every_room_has_its_row() -> None:
    rooms = {room_of(module) for module, _ in modules() if module.startswith("agent.")}
    assert rooms <= set(IMPORTS) | EVERYTHING


def test_the_table_has_no_circles() -> None:
    """A room that could import itself by way of others would be one room in truth."""
    graph = {room: {name.split(".")[0] for name in names} for room, names in IMPORTS.items()}

    def reachable(room: str, seen: frozenset[str]) -> set[str]:
        found = set()
        for after in graph.get(room, set()) - seen:
            found |= {after} | reachable(after, seen | {after})
        return found

    circles = {room for room in graph if room in reachable(room, frozenset())}
    assert not circles


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("agent.ike.sa", "from agent.mediation.client import MediationClient"),
        ("agent.ike.sa", "import agent.ipsec.sad"),
        ("agent.ike.sa", "from agent import ipsec"),
        ("agent.ike.sa", "from ..mediation import client"),
        ("agent.ike.sa", "def f():\n    from agent.io import udp"),
        ("agent.ike.sa", "if TYPE_CHECKING:\n    from agent.engine import Engine"),
        ("agent.wire.message", "from agent.crypto import auth"),
        ("agent.ipsec.esp", "from agent.ike import events"),
        ("agent.io.udp", "from agent.wire.message import decode_message"),
        ("agent.engine.engine", "from agent.io.udp import UdpSocket"),
        ("agent.crypto.kex", "import secrets"),
        ("agent.crypto.kex", "from os import urandom"),
        ("agent.mediation.client", "import time"),
        ("agent.bridge.modbus", "import asyncio"),
        ("agent.timers", "import time"),
        ("agent.timers", "from agent.wire import codes"),
        ("agent.config", "text = open('x').read()"),
        ("agent.bridge.audit", "from datetime import datetime\nat = datetime.now()"),
        ("agent.web.app", "import select"),
        ("agent.web.app", "from agent.engine import Engine"),
        ("agent.ike.sa", "import hashlib"),
        ("agent.io.clock", "from random import random"),
        ("agent.ike.sa", "import microdot"),
        ("agent.newroom.file", "from agent.wire import codes"),
        ("agent.engine.engine", "import board.storage"),
        ("board.storage", "from agent import errors"),
        ("agent", "from agent import daemon"),
    ],
)
def test_a_breach_is_found(module: str, source: str) -> None:
    assert violations(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("agent.ike.sa", "from agent.wire import message\nfrom agent.crypto.kex import x"),
        ("agent.ike.sa", "from . import events\nfrom .events import IkeSaClosed"),
        ("agent.mediation.client", "from agent.ike.extension import Extension"),
        ("agent.io.udp", "import socket\nfrom agent.wire.esp import classify"),
        ("agent.daemon", "from agent.engine import Engine\nfrom board import storage"),
        ("board.storage", "import os, hashlib\nfrom board import errors"),
        ("agent.operations.demo", "import subprocess\nfrom agent.operations.lab import Lab"),
    ],
)
def test_what_is_allowed_is_not_a_breach(module: str, source: str) -> None:
    assert not violations(module, source)
