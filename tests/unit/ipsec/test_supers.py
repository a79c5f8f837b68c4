"""Packets that the kernel leaves unfinished: cut and summed like a naive model of RFC 9293."""

from __future__ import annotations

import struct

import pytest

from agent.ipsec import Offload, supers
from tests.unit.ipsec.packets import (
    Pair,
    arriving,
    checksum,
    datagrams,
    echo,
    segment,
    tcp,
    udp,
    with_checksum,
)

FULL = Offload(vnet=True, udp=True)
FIN, SYN, PSH, ACK, URG = 1, 2, 8, 16, 32


def at(packet: bytes) -> int:
    """Where TCP or UDP begins."""
    return 40 if packet[0] >> 4 == 6 else (packet[0] & 15) * 4


def partial(packet: bytes, start: int | None = None) -> bytes:
    """With the pseudo-header's sum in the checksum field, as the kernel hands it over."""
    start = at(packet) if start is None else start
    protocol = 17 if packet[6 if packet[0] >> 4 == 6 else 9] == 17 else 6
    field = start + (6 if protocol == 17 else 16)
    ends = packet[8:40] if packet[0] >> 4 == 6 else packet[12:20]
    pseudo = checksum(ends + struct.pack("!II", len(packet) - start, protocol)) ^ 0xFFFF
    return packet[:field] + pseudo.to_bytes(2, "big") + packet[field + 2 :]


def frame(packet: bytes, size: int = 0, start: int | None = None, flags: int = 1) -> bytes:
    """As it is read from the TUN device; a super-packet with a gso_size."""
    begin = at(packet) if start is None else start
    six = packet[0] >> 4 == 6
    offset = 6 if packet[6 if six else 9] == 17 else 16
    gso = 0 if not size else 4 if six else 1
    vnet = struct.pack("=BBHHHH", flags, gso, 0, size, begin, offset)
    return vnet + partial(packet, begin)


def model(packet: bytes, size: int, start: int, head: int) -> list[bytes]:
    """One segment at a time, nothing shared between them."""
    cut, payload = [], packet[head:]
    for i in range(0, len(payload), size):
        one = bytearray(packet[:head] + payload[i : i + size])
        if one[0] >> 4 == 6:
            one[4:6] = struct.pack("!H", len(one) - 40)
            ends = bytes(one[8:40])
        else:
            one[2:4] = struct.pack("!H", len(one))
            if not one[6] & 0x40:
                ident = int.from_bytes(one[4:6], "big") + i // size
                one[4:6] = (ident % 65536).to_bytes(2, "big")
            one[10:12] = b"\0\0"
            one[10:12] = struct.pack("!H", checksum(bytes(one[:start])))
            ends = bytes(one[12:20])
        sequence = int.from_bytes(one[start + 4 : start + 8], "big") + i
        one[start + 4 : start + 8] = struct.pack("!I", sequence % 2**32)
        if i + size < len(payload):
            one[start + 13] &= ~(FIN | PSH)
        one[start + 16 : start + 18] = b"\0\0"
        pseudo = ends + struct.pack("!II", len(one) - start, 6)
        one[start + 16 : start + 18] = struct.pack("!H", checksum(pseudo + bytes(one[start:])))
        cut.append(bytes(one))
    return cut


def payload(length: int) -> bytes:
    return bytes(i * 7 % 251 for i in range(length))


@pytest.mark.parametrize("v4", [False, True], ids=["ipv6", "ipv4"])
@pytest.mark.parametrize("length", [1, 999, 1000, 1001, 1999, 2000, 44501, 45000])
@pytest.mark.parametrize("flags", [ACK, ACK | PSH, ACK | PSH | FIN, ACK | URG])
def test_segments_are_those_of_the_model(v4, length, flags):
    whole = tcp(payload(length), flags=flags, sequence=2**32 - 2500, v4=v4)
    start = at(whole)
    expected = model(whole, 1000, start, start + 32)
    assert supers.finish(frame(whole, 1000), summed=True) == expected
    assert supers.finish(frame(whole, 1000), summed=False) == [partial(p) for p in expected]


@pytest.mark.parametrize("size", [1, 3, 777, 1348])
def test_odd_segment_sizes(size):
    whole = tcp(payload(20 * size + 1), v4=True, options=b"")
    assert supers.finish(frame(whole, size), summed=True) == model(whole, size, 20, 40)


