"""CREATE_CHILD_SA for Child SAs: new ones and rekeying, from either side, with collisions.

RFC 7296 §1.3.1, §1.3.3, §2.8, §2.8.1, §2.9.2, §2.17, §2.25.1. Rekeying of the IKE SA by the same
exchange is in `rekey_ike`; requests are told apart here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.ike import followup, rekey_ike
from agent.ike.child import (
    MAX_CHILDREN,
    ChildSa,
    announce,
    arm,
    child_by_spi_out,
    out_of_sync,
    owns,
    remove_child,
    replaced,
    retry_at,
)
from agent.ike.errors import ChildSaNotFound, NoAdditionalSas, TemporaryFailure, reason_for
from agent.ike.events import ChildSaClosed, CloseReason
from agent.ike.exchange import Topic
from agent.ike.followup import Owner, Pending
from agent.ike.informational import DeleteChild, end_if_fatal
from agent.ike.negotiation import (
    NONCE_LENGTH,
    Grant,
    Offer,
    complete,
    confirmed,
    first_group,
    groups_of,
    make_offer,
    numbered,
)
from agent.ike.rules import error_of, nonce_of
from agent.ike.states import LINGER_SECONDS, IkeState
from agent.wire.codes import ExchangeType, NotifyType, ProtocolId
from agent.wire.payloads import NotifyPayload, SaPayload

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.ike.sa import IkeSa, Reply
    from agent.wire.message import Message
    from agent.wire.payloads import Payload


# -- initiator -----------------------------------------------------------------------------------


class CreateChild(Owner):
    """A new Child SA from scratch, perhaps for one that the peer has `lost` (§2.25)."""

    __slots__ = ("_groups", "_lost", "_offer")
    exchange = ExchangeType.CREATE_CHILD_SA
    topic = Topic.CHILD
    portable = True

    def __init__(self, groups: tuple[int, ...] = (), lost: ChildSa | None = None) -> None:
        self._groups = groups
        self._lost = lost
        self._offer: Offer | None = None

    def build(self, sa: IkeSa, now: float) -> list[Payload] | None:
        """See Task."""
        if sa.state is not IkeState.ESTABLISHED or sa.peer is None or sa.peer.child is None:
            return None
        offer = self._offer = make_offer(sa, sa.peer.child, with_ke=True)
        self._groups = _prepare(sa, offer, self._groups)
        return offer.payloads()

    def on_response(self, sa: IkeSa, message: Message, now: float) -> None:
        """See Task."""
        offer = self._offer
        assert offer is not None
        error = error_of(message)
        if error is not None:
            wanted = _other_group(error, offer, self._groups)
            if wanted:
                sa.submit(CreateChild((*self._groups, wanted), self._lost), now)
            else:
                self.start_over(sa, message, now)
            return
        _, suite = confirmed(message, offer.proposals, 4)
        followup.begin(sa, self, message, suite, now)

    def start_over(self, sa: IkeSa, message: Message, now: float) -> None:
        """See Owner."""
        assert self._offer is not None
        if sa.state is not IkeState.ESTABLISHED:
            return
        error = error_of(message)
        reason, detail = reason_for(error.type if error else 0)
        spi = self._lost.spi_in if self._lost is not None else self._offer.spi
        sa.table.emit(ChildSaClosed(ike_id=sa.ike_id, spi_in=spi, reason=reason, detail=detail))
        end_if_fatal(sa, message, now)

    def finish(self, sa: IkeSa, answer: Message, secrets: bytes, now: float) -> None:
        """See Owner."""
        offer = self._offer
        assert offer is not None
        if sa.state is not IkeState.ESTABLISHED:
            return  # it is being deleted, and all its Child SAs with it
        nonces = (offer.nonce, nonce_of(answer))
        child = complete(sa, offer, answer, nonces, None, secrets)
        announce(sa, child, now)
        if self._lost is not None:  # not earlier: without any the IKE SA would be of no use
            spi, reason = self._lost.spi_in, CloseReason.BY_PEER
            sa.table.emit(ChildSaClosed(ike_id=sa.ike_id, spi_in=spi, reason=reason))


def _prepare(sa: IkeSa, offer: Offer, groups: tuple[int, ...]) -> tuple[int, ...]:
    """Nonce and key exchange of an offer; `groups` were tried, the last one is due now."""
    offer.nonce = sa.table.random(NONCE_LENGTH)
    group = groups[-1] if groups else first_group(offer.proposals)
    if group:
        offer.kex = sa.table.key_exchange(group)
    return groups or (group,)


def _other_group(error: NotifyPayload, offer: Offer, tried: tuple[int, ...]) -> int:
    """The key exchange to try instead; 0 if the error is another one or makes no sense (§1.3)."""
    if error.type != NotifyType.INVALID_KE_PAYLOAD or len(error.data) != 2:
        return 0
    group = int.from_bytes(error.data, "big")
    return group if group in groups_of(offer.proposals) and group not in tried else 0


class RekeyChild(Owner):
    """A new Child SA in the place of `child`."""

    __slots__ = ("_groups", "_offer", "child")
    exchange = ExchangeType.CREATE_CHILD_SA
    topic = Topic.CHILD

    def __init__(self, child: ChildSa, groups: tuple[int, ...] = ()) -> None:
        self.child = child
        self._groups = groups
        self._offer: Offer | None = None

    def build(self, sa: IkeSa, now: float) -> list[Payload] | None:
        """See Task. Nothing if the peer was quicker."""
        child = self.child
        busy = child.is_closing or child.ends_silently or child.replaced_by is not None
        if sa.peer is None or sa.peer.child is None or not owns(sa, child) or busy:
            return None
        if child.settles_at is not None and now < child.settles_at:
            child.rekey_at = child.settles_at
            return None
        theirs = followup.pending_of(sa, now)
        if theirs is not None and (theirs.child is child or theirs.topic is Topic.IKE):
            child.rekey_at = retry_at(sa, now)  # if nothing comes of the peer's (§1.3.2)
            return None
        spi = sa.table.children.new_spi()
        proposals = numbered(sa.child_proposals, spi)
        offer = self._offer = Offer(spi, proposals, child.local_ts, child.remote_ts)
        self._groups = _prepare(sa, offer, self._groups)
        rekey = NotifyPayload(NotifyType.REKEY_SA, protocol=ProtocolId.ESP, spi=child.spi_in)
        return [rekey, *offer.payloads()]

    def on_response(self, sa: IkeSa, message: Message, now: float) -> None:
        """See Task."""
        offer = self._offer
        assert offer is not None
        error = error_of(message)
        if error is not None:
            self._on_error(sa, message, error, now)
            return
        _, suite = confirmed(message, offer.proposals, 4)
        theirs = _pending(sa, self.child, now)
        if suite.additional and theirs is not None:
            if min(offer.nonce, nonce_of(message)) < theirs.nonce:
                # Ours has the lowest of the four nonces and is not gone on with.
                self.child.rekey_at = retry_at(sa, now)
                return
            sa.pending = None
        followup.begin(sa, self, message, suite, now)

    def start_over(self, sa: IkeSa, message: Message, now: float) -> None:
        """See Owner."""
        if owns(sa, self.child) and not self.child.ends_silently:
            self.child.rekey_at = retry_at(sa, now)
        end_if_fatal(sa, message, now)

    def finish(self, sa: IkeSa, answer: Message, secrets: bytes, now: float) -> None:
        """See Owner."""
        offer = self._offer
        assert offer is not None
        if sa.state is not IkeState.ESTABLISHED:
            return  # it is being deleted, and all its Child SAs with it
        nonces = (offer.nonce, nonce_of(answer))
        rival = self.child.replaced_by
        if rival is not None and not owns(sa, rival):
            rival = None
        # Ours has the lowest of the four nonces: we made it, we close it (§2.8.1).
        winner = rival if rival is not None and min(nonces) < rival.nonce else None
        new = complete(sa, offer, answer, nonces, self.child, secrets, winner)
        arm(sa, new, now)
        if winner is not None:
            new.ends_silently = True
            new.rekey_at = None
            replaced(sa, self.child, winner, now)
            sa.submit(DeleteChild(new, CloseReason.REPLACED), now)
        elif rival is not None:
            rival.ends_silently = True  # the peer, who made it, closes it
            rival.rekey_at = None
            rival.expire_at = now + LINGER_SECONDS
            self._take_over(sa, new, now)
        elif owns(sa, self.child):
            self._take_over(sa, new, now)
        else:
            announce(sa, new, now)  # the peer has deleted the old one, and that was told

    def _take_over(self, sa: IkeSa, new: ChildSa, now: float) -> None:
        replaced(sa, self.child, new, now)
        sa.submit(DeleteChild(self.child, CloseReason.REPLACED), now)

    def _on_error(self, sa: IkeSa, message: Message, error: NotifyPayload, now: float) -> None:
        child, offer = self.child, self._offer
        assert offer is not None
        rival = child.replaced_by
        if rival is not None and owns(sa, rival):
            # The peer's rekeying was first and it did not know of ours (§2.8.1, second case).
            replaced(sa, child, rival, now)
            return
        if _pending(sa, child, now) is not None:
            child.rekey_at = retry_at(sa, now)  # the peer's own is on its way
            return
        wanted = _other_group(error, offer, self._groups)
        if wanted:
            sa.submit(RekeyChild(child, (*self._groups, wanted)), now)
        elif error.type == NotifyType.CHILD_SA_NOT_FOUND:
            if owns(sa, child):  # §2.25: forget it silently and make it anew
                child.ends_silently = True
                remove_child(sa, child, CloseReason.BY_PEER)
                sa.submit(CreateChild(lost=child), now)
        elif not out_of_sync(sa, error, now):
            child.rekey_at = retry_at(sa, now)
        end_if_fatal(sa, message, now)

    def on_lost(self, sa: IkeSa, now: float) -> None:
        """See Task. The IKE SA was rekeyed under it: rekey there, if it is still due."""
        current = sa.table.sa(sa.ike_id)
        if current is not None and owns(current, self.child):
            self.child.rekey_at = retry_at(sa, now)


def on_timer(sa: IkeSa, child: ChildSa, now: float) -> None:
    """A deadline of a Child SA may have come."""
    if child.expire_at is not None and child.expire_at <= now:
        child.expire_at = None
        expire(sa, child, "the lifetime of a Child SA is over", now)
    elif child.rekey_at is not None and child.rekey_at <= now:
        child.rekey_at = None
        sa.submit(RekeyChild(child), now)


def expire(sa: IkeSa, child: ChildSa, detail: str, now: float) -> None:
    """A Child SA is used up. If it could not be rekeyed, the IKE SA ends with it (§2.8)."""
    if child.farewell is not None:
        sa.submit(DeleteChild(child, *child.farewell), now)
    elif child.ends_silently:  # who made its successor should have deleted it
        sa.submit(DeleteChild(child, CloseReason.REPLACED), now)
    elif not child.is_closing:
        sa.delete(CloseReason.REKEY_FAILED, detail, now)


# -- responder -----------------------------------------------------------------------------------


def on_request(sa: IkeSa, message: Message, now: float) -> Reply:
    """Answer a CREATE_CHILD_SA request of any kind. Raises ProtocolError."""
    offered = message.first(SaPayload)
    assert offered is not None  # rules.check
    if all(p.protocol == ProtocolId.IKE for p in offered.proposals):
        return rekey_ike.on_request(sa, message, now)
    if sa.state is not IkeState.ESTABLISHED or sa.outgoing.topic is Topic.IKE:
        raise TemporaryFailure  # §2.25.2
    rekey = message.notify(NotifyType.REKEY_SA)
    if rekey is None:
        return _create(sa, message, now)
    return _rekey(sa, message, rekey, now)


def _create(sa: IkeSa, message: Message, now: float) -> Reply:
    if sa.peer is None or sa.peer.child is None or len(sa.children or ()) >= MAX_CHILDREN:
        raise NoAdditionalSas
    grant = Grant(sa, sa.peer.child, message, with_ke=True)
    nonce = sa.table.random(NONCE_LENGTH)
    nonces = (nonce_of(message), nonce)
    payloads = grant.payloads(nonce, with_cp=False)

    def finish(secrets: bytes, now: float) -> Callable[[], None]:
        child = grant.install(sa, nonces, None, secrets)
        child.settles_at = now + sa.table.settings.give_up
        return lambda: announce(sa, child, now)

    return _hold_or_finish(
        sa, Pending(grant.groups, min(nonces), Topic.CHILD, finish), payloads, now
    )


def _hold_or_finish(sa: IkeSa, pending: Pending, payloads: list[Payload], now: float) -> Reply:
    if pending.groups:
        return [*payloads, followup.hold(sa, pending, now)], None
    return payloads, pending.finish(b"", now)


def _pending(sa: IkeSa, child: ChildSa, now: float) -> Pending | None:
    """The peer's rekeying of `child`, where it waits for further key exchanges."""
    pending = followup.pending_of(sa, now)
    return pending if pending is not None and pending.child is child else None


