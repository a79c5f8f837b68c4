"""THREATS 2: sizes, lengths that disagree, chains of a thousand payloads: dropped in silence."""

from __future__ import annotations

import pytest

from agent.datagram import Address, Dropped, Path, Received, Transmit
from agent.ike.crash import decode_invalid_spi
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.message import Header, encode_message
from agent.wire.payloads import (
    KePayload,
    NoncePayload,
    NotifyPayload,
    SaPayload,
)
from tests.support.attacker import FROM_A, answers_of, first_request, outputs_of
from tests.support.pair import (
    established,
    ike_proposals,
    make_pair,
)
from tests.unit.engine.machines import Machine


def test_too_long_for_a_first_request() -> None:
    pair = make_pair()
    header = Header(b"attacker", bytes(8), ExchangeType.IKE_SA_INIT, True, False, 0)
    payloads = [
        SaPayload(ike_proposals()),
        KePayload(31, b"\x05" * 32),
        NoncePayload(b"n" * 32),
        NotifyPayload(NotifyType.COOKIE, bytes(60000)),
    ]
    pair.b.ike.receive(FROM_A, encode_message(header, payloads), pair.now)
    assert answers_of(pair.b) == []
    assert not pair.b.ike._by_spi


SIZES = (0, 1, 3, 4, 27, 28, 65507)


@pytest.mark.parametrize("port", [500, 4500])
@pytest.mark.parametrize("fill", [b"\0", b"\x20", b"\x29", b"\xff"])
def test_sizes_that_are_no_message(port: int, fill: bytes) -> None:
    """Neither an answer nor a deadline, on either port."""
    engine = Machine("m", "10.0.0.2", config='[mediate]\naddress = "203.0.113.10"').engine
    path = Path(Address.parse("10.0.0.2", port), Address.parse("198.18.0.1", 9999))
    due = engine.next_timeout()
    for size in SIZES:
        for marker in (b"", bytes(4)):
            data = (marker + fill * size)[:65507]
            engine.receive_datagrams([Received(path, data)], 1.0)
    said = [o for o in iter(engine.poll_output, None) if isinstance(o, Transmit)]
    # All but the shortest without a marker are ESP of no SA: that may be said, once a second.
    assert len(said) <= (port == 4500)
    assert all(decode_invalid_spi(o.data[4:]) is not None for o in said)
    assert engine.next_timeout() == due


def _drops(data: bytes) -> list[str]:
    pair = established(make_pair())
    due, before = pair.b.ike.next_timeout(), len(pair.b.ike._by_spi)
    pair.b.ike.receive(FROM_A, data, pair.now)
    found = outputs_of(pair.b)
    assert all(isinstance(o, Dropped) for o in found)
    assert (pair.b.ike.next_timeout(), len(pair.b.ike._by_spi)) == (due, before)
    return [o.reason for o in found]


def test_header_length_against_the_datagram() -> None:
    request = first_request()
    for difference in (-len(request), -28, -1, 1, 28, 65535, 2**31):
        length = (len(request) + difference).to_bytes(4, "big")
        assert _drops(request[:24] + length + request[28:]) == ["length"]


def test_payload_lengths_that_cannot_be() -> None:
    """Nought to three, and past the end, for each payload."""
    request = first_request()
    offset = 28
    while offset < len(request):
        length = int.from_bytes(request[offset + 2 : offset + 4], "big")
        for wrong in (0, 1, 2, 3, len(request) - offset + 1, 65535):
            bad = request[: offset + 2] + wrong.to_bytes(2, "big") + request[offset + 4 :]
            assert _drops(bad) == ["payload_length"]
        offset += length


def test_a_thousand_payloads() -> None:
    """Of a known type or not; behind what would have been a good request."""
    for kind, tail in ((43, bytes((43, 0, 0, 4))), (200, bytes((200, 0, 0, 4)))):
        head = first_request()[:16] + bytes((kind,)) + first_request()[17:24]
        octets = tail * 999 + bytes((0, 0, 0, 4))
        assert _drops(head + (28 + 4000).to_bytes(4, "big") + octets) == ["too_many_payloads"] or (
            _drops(head + (28 + 4000).to_bytes(4, "big") + octets) == ["invalid_request"]
        )
