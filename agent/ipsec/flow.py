"""What a policy needs to know of an inner packet: addresses, protocol, ports (RFC 4301 §4.4.1.1).

Nothing here raises on any octets; what is cut short, inconsistent or too deep gives None.
"""

from __future__ import annotations

from typing import NamedTuple

TCP = 6
UDP = 17
ICMP = 1
ICMPV6 = 58

_MAX_EXTENSIONS = 8
"""IPv6 extension headers looked through; each kind may occur once, one twice (RFC 8200 §4.1)."""

_FRAGMENT = 44
_OPTIONS = frozenset({0, 43, 60})  # hop-by-hop, routing, destination options: length in 8 octets


class Flow(NamedTuple):
    """A packet's place in the policy.

    `ports` is (source, destination); None where the packet has none or they are not to be seen.
    `kind` is the ICMP type and `code` its code; `opens` says that TCP asks for a connection.
    """

    protocol: int
    source: bytes
    destination: bytes
    ports: tuple[int, int] | None
    kind: int | None
    code: int
    opens: bool
    length: int
    key: bytes | None


def flow_key(packet: bytes) -> bytes | None:
    """What the packets of one plain TCP or UDP flow have in common; None for all others.

    Includes the hop limit, and for IPv4 the flags, which do not change within a flow.
    """
    if len(packet) >= 44 and packet[0] >> 4 == 6 and packet[6] in (TCP, UDP):
        return packet[6:44]
    if (
        len(packet) >= 28
        and packet[0] == 0x45
        and packet[9] in (TCP, UDP)
        and not packet[6] & 0x3F
        and not packet[7]
    ):
        return packet[6:10] + packet[12:24]
    return None


def read(packet: bytes) -> Flow | None:
    """Look into an IPv4 or IPv6 packet. Cannot fail."""
    if not packet:
        return None
    if packet[0] >> 4 == 6:
        return _read_ipv6(packet)
    if packet[0] >> 4 == 4:
        return _read_ipv4(packet)
    return None


def _read_ipv4(packet: bytes) -> Flow | None:
    header = (packet[0] & 15) * 4
    if header < 20 or len(packet) < header:
        return None
    length = int.from_bytes(packet[2:4], "big")
    if not header <= length <= len(packet):
        return None
    whole = not (packet[6] & 0x3F or packet[7])
    return _flow(packet, length, packet[9], packet[12:16], packet[16:20], header, whole=whole)


def _read_ipv6(packet: bytes) -> Flow | None:
    if len(packet) < 40:
        return None
    length = 40 + int.from_bytes(packet[4:6], "big")
    if length > len(packet):
        return None
    protocol, at, whole = packet[6], 40, True
    for _ in range(_MAX_EXTENSIONS):
        if protocol in _OPTIONS:
            if at + 8 > length:
                return None
            protocol, at = packet[at], at + 8 + 8 * packet[at + 1]
        elif protocol == _FRAGMENT:
            if at + 8 > length:
                return None
            # An atomic fragment (offset 0, nothing more) is whole (RFC 6946).
            if packet[at + 2] or packet[at + 3] & 0xF9:
                whole = False
                # Only the first fragment's next header counts, and only it has been read so far.
                protocol, at = packet[at], length
                break
            protocol, at = packet[at], at + 8
        else:
            break
    else:
        return None
    if at > length:
        return None
    return _flow(packet, length, protocol, packet[8:24], packet[24:40], at, whole=whole)


def _flow(
    packet: bytes, length: int, protocol: int, source: bytes, destination: bytes, at: int,
    *, whole: bool,
) -> Flow | None:  # fmt: skip
    ports: tuple[int, int] | None = None
    kind, code, opens = None, 0, False
    if whole and protocol in (TCP, UDP):
        if length < at + (20 if protocol == TCP else 8):
            return None
        ports = (
            int.from_bytes(packet[at : at + 2], "big"),
            int.from_bytes(packet[at + 2 : at + 4], "big"),
        )
        opens = protocol == TCP and packet[at + 13] & 0x12 == 0x02
    elif whole and protocol in (ICMP, ICMPV6):
        if length < at + 8:
            return None
        kind, code = packet[at], packet[at + 1]
    return Flow(protocol, source, destination, ports, kind, code, opens, length, flow_key(packet))
