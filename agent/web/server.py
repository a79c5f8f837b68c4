"""The HTTP/1.0 server under the application: bounded, and strict about what it hands on.

Every request is read whole, within limits of size and time, and checked before microdot sees it,
in memory; a connection carries one request. RFC 9112 for the syntax; left out: chunked bodies,
persistent connections, TLS (the tunnel is encrypted).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from microdot import Microdot

    from agent.web.app import PointService

_log = logging.getLogger("agent.web")

MAX_HEAD = 8192  # octets of request line and headers
MAX_BODY = 4096  # a value has some twenty
MAX_CONNECTIONS = 32  # in all
MAX_PER_ADDRESS = 8
HEAD_SECONDS = 10.0  # for the whole request to arrive
ANSWER_SECONDS = 60.0  # for the device to answer, with all retries, behind all others
SEND_SECONDS = 10.0
_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (/[!-~]{0,511}) HTTP/1\.[01]")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}):[ \t]*([ -~\t]*)")
# Only these reach the application.
_HEADERS = (b"host", b"origin", b"content-type")


class _Refused(Exception):
    def __init__(self, status: int, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.code = status, code


class _Answer:
    """The writer that microdot sees: it gathers the answer."""

    def __init__(self, peer: tuple[str, int]) -> None:
        self.data = bytearray()
        self._peer = peer

    def get_extra_info(self, name: str) -> object:
        """`peername` as asyncio's transports have it."""
        return self._peer if name == "peername" else None

    async def awrite(self, data: bytes) -> None:
        """Append."""
        self.data += data

    async def aclose(self) -> None:
        """Nothing to close."""


class WebServer:
    """Serves the application for `service` on listening sockets that somebody else has bound.

    It is made, and microdot loaded, for the first request: most of the time nobody asks.
    """

    def __init__(self, service: PointService) -> None:
        self._service = service
        self._app: Microdot | None = None
        self._servers: list[asyncio.Server] = []
        self._connections: dict[asyncio.StreamWriter, str] = {}

    async def start(self, sockets: list[socket.socket]) -> None:
        """Accept connections on all `sockets`."""
        for sock in sockets:
            self._servers.append(
                await asyncio.start_server(self._on_connection, sock=sock, limit=MAX_HEAD)
            )

    def stop(self) -> None:
        """Accept nothing more and end what there is."""
        while self._servers:
            self._servers.pop().close()
        for writer in list(self._connections):
            writer.transport.abort()

    def kick(self, is_meant: Callable[[str], bool]) -> None:
        """End the connections from the addresses that are meant."""
        for writer, address in list(self._connections.items()):
            if is_meant(address):
                writer.transport.abort()

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        peer = writer.get_extra_info("peername") or ("", 0)
        address = peer[0]
        same = sum(owner == address for owner in self._connections.values())
        if len(self._connections) >= MAX_CONNECTIONS or same >= MAX_PER_ADDRESS:
            writer.transport.abort()
            return
        self._connections[writer] = address
        try:
            await self._serve(reader, writer, (address, peer[1]))
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            writer.transport.abort()
        except Exception as error:  # a fault of ours ends one connection
            _log.error("a request failed: %r", error)
            writer.transport.abort()
        finally:
            del self._connections[writer]
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(SEND_SECONDS):
                    await writer.wait_closed()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: tuple[str, int]
    ) -> None:
        from microdot import AsyncBytesIO

        from agent.web.app import error_response, make_app

        if self._app is None:
            self._app = make_app(self._service)
        answer = _Answer(peer)
        out: Any = answer  # what microdot uses of a StreamWriter
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                request: Any = AsyncBytesIO(await _read_request(reader))
        except _Refused as refused:
            await error_response(refused.status, refused.code, str(refused)).write(out)
        else:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._app.handle_request(request, out)
            except TimeoutError:
                answer.data.clear()
                text = "the gateway did not get an answer in time"
                await error_response(504, "no_answer", text).write(out)
        writer.write(bytes(answer.data))
        async with asyncio.timeout(SEND_SECONDS):
            await writer.drain()


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    """A whole request in the one form that the application gets. Raises _Refused."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise _Refused(431, "too_long", "the request is too long") from None
    lines = head[:-4].split(b"\r\n")
    if not _REQUEST_LINE.fullmatch(lines[0]):
        raise _Refused(400, "bad_request", "this is not an HTTP request")
    headers: dict[bytes, bytes] = {}
    for line in lines[1:]:
        match = _HEADER.fullmatch(line)
        name = match[1].lower() if match else b""
        if match is None or (name in headers and name in (*_HEADERS, b"content-length")):
            raise _Refused(400, "bad_request", "a header of the request is malformed")
        headers[name] = match[2].strip()
    if b"transfer-encoding" in headers:
        raise _Refused(501, "bad_request", "chunked bodies are not supported")
    body = await _read_body(reader, headers.get(b"content-length", b"0"))
    kept = [lines[0], *(name + b": " + headers[name] for name in _HEADERS if name in headers)]
    kept.append(b"content-length: %d" % len(body))
    return b"\r\n".join(kept) + b"\r\n\r\n" + body


async def _read_body(reader: asyncio.StreamReader, length: bytes) -> bytes:
    if not re.fullmatch(rb"\d{1,9}", length):
        raise _Refused(400, "bad_request", "the length of the body is malformed")
    if int(length) > MAX_BODY:
        raise _Refused(413, "too_long", "the body is too long")
    return await reader.readexactly(int(length))
