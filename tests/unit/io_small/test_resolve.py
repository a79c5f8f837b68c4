"""Name lookups; the C library's part is played by the test where the answer matters."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from agent.datagram import Address
from agent.errors import InputError, TemporaryError, UnavailableError
from agent.io import clock, resolve
from agent.io.resolve import interleave

V4 = [Address(bytes([192, 0, 2, n]), 4500) for n in range(1, 5)]
V6 = [Address(bytes([0x20, 0x01, 0x0D, 0xB8]) + bytes(11) + bytes([n]), 4500) for n in range(1, 5)]


def lookup(host: str, **settings):
    return asyncio.run(resolve.resolve(host, 4500, **settings))


def answers(*hosts: str):
    """A getaddrinfo that knows these addresses, in this order."""

    def getaddrinfo(name, port, family=0, type=0):
        found = []
        for host in hosts:
            kind = socket.AF_INET6 if ":" in host else socket.AF_INET
            found.append((kind, type, 0, "", (host, 0)))
        return found

    return getaddrinfo


def test_literals_need_no_lookup(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", None)
    assert lookup("192.0.2.1") == [V4[0]]
    assert lookup(" [2001:db8::1] ") == [V6[0]]
    with pytest.raises(UnavailableError, match="has no IPv6 address"):
        lookup("192.0.2.1", family=socket.AF_INET6)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        ([*V6[:2], *V4[:3]], [V6[0], V4[0], V6[1], V4[1], V4[2]]),
        ([V4[0], V6[0], V6[1]], [V4[0], V6[0], V6[1]]),
        (V4, V4),
    ],
)
def test_families_take_turns(given, expected):
    assert interleave(given) == expected


def test_answers_are_ordered_bounded_and_cleaned(monkeypatch):
    hosts = ("2001:db8::1", "2001:db8::1", "fe80::1%lo", "::", "ff02::1", "192.0.2.1", "0.0.0.0")
    monkeypatch.setattr(socket, "getaddrinfo", answers(*hosts))
    assert [a.host for a in lookup("med.example.org")] == ["2001:db8::1", "192.0.2.1", "fe80::1"]
    monkeypatch.setattr(socket, "getaddrinfo", answers(*(f"192.0.2.{n}" for n in range(200))))
    assert len(lookup("many.example.org")) == resolve.MAX_ADDRESSES
    monkeypatch.setattr(socket, "getaddrinfo", answers("0.0.0.0", "224.0.0.1"))
    with pytest.raises(UnavailableError, match="no usable address"):
        lookup("nowhere.example.org")


def test_localhost_really():
    assert all(a.port == 4500 for a in lookup("localhost"))


@pytest.mark.parametrize(
    ("error", "expected", "text"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), UnavailableError, "does not exist"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), TemporaryError, "is the network up"),
        (socket.gaierror(socket.EAI_FAIL, "broken"), UnavailableError, "broken"),
        (OSError(24, "too many files"), TemporaryError, "too many files"),
    ],
)
def test_failures_are_sentences(monkeypatch, error, expected, text):
    def failing(*_):
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", failing)
    with pytest.raises(expected, match=text):
        lookup("med.example.org")


@pytest.mark.parametrize(
    "host",
    ["", " ", "a b", "x" * 300, "fe80::1%eth0", "a\0b", "a\nb", "-\x1b", "..ü", "ü" * 100, "a/b"],
)
def test_what_is_no_name_is_refused_before_any_lookup(monkeypatch, host):
    monkeypatch.setattr(socket, "getaddrinfo", None)
    with pytest.raises(InputError, match="neither a host name nor an address") as caught:
        lookup(host)
    assert caught.value.sentence.isprintable()


def test_a_dead_name_server_holds_neither_the_loop_nor_its_end(monkeypatch):
    release = threading.Event()

    def hanging(*_):
        release.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hanging)

    async def ask_often():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        for _ in range(resolve.MAX_THREADS):
            with pytest.raises(TemporaryError, match="No name server answers"):
                await resolve.resolve("med.example.org", 4500, seconds=0.01)
        with pytest.raises(TemporaryError, match="earlier questions"):
            await resolve.resolve("med.example.org", 4500, seconds=0.01)
        ticking.cancel()
        return ticks

    try:
        assert asyncio.run(ask_often()) > 10  # and came back although the threads still hang
    finally:
        release.set()
    for thread in threading.enumerate():
        if thread.name == "resolve":
            thread.join(5)
    monkeypatch.setattr(socket, "getaddrinfo", answers("192.0.2.1"))
    assert lookup("med.example.org") == [V4[0]]  # the places are free again


def test_monotonic_counts_and_wall_is_a_date():
    first = clock.monotonic()
    assert clock.monotonic() >= first > 0
    assert clock.wall() > 0
