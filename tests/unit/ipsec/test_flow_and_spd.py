"""What is read of an inner packet, and what selectors and grants say of it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ipsec.flow import flow_key, read
from agent.ipsec.icmp import packet_too_big
from agent.ipsec.spd import ALL, NOTHING, OPENED_FLOWS, Grants, OpenedFlows, Verdict, covers, judge
from agent.wire.selectors import TrafficSelector
from tests.unit.ipsec.packets import HERE4, HERE6, THERE4, THERE6, checksum, echo, ip, tcp, udp

WEB = Grants(frozenset({(6, 80), (17, 53)}))


def fragment(body, *, protocol=6, offset=0, more=True):
    return ip(44, struct.pack("!BBHI", protocol, 0, offset << 3 | more, 99) + body)


def icmp(kind, *, v4=False):
    return ip(1 if v4 else 58, bytes((kind, 0)) + bytes(30), v4=v4)


SYN = tcp(b"", flags=0x02)[40:]
ACCEPT, NO_OPENING, ANSWER, REFUSE = Verdict


@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        (tcp(b"", flags=0x02), ACCEPT),
        (tcp(b"", flags=0x02, v4=True), ACCEPT),
        (tcp(b"", ports=(80, 22)), NO_OPENING),
        (udp(b"x"), ACCEPT),
        (udp(b"x", ports=(53, 4000)), ANSWER),
        (udp(b"x", ports=(1, 80)), ANSWER),
        (echo(), ACCEPT),
        (echo(v4=True), ACCEPT),
        (icmp(2), ACCEPT),
        (icmp(135), REFUSE),  # neighbour solicitation
        (icmp(134), REFUSE),  # router advertisement
        (icmp(3, v4=True), ACCEPT),
        (icmp(5, v4=True), REFUSE),  # redirect
        (ip(47, bytes(40)), REFUSE),
        (ip(132, bytes(40)), REFUSE),
        (fragment(SYN), ACCEPT),
        (fragment(bytes(40), offset=10), REFUSE),
        (fragment(bytes(40), protocol=58, offset=10), ACCEPT),
        (fragment(bytes(40), protocol=17, offset=10), REFUSE),
        (ip(0, bytes((6, 0)) + bytes(6) + SYN), ACCEPT),  # behind hop-by-hop options
    ],
)
def test_verdicts_of_grants(packet, verdict):
    flow = read(packet)
    assert flow is not None
    assert judge(WEB, flow) is verdict
    assert judge(Grants(ALL), flow) is ACCEPT


def test_nothing_granted_leaves_echo_and_answers():
    assert judge(NOTHING, read(echo())) is ACCEPT
    assert judge(NOTHING, read(tcp(b"", flags=0x02))) is NO_OPENING
    assert judge(NOTHING, read(udp(b""))) is ANSWER


@pytest.mark.parametrize(
    ("flags", "opens"), [(0x02, True), (0x12, False), (0x10, False), (0xC2, True), (0x06, True)]
)
def test_what_opens_a_connection(flags, opens):
    assert read(tcp(b"", flags=flags)).opens is opens


def test_a_port_is_not_taken_from_what_is_cut_short():
    assert read(ip(6, SYN[:19])) is None
    assert read(ip(17, bytes(7))) is None
    assert read(ip(58, bytes(7))) is None
    assert read(fragment(SYN[:12])) is None  # RFC 1858: a first fragment too small for its ports


@pytest.mark.parametrize("packet", [tcp(b"abc"), udp(b"abc", v4=True), echo(), fragment(SYN)])
def test_any_truncation_is_no_packet(packet):
    for size in range(len(packet)):
        assert read(packet[:size]) is None
    assert read(packet + b"padding").length == len(packet)


@given(
    st.binary(max_size=120),
    st.sampled_from([b"", b"\x45", b"\x60", b"\x4f", b"\x60" + bytes(5) + b"\0"]),
)
def test_anything_is_read_or_none(data, start):
    flow = read(start + data)
    if flow is not None:
        assert flow.length <= len(start + data)
        assert len(flow.source) == len(flow.destination)
    flow_key(start + data)


def test_keys_are_for_plain_tcp_and_udp_only():
    assert flow_key(tcp(b"a", ident=1, v4=True)) == flow_key(tcp(b"bc", ident=2, v4=True))
    assert flow_key(tcp(b"a")) != flow_key(tcp(b"a", ports=(4001, 80)))
    assert flow_key(tcp(b"a")) != flow_key(udp(b"a", ports=(4000, 80)))
    assert flow_key(echo()) is None
    assert flow_key(fragment(SYN)) is None
    with_options = b"\x46" + udp(bytes(20), v4=True)[1:]
    assert flow_key(with_options) is None
    first_fragment = bytearray(udp(bytes(20), v4=True))
    first_fragment[6] = 0x20
    assert flow_key(bytes(first_fragment)) is None


def selectors(*texts):
    return tuple(TrafficSelector.parse(text) for text in texts)


@pytest.mark.parametrize(
    ("sources", "destinations", "packet", "inside"),
    [
        (["10.77.1.0/24"], ["10.77.2.1/32"], echo(v4=True), True),
        (["10.77.1.0/24"], ["10.77.2.2/32"], echo(v4=True), False),
        (["10.77.1.2-10.77.1.9"], ["10.77.2.1/32"], echo(v4=True), False),
        (["10.77.1.0-10.77.1.1"], ["0.0.0.0/0"], echo(v4=True), True),
        (["::/0"], ["::/0"], echo(v4=True), False),
        (["fd00::/8"], ["fd00::2/128"], tcp(b""), True),
        (["fd00::/8"], ["fd00::2/128[tcp/80]"], tcp(b""), True),
        (["fd00::/8"], ["fd00::2/128[tcp/81]"], tcp(b""), False),
        (["fd00::/8"], ["fd00::2/128[udp/80]"], tcp(b""), False),
        (["fd00::/8[tcp/80]"], ["fd00::2/128"], tcp(b""), False),
        (["fd00::/8[tcp]"], ["fd00::2/128"], fragment(bytes(8), offset=9), True),
        (["fd00::/8"], ["fd00::2/128[tcp/80]"], fragment(bytes(8), offset=9), False),
        (["fd00::3/128", "fd00::1/128"], ["10.0.0.0/8", "fd00::/64"], tcp(b""), True),
        ([], ["::/0"], tcp(b""), False),
    ],
)
def test_selectors(sources, destinations, packet, inside):
    assert covers(selectors(*sources), selectors(*destinations), read(packet)) is inside


def test_icmp_selectors_hold_type_and_code():
    # RFC 7296 §3.13.1: type in the high octet, code in the low one.
    request = (TrafficSelector(58, 128 << 8, 128 << 8, HERE6, HERE6),)
    anyone = selectors("::/0")
    assert covers(request, anyone, read(echo()))
    assert not covers(request, anyone, read(icmp(129)))


def test_answers_to_our_udp_are_awaited_for_two_generations():
    opened = OpenedFlows()
    opened.add(read(udp(b"?", ports=(5000, 53))))
    answer = read(udp(b"!", ports=(53, 5000), back=True))
    assert opened.awaits(answer)
    assert not opened.awaits(read(udp(b"!", ports=(54, 5000), back=True)))
    assert not opened.awaits(read(udp(b"?", ports=(5000, 53))))
    opened.age()
    assert opened.awaits(answer)
    opened.age()
    assert not opened.awaits(answer)


def test_awaited_answers_are_bounded():
    opened = OpenedFlows()
    for port in range(5 * OPENED_FLOWS):
        opened.add(read(udp(b"", ports=(port + 1, 53))))
    assert len(opened._young) + len(opened._old) <= 2 * OPENED_FLOWS
    assert opened.awaits(read(udp(b"", ports=(53, 5 * OPENED_FLOWS), back=True)))


def test_tcp_opens_no_answers():
    opened = OpenedFlows()
    opened.add(read(tcp(b"", ports=(1, 2))))
    assert not opened.awaits(read(tcp(b"", ports=(2, 1), back=True)))


def test_packet_too_big_ipv6():
    packet = tcp(bytes(2000))
    answer = packet_too_big(packet, 1280)
    assert len(answer) == 1280
    assert (answer[8:24], answer[24:40]) == (THERE6, HERE6)
    body = answer[40:]
    assert body[:2] == bytes((2, 0))
    assert int.from_bytes(body[4:8], "big") == 1280
    assert body[8:] == packet[: len(body) - 8]
    assert checksum(answer[8:40] + struct.pack("!II", len(body), 58) + body) == 0
    assert read(answer).length == len(answer)


def test_packet_too_big_ipv4():
    packet = tcp(bytes(2000), v4=True)
    answer = packet_too_big(packet, 1300)
    assert len(answer) == 576
    assert (answer[12:16], answer[16:20]) == (THERE4, HERE4)
    assert answer[20:22] == bytes((3, 4))
    assert int.from_bytes(answer[26:28], "big") == 1300
    assert answer[28:] == packet[: len(answer) - 28]
    assert checksum(answer[:20]) == 0
    assert checksum(answer[20:]) == 0


def test_no_packet_too_big_where_nobody_listens():
    packet = bytearray(udp(bytes(2000), v4=True))
    packet[6] = 0
    assert packet_too_big(bytes(packet), 1300) is None
    assert packet_too_big(b"rubbish", 1300) is None
    assert packet_too_big(b"", 1300) is None
