"""The sans-IO whole: ike, mediation and ipsec behind a handful of verbs (ARCHITECTURE.md, flow).

Contract: call one verb with `now` (monotonic seconds), drain `poll_output()` until None, sleep
until `next_timeout()` at most, call `handle_timer`. Datagrams here are UDP payloads as they stand
on the wire: the non-ESP marker (RFC 3948 §2.2) is put on and taken off in this file, by the port
of the local socket: 500 goes without.

Longer than the soft limit: it is one switch between the rooms, and its indexes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from agent.datagram import Address, Dropped, Path, Received, Transmit
from agent.engine import keylog
from agent.engine.authority import Authority
from agent.engine.connection import Connection
from agent.engine.enrolment import EnrolmentExtension, enrol
from agent.engine.events import (
    Enrolled,
    Event,
    MediatorChanged,
    Notice,
    Output,
    Packets,
    PeerChanged,
)
from agent.engine.inner_offload import InnerOffload
from agent.engine.registration import Registration
from agent.engine.sentences import REPLACED_OFTEN
from agent.engine.translate import esp_parameters
from agent.ike import events as ike_events
from agent.ike.crash import Tokens
from agent.ike.redirect import gateway_factory
from agent.ike.table import Ike, IkeSettings
from agent.ipsec import DataPlane, Offload
from agent.mediation import events as me
from agent.mediation.connect_id import responder_factory
from agent.mediation.identity import accept_hash
from agent.mediation.settings import MediationSettings
from agent.status import EngineStatus, ServerStatus
from agent.timers import NO_DATE, Schedule, WallTime
from agent.wire.codes import ExchangeType
from agent.wire.esp import KEEPALIVE, NON_ESP_MARKER, Kind, classify
from agent.wire.redirect import GatewayId, Successor

if TYPE_CHECKING:
    from agent.engine.entries import Enrol, MediatorEntry, MediatorPlace, PeerEntry, ServerEntry
    from agent.engine.redirection import Redirection
    from agent.ike.extension import Extension
    from agent.ike.sa import IkeSa
    from agent.ike.tickets import Tickets
    from agent.mediation.server import MediationServer
    from agent.wire.message import Message
    from agent.wire.payloads import Identification, Payload
    from agent.wire.proposals import Proposal

Random = Callable[[int], bytes]
Key = tuple[str, str]
K = TypeVar("K")

IKE_PORT = 500
KEEPALIVE_SECONDS = 20.0  # RFC 3948 §4: below the 30 s after which bad NATs forget UDP
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
        self._keepalives: dict[int, Path] = {}
        self._registrations: dict[str, Registration] = {}
        self._connections: dict[str, Connection] = {}
        # Indexes, so that what an event costs does not depend on how many peers there are.
        self._by_pseudonym: dict[tuple[int, bytes], list[Connection]] = {}
        self._by_ike_id: dict[int, Connection] = {}
        self._by_path: dict[Path, int] = {}
        self._paths: dict[int, Path] = {}
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
        self._key_log = key_log
        self._ike = Ike(
            pad=self._authority,
            random=random,
            settings=ike_settings,
            wall=wall,
            tokens=Tokens(restart_secret) if restart_secret is not None else None,
            tickets=tickets,
            first_contact=self._first_contact,
            responder_extensions=(
                self._server_extension,
                gateway_factory(self._elsewhere),
                responder_factory(lambda: [r.client for r in self._registrations.values()]),
                lambda sa, message: EnrolmentExtension(self._on_enrol),
                lambda sa, message: self._inner_offload,
            ),
        )
        self._plane = DataPlane(random=random, offload=offload, mtu=mtu)

    # --- what the machine is told -------------------------------------------------------------

    def serve(self, entry: ServerEntry) -> None:
        """Be a mediation server."""
        from agent.mediation.server import MediationServer  # few machines are one

        self._server = MediationServer(
            random=self._random, settings=self._mediation_settings, allowed=self._may_call
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
        for name, entry in wanted.items():
            if name not in self._registrations:
                from agent.mediation.client import MediationClient  # a mere mediator needs none

                client = MediationClient(
                    name=name,
                    random=self._random,
                    settings=self._mediation_settings,
                    accepts=self._accepts,
                    answers=self._answers,
                )
                client.bind(self._ike)
                client.set_local_endpoints(self._local)
                registration = Registration(entry, client, self._ike, self._random, self._emit)
                self._registrations[name] = registration
                self._tell_accepts(registration, now)
                registration.start(now)
        self._settle(now)

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
                    entry, self._registration_of(name), self._ike, self._random, self._emit,
                    (self._inner_offload,) if self._inner_offload is not None else (),
                )  # fmt: skip
        self._by_pseudonym.clear()
        for connection in self._connections.values():
            if (pseudonym := connection.entry.pseudonym) is not None:
                self._by_pseudonym.setdefault(pseudonym.key, []).append(connection)
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
        for ike_id in self._paths:
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
        if (target := self._resolving(key)) is not None:
            target.on_resolved(paths, now)
        self._settle(now)

    def not_resolved(self, key: Key, sentence: str, now: float) -> None:
        """The other answer to `ResolveWanted`."""
        if (target := self._resolving(key)) is not None:
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
            elif kind == "keepalive":
                self._send_keepalive(int(name), now)
            elif kind == "mediator" and name in self._registrations:
                self._registrations[name].on_timer(now)
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
            mediators=tuple(r.status(now) for r in self._registrations.values()),
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
                self._on_ike(output, now)
                busy = True
            for registration in [*self._registrations.values()]:
                while (event := registration.client.poll_output()) is not None:
                    self._on_client(registration, event, now)
                    busy = True
            if self._server is not None:
                while self._server.poll_output() is not None:
                    busy = True
        for key in self._changed:  # each change of a deadline comes with an event
            target = self._owner_of(key)
            self._schedule.set(key, target.deadline if target is not None else None)
        self._changed.clear()

    def _on_ike(self, output: ike_events.Output, now: float) -> None:
        match output:
            case Transmit():
                self._transmit(output)
            case Dropped(reason):
                self.dropped[reason] += 1
            case ike_events.InstallChildSa():
                agreed = self._inner_offload.agreed if self._inner_offload is not None else ()
                self._plane.install(esp_parameters(output, unsummed=output.ike_id in agreed), now)
                self._log_keys(keylog.esp_lines, output)
            case ike_events.IkeKeysDerived():
                self._log_keys(keylog.ike_lines, output)
            case ike_events.RemoveChildSa(spi_in=spi_in):
                self._plane.remove(spi_in)
            case ike_events.IkeSaEstablished():
                self._on_established(output, now)
            case ike_events.IkeSaClosed():
                self._on_closed(output, now)
            case ike_events.ChildSaEstablished(peer=name):
                if name in self._connections:
                    self._connections[name].on_child(output, now)
            case ike_events.ChildSaRekeyed():
                if (connection := self._owner(output.ike_id)) is not None:
                    connection.on_child_replaced(output)
            case ike_events.ChildSaClosed():
                if (connection := self._owner(output.ike_id)) is not None:
                    connection.on_child_closed(output, now)
            case ike_events.PathChanged(ike_id=ike_id, path=path):
                self._on_path_changed(ike_id, path)
            case ike_events.ReauthenticationDue(ike_id=ike_id):
                if (connection := self._owner(ike_id)) is not None:
                    connection.reauthenticate(ike_id, now)
                for registration in self._registrations.values():
                    if registration.ike_id == ike_id:
                        registration.restart(now)
            case ike_events.Redirected(peer=name):
                for registration in self._registrations.values():
                    registration.on_redirected(output, now)
                if name in self._connections:
                    self._connections[name].on_redirected(output, now)
            case ike_events.IkeSaUnanswered(ike_id=ike_id):
                self._on_unanswered(ike_id, now)
            case ike_events.IkeSaRekeyed():
                pass

    def _on_client(self, registration: Registration, event: me.ClientOutput, now: float) -> None:
        match event:
            case Transmit():
                self._transmit(event)
            case Dropped(reason):
                self.dropped[reason] += 1
            case me.Registered():
                registration.on_registered(event.ike_id, event.reflexive, now)
                for connection in self._connections.values():
                    if connection.entry.mediator == registration.entry.name:
                        connection.on_registered(now)
            case me.ReflexiveChanged():
                registration.on_reflexive(event.reflexive, now)
            case me.RegistrationLost(reason=me.RegistrationLoss.NO_MEDIATOR):
                registration.on_refused("this server does no mediation; is the address right?", now)
            case me.ConnectProgress():
                if (calling := self._calling(event)) is not None:
                    calling.on_progress(event.connect_id, event.stage, now)
            case me.PathFound(is_initiator=True):
                if (calling := self._calling(event)) is not None:
                    calling.on_path_found(event.connect_id, event.path, now)
            case me.ConnectFailed():
                if (calling := self._calling(event)) is not None:
                    calling.on_connect_failed(event, now)
            case me.PeerOnline():
                for connection in self._by_pseudonym.get(event.pseudonym.key, ()):
                    connection.on_registered(now)
            case _:
                pass

    def _on_established(self, event: ike_events.IkeSaEstablished, now: float) -> None:
        if event.behind_nat:
            self._keepalives[event.ike_id] = event.path
            key = ("keepalive", str(event.ike_id))
            self._schedule.set(key, now + KEEPALIVE_SECONDS)
        connection = self._connections.get(event.peer)
        if connection is not None:
            self._by_ike_id[event.ike_id] = connection
            self._note_path(event.ike_id, event.path)
            connection.on_established(event, now)

    def _on_closed(self, event: ike_events.IkeSaClosed, now: float) -> None:
        self._keepalives.pop(event.ike_id, None)
        self._schedule.set(("keepalive", str(event.ike_id)), None)
        self._by_ike_id.pop(event.ike_id, None)
        self._note_path(event.ike_id, None)
        for registration in self._registrations.values():
            registration.on_closed(event, now)
        connection = self._connections.get(event.peer)
        if connection is not None:
            refused = event.reason is ike_events.CloseReason.AUTHENTICATION_FAILED
            if refused and not connection.owns(event.ike_id) and connection.refused(now):
                self._emit(Notice(text=f"{event.peer} was not let in: {event.detail}"))
            connection.on_closed(event, now)
            if event.reason is ike_events.CloseReason.REPLACED and connection.was_replaced(now):
                self._emit(Notice(text=f"{event.peer}: {REPLACED_OFTEN}"))

    def _log_keys(self, lines: Callable[[K], Iterable[str]], output: K) -> None:
        if self._key_log is not None:
            for line in lines(output):
                self._key_log(line)

    def _on_path_changed(self, ike_id: int, path: Path) -> None:
        self._plane.set_path(ike_id, path)
        if ike_id in self._keepalives:
            self._keepalives[ike_id] = path
        if (connection := self._owner(ike_id)) is not None:
            self._note_path(ike_id, path)
            connection.on_path_changed(path)

    def _on_unanswered(self, ike_id: int, now: float) -> None:
        """A peer does not answer: its NAT or ours may have a new mapping (THREATS 36)."""
        if (connection := self._owner(ike_id)) is None:
            return
        registration = self._registrations.get(connection.entry.mediator)
        if registration is not None and registration.ike_id is not None:
            # If it was ours, the mediator does not reach us either until it has heard from us.
            self._ike.check_liveness(registration.ike_id, now)
        connection.on_unanswered(now)

    def _note_path(self, ike_id: int, path: Path | None) -> None:
        """Which IKE SA is used with `path`, to know whose traffic goes there."""
        before = self._paths.pop(ike_id, None)
        if before is not None and self._by_path.get(before) == ike_id:
            del self._by_path[before]
        if path is not None:
            self._paths[ike_id] = path
            self._by_path[path] = ike_id

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

    def _send_keepalive(self, ike_id: int, now: float) -> None:
        path = self._keepalives.get(ike_id)
        if path is not None:
            self._outputs.append(Transmit(path, KEEPALIVE))
            self._schedule.set(("keepalive", str(ike_id)), now + KEEPALIVE_SECONDS)

    def _expire(self, now: float) -> None:
        for spi_in, hard in self._plane.expiring():
            self._ike.expire_child(spi_in, hard, now)
            self._settle(now)

    def _server_extension(self, sa: IkeSa, message: Message | None) -> Extension | None:
        return self._server.factory(sa, message) if self._server is not None else None

    def _first_contact(self, path: Path) -> GatewayId | None:
        server = self._authority.server
        if server is None or path.local.ip not in server.anycast:
            return None
        return GatewayId.of_host(server.host)

    def _elsewhere(self, sa: IkeSa) -> Sequence[Payload]:
        return self._server.elsewhere(sa) if self._server is not None else ()

    def _owner(self, ike_id: int) -> Connection | None:
        return self._by_ike_id.get(ike_id)

    def _calling(
        self, event: me.ConnectProgress | me.PathFound | me.ConnectFailed
    ) -> Connection | None:
        called = self._by_pseudonym.get(event.pseudonym.key, ())
        return next((c for c in called if c.connect_id == event.connect_id), None)

    def _owner_of(self, key: Key) -> Registration | Connection | None:
        kind, name = key
        if kind.startswith("mediator"):
            return self._registrations.get(name)
        return self._connections.get(name)

    def _resolving(self, key: Key) -> Registration | Connection | Redirection | None:
        owner = self._owner_of(key)
        if owner is None or " redirect" not in key[0]:
            return owner
        return owner.redirection if owner.redirection.key == key else None

    def _leaves_from(self, ike_id: int, addresses: set[bytes]) -> bool:
        sa = self._ike.sa(ike_id)
        return sa is not None and sa.path.local.ip in addresses

    def _registration_of(self, name: str) -> Callable[[], Registration | None]:
        return lambda: self._registrations.get(self._connections[name].entry.mediator)

    def _may_call(self, caller: Identification, called: Identification) -> bool:
        server = self._authority.server
        known = server.peers.get(called.key) if server is not None else None
        caller_entry = server.peers.get(caller.key) if server is not None else None
        return (
            known is not None and caller_entry is not None and called.key in caller_entry.may_call
        )

    def _accepts(self, pseudonym: Identification) -> bool:
        return pseudonym.key in self._by_pseudonym

    def _answers(self, pseudonym: Identification, connect_id: bytes) -> bool:
        return self._accepts(pseudonym)

    def _tell_authority(self) -> None:
        self._authority.set_peers([c.entry for c in self._connections.values()])

    def _tell_accepts(self, registration: Registration, now: float) -> None:
        entries = [c.entry for c in self._connections.values()]
        hashes = frozenset(accept_hash(e.pseudonym) for e in entries if e.pseudonym is not None)
        registration.client.set_accepts(hashes, now)
