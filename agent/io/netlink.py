"""Own small rtnetlink: links, addresses, routes, and a descriptor that tells when they change.

One blocking socket for requests, which the kernel answers within the system call; one
non-blocking for changes. Errors are OSError with the kernel's own words where it has any
(extended acknowledgements). The messages are those of agent.io.rtnetlink.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from array import array
from typing import TYPE_CHECKING, Final

from agent.io.rtnetlink import (
    ADDRESS,
    HEADER,
    IFA_ADDRESS,
    IFA_F_NODAD,
    IFA_LOCAL,
    IFF_UP,
    IFLA_GSO_MAX_SEGS,
    IFLA_MTU,
    LINK,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    ROUTE,
    RT_TABLE_MAIN,
    RTA_DST,
    RTA_OIF,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    U32,
    InterfaceAddress,
    Link,
    Route,
    attribute,
    decode_address,
    decode_link,
    decode_route,
    encode_route,
    family_of,
    messages,
    raise_error,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

NETLINK_ROUTE: Final = 0
SOL_NETLINK: Final = 270
SO_ATTACH_FILTER: Final = 26
NETLINK_CAP_ACK: Final = 10
NETLINK_EXT_ACK: Final = 11

# Groups of changes (rtnetlink.h RTMGRP_*): link, IPv4 address and route, IPv6 address and route.
CHANGE_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400

RECEIVE_OCTETS: Final = 256 * 1024  # the kernel sends at most 32 kB a datagram of a dump
# 5 s: it answers at once, this only keeps a bug from hanging the daemon. As struct timeval; behind
# 32-bit C libraries with a time_t of 64 bits (musl) the option wants the second form.
ANSWER_TIMES: Final = (struct.pack("@ll", 5, 0), struct.pack("@qq", 5, 0))
DUMP_ATTEMPTS: Final = 5  # a dump that changed underneath is read again
DRAIN_DATAGRAMS: Final = 64  # a flapping link must not hold the loop; the rest waits


class Netlink:
    """Requests to the kernel's routing tables. Every method raises OSError.

    Interfaces are named by index or by name. Adding what is there already and removing what is
    not are no errors: `add_…` replaces, `del_…` says whether there was anything.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE
        )
        try:
            self._socket.bind((0, 0))
            _limit_time(self._socket)
            for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
                with contextlib.suppress(OSError):  # kernels before 4.12: numbers without words
                    self._socket.setsockopt(SOL_NETLINK, option, 1)
        except BaseException:
            self._socket.close()
            raise
        self._sequence = 0

    def close(self) -> None:
        """Close the socket. Cannot fail."""
        self._socket.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def index(self, name: str) -> int:
        """The index of interface `name`."""
        try:
            return socket.if_nametoindex(name)
        except OSError as error:
            raise OSError(errno.ENODEV, f"there is no network interface {name}") from error

    def name(self, index: int) -> str:
        """The name of interface `index`."""
        try:
            return socket.if_indextoname(index)
        except OSError as error:
            raise OSError(errno.ENODEV, f"there is no network interface {index}") from error

    def links(self) -> list[Link]:
        """All interfaces."""
        body = LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        return [decode_link(m) for t, m in self._dump(RTM_GETLINK, body) if t == RTM_NEWLINK]

    def addresses(self, interface: int | str | None = None) -> list[InterfaceAddress]:
        """The addresses of one interface, or of all, both families."""
        index = None if interface is None else self._index(interface)
        body = ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        found = (decode_address(m) for t, m in self._dump(RTM_GETADDR, body) if t == RTM_NEWADDR)
        return [a for a in found if a is not None and index in (None, a.index)]

    def routes(self, family: int, *, table: int = RT_TABLE_MAIN) -> list[Route]:
        """The unicast routes of one table (AF_INET or AF_INET6)."""
        body = ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        found = (decode_route(m) for t, m in self._dump(RTM_GETROUTE, body) if t == RTM_NEWROUTE)
        return [r for r in found if r is not None and r.table == table]

    def add_address(self, interface: int | str, ip: bytes, prefix_length: int) -> None:
        """Give `interface` the address `ip`, usable at once (no duplicate detection)."""
        body = self._address_body(interface, ip, prefix_length, IFA_F_NODAD)
        self._request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body)

    def del_address(self, interface: int | str, ip: bytes, prefix_length: int) -> bool:
        """Take the address away; False if it was not there."""
        body = self._address_body(interface, ip, prefix_length, 0)
        return self._delete(RTM_DELADDR, body, errno.EADDRNOTAVAIL)

    def add_route(
        self,
        destination: bytes,
        prefix_length: int,
        interface: int | str,
        *,
        gateway: bytes | None = None,
        source: bytes | None = None,
        metric: int = 0,
        table: int = RT_TABLE_MAIN,
    ) -> None:
        """Route `destination` (4 or 16 octets) out of `interface`, replacing an equal route."""
        route = Route(
            destination=destination,
            prefix_length=prefix_length,
            index=self._index(interface),
            gateway=gateway,
            source=source,
            metric=metric,
            table=table,
        )
        self._request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, encode_route(route))

    def del_route(
        self,
        destination: bytes,
        prefix_length: int,
        interface: int | str,
        *,
        metric: int = 0,
        table: int = RT_TABLE_MAIN,
    ) -> bool:
        """Remove the route; False if it was not there."""
        route = Route(
            destination=destination,
            prefix_length=prefix_length,
            index=self._index(interface),
            metric=metric,
            table=table,
        )
        return self._delete(RTM_DELROUTE, encode_route(route, removing=True), errno.ESRCH)

    def set_link(
        self,
        interface: int | str,
        *,
        up: bool | None = None,
        mtu: int | None = None,
        segments: int | None = None,
    ) -> None:
        """Switch an interface on or off, set its MTU in octets; None leaves as is.

        `segments`: as many packets at most make up one of its super-packets.
        """
        change = 0 if up is None else IFF_UP
        flags = IFF_UP if up else 0
        body = LINK.pack(socket.AF_UNSPEC, 0, self._index(interface), flags, change)
        if mtu is not None:
            body += attribute(IFLA_MTU, U32.pack(mtu))
        if segments is not None:
            body += attribute(IFLA_GSO_MAX_SEGS, U32.pack(segments))
        self._request(RTM_NEWLINK, 0, body)

    def route_to(self, ip: bytes) -> Route | None:
        """How the kernel would send to `ip` (policy rules included), None if it cannot."""
        family = family_of(ip)
        body = ROUTE.pack(family, len(ip) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, ip)
        try:
            for kind, message in self._request(RTM_GETROUTE, 0, body):
                if kind == RTM_NEWROUTE:
                    return decode_route(message, cloned=True)
        except OSError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ESRCH):
                return None
            raise
        return None

    def source_towards(self, ip: bytes) -> bytes | None:
        """The source address the kernel would use towards `ip`, None if it is unreachable."""
        route = self.route_to(ip)
        return route.source if route else None

    def _index(self, interface: int | str) -> int:
        return interface if isinstance(interface, int) else self.index(interface)

    def _address_body(
        self, interface: int | str, ip: bytes, prefix_length: int, flags: int
    ) -> bytes:
        family = family_of(ip)
        body = ADDRESS.pack(family, prefix_length, flags, 0, self._index(interface))
        return body + attribute(IFA_LOCAL, ip) + attribute(IFA_ADDRESS, ip)

    def _delete(self, kind: int, body: bytes, absent: int) -> bool:
        try:
            self._request(kind, 0, body)
        except OSError as error:
            if error.errno == absent:
                return False
            raise
        return True

    def _dump(self, kind: int, body: bytes) -> list[tuple[int, bytes]]:
        for _ in range(DUMP_ATTEMPTS - 1):
            try:
                return list(self._exchange(kind, NLM_F_DUMP, body))
            except InterruptedError:
                continue
        return list(self._exchange(kind, NLM_F_DUMP, body))

    def _request(self, kind: int, flags: int, body: bytes) -> list[tuple[int, bytes]]:
        return list(self._exchange(kind, flags | NLM_F_ACK, body))

    def _exchange(self, kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
        """Send one request; the messages that answer it, up to the end of the answer."""
        self._sequence = sequence = (self._sequence + 1) & 0xFFFFFFFF
        length = HEADER.size + len(body)
        header = HEADER.pack(length, kind, flags | NLM_F_REQUEST, sequence, 0)
        self._socket.sendto(header + body, (0, 0))
        changed = False
        while True:
            try:
                data = self._socket.recv(RECEIVE_OCTETS)
            except BlockingIOError as error:
                raise OSError(errno.ETIMEDOUT, "the kernel did not answer") from error
            for m_kind, m_flags, m_sequence, payload in messages(data):
                if m_sequence != sequence:
                    continue  # the rest of an exchange that was given up
                changed |= bool(m_flags & NLM_F_DUMP_INTR)
                if m_kind == NLMSG_ERROR:
                    raise_error(m_flags, payload)
                    return
                if m_kind == NLMSG_DONE:
                    if changed:
                        raise InterruptedError(errno.EINTR, "the table changed while it was read")
                    return
                yield m_kind, payload


def _limit_time(sock: socket.socket) -> None:
    """Blocking calls end after a while, without settimeout, which asks poll() before each."""
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        for value in ANSWER_TIMES:
            try:
                sock.setsockopt(socket.SOL_SOCKET, option, value)
                break
            except OSError:
                continue
        else:
            raise OSError(errno.EINVAL, "this kernel takes no time limit for netlink")


def _drop_routes_of(index: int) -> bytes:
    """A classic BPF program (linux/filter.h) that drops changes of routes out of an interface."""
    statements = (
        (0x28, 0, 0, 4),  # A = kind of message; loads are in network order
        (0x15, 1, 0, socket.htons(RTM_NEWROUTE)),
        (0x15, 0, 7, socket.htons(RTM_DELROUTE)),  # anything else: keep
        (0x01, 0, 0, RTA_OIF),  # X = kind of attribute
        (0x00, 0, 0, HEADER.size + ROUTE.size),  # A = where the attributes begin
        (0x20, 0, 0, 0xFFFFF00C),  # A = where that attribute is (SKF_AD_NLATTR), 0 if nowhere
        (0x15, 3, 0, 0),
        (0x07, 0, 0, 0),  # X = A
        (0x40, 0, 0, 4),  # A = its value
        (0x15, 1, 0, socket.htonl(index)),
        (0x06, 0, 0, 0xFFFFFFFF),  # keep
        (0x06, 0, 0, 0),  # drop
    )
    return b"".join(struct.pack("=HBBI", *each) for each in statements)


class NetlinkWatch:
    """Tells that links, addresses or routes changed. Raises OSError from the constructor."""

    def __init__(self) -> None:
        self._ignored = 0
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            NETLINK_ROUTE,
        )
        try:
            self._socket.bind((0, CHANGE_GROUPS))
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """The descriptor to watch for reading."""
        return self._socket.fileno()

    def ignore(self, index: int) -> None:
        """Changes of this interface are our own doing (the TUN device) and say nothing.

        Its routes come and go with each tunnel: the kernel itself keeps those to itself.
        """
        self._ignored = index
        program = array("B", _drop_routes_of(index))
        where, length = program.buffer_info()
        with contextlib.suppress(OSError):  # without it, `drain` comes to the same
            self._socket.setsockopt(
                socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", length // 8, where)
            )

    def drain(self) -> bool:
        """Read what has come in; True if it may matter. Cannot fail, never blocks.

        The caller then reads the tables: what happened in between does not count.
        """
        matters = False
        for _ in range(DRAIN_DATAGRAMS):
            try:
                data, (process, _groups) = self._socket.recvfrom(RECEIVE_OCTETS)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: changes were lost, so there were some
                matters = True
                continue
            if process == 0 and not matters:  # others may write to us; only the kernel counts
                matters = any(self._matters(kind, body) for kind, _, _, body in messages(data))
        return matters

    def close(self) -> None:
        """Close the socket. Cannot fail."""
        self._socket.close()

    def _matters(self, kind: int, body: bytes) -> bool:
        try:
            if kind in (RTM_NEWLINK, RTM_DELLINK):
                return int(LINK.unpack_from(body)[2]) != self._ignored
            if kind in (RTM_NEWADDR, RTM_DELADDR):
                return int(ADDRESS.unpack_from(body)[4]) != self._ignored
            if kind in (RTM_NEWROUTE, RTM_DELROUTE):
                route = decode_route(body)
                return route is not None and route.index != self._ignored
        except struct.error:
            return False
        return False
