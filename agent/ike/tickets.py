"""Session resumption (RFC 5723) as responder: tickets given, taken back, and refused.

To peers whose entry says so, sealed by `agent.crypto.ticket` and then forgotten, as they are by
value. Remembered for their lifetime are the tags of those that were used, or whose SA was deleted
or rekeyed (§4.3.1, §9.8), up to a bound and until a restart; the keys of a resumed SA are fresh all
the same. A ticket is void once the peer's entry is gone or has another key, pre-shared key, PPK or
suite.

Left out: tickets by reference, TICKET_ACK (there is always room for one), and tickets for peers
whose proof has to be repeated (RFC 4478) or is by certificate: they would prolong it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from agent.crypto.algorithms import make_prf
from agent.crypto.digest import bytes_eq
from agent.crypto.ticket import (
    CREDENTIAL_LENGTH,
    TICKET_SECONDS,
    InvalidTicket,
    TicketKey,
    TicketState,
    open_ticket,
    seal_ticket,
    tag_of,
)
from agent.ike.errors import AuthenticationFailed
from agent.ike.extension import Extension
from agent.ike.handshake import Resumes
from agent.ike.pad import AnyKeyAuth, KeyAuth, PskAuth
from agent.ike.resumption import LOST
from agent.ike.suite import suite_of
from agent.wire.codes import ExchangeType, NotifyType, PrfId, ProtocolId
from agent.wire.payloads import AuthPayload, NotifyPayload
from agent.wire.proposals import Proposal
from agent.wire.ticket import MAX_TICKET, GrantedTicket, encode_granted, says

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.ike.events import CloseReason
    from agent.ike.pad import Peer
    from agent.ike.sa import IkeSa
    from agent.wire.message import Message
    from agent.wire.payloads import Payload

# Tags of tickets that are used or void, 0.2 kB each. At the bound the oldest is forgotten: what it
# stood for could then be used again within its lifetime, by whom it was given to and nobody else.
MAX_VOID: Final = 16384


class Tickets:
    """Gives tickets and takes them back. `keys`: the ring, newest first; none: no tickets.

    `wall`: seconds since 1970, None where the clock is not to be believed: then there are none.
    """

    __slots__ = ("_random", "_void", "_wall", "counters", "keys")

    def __init__(self, random: Callable[[int], bytes], wall: Callable[[], float | None]) -> None:
        self.keys: Sequence[TicketKey] = ()
        self.counters: Counter[str] = Counter()
        self._random = random
        self._wall = wall
        self._void: dict[bytes, float] = {}  # tag → until when it is remembered

    def attach(self, sa: IkeSa, message: Message | None) -> Extension | None:
        """The factory: for every IKE SA that somebody else begins."""
        return Granting(self) if message is not None else None

    def seal(self, sa: IkeSa, method: int) -> GrantedTicket | None:
        """A ticket for `sa`, or None if it is to have none."""
        wall, peer = self._wall(), sa.peer
        if wall is None or peer is None or not self.keys:
            return None
        if not peer.gives_tickets or peer.auth_seconds:
            return None
        lifetime = min(TICKET_SECONDS, int(peer.lifetimes.ike_seconds) or TICKET_SECONDS)
        state = _state_of(sa, peer, method, int(wall), int(wall) + lifetime)
        if not state.credential:
            return None
        ticket = seal_ticket(self.keys[0], state, self._random)
        return GrantedTicket(lifetime, ticket) if len(ticket) <= MAX_TICKET else None

    def open(self, ticket: bytes, now: float) -> TicketState:
        """What a ticket stands for. Raises InvalidTicket."""
        wall = self._wall()
        if wall is None:
            raise InvalidTicket
        self._forget(now)
        if self.is_void(tag_of(ticket)):
            raise InvalidTicket
        return open_ticket(self.keys, ticket, wall)

    def is_void(self, tag: bytes) -> bool:
        """Whether the ticket with this tag is used, or its SA is over."""
        return tag in self._void

    def invalidate(self, tag: bytes, now: float) -> None:
        """The ticket with this tag is used, or its SA is over."""
        self._forget(now)
        self._void.pop(tag, None)  # the latest stands last
        if len(self._void) >= MAX_VOID:
            del self._void[next(iter(self._void))]
        self._void[tag] = now + TICKET_SECONDS

    def _forget(self, now: float) -> None:
        while self._void and self._void[first := next(iter(self._void))] <= now:
            del self._void[first]


class Granting(Extension):
    """The responder's side of one IKE SA."""

    __slots__ = ("_method", "_tag", "_tickets")

    def __init__(self, tickets: Tickets) -> None:
        self._tickets = tickets
        self._method = 0
        self._tag = b""  # of the ticket that was given last

    def on_request(self, sa: IkeSa, message: Message, payloads: list[Payload], now: float) -> None:
        """See Extension."""
        exchange = message.header.exchange
        if exchange == ExchangeType.IKE_AUTH:
            self._on_proof(sa, message, now)
        elif exchange != ExchangeType.INFORMATIONAL or not (sa.established and sa.is_current):
            return
        if says(message, NotifyType.TICKET_REQUEST):
            granted = self._tickets.seal(sa, self._method)
            if granted is None:
                payloads.append(NotifyPayload(NotifyType.TICKET_NACK))
                return
            self._void(now)
            self._tag = tag_of(granted.ticket)
            self._tickets.counters["given"] += 1
            payloads.append(encode_granted(*granted))

    def _on_proof(self, sa: IkeSa, message: Message, now: float) -> None:
        assert sa.handshake is not None
        old, auth = sa.handshake.resumes, message.first(AuthPayload)
        assert auth is not None  # rules.check
        self._method = auth.method if old is None else old.method
        if old is not None:
            if self._tickets.is_void(old.tag):
                raise AuthenticationFailed("the ticket was used meanwhile")
            self._tickets.counters["resumed"] += 1
            self._tickets.invalidate(old.tag, now)

    def on_rekeyed(self, old: IkeSa, new: IkeSa, now: float) -> None:
        """See Extension."""
        self._void(now)

    def on_closed(self, sa: IkeSa, reason: CloseReason, now: float) -> None:
        """See Extension."""
        if reason not in LOST:
            self._void(now)

    def _void(self, now: float) -> None:
        if self._tag:
            self._tickets.invalidate(self._tag, now)
            self._tag = b""


