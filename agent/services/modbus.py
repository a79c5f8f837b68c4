"""A Modbus RTU line: the master between its port, its TCP clients and the points."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar, assert_never

from agent.bridge.gateway import ModbusGateway
from agent.bridge.master import Answer, RtuMaster
from agent.bridge.outputs import Audit, CloseClient, ToClient, ToLine
from agent.bridge.points import Query, Reading, Written, check_value, read_points, write_point
from agent.services.port import PortService

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from agent.bridge.devices import ModbusConfig, PointConfig
    from agent.bridge.grants import Peer
    from agent.io.tcp import TcpClient

T = TypeVar("T")


class ModbusService(PortService):
    """Modbus TCP gateway and named points of one line."""

    config: ModbusConfig

    def __init__(
        self,
        config: ModbusConfig,
        peer_at: Callable[[str], Peer | None],
        audit: Callable[[dict[str, Any]], None],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(config, peer_at, audit, clock)
        self.config = config
        self._master = RtuMaster(config)
        self._gateway = ModbusGateway(config, self._master)
        self._futures: dict[int, asyncio.Future[Answer]] = {}
        self._last_dialogue = 0
        self._write_lock = asyncio.Lock()

    @property
    def state(self) -> str:
        """open or closed."""
        return "open" if self._master.is_open else "closed"

    def details(self) -> dict[str, Any]:
        """Line, units, points and who is connected."""
        config = self.config
        return {
            "line": config.line.text,
            "units": sorted(config.units),
            "points": len(config.points),
            "writable": sum(point.writable for point in config.points),
            "users": sorted(set(self._peers.values())),
            "counters": dict(self._master.counters),
        }

    # Points

    async def read(self, points: Sequence[PointConfig]) -> list[Reading]:
        """Read `points` in as few requests as they take."""
        return await self._run(read_points(points))

    async def write(self, point: PointConfig, value: object) -> Written:
        """Write and read back, one at a time. Raises failures.ServiceError."""
        check_value(point, value)
        async with self._write_lock:
            return await self._run(write_point(point, value))

    async def _run(self, dialogue: Generator[Query, Answer, T]) -> T:
        self._last_dialogue -= 1  # its own turn between the clients, whose numbers are positive
        client = self._last_dialogue
        try:
            query = next(dialogue)
            while True:
                query = dialogue.send(await self._ask(client, query))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _ask(self, client: int, query: Query) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        ticket = self._master.submit(client, query.unit, query.pdu, self._clock())
        self._futures[ticket] = future
        self._pump()
        try:
            return await future
        finally:
            if self._futures.pop(ticket, None) is not None:
                self._master.cancel(client)

    # Port, clients, time

    def _on_port_open(self) -> None:
        self._master.port_opened(self._clock())
        self._pump()

    def _on_port_close(self) -> None:
        self._master.port_closed(self._clock())
        self._pump()

    def _on_line(self, data: bytes) -> None:
        self._master.receive(data, self._clock())
        self._pump()

    def _on_peer(self, client: TcpClient, peer: Peer) -> None:
        self._gateway.connect(client.number, peer, self._clock())
        self._pump()

    def _on_data(self, client: TcpClient, data: bytes) -> None:
        self._gateway.receive(client.number, data, self._clock())
        self._pump()
        self._set_reading(client)

    def _on_gone(self, client: TcpClient) -> None:
        self._gateway.disconnect(client.number)
        self._pump()

    def _set_reading(self, client: TcpClient) -> None:
        """Who has sent ahead, or does not take its answers, is not read for now."""
        client.pause(self._gateway.is_full(client.number) or client.backlog > 0)

    def _on_time(self) -> None:
        now = self._clock()
        self._master.handle_timer(now)
        self._gateway.handle_timer(now)
        self._pump()

    def _pump(self) -> None:
        """Carry out what the sessions have decided, then wait for the next deadline."""
        while True:
            output = self._master.poll_output() or self._gateway.poll_output()
            match output:
                case None:
                    break
                case ToLine(data, discard):
                    self._line.write(data, discard=discard)
                case Answer():
                    self._on_answer(output)
                case ToClient(number, data):
                    self._send(number, data)
                case CloseClient(number):
                    if number in self._listener.clients:
                        self._listener.clients[number].close()
                case Audit(record):
                    self._audit(record)
                case _:
                    assert_never(output)
        deadlines = (self._master.next_timeout(), self._gateway.next_timeout())
        self._alarm.arm(min((at for at in deadlines if at is not None), default=None))

    def _on_answer(self, answer: Answer) -> None:
        if not self._gateway.on_answer(answer, self._clock()):
            future = self._futures.pop(answer.ticket, None)
            if future is not None and not future.done():
                future.set_result(answer)

    def _send(self, number: int, data: bytes) -> None:
        client = self._listener.clients.get(number)
        if client is not None:
            client.send(data)
            self._set_reading(client)
