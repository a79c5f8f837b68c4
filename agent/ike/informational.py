"""INFORMATIONAL: deletes, probes, and whatever extensions put into it.

RFC 7296 §1.4, §1.4.1, §2.25. Left out: configuration payloads (a CFG_REQUEST is answered empty),
INVALID_SPI and the like sent as requests (data that nobody acts on), half-closed Child SAs (where
both sides delete at once, the inbound half goes with the outbound one and not a round trip later).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.ike import succession
from agent.ike.child import child_by_spi_out, owns, remove_child, replaced
from agent.ike.errors import InvalidSyntax
from agent.ike.events import CloseReason
from agent.ike.exchange import Task, Topic
from agent.ike.rules import error_of
from agent.ike.states import IkeState
from agent.wire.codes import ExchangeType, NotifyType, ProtocolId
from agent.wire.payloads import DeletePayload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.ike.child import ChildSa
    from agent.ike.sa import IkeSa, Reply
    from agent.wire.message import Message
    from agent.wire.payloads import Payload

# The message ID of the request that can follow IKE_AUTH at once (§2.21.2), if no further key
# exchanges were before that.
_AFTER_AUTH: Final = 2
# The only errors that end an IKE SA by themselves, in IKE_AUTH or right after it (§2.21.2).
ENDS_IKE_AUTH: Final = frozenset(
    {
        NotifyType.AUTHENTICATION_FAILED,
        NotifyType.INVALID_SYNTAX,
        NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD,
    }
)


class Request(Task):
    """A request of somebody else (mediation, enrolment), of any exchange type."""

    __slots__ = ("_on_response", "_payloads", "exchange")
    portable = True

    def __init__(
        self,
        exchange: int,
        payloads: Sequence[Payload],
        on_response: Callable[[Message | None, float], None],
    ) -> None:
        self.exchange = exchange
        self._payloads = payloads
        self._on_response = on_response

    def build(self, sa: IkeSa, now: float) -> list[Payload]:
        """See Task."""
        return list(self._payloads)

    def on_response(self, sa: IkeSa, message: Message, now: float) -> None:
        """See Task."""
        for extension in sa.extensions:
            extension.on_response(sa, self.exchange, message, now)
        self._on_response(message, now)
        end_if_fatal(sa, message, now)

    def on_lost(self, sa: IkeSa, now: float) -> None:
        """See Task."""
        self._on_response(None, now)


def end_if_fatal(sa: IkeSa, message: Message, now: float) -> None:
    """INVALID_SYNTAX ends the IKE SA on both sides (§2.21.3), in the exchanges of the RFC."""
    if (
        message.header.exchange in (ExchangeType.INFORMATIONAL, ExchangeType.CREATE_CHILD_SA)
        and message.notify(NotifyType.INVALID_SYNTAX) is not None
    ):
        sa.close(CloseReason.PROTOCOL_ERROR, "the peer answered INVALID_SYNTAX", now)


class Probe(Task):
    """An empty request; any answer will do."""

    __slots__ = ()
    exchange = ExchangeType.INFORMATIONAL

    def build(self, sa: IkeSa, now: float) -> list[Payload]:
        """See Task."""
        return []

    def on_response(self, sa: IkeSa, message: Message, now: float) -> None:
        """See Task."""
        for extension in sa.extensions:
            extension.on_response(sa, self.exchange, message, now)
        end_if_fatal(sa, message, now)


def check_liveness(sa: IkeSa, now: float) -> None:
    """Probe, unless a request is on its way anyway."""
    if sa.outgoing.task is None and sa.state is IkeState.ESTABLISHED:
        sa.submit(Probe(), now)


class DeleteIke(Task):
    """Delete of the IKE SA; the last request on it."""

    __slots__ = ()
    exchange = ExchangeType.INFORMATIONAL
    is_last = True

    def build(self, sa: IkeSa, now: float) -> list[Payload]:
        """See Task."""
        return [DeletePayload(ProtocolId.IKE)]

    def on_response(self, sa: IkeSa, message: Message, now: float) -> None:
        """See Task."""
        sa.close(CloseReason.DELETED, "", now)


class Refusal(Task):
    """Tells a responder that its proof does not convince us (§2.21.2); nothing follows."""

    __slots__ = ("_payload",)
    exchange = ExchangeType.INFORMATIONAL
    is_last = True

    def __init__(self, payload: Payload) -> None:
        self._payload = payload

    def build(self, sa: IkeSa, now: float) -> list[Payload]:
        """See Task."""
        return [self._payload]

    def on_response(self, sa: IkeSa, message: Message, now: float) -> None:
        """See Task."""
        sa.close(CloseReason.AUTHENTICATION_FAILED, "", now)


class DeleteChild(Task):
    """Delete of one Child SA: ours in the request, the peer's half in the response."""

    __slots__ = ("_detail", "_reason", "child")
    exchange = ExchangeType.INFORMATIONAL
    topic = Topic.CHILD

    def __init__(self, child: ChildSa, reason: CloseReason, detail: str = "") -> None:
        self.child = child
        self._reason = reason
        self._detail = detail

    def build(self, sa: IkeSa, now: float) -> list[Payload] | None:
        """See Task."""
        child = self.child
        if not owns(sa, child) or child.is_closing:
            return None
        if child.settles_at is not None and now < child.settles_at:
            child.farewell = (self._reason, self._detail)
            child.expire_at = child.settles_at
            return None
        self.child.is_closing = True
        return [DeletePayload(ProtocolId.ESP, (self.child.spi_in,))]

    def on_response(self, sa: IkeSa, message: Message, now: float) -> None:
        """See Task. The answer may lack the other half: then the peer closes it too (§2.25.1)."""
        remove_child(sa, self.child, self._reason, self._detail)
        end_if_fatal(sa, message, now)


