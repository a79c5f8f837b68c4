"""Modbus PDUs and RTU frames: what a request asks for, how long its answer will be, CRC.

Sources: Modbus Application Protocol V1.1b3 (function codes, lengths, exception codes), Modbus over
Serial Line V1.02 (CRC, silence). Left out: ASCII framing, the device's side of any function.

`parse_request` decides on the very octets that are forwarded: the gateway puts unit and CRC around
the PDU that was parsed and changes nothing in it.
"""

from __future__ import annotations

from enum import Enum, IntEnum, auto

from agent.records import record

MAX_PDU = 253
MAX_RTU_FRAME = 256


class Function(IntEnum):
    """Function codes that are known here; every other one is forwarded as it is, or refused."""

    READ_COILS = 1
    READ_DISCRETE_INPUTS = 2
    READ_HOLDING_REGISTERS = 3
    READ_INPUT_REGISTERS = 4
    WRITE_SINGLE_COIL = 5
    WRITE_SINGLE_REGISTER = 6
    READ_EXCEPTION_STATUS = 7
    DIAGNOSTICS = 8
    GET_COMM_EVENT_COUNTER = 11
    GET_COMM_EVENT_LOG = 12
    WRITE_MULTIPLE_COILS = 15
    WRITE_MULTIPLE_REGISTERS = 16
    REPORT_SERVER_ID = 17
    READ_FILE_RECORD = 20
    WRITE_FILE_RECORD = 21
    MASK_WRITE_REGISTER = 22
    READ_WRITE_MULTIPLE_REGISTERS = 23
    READ_FIFO_QUEUE = 24
    ENCAPSULATED_INTERFACE_TRANSPORT = 43


class ExceptionCode(IntEnum):
    """Exception codes with the meaning that a gateway gives them."""

    ILLEGAL_FUNCTION = 0x01
    ILLEGAL_DATA_ADDRESS = 0x02
    ILLEGAL_DATA_VALUE = 0x03
    SERVER_DEVICE_FAILURE = 0x04
    ACKNOWLEDGE = 0x05
    SERVER_DEVICE_BUSY = 0x06
    MEMORY_PARITY_ERROR = 0x08
    GATEWAY_PATH_UNAVAILABLE = 0x0A
    GATEWAY_TARGET_FAILED_TO_RESPOND = 0x0B


class Effect(Enum):
    """What a request does to the slave."""

    READ = auto()
    WRITE = auto()  # also everything of which that cannot be excluded


class RequestError(ValueError):
    """The request contradicts itself; `.code` is the exception that answers it."""

    def __init__(self, code: ExceptionCode, text: str) -> None:
        super().__init__(text)
        self.code = code


@record(frozen=True, slots=True)
class Request:
    """What a request PDU asks. `values`: the written registers or bits as they stand in the PDU.

    `written` is None for reads, and for writes whose target cannot be told.
    """

    function: int
    effect: Effect
    written: range | None = None
    is_bits: bool = False
    values: bytes = b""
    is_masked: bool = False  # the new value depends on the old one


_BIT_READS = (Function.READ_COILS, Function.READ_DISCRETE_INPUTS)
_REGISTER_READS = (Function.READ_HOLDING_REGISTERS, Function.READ_INPUT_REGISTERS)
# Diagnostics that only look: query data, diagnostic register, and the counters 0x0B to 0x12.
_LOOKING_DIAGNOSTICS = frozenset({0x00, 0x02, *range(0x0B, 0x13)})
_READ_DEVICE_IDENTIFICATION = 14
_SHORT_READS = (
    Function.READ_EXCEPTION_STATUS,
    Function.GET_COMM_EVENT_COUNTER,
    Function.GET_COMM_EVENT_LOG,
    Function.REPORT_SERVER_ID,
)


def _crc_table() -> tuple[int, ...]:
    table = []
    for octet in range(256):
        value = octet
        for _ in range(8):
            value = (value >> 1) ^ 0xA001 if value & 1 else value >> 1
        table.append(value)
    return tuple(table)


_CRC = _crc_table()


def crc16(data: bytes) -> int:
    """CRC of Modbus over Serial Line §2.5.1.2 (reflected 0x8005, start 0xFFFF). Cannot fail."""
    value = 0xFFFF
    for octet in data:
        value = (value >> 8) ^ _CRC[(value ^ octet) & 0xFF]
    return value


def encode_frame(unit: int, pdu: bytes) -> bytes:
    """The RTU frame: unit, PDU, CRC with its low octet first."""
    body = bytes((unit,)) + pdu
    return body + crc16(body).to_bytes(2, "little")


