"""IKE messages: the header (RFC 7296 §3.1), the chain of payloads (§3.2) and what they bear.

The non-ESP marker of port 4500 (RFC 3948 §2.2) is not part of a message. Encryption is not done
here: `decode_message` returns an SK payload as `Encrypted`, its content goes through
`decode_payloads`; to send, `encode_payloads` makes the content and `encrypted_prefix` what
stands in front of it.
"""

from __future__ import annotations

from struct import Struct
from struct import error as struct_error
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from agent.records import record
from agent.wire.codes import ExchangeType, PayloadType, known
from agent.wire.errors import UnsupportedCriticalPayload, UnsupportedVersion, WireError
from agent.wire.payloads import (
    DECODERS,
    Encrypted,
    EncryptedFragment,
    NotifyPayload,
    Payload,
    UnknownPayload,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

P = TypeVar("P", bound=Payload)

HEADER_LENGTH = 28
MAJOR_VERSION = 2
NO_SPI = bytes(8)

# What fits in a UDP datagram over IPv4 (65,535 less 20 and 8).
MAX_MESSAGE = 65507
# Honest messages have less than 30 (vendor IDs, certificates, 17 endpoints); without a bound a
# datagram of 64 kB is 16,000 payloads.
MAX_PAYLOADS = 64

# No message has two of these, and each may hold hundreds of objects: a datagram of 64 kB full of
# them would cost 25 ms and a megabyte before anything is proven. (The rest of what may occur
# how often is `ike`'s to judge.)
ONLY_ONCE = frozenset({PayloadType.SA, PayloadType.TSi, PayloadType.TSr})

_LAST = (Encrypted, EncryptedFragment)
_LAST_TYPES = frozenset({PayloadType.SK, PayloadType.SKF})

_HEADER = Struct("!8s8sBBBBII")
_GENERIC = Struct("!BBH")  # next payload, critical and reserved bits, length
_FRAGMENT = Struct("!HH")
_CRITICAL = 0x80
_RESPONSE = 0x20
_HIGHER_VERSION = 0x10
_INITIATOR = 0x08
_MAX_PAYLOAD = 65535 - _GENERIC.size


class Header(NamedTuple):
    """RFC 7296 §3.1. SPIs are 8 octets; `is_initiator` means: of the original initiator.

    `next_payload` and `length` are those of the datagram that was read; when writing they
    follow from the payloads. Reserved flags are ignored and written as zero.
    """

    initiator_spi: bytes
    responder_spi: bytes
    exchange: int
    is_initiator: bool
    is_response: bool
    message_id: int
    next_payload: int = 0
    major: int = MAJOR_VERSION
    minor: int = 0
    higher_version: bool = False
    length: int = 0

    @property
    def spis(self) -> bytes:
        """Both SPIs, 16 octets, the initiator's first."""
        return self.initiator_spi + self.responder_spi


@record(frozen=True, slots=True)
class Message:
    """A header and its payloads in their order; also the decrypted content of a message."""

    header: Header
    payloads: tuple[Payload, ...] = ()

    def first(self, cls: type[P]) -> P | None:
        """The first payload of a class, or None."""
        for payload in self.payloads:
            if isinstance(payload, cls):
                return payload
        return None

    def all(self, cls: type[P]) -> tuple[P, ...]:
        """All payloads of a class."""
        return tuple(p for p in self.payloads if isinstance(p, cls))

    def notify(self, type_: int) -> NotifyPayload | None:
        """The first notify of a type, or None."""
        for payload in self.payloads:
            if isinstance(payload, NotifyPayload) and payload.type == type_:
                return payload
        return None

    def notifies(self, type_: int) -> tuple[NotifyPayload, ...]:
        """All notifies of a type."""
        return tuple([p for p in self.payloads if isinstance(p, NotifyPayload) and p.type == type_])


# --- reading untrusted octets ----------------------------------------------------------------


def decode_header(data: bytes) -> Header:
    """The header of a whole datagram, of whatever version. Raises WireError.

    The length must be that of the datagram.
    """
    if len(data) < HEADER_LENGTH:
        raise WireError("short")
    spi_i, spi_r, first, version, exchange, flags, message_id, length = _HEADER.unpack_from(data)
    if length != len(data):
        raise WireError("length")
    return Header(
        initiator_spi=spi_i,
        responder_spi=spi_r,
        exchange=known(ExchangeType, exchange),
        is_initiator=bool(flags & _INITIATOR),
        is_response=bool(flags & _RESPONSE),
        message_id=message_id,
        next_payload=known(PayloadType, first),
        major=version >> 4,
        minor=version & 0x0F,
        higher_version=bool(flags & _HIGHER_VERSION),
        length=length,
    )


def decode_message(data: bytes, header: Header | None = None) -> Message:
    """A whole datagram. Raises WireError, UnsupportedVersion, UnsupportedCriticalPayload.

    An SK or SKF payload becomes `Encrypted` or `EncryptedFragment` and is the last one. `header` is
    that of `data`, for whoever has read it already.
    """
    if header is None:
        header = decode_header(data)
    if header.major != MAJOR_VERSION:
        raise UnsupportedVersion(header)
    return Message(header, _decode_chain(header.next_payload, data, HEADER_LENGTH))


def decode_payloads(first_type: int, data: bytes) -> tuple[Payload, ...]:
    """The decrypted content of an SK payload, padding taken off.

    Raises WireError, UnsupportedCriticalPayload. SK or SKF inside is an error.
    """
    payloads = _decode_chain(first_type, data, 0)
    if payloads and isinstance(payloads[-1], _LAST):
        raise WireError("nested_encryption")
    return payloads


def _decode_chain(first_type: int, data: bytes, offset: int) -> tuple[Payload, ...]:
    payloads: list[Payload] = []
    critical: int | None = None
    seen: set[int] = set()
    type_ = first_type
    while type_:
        if len(payloads) == MAX_PAYLOADS:
            raise WireError("too_many_payloads")
        if len(data) - offset < _GENERIC.size:
            raise WireError("payload_length")
        next_type, flags, length = _GENERIC.unpack_from(data, offset)
        body, end = offset + _GENERIC.size, offset + length
        if end < body or end > len(data):
            raise WireError("payload_length")
        if type_ in _LAST_TYPES:
            # Its next payload field tells what is inside, so nothing can follow it.
            if end != len(data):
                raise WireError("trailing_octets")
            payloads.append(_decode_encrypted(type_, next_type, data, body))
            type_, offset = 0, end
            continue
        if type_ in seen:
            raise WireError("duplicate_payload")
        if type_ in ONLY_ONCE:
            seen.add(type_)
        decode = DECODERS.get(type_)
        if decode is not None:  # of a known type the critical bit is ignored (RFC 7296 §2.5)
            payloads.append(decode(data[body:end]))
        else:
            is_critical = bool(flags & _CRITICAL)
            payloads.append(UnknownPayload(type_, is_critical, data[body:end]))
            if is_critical and critical is None:
                critical = type_
        type_, offset = next_type, end
    if offset != len(data):
        raise WireError("trailing_octets")
    if critical is not None:
        raise UnsupportedCriticalPayload(critical)
    return tuple(payloads)


def _decode_encrypted(
    type_: int, first_inner: int, data: bytes, body: int
) -> Encrypted | EncryptedFragment:
    if type_ == PayloadType.SK:
        return Encrypted(known(PayloadType, first_inner), data[body:], data[:body])
    start = body + _FRAGMENT.size
    if start > len(data):
        raise WireError("fragment_length")
    number, total = _FRAGMENT.unpack_from(data, body)
    if not 0 < number <= total:  # RFC 7383 §2.6
        raise WireError("fragment_number")
    return EncryptedFragment(
        known(PayloadType, first_inner), number, total, data[start:], data[:start]
    )


# --- writing ----------------------------------------------------------------------------------


def encode_payloads(payloads: Sequence[Payload]) -> tuple[int, bytes]:
    """The type of the first payload (0: none) and the chain. Raises WireError for what the wire

    has no room for: too many, too long, a number out of range, a payload behind SK.
    """
    if len(payloads) > MAX_PAYLOADS:
        raise WireError("too_many_payloads")
    types = [payload.payload_type for payload in payloads]
    only_once = [type_ for type_ in types if type_ in ONLY_ONCE]
    if len(only_once) > len(set(only_once)):
        raise WireError("duplicate_payload")
    parts: list[bytes] = []
    try:
        for payload, next_type in zip(payloads, [*types[1:], 0], strict=False):
            body = payload.encode()
            if len(body) > _MAX_PAYLOAD:
                raise WireError("payload_length")
            flags = 0
            if isinstance(payload, _LAST):
                if next_type:
                    raise WireError("trailing_octets")
                next_type = payload.first_inner
            elif isinstance(payload, UnknownPayload):
                flags = _CRITICAL if payload.critical else 0
            parts.append(_GENERIC.pack(next_type, flags, _GENERIC.size + len(body)) + body)
    except WireError:
        raise
    except (struct_error, ValueError, OverflowError):
        raise WireError("value_out_of_range") from None
    return (types[0] if types else 0), b"".join(parts)


def encode_message(header: Header, payloads: Sequence[Payload]) -> bytes:
    """A whole message; `next_payload` and `length` of the header follow from the payloads.

    Raises WireError as `encode_payloads`.
    """
    first, chain = encode_payloads(payloads)
    return _encode_header(header, first, HEADER_LENGTH + len(chain)) + chain


def encrypted_prefix(header: Header, first_inner: int, body_length: int) -> bytes:
    """IKE header and generic header of an SK payload: what is authenticated but not encrypted.

    The message is this and then `body_length` octets of IV, ciphertext and ICV. Raises WireError
    if that is no datagram.
    """
    length = HEADER_LENGTH + _GENERIC.size + body_length
    head = _encode_header(header, PayloadType.SK, length)
    return head + _GENERIC.pack(first_inner, 0, _GENERIC.size + body_length)


def fragment_prefix(
    header: Header, first_inner: int, number: int, total: int, body_length: int
) -> bytes:
    """The same for an SKF payload (RFC 7383 §2.5); `first_inner` is 0 but for the first."""
    length = _GENERIC.size + _FRAGMENT.size + body_length
    head = _encode_header(header, PayloadType.SKF, HEADER_LENGTH + length)
    return head + _GENERIC.pack(first_inner, 0, length) + _FRAGMENT.pack(number, total)


def _encode_header(header: Header, first: int, length: int) -> bytes:
    if length > MAX_MESSAGE:
        raise WireError("too_long")
    if len(header.initiator_spi) != 8 or len(header.responder_spi) != 8:
        raise WireError("spi_length")
    flags = (
        (_INITIATOR if header.is_initiator else 0)
        | (_RESPONSE if header.is_response else 0)
        | (_HIGHER_VERSION if header.higher_version else 0)
    )
    version = header.major << 4 | header.minor
    try:
        return _HEADER.pack(
            header.initiator_spi,
            header.responder_spi,
            first,
            version,
            header.exchange,
            flags,
            header.message_id,
            length,
        )
    except struct_error:
        raise WireError("value_out_of_range") from None
