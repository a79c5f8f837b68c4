"""Every exchange, with everything that can be wrong: nothing but the answer that the RFC names.

A scene leads up to one true message. What is inside the protection is damaged and sealed anew with
the sender's keys; what is around it is damaged without them. RFC 7296 §2.5, §2.21, §3.10.1.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from agent.datagram import Dropped, Transmit
from agent.ike.events import CloseReason, IkeSaClosed
from agent.ike.states import IkeState
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.message import decode_message, encode_message, encode_payloads
from agent.wire.payloads import (
    Encrypted,
    SaPayload,
    TsiPayload,
    TsrPayload,
)
from agent.wire.selectors import TrafficSelector
from tests.support import damage, feature_scenes
from tests.support.attacker import outputs_of
from tests.support.damage import Damage, Kind
from tests.support.exchanges import (
    AUTH,
    CRITICAL,
    FATAL,
    REQUESTS,
    RESPONSES,
    SAID,
    SYNTAX,
    TS,
    P,
    Scene,
    all_scenes,
    child,
    connecting,
    payloads_of,
    sealed,
    state_of,
    up,
)
from tests.support.pair import (
    Datagram,
    Pair,
    Side,
    child_policy,
)

# -- inside the protection -----------------------------------------------------------------------


# Octets inside a request: with fewer, an error notify is more than 1.1 times what came.
SHORT = 8


def _allowed(scene: Scene, damage: Damage) -> set[str]:
    """The answers to a request that is damaged so."""
    match damage.kind:
        case Kind.MALFORMED:
            return {SYNTAX}
        case Kind.CRITICAL:
            return {CRITICAL}
        case Kind.TWICE if damage.payload in scene.once | {P.SA, P.TSi, P.TSr}:
            return {SYNTAX}
        case Kind.TWICE:
            return scene.twice.get(damage.payload, {scene.usual})
        case Kind.SWAPPED:
            return {AUTH}
        case Kind.MISSING:
            return scene.missing.get(damage.payload, {scene.usual})
        case Kind.NONSENSE:
            return scene.senseless.get(damage.payload, set()) | {SYNTAX} - {scene.usual}
        case Kind.SHORT | Kind.LENGTH if damage.payload == P.AUTH:
            return {SYNTAX, AUTH}
        case Kind.SHORT | Kind.LENGTH:
            return {SYNTAX, scene.usual} | scene.senseless.get(damage.payload, set())
    return {scene.usual}


def _left(side: Side, answer: str, *, lasting: bool) -> str:
    """What should not be left after the answer to a request; empty: nothing."""
    begun = len(side.ike) or side.events(IkeSaClosed)  # it was established
    if lasting or (answer not in FATAL and (begun or answer != CRITICAL)):
        return ""
    states = {sa.state for sa in side.ike._by_spi.values()} - {IkeState.REFUSED}
    left = (states, side.installed, side.ike.children.spis_in, side.ike.sas())
    return f"left: {left}" if any(left) else ""


@pytest.mark.parametrize("scene", [*REQUESTS, *feature_scenes.REQUESTS], ids=lambda s: s.name)
def test_requests_damaged_inside_the_protection(scene: Scene) -> None:
    """One answer, protected, and it is the one that the RFC names; no traceback, no other word."""
    pair, true = scene.start()
    exchange = scene.name.partition(" ")[0]
    wrong, count = [], 0
    for bad in damage.chains(payloads_of(pair, true)[0].payloads):
        pair, true = scene.start()
        receiver = pair.other(true.sender)
        message, cipher = payloads_of(pair, true)
        receiver.ike.receive(
            true.arriving, sealed(message, cipher, bad.first, bad.octets), pair.now
        )
        pair.drain()
        if not pair.pending:  # too short for an answer to one that has proven nothing
            assert len(bad.octets) < SHORT
            assert not any(sa.has_proven_peer for sa in receiver.ike._by_spi.values())
            continue
        assert [d.sender for d in pair.pending] == [receiver], bad.name
        assert decode_message(pair.pending[0].data).first(Encrypted), bad.name
        said = pair.describe(receiver, pair.pending[0].data)
        answer = said.removeprefix(f"{exchange}!").strip()
        if answer == said or answer not in _allowed(scene, bad):
            wrong.append((bad.name, said))
        elif left := _left(receiver, answer, lasting=scene.lasting and bad.kind in SAID):
            wrong.append((bad.name, said, left))
        pair.settle()  # whatever the other side makes of it, there is an end
        count += 1
    assert not wrong
    assert count > 50


@pytest.mark.parametrize("scene", [*RESPONSES, *feature_scenes.RESPONSES], ids=lambda s: s.name)
def test_responses_damaged_inside_the_protection(scene: Scene) -> None:
    """What cannot be read ends the SA, with a word to the other side or without; nothing hangs."""
    pair, true = scene.start()
    for bad in damage.chains(payloads_of(pair, true)[0].payloads):
        pair, true = scene.start()
        receiver = pair.other(true.sender)
        message, cipher = payloads_of(pair, true)
        receiver.ike.receive(
            true.arriving, sealed(message, cipher, bad.first, bad.octets), pair.now
        )
        pair.drain()
        said = [pair.describe(d.sender, d.data) for d in pair.pending]
        fatal = bad.kind in (Kind.MALFORMED, Kind.CRITICAL)
        fatal |= bad.kind is Kind.TWICE and bad.payload in scene.once | {P.SA, P.TSi, P.TSr}
        if fatal:
            assert len(receiver.ike) == 0, bad.name
            assert not receiver.installed, bad.name
            assert receiver.last(IkeSaClosed).reason is CloseReason.PROTOCOL_ERROR, bad.name
            assert set(said) <= {
                "INFORMATIONAL? D(IKE)", f"INFORMATIONAL? {SYNTAX}", f"INFORMATIONAL? {CRITICAL}"
            }, bad.name  # fmt: skip
        elif AUTH in scene.senseless.get(bad.payload, ()) and bad.kind in SAID - {Kind.MISSING}:
            assert len(receiver.ike) == 0, bad.name  # what proves the responder
            assert not receiver.installed, bad.name
        pair.settle()
        assert all(
            side.ike.sa(1) is None or side.ike.sa(1).outgoing.task is None
            for side in (pair.a, pair.b)
        )


def test_certificates_in_another_number_or_order() -> None:
    """The first one is the peer's own (RFC 7296 §3.6), the others may be anywhere."""
    scene, seen = feature_scenes.CHAINED, set()
    for bad in damage.chains(payloads_of(*scene.start())[0].payloads):
        if bad.kind not in (Kind.SWAPPED, Kind.HARMLESS, Kind.TWICE, Kind.MISSING, Kind.NONSENSE):
            continue
        pair, true = scene.start()
        message, cipher = payloads_of(pair, true)
        data = sealed(message, cipher, bad.first, bad.octets)
        pair.b.ike.receive(true.arriving, data, pair.now)
        pair.drain()
        (answer,) = pair.pending
        said = pair.describe(pair.b, answer.data).removeprefix("IKE_AUTH! ")
        assert said in _allowed(scene, bad), bad.name
        seen.add((bad.kind, said))
    assert {(Kind.SWAPPED, AUTH), (Kind.HARMLESS, scene.usual)} <= seen


