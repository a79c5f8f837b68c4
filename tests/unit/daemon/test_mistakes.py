"""A mistake of ours that one input finds does not cost the others; it is logged, a bounded time."""

from __future__ import annotations

import asyncio
import logging

import pytest

from agent.config import load_config
from agent.daemon import MISTAKES_LOGGED, Daemon
from agent.house import House
from agent.layout import Layout
from agent.peers import Peers
from agent.profiles import Keys
from tests.support.pair import key_of

PACKET = bytes((0x60,)) + bytes(39)
# A machine that only mediates needs no TUN device, so nothing here needs to be root.
CONFIG = 'port = 0\n[mediate]\naddress = "med.example.org"\n'


class Device:
    """A TUN device that has `batches` for us."""

    unfinished = False

    def __init__(self, *batches: list[bytes]) -> None:
        self.batches = list(batches)
        self.written: list[list[bytes]] = []

    def receive(self) -> list[bytes]:
        return self.batches.pop(0) if self.batches else []

    def write(self, writes: list[list[bytes]]) -> None:
        self.written += writes


@pytest.fixture
def daemon(tmp_path):
    keys = Keys(identity=key_of("med"), mediation=key_of("mediation med"))
    made = Daemon(House(Layout(tmp_path), load_config(CONFIG), keys, Peers()))
    yield made
    asyncio.run(_stop(made))


async def _stop(made: Daemon) -> None:
    made.tun = None
    await made.stop()


def test_a_packet_of_our_own_machine(daemon, monkeypatch, caplog):
    """What stands behind the packet that we stumble over is carried all the same."""
    seen = []

    def stumble(packets, now):
        seen.append(packets)
        if len(seen) == 1:
            raise RuntimeError("a mistake")

    monkeypatch.setattr(daemon.engine, "receive_packets", stumble)
    daemon.tun = Device([PACKET], [PACKET, PACKET])
    with caplog.at_level(logging.ERROR):
        daemon._on_tun()
    assert seen == [[PACKET], [PACKET, PACKET]]
    assert daemon.counters["mistake"] == 1
    assert "made a mistake with a packet; please report this" in caplog.text


def test_a_change_of_the_network(daemon, monkeypatch, caplog):
    def stumble(addresses, now):
        raise RuntimeError("a mistake")

    monkeypatch.setattr(daemon._watch, "drain", lambda: True)
    monkeypatch.setattr(daemon.engine, "set_local_addresses", stumble)
    drained = []
    monkeypatch.setattr(daemon, "_drain", lambda: drained.append(True))
    with caplog.at_level(logging.ERROR):
        daemon._on_netlink()
    assert drained
    assert "made a mistake with a change of the network" in caplog.text


def test_they_do_not_fill_the_log(daemon, monkeypatch, caplog):
    def stumble(packets, now):
        raise RuntimeError("a mistake")

    monkeypatch.setattr(daemon.engine, "receive_packets", stumble)
    for _ in range(3 * MISTAKES_LOGGED):
        daemon.tun = Device([PACKET])
        daemon._on_tun()
    assert daemon.counters["mistake"] == 3 * MISTAKES_LOGGED
    assert caplog.text.count("please report this") == MISTAKES_LOGGED