def test_without_df_each_segment_has_its_identification():
    whole = bytearray(tcp(payload(4500), v4=True, ident=0xFFFE))
    whole[6] = 0
    whole[10:12] = b"\0\0"
    whole[10:12] = checksum(bytes(whole[:20])).to_bytes(2, "big")
    cut = supers.finish(frame(bytes(whole), 1000), summed=True)
    assert cut == model(bytes(whole), 1000, 20, 52)
    assert [c[4:6].hex() for c in cut] == ["fffe", "ffff", "0000", "0001", "0002"]


@pytest.mark.parametrize("summed", [False, True])
def test_headers_between_ip_and_tcp_get_checksums_always(summed):
    plain = tcp(payload(2500))
    six = plain[:4] + struct.pack("!HB", len(plain) - 32, 60) + plain[7:40]
    six += bytes((6, 0, 1, 4, 0, 0, 0, 0)) + plain[40:]
    assert supers.finish(frame(six, 1000, 48), summed=summed) == model(six, 1000, 48, 80)
    plain = tcp(payload(2500), v4=True)
    four = b"\x46" + plain[1:2] + struct.pack("!H", len(plain) + 4) + plain[4:20]
    four += bytes((1, 1, 1, 1)) + plain[20:]
    assert supers.finish(frame(four, 1000, 24), summed=summed) == model(four, 1000, 24, 56)


@pytest.mark.parametrize("v4", [False, True], ids=["ipv6", "ipv4"])
@pytest.mark.parametrize("make", [tcp, udp])
@pytest.mark.parametrize("length", [0, 1, 100, 1001])
def test_single_packets_get_their_checksum(v4, make, length):
    packet = make(payload(length), v4=v4)
    assert supers.finish(frame(packet), summed=True) == [packet]
    assert supers.finish(frame(packet), summed=False) == [partial(packet)]


def test_a_udp_checksum_is_never_zero():
    first = udp(b"\0\0")
    (total,) = struct.unpack("!H", first[46:48])
    packet = with_checksum(first[:48] + total.to_bytes(2, "big"))
    assert packet[46:48] in (b"\0\0", b"\xff\xff")
    [made] = supers.finish(frame(packet), summed=True)
    assert made[46:48] == b"\xff\xff"


def test_what_makes_no_sense_is_nothing():
    whole = frame(tcp(payload(3000), v4=True), 1000)
    for cut in range(10 + 52 + 1):
        assert supers.finish(whole[:cut], summed=True) == []
    for place in range(10):
        for value in (0, 1, 2, 3, 5, 0x81, 255):
            changed = whole[:place] + bytes((value,)) + whole[place + 1 :]
            supers.finish(changed, summed=True)  # does not raise
    assert supers.finish(b"\0" + whole[1:], summed=True) == []  # no NEEDS_CSUM
    assert supers.finish(whole[:1] + b"\x81" + whole[2:], summed=True) == []  # ECN
    assert supers.finish(whole[:1] + b"\x04" + whole[2:], summed=True) == []  # of IPv6
    assert supers.finish(whole[:4] + b"\0\0" + whole[6:], summed=True) == []  # gso_size 0
    for offset in (0, 0x10, 0x40, 0xF0):
        place = 10 + 20 + 12
        changed = whole[:place] + bytes((offset,)) + whole[place + 1 :]
        if offset != 0xF0:
            assert supers.finish(changed, summed=True) == []
        supers.finish(changed[:100], summed=True)


def agreeing(**changes) -> Pair:
    """Two ends of ours that agreed."""
    return Pair(offload=FULL, unsummed=True, **changes)


def delivered(pair: Pair, *frames: bytes) -> list[bytes]:
    """What the far kernel makes of what was read here."""
    writes = pair.b.receive(arriving(pair.a.seal(frames, 0.0)), 0.0).writes
    return [packet for write in writes for packet in segmented(write)]


def segmented(write: list[bytes]) -> list[bytes]:
    flags, gso = b"".join(write)[:2]
    if not flags or gso:
        return segment(write)
    whole = b"".join(write)
    _, _, header, size, start, offset = struct.unpack_from("=BBHHHH", whole)
    assert (flags, header, size) == (1, 0, 0)
    packet = whole[10:]
    assert start == at(packet)
    assert packet == partial(packet)
    assert offset == (6 if packet[6 if packet[0] >> 4 == 6 else 9] == 17 else 16)
    return [with_checksum(packet)]


