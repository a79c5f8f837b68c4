"""Who may do what: a role and explicit grants become services, devices, points and writes.

A peer has one role, which holds for all devices, and any number of grants, each one text:

    reader  operator  technician  owner      the role, for every device
    operator:boiler                          the role, for one device
    read:boiler.flow_temperature             one point; `read:boiler` all points of a device
    write:boiler.setpoint                    one point within its limits; `write:boiler` all
    connect:boiler                           its listener: raw serial, MQTT, Modbus TCP for reading
    raw-write:boiler  raw-write:boiler/10-19 writes over Modbus TCP, to all or these registers
    tcp:22  udp:53                           a port of the gateway itself
    all                                      every port of the gateway and what is routed behind it

What is not granted here does not exist for the peer. Points keep their limits for everyone.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING

from agent.bridge.devices import (
    NAME,
    DeviceConfig,
    ModbusConfig,
    PointConfig,
    SerialConfig,
    parse_registers,
)
from agent.records import record

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

TCP = 6
UDP = 17
HTTP_PORT = 80
MAX_GRANTS = 64  # of one peer: `hearthgate peers` still shows them on a screen


class Role(StrEnum):
    """What a peer is to a gateway; each one may do what the one before may, and more."""

    NONE = "none"  # only its explicit grants
    READER = "reader"
    OPERATOR = "operator"
    TECHNICIAN = "technician"
    OWNER = "owner"


_READS = (Role.READER, Role.OPERATOR, Role.TECHNICIAN, Role.OWNER)
_WRITES = (Role.OPERATOR, Role.TECHNICIAN, Role.OWNER)
_CONNECTS = (Role.TECHNICIAN, Role.OWNER)


@record(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end, as the configuration or the state folder knows it."""

    name: str
    role: Role = Role.NONE
    grants: tuple[str, ...] = ()


@record(frozen=True, slots=True)
class Grant:
    """One parsed grant. `device` empty: every device; `point` empty: every point."""

    what: str
    device: str = ""
    point: str = ""
    registers: range | None = None
    port: int = 0


def parse_grant(text: str) -> Grant:
    """Raises ValueError saying what is allowed."""
    if text == "all":
        return Grant(text)
    what, _, target = text.partition(":")
    if what in ("tcp", "udp"):
        if not re.fullmatch(r"[0-9]{1,5}", target) or not 1 <= int(target) <= 65535:
            raise ValueError(f"grant {text!r:.60}: {what}: wants a port from 1 to 65535")
        return Grant(what, port=int(target))
    if what not in (*_READS, "read", "write", "connect", "raw-write"):
        raise ValueError(
            f"grant {text!r:.60}: allowed are reader, operator, technician, owner (also with "
            ":DEVICE), all, read:DEVICE[.POINT], write:DEVICE[.POINT], connect:DEVICE, "
            "raw-write:DEVICE[/REGISTERS], tcp:PORT, udp:PORT"
        )
    if what in _READS and not target and ":" not in text:
        return Grant(what)
    registers = None
    if what == "raw-write" and "/" in target:
        target, _, numbers = target.partition("/")
        registers = parse_registers(numbers, f"grant {text!r:.60}: registers")
    device, _, point = target.partition(".")
    if not NAME.fullmatch(device) or (point and not NAME.fullmatch(point)):
        raise ValueError(f"grant {text!r:.60}: {what}: wants the name of a device after it")
    if "." in target and (not point or what not in ("read", "write")):
        raise ValueError(f"grant {text!r:.60}: a point can only stand after read: and write:")
    return Grant(what, device, point, registers)


class Access:
    """What one peer may do. Built for each question or kept; it holds no state of its own."""

    __slots__ = ("_grants",)

    def __init__(self, peer: Peer) -> None:
        """Grants that do not parse give nothing (they were refused when they were made)."""
        grants = [] if peer.role is Role.NONE else [Grant(peer.role.value)]
        for text in peer.grants[:MAX_GRANTS]:
            try:
                grants.append(parse_grant(text))
            except ValueError:
                continue
        self._grants = tuple(grants)

    def _of(self, device: str) -> Iterable[Grant]:
        return (grant for grant in self._grants if grant.device in ("", device) and not grant.port)

    def may_see(self, device: DeviceConfig) -> bool:
        """Whether the device is shown at all: some grant names it."""
        return any(True for _ in self._of(device.name))

    def may_read(self, device: DeviceConfig, point: PointConfig) -> bool:
        """Reading of a named point; what may be written may be read."""
        return any(
            grant.what in _READS
            or (grant.what in ("read", "write") and grant.point in ("", point.name))
            for grant in self._of(device.name)
        )

    def may_write(self, device: DeviceConfig, point: PointConfig) -> bool:
        """Writing of a named point, within its limits."""
        return point.writable and any(
            grant.what in _WRITES or (grant.what == "write" and grant.point in ("", point.name))
            for grant in self._of(device.name)
        )

    def may_connect(self, device: DeviceConfig) -> bool:
        """The device's own listener."""
        return any(
            grant.what in (*_CONNECTS, "connect", "raw-write") for grant in self._of(device.name)
        )

    def may_write_line(self, device: SerialConfig) -> bool:
        """Octets towards a raw serial port: everybody who is connected, unless it is read-only."""
        return not device.read_only and self.may_connect(device)

    def may_write_raw(self, device: ModbusConfig, registers: range | None) -> bool:
        """A write over Modbus TCP; `registers` None: one that cannot be told from its octets."""
        return any(
            grant.what in _CONNECTS
            or (grant.what == "raw-write" and _covers(grant.registers, registers))
            for grant in self._of(device.name)
        )

    def services(
        self, devices: Iterable[DeviceConfig], listening: Container[int]
    ) -> frozenset[tuple[int, int]]:
        """(IP protocol, port) of all that this peer may reach on the gateway's inner address.

        `listening`: TCP ports that are ours at this moment. Where another program has taken one
        (a router's own page on port 80 of all addresses), only a grant of that port opens it.
        """
        found = {
            (TCP if grant.what == "tcp" else UDP, grant.port)
            for grant in self._grants
            if grant.port
        }
        devices = tuple(devices)
        # A role may ask also where there are no devices: it is told so.
        if HTTP_PORT in listening and (
            any(grant.what in _READS for grant in self._grants) or any(map(self.may_see, devices))
        ):
            found.add((TCP, HTTP_PORT))
        found.update(
            (TCP, device.listen)
            for device in devices
            if device.listen in listening and self.may_connect(device)
        )
        return frozenset(found)


def _covers(granted: range | None, wanted: range | None) -> bool:
    if granted is None:
        return True
    return wanted is not None and wanted.start >= granted.start and wanted.stop <= granted.stop
