"""Devices out of the tables of the configuration file.

`device_from_table` makes one device out of a TOML table `[device.NAME]` with its sub-tables
`[device.NAME.points.POINT]`; the keys are the fields of the dataclasses in `devices.py`, those of
`LineConfig` beside the others. Whatever is wrong is a ValueError whose text names key, value and
what is allowed; the caller puts the name of the file and of the table in front.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

from agent.bridge.devices import (
    TYPES,
    Busy,
    DeviceConfig,
    Framing,
    LineConfig,
    ModbusConfig,
    MqttConfig,
    NumberType,
    Parity,
    PointConfig,
    PointKind,
    Sharing,
    WordOrder,
    parse_registers,
    wrong,
)

if TYPE_CHECKING:
    from enum import StrEnum


@dataclass(slots=True)
class _Table:
    """The keys of a table that were not read yet."""

    keys: dict[str, object]

    def take(self, cls: type[Any], given: dict[str, object]) -> dict[str, Any]:
        """The arguments of dataclass `cls` that stand in the table, checked against their type."""
        arguments: dict[str, Any] = dict(given)
        for item in fields(cls):
            if item.name in given:
                continue
            if item.name in self.keys:
                value = self.keys.pop(item.name)
                arguments[item.name] = _typed(item.name, value, str(item.type))
            elif item.default is MISSING and item.default_factory is MISSING:
                raise ValueError(f"{item.name}: is missing")
        return arguments

    def finish(self, allowed: str) -> None:
        """Raises ValueError if a key is left over."""
        if self.keys:
            raise ValueError(f"{min(self.keys)}: unknown key; there are {allowed}")


def device_from_table(name: str, table: Mapping[str, object]) -> DeviceConfig:
    """A device out of `[device.NAME]`. Raises ValueError naming key, value and what is allowed."""
    rest = _Table(dict(table))
    word = rest.keys.pop("type", None)
    cls = TYPES.get(word) if isinstance(word, str) else None
    if cls is None:
        raise wrong("type", word, ", ".join(TYPES))
    given: dict[str, object] = {"name": name}
    if cls is not MqttConfig:
        given["line"] = LineConfig(**rest.take(LineConfig, {}))
    if cls is ModbusConfig:
        given["points"] = _points(rest.keys.pop("points", {}), table.get("units"))
    device: DeviceConfig = cls(**rest.take(cls, given))
    keys = [item.name for item in fields(cls) if item.name not in ("name", "line")]
    if cls is not MqttConfig:
        keys += [item.name for item in fields(LineConfig)]
    rest.finish("type, " + ", ".join(keys))
    return device


def _points(tables: object, units: object) -> tuple[PointConfig, ...]:
    if not isinstance(tables, Mapping):
        raise wrong("points", tables, "tables [device.NAME.points.POINT]")
    slave = units[0] if isinstance(units, list) and units else 1
    return tuple(_point(name, table, slave) for name, table in tables.items())


def _point(name: str, table: object, slave: object) -> PointConfig:
    if not isinstance(table, Mapping):
        raise wrong(f"points.{name}", table, "a table")
    keys = {"slave": slave, **table}
    if keys.get("kind") in ("coil", "discrete"):
        keys.setdefault("type", "bool")
    rest = _Table(keys)
    try:
        point = PointConfig(**rest.take(PointConfig, {"name": name}))
        rest.finish(", ".join(item.name for item in fields(PointConfig) if item.name != "name"))
    except ValueError as error:
        raise ValueError(f"points.{name}.{error}") from None
    return point


_ENUMS: dict[str, type[StrEnum]] = {
    cls.__name__: cls for cls in (Parity, Sharing, Busy, Framing, PointKind, NumberType, WordOrder)
}


def _typed(key: str, value: object, annotation: str) -> object:
    if annotation in _ENUMS:
        words = [member.value for member in _ENUMS[annotation]]
        if not isinstance(value, str) or value not in words:
            raise wrong(key, value, ", ".join(words))
        return _ENUMS[annotation](value)
    if annotation == "frozenset[int]":
        return frozenset(_integers(key, value))
    if annotation == "tuple[range, ...]":
        return _ranges(key, value)
    return _plain(key, value, annotation)


def _plain(key: str, value: object, annotation: str) -> object:
    wanted: tuple[tuple[type, ...], str]
    if annotation == "str":
        wanted = (str,), "text"
    elif annotation == "bool":
        wanted = (bool,), "true or false"
    elif annotation == "int":
        wanted = (int,), "a whole number"
    else:
        wanted = (int, float), "a number"
    if not isinstance(value, wanted[0]) or (isinstance(value, bool) and annotation != "bool"):
        raise wrong(key, value, wanted[1])
    return value


def _integers(key: str, value: object) -> list[int]:
    if not isinstance(value, list) or any(type(item) is not int for item in value):
        raise wrong(key, value, "a list of whole numbers such as [1, 2]")
    return value


def _ranges(key: str, value: object) -> tuple[range, ...]:
    if not isinstance(value, list):
        raise wrong(key, value, 'a list such as [4, "100-119"]')
    return tuple(parse_registers(item, key) for item in value)
