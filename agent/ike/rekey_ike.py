"""CREATE_CHILD_SA for the IKE SA itself, from either side, with collisions.

RFC 7296 §1.3.2, §2.8, §2.8.2, §2.18, §2.25.2. The new SA has its own SPIs, keys and message IDs and
takes over everything else: name, peer, Child SAs, extensions, waiting requests. With a collision
there are two new ones for a while; the one with the lowest nonce goes, closed by who made it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agent.ike import followup
from agent.ike.child import out_of_sync, retry_at
from agent.ike.errors import InvalidSyntax, TemporaryFailure
from agent.ike.events import CloseReason
from agent.ike.exchange import Topic
from agent.ike.followup import Owner, Pending
from agent.ike.informational import DeleteIke, end_if_fatal
from agent.ike.negotiation import (
    NONCE_LENGTH,
    confirmed,
    exchange_keys,
    first_group,
    groups_of,
    numbered,
    select,
    shared_with,
)
from agent.ike.rules import error_of, nonce_of
from agent.ike.states import LINGER_SECONDS, IkeState, When
from agent.ike.succession import RekeyCollision, adopt, adopt_spare, successor
from agent.wire.codes import ExchangeType, NotifyType, ProtocolId
from agent.wire.payloads import KePayload, NoncePayload, SaPayload

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.crypto.kex import KeyExchange
    from agent.ike.sa import IkeSa, Reply
    from agent.wire.message import Message
    from agent.wire.payloads import NotifyPayload, Payload


class RekeyIke(Owner):
    """A new IKE SA in the place of the one that carries the request."""

    __slots__ = ("_groups", "_kex", "_nonce", "_spi")
    exchange = ExchangeType.CREATE_CHILD_SA
    topic = Topic.IKE

    def __init__(self, groups: tuple[int, ...] = ()) -> None:
        self._groups = groups
        self._kex: KeyExchange | None = None
        self._nonce = b""
        self._spi = b""

    def build(self, sa: IkeSa, now: float) -> list[Payload] | None:
        """See Task."""
        if sa.state is not IkeState.ESTABLISHED or sa.peer is None:
            return None
        if _pending(sa, now) is not None:
            sa.timers.set(When.REKEY, retry_at(sa, now))  # if nothing comes of the peer's
            return None
        proposals = sa.proposals
        self._groups = self._groups or (first_group(proposals),)
        self._nonce = sa.table.random(NONCE_LENGTH)
        self._kex = sa.table.key_exchange(self._groups[-1])
        self._spi = sa.table.new_spi()
        return [
            SaPayload(numbered(proposals, self._spi)),
            NoncePayload(self._nonce),
            KePayload(self._kex.group, self._kex.public),
        ]

    def on_response(self, sa: IkeSa, message: Message, now: float) -> None:
        """See Task."""
        error = error_of(message)
        if error is not None:
            self._on_error(sa, message, error, now)
            return
        nonces = (self._nonce, nonce_of(message))
        _, suite = confirmed(message, numbered(sa.proposals, self._spi), 8)
        theirs = _pending(sa, now)
        if suite.additional and theirs is not None and min(nonces) < theirs.nonce:
            # Ours has the lowest of the four nonces and is not gone on with.
            sa.timers.set(When.REKEY, retry_at(sa, now))
            return
        if theirs is not None:
            sa.pending = None
        followup.begin(sa, self, message, suite, now)

    def start_over(self, sa: IkeSa, message: Message, now: float) -> None:
        """See Owner."""
        sa.timers.set(When.REKEY, retry_at(sa, now))
        end_if_fatal(sa, message, now)

    def finish(self, sa: IkeSa, answer: Message, secrets: bytes, now: float) -> None:
        """See Owner."""
        assert self._kex is not None
        chosen, suite = confirmed(answer, numbered(sa.proposals, self._spi), 8)
        ke = answer.first(KePayload)
        if ke is None or not ke.group == self._kex.group == suite.group:
            raise InvalidSyntax("another key exchange than the one that was offered")
        shared = shared_with(self._kex, ke)
        nonces = (self._nonce, nonce_of(answer))
        new = successor(
            sa,
            self._spi,
            chosen.spi,
            suite,
            nonces,
            shared,
            is_initiator=True,
            additional=secrets,
        )
        if sa.state is not IkeState.ESTABLISHED:  # it is being deleted: so is what the peer made
            new.delete(CloseReason.REPLACED, "", now)
            sa.table.touch(new)
            return
        collision = sa.collision
        if collision is not None and min(nonces) < collision.nonce:
            # Ours has the lowest of the four nonces: we made it, we close it (§2.8.2).
            adopt_spare(sa, now)
            new.delete(CloseReason.REPLACED, "", now)
            sa.table.touch(new)
            return
        sa.collision = None
        adopt(sa, new, now)
        for extension in new.extensions:  # what comes along is about the new SA
            extension.on_response(new, self.exchange, answer, now)
        sa.submit(DeleteIke(), now)
        if collision is not None:
            collision.spare.timers.set(When.LINGER, now + LINGER_SECONDS)
            sa.table.touch(collision.spare)

    def _on_error(self, sa: IkeSa, message: Message, error: NotifyPayload, now: float) -> None:
        collision = sa.collision
        if collision is not None and collision.spare.state is IkeState.SPARE:
            # The peer has finished its own rekeying before it saw ours.
            adopt_spare(sa, now)
            return
        sa.collision = None
        if _pending(sa, now) is not None:
            sa.timers.set(When.REKEY, retry_at(sa, now))  # the peer's own is on its way
            return
        group = int.from_bytes(error.data, "big") if len(error.data) == 2 else 0
        wanted = error.type == NotifyType.INVALID_KE_PAYLOAD and group not in self._groups
        if wanted and group in groups_of(sa.proposals):
            sa.submit(RekeyIke((*self._groups, group)), now)
        elif not out_of_sync(sa, error, now):
            # Over and over until it works or the lifetime is over (§2.25).
            sa.timers.set(When.REKEY, retry_at(sa, now))
        end_if_fatal(sa, message, now)


def on_request(sa: IkeSa, message: Message, now: float) -> Reply:
    """The peer rekeys the IKE SA. Raises ProtocolError."""
    if (
        sa.state is not IkeState.ESTABLISHED
        or sa.collision is not None
        or sa.outgoing.topic is Topic.CHILD
        or (sa.outgoing.topic is Topic.IKE and followup.is_in_followups(sa))
    ):
        raise TemporaryFailure
    chosen, suite = select(message, sa.proposals, ProtocolId.IKE, 8)
    shared, kex = exchange_keys(message, suite.group, sa.table)
    if kex is None:
        raise InvalidSyntax("an IKE SA without a key exchange")
    nonce = sa.table.random(NONCE_LENGTH)
    nonces = (nonce_of(message), nonce)
    spi = sa.table.new_spi()
    payloads: list[Payload] = [
        SaPayload((replace(chosen, spi=spi),)),
        NoncePayload(nonce),
        KePayload(kex.group, kex.public),
    ]

    def finish(secrets: bytes, now: float) -> Callable[[], None] | None:
        if sa.outgoing.topic is Topic.CHILD:
            raise TemporaryFailure  # §2.25.2, in a follow-up: begun since the rekeying began
        new = successor(
            sa,
            spi,
            chosen.spi,
            suite,
            nonces,
            shared,
            is_initiator=False,
            additional=secrets,
        )
        if sa.outgoing.topic is Topic.IKE:
            sa.collision = RekeyCollision(new, min(nonces))
            return None
        return lambda: adopt(sa, new, now)

    if suite.additional:
        pending = Pending(suite.additional_groups, min(nonces), Topic.IKE, finish)
        return [*payloads, followup.hold(sa, pending, now)], None
    return payloads, finish(b"", now)


def _pending(sa: IkeSa, now: float) -> Pending | None:
    """The peer's rekeying of the IKE SA, where it waits for further key exchanges."""
    pending = followup.pending_of(sa, now)
    return pending if pending is not None and pending.topic is Topic.IKE else None
