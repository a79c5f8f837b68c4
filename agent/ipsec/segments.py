"""Packets in groups, because a system call costs more than sealing a packet does.

Outgoing, `runs` finds neighbours of equal size for UDP_SEGMENT. Incoming, `Coalescer` joins the
inner packets of a flow to a super-packet for the TUN device: TCP segments that follow each other
with the same acknowledgement, window and options, and UDP datagrams of equal size. The last of a
group may be shorter, and for TCP may carry PSH. What does not fit in a group is written alone, in
its flow's order.

A super-packet says NEEDS_CSUM: its checksum field holds the pseudo-header's sum, and the kernel
takes the rest for granted, as it does of a card that has verified it. Here the ICV has: the octets
are those that the peer's stack gave out. Packets written alone are verified by the kernel as ever.

Left out: IPv4 options, IPv6 extension headers, fragments (written alone).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from agent.wire.ip import TCP, UDP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

MAX_SEGMENTS = 64
"""What one call may carry: UDP_MAX_SEGMENTS of kernels before 6.9, both ways."""

MAX_GROUP = 65000
"""Octets in one call: an IP packet of 65535 less headers."""

MAX_BUFFERS = 1000
"""Buffers of one writev (IOV_MAX is 1024)."""

NO_VNET = bytes(10)
"""The virtio-net header of a packet that stands for itself."""


_ACK = 0x10
_PSH = 0x08
_VNET = struct.Struct("=BBHHHH").pack
_NEEDS_CSUM = 1
_GSO_TCPV4, _GSO_TCPV6, _GSO_UDP = 1, 4, 5
_SEQUENCE_END = 1 << 32


@dataclass(frozen=True, slots=True)
class Offload:
    """What the TUN device takes: `vnet` headers at all, and UDP super-packets among them."""

    vnet: bool = False
    udp: bool = False


def runs(lengths: Sequence[int], block: int, overhead: int) -> list[tuple[int, int, int]]:
    """Groups of packets for one sendmsg each: (start, end, octets of an ESP datagram).

    All of a group are of one size on the wire, but the last may be smaller.
    """
    found: list[tuple[int, int, int]] = []
    start = limit = size = 0
    usual = -1
    for index, length in enumerate(lengths):
        if length == usual and index < limit:
            continue
        wire = (length + 1 + block) // block * block + overhead
        if index < limit and wire <= size:
            if wire == size:
                usual = length
                continue
            found.append((start, index + 1, size))
            start, limit, usual = index + 1, 0, -1
            continue
        if index > start:
            found.append((start, index, size))
        start, size, usual = index, wire, length
        limit = start + max(1, min(MAX_SEGMENTS, MAX_GROUP // wire))
    if start < len(lengths):
        found.append((start, len(lengths), size))
    return found


class _Shape(NamedTuple):
    """Where things stand in the headers of a kind of packet, and what must be equal.

    The masks select bits of the header as one big number; `same` everything but checksums and the
    IPv4 identification, `last` not the lengths and PSH either.
    """

    header: int
    same: int
    last: int
    sequence_shift: int
    transport: int
    gso: int
    checksum: int


@lru_cache(maxsize=64)
def _shape(version: int, protocol: int, header: int) -> _Shape:
    transport = 40 if version == 6 else 20
    tcp = protocol == TCP
    checksum = transport + (16 if tcp else 6)
    free = [(checksum, 2)]
    lengths = [(4, 2)] if version == 6 else [(2, 2)]
    if version == 4:
        free += [(4, 2), (10, 2)]
    if not tcp:
        lengths.append((transport + 4, 2))

    def bits(ranges: list[tuple[int, int]]) -> int:
        return sum(((1 << 8 * n) - 1) << 8 * (header - at - n) for at, n in ranges)

    same = ((1 << 8 * header) - 1) & ~bits(free)
    last = same & ~bits(lengths)
    if tcp:
        last &= ~(_PSH << 8 * (header - transport - 14))
    gso = (_GSO_TCPV6 if version == 6 else _GSO_TCPV4) if tcp else _GSO_UDP
    shift = 8 * (header - transport - 8) if tcp else -1
    return _Shape(header, same, last, shift, transport, gso, checksum - transport)


class Group:
    """A super-packet that grows: `buffers` are those of its write, `room` the packets to come."""

    __slots__ = (
        "buffers", "end", "expected", "header", "mask", "pushed", "room", "shape", "step", "trailer"
    )  # fmt: skip

    def __init__(self, packet: bytes, trailer: bytes, shape: _Shape, buffers: list[bytes]) -> None:
        self.shape = shape
        self.buffers = buffers
        self.header = header = shape.header
        self.mask = shape.same
        self.end = len(packet)
        self.trailer = trailer
        payload = self.end - header
        self.step = payload << shape.sequence_shift if shape.sequence_shift >= 0 else 0
        self.expected = (int.from_bytes(packet[:header], "big") & shape.same) + self.step
        self.pushed = False
        room = min(MAX_GROUP // payload, MAX_BUFFERS)
        if shape.sequence_shift >= 0:
            # The sum below must not run over into the port when the sequence number wraps.
            sequence = int.from_bytes(packet[shape.transport + 4 : shape.transport + 8], "big")
            room = min(room, (_SEQUENCE_END - 1 - sequence) // payload)
        else:
            room = min(room, MAX_SEGMENTS)
        self.room = room - 1

    def extend(self, packet: bytes, following: Iterator[bytes]) -> bytes | None:
        """Take `packet` and those `following` as long as each continues this group.

        Returns the first that does not, None if there are no more. Once a packet, hence the names.
        """
        from_bytes, append = int.from_bytes, self.buffers.append
        header, mask, end, trailer, step = (
            self.header, self.mask, self.end, self.trailer, self.step,
        )  # fmt: skip
        expected, room = self.expected, self.room
        rest: bytes | None = None
        for packet in chain((packet,), following):  # noqa: B020 - the first of them
            if (
                from_bytes(packet[:header], "big") & mask != expected
                or packet[end:] != trailer
                or not room
            ):
                rest = packet
                break
            append(packet[header:end])
            expected += step
            room -= 1
        self.expected, self.room = expected, room
        return rest

    def took_last(self, packet: bytes) -> bool:
        """End this group with `packet` if that fits: it may be shorter, and it may say PSH."""
        shape = self.shape
        header = int.from_bytes(packet[: shape.header], "big")
        if (
            self.room <= 0
            or not shape.header < len(packet) <= self.end
            or header & shape.last != self.expected & shape.last
        ):
            return False
        self.buffers.append(packet[shape.header :])
        self.pushed = shape.gso != _GSO_UDP and bool(packet[shape.transport + 13] & _PSH)
        return True

    def finish(self) -> None:
        """Write the super-packet's header into its buffers."""
        buffers, shape = self.buffers, self.shape
        if len(buffers) < 3:
            return
        first = buffers[1]
        header = bytearray(first[: shape.header])
        buffers[1] = first[shape.header :]
        total = shape.header + sum(map(len, buffers)) - len(buffers[0])
        transport = shape.transport
        length = total - transport
        if transport == 40:
            header[4:6] = length.to_bytes(2, "big")
            addresses = header[8:40]
        else:
            header[2:4] = total.to_bytes(2, "big")
            header[10:12] = bytes(2)
            header[10:12] = (0xFFFF - _sum(header[:20])).to_bytes(2, "big")
            addresses = header[12:20]
        if self.pushed:
            header[transport + 13] |= _PSH
        if shape.gso == _GSO_UDP:
            header[transport + 4 : transport + 6] = length.to_bytes(2, "big")
        pseudo = _sum(addresses) + length + (UDP if shape.gso == _GSO_UDP else TCP)
        at = transport + shape.checksum
        header[at : at + 2] = (pseudo % 0xFFFF).to_bytes(2, "big")
        buffers[0] = bytes(header)
        self._finish_vnet()

    def _finish_vnet(self) -> None:
        shape = self.shape
        vnet = _VNET(
            _NEEDS_CSUM, shape.gso, shape.header, self.end - shape.header,
            shape.transport, shape.checksum,
        )  # fmt: skip
        self.buffers[0] = vnet + self.buffers[0]


