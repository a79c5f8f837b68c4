"""Finding and ending the processes of a laboratory, also those of an owner that was killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

TERMINATE_SECONDS = 3.0
"""How long a process may take to end by itself; charon and our daemon need well under one."""


def start_ticks(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot; None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def end_children(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """End children of this process, all at once, and take their status."""
    for child in children:
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + TERMINATE_SECONDS
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def end_processes(inodes: set[int], marks: Sequence[bytes]) -> None:
    """End, first politely, who is in one of these network namespaces or carries one of these marks.

    A mark is an entry `NAME=value` of the process's environment. Cannot fail.
    """
    for signal_number, seconds in ((signal.SIGTERM, TERMINATE_SECONDS), (signal.SIGKILL, 1.0)):
        pids = _find(inodes, marks)
        if not pids:
            break
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal_number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(start_ticks(pid) for pid in pids):
            time.sleep(0.01)


def inode_of(path: Path) -> int | None:
    """The file's inode; None where there is no such file, or none that may be seen."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _find(inodes: set[int], marks: Sequence[bytes]) -> list[int]:
    """The processes meant (never this one)."""
    own = os.getpid()
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit()
        and int(entry.name) != own
        and (inode_of(entry / "ns" / "net") in inodes or _is_marked(entry, marks))
        and start_ticks(int(entry.name)) is not None
    ]


def _is_marked(process: Path, marks: Sequence[bytes]) -> bool:
    try:
        variables = (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(mark in variables for mark in marks)
