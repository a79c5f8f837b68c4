"""The sans-IO whole: ike, mediation and ipsec behind a handful of verbs (ARCHITECTURE.md, flow).

Contract: call one verb with `now` (monotonic seconds), drain `poll_output()` until None, sleep
until `next_timeout()` at most, call `handle_timer`. Datagrams here are UDP payloads as they stand
on the wire: the non-ESP marker (RFC 3948 §2.2) is put on and taken off in this file, by the port
of the local socket: 500 goes without.

Longer than the soft limit: each verb is short, but they are many, and one contract holds for all.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from agent.datagram import Address, Path, Received, Transmit
from agent.engine.authority import Authority
from agent.engine.connection import Connection
from agent.engine.enrolment import EnrolmentExtension, enrol
from agent.engine.events import (
    Enrolled,
    Event,
    MediatorChanged,
    Output,
    Packets,
    PeerChanged,
)
from agent.engine.inner_offload import InnerOffload
from agent.engine.paths import KIND as KEEPALIVE
from agent.engine.paths import Paths
from agent.engine.registration import Registration
from agent.engine.roster import Key, Roster
from agent.engine.switch import Switch
from agent.ike.crash import Tokens
from agent.ike.redirect import gateway_factory
from agent.ike.table import Ike, IkeSettings
from agent.ipsec import DataPlane, Offload
from agent.mediation.connect_id import responder_factory
from agent.mediation.settings import MediationSettings
from agent.status import EngineStatus, ServerStatus
from agent.timers import NO_DATE, Schedule, WallTime
from agent.wire.codes import ExchangeType
from agent.wire.esp import NON_ESP_MARKER, Kind, classify
from agent.wire.redirect import GatewayId, Successor

if TYPE_CHECKING:
    from agent.engine.entries import Enrol, MediatorEntry, MediatorPlace, PeerEntry, ServerEntry
    from agent.ike.extension import Extension, Factory
    from agent.ike.sa import IkeSa
    from agent.ike.tickets import Tickets
    from agent.mediation.server import MediationServer
    from agent.wire.message import Message
    from agent.wire.payloads import Payload
    from agent.wire.proposals import Proposal

Random = Callable[[int], bytes]

IKE_PORT = 500
LOOK_AROUND_SECONDS = 2.0  # a link that comes up makes half a dozen changes within it
_ZERO_SPIS = bytes(16)


class Engine:
    """One machine, in whatever roles its entries give it."""

    def __init__(
        self,
        *,
        random: Random,
        proposals: tuple[Proposal, ...],
        enrol: Enrol,
        offload: Offload | None = None,
        mtu: int = 1280,
        ike_settings: IkeSettings | None = None,
        mediation_settings: MediationSettings | None = None,
        restart_secret: bytes | None = None,
        tickets: Tickets | None = None,
        key_log: Callable[[str], None] | None = None,
        wall: Callable[[], WallTime] = lambda: NO_DATE,
    ) -> None:
        """`restart_secret`: 32 octets, the same after each restart, for quick crash detection.

        `tickets`: what a mediation server lets its peers come back with.
        `key_log`, for debugging only, is given all keys as lines for Wireshark. `wall` tells the
        date, which certificates are judged by.
        """
        self.dropped: Counter[str] = Counter()
        self._random = random
        self._outputs: deque[Output] = deque()
        self._schedule: Schedule[Key] = Schedule()
        self._roster = roster = Roster()
        self._registrations, self._connections = roster.registrations, roster.connections
        self._paths = Paths(self._schedule)
        self._by_path = self._paths.by_path
        self._changed: set[Key] = set()
        self._local: tuple[Address, ...] = ()
        self._look_around_from = 0.0
        self._mediation_settings = mediation_settings or MediationSettings()
        self._authority = Authority(proposals)
        self._server: MediationServer | None = None
        self._tickets = tickets
        self._enrol = enrol
        # Writing packets that lack their checksum takes a TUN device with vnet headers.
        self._inner_offload = InnerOffload() if offload is not None and offload.vnet else None
        self._ike = Ike(
            pad=self._authority,
            random=random,
            settings=ike_settings,
            wall=wall,
            tokens=Tokens(restart_secret) if restart_secret is not None else None,
            tickets=tickets,
            first_contact=self._authority.first_contact,
            responder_extensions=self._responder_extensions(),
        )
        self._plane = DataPlane(random=random, offload=offload, mtu=mtu)
        self._switch = Switch(
            self._ike,
            self._plane,
            self._roster,
            self._paths,
            inner_offload=self._inner_offload,
            dropped=self.dropped,
            transmit=self._transmit,
            emit=self._emit,
            key_log=key_log,
        )

    # --- what the machine is told -------------------------------------------------------------

    def serve(self, entry: ServerEntry) -> None:
        """Be a mediation server."""
        from agent.mediation.server import MediationServer  # few machines are one

        self._server = MediationServer(
            random=self._random, settings=self._mediation_settings, allowed=self._authority.may_call
        )
        self._server.bind(self._ike)
        self._authority.server = entry
        self._tell_authority()

    def drain(self, place: MediatorPlace, now: float) -> None:
        """Be a mediation server no more: send everybody to the one at `place`, who comes too."""
        from agent.mediation.drain import Drain

        assert self._server is not None
        successor = Successor(place.port, place.key)
        self._server.drain = Drain(GatewayId.of_host(place.host), successor)
        self.handle_timer(now)

    def set_mediators(self, entries: Sequence[MediatorEntry], now: float) -> None:
        """All registrations that are to stand; others end, new ones start."""
        wanted = {entry.name: entry for entry in entries}
        for name in [n for n, r in self._registrations.items() if wanted.get(n) != r.entry]:
            registration = self._registrations.pop(name)
            registration.stop(now)
            self._schedule.set(("mediator", name), None)
        for entry in wanted.values():
            if entry.name not in self._registrations:
                self._register(entry, now)
        self._settle(now)

    def _register(self, entry: MediatorEntry, now: float) -> None:
        from agent.mediation.client import MediationClient  # a mere mediator needs none

        client = MediationClient(
            name=entry.name,
            random=self._random,
            settings=self._mediation_settings,
            accepts=self._roster.accepts,
            answers=lambda pseudonym, connect_id: self._roster.accepts(pseudonym),
        )
        client.bind(self._ike)
        client.set_local_endpoints(self._local)
        registration = Registration(entry, client, self._ike, self._random, self._emit)
        self._registrations[entry.name] = registration
        self._tell_accepts(registration, now)
        registration.begin(now)

    def set_peers(self, entries: Sequence[PeerEntry], now: float) -> None:
        """All peers that are known; connections with others end."""
        wanted = {entry.name: entry for entry in entries}
        for name in [n for n, c in self._connections.items() if wanted.get(n) != c.entry]:
            connection = self._connections[name]
            entry = wanted.get(name)
            if entry is not None and entry.peer == connection.entry.peer:
                connection.entry = entry  # grants or the like: the tunnel stays
            else:
                connection.unwant(now)
                del self._connections[name]
                self._plane.set_grants(name, None)
                self._schedule.set(("peer", name), None)
        for name, entry in wanted.items():
            self._plane.set_grants(name, entry.grants)
            if name not in self._connections:
                self._connections[name] = Connection(
                    entry, self._roster.registration_of(name), self._ike, self._random, self._emit,
                    (self._inner_offload,) if self._inner_offload is not None else (),
                )  # fmt: skip
        self._roster.index_pseudonyms()
        self._tell_authority()
        for registration in self._registrations.values():
            self._tell_accepts(registration, now)
        for connection in self._connections.values():
            if connection.wanted and connection.state.value == "idle":
                connection.want(now)
        self._settle(now)

    def set_local_addresses(self, addresses: Sequence[Address], now: float) -> None:
        """Usable local addresses with the port of the NAT-T socket, best first.

        To be called also when only links or routes changed: what waits tries again, and what
        stands is asked whether it still does.
        """
        before, self._local = self._local, tuple(addresses)
        for registration in self._registrations.values():
            registration.client.set_local_endpoints(self._local)
        gone = {a.ip for a in before} - {a.ip for a in self._local}
        for registration in self._registrations.values():
            if registration.ike_id is not None and self._leaves_from(registration.ike_id, gone):
                registration.restart(now)
        for connection in self._connections.values():
            if connection.ike_id is not None and self._leaves_from(connection.ike_id, gone):
                self._ike.close(connection.ike_id, now, silent=True)
        if now >= self._look_around_from:
            self._look_around(now)
        else:  # the last of several changes is the one that counts
            self._schedule.set(("look around", ""), self._look_around_from)
        self._settle(now)

    def _look_around(self, now: float) -> None:
        """The network may be another one."""
        self._look_around_from = now + LOOK_AROUND_SECONDS
        for registration in self._registrations.values():
            registration.hurry(now)
            if registration.ike_id is not None:
                self._ike.check_liveness(registration.ike_id, now)
        for ike_id in self._paths.ike_ids():
            self._ike.check_liveness(ike_id, now)
        for connection in self._connections.values():
            connection.hurry(now)

    def connect(self, name: str, now: float) -> None:
        """Somebody wants a tunnel to this peer; it stays wanted. KeyError if it is unknown."""
        self._connections[name].want(now)
        self._settle(now)

    def disconnect(self, name: str, now: float) -> None:
        """Nobody wants it any more. KeyError if it is unknown."""
        self._connections[name].unwant(now)
        self._settle(now)

    def rekey(self, name: str, now: float, *, ike: bool) -> None:
        """Rekey the IKE SA or the Child SAs of a peer now. KeyError if it is unknown."""
        connection = self._connections[name]
        if connection.ike_id is not None:
            if ike:
                self._ike.rekey_ike(connection.ike_id, now)
            else:
                for spi in connection.children:
                    self._ike.rekey_child(spi, now)
        self._settle(now)

    def send_enrolment(self, name: str, data: bytes, now: float) -> None:
        """Hand our keys over on the one-time connection `name`; answered by `Enrolled`."""
        ike_id = self._connections[name].ike_id
        answer: Callable[[bytes | None], None] = lambda a: self._emit(  # noqa: E731
            Enrolled(name=name, answer=a)
        )
        if ike_id is None:
            answer(None)
        else:
            enrol(self._ike, ike_id, data, answer, now)
        self._settle(now)

    def resolved(self, key: Key, paths: Sequence[Path], now: float) -> None:
        """The answer to `ResolveWanted`: where to, and from where."""
        if (target := self._roster.resolving(key)) is not None:
            target.on_resolved(paths, now)
        self._settle(now)

    def not_resolved(self, key: Key, sentence: str, now: float) -> None:
        """The other answer to `ResolveWanted`."""
        if (target := self._roster.resolving(key)) is not None:
            target.on_not_resolved(sentence, now)
        self._settle(now)

    # --- what arrives -------------------------------------------------------------------------

    def receive_datagrams(self, batch: Sequence[Received], now: float) -> None:
        """UDP payloads as received. Never raises for what came from the network."""
        result = self._plane.receive(batch, now)
        if result.writes:
            self._outputs.append(Packets(result.writes))
        for received in result.other:
            self._receive_other(received, now)
        for ike_id in self._plane.active():
            self._ike.seen_inbound(ike_id, now)
        moved = self._plane.moved()
        for ike_id, path in moved:
            self._ike.set_path(ike_id, path, now)
        self._expire(now)
        if result.other or moved:
            self._settle(now)

    def receive_packets(self, packets: Sequence[bytes], now: float) -> None:
        """Inner packets that our machine sends."""
        transmits = self._plane.seal(packets, now)
        self._outputs.extend(transmits)
        for path in {transmit.path for transmit in transmits}:
            if (ike_id := self._by_path.get(path)) is not None:
                self._ike.sent_outbound(ike_id, now)
        if answers := self._plane.answers():
            self._outputs.append(Packets(answers))
        self._expire(now)

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        self._ike.handle_timer(now)
        for registration in self._registrations.values():
            registration.client.handle_timer(now)
        if self._server is not None:
            self._server.handle_timer(now)
        for kind, name in self._schedule.expired(now):
            if kind == "look around":
                self._look_around(now)
            elif kind == KEEPALIVE:
                if (keepalive := self._paths.keepalive(int(name), now)) is not None:
                    self._outputs.append(keepalive)
            elif kind == "mediator" and name in self._registrations:
                self._registrations[name].on_timer(now)
                self._changed.add((kind, name))
            elif kind == "peer" and name in self._connections:
                self._connections[name].on_timer(now)
        self._settle(now)

    # --- what comes out -----------------------------------------------------------------------

    def poll_output(self) -> Output | None:
        """The next thing to send, to deliver or to know; None if there is nothing more."""
        return self._outputs.popleft() if self._outputs else None

    @property
    def takes_unfinished(self) -> bool:
        """Whether the TUN device had better hand over unfinished packets (`Tun.set_unfinished`)."""
        return self._plane.takes_unfinished

    def next_timeout(self) -> float | None:
        """When `handle_timer` is wanted, monotonic seconds."""
        times = [self._ike.next_timeout(), self._schedule.next_deadline()]
        for registration in self._registrations.values():
            times.append(registration.client.next_timeout())
        if self._server is not None:
            times.append(self._server.next_timeout())
        return min([t for t in times if t is not None], default=None)

    def status(self, now: float) -> EngineStatus:
        """A frozen picture, without secrets."""
        server = None
        if self._server is not None:
            counters, drain = self._server.counters, self._server.drain
            server = ServerStatus(
                registered=len(self._server),
                relayed=counters.get("relayed", 0),
                refused=counters.get("failed", 0),
                resumed=self._tickets.counters["resumed"] if self._tickets is not None else 0,
                draining_to=drain.text if drain is not None else "",
                moved=drain.moved if drain is not None else 0,
            )
        peers = []
        for name, connection in self._connections.items():
            if not connection.entry.one_time:
                sa = self._ike.sa(connection.ike_id) if connection.ike_id is not None else None
                sent, received = self._plane.traffic(name)
                peers.append(connection.status(now, sent, received, sa.rtt if sa else None))
        return EngineStatus(
            mediators=tuple(
                r.status(now) for r in self._registrations.values() if not r.entry.is_covered
            ),
            peers=tuple(peers),
            server=server,
            dropped={**self.dropped, **self._plane.counters},
        )

    def close(self, now: float) -> None:
        """Say goodbye to everybody; what is to be sent is in the outputs."""
        for connection in self._connections.values():
            connection.unwant(now)
        for registration in self._registrations.values():
            registration.stop(now)
        self._settle(now)

    # --- inside -------------------------------------------------------------------------------

    def _emit(self, event: Event) -> None:
        if isinstance(event, PeerChanged):
            self._changed.add(("peer", event.name))
        elif isinstance(event, MediatorChanged):
            self._changed.add(("mediator", event.name))
        self._outputs.append(event)

    def _receive_other(self, received: Received, now: float) -> None:
        path, data = received.path, received.data
        if path.local.port != IKE_PORT:
            match classify(data):
                case Kind.IKE:
                    data = data[len(NON_ESP_MARKER) :]
                case Kind.ESP:
                    self._on_foreign_esp(path, data, now)
                    return
                case Kind.INVALID:
                    self.dropped["not_ike"] += 1
                    return
                case Kind.KEEPALIVE:
                    return
        if data[:16] == _ZERO_SPIS and len(data) > 18 and data[18] == ExchangeType.INFORMATIONAL:
            clients = self._registrations.values()
            if not any(
                r.client.receive_check(path, data, now) for r in clients
            ) and not self._ike.on_invalid_spi(path, data, now):
                self.dropped["unknown_check"] += 1
            return
        self._ike.receive(path, data, now)

    def _on_foreign_esp(self, path: Path, data: bytes, now: float) -> None:
        """Not of an SA that we have."""
        self.dropped["esp_unknown_spi"] += 1
        if path not in self._by_path:  # else it is on its way from an SA that was just replaced
            self._ike.on_unknown_esp(path, data, now)

    def _settle(self, now: float) -> None:
        """Pass outputs between the rooms until nobody has any, then note the deadlines."""
        busy = True
        while busy:
            busy = False
            while (output := self._ike.poll_output()) is not None:
                self._switch.on_ike(output, now)
                busy = True
            for registration in [*self._registrations.values()]:
                while (event := registration.client.poll_output()) is not None:
                    self._switch.on_client(registration, event, now)
                    busy = True
            if self._server is not None:
                while self._server.poll_output() is not None:
                    busy = True
        for key in self._changed:  # each change of a deadline comes with an event
            target = self._roster.owner_of(key)
            self._schedule.set(key, target.deadline if target is not None else None)
        self._changed.clear()

    def _on_enrol(self, name: str, data: bytes) -> bytes | None:
        """N(HG_ENROLL) from an authenticated peer: only the invited may."""
        connection = self._connections.get(name)
        if connection is None or not connection.entry.one_time:
            return None
        remote_id = connection.entry.peer.remote_id
        return self._enrol(remote_id.data, data) if remote_id is not None else None

    def _transmit(self, output: Transmit) -> None:
        if output.path.local.port != IKE_PORT:
            output = Transmit(output.path, NON_ESP_MARKER + output.data)
        self._outputs.append(output)

    def _expire(self, now: float) -> None:
        for spi_in, hard in self._plane.expiring():
            self._ike.expire_child(spi_in, hard, now)
            self._settle(now)

    def _responder_extensions(self) -> tuple[Factory, ...]:
        """What is made for an IKE SA that somebody else begins."""
        return (
            self._server_extension,
            gateway_factory(self._elsewhere),
            responder_factory(lambda: [r.client for r in self._registrations.values()]),
            lambda sa, message: EnrolmentExtension(self._on_enrol),
            lambda sa, message: self._inner_offload,
        )

    def _server_extension(self, sa: IkeSa, message: Message | None) -> Extension | None:
        return self._server.factory(sa, message) if self._server is not None else None

    def _elsewhere(self, sa: IkeSa) -> Sequence[Payload]:
        return self._server.elsewhere(sa) if self._server is not None else ()

    def _leaves_from(self, ike_id: int, addresses: set[bytes]) -> bool:
        sa = self._ike.sa(ike_id)
        return sa is not None and sa.path.local.ip in addresses

    def _tell_authority(self) -> None:
        self._authority.set_peers([c.entry for c in self._connections.values()])

    def _tell_accepts(self, registration: Registration, now: float) -> None:
        registration.client.set_accepts(self._roster.accept_hashes(), now)
