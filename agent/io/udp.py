"""UDP sockets, one for each family, that never block: the carriage of IKE and ESP (RFC 3948).

Uses UDP_GRO and UDP_SEGMENT where the kernel and the route have them, and IP_PKTINFO to know and to
choose the local address. Not here: who sends what, and what an error means to a peer.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections import Counter, deque
from functools import cache
from typing import TYPE_CHECKING, Any

from agent.datagram import Address, Path, Received, Transmit
from agent.errors import PlatformError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Not all of these are in Python 3.11's socket module.
_SOL_UDP = 17
_UDP_SEGMENT = 103
_UDP_GRO = 104
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_IP_PKTINFO = 8
_IPV6_RECVPKTINFO = 49
_IPV6_PKTINFO = 50

BUFFER = 4 << 20
"""Kernel buffers asked for: 25 ms at 1.3 Gbit/s, for which a busy loop may look elsewhere."""

QUEUE_OCTETS = 1 << 20
"""What may wait here while the kernel's buffer is full; more is dropped, the newest first, and TCP
in the tunnel slows down as on any full link."""

HEAP = 4 << 20
"""Freeing a block of this size makes glibc keep twice as much at the end of its heap. Without it,
the memory of each batch is given back and fetched anew: a page fault for each packet."""

KNOWN_PATHS = 256
"""Paths kept ready made. A spray of spoofed sources empties the table, it cannot fill memory."""

_DATAGRAM = 65535
_ANCILLARY = 128

_NO_SEGMENTATION = frozenset({errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.EOPNOTSUPP})
"""What a kernel, a card or a small path MTU answers to UDP_SEGMENT."""


class UdpSocket:
    """A bound, non-blocking UDP socket of one family (socket.AF_INET or AF_INET6).

    `port` 0 lets the kernel choose; `.port` says which it is. `counters` counts what was dropped,
    by reason. While `wants_write` is true, call `flush` when the descriptor is writable.
    """

    def __init__(self, port: int, family: int = socket.AF_INET) -> None:
        self.family = family
        self.counters: Counter[str] = Counter()
        self._socket = _bound(port, family)
        self.port: int = self._socket.getsockname()[1]
        self._queue: deque[Transmit] = deque()
        self._queued = 0
        self._sources: dict[tuple[Any, bytes], Path] = {}
        self._routes: dict[Path, tuple[list[tuple[int, int, bytes]], Any]] = {}
        self._scopes: dict[bytes, int] = {}
        self._unsegmented: set[Address] = set()
        _keep_heap()

    def fileno(self) -> int:
        """The descriptor, for the loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Give the descriptor back; what is queued is lost."""
        self._socket.close()
        self._queue.clear()
        self._queued = 0

    @property
    def wants_write(self) -> bool:
        """Whether something waits for room in the kernel's buffer."""
        return bool(self._queue)

    def receive(self, budget: int = 16) -> list[Received]:
        """What has arrived, in at most `budget` calls of the kernel; empty if nothing has."""
        batch: list[Received] = []
        recvmsg = self._socket.recvmsg
        for _ in range(budget):
            try:
                data, ancillary, flags, source = recvmsg(_DATAGRAM, _ANCILLARY)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                # A peer's ICMP error surfaces here (ECONNREFUSED); the next datagram is behind it.
                self.counters[_word(error)] += 1
                continue
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                self.counters["truncated"] += 1
                continue
            segment, info = 0, b""
            for level, _kind, value in ancillary:
                if level == _SOL_UDP:
                    segment = int.from_bytes(value[:4], "little" if _LITTLE else "big")
                else:
                    info = value
            path = self._sources.get((source, info)) or self._learn(source, info)
            batch.append(Received(path, data, segment))
        return batch

    def send(self, transmits: Sequence[Transmit]) -> None:
        """Send, or queue while the kernel's buffer is full, or drop and count. Never blocks."""
        for transmit in transmits:
            if self._queue or not self._sent(transmit):
                self._enqueue(transmit)

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        while self._queue and self._sent(self._queue[0]):
            self._queued -= len(self._queue.popleft().data)

    def _enqueue(self, transmit: Transmit) -> None:
        size = len(transmit.data)
        if self._queued + size > QUEUE_OCTETS:
            self.counters["queue_full"] += 1
            return
        self._queue.append(transmit)
        self._queued += size

    def _sent(self, transmit: Transmit) -> bool:
        """False if it has to wait; True if it is gone, to the network or for good."""
        data, segment, path = transmit.data, transmit.segment, transmit.path
        ancillary, remote = self._routes.get(path) or self._route(path)
        many = 0 < segment < len(data)
        if many and path.remote in self._unsegmented:
            return self._sent_apart(transmit)
        if many:
            ancillary = [*ancillary, (_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", segment))]
        try:
            self._socket.sendmsg((data,), ancillary, 0, remote)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if many and error.errno in _NO_SEGMENTATION:
                return self._sent_apart(transmit)
            if error.errno == errno.ECONNREFUSED:
                # An earlier datagram's answer, reported now; this one has not been sent.
                return self._sent_again(data, ancillary, remote)
            self.counters[_word(error)] += 1
        return True

    def _sent_again(self, data: bytes, ancillary: list[tuple[int, int, bytes]], to: Any) -> bool:  # noqa: ANN401
        try:
            self._socket.sendmsg((data,), ancillary, 0, to)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self.counters[_word(error)] += 1
        return True

    def _sent_apart(self, transmit: Transmit) -> bool:
        """One datagram a call, for a remote where the kernel does not segment."""
        ancillary, remote = self._routes.get(transmit.path) or self._route(transmit.path)
        data, size = transmit.data, transmit.segment
        for offset in range(0, len(data), size):
            try:
                self._socket.sendmsg((data[offset : offset + size],), ancillary, 0, remote)
            except (BlockingIOError, InterruptedError):
                self._enqueue(Transmit(transmit.path, data[offset:], size))
                return True
            except OSError as error:
                self.counters[_word(error)] += 1
                continue
            # Only now is it known that the segmentation was at fault and not the path.
            if len(self._unsegmented) >= KNOWN_PATHS:
                self._unsegmented.clear()
            self._unsegmented.add(transmit.path.remote)
        return True

    def _learn(self, source: Any, info: bytes) -> Path:  # noqa: ANN401 - (host, port, …)
        ip = socket.inet_pton(self.family, source[0].partition("%")[0])
        if self.family == socket.AF_INET:
            local = info[4:8] if info else bytes(4)
        else:
            local = info[:16] if info else bytes(16)
            if source[3]:
                if len(self._scopes) >= KNOWN_PATHS:
                    self._scopes.clear()
                self._scopes[ip] = source[3]
        path = Path(Address(local, self.port), Address(ip, source[1]))
        if len(self._sources) >= KNOWN_PATHS:
            self._sources.clear()
        self._sources[source, info] = path
        return path

    def _route(self, path: Path) -> tuple[list[tuple[int, int, bytes]], Any]:
        """Ancillary data and socket address for sending along `path`."""
        local, (ip, port) = path.local.ip, path.remote
        remote: Any = (socket.inet_ntop(self.family, ip), port)
        ancillary: list[tuple[int, int, bytes]] = []
        chosen = any(local) and len(local) == len(ip)
        if self.family == socket.AF_INET:
            if chosen:
                info = struct.pack("=i4s4s", 0, local, bytes(4))
                ancillary.append((socket.IPPROTO_IP, _IP_PKTINFO, info))
        else:
            scope = self._scopes.get(ip, 0)
            remote = (*remote, 0, scope)
            if chosen:
                info = struct.pack("=16si", local, scope)
                ancillary.append((socket.IPPROTO_IPV6, _IPV6_PKTINFO, info))
        if len(self._routes) >= KNOWN_PATHS:
            self._routes.clear()
        self._routes[path] = ancillary, remote
        return ancillary, remote


_LITTLE = struct.pack("=H", 1) == b"\x01\x00"


@cache
def _keep_heap() -> None:
    # Once: a second such block would come from the heap and stay resident.
    bytearray(HEAP)


def _word(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "error").lower()


def _bound(port: int, family: int) -> socket.socket:
    """A bound socket with everything switched on that the kernel has. Raises PlatformError."""
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise PlatformError(f"this kernel gives no UDP socket: {error.strerror}") from error
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("", port))
    except OSError as error:
        sock.close()
        hint = {
            errno.EADDRINUSE: "another program uses it; stop that or choose another port",
            errno.EACCES: "ports below 1024 need more rights; start it as root",
        }.get(error.errno or 0, error.strerror or "refused")
        raise PlatformError(f"UDP port {port} cannot be opened: {hint}") from error
    _tune(sock, family)
    return sock


def _tune(sock: socket.socket, family: int) -> None:
    wanted: Iterable[tuple[int, int]]
    if family == socket.AF_INET:
        wanted = ((socket.IPPROTO_IP, _IP_PKTINFO),)
    else:
        wanted = ((socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO),)
    for level, option in (*wanted, (_SOL_UDP, _UDP_GRO)):
        with contextlib.suppress(OSError):  # Linux before 5.0 has no UDP_GRO: works without
            sock.setsockopt(level, option, 1)
    for forced, plain in (
        (_SO_RCVBUFFORCE, socket.SO_RCVBUF),
        (_SO_SNDBUFFORCE, socket.SO_SNDBUF),
    ):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, BUFFER)
        except OSError:  # without CAP_NET_ADMIN: as much as the system allows
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER)
