"""IP headers inside the tunnel: what is there is read, what is not is None, nothing raises."""

from __future__ import annotations

import random
import struct

import pytest

from agent.wire import ip

SRC4, DST4 = bytes([10, 1, 0, 1]), bytes([10, 2, 0, 2])
SRC6, DST6 = b"\xfd" + bytes(14) + b"\x01", b"\xfd" + bytes(14) + b"\x02"
TCP = struct.pack("!HHIIBBHHH", 40000, 80, 1, 2, 5 << 4, 0x12, 1000, 0, 0)
UDP = struct.pack("!HHHH", 5353, 53, 8, 0)


def v4(protocol: int, body: bytes, fragment: int = 0, options: bytes = b"") -> bytes:
    words = 5 + len(options) // 4
    head = struct.pack("!BBHHH", 0x40 | words, 0, words * 4 + len(body), 1, fragment)
    return head + bytes((64, protocol, 0, 0)) + SRC4 + DST4 + options + body


def v6(protocol: int, body: bytes) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + SRC6 + DST6 + body


@pytest.mark.parametrize(
    ("packet", "flow"),
    [
        (v4(6, TCP), (6, SRC4, DST4, 40000, 80)),
        (v4(17, UDP), (17, SRC4, DST4, 5353, 53)),
        (v4(17, UDP, options=bytes(8)), (17, SRC4, DST4, 5353, 53)),
        (v4(17, UDP, fragment=0x2000), (17, SRC4, DST4, 5353, 53)),  # the first fragment
        (v4(17, UDP, fragment=0x2001), (17, SRC4, DST4, -1, -1)),
        (v4(6, TCP, fragment=0x0001), (6, SRC4, DST4, -1, -1)),
        (v4(132, UDP), (132, SRC4, DST4, 5353, 53)),
        (v4(1, b"\x08\x00\0\0"), (1, SRC4, DST4, 0x0800, 0x0800)),
        (v4(47, b"gre"), (47, SRC4, DST4, -1, -1)),
        (v4(47, b""), (47, SRC4, DST4, -1, -1)),
        (v6(6, TCP), (6, SRC6, DST6, 40000, 80)),
        (v6(17, UDP), (17, SRC6, DST6, 5353, 53)),
        (v6(58, b"\x80\x00\0\0"), (58, SRC6, DST6, 0x8000, 0x8000)),
        (v6(58, b"\x01\x04"), (58, SRC6, DST6, 0x0104, 0x0104)),
        (v6(59, b""), (59, SRC6, DST6, -1, -1)),
        (v6(0, b"\x11\x00" + bytes(6) + UDP), (17, SRC6, DST6, 5353, 53)),
        (v6(43, b"\x3c\x01" + bytes(14) + b"\x11\0" + bytes(6) + UDP), (17, SRC6, DST6, 5353, 53)),
        (v6(44, b"\x11\0\0\x01" + bytes(4) + UDP), (17, SRC6, DST6, 5353, 53)),  # the first
        (v6(44, b"\x11\0\0\x08" + bytes(4) + UDP), (17, SRC6, DST6, -1, -1)),
    ],
)
def test_flows(packet, flow):
    assert ip.flow(packet) == flow
    assert ip.version(packet) == (4 if len(flow[1]) == 4 else 6)
    assert ip.source(packet) == flow[1]
    assert ip.destination(packet) == flow[2]
    assert ip.protocol(packet) == flow[0]
    assert ip.length(packet) == len(packet)
    has_ports = flow[0] in (6, 17, 132) and flow[3] >= 0
    assert ip.ports(packet) == (flow[3:] if has_ports else None)
    # Padding behind the packet changes nothing (RFC 4303 §2.7).
    assert ip.flow(packet + bytes(100)) == flow
    assert ip.length(packet + bytes(100)) == len(packet)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x45",
        v4(6, TCP)[:19],
        v4(6, b"abc"),  # ports cut off, and nothing behind them
        v4(6, b"abc") + bytes(20),
        v4(1, b"\x08"),
        v4(1, b"\x08") + bytes(20),
        b"\x44" + v4(6, TCP)[1:],  # header length under 20
        b"\x4f" + v4(6, b"")[1:],  # over the packet
        b"\x55" + v4(6, TCP)[1:],  # version
        b"\x05" + v4(6, TCP)[1:],
        v6(6, TCP)[:39],
        v6(6, b"abc"),
        v6(6, b"abc") + bytes(20),
        v6(58, b"\x80") + bytes(20),
        v6(0, b"\x11\x00" + bytes(5)),
        v6(0, b"\x11\xff" + bytes(6) + UDP),
        v6(44, b"\x11\0\0"),
        v6(60, (b"\x3c\0" + bytes(6)) * 20 + b"\x11\0" + bytes(6) + UDP),  # no end of extensions
    ],
)
def test_what_has_no_flow(packet):
    assert ip.flow(packet) is None
    assert ip.ports(packet) is None


def test_truncated_at_every_octet():
    for packet in (v4(6, TCP), v6(17, UDP), v6(0, b"\x06\x00" + bytes(6) + TCP)):
        for length in range(len(packet)):
            assert ip.flow(packet[:length]) is None
            assert ip.length(packet[:length]) is None
            assert ip.transport(packet[:length]) is None
            for read in (ip.version, ip.source, ip.destination, ip.protocol, ip.ports):
                read(packet[:length])


def test_transport():
    assert ip.transport(v4(17, UDP, options=bytes(4))) == (17, 24, True)
    assert ip.transport(v6(0, b"\x06\x00" + bytes(6) + TCP)) == (6, 48, True)
    assert ip.transport(v4(6, TCP, fragment=5)) == (6, 20, False)


def test_any_octets_at_all():
    source = random.Random(3)
    first = [0x45, 0x46, 0x4F, 0x60, 0x6F, 0x00]
    readers = (ip.flow, ip.transport, ip.ports, ip.length, ip.source, ip.destination)
    for _ in range(5000):
        packet = bytearray(source.randbytes(source.randrange(1, 100)))
        packet[0] = source.choice(first)
        if len(packet) > 6:
            packet[2:6] = bytes((0, len(packet), 0, source.randrange(60)))
            packet[6] = source.choice([0, 6, 17, 43, 44, 58, 60])
        for read in readers:
            read(bytes(packet))
        found = ip.flow(bytes(packet))
        if found is not None:
            assert found[1] == ip.source(bytes(packet))
            assert found[0] == ip.protocol(bytes(packet))
