"""Traffic selectors: texts, octets, sets, and narrowing (RFC 7296 §2.9, §3.13; THREATS 23)."""

from __future__ import annotations

import ipaddress
import random

import pytest

from agent.wire.errors import WireError
from agent.wire.selectors import (
    MAX_NARROWED,
    TrafficSelector,
    decode_selectors,
    encode_selectors,
    narrow,
)


def ts(text: str) -> TrafficSelector:
    return TrafficSelector.parse(text)


BACKWARDS = TrafficSelector(0, 0, 65535, b"\x0a\0\0\x09", b"\x0a\0\0\x01")
BACKWARD_PORTS = TrafficSelector(6, 90, 80, bytes(4), b"\xff" * 4)


@pytest.mark.parametrize(
    "text",
    [
        "10.1.0.0/16[tcp/80]",
        "0.0.0.0/0",
        "::/0",
        "fd00::1/128[udp/1000-1999]",
        "10.0.0.1-10.0.0.9",
        "10.0.0.1/32[icmp/2048]",
        "::/0[ipv6-icmp]",
        "10.0.0.0/8[udp/opaque]",
        "10.0.0.0/8[0/opaque]",
        "192.0.2.0/24[47]",
    ],
)
def test_texts_both_ways(text):
    assert str(ts(text)) == text


def test_other_spellings():
    assert ts("10.1.2.3") == ts("10.1.2.3/32") == TrafficSelector.host(bytes([10, 1, 2, 3]))
    assert ts("10.1.2.3/16") == ts("10.1.0.0-10.1.255.255")
    assert ts("::/0[icmpv6]") == ts("::/0[58]")
    assert ts("::/0[tcp/%any]") == ts("::/0[tcp]")
    assert ts("::/0") == TrafficSelector.any(16)
    assert ts("0.0.0.0/0") == TrafficSelector.any(4)


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "10.0.0.0/33", "10.0.0.9-10.0.0.1", "10.0.0.1-::1", "::/0[tcp", "\x1b[1]"),
        *("::/0[tcp/65536]", "::/0[256]", "::/0[tcp/9-1]", "::/0[tcp/-1]", "::/0[]"),
        *("::/0[tcp/\u0663]", "10.0.0.0/8[" + "9" * 5000 + "]"),
    ],
)
def test_what_is_no_selector(text):
    with pytest.raises(ValueError, match="no traffic selector") as caught:
        ts(text)
    assert str(caught.value).isprintable()


def test_addresses_of_different_kinds_make_no_selector():
    for start, end in ((bytes(4), bytes(16)), (b"", b""), (bytes(5), bytes(5))):
        with pytest.raises(WireError):
            TrafficSelector(0, 0, 65535, start, end)


# --- wire --------------------------------------------------------------------------------------

OCTETS = bytes.fromhex("01000000 07060010 00500051 0a010000 0a01ffff")


def test_octets_on_the_wire():
    selectors = (ts("10.1.0.0/16[tcp/80-81]"),)
    assert encode_selectors(selectors) == OCTETS
    assert decode_selectors(OCTETS) == selectors
    six = (ts("fd00::1"), ts("10.0.0.1"))
    assert decode_selectors(encode_selectors(six)) == six


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        ("010000", "selectors_length"),
        ("00000000 00", "selectors_length"),
        ("01000000", "selector_length"),
        ("01000000 0706000f 00500051 0a010000 0a01ff", "selector_length"),
        ("01000000 07060028 00500051 0a010000 0a01ffff", "selector_length"),
        ("01000000 08060010 00500051 0a010000 0a01ffff", "selector_length"),
        ("01000000 07060000 00500051 0a010000 0a01ffff", "selector_length"),
        ("02000000 07060010 00500051 0a010000 0a01ffff", "selector_length"),
        ("00000000 07060010 00500051 0a010000 0a01ffff", "selectors_length"),
    ],
)
def test_malformed_selectors(octets, reason):
    with pytest.raises(WireError) as caught:
        decode_selectors(bytes.fromhex(octets))
    assert caught.value.reason == reason


def test_selectors_of_unknown_types_are_left_out():
    strange = bytes.fromhex("0a00000c 61626364 65666768")  # a security label
    known = OCTETS[4:]
    assert decode_selectors(b"\x02\0\0\0" + strange + known) == decode_selectors(OCTETS)
    assert decode_selectors(b"\x01\0\0\0" + strange) == ()


def test_none_and_too_many():
    assert decode_selectors(bytes(4)) == ()
    many = (ts("10.0.0.1"),) * 255
    assert decode_selectors(encode_selectors(many)) == many
    with pytest.raises(WireError):
        encode_selectors((*many, ts("10.0.0.1")))


def test_backward_ranges_are_read_and_hold_nothing():
    (read,) = decode_selectors(encode_selectors((BACKWARDS,)))
    assert read == BACKWARDS
    assert read.is_empty
    assert not ts("0.0.0.0/0").contains(read)
    assert not read.matches(b"\x0a\0\0\x05", 6, 80)
    assert BACKWARD_PORTS.is_empty
    assert not BACKWARD_PORTS.matches(bytes(4), 6, 85)


# --- sets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outer", "inner", "holds"),
    [
        ("10.0.0.0/8", "10.1.0.0/16[tcp/80]", True),
        ("10.1.0.0/16[tcp/80]", "10.0.0.0/8", False),
        ("10.0.0.0/8[tcp]", "10.0.0.0/8", False),
        ("10.0.0.0/8[tcp]", "10.0.0.0/8[udp]", False),
        ("10.0.0.0/8", "11.0.0.0/8", False),
        ("10.0.0.0/8", "10.0.0.0/8", True),
        ("0.0.0.0/0", "::/0", False),
        ("::/0[udp]", "::/0[udp/opaque]", True),
        ("::/0[udp/0-65534]", "::/0[udp/opaque]", False),
        ("::/0[udp/opaque]", "::/0[udp/opaque]", True),
        ("::/0[udp/opaque]", "::/0[udp]", False),
    ],
)
def test_containing(outer, inner, holds):
    assert ts(outer).contains(ts(inner)) is holds


