"""A simulated heating controller that speaks Modbus RTU on a pseudo-terminal.

    python -m agent.operations.controller --link /tmp/boiler --dump /tmp/boiler.json

prints one line of JSON, {"port": "/dev/pts/5", "pid": 1234}, and answers until SIGTERM. SIGUSR1
writes its register memory to the dump file (to a new file that takes the old one's place), so
that others can see what really stands there without asking over Modbus. The flow temperature
follows the setpoint slowly; nothing else is made up. Faults (silence, delays, exceptions, wrong
CRC) can be switched on for tests. It shares no code with the gateway that it is read through.

    holding 0   setpoint           int16, 0.1 °C      input 0     flow temperature    int16, 0.1 °C
    holding 1   mode               uint16, 0 to 3     input 1     return temperature  int16, 0.1 °C
    holding 2,3 operating seconds  uint32             input 2     room temperature    int16, 0.1 °C
    coil 0      hot water                             input 3,4   pressure            float32, bar
                                                      discrete 0  burner
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import struct
import sys
import time
import tty
from dataclasses import dataclass, field
from pathlib import Path

FRAME_GAP = 0.02  # silence after which what came so far is no frame
HEATING = 0.02  # how much of the way to its aim the flow temperature goes in a second

# What a configuration says of it, for the demo and for a first try by hand.
EXAMPLE_TOML = """\
[device.boiler]
type = "modbus"
port = "{port}"
baud = 9600
parity = "none"
units = [1]

[device.boiler.points.flow_temperature]
kind = "input"
register = 0
scale = 0.1
unit = "°C"

[device.boiler.points.return_temperature]
kind = "input"
register = 1
scale = 0.1
unit = "°C"

[device.boiler.points.pressure]
kind = "input"
register = 3
type = "float32"
unit = "bar"

[device.boiler.points.setpoint]
register = 0
scale = 0.1
unit = "°C"
writable = true
min = 5
max = 30

[device.boiler.points.hot_water]
kind = "coil"
register = 0
writable = true
"""


def crc(data: bytes) -> bytes:
    """The two CRC octets of a frame, as they are sent."""
    value = 0xFFFF
    for octet in data:
        value ^= octet
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return bytes((value & 0xFF, value >> 8))


@dataclass(slots=True)
class Faults:
    """What goes wrong, until it is changed. Everything off: nothing."""

    silent: bool = False
    silent_times: int = 0  # so many requests stay unanswered, then all is well
    exception: int = 0  # answer everything with this code
    bad_crc: bool = False
    delay: float = 0.0  # seconds before an answer
    piecewise: float = 0.0  # seconds between the octets of an answer
    truncate: int = 0  # octets that are missing at its end


@dataclass(slots=True)
class Controller:
    """The memory and what it answers. `unit` is its Modbus address."""

    unit: int = 1
    holding: list[int] = field(default_factory=lambda: [200, 1, 0, 0] + [0] * 60)
    input: list[int] = field(default_factory=lambda: [465, 380, 195, 0, 0] + [0] * 59)
    coils: list[bool] = field(default_factory=lambda: [False] * 64)
    discrete: list[bool] = field(default_factory=lambda: [True] + [False] * 63)
    faults: Faults = field(default_factory=Faults)
    operating: float = 0.0  # seconds
    requests: list[bytes] = field(default_factory=list)  # the last ones, as they came

    def __post_init__(self) -> None:
        self.input[3:5] = struct.unpack(">HH", struct.pack(">f", 1.4))

    def warm(self, seconds: float) -> None:
        """`seconds` pass: the flow follows the setpoint (46.5 °C at a setpoint of 20.0)."""
        self.operating += seconds
        left = 465 + (self.holding[0] - 200) * 2 - self.input[0]
        step = round(left * min(1.0, HEATING * seconds))
        self.input[0] += step or (left > 0) - (left < 0)
        self.holding[2:4] = divmod(int(self.operating), 0x10000)
        self.discrete[0] = self.holding[1] != 0

    def answer(self, frame: bytes) -> bytes:
        """The answering frame; empty where a slave says nothing."""
        if len(frame) < 4 or crc(frame[:-2]) != frame[-2:] or frame[0] not in (0, self.unit):
            return b""
        del self.requests[:-99]
        self.requests.append(frame)
        if self.faults.silent or self.faults.silent_times > 0:
            self.faults.silent_times -= 1
            return b""
        pdu = self._exception(frame[1], self.faults.exception) or self._execute(frame[1:-2])
        if frame[0] == 0:
            return b""
        body = frame[:1] + pdu
        check = crc(body)
        if self.faults.bad_crc:
            check = bytes(octet ^ 0x55 for octet in check)
        answer = body + check
        return answer[: len(answer) - self.faults.truncate]

    @staticmethod
    def _exception(function: int, code: int) -> bytes:
        return bytes((function | 0x80, code)) if code else b""

    def _execute(self, pdu: bytes) -> bytes:
        function = pdu[0]
        try:
            if function in (1, 2):
                return self._read_bits(pdu, self.coils if function == 1 else self.discrete)
            if function in (3, 4):
                return self._read_registers(pdu, self.holding if function == 3 else self.input)
            if function in (5, 6, 15, 16):
                return self._write(pdu)
            if function == 8:
                return pdu
            if function == 17:
                return bytes((17, 3, self.unit, 0xFF, 0x07))
            if function == 0x41:  # a maker's own function, to test what nobody knows
                return b"\x41" + pdu[1:][::-1]
        except (IndexError, struct.error):
            return self._exception(function, 2)
        return self._exception(function, 1)

    def _read_bits(self, pdu: bytes, table: list[bool]) -> bytes:
        first, count = struct.unpack(">HH", pdu[1:5])
        bits = [table[at] for at in range(first, first + count)]
        value = sum(1 << index for index, bit in enumerate(bits) if bit)
        size = (count + 7) // 8
        return bytes((pdu[0], size)) + value.to_bytes(size, "little")

    def _read_registers(self, pdu: bytes, table: list[int]) -> bytes:
        first, count = struct.unpack(">HH", pdu[1:5])
        values = [table[at] & 0xFFFF for at in range(first, first + count)]
        return struct.pack(f">BB{count}H", pdu[0], 2 * count, *values)

    def _write(self, pdu: bytes) -> bytes:
        function, first, value = struct.unpack(">BHH", pdu[:5])
        match function:
            case 5:
                self.coils[first] = value == 0xFF00
            case 6:
                self.holding[first] = value
            case 15:
                _ = self.coils[first + value - 1]
                for index in range(value):
                    self.coils[first + index] = bool(pdu[6 + index // 8] >> index % 8 & 1)
            case _:
                values = struct.unpack(f">{value}H", pdu[6 : 6 + 2 * value])
                _ = self.holding[first + value - 1]
                self.holding[first : first + value] = values
        return pdu[:5]

    def memory(self) -> dict[str, list[int]]:
        """The register memory, with the setpoint as a raw int16 at holding[0]."""
        return {
            "holding": self.holding[:16],
            "input": self.input[:16],
            "coils": [int(bit) for bit in self.coils[:16]],
            "discrete": [int(bit) for bit in self.discrete[:16]],
        }


def request_length(frame: bytes) -> int:
    """Octets of the request frame that begins so; 0: only silence tells."""
    if len(frame) < 2:
        return 256
    if frame[1] in (1, 2, 3, 4, 5, 6):
        return 8
    if frame[1] in (15, 16):
        return 9 + frame[6] if len(frame) > 6 else 256
    return 0


class Port:
    """The controller's end of a pseudo-terminal."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.master, slave = os.openpty()
        tty.setraw(slave)
        os.set_blocking(self.master, False)
        self.name = os.ttyname(slave)
        # Kept open: without any open end on that side, reading here would fail with EIO.
        self._slave = slave
        self._buffer = b""

    def close(self) -> None:
        """As if the adapter were unplugged."""
        for descriptor in (self._slave, self.master):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def step(self, seconds: float) -> None:
        """Wait up to `seconds` for octets; answer what is a whole frame."""
        ready, _, _ = select.select([self.master], [], [], FRAME_GAP if self._buffer else seconds)
        if not ready:
            frame, self._buffer = self._buffer, b""
            if frame and request_length(frame) == 0:
                self._answer(frame)
            return
        with contextlib.suppress(BlockingIOError):
            self._buffer += os.read(self.master, 512)
        length = request_length(self._buffer)
        if length and len(self._buffer) >= length:
            frame, self._buffer = self._buffer[:length], b""
            self._answer(frame)

    def _answer(self, frame: bytes) -> None:
        answer = self.controller.answer(frame)
        faults = self.controller.faults
        if not answer:
            return
        if faults.delay:
            time.sleep(faults.delay)
        pieces = [answer[i : i + 1] for i in range(len(answer))] if faults.piecewise else [answer]
        for piece in pieces:
            os.write(self.master, piece)
            if faults.piecewise:
                time.sleep(faults.piecewise)


