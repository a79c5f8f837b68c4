"""THREATS 7: cookies that are stolen, stale, empty, too long or endless are refused.

In IKE_SA_INIT and in IKE_SESSION_RESUME, which has them of the same maker.
"""

from __future__ import annotations

import pytest

from agent.datagram import Address, Path
from agent.ike.cookies import Cookies
from agent.ike.settings import IkeSettings
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.message import decode_message, encode_message
from agent.wire.payloads import NotifyPayload
from tests.support.attacker import FROM_A, answers_of
from tests.support.exchanges import connecting
from tests.support.feature_scenes import resuming
from tests.support.pair import (
    A_ADDRESS,
    A_TO_B,
    B_ADDRESS,
    Pair,
    seeded,
)


def test_cookies_are_bound_and_age() -> None:
    """THREATS 7: stolen, stale, changed."""
    cookies = Cookies(seeded("cookies"), rotation=100.0)
    cookie = cookies.make(b"nonce", A_ADDRESS, b"spi", 0.0)
    assert cookies.check(cookie, b"nonce", A_ADDRESS, b"spi", 50.0)
    assert cookies.check(cookie, b"nonce", A_ADDRESS, b"spi", 150.0)  # one rotation later
    assert not cookies.check(cookie, b"nonce", A_ADDRESS, b"spi", 320.0)
    cookie = cookies.make(b"nonce", A_ADDRESS, b"spi", 320.0)
    other = Address(A_ADDRESS.ip, A_ADDRESS.port + 1)
    assert not cookies.check(cookie, b"other", A_ADDRESS, b"spi", 320.0)
    assert not cookies.check(cookie, b"nonce", other, b"spi", 320.0)
    assert not cookies.check(cookie, b"nonce", A_ADDRESS, b"abc", 320.0)
    assert not cookies.check(cookie[:-1], b"nonce", A_ADDRESS, b"spi", 320.0)
    assert not cookies.check(b"", b"nonce", A_ADDRESS, b"spi", 320.0)
    assert not cookies.check(cookie, b"nonce", A_ADDRESS, b"spi", 10_000.0)


FIRST = {
    "IKE_SA_INIT": connecting(0),
    "IKE_SESSION_RESUME": resuming(0),
}
first_exchanges = pytest.mark.parametrize("exchange", FIRST)


def _request(cookie: bytes | None, request: bytes) -> bytes:
    message = decode_message(request)
    extra = [] if cookie is None else [NotifyPayload(NotifyType.COOKIE, cookie)]
    return encode_message(message.header, [*extra, *message.payloads])


def _cookie(pair: Pair, request: bytes) -> bytes:
    """One that b asks a for."""
    pair.b.ike.receive(FROM_A, _request(None, request), pair.now)
    notify = decode_message(answers_of(pair.b)[0]).notify(NotifyType.COOKIE)
    assert notify is not None
    pair.now += 1.0
    return notify.data


@first_exchanges
def test_the_responder_takes_only_its_own_fresh_cookies(exchange: str) -> None:
    """Stolen by another address, stale, empty, too long, of another request: asked for anew."""
    pair, true = FIRST[exchange]()
    pair.b.ike.half_open._settings = IkeSettings(cookie_threshold=0)
    pair.b.ike.cookies = Cookies(seeded("cookies"), rotation=100.0)

    def said(data: bytes, path: Path = FROM_A) -> str:
        pair.b.ike.receive(path, data, pair.now)
        (answer,) = answers_of(pair.b)
        pair.now += 1.0
        return pair.describe(pair.b, answer).partition(" ")[2]

    good = _cookie(pair, true.data)
    thief = Path(B_ADDRESS, Address.parse("198.18.0.66", 4500))
    assert said(_request(good, true.data), thief) == "N(COOKIE)"
    for bad in (b"", good[:-1], good + b"\0", bytes(64), bytes(200), b"\xff" * len(good)):
        assert said(_request(bad, true.data)) == "N(COOKIE)"
    for at in range(len(good)):
        bad = good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :]
        assert said(_request(bad, true.data)) == "N(COOKIE)"
    another = _request(good, true.data)[:7] + b"\1" + _request(good, true.data)[8:]
    assert said(another) == "N(COOKIE)"
    assert len(pair.b.ike._by_spi) == 0
    pair.now += 300.0
    assert said(_request(good, true.data)) == "N(COOKIE)"
    assert len(pair.b.ike._by_spi) == 0
    fresh = _cookie(pair, true.data)
    assert said(_request(fresh, true.data)) != "N(COOKIE)"
    assert len(pair.b.ike._by_spi) == 1


@first_exchanges
def test_the_initiator_goes_at_most_three_rounds(exchange: str) -> None:
    """And those only for cookies of 1 to 64 octets (RFC 7296 §2.6)."""
    pair, true = FIRST[exchange]()
    header = decode_message(true.data).header
    assert header.exchange == ExchangeType[exchange]
    back = header._replace(is_initiator=False, is_response=True)
    sizes = [0, 65, 200, 60000, 1, 64, 20, 20, 20, 20, 0, 65]
    sent = []
    for number, size in enumerate(sizes):
        cookie = NotifyPayload(NotifyType.COOKIE, bytes((number,)) * size)
        pair.a.ike.receive(A_TO_B, encode_message(back, [cookie]), pair.now)
        sent += answers_of(pair.a)
    cookies = [decode_message(d).notify(NotifyType.COOKIE) for d in sent]
    assert [c and len(c.data) for c in cookies] == [1, 64, 20]
