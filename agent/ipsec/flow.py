"""What a policy needs to know of an inner packet: addresses, protocol, ports (RFC 4301 §4.4.1.1).

Nothing here raises on any octets; what is cut short, inconsistent or too deep gives None.
"""

from __future__ import annotations

from typing import NamedTuple

from agent.wire import ip
from agent.wire.ip import ICMP, ICMPV6, TCP, UDP

_TCP_HEADER = 20
_SHORT_HEADER = 8
_SYN, _ACK = 0x02, 0x10

KEY_WITHIN = 44
"""Octets at the front of a packet that `flow_key` looks at."""


class Flow(NamedTuple):
    """A packet's place in the policy.

    `ports` is (source, destination); None where the packet has none or they are not to be seen
    (fragments after the first). `kind` and `code` are those of ICMP; `opens` says that TCP asks for
    a connection; `length` is the packet's by its own header; `key` see `flow_key`.
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
    if len(packet) >= KEY_WITHIN and packet[0] >> 4 == 6 and packet[6] in (TCP, UDP):
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
    length, found = ip.length(packet), ip.transport(packet)
    if length is None or found is None:
        return None
    protocol, at, visible = found
    if packet[0] >> 4 == 6:
        source, destination = packet[8:24], packet[24:40]
    else:
        source, destination = packet[12:16], packet[16:20]
    ports: tuple[int, int] | None = None
    kind, code, opens = None, 0, False
    if visible and protocol in (TCP, UDP):
        if length < at + (_TCP_HEADER if protocol == TCP else _SHORT_HEADER):
            return None
        ports = (packet[at] << 8 | packet[at + 1], packet[at + 2] << 8 | packet[at + 3])
        opens = protocol == TCP and packet[at + 13] & (_SYN | _ACK) == _SYN
    elif visible and protocol in (ICMP, ICMPV6):
        if length < at + _SHORT_HEADER:
            return None
        kind, code = packet[at], packet[at + 1]
    return Flow(protocol, source, destination, ports, kind, code, opens, length, flow_key(packet))
