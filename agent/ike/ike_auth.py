"""IKE_AUTH, both sides: who it is, and the first Child SA.

RFC 7296 §1.2, §2.15, §2.21.2; RFC 6023 (childless). Whatever is wrong with an identity or a proof
(`proof`) is AUTHENTICATION_FAILED and looks the same. A Child SA that cannot be had does not undo
the authentication: the responder keeps the IKE SA, the initiator deletes it, since the Child SA was
what it came for. Left out: EAP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.ike import certificates, ppk, proof, redirect
from agent.ike.child import ChildSa, announce
from agent.ike.errors import (
    AuthenticationFailed,
    InvalidSyntax,
    NoAdditionalSas,
    ProtocolError,
    reason_for,
)
from agent.ike.events import CloseReason
from agent.ike.exchange import Task
from agent.ike.informational import ENDS_IKE_AUTH, Refusal
from agent.ike.negotiation import Grant, complete, make_offer
from agent.ike.rules import error_of
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.payloads import (
    AuthPayload,
    IdiPayload,
    IdrPayload,
    NotifyPayload,
    SaPayload,
)

if TYPE_CHECKING:
    from agent.ike.pad import Peer
    from agent.ike.sa import IkeSa, Reply
    from agent.wire.message import Message
    from agent.wire.payloads import Payload


# -- initiator -----------------------------------------------------------------------------------


class IkeAuth(Task):
    """Our identity, our proof, and the Child SA that we want."""

    __slots__ = ()
    exchange = ExchangeType.IKE_AUTH

    def build(self, sa: IkeSa, now: float) -> list[Payload]:
        """See Task."""
        peer, hs = sa.peer, sa.handshake
        assert peer is not None
        assert hs is not None
        idi = IdiPayload(peer.local_id)
        payloads: list[Payload] = [idi, *certificates.shown(sa, peer)]
        payloads += certificates.asked_of(sa, peer)
        if peer.remote_id is not None:
            payloads.append(IdrPayload(peer.remote_id))
        payloads += ppk.prove(sa, lambda: proof.give(sa, peer, idi))
        if sa.table.identities.is_first_contact(sa):
            payloads.append(NotifyPayload(NotifyType.INITIAL_CONTACT))
        if peer.child is not None:
            hs.offer = make_offer(sa, peer.child, with_ke=False)
            payloads += hs.offer.payloads()
        return payloads

    def on_response(self, sa: IkeSa, message: Message, now: float) -> None:
        """See Task."""
        peer, hs = sa.peer, sa.handshake
        assert peer is not None
        assert hs is not None
        auth, idr = message.first(AuthPayload), message.first(IdrPayload)
        if auth is None or idr is None:
            _refused(sa, message, now)
            return
        if peer.remote_id is not None and not idr.identity.matches(peer.remote_id):
            raise AuthenticationFailed(f"the peer is {idr.identity.text}")
        if hs.resumes is None:  # else it is in the old SK_d already
            ppk.on_answer(sa, message)
        proof.check(sa, peer, idr, auth, message)
        sa.remote_id = idr.identity
        for extension in sa.extensions:
            extension.on_response(sa, self.exchange, message, now)
        child, error = _first_child(sa, message)
        sa.table.establish(sa, now)
        if child is not None:
            announce(sa, child, now)
        elif error is not None:
            _without_child(sa, error, now)


def _first_child(sa: IkeSa, message: Message) -> tuple[ChildSa | None, ProtocolError | None]:
    """What became of the Child SA in the response."""
    hs = sa.handshake
    assert hs is not None
    if hs.offer is None:
        return None, None
    notify = error_of(message)
    if message.first(SaPayload) is None:
        code = notify.type if notify else NotifyType.NO_ADDITIONAL_SAS
        return None, ProtocolError(notify=code)
    try:
        nonces = (hs.own_nonce, hs.peer_nonce)
        return complete(sa, hs.offer, message, nonces, None), None
    except ProtocolError as error:
        return None, error


def _without_child(sa: IkeSa, error: ProtocolError, now: float) -> None:
    """The IKE SA is of no use to us without its Child SA."""
    reason, name = reason_for(error.notify)
    detail = f"{name}: {error}" if str(error) else name
    sa.delete(reason, detail, now)


def _refused(sa: IkeSa, message: Message, now: float) -> None:
    """A response without a proof. Encrypted with keys that only a man in the middle shares."""
    error = error_of(message)
    assert error is not None  # rules.check
    reason, detail = reason_for(error.type)
    if error.type in (NotifyType.INVALID_SYNTAX, NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD):
        reason = CloseReason.PROTOCOL_ERROR
    sa.close(reason, detail, now)


def give_up(sa: IkeSa, error: ProtocolError, now: float) -> None:
    """The responder's answer does not convince us, but it counts the SA as established: tell it."""
    reason, name = reason_for(error.notify)
    if error.notify not in ENDS_IKE_AUTH:
        sa.delete(reason, str(error) or name, now)
        return
    if error.notify != NotifyType.AUTHENTICATION_FAILED:
        reason = CloseReason.PROTOCOL_ERROR
    sa.end_with(Refusal(NotifyPayload(error.notify, error.data)), reason, str(error) or name, now)


