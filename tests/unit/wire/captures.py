"""UDP payloads out of capture files of any make: whole, cut off or damaged on purpose.

`tests.support.vectors.udp_payloads` reads well-formed Ethernet captures; this one also takes
raw IP, VLAN tags, IPv6, packets that the capture cut short and blocks that lie.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_RAW_LINKS = {0: 4, 12: 0, 101: 0, 108: 4}  # link type → octets before the IP header
_ETHERNET = 1


class Datagram(NamedTuple):
    """One UDP datagram; `is_whole` unless the capture cut it off."""

    source_port: int
    destination_port: int
    data: bytes
    is_whole: bool


def datagrams(capture: bytes) -> Iterator[Datagram]:
    """The UDP datagrams of a pcap or pcapng file, in their order."""
    blocks = _pcapng(capture) if capture[:4] == b"\n\r\r\n" else _pcap(capture)
    for link, frame in blocks:
        packet = _network_layer(link, frame)
        found = _udp(packet)
        if found is not None:
            yield found


def ike_messages(capture: bytes) -> Iterator[tuple[bytes, bool]]:
    """What stands behind UDP port 500, or 4500 and a marker, and whether it is whole."""
    for datagram in datagrams(capture):
        if 500 in datagram[:2]:
            yield datagram.data, datagram.is_whole
        elif 4500 in datagram[:2] and datagram.data[:4] == bytes(4):
            yield datagram.data[4:], datagram.is_whole


def _network_layer(link: int, frame: bytes) -> bytes:
    if link == _ETHERNET:
        at = 12
        while frame[at : at + 2] == b"\x81\x00":
            at += 4
        return frame[at + 2 :] if frame[at : at + 2] in (b"\x08\x00", b"\x86\xdd") else b""
    return frame[_RAW_LINKS[link] :]


def _udp(packet: bytes) -> Datagram | None:
    if len(packet) < 28:
        return None
    if packet[0] >> 4 == 4 and packet[9] == 17:
        offset = (packet[0] & 15) * 4
    elif packet[0] >> 4 == 6 and packet[6] == 17:
        offset = 40
    else:
        return None
    if len(packet) < offset + 8:
        return None
    source, destination, length = struct.unpack_from("!HHH", packet, offset)
    data = packet[offset + 8 : offset + length]
    return Datagram(source, destination, data, len(data) == length - 8)


def _pcap(data: bytes) -> Iterator[tuple[int, bytes]]:
    order = "<" if data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    (link,) = struct.unpack_from(order + "I", data, 20)
    at = 24
    while len(data) - at >= 16:
        (length,) = struct.unpack_from(order + "I", data, at + 8)
        yield link & 0xFFFF, data[at + 16 : at + 16 + length]
        at += 16 + length


def _pcapng(data: bytes) -> Iterator[tuple[int, bytes]]:
    at, links = 0, []
    while len(data) - at >= 12:
        kind, length = struct.unpack_from("<II", data, at)
        if kind == 1:  # interface description
            links.append(struct.unpack_from("<H", data, at + 8)[0])
        elif kind == 6:  # enhanced packet
            (interface,) = struct.unpack_from("<I", data, at + 8)
            (captured,) = struct.unpack_from("<I", data, at + 20)
            yield links[interface], data[at + 28 : at + 28 + captured]
        elif kind == 3:  # simple packet
            yield links[0], data[at + 12 : at + length - 4]
        at += max(length, 12)
