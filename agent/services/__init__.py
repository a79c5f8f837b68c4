"""The devices of the configuration on the inner address: listeners, points, HTTP.

    services = Services(devices, inner_address, tun_name, peer_of, audit)
    await services.start()

Bridge sessions decide; here they are joined to ports, sockets and one timer each. A device that
cannot be offered says so in `status()` and is tried again; the others go on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, cast

from agent.bridge import failures
from agent.bridge.audit import AuditBudget, stamped, write_record
from agent.bridge.devices import DeviceConfig, ModbusConfig, MqttConfig, check_devices, type_word
from agent.bridge.grants import HTTP_PORT, Access, Peer
from agent.errors import ConfigError, PlatformError
from agent.io.tcp import listening_sockets
from agent.services.base import Alarm

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from agent.bridge.devices import PointConfig
    from agent.bridge.points import Reading
    from agent.services.base import DeviceService
    from agent.services.modbus import ModbusService
    from agent.web.server import WebServer

_log = logging.getLogger("agent.services")

LISTEN_AGAIN_SECONDS = 10.0  # a port in use, an address that is not there yet


class Services:
    """All that a gateway offers inside its tunnels."""

    def __init__(
        self,
        devices: Iterable[DeviceConfig] | Mapping[str, DeviceConfig],
        inner_addresses: Sequence[str],
        tun_name: str | None,
        peer_of: Callable[[str], Peer | None],
        audit: Callable[[dict[str, Any]], None],
        *,
        on_listening: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        http_port: int = HTTP_PORT,
    ) -> None:
        """Listens on all `inner_addresses`; the first is the one that is shown.

        `peer_of` tells who has an inner address; `audit` gets one dict for each write.

        `on_listening` is called whenever `listening` has changed.
        Raises ConfigError if two devices want the same port.
        """
        configs = tuple(devices.values() if hasattr(devices, "values") else devices)
        try:
            check_devices(configs, http_port)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self._addresses = inner_addresses
        self._tun_name = tun_name
        self.peer_at = peer_of
        self._audit_to = audit
        self._on_listening = on_listening
        self._clock = clock
        self._wall_clock = wall_clock
        self._budget = AuditBudget()
        self._audit_alarm = Alarm(clock, self._on_audit_time)
        self._http_port = http_port
        self._web: WebServer | None = None
        self.refused = ""
        self._services: dict[str, DeviceService] = {}
        self._writes: set[asyncio.Task[dict[str, Any]]] = set()
        self._retry: asyncio.Task[None] | None = None
        for config in configs:
            self._services[config.name] = self._make(config, clock)

    def _make(self, config: DeviceConfig, clock: Callable[[], float]) -> DeviceService:
        # Each kind brings modules of its own, which a gateway without it does not load.
        if isinstance(config, ModbusConfig):
            from agent.services.modbus import ModbusService

            return ModbusService(config, self.peer_at, self._audit, clock)
        if isinstance(config, MqttConfig):
            from agent.services.mqtt import MqttService

            return MqttService(config, self.peer_at)
        from agent.services.serial import SerialService

        return SerialService(config, self.peer_at, self._audit, clock)

    def _audit(self, record: dict[str, Any]) -> None:
        """Records go out with their time, as far as the budget of the log allows at once."""
        self._tell(self._budget.offer(stamped(record, self._wall_clock()), self._clock()))

    def _tell(self, records: list[dict[str, Any]]) -> None:
        for record in records:
            try:
                self._audit_to(record)
            except Exception as error:  # a full disk stops no heating
                _log.error("a write could not be recorded: %r", error)
        self._audit_alarm.arm(self._budget.next_timeout())

    def _on_audit_time(self) -> None:
        self._tell(self._budget.handle_timer(self._clock()))

    async def start(self) -> None:
        """Open what can be opened. Raises nothing; `status()` tells."""
        for service in self._services.values():
            service.open()
        if not await self._listen():
            self._retry = asyncio.create_task(self._listen_again())

    async def stop(self) -> None:
        """Close everything; writes that are under way end first, for a moment."""
        if self._retry is not None:
            self._retry.cancel()
        if self._web is not None:
            self._web.stop()
        if self._writes:
            await asyncio.wait(self._writes, timeout=2)
        for service in self._services.values():
            service.close()
        for task in self._writes:
            task.cancel()
        self._tell(self._budget.finish())
        await asyncio.sleep(0)  # aborted connections are told in the next turn of the loop

    @property
    def listening(self) -> frozenset[int]:
        """The TCP ports that are ours; on any other one whoever answers is another program."""
        ports = {s.config.listen for s in self._services.values() if s.is_listening}
        return frozenset(ports | ({self._http_port} if self._web is not None else set()))

    async def _listen(self) -> bool:
        """Start every listener that is not there; whether all are."""
        before = self.listening
        complete = await self._listen_all()
        if self.listening != before:
            self._on_listening()
        return complete

    async def _listen_all(self) -> bool:
        complete = True
        for service in self._services.values():
            if not service.is_listening:
                try:
                    await service.listen(self._sockets(service.config.listen))
                    service.refused = ""
                except PlatformError as error:
                    complete = False
                    if service.refused != error.sentence:
                        _log.error("%s: %s", service.config.name, error.sentence)
                    service.refused = error.sentence
        if self._web is None:
            complete = await self._listen_web() and complete
        return complete

    async def _listen_web(self) -> bool:
        from agent.web.server import WebServer

        try:
            sockets = self._sockets(self._http_port)
        except PlatformError as error:
            if self.refused != error.sentence:
                _log.error("get and set: %s", error.sentence)
            self.refused = error.sentence
            return False
        self.refused = ""
        self._web = WebServer(self)
        await self._web.start(sockets)
        return True

    def _sockets(self, port: int) -> list[socket.socket]:
        return listening_sockets(self._addresses, port, self._tun_name)

    async def _listen_again(self) -> None:
        while True:
            await asyncio.sleep(LISTEN_AGAIN_SECONDS)
            if await self._listen():
                return

    def status(self) -> list[dict[str, Any]]:
        """One dict a device, without secrets: name, type, address, port, state, reason, users …"""
        return [self._describe(service) for service in self._services.values()]

    def devices(self, peer: Peer) -> list[dict[str, Any]]:
        """What `peer` may see of `status()`; `reachable` tells whether it may connect."""
        access = Access(peer)
        found = []
        for service in self._services.values():
            if access.may_see(service.config):
                entry = self._describe(service)
                entry.pop("users", None)
                entry["reachable"] = access.may_connect(service.config)
                if isinstance(service.config, ModbusConfig):
                    entry |= _granted_points(service.config, access)
                found.append(entry)
        return found

    def _describe(self, service: DeviceService) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "name": service.config.name,
            "type": type_word(service.config),
            "address": self._addresses[0],
            "port": service.config.listen,
            "state": "closed" if service.refused else service.state,
            "reason": service.refused or service.reason,
        }
        return {**entry, **service.details()}

    def kick(self, peer: str) -> None:
        """End all connections of the peer of this name: its grants have changed."""
        for service in self._services.values():
            service.kick(peer)
        if self._web is not None:
            self._web.kick(lambda address: self._is_peer(address, peer))

    def _is_peer(self, address: str, name: str) -> bool:
        """Whether `name`, or nobody any more, has the address."""
        peer = self.peer_at(address)
        return peer is None or peer.name == name

    async def get(self, device: str, point: str | None, peer: Peer) -> dict[str, Any]:
        """Read one point, or all. Raises failures.ServiceError."""
        service = self._modbus(device, peer)
        access = Access(peer)
        config = service.config
        points = [p for p in config.points if access.may_read(config, p)]
        if point is None:
            readings = await service.read(points)
            return {"device": device, "points": [_reading(reading) for reading in readings]}
        wanted = [p for p in points if p.name == point]
        if not wanted:
            raise failures.UnknownPoint(_no_point(device, point))
        (reading,) = await service.read(wanted)
        if reading.failure is not None:
            raise reading.failure
        return {"device": device, **_reading(reading)}

    async def set(self, device: str, point: str, value: object, peer: Peer) -> dict[str, Any]:
        """Write one point within its limits and read it back. Raises failures.ServiceError.

        Who asked may go away: the write is brought to its end and recorded.
        """
        task = asyncio.ensure_future(self._set(device, point, value, peer))
        self._writes.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    def _written(self, task: asyncio.Task[dict[str, Any]]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # told to who asked, if still there

    async def _set(self, device: str, point: str, value: object, peer: Peer) -> dict[str, Any]:
        old: object = None
        new = value
        result = "ok"
        try:
            service = self._modbus(device, peer)
            target = service.config.point(point)
            access = Access(peer)
            if target is None or not access.may_read(service.config, target):
                raise failures.UnknownPoint(
                    f"{device} has no point {point:.32}, or it is not granted"
                )
            if not target.writable:
                raise failures.NotWritable(f"{device}.{point} is not writable")
            if not access.may_write(service.config, target):
                raise failures.NotGranted(f"{device}.{point} may be read, writing was not granted")
            written = await service.write(target, value)
            old, new = written.old, written.value
        except failures.ServiceError as error:
            old = error.old
            is_tried = isinstance(error, failures.DeviceError)
            result = ("" if is_tried else "refused: ") + error.sentence
            raise
        except asyncio.CancelledError:
            result = "stopped"
            raise
        finally:
            self._audit(
                write_record(
                    peer=peer.name,
                    device=device[:64],
                    point=point[:64],
                    old=old,
                    new=new,
                    result=result,
                )
            )
        answer = _reading_fields(written.point)
        answer |= {"device": device, "value": written.value, "old": written.old}
        return {**answer, "asked": written.asked, "note": written.note}

    def _modbus(self, device: str, peer: Peer) -> ModbusService:
        service = self._services.get(device)
        if service is None or not Access(peer).may_see(service.config):
            raise failures.UnknownDevice(f"there is no device {device:.32}, or it is not granted")
        if not isinstance(service.config, ModbusConfig):
            raise failures.UnknownPoint(
                f"{device} is {type_word(service.config)}: it has no points"
            )
        return cast("ModbusService", service)


def _granted_points(config: ModbusConfig, access: Access) -> dict[str, int]:
    """How many points there are for one peer."""
    points = [p for p in config.points if access.may_read(config, p)]
    return {
        "points": len(points),
        "writable": sum(access.may_write(config, point) for point in points),
    }


def _no_point(device: str, point: str) -> str:
    return f"{device} has no point {point:.32}, or it is not granted"


def _reading_fields(point: PointConfig) -> dict[str, Any]:
    fields: dict[str, Any] = {"name": point.name, "unit": point.unit, "writable": point.writable}
    if point.min is not None:
        fields["min"] = point.min
    if point.max is not None:
        fields["max"] = point.max
    return fields


def _reading(reading: Reading) -> dict[str, Any]:
    entry = {**_reading_fields(reading.point), "value": reading.value}
    if reading.failure is not None:
        entry |= {"error": reading.failure.sentence, "code": reading.failure.code}
    return entry
