"""Packets in groups, because a system call costs more than sealing a packet does.

Outgoing, `runs` finds neighbours of equal size for UDP_SEGMENT. Incoming, `Coalescer` joins the
inner packets of a flow to a super-packet for the TUN device: TCP segments that follow each other
with the same acknowledgement, window and options, and UDP datagrams of equal size. The last of a
group may be shorter, and for TCP may carry PSH. What does not fit in a group is written alone, in
its flow's order.

A super-packet says NEEDS_CSUM: its checksum field holds the pseudo-header's sum, and the kernel
takes the rest for granted, as it does of a card that has verified it. Here the ICV has: the octets
are those that the peer's stack gave out. Packets written alone are verified by the
kernel as ever, unless the peer leaves checksums to us (`Coalescer.vouched`).

Left out: IPv4 options, IPv6 extension headers, fragments (written alone).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

from agent.records import record
from agent.wire.ip import TCP, UDP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MAX_SEGMENTS = 64
"""What one call may carry: UDP_MAX_SEGMENTS of kernels before 6.9, both ways."""

MAX_GROUP = 65000
"""Octets in one call: an IP packet of 65535 less headers."""

MAX_BUFFERS = 1000
"""Buffers of one writev (IOV_MAX is 1024)."""

_AHEAD = 64
"""Packets compared at once: a full GRO buffer."""

NO_VNET = bytes(10)
"""The virtio-net header of a packet that stands for itself."""


_ACK = 0x10
_PSH = 0x08
_VNET = struct.Struct("=BBHHHH").pack
_NEEDS_CSUM = 1
_GSO_TCPV4, _GSO_TCPV6, _GSO_UDP = 1, 4, 5
_SEQUENCE_END = 1 << 32


@record(frozen=True, slots=True)
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

    `last` selects the bits of the header, as one big number, that the last packet of a group has in
    common with the others: not checksums, IPv4 identification, lengths and PSH. `sequence_shift`
    is the place of the TCP sequence number in it, -1 for UDP.
    """

    header: int
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
    free = [checksum, 4] if version == 6 else [checksum, 2, 4, 10]
    if not tcp:
        free.append(transport + 4)
    last = (1 << 8 * header) - 1
    for at in free:
        last &= ~(0xFFFF << 8 * (header - at - 2))
    if tcp:
        last &= ~(_PSH << 8 * (header - transport - 14))
    gso = (_GSO_TCPV6 if version == 6 else _GSO_TCPV4) if tcp else _GSO_UDP
    shift = 8 * (header - transport - 8) if tcp else -1
    return _Shape(header, last, shift, transport, gso, checksum - transport)


@lru_cache(maxsize=256)
def _cut(shape: _Shape, payload: int, trailer: int) -> tuple[struct.Struct, int]:
    """How packets of a group are cut into what is constant, what counts up and what is free.

    The second of the result is the place of the sequence number among the fields, -1 without; the
    payload is the last field but one.
    """
    at, header = shape.transport, shape.header
    if at == 40:
        fields, place = f"{at + 4}s", 1
    else:
        fields, place = "4s2x4s2x12s", 3
    if shape.sequence_shift < 0:
        fields, place = fields + "2s2x", -1
    else:
        fields += f"I8s2x{header - at - 18}s"
    return struct.Struct(f">{fields}{payload}s{trailer}s"), place


