"""Our engine in the test's own process, its socket in a namespace; it takes turns as a test says.

Datagrams in both directions wait in two lists. `run` passes everything on as it comes; `play` moves
one datagram per line of a script in the arrow notation of tests/support/pair.py, `us` and `them`:

    us --> them: CREATE_CHILD_SA? N(REKEY_SA) SA No TSi TSr
    us <-- them: CREATE_CHILD_SA? N(REKEY_SA) SA No TSi TSr

so that requests of both sides are on their way before either arrives. Repetitions of what has
waited or was moved already are dropped while a script is played. ESP passes at any time.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from agent.crypto.algorithms import IntegrityError
from agent.datagram import Address, Path, Received, Transmit
from agent.engine.engine import Engine
from agent.engine.events import Packets, ResolveWanted
from agent.ike.events import InstallChildSa
from agent.ike.states import IkeState
from agent.operations.leftovers import NETNS
from agent.wire.message import decode_header, decode_message, decode_payloads
from agent.wire.payloads import Encrypted
from tests.support.echoes import echo_reply, is_request
from tests.support.pair import Pair, seeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.engine.entries import PeerEntry
    from agent.ike.sa import IkeSa
    from agent.operations.lab import Namespace
    from agent.wire.message import Header, Message

T = TypeVar("T")
PORT = 4500
MARKER = bytes(4)
CLONE_NEWNET = 0x40000000


def socket_in(host: Namespace, port: int) -> socket.socket:
    """A UDP socket on `port` of every address of `host`; it stays in that namespace."""
    made: list[socket.socket] = []

    def make() -> None:  # a namespace is a thread's own
        descriptor = os.open(NETNS / host.full, os.O_RDONLY)
        try:
            assert ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) == 0
            made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        finally:
            os.close(descriptor)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    (found,) = made
    found.bind(("0.0.0.0", port))
    found.setblocking(False)
    return found


@dataclass(frozen=True)
class Waiting:
    """A datagram that waits since `at`; `ours`: we send it."""

    ours: bool
    path: Path
    data: bytes
    at: float

    @property
    def is_ike(self) -> bool:
        return self.data[:4] == MARKER


class Machine:
    """The engine, its socket and the clock of the kernel."""

    def __init__(
        self, host: Namespace, own: str, entry: PeerEntry, *, name: str, **options: object
    ) -> None:
        self.host = host
        self.entry = entry
        self.local = Address.parse(own, PORT)
        self.engine = Engine(
            random=seeded(name),
            proposals=entry.peer.proposals,
            enrol=lambda key, data: b"",
            **options,  # type: ignore[arg-type]
        )
        self.socket = socket_in(host, PORT)
        self.events: list[object] = []
        self.delivered: list[bytes] = []
        self.waiting: list[Waiting] = []
        self.moved: list[str] = []
        self._seen: set[bytes] = set()
        self._asked: tuple[bytes, int] | None = None
        self._taken: list[Header] = []
        self._protections: dict[bytes, list] = {}
        self.installed: dict[str, InstallChildSa] = {}  # by our SPI in hex, all that ever were
        self.ike.emit = self._noting(self.ike.emit)
        now = time.monotonic()
        self.engine.set_local_addresses([self.local], now)
        self.engine.set_peers([entry], now)

    def _noting(self, emit: Callable[[object], None]) -> Callable[[object], None]:
        def note(output: object) -> None:
            if isinstance(output, InstallChildSa):
                self.installed[output.spi_in.hex()] = output
            emit(output)

        return note

    def close(self) -> None:
        self.socket.close()

    def of(self, kind: type[T]) -> list[T]:
        """The events of a class."""
        return [e for e in self.events if isinstance(e, kind)]

    # -- its state -------------------------------------------------------------------------------

    @property
    def ike(self):
        """The IKE engine."""
        return self.engine._ike

    @property
    def sas(self) -> list[IkeSa]:
        """The established ones."""
        return [sa for sa in self.ike.sas() if sa.state is IkeState.ESTABLISHED]

    @property
    def sa(self) -> IkeSa:
        """The only one."""
        (sa,) = self.sas
        return sa

    def spis(self) -> set[tuple[str, str]]:
        """Our and the peer's SPI of each Child SA, in hex."""
        return {
            (child.spi_in.hex(), child.spi_out.hex())
            for sa in self.sas
            for child in (sa.children or {}).values()
        }

    # -- driving ---------------------------------------------------------------------------------

    def now(self) -> float:
        return time.monotonic()

    def run(self, until: Callable[[], bool], seconds: float = 5.0, *, delay: float = 0.0) -> bool:
        """Pass on everything that waits and comes, until something is so; whether it was.

        `delay`: how many seconds it is on its way, in either direction.
        """
        deadline = time.monotonic() + seconds
        while True:
            self._seen.clear()  # what is repeated counts
            self._turn(min(deadline, time.monotonic() + 0.02))
            while self.waiting and self.waiting[0].at + delay <= time.monotonic():
                self._move(self.waiting.pop(0))
                self._collect()
            if until():
                return True
            if time.monotonic() > deadline:
                return False

    def play(self, script: str, seconds: float = 5.0) -> None:
        """Move one datagram per line, each as soon as it is there."""
        for line in filter(None, map(str.strip, script.splitlines())):
            arrow, _, expected = line.partition(": ")
            ours, lost = ">" in arrow or "--x" in arrow, "x" in arrow.split()[1]
            deadline = time.monotonic() + seconds
            words = " ".join(expected.split())
            while (found := self._find(ours, words)) is None or (ours and not self._answered()):
                said = [f"{'-->' if w.ours else '<--'} {self.describe(w)}" for w in self.waiting]
                assert time.monotonic() < deadline, (line, "waiting", said, "moved", self.moved)
                self._turn(min(deadline, time.monotonic() + 0.02))
                self._pass_esp()
            self.waiting.remove(found)
            if not lost:
                self._move(found)
                header = decode_header(found.data[4:])
                if ours and not header.is_response:
                    self._asked = header.spis, header.message_id
            self._collect()

    def _answered(self) -> bool:
        """Whether our last request is: strongSwan's threads do not keep the order of two."""
        headers = [decode_header(w.data[4:]) for w in self.waiting if w.is_ike and not w.ours]
        headers += self._taken
        return self._asked is None or any(
            h.is_response and (h.spis, h.message_id) == self._asked for h in headers
        )

    def hold(self, *expected: str) -> None:
        """Wait until these are there ("--> …" or "<-- …") and leave them waiting."""
        deadline = time.monotonic() + 5
        for text in expected:
            arrow, _, words = text.partition(" ")
            while self._find(arrow == "-->", words) is None:
                said = [self.describe(w) for w in self.waiting]
                assert time.monotonic() < deadline, (text, said)
                self._turn(min(deadline, time.monotonic() + 0.02))
                self._pass_esp()

    def do(self, verb: Callable[[float], object]) -> None:
        """Call the engine; what comes of it waits."""
        verb(time.monotonic())
        self.engine._settle(time.monotonic())
        self._collect()

    def _find(self, ours: bool, words: str) -> Waiting | None:
        return next((w for w in self.waiting if w.ours is ours and self.describe(w) == words), None)

    def _pass_esp(self) -> None:
        for one in [w for w in self.waiting if not w.is_ike]:
            self.waiting.remove(one)
            self._move(one)
        self._collect()

    def _move(self, one: Waiting) -> None:
        if one.is_ike:
            self.moved.append(f"us {'-->' if one.ours else '<--'} them: {self.describe(one)}")
        if one.ours:
            self.socket.sendto(one.data, (one.path.remote.host, one.path.remote.port))
        else:
            if one.is_ike:
                self._taken.append(decode_header(one.data[4:]))
            self.engine.receive_datagrams([Received(one.path, one.data)], time.monotonic())

    def _turn(self, until: float) -> None:
        """Wait for the socket or a deadline, once."""
        self._collect()
        timeout = self.engine.next_timeout()
        wait = min(until, timeout if timeout is not None else until) - time.monotonic()
        readable, _, _ = select.select([self.socket], [], [], max(0.0, wait))
        now = time.monotonic()
        while readable:
            try:
                data, (host, port) = self.socket.recvfrom(65535)
            except BlockingIOError:
                break
            self._wait(Waiting(False, Path(self.local, Address.parse(host, port)), data, now))
        if timeout is not None and timeout <= now:
            self.engine.handle_timer(now)
        self._collect()

    def _wait(self, one: Waiting) -> None:
        if one.data in self._seen and one.is_ike:
            return  # repeated by who waits for an answer; it waits here, or has been moved
        self._seen.add(one.data)
        self.waiting.append(one)

    def _collect(self) -> None:
        for spi, sa in self.ike._by_spi.items():
            known = self._protections.setdefault(spi, [])
            if sa.protection is not None and sa.protection not in known:
                known.append(sa.protection)
        while (output := self.engine.poll_output()) is not None:
            match output:
                case Transmit(path=path, data=data):
                    self._wait(Waiting(True, path, data, time.monotonic()))
                case ResolveWanted(key=key):
                    remote = Address.parse(self.entry.host, PORT)
                    self.engine.resolved(key, [Path(self.local, remote)], time.monotonic())
                case Packets(writes=writes):
                    for packet in (b"".join(w) for w in writes):
                        self.delivered.append(packet)
                        if is_request(packet):
                            self.engine.receive_packets([echo_reply(packet)], time.monotonic())
                case _:
                    self.events.append(output)

    # -- looking ---------------------------------------------------------------------------------

    def describe(self, one: Waiting) -> str:
        """One line about a datagram."""
        if not one.is_ike:
            return "ESP"
        return Pair.describe(self, one.ours, one.data[4:])  # type: ignore[arg-type]

    def message(self, ours: bool, data: bytes) -> Message:
        """Decrypted. Raises KeyError, as `Pair.message` does."""
        message = decode_message(data)
        encrypted = message.first(Encrypted)
        if encrypted is None:
            return message
        spis = message.header.spis
        own = spis[:8] if message.header.is_initiator is ours else spis[8:]
        for protection in self._protections.get(own, ()):
            cipher = protection._outbound if ours else protection._inbound
            body, iv = encrypted.body, cipher.iv_length
            try:
                inner = cipher.open(body[:iv], body[iv:], encrypted.aad)
            except IntegrityError:
                continue
            inner = inner[: len(inner) - 1 - inner[-1]]
            return replace(message, payloads=decode_payloads(encrypted.first_inner, inner))
        raise KeyError(own)
