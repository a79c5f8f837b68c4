"""What ties a mediated IKE SA to its attempt: N(ME_CONNECTID) in IKE_SA_INIT (mediation.md §4).

The connect ID is readable in every check and IKE_SA_INIT is not authenticated, so what it causes at
the responder is undone if IKE_AUTH fails: the checks pause, they do not end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.ike.events import CloseReason
from agent.ike.extension import Extension
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.mediation import MAX_CONNECT_ID, MIN_CONNECT_ID
from agent.wire.payloads import NotifyPayload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agent.ike.sa import IkeSa
    from agent.mediation.client import MediationClient
    from agent.wire.message import Message
    from agent.wire.payloads import Identification, Payload

_LONGEST_RTT = 0.15
"""Of a check it is not known which repetition was answered: never worse than not to know at all."""

_BY_US = (CloseReason.DELETED, CloseReason.ABORTED, CloseReason.REPLACED)


class ConnectIdExtension(Extension):
    """On both sides of a mediated IKE SA; in `Pad.find_peer` the context holds it.

    `client` is None if the connect ID of an IKE_SA_INIT names no attempt of ours.
    """

    __slots__ = ("_is_up", "_rtt", "client", "connect_id", "is_initiator")

    def __init__(
        self,
        client: MediationClient | None,
        connect_id: bytes,
        *,
        is_initiator: bool,
        rtt: float = 0.0,
    ) -> None:
        self.client = client
        self.connect_id = connect_id
        self.is_initiator = is_initiator
        self._is_up = False
        self._rtt = min(rtt, _LONGEST_RTT)

    def on_attach(self, sa: IkeSa) -> None:
        """IKE need not guess how soon to repeat a lost IKE_SA_INIT: the checks have measured it."""
        if self._rtt and not sa.rtt:
            sa.rtt = self._rtt

    @property
    def expected(self) -> Identification | None:
        """The pseudonym behind the connect ID, if its attempt is still running."""
        return self.client.expected(self.connect_id) if self.client is not None else None

    def on_request_building(
        self, sa: IkeSa, exchange: ExchangeType | int, payloads: list[Payload]
    ) -> None:
        """Also when IKE_SA_INIT is repeated with a COOKIE or another KE."""
        if self.is_initiator and exchange == ExchangeType.IKE_SA_INIT:
            payloads.append(NotifyPayload(NotifyType.ME_CONNECTID, self.connect_id))

    def on_request(self, sa: IkeSa, message: Message, payloads: list[Payload], now: float) -> None:
        """The responder stops its checks for as long as the handshake runs."""
        if self.client is not None and message.header.exchange == ExchangeType.IKE_SA_INIT:
            self.client.handshake_began(self.connect_id, now)

    def on_established(self, sa: IkeSa, now: float) -> None:
        """The attempt has reached its end."""
        self._is_up = True
        if self.client is not None:
            self.client.authenticated(self.connect_id, now)
            self.client = None

    def on_closed(self, sa: IkeSa, reason: CloseReason, now: float) -> None:
        """Before it was up: the next path, or the checks go on."""
        if self._is_up or self.client is None:
            return
        if not self.is_initiator:
            self.client.handshake_failed(self.connect_id, now)
        elif reason in _BY_US:
            self.client.abandon(self.connect_id)
        else:
            self.client.path_failed(self.connect_id, now)


def responder_factory(
    clients: Callable[[], Iterable[MediationClient]],
) -> Callable[[IkeSa, Message | None], Extension | None]:
    """For `Ike(responder_extensions=…)`: takes N(ME_CONNECTID) out of an IKE_SA_INIT."""

    def factory(sa: IkeSa, request: Message | None) -> Extension | None:
        notify = request.notify(NotifyType.ME_CONNECTID) if request is not None else None
        if notify is None or not MIN_CONNECT_ID <= len(notify.data) <= MAX_CONNECT_ID:
            return None
        connect_id = notify.data
        client = next((c for c in clients() if c.answers(connect_id)), None)
        return ConnectIdExtension(client, connect_id, is_initiator=False)

    return factory
