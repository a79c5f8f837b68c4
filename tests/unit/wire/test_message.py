"""Messages: header, chain of payloads, their limits, and damage (THREATS 1, 2, 16)."""

from __future__ import annotations

import random
import tracemalloc
from contextlib import suppress

import pytest

from agent.wire.codes import ExchangeType, NotifyType, PayloadType
from agent.wire.errors import UnsupportedCriticalPayload, UnsupportedVersion, WireError
from agent.wire.message import (
    HEADER_LENGTH,
    MAX_PAYLOADS,
    Header,
    Message,
    decode_header,
    decode_message,
    decode_payloads,
    encode_message,
    encode_payloads,
    encrypted_prefix,
)
from agent.wire.payloads import (
    Encrypted,
    EncryptedFragment,
    NoncePayload,
    NotifyPayload,
    UnknownPayload,
    VendorIdPayload,
)

from . import samples
from .samples import HEADER, SPI_I, SPI_R


def reason(data: bytes) -> str:
    """Why a message is not accepted."""
    with pytest.raises(WireError) as caught:
        decode_message(data)
    return caught.value.reason


def chain(*payloads: tuple[int, bytes], end: int = 0, flags: int = 0) -> bytes:
    """A message of raw payloads (type, body), lengths put right."""
    octets = b""
    for index, (_, body) in enumerate(payloads):
        following = payloads[index + 1][0] if index + 1 < len(payloads) else end
        octets += bytes((following, flags)) + (len(body) + 4).to_bytes(2, "big") + body
    head = bytearray(encode_message(HEADER, ()))
    head[16] = payloads[0][0] if payloads else 0
    return samples.with_length(bytes(head) + octets)


# --- header ------------------------------------------------------------------------------------


def test_header_on_the_wire():
    header = Header(SPI_I, SPI_R, ExchangeType.IKE_AUTH, True, False, 0x01020304)
    assert encode_message(header, ()).hex() == (
        "0123456789abcdeffedcba987654321000202308010203040000001c"
    )


@pytest.mark.parametrize("is_initiator", [True, False])
@pytest.mark.parametrize("is_response", [True, False])
def test_header_comes_back(is_initiator, is_response):
    header = HEADER._replace(
        is_initiator=is_initiator,
        is_response=is_response,
        message_id=0xFFFFFFFF,
        exchange=ExchangeType.ME_CONNECT,
        higher_version=True,
        minor=5,
    )
    assert decode_header(encode_message(header, ())) == header._replace(length=HEADER_LENGTH)
    assert header.spis == SPI_I + SPI_R


def test_reserved_flags_are_ignored():
    data = bytearray(encode_message(HEADER, ()))
    data[19] |= 0b11000111
    assert decode_header(bytes(data)) == decode_header(encode_message(HEADER, ()))


@pytest.mark.parametrize("size", [0, 1, 3, 4, 27])
def test_short_datagrams(size):
    assert reason(bytes(size)) == "short"


@pytest.mark.parametrize("difference", [-28, -1, 1, 2**31])
def test_header_length_must_be_that_of_the_datagram(difference):
    data = bytearray(encode_message(HEADER, (NoncePayload(bytes(16)),)))
    data[24:28] = (len(data) + difference).to_bytes(4, "big")
    assert reason(bytes(data)) == "length"


@pytest.mark.parametrize("version", [0x00, 0x10, 0x1F, 0x30, 0xF0])
def test_other_major_versions(version):
    data = bytearray(encode_message(HEADER, (NoncePayload(bytes(16)),)))
    data[17] = version
    with pytest.raises(UnsupportedVersion) as caught:
        decode_message(bytes(data))
    assert caught.value.major == version >> 4
    assert caught.value.header.message_id == HEADER.message_id  # what the answer repeats


def test_other_minor_versions_are_fine():
    data = bytearray(encode_message(HEADER, ()))
    data[17] = 0x2F
    assert decode_message(bytes(data)).header.minor == 15


def test_largest_datagram_of_nothing_is_cheap():
    data = samples.with_length(encode_message(HEADER, ()) + bytes(65507 - HEADER_LENGTH))
    assert reason(data) == "trailing_octets"


# --- chain -------------------------------------------------------------------------------------


def test_every_sample_comes_back():
    for data in samples.messages():
        message = decode_message(data)
        assert encode_message(message.header, message.payloads) == data


def test_all_samples_in_one_message():
    message = decode_message(encode_message(HEADER, samples.TOGETHER))
    assert message.payloads == samples.TOGETHER
    assert len(samples.TOGETHER) > 20