def deletes_ike(message: Message) -> bool:
    """Whether the request deletes the IKE SA that carries it.

    Raises InvalidSyntax for one with SPIs: that says which SA is meant, and §3.11 allows none.
    """
    deletes = [d for d in message.all(DeletePayload) if d.protocol == ProtocolId.IKE]
    if any(d.spis for d in deletes):
        raise InvalidSyntax("a Delete of an IKE SA has no SPIs")
    return bool(deletes)


def on_request(sa: IkeSa, message: Message, now: float) -> Reply:
    """Answer an INFORMATIONAL request."""
    if deletes_ike(message):
        return [], lambda: _on_delete_ike(sa, now)
    error = error_of(message)
    if (
        error is not None
        and error.type in ENDS_IKE_AUTH
        and message.header.message_id == _AFTER_AUTH + _rounds(sa)
        and not sa.is_initiator
    ):
        return [], lambda: _on_refusal(sa, error.type, now)
    payloads: list[Payload] = []
    spis = _delete_children(sa, message, now)
    if spis:
        payloads.append(DeletePayload(ProtocolId.ESP, spis))
    for extension in sa.extensions:
        extension.on_request(sa, message, payloads, now)
    return payloads, None


def _on_refusal(sa: IkeSa, notify: int, now: float) -> None:
    if notify == NotifyType.AUTHENTICATION_FAILED:
        detail = "the peer does not accept our proof"
        sa.close(CloseReason.AUTHENTICATION_FAILED, detail, now)
    else:
        sa.close(CloseReason.PROTOCOL_ERROR, "the peer could not read our answer", now)


def _rounds(sa: IkeSa) -> int:
    """IKE_INTERMEDIATE exchanges that came before IKE_AUTH (RFC 9370)."""
    return len(sa.suite.additional) if sa.suite is not None else 0


def _on_delete_ike(sa: IkeSa, now: float) -> None:
    """The answer is on its way. §2.25.2: forget our own rekeying or closing."""
    if sa.collision is not None and sa.state is IkeState.ESTABLISHED:
        # The peer's rekeying is done and it never saw ours (§2.8.2).
        succession.adopt_spare(sa, now)
    sa.close(CloseReason.BY_PEER, "", now)


def _delete_children(sa: IkeSa, message: Message, now: float) -> tuple[bytes, ...]:
    """Remove what the peer deletes; returns our SPIs of these, but not of those that we close."""
    ours: list[bytes] = []
    for payload in message.all(DeletePayload):
        if payload.protocol != ProtocolId.ESP:
            continue
        for spi in payload.spis:
            child = child_by_spi_out(sa, spi)
            if child is None:
                continue
            if not child.is_closing:
                ours.append(child.spi_in)
            if child.replaced_by is not None:
                # Its rekeying is done, and it never saw ours (§2.8.1, second case).
                replaced(sa, child, child.replaced_by, now)
            remove_child(sa, child, CloseReason.BY_PEER)
    return tuple(ours)
