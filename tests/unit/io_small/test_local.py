"""The control socket: a real server and real clients in one process."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from agent.errors import InputError, PlatformError, RefusedError, UnavailableError
from agent.io import local
from agent.io.local import ControlClient, Reply, serve

if TYPE_CHECKING:
    from pathlib import Path


def run_with_server(path: Path, handler, work, **settings):
    """Run blocking `work()` in a thread while a server with `handler` serves `path`."""

    async def both():
        server = await serve(path, handler, **settings)
        try:
            return await asyncio.to_thread(work)
        finally:
            await server.close()

    return asyncio.run(both())


async def echo(request: dict, reply: Reply) -> None:
    await reply({"progress": 1})
    await reply({"final": True, "request": request, "uid": reply.credentials.uid})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "control.sock"


def raw(path: Path, data: bytes) -> list[dict]:
    """What the server answers to `data`, until it closes."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        client.sendall(data)
        with client.makefile("rb") as lines:
            return [json.loads(line) for line in lines]


def test_request_progress_and_final_line(path):
    answers = run_with_server(path, echo, lambda: list(ControlClient(path).request({"a": "ä"})))
    assert answers == [
        {"progress": 1},
        {"final": True, "request": {"a": "ä"}, "uid": os.getuid()},
    ]
    assert not path.exists()


def test_a_folder_too_deep_for_a_socket_address_works(tmp_path):
    path = tmp_path / ("d" * 120) / "control.sock"
    path.parent.mkdir()
    answers = run_with_server(path, echo, lambda: list(ControlClient(path).request({})))
    assert answers[-1]["final"] is True


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"nonsense\n",
        b"[1]\n",
        b"{} ",
        b'{"a":' + b"[" * 50_000 + b"\n",
        b'{"n":' + b"9" * 5000 + b"}\n",
        b"\xff\xfe\n",
        b'{"a":"' + b"x" * local.REQUEST_OCTETS + b'"}\n',
    ],
)
def test_what_is_no_request_gets_one_sentence(path, data):
    async def never(request, reply):
        raise AssertionError(request)

    def ask():
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(path))
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return client.makefile("rb").read()

    answer = json.loads(run_with_server(path, never, ask))
    assert answer["final"] is True
    assert answer["exit_code"] == 64


def test_errors_of_a_handler_become_the_final_line(path, caplog):
    async def failing(request, reply):
        if request["how"] == "known":
            raise RefusedError("boiler.setpoint: 90 is above the limit of 30.")
        if request["how"] == "late":
            await reply({"final": True})
        if request["how"] == "silent":
            return
        raise ZeroDivisionError

    def work():
        client = ControlClient(path)
        return [
            list(client.request({"how": h}))[-1] for h in ("known", "unknown", "late", "silent")
        ]

    known, unknown, late, silent = run_with_server(path, failing, work)
    assert known["error"] == "boiler.setpoint: 90 is above the limit of 30."
    assert known["exit_code"] == 77
    assert unknown["exit_code"] == 70
    assert "ZeroDivisionError" not in unknown["error"]
    assert late == silent == {"final": True}
    assert caplog.text.count("A command failed") == 2


def test_nothing_follows_the_final_line(path, caplog):
    async def twice(request, reply):
        await reply({"final": True})
        await reply({"more": 1})

    assert run_with_server(path, twice, lambda: raw(path, b"{}\n")) == [{"final": True}]
    assert "nothing may follow" in caplog.text


def test_without_a_daemon(path):
    with pytest.raises(UnavailableError, match=r"does not run.*hearthgate run"):
        list(ControlClient(path).request({}))
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with pytest.raises(UnavailableError, match="does not run"):
        list(ControlClient(path).request({}))
    with pytest.raises(UnavailableError, match="does not run"):
        list(ControlClient(path / "x").request({}))


def test_a_stale_socket_is_replaced(path):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert run_with_server(path, echo, lambda: list(ControlClient(path).request({})))


