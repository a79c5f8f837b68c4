"""ME_CONNECT and its relatives: mediation.md §1, §2, §6."""

from __future__ import annotations

import pytest

from agent.datagram import Address
from agent.mediation.messages import (
    ConnectMessage,
    accepts_changed,
    accepts_replaced,
    apply_accepts,
    decode_connect,
    is_reflexive_question,
    reflexive_answer,
    reflexive_question,
)
from agent.wire.codes import EndpointType, ExchangeType, NotifyType
from agent.wire.mediation import MeEndpoint
from agent.wire.message import Header, Message
from agent.wire.payloads import Identification, IdpPayload, NotifyPayload, Payload

PEER = Identification.parse("bobav9o@medsrv.org")
CONNECT_ID = NotifyPayload(NotifyType.ME_CONNECTID, b"abcd")
KEY = NotifyPayload(NotifyType.ME_CONNECTKEY, bytes(16))
ENDPOINT = MeEndpoint.of(EndpointType.HOST, Address.parse("192.168.1.10", 4500))


def message(*payloads: Payload, exchange: int = ExchangeType.ME_CONNECT) -> Message:
    header = Header(
        initiator_spi=b"i" * 8,
        responder_spi=b"r" * 8,
        exchange=exchange,
        is_initiator=True,
        is_response=False,
        message_id=3,
    )
    return Message(header, payloads)


def names(payloads: list[Payload]) -> list[str]:
    return [
        NotifyType(p.type).name if isinstance(p, NotifyPayload) else type(p).__name__
        for p in payloads
    ]


def question(**changes: object) -> ConnectMessage:
    values: dict[str, object] = {
        "peer": PEER,
        "connect_id": b"abcd",
        "key": bytes(16),
        "endpoints": (ENDPOINT,),
    }
    return ConnectMessage(**(values | changes))  # type: ignore[arg-type]


def test_order_of_payloads_is_strongswans() -> None:
    assert names(question(is_callback=True).payloads()) == [
        "ME_CONNECTID",
        "ME_CONNECTKEY",
        "ME_CALLBACK",
        "ME_ENDPOINT",
        "IdpPayload",
    ]
    assert names(question(is_response=True).payloads())[2] == "ME_RESPONSE"
    assert names(ConnectMessage(peer=PEER, is_callback=True).payloads()) == [
        "ME_CALLBACK",
        "IdpPayload",
    ]
    assert names(ConnectMessage(peer=PEER, has_failed=True).payloads()) == [
        "ME_CONNECT_FAILED",
        "IdpPayload",
    ]


def test_never_more_than_twenty_notifies_and_all_with_an_address() -> None:
    endpoints = tuple(
        MeEndpoint.of(EndpointType.HOST, Address.parse(f"10.0.0.{i}", 4500), i) for i in range(40)
    )
    nothing = MeEndpoint.question()
    payloads = question(endpoints=(nothing, *endpoints), is_callback=True).payloads()
    notifies = [p for p in payloads if isinstance(p, NotifyPayload)]
    assert len(notifies) == 20
    offered = [p for p in notifies if p.type == NotifyType.ME_ENDPOINT]
    assert {len(p.data) for p in offered} == {12}


def test_round_trip() -> None:
    for sent in (question(), question(is_response=True), question(is_callback=True)):
        assert decode_connect(message(*sent.payloads())) == sent


def test_any_order_and_unknown_notifies_are_accepted() -> None:
    extra = NotifyPayload(54321, b"?")
    payloads = [extra, *reversed(question().payloads())]
    assert decode_connect(message(*payloads)) == question()


@pytest.mark.parametrize(
    "payloads",
    [
        (),
        (CONNECT_ID, KEY),  # no IDp
        (IdpPayload(Identification(11, b"")), CONNECT_ID, KEY),
        (IdpPayload(Identification(11, b"x" * 257)), CONNECT_ID, KEY),
        (IdpPayload(PEER), NotifyPayload(NotifyType.ME_CONNECTID, b"abc"), KEY),
        (IdpPayload(PEER), NotifyPayload(NotifyType.ME_CONNECTID, b"a" * 17), KEY),
        (IdpPayload(PEER), CONNECT_ID, NotifyPayload(NotifyType.ME_CONNECTKEY, bytes(15))),
        (IdpPayload(PEER), CONNECT_ID, NotifyPayload(NotifyType.ME_CONNECTKEY, bytes(33))),
        (IdpPayload(PEER), CONNECT_ID, KEY, NotifyPayload(NotifyType.ME_ENDPOINT, bytes(9))),
    ],
)
def test_invalid_syntax(payloads: tuple[Payload, ...]) -> None:
    assert decode_connect(message(*payloads)) is None


