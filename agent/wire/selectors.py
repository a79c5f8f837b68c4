"""Traffic selectors: which packets an SA carries (RFC 7296 §2.9, §3.13.1).

A selector is one range of addresses, one protocol (0: any) and one range of ports. ICMP puts
type and code into the port, 256 × type + code. Left out: types 9 (Fibre Channel) and 10
(security labels, RFC 9478), which are skipped.
"""

from __future__ import annotations

import ipaddress
from struct import Struct
from typing import TYPE_CHECKING

from agent.records import record
from agent.wire.codes import TsType
from agent.wire.errors import WireError
from agent.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self

# The count is one octet. Narrowing pairs each with each, so what it returns has its own bound:
# an SA of more ranges than this is no configuration that anybody here writes.
MAX_SELECTORS = 255
MAX_NARROWED = 32

ANY_PROTOCOL = 0
MAX_PORT = 65535

_HEAD = Struct("!BBHHH")  # type, protocol, length, start port, end port
_COUNT = Struct("!B3x")
_OCTETS: dict[int, int] = {TsType.TS_IPV4_ADDR_RANGE: 4, TsType.TS_IPV6_ADDR_RANGE: 16}
_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58, "icmpv6": 58, "sctp": 132}
_PROTOCOL_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp"}


@record(frozen=True, slots=True)
class TrafficSelector:
    """`start` and `end` are 4 or 16 octets, both ends included, as are the ports.

    Ports 0 to 65535 are any, 65535 to 0 OPAQUE (a fragment's unknown port). Other ranges that
    run backwards hold nothing.
    """

    protocol: int
    start_port: int
    end_port: int
    start: bytes
    end: bytes

    def __post_init__(self) -> None:
        if len(self.start) not in (4, 16) or len(self.start) != len(self.end):
            raise WireError("selector_address")

    @classmethod
    def host(cls, ip: bytes) -> Self:
        """Everything from or to one address of 4 or 16 octets."""
        return cls(ANY_PROTOCOL, 0, MAX_PORT, ip, ip)

    @classmethod
    def any(cls, octets: int) -> Self:
        """Everything of IPv4 (4) or IPv6 (16)."""
        return cls(ANY_PROTOCOL, 0, MAX_PORT, bytes(octets), b"\xff" * octets)

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `10.1.0.0/16[tcp/80]`, `fd00::1`, `10.0.0.1-10.0.0.9[udp/1000-1999]`, `::/0`.

        Raises ValueError with a sentence.
        """
        addresses, bracket, rest = text.strip().partition("[")
        try:
            if bracket and not rest.endswith("]"):
                raise ValueError
            start, end = _parse_addresses(addresses)
            protocol, start_port, end_port = (
                _parse_protocol(rest[:-1]) if bracket else (0, 0, 65535)
            )
        except ValueError:
            raise ValueError(
                f"'{printable(text)}' is no traffic selector: an address, a network or a range,"
                " then a protocol and port in brackets if wanted, such as 10.1.0.0/16[tcp/80]"
            ) from None
        return cls(protocol, start_port, end_port, start, end)

    @property
    def ts_type(self) -> TsType:
        """The type on the wire."""
        return TsType.TS_IPV4_ADDR_RANGE if len(self.start) == 4 else TsType.TS_IPV6_ADDR_RANGE

    @property
    def is_opaque(self) -> bool:
        """Stands for packets whose port cannot be seen (RFC 7296 §3.13.1)."""
        return self.start_port == MAX_PORT and self.end_port == 0

    @property
    def is_empty(self) -> bool:
        """Holds nothing: its addresses or ports run backwards."""
        return self.start > self.end or (self.start_port > self.end_port and not self.is_opaque)

    def contains(self, other: TrafficSelector) -> bool:
        """Whether all that `other` holds is in this one too. Cannot fail."""
        return not other.is_empty and self.intersection(other) == other

    def matches(self, address: bytes, protocol: int, port: int) -> bool:
        """Whether a packet with this address at the selector's end is held. Cannot fail.

        `port` is -1 where it cannot be seen or does not exist: then only "any" and OPAQUE match.
        """
        if len(address) != len(self.start) or not self.start <= address <= self.end:
            return False
        if self.protocol not in (ANY_PROTOCOL, protocol):
            return False
        if port < 0:
            return self.is_opaque or (self.start_port == 0 and self.end_port == MAX_PORT)
        return self.start_port <= port <= self.end_port

    def intersection(self, other: TrafficSelector) -> TrafficSelector | None:
        """What both hold, or None. Cannot fail."""
        if len(self.start) != len(other.start):
            return None
        if ANY_PROTOCOL not in (self.protocol, other.protocol) and self.protocol != other.protocol:
            return None
        ports = _common_ports(self, other)
        start, end = max(self.start, other.start), min(self.end, other.end)
        if ports is None or start > end:
            return None
        return TrafficSelector(self.protocol or other.protocol, *ports, start, end)

    def meets(self, other: TrafficSelector) -> bool:
        """Whether a packet can be held by this one at one end and by `other` at the other end.

        Ports belong to an end each, family and protocol to the packet. Cannot fail.
        """
        return len(self.start) == len(other.start) and (
            ANY_PROTOCOL in (self.protocol, other.protocol) or self.protocol == other.protocol
        )

    def prefixes(self) -> list[tuple[bytes, int]]:
        """Its addresses as the fewest networks, for routes: address and length of the prefix."""
        octets = len(self.start)
        if self.start == self.end:
            return [(self.start, octets * 8)]
        first, last = int.from_bytes(self.start, "big"), int.from_bytes(self.end, "big")
        found: list[tuple[bytes, int]] = []
        while first <= last:
            # As large as the distance to the end allows, and as the address is aligned to.
            host_bits = (last - first + 1).bit_length() - 1
            if first:
                host_bits = min(host_bits, (first & -first).bit_length() - 1)
            found.append((first.to_bytes(octets, "big"), octets * 8 - host_bits))
            first += 1 << host_bits
        return found

    def __str__(self) -> str:
        text = _format_addresses(self.start, self.end)
        ports = ""
        if self.is_opaque:
            ports = "/opaque"
        elif self.start_port == self.end_port:
            ports = f"/{self.start_port}"
        elif (self.start_port, self.end_port) != (0, MAX_PORT):
            ports = f"/{self.start_port}-{self.end_port}"
        if not self.protocol and not ports:
            return text
        return f"{text}[{_PROTOCOL_NAMES.get(self.protocol, str(int(self.protocol)))}{ports}]"


def narrow(
    offered: Iterable[TrafficSelector], policy: Iterable[TrafficSelector]
) -> tuple[TrafficSelector, ...]:
    """What of `offered` the policy permits, in the offered order; empty: TS_UNACCEPTABLE.

    RFC 7296 §2.9. The first offered selector may be the packet that started it all; its part
    stays first. At most MAX_NARROWED; what another one already holds is left out. Cannot fail.
    """
    ours = tuple(policy)
    result: list[TrafficSelector] = []
    for theirs in offered:
        for own in ours:
            common = own.intersection(theirs)
            if common is None or any(held.contains(common) for held in result):
                continue
            result.append(common)
            if len(result) == MAX_NARROWED:
                return tuple(result)
    return tuple(result)


def decode_selectors(data: bytes) -> tuple[TrafficSelector, ...]:
    """The body of a TSi or TSr payload; selectors of unknown types are left out.

    Raises WireError. A range that runs backwards is no error here: it narrows to nothing.
    """
    if len(data) < _COUNT.size:
        raise WireError("selectors_length")
    (count,) = _COUNT.unpack_from(data)
    selectors: list[TrafficSelector] = []
    offset = _COUNT.size
    for _ in range(count):
        if len(data) - offset < _HEAD.size:
            raise WireError("selector_length")
        type_, protocol, length, start_port, end_port = _HEAD.unpack_from(data, offset)
        octets = _OCTETS.get(type_)
        if length < _HEAD.size or length > len(data) - offset:
            raise WireError("selector_length")
        if octets is not None:
            if length != _HEAD.size + 2 * octets:
                raise WireError("selector_length")
            middle = offset + _HEAD.size + octets
            start, end = data[middle - octets : middle], data[middle : middle + octets]
            selectors.append(TrafficSelector(protocol, start_port, end_port, start, end))
        offset += length
    if offset != len(data):
        raise WireError("selectors_length")
    return tuple(selectors)


def encode_selectors(selectors: Sequence[TrafficSelector]) -> bytes:
    """The body of a TSi or TSr payload. Raises WireError for more than 255."""
    if len(selectors) > MAX_SELECTORS:
        raise WireError("selector_count")
    parts = [_COUNT.pack(len(selectors))]
    for ts in selectors:
        length = _HEAD.size + 2 * len(ts.start)
        parts.append(_HEAD.pack(ts.ts_type, ts.protocol, length, ts.start_port, ts.end_port))
        parts.append(ts.start + ts.end)
    return b"".join(parts)


def _common_ports(one: TrafficSelector, other: TrafficSelector) -> tuple[int, int] | None:
    any_ports = (0, MAX_PORT)
    for a, b in ((one, other), (other, one)):
        if a.is_opaque:  # "any" includes it, no other range does (RFC 7296 §3.13.1)
            both = b.is_opaque or (b.start_port, b.end_port) == any_ports
            return (MAX_PORT, 0) if both else None
    start = max(one.start_port, other.start_port)
    end = min(one.end_port, other.end_port)
    return (start, end) if start <= end else None


def _parse_addresses(text: str) -> tuple[bytes, bytes]:
    first, dash, last = text.partition("-")
    if dash:
        start, end = ipaddress.ip_address(first).packed, ipaddress.ip_address(last).packed
        if len(start) != len(end) or start > end:
            raise ValueError
        return start, end
    network = ipaddress.ip_network(text, strict=False)
    return network.network_address.packed, network.broadcast_address.packed


def _parse_protocol(text: str) -> tuple[int, int, int]:
    name, slash, ports = text.partition("/")
    protocol = _PROTOCOLS.get(name)
    if protocol is None:
        protocol = _parse_number(name, 255)
    if not slash or ports == "%any":
        return protocol, 0, MAX_PORT
    if ports == "opaque":
        return protocol, MAX_PORT, 0
    first, dash, last = ports.partition("-")
    start = _parse_number(first, MAX_PORT)
    end = _parse_number(last, MAX_PORT) if dash else start
    if start > end:
        raise ValueError
    return protocol, start, end


def _parse_number(text: str, limit: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5) or int(text) > limit:
        raise ValueError
    return int(text)


def _format_addresses(start: bytes, end: bytes) -> str:
    bits = 8 * len(start)
    size = int.from_bytes(end, "big") - int.from_bytes(start, "big") + 1
    if size > 0 and size & (size - 1) == 0 and not int.from_bytes(start, "big") % size:
        prefix = bits - size.bit_length() + 1
        return f"{ipaddress.ip_address(start)}/{prefix}"
    return f"{ipaddress.ip_address(start)}-{ipaddress.ip_address(end)}"
