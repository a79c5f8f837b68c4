"""One mediation connection as seen by the client: an extension of its IKE SA (mediation.md §1).

It asks for mediation in IKE_SA_INIT, for the reflexive endpoint in IKE_AUTH and with every liveness
probe, hands ME_CONNECT to the client, and tells a server of our own kind (one that put an empty
N(HG_ACCEPTS) into IKE_SA_INIT) whom we accept. strongSwan is never sent that notify.

Where it offers additional key exchanges (RFC 9370), which a configuration does to servers of our
kind only, it says with N(HG_MEDIATION) that its mediation goes on after IKE_INTERMEDIATE: that of
strongSwan does not (mediation.md §5), and from the proposal alone a server could not tell who asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.ike.errors import ProtocolError
from agent.ike.extension import Extension
from agent.ike.states import FIRST
from agent.mediation.messages import (
    MAX_HASHES,
    accepts_changed,
    accepts_replaced,
    reflexive_answer,
    reflexive_question,
)
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.payloads import NotifyPayload, SaPayload

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.datagram import Address, Path
    from agent.ike.events import CloseReason
    from agent.ike.sa import IkeSa
    from agent.ike.table import Ike
    from agent.mediation.client import MediationClient
    from agent.wire.message import Message
    from agent.wire.payloads import Payload

MAX_HASHES_IN_AUTH = 32
"""IKE_AUTH also carries identities and a signature, and has to stay one datagram."""


class NoMediator(ProtocolError):
    """The server does not repeat N(ME_MEDIATION): it is no mediation server."""


class Announcement:
    """Brings what one server knows about whom we accept to what it should know."""

    __slots__ = ("_busy", "_request", "_told")

    def __init__(
        self, request: Callable[[list[Payload], Callable[[bool, float], None], float], None]
    ) -> None:
        self._request = request
        self._told: frozenset[bytes] = frozenset()
        self._busy = False

    def first(self, wanted: frozenset[bytes]) -> NotifyPayload:
        """For IKE_AUTH: as many as fit."""
        self._told = frozenset(sorted(wanted)[:MAX_HASHES_IN_AUTH])
        return accepts_replaced(sorted(self._told))

    def update(self, wanted: Callable[[], frozenset[bytes]], now: float) -> None:
        """Send the next difference, if there is one and none is on its way."""
        if self._busy:
            return
        current = wanted()
        added = sorted(current - self._told)[:MAX_HASHES]
        removed = sorted(self._told - current)[: MAX_HASHES - len(added)]
        payloads: list[Payload] = []
        if removed:
            payloads.append(accepts_changed(removed, added=False))
        if added:
            payloads.append(accepts_changed(added, added=True))
        if not payloads:
            return
        self._busy = True

        def on_response(answered: bool, at: float) -> None:
            self._busy = False
            if answered:
                self._told = (self._told | frozenset(added)) - frozenset(removed)
                self.update(wanted, at)

        self._request(payloads, on_response, now)


class RegistrationExtension(Extension):
    """See the module. Registered from `on_established` to `on_closed`."""

    __slots__ = (
        "_announcement",
        "_client",
        "_ike",
        "_is_up",
        "_refused",
        "ike_id",
        "is_ours",
        "path",
        "reflexive",
    )

    def __init__(self, client: MediationClient, ike: Ike) -> None:
        self._client = client
        self._ike = ike
        self.is_ours = False
        self._is_up = False
        self._refused = ""
        self._announcement = Announcement(self._inform)
        self.ike_id = 0
        self.path: Path | None = None
        self.reflexive: Address | None = None

    def announce(self, now: float) -> None:
        """What we accept may have changed."""
        if self._is_up and self.is_ours:
            self._announcement.update(lambda: self._client.accepted, now)

    def ask_reflexive(self, now: float, then: Callable[[float], None] | None = None) -> None:
        """Ask the server under which endpoint it sees us, then call `then`.

        strongSwan answers this with nothing.
        """
        self._inform([reflexive_question()], lambda _, at: then(at) if then else None, now)

    # -- hooks -----------------------------------------------------------------------------------

    def on_attach(self, sa: IkeSa) -> None:
        """See Extension."""
        self.ike_id = sa.ike_id

    def on_request_building(
        self, sa: IkeSa, exchange: ExchangeType | int, payloads: list[Payload]
    ) -> None:
        """See Extension."""
        match exchange:
            case ExchangeType.IKE_SA_INIT | ExchangeType.IKE_SESSION_RESUME:
                payloads.append(NotifyPayload(NotifyType.ME_MEDIATION))
                if any(p.additional for p in sa.proposals):
                    payloads.append(NotifyPayload(NotifyType.HG_MEDIATION))
            case ExchangeType.IKE_AUTH:
                # Asked always: whether we are behind NAT is not certain where encapsulation is
                # forced, and an answer that equals a host endpoint is redundant and dropped.
                payloads.append(reflexive_question())
                if self.is_ours:
                    payloads.append(self._announcement.first(self._client.accepted))
            case ExchangeType.INFORMATIONAL if not payloads and self.is_ours:
                payloads.append(reflexive_question())

    def on_response(
        self, sa: IkeSa, exchange: ExchangeType | int, message: Message, now: float
    ) -> None:
        """See Extension."""
        if exchange in FIRST:
            if exchange == ExchangeType.IKE_SA_INIT and message.first(SaPayload) is None:
                return
            if message.notify(NotifyType.ME_MEDIATION) is None:
                self._refused = "no mediation server"
                raise NoMediator(self._refused, notify=NotifyType.INVALID_SYNTAX)
            self._refused = ""  # whoever said so before was somebody else
            self.is_ours = message.notify(NotifyType.HG_ACCEPTS) is not None
        elif (seen := reflexive_answer(message)) is not None and seen.address is not None:
            self._note(sa, seen.address, now)

    def _note(self, sa: IkeSa, address: Address, now: float) -> None:
        self.path = sa.path
        self.reflexive = address
        self._client.on_reflexive(self, address, now)

    def claims_exchange(self, exchange: int) -> bool:
        """See Extension."""
        return exchange == ExchangeType.ME_CONNECT

    def handle_exchange(self, sa: IkeSa, message: Message, now: float) -> list[Payload]:
        """See Extension."""
        return self._client.on_connect_message(message, now)

    def on_established(self, sa: IkeSa, now: float) -> None:
        """See Extension."""
        self._is_up = True
        self.path = sa.path
        assert sa.peer is not None
        self._client.on_registered(self, sa.peer.local_id, now)
        self.announce(now)

    def on_path_changed(self, sa: IkeSa, path: Path, now: float) -> None:
        """See Extension."""
        self.path = path
        self.ask_reflexive(now)

    def on_closed(self, sa: IkeSa, reason: CloseReason, now: float) -> None:
        """See Extension."""
        was_up, self._is_up = self._is_up, False
        self._client.on_registration_closed(self, was_up, self._refused, reason, now)

    def _inform(
        self, payloads: list[Payload], then: Callable[[bool, float], None], now: float
    ) -> None:
        self._ike.request(
            self.ike_id,
            ExchangeType.INFORMATIONAL,
            payloads,
            lambda message, at: then(message is not None, at),
            now,
        )
