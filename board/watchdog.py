"""Readiness, status and liveness for systemd: the sd_notify protocol, without its library.

Datagrams of `KEY=value` lines to the socket in NOTIFY_SOCKET (a path, or an abstract name that
begins with @). Under procd, or started by hand, there is no such socket and every call does
nothing. /dev/watchdog is left to the init system: it belongs to one process, and a daemon that
holds it would reboot the board for its own mistakes.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

MAX_STATUS = 200  # characters shown by `systemctl status`


class Notifier:
    """Tells the init system how we are. No call fails or blocks."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        """Takes its variables out of `environment` (os.environ), so no child speaks for us."""
        variables = os.environ if environment is None else environment
        address = variables.pop("NOTIFY_SOCKET", "")
        microseconds = variables.pop("WATCHDOG_USEC", "")
        process = variables.pop("WATCHDOG_PID", "")
        self._socket = _connected(address)
        self._seconds: float | None = None
        if microseconds.isdecimal() and process in ("", str(os.getpid())):
            self._seconds = int(microseconds[:18]) / 1e6 or None

    @property
    def is_watched(self) -> bool:
        """Whether somebody listens."""
        return self._socket is not None

    @property
    def interval(self) -> float | None:
        """Seconds between two calls of `alive`, None if nobody waits for them."""
        return self._seconds / 2 if self._socket and self._seconds else None

    def ready(self, status: str = "") -> None:
        """Start-up is complete: sockets open, configuration read."""
        self._send("READY=1", status)

    def alive(self, status: str = "") -> None:
        """The loop runs. To be called from the loop itself, every `interval` seconds."""
        self._send("WATCHDOG=1", status)

    def status(self, status: str) -> None:
        """One line for people."""
        self._send("", status)

    def stopping(self, status: str = "") -> None:
        """The end has begun."""
        self._send("STOPPING=1", status)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, what: str, status: str) -> None:
        if self._socket is None:
            return
        text = "".join(c if c.isprintable() else " " for c in status)[:MAX_STATUS]
        lines = [what] if what else []
        if text:
            lines.append(f"STATUS={text}")
        try:
            self._socket.send("\n".join(lines).encode("utf-8", "replace"))
        except OSError:
            return  # full or gone: the next one tells as much


def _connected(address: str) -> socket.socket | None:
    if not address.startswith(("/", "@")):
        return None
    connection = socket.socket(
        socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    )
    try:
        connection.connect("\0" + address[1:] if address.startswith("@") else address)
    except OSError:
        connection.close()
        return None
    return connection
