"""Session resumption (RFC 5723) as initiator: tickets asked for, kept, presented and proven.

The initiator asks in IKE_AUTH, after each rekeying and before the lifetime ends (in an
INFORMATIONAL). What the responder does with tickets is in `tickets`, how one is presented in
`ike_session_resume`; the proof that follows in IKE_AUTH is, for both,

    AUTH = prf(SK_px, <SignedOctets>)                        (§4.3.3; method 2, shared key MIC)

with the SK_px of the resumed SA, which only the two that know SK_d of the old one can have. What
that SK_d came of (ML-KEM, a PPK) protects the resumed SA as well; a rekeying makes it independent.

A ticket and its SK_d are kept in memory only: what restarts is the responder, with ten thousand
peers to come back, and one handshake of our own is cheaper than a secret on flash. A ticket goes
when its SA is deleted by either side or rekeyed (§6.2); it stays when the SA just stopped
answering, or was left without a word because our address is another one. It is used up by an
answer, not by silence: a server that is away for an hour does not cost everybody's ticket.

Left out: TICKET_REQUEST in CREATE_CHILD_SA (the INFORMATIONAL serves every case), and tickets where
the proof has to be repeated (RFC 4478): they would prolong it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.crypto.digest import bytes_eq
from agent.ike.events import CloseReason
from agent.ike.exchange import Task
from agent.ike.extension import Extension
from agent.ike.handshake import Resumes
from agent.records import record
from agent.wire.codes import AuthMethod, ExchangeType, NotifyType
from agent.wire.errors import WireError
from agent.wire.payloads import AuthPayload, NotifyPayload
from agent.wire.ticket import GrantedTicket, decode_granted, says

if TYPE_CHECKING:
    from agent.ike.sa import IkeSa
    from agent.wire.message import Message
    from agent.wire.payloads import Identification, Payload

# However long a responder says that a ticket is good: SK_d is not kept for longer.
LONGEST_SECONDS: Final = 24 * 3600.0
# The next one is asked for when this part of the lifetime is over, but not more often than …
RENEW_AT: Final = 0.95
RENEW_SECONDS: Final = 60.0

# The peer does not know that it is over, or cannot help it: the ticket is for this very case.
# Abandoned is what was left with the address that it had, and a ticket is not bound to one.
LOST: Final = frozenset({CloseReason.TIMEOUT, CloseReason.RESTARTED, CloseReason.ABANDONED})


# -- the proof in IKE_AUTH -----------------------------------------------------------------------


def proof(sa: IkeSa, octets: bytes) -> AuthPayload:
    """Our AUTH payload on a resumed SA."""
    mac = _mac(sa, octets, of_initiator=sa.is_initiator)
    return AuthPayload(AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE, mac)


def is_proven(sa: IkeSa, octets: bytes, identity: Identification, auth: AuthPayload) -> bool:
    """Whether `auth` proves that the peer knows the old SK_d and is whom the ticket names."""
    assert sa.handshake is not None
    old = sa.handshake.resumes
    assert old is not None
    named = old.idr if sa.is_initiator else old.idi
    mac = _mac(sa, octets, of_initiator=not sa.is_initiator)
    right = auth.method == AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE
    return bytes_eq(mac, auth.data) and right and identity.key == named.key


def _mac(sa: IkeSa, octets: bytes, *, of_initiator: bool) -> bytes:
    assert sa.suite is not None
    assert sa.handshake is not None
    keys = sa.handshake.keys
    assert keys is not None
    return sa.suite.prf(keys.sk_pi if of_initiator else keys.sk_pr, octets)


# -- initiator -----------------------------------------------------------------------------------


@record(frozen=True, slots=True, kw_only=True)
class StoredTicket:
    """A ticket as the initiator keeps it; `expires` in monotonic seconds."""

    ticket: bytes
    resumes: Resumes
    expires: float


class TicketHolder:
    """The one ticket for a peer, from one IKE SA with it to the next. `resumed`: the last was."""

    __slots__ = ("resumed", "stored")

    def __init__(self, stored: StoredTicket | None = None) -> None:
        self.stored = stored
        self.resumed = False

    @property
    def extension(self) -> Extension:
        """For `Ike.connect`: a new one for each IKE SA."""
        return Resumption(self)


class Resumption(Extension):
    """The initiator's side of one IKE SA: the ticket that it is begun with, and the one it got.

    `presented` is there until an answer uses it up.
    """

    __slots__ = ("_got", "_renew_at", "_resumes", "_wants_one", "holder", "presented")

    def __init__(self, holder: TicketHolder) -> None:
        self.holder = holder
        self.presented: StoredTicket | None = None
        self._resumes = False
        self._got: StoredTicket | None = None
        self._wants_one = False  # the responder has some, and we have none of this SA
        self._renew_at: float | None = None

    def present(self, sa: IkeSa, now: float) -> StoredTicket | None:
        """The ticket to begin with, which leaves the holder; None if there is none that fits."""
        stored, self.holder.stored = self.holder.stored, None
        assert sa.peer is not None
        if stored is None or now >= stored.expires or not _fits(stored.resumes, sa):
            return None
        self.presented = stored
        return stored

    def on_request_building(
        self, sa: IkeSa, exchange: ExchangeType | int, payloads: list[Payload]
    ) -> None:
        """See Extension."""
        if exchange == ExchangeType.IKE_AUTH and _may_have_one(sa):
            payloads.append(NotifyPayload(NotifyType.TICKET_REQUEST))

    def on_response(
        self, sa: IkeSa, exchange: ExchangeType | int, message: Message, now: float
    ) -> None:
        """See Extension."""
        if exchange == ExchangeType.IKE_SESSION_RESUME:
            self.presented = None
            self._resumes = True
        if exchange not in (ExchangeType.IKE_AUTH, ExchangeType.INFORMATIONAL):
            return
        if not sa.is_current or not _may_have_one(sa):
            return  # it was asked for before a rekeying, and is as old as what was replaced
        self._wants_one = says(message, NotifyType.TICKET_ACK)
        try:
            granted = decode_granted(message)
        except WireError:
            return
        if granted is not None:
            self._keep(sa, granted, now)

    def _keep(self, sa: IkeSa, granted: GrantedTicket, now: float) -> None:
        assert sa.peer is not None
        assert sa.suite is not None
        assert sa.protection is not None
        assert sa.remote_id is not None
        lifetime = min(granted.lifetime, LONGEST_SECONDS)
        self._renew_at = now + max(RENEW_AT * lifetime, RENEW_SECONDS)
        old = Resumes(
            idi=sa.peer.local_id, idr=sa.remote_id, suite=sa.suite, sk_d=sa.protection.sk_d
        )
        got = StoredTicket(ticket=granted.ticket, resumes=old, expires=now + lifetime)
        if sa.established:
            self._drop()
            self.holder.stored = got
        self._got = got

    def on_established(self, sa: IkeSa, now: float) -> None:
        """See Extension. A ticket of an earlier SA is over, whatever became of this one."""
        self.presented = None
        self.holder.stored = self._got
        self.holder.resumed = self._resumes
        if self._wants_one:
            self._wants_one = False
            sa.submit(AskForTicket(), now)

    def on_rekeyed(self, old: IkeSa, new: IkeSa, now: float) -> None:
        """See Extension. §6.2: the ticket is void, another is to be asked for."""
        if self._got is not None:
            self._drop()
            self._renew_at = None
            new.submit(AskForTicket(), now)

    def on_closed(self, sa: IkeSa, reason: CloseReason, now: float) -> None:
        """See Extension."""
        if self.presented is not None and self.holder.stored is None:
            self.holder.stored = self.presented  # nobody answered: it is as good as before
        elif reason not in LOST:
            self._drop()

    def _drop(self) -> None:
        if self.holder.stored is self._got:
            self.holder.stored = None
        self._got = None

    def next_timeout(self) -> float | None:
        """See Extension."""
        return self._renew_at

    def on_timer(self, sa: IkeSa, now: float) -> None:
        """See Extension."""
        self._renew_at = None
        if sa.established:
            sa.submit(AskForTicket(), now)


class AskForTicket(Task):
    """A ticket for the SA that carries the request (§4.1)."""

    __slots__ = ()
    exchange = ExchangeType.INFORMATIONAL

    def build(self, sa: IkeSa, now: float) -> list[Payload]:
        """See Task."""
        return [NotifyPayload(NotifyType.TICKET_REQUEST)]

    def on_response(self, sa: IkeSa, message: Message, now: float) -> None:
        """See Task."""
        for extension in sa.extensions:
            extension.on_response(sa, self.exchange, message, now)


def resumption_of(sa: IkeSa) -> Resumption | None:
    """The initiator's state of this SA, if its peer is one of whom tickets are asked."""
    return next((e for e in sa.extensions if isinstance(e, Resumption)), None)


def _may_have_one(sa: IkeSa) -> bool:
    return sa.peer is not None and not sa.peer.auth_seconds


def _fits(old: Resumes, sa: IkeSa) -> bool:
    """Whether we are still who we were, with the same peer, and the suite is still allowed."""
    peer = sa.peer
    assert peer is not None
    same = peer.remote_id is None or old.idr.matches(peer.remote_id)
    return same and old.idi.key == peer.local_id.key and old.suite.is_allowed_by(sa.proposals)
