"""Programs that people already have, against a gateway's services: mbpoll, pymodbus, mosquitto."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.bridge.devices import (
    LineConfig,
    ModbusConfig,
    MqttConfig,
    NumberType,
    PointConfig,
    PointKind,
)
from agent.bridge.grants import Peer, Role
from tests.unit.bridge.line import SETPOINT
from tests.unit.services.test_services import TECHNICIAN, House, free_port

if TYPE_CHECKING:
    from agent.services import Services

PRESSURE = PointConfig(name="pressure", register=3, kind=PointKind.INPUT, type=NumberType.FLOAT32)
LOOKER = Peer(name="looker", grants=("connect:boiler",))


async def run(*command: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode is not None
    return process.returncode, output.decode()


@contextlib.asynccontextmanager
async def controller(folder: Path, *arguments: str):
    """The simulated controller as the demo runs it: a process of its own."""
    link, dump = folder / "boiler", folder / "memory.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent.operations.controller"),
        *("--link", str(link), "--dump", str(dump), *arguments),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    told = json.loads(await asyncio.wait_for(process.stdout.readline(), 10))
    assert os.readlink(link) == told["port"]

    async def memory():
        dump.unlink(missing_ok=True)
        process.send_signal(signal.SIGUSR1)
        async with asyncio.timeout(5):
            while not dump.exists():  # noqa: ASYNC110  # a file has no event
                await asyncio.sleep(0.01)
        return json.loads(dump.read_text())

    try:
        yield link, memory
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 10) == 0
        assert not link.exists()


def boiler(link: Path, **more: object) -> ModbusConfig:
    plain = ModbusConfig(
        name="boiler",
        line=LineConfig(port=str(link)),
        listen=free_port(),
        response_timeout=0.2,
        pause=0.005,
        retries=1,
        points=(
            SETPOINT,
            PRESSURE,
        ),
    )
    return replace(plain, **more)  # type: ignore[arg-type]


def mbpoll(device: ModbusConfig, *arguments: str) -> tuple[str, ...]:
    if shutil.which("mbpoll") is None:
        pytest.skip("needs the Debian package mbpoll")
    common = ("-m", "tcp", "-p", str(device.listen), "-0", "-1", "-o", "3")
    return "mbpoll", *common, *arguments[:-1], "::1", arguments[-1]


def poll(device: ModbusConfig, *arguments: str) -> tuple[str, ...]:
    return mbpoll(device, *arguments, "x")[:-1]


def test_mbpoll_reads_and_writes(tmp_path):
    async def main():
        async with controller(tmp_path) as (link, memory):
            device = boiler(link)
            async with House(device) as house:
                code, text = await run(*poll(device, "-a", "1", "-t", "4", "-r", "0", "-c", "2"))
                assert code == 0, text
                assert "[0]: \t200" in text
                code, text = await run(*poll(device, "-a", "1", "-t", "3:float", "-B", "-r", "3"))
                assert "1.4" in text
                code, text = await run(*mbpoll(device, "-a", "1", "-t", "4", "-r", "0", "215"))
                assert code == 0, text
                assert (await memory())["holding"][0] == 215
                code, text = await run(*mbpoll(device, "-a", "1", "-t", "4", "-r", "0", "400"))
                assert code != 0
                assert "Illegal data value" in text
                house.peer = LOOKER
                code, text = await run(*mbpoll(device, "-a", "1", "-t", "4", "-r", "0", "220"))
                assert "Illegal function" in text
                assert (await memory())["holding"][0] == 215
                house.peer = TECHNICIAN
                code, text = await run(*poll(device, "-a", "9", "-t", "4", "-r", "0"))
                assert "Target device failed to respond" in text

    asyncio.run(main())


def test_pymodbus_with_several_clients_at_once(tmp_path):
    from pymodbus.client import AsyncModbusTcpClient

    async def reads(port: int, count: int) -> int:
        client = AsyncModbusTcpClient("::1", port=port, timeout=5)
        assert await client.connect()
        try:
            good = 0
            for _ in range(count):
                answer = await client.read_holding_registers(0, count=2, device_id=1)
                good += answer.registers == [200, 1]
            return good
        finally:
            client.close()

    async def main():
        async with controller(tmp_path) as (link, memory):
            device = boiler(link)
            async with House(device) as house:
                assert await asyncio.gather(*(reads(device.listen, 5) for _ in range(6))) == [5] * 6
                counters = house.status()["counters"]
                assert counters["joined"] > 0
                assert counters["requests"] + counters["joined"] == 30
                client = AsyncModbusTcpClient("::1", port=device.listen, timeout=5)
                await client.connect()
                answer = await client.write_registers(8, [1, 2, 3], device_id=1)
                assert not answer.isError()
                assert (await memory())["holding"][8:11] == [1, 2, 3]
                answer = await client.write_coils(0, [True, False, True], device_id=1)
                assert not answer.isError()
                answer = await client.read_coils(0, count=3, device_id=1)
                assert answer.bits[:3] == [True, False, True]
                answer = await client.read_holding_registers(5000, count=1, device_id=1)
                assert answer.exception_code == 2
                client.close()

    asyncio.run(main())


def test_the_controllers_memory_shows_what_set_has_written(tmp_path):
    async def main():
        async with (
            controller(tmp_path, "--delay", "0.02") as (link, memory),
            House(boiler(link)) as house,
        ):
            services: Services = house.services
            owner = Peer(name="owner", role=Role.OWNER)
            whole = await services.get("boiler", None, owner)
            assert [p["value"] for p in whole["points"]] == [20.0, 1.4]
            await services.set("boiler", "setpoint", 21.5, owner)
            assert (await memory())["holding"][0] == 215

    asyncio.run(main())


@contextlib.asynccontextmanager
async def mosquitto(folder: Path):
    """A broker on loopback; its port."""
    program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("needs the Debian package mosquitto")
    port = free_port()
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} ::1\nallow_anonymous true\npersistence false\n")
    process = await asyncio.create_subprocess_exec(
        program, "-c", str(config), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("::1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.02)
        yield port
    finally:
        process.terminate()
        await process.wait()


def test_mqtt_through_the_forward(tmp_path):
    from paho.mqtt import client as mqtt

    def talk(port: int, payload: bytes) -> bytes:
        """Subscribe, publish, and what comes back."""
        received: list[bytes] = []
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        client.on_connect = lambda c, *_: c.subscribe("heating/#", qos=1)
        client.on_subscribe = lambda c, *_: c.publish("heating/flow", payload, qos=1)
        client.on_message = lambda c, _, message: received.append(message.payload)
        client.connect("::1", port)
        for _ in range(500):
            client.loop(0.02)
            if received:
                break
        client.disconnect()
        client.loop(0.02)
        return b"".join(received)

    async def main():
        async with mosquitto(tmp_path) as port:
            device = MqttConfig(name="mqtt", broker="::1", broker_port=port, listen=free_port())
            async with House(device) as house:
                payload = b"46.5" + bytes(100_000)
                assert await asyncio.to_thread(talk, device.listen, payload) == payload
                await house.until(lambda: house.status("mqtt")["users"] == [])

    asyncio.run(main())
