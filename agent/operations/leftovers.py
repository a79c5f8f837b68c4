"""Whose a laboratory is, and the removal of those that nobody wants any more.

Namespaces and folders carry their owner in their names: pid and start time of the process that made
them, in base 36. One that lives no more cannot clean up.
"""

# ruff: noqa: S603, S607
# The arguments are this module's own, and `ip` stands where the system has it.

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from agent.operations.processes import end_processes, inode_of, start_ticks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NETNS = Path("/run/netns")
KEPT = "kept"
"""A file of this name in a laboratory's folder says that it outlives its process on purpose."""

MARK = "HEARTHGATE_LAB"
"""In the environment of every process that a laboratory starts: the laboratory's folder."""

_OWNER = re.compile(r"^hg-([0-9a-z]+)-([0-9a-z]+)-")


def remove_stale() -> list[str]:
    """Remove laboratories whose process is gone (crash, kill); returns namespaces and folders."""
    return _remove_owned(lambda owner: not _is_alive(owner) and not _is_kept(owner))


def remove_kept(owner: str = "") -> list[str]:
    """Remove laboratories that were kept on purpose (of one `Lab.owner`, or all); the same."""
    return _remove_owned(lambda tag: _is_kept(tag) and owner in ("", "-".join(tag)))


def _remove_owned(condition: Callable[[tuple[str, str]], bool]) -> list[str]:
    names = [entry.name for entry in NETNS.iterdir()] if NETNS.is_dir() else []
    chosen = [n for n in names if (m := _OWNER.match(n)) and condition((m[1], m[2]))]
    folders = [f for f in _folders("*") if (m := _OWNER.match(f.name)) and condition((m[1], m[2]))]
    if chosen or folders:
        remove(chosen, folders)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return [*chosen, *map(str, folders)]


def remove(names: Sequence[str], folders: Sequence[Path]) -> None:
    """End what runs in the namespaces or was started by these laboratories, delete the namespaces.

    Both are asked for: a process may have left its namespace, and those of an ordinary user have
    no name outside of the mount namespace that he got for them. Cannot fail.
    """
    inodes = {inode for name in names if (inode := inode_of(NETNS / name)) is not None}
    end_processes(inodes, [f"{MARK}={folder}".encode() for folder in folders])
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _folders(owner: str) -> list[Path]:
    root = Path(tempfile.gettempdir())
    found = []
    for folder in root.glob(f"hg-{owner}-*"):
        with contextlib.suppress(OSError):  # another laboratory may be taking it away right now
            if folder.is_dir() and folder.stat().st_uid == os.getuid():
                found.append(folder)
    return found


def _is_kept(owner: tuple[str, str]) -> bool:
    return any((folder / KEPT).exists() for folder in _folders("-".join(owner)))


def own_tag() -> str:
    """This process, as it stands in the names of what it makes."""
    pid = os.getpid()
    return f"{_base36(pid)}-{_base36(start_ticks(pid) or 0)}"


def _is_alive(owner: tuple[str, str]) -> bool:
    pid, started = (int(part, 36) for part in owner)
    return start_ticks(pid) == started


def _base36(number: int) -> str:
    digits = ""
    while number or not digits:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits
