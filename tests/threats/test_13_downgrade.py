"""THREATS 13: what is stripped or forged in the first messages never weakens an SA.

Each item by itself, in the room that it belongs to:
tests/unit/ike/test_post_quantum.py::test_what_is_stripped_from_the_request_breaks_the_proof
tests/unit/ike/test_post_quantum.py::test_support_stripped_from_the_response
tests/unit/ike/test_post_quantum.py::test_ike_auth_without_the_round_is_refused
tests/unit/ike/test_post_quantum.py::test_who_requires_it_never_falls_back
tests/unit/ike/test_initial.py::test_stripped_hash_algorithms
tests/unit/ike/test_authentication.py::test_threat_13_stripped_hash_algorithms
tests/unit/engine/test_redirect.py::test_a_forged_redirect_costs_one_attempt_and_changes_nothing
tests/unit/ike/test_resumption.py::test_a_forged_refusal_costs_a_handshake_and_nothing_else
tests/unit/ike/test_initial.py::test_a_forged_error_does_not_hurry_the_rest
tests/unit/ike/test_ppk.py::test_use_ppk_stripped_on_the_way
tests/unit/engine/test_mediation_suite.py::test_what_is_stripped_on_the_way_breaks_the_proof
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.crypto.kex import supports_group
from agent.crypto.signatures import KeyKind
from agent.ike.events import CloseReason, IkeSaClosed, IkeSaEstablished
from agent.ike.settings import IkeSettings
from agent.wire.codes import NotifyType
from agent.wire.message import decode_message, encode_message
from agent.wire.payloads import NotifyPayload, SaPayload
from tests.support.exchanges import connecting, following
from tests.support.feature_scenes import certified, changed_pair, resuming
from tests.support.pair import A_TO_B, Pair, ike_proposals, make_pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.wire.payloads import Payload

PLAIN = "aes128gcm16-prfsha256-x25519"
# A second round with a classical method stands for ML-KEM where the package has none.
HYBRID = PLAIN + ("-ke1_mlkem768" if supports_group(36) else "-ke1_ecp256")

FORGED = {
    "NO_PROPOSAL_CHOSEN": (NotifyType.NO_PROPOSAL_CHOSEN, b""),
    "INVALID_KE_PAYLOAD of another group": (NotifyType.INVALID_KE_PAYLOAD, b"\0\x13"),
    "INVALID_KE_PAYLOAD of the same": (NotifyType.INVALID_KE_PAYLOAD, b"\0\x1f"),
    "INVALID_KE_PAYLOAD of nothing": (NotifyType.INVALID_KE_PAYLOAD, b""),
    "COOKIE": (NotifyType.COOKIE, b"cookie"),
    "AUTHENTICATION_FAILED": (NotifyType.AUTHENTICATION_FAILED, b""),
    "INVALID_SYNTAX": (NotifyType.INVALID_SYNTAX, b""),
    "INVALID_MAJOR_VERSION": (NotifyType.INVALID_MAJOR_VERSION, b""),
    "UNSUPPORTED_CRITICAL_PAYLOAD": (NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD, b"\x21"),
    "an error that nobody knows": (8000, b""),
}


def _begun(*ike: str) -> tuple[Pair, bytes]:
    pair = make_pair(child=True, ike=ike or (HYBRID, PLAIN))
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    request = following(pair)
    pair.pending.append(request)
    return pair, request.data


def _forge(pair: Pair, request: bytes, kind: int, data: bytes) -> None:
    header = decode_message(request).header._replace(is_initiator=False, is_response=True)
    pair.a.ike.receive(A_TO_B, encode_message(header, [NotifyPayload(kind, data)]), pair.now)


@pytest.mark.parametrize("name", [name for name in FORGED if name != "COOKIE"])
def test_a_forged_answer_first(name: str) -> None:
    """The true one comes 10 ms later: the SA is the one without the forger, with all its rounds."""
    pair, request = _begun()
    for _ in range(5):
        _forge(pair, request, *FORGED[name])
    pair.settle()
    for side in (pair.a, pair.b):
        assert side.last(IkeSaEstablished).suite == HYBRID
    assert not pair.a.events(IkeSaClosed)


@pytest.mark.parametrize("names", [["COOKIE"], list(FORGED)], ids=["COOKIE", "all"])
def test_a_forged_cookie(names: list[str]) -> None:
    """It is in the request, so what is signed is not what was answered: AUTH fails, and again."""
    pair, request = _begun()
    for name in names:
        _forge(pair, request, *FORGED[name])
    pair.settle()
    assert pair.a.last(IkeSaClosed).reason is CloseReason.AUTHENTICATION_FAILED
    assert not pair.a.events(IkeSaEstablished)
    assert not pair.b.events(IkeSaEstablished)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.settle()
    assert pair.a.last(IkeSaEstablished).suite == HYBRID


@pytest.mark.parametrize("name", FORGED)
def test_an_attempt_outlives_forged_answers_alone(name: str) -> None:
    """It may be shorter, but it ends by its own clock and not with the forgery."""
    pair, request = _begun()
    _forge(pair, request, *FORGED[name])
    pair.sleep(IkeSettings().error_grace - 0.5, deliver=False)
    assert not pair.a.events(IkeSaClosed)
    assert pair.a.ike.sas()
    pair.sleep(60, deliver=False)
    assert len(pair.a.events(IkeSaClosed)) == 1


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("ike", [(HYBRID, PLAIN), (HYBRID,)], ids=["optional", "required"])
def test_every_payload_stripped(count: int, ike: tuple[str, ...]) -> None:
    """Any payload taken out of either first message: no SA.

    Who answers learns of it by the initiator's refusal (RFC 7296 §2.21.2), so for the answer's own
    octets its SA stands for a round trip.
    """
    pair, true = connecting(count, ike=ike)()
    for index in range(len(decode_message(true.data).payloads)):
        pair, true = connecting(count, ike=ike)()
        message = decode_message(true.data)
        kept = [p for i, p in enumerate(message.payloads) if i != index]
        true.data = encode_message(message.header, kept)
        pair.pending.append(true)
        pair.settle()
        pair.sleep(60, deliver=False)
        stripped = message.payloads[index]
        assert not pair.a.events(IkeSaEstablished), stripped
        assert len(pair.b.events(IkeSaEstablished)) <= count, stripped
        assert not pair.b.ike._by_spi, stripped
        assert not pair.b.installed, stripped


CERTIFIED = pytest.mark.parametrize(
    "kind", [KeyKind.RSA, KeyKind.P256, KeyKind.P521], ids=lambda kind: kind.name
)


def _meddled(kind: KeyKind, count: int, change: Callable[[list[Payload]], list[Payload]]) -> Pair:
    """Two with certificates; the first message (`count` 0) or its answer is changed on its way."""
    pair = changed_pair(certified(kind))
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    for _ in range(count):
        pair.deliver(following(pair))
    true = following(pair)
    message = decode_message(true.data)
    true.data = encode_message(message.header, change(list(message.payloads)))
    pair.pending.append(true)
    pair.settle()
    pair.sleep(60, deliver=False)
    return pair


def _nobody_is_up(pair: Pair) -> None:
    assert not pair.a.events(IkeSaEstablished)
    assert not pair.b.ike._by_spi
    assert not pair.a.installed
    assert not pair.b.installed


@CERTIFIED
@pytest.mark.parametrize("count", [0, 1])
def test_every_payload_stripped_between_certificates(count: int, kind: KeyKind) -> None:
    """The hashes that are announced, the CAs that are asked for, and whatever else stands there."""
    pair = changed_pair(certified(kind))
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    for _ in range(count):
        pair.deliver(following(pair))
    kinds = [
        getattr(p, "type", p.payload_type) for p in decode_message(following(pair).data).payloads
    ]
    assert NotifyType.SIGNATURE_HASH_ALGORITHMS in kinds
    for index, stripped in enumerate(kinds):
        pair = _meddled(kind, count, lambda p, at=index: p[:at] + p[at + 1 :])
        if count and stripped == NotifyType.IKEV2_FRAGMENTATION_SUPPORTED and pair.b.ike._by_spi:
            # b answers a good proof in fragments, of which a knows nothing, so a does not tell b
            # that its answer is refused. The next attempt replaces what b has.
            assert not pair.a.events(IkeSaEstablished)
            pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
            pair.settle()
            assert pair.a.sa.spis == pair.b.sa.spis
            continue
        _nobody_is_up(pair)


@CERTIFIED
@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("hashes", ["", "0001", "0002", "00010002000300040005", "0003000200040005"])
def test_other_hashes_between_certificates(hashes: str, count: int, kind: KeyKind) -> None:
    """None, SHA-1 alone or beside the others, fewer, or the same ones in another order."""

    def change(payloads: list[Payload]) -> list[Payload]:
        announced = NotifyType.SIGNATURE_HASH_ALGORITHMS
        other = NotifyPayload(announced, bytes.fromhex(hashes))
        assert other not in payloads
        return [other if getattr(p, "type", 0) == announced else p for p in payloads]

    _nobody_is_up(_meddled(kind, count, change))


@CERTIFIED
def test_what_is_not_meddled_with_is_up(kind: KeyKind) -> None:
    pair = _meddled(kind, 0, lambda payloads: payloads)
    assert pair.a.sa.established
    assert pair.b.sa.established


@pytest.mark.parametrize("count", [0, 1])
def test_every_payload_stripped_from_a_resumption(count: int) -> None:
    """What is not dropped is signed by both with the SK_px of the resumed SA."""
    pair, true = resuming(count)()
    for index in range(len(decode_message(true.data).payloads)):
        pair, true = resuming(count)()
        message = decode_message(true.data)
        kept = [p for i, p in enumerate(message.payloads) if i != index]
        altered = encode_message(message.header, kept)
        pair.other(true.sender).ike.receive(true.arriving, altered, pair.now)
        pair.settle()
        assert not any(e.resumed for e in pair.a.events(IkeSaEstablished)), index
        pair.sleep(60, deliver=False)
        assert not pair.b.ike.half_open._keys


@pytest.mark.parametrize("count", [0, 1])
def test_the_proposal_exchanged(count: int) -> None:
    """The strong proposal taken out, or the weak one put in its place: no SA on either side."""
    pair, true = connecting(count, ike=(HYBRID, PLAIN))()
    message = decode_message(true.data)
    weak = SaPayload(ike_proposals(PLAIN))
    payloads = [weak if isinstance(p, SaPayload) else p for p in message.payloads]
    true.data = encode_message(message.header, payloads)
    pair.pending.append(true)
    pair.settle()
    pair.sleep(60, deliver=False)
    assert not pair.a.events(IkeSaEstablished)
    assert not pair.b.events(IkeSaEstablished)


def test_required_means_required() -> None:
    """Who has nothing but the strong proposal ends without an SA where the other has it not."""
    pair, _ = _begun(HYBRID)
    pair.b.book.proposals = ike_proposals(PLAIN)
    pair.settle()
    pair.sleep(60)
    assert not pair.a.events(IkeSaEstablished)
    assert pair.a.last(IkeSaClosed).reason.value == "no_proposal_chosen"