# -- around the protection -----------------------------------------------------------------------


@all_scenes
def test_damaged_around_the_protection(scene: Scene) -> None:
    """Dropped, each with one count and not one octet in answer; then the true one is taken."""
    pair, true = scene.start()
    receiver = pair.other(true.sender)
    before, due = state_of(receiver), receiver.ike.next_timeout()
    for name, octets in damage.datagrams(true.data):
        receiver.ike.receive(true.arriving, octets, pair.now)
        outputs = outputs_of(receiver)
        assert [type(o) for o in outputs] == [Dropped], f"{name}: {outputs}"
        assert state_of(receiver) == before, name
    assert receiver.ike.next_timeout() == due
    pair.deliver(true)
    pair.settle()
    for side in (pair.a, pair.b):
        assert not side.events(IkeSaClosed)
        assert side.sa.established


@all_scenes
def test_what_is_encrypted_comes_plain(scene: Scene) -> None:
    """The very payloads without protection: dropped."""
    pair, true = scene.start()
    receiver = pair.other(true.sender)
    message, _ = payloads_of(pair, true)
    before = state_of(receiver)
    for payloads in (message.payloads, message.payloads[:1], ()):
        receiver.ike.receive(true.arriving, encode_message(message.header, payloads), pair.now)
    outputs = outputs_of(receiver)
    assert [type(o) for o in outputs if not isinstance(o, Transmit)] == [Dropped] * 3
    # A lone notify is a hint that the peer has lost the SA: at most one probe.
    assert sum(isinstance(o, Transmit) for o in outputs) <= 1
    assert state_of(receiver)[:1] == before[:1] or receiver.sa.outgoing.task is not None


