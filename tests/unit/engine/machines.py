"""Whole engines on the simulated network, told what to do as the daemon tells them.

A `Machine` is what agent.house and agent.daemon are around an engine, without files, sockets and
clocks: configuration text, keys from its name, learnt peers, a table in the place of DNS.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from agent import profiles
from agent.config import load_config
from agent.crypto.auth import key_text
from agent.crypto.ticket import TicketKey, rotated
from agent.datagram import Address, Path, Received, Transmit
from agent.engine import Engine
from agent.engine.events import Event, MediatorMoved, Packets, PeerChanged, ResolveWanted
from agent.ike.tickets import Tickets
from agent.invitation import EnrolResult, Invitation, decode_enrolment
from agent.moves import Moves
from agent.peers import KnownPeer, OpenInvitation, Peers
from agent.timers import NO_DATE, WallTime
from tests.support.network import Behaviour, Link, Network
from tests.support.pair import key_of, seeded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.ipsec import Offload
    from agent.status import MediatorStatus, PeerStatus

PORT = 4500
SERVER = "203.0.113.10"
WALL = 1_800_000_000.0
TCP, UDP, ICMPV6 = 6, 17, 58


class Machine:
    """One hearthgate."""

    def __init__(
        self,
        name: str,
        *hosts: str,
        config: str = "",
        key: str = "",
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """`files`: what the configuration names, by name."""
        self.name = name
        self.keys = profiles.Keys(
            identity=key_of(key or name), mediation=key_of(f"mediation {key or name}")
        )
        self.hosts = list(hosts)
        self.config = load_config(config, read=files.__getitem__ if files else None)
        self.peers = Peers()
        self.moves = Moves()
        self.extra: list[tuple] = []
        self.dns: dict[str, list[str] | None] = {}
        self.wall: float | None = WALL
        self.stored = 0
        self.boots = 0
        self.offload: Offload | None = None
        self.ticket_keys: tuple[TicketKey, ...] = ()  # on disk
        self.boot(0.0)

    def boot(self, now: float) -> None:
        """Power on: everything that was in memory is gone."""
        self.boots += 1
        self.now = now
        self.events: list[Event] = []
        self.delivered: list[bytes] = []
        self._transmits: list[Transmit] = []
        self.tickets = self._tickets() if self.config.mediate is not None else None
        self.rotate(now)
        self.engine = Engine(
            random=seeded(f"{self.name} {self.boots}"),
            proposals=profiles.OUR_IKE,
            enrol=self.enrol,
            offload=self.offload,
            restart_secret=profiles.restart_secret(self.config, self.keys),
            tickets=self.tickets,
            wall=self._date,
        )
        entry = profiles.server(self.config, self.keys)
        if entry is not None:
            self.engine.serve(entry)
        self.tell_addresses(now)
        self.refresh(now)

    def _tickets(self) -> Tickets:
        """Their clock goes with the time of the network."""
        self._ticket_random = seeded(f"{self.name} {self.boots} tickets")
        return Tickets(self._ticket_random, self._wall_now)

    def _wall_now(self) -> float | None:
        return None if self.wall is None else self.wall + self.now

    def _date(self) -> WallTime:
        seconds = self._wall_now()
        return WallTime(seconds, True) if seconds is not None else NO_DATE

    def rotate(self, now: float) -> None:
        """What the daemon does each minute."""
        self.now = now
        wall = self._wall_now()
        if self.tickets is not None and wall is not None:
            self.ticket_keys = rotated(self.ticket_keys, wall, self._ticket_random)
            self.tickets.keys = self.ticket_keys

    def tell_addresses(self, now: float) -> None:
        self.engine.set_local_addresses([Address.parse(h, PORT) for h in self.hosts], now)

    def refresh(self, now: float) -> None:
        mediators = profiles.mediators(self.config, self.keys, self.peers, self.moves)
        peers = profiles.peers(self.config, self.keys, self.peers, self.moves)
        self.engine.set_mediators(mediators + [m for m, _ in self.extra], now)
        self.engine.set_peers(peers + [p for _, p in self.extra], now)

    # -- what the house does --------------------------------------------------------------------

    def enrol(self, one_time: bytes, data: bytes) -> bytes:
        enrolment = decode_enrolment(data, one_time, self.keys.identity.public)
        if enrolment is None:
            return bytes((EnrolResult.INVALID,))
        result, peer = self.peers.enrol(key_text(one_time), enrolment, self.wall, 0)
        self.stored += peer is not None
        return bytes((result,)) + (peer.role.encode() if peer else b"")

    def invite(self, name: str, role: str = "operator", seed: bytes = bytes(16)) -> Invitation:
        mediator = self.config.mediators[0]
        invitation = Invitation(
            mediator=SERVER,
            mediator_key=mediator.key,
            gateway_mediation=self.keys.mediation.public,
            gateway_identity=self.keys.identity.public,
            name=self.name,
            invited=name,
            role=role,
            expires=int(WALL) + 3600,
            seed=seed,
        )
        identity = key_text(invitation.identity.public)
        self.peers.invitations[identity] = OpenInvitation(
            name=name,
            role=role,
            identity=identity,
            mediation=key_text(invitation.mediation.public),
            expires=invitation.expires,
            lifetime=3600,
        )
        return invitation

    def known(self, name: str, role: str = "none", **more) -> KnownPeer:
        """This machine as others store it."""
        return KnownPeer(
            name=name,
            identity=key_text(self.keys.identity.public),
            mediation=key_text(self.keys.mediation.public),
            role=role,
            **more,
        )

    def learn(self, *peers: KnownPeer) -> None:
        self.peers.peers.update({peer.name: peer for peer in peers})

    def on_moved(self, event: MediatorMoved, now: float) -> None:
        mediators = profiles.mediators(self.config, self.keys, self.peers, self.moves)
        entry = next(e for e in mediators if e.name == event.name)
        self.moves = self.moves.noted(entry, event.successor)
        self.refresh(now)

    # -- a node of the network ------------------------------------------------------------------

    def receive(self, path: Path, data: bytes, now: float) -> None:
        self.now = now
        self.engine.receive_datagrams([Received(path, data)], now)

    def next_timeout(self) -> float | None:
        return self.engine.next_timeout()

    def handle_timer(self, now: float) -> None:
        self.engine.handle_timer(now)

    def drain(self, now: float) -> list[Transmit]:
        while (output := self.engine.poll_output()) is not None:
            match output:
                case Transmit():
                    self._transmits += _cut(output)
                case Packets(writes):
                    self.delivered += [b"".join(buffers) for buffers in writes]
                case ResolveWanted():
                    self.events.append(output)
                    self._resolve(output, now)
                case MediatorMoved():
                    self.events.append(output)
                    self.on_moved(output, now)
                case _:
                    self.events.append(output)
        transmits, self._transmits = self._transmits, []
        return transmits

    def _resolve(self, wanted: ResolveWanted, now: float) -> None:
        found = self.dns.get(wanted.host, [wanted.host])
        if found is None:
            self.engine.not_resolved(wanted.key, f"There is no name {wanted.host}.", now)
            return
        paths = []
        for host in found:
            remote = Address.parse(host, wanted.port)
            own = next((h for h in self.hosts if (":" in h) == (":" in host)), None)
            if own is not None:
                paths.append(Path(Address.parse(own, PORT), remote))
        self.engine.resolved(wanted.key, paths, now)

    # -- looking --------------------------------------------------------------------------------

    @property
    def address(self) -> bytes:
        return self.keys.address

    def of(self, kind: type, name: str = "") -> list:
        return [e for e in self.events if isinstance(e, kind) and (not name or e.name == name)]

    def states(self, name: str) -> list[str]:
        """The states that a peer went through, repetitions left out."""
        found: list[str] = []
        for event in self.of(PeerChanged, name):
            if not found or found[-1] != event.state:
                found.append(event.state)
        return found

    def peer(self, name: str, now: float = 0.0) -> PeerStatus:
        return next(p for p in self.engine.status(now).peers if p.name == name)

    def mediator(self, now: float = 0.0) -> MediatorStatus:
        return self.engine.status(now).mediators[0]

    def is_up(self, name: str) -> bool:
        return self.peer(name).state == "up"

    @property
    def sas(self) -> int:
        """IKE SAs, half-open ones too."""
        return len(self.engine._ike)


def _cut(output: Transmit) -> list[Transmit]:
    if not output.segment:
        return [output]
    parts = range(0, len(output.data), output.segment)
    return [Transmit(output.path, output.data[at : at + output.segment]) for at in parts]


class Scene:
    """A mediator on a public address, a gateway and an operator behind NATs of their own.

    Both are paired: `cabin` is the gateway for the operator, `laptop` the operator for the gateway.
    """

    def __init__(
        self,
        *,
        role: str = "operator",
        paired: bool = True,
        devices: str = "",
        filtering: Behaviour = Behaviour.ADDRESS_AND_PORT_DEPENDENT,
    ) -> None:
        self.network = Network()
        self.mediator = Machine("mediator", SERVER, config=f'[mediate]\naddress = "{SERVER}"')
        main = f'[mediator.main]\naddress = "{SERVER}"\nkey = "{self.mediator_key}"\n'
        self.gateway = Machine("cabin", "10.0.1.2", config=main + devices)
        self.operator = Machine("laptop", "10.0.2.2")
        self.gateway_nat = self.network.nat("198.51.100.1", filtering=filtering)
        self.operator_nat = self.network.nat("192.0.2.1")
        if paired:
            self.gateway.learn(self.operator.known("laptop", role))
            self.operator.learn(
                self.gateway.known("cabin", mediator=SERVER, mediator_key=self.mediator_key)
            )
        for machine in (self.gateway, self.operator):
            machine.refresh(0.0)
        quick = Link(delay=0.001)
        self.hosts = {
            "mediator": self.network.host(
                "mediator", self.mediator, (SERVER, self.network.public), link=quick
            ),
            "gateway": self.network.host(
                "gateway", self.gateway, ("10.0.1.2", self.gateway_nat.inside), link=quick
            ),
            "operator": self.network.host(
                "operator", self.operator, ("10.0.2.2", self.operator_nat.inside), link=quick
            ),
        }

    @property
    def mediator_key(self) -> str:
        return key_text(self.mediator.keys.mediation.public)

    @property
    def now(self) -> float:
        return self.network.now

    def run(self, seconds: float, until=None) -> bool:
        return self.network.run(seconds, until)

    def registered(self) -> Scene:
        assert self.run(10, lambda: all(
            m.state == "registered"
            for machine in (self.gateway, self.operator)
            for m in machine.engine.status(self.now).mediators
        )), [m.events for m in (self.gateway, self.operator)]  # fmt: skip
        return self

    def connect(self) -> None:
        self.operator.engine.connect("cabin", self.now)

    def connected(self, seconds: float = 10.0) -> Scene:
        self.registered()
        self.connect()
        assert self.run(seconds, self.both_up), (
            self.operator.peer("cabin"), self.gateway.peer("laptop"),
        )  # fmt: skip
        return self

    def both_up(self) -> bool:
        return self.operator.is_up("cabin") and self.gateway.is_up("laptop")

    def send(self, source: Machine, packet: bytes, seconds: float = 1.0) -> None:
        """An inner packet leaves `source`; then time passes."""
        source.engine.receive_packets([packet], self.now)
        self.run(seconds)

    def passes(self, source: Machine, target: Machine, packet: bytes) -> bool:
        """Whether a packet arrives."""
        before = len(target.delivered)
        self.send(source, packet)
        return packet in target.delivered[before:]

    def echoes(self) -> bool:
        """Whether packets pass in both directions."""
        there = echo(self.operator.address, self.gateway.address)
        back = echo(self.gateway.address, self.operator.address)
        return self.passes(self.operator, self.gateway, there) and self.passes(
            self.gateway, self.operator, back
        )


def ipv6(source: bytes, target: bytes, protocol: int, payload: bytes) -> bytes:
    """An inner packet."""
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + source + target + payload


def echo(source: bytes, target: bytes) -> bytes:
    """An ICMPv6 echo request."""
    return ipv6(source, target, ICMPV6, struct.pack("!BBHHH", 128, 0, 0, 1, 1) + b"ping")


def tcp(source: bytes, target: bytes, port: int, *, syn: bool = True) -> bytes:
    """A TCP segment from port 40000."""
    flags = 0x02 if syn else 0x10
    return ipv6(source, target, TCP, struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 0x50, flags, 99, 0, 0))  # fmt: skip  # noqa: E501


def udp(source: bytes, target: bytes, port: int, from_port: int = 40000) -> bytes:
    """A UDP datagram."""
    return ipv6(source, target, UDP, struct.pack("!HHHH", from_port, port, 12, 0) + b"data")
