"""Invariants of the data plane under mutated packets, sealed and not. One sentence each."""

from __future__ import annotations

import random

import pytest

from agent.datagram import Received
from tests.fuzz.mutate import mutated
from tests.unit.ipsec.packets import PATH_B, SUITES, Pair, echo, tcp, udp


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
@pytest.mark.parametrize("esn", [False, True], ids=["32", "esn"])
def test_nothing_but_what_was_sealed_is_delivered_and_only_once(suite, esn):
    """Changed, cut, joined and repeated packets, in groups as the kernel hands them over or not."""
    source = random.Random(1)
    pair = Pair(suite=suite, esn=esn)
    inner = [tcp(b"x"), udp(bytes(300)), echo(), echo(v4=True), tcp(bytes(1200), v4=True)]
    corpus = []
    for packet in inner * 4:
        corpus += [t.data for t in pair.a.seal([packet], 0.0)]
    delivered = []
    for _ in range(500):
        data = source.choice(corpus)
        if source.random() < 0.9:
            data = mutated(source, data)
        if source.random() < 0.2:
            data += mutated(source, source.choice(corpus))
        segment = source.choice((0, 0, 0, 1, len(data) // 2, 40, 65535))
        result = pair.b.receive([Received(PATH_B, data, segment)], 0.0)
        delivered += result.packets
    assert all(packet in inner for packet in delivered)
    assert all(delivered.count(packet) <= 4 for packet in inner)


def test_any_authentic_content_stays_within_the_selectors():
    """A peer with the keys seals whatever it likes: read, dropped or delivered, never raised."""
    source = random.Random(2)
    pair = Pair()
    outbound = pair.a._sas[pair.sa_a.spi_in].outbound
    seeds = [tcp(b"x"), udp(b"y"), echo(), echo(v4=True), udp(b"z", v4=True)]
    kept = 0
    for _ in range(3000):
        packet = mutated(source, source.choice(seeds))
        (transmit,) = outbound.seal([packet], source.choice((4, 41)), PATH_B)
        for read in pair.b.receive([Received(PATH_B, transmit.data)], 0.0).packets:
            kept += 1
            assert read[0] >> 4 in (4, 6)
            assert packet.startswith(read)  # padding may be cut off
    assert kept > 100


def test_any_packet_of_our_own_device_is_sealed_or_dropped():
    source = random.Random(4)
    pair = Pair()
    seeds = [tcp(b"x" * 50), udp(b"y" * 20), echo(), echo(v4=True)]
    for _ in range(3000):
        packets = [mutated(source, source.choice(seeds)) for _ in range(source.randrange(1, 5))]
        sealed = pair.a.seal(packets, 0.0)
        read = pair.b.receive([Received(PATH_B, t.data, t.segment) for t in sealed], 0.0).packets
        assert len(read) <= len(packets)
