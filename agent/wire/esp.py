"""ESP's header, and what kind of datagram arrived on the NAT traversal port.

RFC 4303 §2, RFC 3948 §2 (UDP encapsulation, non-ESP marker, keepalive). `classify` runs for
each datagram of the data plane. Left out: what is encrypted (ipsec).
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

NON_ESP_MARKER = bytes(4)
KEEPALIVE = b"\xff"

SPI_LENGTH = 4
HEADER_LENGTH = 8  # SPI and sequence number
IKE_HEADER_LENGTH = 28
# Header, pad length and next header, and some ICV or block of ciphertext: nothing that any
# suite makes is shorter.
MIN_ESP = HEADER_LENGTH + 8
# RFC 4303 §2.1: 1 to 255 are reserved, 0 is never on the wire (it would be the marker).
MIN_SPI = 256

HEADER = Struct("!4sI")  # SPI as octets (the key of tables), low 32 bits of the sequence number


class Kind(IntEnum):
    """What a datagram on port 4500 holds."""

    INVALID = 0
    KEEPALIVE = 1
    ESP = 2
    IKE = 3  # behind a non-ESP marker, which is still there


def classify(datagram: bytes) -> Kind:
    """The kind of one datagram as it came from the socket. Cannot fail.

    `datagram` may be a memoryview.
    """
    if datagram[:4] != b"\0\0\0\0":
        if len(datagram) >= 16:
            return _ESP
        return Kind.KEEPALIVE if datagram == b"\xff" else Kind.INVALID
    return Kind.IKE if len(datagram) >= 32 else Kind.INVALID


# An attribute of an enum class costs more than all the rest of `classify` for an ESP packet.
_ESP = Kind.ESP


def pack_header(spi: bytes, sequence: int) -> bytes:
    """8 octets: the SPI (4 octets) and the low 32 bits of the sequence number."""
    return HEADER.pack(spi, sequence & 0xFFFFFFFF)


def unpack_header(datagram: bytes) -> tuple[bytes, int] | None:
    """SPI (4 octets) and the low 32 bits of the sequence number; None if too short."""
    if len(datagram) < MIN_ESP:
        return None
    spi, sequence = HEADER.unpack_from(datagram)
    return spi, sequence
