"""What the sessions of this room hand out; the driver joins it to sockets and ports."""

from __future__ import annotations

from typing import Any

from agent.records import record


@record(frozen=True, slots=True)
class ToLine:
    """Octets for the serial port; with `discard`, throw away first what it has received."""

    data: bytes
    discard: bool = False


@record(frozen=True, slots=True)
class ToClient:
    """Octets for one client, by the number that the driver gave it."""

    client: int
    data: bytes


@record(frozen=True, slots=True)
class CloseClient:
    """End the connection once what was sent before is out. `reason` is for log and counters."""

    client: int
    reason: str


@record(frozen=True, slots=True)
class ResetLine:
    """Set the line's parameters as configured: a new client begins."""


@record(frozen=True, slots=True)
class Probe:
    """Find out whether the client's machine is still there, and tell `SerialHub.alive`."""

    client: int


@record(frozen=True, slots=True)
class Audit:
    """A record for the audit log, without the time."""

    record: dict[str, Any]
