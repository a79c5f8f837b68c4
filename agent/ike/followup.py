"""IKE_FOLLOWUP_KE: additional key exchanges after a CREATE_CHILD_SA (RFC 9370 §2.2.4).

    --> CREATE_CHILD_SA? SA No KE …
    <-- CREATE_CHILD_SA! SA No KE … N(ADDITIONAL_KEY_EXCHANGE)
    --> IKE_FOLLOWUP_KE? KE N(ADDITIONAL_KEY_EXCHANGE)
    <-- IKE_FOLLOWUP_KE! KE                 and N(ADDITIONAL_KEY_EXCHANGE) if one more follows

Nothing is made before the last of them: the secrets go into the keys together,

    SKEYSEED = prf(SK_d, SK(0) | Ni | Nr | SK(1) | … )
    KEYMAT   = prf+(SK_d, SK(0) | Ni | Nr | SK(1) | … )

The initiator's side is a task that goes on with another one (its owner), as the next request and
under the same topic, so collisions see one procedure. The responder keeps what is open for a while
under a word of its own, the notify's data; one per IKE SA, so that nobody can make it keep many.
Who finds that the word is not known any more (STATE_NOT_FOUND) starts over.

Collisions: of two simultaneous rekeyings the one with the lowest nonce is not continued (§2.8.1 of
RFC 7296 has it made and deleted; here it was never made). A rekeying that begins while the peer
knows of another one that is already in its follow-ups is told TEMPORARY_FAILURE.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Final

from agent.ike.errors import InvalidSyntax, StateNotFound, TemporaryFailure
from agent.ike.exchange import Task, Topic
from agent.ike.negotiation import exchange_keys, shared_with
from agent.ike.rules import error_of
from agent.ike.states import IkeState
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.payloads import KePayload, NotifyPayload

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.crypto.kex import KeyExchange
    from agent.ike.child import ChildSa
    from agent.ike.sa import IkeSa, Reply
    from agent.ike.suite import Suite
    from agent.wire.message import Message
    from agent.wire.payloads import Payload

# The next round trip is due at once; lost requests are repeated within this time.
PENDING_SECONDS: Final = 20.0
_LINK_LENGTH: Final = 8


# -- initiator -----------------------------------------------------------------------------------


class Owner(Task):
    """A CREATE_CHILD_SA of ours that may be followed by further key exchanges."""

    __slots__ = ()

    @abstractmethod
    def finish(self, sa: IkeSa, answer: Message, secrets: bytes, now: float) -> None:
        """All key exchanges are done; `answer` is the CREATE_CHILD_SA response."""

    @abstractmethod
    def start_over(self, sa: IkeSa, message: Message, now: float) -> None:
        """The peer has given it up, and said so in `message`."""


class FollowupKe(Task):
    """The next additional key exchange of `owner`."""

    __slots__ = ("_answer", "_groups", "_kex", "_link", "_secrets", "owner")
    exchange = ExchangeType.IKE_FOLLOWUP_KE

    def __init__(
        self, owner: Owner, answer: Message, groups: tuple[int, ...], link: bytes, secrets: bytes
    ) -> None:
        self.owner = owner
        self._answer = answer
        self._groups = groups
        self._link = link
        self._secrets = secrets
        self._kex: KeyExchange | None = None

    @property
    def topic(self) -> Topic:  # type: ignore[override]
        """What it is about is what its owner is about."""
        return self.owner.topic

    def build(self, sa: IkeSa, now: float) -> list[Payload]:
        """See Task."""
        self._kex = sa.table.key_exchange(self._groups[0])
        return [
            KePayload(self._kex.group, self._kex.public),
            NotifyPayload(NotifyType.ADDITIONAL_KEY_EXCHANGE, self._link),
        ]

    def on_response(self, sa: IkeSa, message: Message, now: float) -> None:
        """See Task."""
        assert self._kex is not None
        if error_of(message) is not None:
            self.owner.start_over(sa, message, now)
            return
        ke = message.first(KePayload)
        if ke is None or ke.group != self._kex.group:
            raise InvalidSyntax("another key exchange than the one that is due")
        secrets = self._secrets + shared_with(self._kex, ke)
        if len(self._groups) > 1:
            _go_on(sa, self.owner, message, self._answer, self._groups[1:], secrets)
        else:
            self.owner.finish(sa, self._answer, secrets, now)

    def on_lost(self, sa: IkeSa, now: float) -> None:
        """See Task."""
        self.owner.on_lost(sa, now)


def begin(sa: IkeSa, owner: Owner, answer: Message, suite: Suite, now: float) -> None:
    """The CREATE_CHILD_SA response is there and acceptable: go on, or be done."""
    if suite.additional_groups:
        _go_on(sa, owner, answer, answer, suite.additional_groups, b"")
    else:
        owner.finish(sa, answer, b"", now)


def _go_on(
    sa: IkeSa,
    owner: Owner,
    message: Message,
    answer: Message,
    groups: tuple[int, ...],
    secrets: bytes,
) -> None:
    link = message.notify(NotifyType.ADDITIONAL_KEY_EXCHANGE)
    if link is None:
        raise InvalidSyntax("no link to the next key exchange")
    if sa.state is not IkeState.ESTABLISHED:
        return  # it is being deleted, and the peer has made nothing yet
    sa.outgoing.enqueue_first(FollowupKe(owner, answer, groups, link.data, secrets))


def current_task(sa: IkeSa) -> Task | None:
    """The procedure of ours that is in flight, whichever of its exchanges it is in."""
    task = sa.outgoing.task
    return task.owner if isinstance(task, FollowupKe) else task


def is_in_followups(sa: IkeSa) -> bool:
    """Whether a procedure of ours is beyond its CREATE_CHILD_SA."""
    return isinstance(sa.outgoing.task, FollowupKe)


# -- responder -----------------------------------------------------------------------------------


class Pending:
    """What the peer began and we hold until its last key exchange is done.

    `finish` gets the additional secrets and returns what to do once the response is sent. `nonce`
    is the lower one of the two, for collisions; `child` the Child SA that is being rekeyed.
    """

    __slots__ = ("child", "finish", "groups", "link", "nonce", "secrets", "topic", "until")

    def __init__(
        self,
        groups: tuple[int, ...],
        nonce: bytes,
        topic: Topic,
        finish: Callable[[bytes, float], Callable[[], None] | None],
        child: ChildSa | None = None,
    ) -> None:
        self.groups = groups
        self.nonce = nonce
        self.topic = topic
        self.finish = finish
        self.child = child
        self.secrets = b""
        self.link = b""
        self.until = 0.0


def hold(sa: IkeSa, pending: Pending, now: float) -> Payload:
    """Keep it (instead of an older one); returns the notify for the response."""
    sa.pending = pending
    pending.until = now + PENDING_SECONDS
    pending.link = sa.table.random(_LINK_LENGTH)
    return NotifyPayload(NotifyType.ADDITIONAL_KEY_EXCHANGE, pending.link)


def pending_of(sa: IkeSa, now: float) -> Pending | None:
    """What the peer has begun, unless it has waited too long."""
    if sa.pending is not None and sa.pending.until <= now:
        sa.pending = None
    return sa.pending


def on_request(sa: IkeSa, message: Message, now: float) -> Reply:
    """The next key exchange of what is pending. Raises ProtocolError."""
    link = message.notify(NotifyType.ADDITIONAL_KEY_EXCHANGE)
    pending = pending_of(sa, now)
    if link is None:
        raise InvalidSyntax("no link to an earlier exchange")
    if sa.state is IkeState.DELETING:
        raise TemporaryFailure  # as what it follows would be told (RFC 7296 §2.25.2)
    if sa.state is not IkeState.ESTABLISHED or pending is None or link.data != pending.link:
        raise StateNotFound
    ke = message.first(KePayload)
    if ke is None or ke.group != pending.groups[0]:
        raise InvalidSyntax("not the key exchange that is due")
    shared, kex = exchange_keys(message, pending.groups[0], sa.table)
    assert kex is not None
    payloads: list[Payload] = [KePayload(kex.group, kex.public)]
    pending.secrets += shared
    pending.groups = pending.groups[1:]
    if pending.groups:
        payloads.append(hold(sa, pending, now))
        return payloads, None
    sa.pending = None
    return payloads, pending.finish(pending.secrets, now)
