"""Services on loopback, with real pseudo-terminals and sockets. Nothing waits for a fixed time.

Threat 34 is here (unplugged adapters, names that are no port); 35 is in test_gateway.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import replace

import pytest

from agent.bridge import failures
from agent.bridge.devices import Busy, LineConfig, ModbusConfig, MqttConfig, SerialConfig, Sharing
from agent.bridge.grants import Peer, Role
from agent.io import serial as io_serial
from agent.io.serial import PortError, SerialPort
from agent.services import Services
from agent.services import serial as services_serial
from agent.web.client import request_json
from tests.support.modbus_slave import slave_on_pty
from tests.unit.bridge.line import SETPOINT, adu

TCP_REPAIR = 19
READ = bytes.fromhex("0300000001")
TECHNICIAN = Peer(name="vendor", role=Role.TECHNICIAN)


# Below those that the kernel gives to others meanwhile, and none of them twice.
PORTS = iter(range(10000 + os.getpid() % 200 * 100, 32768))


def free_port() -> int:
    for port in PORTS:
        with socket.socket(socket.AF_INET6) as sock, contextlib.suppress(OSError):
            sock.bind(("::1", port))
            return port
    raise AssertionError("no port is free")


async def until(condition):
    async with asyncio.timeout(8):
        while not condition():  # noqa: ASYNC110  # conditions of the world have no event
            await asyncio.sleep(0.005)


class House:
    """Services with a peer at ::1 who may be changed, and the records that they wrote."""

    def __init__(self, *devices, tun_name: str | None = None) -> None:
        self.peer: Peer | None = TECHNICIAN
        self.records: list[dict[str, object]] = []
        self.http_port = free_port()
        self.services = Services(
            devices,
            ("::1", "127.0.0.1"),
            tun_name,
            lambda address: self.peer if address in ("::1", "127.0.0.1") else None,
            self.records.append,
            wall_clock=lambda: 1000.0,
            http_port=self.http_port,
        )

    async def __aenter__(self):
        await self.services.start()
        return self

    async def __aexit__(self, *_):
        await self.services.stop()
        await asyncio.sleep(0.01)

    def status(self, name="boiler"):
        return next(entry for entry in self.services.status() if entry["name"] == name)

    @staticmethod
    async def until(condition):
        await until(condition)


@contextlib.asynccontextmanager
async def client(port):
    reader, writer = await asyncio.open_connection("::1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def read(reader, octets):
    return await asyncio.wait_for(reader.readexactly(octets), 5)


async def until_closed(reader):
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.wait_for(reader.read(), 5)
    return b""


def boiler(link, **more):
    plain = ModbusConfig(
        name="boiler",
        line=LineConfig(port=str(link)),
        listen=free_port(),
        response_timeout=0.1,
        retries=1,
        pause=0,
        points=(SETPOINT,),
    )
    return replace(plain, **more)


@pytest.fixture
def slave(tmp_path):
    with slave_on_pty(tmp_path) as made:
        yield made


@pytest.fixture
def pty():
    """A bare pseudo-terminal: the far end's descriptor and the name of the near one."""
    far, near = os.openpty()
    os.set_blocking(far, False)
    yield far, os.ttyname(near)
    for descriptor in (far, near):
        with contextlib.suppress(OSError):
            os.close(descriptor)


async def from_pty(far, octets):
    data = b""
    async with asyncio.timeout(30):
        while len(data) < octets:
            with contextlib.suppress(BlockingIOError):
                while len(data) < octets:  # a pty hands out a few octets at a time
                    data += os.read(far, 4096)
            await asyncio.sleep(0.002)
    return data


