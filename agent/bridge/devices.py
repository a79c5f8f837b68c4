"""What the configuration says of devices and their points, as frozen values that check themselves.

Whatever is wrong is a ValueError whose text names key, value and what is allowed. `tables.py`
makes these values out of the configuration file's tables.

Register numbers are those on the wire, from 0; the 40001 notation of old manuals is not read.
"""

from __future__ import annotations

import math
import re
from enum import StrEnum
from typing import TYPE_CHECKING

from agent.records import record

if TYPE_CHECKING:
    from collections.abc import Iterable

# A name stands in URLs, in `device.point` and in log lines: nothing there needs quoting.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
MAX_POINTS = 256  # of one device; a person wrote them, and all of them are read for one `get`
MAX_UNIT_TEXT = 16  # characters of "°C", "kWh", "m³/h"
BAUD_RATES = (300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400)
BROADCAST_UNIT = 0
LAST_UNIT = 247  # Modbus over serial line V1.02, §2.2: 248 to 255 are reserved


class Parity(StrEnum):
    """The parity bit of a serial line."""

    NONE = "none"
    EVEN = "even"
    ODD = "odd"
    MARK = "mark"
    SPACE = "space"


class Sharing(StrEnum):
    """Who may use a raw serial port at the same time."""

    EXCLUSIVE = "exclusive"  # one client
    READERS = "readers"  # the first one writes, all read
    SHARED = "shared"  # all write and read


class Busy(StrEnum):
    """What a newcomer at an exclusive port that is in use gets."""

    REFUSE = "refuse"  # "Port already in use"
    DROP = "drop"  # the port: the old user is dropped


class Framing(StrEnum):
    """How octets are gathered before they go on."""

    GAP = "gap"  # until the line is silent for about two characters
    LINE = "line"  # writers wait for whole text lines, so that two do not mix


class PointKind(StrEnum):
    """The four tables of Modbus."""

    HOLDING = "holding"
    INPUT = "input"
    COIL = "coil"
    DISCRETE = "discrete"

    @property
    def is_bit(self) -> bool:
        """A coil or discrete input is one bit, not a register."""
        return self in (PointKind.COIL, PointKind.DISCRETE)


class NumberType(StrEnum):
    """How registers make a number."""

    INT16 = "int16"
    UINT16 = "uint16"
    INT32 = "int32"
    UINT32 = "uint32"
    FLOAT32 = "float32"
    BOOL = "bool"

    @property
    def registers(self) -> int:
        """How many registers (or bits) one value takes."""
        return 2 if self.value.endswith("32") else 1


class WordOrder(StrEnum):
    """Which register of a 32 bit value comes first."""

    BIG = "big"  # high word first
    LITTLE = "little"


@record(frozen=True, slots=True, kw_only=True)
class LineConfig:
    """A serial port and its parameters."""

    port: str
    baud: int = 9600
    databits: int = 8
    parity: Parity = Parity.NONE
    stopbits: float = 1
    rs485: bool = False

    def __post_init__(self) -> None:
        if not self.port.startswith("/") or "\0" in self.port or "/../" in self.port:
            raise wrong("port", self.port, "the path of a serial port, /dev/serial/by-id/… best")
        _one_of("baud", self.baud, BAUD_RATES)
        _one_of("databits", self.databits, (5, 6, 7, 8))
        _one_of("stopbits", self.stopbits, (1, 1.5, 2))

    @property
    def character_seconds(self) -> float:
        """How long one character takes on the line, start and stop bits included."""
        bits = 1 + self.databits + (self.parity is not Parity.NONE) + self.stopbits
        return bits / self.baud

    @property
    def text(self) -> str:
        """`9600 8N1`, as people write it."""
        return f"{self.baud} {self.databits}{self.parity.value[0].upper()}{self.stopbits:g}"


@record(frozen=True, slots=True, kw_only=True)
class PointConfig:
    """One named value of a Modbus device. value = raw × scale + offset, in `unit`."""

    name: str
    register: int
    kind: PointKind = PointKind.HOLDING
    type: NumberType = NumberType.INT16
    word_order: WordOrder = WordOrder.BIG
    scale: float = 1
    offset: float = 0
    unit: str = ""
    slave: int = 1
    writable: bool = False
    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        _check_name("point", self.name)
        if not 0 <= self.register <= 0x10000 - self.type.registers:
            raise wrong("register", self.register, "0 to 65535")
        if self.kind.is_bit != (self.type is NumberType.BOOL):
            raise wrong("type", self.type, "bool for coil and discrete, and only for them")
        if not 1 <= self.slave <= LAST_UNIT:
            raise wrong("slave", self.slave, f"1 to {LAST_UNIT}")
        if len(self.unit) > MAX_UNIT_TEXT or not self.unit.isprintable():
            raise wrong("unit", self.unit, f"up to {MAX_UNIT_TEXT} printable characters")
        for key, number in (("scale", self.scale), ("offset", self.offset)):
            if not math.isfinite(number) or (key == "scale" and number == 0):
                raise wrong(key, number, "a finite number, and for scale not 0")
        self._check_limits()

    def _check_limits(self) -> None:
        for key, limit in (("min", self.min), ("max", self.max)):
            if limit is not None and not math.isfinite(limit):
                raise wrong(key, limit, "a finite number")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise wrong("min", self.min, f"at most max, which is {self.max:g}")
        if not self.writable:
            return
        if self.kind not in (PointKind.HOLDING, PointKind.COIL):
            raise wrong("writable", True, "only for kind holding or coil")
        if self.kind is PointKind.HOLDING and (self.min is None or self.max is None):
            raise ValueError("writable = true: needs min and max, the limits nobody can lift")


