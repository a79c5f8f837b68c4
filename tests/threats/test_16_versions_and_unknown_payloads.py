"""THREATS 16: versions, unknown payloads, reserved bits, any order: as RFC 7296 says."""

from __future__ import annotations

import itertools

import pytest

from agent.datagram import Address, Path
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.message import Header, decode_message, encode_message
from agent.wire.payloads import (
    KePayload,
    NoncePayload,
    SaPayload,
    UnknownPayload,
)
from tests.support.attacker import FROM_A, answers_of, first_request
from tests.support.damage import chain, raw
from tests.support.pair import (
    B_ADDRESS,
    established,
    ike_proposals,
    make_pair,
)


def test_unknown_critical_payload_in_the_first_request() -> None:
    """§2.5: rejected, and named."""
    pair = make_pair()
    header = Header(b"attacker", bytes(8), ExchangeType.IKE_SA_INIT, True, False, 0)
    payloads = [
        SaPayload(ike_proposals()),
        KePayload(31, b"\x05" * 32),
        NoncePayload(b"n" * 32),
    ]
    for critical in (False, True):
        unknown = UnknownPayload(200, critical, b"?")
        pair.b.ike.receive(FROM_A, encode_message(header, [*payloads, unknown]), pair.now)
        (answer,) = answers_of(pair.b)
        text = pair.describe(pair.b, answer)
        if critical:
            assert text == "IKE_SA_INIT! N(UNSUPPORTED_CRITICAL_PAYLOAD)"
            assert answer[-1] == 200
        else:
            assert text == "IKE_SA_INIT! SA KE No"


def test_unknown_critical_payload_later() -> None:
    """Answered, and the SA stays (§2.21.3 makes only INVALID_SYNTAX fatal)."""
    pair = established(make_pair())
    answers = []
    pair.a.ike.request(
        pair.a.sa.ike_id,
        ExchangeType.INFORMATIONAL,
        [UnknownPayload(200, True, b"?")],
        lambda m, now: answers.append(m),
        pair.now,
    )
    pair.settle()
    notify = answers[0].notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD)
    assert notify is not None
    assert notify.data == bytes((200,))
    assert pair.a.sa.established
    assert pair.b.sa.established


def test_other_versions() -> None:
    """§2.5: a higher one is told, at most once a second; a lower one and responses never."""
    pair = make_pair()
    for _ in range(50):
        pair.b.ike.receive(FROM_A, first_request(major=3), pair.now)
    (answer,) = answers_of(pair.b)
    assert pair.describe(pair.b, answer) == "IKE_SA_INIT! N(INVALID_MAJOR_VERSION)"
    pair.b.ike.receive(FROM_A, first_request(major=1), pair.now + 10)
    pair.b.ike.receive(FROM_A, first_request(major=4, is_response=True), pair.now + 10)
    assert answers_of(pair.b) == []
    pair.b.ike.receive(FROM_A, first_request(major=3), pair.now + 10)
    assert len(answers_of(pair.b)) == 1


@pytest.mark.parametrize("major", [0, 1, 2, 3, 4, 9, 15])
@pytest.mark.parametrize("minor", [0, 1, 15])
def test_version_numbers(major: int, minor: int) -> None:
    """IKEv1 in silence; a higher major version is told once a second; a minor one means nothing."""
    pair = make_pair()
    said = []
    for number in range(40):  # four seconds
        data = first_request((number + 1).to_bytes(8, "big"), major=major, minor=minor)
        pair.b.ike.receive(FROM_A, data, pair.now + number / 10)
        said += [pair.describe(pair.b, a).partition(" ")[2] for a in answers_of(pair.b)]
    if major < 2:
        assert said == []
    elif major > 2:
        assert said == ["N(INVALID_MAJOR_VERSION)"] * 4
    else:
        assert said[0] == "SA KE No"
    assert (len(pair.b.ike._by_spi) > 0) == (major == 2)


def test_of_all_addresses_together_once_a_second() -> None:
    pair = make_pair()
    told = 0
    for number in range(500):
        path = Path(B_ADDRESS, Address(b"\x0b\0" + number.to_bytes(2, "big"), 500))
        pair.b.ike.receive(path, first_request(major=3), pair.now)
        told += len(answers_of(pair.b))
    assert told == 1


def test_reserved_bits_and_the_order_of_payloads() -> None:
    """Ignored wherever they are: flags, payload headers, inside payloads (RFC 7296 §3.1, §3.2)."""
    pair = make_pair()
    message = decode_message(first_request())
    parts = [part._replace(flags=0x7F) for part in raw(message.payloads)]
    ke = parts[1]
    parts[1] = ke._replace(body=ke.body[:2] + b"\xff\xff" + ke.body[4:])
    count = 0
    for order in itertools.permutations(parts):
        count += 1
        first, octets = chain(order)
        data = bytearray(encode_message(message.header, ()) + octets)
        data[:8] = count.to_bytes(8, "big")
        data[16] = first
        data[19] |= 0b11000111
        data[24:28] = len(data).to_bytes(4, "big")
        pair.b.ike.receive(FROM_A, bytes(data), pair.now)
        (answer,) = answers_of(pair.b)
        assert pair.describe(pair.b, answer) == "IKE_SA_INIT! SA KE No"
        # What we send has them all zero, and version 2.0.
        assert answer[17] == 0x20
        assert answer[19] == 0x20
    assert count == 6