@pytest.mark.parametrize("v4", [False, True], ids=["ipv6", "ipv4"])
@pytest.mark.parametrize("agreed", [False, True])
def test_the_far_kernel_gets_what_the_model_says(v4, agreed):
    pair = agreeing() if agreed else Pair(offload=FULL)
    whole = tcp(payload(40300), flags=ACK | PSH, v4=v4)
    small = tcp(b"end", sequence=41300, flags=ACK | PSH | FIN, v4=v4)
    start = at(whole)
    query = udp(b"query", v4=v4)
    expected = [*model(whole, 1000, start, start + 32), small, query]
    got = delivered(pair, frame(whole, 1000), frame(small), frame(query))
    assert got == expected
    assert sum(len(p) for p in expected) == pair.a.traffic("b")[0]
    assert not pair.a.counters
    assert not pair.b.counters


def test_in_one_sending_with_finished_packets():
    pair = agreeing()
    whole = tcp(payload(3000), flags=ACK | PSH, v4=True)
    ready = tcp(payload(1000), sequence=4000, v4=True)
    got = delivered(pair, echo(v4=True), frame(whole, 1000), ready, echo(v4=True))
    assert got == [echo(v4=True), *model(whole, 1000, 20, 52), ready, echo(v4=True)]


def test_a_peer_that_did_not_agree_gets_right_checksums_on_the_wire():
    pair = Pair()
    whole = tcp(payload(3500), flags=ACK)
    assert pair.carry(frame(whole, 1000)) == model(whole, 1000, 40, 72)
    assert pair.carry(frame(udp(b"x"))) == [udp(b"x")]


@pytest.mark.parametrize("v4", [False, True], ids=["ipv6", "ipv4"])
def test_wrong_checksums_of_an_agreed_peer_are_made_right_and_others_are_not_touched(v4):
    for agreed in (True, False):
        pair = agreeing() if agreed else Pair(offload=FULL)
        packet = tcp(b"x", v4=v4)
        field = at(packet) + 16
        wrong = packet[:field] + b"\x12\x34" + packet[field + 2 :]
        [write] = pair.b.receive(arriving(pair.a.seal([wrong], 0.0)), 0.0).writes
        if agreed:
            assert segmented(write) == [packet]
        else:
            assert write == [bytes(10), wrong]


def test_what_has_no_checksum_to_vouch_for_is_delivered_as_it_is():
    pair = agreeing()
    unsummed = udp(b"x", v4=True)
    unsummed = unsummed[:26] + b"\0\0" + unsummed[28:]
    short = udp(b"xyz", v4=True)
    short = short[:24] + struct.pack("!H", 9) + short[26:]  # data behind the datagram
    fragment = bytearray(udp(b"x" * 8, v4=True))
    fragment[6] = 0x20
    for packet in (unsummed, short, bytes(fragment), echo()):
        [write] = pair.b.receive(arriving(pair.a.seal([packet], 0.0)), 0.0).writes
        assert write == [bytes(10), packet]


def test_segments_beyond_the_path_mtu_get_an_answer():
    pair = agreeing()
    pair.a._offload = FULL
    pair.a.set_path_mtu(1, 900)
    whole = tcp(payload(40000), v4=True)
    sent = pair.a.seal([frame(whole, 1000), frame(tcp(b"fits", v4=True))], 0.0)
    assert len(datagrams(sent)) == 1
    answers = pair.a.answers()
    assert len(answers) == 16
    vnet, answer = answers[0]
    assert vnet == bytes(10)
    assert answer[9] == 1
    assert answer[20:22] == bytes((3, 4))
    assert int.from_bytes(answer[26:28], "big") == 900
    assert answer[28 + 24 : 28 + 28] == whole[24:28]  # the sequence number that did not fit
    assert pair.a.counters["too_big"] == 40


def test_rubbish_with_a_header_is_counted():
    pair = agreeing()
    assert pair.a.seal([b"\1", b"\1" + bytes(60), frame(echo(v4=True))[:40]], 0.0) == []
    assert pair.a.seal([frame(tcp(payload(3000), v4=True), 1000, flags=3)[:9]], 0.0) == []
    assert pair.a.counters["malformed"] == 4


def test_nobody_asks_for_unfinished_packets_while_a_stranger_is_there():
    from tests.unit.ipsec.packets import parameters

    plane = agreeing().a
    assert plane.takes_unfinished
    stranger = parameters(seed=5, ike_id=2, peer="c")
    plane.install(stranger, 0.0)
    assert not plane.takes_unfinished
    plane.remove(stranger.spi_in)
    assert plane.takes_unfinished
    plane.remove(parameters().spi_in)
    assert not plane.takes_unfinished
