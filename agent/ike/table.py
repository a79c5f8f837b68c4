"""The whole of IKEv2 behind a few verbs: SPI lookup, half-open SAs, uniqueness, timers.

RFC 7296 §2.4 (INITIAL_CONTACT), §2.5 (versions), §2.6, §2.21.4. Lookups are in tables keyed by
octets and one heap holds a deadline for each SA, so what a packet costs does not depend on how many
SAs there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from agent.crypto.kex import KeyExchange, generate_key_exchange
from agent.datagram import Dropped, Transmit
from agent.ike import (
    crash,
    create_child_sa,
    ike_sa_init,
    inbound,
    informational,
    ppk,
    reauthentication,
    rekey_ike,
    succession,
)
from agent.ike.cookies import (
    COOKIES_IN_ALL,
    COOKIES_PER_ADDRESS,
    STRAY_ANSWERS_IN_ALL,
    STRAY_ANSWERS_PER_ADDRESS,
    AnswerRate,
    Cookies,
)
from agent.ike.errors import Ignored
from agent.ike.events import CloseReason, IkeSaEstablished
from agent.ike.half_open import HalfOpen
from agent.ike.identities import Identities
from agent.ike.liveness import Liveness
from agent.ike.natd import NatDetection
from agent.ike.sa import IkeSa
from agent.ike.settings import IkeSettings
from agent.ike.states import IkeState, Step, When
from agent.timers import Schedule
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.errors import WireError
from agent.wire.message import MAJOR_VERSION, Header, decode_header, encode_message
from agent.wire.payloads import NotifyPayload

if TYPE_CHECKING:
    from agent.datagram import Address, Path
    from agent.ike.child import ChildSa
    from agent.ike.events import Output
    from agent.ike.extension import Extension, Factory
    from agent.ike.pad import Pad, Peer
    from agent.wire.message import Message
    from agent.wire.payloads import Payload

Random = Callable[[int], bytes]
OnResponse = Callable[["Message | None", float], None]
KeyExchangeFactory = Callable[[int, Random], KeyExchange]

__all__ = ["Ike", "IkeSettings", "OnResponse", "Random"]

NO_SPI: Final = bytes(8)
# RFC 4303 §2.1: SPIs up to 255 are reserved.
_LOWEST_CHILD_SPI: Final = 256


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
        key_exchange: KeyExchangeFactory = generate_key_exchange,
    ) -> None:
        """`extensions` are made for every IKE SA, whoever begins (then without a message).

        `tokens`: quick crash detection is done with these.
        """
        self.pad = pad
        self.random = random
        self.settings = settings or IkeSettings()
        self.half_open = HalfOpen(self.settings)
        self.cookies = Cookies(random, self.settings.cookie_rotation)
        self.cookie_rate = AnswerRate(COOKIES_PER_ADDRESS, COOKIES_IN_ALL)
        self._version_rate = AnswerRate(1, 1)
        self._stray_rate = AnswerRate(STRAY_ANSWERS_PER_ADDRESS, STRAY_ANSWERS_IN_ALL)
        self._esp_rate = AnswerRate(STRAY_ANSWERS_PER_ADDRESS, STRAY_ANSWERS_IN_ALL)
        self._factories = tuple(responder_extensions)
        self._tokens = tokens
        self._always = (
            ppk.attach,
            reauthentication.attach,
            *extensions,
            *((tokens.attach,) if tokens is not None else ()),
        )
        self._key_exchange = key_exchange
        self._natd = NatDetection(random, force=self.settings.force_encapsulation)
        self._next_id = 1
        self._current: dict[int, IkeSa] = {}
        self._by_spi: dict[bytes, IkeSa] = {}
        self.predecessors: dict[int, IkeSa] = {}  # the last one that was replaced
        self.identities = Identities()
        self._children: dict[bytes, IkeSa] = {}
        self._spis_out: dict[bytes, bytes] = {}  # → spi_in
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
        """
        sa = self.new_sa(IkeState.INIT_SENT, path, is_initiator=True, started_by_us=True)
        sa.peer = peer
        self._attach(sa, [*extensions, *self._made(self._always, sa, None)])
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
            sa.close(CloseReason.DELETED if established else CloseReason.ABORTED, "", now)
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

    def create_child(self, ike_id: int, now: float) -> None:
        """Ask for a (further) Child SA as the peer's policy has it."""
        sa = self._current.get(ike_id)
        if sa is not None and sa.state is IkeState.ESTABLISHED:
            sa.submit(create_child_sa.CreateChild(), now)
            self.touch(sa)

    def rekey_child(self, spi_in: bytes, now: float) -> None:
        """Rekey the Child SA with our SPI `spi_in` now."""
        sa, child = self._child(spi_in)
        if sa is not None and child is not None:
            child.rekey_at = None
            sa.submit(create_child_sa.RekeyChild(child), now)
            self.touch(sa)

    def delete_child(self, spi_in: bytes, now: float) -> None:
        """Delete the Child SA with our SPI `spi_in`."""
        self._delete_child(spi_in, CloseReason.DELETED, "", now)

    def expire_child(self, spi_in: bytes, hard: bool, now: float) -> None:
        """The data plane reached a limit of octets or packets: rekey (soft) or delete (hard)."""
        if hard:
            detail = "the limit of octets or packets is reached"
            self._delete_child(spi_in, CloseReason.REKEY_FAILED, detail, now)
        else:
            self.rekey_child(spi_in, now)

    def _delete_child(self, spi_in: bytes, reason: CloseReason, detail: str, now: float) -> None:
        sa, child = self._child(spi_in)
        if sa is not None and child is not None:
            sa.submit(informational.DeleteChild(child, reason, detail), now)
            self.touch(sa)

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
        octets = crash.encode_invalid_spi(data[:4])
        fits = len(octets) <= ike_sa_init.MAX_AMPLIFICATION * len(data)
        if fits and self._esp_rate.take(path.remote.ip, now):
            self.emit(Transmit(path, octets))

    def on_invalid_spi(self, path: Path, data: bytes, now: float) -> bool:
        """Perhaps an unprotected INVALID_SPI, in which IKE SPIs mean nothing. Whether it was."""
        spi = crash.decode_invalid_spi(data)
        if spi is None:
            return False
        sa, child = self._child(self._spis_out.get(spi, b""))
        if sa is not None and child is not None and child.spi_out == spi:
            self._on_hint(sa, path, data, now)
            self.touch(sa)
        self.emit(Dropped("not_encrypted"))
        return True

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
            self._on_other_version(path, header, data, now)
            return
        is_first = header.exchange == ExchangeType.IKE_SA_INIT and not header.is_response
        if is_first and header.responder_spi == NO_SPI and header.is_initiator:
            ike_sa_init.on_request(self, path, header, data, now)
            return
        own = header.responder_spi if header.is_initiator else header.initiator_spi
        sa = self._by_spi.get(own)
        if sa is None:
            theirs = header.initiator_spi if header.is_initiator else header.responder_spi
            if theirs in self._by_spi:
                raise Ignored("reflected")  # our own message, sent back
            self._on_stray(path, header, data, now)
            return
        try:
            if self._is_hint(sa, header):
                self._on_hint(sa, path, data, now)
                raise Ignored("not_encrypted")
            inbound.receive(sa, path, header, data, now)
        finally:
            self.touch(sa)

    def _is_hint(self, sa: IkeSa, header: Header) -> bool:
        """An unprotected answer from one who has forgotten us, or a forgery (§1.5, §2.21.4)."""
        if not header.is_response or header.exchange == ExchangeType.IKE_SA_INIT:
            return False
        theirs = header.initiator_spi + header.responder_spi == sa.spis
        return theirs and sa.established and header.next_payload == NotifyPayload.TYPE

    def _on_hint(self, sa: IkeSa, path: Path, data: bytes, now: float) -> None:
        """Without a proof (RFC 6290) it leads to a question and no more."""
        if self._tokens is not None and self._tokens.proves_crash(sa, path, data, now):
            sa.close(CloseReason.RESTARTED, "", now)
        else:
            sa.hint(now)

    def _on_other_version(self, path: Path, header: Header, data: bytes, now: float) -> None:
        """RFC 7296 §2.5: a higher major version is told that 2 is what we have."""
        if header.major < MAJOR_VERSION or header.is_response:
            raise Ignored("version")
        if self._version_rate.take(path.remote.ip, now):
            self._answer_stray(path, header, data, NotifyType.INVALID_MAJOR_VERSION)
        raise Ignored("version")

    def _on_stray(self, path: Path, header: Header, data: bytes, now: float) -> None:
        """RFC 7296 §2.21.4: nobody here has this SPI, the sender may be glad to know."""
        if not header.is_response and header.exchange != ExchangeType.IKE_SA_INIT:
            spis = header.initiator_spi + header.responder_spi
            known = NO_SPI not in (spis[:8], spis[8:])
            if known and self._stray_rate.take(path.remote.ip, now):
                self._answer_stray(path, header, data, NotifyType.INVALID_IKE_SPI)
        raise Ignored("unknown_spi")

    def _answer_stray(self, path: Path, header: Header, data: bytes, notify: int) -> None:
        """No more octets than may go to whom has proven nothing."""
        answer = Header(
            initiator_spi=header.initiator_spi,
            responder_spi=header.responder_spi,
            exchange=header.exchange,
            is_initiator=not header.is_initiator,
            is_response=True,
            message_id=header.message_id,
        )
        payloads: list[Payload] = [NotifyPayload(notify)]
        if notify == NotifyType.INVALID_IKE_SPI and self._tokens and crash.is_protected(header):
            # Neither SPI is in use here (`_receive`), so nobody's living SA ends by it.
            payloads.append(self._tokens.notify(header.initiator_spi + header.responder_spi))
        while payloads:
            octets = encode_message(answer, payloads)
            if len(octets) <= ike_sa_init.MAX_AMPLIFICATION * len(data):
                self.emit(Transmit(path, octets))
                return
            payloads.pop()

    # -- for the files of the exchanges ----------------------------------------------------------

    def emit(self, output: Output) -> None:
        """Queue an output."""
        self._outputs.append(output)

    def key_exchange(self, group: int) -> KeyExchange:
        """Our half of a key exchange."""
        return self._key_exchange(group, self.random)

    def new_spi(self) -> bytes:
        """An IKE SPI that is not in use here; never zero (RFC 7296 §3.1)."""
        while True:
            spi = self.random(8)
            if spi != NO_SPI and spi not in self._by_spi:
                return spi

    def new_child_spi(self) -> bytes:
        """An ESP SPI that is not in use here."""
        while True:
            spi = self.random(4)
            if int.from_bytes(spi, "big") >= _LOWEST_CHILD_SPI and spi not in self._children:
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

    def _attach(self, sa: IkeSa, extensions: Sequence[Extension]) -> None:
        sa.extensions = (self._natd, *extensions)
        for extension in extensions:
            extension.on_attach(sa)

    def attach_responder_extensions(self, sa: IkeSa, message: Message) -> None:
        """What the factories make of an acceptable IKE_SA_INIT request."""
        self._attach(sa, self._made((*self._factories, *self._always), sa, message))

    @staticmethod
    def _made(factories: Sequence[Factory], sa: IkeSa, message: Message | None) -> list[Extension]:
        made = (factory(sa, message) for factory in factories)
        return [extension for extension in made if extension is not None]

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
        sa.handshake = None
        sa.established_at = now
        sa.timers.stop(When.HALF_OPEN)
        sa.timers.stop(When.ATTEMPT)
        succession.arm(sa, now)
        live = Liveness(sa.peer.liveness_seconds) if sa.peer.liveness_seconds else None
        sa.extensions = tuple(e for e in (*sa.extensions, live) if e and e is not self._natd)
        self.emit(
            IkeSaEstablished(
                ike_id=sa.ike_id,
                spis=sa.spis,
                peer=sa.peer.name,
                remote_id=sa.remote_id,
                path=sa.path,
                is_initiator=sa.is_initiator,
                suite=sa.suite.text + (" + PPK" if (use := ppk.use_of(sa)) and use.mixed else ""),
                behind_nat=sa.behind_nat,
                remote_behind_nat=sa.remote_behind_nat,
            )
        )
        self.identities.on_established(sa, now, initial_contact=initial_contact)
        for extension in sa.extensions:
            extension.on_established(sa, now)

    def replace(self, old: IkeSa, new: IkeSa) -> None:
        """`new` is what the ike_id stands for from now on."""
        self._current[new.ike_id] = new
        for child in (new.children or {}).values():
            self._children[child.spi_in] = new

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

    def add_child(self, sa: IkeSa, child: ChildSa) -> None:
        """A Child SA was installed."""
        if sa.children is None:
            sa.children = {}
        sa.children[child.spi_in] = child
        self._children[child.spi_in] = sa
        self._spis_out[child.spi_out] = child.spi_in

    def forget_child(self, child: ChildSa) -> None:
        """A Child SA was removed."""
        self._children.pop(child.spi_in, None)
        if self._spis_out.get(child.spi_out) == child.spi_in:
            del self._spis_out[child.spi_out]

    def _child(self, spi_in: bytes) -> tuple[IkeSa | None, ChildSa | None]:
        sa = self._children.get(spi_in)
        return sa, sa.children.get(spi_in) if sa is not None and sa.children else None
