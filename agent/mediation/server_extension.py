"""One mediation connection at the server, as an extension of its IKE SA (mediation.md §1, §5).

It is all that is kept for a peer; what few peers need is allocated when they need it. What several
peers have to do with each other is decided in `server`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.ike import redirect
from agent.ike.errors import NoAdditionalSas
from agent.ike.events import CloseReason
from agent.ike.extension import Extension
from agent.ike.half_open import network_of
from agent.mediation.messages import apply_accepts, is_reflexive_question
from agent.wire.codes import EndpointType, ExchangeType, NotifyType
from agent.wire.mediation import MeEndpoint
from agent.wire.payloads import NotifyPayload, SaPayload

if TYPE_CHECKING:
    from agent.ike.sa import IkeSa
    from agent.mediation.budget import Bucket
    from agent.mediation.server import MediationServer
    from agent.wire.message import Message
    from agent.wire.payloads import Identification, Payload

Key = tuple[int, bytes]
"""Of an identity: type and octets."""


class ServerExtension(Extension):
    """A mediation connection at the server; also what stands in the table of those online.

    `takes_additional`: it said N(HG_MEDIATION), so there may be additional key exchanges.
    """

    __slots__ = (
        "_server",
        "accepts",
        "bucket",
        "identity",
        "ike_id",
        "network",
        "questions",
        "takes_additional",
        "waits_for",
    )

    def __init__(self, server: MediationServer, *, takes_additional: bool = False) -> None:
        self._server = server
        self.takes_additional = takes_additional
        self.ike_id = 0
        self.network = b""  # the /24 or /64 it came from, while it counts there
        self.identity: Identification | None = None  # set once it is registered
        self.accepts: frozenset[bytes] | None = None  # None: the peer never said
        self.bucket: Bucket | None = None
        self.questions: dict[bytes, tuple[Key, float]] | None = None  # relayed to it: c → caller
        self.waits_for: dict[Key, float] | None = None  # whom it asked to be called back for

    def on_attach(self, sa: IkeSa) -> None:
        """See Extension."""
        self.ike_id = sa.ike_id

    def on_request(self, sa: IkeSa, message: Message, payloads: list[Payload], now: float) -> None:
        """See Extension."""
        match message.header.exchange:
            case ExchangeType.IKE_SA_INIT | ExchangeType.IKE_SESSION_RESUME:
                payloads.append(NotifyPayload(NotifyType.ME_MEDIATION))
                payloads.append(NotifyPayload(NotifyType.HG_ACCEPTS))  # "I am of your kind"
                return
            case ExchangeType.IKE_AUTH if message.first(SaPayload) is not None:
                raise NoAdditionalSas("a mediation connection has no Child SA")
            case ExchangeType.IKE_AUTH if not self._server.has_room_for(sa):
                raise NoAdditionalSas("there are too many registrations")
            case ExchangeType.IKE_AUTH | ExchangeType.INFORMATIONAL:
                if is_reflexive_question(message):
                    seen = MeEndpoint.of(EndpointType.SERVER_REFLEXIVE, sa.path.remote)
                    payloads.append(NotifyPayload(NotifyType.ME_ENDPOINT, seen.encode()))
                self._take_accepts(message, now)

    def _take_accepts(self, message: Message, now: float) -> None:
        notifies = message.notifies(NotifyType.HG_ACCEPTS)
        for notify in notifies:
            before = len(self.accepts or ())
            limit = self._server.accepts_limit(before)
            self.accepts = apply_accepts(self.accepts, notify.data, limit)
            self._server.accepted += len(self.accepts or ()) - before
        if notifies and self.identity is not None:
            self._server.on_accepts_changed(self, now)

    def claims_exchange(self, exchange: int) -> bool:
        """See Extension."""
        return exchange == ExchangeType.ME_CONNECT

    def handle_exchange(self, sa: IkeSa, message: Message, now: float) -> list[Payload]:
        """See Extension."""
        return self._server.on_connect_message(self, message, now)

    def on_established(self, sa: IkeSa, now: float) -> None:
        """See Extension."""
        assert sa.remote_id is not None
        if redirect.leaves(sa):
            return
        self._server.register(self, sa.remote_id, now, network_of(sa.path.remote))

    def on_closed(self, sa: IkeSa, reason: CloseReason, now: float) -> None:
        """See Extension."""
        self._server.accepted -= len(self.accepts or ())
        self.accepts = None
        if self._server.drain is not None:
            by_peer = reason is CloseReason.BY_PEER
            self._server.drain.gone(self.ike_id, by_peer=by_peer)
        self._server.unregister(self, now)
