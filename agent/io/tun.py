"""The TUN device: inner packets from and to the kernel, with virtio-net headers where they exist.

Asymmetric on purpose: with TUNSETOFFLOAD 0 the kernel segments and checksums everything that is
read, while what is written may be a super-packet. Where every peer has agreed to do without inner
checksums, `set_unfinished` lets the kernel leave that work to us too.

Not here: addresses and routes (netlink), and what is in the packets.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections import Counter
from typing import TYPE_CHECKING

from agent.errors import PlatformError

if TYPE_CHECKING:
    from collections.abc import Sequence

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_OFFLOAD_CSUM_TSO = 0x01 | 0x02 | 0x04
_OFFLOAD_CSUM_TSO_USO = 0x01 | 0x02 | 0x04 | 0x20 | 0x40
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_SIOCSIFMTU = 0x8922
_SIOCSIFTXQLEN = 0x8943
_IFF_UP = 0x1
_NAME_LENGTH = 15  # IFNAMSIZ less the closing zero
_IFREQ = "16sH22x"
_IFREQ_INT = "16si20x"

VNET_HEADER = 10
QUEUE_LENGTH = 1000
"""Packets that wait in the kernel for us: one full window of a fast stream."""

GROUP = 65000
SEGMENTS = 64
ESP_OVERHEAD = 40
"""Octets and datagrams of one UDP_SEGMENT send, and what ESP adds to a packet, about."""

SUPER = VNET_HEADER + 40 + 65535
"""The largest frame: a super-packet is an IP packet with its length."""

ROOM = 2 * GROUP
"""Octets after which one call reads no more."""

_NEEDS_CSUM = 1

TURN = 1 << 16
"""Octets written before a program that shares our core may run. A UDP socket holds some 90 packets
(net.core.rmem_default); a reader that has to wait until we are through loses the rest."""

SPARE = 256
"""Room beyond the MTU, for a device whose MTU was raised behind our back."""


class Tun:
    """A TUN device that exists as long as this object does.

    `vnet` says whether writes begin with a 10-octet virtio-net header, `udp_segmentation` whether
    UDP super-packets are taken. `group` is how many full packets one UDP_SEGMENT send takes: more
    of them in a TCP super-packet would cost a second one. `counters` counts failed writes by
    reason.
    """

    def __init__(self, name: str, mtu: int = 1280) -> None:
        if len(name.encode()) > _NAME_LENGTH:
            raise PlatformError(
                f"the device name {name} is too long: at most {_NAME_LENGTH} octets"
            )
        self.counters: Counter[str] = Counter()
        self._fd = _open()
        try:
            self.name, self.vnet = _attach(self._fd, name)
            self.udp_segmentation = self.vnet and _takes_udp(self._fd)
            self.mtu = mtu
            self.unfinished = self._was_unfinished = False
            self._skip = VNET_HEADER if self.vnet else 0
            self.set_mtu(mtu)
            _control(self.name, _SIOCSIFTXQLEN, QUEUE_LENGTH, optional=True)
            _bring_up(self.name)
        except BaseException:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        """The descriptor, for the loop."""
        return self._fd

    def close(self) -> None:
        """Give the device back; the kernel removes it with its addresses and routes."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def set_mtu(self, mtu: int) -> None:
        """Change the device's MTU. Raises PlatformError."""
        _control(self.name, _SIOCSIFMTU, mtu)
        self.mtu = mtu
        self._size = mtu + self._skip + SPARE
        self.group = max(1, min(SEGMENTS, GROUP // (mtu + ESP_OVERHEAD)))

    def set_unfinished(self, wanted: bool) -> None:
        """Let the kernel hand over TCP super-packets, and packets without checksum, or no longer.

        `unfinished` says what was asked for last; a kernel that refuses goes on as before.
        """
        if not self.vnet or wanted == self.unfinished:
            return
        self.unfinished = wanted
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._fd, _TUNSETOFFLOAD, _OFFLOAD_CSUM_TSO if wanted else 0)
            self._was_unfinished = True  # from now on such packets may wait in the device

    def receive(self, budget: int = 0) -> list[bytes]:
        """Up to `budget` inner packets that the kernel has for us; empty if it has none.

        0 stands for as many as fill two UDP_SEGMENT sends, so that a busy tunnel sends full ones.
        An unfinished packet (see `set_unfinished`) still has its virtio-net header, and begins with
        an octet below 16, which no IP packet does.
        """
        if self._was_unfinished:
            return self._receive_unfinished(budget or 2 * self.group)
        packets: list[bytes] = []
        append, read, fd, size, skip = packets.append, os.read, self._fd, self._size, self._skip
        try:
            for _ in range(budget or 2 * self.group):
                append(read(fd, size)[skip:])
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:  # EIO while the device is down
            self._count(error)
        return packets

    def _receive_unfinished(self, budget: int) -> list[bytes]:
        packets: list[bytes] = []
        append, read, fd, room = packets.append, os.read, self._fd, ROOM
        try:
            for _ in range(budget):
                frame = read(fd, SUPER)
                append(frame if frame[0] & _NEEDS_CSUM or frame[1] else frame[VNET_HEADER:])
                room -= len(frame)
                if room <= 0:
                    break
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:  # EIO while the device is down
            self._count(error)
        return packets

    def write(self, writes: Sequence[Sequence[bytes]]) -> None:
        """Hand packets to the kernel: each element holds the buffers of one of them."""
        writev, fd, octets = os.writev, self._fd, 0
        for buffers in writes:
            try:
                octets += writev(fd, buffers)
            except OSError as error:
                self._count(error)
            if octets >= TURN:
                octets = 0
                os.sched_yield()

    def _count(self, error: OSError) -> None:
        self.counters[errno.errorcode.get(error.errno or 0, "error").lower()] += 1


def _open() -> int:
    try:
        return os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        hint = {
            errno.ENOENT: "load the kernel module tun (modprobe tun)",
            errno.EACCES: "start it as root or give it CAP_NET_ADMIN",
            errno.EPERM: "start it as root or give it CAP_NET_ADMIN",
        }.get(error.errno or 0, error.strerror or "refused")
        raise PlatformError(f"the TUN device cannot be opened: {hint}") from error


def _attach(fd: int, name: str) -> tuple[str, bool]:
    """Name the device; returns its real name and whether it has vnet headers."""
    request = name.encode()
    for flags in (_IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR, _IFF_TUN | _IFF_NO_PI):
        try:
            answer = fcntl.ioctl(fd, _TUNSETIFF, struct.pack(_IFREQ, request, flags))
        except OSError as error:
            if error.errno == errno.EINVAL and flags & _IFF_VNET_HDR:
                continue
            hint = {
                errno.EBUSY: "another program uses that device",
                errno.EPERM: "start it as root or give it CAP_NET_ADMIN",
                errno.EINVAL: "a device of another kind has that name",
            }.get(error.errno or 0, error.strerror or "refused")
            raise PlatformError(f"the TUN device {name} cannot be made: {hint}") from error
        real = answer[:16].rstrip(b"\0").decode()
        vnet = bool(flags & _IFF_VNET_HDR)
        if vnet:
            fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("=i", VNET_HEADER))
            fcntl.ioctl(fd, _TUNSETOFFLOAD, 0)
        return real, vnet
    raise AssertionError("the second attempt returns or raises")


def _takes_udp(fd: int) -> bool:
    """Linux from 6.2 knows UDP super-packets: it says so when asked for them as an offload."""
    try:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOAD_CSUM_TSO_USO)
    except OSError:
        return False
    fcntl.ioctl(fd, _TUNSETOFFLOAD, 0)
    return True


def _control(name: str, request: int, value: int, *, optional: bool = False) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            fcntl.ioctl(sock, request, struct.pack(_IFREQ_INT, name.encode(), value))
        except OSError as error:
            if not optional:
                raise PlatformError(
                    f"the TUN device {name} cannot be set up: {error.strerror}"
                ) from error


def _bring_up(name: str) -> None:
    with contextlib.closing(
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    ) as sock:
        request = struct.pack(_IFREQ, name.encode(), 0)
        try:
            flags = struct.unpack(_IFREQ, fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[1]
            fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack(_IFREQ, name.encode(), flags | _IFF_UP))
        except OSError as error:
            raise PlatformError(
                f"the TUN device {name} cannot be brought up: {error.strerror}"
            ) from error
