"""Modbus PDUs: examples of the Application Protocol V1.1b3 §6 and Serial Line V1.02."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.bridge import modbus
from agent.bridge.modbus import Effect, ExceptionCode, RequestError, parse_request
from agent.operations import controller

# The example of Modbus over Serial Line V1.02, §6.2.2 "CRC generation", mbpoll's first request, and
# the read of registers 40108 to 40110 that every text on Modbus has.
FRAMES = ("02074112", "0103000000044409", "1103006b00037687")

# request and its complete answer: the examples in §6 of the application protocol
EXAMPLES = {
    "read coils": ("0100130013", "0103cd6b05"),
    "read discrete inputs": ("0200c40016", "0203acdb35"),
    "read holding registers": ("03006b0003", "0306022b00000064"),
    "read input registers": ("0400080001", "0402000a"),
    "write single coil": ("0500acff00", "0500acff00"),
    "write single register": ("0600010003", "0600010003"),
    "read exception status": ("07", "076d"),
    "return query data": ("080000a537", "080000a537"),
    "comm event counter": ("0b", "0bffff0108"),
    "comm event log": ("0c", "0c08000001080121 2000".replace(" ", "")),
    "write multiple coils": ("0f0013000a02cd01", "0f0013000a"),
    "write multiple registers": ("100001000204000a0102", "1000010002"),
    "report server id": ("11", "110301ff07"),
    "read file record": ("140e0600040001000206000300090002", "140c05060dfe0020050633cd0040"),
    "write file record": ("150d0600040007000306af04be100d", "150d0600040007000306af04be100d"),
    "mask write register": ("16000400f20025", "16000400f20025"),
    "read write registers": (
        "1700030006000e00030600ff00ff00ff",
        "170c00fe0acd00010003000d00ff",
    ),
    "read fifo queue": ("1804de", "180006000201b81284"),
}


@pytest.mark.parametrize("text", FRAMES)
def test_crc_of_known_frames(text):
    frame = bytes.fromhex(text)
    assert modbus.has_valid_crc(frame)
    assert modbus.encode_frame(frame[0], frame[1:-2]) == frame
    for at in range(len(frame)):
        assert not modbus.has_valid_crc(frame[:at] + bytes((frame[at] ^ 1,)) + frame[at + 1 :])


@given(st.binary(max_size=64))
def test_crc_equals_the_controllers_bitwise_one(data):
    assert modbus.crc16(data).to_bytes(2, "little") == controller.crc(data)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_the_standard(name):
    request, answer = (bytes.fromhex(text) for text in EXAMPLES[name])
    parse_request(request)
    for length in range(len(answer)):
        told = modbus.answer_length(request, answer[:length])
        assert told in (len(answer), modbus.MORE_OCTETS)
    assert modbus.answer_length(request, answer) == len(answer)
    assert modbus.answer_fits(request, answer)
    assert modbus.answer_length(request, bytes((request[0] | 0x80,))) == 2
    assert not modbus.answer_fits(request, bytes((request[0] ^ 1,)) + answer[1:])


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - {"return query data"}))
def test_a_request_cut_or_lengthened_anywhere_is_refused(name):
    request = bytes.fromhex(EXAMPLES[name][0])
    for length in range(len(request)):
        with pytest.raises(RequestError):
            parse_request(request[:length])
    with pytest.raises(RequestError):
        parse_request(request + b"\0")


@given(st.binary(max_size=modbus.MAX_PDU))
def test_any_octets_parse_or_are_a_request_error(data):
    try:
        request = parse_request(data)
    except RequestError:
        return
    assert request.function == data[0]
    if request.written is not None and not request.is_masked and not request.is_bits:
        assert data.endswith(request.values)
        assert len(request.values) == 2 * len(request.written)


@pytest.mark.parametrize(
    ("text", "effect"),
    [
        ("080000a537", Effect.READ),
        ("0800020000", Effect.READ),
        ("08000b0000", Effect.READ),
        ("0800010000", Effect.WRITE),  # restart communications
        ("0800040000", Effect.WRITE),  # force listen only: the slave would be gone
        ("08000a0000", Effect.WRITE),  # clear counters
        ("2b0e0100", Effect.READ),
        ("2b0d0100", Effect.WRITE),  # CANopen
        ("2b0e010000", Effect.WRITE),  # longer than an identification request
        ("1804de", Effect.READ),
        ("41010203", Effect.WRITE),  # nobody knows
        ("16000400f20025", Effect.WRITE),
        ("1700030006000e00030600ff00ff00ff", Effect.WRITE),
    ],
)
def test_what_only_looks_and_what_may_change_something(text, effect):
    assert parse_request(bytes.fromhex(text)).effect is effect


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", ExceptionCode.ILLEGAL_FUNCTION),
        ("00", ExceptionCode.ILLEGAL_FUNCTION),
        ("8300000001", ExceptionCode.ILLEGAL_FUNCTION),
        ("0300000000", ExceptionCode.ILLEGAL_DATA_VALUE),
        ("030000007e", ExceptionCode.ILLEGAL_DATA_VALUE),  # 126 registers
        ("03ffff0002", ExceptionCode.ILLEGAL_DATA_ADDRESS),
        ("05000000ff", ExceptionCode.ILLEGAL_DATA_VALUE),
        ("1000010002030a0102", ExceptionCode.ILLEGAL_DATA_VALUE),  # count says 3, needs 4
        ("100001000104000a0102", ExceptionCode.ILLEGAL_DATA_VALUE),  # one register, four octets
        ("0f0013000a01cd", ExceptionCode.ILLEGAL_DATA_VALUE),
        ("140d0600040001000206000300090002", ExceptionCode.ILLEGAL_DATA_VALUE),
    ],
)
def test_contradictions_and_their_exceptions(text, code):
    with pytest.raises(RequestError) as caught:
        parse_request(bytes.fromhex(text))
    assert caught.value.code is code


def test_what_is_written_where():
    request = parse_request(bytes.fromhex("1700030006000e00030600ff00fe00fd"))
    assert request.written == range(14, 17)
    assert request.values.hex() == "00ff00fe00fd"
    request = parse_request(bytes.fromhex("0600010003"))
    assert (request.written, request.values.hex()) == (range(1, 2), "0003")
    assert parse_request(bytes.fromhex("16000400f20025")).is_masked


def test_an_unknown_function_is_never_sent_twice():
    assert not modbus.is_repeatable(b"\x41\1")
    assert not modbus.is_repeatable(bytes.fromhex("0800010000"))
    assert modbus.is_repeatable(bytes.fromhex("0600010003"))
