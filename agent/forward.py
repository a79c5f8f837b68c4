"""`connect NAME --forward`: the services of a gateway on 127.0.0.1, for tools without IPv6.

One local listener for each service that the gateway grants to this machine, and nothing else of
it. Listeners belong to the daemon, so they outlive the command and a tunnel that comes back, and
end with `disconnect`. Whoever may use this machine could reach the inner address as well: a local
port opens nothing that was closed.

The local port is 10000 + the service's port (boiler 502 → 10502), so that scripts find it again
and no program of this machine misses its own; the next free one where that is taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent.errors import PlatformError
from agent.io.tcp import RELAY_BUFFER, Relay, listening_socket, why_not_connected

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("agent.forward")

HOST = "127.0.0.1"
OFFSET = 10000
TRIES = 20  # ports one after the other, then any
MAX_FORWARDS = 64  # of one gateway: the list comes from the other side
MAX_CONNECTIONS = 32  # of one listener, as many as a gateway takes
IDLE_SECONDS = float("inf")  # a quiet bus is no dead one; keepalive finds those that are


@dataclass(slots=True)
class _Forward:
    device: str
    remote: int
    port: int
    server: asyncio.Server
    relays: set[Relay] = field(default_factory=set)
    told: str = ""

    def close(self) -> None:
        self.server.close()
        for relay in tuple(self.relays):
            relay.abort()


class Forwards:
    """All local listeners. `address_of` tells the inner address of a peer, None if it is down."""

    def __init__(self, address_of: Callable[[str], str | None], *, offset: int = OFFSET) -> None:
        self._address_of = address_of
        self._offset = offset
        self._forwards: dict[str, dict[str, _Forward]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, peer: str, devices: object) -> list[dict[str, Any]]:
        """Offer what `peer` grants us of its `devices`, and nothing else any more.

        Those that are open already stay as they are. Raises PlatformError if there is no port.
        """
        wanted = dict(_services(devices))
        open_ones = self._forwards.setdefault(peer, {})
        for device, forward in list(open_ones.items()):
            if wanted.get(device) != forward.remote:
                open_ones.pop(device).close()
        for device, remote in wanted.items():
            if device not in open_ones:
                open_ones[device] = await self._open(peer, device, remote)
        return self.of(peer)

    def of(self, peer: str) -> list[dict[str, Any]]:
        """What is open towards `peer`: device, host, port."""
        return [
            {"device": f.device, "host": HOST, "port": f.port}
            for f in self._forwards.get(peer, {}).values()
        ]

    def status(self) -> list[dict[str, Any]]:
        """All of them, with their peer."""
        return [{"peer": peer, **one} for peer in self._forwards for one in self.of(peer)]

    def close(self, peer: str | None = None) -> None:
        """End the listeners of one peer, or all, with their connections. Cannot fail."""
        for name in [peer] if peer is not None else list(self._forwards):
            for forward in self._forwards.pop(name, {}).values():
                forward.close()

    async def stop(self) -> None:
        """Close all, and wait until nothing of it is left."""
        self.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted connections are told in the next turn of the loop

    async def _open(self, peer: str, device: str, remote: int) -> _Forward:
        first, sock = remote + self._offset, None
        for port in range(first, min(first + TRIES, 65536)):
            with contextlib.suppress(PlatformError):
                sock = listening_socket(HOST, port)
                break
        sock = sock or listening_socket(HOST, 0)

        def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # A task of ours: streams would log a traceback for one that the end of all cancels.
            task = asyncio.create_task(self._relay(peer, forward, reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        server = await asyncio.start_server(
            on_client, sock=sock, limit=RELAY_BUFFER, start_serving=False
        )
        forward = _Forward(device, remote, sock.getsockname()[1], server)
        await server.start_serving()  # not before there is something to serve with
        return forward

    async def _relay(
        self,
        peer: str,
        forward: _Forward,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        address = self._address_of(peer)
        if address is None or len(forward.relays) >= MAX_CONNECTIONS:
            self._tell(peer, forward, "too many connections" if address else "no tunnel")
            writer.transport.abort()
            return
        relay = Relay(reader, writer)
        forward.relays.add(relay)
        try:
            await relay.run(
                address, forward.remote, IDLE_SECONDS, lambda: self._tell(peer, forward, "")
            )
        except (OSError, TimeoutError) as error:
            self._tell(peer, forward, f"{why_not_connected(error)}; is it still granted?")
        finally:
            forward.relays.discard(relay)

    @staticmethod
    def _tell(peer: str, forward: _Forward, why: str) -> None:
        """Log an outage once."""
        if why and why != forward.told:
            log.warning("%s %s cannot be forwarded to: %s", peer, forward.device, why)
        forward.told = why


def _services(devices: object) -> list[tuple[str, int]]:
    """(name, port) of what may be connected to. The list is another machine's: all is checked."""
    found = []
    for device in devices if isinstance(devices, list) else ():
        if not isinstance(device, dict):
            continue
        name, port = device.get("name"), device.get("port")
        if (
            device.get("reachable") is True
            and isinstance(name, str)
            and isinstance(port, int)
            and 0 < port < 65536
        ):
            found.append((name[:64], port))
    return found[:MAX_FORWARDS]
