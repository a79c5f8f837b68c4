"""The master of one Modbus RTU line: one request on the wire, the others wait their turn.

Modbus over Serial Line V1.02 §2.4 and §2.5, with the habits of mbusd: what the line has received is
thrown away before each request, a silent or garbled answer is asked for again `retries` times,
requests are `pause` apart, clients take turns. Identical reads in flight share one answer: a
write that ended before a read was asked for also ended before the read that it joins was sent.

    Idle ──submit──► Pausing ──► Waiting ──answer──► Idle
                        ▲           │ silence, bad CRC: again
                        └───────────┘
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from enum import Enum, auto

from agent.bridge.devices import BROADCAST_UNIT, ModbusConfig
from agent.bridge.modbus import (
    MAX_RTU_FRAME,
    MORE_OCTETS,
    UNKNOWN_LENGTH,
    ExceptionCode,
    answer_fits,
    answer_length,
    encode_frame,
    has_valid_crc,
    is_plain_read,
    is_repeatable,
)
from agent.bridge.outputs import ToLine
from agent.records import record

# Requests that wait, of all clients: more than the connections there may be, each with one, and
# some for points. At half a second each the last one has given up long before its turn.
MAX_WAITING = 300
# USB adapters hand over what they received every 16 ms: shorter silences end no frame there.
MIN_SILENCE = 0.02
SILENT_CHARACTERS = 3.5
# A line that never falls silent (noise, a second master) is given up this long after the answer
# should have been there; adapters that hand over octets in slow pieces need some of it.
BABBLE_SECONDS = 0.5
NO_ANSWER = -2  # beside the lengths: it begins with another unit or function
BROADCAST_TURNAROUND = 0.1  # §2.4.1: 100 to 200 ms for all slaves to do what they were told


class Failure(Enum):
    """Why there is no answer; the value is the exception that a gateway makes of it."""

    CLOSED = ExceptionCode.GATEWAY_PATH_UNAVAILABLE
    SILENT = ExceptionCode.GATEWAY_TARGET_FAILED_TO_RESPOND
    GARBLED = ExceptionCode.SERVER_DEVICE_FAILURE
    BUSY = ExceptionCode.SERVER_DEVICE_BUSY


@record(frozen=True, slots=True)
class Answer:
    """The end of one submitted request: the slave's PDU, or why there is none.

    A broadcast that was sent has neither.
    """

    ticket: int
    pdu: bytes = b""
    failure: Failure | None = None


class _State(Enum):
    CLOSED = auto()
    IDLE = auto()
    PAUSING = auto()
    WAITING = auto()


@dataclass(slots=True, eq=False)
class _Job:
    unit: int
    pdu: bytes
    tickets: dict[int, int] = field(default_factory=dict)  # ticket → client
    attempts: int = 0
    limit: float = 0.0  # when the line has had time enough, whatever it still says
    received: bytearray = field(default_factory=bytearray)


class RtuMaster:
    """Mutate once, drain `poll_output()`, sleep until `next_timeout()`. Times in seconds."""

    def __init__(self, config: ModbusConfig) -> None:
        self._config = config
        self._character = config.line.character_seconds
        self._silence = max(SILENT_CHARACTERS * self._character, MIN_SILENCE)
        self._state = _State.CLOSED
        self._deadline: float | None = None
        self._quiet_until = 0.0
        self._turns: OrderedDict[int, deque[_Job]] = OrderedDict()
        self._current: _Job | None = None
        self._last_client = 0
        self._last_ticket = 0
        self._outputs: deque[ToLine | Answer] = deque()
        self.counters = {"requests": 0, "silent": 0, "garbled": 0, "joined": 0, "unsolicited": 0}

    # Towards the line

    @property
    def is_open(self) -> bool:
        """Whether the port is there."""
        return self._state is not _State.CLOSED

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return sum(map(len, self._turns.values()))

    def port_opened(self, now: float) -> None:
        """The port can be used from now on."""
        self._state = _State.IDLE
        self._quiet_until = now
        self._start(now)

    def port_closed(self, now: float) -> None:
        """The port is gone: whatever waits fails at once."""
        jobs = [job for queue in self._turns.values() for job in queue]
        if self._current is not None:
            jobs.append(self._current)
        self._turns.clear()
        self._current = None
        self._state = _State.CLOSED
        self._deadline = None
        for job in jobs:
            self._finish(job, failure=Failure.CLOSED)

    def receive(self, data: bytes, now: float) -> None:
        """Octets from the line. Cannot fail."""
        job = self._current
        if self._state is not _State.WAITING or job is None:
            self.counters["unsolicited"] += len(data)
            return
        job.received += data[: MAX_RTU_FRAME + 1 - len(job.received)]
        length = self._expected(job)
        if length > 0 and len(job.received) >= length:
            frame = bytes(job.received[:length])
            if has_valid_crc(frame) and answer_fits(job.pdu, frame[1:-2]):
                self._end(job, now, pdu=frame[1:-2])
                return
        # Not whole yet, or wrong: then the line has to fall silent before anything is sent again.
        silence = now + self._silence
        is_whole = length > 0 and len(job.received) >= length
        if is_whole or length in (UNKNOWN_LENGTH, NO_ANSWER):
            self._deadline = min(silence, job.limit)
        elif self._deadline is not None:
            self._deadline = min(max(self._deadline, silence), job.limit)

    def _expected(self, job: _Job) -> int:
        """Octets of the whole frame; UNKNOWN_LENGTH, MORE_OCTETS or NO_ANSWER."""
        received = job.received
        if received[0] != job.unit or (len(received) > 1 and received[1] & 0x7F != job.pdu[0]):
            return NO_ANSWER
        length = answer_length(job.pdu, bytes(received[1:]))
        return length if length in (UNKNOWN_LENGTH, MORE_OCTETS) else length + 3

    # Towards the clients

    def submit(self, client: int, unit: int, pdu: bytes, now: float) -> int:
        """Ask `unit` (0: all of them); an `Answer` with the returned ticket will follow."""
        self._last_ticket += 1
        ticket = self._last_ticket
        if self._state is _State.CLOSED:
            self._outputs.append(Answer(ticket, failure=Failure.CLOSED))
            return ticket
        if self._join(ticket, client, unit, pdu):
            return ticket
        if self.waiting >= MAX_WAITING:
            self._outputs.append(Answer(ticket, failure=Failure.BUSY))
            return ticket
        self._turns.setdefault(client, deque()).append(_Job(unit, pdu, {ticket: client}))
        self._start(now)
        return ticket

    def _join(self, ticket: int, client: int, unit: int, pdu: bytes) -> bool:
        if not is_plain_read(pdu):
            return False
        jobs = [job for queue in self._turns.values() for job in queue]
        if self._current is not None:
            jobs.append(self._current)
        for job in jobs:
            if job.unit == unit and job.pdu == pdu and job.tickets:
                job.tickets[ticket] = client
                self.counters["joined"] += 1
                return True
        return False

    def cancel(self, client: int) -> None:
        """The client is gone: what only it waits for is not sent, or not again."""
        for job in [*(j for queue in self._turns.values() for j in queue), self._current]:
            if job is not None:
                for ticket in [t for t, owner in job.tickets.items() if owner == client]:
                    del job.tickets[ticket]
        for owner, queue in list(self._turns.items()):
            kept = deque(job for job in queue if job.tickets)
            if kept:
                self._turns[owner] = kept
            else:
                del self._turns[owner]

    # Time

    def next_timeout(self) -> float | None:
        """When `handle_timer` is wanted."""
        return self._deadline

    def handle_timer(self, now: float) -> None:
        """A pause, a wait for an answer or the silence after it is over."""
        if self._deadline is None or now < self._deadline:
            return
        self._deadline = None
        job = self._current
        if self._state is _State.PAUSING:
            self._state = _State.IDLE
            self._start(now)
        elif self._state is _State.WAITING and job is not None:
            self._on_silence(job, now)

    def poll_output(self) -> ToLine | Answer | None:
        """The next thing to do, or None."""
        return self._outputs.popleft() if self._outputs else None

    # Within

    def _start(self, now: float) -> None:
        """Send the next request if the line is free and has rested."""
        if self._state is not _State.IDLE or (self._current is None and not self._turns):
            return
        if now < self._quiet_until:
            self._state, self._deadline = _State.PAUSING, self._quiet_until
            return
        if self._current is None:
            if self._last_client in self._turns:
                self._turns.move_to_end(self._last_client)  # the others come first
            client, queue = next(iter(self._turns.items()))
            self._current = queue.popleft()
            self._last_client = client
            if not queue:
                del self._turns[client]
        self._send(self._current, now)

    def _send(self, job: _Job, now: float) -> None:
        job.attempts += 1
        job.received.clear()
        frame = encode_frame(job.unit, job.pdu)
        self.counters["requests"] += 1
        self._outputs.append(ToLine(frame, discard=True))
        sent = now + len(frame) * self._character
        if job.unit == BROADCAST_UNIT:
            self._end(job, now, rest=sent - now + max(BROADCAST_TURNAROUND, self._config.pause))
            return
        length = answer_length(job.pdu, b"\0")
        answer = (length if length > 0 else MAX_RTU_FRAME) * self._character
        self._state = _State.WAITING
        self._deadline = sent + self._config.response_timeout + answer
        job.limit = self._deadline + MAX_RTU_FRAME * self._character + BABBLE_SECONDS

    def _on_silence(self, job: _Job, now: float) -> None:
        frame = bytes(job.received)
        if self._ends_by_silence(job) and has_valid_crc(frame):
            self._end(job, now, pdu=frame[1:-2])
            return
        failure = Failure.GARBLED if frame else Failure.SILENT
        self.counters["garbled" if frame else "silent"] += 1
        again = is_repeatable(job.pdu) and job.attempts <= self._config.retries
        if again and job.tickets:
            self._state = _State.IDLE
            self._quiet_until = now + self._config.pause
            self._start(now)
        else:
            self._end(job, now, failure=failure)

    def _ends_by_silence(self, job: _Job) -> bool:
        return len(job.received) >= 4 and self._expected(job) == UNKNOWN_LENGTH

    def _end(
        self,
        job: _Job,
        now: float,
        *,
        pdu: bytes = b"",
        failure: Failure | None = None,
        rest: float | None = None,
    ) -> None:
        self._current = None
        self._state = _State.IDLE
        self._deadline = None
        self._quiet_until = now + (self._config.pause if rest is None else rest)
        self._finish(job, pdu=pdu, failure=failure)
        self._start(now)

    def _finish(self, job: _Job, *, pdu: bytes = b"", failure: Failure | None = None) -> None:
        for ticket in job.tickets:
            self._outputs.append(Answer(ticket, pdu, failure))