def _sum(data: bytes | bytearray) -> int:
    """Ones' complement sum of 16-bit words."""
    return int.from_bytes(data, "big") % 0xFFFF


class Coalescer:
    """Makes the writes of one batch: `writes` holds the buffers of each."""

    __slots__ = ("_groups", "_offload", "last", "open", "writes")

    def __init__(self, offload: Offload) -> None:
        self._offload = offload
        self.writes: list[list[bytes]] = []
        self.open: dict[bytes, Group] = {}
        """Groups that may still grow, by flow key (see `flow.key`)."""
        self._groups: list[Group] = []

    def add_run(self, plain: Iterable[bytes], check: Callable[[bytes], None]) -> None:
        """Append to open groups what continues them, as it was opened, with its trailer.

        All else goes to `check`, which gives to `add` what it lets pass. What continues a group
        needs no check of its own: addresses, protocol, ports, lengths and trailer are those of a
        packet that was checked.
        """
        find = self.open.get
        packets = iter(plain)
        packet = next(packets, None)
        while packet is not None:
            group = find(packet[6:44] if packet[0] >> 4 == 6 else packet[6:10] + packet[12:24])
            if group is not None:
                rest = group.extend(packet, packets)
                if rest is not packet:
                    packet = rest
                    continue
            check(packet)
            packet = next(packets, None)

    def add(self, packet: bytes, trailer: bytes, key: bytes | None) -> None:
        """Write `packet`, in a group if it fits one.

        `trailer` is what followed it in its ESP packet, `key` its flow key (see `flow`), None for
        what is not plain TCP or UDP.
        """
        if not self._offload.vnet:
            self.writes.append([packet])
            return
        group = None if key is None else self.open.pop(key, None)
        if group is not None and group.took_last(packet):
            return
        buffers = [NO_VNET, packet]
        self.writes.append(buffers)
        shape = None if key is None else self._opens(packet)
        if key is None or shape is None:
            return
        group = Group(packet, trailer, shape, buffers)
        if group.room > 0:
            self.open[key] = group
            self._groups.append(group)

    def _opens(self, packet: bytes) -> _Shape | None:
        """The shape of a group that `packet`, plain TCP or UDP, may begin."""
        if packet[0] >> 4 == 6:
            version, transport, protocol = 6, 40, packet[6]
        else:
            version, transport, protocol = 4, 20, packet[9]
            if not packet[6] & 0x40:  # without DF the identification matters
                return None
        if protocol == UDP:
            header = transport + 8
            if not self._offload.udp or packet[transport + 6 : header] == b"\0\0":
                return None
            if int.from_bytes(packet[transport + 4 : transport + 6], "big") + transport != len(
                packet
            ):
                return None
        else:
            if len(packet) < transport + 20 or packet[transport + 13] != _ACK:
                return None
            header = transport + (packet[transport + 12] >> 4) * 4
            if header < transport + 20:
                return None
        return _shape(version, protocol, header) if len(packet) > header else None

    def end_flows(self) -> None:
        """Let no group grow on: what follows comes from another peer."""
        self.open.clear()

    def finish(self) -> list[list[bytes]]:
        """The writes, in order."""
        for group in self._groups:
            group.finish()
        return self.writes
