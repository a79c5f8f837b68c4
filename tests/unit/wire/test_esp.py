"""What arrived on port 4500, and ESP's header (RFC 3948 §2, RFC 4303 §2; THREATS 2)."""

from __future__ import annotations

import pytest

from agent.wire.esp import (
    KEEPALIVE,
    MIN_ESP,
    NON_ESP_MARKER,
    Kind,
    classify,
    pack_header,
    unpack_header,
)
from agent.wire.message import encode_message

from .samples import HEADER


@pytest.mark.parametrize(
    ("datagram", "kind"),
    [
        (KEEPALIVE, Kind.KEEPALIVE),
        (b"", Kind.INVALID),
        (b"\xfe", Kind.INVALID),
        (b"\xff\xff", Kind.INVALID),
        (b"\xff" * 3, Kind.INVALID),
        (bytes(3), Kind.INVALID),
        (NON_ESP_MARKER, Kind.INVALID),
        (bytes(27), Kind.INVALID),
        (bytes(28), Kind.INVALID),
        (bytes(31), Kind.INVALID),
        (bytes(32), Kind.IKE),
        (NON_ESP_MARKER + encode_message(HEADER, ()), Kind.IKE),
        (b"\0\0\0\1" + bytes(4), Kind.INVALID),
        (b"\0\0\0\1" + bytes(11), Kind.INVALID),
        (b"\0\0\0\1" + bytes(12), Kind.ESP),
        (b"\xff" * 16, Kind.ESP),
        (b"\xc0" + bytes(65506), Kind.ESP),
    ],
)
def test_kinds(datagram, kind):
    assert classify(datagram) is kind
    assert classify(memoryview(datagram)) is kind


def test_header():
    assert pack_header(b"spi4", 0x01020304) == b"spi4\x01\x02\x03\x04"
    assert pack_header(b"spi4", 0x5_FFFFFFFF) == b"spi4\xff\xff\xff\xff"  # ESN: low half only
    assert unpack_header(b"spi4\x01\x02\x03\x04" + bytes(8)) == (b"spi4", 0x01020304)
    for length in range(MIN_ESP):
        assert unpack_header(bytes(length)) is None
