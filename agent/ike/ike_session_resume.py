"""IKE_SESSION_RESUME, both sides: RFC 5723 §4.3.2, §5.1. In the place of IKE_SA_INIT.

    HDR, [N(COOKIE),] Ni, N(TICKET_OPAQUE) [,N+]  -->
                                            <--   HDR, Nr [,N+]      or  HDR, N(TICKET_NACK)

No key exchange and no signature: the keys come of the SK_d of the old SA and both nonces, and
IKE_AUTH proves that both sides know it. Nothing here is authenticated. As initiator, whatever is
not an acceptance leads to IKE_SA_INIT on the spot, and so does silence, before long: a forged
refusal costs a handshake and nothing else. As responder all is as with IKE_SA_INIT: nothing is kept
before the ticket has opened (and brings a COOKIE, when there are many half-open), the bounds are
the same ones, and no answer is much longer than its request. Who replays a request gets at most
half-open SAs that it cannot use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.crypto.keymat import resumed_skeyseed
from agent.datagram import Path
from agent.ike import handshake, ike_auth, ike_sa_init, redirect
from agent.ike.errors import Ignored, InvalidSyntax, ProtocolError
from agent.ike.exchange import Task
from agent.ike.handshake import Handshake, derive
from agent.ike.negotiation import NONCE_LENGTH
from agent.ike.resumption import resumption_of
from agent.ike.rules import check, error_of, nonce_of
from agent.ike.states import IkeState, When
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.errors import UnsupportedCriticalPayload
from agent.wire.message import NO_SPI, decode_message, encode_message
from agent.wire.payloads import NoncePayload, NotifyPayload
from agent.wire.ticket import decode_presented, encode_presented

if TYPE_CHECKING:
    from agent.ike.resumption import StoredTicket
    from agent.ike.sa import IkeSa
    from agent.ike.table import Ike
    from agent.ike.tickets import Tickets
    from agent.wire.message import Header, Message
    from agent.wire.payloads import Payload

# Without an answer for so long, IKE_SA_INIT is tried: four sendings at the usual intervals. Who
# does not know the exchange (any more) drops it.
SILENCE_SECONDS: Final = 3.2


# -- initiator -----------------------------------------------------------------------------------


class SessionResume(Task):
    """The first request with a ticket; built again with a COOKIE."""

    __slots__ = ("_ticket",)
    exchange = ExchangeType.IKE_SESSION_RESUME

    def __init__(self, ticket: bytes) -> None:
        self._ticket = ticket

    def build(self, sa: IkeSa, now: float) -> list[Payload]:
        """See Task."""
        hs = sa.handshake
        assert hs is not None
        first = [NotifyPayload(NotifyType.COOKIE, hs.cookie)] if hs.cookie else []
        return [*first, NoncePayload(hs.own_nonce), encode_presented(self._ticket)]


def start(sa: IkeSa, now: float) -> bool:
    """Send the first request of a new initiator SA, if there is a ticket; whether there was."""
    resumption = resumption_of(sa)
    stored = resumption.present(sa, now) if resumption is not None else None
    if stored is None:
        return False
    sa.timers.set(When.ATTEMPT, now + sa.table.settings.give_up)
    sa.timers.set(When.FALL_BACK, now + SILENCE_SECONDS)
    _present(sa, stored, now)
    return True


def _present(sa: IkeSa, stored: StoredTicket, now: float) -> None:
    hs = handshake.begin(sa)
    hs.own_nonce = sa.table.random(NONCE_LENGTH)
    hs.resumes = stored.resumes
    sa.submit(SessionResume(stored.ticket), now)
    hs.own_message = sa.outgoing.data[0]


def on_silence(sa: IkeSa, now: float) -> None:
    """Nobody answers: try IKE_SA_INIT for as long, then it is the ticket's turn for the rest.

    Who answers neither is away, and is not to find us in a handshake when it is back.
    """
    assert sa.handshake is not None
    resumption = resumption_of(sa)
    assert resumption is not None
    if sa.handshake.resumes is not None:
        _begin_anew(sa, now)
        sa.timers.set(When.FALL_BACK, now + SILENCE_SECONDS)
    elif resumption.presented is not None:
        _clear(sa)
        _present(sa, resumption.presented, now)


def _begin_anew(sa: IkeSa, now: float) -> None:
    """With IKE_SA_INIT, within the time that the attempt has left."""
    _clear(sa)
    left = sa.timers.deadline(When.ATTEMPT)
    ike_sa_init.start(sa, now)
    if left is not None:
        sa.timers.set(When.ATTEMPT, left)


def _clear(sa: IkeSa) -> None:
    sa.timers.stop(When.RETRANSMIT)
    sa.outgoing.clear()


def on_response(sa: IkeSa, path: Path, header: Header, data: bytes, now: float) -> None:
    """Something that claims to answer our first request. Raises Ignored if it is no use."""
    if header.message_id != 0:
        raise Ignored("message_id")
    try:
        message = decode_message(data, header)
    except UnsupportedCriticalPayload:
        raise Ignored("unsupported_critical_payload") from None
    if ike_sa_init.follows_cookie(sa, message, now) or redirect.on_unproven(sa, message):
        return
    if message.notify(NotifyType.TICKET_NACK) is not None or error_of(message) is not None:
        resumption = resumption_of(sa)
        assert resumption is not None
        resumption.presented = None
        sa.timers.stop(When.FALL_BACK)
        _begin_anew(sa, now)
        return
    try:
        check(message)
        _on_acceptance(sa, path, message, now)
    except ProtocolError:
        raise Ignored("invalid_response") from None
    ike_sa_init.answered(sa, message, data, now)
    sa.submit(ike_auth.IkeAuth(), now)


def _on_acceptance(sa: IkeSa, path: Path, message: Message, now: float) -> None:
    """A response that carries a nonce. Raises ProtocolError."""
    hs = sa.handshake
    assert hs is not None
    old = hs.resumes
    assert old is not None
    if message.header.responder_spi == NO_SPI:
        raise InvalidSyntax("no responder SPI")
    # The kernel knows by now which of our addresses is used.
    sa.path = Path(path.local, sa.path.remote)
    sa.suite = old.suite
    for extension in sa.extensions:
        extension.on_response(sa, ExchangeType.IKE_SESSION_RESUME, message, now)
    sa.remote_spi = message.header.responder_spi
    ni, nr = hs.own_nonce, nonce_of(message)
    derive(sa, old.suite, resumed_skeyseed(old.suite.prf, old.sk_d, ni, nr), ni, nr)


# -- responder -----------------------------------------------------------------------------------
# `crypto.ticket` and `tickets` are imported here: only a mediation server has any.


def on_request(
    table: Ike, tickets: Tickets, path: Path, header: Header, data: bytes, now: float
) -> None:
    """A first request. Raises Ignored or WireError where it is dropped without an answer."""
    from agent.crypto.ticket import InvalidTicket

    message = ike_sa_init.first_request(table, path, header, data, now)
    if message is None:
        return
    ticket = decode_presented(message)
    if not ike_sa_init.admits(table, path, message, data, now):
        return
    try:
        _accept(table, tickets, path, message, ticket, data, now)
    except InvalidTicket:
        ike_sa_init.answer(table, path, data, header, NotifyType.TICKET_NACK, b"", now)
    except InvalidSyntax:
        raise Ignored("invalid_syntax") from None
    except ProtocolError as error:
        ike_sa_init.answer(table, path, data, header, error.notify, error.data, now)


def _accept(
    table: Ike,
    tickets: Tickets,
    path: Path,
    message: Message,
    ticket: bytes,
    data: bytes,
    now: float,
) -> None:
    """Make a half-open SA and answer. Raises InvalidTicket, ProtocolError, Ignored."""
    from agent.crypto.ticket import InvalidTicket, tag_of
    from agent.ike.tickets import resumed_by

    state = tickets.open(ticket, now)
    sa = table.new_sa(IkeState.HALF_OPEN, path, is_initiator=False, started_by_us=False)
    sa.remote_spi = message.header.initiator_spi
    hs = sa.handshake = Handshake()
    hs.peer_nonce = nonce_of(message)
    hs.peer_message = data
    try:
        table.attachment.answer(sa, message)
        old = hs.resumes = resumed_by(sa, state, tag_of(ticket))
        sa.suite = old.suite
        payloads = _response(sa, message, now)
        own = encode_message(sa.header(message.header.exchange, 0, is_response=True), payloads)
        if len(own) > ike_sa_init.MAX_AMPLIFICATION * len(data):
            raise Ignored("amplification")
    except (ProtocolError, Ignored, InvalidTicket):
        table.forget(sa)
        raise
    ni, nr = hs.peer_nonce, hs.own_nonce
    derive(sa, old.suite, resumed_skeyseed(old.suite.prf, old.sk_d, ni, nr), ni, nr)
    hs.own_message = own
    sa.incoming.answered(hash(data), ((own,), None))
    table.keep_half_open(sa, path.remote, data, now)
    sa.transmit(path, (own,))


def _response(sa: IkeSa, message: Message, now: float) -> list[Payload]:
    hs = sa.handshake
    assert hs is not None
    assert sa.suite is not None
    hs.own_nonce = ike_sa_init.responder_nonce(sa.table, sa.suite, hs.peer_nonce)
    payloads: list[Payload] = [NoncePayload(hs.own_nonce)]
    for extension in sa.extensions:
        extension.on_request(sa, message, payloads, now)
    if sa.table.settings.announce_childless:
        payloads.append(NotifyPayload(NotifyType.CHILDLESS_IKEV2_SUPPORTED))
    return payloads
