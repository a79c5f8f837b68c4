"""The control socket: JSON lines over a Unix stream socket; for daemon and commands.

A connection carries one request: the client writes one JSON object and reads lines until one has
`"final": true`. What the lines mean is agent.control's business. Bounds: line lengths, number of
connections, seconds to state the request and to take an answer.

A lock beside the socket, held as long as the daemon lives, tells a second daemon from a socket
that a crash left behind. Access is by the socket's permission (root, and group `hearthgate`
where it exists); handlers also see who asks (SO_PEERCRED).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import logging
import os
import select
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

from agent.errors import HearthgateError, InputError, PlatformError, RefusedError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("agent.control")

GROUP: Final = "hearthgate"
REQUEST_OCTETS: Final = 64 * 1024  # the longest request is an invitation or an identity
ANSWER_OCTETS: Final = 16 * 1024 * 1024  # status of a mediator with ten thousand peers
MAX_CLIENTS: Final = 32  # several `status --watch`, scripts; each costs a descriptor
REQUEST_SECONDS: Final = 10.0  # a client that connects and says nothing
SEND_SECONDS: Final = 30.0  # a client that does not read (suspended with Ctrl-Z)
GONE_CHECK_SECONDS: Final = 2.0  # how soon a silent handler notices that its client went
SUN_PATH_OCTETS: Final = 107  # sockaddr_un, with its closing NUL
_CREDENTIALS = struct.Struct("=iII")


class PeerCredentials(NamedTuple):
    """Who is at the other end of a connection, from the kernel."""

    pid: int
    uid: int
    gid: int


class Reply:
    """Where the answers to one request go: `await reply({...})` sends one line.

    Raises ConnectionError once the client is gone or does not read.
    """

    __slots__ = ("_writer", "credentials", "is_final")

    def __init__(self, writer: asyncio.StreamWriter, credentials: PeerCredentials) -> None:
        self._writer = writer
        self.credentials = credentials
        self.is_final = False  # the closing line was sent

    async def __call__(self, line: Mapping[str, Any]) -> None:
        if self.is_final:
            raise RuntimeError("nothing may follow the final line")
        if self._writer.is_closing():
            raise ConnectionResetError(errno.ECONNRESET, "the client went away")
        self.is_final = line.get("final") is True
        self._writer.write(_encode(line))
        try:
            # Not wait_for: before Python 3.12 it swallows a cancellation that comes with the end.
            async with asyncio.timeout(SEND_SECONDS):
                await self._writer.drain()
        except TimeoutError:
            self._writer.transport.abort()
            raise ConnectionResetError(errno.ECONNRESET, "the client does not read") from None


Handler = Callable[[dict[str, Any], Reply], Awaitable[None]]


class ControlServer:
    """A running control socket; made by `serve`."""

    def __init__(self, path: Path, handler: Handler, lock: int, group: str) -> None:
        self._path = path
        self._handler = handler
        self._lock = lock
        self._clients: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._inode = -1
        self._group = group

    async def start(self) -> None:
        """Bind and listen. Raises OSError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.setblocking(False)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)  # stale: we hold the lock
            with _short_path(self._path) as short:
                listener.bind(short)
            # Nobody can connect before listen, so there is no moment with wider permissions.
            _restrict(self._path, self._group)
            self._inode = os.stat(self._path).st_ino
            self._server = await asyncio.start_unix_server(
                self._accept, sock=listener, limit=REQUEST_OCTETS
            )
        except BaseException:
            listener.close()
            raise

    async def close(self) -> None:
        """Stop listening, end the handlers, remove the socket, release the lock."""
        if self._server is not None:
            self._server.close()
        for task in list(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        with contextlib.suppress(OSError):
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)
        os.close(self._lock)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._clients) >= MAX_CLIENTS:
            writer.write(_encode(_failure("The daemon serves too many clients already.", 75)))
            writer.close()
            return
        self._clients.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # the client went, or the daemon stops: nobody is left to be told
        finally:
            self._clients.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        reply = Reply(writer, _credentials(connection))
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                line = await reader.readline()
            request = _decode(line)
        except TimeoutError:
            await reply(_failure("No request came.", 64))
            return
        except ValueError:
            await reply(_failure("The request is not one line with one JSON object.", 64))
            return
        handler = asyncio.ensure_future(self._handle(request, reply))
        try:
            await _until_done_or_gone(handler, connection)
        finally:
            if not handler.done():
                handler.cancel()
            await asyncio.gather(handler, return_exceptions=True)

    async def _handle(self, request: dict[str, Any], reply: Reply) -> None:
        try:
            await self._handler(request, reply)
            if not reply.is_final:
                await reply({"final": True})
        except ConnectionError:
            raise
        except HearthgateError as error:
            if not reply.is_final:
                await reply(_failure(error.sentence, error.exit_code))
        except Exception:
            log.exception("A command failed in a way that it should not")
            if not reply.is_final:
                await reply(_failure("The daemon failed at this; its log says more.", 70))


async def serve(path: Path, handler: Handler, *, group: str = GROUP) -> ControlServer:
    """Open the control socket at `path`; `close()` of what is returned ends it.

    Each request becomes one call of `handler(request, reply)` in a task of its own, which is
    cancelled when the client goes away. A HearthgateError that it raises becomes the final line
    (`error`, `exit_code`), anything else is logged; if it sends no final line, `{"final": true}`
    is sent. Raises UnavailableError if another daemon has this socket, PlatformError if it cannot
    be made.
    """
    lock = _lock(path)
    server = ControlServer(path, handler, lock, group)
    try:
        await server.start()
    except BaseException as error:
        os.close(lock)
        if isinstance(error, OSError):
            raise PlatformError(
                f"The control socket {path} cannot be made: {error.strerror or error}"
            ) from error
        raise
    return server