def has_valid_crc(frame: bytes) -> bool:
    """Whether the last two octets are the CRC of those before. Cannot fail."""
    return len(frame) >= 4 and crc16(frame[:-2]) == int.from_bytes(frame[-2:], "little")


def exception_pdu(function: int, code: int) -> bytes:
    """The two octets of an exception response."""
    return bytes((function & 0x7F | 0x80, code))


def parse_request(pdu: bytes) -> Request:
    """What `pdu` (1 to 253 octets) asks. Raises RequestError, nothing else."""
    function = pdu[0] if pdu else 0
    if not 1 <= function <= 127:
        raise RequestError(ExceptionCode.ILLEGAL_FUNCTION, f"function code {function}")
    if function in _BIT_READS:
        _span(pdu, 5, 2000)
        return Request(function, Effect.READ)
    if function in _REGISTER_READS:
        _span(pdu, 5, 125)
        return Request(function, Effect.READ)
    if function in _SHORT_READS:
        _length(pdu, 1)
        return Request(function, Effect.READ)
    if function in _WRITES:
        return _parse_write(pdu)
    return _parse_other(pdu)


_WRITES = (
    Function.WRITE_SINGLE_COIL,
    Function.WRITE_SINGLE_REGISTER,
    Function.WRITE_MULTIPLE_COILS,
    Function.WRITE_MULTIPLE_REGISTERS,
    Function.MASK_WRITE_REGISTER,
    Function.READ_WRITE_MULTIPLE_REGISTERS,
)


