"""A raw serial port and its TCP clients, as ser2net offers it.

Octets from the line are held until it has been silent for about two characters, so that a frame
leaves as one segment. Who comes to a port that is in use is told `Port already in use`, or takes
it over, as configured; before somebody is refused, the old client's machine has to show that it
is still there. A client that does not read fast enough is closed and never stalls the port.

With `framing = "line"` several writers are kept apart: only whole lines go to the port.
Left out: RFC 2217, the timestamped trace.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from agent.bridge.audit import write_record
from agent.bridge.devices import Busy, Framing, SerialConfig, Sharing
from agent.bridge.grants import Access, Peer
from agent.bridge.outputs import Audit, CloseClient, Probe, ResetLine, ToClient, ToLine

BUSY_TEXT = b"Port already in use\r\n"
CLOSED_TEXT = b"Port is not there\r\n"
GAP_CHARACTERS = 2
MIN_GAP = 0.001
MAX_GAP = 0.020
# A line that never falls silent is passed on at least this often, in pieces of this size.
MAX_HELD_OCTETS = 4096
MAX_HELD_SECONDS = 0.25
# What a client may leave unread before it is closed: half a minute at 19200 baud.
MAX_BACKLOG = 65536
PROBE_SECONDS = 4.0  # a living machine has answered a keepalive by then, over any sane path
MAX_NEWCOMERS = 4  # who waits for a probe to end
MAX_LINE = 1024  # octets of a text line of one writer; longer ones go on in pieces
LINE_SECONDS = 1.0  # the rest of a text line comes within this time, or goes on without

Output = ToLine | ToClient | CloseClient | ResetLine | Probe | Audit


@dataclass(slots=True, eq=False)
class _Client:
    client: int
    peer: Peer
    may_write: bool
    written: int = 0
    text: bytearray = field(default_factory=bytearray)
    text_deadline: float | None = None


class SerialHub:
    """Mutate once, drain `poll_output()`, sleep until `next_timeout()`. Times in seconds."""

    def __init__(self, config: SerialConfig) -> None:
        self._config = config
        character = config.line.character_seconds
        self._gap = min(max(GAP_CHARACTERS * character, MIN_GAP), MAX_GAP)
        self._clients: dict[int, _Client] = {}
        self._newcomers: dict[int, Peer] = {}
        self._probe_deadline: float | None = None
        self._held = bytearray()
        self._held_since = 0.0
        self._held_until: float | None = None
        self._is_open = False
        self._outputs: deque[Output] = deque()
        self.counters = {
            "from_line": 0,
            "to_line": 0,
            "refused": 0,
            "too_slow": 0,
            "not_written": 0,
        }

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def users(self) -> list[str]:
        """Names of the peers that have the port."""
        return sorted({client.peer.name for client in self._clients.values()})

    # The port

    def port_opened(self, now: float) -> None:
        """The port can be used from now on."""
        self._is_open = True

    def port_closed(self, now: float) -> None:
        """The port is gone: what it said is passed on, and its clients are told by the close."""
        self._is_open = False
        self._flush()
        for client in list(self._clients):
            self._close(client, "port closed")
        for client in list(self._newcomers):
            self._close(client, "port closed")

    def receive_line(self, data: bytes, now: float) -> None:
        """Octets from the port. Without clients they are nobody's."""
        self.counters["from_line"] += len(data)
        if not self._clients:
            return
        if not self._held:
            self._held_since = now
        self._held += data
        self._held_until = min(now + self._gap, self._held_since + MAX_HELD_SECONDS)
        if len(self._held) >= MAX_HELD_OCTETS:
            self._flush()

    # The clients

    def connect(self, client: int, peer: Peer, now: float) -> None:
        """A connection was accepted."""
        config = self._config
        if not Access(peer).may_connect(config):
            self._outputs.append(CloseClient(client, "not granted"))
        elif not self._is_open:
            self._outputs.append(ToClient(client, CLOSED_TEXT))
            self._outputs.append(CloseClient(client, "port closed"))
        elif config.sharing is not Sharing.EXCLUSIVE:
            if len(self._clients) < config.connections:
                self._admit(client, peer)
            else:
                self._refuse(client)
        elif not self._clients:
            self._admit(client, peer)
        elif config.busy is Busy.DROP:
            self._drop_all("taken over")
            self._admit(client, peer)
        else:
            self._wait_for_probe(client, peer, now)

    def disconnect(self, client: int, now: float) -> None:
        """The connection is gone."""
        self._newcomers.pop(client, None)
        left = self._clients.pop(client, None)
        if left is None:
            return
        if left.text:
            self._to_line(left, bytes(left.text))
        self._record_end(left)
        if not self._clients:
            self._held.clear()
            self._held_until = None
            self._admit_newcomer()

    def receive_client(self, client: int, data: bytes, now: float) -> None:
        """Octets from a connection: to the port, if this client may write."""
        sender = self._clients.get(client)
        if sender is None:
            return
        if not self._writes(sender):
            self.counters["not_written"] += len(data)
        elif self._config.framing is Framing.LINE:
            self._gather(sender, data, now)
        else:
            self._to_line(sender, data)

    def alive(self, client: int) -> None:
        """The probed client's machine has answered: newcomers are refused."""
        if client in self._clients and self._newcomers:
            for newcomer in list(self._newcomers):
                self._refuse(newcomer)
            self._newcomers.clear()
            self._probe_deadline = None

    def backlog(self, client: int, octets: int) -> None:
        """So much is waiting to be sent to the client."""
        if octets > MAX_BACKLOG and client in self._clients:
            self.counters["too_slow"] += 1
            self._close(client, "too slow")
            if not self._clients:
                self._admit_newcomer()

    def is_waiting(self, client: int) -> bool:
        """Whether the client waits for a probe to end: it should not be read before."""
        return client in self._newcomers

    # Time

    def next_timeout(self) -> float | None:
        """When `handle_timer` is wanted."""
        deadlines = [self._held_until, self._probe_deadline]
        deadlines += [client.text_deadline for client in self._clients.values()]
        return min((at for at in deadlines if at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """The line is silent, a text line stays unfinished, a probe stays unanswered."""
        if self._held_until is not None and self._held_until <= now:
            self._flush()
        for client in self._clients.values():
            if client.text_deadline is not None and client.text_deadline <= now:
                self._to_line(client, bytes(client.text))
                client.text.clear()
                client.text_deadline = None
        if self._probe_deadline is not None and self._probe_deadline <= now:
            self._drop_all("dead")
            self._admit_newcomer()

    def poll_output(self) -> Output | None:
        """The next thing to do, or None."""
        return self._outputs.popleft() if self._outputs else None

    # Within

    def _writes(self, client: _Client) -> bool:
        if self._config.sharing is Sharing.READERS:
            writers = (c for c in self._clients.values() if c.may_write)
            return client is next(writers, None)
        return client.may_write

    def _admit(self, client: int, peer: Peer) -> None:
        if not self._clients:
            self._outputs.append(ResetLine())
        self._clients[client] = _Client(client, peer, Access(peer).may_write_line(self._config))

    def _refuse(self, client: int) -> None:
        self.counters["refused"] += 1
        self._outputs.append(ToClient(client, BUSY_TEXT))
        self._outputs.append(CloseClient(client, "busy"))

    def _wait_for_probe(self, client: int, peer: Peer, now: float) -> None:
        if len(self._newcomers) >= MAX_NEWCOMERS:
            self._refuse(client)
            return
        self._newcomers[client] = peer
        if self._probe_deadline is None:
            self._probe_deadline = now + PROBE_SECONDS
            self._outputs.extend(Probe(old) for old in self._clients)

    def _admit_newcomer(self) -> None:
        """The port is free: the first who waits gets it, the others are refused."""
        self._probe_deadline = None
        waiting = list(self._newcomers.items())
        self._newcomers.clear()
        for index, (client, peer) in enumerate(waiting):
            if index == 0:
                self._admit(client, peer)
            else:
                self._refuse(client)

    def _drop_all(self, reason: str) -> None:
        for client in list(self._clients):
            self._close(client, reason)
        self._held.clear()
        self._held_until = None

    def _close(self, client: int, reason: str) -> None:
        left = self._clients.pop(client, None)
        self._newcomers.pop(client, None)
        self._outputs.append(CloseClient(client, reason))
        if left is not None:
            self._record_end(left)
        if not self._clients and not self._newcomers:
            self._probe_deadline = None

    def _flush(self) -> None:
        """Pass on what the line said, to everybody, as one piece."""
        data = bytes(self._held)
        self._held.clear()
        self._held_until = None
        if data:
            self._outputs.extend(ToClient(client, data) for client in self._clients)

    def _to_line(self, client: _Client, data: bytes) -> None:
        if not client.written:
            self._record(client, "", "writing begun")
        client.written += len(data)
        self.counters["to_line"] += len(data)
        self._outputs.append(ToLine(data))

    def _record_end(self, client: _Client) -> None:
        if client.written:
            self._record(client, f"{client.written} octets", "writing ended")

    def _record(self, client: _Client, new: str, result: str) -> None:
        """Octets on a raw port mean nothing here: who wrote, and how much, is what can be said."""
        record = write_record(
            peer=client.peer.name,
            device=self._config.name,
            point="",
            old=None,
            new=new,
            result=result,
        )
        self._outputs.append(Audit(record))

    def _gather(self, client: _Client, data: bytes, now: float) -> None:
        client.text += data
        end = max(client.text.rfind(b"\n"), client.text.rfind(b"\r")) + 1
        if end == 0 and len(client.text) >= MAX_LINE:
            end = len(client.text)
        if end:
            self._to_line(client, bytes(client.text[:end]))
            del client.text[:end]
        client.text_deadline = now + LINE_SECONDS if client.text else None