@record(frozen=True, slots=True, kw_only=True)
class ModbusConfig:
    """A Modbus RTU line: a Modbus TCP gateway and named points. Times in seconds."""

    name: str
    line: LineConfig
    listen: int = 502
    units: frozenset[int] = frozenset()  # empty: every unit from 1 to 247
    broadcast: bool = False  # whether raw writes to unit 0 are let through
    raw_write_registers: tuple[range, ...] = ()  # empty: all, for those who may write raw
    response_timeout: float = 0.5
    retries: int = 3
    pause: float = 0.1
    idle_timeout: float = 60
    connections: int = 32
    points: tuple[PointConfig, ...] = ()

    def __post_init__(self) -> None:
        _check_device(self.name, self.listen)
        _check_range("response_timeout", self.response_timeout, 0.01, 30)
        _check_range("retries", self.retries, 0, 10)
        _check_range("pause", self.pause, 0, 10)
        _check_range("idle_timeout", self.idle_timeout, 1, 86400)
        _check_range("connections", self.connections, 1, 256)
        if any(not 1 <= unit <= LAST_UNIT for unit in self.units):
            raise wrong("units", sorted(self.units), f"a list of 1 to {LAST_UNIT}")
        if len(self.points) > MAX_POINTS:
            raise ValueError(f"points: {len(self.points)} are too many, at most {MAX_POINTS}")
        if len({point.name for point in self.points}) != len(self.points):
            raise ValueError("points: two of them have the same name")
        for point in self.points:
            if not self.serves(point.slave):
                raise wrong(f"points.{point.name}.slave", point.slave, "one of this device's units")

    def serves(self, unit: int) -> bool:
        """Whether slave `unit` (1 to 247) is on the allow-list."""
        return unit in self.units if self.units else 1 <= unit <= LAST_UNIT

    def point(self, name: str) -> PointConfig | None:
        """The point of this name, or None."""
        return next((point for point in self.points if point.name == name), None)


@record(frozen=True, slots=True, kw_only=True)
class SerialConfig:
    """A serial port offered as a raw TCP stream."""

    name: str
    line: LineConfig
    listen: int = 7001
    sharing: Sharing = Sharing.EXCLUSIVE
    busy: Busy = Busy.REFUSE
    framing: Framing = Framing.GAP
    read_only: bool = False
    connections: int = 16

    def __post_init__(self) -> None:
        _check_device(self.name, self.listen)
        _check_range("connections", self.connections, 1, 64)


@record(frozen=True, slots=True, kw_only=True)
class MqttConfig:
    """A broker on this machine or its LAN, offered inside the tunnel."""

    name: str
    broker: str = "127.0.0.1"
    broker_port: int = 1883
    listen: int = 1883
    connections: int = 16
    idle_timeout: float = 3600

    def __post_init__(self) -> None:
        _check_device(self.name, self.listen)
        _check_range("broker_port", self.broker_port, 1, 65535)
        _check_range("connections", self.connections, 1, 256)
        _check_range("idle_timeout", self.idle_timeout, 10, 86400)
        if not re.fullmatch(r"[A-Za-z0-9.:-]{1,253}", self.broker):
            raise wrong("broker", self.broker, "a host name or address")


DeviceConfig = ModbusConfig | SerialConfig | MqttConfig
TYPES: dict[str, type[ModbusConfig] | type[SerialConfig] | type[MqttConfig]] = {
    "modbus": ModbusConfig,
    "serial": SerialConfig,
    "mqtt": MqttConfig,
}


def type_word(device: DeviceConfig) -> str:
    """`modbus`, `serial` or `mqtt`."""
    return next(word for word, cls in TYPES.items() if isinstance(device, cls))


def check_devices(devices: Iterable[DeviceConfig], http_port: int = 80) -> None:
    """Raises ValueError if two devices want the same name, TCP port or serial port."""
    names: set[str] = set()
    listens: dict[int, str] = {http_port: "get and set"}
    ports: dict[str, str] = {}
    for device in devices:
        if device.name in names:
            raise ValueError(f"device {device.name}: the name is used twice")
        names.add(device.name)
        other = listens.setdefault(device.listen, device.name)
        if other != device.name:
            raise ValueError(f"device {device.name}: listen = {device.listen} is used by {other}")
        if not isinstance(device, MqttConfig):
            port = device.line.port
            other = ports.setdefault(port, device.name)
            if other != device.name:
                raise ValueError(f"device {device.name}: port = {port} is used by {other}")


def parse_registers(value: object, key: str = "registers") -> range:
    """`4`, `"4"` or `"100-119"` (both ends included) → range. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", str(value))
    first = int(match[1]) if match else -1
    last = int(match[2] or match[1]) if match else -1
    if isinstance(value, bool) or not 0 <= first <= last <= 0xFFFF:
        raise wrong(key, value, "a register from 0 to 65535 or a range such as 100-119")
    return range(first, last + 1)


def _check_device(name: str, listen: int) -> None:
    _check_name("device", name)
    _check_range("listen", listen, 1, 65535)


def _check_name(what: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise ValueError(f"{what} name {name!r:.60}: letters, digits, - and _, at most 32 of them")


def _check_range(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise wrong(key, value, f"{low:g} to {high:g}")


def _one_of(key: str, value: object, allowed: tuple[float, ...]) -> None:
    if value not in allowed:
        raise wrong(key, value, ", ".join(f"{item:g}" for item in allowed))


def wrong(key: str, value: object, allowed: str) -> ValueError:
    """The one form of a sentence about a wrong value: `key = value: allowed is …`."""
    shown = f"{value.value if isinstance(value, StrEnum) else value!r}"[:60]
    return ValueError(f"{key} = {shown}: allowed is {allowed}")