def test_a_second_daemon_is_told_and_does_no_harm(path):
    async def two():
        server = await serve(path, echo)
        with pytest.raises(UnavailableError, match=rf"process {os.getpid()}\) uses .*--root"):
            await serve(path, echo)
        answers = await asyncio.to_thread(lambda: list(ControlClient(path).request({})))
        await server.close()
        again = await serve(path, echo)
        await again.close()
        return answers

    assert len(asyncio.run(two())) == 2


def test_where_no_socket_can_be(tmp_path):
    with pytest.raises(PlatformError, match="cannot be made"):
        asyncio.run(serve(tmp_path / "absent" / "control.sock", echo))
    (tmp_path / "folder").mkdir()
    with pytest.raises(PlatformError, match="cannot be made"):
        asyncio.run(serve(tmp_path / "folder", echo))


def test_permissions(path):
    import grp

    own = grp.getgrgid(os.getgid()).gr_name

    def modes():
        return stat.S_IMODE(path.stat().st_mode), path.stat().st_gid

    assert run_with_server(path, echo, modes, group=own) == (0o660, os.getgid())
    assert run_with_server(path, echo, modes, group="no-such-group")[0] == 0o600


def test_a_client_that_goes_away_ends_a_silent_handler(path, monkeypatch):
    monkeypatch.setattr(local, "GONE_CHECK_SECONDS", 0.01)
    started, ended = threading.Event(), threading.Event()

    async def watching(request, reply):
        started.set()
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()

    def work():
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"{}\n")
            client.shutdown(socket.SHUT_WR)  # it still listens
            assert started.wait(5)
            assert not ended.wait(0.1)
        return ended.wait(5)

    assert run_with_server(path, watching, work)


def test_closing_the_server_ends_the_handlers(path):
    cancelled = threading.Event()

    async def slow(request, reply):
        await reply({"started": True})
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def scenario():
        server = await serve(path, slow)
        lines = ControlClient(path).request({})
        assert await asyncio.to_thread(next, lines) == {"started": True}
        await server.close()
        with pytest.raises(UnavailableError, match="stopped"):
            await asyncio.to_thread(next, lines)

    asyncio.run(scenario())
    assert cancelled.is_set()


def test_clients_are_bounded(path, monkeypatch):
    monkeypatch.setattr(local, "MAX_CLIENTS", 2)

    async def waiting(request, reply):
        await asyncio.sleep(30)

    def work():
        clients = []
        for _ in range(2):
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(path))
            client.sendall(b"{}\n")
            clients.append(client)
        try:
            return raw(path, b"")
        finally:
            for client in clients:
                client.close()

    [answer] = run_with_server(path, waiting, work)
    assert answer["exit_code"] == 75


def test_a_client_that_does_not_read_is_dropped(path, monkeypatch):
    monkeypatch.setattr(local, "SEND_SECONDS", 0.05)
    dropped = threading.Event()

    async def chatty(request, reply):
        try:
            for _ in range(1000):
                await reply({"x": "y" * 10_000})
        except ConnectionError:
            dropped.set()
            raise

    def work():
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"{}\n")
            return dropped.wait(10)

    assert run_with_server(path, chatty, work)


def test_a_silent_client_is_asked_to_speak(path, monkeypatch):
    monkeypatch.setattr(local, "REQUEST_SECONDS", 0.05)
    [answer] = run_with_server(path, echo, lambda: raw(path, b'{"half":'))
    assert answer["error"] == "No request came."


def test_bounds_of_the_client(path):
    async def silent(request, reply):
        await asyncio.sleep(30)

    def work():
        with pytest.raises(InputError):
            list(ControlClient(path).request({"x": "y" * local.REQUEST_OCTETS}))
        with pytest.raises(UnavailableError, match="does not answer"):
            list(ControlClient(path, timeout=0.05).request({}))
        return True

    assert run_with_server(path, silent, work)
