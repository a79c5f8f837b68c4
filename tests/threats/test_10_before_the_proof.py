"""THREATS 10: whatever comes before the proof, with keys or without, nothing is established."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.datagram import Dropped
from agent.ike.events import IkeSaEstablished
from agent.ike.extension import Extension
from agent.wire.codes import ExchangeType, NotifyType, ProtocolId
from agent.wire.message import encode_message
from agent.wire.payloads import (
    DeletePayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsiPayload,
    TsrPayload,
)
from agent.wire.proposals import parse_proposals
from agent.wire.selectors import TrafficSelector
from tests.support.attacker import FROM_A, outputs_of
from tests.support.pair import (
    A_TO_B,
    ESP_PROPOSALS,
    ike_proposals,
    make_pair,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.ike.sa import IkeSa


def test_before_authentication() -> None:
    """THREATS 10: with valid SK keys, anything but IKE_AUTH is dropped."""
    pair = make_pair(factories=[lambda sa, message: Claims()])
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        """
    )
    (auth,) = pair.pending
    sa = pair.a.sa
    for exchange in (ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL, 240, 43, 99):
        for message_id in (0, 1, 2):
            header = sa.header(exchange, message_id, is_response=False)
            data = sa.protection.seal(header, [], pair.a.ike.random)
            pair.b.ike.receive(FROM_A, data, pair.now)
    outputs = outputs_of(pair.b)
    assert {type(o) for o in outputs} == {Dropped}
    assert pair.b.events(IkeSaEstablished) == []
    pair.deliver(auth)
    assert pair.b.sa.established


class Claims(Extension):
    """Claims everything."""

    __slots__ = ()

    def claims_exchange(self, exchange: int) -> bool:
        return True

    def handle_exchange(self, sa, message, now):
        raise AssertionError("not before the proof")


def _rekey_ike(sa: IkeSa) -> list[Payload]:
    (proposal,) = ike_proposals()
    return [
        SaPayload((proposal.with_spi(b"new spi!"),)),
        NoncePayload(b"n" * 32),
        KePayload(31, b"\x05" * 32),
    ]


def _rekey_child(sa: IkeSa) -> list[Payload]:
    (proposal,) = parse_proposals(ESP_PROPOSALS, ProtocolId.ESP)
    everything = (TrafficSelector.parse("0.0.0.0/0"),)
    return [
        NotifyPayload(NotifyType.REKEY_SA, b"", ProtocolId.ESP, b"spi1"),
        SaPayload((proposal.with_spi(b"spi2"),)),
        NoncePayload(b"n" * 32),
        TsiPayload(everything),
        TsrPayload(everything),
    ]


EARLY: dict[str, tuple[int, Callable[[IkeSa], list[Payload]]]] = {
    "INFORMATIONAL": (ExchangeType.INFORMATIONAL, lambda sa: []),
    "a delete": (ExchangeType.INFORMATIONAL, lambda sa: [DeletePayload(ProtocolId.IKE)]),
    "CREATE_CHILD_SA": (ExchangeType.CREATE_CHILD_SA, lambda sa: _rekey_child(sa)[1:]),
    "rekeying a Child SA": (ExchangeType.CREATE_CHILD_SA, _rekey_child),
    "rekeying the IKE SA": (ExchangeType.CREATE_CHILD_SA, _rekey_ike),
    "IKE_FOLLOWUP_KE": (ExchangeType.IKE_FOLLOWUP_KE, lambda sa: [KePayload(31, b"\5" * 32)]),
    "IKE_INTERMEDIATE": (ExchangeType.IKE_INTERMEDIATE, lambda sa: [KePayload(31, b"\5" * 32)]),
    "ME_CONNECT": (ExchangeType.ME_CONNECT, lambda sa: [NotifyPayload(16384)]),
    "IKE_SA_INIT": (ExchangeType.IKE_SA_INIT, _rekey_ike),
}


@pytest.mark.parametrize("keys", [True, False], ids=["keys", "plain"])
@pytest.mark.parametrize("name", EARLY)
@pytest.mark.parametrize("target", ["b", "a"])
def test_too_early(target: str, name: str, keys: bool) -> None:
    """To responder and initiator, as request and as response: dropped, no state moves."""
    exchange, payloads = EARLY[name]
    pair = make_pair(child=True, factories=[lambda sa, message: Claims()])
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now, [Claims()])
    pair.play("a --> b: IKE_SA_INIT? SA KE No\na <-- b: IKE_SA_INIT! SA KE No")
    (auth,) = pair.pending
    (half_open,) = pair.b.ike._by_spi.values()
    receiver, sender = (pair.b, pair.a.sa) if target == "b" else (pair.a, half_open)
    path = FROM_A if target == "b" else A_TO_B
    (before,) = [sa.state for sa in receiver.ike._by_spi.values()]
    for message_id in (0, 1, 2):
        for is_response in (False, True):
            header = sender.header(exchange, message_id, is_response=is_response)
            content = payloads(sender)
            if keys:
                data = sender.protection.seal(header, content, pair.a.ike.random)
            else:
                data = encode_message(header, content)
            receiver.ike.receive(path, data, pair.now)
    assert {type(o) for o in outputs_of(receiver)} == {Dropped}
    assert [sa.state for sa in receiver.ike._by_spi.values()] == [before]
    assert len(receiver.ike) == 0
    pair.deliver(auth)
    pair.settle()
    assert pair.a.sa.established


def test_keys_are_not_enough() -> None:
    """Whoever made the key exchange and proves nothing is gone after 30 s, without a trace."""
    pair = make_pair(child=True)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play("a --> b: IKE_SA_INIT? SA KE No\na <-- b: IKE_SA_INIT! SA KE No")
    pair.pending.clear()
    sa = pair.a.sa
    for number, (exchange, payloads) in enumerate(EARLY.values()):
        header = sa.header(exchange, 1 + number % 2, is_response=False)
        data = sa.protection.seal(header, payloads(sa), pair.a.ike.random)
        pair.b.ike.receive(FROM_A, data, pair.now)
    pair.a.ike.close(sa.ike_id, pair.now)
    pair.sleep(60)
    assert pair.b.events(IkeSaEstablished) == []
    assert not pair.b.installed
    assert not pair.b.ike._by_spi
    assert not pair.b.ike._current
    assert pair.b.ike.next_timeout() is None
