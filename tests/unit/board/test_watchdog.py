"""sd_notify, received by a socket of the test in systemd's place."""

from __future__ import annotations

import os
import socket

import pytest

from board.watchdog import MAX_STATUS, Notifier


@pytest.fixture(params=["path", "abstract"])
def listener(request, tmp_path):
    address = f"@hearthgate-test-{os.getpid()}"
    if request.param == "path":
        address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address.replace("@", "\0"))
        receiver.settimeout(2)
        yield address, receiver


def test_every_message(listener):
    address, receiver = listener
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000", "PATH": "/bin"}
    notifier = Notifier(environment)
    assert environment == {"PATH": "/bin"}  # children must not speak for us
    assert notifier.is_watched
    assert notifier.interval == 15.0
    notifier.ready("2 peers\nREADY=0\x1b")
    assert receiver.recv(1000) == b"READY=1\nSTATUS=2 peers READY=0 "
    notifier.alive()
    assert receiver.recv(1000) == b"WATCHDOG=1"
    notifier.status("x" * 1000)
    assert receiver.recv(5000) == b"STATUS=" + b"x" * MAX_STATUS
    notifier.stopping("bye \ud800")
    assert receiver.recv(1000).startswith(b"STOPPING=1\nSTATUS=bye")
    notifier.close()
    notifier.alive()
    assert not notifier.is_watched


def test_watchdog_meant_for_another_process_is_not_ours(listener):
    address, _ = listener
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"})
    assert notifier.interval is None
    notifier.close()


@pytest.mark.parametrize("address", ["", "relative", "/absent/socket", "@", "vsock:2:1234"])
def test_without_a_listener_nothing_happens(address):
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "x"})
    assert not notifier.is_watched
    assert notifier.interval is None
    notifier.ready("nobody hears")


def test_a_full_socket_does_not_block(listener):
    address, _ = listener
    notifier = Notifier({"NOTIFY_SOCKET": address})
    for _ in range(5000):
        notifier.alive("x" * 100)
    notifier.close()
