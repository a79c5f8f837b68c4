"""A serial port offered as raw TCP: the hub between the port and its clients."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, assert_never

from agent.bridge.outputs import Audit, CloseClient, Probe, ResetLine, ToClient, ToLine
from agent.bridge.serial_hub import PROBE_SECONDS, SerialHub
from agent.services.port import PortService

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.bridge.devices import SerialConfig
    from agent.bridge.grants import Peer
    from agent.io.tcp import TcpClient

# Clients are not read while the line has this much to send, and again below the second figure.
HIGH_WATER = 4096
LOW_WATER = 1024
RECENTLY = 5.0  # a machine that acknowledged something so lately needs no probe
PROBE_STEP = 0.25


class SerialService(PortService):
    """One port and its clients."""

    config: SerialConfig

    def __init__(
        self,
        config: SerialConfig,
        peer_at: Callable[[str], Peer | None],
        audit: Callable[[dict[str, Any]], None],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(config, peer_at, audit, clock)
        self.config = config
        self._hub = SerialHub(config)
        self._probes: dict[int, asyncio.TimerHandle] = {}

    @property
    def state(self) -> str:
        """free, busy or closed."""
        if self._line.reason:
            return "closed"
        return "busy" if len(self._hub) else "free"

    def close(self) -> None:
        """Give everything back."""
        for handle in self._probes.values():
            handle.cancel()
        super().close()

    def details(self) -> dict[str, Any]:
        """Line, who uses it, counters."""
        return {
            "line": self.config.line.text,
            "users": self._hub.users,
            "counters": dict(self._hub.counters),
        }

    # Port, clients, time

    def _on_port_open(self) -> None:
        self._hub.port_opened(self._clock())
        self._pump()

    def _on_port_close(self) -> None:
        self._hub.port_closed(self._clock())
        self._pump()

    def _on_line(self, data: bytes) -> None:
        self._hub.receive_line(data, self._clock())
        self._pump()

    def _on_drained(self) -> None:
        self._set_reading()

    def _on_peer(self, client: TcpClient, peer: Peer) -> None:
        self._hub.connect(client.number, peer, self._clock())
        self._pump()
        self._set_reading()

    def _on_data(self, client: TcpClient, data: bytes) -> None:
        self._hub.receive_client(client.number, data, self._clock())
        self._pump()
        self._set_reading()

    def _on_gone(self, client: TcpClient) -> None:
        handle = self._probes.pop(client.number, None)
        if handle is not None:
            handle.cancel()
        self._hub.disconnect(client.number, self._clock())
        self._pump()
        self._set_reading()

    def _on_time(self) -> None:
        self._hub.handle_timer(self._clock())
        self._pump()
        self._set_reading()

    def _set_reading(self) -> None:
        """The line sets the pace of those who write to it."""
        pending = self._line.pending
        for number, client in self._listener.clients.items():
            if self._hub.is_waiting(number) or pending >= HIGH_WATER:
                client.pause(True)
            elif pending <= LOW_WATER:
                client.pause(False)

    def _pump(self) -> None:
        """Carry out what the hub has decided, then wait for its deadline."""
        clients = self._listener.clients
        while True:
            output = self._hub.poll_output()
            match output:
                case None:
                    break
                case ToLine(data, discard):
                    self._line.write(data, discard=discard)
                case ToClient(number, data):
                    if number in clients:
                        clients[number].send(data)
                        self._hub.backlog(number, clients[number].backlog)
                case CloseClient(number):
                    if number in clients:
                        clients[number].close()
                case ResetLine():
                    self._line.reset()
                case Probe(number):
                    self._probe(number)
                case Audit(record):
                    self._audit(record)
                case _:
                    assert_never(output)
        self._alarm.arm(self._hub.next_timeout())

    def _probe(self, number: int) -> None:
        client = self._listener.clients.get(number)
        if client is None:
            return
        if client.silent_seconds() < RECENTLY:
            self._hub.alive(number)
            return
        client.probe(True)
        self._look_again(number, self._clock())

    def _look_again(self, number: int, started: float) -> None:
        """Whether something has come from the client's machine since the probe started."""
        self._probes.pop(number, None)
        client = self._listener.clients.get(number)
        if client is None:
            return
        elapsed = self._clock() - started
        if client.silent_seconds() < elapsed:
            client.probe(False)
            self._hub.alive(number)
            self._pump()
        elif elapsed < PROBE_SECONDS:
            loop = asyncio.get_running_loop()
            self._probes[number] = loop.call_later(PROBE_STEP, self._look_again, number, started)