@pytest.mark.parametrize("payload", [samples.PAYLOADS[0], *samples.PAYLOADS[22:24]])
def test_what_a_message_has_only_once(payload):
    body = payload.encode()
    kind = payload.payload_type
    decode_message(chain((kind, body), (PayloadType.V, b"")))
    assert reason(chain((kind, body), (PayloadType.V, b""), (kind, body))) == "duplicate_payload"
    with pytest.raises(WireError):
        encode_payloads([payload, payload])


@pytest.mark.parametrize("length", [0, 1, 2, 3, 21, 65535])
def test_payload_lengths_that_cannot_be(length):
    data = bytearray(encode_message(HEADER, (NoncePayload(bytes(16)),)))
    data[30:32] = length.to_bytes(2, "big")
    assert reason(bytes(data)) == "payload_length"


def test_a_payload_is_announced_but_missing():
    assert reason(chain((PayloadType.V, b"x"), end=PayloadType.N)) == "payload_length"


def test_octets_behind_the_last_payload():
    assert reason(samples.with_length(chain((PayloadType.V, b"x")) + b"y")) == "trailing_octets"


def test_number_of_payloads_is_bounded():
    decode_message(chain(*[(PayloadType.V, b"")] * MAX_PAYLOADS))
    for count in (MAX_PAYLOADS + 1, 1000, 16000):
        assert reason(chain(*[(PayloadType.V, b"")] * count)) == "too_many_payloads"


