"""OpenWrt splits Python's library into packages: every module we need must be in one we depend on.

Two looks at it: what our own sources import (read with ast, so also what is imported late), and
what Python's library then imports by itself (observed in an interpreter). What is in which
package: openwrt/packages, lang/python/python3/files/python3-package-*.mk, branches 23.05, 24.10
and 25.12.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = ROOT / "firmware/openwrt/hearthgate/Makefile"
GENERATOR = ROOT / "firmware/openwrt/hearthgate/files/uci_toml.py"

# Modules that are split off from python3-light, C parts included.
SPLIT_OFF = {
    "asyncio": "python3-asyncio",
    "cgi": "python3-cgi",
    "cgitb": "python3-cgi",
    "ctypes": "python3-ctypes",
    "_ctypes": "python3-ctypes",
    "curses": "python3-ncurses",
    "_curses": "python3-ncurses",
    "dbm": "python3-dbm",
    "_gdbm": "python3-dbm",
    "decimal": "python3-decimal",
    "_decimal": "python3-decimal",
    "distutils": "python3-distutils",
    "email": "python3-email",
    "_hashlib": "python3-openssl",
    "_ssl": "python3-openssl",
    "lib2to3": "python3-lib2to3",
    "logging": "python3-logging",
    "lzma": "python3-lzma",
    "_lzma": "python3-lzma",
    "multiprocessing": "python3-multiprocessing",
    "_multiprocessing": "python3-multiprocessing",
    "pydoc": "python3-pydoc",
    "doctest": "python3-pydoc",
    "readline": "python3-readline",
    "sqlite3": "python3-sqlite3",
    "_sqlite3": "python3-sqlite3",
    "unicodedata": "python3-codecs",
    "unittest": "python3-unittest",
    "urllib": "python3-urllib",
    "uuid": "python3-uuid",
    "_uuid": "python3-uuid",
    "venv": "python3-venv",
    "webbrowser": "python3-webbrowser",
    "xml": "python3-xml",
    "xmlrpc": "python3-xml",
    "pyexpat": "python3-xml",
    "_elementtree": "python3-xml",
}
# Known to be in python3-base or python3-light. An import that is in neither list fails the test:
# look it up in the files named above, then add it here or there.
LIGHT = frozenset(
    """
    __future__ _operator abc argparse array base64 binascii bisect collections concurrent
    configparser contextlib copy csv dataclasses datetime difflib enum errno fcntl fnmatch
    functools gc getopt getpass glob grp gzip hashlib heapq hmac html http importlib inspect
    io ipaddress itertools json keyword locale math mmap numbers operator os pathlib pickle
    platform pwd queue random re reprlib resource sched secrets select selectors shlex shutil
    signal socket socketserver ssl stat string struct subprocess sys sysconfig syslog tempfile
    termios textwrap threading time token tokenize tomllib traceback tty types typing warnings
    weakref zlib
    """.split()  # noqa: SIM905  # a list of words reads better so
)
OURS = ("agent", "board")
THIRD_PARTY = {
    "cryptography": "python3-cryptography",
    "serial": "python3-pyserial",
    "microdot": "python3-microdot",
}
# In no feed; only imported where ImportError is caught, and what it does is left out then.
OPTIONAL = {"segno", "paho"}
# The library tries these and goes on without them.
TRIED_BY_THE_LIBRARY = {
    "_ssl": "asyncio, ssl",
    "_hashlib": "hashlib, which has its own",
    "_lzma": "shutil",
    "lzma": "shutil",
}


def dependencies() -> set[str]:
    text = MAKEFILE.read_text()
    block = re.search(r"DEPENDS:= \\\n((?:\t\+.*\n)+)", text)
    assert block is not None
    return set(re.findall(r"\+([\w-]+)", block[1]))


def sources() -> list[Path]:
    found = [p for name in OURS for p in sorted((ROOT / name).rglob("*.py"))]
    assert len(found) > 50
    return [*found, GENERATOR]


def imports(path: Path) -> dict[str, bool]:
    """Module -> whether every import of it stands in a `try` that catches ImportError."""
    found: dict[str, bool] = {}

    def visit(node: ast.AST, guarded: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                visit(child, guarded)
            return
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
        for name in names:
            found[name] = found.get(name, True) and guarded
        if isinstance(node, ast.Try):
            caught = " ".join(ast.dump(h.type) for h in node.handlers if h.type)
            inside = guarded or "ImportError" in caught or "ModuleNotFoundError" in caught
            for child in node.body:
                visit(child, inside)
            rest = [*node.handlers, *node.orelse, *node.finalbody]
        else:
            rest = list(ast.iter_child_nodes(node))
        for child in rest:
            visit(child, guarded)

    visit(ast.parse(path.read_text(), str(path)), False)
    return found


def package_of(module: str) -> str | None:
    """The OpenWrt package of a module, "" for python3-light; None if nobody looked it up."""
    top = module.partition(".")[0]
    if top in SPLIT_OFF:
        return SPLIT_OFF[top]
    if top in THIRD_PARTY:
        return THIRD_PARTY[top]
    return "" if top in LIGHT else None


def test_every_import_of_ours_is_in_a_package_that_we_depend_on():
    listed = dependencies()
    assert "python3-light" in listed
    for path in sources():
        for module, is_guarded in imports(path).items():
            top = module.partition(".")[0]
            where = f"{path.relative_to(ROOT)} imports {module}"
            if top in OURS:
                continue
            if top in OPTIONAL:
                assert is_guarded, f"{where}, which OpenWrt does not have, without a way out"
                continue
            package = package_of(module)
            assert package is not None, f"{where}: look up its OpenWrt package (see LIGHT)"
            assert not package or package in listed, f"{where}: add +{package} to DEPENDS"


def test_what_the_library_imports_by_itself_is_there_too():
    """pathlib needs urllib up to Python 3.12, asyncio needs logging: nobody sees that in ours."""
    wanted = sorted(
        {
            m
            for path in sources()
            for m in imports(path)
            if m.partition(".")[0] in LIGHT | set(SPLIT_OFF)
        }
    )
    program = (
        "import sys\nbefore = set()\nfor name in sys.argv[1:]:\n"
        "    __import__(name)\n    new = set(sys.modules) - before\n    before |= new\n"
        "    print(name, *sorted(new))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, *wanted],
        capture_output=True,
        text=True,
        check=True,
    )
    listed = dependencies()
    seen = 0
    for line in done.stdout.splitlines():
        name, *loaded = line.split()
        for module in loaded:
            top = module.partition(".")[0]
            package = SPLIT_OFF.get(top, "")
            seen += 1
            if top in TRIED_BY_THE_LIBRARY:
                continue
            assert not package or package in listed, f"{name} needs {module}: add +{package}"
    assert seen > 100


def test_no_dependency_is_listed_in_vain():
    used = {package_of(module) for path in sources() for module in imports(path)}
    # kmod-tun: /dev/net/tun; codecs: host names beyond ASCII; urllib: pathlib, see above.
    known = used | {"kmod-tun", "python3-light", "python3-codecs", "python3-urllib"}
    assert dependencies() <= known


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import a.b", {"a.b": False}),
        ("from a.b import c", {"a.b": False}),
        ("try:\n import a\nexcept ImportError:\n import b", {"a": True, "b": False}),
        ("try:\n import a\nexcept OSError:\n pass", {"a": False}),
        ("def f():\n  import a", {"a": False}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n import a", {"typing": False}),
    ],
)
def test_how_imports_are_read(tmp_path, text, expected):
    path = tmp_path / "x.py"
    path.write_text(text)
    assert imports(path) == expected
