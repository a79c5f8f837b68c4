"""Reading IPv4 and IPv6 headers of packets inside the tunnel (RFC 791, RFC 8200).

Packets come from a TUN device or out of an ESP packet and may be anything. No function here
raises: what is too short or makes no sense is None. Nothing is verified that the receiving
kernel verifies (checksums). Left out: ESP and AH inside the tunnel beyond their protocol number.
"""

from __future__ import annotations

from struct import Struct
from typing import TypeAlias

ICMP = 1
TCP = 6
UDP = 17
IPV6_FRAGMENT = 44
ICMPV6 = 58

# Protocol, source, destination, source port, destination port. Addresses are 4 or 16 octets.
# Of ICMP both ports are 256 × type + code, as traffic selectors have it (RFC 7296 §3.13.1). A
# port is -1 where there is none to see: other protocols and fragments after the first.
Flow: TypeAlias = tuple[int, bytes, bytes, int, int]

NO_PORT = -1
# RFC 8200 §4.1 has each extension header once; beyond this many nobody is honest.
MAX_EXTENSION_HEADERS = 8

# Version and header length, total length, fragment, protocol, addresses, ports (no options).
_V4_PORTS = Struct("!BxHxxHxBxx4s4sHH")
# Version, payload length, next header, addresses, ports (no extension headers).
_V6_PORTS = Struct("!BxxxHBx16s16sHH")
_PORTS = Struct("!HH")
_TCP_UDP = frozenset({TCP, UDP})
_HAS_PORTS = frozenset({TCP, UDP, 33, 132, 136})  # DCCP, SCTP, UDP-Lite
# Hop-by-hop options, routing, destination options, mobility, HIP, shim6: length in octet 1.
_EXTENSIONS = frozenset({0, 43, 60, 135, 139, 140})
_FRAGMENT_OFFSET = 0x1FFF
_V6_HEADER = 40
_V4_HEADER = 20


def version(packet: bytes) -> int | None:
    """4 or 6, or None."""
    if not packet:
        return None
    number = packet[0] >> 4
    return number if number in (4, 6) else None


def length(packet: bytes) -> int | None:
    """Octets of the packet by its own header; None if it is not all there.

    What lies beyond is traffic flow confidentiality padding (RFC 4303 §2.7) or garbage.
    """
    octets = len(packet)
    if octets < _V4_HEADER:
        return None
    kind = packet[0] >> 4
    if kind == 4:
        total = packet[2] << 8 | packet[3]
        header = (packet[0] & 15) * 4
        return total if _V4_HEADER <= header <= total <= octets else None
    if kind == 6:
        total = _V6_HEADER + (packet[4] << 8 | packet[5])
        return total if total <= octets else None
    return None


def source(packet: bytes) -> bytes | None:
    """The source address, 4 or 16 octets, or None."""
    kind = version(packet)
    if kind == 4:
        return packet[12:16] if len(packet) >= _V4_HEADER else None
    return packet[8:24] if kind == 6 and len(packet) >= _V6_HEADER else None


def destination(packet: bytes) -> bytes | None:
    """The destination address, 4 or 16 octets, or None."""
    kind = version(packet)
    if kind == 4:
        return packet[16:20] if len(packet) >= _V4_HEADER else None
    return packet[24:40] if kind == 6 and len(packet) >= _V6_HEADER else None


def protocol(packet: bytes) -> int | None:
    """The transport protocol, behind IPv6 extension headers, or None."""
    found = transport(packet)
    return None if found is None else found[0]


def ports(packet: bytes) -> tuple[int, int] | None:
    """Source and destination port of TCP, UDP and the like, or None."""
    found = flow(packet)
    if found is None or found[3] < 0 or found[0] not in _HAS_PORTS:
        return None
    return found[3], found[4]


def flow(packet: bytes) -> Flow | None:
    """All that a policy decision needs, or None if this is no whole IP packet. Cannot fail.

    TCP and UDP without options or extension headers, nearly everything, take the short way.
    """
    octets = len(packet)
    if octets >= 24 and packet[0] == 0x45:
        _, total, fragment, proto, src, dst, sport, dport = _V4_PORTS.unpack_from(packet)
        if proto in _TCP_UDP and not fragment & _FRAGMENT_OFFSET:
            return (proto, src, dst, sport, dport) if 24 <= total <= octets else None
    elif octets >= 44 and packet[0] >> 4 == 6:
        _, payload, proto, src, dst, sport, dport = _V6_PORTS.unpack_from(packet)
        if proto in _TCP_UDP:
            return (proto, src, dst, sport, dport) if 4 <= payload <= octets - 40 else None
    return _any_flow(packet)


def transport(packet: bytes) -> tuple[int, int, bool] | None:
    """Transport protocol, offset of its header, and whether that header is there. Cannot fail.

    It is not there in a fragment after the first. None if this is no whole IP packet.
    """
    end = length(packet)
    if end is None:
        return None
    if packet[0] >> 4 == 4:
        later = (packet[6] << 8 | packet[7]) & _FRAGMENT_OFFSET != 0
        return packet[9], (packet[0] & 15) * 4, not later
    return _v6_transport(packet, end)


def _any_flow(packet: bytes) -> Flow | None:
    found = transport(packet)
    if found is None:
        return None
    proto, offset, has_header = found
    end = length(packet) or 0
    four = packet[0] >> 4 == 4
    src, dst = (packet[12:16], packet[16:20]) if four else (packet[8:24], packet[24:40])
    if has_header and proto in _HAS_PORTS:
        if end - offset < _PORTS.size:
            return None
        sport, dport = _PORTS.unpack_from(packet, offset)
        return proto, src, dst, sport, dport
    if has_header and proto in (ICMP, ICMPV6):
        if end - offset < 2:
            return None
        code = packet[offset] << 8 | packet[offset + 1]
        return proto, src, dst, code, code
    return proto, src, dst, NO_PORT, NO_PORT


def _v6_transport(packet: bytes, end: int) -> tuple[int, int, bool] | None:
    proto, offset = packet[6], _V6_HEADER
    for _ in range(MAX_EXTENSION_HEADERS):
        if proto in _EXTENSIONS:
            if end - offset < 8:
                return None
            proto, offset = packet[offset], offset + 8 * (packet[offset + 1] + 1)
        elif proto == IPV6_FRAGMENT:
            if end - offset < 8:
                return None
            later = (packet[offset + 2] << 8 | packet[offset + 3]) & 0xFFF8 != 0
            proto, offset = packet[offset], offset + 8
            if later:  # what follows is the middle of something
                return proto, offset, False
        else:
            break
        if offset > end:
            return None
    return None if proto in _EXTENSIONS or proto == IPV6_FRAGMENT else (proto, offset, True)
