"""The HTTP surface on loopback: answers, errors, and whatever else may be sent to it."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from agent.bridge import failures
from agent.bridge.grants import Peer, Role
from agent.errors import UnavailableError
from agent.io.tcp import listening_socket
from agent.web import server as web_server
from agent.web.client import request_json
from agent.web.server import MAX_BODY, MAX_HEAD, WebServer


class Points:
    """A service with one point, which keeps what was asked of it."""

    def __init__(self) -> None:
        self.value: object = 20.0
        self.peer: Peer | None = Peer(name="laptop", role=Role.OPERATOR)
        self.failure: Exception | None = None
        self.wait: asyncio.Event | None = None

    def peer_at(self, address):
        assert address == "::1"
        return self.peer

    def devices(self, peer):
        return [{"name": "boiler", "for": peer.name}]

    async def get(self, device, point, peer):
        if self.wait is not None:
            await self.wait.wait()
        if self.failure is not None:
            raise self.failure
        return {"device": device, "name": point, "value": self.value, "unit": "°C"}

    async def set(self, device, point, value, peer):
        if value == 99:
            raise failures.OutOfLimits("99 is outside of the limits 5 to 30")
        old, self.value = self.value, value
        return {"device": device, "name": point, "value": value, "old": old}


@contextlib.asynccontextmanager
async def serving(points):
    sock = listening_socket("::1", 0)
    server = WebServer(points)
    port = sock.getsockname()[1]
    await server.start([sock])
    try:
        yield server, port
    finally:
        server.stop()
        await asyncio.sleep(0)


async def raw(port: int, data: bytes) -> bytes:
    """Send octets and the end; whatever comes back."""
    reader, writer = await asyncio.open_connection("::1", port)
    try:
        writer.write(data)
        with contextlib.suppress(OSError):
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def status_and_body(answer: bytes):
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def put(body: bytes, path="/api/points/boiler/setpoint", extra="") -> bytes:
    return (
        f"PUT {path} HTTP/1.1\r\nHost: [::1]\r\nContent-Type: application/json\r\n{extra}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def test_get_set_and_the_list():
    async def main():
        points = Points()
        async with serving(points) as (_, port):
            found = await request_json("::1", "GET", "/api/devices", port=port)
            assert found == {"devices": [{"name": "boiler", "for": "laptop"}]}
            path = "/api/points/boiler/setpoint"
            found = await request_json("::1", "PUT", path, {"value": 21.5}, port=port)
            assert (found["old"], found["value"]) == (20.0, 21.5)
            found = await request_json("::1", "GET", path, port=port)
            assert found == {"device": "boiler", "name": "setpoint", "value": 21.5, "unit": "°C"}
            found = await request_json("::1", "GET", "/api/points/boiler", port=port)
            assert found["name"] is None

    asyncio.run(main())


def test_failures_come_back_as_they_were():
    async def main():
        points = Points()
        async with serving(points) as (_, port):
            with pytest.raises(failures.OutOfLimits, match="limits 5 to 30"):
                await request_json("::1", "PUT", "/api/points/b/s", {"value": 99}, port=port)
            points.failure = failures.NoAnswer()
            with pytest.raises(failures.NoAnswer, match="does not answer"):
                await request_json("::1", "GET", "/api/points/b/s", port=port)
            points.peer = None
            with pytest.raises(failures.NotGranted):
                await request_json("::1", "GET", "/api/devices", port=port)

    asyncio.run(main())


def test_nobody_there_and_nonsense_are_unavailable():
    async def main():
        sock = listening_socket("::1", 0)
        port = sock.getsockname()[1]
        sock.close()
        with pytest.raises(UnavailableError, match="cannot be reached: Connection refused"):
            await request_json("::1", "GET", "/", port=port)

        async def nonsense(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"SSH-2.0-x\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(nonsense, "::1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UnavailableError, match="not understood"):
            await request_json("::1", "GET", "/", port=port)
        server.close()

    asyncio.run(main())


REQUESTS = {
    "empty line": (b"\r\n\r\n", 400, "bad_request"),
    "no request": (b"hello\r\n\r\n", 400, "bad_request"),
    "no path": (b"GET  HTTP/1.1\r\n\r\n", 400, "bad_request"),
    "two versions": (b"GET / HTTP/1.1 HTTP/1.1\r\n\r\n", 400, "bad_request"),
    "http 2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request"),
    "control characters": (b"GET /\x1b[2J HTTP/1.1\r\n\r\n", 400, "bad_request"),
    "not utf-8": (b"GET /\xff HTTP/1.1\r\n\r\n", 400, "bad_request"),
    "header without colon": (b"GET / HTTP/1.1\r\nabc\r\n\r\n", 400, "bad_request"),
    "folded header": (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400, "bad_request"),
    "two lengths": (
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12",
        400,
        "bad_request",
    ),
    "negative length": (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400, "bad_request"),
    "huge length": (b"GET / HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n", 413, "too_long"),
    "endless length": (
        b"GET / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        400,
        "bad_request",
    ),
    "chunked": (
        b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        501,
        "bad_request",
    ),
    "long head": (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 3000 + b"\r\n", 431, "too_long"),
    "no such page": (b"GET /x HTTP/1.1\r\n\r\n", 404, "not_found"),
    "up and away": (b"GET /api/points/../../etc HTTP/1.1\r\n\r\n", 404, "not_found"),
    "wrong method": (b"DELETE /api/devices HTTP/1.1\r\n\r\n", 405, "bad_method"),
    "rebinding": (b"GET /api/devices HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403, "not_granted"),
    "foreign site": (
        put(b'{"value": 1}', extra="Origin: http://evil.example\r\n"),
        403,
        "not_granted",
    ),
    "form": (
        put(b"value=1").replace(b"application/json", b"text/plain"),
        400,
        "bad_request",
    ),
    "not json": (put(b"21.5.1"), 400, "bad_request"),
    "nan": (put(b'{"value": NaN}'), 400, "bad_request"),
    "infinity": (put(b'{"value": -Infinity}'), 400, "bad_request"),
    "deep": (put(b"[" * 4000), 400, "bad_request"),
    "long number": (put(b'{"value": ' + b"9" * 4080 + b"}"), 200, None),
    "other keys": (put(b'{"value": 1, "force": true}'), 400, "bad_request"),
    "a list": (put(b"[21.5]"), 400, "bad_request"),
    "no body": (put(b""), 400, "bad_request"),
    "not utf-8 body": (put(b'{"value": "\xff"}'), 400, "bad_request"),
    "body too long": (put(b" " * (MAX_BODY + 1)), 413, "too_long"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_whatever_is_sent_is_answered_in_json(name, capfd, caplog):
    data, status, code = REQUESTS[name]
    answer = {}

    async def main():
        async with serving(Points()) as (_, port):
            answer["octets"] = await raw(port, data)

    asyncio.run(main())
    found, body = status_and_body(answer["octets"])
    assert found == status
    assert body.get("code") == code
    assert "Traceback" not in "".join(capfd.readouterr()) + caplog.text


@pytest.mark.parametrize("length", [0, 1, 20, 60, 100])
def test_a_request_that_breaks_off_is_not_answered(length, capfd):
    async def main():
        async with serving(Points()) as (_, port):
            assert await raw(port, put(b'{"value": 1}')[:length]) == b""

    asyncio.run(main())
    assert capfd.readouterr() == ("", "")


def test_a_fault_of_ours_is_one_line_and_a_500(capfd, caplog):
    async def main():
        points = Points()
        points.failure = ZeroDivisionError("secret")
        async with serving(points) as (_, port):
            status, body = status_and_body(await raw(port, b"GET /api/points/b HTTP/1.1\r\n\r\n"))
            assert (status, body["code"]) == (500, "failed")
            assert "secret" not in body["error"]

    asyncio.run(main())
    assert "Traceback" not in "".join(capfd.readouterr()) + caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_connections_are_bounded_and_the_slow_do_not_hold_them(monkeypatch):
    monkeypatch.setattr(web_server, "HEAD_SECONDS", 1.0)

    async def main():
        points = Points()
        async with serving(points) as (_, port):
            await request_json("::1", "GET", "/api/devices", port=port)  # the application is loaded
            idle = [await asyncio.open_connection("::1", port) for _ in range(8)]
            await asyncio.sleep(0.05)
            assert await raw(port, b"GET /api/devices HTTP/1.1\r\n\r\n") == b""
            for reader, writer in idle:
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.wait_for(reader.read(), 5) == b""
                writer.close()
            found = await request_json("::1", "GET", "/api/devices", port=port)
            assert found["devices"]

    asyncio.run(main())


def test_kicked_connections_end():
    async def main():
        points = Points()
        points.wait = asyncio.Event()
        async with serving(points) as (server, port):
            task = asyncio.create_task(raw(port, b"GET /api/points/b HTTP/1.1\r\n\r\n"))
            await asyncio.sleep(0.05)
            server.kick(lambda address: address == "::2")
            await asyncio.sleep(0.01)
            assert not task.done()
            server.kick(lambda address: address == "::1")
            assert await task == b""
            points.wait.set()

    asyncio.run(main())


def test_the_bounds_are_those_of_the_documentation():
    assert MAX_HEAD <= 16384
    assert MAX_BODY <= 16384
