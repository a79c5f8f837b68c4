"""One IKE SA: its windows, timers and Child SAs, and what happens to each message of it.

RFC 7296 §2.1 to §2.4, §2.21, §2.23 (following the address of a peer behind NAT). Who it is with and
what the exchanges mean is in the files of the exchanges; `states` says what is legal when.
An established childless SA is to stay small (a mediator holds ten thousand): what only the
handshake needs is in `Handshake` and goes with it. More attributes than the soft limit: each is
read by several exchanges, and a struct in between would only rename them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.datagram import Path, Transmit
from agent.ike import (
    create_child_sa,
    ending,
    fragmentation,
    ike_sa_init,
    ike_session_resume,
    informational,
    intermediate,
    retransmission,
)
from agent.ike.events import CloseReason, PathChanged
from agent.ike.exchange import (
    LAST_MESSAGE_ID,
    REKEY_MESSAGE_ID,
    Incoming,
    Outgoing,
    Task,
    first_interval,
)
from agent.ike.negotiation import usable
from agent.ike.states import (
    FIRST,
    LINGER_SECONDS,
    PROBE_SECONDS,
    IkeState,
    Step,
    When,
    after,
)
from agent.timers import Timers
from agent.wire.codes import ExchangeType
from agent.wire.message import NO_SPI, Header, encode_message, encode_payloads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agent.ike.child import ChildSa
    from agent.ike.errors import ProtocolError
    from agent.ike.exchange import Sealed
    from agent.ike.extension import Extension
    from agent.ike.followup import Pending
    from agent.ike.fragmentation import Fragments
    from agent.ike.handshake import Handshake
    from agent.ike.pad import Peer
    from agent.ike.succession import RekeyCollision
    from agent.ike.suite import Protection, Suite
    from agent.ike.table import Ike
    from agent.wire.payloads import Identification, Payload
    from agent.wire.proposals import Proposal

    # What a request handler returns: the payloads of the response, and what to do once it is sent.
    Reply = tuple[list[Payload], Callable[[], None] | None]


class IkeSa:
    """See the module. Extensions read `ike_id`, `path`, `peer`, `remote_id`, `started_by_us`, …

    `is_initiator` is the I flag of this very SA, `started_by_us` that of the first one, which
    stays over rekeyings. `remote_id` is proven once `established`.
    """

    __slots__ = (
        "behind_nat",
        "children",
        "collision",
        "established_at",
        "extensions",
        "fragments",
        "handshake",
        "ike_id",
        "incoming",
        "is_initiator",
        "last_seen",
        "local_spi",
        "outgoing",
        "path",
        "peer",
        "pending",
        "protection",
        "refused",
        "remote_behind_nat",
        "remote_id",
        "remote_spi",
        "rtt",
        "started_by_us",
        "state",
        "suite",
        "table",
        "timers",
    )

    def __init__(
        self,
        table: Ike,
        ike_id: int,
        state: IkeState,
        path: Path,
        *,
        local_spi: bytes,
        remote_spi: bytes = NO_SPI,
        is_initiator: bool,
        started_by_us: bool,
    ) -> None:
        self.table = table
        self.ike_id = ike_id
        self.state = state
        self.path = path
        self.local_spi = local_spi
        self.remote_spi = remote_spi
        self.is_initiator = is_initiator
        self.started_by_us = started_by_us
        self.peer: Peer | None = None
        self.remote_id: Identification | None = None
        self.behind_nat = False
        self.remote_behind_nat = False
        self.extensions: tuple[Extension, ...] = ()
        self.suite: Suite | None = None
        self.protection: Protection | None = None
        self.handshake: Handshake | None = None
        self.fragments: Fragments | None = None
        self.collision: RekeyCollision | None = None
        self.pending: Pending | None = None
        self.children: dict[bytes, ChildSa] | None = None
        self.incoming = Incoming()
        self.outgoing = Outgoing()
        self.timers: Timers[When] = Timers()
        self.established_at = 0.0
        # When the first and the last TEMPORARY_FAILURE in a row came.
        self.refused: tuple[float, float] | None = None
        self.last_seen = 0.0
        self.rtt = 0.0

    # -- what it is ------------------------------------------------------------------------------

    @property
    def established(self) -> bool:
        """Whether both sides have proven who they are (and it is still in use)."""
        return self.state is IkeState.ESTABLISHED

    @property
    def proposals(self) -> tuple[Proposal, ...]:
        """What this peer may use, as far as this machine can."""
        assert self.peer is not None
        return usable(self.peer.proposals, self.table.supports_group)

    @property
    def child_proposals(self) -> tuple[Proposal, ...]:
        """The same for its Child SAs."""
        assert self.peer is not None
        assert self.peer.child is not None
        return usable(self.peer.child.proposals, self.table.supports_group)

    @property
    def has_proven_peer(self) -> bool:
        """Whether the other side has proven itself, now or earlier."""
        return self.remote_id is not None

    @property
    def spis(self) -> bytes:
        """SPIi and SPIr, 16 octets."""
        if self.is_initiator:
            return self.local_spi + self.remote_spi
        return self.remote_spi + self.local_spi

    @property
    def is_current(self) -> bool:
        """Whether this SA is the one that `ike_id` stands for."""
        return self.table.sa(self.ike_id) is self

    def step(self, step: Step) -> None:
        """Move on as the table of states says."""
        self.state = after(self.state, step)

    def header(self, exchange: int, message_id: int, *, is_response: bool) -> Header:
        """The header of a message that we send."""
        spis = self.spis
        return Header(
            initiator_spi=spis[:8],
            responder_spi=spis[8:],
            exchange=exchange,
            is_initiator=self.is_initiator,
            is_response=is_response,
            message_id=message_id,
        )

    # -- requests of ours ------------------------------------------------------------------------

    def submit(self, task: Task, now: float) -> None:
        """Send `task`'s request as soon as the window is free."""
        if self.state is IkeState.CLOSED or not self.outgoing.enqueue(task):
            task.on_lost(self, now)
            return
        self.send_next(now)

    def send_next(self, now: float) -> None:
        """If the window is free, send what waits for it."""
        while self.outgoing.task is None and (task := self.outgoing.pop()) is not None:
            payloads = task.build(self, now)
            if payloads is None:
                continue
            if self.outgoing.next_id >= LAST_MESSAGE_ID:
                self.close(CloseReason.REKEY_FAILED, "message IDs ran out", now)
                return
            for extension in self.extensions:
                extension.on_request_building(self, task.exchange, payloads)
            self.send_request(task, payloads, now)
            if self.outgoing.next_id == REKEY_MESSAGE_ID:
                self.timers.set(When.REKEY, now)

    def send_request(self, task: Task, payloads: Sequence[Payload], now: float) -> None:
        """Put `task` in flight with these payloads and the message ID that is due."""
        header = self.header(task.exchange, self.outgoing.next_id, is_response=False)
        sealed = self.seal(header, payloads)
        interval = first_interval(self.table.settings, self.rtt)
        self.outgoing.start(task, sealed, interval, now)
        self.timers.set(When.RETRANSMIT, now + interval)
        self.transmit(self.path, sealed[0])

    def transmit(self, path: Path, datagrams: Iterable[bytes]) -> None:
        """Send the datagrams of a message along `path`."""
        for data in datagrams:
            self.table.emit(Transmit(path, data))

    def seal(self, header: Header, payloads: Sequence[Payload]) -> Sealed:
        """A message as it goes out: encrypted after the first, in fragments if need be."""
        if header.exchange in FIRST:
            return (encode_message(header, payloads),), None
        assert self.protection is not None
        first, inner = encode_payloads(payloads)
        if header.exchange == ExchangeType.IKE_INTERMEDIATE:
            intermediate.sent(self, header, first, inner)
        plain = fragmentation.plain_of(self, header, payloads, first, inner)
        if plain is not None:
            return fragmentation.cut(self, plain), plain
        return (self.protection.seal_inner(header, first, inner, self.table.random),), None

    def abandon_request(self, now: float) -> None:
        """Stop sending the request in flight; this SA sends no other (its window is stuck)."""
        task = self.outgoing.task
        if task is not None:
            self.outgoing.clear()
            self.timers.stop(When.RETRANSMIT)
            task.on_lost(self, now)

    # -- paths -----------------------------------------------------------------------------------

    def heard(self, path: Path, now: float) -> None:
        """Something fresh and proven came along `path` (RFC 7296 §2.23, last paragraphs).

        We follow a peer behind NAT. One that is itself behind NAT and started the SA does not: it
        could be led astray by whoever can change the source of one packet on the way.
        """
        self.last_seen = now
        if path == self.path:
            return
        follows = self.remote_behind_nat and not (self.behind_nat and self.started_by_us)
        same = path.remote == self.path.remote
        if same or follows or self.state is IkeState.HALF_OPEN:
            self.set_path(path, now)

    def set_path(self, path: Path, now: float) -> None:
        """Send along `path` from now on."""
        if path == self.path:
            return
        self.path = path
        if not self.is_current or self.state is not IkeState.ESTABLISHED:
            return
        self.table.emit(PathChanged(ike_id=self.ike_id, path=path))
        if self.outgoing.task is not None:
            # It may have gone where nobody is. Not here: what is answered now goes out before.
            self.timers.set(When.RETRANSMIT, now)
            self.table.touch(self)
        for extension in self.extensions:
            extension.on_path_changed(self, path, now)

    def hint(self, now: float) -> None:
        """An unproven sign of trouble: ask the peer, but not often (RFC 7296 §2.21.4).

        One who lives has as long to answer as ever, whatever somebody says in its name: it may be
        out of reach for a while. What a restart needs is a proof, a token (RFC 6290) or a new SA.
        """
        if self.established and self.timers.deadline(When.PROBE_AGAIN) is None:
            self.timers.set(When.PROBE_AGAIN, now + PROBE_SECONDS)
            informational.check_liveness(self, now)
            retransmission.doubt(self, now)

    def sent(self, now: float) -> None:
        """ESP went out: something is to come back, before long."""
        if self.established and self.timers.deadline(When.ANSWER) is None:
            self.timers.set(When.ANSWER, now + self.table.settings.answer_seconds)
            self.table.touch(self)

    # -- timers ----------------------------------------------------------------------------------

    def next_timeout(self) -> float | None:
        """The earliest of all deadlines of this SA."""
        deadlines = [self.timers.next_deadline()]
        if self.children:
            deadlines += [child.next_timeout() for child in self.children.values()]
        if self.state in (IkeState.ESTABLISHED, IkeState.AUTH_SENT, IkeState.INIT_SENT):
            deadlines += [extension.next_timeout() for extension in self.extensions]
        return min([d for d in deadlines if d is not None], default=None)

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        for when in self.timers.expired(now):
            if self.state is IkeState.CLOSED:
                return
            self._on_timer(when, now)
        for child in list((self.children or {}).values()):
            create_child_sa.on_timer(self, child, now)
        if self.is_current:
            for extension in self.extensions:
                at = extension.next_timeout()
                if at is not None and at <= now and self.state is not IkeState.CLOSED:
                    extension.on_timer(self, now)

    def _on_timer(self, when: When, now: float) -> None:
        match when:
            case When.RETRANSMIT:
                retransmission.repeat_request(self, now)
            case When.ATTEMPT:
                ike_sa_init.out_of_time(self, now)
            case When.FALL_BACK:
                ike_session_resume.on_silence(self, now)
            case When.REKEY:
                if self.established:
                    self.table.rekey_ike(self.ike_id, now)
            case When.EXPIRE:
                self.delete(CloseReason.REKEY_FAILED, "the lifetime is over", now)
            case When.HALF_OPEN | When.LINGER:
                self.close(CloseReason.TIMEOUT, "", now)
            case When.REASSEMBLE:
                fragmentation.expire(self, now)
            case When.ANSWER:
                if self.last_seen <= now - self.table.settings.answer_seconds:
                    informational.check_liveness(self, now)
            case When.PROBE_AGAIN:
                pass

    # -- the end ---------------------------------------------------------------------------------

    def delete(self, reason: CloseReason, detail: str, now: float) -> None:
        """Tell the peer with a Delete, and everybody here that it is over, at once."""
        if self.state not in (IkeState.DELETING, IkeState.CLOSED):
            self.end_with(informational.DeleteIke(), reason, detail, now)

    def end_with(self, task: Task, reason: CloseReason, detail: str, now: float) -> None:
        """Report the end, send `task` as the last request, and go."""
        ending.report(self, reason, detail, now)
        self.step(Step.SEND_DELETE)
        for when in (When.REKEY, When.EXPIRE, When.ATTEMPT):
            self.timers.stop(when)
        ending.drop_rest(self, now)
        self.timers.set(When.LINGER, now + LINGER_SECONDS)
        self.submit(task, now)

    def close(self, reason: CloseReason, detail: str, now: float) -> None:
        """Forget the SA without a word to the peer."""
        if self.state is IkeState.CLOSED:
            return
        ending.report(self, reason, detail, now)
        self.step(Step.CLOSE)
        self.timers.clear()
        self.table.forget(self)
        task = self.outgoing.task
        self.outgoing.clear()
        if task is not None:
            ending.lose(self, task, now)
        ending.drop_rest(self, now)

    def refuse(self, error: ProtocolError, now: float) -> None:
        """The peer did not prove itself: keep the answer for its retransmissions, nothing else."""
        reason = CloseReason.AUTHENTICATION_FAILED
        for extension in self.extensions:
            extension.on_closed(self, reason, now)
        self.table.unlist(self)
        if self.peer is not None:
            ending.say_closed(self, reason, str(error), established=False)
        self.step(Step.REFUSE)
        self.extensions = ()
        self.handshake = None
