"""TCP inside the tunnel: listeners on the inner address, their connections, and a relay.

A listener is bound to the inner address and, with a device name, to the TUN device, so that the
LAN cannot reach it. Every connection has keepalive, so that a client that vanished lets go.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import struct
from typing import TYPE_CHECKING

from agent.errors import PlatformError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

KEEPALIVE_IDLE = 30
KEEPALIVE_INTERVAL = 10
KEEPALIVE_COUNT = 3
USER_TIMEOUT_MS = 60_000  # unanswered data for this long: the other end is gone
PROBE_INTERVAL = 1  # seconds between keepalives while somebody wants to know
RELAY_BUFFER = 65536  # octets in each direction of a relay before its source is paused
RELAY_LINGER = 60.0  # a relay with one direction closed and the other silent ends after this
CONNECT_SECONDS = 5.0
LINGER_SECONDS = 1.0
READ_OCTETS = 4096
SEND_BUFFER = 65536
_IPV6_FREEBIND = 78
_IP_FREEBIND = 15
_LAST_DATA_AND_ACK_RECEIVED = struct.Struct("=52xII")  # of struct tcp_info, milliseconds ago


def listening_socket(address: str, port: int, device: str | None = None) -> socket.socket:
    """A non-blocking listening socket on `address` only. Raises PlatformError."""
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        with contextlib.suppress(OSError):
            # The address may still be on its way to the device.
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if device:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
        sock.bind((address, port))
        sock.listen(16)
    except OSError as error:
        sock.close()
        raise PlatformError(_why(error, port)) from None
    return sock


def listening_sockets(
    addresses: Iterable[str], port: int, device: str | None = None
) -> list[socket.socket]:
    """One on each of `addresses`, or none. Raises PlatformError."""
    found: list[socket.socket] = []
    try:
        for address in addresses:
            found.append(listening_socket(address, port, device))
    except PlatformError:
        for sock in found:
            sock.close()
        raise
    return found


def _why(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"TCP port {port} is in use by another program, here or on all addresses: stop that, "
            "or give one of them another port or address"
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return f"no rights to listen on TCP port {port}: run as the service or as root"
    return f"cannot listen on TCP port {port}: {error.strerror}"


def why_not_connected(error: OSError | TimeoutError) -> str:
    """For people; asyncio's own text is `Connect call failed ('127.0.0.1', 1883)`."""
    if isinstance(error, TimeoutError):
        return "it does not answer"
    return os.strerror(error.errno) if error.errno else str(error) or "no connection"


class TcpClient(asyncio.BufferedProtocol):
    """One accepted connection. `address` is the numeric text of the remote address."""

    def __init__(self, listener: TcpListener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self.number = 0
        self.address = ""
        self._is_ending = False

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection was accepted."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        peer = transport.get_extra_info("peername")
        self.address = peer[0] if peer else ""
        keep_alive(sock)
        with contextlib.suppress(OSError):
            # Who does not read is noticed after this much, not after the megabytes of autotuning.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._listener._accepted(self)
        if not transport.is_reading():
            asyncio.get_running_loop().call_soon(self._stay_paused)

    def _stay_paused(self) -> None:
        """Debian 12's Python 3.11.2 starts reading after `connection_made`, paused there or not.

        What came in before somebody is ready for it would be lost.
        """
        transport = self._transport
        if transport is not None and not transport.is_closing() and not transport.is_reading():
            transport.resume_reading()
            transport.pause_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where octets go; a plain protocol would be handed 256 kB at once."""
        return self._listener.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Octets arrived."""
        if not self._is_ending:
            self._listener.on_data(self, bytes(self._listener.buffer[:nbytes]))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, by either side."""
        self._transport = None
        self._listener._lost(self)

    # Called by the driver

    @property
    def backlog(self) -> int:
        """Octets that the other end has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def send(self, data: bytes) -> None:
        """Queue octets; the driver looks at `backlog`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self, *, at_once: bool = False) -> None:
        """End the connection, after what was sent, or at once.

        What still comes is read and thrown away for a moment: a socket closed over unread octets
        sends a reset, and the other end would not see why it was closed.
        """
        transport = self._transport
        if transport is None:
            return
        self._is_ending = True
        if at_once:
            transport.abort()
        elif not transport.is_closing():
            transport.write_eof()
            self.pause(False)
            asyncio.get_running_loop().call_later(LINGER_SECONDS, transport.abort)

    def pause(self, paused: bool) -> None:
        """Stop or go on reading."""
        transport = self._transport
        if transport is None or transport.is_closing() or transport.is_reading() != paused:
            return
        if paused:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def silent_seconds(self) -> float:
        """How long nothing, not even an acknowledgement, has come from the other machine."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104) if sock else b""
            data, ack = _LAST_DATA_AND_ACK_RECEIVED.unpack_from(info)
        except (OSError, struct.error):
            return float("inf")
        return float(min(data, ack)) / 1000

    def probe(self, fast: bool) -> None:
        """Send keepalives at once and every second, or go back to the usual ones."""
        if self._transport is not None:
            keep_alive(self._transport.get_extra_info("socket"), fast=fast)


def keep_alive(sock: socket.socket, *, fast: bool = False) -> None:
    """Keepalive and no delay on a connected socket. Cannot fail."""
    options = (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_INTERVAL if fast else KEEPALIVE_INTERVAL),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_INTERVAL if fast else KEEPALIVE_IDLE),
        (
            socket.IPPROTO_TCP,
            socket.TCP_USER_TIMEOUT,
            KEEPALIVE_COUNT * PROBE_INTERVAL * 1000 if fast else USER_TIMEOUT_MS,
        ),
    )
    for level, option, value in options:
        with contextlib.suppress(OSError):
            sock.setsockopt(level, option, value)


