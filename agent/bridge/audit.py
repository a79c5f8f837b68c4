"""Audit records: every write, and every refused one, is one line of JSON.

    {"time": 1795252443.2, "peer": "laptop", "device": "boiler", "point": "setpoint",
     "old": 20.0, "new": 21.5, "result": "ok"}

Writes over raw Modbus have `unit`, `function` and, where it can be told, `registers` (first and
last) besides, an empty `point`, and in `new` the octets in hexadecimal.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TEXT = 200  # characters of any text in a record: a peer chooses some of them
MAX_LINE = 2048  # octets; never reached by the records of this room, a bound for others


def write_record(
    *, peer: str, device: str, point: str, old: object, new: object, result: str
) -> dict[str, Any]:
    """A record without its time. Texts are cut, what is not a plain value becomes text."""
    record = {"peer": peer, "device": device, "point": point}
    return {**record, "old": _plain(old), "new": _plain(new), "result": _plain(result)}


def stamped(record: Mapping[str, Any], wall_clock: float) -> dict[str, Any]:
    """The record with its time first; `wall_clock` is seconds since 1970."""
    return {"time": round(wall_clock, 1), **record}


def encode_line(record: Mapping[str, Any]) -> bytes:
    """One line with its newline. Cannot fail for records of this room.

    Everything outside ASCII is escaped: nothing can act on a terminal or make a second line.
    """
    line = json.dumps(record, separators=(",", ":"), allow_nan=False)
    if len(line) >= MAX_LINE:
        kept = {key: record.get(key) for key in ("time", "peer", "device", "point")}
        line = json.dumps({**kept, "result": "record too long"}, separators=(",", ":"))
    return line.encode("ascii") + b"\n"


def _plain(value: object) -> object:
    """A value that JSON has, or a short text of what is none."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 1 << 64:
        return value
    if isinstance(value, float) and abs(value) < float("inf"):
        return value
    try:
        return str(value)[:MAX_TEXT]
    except ValueError:
        return "a number without end"  # Python refuses to write out more than 4300 digits