class Group:
    """A super-packet that grows: `buffers` are those of its write, `room` packets may follow."""

    __slots__ = (
        "_expected", "_next", "_octets", "_payload", "_shape", "_trailer",
        "buffers", "pushed", "room",
    )  # fmt: skip

    def __init__(self, packet: bytes, trailer: bytes, shape: _Shape, buffers: list[bytes]) -> None:
        self._shape = shape
        self._trailer = trailer
        self.buffers = buffers
        self.pushed = False
        self._payload = payload = len(packet) - shape.header
        self._octets = 0
        self._expected = int.from_bytes(packet[: shape.header], "big")
        self.room = min(MAX_GROUP // payload, MAX_BUFFERS)
        self._next = 0
        if shape.sequence_shift < 0:
            self.room = min(self.room, MAX_SEGMENTS)
        else:
            # A group ends where the sequence number wraps: it is added to as a part of the header.
            sequence = int.from_bytes(packet[shape.transport + 4 : shape.transport + 8], "big")
            self.room = min(self.room, (_SEQUENCE_END - 1 - sequence) // payload)
            self._next = sequence
        self._take([])

    def _take(self, payloads: Sequence[bytes]) -> None:
        """Add payloads; the first packet, which is there already, counts with none."""
        count = len(payloads) or 1
        self.buffers += payloads
        self._octets += count * self._payload
        self.room -= count
        if self._shape.sequence_shift >= 0:
            self._next += count * self._payload
            self._expected += count * self._payload << self._shape.sequence_shift

    def extend(self, packets: list[bytes]) -> int:
        """Take as many `packets`, all of one length, as continue this group; returns how many.

        There are no more than there is room for, and at least one. Column by column, because
        packet by packet the interpreter's comparisons would cost as much as decryption.
        """
        if len(packets[0]) != self._shape.header + self._payload + len(self._trailer):
            return 0
        cut, place = _cut(self._shape, self._payload, len(self._trailer))
        first = cut.unpack(self.buffers[1] + self._trailer)
        columns = list(zip(*map(cut.unpack, packets), strict=True))
        payloads = columns[-2]
        taken = count = len(packets)
        for index, column in enumerate(columns):
            if index == place:
                last = self._next + count * self._payload
                expected = tuple(range(self._next, last, self._payload))
                if column != expected:
                    taken = min(taken, _agreeing(column, expected))
            elif column is not payloads and column.count(first[index]) != count:
                taken = min(taken, _agreeing(column, repeat(first[index])))
        if taken:
            self._take(payloads[:taken])
        return taken

    def took_last(self, packet: bytes) -> bool:
        """End this group with `packet` if that fits: it may be shorter, and it may say PSH."""
        shape = self._shape
        header = int.from_bytes(packet[: shape.header], "big")
        if (
            self.room <= 0
            or not 0 < len(packet) - shape.header <= self._payload
            or header & shape.last != self._expected & shape.last
        ):
            return False
        self.buffers.append(packet[shape.header :])
        self._octets += len(packet) - shape.header
        self.pushed = shape.gso != _GSO_UDP and bool(packet[shape.transport + 13] & _PSH)
        return True

    def finish(self) -> None:
        """Write the super-packet's header into its buffers."""
        buffers, shape = self.buffers, self._shape
        if len(buffers) < 3:
            return
        first = buffers[1]
        header = bytearray(first[: shape.header])
        buffers[1] = first[shape.header :]
        transport = shape.transport
        total = shape.header + self._octets
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
        shape = self._shape
        vnet = _VNET(
            _NEEDS_CSUM, shape.gso, shape.header, self._payload, shape.transport, shape.checksum
        )
        self.buffers[0] = vnet + self.buffers[0]


def _agreeing(column: Iterable[object], expected: Iterable[object]) -> int:
    """How many agree before the first that does not."""
    count = 0
    for one, other in zip(column, expected, strict=False):
        if one != other:
            break
        count += 1
    return count


def _sum(data: bytes | bytearray) -> int:
    """Ones' complement sum of 16-bit words."""
    return int.from_bytes(data, "big") % 0xFFFF


def _vouched(packet: bytes) -> list[bytes]:
    """The write of plain TCP or UDP whose checksum the kernel takes for verified, and makes right

    where the packet goes on. Without one, with options, or cut short, it is not that simple.
    """
    six = packet[0] >> 4 == 6
    transport, protocol = (40, packet[6]) if six else (20, packet[9])
    length = len(packet) - transport
    offset = 16 if protocol == TCP else 6
    at = transport + offset
    field = packet[at : at + 2]
    if (
        length < 20
        if protocol == TCP
        else (length < 8 or field == b"\0\0" or packet[at - 2 : at] != length.to_bytes(2, "big"))
    ):
        return [NO_VNET, packet]
    pseudo = _sum(packet[8:40] if six else packet[12:20]) + length + protocol
    summed = (pseudo % 0xFFFF or 0xFFFF).to_bytes(2, "big")
    vnet = _VNET(_NEEDS_CSUM, 0, 0, 0, transport, offset)
    return [vnet, packet if summed == field else packet[:at] + summed + packet[at + 2 :]]


class Coalescer:
    """Makes the writes of one batch: `writes` holds the buffers of each."""

    __slots__ = ("_groups", "_offload", "open", "vouched", "writes")

    def __init__(self, offload: Offload) -> None:
        self._offload = offload
        self.writes: list[list[bytes]] = []
        self.open: dict[bytes, Group] = {}
        """Groups that may still grow, by flow key (see `flow.key`)."""
        self._groups: list[Group] = []
        self.vouched = False
        """The peer has left checksums of plain TCP and UDP to us: they count as verified."""

    def add_run(self, plain: list[bytes], check: Callable[[bytes], None]) -> None:
        """Append to open groups what continues them, as it was opened, with its trailer.

        `plain` are of one length. All else goes to `check`, which gives to `add` what it lets pass.
        What continues a group needs no check of its own: addresses, protocol, ports, lengths and
        trailer are those of a packet that was checked.
        """
        find = self.open.get
        at, ahead = 0, _AHEAD
        stuck: Group | None = None
        while at < len(plain):
            packet = plain[at]
            group = find(packet[6:44] if packet[0] >> 4 == 6 else packet[6:10] + packet[12:24])
            if group is None or group is stuck or not group.room:
                check(packet)
                at += 1
                stuck = None
                continue
            window = plain[at : at + min(ahead, group.room)]
            taken = group.extend(window)
            at += taken
            if taken == len(window):
                ahead = min(_AHEAD, 2 * ahead)
            else:
                # Flows that alternate must not make us look at everything again and again.
                ahead, stuck = max(4, 2 * taken), group

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
        buffers = _vouched(packet) if self.vouched and key is not None else [NO_VNET, packet]
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
