"""Audit records: every write, and every refused one, is one line of JSON.

    {"time": 1795252443.2, "peer": "laptop", "device": "boiler", "point": "setpoint",
     "old": 20.0, "new": 21.5, "result": "ok"}

Writes over raw Modbus have `unit`, `function` and, where it can be told, `registers` (first and
last) besides, an empty `point`, and in `new` the octets in hexadecimal.

A program that writes every second would wear out the flash that the log is on: beyond a budget,
records that say the same but for their values are told together, the last of them with `repeated`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from agent.bridge.plain import plain_text

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TEXT = 200  # characters of any text in a record: a peer chooses some of them
MAX_LINE = 2048  # octets; never reached by the records of this room, a bound for others


# Lines at once, and seconds for one more: at most some 3,000 a day, or 0.7 MB.
BUDGET_LINES = 200
BUDGET_SECONDS = 30.0
MAX_FOLDED = 32  # different records that wait to be told together; more are told as one of them


class AuditBudget:
    """Lets records through as long as there is a budget, and gathers what is beyond it.

    `offer` and `handle_timer` return the records to be written now. Times in monotonic seconds.
    """

    def __init__(self) -> None:
        self._lines = float(BUDGET_LINES)
        self._since: float | None = None
        self._folded: dict[str, dict[str, Any]] = {}

    def offer(self, record: dict[str, Any], now: float) -> list[dict[str, Any]]:
        """A new record."""
        self._refill(now)
        if not self._folded and self._lines >= 1:
            self._lines -= 1
            return [record]
        key = json.dumps({k: v for k, v in record.items() if k not in ("time", "old", "new")})
        known = self._folded.pop(key, None)
        if known is None and len(self._folded) >= MAX_FOLDED:
            key, known = next(iter(self._folded.items()))
            record = {**record, "result": "several writes, of which this was the last"}
        self._folded[key] = {**record, "repeated": known["repeated"] + 1 if known else 1}
        return self.handle_timer(now)

    def next_timeout(self) -> float | None:
        """When the next gathered record can be told."""
        if not self._folded or self._since is None:
            return None
        return self._since + max(0.0, 1 - self._lines) * BUDGET_SECONDS

    def handle_timer(self, now: float) -> list[dict[str, Any]]:
        """The gathered records that the budget allows by now."""
        self._refill(now)
        told = []
        # A little less than one will do: deadlines are sums of floats.
        while self._folded and self._lines >= 1 - 1e-6:
            self._lines -= 1
            told.append(self._folded.pop(next(iter(self._folded))))
        return told

    def finish(self) -> list[dict[str, Any]]:
        """All that was gathered: the end."""
        told = list(self._folded.values())
        self._folded.clear()
        return told

    def _refill(self, now: float) -> None:
        if self._since is not None:
            gained = (now - self._since) / BUDGET_SECONDS
            self._lines = min(self._lines + gained, float(BUDGET_LINES))
        self._since = now


def write_record(
    *, peer: str, device: str, point: str, old: object, new: object, result: str
) -> dict[str, Any]:
    """A record without its time. Texts are one short line, what is no value becomes text."""
    record = {"peer": peer, "device": _plain(device), "point": _plain(point)}
    return {**record, "old": _plain(old), "new": _plain(new), "result": _plain(result)}


def stamped(record: Mapping[str, Any], wall_clock: float) -> dict[str, Any]:
    """The record with its time first; `wall_clock` is seconds since 1970."""
    return {"time": round(wall_clock, 1), **record}


def encode_line(record: Mapping[str, Any]) -> str:
    """One line, without its newline. Cannot fail for records of this room.

    Everything outside ASCII is escaped: nothing can act on a terminal or make a second line.
    """
    line = json.dumps(record, separators=(",", ":"), allow_nan=False)
    if len(line) >= MAX_LINE:
        kept = {key: record.get(key) for key in ("time", "peer", "device", "point")}
        line = json.dumps({**kept, "result": "record too long"}, separators=(",", ":"))
    return line


def _plain(value: object) -> object:
    """A value that JSON has, or a short text of what is none."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 1 << 64:
        return value
    if isinstance(value, float) and abs(value) < float("inf"):
        return value
    try:
        return plain_text(str(value), MAX_TEXT)
    except ValueError:
        return "a number without end"  # Python refuses to write out more than 4300 digits
