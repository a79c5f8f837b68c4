"""What kind of datagram arrived on the NAT traversal port.

RFC 4303 §2, RFC 3948 §2 (UDP encapsulation, non-ESP marker, keepalive). `classify` runs for what
the data plane leaves: it knows the ESP of its own SAs by their SPI. Left out: ESP itself (ipsec).
"""

from __future__ import annotations

from enum import IntEnum

NON_ESP_MARKER = bytes(4)
KEEPALIVE = b"\xff"

IKE_HEADER_LENGTH = 28
# SPI and sequence number, pad length and next header, and some ICV or block of ciphertext: nothing
# that any suite makes is shorter.
MIN_ESP = 16
_MIN_IKE = len(NON_ESP_MARKER) + IKE_HEADER_LENGTH


class Kind(IntEnum):
    """What a datagram on port 4500 holds."""

    INVALID = 0
    KEEPALIVE = 1
    ESP = 2
    IKE = 3  # behind a non-ESP marker, which is still there


def classify(datagram: bytes) -> Kind:
    """The kind of one datagram as it came from the socket. Cannot fail."""
    if datagram[: len(NON_ESP_MARKER)] == NON_ESP_MARKER:
        return Kind.IKE if len(datagram) >= _MIN_IKE else Kind.INVALID
    if len(datagram) >= MIN_ESP:
        return Kind.ESP
    return Kind.KEEPALIVE if datagram == KEEPALIVE else Kind.INVALID
