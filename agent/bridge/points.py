"""Named points: registers ↔ numbers, limits, and the dialogues that read and write them.

The dialogues are generators: they yield a `Query`, are sent the `Answer` of the master, and return
a value, so that whoever drives them decides about waiting. A written value is rounded to what the
raw register can hold, and what came of it is said.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Generator, Iterable, Sequence
from typing import NamedTuple

from agent.bridge import failures
from agent.bridge.devices import NumberType, PointConfig, PointKind, WordOrder
from agent.bridge.master import Answer, Failure
from agent.bridge.modbus import ExceptionCode, Function, Request
from agent.records import record

Value = float | int | bool
MAX_REGISTERS = 125  # of one read request
READ_BACKS = 3  # a slow controller shows the new value only after a moment

_READS = {
    PointKind.COIL: Function.READ_COILS,
    PointKind.DISCRETE: Function.READ_DISCRETE_INPUTS,
    PointKind.HOLDING: Function.READ_HOLDING_REGISTERS,
    PointKind.INPUT: Function.READ_INPUT_REGISTERS,
}
_FORMATS = {
    NumberType.INT16: ">h",
    NumberType.UINT16: ">H",
    NumberType.INT32: ">i",
    NumberType.UINT32: ">I",
    NumberType.FLOAT32: ">f",
}
_EXCEPTIONS = {
    ExceptionCode.ILLEGAL_FUNCTION: "does not know this function",
    ExceptionCode.ILLEGAL_DATA_ADDRESS: "has no such register",
    ExceptionCode.ILLEGAL_DATA_VALUE: "does not accept this value",
    ExceptionCode.SERVER_DEVICE_FAILURE: "failed while doing it",
    ExceptionCode.ACKNOWLEDGE: "needs more time for it",
    ExceptionCode.SERVER_DEVICE_BUSY: "is busy",
    ExceptionCode.MEMORY_PARITY_ERROR: "found its memory damaged",
}


class Query(NamedTuple):
    """One request for the master."""

    unit: int
    pdu: bytes


@record(frozen=True, slots=True)
class Reading:
    """What one point reads: a value, or why there is none."""

    point: PointConfig
    value: Value | None = None
    failure: failures.DeviceError | None = None


@record(frozen=True, slots=True)
class Written:
    """What came of a write: before, asked for, sent after rounding, and read back."""

    point: PointConfig
    old: Value | None
    asked: Value
    sent: Value
    value: Value

    @property
    def note(self) -> str:
        """A sentence if the register could not hold what was asked for, else empty."""
        if self.sent == self.asked:
            return ""
        step = step_text(self.point)
        return f"{self.asked:g} was rounded to {self.sent:g}{step and f' ({step})'}"


def step_text(point: PointConfig) -> str:
    """`steps of 0.5 °C`, or empty for bits and floats."""
    if point.type in (NumberType.BOOL, NumberType.FLOAT32):
        return ""
    return f"steps of {abs(point.scale):g} {point.unit}".rstrip()


def decode_value(point: PointConfig, data: bytes) -> Value | None:
    """The value of 2 or 4 octets in register order; None if it is not a number."""
    if point.type.registers == 2 and point.word_order is WordOrder.LITTLE:
        data = data[2:] + data[:2]
    (raw,) = struct.unpack(_FORMATS[point.type], data)
    return _value(point, raw)


def _value(point: PointConfig, raw: float) -> Value | None:
    value = raw * point.scale + point.offset
    if not math.isfinite(value):
        return None
    if point.type is NumberType.FLOAT32:
        return float(f"{value:.7g}")  # a float32 has no more digits than these
    if float(point.scale).is_integer() and float(point.offset).is_integer():
        return round(value)
    return float(f"{value:.12g}")  # 463 × 0.1 is 46.3, not 46.300000000000004


def check_value(point: PointConfig, value: object) -> Value:
    """`value` if it is a number (for bits: true, false, 0 or 1) within the point's limits.

    Raises failures.BadValue or failures.OutOfLimits.
    """
    if point.type is NumberType.BOOL:
        if isinstance(value, (bool, int, float)) and value in (0, 1):
            return bool(value)
        raise failures.BadValue(f"{point.name} is on or off: the value must be true or false")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise failures.BadValue(f"{point.name}: the value must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise failures.BadValue(f"{point.name}: the value must be a finite number")
    _check_limits(point, number)
    return value


def _check_limits(point: PointConfig, value: float) -> None:
    low = -math.inf if point.min is None else point.min
    high = math.inf if point.max is None else point.max
    if not low <= value <= high:
        limits = f"{low:g} to {high:g} {point.unit}".rstrip()
        raise failures.OutOfLimits(f"{point.name}: {value:g} is outside of the limits {limits}")


def encode_value(point: PointConfig, value: Value) -> tuple[bytes, Value]:
    """Octets in register order, and the value that they really stand for.

    Raises failures.BadValue or failures.OutOfLimits. Limits hold before and after rounding.
    """
    checked = check_value(point, value)
    if point.type is NumberType.BOOL:
        return (b"\1" if checked else b"\0"), bool(checked)
    exact = (float(checked) - point.offset) / point.scale
    raw = exact if point.type is NumberType.FLOAT32 else round(exact)
    try:
        data = struct.pack(_FORMATS[point.type], raw)
    except (struct.error, OverflowError):
        raise failures.OutOfLimits(
            f"{point.name}: {value:g} does not fit into {point.type.value}"
        ) from None
    (held,) = struct.unpack(_FORMATS[point.type], data)
    sent = _value(point, held)
    assert sent is not None
    _check_limits(point, sent)
    if point.type.registers == 2 and point.word_order is WordOrder.LITTLE:
        data = data[2:] + data[:2]
    return data, sent


def _write_pdu(point: PointConfig, data: bytes) -> bytes:
    address = point.register.to_bytes(2, "big")
    if point.type is NumberType.BOOL:
        return (
            bytes((Function.WRITE_SINGLE_COIL,))
            + address
            + (b"\xff\0" if data == b"\1" else b"\0\0")
        )
    if len(data) == 2:
        return bytes((Function.WRITE_SINGLE_REGISTER,)) + address + data
    return bytes((Function.WRITE_MULTIPLE_REGISTERS,)) + address + b"\0\2\4" + data


def _read_pdu(kind: PointKind, first: int, count: int) -> bytes:
    return struct.pack(">BHH", _READS[kind], first, count)


def _failure(answer: Answer) -> failures.DeviceError | None:
    """What went wrong, as an error for people."""
    match answer.failure:
        case Failure.CLOSED:
            return failures.PortClosed()
        case Failure.SILENT:
            return failures.NoAnswer()
        case Failure.GARBLED:
            return failures.Garbled()
        case Failure.BUSY:
            return failures.TooBusy()
    if answer.pdu and answer.pdu[0] & 0x80:
        code = answer.pdu[1]
        text = _EXCEPTIONS.get(ExceptionCode(code)) if code in list(ExceptionCode) else None
        return failures.DeviceRefused(
            f"the device {text or 'refuses'} (Modbus exception {code})", exception=code
        )
    return None


Dialogue = Generator[Query, Answer, list[Reading]]


def read_points(points: Iterable[PointConfig]) -> Dialogue:
    """Read all `points`, neighbours together; a group that is refused is read one by one."""
    found: dict[str, Reading] = {}
    points = list(points)
    for group in _groups(points):
        readings = yield from _read_group(group)
        refused = isinstance(readings[0].failure, failures.DeviceRefused)
        if refused and len(group) > 1:
            readings = []
            for point in group:
                readings += yield from _read_group([point])
        found.update((reading.point.name, reading) for reading in readings)
    return [found[point.name] for point in points]


def _groups(points: Sequence[PointConfig]) -> list[list[PointConfig]]:
    """Points of one slave and table whose registers touch, as long as one request holds them."""
    groups: list[list[PointConfig]] = []
    for point in sorted(points, key=lambda p: (p.slave, p.kind, p.register)):
        last = groups[-1][-1] if groups else None
        if (
            last is not None
            and (last.slave, last.kind) == (point.slave, point.kind)
            and point.register <= last.register + last.type.registers
            and point.register + point.type.registers - groups[-1][0].register <= MAX_REGISTERS
        ):
            groups[-1].append(point)
        else:
            groups.append([point])
    return groups


def _read_group(group: Sequence[PointConfig]) -> Dialogue:
    first = group[0].register
    count = max(point.register + point.type.registers for point in group) - first
    answer = yield Query(group[0].slave, _read_pdu(group[0].kind, first, count))
    failure = _failure(answer)
    if failure is not None:
        return [Reading(point, failure=failure) for point in group]
    data = answer.pdu[2:]
    return [_reading(point, data, point.register - first) for point in group]


def _reading(point: PointConfig, data: bytes, index: int) -> Reading:
    value: Value | None
    if point.kind.is_bit:
        value = bool(data[index // 8] >> index % 8 & 1)
    else:
        value = decode_value(point, data[2 * index : 2 * (index + point.type.registers)])
    if value is None:
        text = f"{point.name}: the device holds something that is not a number"
        return Reading(point, failure=failures.NotANumber(text))
    return Reading(point, value)


def write_point(point: PointConfig, value: object) -> Generator[Query, Answer, Written]:
    """Read the old value, write, read back. Raises failures.ServiceError.

    The caller has checked that the peer may write the point and that the value is acceptable.
    """
    asked = check_value(point, value)
    data, sent = encode_value(point, asked)
    (before,) = yield from _read_group([point])
    if before.failure is not None and not isinstance(before.failure, failures.DeviceRefused):
        raise before.failure  # nobody is there to be written to; some registers cannot be read
    answer = yield Query(point.slave, _write_pdu(point, data))
    failure = _failure(answer)
    if failure is not None:
        failure.old = before.value
        raise failure
    after = before
    for _ in range(READ_BACKS):
        (after,) = yield from _read_group([point])
        if after.value == sent:
            return Written(point, before.value, asked, sent, sent)
    told = after.failure.sentence if after.failure else f"it reads {after.value:g} afterwards"
    error = failures.NotTaken(f"{point.name}: {sent:g} was written, but {told}")
    error.old = before.value
    raise error


def check_raw_write(points: Iterable[PointConfig], unit: int, request: Request) -> str:
    """Why a raw write may not be forwarded: it would break the limits of a point. Else empty.

    `unit` 0 is every unit. A point with limits that is touched in part, or by a mask, cannot be
    checked and is refused. Bits have no limits.
    """
    written = request.written
    if written is None or request.is_bits:
        return ""
    for point in points:
        cells = range(point.register, point.register + point.type.registers)
        if point.kind is not PointKind.HOLDING or (unit and unit != point.slave):
            continue
        if cells.stop <= written.start or written.stop <= cells.start:
            continue
        if point.min is None and point.max is None:
            continue
        if request.is_masked or cells.start < written.start or cells.stop > written.stop:
            return f"{point.name} has limits and would be written in part"
        start = 2 * (cells.start - written.start)
        try:
            check_value(point, decode_value(point, request.values[start : start + 2 * len(cells)]))
        except failures.ServiceError as error:
            return error.sentence
    return ""
