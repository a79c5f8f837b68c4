"""THREATS 23: selectors 0/0, none, 255, backwards: narrowed or TS_UNACCEPTABLE; the SPD holds.

tests/unit/ipsec/test_plane.py::test_inner_addresses_are_those_of_the_sa
tests/unit/ike/test_bad_input.py::test_selectors_that_contradict_themselves
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.wire.codes import NotifyType
from agent.wire.payloads import TsiPayload, TsrPayload
from agent.wire.selectors import MAX_NARROWED
from tests.support.damage import chain, raw, selector, selectors
from tests.support.exchanges import REQUESTS, payloads_of, sealed
from tests.unit.engine.machines import UDP, Scene, ipv6, udp

if TYPE_CHECKING:
    from tests.support.pair import Pair

A, B = bytes((10, 1, 0, 0)), bytes((10, 1, 0, 255))  # what a may have: 10.1.0.0/24
INSIDE = bytes((10, 1, 0, 7))
ALL4, ALL6 = selector(bytes(4), b"\xff" * 4), selector(bytes(16), b"\xff" * 16)
OFFERS: dict[str, tuple[bytes, str]] = {
    # name: (TSi payload, what of it is granted; empty: TS_UNACCEPTABLE)
    "0/0": (selectors(ALL4), "10.1.0.0/24"),
    "0/0 of both families": (selectors(ALL6, ALL4), "10.1.0.0/24"),
    "one address": (selectors(selector(INSIDE, INSIDE)), "10.1.0.7/32"),
    "beyond both ends": (
        selectors(selector(bytes((10, 0, 255, 0)), bytes((10, 1, 1, 0)))),
        "10.1.0.0/24",
    ),
    "one protocol and port": (
        selectors(selector(A, B, protocol=6, ports=(80, 80))),
        "10.1.0.0/24[tcp/80]",
    ),
    "255 times the same": (selectors(*[selector(A, B)] * 255), "10.1.0.0/24"),
    "254 elsewhere and one that fits": (
        selectors(*[selector(bytes((11, 0, 0, n)), bytes((11, 0, 0, n))) for n in range(254)],
                  selector(INSIDE, INSIDE)),
        "10.1.0.7/32",
    ),
    "an unknown type beside a good one": (
        selectors(selector(A, B, kind=200), selector(INSIDE, INSIDE)),
        "10.1.0.7/32",
    ),
    "none": (selectors(), ""),
    "only unknown types": (selectors(selector(A, B, kind=9), selector(A, B, kind=10)), ""),
    "addresses backwards": (selectors(selector(B, A)), ""),
    "ports backwards": (selectors(selector(A, B, ports=(81, 80))), ""),
    "elsewhere": (selectors(selector(bytes((11, 0, 0, 0)), bytes((11, 0, 0, 255)))), ""),
    "IPv6 where IPv4 is": (selectors(ALL6), ""),
    "255 backwards": (selectors(*[selector(B, A)] * 255), ""),
}  # fmt: skip
IPV6 = 41  # as the next header of ESP
EXCHANGES = {"IKE_AUTH": "IKE_AUTH", "a further one": "CREATE_CHILD_SA new"}


def _offered(scene_name: str, body: bytes) -> tuple[Pair, list]:
    """The answer's payloads to an offer with this TSi; b's side."""
    (scene,) = [s for s in REQUESTS if s.name == scene_name]
    pair, true = scene.start()
    message, cipher = payloads_of(pair, true)
    parts = [
        p._replace(body=body) if p.type == TsiPayload.TYPE else p for p in raw(message.payloads)
    ]
    pair.b.ike.receive(true.arriving, sealed(message, cipher, *chain(parts)), pair.now)
    pair.drain()
    (answer,) = pair.pending
    return pair, list(pair.message(pair.b, answer.data).payloads)


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
@pytest.mark.parametrize("name", OFFERS)
def test_an_offer_is_narrowed_or_refused(name: str, exchange: str) -> None:
    body, granted = OFFERS[name]
    before = 0 if exchange == "IKE_AUTH" else 1
    pair, payloads = _offered(exchange, body)
    notifies = [p.type for p in payloads if p.payload_type == 41]
    if not granted:
        assert notifies == [NotifyType.TS_UNACCEPTABLE]
        assert len(pair.b.installed) == before
        assert pair.b.sa.established  # the IKE SA stays (RFC 7296 §2.21)
        return
    assert notifies == []
    (tsi,) = (p for p in payloads if isinstance(p, TsiPayload))
    (tsr,) = (p for p in payloads if isinstance(p, TsrPayload))
    assert [str(ts) for ts in tsi.selectors] == [granted]
    installed = list(pair.b.installed.values())[-1]
    assert installed.remote_ts == tsi.selectors
    assert installed.local_ts == tsr.selectors
    assert len(pair.b.installed) == before + 1


def test_what_255_different_ones_leave_is_bounded() -> None:
    hosts = [bytes((10, 1, 0, n)) for n in range(255)]
    pair, payloads = _offered("IKE_AUTH", selectors(*[selector(h, h) for h in hosts]))
    (tsi,) = (p for p in payloads if isinstance(p, TsiPayload))
    assert len(tsi.selectors) == MAX_NARROWED == 32
    assert len(pair.b.installed) == 1


def test_the_responder_gives_no_more_than_was_offered() -> None:
    """Every answer with selectors beyond the offer ends what was asked for."""
    (scene,) = [s for s in REQUESTS if s.name == "IKE_AUTH"]
    for body in (selectors(ALL4), selectors(ALL6), selectors(), OFFERS["255 backwards"][0]):
        pair, true = scene.start()
        pair.deliver(true)
        (answer,) = pair.pending
        pair.pending.clear()
        message, cipher = payloads_of(pair, answer)
        parts = [
            p._replace(body=body) if p.type == TsrPayload.TYPE else p for p in raw(message.payloads)
        ]
        pair.a.ike.receive(answer.arriving, sealed(message, cipher, *chain(parts)), pair.now)
        pair.settle()
        assert not pair.a.installed
        assert not pair.b.installed  # it was told


def test_inner_packets_outside_of_the_selectors_are_dropped() -> None:
    """In a whole tunnel, in both directions: from and to others' addresses, counted."""
    scene = Scene(role="owner").connected()
    mine, theirs = scene.operator.address, scene.gateway.address
    other = b"\xfd" + bytes(14) + b"\x99"
    for source, target in ((other, theirs), (theirs, theirs), (bytes(16), theirs), (mine, other)):
        packet = udp(source, target, 53)
        assert not scene.passes(scene.operator, scene.gateway, packet)
    # Past the sender's own SPD: sealed under the SA by an operator that does not keep to it.
    (outbound,) = (sa.outbound for sa in scene.operator.engine._plane._sas.values())
    (path,) = (sa.path for sa in scene.gateway.engine._ike.sas() if sa.children)
    for source, target in ((other, theirs), (mine, other), (bytes(16), theirs)):
        packet = ipv6(source, target, UDP, bytes(8))
        (transmit,) = outbound.seal([packet], IPV6, path)
        before = list(scene.gateway.delivered)
        scene.gateway.receive(path, transmit.data, scene.now)
        scene.run(0.1)
        assert scene.gateway.delivered == before
    assert scene.gateway.engine.status(scene.now).dropped["selectors"] == 3
    assert scene.echoes()