def test_points_and_raw_modbus_of_one_line(slave):
    async def main():
        device = boiler(slave.link)
        async with House(device) as house, client(device.listen) as (reader, writer):
            writer.write(adu(1, 1, READ) + adu(2, 1, READ))
            answers = await read(reader, 22)
            assert answers.hex() == "00010000000501030200c800020000000501030200c8"
            done = await house.services.set("boiler", "setpoint", 21.53, TECHNICIAN)
            assert (done["old"], done["value"]) == (20.0, 21.5)
            assert slave.controller.holding[0] == 215
            assert house.records == [
                {
                    "time": 1000.0,
                    "peer": "vendor",
                    "device": "boiler",
                    "point": "setpoint",
                    "old": 20.0,
                    "new": 21.5,
                    "result": "ok",
                }
            ]
            assert house.status()["state"] == "open"
            assert house.status()["users"] == ["vendor"]

    asyncio.run(main())


def test_get_and_set_over_http_with_the_grants_of_who_asks(slave):
    async def main():
        async with House(boiler(slave.link)) as house:
            port, path = house.http_port, "/api/points/boiler/setpoint"
            house.peer = Peer(name="guest", role=Role.READER)
            found = await request_json("::1", "GET", path, port=port)
            assert (found["value"], found["unit"]) == (20.0, "°C")
            with pytest.raises(failures.NotGranted):
                await request_json("::1", "PUT", path, {"value": 21}, port=port)
            house.peer = Peer(name="family", role=Role.OPERATOR)
            with pytest.raises(failures.OutOfLimits):
                await request_json("::1", "PUT", path, {"value": 31}, port=port)
            assert slave.controller.holding[0] == 200
            await request_json("::1", "PUT", path, {"value": 21}, port=port)
            assert slave.controller.holding[0] == 210
            (device,) = (await request_json("::1", "GET", "/api/devices", port=port))["devices"]
            assert device["reachable"] is False
            assert "users" not in device
            house.peer = Peer(name="stranger")
            with pytest.raises(failures.UnknownDevice):
                await request_json("::1", "GET", path, port=port)
            assert [(r["peer"], str(r["result"])[:7]) for r in house.records] == [
                ("guest", "refused"),
                ("family", "refused"),
                ("family", "ok"),
            ]

    asyncio.run(main())


def test_all_services_are_on_every_inner_address(slave):
    async def main():
        device = boiler(slave.link)
        async with House(device) as house:
            for address in ("::1", "127.0.0.1"):
                reader, writer = await asyncio.open_connection(address, device.listen)
                writer.write(adu(1, 1, READ))
                assert (await read(reader, 11)).hex() == "00010000000501030200c8"
                writer.close()
                answer = await request_json(address, "GET", "/api/devices", port=house.http_port)
                assert [d["name"] for d in answer["devices"]] == ["boiler"]
                assert answer["devices"][0]["address"] == "::1"

    asyncio.run(main())


def test_a_silent_slave_a_wrong_crc_and_one_that_comes_late(slave):
    async def main():
        device = boiler(slave.link)
        async with House(device) as house, client(device.listen) as (reader, writer):
            slave.controller.faults.silent = True
            writer.write(adu(1, 1, READ))
            assert (await read(reader, 9)).hex() == "00010000000301830b"
            with pytest.raises(failures.NoAnswer):
                await house.services.get("boiler", "setpoint", TECHNICIAN)
            whole = await house.services.get("boiler", None, TECHNICIAN)
            assert whole["points"][0]["code"] == "no_answer"
            slave.controller.faults.silent = False
            slave.controller.faults.bad_crc = True
            writer.write(adu(2, 1, READ))
            assert (await read(reader, 9)).hex() == "000200000003018304"
            slave.controller.faults.bad_crc = False
            slave.controller.faults.piecewise = 0.005
            writer.write(adu(3, 1, READ))
            assert (await read(reader, 11)).hex() == "00030000000501030200c8"

    asyncio.run(main())


