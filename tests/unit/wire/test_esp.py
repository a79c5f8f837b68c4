"""What arrived on port 4500 (RFC 3948 §2, RFC 4303 §2; THREATS 2)."""

from __future__ import annotations

import pytest

from agent.wire.esp import KEEPALIVE, NON_ESP_MARKER, Kind, classify
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
