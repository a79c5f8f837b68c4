"""Modbus TCP clients of one RTU line (MODBUS Messaging on TCP/IP V1.0b, §3 and §4.2).

One request of each connection is outstanding; what else it sent waits in its buffer. Transaction
id and unit are echoed. What a peer may do is decided on the octets that the master then forwards.

    not granted, or not to these registers    exception 0x01 or 0x02
    outside of a point's limits               exception 0x03: no role lifts these
    unit not on the allow-list                exception 0x0A, as is a port that is gone
    silent slave, garbled answer              exceptions 0x0B and 0x04
    unit 0                                    sent if allowed, and no reply
    protocol id not 0, impossible length      the connection is closed: nothing after it has meaning

Left out: UDP, and unit 255 or 248 to 254 as the gateway itself (it has no registers).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from agent.bridge.audit import write_record
from agent.bridge.devices import BROADCAST_UNIT, ModbusConfig
from agent.bridge.grants import Access, Peer
from agent.bridge.master import Answer, Failure, RtuMaster
from agent.bridge.modbus import (
    MAX_PDU,
    Effect,
    ExceptionCode,
    Request,
    RequestError,
    exception_pdu,
    parse_request,
)
from agent.bridge.outputs import Audit, CloseClient, ToClient
from agent.bridge.points import check_raw_write
from agent.records import record
from agent.timers import Schedule

MBAP_LENGTH = 7
MAX_ADU = MBAP_LENGTH + MAX_PDU
# What a connection may send ahead while one request is outstanding; then it is not read.
MAX_BUFFER = 4 * MAX_ADU


@record(frozen=True, slots=True)
class _Pending:
    """The request that a connection waits for."""

    transaction: bytes
    unit: int
    pdu: bytes
    request: Request | None


@dataclass(slots=True, eq=False)
class _Session:
    client: int
    peer: Peer
    access: Access
    buffer: bytearray = field(default_factory=bytearray)
    pending: _Pending | None = None
    is_gone: bool = False


class ModbusGateway:
    """Mutate once, drain `poll_output()` and the master's outputs, sleep until the deadline.

    The driver hands every `Answer` of the master to `on_answer` first.
    """

    def __init__(self, config: ModbusConfig, master: RtuMaster) -> None:
        self._config = config
        self._master = master
        self._sessions: dict[int, _Session] = {}
        self._tickets: dict[int, _Session] = {}
        self._idle: Schedule[int] = Schedule()
        self._outputs: deque[ToClient | CloseClient | Audit] = deque()

    def __len__(self) -> int:
        return len(self._sessions)

    def connect(self, client: int, peer: Peer, now: float) -> None:
        """A connection was accepted; it is closed again at once if it may not be."""
        access = Access(peer)
        if not access.may_connect(self._config):
            self._outputs.append(CloseClient(client, "not granted"))
        elif len(self._sessions) >= self._config.connections:
            self._outputs.append(CloseClient(client, "too many connections"))
        else:
            self._sessions[client] = _Session(client, peer, access)
            self._idle.set(client, now + self._config.idle_timeout)

    def disconnect(self, client: int) -> None:
        """The connection is gone. A write that waits is still done and recorded."""
        session = self._sessions.pop(client, None)
        if session is None:
            return
        self._idle.set(client, None)
        session.is_gone = True
        pending = session.pending
        if pending is not None and _is_read(pending):
            self._master.cancel(client)
            self._tickets = {t: s for t, s in self._tickets.items() if s is not session}

    def is_full(self, client: int) -> bool:
        """Whether the connection has sent enough ahead and should not be read for now."""
        session = self._sessions.get(client)
        return session is not None and len(session.buffer) >= MAX_BUFFER

    def receive(self, client: int, data: bytes, now: float) -> None:
        """Octets from a connection. Cannot fail."""
        session = self._sessions.get(client)
        if session is None:
            return
        session.buffer += data
        self._idle.set(client, now + self._config.idle_timeout)
        self._advance(session, now)

    def on_answer(self, answer: Answer, now: float) -> bool:
        """Whether the answer was to a request of this gateway."""
        session = self._tickets.pop(answer.ticket, None)
        if session is None:
            return False
        pending = session.pending
        assert pending is not None
        session.pending = None
        self._record_answer(session, pending, answer)
        if not session.is_gone:
            self._idle.set(session.client, now + self._config.idle_timeout)
            if answer.failure is not None:
                self._reply(session, pending, exception_pdu(pending.pdu[0], answer.failure.value))
            elif pending.unit != BROADCAST_UNIT:
                self._reply(session, pending, answer.pdu)
            self._advance(session, now)
        return True

    def next_timeout(self) -> float | None:
        """When a connection has been idle for too long."""
        return self._idle.next_deadline()

    def handle_timer(self, now: float) -> None:
        """Close what is idle; who waits for an answer is not."""
        for client in self._idle.expired(now):
            if self._sessions[client].pending is not None:
                self._idle.set(client, now + self._config.idle_timeout)
            else:
                self._close(client, "idle")

    def poll_output(self) -> ToClient | CloseClient | Audit | None:
        """The next thing to do, or None."""
        return self._outputs.popleft() if self._outputs else None

    # Within

    def _close(self, client: int, reason: str) -> None:
        self.disconnect(client)
        self._outputs.append(CloseClient(client, reason))

    def _advance(self, session: _Session, now: float) -> None:
        """Take requests out of the buffer until one is outstanding."""
        buffer = session.buffer
        while session.pending is None and len(buffer) >= MBAP_LENGTH:
            length = int.from_bytes(buffer[4:6], "big")
            if buffer[2:4] != b"\0\0" or not 2 <= length <= MAX_PDU + 1:
                self._close(session.client, "not Modbus TCP")
                return
            if len(buffer) < 6 + length:
                return
            pdu = bytes(buffer[MBAP_LENGTH : 6 + length])
            transaction, unit = bytes(buffer[:2]), buffer[6]
            del buffer[: 6 + length]
            self._on_request(session, transaction, unit, pdu, now)

    def _on_request(
        self, session: _Session, transaction: bytes, unit: int, pdu: bytes, now: float
    ) -> None:
        pending = _Pending(transaction, unit, pdu, None)
        try:
            request = parse_request(pdu)
            pending = _Pending(transaction, unit, pdu, request)
            self._authorise(session, unit, request)
        except RequestError as error:
            self._record_refusal(session, pending, str(error))
            self._reply(session, pending, exception_pdu(pdu[0], error.code))
            return
        session.pending = pending
        self._tickets[self._master.submit(session.client, unit, pdu, now)] = session

    def _authorise(self, session: _Session, unit: int, request: Request) -> None:
        """Raises RequestError with the exception that refuses the request."""
        config = self._config
        if unit == BROADCAST_UNIT:
            if request.effect is not Effect.WRITE or not config.broadcast:
                raise RequestError(ExceptionCode.GATEWAY_PATH_UNAVAILABLE, "broadcast not allowed")
        elif not config.serves(unit):
            raise RequestError(ExceptionCode.GATEWAY_PATH_UNAVAILABLE, "unit not allowed")
        if request.effect is Effect.READ:
            return
        written = request.written
        if not session.access.may_write_raw(config, written):
            raise RequestError(ExceptionCode.ILLEGAL_FUNCTION, "not granted")
        allowed = config.raw_write_registers
        if allowed and not _is_within(written, allowed):
            raise RequestError(ExceptionCode.ILLEGAL_DATA_ADDRESS, "registers not allowed")
        if written is not None:
            text = check_raw_write(config.points, unit, request)
            if text:
                raise RequestError(ExceptionCode.ILLEGAL_DATA_VALUE, text)

    def _reply(self, session: _Session, pending: _Pending, pdu: bytes) -> None:
        head = pending.transaction + b"\0\0" + (len(pdu) + 1).to_bytes(2, "big")
        data = head + bytes((pending.unit,)) + pdu
        self._outputs.append(ToClient(session.client, data))

    def _record_answer(self, session: _Session, pending: _Pending, answer: Answer) -> None:
        if _is_read(pending):
            return
        if answer.failure is Failure.SILENT:
            result = "no answer"
        elif answer.failure is not None:
            result = answer.failure.name.lower()
        elif answer.pdu and answer.pdu[0] & 0x80:
            result = f"exception {answer.pdu[1]}"
        else:
            result = "sent" if pending.unit == BROADCAST_UNIT else "ok"
        self._record(session, pending, result)

    def _record_refusal(self, session: _Session, pending: _Pending, reason: str) -> None:
        if pending.request is None or pending.request.effect is Effect.WRITE:
            self._record(session, pending, f"refused: {reason}")

    def _record(self, session: _Session, pending: _Pending, result: str) -> None:
        request = pending.request
        record = write_record(
            peer=session.peer.name,
            device=self._config.name,
            point="",
            old=None,
            new=(request.values if request and request.values else pending.pdu[1:]).hex(),
            result=result,
        )
        record["unit"] = pending.unit
        record["function"] = pending.pdu[0]
        if request is not None and request.written is not None:
            record["registers"] = [request.written.start, request.written.stop - 1]
        self._outputs.append(Audit(record))


def _is_read(pending: _Pending) -> bool:
    return pending.request is not None and pending.request.effect is Effect.READ


def _is_within(written: range | None, allowed: tuple[range, ...]) -> bool:
    if written is None:
        return False
    return all(any(cell in span for span in allowed) for cell in written)
