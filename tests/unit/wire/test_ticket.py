"""The notifies of RFC 5723 §7: what may stand in them and what may not."""

from __future__ import annotations

import pytest

from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.errors import WireError
from agent.wire.message import Header, Message, decode_message, encode_message
from agent.wire.payloads import NotifyPayload
from agent.wire.ticket import (
    MAX_TICKET,
    decode_granted,
    decode_presented,
    encode_granted,
    encode_presented,
    says,
)

HEADER = Header(
    initiator_spi=b"i" * 8,
    responder_spi=bytes(8),
    exchange=ExchangeType.IKE_SESSION_RESUME,
    is_initiator=True,
    is_response=False,
    message_id=0,
)


def message(*payloads: NotifyPayload) -> Message:
    return Message(HEADER, payloads)


def test_iana_numbers() -> None:
    """RFC 5723 §4.3.2 and §7."""
    assert ExchangeType.IKE_SESSION_RESUME == 38
    assert [
        NotifyType.TICKET_LT_OPAQUE,
        NotifyType.TICKET_REQUEST,
        NotifyType.TICKET_ACK,
        NotifyType.TICKET_NACK,
        NotifyType.TICKET_OPAQUE,
    ] == [16409, 16410, 16411, 16412, 16413]


def test_granted_on_the_wire() -> None:
    """Figure 6: the generic header, protocol 0, SPI size 0, type, lifetime, ticket."""
    octets = encode_message(HEADER, [encode_granted(14400, b"ticket")])
    assert octets[28:].hex() == "00000012" + "00004019" + "00003840" + b"ticket".hex()
    assert decode_granted(decode_message(octets)) == (14400, b"ticket")


def test_presented_on_the_wire() -> None:
    """Figure 7: no lifetime."""
    octets = encode_message(HEADER, [encode_presented(b"ticket")])
    assert octets[28:].hex() == "0000000e" + "0000401d" + b"ticket".hex()
    assert decode_presented(decode_message(octets)) == b"ticket"


@pytest.mark.parametrize("length", [1, MAX_TICKET])
def test_bounds_inside(length: int) -> None:
    ticket = b"t" * length
    assert decode_granted(message(encode_granted(2**32 - 1, ticket))) == (2**32 - 1, ticket)
    assert decode_presented(message(encode_presented(ticket))) == ticket


@pytest.mark.parametrize(
    "data",
    [b"", bytes(3), bytes(4), b"\0\0\0\1", b"\0\0\0\0ticket", b"\0\0\0\1" + bytes(MAX_TICKET + 1)],
    ids=["empty", "3", "lifetime 0", "no ticket", "no lifetime", "too long"],
)
def test_granted_that_is_none(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_granted(message(NotifyPayload(NotifyType.TICKET_LT_OPAQUE, data)))


@pytest.mark.parametrize("data", [b"", bytes(MAX_TICKET + 1)], ids=["empty", "too long"])
def test_presented_that_is_none(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_presented(message(NotifyPayload(NotifyType.TICKET_OPAQUE, data)))


@pytest.mark.parametrize("decode", [decode_granted, decode_presented])
@pytest.mark.parametrize("more", [{"protocol": 1}, {"spi": b"1234"}], ids=["protocol", "spi"])
def test_protocol_and_spi_size_are_zero(decode, more) -> None:
    types = (NotifyType.TICKET_LT_OPAQUE, NotifyType.TICKET_OPAQUE)
    with pytest.raises(WireError):
        decode(message(*(NotifyPayload(kind, b"\0\0\0\1ticket", **more) for kind in types)))


@pytest.mark.parametrize("decode", [decode_granted, decode_presented])
def test_two_are_one_too_many(decode) -> None:
    two = [encode_granted(1, b"a"), encode_presented(b"a")] * 2
    with pytest.raises(WireError):
        decode(message(*two))


def test_none() -> None:
    assert decode_granted(message()) is None
    with pytest.raises(WireError):
        decode_presented(message())


@pytest.mark.parametrize(
    ("lifetime", "ticket"), [(0, b"t"), (2**32, b"t"), (-1, b"t"), (1, b""), (1, bytes(1025))]
)
def test_what_cannot_be_encoded(lifetime: int, ticket: bytes) -> None:
    with pytest.raises(WireError):
        encode_granted(lifetime, ticket)


def test_what_has_no_data() -> None:
    for notify in (NotifyType.TICKET_REQUEST, NotifyType.TICKET_ACK, NotifyType.TICKET_NACK):
        assert says(message(NotifyPayload(notify)), notify)
        assert not says(message(), notify)
        assert not says(message(NotifyPayload(notify, b"x")), notify)
        assert not says(message(NotifyPayload(notify, protocol=1)), notify)
        assert not says(message(NotifyPayload(notify), NotifyPayload(notify)), notify)
