"""The whole of IKEv2 behind a few verbs: SPI lookup, half-open SAs, uniqueness, timers.

RFC 7296 §2.4 (INITIAL_CONTACT), §2.5 (versions), §2.6, §2.21.4. Lookups are in tables keyed by
octets and one heap holds a deadline for each SA, so what a packet costs does not depend on how many
SAs there are.

A little longer than the soft limit: verbs of a few lines each, over tables that have to agree.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from agent.crypto.kex import KeyExchange, KeyExchangeFactory, generate_key_exchange, supports_group
from agent.datagram import Dropped, Transmit
from agent.ike import (
    crash,
    create_child_sa,
    ike_sa_init,
    ike_session_resume,
    inbound,
    informational,
    ppk,
    redirect,
    rekey_ike,
    succession,
)
from agent.ike.attachment import Attachment
from agent.ike.children import Children
from agent.ike.cookies import (
    FIRST_ANSWERS_IN_ALL,
    FIRST_ANSWERS_PER_ADDRESS,
    AnswerRate,
    Cookies,
)
from agent.ike.errors import Ignored
from agent.ike.events import CloseReason, IkeSaEstablished
from agent.ike.farewell import Farewells
from agent.ike.half_open import HalfOpen
from agent.ike.identities import Identities
from agent.ike.sa import IkeSa
from agent.ike.settings import IkeSettings
from agent.ike.states import IkeState, Step, When
from agent.ike.strays import Strays, is_hint
from agent.timers import NO_DATE, Schedule, WallTime
from agent.wire.codes import ExchangeType
from agent.wire.errors import WireError
from agent.wire.message import MAJOR_VERSION, NO_SPI, decode_header

if TYPE_CHECKING:
    from agent.datagram import Address, Path
    from agent.ike.events import Output
    from agent.ike.extension import Extension, Factory
    from agent.ike.pad import Pad, Peer
    from agent.ike.tickets import Tickets
    from agent.wire.message import Message
    from agent.wire.payloads import Payload
    from agent.wire.redirect import GatewayId

Random = Callable[[int], bytes]
OnResponse = Callable[["Message | None", float], None]


__all__ = ["Ike", "IkeSettings", "OnResponse", "Random"]


class Ike:
    """Every IKE SA of this machine.

    Contract for driving it: call one method with `now`, then drain `poll_output()` until None,
    then sleep until `next_timeout()` at most and call `handle_timer`. Data here has no non-ESP
    marker. Nothing raises for what came from the network. `random(n)` returns n octets.
    """

    def __init__(
        self,
        *,
        pad: Pad,
        random: Random,
        settings: IkeSettings | None = None,
        responder_extensions: Sequence[Factory] = (),
        extensions: Sequence[Factory] = (),
        tokens: crash.Tokens | None = None,
        tickets: Tickets | None = None,
        key_exchange: KeyExchangeFactory = generate_key_exchange,
        supports_group: Callable[[int], bool] = supports_group,
        first_contact: Callable[[Path], GatewayId | None] | None = None,
        wall: Callable[[], WallTime] = lambda: NO_DATE,
    ) -> None:
        """`extensions` are made for every IKE SA, whoever begins (then without a message).

        `tokens`: quick crash detection is done with these; `tickets` are given and taken back.
        `first_contact`: where a client is sent that comes along this path for the first time (RFC
        5685 §4), None: it is right here.
        `wall` tells the date, which certificates are judged by; without it every one is over.
        """
        self.first_contact = first_contact
        self.supports_group = supports_group
        self.wall = wall
        self.pad = pad
        self.random = random
        self.settings = settings or IkeSettings()
        self.half_open = HalfOpen(self.settings)
        self.cookies = Cookies(random, self.settings.cookie_rotation)
        self.first_rate = AnswerRate(FIRST_ANSWERS_PER_ADDRESS, FIRST_ANSWERS_IN_ALL)
        self._strays = Strays(self, tokens)
        self._tickets = tickets
        self.attachment = Attachment(
            random,
            always=extensions,
            responder=responder_extensions,
            tokens=tokens,
            tickets=tickets,
            force_encapsulation=self.settings.force_encapsulation,
        )
        self._key_exchange = key_exchange
        self._next_id = 1
        self._current: dict[int, IkeSa] = {}
        self._by_spi: dict[bytes, IkeSa] = {}
        self.farewells = Farewells()
        self.predecessors: dict[int, IkeSa] = {}  # the last one that was replaced
        self.identities = Identities()
        self.children = Children(random)
        self._schedule: Schedule[IkeSa] = Schedule()
        self._outputs: deque[Output] = deque()
        self._established = 0

    def __len__(self) -> int:
        """The number of established IKE SAs."""
        return self._established

    # -- verbs -----------------------------------------------------------------------------------

    def sa(self, ike_id: int) -> IkeSa | None:
        """The IKE SA that `ike_id` stands for now."""
        return self._current.get(ike_id)

    def sas(self) -> list[IkeSa]:
        """All IKE SAs in use or on their way, for status."""
        return list(self._current.values())

    def receive(self, path: Path, data: bytes, now: float) -> None:
        """A datagram (without marker) arrived on `path`. Never raises."""
        try:
            self._receive(path, data, now)
        except (Ignored, WireError) as error:
            self.emit(Dropped(error.reason))

    def connect(
        self,
        peer: Peer,
        path: Path,
        now: float,
        extensions: Sequence[Extension] = (),
        *,
        patience: float | None = None,
    ) -> int:
        """Start an IKE SA with `peer` along `path`; returns its ike_id.

        `patience`: seconds for the answer to IKE_SA_INIT, where there are other paths to be tried.
        With an extension that has a ticket (`resumption`), that is tried first.
        """
        sa = self.new_sa(IkeState.INIT_SENT, path, is_initiator=True, started_by_us=True)
        sa.peer = peer
        self.attachment.begin(sa, extensions)
        if not ike_session_resume.start(sa, now):
            ike_sa_init.start(sa, now)
        if patience is not None:
            sa.timers.set(When.ATTEMPT, now + min(patience, self.settings.give_up))
        self.touch(sa)
        return sa.ike_id

    def close(self, ike_id: int, now: float, *, silent: bool = False) -> None:
        """End an IKE SA or an attempt; `silent` sends nothing. IkeSaClosed comes at once."""
        sa = self._current.get(ike_id)
        if sa is None:
            return
        if sa.state is IkeState.ESTABLISHED and not silent:
            sa.delete(CloseReason.DELETED, "", now)
        else:
            established = sa.state is IkeState.ESTABLISHED
            sa.close(CloseReason.ABANDONED if established else CloseReason.ABORTED, "", now)
        self.touch(sa)

    def request(
        self,
        ike_id: int,
        exchange: int,
        payloads: Sequence[Payload],
        on_response: OnResponse,
        now: float,
    ) -> None:
        """Queue a request; `on_response` gets the decrypted response, or None if there is none.

        It is called exactly once, perhaps within this call (no such SA, queue full).
        """
        sa = self._current.get(ike_id)
        if sa is None or sa.state is not IkeState.ESTABLISHED:
            on_response(None, now)
            return
        sa.submit(informational.Request(exchange, payloads, on_response), now)
        self.touch(sa)

    def rekey_ike(self, ike_id: int, now: float) -> None:
        """Rekey the IKE SA now."""
        sa = self._current.get(ike_id)
        if sa is not None and sa.state is IkeState.ESTABLISHED:
            sa.timers.stop(When.REKEY)
            sa.submit(rekey_ike.RekeyIke(), now)
            self.touch(sa)

    def rekey_child(self, spi_in: bytes, now: float) -> None:
        """Rekey the Child SA with our SPI `spi_in` now."""
        found = self.children.find(spi_in)
        if found is not None:
            sa, child = found
            child.rekey_at = None
            sa.submit(create_child_sa.RekeyChild(child), now)
            self.touch(sa)

    def expire_child(self, spi_in: bytes, hard: bool, now: float) -> None:
        """The data plane reached a limit of octets or packets: rekey (soft) or close (hard)."""
        if not hard:
            self.rekey_child(spi_in, now)
        elif (found := self.children.find(spi_in)) is not None:
            create_child_sa.expire(*found, "a limit of octets or packets is reached", now)
            self.touch(found[0])

    def set_path(self, ike_id: int, path: Path, now: float) -> None:
        """Send along `path` from now on."""
        sa = self._current.get(ike_id)
        if sa is not None:
            sa.set_path(path, now)

    def check_liveness(self, ike_id: int, now: float) -> None:
        """Send an empty INFORMATIONAL unless an exchange is on its way anyway."""
        sa = self._current.get(ike_id)
        if sa is not None:
            informational.check_liveness(sa, now)
            self.touch(sa)

    def seen_inbound(self, ike_id: int, now: float) -> None:
        """Authenticated ESP arrived from this peer: no probe is needed for a while."""
        sa = self._current.get(ike_id)
        if sa is not None:
            sa.last_seen = now

    def sent_outbound(self, ike_id: int, now: float) -> None:
        """ESP went to this peer: if nothing at all comes back, it is probed soon."""
        sa = self._current.get(ike_id)
        if sa is not None and sa.peer is not None and sa.peer.liveness_seconds:
            sa.sent(now)

    def on_unknown_esp(self, path: Path, data: bytes, now: float) -> None:
        """ESP that belongs to no SA came along `path`: say so, rarely (RFC 7296 §1.5)."""
        self._strays.on_unknown_esp(path, data, now)

    def on_invalid_spi(self, path: Path, data: bytes, now: float) -> bool:
        """Perhaps an unprotected INVALID_SPI, in which IKE SPIs mean nothing. Whether it was."""
        return self._strays.on_invalid_spi(path, data, now)

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        due = self._schedule.expired(now)
        try:
            for sa in due:
                sa.handle_timer(now)
        finally:  # a mistake with one of them must not stop the clocks of the others
            for sa in due:
                self.touch(sa)

    def next_timeout(self) -> float | None:
        """When `handle_timer` is to be called, monotonic seconds."""
        return self._schedule.next_deadline()

    def poll_output(self) -> Output | None:
        """The next output, or None."""
        return self._outputs.popleft() if self._outputs else None

    # -- datagrams -------------------------------------------------------------------------------

    def _receive(self, path: Path, data: bytes, now: float) -> None:
        header = decode_header(data)
        if header.major != MAJOR_VERSION:
            self._strays.on_other_version(path, header, data, now)
            return
        is_first = header.responder_spi == NO_SPI and header.is_initiator and not header.is_response
        if is_first and header.exchange == ExchangeType.IKE_SA_INIT:
            ike_sa_init.on_request(self, path, header, data, now)
            return
        if is_first and header.exchange == ExchangeType.IKE_SESSION_RESUME and self._tickets:
            ike_session_resume.on_request(self, self._tickets, path, header, data, now)
            return
        own = header.responder_spi if header.is_initiator else header.initiator_spi
        sa = self._by_spi.get(own)
        if sa is None:
            answer = self.farewells.repeated(own, header.message_id, path, data, now)
            if answer:
                for octets in answer:
                    self.emit(Transmit(path, octets))
                return
            theirs = header.initiator_spi if header.is_initiator else header.responder_spi
            if theirs in self._by_spi:
                raise Ignored("reflected")  # our own message, sent back
            self._strays.on_unknown_spi(path, header, data, now)
            return
        try:
            if is_hint(sa, header):
                self._strays.on_hint(sa, path, data, now)
                raise Ignored("not_encrypted")
            inbound.receive(sa, path, header, data, now)
        finally:
            self.touch(sa)

    # -- for the files of the exchanges ----------------------------------------------------------

    def emit(self, output: Output) -> None:
        """Queue an output."""
        self._outputs.append(output)

    def key_exchange(self, group: int, *, answering: bool = False) -> KeyExchange:
        """Our half of a key exchange; `answering` where the other half is there already."""
        return self._key_exchange(group, self.random, answering=answering)

    def new_spi(self) -> bytes:
        """An IKE SPI that is not in use here; never zero (RFC 7296 §3.1)."""
        while True:
            spi = self.random(8)
            if spi != NO_SPI and spi not in self._by_spi:
                return spi

    def new_sa(
        self,
        state: IkeState,
        path: Path,
        *,
        is_initiator: bool,
        started_by_us: bool,
        local_spi: bytes | None = None,
        ike_id: int | None = None,
    ) -> IkeSa:
        """An IKE SA under its SPI; with `ike_id` it is to succeed that one, else it has its own."""
        sa = IkeSa(
            self,
            self._next_id if ike_id is None else ike_id,
            state,
            path,
            local_spi=local_spi or self.new_spi(),
            is_initiator=is_initiator,
            started_by_us=started_by_us,
        )
        if ike_id is None:
            self._next_id += 1
            self._current[sa.ike_id] = sa
        self._by_spi[sa.local_spi] = sa
        return sa

    def keep_half_open(self, sa: IkeSa, remote: Address, request: bytes, now: float) -> None:
        """`sa` answered `request`; the oldest goes if there are too many."""
        displaced = self.half_open.displaced_by(remote)
        if displaced is not None:
            displaced.close(CloseReason.ABORTED, "too many", now)
            self.touch(displaced)
        self.half_open.add(sa, remote, request)
        sa.timers.set(When.HALF_OPEN, now + self.settings.half_open_seconds)
        self.touch(sa)

    def establish(self, sa: IkeSa, now: float, *, initial_contact: bool = False) -> None:
        """Both sides are proven."""
        assert sa.peer is not None
        assert sa.remote_id is not None
        assert sa.suite is not None
        self.half_open.remove(sa)
        sa.step(Step.PROVEN)
        self._established += 1
        resumed = sa.handshake is not None and sa.handshake.resumes is not None
        sa.handshake = None
        sa.established_at = now
        sa.timers.stop(When.HALF_OPEN)
        sa.timers.stop(When.ATTEMPT)
        succession.arm(sa, now)
        self.attachment.settle(sa)
        self.emit(
            IkeSaEstablished(
                ike_id=sa.ike_id,
                spis=sa.spis,
                peer=sa.peer.name,
                remote_id=sa.remote_id,
                path=sa.path,
                is_initiator=sa.is_initiator,
                suite=ppk.negotiated(sa),
                behind_nat=sa.behind_nat,
                remote_behind_nat=sa.remote_behind_nat,
                resumed=resumed,
            )
        )
        # RFC 5723 §4.3.4: nor does the peer of a resumed SA still have the old one.
        is_alone = initial_contact or resumed
        # Who is sent elsewhere keeps what it has here until it has arrived there.
        if is_alone or not redirect.leaves(sa):
            self.identities.on_established(sa, now, initial_contact=is_alone)
        for extension in sa.extensions:
            extension.on_established(sa, now)

    def replace(self, old: IkeSa, new: IkeSa) -> None:
        """`new` is what the ike_id stands for from now on."""
        self._current[new.ike_id] = new
        self.children.inherit(new)

    def unlist(self, sa: IkeSa) -> None:
        """`sa`'s ike_id stands for nothing any more."""
        if self._current.get(sa.ike_id) is not sa:
            return
        del self._current[sa.ike_id]
        if sa.state is IkeState.ESTABLISHED:
            self._established -= 1
            self.identities.on_gone(sa)

    def forget(self, sa: IkeSa) -> None:
        """Drop every reference to `sa`."""
        self.unlist(sa)
        self.half_open.remove(sa)
        if self.predecessors.get(sa.ike_id) is sa:
            del self.predecessors[sa.ike_id]
        if self._by_spi.get(sa.local_spi) is sa:
            del self._by_spi[sa.local_spi]
        self._schedule.set(sa, None)

    def touch(self, sa: IkeSa) -> None:
        """The deadlines of `sa` may have changed."""
        self._schedule.set(sa, None if sa.state is IkeState.CLOSED else sa.next_timeout())
