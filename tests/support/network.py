"""A seeded network in virtual time, with NATs as RFC 4787 describes them.

Hosts live in realms (the public one, or the inside of a NAT); a `Link` delays, loses, doubles and
shuffles. Nodes are driven like every core of this project: receive, next_timeout, handle_timer,
drain. Time is in seconds and jumps from event to event, so years pass quickly, and the same
seed gives the same run.
"""

from __future__ import annotations

import heapq
import ipaddress
import random
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple, Protocol

from agent.datagram import Address, Path, Transmit

if TYPE_CHECKING:
    from collections.abc import Callable


class Behaviour(Enum):
    """Of mapping (RFC 4787 §4.1) or filtering (§5)."""

    ENDPOINT_INDEPENDENT = auto()
    ADDRESS_DEPENDENT = auto()
    ADDRESS_AND_PORT_DEPENDENT = auto()


class Packet(NamedTuple):
    """A UDP datagram on its way."""

    source: Address
    destination: Address
    data: bytes


@dataclass
class Link:
    """One crossing takes `delay` plus up to `jitter` seconds; the rest are probabilities."""

    delay: float = 0.0005
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0  # such a packet takes twice the delay and 50 ms more


class Node(Protocol):
    """What a host runs."""

    def receive(self, path: Path, data: bytes, now: float) -> None: ...

    def next_timeout(self) -> float | None: ...

    def handle_timer(self, now: float) -> None: ...

    def drain(self, now: float) -> list[Transmit]: ...


@dataclass
class Realm:
    """A routing domain: addresses mean something inside it only."""

    name: str
    gateway: Nat | None = None
    members: dict[bytes, Host | Nat] = field(default_factory=dict)


@dataclass
class Host:
    """A machine with one or more addresses."""

    name: str
    node: Node
    addresses: dict[bytes, Realm]
    link: Link
    is_up: bool = True


@dataclass
class Mapping:
    """Of a NAT: who is behind an outside port, and whom it has talked to."""

    inside: Address
    outside: Address
    contacted: dict[Address, float] = field(default_factory=dict)
    used: float = 0.0


class Nat:
    """A router with address and port translation, or (`translates` False) a mere firewall."""

    def __init__(
        self,
        network: Network,
        address: str,
        outer: Realm,
        *,
        mapping: Behaviour,
        filtering: Behaviour,
        link: Link,
        hairpins: bool,
        lifetime: float,
        translates: bool,
    ) -> None:
        self.network = network
        self.ip = ipaddress.ip_address(address).packed
        self.outer = outer
        self.mapping = mapping
        self.filtering = filtering
        self.link = link
        self.hairpins = hairpins
        self.lifetime = lifetime
        self.translates = translates
        self.inside = Realm(f"behind {address}", gateway=self)
        self.preserves_ports = mapping is Behaviour.ENDPOINT_INDEPENDENT
        self._by_key: dict[tuple[object, ...], Mapping] = {}
        self._by_outside: dict[Address, Mapping] = {}
        self.refused = 0
        outer.members[self.ip] = self

    def reboot(self, *, new_ports: bool = True) -> None:
        """All mappings are gone; with `new_ports` the next ones get others (rebinding)."""
        self._by_key.clear()
        self._by_outside.clear()
        if new_ports:
            self.preserves_ports = False

    def outbound(self, packet: Packet) -> Packet:
        """Translate what leaves."""
        now = self.network.now
        key = self._key(packet)
        entry = self._by_key.get(key)
        if entry is None or now - entry.used > self.lifetime:
            entry = self._new(packet, key)
        entry.used = now
        entry.contacted[packet.destination] = now
        return Packet(entry.outside, packet.destination, packet.data)

    def inbound(self, packet: Packet) -> Packet | None:
        """Translate what arrives, None if it is filtered."""
        now = self.network.now
        entry = self._by_outside.get(packet.destination)
        if entry is None or now - entry.used > self.lifetime or not self._passes(entry, packet):
            self.refused += 1
            return None
        entry.used = now
        return Packet(packet.source, entry.inside, packet.data)

    def _key(self, packet: Packet) -> tuple[object, ...]:
        match self.mapping:
            case Behaviour.ENDPOINT_INDEPENDENT:
                return (packet.source,)
            case Behaviour.ADDRESS_DEPENDENT:
                return (packet.source, packet.destination.ip)
        return (packet.source, packet.destination)

    def _new(self, packet: Packet, key: tuple[object, ...]) -> Mapping:
        if not self.translates:
            outside = packet.source
        else:
            port = packet.source.port
            while not self.preserves_ports or Address(self.ip, port) in self._by_outside:
                port = self.network.random.randrange(1024, 65536)
                if Address(self.ip, port) not in self._by_outside:
                    break
            outside = Address(self.ip, port)
        entry = Mapping(packet.source, outside)
        self._by_key[key] = entry
        self._by_outside[outside] = entry
        return entry

    def _passes(self, entry: Mapping, packet: Packet) -> bool:
        match self.filtering:
            case Behaviour.ENDPOINT_INDEPENDENT:
                return True
            case Behaviour.ADDRESS_DEPENDENT:
                return any(a.ip == packet.source.ip for a in entry.contacted)
        return packet.source in entry.contacted


