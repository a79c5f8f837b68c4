"""What the services of the three kinds of device have in common, and the serial line with its

patience: opened when it can be, opened again after it was unplugged, one log line an outage.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from agent.bridge.backoff import Backoff
from agent.io.serial import PortError, SerialPort

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from agent.bridge.devices import DeviceConfig, LineConfig

_log = logging.getLogger("agent.services")


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


class Line:
    """A serial port that comes and goes."""

    def __init__(
        self,
        name: str,
        config: LineConfig,
        clock: Callable[[], float],
        *,
        on_open: Callable[[], None],
        on_data: Callable[[bytes], None],
        on_close: Callable[[], None],
        on_drained: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._config = config
        self._clock = clock
        self._on_open = on_open
        self._on_data = on_data
        self._on_close = on_close
        self._on_drained = on_drained
        self._backoff = Backoff()
        self._port: SerialPort | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._told = ""
        self.reason = "not opened yet"

    @property
    def pending(self) -> int:
        """Octets that wait for the line."""
        return self._port.pending if self._port is not None else 0

    def start(self) -> None:
        """Open the port, now or as soon as it can be."""
        self._timer = None
        config = self._config
        try:
            port = SerialPort(
                config.port,
                baud=config.baud,
                databits=config.databits,
                parity=config.parity.value,
                stopbits=config.stopbits,
                rs485=config.rs485,
            )
        except PortError as error:
            self._later(str(error))
            return
        self._port = port
        self._backoff.opened(self._clock())
        self.reason = ""
        port.start(asyncio.get_running_loop(), self._on_data, self._on_gone, self._on_drained)
        if self._told:
            _log.info("%s: %s is back", self._name, config.port)
            self._told = ""
        self._on_open()

    def stop(self) -> None:
        """Close the port for good."""
        if self._timer is not None:
            self._timer.cancel()
        if self._port is not None:
            self._port.close()
            self._port = None

    def write(self, data: bytes, *, discard: bool) -> None:
        """Send; with `discard`, forget first what was received."""
        if self._port is None:
            return
        if discard:
            self._port.discard_input()
        self._port.write(data)

    def reset(self) -> None:
        """Set the line's parameters again."""
        if self._port is not None:
            self._port.reset()

    def _on_gone(self, reason: str) -> None:
        self._port = None
        self._later(reason)
        self._on_close()

    def _later(self, reason: str) -> None:
        self.reason = reason
        if self._told != reason:
            _log.warning("%s: %s: %s", self._name, self._config.port, reason)
            self._told = reason
        delay = self._backoff.failed(self._clock())
        self._timer = asyncio.get_running_loop().call_later(delay, self.start)


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
