"""The NAT in userspace: what each behaviour lets through, and that its delay is what it says."""

from __future__ import annotations

import re
import statistics
import struct

import pytest

from agent.operations.lab import TwoNats
from tests.lab.routers import two_user_nats
from tests.lab.usernat import UDP, Behaviour, Nat, adjusted, parse

NAT = bytes([203, 0, 113, 1])
INSIDE = (bytes([10, 1, 0, 10]), 4500)
SERVER = (bytes([203, 0, 113, 10]), 4500)
OTHER_PORT = (SERVER[0], 4501)
OTHER = (bytes([203, 0, 113, 11]), 4500)


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def datagram(source, destination, payload=b"hello") -> bytes:
    length = 8 + len(payload)
    pseudo = source[0] + destination[0] + struct.pack("!HH", UDP, length)
    ports = struct.pack("!HHH", source[1], destination[1], length)
    udp = ports + struct.pack("!H", checksum(pseudo + ports + b"\0\0" + payload)) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 64, UDP, 0)
    head += source[0] + destination[0]
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + udp


def is_sound(data: bytes) -> bool:
    pseudo = data[12:20] + struct.pack("!HH", UDP, len(data) - 20)
    return checksum(data[:20]) == 0 and checksum(pseudo + data[20:]) == 0


def translated_port(nat: Nat, destination, now=0.0) -> int:
    done = nat.outbound(datagram(INSIDE, destination), now)
    assert done is not None
    packet = parse(done[0])
    assert packet is not None
    assert packet.source[0] == NAT
    assert is_sound(done[0])
    return packet.source[1]


@pytest.mark.parametrize(
    ("mapping", "same_for_port", "same_for_address"),
    [("ei", True, True), ("ad", True, False), ("apd", False, False)],
)
def test_mapping(mapping, same_for_port, same_for_address):
    nat = Nat(Behaviour(NAT, mapping=mapping), 1)
    first = translated_port(nat, SERVER)
    assert first == INSIDE[1]
    assert (translated_port(nat, OTHER_PORT) == first) is same_for_port
    assert (translated_port(nat, OTHER) == first) is same_for_address


@pytest.mark.parametrize(
    ("filtering", "from_port", "from_address"),
    [("ei", True, True), ("ad", True, False), ("apd", False, False)],
)
def test_filtering(filtering, from_port, from_address):
    nat = Nat(Behaviour(NAT, filtering=filtering), 1)
    port = translated_port(nat, SERVER)
    inside = nat.inbound(datagram(SERVER, (NAT, port)), 1.0)
    assert inside is not None
    assert is_sound(inside)
    packet = parse(inside)
    assert packet is not None
    assert packet.destination == INSIDE
    assert (nat.inbound(datagram(OTHER_PORT, (NAT, port)), 1.0) is not None) is from_port
    assert (nat.inbound(datagram(OTHER, (NAT, port)), 1.0) is not None) is from_address
    assert nat.inbound(datagram(SERVER, (NAT, port + 1)), 1.0) is None


def test_a_mapping_ends_after_its_lifetime_and_with_a_reboot():
    nat = Nat(Behaviour(NAT, lifetime=30), 1)
    port = translated_port(nat, SERVER, 0.0)
    answer = datagram(SERVER, (NAT, port))
    assert nat.inbound(answer, 30.0) is not None
    assert nat.inbound(answer, 30.1) is None
    translated_port(nat, SERVER, 31.0)
    assert nat.inbound(answer, 32.0) is not None
    nat.forget()
    assert nat.inbound(answer, 32.0) is None


def test_two_hosts_with_one_port_get_two():
    nat = Nat(Behaviour(NAT), 1)
    ports = set()
    for host in (10, 11):
        done = nat.outbound(datagram((bytes([10, 1, 0, host]), 4500), SERVER), 0.0)
        assert done is not None
        packet = parse(done[0])
        assert packet is not None
        ports.add(packet.source[1])
    assert ports == {4500, 4501}


def test_hairpinning_turns_back():
    nat = Nat(Behaviour(NAT, filtering="ei"), 1)
    port = translated_port(nat, SERVER)
    done = nat.outbound(datagram((bytes([10, 1, 0, 11]), 7), (NAT, port)), 0.0)
    assert done is not None
    assert done[1]
    assert nat.inbound(done[0], 0.0) is not None


def test_loss_is_the_seeds():
    lost = [[Nat(Behaviour(NAT, loss=0.5), seed).is_lost() for _ in range(1)] for seed in (1, 1)]
    assert lost[0] == lost[1]
    nat = Nat(Behaviour(NAT, loss=0.25), 3)
    assert 200 < sum(nat.is_lost() for _ in range(1000)) < 300


@pytest.mark.parametrize("length", range(28))
def test_a_short_packet_is_dropped(length):
    assert parse(datagram(INSIDE, SERVER)[:length]) is None


def test_checksum_adjustment_equals_computing_it_anew():
    words = struct.pack("!4H", 0x1234, 0xFFFF, 0, 0xABCD)
    changed = words[:2] + b"\x00\x01" + words[4:]
    assert adjusted(checksum(words), words[2:4], changed[2:4]) == checksum(changed)


@pytest.mark.netns
def test_twenty_milliseconds_are_twenty(lab):
    nats = two_user_nats(lab, "--delay", "20")
    assert nats.gateway.ping(TwoNats.SERVER)
    text = nats.gateway.run(["ping", "-n", "-c", "10", "-i", "0.05", TwoNats.SERVER]).stdout
    times = [float(t) for t in re.findall(r"time=([0-9.]+)", text)]
    assert len(times) == 10
    # No upper bound of a single echo: other work on the machine may take the processor.
    assert min(times) >= 40.0
    assert statistics.median(times) < 45.0
    assert not nats.server.ping(TwoNats.NAT_A, seconds=0.2)