# -- responder -----------------------------------------------------------------------------------


def on_request(sa: IkeSa, message: Message, now: float) -> Reply:
    """Check the initiator's proof and answer with ours. Raises ProtocolError."""
    idi, auth = message.first(IdiPayload), message.first(AuthPayload)
    asked = message.first(IdrPayload)
    assert idi is not None  # rules.check
    assert auth is not None
    hs = sa.handshake
    assert hs is not None
    if hs.rounds_due is not None and hs.rounds_due.due:
        raise InvalidSyntax("a key exchange is still due")
    peer = sa.table.pad.find_peer(idi.identity, asked.identity if asked else None, sa.extensions)
    if peer is None:
        raise AuthenticationFailed("unknown peer")
    if peer.remote_id is not None and not idi.identity.matches(peer.remote_id):
        raise AuthenticationFailed("another identity")
    sa.peer = peer
    if hs.resumes is None:
        auth = ppk.on_proof(sa, peer, message, auth)
    else:
        from agent.ike import tickets  # only a server has any

        if not tickets.is_still(peer, hs.resumes):
            raise AuthenticationFailed("the ticket was given to another")
    proof.check(sa, peer, idi, auth, message)
    _check_suite(sa, peer)
    sa.remote_id = idi.identity
    idr = IdrPayload(peer.local_id)
    hs.asked = certificates.asked_in(message)
    payloads: list[Payload] = [idr, *certificates.shown(sa, peer), proof.give(sa, peer, idr)]
    for extension in sa.extensions:
        extension.on_request(sa, message, payloads, now)
    initial_contact = message.notify(NotifyType.INITIAL_CONTACT) is not None
    child = None
    if message.first(SaPayload) is not None and not redirect.is_told(payloads):
        try:
            child = _grant_child(sa, peer, message, payloads)
        except ProtocolError as error:
            if error.notify in ENDS_IKE_AUTH:  # the initiator takes it for the end of it all
                raise
            payloads.append(NotifyPayload(error.notify, error.data))

    def then() -> None:
        sa.table.establish(sa, now, initial_contact=initial_contact)
        if child is not None:
            announce(sa, child, now)

    return payloads, then


def _check_suite(sa: IkeSa, peer: Peer) -> None:
    """The suite was chosen before we knew who it is; what this peer may use can be less."""
    assert sa.suite is not None
    if not sa.suite.is_allowed_by(peer.proposals):
        raise AuthenticationFailed("the suite is not one of this peer's")


def _grant_child(sa: IkeSa, peer: Peer, message: Message, payloads: list[Payload]) -> ChildSa:
    """Negotiate and install the first Child SA, and add its part of the response."""
    if peer.child is None:
        raise NoAdditionalSas
    hs = sa.handshake
    assert hs is not None
    grant = Grant(sa, peer.child, message, with_ke=False)
    child = grant.install(sa, (hs.peer_nonce, hs.own_nonce), None)
    payloads += grant.payloads(b"", with_cp=True)
    return child
