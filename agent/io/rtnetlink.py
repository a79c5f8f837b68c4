"""rtnetlink messages: bytes of the kernel <-> values (RFC 3549, linux/rtnetlink.h). No sockets.

Left out: every attribute that nothing here uses, multipath next hops, neighbours, rules.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, Final

from agent.records import record

if TYPE_CHECKING:
    from collections.abc import Iterator

NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN = 1, 2, 3, 4
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x4, 0x10
NLM_F_DUMP, NLM_F_REPLACE, NLM_F_CREATE = 0x300, 0x100, 0x400
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSGERR_ATTR_MSG: Final = 1
NLA_TYPE_MASK: Final = 0x3FFF

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26

IFLA_IFNAME, IFLA_MTU, IFLA_GSO_MAX_SEGS = 3, 4, 40
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 6, 7, 15

IFF_UP, IFF_LOOPBACK, IFF_POINTOPOINT, IFF_RUNNING = 0x1, 0x8, 0x10, 0x40
IFA_F_TEMPORARY, IFA_F_NODAD, IFA_F_DEPRECATED, IFA_F_TENTATIVE = 0x01, 0x02, 0x20, 0x40
IFA_F_DADFAILED: Final = 0x08
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_NOWHERE = 0, 253, 255
RT_TABLE_MAIN: Final = 254
RTN_UNICAST, RTN_LOCAL = 1, 2
RTPROT_STATIC: Final = 4
RTM_F_CLONED: Final = 0x200

HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
LINK = struct.Struct("=BxHiII")
ADDRESS = struct.Struct("=BBBBi")
ROUTE = struct.Struct("=BBBBBBBBI")
U32 = struct.Struct("=I")
_I32 = struct.Struct("=i")


@record(frozen=True, slots=True, kw_only=True)
class Link:
    """A network interface."""

    index: int
    name: str
    mtu: int
    is_up: bool
    is_running: bool  # has a carrier
    is_loopback: bool
    is_point_to_point: bool


@record(frozen=True, slots=True, kw_only=True)
class InterfaceAddress:
    """An address of this machine: `ip` is 4 or 16 octets, `scope` as in rtnetlink (0 global)."""

    index: int
    ip: bytes
    prefix_length: int
    scope: int
    is_deprecated: bool
    is_tentative: bool  # not usable (yet, or because it is a duplicate)
    is_temporary: bool  # IPv6 privacy address


@record(frozen=True, slots=True, kw_only=True)
class Route:
    """A way out: to `destination`/`prefix_length` by interface `index`, from `source`."""

    destination: bytes
    prefix_length: int
    index: int
    gateway: bytes | None = None
    source: bytes | None = None
    metric: int = 0
    table: int = RT_TABLE_MAIN


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, flags, sequence and payload of each message in a datagram."""
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size or offset + length > len(data):
            return
        yield kind, flags, sequence, data[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


def attributes(data: bytes, offset: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            break
        found[kind & NLA_TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length & 3)


def raise_error(flags: int, payload: bytes) -> None:
    """Raise OSError as NLMSG_ERROR says; with number 0 it is the acknowledgement."""
    number = -_I32.unpack_from(payload)[0]
    if number == 0:
        return
    text = os.strerror(number)
    if flags & NLM_F_ACK_TLVS:
        # The request follows the number: its header only if capped, else all of it.
        length = U32.unpack_from(payload, 4)[0]
        offset = 4 + (HEADER.size if flags & NLM_F_CAPPED else (length + 3) & ~3)
        words = attributes(payload, offset).get(NLMSGERR_ATTR_MSG, b"")
        if words:
            text = f"{text} ({words.rstrip(bytes(1)).decode('utf-8', 'replace')})"
    raise OSError(number, text)


def family_of(ip: bytes) -> int:
    if len(ip) == 4:
        return socket.AF_INET
    if len(ip) == 16:
        return socket.AF_INET6
    raise OSError(errno.EINVAL, f"an address has 4 or 16 octets, not {len(ip)}")


def decode_link(message: bytes) -> Link:
    _family, _type, index, flags, _change = LINK.unpack_from(message)
    values = attributes(message, LINK.size)
    return Link(
        index=index,
        name=values.get(IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace"),
        mtu=_number(values.get(IFLA_MTU)),
        is_up=bool(flags & IFF_UP),
        is_running=bool(flags & IFF_RUNNING),
        is_loopback=bool(flags & IFF_LOOPBACK),
        is_point_to_point=bool(flags & IFF_POINTOPOINT),
    )


def decode_address(message: bytes) -> InterfaceAddress | None:
    family, prefix_length, flags, scope, index = ADDRESS.unpack_from(message)
    values = attributes(message, ADDRESS.size)
    # On point-to-point links IFA_ADDRESS is the other end; IFA_LOCAL is ours where it exists.
    ip = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS)
    if ip is None or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    flags |= _number(values.get(IFA_FLAGS))
    return InterfaceAddress(
        index=index,
        ip=ip,
        prefix_length=prefix_length,
        scope=scope,
        is_deprecated=bool(flags & IFA_F_DEPRECATED),
        is_tentative=bool(flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED)),
        is_temporary=family == socket.AF_INET6 and bool(flags & IFA_F_TEMPORARY),
    )


def decode_route(message: bytes, *, cloned: bool = False) -> Route | None:
    """None for what leads nowhere, and for cached entries (path MTU) unless `cloned`.

    The answer to a question for one destination is such an entry with IPv4.
    """
    family, prefix_length, _, _, table, _, _, kind, flags = ROUTE.unpack_from(message)
    if family not in (socket.AF_INET, socket.AF_INET6) or kind not in (RTN_UNICAST, RTN_LOCAL):
        return None
    if flags & RTM_F_CLONED and not cloned:
        return None
    values = attributes(message, ROUTE.size)
    return Route(
        destination=values.get(RTA_DST, bytes(4 if family == socket.AF_INET else 16)),
        prefix_length=prefix_length,
        index=_number(values.get(RTA_OIF)),
        gateway=values.get(RTA_GATEWAY),
        source=values.get(RTA_PREFSRC),
        metric=_number(values.get(RTA_PRIORITY)),
        table=_number(values.get(RTA_TABLE)) or table,
    )


def encode_route(route: Route, *, removing: bool = False) -> bytes:
    """The body of a request that adds `route`, or that removes whatever route it matches."""
    family = family_of(route.destination)
    scope, protocol, kind = RT_SCOPE_UNIVERSE, RTPROT_STATIC, RTN_UNICAST
    if removing:
        scope, protocol, kind = RT_SCOPE_NOWHERE, 0, 0  # any
    elif family == socket.AF_INET and route.gateway is None:
        scope = RT_SCOPE_LINK
    table = route.table if route.table < 256 else 0
    body = ROUTE.pack(family, route.prefix_length, 0, 0, table, protocol, scope, kind, 0)
    body += attribute(RTA_DST, route.destination) + attribute(RTA_OIF, U32.pack(route.index))
    body += attribute(RTA_TABLE, U32.pack(route.table))
    if route.metric:
        body += attribute(RTA_PRIORITY, U32.pack(route.metric))
    for number, value in ((RTA_GATEWAY, route.gateway), (RTA_PREFSRC, route.source)):
        if value is not None:
            body += attribute(number, value)
    return body


def _number(value: bytes | None) -> int:
    return int(U32.unpack_from(value)[0]) if value and len(value) >= 4 else 0