def dump(controller: Controller, path: Path) -> None:
    """Write the memory so that a reader sees the old file or the new one."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps(controller.memory()) + "\n")
    draft.replace(path)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="controller", description="Simulated heating controller")
    parser.add_argument("--link", type=Path, help="symbolic link to make to the pseudo-terminal")
    parser.add_argument("--dump", type=Path, help="file for the memory, at SIGUSR1 and at the end")
    parser.add_argument("--unit", type=int, default=1, help="Modbus address")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--silent", action="store_true", help="never answer")
    parser.add_argument("--exception", type=int, default=0, help="answer all with this code")
    parser.add_argument("--bad-crc", action="store_true", help="answer with a wrong CRC")
    return parser.parse_args(argv)


def _link(path: Path, target: str) -> None:
    draft = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    draft.symlink_to(target)
    draft.replace(path)


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT."""
    arguments = _arguments(argv)
    faults = Faults(
        silent=arguments.silent,
        exception=arguments.exception,
        bad_crc=arguments.bad_crc,
        delay=arguments.delay,
    )
    controller = Controller(unit=arguments.unit, faults=faults)
    port = Port(controller)
    wanted = {"run": True, "dump": False}
    signal.signal(signal.SIGTERM, lambda *_: wanted.update(run=False))
    signal.signal(signal.SIGINT, lambda *_: wanted.update(run=False))
    signal.signal(signal.SIGUSR1, lambda *_: wanted.update(dump=True))
    if arguments.link:
        _link(arguments.link, port.name)
    print(json.dumps({"port": port.name, "pid": os.getpid()}), flush=True)
    last = time.monotonic()
    while wanted["run"]:
        port.step(0.2)
        now = time.monotonic()
        if now - last >= 1:
            controller.warm(now - last)
            last = now
        if wanted["dump"]:
            wanted["dump"] = False
            if arguments.dump:
                dump(controller, arguments.dump)
    if arguments.dump:
        dump(controller, arguments.dump)
    if arguments.link:
        with contextlib.suppress(FileNotFoundError):
            arguments.link.unlink()
    port.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
