"""THREATS 4: what we said, sent back, or anything that calls itself a response: never answered."""

from __future__ import annotations

import pytest

from agent.datagram import Dropped, Path
from agent.ike.settings import IkeSettings
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.message import Header, decode_message, encode_message
from agent.wire.payloads import KePayload, NotifyPayload, SaPayload, UnknownPayload
from tests.support.attacker import FROM_A, answers_of, first_request, outputs_of
from tests.support.exchanges import Scene, all_scenes
from tests.support.pair import A_TO_B, Pair, established, ike_proposals, make_pair


def _provoked() -> list[bytes]:
    """Every answer that somebody without keys gets."""
    pair = established(make_pair())
    message = decode_message(first_request())
    sa, ke, nonce = message.payloads
    header = message.header
    strange = SaPayload(ike_proposals("aes256gcm16-prfsha384-ecp384"))
    requests = [
        first_request(),
        first_request(major=3),
        encode_message(header, [strange, ke, nonce]),
        encode_message(header, [sa, KePayload(19, bytes(64)), nonce]),
        encode_message(header, [sa, ke, nonce, UnknownPayload(200, True, b"")]),
        encode_message(
            header._replace(exchange=37, responder_spi=b"r" * 8),
            [NotifyPayload(16384, bytes(40))],
        ),
    ]
    found = []
    for request in requests:
        pair.now += 2.0
        pair.b.ike.receive(FROM_A, request, pair.now)
        found += answers_of(pair.b)
    cookies = make_pair(settings=IkeSettings(cookie_threshold=0))
    cookies.b.ike.receive(FROM_A, first_request(), cookies.now)
    return [*found, *answers_of(cookies.b)]


def test_our_own_answers_sent_back() -> None:
    provoked = _provoked()
    kinds = {n.type for d in provoked for n in decode_message(d).all(NotifyPayload)}
    assert kinds >= {
        NotifyType.COOKIE,
        NotifyType.NO_PROPOSAL_CHOSEN,
        NotifyType.INVALID_KE_PAYLOAD,
        NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD,
        NotifyType.INVALID_MAJOR_VERSION,
        NotifyType.INVALID_IKE_SPI,
    }
    for pair in (make_pair(), established(make_pair())):
        for data in provoked:
            for _ in range(3):
                pair.now += 2.0
                pair.b.ike.receive(FROM_A, data, pair.now)
                assert [type(o) for o in outputs_of(pair.b)] == [Dropped]


@pytest.mark.parametrize("is_initiator", [False, True])
def test_anything_with_the_response_flag(is_initiator: bool) -> None:
    """Of any exchange and version, with SPIs known and unknown; errors most of all."""
    pair = established(make_pair())
    own = pair.b.sa.spis
    errors = [1, 4, 5, 7, 9, 11, 14, 17, 24, 34, 36, 38, 43, 44]
    for spis in (own, own[8:] + own[:8], bytes(16), b"i" * 8 + bytes(8), b"i" * 8 + b"r" * 8):
        for exchange in (0, 33, *ExchangeType, 99, 255):
            for major in (1, 2, 3):
                for number in (0, 1, 2, 0xFFFFFFFF):
                    header = Header(spis[:8], spis[8:], exchange, is_initiator, True, number)
                    payloads = [NotifyPayload(errors[(exchange + number) % len(errors)])]
                    data = encode_message(header._replace(major=major), payloads)
                    pair.b.ike.receive(FROM_A, data, pair.now)
    outputs = outputs_of(pair.b)
    # A lone notify in the name of the peer leads to one question, which is no answer.
    sent = [o for o in outputs if not isinstance(o, Dropped)]
    assert len(sent) <= 1
    assert all(not decode_message(o.data).header.is_response for o in sent)
    assert pair.b.sa.established


@all_scenes
def test_every_message_sent_back_to_its_sender(scene: Scene) -> None:
    pair, true = scene.start()
    back = Path(true.path.local, true.path.remote)
    for _ in range(3):
        true.sender.ike.receive(back, true.data, pair.now)
        assert [type(o) for o in outputs_of(true.sender)] == [Dropped]
    pair.deliver(true)
    pair.settle()
    assert pair.a.sa.established


def test_two_that_only_answer_do_not_talk() -> None:
    """One datagram in the name of the other, and the two are quiet: no loop."""
    pair: Pair = established(make_pair())
    for data in _provoked():
        pair.sent.clear()
        pair.b.ike.receive(FROM_A, data, pair.now)
        pair.a.ike.receive(A_TO_B, data, pair.now)
        pair.settle()
        assert pair.sent == []
