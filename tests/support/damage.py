"""Every way in which a chain of payloads, or the datagram around it, can be bad.

`chains` damages what is inside the protection (or all there is, in IKE_SA_INIT), `datagrams` what
stands around it. Each damage has a name that tells where it is, and a kind that tells what the RFC
says about it.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from agent.crypto.signatures import SCHEMES
from agent.wire.codes import AuthMethod, ExchangeType, NotifyType, PayloadType
from agent.wire.payloads import (
    AuthPayload,
    CertPayload,
    CertreqPayload,
    CpPayload,
    DeletePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsiPayload,
    TsrPayload,
    UnknownPayload,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MAX = (1 << 8) - 1, (1 << 16) - 1
UNKNOWN_TYPES = (1, 32, 54, 127, 200, 255)  # reserved, unassigned, private use


class Kind(StrEnum):
    """What is wrong."""

    MALFORMED = "malformed"  # no chain of payloads at all
    SHORT = "short"  # a body that ends early, its length field right
    LENGTH = "length"  # a length or count inside a body is wrong
    CRITICAL = "critical"
    HARMLESS = "harmless"  # to be ignored: the answer is the one to the undamaged message
    SWAPPED = "swapped"  # the order of certificates, which means something (RFC 7296 §3.6)
    TWICE = "twice"
    MISSING = "missing"
    NONSENSE = "nonsense"  # well-formed; what it says makes no sense


class Raw(NamedTuple):
    """One payload as octets; `flags` has the critical bit on top."""

    type: int
    body: bytes
    flags: int = 0


class Damage(NamedTuple):
    """A damaged chain; `payload` is the type of the payload that was hit, 0 for the whole."""

    name: str
    kind: Kind
    payload: int
    first: int
    octets: bytes


def raw(payloads: Iterable[Payload]) -> list[Raw]:
    """Payloads as octets."""
    return [
        Raw(p.payload_type, p.encode(), 0x80 if isinstance(p, UnknownPayload) and p.critical else 0)
        for p in payloads
    ]


def chain(parts: Sequence[Raw], *, end: int = 0) -> tuple[int, bytes]:
    """The type of the first payload and the chain; `end` stands where the last one points to."""
    octets = b""
    for index, part in enumerate(parts):
        following = parts[index + 1].type if index + 1 < len(parts) else end
        octets += struct.pack("!BBH", following, part.flags, 4 + len(part.body)) + part.body
    return (parts[0].type if parts else end), octets


def chains(payloads: Sequence[Payload]) -> Iterator[Damage]:
    """Everything that can be wrong with these payloads."""
    parts = raw(payloads)
    yield from _truncated(parts)
    yield from _short(parts)
    yield from _lengths(parts)
    yield from _inner_lengths(payloads, parts)
    yield from _unknown(parts)
    yield from _counted(parts)
    yield from _harmless(parts)
    yield from _nonsense(payloads, parts)


def _name(part: Raw) -> str:
    return PayloadType(part.type).name


def _damage(name: str, kind: Kind, payload: int, parts: Sequence[Raw], end: int = 0) -> Damage:
    return Damage(name, kind, payload, *chain(parts, end=end))


def _truncated(parts: list[Raw]) -> Iterator[Damage]:
    first, octets = chain(parts)
    for length in range(len(octets)):
        yield Damage(f"cut to {length}", Kind.MALFORMED, 0, first, octets[:length])
    yield Damage("one octet more", Kind.MALFORMED, 0, first, octets + b"\0")


def _short(parts: list[Raw]) -> Iterator[Damage]:
    for index, part in enumerate(parts):
        for length in range(len(part.body)):
            shorter = [*parts[:index], part._replace(body=part.body[:length]), *parts[index + 1 :]]
            yield _damage(f"{_name(part)} {index} of {length}", Kind.SHORT, part.type, shorter)


def _lengths(parts: list[Raw]) -> Iterator[Damage]:
    first, octets = chain(parts)
    offset = 0
    for index, part in enumerate(parts):
        length = 4 + len(part.body)
        for wrong in sorted({0, 1, 2, 3, length - 1, length + 1, MAX[1]} - {length}):
            bad = octets[: offset + 2] + wrong.to_bytes(2, "big") + octets[offset + 4 :]
            name = f"{_name(part)} {index} says {wrong}"
            yield Damage(name, Kind.MALFORMED, part.type, first, bad)
        offset += length


def _inner_lengths(payloads: Sequence[Payload], parts: list[Raw]) -> Iterator[Damage]:
    """Lengths, counts and sizes of SPIs inside the bodies."""
    for index, payload in enumerate(payloads):
        part = parts[index]
        for at, size in _length_fields(payload, part.body):
            now = int.from_bytes(part.body[at : at + size], "big")
            for wrong in sorted({0, now - 1, now + 1, MAX[size - 1]} - {now, -1}):
                body = part.body[:at] + wrong.to_bytes(size, "big") + part.body[at + size :]
                bad = [*parts[:index], part._replace(body=body), *parts[index + 1 :]]
                name = f"{_name(part)} {index} at {at}: {wrong}"
                yield _damage(name, Kind.LENGTH, part.type, bad)


def _length_fields(payload: Payload, body: bytes) -> Iterator[tuple[int, int]]:
    """(offset in the body, octets) of each."""
    match payload:
        case SaPayload():
            yield from _proposal_fields(body)
        case NotifyPayload(type=kind):
            yield 1, 1
            if kind in (NotifyType.REDIRECT, NotifyType.REDIRECTED_FROM):
                yield 5, 1  # of the gateway's identity
        case AuthPayload(method=AuthMethod.DIGITAL_SIGNATURE):
            yield from ((4, 1), (6, 1))  # of the AlgorithmIdentifier, and what that says itself
        case CertPayload():
            yield from ((3, 2), (7, 2))  # the certificate and its signed part
        case DeletePayload():
            yield from ((1, 1), (2, 2))
        case TsiPayload() | TsrPayload():
            yield 0, 1
            offset = 4
            while offset < len(body):
                yield offset + 2, 2
                offset += int.from_bytes(body[offset + 2 : offset + 4], "big")
        case CpPayload():
            offset = 4
            while offset < len(body):
                yield offset + 2, 2
                offset += 4 + int.from_bytes(body[offset + 2 : offset + 4], "big")


def _proposal_fields(body: bytes) -> Iterator[tuple[int, int]]:
    offset = 0
    while offset < len(body):
        yield from ((offset, 1), (offset + 2, 2), (offset + 6, 1), (offset + 7, 1))
        end = offset + int.from_bytes(body[offset + 2 : offset + 4], "big")
        at = offset + 8 + body[offset + 6]
        while at < end:
            yield from ((at, 1), (at + 2, 2))
            at += int.from_bytes(body[at + 2 : at + 4], "big")
        offset = end


def _unknown(parts: list[Raw]) -> Iterator[Damage]:
    for type_ in UNKNOWN_TYPES:
        for flags, kind in ((0x80, Kind.CRITICAL), (0, Kind.HARMLESS), (0x7F, Kind.HARMLESS)):
            for at in sorted({0, len(parts) // 2, len(parts)}):
                more = [*parts[:at], Raw(type_, b"unknown", flags), *parts[at:]]
                name = f"unknown {type_} at {at} with flags {flags:#x}"
                yield _damage(name, kind, type_, more)
    inside = [*parts, Raw(PayloadType.SK, bytes(40))]
    yield _damage("SK inside", Kind.MALFORMED, PayloadType.SK, inside)
    inside = [*parts, Raw(PayloadType.SKF, bytes.fromhex("00010001") + bytes(40))]
    yield _damage("SKF inside", Kind.MALFORMED, PayloadType.SKF, inside)
    yield _damage("65 payloads", Kind.MALFORMED, 0, [*parts, *[Raw(PayloadType.V, b"")] * 65])


def _counted(parts: list[Raw]) -> Iterator[Damage]:
    for index, part in enumerate(parts):
        twice = [*parts[: index + 1], *parts[index:]]
        yield _damage(f"{_name(part)} {index} twice", Kind.TWICE, part.type, twice)
        without = [*parts[:index], *parts[index + 1 :]]
        yield _damage(f"no {_name(part)} {index}", Kind.MISSING, part.type, without)
        announced = Damage(
            f"{_name(part)} {index} only announced", Kind.MALFORMED, 0, part.type, b""
        )
        yield announced
    if parts:
        yield _damage("one more announced", Kind.MALFORMED, 0, parts, end=PayloadType.N)


def _harmless(parts: list[Raw]) -> Iterator[Damage]:
    certificates = [part for part in parts if part.type == PayloadType.CERT]
    orders = {f"rotated by {by}": parts[by:] + parts[:by] for by in range(1, len(parts))}
    for name, order in {"backwards": parts[::-1], **orders}.items():
        same = [part for part in order if part.type == PayloadType.CERT] == certificates
        yield _damage(name, Kind.HARMLESS if same else Kind.SWAPPED, 0, order)
    marked = [part._replace(flags=0xFF) for part in parts]  # RFC 7296 §2.5: known ones, so ignored
    yield _damage("all flags", Kind.HARMLESS, 0, marked)


def _nonsense(payloads: Sequence[Payload], parts: list[Raw]) -> Iterator[Damage]:
    for index, payload in enumerate(payloads):
        for name, body in nonsense_of(payload):
            bad = [*parts[:index], parts[index]._replace(body=body), *parts[index + 1 :]]
            yield _damage(
                f"{_name(parts[index])} {index}: {name}", Kind.NONSENSE, parts[index].type, bad
            )


def nonsense_of(payload: Payload) -> Iterator[tuple[str, bytes]]:
    """Bodies that are well-formed (or nearly) and make no sense."""
    match payload:
        case SaPayload(proposals=proposals):
            yield from _senseless_proposals(proposals[0].protocol, proposals[0].spi)
        case TsiPayload() | TsrPayload():
            yield from SELECTORS.items()
        case AuthPayload():
            yield from _senseless_proofs(payload)
        case CertPayload() | CertreqPayload():
            for encoding in sorted({*range(16), 201, 255} - {payload.encoding}):
                yield f"encoding {encoding}", bytes((encoding,)) + payload.data
            yield "nothing in it", bytes((payload.encoding,))
            if payload.data:
                yield "another octet", payload.encode()[:-1] + bytes((payload.data[-1] ^ 1,))


def _senseless_proofs(payload: AuthPayload) -> Iterator[tuple[str, bytes]]:
    for method in sorted({*range(16), 201, 255} - {payload.method}):
        yield f"method {method}", bytes((method, 0, 0, 0)) + payload.data
    data, start = payload.data, 0
    if payload.method == AuthMethod.DIGITAL_SIGNATURE:
        start = 1 + data[0]
        for scheme in SCHEMES:
            if scheme.algorithm != data[1:start]:
                head = bytes((len(scheme.algorithm),)) + scheme.algorithm
                yield f"as {scheme.name}", bytes((14, 0, 0, 0)) + head + data[start:]
    length = len(data) - start
    signatures = {
        "all zeros": bytes(length),
        "all ones": b"\xff" * length,
        "one octet more": data[start:] + b"\0",
        "twice": 2 * data[start:],
        "r and s of zero": bytes.fromhex("3006020100020100"),
        "one": bytes(length - 1) + b"\1",
        "another octet": data[start:-1] + bytes((data[-1] ^ 1,)),
    }
    for name, signature in signatures.items():
        yield name, bytes((payload.method, 0, 0, 0)) + data[:start] + signature


def _senseless_proposals(protocol: int, spi: bytes) -> Iterator[tuple[str, bytes]]:
    def proposal(*transforms: bytes, of: int = protocol, last: int = 0, number: int = 1) -> bytes:
        octets = b"".join(transforms)
        length = 8 + len(spi) + len(octets)
        count = len(transforms)
        return struct.pack("!BxHBBBB", last, length, number, of, len(spi), count) + spi + octets

    def transform(kind: int, id_: int, more: bool, attributes: bytes = b"") -> bytes:
        head = struct.pack("!BxHBxH", 3 if more else 0, 8 + len(attributes), kind, id_)
        return head + attributes

    unknown_id = [transform(1, 60000, True), transform(4, 60000, False)]
    unknown_type = [transform(200, 1, True), transform(250, 2, False)]
    yield "transforms that nobody knows", proposal(*unknown_id)
    yield "types of transforms that nobody knows", proposal(*unknown_type)
    yield "no transforms", proposal()
    yield "another protocol", proposal(*unknown_id, of=2)
    yield "no protocol", proposal(*unknown_id, of=0)
    bits = struct.pack("!HH", 0x800E, 128)
    yield "two key lengths", proposal(transform(1, 20, False, bits + bits))
    yield (
        "an attribute that nobody knows",
        proposal(transform(1, 20, False, bits + b"\x80\x63\0\1")),
    )
    yield (
        "a key length of nothing",
        proposal(transform(1, 20, False, struct.pack("!HH", 0x800E, 0))),
    )
    ids = [transform(1, 20, True, bits) for _ in range(254)] + [transform(1, 20, False, bits)]
    yield "255 of the same", proposal(*ids)
    many = [proposal(*unknown_id, last=2, number=n % 256) for n in range(1, 1000)]
    yield "1,000 proposals", b"".join(many) + proposal(*unknown_id, number=232)


def selector(
    start: bytes,
    end: bytes,
    *,
    protocol: int = 0,
    ports: tuple[int, int] = (0, 65535),
    kind: int = 0,
) -> bytes:
    """One traffic selector."""
    kind = kind or {4: 7, 16: 8}[len(start)]
    return struct.pack("!BBHHH", kind, protocol, 8 + 2 * len(start), *ports) + start + end


def selectors(*each: bytes) -> bytes:
    """The body of a TSi or TSr payload."""
    return bytes((len(each), 0, 0, 0)) + b"".join(each)


_LOW, _HIGH = bytes((10, 0, 0, 0)), bytes((10, 255, 255, 255))
SELECTORS = {
    "none": selectors(),
    "addresses backwards": selectors(selector(_HIGH, _LOW)),
    "ports backwards": selectors(selector(_LOW, _HIGH, ports=(9, 8))),
    "another family": selectors(selector(bytes(16), b"\xff" * 16)),
    "elsewhere": selectors(selector(bytes((192, 0, 2, 0)), bytes((192, 0, 2, 255)))),
    "a type that nobody knows": selectors(selector(_LOW, _HIGH, kind=200)),
    "255 that run backwards": selectors(*[selector(_HIGH, _LOW)] * 255),
}


# -- around the protection -------------------------------------------------------------------------


def datagrams(data: bytes) -> Iterator[tuple[str, bytes]]:
    """A protected message with something wrong around it: all of it is dropped without a word."""
    yield from _cut(data)
    yield from _header_fields(data)
    for at in range(28, len(data)):  # SK's own header, IV, ciphertext, ICV
        yield f"octet {at} changed", data[:at] + bytes((data[at] ^ 0x40,)) + data[at + 1 :]
    length = len(data) - 28
    for wrong in (0, 3, 4, length - 1, length + 1, MAX[1]):
        yield f"SK says {wrong}", data[:30] + wrong.to_bytes(2, "big") + data[32:]
    inner = PayloadType.SK
    yield (
        "a payload before SK",
        _with_length(
            data[:16] + bytes((PayloadType.V,)) + data[17:28] + bytes((inner, 0, 0, 4)) + data[28:]
        ),
    )
    yield (
        "a critical payload before SK",
        _with_length(
            data[:16] + bytes((200,)) + data[17:28] + bytes((inner, 0x80, 0, 4)) + data[28:]
        ),
    )
    yield "SK twice", _with_length(data + data[28:])


def _cut(data: bytes) -> Iterator[tuple[str, bytes]]:
    for length in range(len(data)):
        yield f"cut to {length}", data[:length]
        if length >= 28:
            yield f"cut to {length}, header right", _with_length(data[:length])
    yield "one octet more", data + b"\0"
    yield "one octet more, header right", _with_length(data + b"\0")


def _header_fields(data: bytes) -> Iterator[tuple[str, bytes]]:
    for wrong in (0, 27, 28, len(data) - 1, len(data) + 1, (1 << 32) - 1):
        yield f"header says {wrong}", data[:24] + wrong.to_bytes(4, "big") + data[28:]
    now = int.from_bytes(data[20:24], "big")
    numbers = {0, max(0, now - 1), now + 1, now + 2, now + 256, 1 << 31, (1 << 32) - 1}
    for number in sorted(numbers - {now}):
        yield f"message ID {number}", data[:20] + number.to_bytes(4, "big") + data[24:]
    for flags in sorted({0x00, 0x08, 0x20, 0x28} - {data[19]}):
        yield f"flags {flags:#x}", data[:19] + bytes((flags,)) + data[20:]
    for exchange in sorted({0, 2, 33, *ExchangeType, 99, 240, 255} - {data[18]}):
        yield f"exchange {exchange}", data[:18] + bytes((exchange,)) + data[19:]
    for first in sorted({0, *range(33, 50), 53, 128, 200} - {data[16], PayloadType.SKF}):
        yield f"first payload {first}", data[:16] + bytes((first,)) + data[17:]
    yield "SKF", data[:16] + bytes((PayloadType.SKF,)) + data[17:]
    yield "version 1", data[:17] + b"\x10" + data[18:]


def _with_length(data: bytes) -> bytes:
    return data[:24] + len(data).to_bytes(4, "big") + data[28:]