_SILENT = (
    "The hearthgate daemon does not answer: restart it (systemctl restart hearthgate, or "
    "/etc/init.d/hearthgate restart)"
)


class ControlClient:
    """A command's way to the daemon; blocking. One connection for each request."""

    def __init__(self, path: Path, *, timeout: float | None = None) -> None:
        self._path = path
        self._timeout = timeout

    def request(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Send `request`; yields the lines of the answer, the last one with `"final": true`.

        Raises UnavailableError if the daemon does not run, stops meanwhile, or is silent for
        longer than `timeout` seconds between two lines (None: waits for ever); RefusedError if
        this user may not ask; InputError if it is too long.
        """
        data = _encode(request)
        if len(data) > REQUEST_OCTETS:
            raise InputError(f"This is too long for the daemon: {len(data)} octets")
        with self._connect() as connection:
            try:
                connection.sendall(data)
                with connection.makefile("rb") as lines:
                    yield from self._answers(lines)
            except TimeoutError as error:
                raise UnavailableError(_SILENT) from error
            except ConnectionError as error:
                raise UnavailableError("The hearthgate daemon stopped meanwhile.") from error

    def _answers(self, lines: BinaryIO) -> Iterator[dict[str, Any]]:
        while True:
            line = lines.readline(ANSWER_OCTETS)
            if not line.endswith(b"\n"):
                raise UnavailableError("The hearthgate daemon stopped while it answered.")
            try:
                answer = _decode(line)
            except ValueError as error:
                raise UnavailableError("The hearthgate daemon answered nonsense.") from error
            yield answer
            if answer.get("final") is True:
                return

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.settimeout(self._timeout)
        try:
            with _short_path(self._path) as short:
                connection.connect(short)
        except OSError as error:
            connection.close()
            raise _not_connected(self._path, error) from error
        return connection


def _not_connected(path: Path, error: OSError) -> HearthgateError:
    if isinstance(error, PermissionError):
        return RefusedError(
            f"This user may not talk to the daemon: use sudo, or join the group {GROUP}."
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED):
        return UnavailableError(
            f"The hearthgate daemon does not run (nobody is at {path}). "
            "Start it: systemctl start hearthgate, /etc/init.d/hearthgate start, or hearthgate run"
        )
    if isinstance(error, TimeoutError | BlockingIOError):
        return UnavailableError(_SILENT)
    return UnavailableError(f"The daemon at {path} cannot be reached: {error.strerror or error}")


async def _until_done_or_gone(handler: asyncio.Future[None], connection: socket.socket) -> None:
    """Wait for the handler; give up on it once the client has closed the connection.

    A client that only closes its sending side (a script) still gets its answer, so the end of
    what it sends tells nothing; the hang-up state of the socket does.
    """
    poll = select.poll()
    poll.register(connection.fileno(), 0)
    while True:
        done, _ = await asyncio.wait({handler}, timeout=GONE_CHECK_SECONDS)
        if done or any(event & select.POLLHUP for _, event in poll.poll(0)):
            return


def _lock(path: Path) -> int:
    """Take the lock of this socket. Raises UnavailableError if another daemon holds it."""
    name = path.with_name(path.name + ".lock")
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise PlatformError(f"The lock {name} cannot be made: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.write(lock, b"%d\n" % os.getpid())
    except BlockingIOError as error:
        process = os.read(lock, 20).decode("ascii", "replace").strip()
        os.close(lock)
        raise UnavailableError(
            f"Another hearthgate daemon (process {process or 'unknown'}) uses {path}. "
            "Stop that one first, or give this one its own --root"
        ) from error
    except OSError as error:
        os.close(lock)
        raise PlatformError(f"The lock {name} cannot be taken: {error.strerror}") from error
    return lock


def _restrict(path: Path, group: str) -> None:
    """0660 for the group where it exists and we may give the socket to it, else 0600."""
    mode = 0o600
    with contextlib.suppress(KeyError, OSError):
        number = _group_number(group)
        if os.stat(path).st_gid != number:  # the unit's Group= needs no right to change it
            os.chown(path, -1, number)
        mode = 0o660
    os.chmod(path, mode)


def _group_number(group: str) -> int:
    """From /etc/group: the module grp would load the name service switch, 0.6 MB for one line."""
    with open("/etc/group", encoding="utf-8", errors="replace") as file:
        for line in file:
            words = line.split(":")
            if words[0] == group and len(words) > 2 and words[2].isdecimal():
                return int(words[2])
    raise KeyError(group)


@contextlib.contextmanager
def _short_path(path: Path) -> Iterator[str]:
    """A name for `path` that fits into sockaddr_un, however deep the folder is."""
    text = os.fspath(path)
    if len(os.fsencode(text)) <= SUN_PATH_OCTETS:
        yield text
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _credentials(connection: socket.socket) -> PeerCredentials:
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return PeerCredentials(*_CREDENTIALS.unpack(data))


def _failure(sentence: str, exit_code: int) -> dict[str, Any]:
    return {"final": True, "error": sentence, "exit_code": exit_code}


def _encode(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def _decode(line: bytes) -> dict[str, Any]:
    """Raises ValueError for anything that is not one JSON object on one whole line."""
    if not line.endswith(b"\n"):
        raise ValueError("the line is cut off")
    try:
        value = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value