def _parse_write(pdu: bytes) -> Request:
    function = pdu[0]
    match function:
        case Function.WRITE_SINGLE_COIL:
            _length(pdu, 5)
            if pdu[3:5] not in (b"\xff\x00", b"\x00\x00"):
                raise RequestError(ExceptionCode.ILLEGAL_DATA_VALUE, "a coil is FF00 or 0000")
            value = b"\1" if pdu[3] else b"\0"
            return Request(function, Effect.WRITE, _one(pdu), is_bits=True, values=value)
        case Function.WRITE_SINGLE_REGISTER:
            _length(pdu, 5)
            return Request(function, Effect.WRITE, _one(pdu), values=pdu[3:5])
        case Function.MASK_WRITE_REGISTER:
            _length(pdu, 7)
            return Request(function, Effect.WRITE, _one(pdu), is_masked=True)
        case Function.WRITE_MULTIPLE_COILS:
            written = _span(pdu, None, 1968)
            _counted(pdu, 5, (len(written) + 7) // 8)
            return Request(function, Effect.WRITE, written, is_bits=True, values=pdu[6:])
        case Function.WRITE_MULTIPLE_REGISTERS:
            written = _span(pdu, None, 123)
            _counted(pdu, 5, 2 * len(written))
            return Request(function, Effect.WRITE, written, values=pdu[6:])
        case _:  # 23: first what is read, then what is written
            _span(pdu[:5], 5, 125)
            written = _span(b"\0" + pdu[5:], None, 121)
            _counted(pdu, 9, 2 * len(written))
            return Request(function, Effect.WRITE, written, values=pdu[10:])


def _parse_other(pdu: bytes) -> Request:
    """Diagnostics, files, encapsulated interfaces and codes that nobody here knows."""
    function = pdu[0]
    looks = False
    if function == Function.DIAGNOSTICS:
        if len(pdu) < 3:
            raise RequestError(ExceptionCode.ILLEGAL_DATA_VALUE, "diagnostics without sub-function")
        looks = int.from_bytes(pdu[1:3], "big") in _LOOKING_DIAGNOSTICS
    elif function == Function.READ_FIFO_QUEUE:
        _length(pdu, 3)
        looks = True
    elif function == Function.READ_FILE_RECORD:
        if len(pdu) < 2 or pdu[1] != len(pdu) - 2 or pdu[1] % 7:
            raise RequestError(ExceptionCode.ILLEGAL_DATA_VALUE, "octet count of file records")
        looks = True
    elif function == Function.WRITE_FILE_RECORD:
        if len(pdu) < 2 or pdu[1] != len(pdu) - 2:
            raise RequestError(ExceptionCode.ILLEGAL_DATA_VALUE, "octet count of file records")
    elif function == Function.ENCAPSULATED_INTERFACE_TRANSPORT:
        looks = len(pdu) == 4 and pdu[1] == _READ_DEVICE_IDENTIFICATION
    return Request(function, Effect.READ if looks else Effect.WRITE)


def _length(pdu: bytes, wanted: int) -> None:
    if len(pdu) != wanted:
        raise RequestError(
            ExceptionCode.ILLEGAL_DATA_VALUE,
            f"function {pdu[0]} with {len(pdu)} octets instead of {wanted}",
        )


def _counted(pdu: bytes, at: int, wanted: int) -> None:
    """The octet count at `at` and what follows it must both agree with the number of values."""
    if len(pdu) <= at or pdu[at] != wanted or len(pdu) != at + 1 + wanted:
        raise RequestError(ExceptionCode.ILLEGAL_DATA_VALUE, "lengths that disagree")


def _one(pdu: bytes) -> range:
    first = int.from_bytes(pdu[1:3], "big")
    return range(first, first + 1)


def _span(pdu: bytes, length: int | None, most: int) -> range:
    if length is not None:
        _length(pdu, length)
    if len(pdu) < 5:
        raise RequestError(ExceptionCode.ILLEGAL_DATA_VALUE, "no address and number")
    first, count = int.from_bytes(pdu[1:3], "big"), int.from_bytes(pdu[3:5], "big")
    if not 1 <= count <= most:
        raise RequestError(ExceptionCode.ILLEGAL_DATA_VALUE, f"{count} values at once")
    if first + count > 0x10000:
        raise RequestError(ExceptionCode.ILLEGAL_DATA_ADDRESS, "beyond the last address")
    return range(first, first + count)


def is_repeatable(pdu: bytes) -> bool:
    """Whether sending the request a second time does no more than sending it once.

    True for every read and for writes of values; an unknown function is sent once only.
    """
    function = pdu[0]
    return function in (*_BIT_READS, *_REGISTER_READS, *_SHORT_READS, *_WRITES)


def is_plain_read(pdu: bytes) -> bool:
    """Functions 1 to 4: two identical ones in flight may share one answer."""
    return 1 <= pdu[0] <= 4


UNKNOWN_LENGTH = 0
MORE_OCTETS = -1


def answer_length(request: bytes, answer: bytes) -> int:
    """How many octets the answer PDU to the PDU `request` has, as far as `answer` tells.

    UNKNOWN_LENGTH: only silence ends it; MORE_OCTETS: not yet known. Cannot fail.
    """
    if not answer:
        return MORE_OCTETS
    if answer[0] & 0x80:
        return 2
    function = request[0]
    match function:
        case Function.READ_COILS | Function.READ_DISCRETE_INPUTS:
            return 2 + (int.from_bytes(request[3:5], "big") + 7) // 8
        case (
            Function.READ_HOLDING_REGISTERS
            | Function.READ_INPUT_REGISTERS
            | Function.READ_WRITE_MULTIPLE_REGISTERS
        ):
            return 2 + 2 * int.from_bytes(request[3:5], "big")
        case Function.READ_EXCEPTION_STATUS:
            return 2
        case Function.MASK_WRITE_REGISTER:
            return 7
        case Function.DIAGNOSTICS:
            return len(request) if request[1:3] == b"\0\0" else 5
        case Function.GET_COMM_EVENT_LOG | Function.REPORT_SERVER_ID:
            return 2 + answer[1] if len(answer) > 1 else MORE_OCTETS
        case Function.READ_FILE_RECORD | Function.WRITE_FILE_RECORD:
            return 2 + answer[1] if len(answer) > 1 else MORE_OCTETS
        case Function.READ_FIFO_QUEUE:
            return 3 + int.from_bytes(answer[1:3], "big") if len(answer) > 2 else MORE_OCTETS
        case _ if function in _WRITES or function == Function.GET_COMM_EVENT_COUNTER:
            return 5
    return UNKNOWN_LENGTH


def answer_fits(request: bytes, answer: bytes) -> bool:
    """Whether a complete answer PDU with a valid CRC belongs to `request`. Cannot fail.

    A slave that is slower than the timeout answers the request before; what can be compared
    (octet count, echoed address and value) tells such an answer from the right one.
    """
    if not answer or answer[0] & 0x7F != request[0]:
        return False
    if answer[0] & 0x80:
        return len(answer) == 2
    match request[0]:
        case 1 | 2 | 3 | 4 | Function.READ_WRITE_MULTIPLE_REGISTERS:
            return len(answer) >= 2 and answer[1] == len(answer) - 2
        case Function.WRITE_SINGLE_COIL | Function.WRITE_SINGLE_REGISTER:
            return answer == request
        case Function.MASK_WRITE_REGISTER:
            return answer == request
        case Function.WRITE_MULTIPLE_COILS | Function.WRITE_MULTIPLE_REGISTERS:
            return answer == request[:5]
    return True
