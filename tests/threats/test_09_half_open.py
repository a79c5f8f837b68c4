"""THREATS 9: caps in all and for each network, the oldest goes, the established stay."""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from agent.datagram import Address, Path, Transmit
from agent.ike.half_open import HalfOpen
from agent.ike.settings import IkeSettings
from agent.wire.message import decode_message, encode_message
from agent.wire.payloads import NoncePayload
from tests.support.attacker import first_request, flood, outputs_of
from tests.support.feature_scenes import resuming
from tests.support.pair import (
    A_TO_B,
    B_ADDRESS,
    established,
    make_pair,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def test_one_network_reaches_its_own_threshold_first() -> None:
    pair = make_pair()
    assert flood(pair, 200, network=7) == IkeSettings().cookie_threshold_net
    assert flood(pair, 200, network=8) == IkeSettings().cookie_threshold_net


def test_the_oldest_half_open_goes_first() -> None:
    """THREATS 9: with addresses that can receive (no cookies here), there are still limits."""
    settings = IkeSettings(
        cookie_threshold=10**6,
        cookie_threshold_net=10**6,
        half_open_limit=100,
        half_open_limit_net=20,
    )
    pair = established(make_pair(settings=settings))
    assert flood(pair, 300, network=7) == 300
    assert len(pair.b.ike.half_open) == 20
    assert flood(pair, 1000) == 1000
    assert len(pair.b.ike.half_open) == 100
    assert len(pair.b.ike._by_spi) == 101
    assert len(pair.b.ike) == 1  # who is established is not touched
    pair.sleep(60)
    assert len(pair.b.ike.half_open) == 0
    assert pair.b.ike.half_open._networks == {}
    assert len(pair.b.ike._schedule) == 0


def test_tickets_have_no_caps_of_their_own() -> None:
    """THREATS 9: whoever replays a true ticket from everywhere is bounded as with IKE_SA_INIT."""
    settings = IkeSettings(
        cookie_threshold=10**6,
        cookie_threshold_net=10**6,
        half_open_limit=100,
        half_open_limit_net=20,
    )
    pair, true = resuming(0, settings=settings)()
    message = decode_message(true.data)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)  # somebody is there, and stays
    pair.settle()
    assert len(pair.b.ike) == 1

    def replayed(number: int, host: bytes) -> None:
        spi = b"\xfe" + number.to_bytes(7, "big")
        nonce, *rest = message.payloads
        header = message.header._replace(initiator_spi=spi)
        data = encode_message(header, [NoncePayload(nonce.data[:-8] + spi), *rest])
        path = Path(B_ADDRESS, Address(host, 4500))
        pair.b.ike.receive(path, data, pair.now)
        (answer,) = [d for d in outputs_of(pair.b) if isinstance(d, Transmit)]
        assert len(answer.data) <= 1.1 * len(data)  # THREATS 8
        assert decode_message(answer.data).first(NoncePayload)

    for number in range(50):
        replayed(number, bytes((100, 64, 7, number)))
    assert len(pair.b.ike.half_open) == 20
    for number in range(50, 250):
        replayed(number, bytes((100, 65, number, 1)))
    assert len(pair.b.ike.half_open) == 100
    assert len(pair.b.ike._by_spi) == 101
    assert len(pair.b.ike) == 1
    pair.sleep(60)
    assert len(pair.b.ike.half_open) == 0
    assert pair.b.ike.half_open._networks == {}


@dataclass(frozen=True)
class _Sa:
    number: int


@pytest.mark.parametrize("sources", ["one", "one network", "many"])
@pytest.mark.parametrize("octets", [4, 16])
def test_a_hundred_thousand(sources: str, octets: int) -> None:
    """With addresses at which they receive, so no cookie stops them: the newest stay, bounded."""
    settings = IkeSettings()
    table = HalfOpen(settings)
    made, limit = deque(), settings.half_open_limit_net
    if sources == "many":
        limit = settings.half_open_limit
    for number in range(100_000):
        spread = {"one": 0, "one network": number % 250, "many": number << 8}[sources]
        near = spread.to_bytes(4, "big") if octets == 4 else bytes(4) + spread.to_bytes(4, "big")
        remote = Address((near + bytes(12))[:octets], number % 65536)
        if octets == 16 and sources == "one network":
            remote = Address(bytes(8) + number.to_bytes(8, "big"), 500)
        sa = _Sa(number)
        displaced = table.displaced_by(remote)
        if displaced is not None:
            assert displaced is made.popleft()  # the oldest
            table.remove(displaced)
        table.add(sa, remote, number.to_bytes(8, "big"))
        made.append(sa)
        assert len(table) <= limit
    assert len(table) == limit == len(table._by_request)
    assert all(isinstance(network, bytes) for network in table._networks)
    assert all(isinstance(request, bytes) for _, request in table._by_request)
    for sa in made:
        table.remove(sa)
    assert (len(table), table._networks, table._by_request) == (0, {}, {})


def _calls(verb: Callable[[], None]) -> int:
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        verb()
    finally:
        sys.setprofile(None)
    return count


def test_one_more_costs_the_same_among_few_and_many() -> None:
    many = 10**6
    settings = IkeSettings(
        cookie_threshold=many, cookie_threshold_net=many, half_open_limit_net=many
    )
    pair = make_pair(settings=settings)

    def one(number: int) -> int:
        path = Path(B_ADDRESS, Address(b"\x0b" + number.to_bytes(3, "big"), 500))
        request = first_request(b"\xfd" + number.to_bytes(7, "big"))
        calls = _calls(lambda: pair.b.ike.receive(path, request, pair.now))
        outputs_of(pair.b)
        return calls

    one(1)
    few = one(2)
    flood(pair, 1000)
    assert abs(one(3) - few) <= 20  # the heap of deadlines is a little deeper
    assert len(pair.b.ike.half_open) == 1003 < settings.half_open_limit
