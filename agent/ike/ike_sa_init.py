"""IKE_SA_INIT, both sides: RFC 7296 §1.2, §2.6 (COOKIE), §2.7, §2.14, §2.21.1; RFC 7427, 8420.

Nothing here is authenticated. As initiator, an error only shortens the time that an attempt has
for a better answer; COOKIE and INVALID_KE_PAYLOAD are followed, a bounded number of times. As
responder, nothing is kept before the request is acceptable (and brings a COOKIE, when there are
many), and no answer is much longer than its request.

A little longer than the soft limit, as one exchange is one file here: what one side sends is what
the other one checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.crypto.keymat import skeyseed
from agent.crypto.signatures import ANNOUNCEMENT, decode_announcement
from agent.datagram import Path, Transmit
from agent.ike import certificates, handshake, intermediate, proof, redirect
from agent.ike.errors import (
    Ignored,
    InvalidKePayload,
    InvalidSyntax,
    ProtocolError,
    reason_for,
)
from agent.ike.events import CloseReason
from agent.ike.exchange import Task
from agent.ike.handshake import NO_ANSWER, Handshake, derive
from agent.ike.negotiation import (
    NONCE_LENGTH,
    confirmed,
    exchange_keys,
    first_group,
    groups_of,
    numbered,
    select,
    shared_with,
    usable,
    without_additional,
)
from agent.ike.rules import check, error_of, nonce_of
from agent.ike.states import IkeState, Step, When
from agent.wire.codes import ExchangeType, NotifyType, ProtocolId
from agent.wire.errors import UnsupportedCriticalPayload
from agent.wire.message import NO_SPI, Header, decode_message, encode_message
from agent.wire.payloads import KePayload, NoncePayload, NotifyPayload, SaPayload

if TYPE_CHECKING:
    from agent.crypto.kex import KeyExchange
    from agent.ike.sa import IkeSa
    from agent.ike.suite import Suite
    from agent.ike.table import Ike
    from agent.wire.message import Message
    from agent.wire.payloads import Payload
    from agent.wire.proposals import Proposal

# How often a request is repeated with a COOKIE: once is normal, twice when the secret rotates.
MAX_COOKIE_ROUNDS: Final = 3
# RFC 7296 §2.6: a cookie is 1 to 64 octets.
MAX_COOKIE: Final = 64
# What an unproven IKE_SA_INIT may occupy while it is half-open. ML-KEM-1024 beside X25519 and a
# dozen proposals fit into it.
MAX_REQUEST: Final = 4096
# Octets that we answer per octet that came, at most, to whom has proven nothing.
MAX_AMPLIFICATION: Final = 1.1


# -- initiator -----------------------------------------------------------------------------------


class SaInit(Task):
    """The first request; built again with a COOKIE or another key exchange."""

    __slots__ = ()
    exchange = ExchangeType.IKE_SA_INIT

    def build(self, sa: IkeSa, now: float) -> list[Payload]:
        """See Task."""
        hs, peer = sa.handshake, sa.peer
        assert hs is not None
        assert hs.kex is not None
        assert peer is not None
        payloads: list[Payload] = []
        if hs.cookie:
            payloads.append(NotifyPayload(NotifyType.COOKIE, hs.cookie))
        payloads += [
            SaPayload(numbered(sa.proposals, b"")),
            KePayload(hs.kex.group, hs.kex.public),
            NoncePayload(hs.own_nonce),
            NotifyPayload(NotifyType.SIGNATURE_HASH_ALGORITHMS, ANNOUNCEMENT),
        ]
        return payloads


def start(sa: IkeSa, now: float) -> None:
    """Send the first request of a new initiator SA."""
    if not sa.proposals:
        detail = "this cryptography package has no ML-KEM, and every proposal wants it"
        sa.close(CloseReason.NO_PROPOSAL_CHOSEN, detail, now)
        return
    group = first_group(sa.proposals)
    hs = handshake.begin(sa)
    hs.own_nonce = sa.table.random(NONCE_LENGTH)
    hs.kex = sa.table.key_exchange(group)
    hs.groups.append(group)
    sa.timers.set(When.ATTEMPT, now + sa.table.settings.give_up)
    sa.submit(SaInit(), now)
    hs.own_message = sa.outgoing.data[0]


def _start_over(sa: IkeSa, now: float) -> None:
    """The same request with what the responder asked for; the message ID stays 0 (§2.2)."""
    task, hs = sa.outgoing.task, sa.handshake
    assert task is not None
    assert hs is not None
    payloads = task.build(sa, now)
    assert payloads is not None
    for extension in sa.extensions:
        extension.on_request_building(sa, task.exchange, payloads)
    sa.send_request(task, payloads, now)
    hs.own_message = sa.outgoing.data[0]


def on_response(sa: IkeSa, path: Path, header: Header, data: bytes, now: float) -> None:
    """Something that claims to answer our first request. Raises Ignored if it is no use."""
    hs = sa.handshake
    assert hs is not None
    if header.message_id != 0:
        raise Ignored("message_id")
    try:
        message = decode_message(data, header)
    except UnsupportedCriticalPayload:
        _note(sa, CloseReason.PROTOCOL_ERROR, "critical payload", now)
        raise Ignored("unsupported_critical_payload") from None
    if message.first(SaPayload) is None:
        _on_error(sa, message, now)
        return
    try:
        check(message)
        _on_answer(sa, path, message, now)
    except ProtocolError as error:
        reason, name = reason_for(error.notify)
        _note(sa, reason, str(error) or name, now)
        raise Ignored("invalid_response") from None
    answered(sa, message, data, now)
    intermediate.proceed(sa, now)


def answered(sa: IkeSa, message: Message, data: bytes, now: float) -> None:
    """`message` accepts our first request."""
    hs = sa.handshake
    assert hs is not None
    hs.peer_message = data
    hs.peer_nonce = nonce_of(message)
    # Whatever unproven errors said before counts for nothing now.
    hs.hint = NO_ANSWER
    sa.timers.set(When.ATTEMPT, now + sa.table.settings.give_up)
    rtt = sa.outgoing.finish(now)
    sa.rtt = rtt or sa.rtt
    sa.timers.stop(When.RETRANSMIT)
    sa.timers.stop(When.FALL_BACK)
    sa.last_seen = now
    sa.step(Step.INIT_ANSWERED)


def _note(sa: IkeSa, reason: CloseReason, detail: str, now: float) -> None:
    """Remember what an unproven answer said, and do not wait much longer for a better one."""
    hs = sa.handshake
    assert hs is not None
    hs.hint = (reason, detail)
    grace = now + sa.table.settings.error_grace
    deadline = sa.timers.deadline(When.ATTEMPT)
    if deadline is None or grace < deadline:
        sa.timers.set(When.ATTEMPT, grace)


def follows_cookie(sa: IkeSa, message: Message, now: float) -> bool:
    """Whether a COOKIE is asked for; then our request was repeated with it. Raises Ignored."""
    hs, cookie = sa.handshake, message.notify(NotifyType.COOKIE)
    assert hs is not None
    if cookie is None:
        return False
    if not 1 <= len(cookie.data) <= MAX_COOKIE or hs.rounds >= MAX_COOKIE_ROUNDS:
        raise Ignored("cookie")
    if cookie.data == hs.cookie:
        raise Ignored("cookie_again")  # it answers an earlier sending, and has been followed
    hs.rounds += 1
    hs.cookie = cookie.data
    _start_over(sa, now)
    return True


def _on_error(sa: IkeSa, message: Message, now: float) -> None:
    hs, peer = sa.handshake, sa.peer
    assert hs is not None
    assert peer is not None
    if follows_cookie(sa, message, now):
        return
    wanted = message.notify(NotifyType.INVALID_KE_PAYLOAD)
    if wanted is not None:
        group = int.from_bytes(wanted.data, "big") if len(wanted.data) == 2 else 0
        # Each group once: whoever forges this can cost us a round trip for each, and no loop.
        if group in hs.groups or group not in groups_of(sa.proposals):
            _note(sa, *reason_for(NotifyType.INVALID_KE_PAYLOAD), now)
            raise Ignored("invalid_ke_payload")
        hs.groups.append(group)
        hs.kex = sa.table.key_exchange(group)
        _start_over(sa, now)
        return
    if redirect.on_unproven(sa, message):
        return
    error = error_of(message)
    if error is None:
        raise Ignored("no_sa_payload")
    _note(sa, *reason_for(error.type), now)


def _on_answer(sa: IkeSa, path: Path, message: Message, now: float) -> None:
    """A response that carries SA, KE and nonce. Raises ProtocolError."""
    hs, peer = sa.handshake, sa.peer
    assert hs is not None
    assert hs.kex is not None
    assert peer is not None
    if message.header.responder_spi == NO_SPI:
        raise InvalidSyntax("no responder SPI")
    _, suite = confirmed(message, numbered(sa.proposals, b""), 0)
    ke = message.first(KePayload)
    if ke is None or not suite.group == ke.group == hs.kex.group:
        raise InvalidSyntax("another key exchange than the one that was offered")
    hs.peer_hashes = _hashes_of(message)
    if not proof.can_be_given(peer.local_auth, hs.peer_hashes):
        raise InvalidSyntax("the peer does not take such signatures")
    hs.asked = certificates.asked_in(message)
    shared = shared_with(hs.kex, ke)
    # The kernel knows by now which of our addresses is used.
    sa.path = Path(path.local, sa.path.remote)
    sa.suite = suite
    for extension in sa.extensions:
        extension.on_response(sa, ExchangeType.IKE_SA_INIT, message, now)
    sa.remote_spi = message.header.responder_spi
    ni, nr = hs.own_nonce, nonce_of(message)
    derive(sa, suite, skeyseed(suite.prf, suite.prf.nonce_key(ni, nr), shared), ni, nr)


def out_of_time(sa: IkeSa, now: float) -> None:
    """The attempt took too long."""
    reason, detail = sa.handshake.hint if sa.handshake else NO_ANSWER
    sa.close(reason, detail, now)


# -- responder -----------------------------------------------------------------------------------


def first_request(
    table: Ike, path: Path, header: Header, data: bytes, now: float
) -> Message | None:
    """A first request, or None if it has its answer already.

    Raises Ignored or WireError where it is dropped without an answer.
    """
    known_sa = table.half_open.find(path.remote, data)
    if known_sa is not None:
        if known_sa.incoming.next_id == 1:  # else the initiator has had it
            _check_rate(table, path, now)
            known_sa.transmit(path, known_sa.incoming.response)
        return None
    if len(data) > MAX_REQUEST or header.message_id != 0 or header.initiator_spi == NO_SPI:
        raise Ignored("invalid_request")
    try:
        message = decode_message(data, header)
        check(message)
    except UnsupportedCriticalPayload as error:
        critical = NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD
        answer(table, path, data, header, critical, bytes((error.payload_type,)), now)
        return None
    except InvalidSyntax:
        raise Ignored("invalid_syntax") from None
    return message


def admits(table: Ike, path: Path, message: Message, data: bytes, now: float) -> bool:
    """Whether a first request may cost us something; else it was sent a COOKIE, or elsewhere.

    Raises Ignored.
    """
    header = message.header
    if _proves_address(table, path, message, now):
        elsewhere = redirect.at_first(table, path, message)
        if elsewhere is not None:
            answer(table, path, data, header, NotifyType.REDIRECT, elsewhere, now)
        return elsewhere is None
    cookie = table.cookies.make(nonce_of(message), path.remote, header.initiator_spi, now)
    answer(table, path, data, header, NotifyType.COOKIE, cookie, now)
    return False


def on_request(table: Ike, path: Path, header: Header, data: bytes, now: float) -> None:
    """A first request. Raises Ignored or WireError where it is dropped without an answer."""
    message = first_request(table, path, header, data, now)
    if message is None or not admits(table, path, message, data, now):
        return
    try:
        proposals = usable(table.pad.responder_proposals(path, message), table.supports_group)
        if message.notify(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED) is None:
            proposals = without_additional(proposals)  # RFC 9370 §2.2.1
        chosen, suite = select(message, proposals, ProtocolId.IKE, 0)
        _accept(table, path, message, data, chosen, suite, now)
    except Ignored:
        table.half_open.was_fruitless(path.remote, now)
        raise
    except ProtocolError as error:
        if isinstance(error, InvalidSyntax):
            table.half_open.was_fruitless(path.remote, now)
            raise Ignored("invalid_syntax") from None
        answer(table, path, data, header, error.notify, error.data, now)


def _proves_address(table: Ike, path: Path, message: Message, now: float) -> bool:
    if not table.half_open.needs_cookie(path.remote, now):
        return True
    cookie = message.notify(NotifyType.COOKIE)
    nonce, spi = nonce_of(message), message.header.initiator_spi
    if cookie is None or not table.cookies.check(cookie.data, nonce, path.remote, spi, now):
        return False
    if not table.half_open.admits(path.remote, now):
        raise Ignored("first_rate")
    return True


def _check_rate(table: Ike, path: Path, now: float) -> None:
    """Raises Ignored where the address, of which nothing is proven, had its answers already."""
    if not table.first_rate.take(path.remote.ip, now):
        raise Ignored("first_rate")


def answer(
    table: Ike,
    path: Path,
    request: bytes,
    header: Header,
    notify: int,
    data: bytes,
    now: float,
) -> None:
    """Answer without keeping anything, unless that is too long or too often."""
    reply = Header(
        initiator_spi=header.initiator_spi,
        responder_spi=NO_SPI,
        exchange=header.exchange,
        is_initiator=False,
        is_response=True,
        message_id=header.message_id,
    )
    octets = encode_message(reply, [NotifyPayload(notify, data)])
    if len(octets) > MAX_AMPLIFICATION * len(request):
        raise Ignored("amplification")
    _check_rate(table, path, now)
    table.emit(Transmit(path, octets))


def _accept(
    table: Ike,
    path: Path,
    message: Message,
    data: bytes,
    chosen: Proposal,
    suite: Suite,
    now: float,
) -> None:
    """Make a half-open SA and answer."""
    header = message.header
    ke = message.first(KePayload)
    assert ke is not None  # rules.check
    if ke.group != suite.group:
        raise InvalidKePayload(suite.group)
    shared, kex = exchange_keys(message, suite.group, table)
    assert kex is not None
    sa = table.new_sa(IkeState.HALF_OPEN, path, is_initiator=False, started_by_us=False)
    sa.remote_spi = header.initiator_spi
    sa.suite = suite
    try:
        payloads = _response(sa, message, chosen, suite, kex, now)
        head = sa.header(header.exchange, 0, is_response=True)
        own = encode_message(head, payloads)
        room = int(MAX_AMPLIFICATION * len(data)) - len(own)
        if room < 0:
            raise Ignored("amplification")
        asking = certificates.that_fit(table.pad.certificate_requests(message), room)
        if asking:
            own = encode_message(head, [*payloads, *asking])
    except (ProtocolError, Ignored):
        table.forget(sa)
        raise
    assert sa.handshake is not None
    ni, nr = sa.handshake.peer_nonce, sa.handshake.own_nonce
    derive(sa, suite, skeyseed(suite.prf, suite.prf.nonce_key(ni, nr), shared), ni, nr)
    sa.handshake.peer_message = data
    sa.handshake.own_message = own
    sa.incoming.answered(hash(data), ((own,), None))
    table.keep_half_open(sa, path.remote, data, now)
    sa.transmit(path, (own,))


def _response(
    sa: IkeSa, message: Message, chosen: Proposal, suite: Suite, kex: KeyExchange, now: float
) -> list[Payload]:
    table = sa.table
    hs = sa.handshake = Handshake()
    hs.peer_nonce = nonce_of(message)
    hs.own_nonce = responder_nonce(table, suite, hs.peer_nonce)
    hs.peer_hashes = _hashes_of(message)
    table.attachment.answer(sa, message)
    payloads: list[Payload] = [
        SaPayload((chosen,)),
        KePayload(kex.group, kex.public),
        NoncePayload(hs.own_nonce),
    ]
    for extension in sa.extensions:
        extension.on_request(sa, message, payloads, now)
    if message.notify(NotifyType.SIGNATURE_HASH_ALGORITHMS) is not None:
        payloads.append(NotifyPayload(NotifyType.SIGNATURE_HASH_ALGORITHMS, ANNOUNCEMENT))
    if table.settings.announce_childless:
        payloads.append(NotifyPayload(NotifyType.CHILDLESS_IKEV2_SUPPORTED))
    return payloads


def responder_nonce(table: Ike, suite: Suite, theirs: bytes) -> bytes:
    """RFC 7296 §2.10: at least half the PRF's key; no longer than theirs, for the amplification."""
    shortest = suite.prf.preferred_key_length // 2
    return table.random(max(shortest, min(NONCE_LENGTH, len(theirs))))


# -- both ----------------------------------------------------------------------------------------


def _hashes_of(message: Message) -> frozenset[int] | None:
    """What the peer announces for signatures (RFC 7427 §4), None if it knows nothing of that."""
    notify = message.notify(NotifyType.SIGNATURE_HASH_ALGORITHMS)
    return decode_announcement(notify.data) if notify is not None else None