def fill(kind: int, body: bytes) -> bytes:
    """The largest message of payloads of one kind."""
    count = min((65507 - HEADER_LENGTH) // (len(body) + 4), MAX_PAYLOADS)
    return chain(*[(kind, body)] * count)


WORST = {
    "chain": chain(*[(PayloadType.N, bytes(4))] * 8000),
    "proposals": fill(PayloadType.SA, bytes.fromhex("02000008 01010000") * 8000),
    # 255 transforms with an attribute of four octets, twice, in 16 octets each.
    "transforms": fill(
        PayloadType.SA,
        b"".join(
            bytes.fromhex(head)
            + bytes.fromhex("03000010 0100000c 00010004 61626364") * 254
            + bytes.fromhex("00000010 0100000c 00010004 61626364")
            for head in ("02000ff8 010100ff", "00000ff8 020100ff")
        ),
    ),
    "selectors": fill(
        PayloadType.TSi, b"\xff\0\0\0" + bytes.fromhex("07000010 0000ffff 0a000001 0a0000ff") * 255
    ),
    "attributes": fill(PayloadType.CP, bytes(4) + bytes.fromhex("00010000") * 64),
    "deletes": fill(PayloadType.D, bytes.fromhex("03010100") + bytes(256)),
    "unknown": fill(200, b"x" * 1000),
}


@pytest.mark.parametrize("data", WORST.values(), ids=WORST)
def test_the_worst_that_a_datagram_can_hold_costs_little_memory(data):
    tracemalloc.start()
    try:
        with suppress(WireError):
            decode_message(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_unknown_payload_that_is_not_critical():
    data = chain((200, b"abc"), (PayloadType.V, b"x"))
    assert decode_message(data).payloads == (
        UnknownPayload(200, False, b"abc"),
        VendorIdPayload(b"x"),
    )


def test_unknown_payload_that_is_critical():
    with pytest.raises(UnsupportedCriticalPayload) as caught:
        decode_message(chain((200, b"abc"), (201, b""), flags=0x80))
    assert caught.value.payload_type == 200
    with pytest.raises(UnsupportedCriticalPayload):
        decode_payloads(*encode_payloads([UnknownPayload(99, True, b"")]))


def test_malformed_goes_before_critical():
    assert reason(chain((200, b"abc"), end=PayloadType.V, flags=0x80)) == "payload_length"


def test_critical_and_reserved_bits_of_known_payloads_are_ignored():
    data = chain((PayloadType.V, b"x"), flags=0xFF)
    assert decode_message(data).payloads == (VendorIdPayload(b"x"),)


# --- SK ----------------------------------------------------------------------------------------


def test_encrypted_payload_with_its_associated_data():
    body = bytes(range(40))
    prefix = encrypted_prefix(HEADER, PayloadType.IDi, len(body))
    message = decode_message(prefix + body)
    assert message.payloads == (Encrypted(PayloadType.IDi, body, prefix),)
    assert prefix + body == encode_message(HEADER, message.payloads)


def test_payloads_before_sk_are_part_of_its_associated_data():
    data = encode_message(HEADER, (VendorIdPayload(b"clear"), Encrypted(0, b"sealed")))
    (vendor, encrypted) = decode_message(data).payloads
    assert vendor == VendorIdPayload(b"clear")
    assert encrypted == Encrypted(0, b"sealed", data[: -len(b"sealed")])


def test_fragment_with_its_associated_data():
    data = encode_message(HEADER, (EncryptedFragment(0, 2, 3, b"sealed"),))
    assert decode_message(data).payloads == (EncryptedFragment(0, 2, 3, b"sealed", data[:-6]),)


@pytest.mark.parametrize(("number", "total"), [(0, 0), (0, 1), (2, 1), (65535, 1)])
def test_fragment_numbers_that_cannot_be(number, total):
    body = number.to_bytes(2, "big") + total.to_bytes(2, "big") + b"sealed"
    assert reason(chain((PayloadType.SKF, body))) == "fragment_number"


def test_fragment_too_short():
    assert reason(chain((PayloadType.SKF, b"\0\1\0"))) == "fragment_length"


def test_nothing_may_follow_sk():
    data = chain((PayloadType.SK, b"sealed"), (PayloadType.V, b"x"))
    assert reason(data) == "trailing_octets"


def test_sk_inside_sk():
    for kind in (PayloadType.SK, PayloadType.SKF):
        with pytest.raises(WireError) as caught:
            decode_payloads(kind, bytes.fromhex("0000000c 0001 0001 00000000"))
        assert caught.value.reason == "nested_encryption"


def test_empty_content():
    assert decode_payloads(0, b"") == ()
    assert encode_payloads(()) == (0, b"")
    with pytest.raises(WireError):
        decode_payloads(0, b"\0")


# --- writing -----------------------------------------------------------------------------------


def test_what_the_wire_has_no_room_for():
    for payloads in (
        [VendorIdPayload(bytes(65532))],
        [VendorIdPayload(b"")] * (MAX_PAYLOADS + 1),
        [NotifyPayload(65536)],
        [NotifyPayload(-1)],
        [NotifyPayload(1, b"", 256)],
        [Encrypted(0, b""), VendorIdPayload(b"")],
    ):
        with pytest.raises(WireError):
            encode_payloads(payloads)
    for header in (
        HEADER._replace(message_id=2**32),
        HEADER._replace(exchange=256),
        HEADER._replace(initiator_spi=b"short"),
    ):
        with pytest.raises(WireError):
            encode_message(header, ())
    with pytest.raises(WireError):
        encode_message(HEADER, [VendorIdPayload(bytes(60000))] * 2)
    with pytest.raises(WireError):
        encrypted_prefix(HEADER, 0, 65507)


# --- Message -----------------------------------------------------------------------------------


def test_looking_into_a_message():
    first, second = NotifyPayload(NotifyType.COOKIE, b"1"), NotifyPayload(NotifyType.COOKIE, b"2")
    nonce = NoncePayload(bytes(16))
    message = Message(HEADER, (nonce, first, NotifyPayload(5), second))
    assert message.first(NoncePayload) is nonce
    assert message.first(VendorIdPayload) is None
    assert message.all(NotifyPayload)[0] is first
    assert message.notify(NotifyType.COOKIE) is first
    assert message.notify(NotifyType.REKEY_SA) is None
    assert message.notifies(NotifyType.COOKIE) == (first, second)


# --- damage ------------------------------------------------------------------------------------


def test_truncated_at_every_octet():
    for data in samples.messages():
        for part in samples.truncations(data):
            assert reason(part) in ("short", "length")
            # The same by a sender who tells the truth about the length.
            try:
                decode_message(samples.with_length(part))
            except WireError:
                continue
            # Only what ends in opaque octets whose own length is elsewhere could pass.
            assert len(part) == HEADER_LENGTH
            assert part[16] == PayloadType.NONE


def test_every_bit_flipped():
    for data in samples.messages():
        if len(data) > 400:
            continue
        for damaged in samples.bit_flips(data):
            try:
                message = decode_message(damaged)
            except WireError:
                continue
            again = encode_message(message.header, message.payloads)
            assert samples.comparable(decode_message(again)) == samples.comparable(message)


def test_any_octets_at_all():
    source = random.Random(1)
    for _ in range(3000):
        data = bytearray(source.randbytes(source.randrange(28, 120)))
        data[16] = source.choice([0, 33, 34, 35, 39, 40, 41, 42, 44, 46, 47, 53, 128, 200])
        data[17] = 0x20
        # Anything but a value or a WireError fails the test.
        with suppress(WireError):
            decode_message(samples.with_length(bytes(data)))
