"""A Modbus line in virtual time: what the sessions send, and the answers that a test decides on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agent.bridge.devices import LineConfig, ModbusConfig, NumberType, PointConfig
from agent.bridge.gateway import ModbusGateway
from agent.bridge.master import Answer, RtuMaster
from agent.bridge.outputs import Audit, CloseClient, ToClient, ToLine
from agent.operations.controller import Controller

if TYPE_CHECKING:
    from collections.abc import Callable

SETPOINT = PointConfig(
    name="setpoint", register=0, scale=0.1, unit="°C", writable=True, min=5, max=30
)
PRESSURE = PointConfig(
    name="limit", register=10, type=NumberType.FLOAT32, writable=True, min=0.5, max=3
)
CONFIG = ModbusConfig(
    name="boiler",
    line=LineConfig(port="/dev/ttyUSB0"),
    units=frozenset({1, 2}),
    points=(SETPOINT, PRESSURE),
)


def config(**changes: object) -> ModbusConfig:
    return replace(CONFIG, **changes)  # type: ignore[arg-type]


class Line:
    """Master and gateway joined to a controller; `answer` may be replaced by a test."""

    def __init__(self, made: ModbusConfig = CONFIG) -> None:
        self.now = 100.0
        self.master = RtuMaster(made)
        self.gateway = ModbusGateway(made, self.master)
        self.controller = Controller()
        self.answer: Callable[[bytes], bytes] = self.controller.answer
        self.sent: list[tuple[float, bytes]] = []
        self.answers: list[Answer] = []
        self.to_clients: list[tuple[int, bytes]] = []
        self.closed: list[tuple[int, str]] = []
        self.records: list[dict[str, object]] = []
        self.master.port_opened(self.now)

    def drain(self) -> list[bytes]:
        """Carry out outputs; the frames that went to the line."""
        frames = []
        while True:
            match self.master.poll_output() or self.gateway.poll_output():
                case None:
                    return frames
                case ToLine(data, discard):
                    assert discard
                    self.sent.append((self.now, data))
                    frames.append(data)
                case Answer() as answer:
                    if not self.gateway.on_answer(answer, self.now):
                        self.answers.append(answer)
                case ToClient(client, data):
                    self.to_clients.append((client, data))
                case CloseClient(client, reason):
                    self.closed.append((client, reason))
                case Audit(record):
                    self.records.append(record)

    def step(self) -> bool:
        """Jump to the next deadline."""
        deadlines = (self.master.next_timeout(), self.gateway.next_timeout())
        at = min((d for d in deadlines if d is not None), default=None)
        if at is None:
            return False
        self.now = max(self.now, at)
        self.master.handle_timer(self.now)
        self.gateway.handle_timer(self.now)
        return True

    def run(self, seconds: float = 10) -> None:
        """Let the controller answer whatever is sent, for so long at most."""
        end = self.now + seconds
        while True:
            while frames := self.drain():
                for frame in frames:
                    if answer := self.answer(frame):
                        self.master.receive(answer, self.now)
            if self.master.next_timeout() is None:
                return
            if self.now > end or not self.step():
                return


def adu(transaction: int, unit: int, pdu: bytes) -> bytes:
    return (
        transaction.to_bytes(2, "big")
        + b"\0\0"
        + (len(pdu) + 1).to_bytes(2, "big")
        + bytes((unit,))
        + pdu
    )