def test_matching_packets():
    web = ts("10.1.0.0/16[tcp/80-81]")
    address = bytes([10, 1, 2, 3])
    assert web.matches(address, 6, 80)
    assert not web.matches(address, 6, 82)
    assert not web.matches(address, 17, 80)
    assert not web.matches(bytes([10, 2, 2, 3]), 6, 80)
    assert not web.matches(bytes(16), 6, 80)
    assert not web.matches(address, 6, -1)  # a fragment, whose port cannot be seen
    assert ts("10.1.0.0/16").matches(address, 6, -1)
    assert ts("10.1.0.0/16[tcp/opaque]").matches(address, 6, -1)
    assert not ts("10.1.0.0/16[tcp/opaque]").matches(address, 6, 0)


def test_intersection_agrees_with_matching():
    source = random.Random(7)

    def selector() -> TrafficSelector:
        ends = sorted(source.randrange(8) for _ in range(2))
        first, last = sorted(source.choice([0, 1, 2, 3, 65535]) for _ in range(2))
        if source.random() < 0.1:
            first, last = 65535, 0
        protocol = source.choice([0, 6, 17])
        return TrafficSelector(protocol, first, last, *(bytes([10, 0, 0, e]) for e in ends))

    for _ in range(400):
        one, other = selector(), selector()
        both = one.intersection(other)
        assert both == other.intersection(one)
        for last in range(8):
            for protocol in (6, 17):
                for port in (-1, 0, 1, 2, 3, 65535):
                    packet = (bytes([10, 0, 0, last]), protocol, port)
                    expected = one.matches(*packet) and other.matches(*packet)
                    assert (both is not None and both.matches(*packet)) is expected


# --- narrowing ---------------------------------------------------------------------------------


def test_narrowing():
    policy = (ts("10.1.0.0/16"), ts("fd00::/8"))
    assert narrow([ts("0.0.0.0/0")], policy) == (ts("10.1.0.0/16"),)
    assert narrow([ts("::/0"), ts("0.0.0.0/0")], policy) == (ts("fd00::/8"), ts("10.1.0.0/16"))
    assert narrow([ts("10.1.2.3[tcp/80]")], policy) == (ts("10.1.2.3[tcp/80]"),)
    assert narrow([ts("10.0.0.0-10.1.0.9")], policy) == (ts("10.1.0.0-10.1.0.9"),)


def test_the_packet_that_started_it_stays_first():
    # RFC 7296 §2.9: the first selector of the initiator may be a very specific one.
    offered = [ts("10.1.2.3[tcp/80]"), ts("0.0.0.0/0")]
    assert narrow(offered, [ts("10.1.0.0/16")]) == (ts("10.1.2.3[tcp/80]"), ts("10.1.0.0/16"))


@pytest.mark.parametrize("offered", [[], [BACKWARDS], [BACKWARD_PORTS], [ts("11.0.0.0/8")]])
def test_nothing_left_to_carry(offered):
    assert narrow(offered, [ts("10.0.0.0/8")]) == ()
    assert narrow([ts("10.0.0.0/8")], []) == ()


def test_what_another_one_holds_is_left_out():
    offered = [ts("0.0.0.0/0"), ts("10.0.0.0/8"), ts("0.0.0.0/0")]
    assert narrow(offered, [ts("10.0.0.0/8"), ts("10.1.0.0/16")]) == (ts("10.0.0.0/8"),)


def test_narrowing_is_bounded():
    offered = [TrafficSelector.host(bytes([10, 0, 0, n])) for n in range(255)]
    policy = [ts("0.0.0.0/0"), ts("10.0.0.0/8")]
    assert narrow(offered, policy) == tuple(offered[:MAX_NARROWED])


@pytest.mark.parametrize(
    ("text", "prefixes"),
    [
        ("10.1.2.3", ["10.1.2.3/32"]),
        ("10.1.0.0/16", ["10.1.0.0/16"]),
        ("0.0.0.0/0", ["0.0.0.0/0"]),
        ("::/0", ["::/0"]),
        ("fd00::5", ["fd00::5/128"]),
        ("10.0.0.1-10.0.0.6", ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/31", "10.0.0.6/32"]),
        ("0.0.0.0-0.0.0.4", ["0.0.0.0/30", "0.0.0.4/32"]),
        ("255.255.255.254-255.255.255.255", ["255.255.255.254/31"]),
    ],
)
def test_prefixes(text, prefixes):
    networks = map(ipaddress.ip_network, prefixes)
    assert ts(text).prefixes() == [(n.network_address.packed, n.prefixlen) for n in networks]


@pytest.mark.parametrize("octets", [4, 16])
def test_prefixes_agree_with_the_standard_library(octets):
    rng = random.Random(octets)
    for _ in range(200):
        start, end = sorted(rng.randbytes(octets) for _ in range(2))
        first, last = ipaddress.ip_address(start), ipaddress.ip_address(end)
        networks = ipaddress.summarize_address_range(first, last)
        expected = [(n.network_address.packed, n.prefixlen) for n in networks]
        assert TrafficSelector(0, 0, 65535, start, end).prefixes() == expected


def test_a_backward_range_has_no_prefixes():
    assert BACKWARDS.prefixes() == []