class Network:
    """See the module."""

    def __init__(self, seed: int = 1) -> None:
        self.now = 1000.0
        self.random = random.Random(seed)
        self.public = Realm("public")
        self.hosts: list[Host] = []
        self.sent = 0
        self.lost = 0
        self.drops: Callable[[str, Packet], bool] | None = None  # (host, packet): lost on purpose
        self.trace: list[tuple[float, str, Packet]] = []  # what each host put on the wire
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    # -- building --------------------------------------------------------------------------------

    def nat(
        self,
        address: str,
        *,
        mapping: Behaviour = Behaviour.ENDPOINT_INDEPENDENT,
        filtering: Behaviour = Behaviour.ADDRESS_AND_PORT_DEPENDENT,
        link: Link | None = None,
        outer: Realm | None = None,
        hairpins: bool = False,
        lifetime: float = 120.0,
        translates: bool = True,
    ) -> Nat:
        """A NAT with `address` outside; hosts are put into its `inside`."""
        return Nat(
            self,
            address,
            outer or self.public,
            mapping=mapping,
            filtering=filtering,
            link=link or Link(delay=0.02),
            hairpins=hairpins,
            lifetime=lifetime,
            translates=translates,
        )

    def host(
        self, name: str, node: Node, *addresses: tuple[str, Realm], link: Link | None = None
    ) -> Host:
        """A machine with addresses in realms."""
        packed = {ipaddress.ip_address(a).packed: realm for a, realm in addresses}
        host = Host(name, node, packed, link or Link())
        for ip, realm in packed.items():
            realm.members[ip] = host
            if realm.gateway is not None and not realm.gateway.translates:
                realm.gateway.outer.members[ip] = realm.gateway
        self.hosts.append(host)
        self.flush(host)
        return host

    # -- running ---------------------------------------------------------------------------------

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; ends early (True) when `until` holds."""
        end = self.now + seconds
        for host in self.hosts:
            self.flush(host)
        for _ in range(2_000_000):
            if until is not None and until():
                return True
            at = self._next()
            if at is None or at > end:
                self.now = end
                return until() if until is not None else False
            self.now = max(self.now, at)
            self._step()
        raise AssertionError("this never ends")

    def flush(self, host: Host) -> None:
        """Put on the wire what the node of `host` has to send."""
        for transmit in host.node.drain(self.now):
            if host.is_up:
                self._send(host, transmit)

    def _next(self) -> float | None:
        due = [self._queue[0][0]] if self._queue else []
        due += [t for h in self.hosts if h.is_up and (t := h.node.next_timeout()) is not None]
        return min(due, default=None)

    def _step(self) -> None:
        while self._queue and self._queue[0][0] <= self.now:
            heapq.heappop(self._queue)[2]()
        for host in self.hosts:
            at = host.node.next_timeout() if host.is_up else None
            if at is not None and at <= self.now:
                host.node.handle_timer(self.now)
                self.flush(host)

    # -- packets ---------------------------------------------------------------------------------

    def _send(self, host: Host, transmit: Transmit) -> None:
        source = transmit.path.local
        if not any(source.ip):
            size = len(transmit.path.remote.ip)
            source = Address(next(ip for ip in host.addresses if len(ip) == size), source.port)
        if source.ip not in host.addresses:
            return  # the kernel refuses it
        packet = Packet(source, transmit.path.remote, transmit.data)
        self.sent += 1
        self.trace.append((self.now, host.name, packet))
        if self.drops is not None and self.drops(host.name, packet):
            self.lost += 1
            return
        realm = host.addresses[source.ip]
        self._cross(host.link, lambda: self._route(realm, packet))

    def _cross(self, link: Link, arrive: Callable[[], None]) -> None:
        if self.random.random() < link.loss:
            self.lost += 1
            return
        copies = 2 if self.random.random() < link.duplicate else 1
        for _ in range(copies):
            delay = link.delay + self.random.random() * link.jitter
            if self.random.random() < link.reorder:
                delay = 2 * delay + 0.05
            self._count += 1
            heapq.heappush(self._queue, (self.now + delay, self._count, arrive))

    def _route(self, realm: Realm, packet: Packet) -> None:
        target = realm.members.get(packet.destination.ip)
        if isinstance(target, Host):
            self._cross(target.link, lambda: self._arrive(target, packet))
        elif isinstance(target, Nat):
            inside = target
            self._cross(target.link, lambda: self._enter(inside, packet))
        elif realm.gateway is not None:
            self._leave(realm.gateway, packet)

    def _leave(self, nat: Nat, packet: Packet) -> None:
        if nat.translates and packet.destination.ip == nat.ip and not nat.hairpins:
            return
        outside = nat.outbound(packet)
        self._cross(nat.link, lambda: self._route(nat.outer, outside))

    def _enter(self, nat: Nat, packet: Packet) -> None:
        translated = nat.inbound(packet)
        if translated is not None:
            self._route(nat.inside, translated)

    def _arrive(self, host: Host, packet: Packet) -> None:
        if not host.is_up:
            return
        host.node.receive(Path(packet.destination, packet.source), packet.data, self.now)
        self.flush(host)