def resumed_by(sa: IkeSa, state: TicketState, tag: bytes) -> Resumes:
    """What a half-open `sa` goes on with. Raises InvalidTicket if the peer may not any more."""
    old = Resumes(
        idi=state.idi,
        idr=state.idr,
        suite=suite_of(ProtocolId.IKE, state.chosen.transforms),
        sk_d=state.sk_d,
        credential=state.credential,
        method=state.method,
        tag=tag,
    )
    peer = sa.table.pad.find_peer(state.idi, state.idr, sa.extensions)
    if peer is None or not is_still(peer, old):
        raise InvalidTicket
    return old


def is_still(peer: Peer, old: Resumes) -> bool:
    """Whether `peer` is whom the ticket was given to, proves itself as then, and may use it."""
    return (
        peer.gives_tickets
        and not peer.auth_seconds
        and peer.local_id.key == old.idr.key
        and (peer.remote_id is None or old.idi.matches(peer.remote_id))
        and bytes_eq(_credential(peer, old.sk_d), old.credential)
        and old.suite.is_allowed_by(peer.proposals)
    )


def _state_of(sa: IkeSa, peer: Peer, method: int, issued: int, expires: int) -> TicketState:
    assert sa.protection is not None
    assert sa.suite is not None
    assert sa.remote_id is not None
    return TicketState(
        sk_d=sa.protection.sk_d,
        idi=sa.remote_id,
        idr=peer.local_id,
        chosen=Proposal(ProtocolId.IKE, b"", sa.suite.transforms, 1),
        method=method,
        credential=_credential(peer, sa.protection.sk_d),
        issued=issued,
        expires=expires,
    )


def _credential(peer: Peer, sk_d: bytes) -> bytes:
    """Stands for what the peer proves itself with; under SK_d, so that no ticket tells a PSK.

    Empty for certificates: then there are no tickets.
    """
    match peer.remote_auth:
        case PskAuth(secret=secret):
            kind, octets = b"P", secret
        case KeyAuth(public=public):
            kind, octets = b"K", public
        case AnyKeyAuth(sha256=pinned):
            kind, octets = b"H", pinned
        case _:
            return b""
    ppk = peer.ppk.id + b"\0" + peer.ppk.secret if peer.ppk is not None else b""
    named = kind + len(octets).to_bytes(4, "big") + octets + ppk
    return make_prf(PrfId.PRF_HMAC_SHA2_256)(sk_d, b"credential" + named)[:CREDENTIAL_LENGTH]
