"""ME_ENDPOINT and connectivity checks, with the two messages of mediation.md §3 as seen."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from agent.datagram import Address
from agent.wire.codes import EndpointFamily, EndpointType, ExchangeType, NotifyType
from agent.wire.errors import WireError
from agent.wire.mediation import (
    PRIORITY_HOST,
    PRIORITY_PEER_REFLEXIVE,
    PRIORITY_RELAYED,
    PRIORITY_SERVER_REFLEXIVE,
    ConnectivityCheck,
    MeEndpoint,
    check_octets,
    decode_check,
    encode_check,
    endpoint_priority,
    is_check,
    pair_priority,
)
from agent.wire.message import Header, encode_message
from agent.wire.payloads import NotifyPayload, UnknownPayload, VendorIdPayload

from . import samples

# mediation.md §3, pair 2 of I; I is seen as 203.0.113.21:4500.
KEY_I = bytes.fromhex("97b3bcc58af3360b4bdde9658d8bc7ce")
KEY_R = bytes.fromhex("9f225318f0d4904d484ab25d753d6272")
CONNECT_ID = bytes.fromhex("39e8500b")
REQUEST = bytes.fromhex(
    "00000000000000000000000000000000 29202508 00000002 00000054 2900000c0000a005 39e8500b"
    "290000100000a003 0080ffff00020000 0000001c0000a007 7a89a0bf8d010de414ab913420f20a3a88fff2c0"
)
RESPONSE = bytes.fromhex(
    "00000000000000000000000000000000 29202520 00000002 00000058 2900000c0000a005 39e8500b"
    "290000140000a003 0080ffff01021194cb007115"
    "0000001c0000a007 643751346b039e5347836f886e8bb651c9226ff7"
)
SEEN_AS = Address.parse("203.0.113.21", 4500)


@pytest.mark.parametrize(("key", "data"), [(KEY_I, REQUEST), (KEY_R, RESPONSE)], ids=["I", "R"])
def test_checks_as_seen_on_the_wire(key, data):
    assert is_check(data)
    check = decode_check(data)
    assert hashlib.sha1(check.octets + key).digest() == check.auth
    assert encode_check(check) == data
    assert encode_check(replace(check, endpoint_data=b"")) == data


def test_content_of_the_checks():
    request, response = decode_check(REQUEST), decode_check(RESPONSE)
    assert (request.connect_id, request.number, request.is_response) == (CONNECT_ID, 2, False)
    assert request.endpoint == MeEndpoint(
        PRIORITY_PEER_REFLEXIVE, EndpointFamily.NONE, EndpointType.PEER_REFLEXIVE
    )
    assert (response.connect_id, response.number, response.is_response) == (CONNECT_ID, 2, True)
    assert response.endpoint == MeEndpoint.of(EndpointType.PEER_REFLEXIVE, SEEN_AS)
    assert request.octets == check_octets(2, CONNECT_ID, bytes.fromhex("0080ffff00020000"))


def test_length_with_ipv6():
    six = MeEndpoint.of(EndpointType.PEER_REFLEXIVE, Address.parse("2001:db8::1", 4500))
    check = ConnectivityCheck(CONNECT_ID, six, bytes(20), 1, is_response=True)
    assert len(encode_check(check)) == 100
    assert decode_check(encode_check(check)).endpoint == six


@pytest.mark.parametrize(("key", "data"), [(KEY_I, REQUEST), (KEY_R, RESPONSE)], ids=["I", "R"])
def test_truncated_and_flipped(key, data):
    for part in samples.truncations(data):
        for variant in (part, samples.with_length(part)):
            with pytest.raises(WireError):
                decode_check(variant)
    original = decode_check(data)
    for damaged in samples.bit_flips(data):
        try:
            check = decode_check(damaged)
        except WireError:
            continue
        # What still reads as a check says the same, or `auth` does not fit to what it says.
        fits = hashlib.sha1(check.octets + key).digest() == check.auth
        assert fits == (check == original)


def test_a_request_cannot_be_turned_into_a_response():
    for data, flags in ((REQUEST, 0x20), (RESPONSE, 0x08)):
        turned = bytearray(data)
        turned[19] = flags
        with pytest.raises(WireError) as caught:
            decode_check(bytes(turned))
        assert caught.value.reason == "check_endpoint"


@pytest.mark.parametrize("flags", [0x00, 0x28])
def test_flags_must_say_request_or_response(flags):
    data = bytearray(REQUEST)
    data[19] = flags
    with pytest.raises(WireError, match="check_flags"):
        decode_check(bytes(data))


HEADER = Header(bytes(8), bytes(8), ExchangeType.INFORMATIONAL, True, False, 1)
ID = NotifyPayload(NotifyType.ME_CONNECTID, CONNECT_ID)
ENDPOINT = NotifyPayload(NotifyType.ME_ENDPOINT, bytes.fromhex("0080ffff00020000"))
AUTH = NotifyPayload(NotifyType.ME_CONNECTAUTH, bytes(20))


def test_order_of_payloads_is_free_and_unknown_ones_are_ignored():
    for payloads in ((AUTH, ENDPOINT, ID), (ID, ENDPOINT, AUTH, UnknownPayload(200, False, b""))):
        assert decode_check(encode_message(HEADER, payloads)).connect_id == CONNECT_ID


@pytest.mark.parametrize(
    "payloads",
    [
        (ID, ENDPOINT, NotifyPayload(1, bytes(20))),
        (ID, ENDPOINT, AUTH, AUTH),
        (ID, ENDPOINT, AUTH, NotifyPayload(NotifyType.ME_RESPONSE)),
        (ID, ENDPOINT, AUTH, VendorIdPayload(b"")),
        (ID, ENDPOINT, AUTH, UnknownPayload(200, True, b"")),
        (ID, ENDPOINT, replace(AUTH, data=bytes(19))),
        (ID, ENDPOINT, replace(AUTH, data=bytes(21))),
        (ID, ENDPOINT, replace(AUTH, spi=b"abcd")),
        (replace(ID, data=bytes(3)), ENDPOINT, AUTH, UnknownPayload(200, False, b"")),
        (replace(ID, data=bytes(17)), ENDPOINT, AUTH),
        (ID, replace(ENDPOINT, data=bytes(7)), AUTH, UnknownPayload(200, False, b"")),
        (ID, replace(ENDPOINT, data=bytes.fromhex("0080ffff03020000")), AUTH),  # family 3
    ],
)
def test_exactly_these_payloads(payloads):
    with pytest.raises(WireError):
        decode_check(encode_message(HEADER, payloads))


@pytest.mark.parametrize(
    "header",
    [
        HEADER._replace(exchange=ExchangeType.IKE_SA_INIT),
        HEADER._replace(initiator_spi=b"\0" * 7 + b"\1"),
        HEADER._replace(responder_spi=b"\1" + b"\0" * 7),
        HEADER._replace(major=1),
        HEADER._replace(major=3),
    ],
)
def test_other_messages_are_no_checks(header):
    with pytest.raises(WireError):
        decode_check(encode_message(header, (ID, ENDPOINT, AUTH)))


def test_no_check_is_longer_than_a_check_may_be():
    data = encode_message(HEADER, (ID, ENDPOINT, AUTH, UnknownPayload(200, False, bytes(60000))))
    assert not is_check(data)
    assert not is_check(b"")


def test_checks_that_cannot_be_written():
    request = decode_check(REQUEST)
    for wrong in (
        replace(request, auth=b""),
        replace(request, connect_id=b"abc"),
        replace(request, connect_id=bytes(17)),
        replace(request, is_response=True),
        replace(decode_check(RESPONSE), is_response=False),
        replace(request, number=2**32),
    ):
        with pytest.raises(WireError):
            encode_check(wrong)


# --- endpoints and priorities ------------------------------------------------------------------


def test_priorities():
    assert endpoint_priority(EndpointType.HOST) == PRIORITY_HOST == 0x00FFFFFF
    assert endpoint_priority(EndpointType.PEER_REFLEXIVE) == PRIORITY_PEER_REFLEXIVE == 0x0080FFFF
    assert endpoint_priority(EndpointType.SERVER_REFLEXIVE) == PRIORITY_SERVER_REFLEXIVE
    assert endpoint_priority(EndpointType.RELAYED) == PRIORITY_RELAYED == 0x0000FFFF
    assert endpoint_priority(EndpointType.HOST, 1) == 0x00FF0001
    assert endpoint_priority(77) == 0xFFFF


@pytest.mark.parametrize(
    ("initiator", "responder", "priority"),
    [
        (PRIORITY_HOST, PRIORITY_HOST, 0x00FFFFFF_01FFFFFE),
        (PRIORITY_HOST, PRIORITY_SERVER_REFLEXIVE, 0x0040FFFF_01FFFFFF),
        (PRIORITY_SERVER_REFLEXIVE, PRIORITY_HOST, 0x0040FFFF_01FFFFFE),
        (1, 0, 3),
        (0, 0, 0),
    ],
)
def test_pair_priorities(initiator, responder, priority):
    assert pair_priority(initiator, responder) == priority


@pytest.mark.parametrize(
    ("octets", "endpoint"),
    [
        ("0080ffff 00020000", MeEndpoint(PRIORITY_PEER_REFLEXIVE, 0, 2)),
        ("0080ffff 01021194 cb007115", MeEndpoint(PRIORITY_PEER_REFLEXIVE, 1, 2, SEEN_AS)),
        (
            "00ffffff 0201ffff 20010db8000000000000000000000001",
            MeEndpoint(PRIORITY_HOST, 2, 1, Address.parse("2001:db8::1", 65535)),
        ),
        ("00000000 01631194 cb007115", MeEndpoint(0, 1, 99, SEEN_AS)),
    ],
)
def test_endpoints_both_ways(octets, endpoint):
    assert MeEndpoint.decode(bytes.fromhex(octets)) == endpoint
    assert endpoint.encode() == bytes.fromhex(octets)


def test_an_unknown_family_is_kept_without_its_address():
    endpoint = MeEndpoint.decode(bytes.fromhex("00ffffff 09011194 0102030405"))
    assert (endpoint.family, endpoint.address) == (9, None)


@pytest.mark.parametrize(
    "octets",
    [
        *("", "0080ffff000200", "0080ffff 00020000 00", "0080ffff 01021194 cb0071"),
        *("0080ffff 01021194 cb00711500", "0080ffff 02021194 cb007115", "0080ffff 02021194"),
    ],
)
def test_endpoints_of_a_wrong_length(octets):
    with pytest.raises(WireError):
        MeEndpoint.decode(bytes.fromhex(octets))


def test_endpoints_that_contradict_themselves():
    for family, address in ((0, SEEN_AS), (1, None), (2, SEEN_AS), (1, Address(bytes(5), 1))):
        with pytest.raises(WireError):
            MeEndpoint(0, family, 1, address)
    with pytest.raises(WireError):
        MeEndpoint.of(EndpointType.HOST, Address(b"", 1))
    for priority, type_, port in ((2**32, 1, 1), (-1, 1, 1), (0, 256, 1), (0, 1, 65536)):
        with pytest.raises(WireError):
            MeEndpoint(priority, 1, type_, Address(bytes(4), port)).encode()


def test_question_for_the_reflexive_endpoint():
    assert MeEndpoint.question().encode() == bytes.fromhex("0040ffff 00030000")
