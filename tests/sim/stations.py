"""Peers and mediators on the simulated network: the real Ike class with the mediation rooms."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from agent.datagram import Address, Dropped, Path, Transmit
from agent.engine.connection import PATH_SECONDS
from agent.ike.events import IkeSaClosed, IkeSaEstablished
from agent.ike.pad import KeyAuth, Peer
from agent.ike.settings import IkeSettings
from agent.ike.table import Ike
from agent.mediation.client import MediationClient
from agent.mediation.connect_id import ConnectIdExtension, responder_factory
from agent.mediation.events import PathFound
from agent.mediation.identity import accept_hash
from agent.mediation.server import MediationServer
from agent.mediation.server_extension import ServerExtension
from agent.mediation.settings import MediationSettings
from agent.wire.codes import IdType
from agent.wire.mediation import is_check
from agent.wire.payloads import Identification
from tests.support.pair import ike_proposals, key_of, seeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.ike.extension import Extension
    from agent.wire.message import Message
    from agent.wire.payloads import CertreqPayload
    from agent.wire.proposals import Proposal
    from tests.support.network import Network

T = TypeVar("T")
PORT = 4500


class Station:
    """What peers and mediators have in common: an Ike and what it says."""

    def __init__(self, name: str, settings: IkeSettings | None = None) -> None:
        self.name = name
        self.mediation_key = key_of("mediation " + name)
        self.identity_key = key_of("identity " + name)
        self.pseudonym = Identification.key_id(self.mediation_key.public)
        self.identity = Identification.key_id(self.identity_key.public)
        self.events: list[object] = []
        self.dropped: list[str] = []
        self.proposals: tuple[Proposal, ...] = ike_proposals()
        self._transmits: list[Transmit] = []

    def of(self, kind: type[T]) -> list[T]:
        """The events of a class, in their order."""
        return [e for e in self.events if isinstance(e, kind)]

    def has(self, kind: type[object]) -> bool:
        """Whether there was one."""
        return any(isinstance(e, kind) for e in self.events)

    def certificate_requests(self, request: Message) -> tuple[CertreqPayload, ...]:
        """See Pad: everybody here has a key."""
        return ()

    def responder_proposals(self, path: Path, request: Message) -> tuple[Proposal, ...]:
        """See Pad."""
        return self.proposals

    def take(self, output: object, now: float) -> None:
        """Keep an output."""
        match output:
            case Transmit():
                self._transmits.append(output)
            case Dropped(reason=reason):
                self.dropped.append(reason)
            case _:
                self.events.append(output)

    def taken(self) -> list[Transmit]:
        """What is to be sent."""
        transmits, self._transmits = self._transmits, []
        return transmits


class Mediator(Station):
    """Our mediation server: takes every self-certifying pseudonym."""

    def __init__(
        self,
        name: str = "mediator",
        *,
        allowed: Callable[[Identification, Identification], bool] | None = None,
        settings: MediationSettings | None = None,
    ) -> None:
        super().__init__(name)
        self.address = Address.parse("203.0.113.10", PORT)
        self.allowed = allowed
        self.settings = settings or MediationSettings()
        self.start()

    def start(self) -> None:
        """Begin with nothing, as after a restart."""
        self.server = MediationServer(
            random=seeded("server"), settings=self.settings, allowed=self.allowed
        )
        self.ike = Ike(
            pad=self, random=seeded(self.name), responder_extensions=(self.server.factory,)
        )
        self.server.bind(self.ike)

    def find_peer(
        self,
        remote_id: Identification,
        local_id: Identification | None,
        context: tuple[Extension, ...],
    ) -> Peer | None:
        """See Pad."""
        if remote_id.id_type != IdType.ID_KEY_ID or len(remote_id.data) != 32:
            return None
        if not any(isinstance(e, ServerExtension) for e in context):
            return None
        return Peer(
            name="mediated",
            local_id=self.pseudonym,
            remote_id=remote_id,
            local_auth=self.mediation_key,
            remote_auth=KeyAuth(public=remote_id.data),
            proposals=self.proposals,
        )

    def receive(self, path: Path, data: bytes, now: float) -> None:
        """See Node."""
        self.ike.receive(path, data, now)

    def next_timeout(self) -> float | None:
        """See Node."""
        due = (self.ike.next_timeout(), self.server.next_timeout())
        return min((d for d in due if d is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """See Node."""
        self.ike.handle_timer(now)
        self.server.handle_timer(now)

    def drain(self, now: float) -> list[Transmit]:
        """See Node."""
        while (output := self.ike.poll_output()) is not None:
            self.take(output, now)
        while (event := self.server.poll_output()) is not None:
            self.take(event, now)
        return self.taken()


class Machine(Station):
    """A peer: registers at a mediator, connects to and accepts `friends`."""

    def __init__(
        self,
        name: str,
        *hosts: str,
        settings: MediationSettings | None = None,
        ike_settings: IkeSettings | None = None,
        liveness: float = 30.0,
    ) -> None:
        super().__init__(name)
        self.hosts = tuple(Address.parse(h, PORT) for h in hosts)
        self.friends: list[Station] = []
        self.liveness = liveness
        self.established: dict[int, float] = {}
        self.client = MediationClient(
            name=name,
            random=seeded("client " + name),
            settings=settings or MediationSettings(),
            accepts=self.knows,
            answers=lambda pseudonym, connect_id: True,
        )
        self.ike = Ike(
            pad=self,
            random=seeded(name),
            settings=ike_settings or IkeSettings(),
            responder_extensions=(responder_factory(lambda: [self.client]),),
        )
        self.client.bind(self.ike)
        self.client.set_local_endpoints(self.hosts)

    def befriend(self, *others: Station, now: float = 0.0) -> None:
        """Know them, and accept what they ask the mediator for."""
        self.friends += others
        self.client.set_accepts(frozenset(accept_hash(o.pseudonym) for o in self.friends), now)

    def knows(self, pseudonym: Identification) -> bool:
        """Whether this is a friend."""
        return any(f.pseudonym.matches(pseudonym) for f in self.friends)

    def friend(self, pseudonym: Identification) -> Station:
        """Who it is."""
        return next(f for f in self.friends if f.pseudonym.matches(pseudonym))

    def peer_for(self, friend: Station) -> Peer:
        """How the mediated connection with `friend` authenticates."""
        return Peer(
            name=friend.name,
            local_id=self.identity,
            remote_id=friend.identity,
            local_auth=self.identity_key,
            remote_auth=KeyAuth(public=friend.identity_key.public),
            proposals=self.proposals,
            liveness_seconds=self.liveness,
        )

    def find_peer(
        self,
        remote_id: Identification,
        local_id: Identification | None,
        context: tuple[Extension, ...],
    ) -> Peer | None:
        """See Pad: the identity must be the one behind the pseudonym."""
        friend = next((f for f in self.friends if f.identity.matches(remote_id)), None)
        for extension in context:
            if isinstance(extension, ConnectIdExtension) and friend is not None:
                expected = extension.expected
                if expected is not None and not expected.matches(friend.pseudonym):
                    return None
        return self.peer_for(friend) if friend is not None else None

    def register(self, mediator: Mediator, now: float) -> int:
        """Start a mediation connection."""
        peer = Peer(
            name="mediator",
            local_id=self.pseudonym,
            remote_id=mediator.pseudonym,
            local_auth=self.mediation_key,
            remote_auth=KeyAuth(public=mediator.mediation_key.public),
            proposals=self.proposals,
            liveness_seconds=self.liveness,
        )
        local = Address(bytes(len(mediator.address.ip)), PORT)
        path = Path(local, mediator.address)
        return self.ike.connect(peer, path, now, (self.client.extension,))

    def call(self, friend: Station, now: float) -> bytes:
        """Connect to `friend`."""
        return self.client.connect(friend.pseudonym, now)

    def tunnels(self) -> list[IkeSaEstablished]:
        """IKE SAs with friends that were established and are still there."""
        closed = {e.ike_id for e in self.of(IkeSaClosed)}
        return [
            e for e in self.of(IkeSaEstablished) if e.peer != "mediator" and e.ike_id not in closed
        ]

    def receive(self, path: Path, data: bytes, now: float) -> None:
        """See Node."""
        if is_check(data):
            if not self.client.receive_check(path, data, now):
                self.dropped.append("unknown_check")
            return
        self.ike.receive(path, data, now)

    def next_timeout(self) -> float | None:
        """See Node."""
        due = (self.ike.next_timeout(), self.client.next_timeout())
        return min((d for d in due if d is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """See Node."""
        self.ike.handle_timer(now)
        self.client.handle_timer(now)

    def drain(self, now: float) -> list[Transmit]:
        """See Node."""
        busy = True
        while busy:
            busy = False
            while (output := self.ike.poll_output()) is not None:
                busy = True
                self.take(output, now)
                if isinstance(output, IkeSaEstablished):
                    self.established[output.ike_id] = now
            while (said := self.client.poll_output()) is not None:
                busy = True
                self.take(said, now)
                if isinstance(said, PathFound) and said.is_initiator:
                    peer = self.peer_for(self.friend(said.pseudonym))
                    extension = self.client.connect_extension(said.connect_id)
                    self.ike.connect(peer, said.path, now, (extension,), patience=PATH_SECONDS)
        return self.taken()


def registered(network: Network, mediator: Mediator, *machines: Machine) -> None:
    """Register all of them and let it happen."""
    for machine in machines:
        machine.register(mediator, network.now)
    assert network.run(60, lambda: all(m.client.registered for m in machines))
    network.run(0.5)
