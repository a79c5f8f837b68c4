"""THREATS 16: versions, unknown payloads, reserved bits, any order: as RFC 7296 says."""

from __future__ import annotations

from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.message import Header, encode_message
from agent.wire.payloads import (
    KePayload,
    NoncePayload,
    SaPayload,
    UnknownPayload,
)
from tests.support.attacker import FROM_A, answers_of, first_request
from tests.support.pair import (
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
