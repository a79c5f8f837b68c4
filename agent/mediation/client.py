"""The mediation client: one mediator's peer, over any number of registrations one after the other.

mediation.md §1 here and in `registration`, §2 to §5 in `calls`. `extension` makes the next
mediation connection; the one that registered last counts. Left out: asking the mediator again under
a living mediated IKE SA and moving it (needs MOBIKE).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from agent.mediation.calls import Calls
from agent.mediation.connect_id import ConnectIdExtension
from agent.mediation.endpoints import LocalEndpoint, collect, is_usable, resolve_base
from agent.mediation.events import (
    ClientOutput,
    ReflexiveChanged,
    Registered,
    RegistrationLoss,
    RegistrationLost,
)
from agent.mediation.registration import RegistrationExtension
from agent.wire.codes import ExchangeType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.datagram import Address, Path
    from agent.ike.events import CloseReason
    from agent.ike.extension import Extension
    from agent.ike.table import Ike
    from agent.mediation.messages import ConnectMessage
    from agent.mediation.settings import MediationSettings, Random
    from agent.wire.message import Message
    from agent.wire.payloads import Identification, Payload


class MediationClient:
    """See the module. Drive it: a verb with `now`, drain `poll_output`, wait `next_timeout`."""

    def __init__(
        self,
        *,
        name: str,
        random: Random,
        settings: MediationSettings,
        accepts: Callable[[Identification], bool],
        answers: Callable[[Identification, bytes], bool],
    ) -> None:
        self.name = name
        self._outputs: deque[ClientOutput] = deque()
        self.accepted: frozenset[bytes] = frozenset()
        self.calls = Calls(
            self,
            random=random,
            settings=settings,
            accepts=accepts,
            answers=answers,
            emit=self._emit,
        )
        self._settings = settings
        self._ike: Ike | None = None
        self._registration: RegistrationExtension | None = None
        self._own_id: Identification | None = None
        self._reflexive: Address | None = None
        self._hosts: tuple[Address, ...] = ()
        self._mapped: tuple[tuple[Address, Address], ...] = ()

    # -- what the engine calls -------------------------------------------------------------------

    @property
    def extension(self) -> Extension:
        """For `Ike.connect` of a mediation connection: a new one for each IKE SA."""
        assert self._ike is not None, "bind() comes first"
        return RegistrationExtension(self, self._ike)

    def connect_extension(self, connect_id: bytes) -> Extension:
        """For `Ike.connect` of the mediated IKE SA after `PathFound`: adds N(ME_CONNECTID), calls

        `authenticated` when the IKE SA is up and `path_failed` when it is not to be.
        """
        rtt = self.calls.round_trip(connect_id)
        return ConnectIdExtension(self, connect_id, is_initiator=True, rtt=rtt)

    @property
    def registered(self) -> bool:
        """Whether the mediator counts us as online."""
        return self._registration is not None

    @property
    def reflexive(self) -> Address | None:
        """The endpoint under which the mediator sees us."""
        return self._reflexive

    def bind(self, ike: Ike) -> None:
        """Requests of this client go through `ike`."""
        self._ike = ike

    def set_local_endpoints(self, addresses: Sequence[Address]) -> None:
        """Host endpoints, best first, with the port of the mediation socket."""
        self._hosts = tuple(addresses)

    def set_mapped_endpoints(self, mapped: Sequence[tuple[Address, Address]]) -> None:
        """Port mappings of the gateway: (outside, local base)."""
        self._mapped = tuple(mapped)

    def set_accepts(self, hashes: frozenset[bytes], now: float) -> None:
        """Whom our own kind of mediator may relay to us: `accept_hash` of each pseudonym."""
        limit = self._settings.max_accepted
        self.accepted = frozenset(sorted(hashes)[:limit]) if len(hashes) > limit else hashes
        if self._registration is not None:
            self._registration.announce(now)

    def connect(self, pseudonym: Identification, now: float, *, afresh: bool = False) -> bytes:
        """Ask for a connection; returns its connect ID.

        An attempt with this peer that is on its way already, of either direction, is returned.
        `afresh`: ask the mediator first where it sees us now; a NAT may have a new mapping.
        """
        return self.calls.connect(pseudonym, now, afresh=afresh)

    def refresh(self, then: Callable[[float], None], now: float) -> None:
        """Ask our mediator where it sees us, then call `then` (at once if it would not say)."""
        if self._registration is not None and self._registration.is_ours:
            self._registration.ask_reflexive(now, then)
        else:
            then(now)

    def abandon(self, connect_id: bytes) -> None:
        """Forget an attempt, silently."""
        self.calls.abandon(connect_id)

    def answers(self, connect_id: bytes) -> bool:
        """Whether an attempt runs in which the other side will send IKE_SA_INIT."""
        return self.calls.answers(connect_id)

    def expected(self, connect_id: bytes) -> Identification | None:
        """The pseudonym behind a running attempt, of either direction."""
        return self.calls.expected(connect_id)

    def authenticated(self, connect_id: bytes, now: float) -> None:
        """The mediated IKE SA is up: the attempt is over, and others with this peer with it."""
        self.calls.authenticated(connect_id, now)

    def path_failed(self, connect_id: bytes, now: float) -> None:
        """The IKE SA on the path found did not come up: the next candidate, or `ConnectFailed`."""
        self.calls.path_failed(connect_id, now)

    def handshake_began(self, connect_id: bytes, now: float) -> None:
        """Responder: an IKE_SA_INIT with this connect ID came; nothing is proven yet."""
        self.calls.handshake_began(connect_id, now)

    def handshake_failed(self, connect_id: bytes, now: float) -> None:
        """Responder: that IKE SA came to nothing; the checks go on where they were."""
        self.calls.handshake_failed(connect_id, now)

    def receive_check(self, path: Path, data: bytes, now: float) -> bool:
        """An unencrypted INFORMATIONAL with zero SPIs, marker removed. Whether it was ours."""
        return self.calls.receive_check(path, data, now)

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        self.calls.handle_timer(now)

    def next_timeout(self) -> float | None:
        """When `handle_timer` wants to be called."""
        return self.calls.next_timeout()

    def poll_output(self) -> ClientOutput | None:
        """What is to be sent (checks, without marker) and what happened, in order."""
        return self._outputs.popleft() if self._outputs else None

    # -- the registration ------------------------------------------------------------------------

    def on_registered(
        self, registration: RegistrationExtension, own_id: Identification, now: float
    ) -> None:
        """A mediation connection is up; an older one does not count any more.

        What was asked there is asked here anew: the answer may be given to the other mediator.
        """
        if self._registration is not None:
            self.calls.registration_lost()
        self._registration = registration
        self._own_id = own_id
        self._reflexive = registration.reflexive
        self._outputs.append(
            Registered(client=self.name, ike_id=registration.ike_id, reflexive=self._reflexive)
        )

    def on_reflexive(
        self, registration: RegistrationExtension, address: Address, now: float
    ) -> None:
        """The server says where it sees us (in IKE_AUTH that is before `on_registered`)."""
        if registration is self._registration and address != self._reflexive:
            self._reflexive = address
            self._outputs.append(ReflexiveChanged(client=self.name, reflexive=address))

    def on_registration_closed(
        self,
        registration: RegistrationExtension,
        was_up: bool,
        refused: str,
        reason: CloseReason,
        now: float,
    ) -> None:
        """A mediation connection ended, or was never to be."""
        if registration is self._registration:
            self._registration = None
            self._reflexive = None
            self.calls.registration_lost()
        elif was_up:
            return  # an older one: the newer stands
        self._outputs.append(
            RegistrationLost(
                client=self.name,
                ike_id=registration.ike_id,
                reason=RegistrationLoss.NO_MEDIATOR if refused else RegistrationLoss.CLOSED,
                detail=refused or reason.value,
            )
        )

    def on_connect_message(self, message: Message, now: float) -> list[Payload]:
        """A decrypted ME_CONNECT request of the mediator; returns what it is answered."""
        return self.calls.on_connect_message(message, now)

    # -- Line ------------------------------------------------------------------------------------

    @property
    def own_id(self) -> Identification | None:
        """Our pseudonym, None while we are not registered."""
        return self._own_id if self._registration is not None else None

    def excluded(self) -> set[Address]:
        """Addresses to which a check would be nonsense: ourselves, and the mediator."""
        excluded = set(self._hosts)
        if self._registration is not None and self._registration.path is not None:
            excluded.add(self._registration.path.remote)
        return excluded

    def offers(self) -> tuple[LocalEndpoint, ...]:
        """What we offer to a peer, best first."""
        path = self._registration.path if self._registration is not None else None
        hosts = list(self._hosts)
        if path is None:
            return collect(hosts, self._mapped)
        base = resolve_base(path.local, hosts)
        if is_usable(base):
            # The address by which the mediator is reached is the one by which others are.
            hosts = [base, *(h for h in hosts if h != base)]
        seen = [(self._reflexive, base)] if self._reflexive is not None else []
        return collect(hosts, [*seen, *self._mapped])

    def request(
        self,
        content: ConnectMessage,
        on_response: Callable[[Message | None, float], None],
        now: float,
    ) -> None:
        """Send a ME_CONNECT request over the mediation connection."""
        assert self._ike is not None
        assert self._registration is not None
        self._ike.request(
            self._registration.ike_id,
            ExchangeType.ME_CONNECT,
            content.payloads(),
            on_response,
            now,
        )

    def _emit(self, output: ClientOutput) -> None:
        self._outputs.append(output)
