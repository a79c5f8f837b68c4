"""Whoever has no keys: what it sends, and what is answered."""

from __future__ import annotations

from agent.datagram import Address, Path, Transmit
from agent.wire.codes import ExchangeType
from agent.wire.message import Header, encode_message
from agent.wire.payloads import (
    KePayload,
    NoncePayload,
    SaPayload,
)
from tests.support.pair import (
    A_ADDRESS,
    A_TO_B,
    B_ADDRESS,
    Pair,
    Side,
    ike_proposals,
    make_pair,
)

FROM_A = Path(B_ADDRESS, A_ADDRESS)


def first_request(spi: bytes = b"attacker", **changes) -> bytes:
    header = Header(
        initiator_spi=spi,
        responder_spi=bytes(8),
        exchange=ExchangeType.IKE_SA_INIT,
        is_initiator=True,
        is_response=False,
        message_id=0,
    )
    payloads = [
        SaPayload(ike_proposals()),
        KePayload(31, b"\x05" * 32),
        NoncePayload(b"n" * 32),
    ]
    return encode_message(header._replace(**changes), payloads)


def outputs_of(side: Side) -> list:
    outputs = []
    while (output := side.ike.poll_output()) is not None:
        outputs.append(output)
    return outputs


def answers_of(side: Side) -> list[bytes]:
    return [o.data for o in outputs_of(side) if isinstance(o, Transmit)]


def flow() -> tuple[Pair, list[tuple[str, bytes]]]:
    """A connection with a past, and every datagram of that, with who received it."""
    pair = make_pair(child=True)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    seen = []
    pair.drain()

    def run() -> None:
        while pair.pending:
            datagram = pair.pending.pop(0)
            seen.append((pair.other(datagram.sender).name, datagram.data))
            pair.deliver(datagram)

    run()
    pair.a.ike.rekey_child(next(iter(pair.a.installed)), pair.now)
    pair.drain()
    run()
    pair.b.ike.rekey_ike(pair.b.sa.ike_id, pair.now)
    pair.drain()
    run()
    return pair, seen


def flood(pair: Pair, count: int, *, network: int | None = None, step: float = 0.0) -> int:
    """IKE_SA_INIT from many addresses; returns how many were answered with more than a cookie."""
    accepted = 0
    for number in range(count):
        host = bytes((100, number >> 16 & 255, number >> 8 & 255, number & 255))
        if network is not None:
            host = bytes((100, 64, network, number & 255))
        path = Path(B_ADDRESS, Address(host, 1024 + number % 60000))
        request = first_request(number.to_bytes(8, "big") if number else b"\xff" * 8)
        pair.now += step
        pair.b.ike.receive(path, request, pair.now)
        answers = answers_of(pair.b)
        assert sum(map(len, answers)) <= 1.1 * len(request)  # THREATS 8
        accepted += any(len(a) > 100 for a in answers)
    return accepted