def test_an_unplugged_adapter_is_told_and_found_again(slave):
    async def main():
        device = boiler(slave.link)
        async with House(device) as house, client(device.listen) as (reader, writer):
            descriptors = len(os.listdir("/proc/self/fd"))
            slave.unplug()
            await house.until(lambda: house.status()["state"] == "closed")
            assert "plugged" in house.status()["reason"]
            writer.write(adu(1, 1, READ))
            assert (await read(reader, 9)).hex() == "00010000000301830a"
            with pytest.raises(failures.PortClosed):
                await house.services.set("boiler", "setpoint", 21, TECHNICIAN)
            slave.plug_in()
            await house.until(lambda: house.status()["state"] == "open")
            writer.write(adu(2, 1, READ))
            assert (await read(reader, 11))[-2:].hex() == "00c8"
            assert len(os.listdir("/proc/self/fd")) == descriptors

    asyncio.run(main())


def test_a_port_that_is_not_there_at_start(tmp_path):
    async def main():
        async with House(boiler(tmp_path / "none")) as house:
            assert house.status()["state"] == "closed"
            assert "no such port" in house.status()["reason"]
            with slave_on_pty(tmp_path) as slave:
                slave.link.rename(tmp_path / "none")
                await house.until(lambda: house.status()["state"] == "open")

    asyncio.run(main())


def test_a_storm_of_failing_opens_is_slow_and_logged_once(tmp_path, caplog):
    far, near = os.openpty()
    (tmp_path / "dead").symlink_to(os.ttyname(near))

    async def main():
        async with House(boiler(tmp_path / "dead")) as house:
            os.close(far)  # opening goes on to fail, or to succeed and fail at once
            await until(lambda: house.status()["state"] == "closed")
            line = house.services._services["boiler"]._line
            await until(lambda: line._backoff._delay >= 1)
            descriptors = len(os.listdir("/proc/self/fd"))
            await until(lambda: line._backoff._delay >= 2)
            assert len(os.listdir("/proc/self/fd")) == descriptors
            assert line.reason

    asyncio.run(main())
    os.close(near)
    assert len([r for r in caplog.records if "dead" in r.getMessage()]) <= 2
    assert "Traceback" not in caplog.text


def test_what_is_no_serial_port_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path, "/dev/null"):
        with pytest.raises(PortError, match="not a serial port"):
            SerialPort(str(path), baud=9600, databits=8, parity="none", stopbits=1)


def test_two_programs_do_not_share_a_port(pty):
    _far, name = pty
    port = SerialPort(name, baud=9600, databits=8, parity="none", stopbits=1)
    with pytest.raises(PortError, match="in use by another program"):
        SerialPort(name, baud=9600, databits=8, parity="none", stopbits=1)
    port.close()
    SerialPort(name, baud=9600, databits=8, parity="none", stopbits=1).close()


def test_uucp_lock_files(tmp_path):
    lock = tmp_path / "LCK..ttyHG0"
    assert io_serial._lock_file("/dev/ttyHG0", tmp_path) == lock
    assert lock.read_text() == f"{os.getpid():10d}\n"
    with pytest.raises(PortError, match="lock file"):
        io_serial._lock_file("/dev/ttyHG0", tmp_path)
    io_serial._unlock_file(lock)
    assert not lock.exists()
    for stale in ("   4194304\n", "", "nonsense"):
        lock.write_text(stale)
        assert io_serial._lock_file("/dev/ttyHG0", tmp_path) == lock
        io_serial._unlock_file(lock)
    assert io_serial._lock_file("/dev/pts/3", tmp_path) is None


class Adapter(io_serial.ModemLines):
    """An adapter with RTS and without RS-485, which remembers what was asked of it."""

    def __init__(self, rs485: bool) -> None:
        self.knows_rs485 = rs485
        self.calls: list[object] = []

    def enable_rs485(self, descriptor):
        self.calls.append("rs485")
        return self.knows_rs485

    def set_rts(self, descriptor, on):
        self.calls.append(on)
        return True


@pytest.mark.parametrize(
    ("knows", "calls"), [(True, ["rs485"]), (False, ["rs485", False, True, False])]
)
def test_rs485_by_the_driver_or_by_rts(pty, knows, calls):
    async def main():
        far, name = pty
        lines = Adapter(knows)
        port = SerialPort(
            name, baud=9600, databits=8, parity="none", stopbits=1, rs485=True, lines=lines
        )
        port.start(asyncio.get_running_loop(), lambda _: None, lambda _: None)
        port.write(b"12345678")
        assert await from_pty(far, 8) == b"12345678"
        await until(lambda: lines.calls == calls)
        port.close()

    asyncio.run(main())


