"""THREATS 12: public values that are none are refused, and the refusal costs always the same."""

from __future__ import annotations

import pytest

from agent.wire.codes import ExchangeType
from agent.wire.message import Header, encode_message
from agent.wire.payloads import (
    KePayload,
    NoncePayload,
    SaPayload,
)
from tests.support.attacker import FROM_A, answers_of
from tests.support.pair import (
    ike_proposals,
    make_pair,
)

# Group, its word, octets of its public values.
GROUPS = [
    (31, "x25519", 32),
    (19, "ecp256", 64),
    (20, "ecp384", 96),
    (21, "ecp521", 132),
    (14, "modp2048", 256),
    (15, "modp3072", 384),
    (16, "modp4096", 512),
]


@pytest.mark.parametrize("bad", ["zeros", "one", "ones", "short", "long", "empty", "another"])
@pytest.mark.parametrize(("group", "word", "size"), GROUPS)
def test_bad_public_values(group: int, word: str, size: int, bad: str) -> None:
    """THREATS 12, for each group: zero, of low order, beyond the prime or off the curve."""
    public = {
        "zeros": bytes(size),
        "one": b"\1" + bytes(31) if word == "x25519" else bytes(size - 1) + b"\1",
        "ones": b"\xff" * size if word != "x25519" else b"\xec" + b"\xff" * 30 + b"\x7f",
        "short": b"\5" * (size - 1),
        "long": b"\5" * (size + 1),
        "empty": b"",
        "another": b"\5" * (100 if word != "x25519" else 64),
    }[bad]
    proposals = ike_proposals(f"aes128gcm16-prfsha256-{word}")
    pair = make_pair(ike=(f"aes128gcm16-prfsha256-{word}",))
    header = Header(b"attacker", bytes(8), ExchangeType.IKE_SA_INIT, True, False, 0)
    payloads = [SaPayload(proposals), KePayload(group, public), NoncePayload(b"n" * 32)]
    pair.b.ike.receive(FROM_A, encode_message(header, payloads), pair.now)
    assert answers_of(pair.b) == []
    assert not pair.b.ike._by_spi
    assert not pair.b.ike._current
