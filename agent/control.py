"""The control protocol: what commands ask the daemon, as JSON lines. Pure.

A request is one object with "command" and its arguments. The daemon answers any number of lines
{"event": …} while it works, then one with "final": true, either "result" or "error" (a sentence)
with "exit_code" after sysexits.
"""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from typing import Any

from agent.errors import UsageError

# command → argument → (type, whether it has to be there)
COMMANDS: dict[str, dict[str, tuple[type, bool]]] = {
    "status": {},
    "watch": {},
    "connect": {"peer": (str, True), "forward": (bool, False)},
    "disconnect": {"peer": (str, True)},
    "rekey": {"peer": (str, True), "ike": (bool, False)},
    "invite": {"name": (str, True), "role": (str, True), "seconds": (int, True)},
    "accept": {"invitation": (str, True), "name": (str, False)},
    "peers": {},
    "revoke": {"peer": (str, True)},
    "grant": {
        "peer": (str, True),
        "role": (str, False),
        "add": (list, False),
        "remove": (list, False),
    },
    "devices": {"peer": (str, False)},
    "get": {"peer": (str, False), "device": (str, True), "point": (str, False)},
    "set": {
        "peer": (str, False),
        "device": (str, True),
        "point": (str, True),
        "value": (object, True),
    },
    "audit": {"count": (int, False)},
    "drain": {"address": (str, True), "key": (str, True)},
}
MAX_TEXT = 4096  # characters of an argument; an invitation has about 250


def check_request(request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The command and its arguments. Raises UsageError for anything that is not in the table."""
    name = request.get("command")
    if not isinstance(name, str) or name not in COMMANDS:
        raise UsageError("The daemon does not know this command; are both of the same version?")
    arguments = {key: value for key, value in request.items() if key != "command"}
    known = COMMANDS[name]
    for key, value in arguments.items():
        if key not in known or not isinstance(value, known[key][0]) or _is_long(value):
            raise UsageError(f"{name}: the argument {key[:40]!r} is not understood.")
        if known[key][0] is int and isinstance(value, bool):
            raise UsageError(f"{name}: {key} is a number.")
    for key, (_, required) in known.items():
        if required and key not in arguments:
            raise UsageError(f"{name}: {key} is missing.")
    return name, arguments


def event_line(event: object) -> dict[str, Any] | None:
    """An event as a line for clients that watch; None if it is not for them. Shows no keys."""
    kind = type(event).__name__
    if kind not in ("MediatorChanged", "PeerChanged", "Notice") or not is_dataclass(event):
        return None
    assert not isinstance(event, type)
    fields = {key: _plain(value) for key, value in asdict(event).items() if value not in (None, "")}
    return {"event": kind, **fields}


def _plain(value: Any) -> Any:  # noqa: ANN401  # any JSON value
    return value if isinstance(value, str | int | float | bool) else str(value)


def _is_long(value: object) -> bool:
    return isinstance(value, str | list) and len(value) > MAX_TEXT