def test_a_pty_knows_neither_rs485_nor_rts(pty):
    port = SerialPort(pty[1], baud=9600, databits=8, parity="none", stopbits=1, rs485=True)
    assert not port._rts_by_hand
    port.close()


def bus(name, **more):
    return SerialConfig(name="bus", line=LineConfig(port=name), listen=free_port(), **more)


def test_raw_serial_both_ways_busy_and_free(pty):
    async def main():
        far, name = pty
        device = bus(name)
        async with House(device) as house, client(device.listen) as (reader, writer):
            writer.write(b"PS=1\r\n")
            assert await from_pty(far, 6) == b"PS=1\r\n"
            os.write(far, b"T8019")
            os.write(far, b"0000\r\n")
            assert await asyncio.wait_for(reader.read(100), 5) == b"T80190000\r\n"
            assert house.status("bus")["state"] == "busy"
            async with client(device.listen) as (second, out):
                out.write(b"who is there")
                assert await until_closed(second) == b"Port already in use\r\n"
            writer.close()
            await house.until(lambda: house.status("bus")["state"] == "free")
            async with client(device.listen) as (_third, out):
                out.write(b"x")
                assert await from_pty(far, 1) == b"x"
            assert [r["result"] for r in house.records][:2] == ["writing begun", "writing ended"]

    asyncio.run(main())


@pytest.mark.parametrize("is_dead", [False, True])
def test_an_old_client_is_probed_before_the_new_one_is_refused(pty, monkeypatch, is_dead):
    if os.geteuid():
        pytest.skip("needs root (a socket closed without FIN)")
    monkeypatch.setattr(services_serial, "RECENTLY", 0.0)

    async def main():
        far, name = pty
        device = bus(name)
        async with House(device) as house:
            old = socket.create_connection(("::1", device.listen))
            await until(lambda: house.status("bus")["state"] == "busy")
            if is_dead:
                old.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
                old.close()  # no FIN: as if the laptop's battery were empty
            async with client(device.listen) as (reader, writer):
                writer.write(b"x")
                if is_dead:
                    assert await from_pty(far, 1) == b"x"
                    assert house.status("bus")["counters"]["refused"] == 0
                else:
                    assert await until_closed(reader) == b"Port already in use\r\n"
            old.close()

    asyncio.run(main())


def test_raw_serial_taken_over(pty):
    async def main():
        far, name = pty
        device = bus(name, busy=Busy.DROP)
        async with (
            House(device),
            client(device.listen) as (first, _),
            client(device.listen) as (_second, out),
        ):
            assert await until_closed(first) == b""
            out.write(b"x")
            assert await from_pty(far, 1) == b"x"

    asyncio.run(main())


def test_a_reader_that_sleeps_stalls_nobody(pty):
    async def main():
        far, name = pty
        device = bus(name, sharing=Sharing.READERS)
        async with House(device) as house, client(device.listen):
            sleeper = socket.create_connection(("::1", device.listen))
            sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await house.until(lambda: len(house.services._services["bus"]._hub) == 2)
            async with client(device.listen) as (awake, _):
                got = 0
                for _ in range(3000):
                    os.write(far, b"x" * 2048)
                    got += len(await asyncio.wait_for(awake.read(65536), 5))
                    counters = house.status("bus")["counters"]
                    if counters["too_slow"]:
                        break
                assert counters["too_slow"] >= 1
                assert got > 65536
            sleeper.close()

    asyncio.run(main())


