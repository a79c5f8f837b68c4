"""A daemon or a command as a process of its own in a namespace, to its end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.lab.daemon import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agent.operations.lab import Namespace


@dataclass
class Ended:
    """What is left of a process."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The last line on stderr, which has to be the only error."""
        return self.err.strip().rpartition("\n")[2]


def environment(**more: str) -> dict[str, str]:
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), **more}
    env.pop("HEARTHGATE_DEBUG", None)
    env.pop("HEARTHGATE_ROOT", None)
    return env


def argv(root: Path, *words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "agent", "--root", str(root), *words]


def run(
    host: Namespace,
    root: Path,
    *words: str,
    wrap: Sequence[str] = (),
    seconds: float = 60,
    **env: str,
) -> Ended:
    """Run `hearthgate WORDS` to its end; no traceback may come of it."""
    done = subprocess.run(
        host.argv([*wrap, *argv(root, *words)]),
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "should not have happened" not in done.stderr, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


def config(root: Path, text: str) -> Path:
    """Write the configuration of `root`; returns its path."""
    path = root / "etc/hearthgate/hearthgate.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def wait(what: str, condition, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never {what}"
        time.sleep(0.02)