class TcpListener:
    """Accepts connections and numbers them. The three callbacks run in the event loop."""

    def __init__(
        self,
        on_connect: Callable[[TcpClient], None],
        on_data: Callable[[TcpClient, bytes], None],
        on_lost: Callable[[TcpClient], None],
        *,
        limit: int,
    ) -> None:
        """`limit`: connections at once; beyond it they are closed without a word."""
        self._limit = limit
        self._on_connect = on_connect
        self.on_data = on_data
        self._on_lost = on_lost
        self._servers: list[asyncio.Server] = []
        self._last_number = 0
        self.clients: dict[int, TcpClient] = {}
        self.buffer = memoryview(bytearray(READ_OCTETS))  # of all: each read is taken out at once

    @property
    def is_listening(self) -> bool:
        """Whether connections are accepted."""
        return bool(self._servers)

    async def start(self, sockets: list[socket.socket]) -> None:
        """Accept connections on all `sockets`."""
        loop = asyncio.get_running_loop()
        for sock in sockets:
            self._servers.append(await loop.create_server(lambda: TcpClient(self), sock=sock))

    def stop(self) -> None:
        """Accept nothing more and end what there is."""
        while self._servers:
            self._servers.pop().close()
        for client in list(self.clients.values()):
            client.close(at_once=True)

    def _accepted(self, client: TcpClient) -> None:
        if len(self.clients) >= self._limit:
            client.close(at_once=True)
            return
        self._last_number += 1
        client.number = self._last_number
        self.clients[client.number] = client
        self._on_connect(client)

    def _lost(self, client: TcpClient) -> None:
        if self.clients.pop(client.number, None) is not None:
            self._on_lost(client)


class Relay:
    """Two connections that carry each other's octets: bounded, and half-closed one by one."""

    def __init__(self, client: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        self._client = client, client_out
        self._broker: asyncio.StreamWriter | None = None
        self._last = 0.0
        self._closed_directions = 0

    async def run(
        self, host: str, port: int, idle_seconds: float, on_reached: Callable[[], None]
    ) -> None:
        """Until both directions are closed, or idle.

        Raises OSError or TimeoutError if `host` does not accept.
        """
        reader, writer = self._client
        keep_alive(writer.get_extra_info("socket"))
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                other, other_out = await asyncio.open_connection(host, port, limit=RELAY_BUFFER)
        except (OSError, TimeoutError):
            writer.transport.abort()
            raise
        self._broker = other_out
        on_reached()
        keep_alive(other_out.get_extra_info("socket"))
        for out in (writer, other_out):
            out.transport.set_write_buffer_limits(high=RELAY_BUFFER)
        self._last = asyncio.get_running_loop().time()
        tasks = [
            asyncio.create_task(self._copy(reader, other_out)),
            asyncio.create_task(self._copy(other, writer)),
            asyncio.create_task(self._watch(idle_seconds)),
        ]
        try:
            while self._closed_directions < 2:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if any(not task.result() for task in done):
                    break
                tasks = [task for task in tasks if task not in done]
        finally:
            await self._end(tasks)

    def abort(self) -> None:
        """End both connections at once."""
        for out in (self._client[1], self._broker):
            if out is not None:
                out.transport.abort()

    async def _end(self, tasks: list[asyncio.Task[bool]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._closed_directions < 2:
            self.abort()
        for out in (self._client[1], self._broker):
            if out is not None:
                out.close()

    async def _copy(self, reader: asyncio.StreamReader, out: asyncio.StreamWriter) -> bool:
        """True at an orderly end, which is passed on; False if either connection broke."""
        clock = asyncio.get_running_loop().time
        try:
            while data := await reader.read(RELAY_BUFFER):
                self._last = clock()
                out.write(data)
                await out.drain()
                self._last = clock()
            out.write_eof()
        except OSError:
            return False
        self._closed_directions += 1
        return True

    async def _watch(self, idle_seconds: float) -> bool:
        """False when nothing has moved for too long."""
        clock = asyncio.get_running_loop().time
        while True:
            limit = RELAY_LINGER if self._closed_directions else idle_seconds
            left = self._last + limit - clock()
            if left <= 0:
                return False
            await asyncio.sleep(min(left, RELAY_LINGER / 4))
