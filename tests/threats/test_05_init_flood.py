"""THREATS 5: IKE_SA_INIT from spoofed sources: cookies, a bounded memory, honest peers get in.

So it is with requests that cost a key exchange and leave nothing, or come with a COOKIE.
"""

from __future__ import annotations

from collections import Counter

import pytest

from agent.datagram import Address, Path
from agent.ike.half_open import FIRST_PER_NETWORK
from agent.ike.settings import IkeSettings
from agent.wire.codes import NotifyType
from agent.wire.message import decode_message, encode_message
from agent.wire.payloads import KePayload, NoncePayload, NotifyPayload, SaPayload
from tests.support.attacker import answers_of, first_request, flood
from tests.support.pair import (
    A_TO_B,
    B_ADDRESS,
    Pair,
    established,
    ike_proposals,
    make_pair,
)


def test_cookies_bound_the_half_open() -> None:
    """THREATS 5, 9: whoever does not answer from its address gets no state."""
    pair = established(make_pair(child=True))
    accepted = flood(pair, 3000)
    assert accepted == IkeSettings().cookie_threshold
    assert len(pair.b.ike.half_open) == accepted
    # An honest peer still gets in, within the round trips of a cookie.
    pair.a.ike.close(pair.a.sa.ike_id, pair.now, silent=True)
    pair.sent.clear()
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.settle()
    assert [line for _, line in pair.sent][1] == "a <-- b: IKE_SA_INIT! N(COOKIE)"
    assert pair.a.sa.established
    # And all is idle again.
    pair.sleep(60)
    assert len(pair.b.ike.half_open) == 0
    assert len(pair.b.ike._by_spi) == 1


IKE = ("aes128gcm16-prfsha512-x25519",)


def _first(number: int, public: bytes, nonce: bytes, *cookie: NotifyPayload) -> bytes:
    header = decode_message(first_request(number.to_bytes(8, "big"))).header
    payloads = [SaPayload(ike_proposals(*IKE)), KePayload(31, public), NoncePayload(nonce)]
    return encode_message(header, [*cookie, *payloads])


# What is asked, and what it is that cannot be answered.
FRUITLESS = {
    "no public value": (bytes(32), b"n" * 32),
    "too short for an answer": (b"\x05" * 32, b"n" * 16),
}


def _counting() -> tuple[Pair, Counter[str]]:
    """A pair, and how many key exchanges b has begun."""
    pair, count = make_pair(ike=IKE), Counter[str]()
    make = pair.b.ike.key_exchange

    def counted(group: int, *, answering: bool = False):
        count["made"] += 1
        return make(group, answering=answering)

    pair.b.ike.key_exchange = counted
    return pair, count


@pytest.mark.parametrize("sources", ["one network", "many"])
@pytest.mark.parametrize("name", FRUITLESS)
def test_those_that_leave_nothing(name: str, sources: str) -> None:
    """They are no half-open SAs, but whoever sends many has to prove its address all the same."""
    pair, count = _counting()
    settings = IkeSettings()
    limit = settings.cookie_threshold if sources == "many" else settings.cookie_threshold_net
    for second in range(1, 4):
        pair.now += 1.0
        for number in range(1, 1001):
            host = bytes((100, number >> 8, number & 255, 1))
            if sources == "one network":
                host = bytes((100, 64, 0, number % 250))
            path = Path(B_ADDRESS, Address(host, 500))
            pair.b.ike.receive(path, _first(number, *FRUITLESS[name]), pair.now)
        assert count["made"] == second * limit
        said = {pair.describe(pair.b, answer) for answer in answers_of(pair.b)}
        assert said == {"IKE_SA_INIT! N(COOKIE)"}
        assert len(pair.b.ike.half_open) == 0
    # An honest peer gets in meanwhile.
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.settle()
    assert pair.a.sa.established


def test_those_with_a_cookie() -> None:
    """One cookie is good for as many requests as there are public values."""
    pair, count = _counting()
    pair.b.ike.half_open._settings = IkeSettings(cookie_threshold=0)
    path = Path(B_ADDRESS, Address(b"\x64\x40\0\x05", 500))
    pair.b.ike.receive(path, _first(1, b"\x05" * 32, b"n" * 32), pair.now)
    (asked,) = answers_of(pair.b)
    cookie = decode_message(asked).notify(NotifyType.COOKIE)
    assert cookie is not None
    for second in range(1, 4):
        pair.now += 1.0
        for number in range(1, 500):
            public = second.to_bytes(2, "big") + number.to_bytes(30, "big")
            pair.b.ike.receive(path, _first(1, public, b"n" * 32, cookie), pair.now)
        assert count["made"] == second * FIRST_PER_NETWORK
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.settle()
    assert pair.a.sa.established
