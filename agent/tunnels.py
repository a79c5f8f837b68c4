"""The tunnels that stand: who is behind which inner address, and the kernel's addresses and routes.

Routes to a peer come with its tunnel and go with it, addresses that it gave us as well. Our own
inner addresses are on the TUN device as long as it is there.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from agent.datagram import Address
from agent.engine.events import TunnelDown, TunnelUp

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.config import Config
    from agent.io.netlink import Netlink, NetlinkWatch
    from agent.io.tun import Tun

log = logging.getLogger("agent.daemon")


class Tunnels:
    """By the name of the peer. Without `attach` the kernel is left alone."""

    def __init__(self, netlink: Netlink, address: bytes, config: Config) -> None:
        """`address` is the inner one of our key."""
        self._netlink = netlink
        self._up: dict[str, TunnelUp] = {}
        self.device = 0
        """Interface index of the TUN device, 0 without one."""
        self._own = [(address, 128), *map(_with_length, config.addresses)]
        if config.own_ipv4 is not None:
            self._own.append((config.own_ipv4, 32))

    def attach(self, tun: Tun, watch: NetlinkWatch) -> None:
        """Give the device our own addresses, unwatched. Raises OSError."""
        self.device = self._netlink.index(tun.name)
        watch.ignore(self.device)
        self._try(self._netlink.set_link, self.device, segments=tun.group)
        for ip, length in self._own:
            self._netlink.add_address(self.device, ip, length)

    def close(self) -> None:
        """Take back every route and address that peers led to."""
        for name in tuple(self._up):
            self.change(TunnelDown(name=name))

    def peer_at(self, address: str) -> str | None:
        """The name of who is behind an inner address, as the SPD let it in."""
        packed = Address.parse(address, 0).ip
        for name, tunnel in self._up.items():
            if any(
                len(ts.start) == len(packed) and ts.start <= packed <= ts.end
                for ts in tunnel.remote_ts
            ):
                return name
        return None

    def inner_address(self, name: str) -> str | None:
        """Where the services of a connected peer are; the IPv6 address, which proves its key."""
        found = self.inner_addresses(name)
        return str_address(max(found, key=len)) if found else None

    def inner_addresses(self, name: str) -> list[bytes]:
        """Every first address of what a connected peer has."""
        tunnel = self._up.get(name)
        return [ts.start for ts in tunnel.remote_ts] if tunnel else []

    def change(self, event: TunnelUp | TunnelDown) -> None:
        """One came or went. What the kernel refuses is logged."""
        before = self._up.pop(event.name, None)
        if isinstance(event, TunnelUp):
            self._up[event.name] = event
        if not self.device:
            return
        after = self._up.get(event.name)
        always = {ip for ip, _ in self._own}
        mine = set(before.addresses if before else ()) - always
        assigned = set(after.addresses if after else ()) - always
        for ip in assigned - mine:
            self._try(self._netlink.add_address, self.device, ip, len(ip) * 8)
        old, new = _prefixes(before), _prefixes(after)
        for ip, length in new:
            source = self._source(after, len(ip)) if after else None
            self._try(self._netlink.add_route, ip, length, self.device, source=source)
        for prefix in old:
            if prefix not in new:
                self._try(self._netlink.del_route, *prefix, self.device)
        for ip in mine - assigned:
            self._try(self._netlink.del_address, self.device, ip, len(ip) * 8)

    def _source(self, tunnel: TunnelUp, size: int) -> bytes | None:
        """The address of ours that the peer takes packets from; None where it must be another's."""
        for ip in (*tunnel.addresses, *(ip for ip, _ in self._own)):
            if len(ip) == size and any(ts.start <= ip <= ts.end for ts in tunnel.local_ts):
                return ip
        return None

    def _try(self, verb: Callable[..., object], *arguments: object, **more: object) -> None:
        try:
            verb(*arguments, **more)
        except OSError as error:
            log.warning("%s: %s", verb.__name__.replace("_", " "), error)


def str_address(ip: bytes) -> str:
    """As people write it."""
    return Address(ip, 0).host


def _with_length(text: str) -> tuple[bytes, int]:
    """Octets and prefix length of an `address/length` that the configuration has checked."""
    host, _, length = text.partition("/")
    ip = Address.parse(host, 0).ip
    return ip, int(length or len(ip) * 8)


def _prefixes(tunnel: TunnelUp | None) -> list[tuple[bytes, int]]:
    found: list[tuple[bytes, int]] = []
    for selector in tunnel.remote_ts if tunnel else ():
        found += selector.prefixes()
    return list(dict.fromkeys(found))
