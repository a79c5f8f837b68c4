"""What the services of the three kinds of device have in common."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from agent.bridge.devices import DeviceConfig


class DeviceService(ABC):
    """One device of the configuration, offered."""

    config: DeviceConfig
    refused: str = ""  # why the listener could not be made; kept by Services

    @property
    @abstractmethod
    def is_listening(self) -> bool:
        """Whether the listener is there."""

    @property
    @abstractmethod
    def state(self) -> str:
        """free, busy, open or closed."""

    @property
    def reason(self) -> str:
        """Why it is closed, else empty."""
        return ""

    @abstractmethod
    def open(self) -> None:
        """Begin with the port, if there is one."""

    @abstractmethod
    async def listen(self, sockets: list[socket.socket]) -> None:
        """Accept clients on listening sockets."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back. Cannot fail."""

    @abstractmethod
    def kick(self, peer: str) -> None:
        """End the connections of the peer of this name."""

    @abstractmethod
    def details(self) -> dict[str, Any]:
        """What `status` shows of this kind besides."""


class Alarm:
    """One timer of the event loop that follows a deadline of the clock."""

    def __init__(self, clock: Callable[[], float], on_time: Callable[[], None]) -> None:
        self._clock = clock
        self._on_time = on_time
        self._handle: asyncio.TimerHandle | None = None
        self._deadline: float | None = None

    def arm(self, deadline: float | None) -> None:
        """Wake at `deadline`, or not at all."""
        if deadline == self._deadline:
            return
        self.stop()
        self._deadline = deadline
        if deadline is not None:
            loop = asyncio.get_running_loop()
            self._handle = loop.call_later(max(0.0, deadline - self._clock()), self._fire)

    def stop(self) -> None:
        """Forget the deadline."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._deadline = None

    def _fire(self) -> None:
        self._handle = self._deadline = None
        self._on_time()
