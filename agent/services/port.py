"""A serial port offered over TCP: the port with its patience, its listener, and who is there.

The port is opened when it can be, opened again after it was unplugged, with one log line an outage.
What goes on between line and clients is the business of the kinds of device.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from agent.bridge.backoff import Backoff
from agent.io.serial import PortError, SerialPort
from agent.io.tcp import TcpClient, TcpListener
from agent.services.base import Alarm, DeviceService

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from agent.bridge.devices import LineConfig, ModbusConfig, SerialConfig
    from agent.bridge.grants import Peer

_log = logging.getLogger("agent.services")

# Connections beyond the configured ones: those that are being told why they are refused.
ENDING = 8


class PortService(DeviceService):
    """What raw ports and Modbus lines have in common."""

    def __init__(
        self,
        config: SerialConfig | ModbusConfig,
        peer_at: Callable[[str], Peer | None],
        audit: Callable[[dict[str, Any]], None],
        clock: Callable[[], float],
    ) -> None:
        self._peer_at = peer_at
        self._audit = audit
        self._clock = clock
        self._alarm = Alarm(clock, self._on_time)
        self._listener = TcpListener(
            self._on_connect, self._on_data, self._on_lost, limit=config.connections + ENDING
        )
        self._peers: dict[int, str] = {}
        self._line = Line(
            config.name,
            config.line,
            clock,
            on_open=self._on_port_open,
            on_data=self._on_line,
            on_close=self._on_port_close,
            on_drained=self._on_drained,
        )

    @property
    def is_listening(self) -> bool:
        """Whether clients are accepted."""
        return self._listener.is_listening

    @property
    def reason(self) -> str:
        """Why the port is closed."""
        return self._line.reason

    def open(self) -> None:
        """Open the port, now or later."""
        self._line.start()

    async def listen(self, sockets: list[socket.socket]) -> None:
        """Accept clients."""
        await self._listener.start(sockets)

    def close(self) -> None:
        """Give everything back."""
        self._listener.stop()
        self._line.stop()
        self._on_port_close()
        self._alarm.stop()

    def kick(self, peer: str) -> None:
        """End the connections of a peer."""
        for number, name in list(self._peers.items()):
            if name == peer:
                self._listener.clients[number].close(at_once=True)

    def _on_connect(self, client: TcpClient) -> None:
        peer = self._peer_at(client.address)
        if peer is None:
            client.close(at_once=True)
            return
        self._peers[client.number] = peer.name
        self._on_peer(client, peer)

    def _on_lost(self, client: TcpClient) -> None:
        self._peers.pop(client.number, None)
        self._on_gone(client)

    @abstractmethod
    def _on_port_open(self) -> None:
        """The port is there (again)."""

    @abstractmethod
    def _on_port_close(self) -> None:
        """It is not."""

    @abstractmethod
    def _on_line(self, data: bytes) -> None:
        """Octets of the line."""

    def _on_drained(self) -> None:
        """The line has sent what it had."""

    @abstractmethod
    def _on_peer(self, client: TcpClient, peer: Peer) -> None:
        """A client that is let in."""

    @abstractmethod
    def _on_data(self, client: TcpClient, data: bytes) -> None:
        """Octets of a client."""

    @abstractmethod
    def _on_gone(self, client: TcpClient) -> None:
        """A client that is no more."""

    @abstractmethod
    def _on_time(self) -> None:
        """The alarm."""


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
