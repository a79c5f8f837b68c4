"""A local MQTT broker offered inside the tunnel: octets forwarded, nothing understood."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from agent.bridge.grants import Access
from agent.io.tcp import RELAY_BUFFER, Relay, why_not_connected
from agent.services.base import DeviceService

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from agent.bridge.devices import MqttConfig
    from agent.bridge.grants import Peer

_log = logging.getLogger("agent.services")


class MqttService(DeviceService):
    """TCP forward to one broker."""

    config: MqttConfig

    def __init__(self, config: MqttConfig, peer_at: Callable[[str], Peer | None]) -> None:
        self.config = config
        self._peer_at = peer_at
        self._servers: list[asyncio.Server] = []
        self._relays: dict[Relay, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself holds them weakly
        self._reason = ""
        self._counters = {"connections": 0, "refused": 0}

    @property
    def is_listening(self) -> bool:
        """Whether clients are accepted."""
        return bool(self._servers)

    @property
    def state(self) -> str:
        """open, or closed if the broker did not accept the last client."""
        return "closed" if self._reason else "open"

    @property
    def reason(self) -> str:
        """Why the broker cannot be reached."""
        return self._reason

    def open(self) -> None:
        """There is no port to open."""

    async def listen(self, sockets: list[socket.socket]) -> None:
        """Accept clients."""
        for sock in sockets:
            self._servers.append(
                await asyncio.start_server(self._on_client, sock=sock, limit=RELAY_BUFFER)
            )

    def close(self) -> None:
        """Give everything back."""
        while self._servers:
            self._servers.pop().close()
        for relay in list(self._relays):
            relay.abort()

    def kick(self, peer: str) -> None:
        """End the connections of a peer."""
        for relay, name in list(self._relays.items()):
            if name == peer:
                relay.abort()

    def details(self) -> dict[str, Any]:
        """Who is connected."""
        return {"users": sorted(set(self._relays.values())), "counters": dict(self._counters)}

    def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of ours: streams would log a traceback for one that the end of all cancels.
        task = asyncio.create_task(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = (writer.get_extra_info("peername") or ("",))[0]
        peer = self._peer_at(address)
        is_full = len(self._relays) >= self.config.connections
        if peer is None or is_full or not Access(peer).may_connect(self.config):
            self._counters["refused"] += 1
            writer.transport.abort()
            return
        config = self.config
        relay = Relay(reader, writer)
        self._relays[relay] = peer.name
        self._counters["connections"] += 1
        try:
            await relay.run(config.broker, config.broker_port, config.idle_timeout, self._reached)
        except (OSError, TimeoutError) as error:
            reason = why_not_connected(error)
            text = f"the broker {config.broker}:{config.broker_port} cannot be reached: {reason}"
            if text != self._reason:
                _log.warning("%s: %s", config.name, text)
            self._reason = text
        finally:
            del self._relays[relay]

    def _reached(self) -> None:
        self._reason = ""