@all_scenes
def test_wrong_spis(scene: Scene) -> None:
    """Of an SA that is not there a request may be told so, once, with no more octets."""
    pair, true = scene.start()
    receiver = pair.other(true.sender)
    data = true.data
    before = state_of(receiver)
    own = slice(8, 16) if data[19] & 0x08 else slice(0, 8)
    other = slice(0, 8) if data[19] & 0x08 else slice(8, 16)
    for where in (own, other):
        for spi in (bytes(8), b"\xff" * 8, data[where.start : where.stop - 1] + b"\x55"):
            bad = bytearray(data)
            bad[where] = spi
            receiver.ike.receive(true.arriving, bytes(bad), pair.now)
    swapped = data[8:16] + data[:8] + data[16:]
    receiver.ike.receive(true.arriving, swapped, pair.now)
    outputs = outputs_of(receiver)
    assert sum(isinstance(o, Dropped) for o in outputs) == 7
    sent = [o.data for o in outputs if isinstance(o, Transmit)]
    assert len(sent) <= (0 if data[19] & 0x20 else 1)
    for answer in sent:
        assert decode_message(answer).notify(NotifyType.INVALID_IKE_SPI)
        assert len(answer) <= 1.1 * len(data)
    assert state_of(receiver) == before


def _resealed(scene: Scene, **changes: object) -> tuple[Pair, Datagram, bytes]:
    """The true message under another header, sealed with the true keys."""
    pair, true = scene.start()
    message, cipher = payloads_of(pair, true)
    encrypted = decode_message(true.data).first(Encrypted)
    assert encrypted is not None
    iv = cipher.iv_length
    inner = cipher.open(encrypted.body[:iv], encrypted.body[iv:], encrypted.aad)
    other = replace(message, header=message.header._replace(**changes))
    return pair, true, sealed(other, cipher, encrypted.first_inner, inner[: -1 - inner[-1]])


@all_scenes
def test_wrong_message_ids_under_true_keys(scene: Scene) -> None:
    """Before and after the one that is due, and at the end of the range: dropped."""
    pair, true = scene.start()
    due = int.from_bytes(true.data[20:24], "big")
    for number in {0, 1, due - 1, due + 1, due + 2, 1 << 31, (1 << 32) - 1} - {due, -1}:
        pair, true, data = _resealed(scene, message_id=number)
        receiver = pair.other(true.sender)
        before = state_of(receiver)
        receiver.ike.receive(true.arriving, data, pair.now)
        assert [type(o) for o in outputs_of(receiver)] == [Dropped], number
        assert state_of(receiver) == before
    pair.deliver(true)
    pair.settle()
    assert pair.a.sa.established


@all_scenes
def test_wrong_flags_under_true_keys(scene: Scene) -> None:
    """A request called a response or sent by the other side, and the reverse: dropped."""
    flags = payloads_of(*scene.start())[0].header
    for is_initiator, is_response in product((False, True), repeat=2):
        if (is_initiator, is_response) == (flags.is_initiator, flags.is_response):
            continue
        pair, true, data = _resealed(scene, is_initiator=is_initiator, is_response=is_response)
        receiver = pair.other(true.sender)
        before = state_of(receiver)
        receiver.ike.receive(true.arriving, data, pair.now)
        assert [type(o) for o in outputs_of(receiver)] == [Dropped]
        assert state_of(receiver) == before
        pair.deliver(true)
        pair.settle()
        assert pair.a.sa.established


@all_scenes
def test_wrong_exchanges_under_true_keys(scene: Scene) -> None:
    """What has no place now is dropped; what nobody knows, after the proof, is INVALID_SYNTAX."""
    right = payloads_of(*scene.start())[0].header
    begins = {ExchangeType.IKE_AUTH, ExchangeType.IKE_INTERMEDIATE}
    for exchange in sorted({0, 33, *ExchangeType, 99, 240} - {right.exchange}):
        pair, true, data = _resealed(scene, exchange=exchange)
        receiver = pair.other(true.sender)
        proven = len(receiver.ike) > 0
        before = state_of(receiver)
        receiver.ike.receive(true.arriving, data, pair.now)
        outputs = outputs_of(receiver)
        sent = [o.data for o in outputs if isinstance(o, Transmit)]
        initial = exchange in begins | {ExchangeType.IKE_SA_INIT, ExchangeType.IKE_SESSION_RESUME}
        if right.is_response or initial == proven:
            assert [type(o) for o in outputs] == [Dropped], exchange
            assert state_of(receiver) == before, exchange
        assert len(sent) <= 1, exchange
        for answer in sent:
            assert decode_message(answer).first(Encrypted), exchange


