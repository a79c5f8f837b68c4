"""REDIRECT, REDIRECTED_FROM (RFC 5685 §9) and HG_REDIRECT: both ways, cut off, wrong, hostile."""

from __future__ import annotations

import pytest

from agent.wire.codes import ExchangeType, GatewayIdType, NotifyType
from agent.wire.errors import WireError
from agent.wire.message import decode_message
from agent.wire.payloads import NoncePayload
from agent.wire.redirect import (
    GatewayId,
    Redirect,
    Successor,
    decode_redirected_from,
    encode_gateway,
)
from tests.support.vectors import vector_octets
from tests.unit.wire.captures import ike_messages

NONCE = bytes(range(32))
HOSTILE = (b"a b", b"a\n", b"a\0", b"\xc3\xa4", b"a/b", b"$(x)")
GATEWAYS = [
    (GatewayId.of_host("192.0.2.7"), bytes.fromhex("0104c0000207"), "192.0.2.7"),
    (
        GatewayId.of_host("2001:db8::7"),
        bytes.fromhex("021020010db8000000000000000000000007"),
        "2001:db8::7",
    ),
    (GatewayId.of_host("gw.example.org"), b"\x03\x0egw.example.org", "gw.example.org"),
]


@pytest.mark.parametrize(("gateway", "octets", "host"), GATEWAYS)
def test_both_ways(gateway, octets, host):
    assert gateway.host == host
    assert Redirect(gateway).encode() == octets == encode_gateway(gateway)
    assert Redirect.decode(octets, with_nonce=False) == Redirect(gateway)
    asked = Redirect(gateway, NONCE)
    assert asked.encode() == octets + NONCE
    assert Redirect.decode(octets + NONCE, with_nonce=True) == asked


@pytest.mark.parametrize(("gateway", "octets", "host"), GATEWAYS)
def test_cut_off_or_longer(gateway, octets, host):
    for end in range(len(octets)):
        with pytest.raises(WireError):
            Redirect.decode(octets[:end], with_nonce=False)
        with pytest.raises(WireError):
            Redirect.decode(octets[:end], with_nonce=True)
    with pytest.raises(WireError, match="redirect_length"):
        Redirect.decode(octets + NONCE, with_nonce=False)


@pytest.mark.parametrize("length", [0, 1, 15, 257, 1000])
def test_nonces_are_16_to_256_octets(length):
    with pytest.raises(WireError, match="redirect_nonce"):
        Redirect.decode(GATEWAYS[0][1] + bytes(length), with_nonce=True)


@pytest.mark.parametrize("length", [16, 256])
def test_nonces_at_the_edge(length):
    nonce = bytes(length)
    assert Redirect.decode(GATEWAYS[0][1] + nonce, with_nonce=True).nonce == nonce


@pytest.mark.parametrize(
    "octets",
    [
        *(bytes((type_, 4, 192, 0, 2, 7)) for type_ in (0, 4, 240, 241, 255)),
        b"\x01\x05\xc0\x00\x02\x07\x00",  # an address that is too long
        b"\x01\x03\xc0\x00\x02",
        b"\x02\x04\xc0\x00\x02\x07",
        b"\x01\x00",
        b"\x03\x00",
        b"\x03\xfe" + b"a" * 254,
        *(b"\x03" + bytes((len(n),)) + n for n in HOSTILE),
    ],
)
def test_what_is_no_gateway(octets):
    for decode in (lambda d: Redirect.decode(d, with_nonce=False), decode_redirected_from):
        with pytest.raises(WireError):
            decode(octets)


def test_what_is_no_gateway_cannot_be_made():
    for type_, data in ((1, bytes(16)), (2, bytes(4)), (3, b""), (3, b"a b"), (3, b"a" * 254)):
        with pytest.raises(WireError):
            GatewayId(GatewayIdType(type_), data)
    with pytest.raises(WireError):
        GatewayId.of_host("gw\u00e4.example")


def test_redirected_from_is_an_address_and_nothing_more():
    for gateway, octets, _ in GATEWAYS[:2]:
        assert decode_redirected_from(octets) == gateway
        with pytest.raises(WireError):
            decode_redirected_from(octets + b"\0")
    with pytest.raises(WireError):
        decode_redirected_from(GATEWAYS[2][1])


def test_successor():
    successor = Successor(4500, bytes(range(32)))
    octets = successor.encode()
    assert octets == b"\x11\x94" + bytes(range(32))
    assert Successor.decode(octets) == successor
    for bad in (b"", octets[:-1], octets + b"\0", b"\0\0" + octets[2:]):
        with pytest.raises(WireError, match="successor"):
            Successor.decode(bad)


def test_published_capture():
    """scapy's test/pcaps: a gateway redirects in IKE_SA_INIT; ../shared/vectors/scapy."""
    asked, answer, moved, _ = (
        decode_message(data)
        for data, _ in ike_messages(vector_octets("scapy/ikev2_notify_redirect.pcap"))
    )
    assert all(m.header.exchange == ExchangeType.IKE_SA_INIT for m in (asked, answer, moved))
    assert asked.notify(NotifyType.REDIRECT_SUPPORTED).data == b""
    data = answer.notify(NotifyType.REDIRECT).data
    redirect = Redirect.decode(data, with_nonce=True)
    assert redirect.encode() == data
    assert redirect.gateway.host == "moneybin.duckburg.disney.com"
    assert redirect.nonce == asked.first(NoncePayload).data
    came = moved.notify(NotifyType.REDIRECTED_FROM).data
    assert decode_redirected_from(came).host == "10.5.2.52"
    assert encode_gateway(decode_redirected_from(came)) == came
