"""DER, as much of it as names and certificates need here: ITU-T X.690 §8.1 and §10.1.

Elements with single-octet tags and lengths in the shortest form; anything else is refused. What is
inside an element is the caller's to read.
"""

from __future__ import annotations

from typing import NamedTuple

from agent.wire.errors import WireError

SEQUENCE = 0x30
SET = 0x31
OBJECT_IDENTIFIER = 0x06
UTF8_STRING = 0x0C
PRINTABLE_STRING = 0x13
IA5_STRING = 0x16

# Octets of a length field that are read: 64 kB fit in two, and nothing here is larger.
_MAX_LENGTH_OCTETS = 2
_LONG_TAG = 0x1F
# Elements in one other: a name has a dozen, the signed part of a certificate ten.
_MAX_ELEMENTS = 64


class Element(NamedTuple):
    """One element: its identifier octet, its content, and all of it."""

    tag: int
    content: bytes
    octets: bytes


def read_element(data: bytes, offset: int = 0) -> tuple[Element, int]:
    """The element at `offset` and where the next begins. Raises WireError."""
    head = data[offset : offset + 2]
    if len(head) < 2 or head[0] & _LONG_TAG == _LONG_TAG:
        raise WireError("der")
    start, length = offset + 2, head[1]
    if length >= 0x80:
        count = length & 0x7F
        digits = data[start : start + count]
        length = int.from_bytes(digits, "big")
        shortest = length >= (0x80 if count == 1 else 0x100)
        if not 1 <= count <= _MAX_LENGTH_OCTETS or len(digits) < count or not shortest:
            raise WireError("der")
        start += count
    end = start + length
    if end > len(data):
        raise WireError("der")
    return Element(head[0], data[start:end], data[offset:end]), end


def read_elements(data: bytes) -> list[Element]:
    """All elements of `data`, one after the other, 64 at most. Raises WireError."""
    found: list[Element] = []
    at = 0
    while at < len(data):
        if len(found) == _MAX_ELEMENTS:
            raise WireError("der")
        element, at = read_element(data, at)
        found.append(element)
    return found


def content_of(data: bytes, tag: int) -> bytes:
    """The content of the one element, of this tag, that `data` is. Raises WireError."""
    element, end = read_element(data)
    if element.tag != tag or end != len(data):
        raise WireError("der")
    return element.content


def encode_element(tag: int, *contents: bytes) -> bytes:
    """An element that holds `contents`, at most 65,535 octets in all. Raises WireError."""
    content = b"".join(contents)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    digits = length.to_bytes((length.bit_length() + 7) // 8, "big")
    if len(digits) > _MAX_LENGTH_OCTETS:
        raise WireError("der")
    return bytes((tag, 0x80 | len(digits))) + digits + content


def encode_oid(text: str) -> bytes:
    """An OBJECT IDENTIFIER of numbers and dots (X.690 §8.19)."""
    first, second, *rest = (int(number) for number in text.split("."))
    content = bytearray()
    for number in (40 * first + second, *rest):
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | number & 0x7F)
        content += bytes(reversed(groups))
    return encode_element(OBJECT_IDENTIFIER, bytes(content))
