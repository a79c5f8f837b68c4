"""ICMP and ICMPv6 packet-too-big towards our own stack (RFC 792, 1191, 4443 §3.2)."""

from __future__ import annotations

import struct

from agent.wire.ip import ICMP, ICMPV6

_QUOTE_IPV6 = 1232
"""An ICMPv6 error stays within 1280 octets (RFC 4443 §3.2)."""

_QUOTE_IPV4 = 548
"""An ICMP error stays within 576 octets (RFC 1812 §4.3.2.3)."""


def packet_too_big(packet: bytes, mtu: int) -> bytes | None:
    """The answer to a packet larger than `mtu`, as from its destination; None if none is due.

    None for IPv4 without DF, whose sender does not listen, and for what is not a packet.
    """
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        source, destination = packet[24:40], packet[8:24]
        body = struct.pack("!BBHI", 2, 0, 0, mtu) + packet[:_QUOTE_IPV6]
        pseudo = source + destination + struct.pack("!II", len(body), ICMPV6)
        body = _with_checksum(body, pseudo)
        return struct.pack("!IHBB", 6 << 28, len(body), ICMPV6, 64) + source + destination + body
    if len(packet) >= 20 and packet[0] >> 4 == 4 and packet[6] & 0x40:
        body = _with_checksum(struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + packet[:_QUOTE_IPV4], b"")
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, ICMP, 0)
        header += packet[16:20] + packet[12:16]
        return header[:10] + _checksum(header) + header[12:] + body
    return None


def _with_checksum(body: bytes, pseudo: bytes) -> bytes:
    return body[:2] + _checksum(pseudo + body) + body[4:]


def _checksum(data: bytes) -> bytes:
    if len(data) % 2:
        data += b"\0"
    return (0xFFFF - int.from_bytes(data, "big") % 0xFFFF).to_bytes(2, "big")
