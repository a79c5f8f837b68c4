"""What happens to each message of a known IKE SA: windows, keys, rules, then its exchange.

RFC 7296 §2.1 to §2.3, §2.21. The order is the point: message ID before decryption, integrity before
anything is believed, the table of payloads before an exchange looks. Raises `Ignored` or
`WireError` for what is dropped unanswered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.ike import (
    create_child_sa,
    followup,
    fragmentation,
    ike_auth,
    ike_sa_init,
    ike_session_resume,
    informational,
    intermediate,
    retransmission,
    succession,
)
from agent.ike.errors import Ignored, InvalidSyntax, ProtocolError, UnsupportedCritical
from agent.ike.events import CloseReason
from agent.ike.exchange import smoothed
from agent.ike.fragmentation import Opened
from agent.ike.rules import check
from agent.ike.states import ACCEPTS, MINE, STANDARD, IkeState, When
from agent.wire.codes import ExchangeType, PayloadType
from agent.wire.errors import UnsupportedCriticalPayload, WireError
from agent.wire.message import Message, decode_message, decode_payloads
from agent.wire.payloads import Encrypted, EncryptedFragment, NotifyPayload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.datagram import Path
    from agent.ike.exchange import Task
    from agent.ike.sa import IkeSa, Reply
    from agent.wire.message import Header
    from agent.wire.payloads import Payload


def receive(sa: IkeSa, path: Path, header: Header, data: bytes, now: float) -> None:
    """A message with our SPI. Raises Ignored or WireError if it is not accepted."""
    if header.is_initiator == sa.is_initiator:
        raise Ignored("reflected")
    theirs = header.initiator_spi if header.is_initiator else header.responder_spi
    if sa.state is IkeState.INIT_SENT:
        task = sa.outgoing.task
        if not header.is_response or task is None or header.exchange != task.exchange:
            raise Ignored("state")
        resumes = header.exchange == ExchangeType.IKE_SESSION_RESUME
        exchange = ike_session_resume if resumes else ike_sa_init
        exchange.on_response(sa, path, header, data, now)
        return
    if theirs != sa.remote_spi:
        raise Ignored("unknown_spi")
    if header.is_response:
        _receive_response(sa, path, header, data, now)
    else:
        _receive_request(sa, path, header, data, now)


def _receive_response(sa: IkeSa, path: Path, header: Header, data: bytes, now: float) -> None:
    task = sa.outgoing.task
    if task is None or header.message_id != sa.outgoing.next_id:
        raise Ignored("unsolicited")
    if header.exchange != task.exchange:
        raise Ignored("wrong_exchange")
    opened = _open(sa, header, data, now)
    if opened is None:
        return
    if header.exchange == ExchangeType.IKE_INTERMEDIATE:
        intermediate.received(sa, header, opened)
    rtt = sa.outgoing.finish(now)
    if rtt is not None:
        sa.rtt = smoothed(sa.rtt, rtt)
    sa.timers.stop(When.RETRANSMIT)
    sa.heard(path, now)
    try:
        message = _parse(header, opened)
        check(message)
        task.on_response(sa, message, now)
    except ProtocolError as error:
        _response_failed(sa, task, error, now)
    if sa.state is not IkeState.CLOSED:
        sa.send_next(now)


def _response_failed(sa: IkeSa, task: Task, error: ProtocolError, now: float) -> None:
    """A proven response that makes no sense: the two sides do not agree (RFC 7296 §2.21.3)."""
    task.on_lost(sa, now)
    if isinstance(task, intermediate.IkeIntermediate):
        # Nobody is established there yet, so there is nobody to tell (RFC 9242 §3.4).
        sa.close(CloseReason.PROTOCOL_ERROR, str(error), now)
    elif sa.state is IkeState.AUTH_SENT:
        ike_auth.give_up(sa, error, now)
    elif sa.state in (IkeState.ESTABLISHED, IkeState.SPARE):
        sa.delete(CloseReason.PROTOCOL_ERROR, str(error), now)
    elif sa.state is not IkeState.CLOSED:
        sa.close(CloseReason.PROTOCOL_ERROR, str(error), now)


def _receive_request(sa: IkeSa, path: Path, header: Header, data: bytes, now: float) -> None:
    if _repeats(sa, header, data):
        retransmission.answer_again(sa, path)
        return
    if header.message_id != sa.incoming.next_id:
        raise Ignored("message_id")
    exchange = header.exchange
    if (exchange if exchange in STANDARD else MINE) not in ACCEPTS[sa.state]:
        raise Ignored("state")
    if exchange == ExchangeType.IKE_INTERMEDIATE and not intermediate.is_due(sa):
        raise Ignored("state")
    opened = _open(sa, header, data, now)
    if opened is None:
        return
    sa.heard(path, now)
    if exchange == ExchangeType.IKE_INTERMEDIATE:
        intermediate.received(sa, header, opened)
    for child in (sa.children or {}).values():
        child.settles_at = None
    then: Callable[[], None] | None = None
    fatal: ProtocolError | None = None
    try:
        message = _parse(header, opened)
        check(message)
        payloads, then = _handle(sa, message, now)
    except ProtocolError as error:
        payloads = [answer_to(error)]
        if sa.state is IkeState.HALF_OPEN or error.fatal:
            fatal = error
    _respond(sa, path, header, opened, payloads)
    if fatal is not None:
        _request_failed(sa, fatal, now)
    if then is not None:
        then()
    if sa.state is IkeState.CLOSED and sa.has_proven_peer:
        sa.table.farewells.keep(sa.local_spi, sa.incoming, path, now)


def _handle(sa: IkeSa, message: Message, now: float) -> Reply:
    if sa.state is IkeState.SPARE and not informational.deletes_ike(message):
        # The peer uses it, so for the peer the collision of two rekeyings is decided.
        rival = sa.table.sa(sa.ike_id)
        if rival is not None and rival.collision is not None:
            succession.adopt_spare(rival, now)
    match message.header.exchange:
        case ExchangeType.IKE_INTERMEDIATE:
            return intermediate.on_request(sa, message, now)
        case ExchangeType.IKE_AUTH:
            return ike_auth.on_request(sa, message, now)
        case ExchangeType.CREATE_CHILD_SA:
            return create_child_sa.on_request(sa, message, now)
        case ExchangeType.IKE_FOLLOWUP_KE:
            return followup.on_request(sa, message, now)
        case ExchangeType.INFORMATIONAL:
            return informational.on_request(sa, message, now)
    for extension in sa.extensions:
        if extension.claims_exchange(message.header.exchange):
            return extension.handle_exchange(sa, message, now), None
    raise InvalidSyntax("unknown exchange type")


def _respond(
    sa: IkeSa, path: Path, header: Header, request: Opened, payloads: Sequence[Payload]
) -> None:
    answer = sa.header(header.exchange, header.message_id, is_response=True)
    sealed = sa.seal(answer, payloads)
    # Keys are no proof, and the source of what they protect is not one either.
    allowed = ike_sa_init.MAX_AMPLIFICATION * request.octets
    if not sa.has_proven_peer and sum(map(len, sealed[0])) > allowed:
        raise Ignored("amplification")
    sa.incoming.answered(request.fingerprint, sealed)
    sa.transmit(path, sealed[0])


def _request_failed(sa: IkeSa, error: ProtocolError, now: float) -> None:
    """After the answer to a request that ends the SA: no Delete follows (§2.21.3)."""
    if sa.state is IkeState.HALF_OPEN:
        sa.refuse(error, now)
    elif sa.state is not IkeState.CLOSED:
        sa.close(CloseReason.PROTOCOL_ERROR, str(error), now)


def _repeats(sa: IkeSa, header: Header, data: bytes) -> bool:
    """Whether the last request came again; its octets may differ if it was cut into fragments."""
    if sa.incoming.repeats(header.message_id, data):
        return True
    if header.message_id != sa.incoming.next_id - 1 or header.next_payload != PayloadType.SKF:
        return False
    return fragmentation.repeats(sa, decode_message(data, header), data)


def _open(sa: IkeSa, header: Header, data: bytes, now: float) -> Opened | None:
    """The inner octets, proven; None while fragments are missing."""
    message = decode_message(data, header)
    if message.first(EncryptedFragment) is not None:
        return fragmentation.accept(sa, message, data, now)
    encrypted = message.first(Encrypted)
    if encrypted is None or sa.protection is None:
        raise Ignored("not_encrypted")
    inner = sa.protection.open(encrypted)
    return Opened(encrypted.first_inner, inner, encrypted.aad, hash(data), len(data))


def _parse(header: Header, opened: Opened) -> Message:
    try:
        return Message(header, decode_payloads(opened.first_inner, opened.inner))
    except UnsupportedCriticalPayload as error:
        data = bytes((error.payload_type,))
        raise UnsupportedCritical("critical payload", data=data) from None
    except WireError as error:
        raise InvalidSyntax(error.reason) from None


def answer_to(error: ProtocolError) -> NotifyPayload:
    """The notify that says `error`."""
    return NotifyPayload(type=error.notify, data=error.data, protocol=error.protocol, spi=error.spi)