def _rekey(sa: IkeSa, message: Message, rekey: NotifyPayload, now: float) -> Reply:
    # Nobody has AH SAs, and no protocol at all is none (§3.10): such a Child SA is not there.
    is_esp = rekey.protocol == ProtocolId.ESP
    child = child_by_spi_out(sa, rekey.spi) if is_esp else None
    is_making_one = isinstance(followup.current_task(sa), (CreateChild, RekeyChild))
    if child is None and is_esp and is_making_one:
        raise TemporaryFailure  # it may be the one whose making we have not heard of yet
    if child is None:
        raise ChildSaNotFound(protocol=rekey.protocol, spi=rekey.spi)
    if child.is_closing or child.ends_silently or child.replaced_by is not None:
        raise TemporaryFailure  # §2.25.1: we are trying to close it
    if sa.peer is None or sa.peer.child is None:
        raise NoAdditionalSas
    if followup.is_in_followups(sa) and _rekeys(sa, child):
        raise TemporaryFailure
    if len(sa.children or ()) >= 2 * MAX_CHILDREN:
        raise TemporaryFailure  # whoever asks for so many has to delete what they replace
    grant = Grant(sa, sa.peer.child, message, with_ke=True, old=child)
    nonce = sa.table.random(NONCE_LENGTH)
    nonces = (nonce_of(message), nonce)
    payloads = grant.payloads(nonce, with_cp=False)

    def finish(secrets: bytes, now: float) -> Callable[[], None]:
        if not owns(sa, child):
            raise ChildSaNotFound(protocol=ProtocolId.ESP, spi=rekey.spi)
        if child.is_closing or child.ends_silently or child.replaced_by is not None:
            raise TemporaryFailure
        collides = _rekeys(sa, child)
        new = grant.install(sa, nonces, child, secrets)
        new.settles_at = now + sa.table.settings.give_up
        new.ends_silently = collides  # until it is decided, when our own exchange ends
        child.replaced_by = new
        child.rekey_at = None

        def then() -> None:
            arm(sa, new, now)
            if not collides:
                replaced(sa, child, new, now)
                child.settles_at = new.settles_at  # else its Delete could come before our answer

        return then

    pending = Pending(grant.groups, min(nonces), Topic.CHILD, finish, child)
    return _hold_or_finish(sa, pending, payloads, now)


def _rekeys(sa: IkeSa, child: ChildSa) -> bool:
    """Whether our own rekeying of `child` is in flight."""
    task = followup.current_task(sa)
    return isinstance(task, RekeyChild) and task.child is child