# -- what makes no sense together ----------------------------------------------------------------


def _selectors(*texts: str) -> tuple[TrafficSelector, ...]:
    return tuple(map(TrafficSelector.parse, texts))


CONTRADICTIONS = {
    "families": (_selectors("10.1.0.0/24"), _selectors("fd00::/8")),
    "protocols": (_selectors("10.1.0.0/24[tcp]"), _selectors("10.2.0.0/24[udp]")),
    "both": (_selectors("10.1.0.0/24[tcp]", "fd00::1[udp]"), _selectors("10.2.0.0/24[udp]")),
}


@pytest.mark.parametrize("exchange", ["IKE_AUTH", "CREATE_CHILD_SA"])
@pytest.mark.parametrize("pair_of", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_selectors_that_contradict_themselves(pair_of: tuple, exchange: str) -> None:
    """No packet can be between them, so there is no Child SA (RFC 7296 §2.9)."""
    wide = ("10.0.0.0/8", "fd00::/8")
    policies = (child_policy("", ""), child_policy("", ""))
    local, remote = _selectors(*wide), _selectors(*wide)
    policies = tuple(replace(p, local_ts=local, remote_ts=remote) for p in policies)
    start = connecting(2) if exchange == "IKE_AUTH" else up(child)
    pair, true = start()
    peer = replace(pair.b.peer, child=policies[1])
    pair.b.book.peers[0] = peer
    if exchange != "IKE_AUTH":
        pair.b.sa.peer = peer
    message, cipher = payloads_of(pair, true)
    tsi, tsr = pair_of
    swapped = [
        {TsiPayload: TsiPayload(tsi), TsrPayload: TsrPayload(tsr)}.get(type(p), p)
        for p in message.payloads
    ]
    before = len(pair.b.installed)
    pair.b.ike.receive(true.arriving, sealed(message, cipher, *encode_payloads(swapped)), pair.now)
    pair.drain()
    (answer,) = pair.pending
    assert pair.describe(pair.b, answer.data).endswith(TS)
    assert len(pair.b.installed) == before
    assert pair.b.sa.established


@pytest.mark.parametrize("exchange", ["IKE_AUTH", "CREATE_CHILD_SA"])
def test_an_esp_spi_of_zero(exchange: str) -> None:
    """RFC 4303 §2.1: it is never sent on the wire, where it would stand for IKE (RFC 3948 §2.2)."""
    pair, true = (connecting(2) if exchange == "IKE_AUTH" else up(child))()
    message, cipher = payloads_of(pair, true)
    payloads = [
        SaPayload(tuple(o.with_spi(bytes(4)) for o in p.proposals))
        if isinstance(p, SaPayload)
        else p
        for p in message.payloads
    ]
    before = len(pair.b.installed)
    pair.b.ike.receive(true.arriving, sealed(message, cipher, *encode_payloads(payloads)), pair.now)
    pair.drain()
    (answer,) = pair.pending
    assert pair.describe(pair.b, answer.data) == f"{exchange}! {SYNTAX}"
    assert len(pair.b.installed) <= before
    assert len(pair.b.ike) == 0  # §2.21.2, §2.21.3: nothing more is said


@pytest.mark.parametrize(
    ("octets", "says"),
    [
        ((P.IDr, b"\x29\0\0\x03"), SYNTAX),
        ((200, b"\0\x80\0\x04"), CRITICAL),
    ],
)
def test_an_answer_to_ike_auth_that_ends_it(octets: tuple[int, bytes], says: str) -> None:
    """§2.21.2: these two in the INFORMATIONAL that follows end it too, without a Delete."""
    pair, true = connecting(3)()
    message, cipher = payloads_of(pair, true)
    bad = replace(true, data=sealed(message, cipher, *octets))
    pair.deliver(bad)
    pair.play(f"a --> b: INFORMATIONAL? {says}\na <-- b: INFORMATIONAL!")
    for side in (pair.a, pair.b):
        assert side.last(IkeSaClosed).reason is CloseReason.PROTOCOL_ERROR
        assert not side.installed
        assert not side.ike._by_spi