@pytest.mark.parametrize("payloads", [(CONNECT_ID,), (KEY,), ()])
def test_incomplete_is_told_apart(payloads: tuple[Payload, ...]) -> None:
    content = decode_connect(message(IdpPayload(PEER), *payloads))
    assert content is not None
    assert not content.is_complete


def test_endpoints_of_unknown_type_or_family_are_ignored() -> None:
    unknown_family = NotifyPayload(NotifyType.ME_ENDPOINT, bytes.fromhex("0000000109011194"))
    no_family = NotifyPayload(NotifyType.ME_ENDPOINT, bytes.fromhex("0000000100010000"))
    unknown_type = NotifyPayload(NotifyType.ME_ENDPOINT, bytes.fromhex("0000000101091194c0000201"))
    payloads = question().payloads()
    content = decode_connect(message(unknown_family, no_family, unknown_type, *payloads))
    assert content is not None
    assert content.endpoints == (ENDPOINT,)


@pytest.mark.parametrize("priority", [0, 0x0040FFFF])
def test_reflexive_question_of_the_draft_and_of_strongswan(priority: int) -> None:
    data = priority.to_bytes(4, "big") + bytes.fromhex("00030000")
    assert is_reflexive_question(message(NotifyPayload(NotifyType.ME_ENDPOINT, data)))


def test_our_question_is_strongswans() -> None:
    assert reflexive_question().data.hex() == "0040ffff00030000"


def test_other_types_in_a_question_are_ignored() -> None:
    host = NotifyPayload(NotifyType.ME_ENDPOINT, bytes.fromhex("00ffffff00010000"))
    asked = message(host, reflexive_question())
    assert not is_reflexive_question(asked)  # only the first one is looked at
    assert not is_reflexive_question(message())
    assert not is_reflexive_question(message(NotifyPayload(NotifyType.ME_ENDPOINT, b"short")))


def test_reflexive_answer() -> None:
    seen = MeEndpoint.of(EndpointType.SERVER_REFLEXIVE, Address.parse("198.51.100.1", 7))
    assert reflexive_answer(message(NotifyPayload(NotifyType.ME_ENDPOINT, seen.encode()))) == seen
    assert reflexive_answer(message(reflexive_question())) is None
    host = NotifyPayload(NotifyType.ME_ENDPOINT, ENDPOINT.encode())
    assert reflexive_answer(message(host)) is None


A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


def test_accepted_pseudonyms_replace_add_remove() -> None:
    known = apply_accepts(None, accepts_replaced([A, B]).data, 10)
    assert known == {A, B}
    known = apply_accepts(known, accepts_changed([C], added=True).data, 10)
    assert known == {A, B, C}
    known = apply_accepts(known, accepts_changed([A, C], added=False).data, 10)
    assert known == {B}
    assert apply_accepts(known, accepts_replaced([]).data, 10) == frozenset()
    assert apply_accepts(None, accepts_changed([A], added=True).data, 10) == {A}


@pytest.mark.parametrize("data", [bytes(15), bytes(18), b"\x03" + A, b"\xff" + A + B])
def test_nonsense_changes_nothing(data: bytes) -> None:
    assert apply_accepts(None, data, 10) is None
    assert apply_accepts(frozenset({A}), data, 10) == {A}


def test_the_list_is_bounded() -> None:
    hashes = [bytes([i]) * 16 for i in range(100)]
    known = apply_accepts(None, accepts_replaced(hashes).data, 7)
    assert known is not None
    assert len(known) == 7
    assert len(apply_accepts(known, accepts_changed(hashes, added=True).data, 7) or ()) == 7
