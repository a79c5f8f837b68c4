"""What the kernel hands us unfinished when the TUN device has offloads: the reverse of `segments`.

A packet that still has its virtio-net header in front (its first octet is 1, where an IP packet has
its version) lacks its TCP or UDP checksum, and may be a TCP super-packet that is to be cut into
segments of gso_size octets (linux/virtio_net.h, RFC 9293, RFC 6864 for the identification). The
checksum field holds the sum of the pseudo-header, not complemented.

The sum over the payload is what is dear here (7 µs for 1400 octets, thrice all the rest), so it is
left out where the peer has agreed to that (agent/engine/inner_offload.py): its receiver takes the
ICV's word for it. Left out: UDP and ECN super-packets, for which nobody asks the kernel.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import chain, repeat
from typing import TYPE_CHECKING

from agent.ipsec.flow import flow_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

VNET = 10
_NEEDS_CSUM = 1
_TCPV4, _TCPV6 = 1, 4
_FIN_PSH = 0x09
_DF = 0x40
_CYCLE = 1 << 32
_HEADER = struct.Struct("=BBHHHH").unpack_from


def finish(frame: bytes, *, summed: bool) -> list[bytes]:
    """The packets that `frame` stands for, in order; none where it makes no sense.

    With `summed` their checksums are right; without, those of plain TCP and UDP are left as sum of
    the pseudo-header. Cannot fail.
    """
    if len(frame) < VNET + 28:
        return []
    flags, gso, _, size, start, offset = _HEADER(frame)
    packet = frame[VNET:]
    if not flags & _NEEDS_CSUM or start + offset + 2 > len(packet) or start < 20:
        return []
    packets = _cut(packet, gso, size, start, offset) if gso else [packet]
    if packets and (summed or flow_key(packets[0]) is None):
        return [_complete(one, start, start + offset) for one in packets]
    return packets


def _complete(packet: bytes, start: int, at: int) -> bytes:
    """Put the sum over everything from `start` on into the checksum field."""
    data = packet[start:]
    if len(data) % 2:
        data += b"\0"
    # 0 would say "no checksum" to UDP; 0xFFFF, its equal, is what comes out.
    value = 0xFFFF - int.from_bytes(data, "big") % 0xFFFF
    return packet[:at] + value.to_bytes(2, "big") + packet[at + 2 :]


def _cut(packet: bytes, gso: int, size: int, start: int, offset: int) -> list[bytes]:
    """TCP segments with `size` octets of payload, the last one with the rest."""
    six = packet[0] >> 4 == 6
    if gso != (_TCPV6 if six else _TCPV4) or start < (40 if six else 20):
        return []
    if len(packet) < start + 20 or not size or offset != 16:
        return []
    end = start + (packet[start + 12] >> 4) * 4
    if not start + 20 <= end < len(packet):
        return []
    whole = (len(packet) - end - 1) // size
    ports, flags = packet[start : start + 4], packet[start + 13]
    sequence = int.from_bytes(packet[start + 4 : start + 8], "big")
    numbers = [(sequence + i * size) % _CYCLE for i in range(whole + 1)]
    rest = end + whole * size
    total = end + len(packet) - rest
    # With DF a packet needs no identification of its own (RFC 6864 §4.1).
    alike = six or bool(packet[6] & _DF)
    last = b"".join(
        (
            _network(packet, start, total, 0 if alike else whole),
            ports,
            numbers.pop().to_bytes(4, "big"),
            _options(packet, start, end, flags, total),
            packet[rest:],
        )
    )
    if not whole:
        return [last]
    total = end + size
    networks: Iterable[bytes]
    if alike:
        networks = repeat(_network(packet, start, total, 0))
    else:
        networks = [_network(packet, start, total, i) for i in range(whole)]
    options = _options(packet, start, end, flags & ~_FIN_PSH, total)
    pack, slices = _layout(start, end, size)
    payloads = chain.from_iterable(slices(memoryview(packet)[end:rest]))
    cut = list(map(pack, networks, repeat(ports), numbers, repeat(options), payloads))
    cut.append(last)
    return cut


@lru_cache(maxsize=64)
def _layout(
    start: int, end: int, size: int
) -> tuple[Callable[..., bytes], Callable[..., Iterator[tuple[bytes]]]]:
    """How a segment is put together, and how the payload of many is taken apart."""
    whole = struct.Struct(f">{start}s4sI{end - start - 8}s{size}s")
    return whole.pack, struct.Struct(f"{size}s").iter_unpack


def _network(packet: bytes, start: int, total: int, index: int) -> bytes:
    """The IP header of the segment `index`, a packet of `total` octets."""
    if packet[0] >> 4 == 6:
        return packet[:4] + (total - 40).to_bytes(2, "big") + packet[6:start]
    ident = (int.from_bytes(packet[4:6], "big") + index) & 0xFFFF
    head = packet[:2] + total.to_bytes(2, "big") + ident.to_bytes(2, "big") + packet[6:10]
    value = 0xFFFF - int.from_bytes(head + packet[12:start], "big") % 0xFFFF
    return head + value.to_bytes(2, "big") + packet[12:start]


def _options(packet: bytes, start: int, end: int, flags: int, total: int) -> bytes:
    """The TCP header behind the sequence number; `total` octets are in the packet.

    The pseudo-header's sum holds the length, which is smaller now.
    """
    value = int.from_bytes(packet[start + 16 : start + 18], "big") + total - len(packet)
    return b"".join(
        (
            packet[start + 8 : start + 13],
            flags.to_bytes(1, "big"),
            packet[start + 14 : start + 16],
            (value % 0xFFFF or 0xFFFF).to_bytes(2, "big"),
            packet[start + 18 : end],
        )
    )