def test_the_line_sets_the_pace_of_who_writes(pty):
    async def main():
        far, name = pty
        device = bus(name)
        async with House(device) as house, client(device.listen) as (_, writer):
            data = os.urandom(200_000)
            writer.write(data)
            line = house.services._services["bus"]._line
            await house.until(lambda: line.pending >= 4096)
            await asyncio.sleep(0.05)
            assert line.pending < 200_000 / 2
            assert await from_pty(far, len(data)) == data
            assert line._port.dropped == 0

    asyncio.run(main())


def test_unplugging_ends_raw_clients(pty):
    async def main():
        far, name = pty
        device = bus(name)
        async with House(device) as house, client(device.listen) as (reader, _):
            await house.until(lambda: house.status("bus")["state"] == "busy")
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, far)  # closes the far end and keeps its number, which the fixture closes
            os.close(null)
            assert await until_closed(reader) == b""
            assert house.status("bus")["state"] == "closed"
            async with client(device.listen) as (second, _):
                assert await until_closed(second) == b"Port is not there\r\n"

    asyncio.run(main())


def test_line_parameters_are_set_for_each_client(pty):
    import termios

    async def main():
        _far, name = pty
        device = bus(name)
        near = os.open(name, os.O_RDWR | os.O_NOCTTY)  # first: then the port is exclusive
        async with House(device) as house:
            spoilt = termios.tcgetattr(near)
            spoilt[4] = spoilt[5] = termios.B300
            spoilt[3] |= termios.ECHO
            termios.tcsetattr(near, termios.TCSANOW, spoilt)
            async with client(device.listen):
                await house.until(lambda: house.status("bus")["state"] == "busy")
                found = termios.tcgetattr(near)
                assert found[4] == termios.B9600
                assert not found[3] & termios.ECHO
            os.close(near)

    asyncio.run(main())


def test_kick_ends_the_connections_of_one_peer(slave, pty):
    async def main():
        device, serial = boiler(slave.link), bus(pty[1])
        async with (
            House(device, serial) as house,
            client(device.listen) as (first, _),
            client(serial.listen) as (second, _),
        ):
            await house.until(lambda: house.status("bus")["users"] == ["vendor"])
            await house.until(lambda: house.status()["users"] == ["vendor"])
            house.services.kick("somebody")
            await asyncio.sleep(0.02)
            assert house.status()["users"] == ["vendor"]
            house.services.kick("vendor")
            await until_closed(first)
            await until_closed(second)
            await house.until(lambda: house.status("bus")["state"] == "free")

    asyncio.run(main())


def test_nobody_known_and_not_granted_get_nothing(slave):
    async def main():
        device = boiler(slave.link)
        async with House(device) as house:
            for peer in (None, Peer(name="guest", role=Role.OPERATOR)):
                house.peer = peer
                async with client(device.listen) as (reader, writer):
                    writer.write(adu(1, 1, READ))
                    assert await until_closed(reader) == b""
            assert slave.controller.requests == []

    asyncio.run(main())


def test_a_port_in_use_leaves_the_other_devices_alone(slave, caplog):
    async def main():
        taken = socket.create_server(("::1", 0), family=socket.AF_INET6)
        device = boiler(slave.link)
        other = MqttConfig(name="mqtt", listen=taken.getsockname()[1])
        async with House(other, device) as house:
            assert house.status("mqtt")["state"] == "closed"
            assert "in use by another program" in house.status("mqtt")["reason"]
            found = await house.services.get("boiler", "setpoint", TECHNICIAN)
            assert found["value"] == 20.0
        taken.close()

    asyncio.run(main())
    assert "Traceback" not in caplog.text


def test_listeners_are_bound_to_the_tunnels_device(slave):
    if os.geteuid():
        pytest.skip("needs root (SO_BINDTODEVICE)")

    async def main():
        device = boiler(slave.link)
        async with House(device, tun_name="lo") as house, client(device.listen) as (reader, out):
            servers = house.services._services["boiler"]._listener._servers
            assert len(servers) == 2
            for sock in (sock for server in servers for sock in server.sockets):
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16) == b"lo\0"
            out.write(adu(1, 1, READ))
            await read(reader, 11)
        async with House(device, tun_name="hg-none") as house:
            assert house.status()["state"] == "closed"
            assert "No such device" in house.status()["reason"]

    asyncio.run(main())


