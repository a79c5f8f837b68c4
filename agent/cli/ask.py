"""Talking to the daemon for a command: progress to stderr, the result back, errors as ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from agent.errors import HearthgateError
from agent.layout import Layout

if TYPE_CHECKING:
    from pathlib import Path

Progress = Callable[[dict[str, Any]], None]

# Between two lines of the daemon: what it does by itself is quick, unless its SD card is not.
PROMPT_SECONDS = 15.0
# Longer than the daemon waits for others; `watch` tells when there is something to tell.
PATIENCE_SECONDS: dict[str, float | None] = {
    **dict.fromkeys(("accept", "connect", "devices", "get", "set"), 120.0),
    "watch": None,
}
STAGES = {
    "waiting": "waiting for the mediation server",
    "asking": "asking the mediation server",
    "checking": "punching holes",
    "connecting": "exchanging keys",
    "up": "connected",
    "answering": "waiting for the device",
}


class DaemonError(HearthgateError):
    """What the daemon said."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


def ask(root: Path, request: dict[str, Any], progress: Progress | None = None) -> Any:  # noqa: ANN401
    """Send one request; returns its result. Raises HearthgateError."""
    from agent.io.local import ControlClient

    patience = PATIENCE_SECONDS.get(str(request["command"]), PROMPT_SECONDS)
    for line in ControlClient(Layout(root).socket, timeout=patience).request(request):
        if not line.get("final"):
            if progress is not None:
                progress(line)
            continue
        if "error" in line:
            raise DaemonError(str(line["error"]), int(line.get("exit_code", 70)))
        return line.get("result")
    return None


def show_progress(line: dict[str, Any]) -> None:
    """One line on stderr for each stage of a connection."""
    stage = STAGES.get(str(line.get("state")), line.get("state"))
    print(f"  {line.get('seconds', 0):6.3f} s  {stage}", file=sys.stderr)


def print_json(value: object) -> None:
    """For scripts."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def table(rows: Sequence[tuple[str, ...]], indent: str = "") -> str:
    """Left-aligned columns."""
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        indent + "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def shown(value: object) -> str:
    """A value of a point for people: on and off, numbers as exact as they came."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def duration(seconds: float) -> str:
    """For people: 41 s, 5 min, 3 h, 12 d."""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
