"""Local listeners for the services of a gateway: only what is granted, bounded, ended at once."""

from __future__ import annotations

import asyncio
import logging
import os
import socket

import pytest

from agent import forward
from agent.forward import Forwards


def device(port, name="boiler", **more):
    return {"name": name, "type": "modbus", "port": port, "reachable": True, **more}


async def start_gateway():
    """A service at ::1: sends back what comes. The server and its port."""

    async def echo(reader, writer):
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "::1", 0)
    return server, server.sockets[0].getsockname()[1]


def run(main):
    async def whole():
        await main()
        await asyncio.sleep(0.01)  # what was aborted is told, at both ends

    asyncio.run(whole())


async def said(port, data):
    """What comes back when `data` is sent to the local port; b"" if it is shut at once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(5):
            return await reader.read(4096)
    except ConnectionResetError:
        return b""
    finally:
        writer.transport.abort()


def test_octets_pass_and_end_with_close():
    async def main():
        server, port = await start_gateway()
        forwards = Forwards({"cabin": "::1"}.get)
        opened = await forwards.open("cabin", [device(port)])
        assert [(o["device"], o["host"]) for o in opened] == [("boiler", "127.0.0.1")]
        assert forwards.status() == [{"peer": "cabin", **opened[0]}]
        local = opened[0]["port"]
        assert await said(local, b"hallo") == b"hallo"
        reader, writer = await asyncio.open_connection("127.0.0.1", local)
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        forwards.close("cabin")
        assert await asyncio.wait_for(reader.read(1), 5) == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", local)
        assert forwards.status() == []
        writer.transport.abort()
        server.close()

    run(main)


@pytest.mark.parametrize(
    "entry",
    [
        device(502, reachable=False),
        {"name": "boiler", "port": 502},
        device(0),
        device(65536),
        device("502"),
        device(502, name=7),
        {},
    ],
)
def test_only_what_is_granted_and_makes_sense(entry):
    async def main():
        assert await Forwards({"cabin": "::1"}.get).open("cabin", [entry]) == []

    run(main)


def test_a_gateway_cannot_make_us_open_listeners_without_end(monkeypatch):
    monkeypatch.setattr(forward, "MAX_FORWARDS", 3)

    async def main():
        forwards = Forwards({"cabin": "::1"}.get)
        many = [device(5000 + n, name=f"d{n}") for n in range(10)]
        assert len(await forwards.open("cabin", many)) == 3
        await forwards.stop()

    run(main)


def test_the_port_is_told_by_the_services_and_gives_way():
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert port < 65000  # the kernel's own range ends at 60999
            forwards = Forwards({"cabin": "::1"}.get, offset=port - 502)
            ((opened),) = await forwards.open("cabin", [device(502)])
            assert opened["port"] > port
            await forwards.stop()
        high = Forwards({"cabin": "::1"}.get)
        (opened,) = await high.open("cabin", [device(65000)])  # 10000 more is no port
        assert opened["port"] > 0
        await high.stop()

    run(main)


def test_opened_again_it_follows_the_grants():
    async def main():
        server, port = await start_gateway()
        forwards = Forwards({"cabin": "::1"}.get)
        (before,) = await forwards.open("cabin", [device(port)])
        both = await forwards.open("cabin", [device(port), device(7001, name="bus")])
        assert both[0] == before
        assert [o["device"] for o in both] == ["boiler", "bus"]
        assert await forwards.open("cabin", [device(port, reachable=False)]) == []
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", before["port"])
        server.close()

    run(main)


def test_a_tunnel_that_is_down_is_told_once_and_comes_back(caplog):
    caplog.set_level(logging.WARNING)

    async def main():
        server, port = await start_gateway()
        addresses: dict[str, str] = {}
        forwards = Forwards(addresses.get)
        (opened,) = await forwards.open("cabin", [device(port)])
        for _ in range(3):
            assert await said(opened["port"], b"x") == b""
        addresses["cabin"] = "::1"
        assert await said(opened["port"], b"x") == b"x"
        server.close()
        await server.wait_closed()
        assert await said(opened["port"], b"x") == b""
        await forwards.stop()

    run(main)
    assert caplog.text.count("no tunnel") == 1
    assert caplog.text.count("cabin boiler cannot be forwarded to") == 2


def test_connections_are_bounded_and_none_is_left(monkeypatch):
    monkeypatch.setattr(forward, "MAX_CONNECTIONS", 1)

    async def main():
        server, port = await start_gateway()
        forwards = Forwards({"cabin": "::1"}.get)
        (opened,) = await forwards.open("cabin", [device(port)])
        before = len(os.listdir("/proc/self/fd"))
        reader, writer = await asyncio.open_connection("127.0.0.1", opened["port"])
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        assert await said(opened["port"], b"y") == b""
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        async with asyncio.timeout(5):
            while len(os.listdir("/proc/self/fd")) > before:  # noqa: ASYNC110  # it has no event
                await asyncio.sleep(0.005)
        assert await said(opened["port"], b"z") == b"z"
        await forwards.stop()
        server.close()

    run(main)