def test_connections_without_end_are_bounded(slave):
    async def main():
        device = boiler(slave.link, connections=3)
        async with House(device) as house, contextlib.AsyncExitStack() as stack:
            readers = []
            for _ in range(30):
                readers.append((await stack.enter_async_context(client(device.listen)))[0])
            clients = house.services._services["boiler"]._listener.clients
            await until(lambda: len(clients) <= 11)
            for reader in readers[3:]:
                assert await until_closed(reader) == b""
            await until(lambda: len(clients) == 3)

    asyncio.run(main())


def test_a_write_ends_and_is_recorded_though_who_asked_went_away(slave):
    async def main():
        slave.controller.faults.delay = 0.03
        async with House(boiler(slave.link)) as house:
            task = asyncio.create_task(house.services.set("boiler", "setpoint", 25, TECHNICIAN))
            await asyncio.sleep(0.01)
            task.cancel()
            await house.until(lambda: bool(house.records))
            assert house.records[0]["result"] == "ok"
            assert slave.controller.holding[0] == 250

    asyncio.run(main())


def test_an_audit_log_that_fails_stops_nothing(slave, caplog):
    async def main():
        async with House(boiler(slave.link)) as house:
            house.services._audit_to = lambda record: 1 / 0
            await house.services.set("boiler", "setpoint", 25, TECHNICIAN)
            assert slave.controller.holding[0] == 250

    asyncio.run(main())
    assert "could not be recorded" in caplog.text


def test_nothing_is_left_over(slave, pty):
    async def main():
        device, serial = boiler(slave.link), bus(pty[1])
        before = len(os.listdir("/proc/self/fd"))
        async with House(device, serial) as house:
            async with client(device.listen) as (reader, writer):
                writer.write(adu(1, 1, READ))
                await read(reader, 11)
            async with client(serial.listen):
                await house.services.get("boiler", None, TECHNICIAN)
        assert len(asyncio.all_tasks()) == 1
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(main())


async def start_echo():
    """A broker's place: sends back what comes, until its end, then says bye."""

    async def echo(reader, writer):
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
        writer.write(b"bye")
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


def test_the_forward_passes_on_one_end_and_then_the_other():
    async def main():
        server, port = await start_echo()
        device = MqttConfig(name="mqtt", broker_port=port, listen=free_port())
        async with House(device) as house, client(device.listen) as (reader, writer):
            data = os.urandom(1_000_000)
            writer.write(data)
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(-1), 10) == data + b"bye"
            await house.until(lambda: house.status("mqtt")["users"] == [])
            assert house.status("mqtt")["state"] == "open"
        server.close()

    asyncio.run(main())


def test_the_forward_is_bounded_and_only_for_who_was_granted():
    async def main():
        server, port = await start_echo()
        device = MqttConfig(name="mqtt", broker_port=port, listen=free_port(), connections=1)
        async with House(device) as house, client(device.listen) as (reader, writer):
            writer.write(b"x")
            assert await read(reader, 1) == b"x"
            async with client(device.listen) as (second, _):
                assert await until_closed(second) == b""
            house.services.kick("vendor")
            assert await until_closed(reader) == b""
            house.peer = Peer(name="guest", role=Role.OPERATOR)
            async with client(device.listen) as (third, _):
                assert await until_closed(third) == b""
        server.close()

    asyncio.run(main())


def test_a_broker_that_is_down_is_told():
    async def main():
        device = MqttConfig(name="mqtt", broker_port=free_port(), listen=free_port())
        async with House(device) as house, client(device.listen) as (reader, _):
            assert await until_closed(reader) == b""
            assert house.status("mqtt")["state"] == "closed"
            reason = house.status("mqtt")["reason"]
            assert reason.endswith(f":{device.broker_port} cannot be reached: Connection refused")

    asyncio.run(main())
