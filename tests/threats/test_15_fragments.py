"""THREATS 15: fragments that lie or stall: proven before they are kept, bounded, gone in 30 s."""

from __future__ import annotations

import pytest

from agent.datagram import Dropped, Transmit
from agent.ike.fragmentation import (
    MAX_FRAGMENTS,
    MAX_UNPROVEN_OCTETS,
    REASSEMBLY_SECONDS,
    SIZES,
)
from agent.wire.codes import ExchangeType
from agent.wire.message import encode_payloads
from agent.wire.payloads import VendorIdPayload
from tests.support.attacker import FROM_A, answers_of
from tests.support.pair import A_TO_B, Pair, make_pair
from tests.unit.ike.test_fragmentation import CLAIMED, ask, up


def fragment(pair: Pair, number: int, total: int, chunk: bytes = b"x", **changes) -> bytes:
    """One fragment of a's next request, sealed with a's keys."""
    sa = pair.a.sa
    header = sa.header(CLAIMED, sa.outgoing.next_id, is_response=False)
    header = header._replace(**changes)
    return sa.protection.seal_fragment(
        header, 43 if number == 1 else 0, number, total, chunk, pair.a.ike.random
    )


def receive(pair: Pair, data: bytes) -> list[str]:
    """What b says to it: reasons of drops, 'answer'."""
    pair.b.ike.receive(A_TO_B, data, pair.now)
    said = []
    while (output := pair.b.ike.poll_output()) is not None:
        match output:
            case Dropped(reason=reason):
                said.append(reason)
            case Transmit():
                said.append("answer")
    return said


def test_totals() -> None:
    pair, _ = up()
    assert receive(pair, fragment(pair, 0, 0)) == ["fragment_number"]
    assert receive(pair, fragment(pair, 1, 0)) == ["fragment_number"]
    assert receive(pair, fragment(pair, 0, 2)) == ["fragment_number"]
    assert receive(pair, fragment(pair, 3, 2)) == ["fragment_number"]
    assert receive(pair, fragment(pair, 65535, 65535)) == ["fragment_count"]
    assert receive(pair, fragment(pair, 1, MAX_FRAGMENTS + 1)) == ["fragment_count"]
    assert pair.b.sa.fragments.request is None
    assert receive(pair, fragment(pair, 1, 5)) == []
    assert receive(pair, fragment(pair, 1, 5)) == ["duplicate_fragment"]
    assert receive(pair, fragment(pair, 2, 4)) == ["fragment_total"]
    assert receive(pair, fragment(pair, 2, 6)) == []
    assert receive(pair, fragment(pair, 2, 5)) == ["fragment_total"]
    assert pair.b.sa.fragments.request.total == 6
    assert set(pair.b.sa.fragments.request.parts) == {2}


def test_one_of_one() -> None:
    pair, big = up()
    _, inner = encode_payloads([VendorIdPayload(bytes(i % 251 for i in range(100)))])
    assert receive(pair, fragment(pair, 1, 1, inner)) == ["answer"] * 3
    assert big.got == [100]


@pytest.mark.parametrize("octets", [1, 8, 40, 250])
def test_small_fragments_make_no_smaller_ones(octets: int) -> None:
    """The answer goes by the largest one that came, down to what every path carries."""
    pair, big = up()
    _, inner = encode_payloads([VendorIdPayload(bytes(i % 251 for i in range(100)))])
    total = -(-len(inner) // octets)
    for number in range(total):
        chunk = inner[number * octets :][:octets]
        pair.b.ike.receive(FROM_A, fragment(pair, number + 1, total, chunk), pair.now)
    answers = answers_of(pair.b)
    assert big.got == [100]
    assert len(answers) == 7
    assert max(map(len, answers)) == SIZES[-1]


def test_a_forged_fragment_is_never_kept() -> None:
    """Each is verified before it is kept: nothing that others send can spoil a reassembly."""
    pair, big = up()
    ask(pair, 3000)
    request = [d.data for d in pair.pending]
    for data in request:
        for position in (18, 19, 20, 28, 31, 33, 35, 40, len(data) - 1):
            forged = data[:position] + bytes((data[position] ^ 0x41,)) + data[position + 1 :]
            assert "answer" not in receive(pair, forged)
            assert pair.b.sa.fragments.request is None or len(
                pair.b.sa.fragments.request.parts
            ) == request.index(data)
        said = receive(pair, data)
    assert said == ["answer"] * 3
    assert big.got == [3000]


def test_truncated_at_every_octet() -> None:
    pair, big = up()
    ask(pair, 3000)
    for data in [d.data for d in pair.pending]:
        for length in range(len(data)):
            assert receive(pair, data[:length]) in (["short"], ["length"])
            # The same with lengths that agree.
            if length >= 36:
                cut = data[:24] + length.to_bytes(4, "big") + data[28:30]
                cut += (length - 28).to_bytes(2, "big") + data[32:length]
                assert receive(pair, cut) == ["integrity"]
        receive(pair, data)
    assert big.got == [3000]


def test_a_payload_beside_a_fragment() -> None:
    """Known or not, critical or not: nothing has one, and libreswan once did not survive it."""
    pair, _ = up()
    data = fragment(pair, 1, 2)
    for first in (41, 43, 200):
        beside = bytes((53, 0)) + (12).to_bytes(2, "big") + bytes(8)
        forged = data[:16] + bytes((first,)) + data[17:24]
        forged += (len(data) + 12).to_bytes(4, "big") + beside + data[28:]
        assert receive(pair, forged) == ["beside_fragment"]
    behind = data[:24] + (len(data) + 12).to_bytes(4, "big") + data[28:] + bytes(12)
    assert receive(pair, behind) == ["trailing_octets"]
    assert pair.b.sa.fragments.request is None


def test_an_unknown_critical_payload_beside_a_fragment() -> None:
    pair, _ = up()
    data = fragment(pair, 1, 2)
    beside = bytes((53, 0x80)) + (12).to_bytes(2, "big") + bytes(8)
    forged = data[:16] + bytes((200,)) + data[17:24]
    forged += (len(data) + 12).to_bytes(4, "big") + beside + data[28:]
    (said,) = receive(pair, forged)
    assert said not in ("answer", "")


def test_octets_are_bounded() -> None:
    pair, big = up()
    for number in range(1, 3):
        assert receive(pair, fragment(pair, number, 3, bytes(30000))) == []
    assert receive(pair, fragment(pair, 3, 3, bytes(30000))) == ["fragment_octets"]
    assert pair.b.sa.fragments.request is None
    assert big.got == []


def test_who_has_proven_nothing_gets_less() -> None:
    pair = make_pair()
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play("a --> b: IKE_SA_INIT? SA KE No\na <-- b: IKE_SA_INIT! SA KE No")
    pair.pending.clear()
    header = pair.a.sa.header(ExchangeType.IKE_AUTH, 1, is_response=False)
    chunk = bytes(MAX_UNPROVEN_OCTETS // 2)

    def send(number: int) -> list[str]:
        seal = pair.a.sa.protection.seal_fragment
        return receive(pair, seal(header, 35, number, 3, chunk, pair.a.ike.random))

    assert send(1) == []
    assert send(2) == []
    assert send(3) == ["fragment_octets"]


@pytest.mark.parametrize("since", [2000.0, 1000.4725826749133])
def test_a_stalled_reassembly_goes_after_30_seconds(since: float) -> None:
    """Also where adding and taking away 30 does not lead back to the same number."""
    pair, big = up()
    pair.now = since
    ask(pair, 3000)
    request = list(pair.pending)
    pair.pending.clear()
    pair.deliver(request[0])
    assert pair.b.sa.fragments.request is not None
    pair.now += REASSEMBLY_SECONDS
    pair.b.ike.handle_timer(pair.now)
    assert pair.b.sa.fragments.request is None
    assert pair.b.sa.established
    for datagram in request:
        pair.deliver(datagram)
    assert big.got == [3000]


def test_one_reassembly_each_way() -> None:
    """A set for another message than the one that is due is not even looked at."""
    pair, _ = up()
    sa = pair.a.sa
    assert receive(pair, fragment(pair, 1, 2, message_id=sa.outgoing.next_id + 1)) == ["message_id"]
    assert receive(pair, fragment(pair, 1, 2, is_response=True)) == ["unsolicited"]
    assert receive(pair, fragment(pair, 2, 3)) == []
    assert receive(pair, fragment(pair, 1, 2, message_id=sa.outgoing.next_id + 5)) == ["message_id"]
    assert set(pair.b.sa.fragments.request.parts) == {2}


def test_fragments_that_were_not_negotiated() -> None:
    pair, _ = up()
    pair.b.sa.fragments = None
    assert receive(pair, fragment(pair, 1, 2)) == ["fragment"]


def test_what_is_inside_is_checked_as_ever() -> None:
    """Reassembled garbage is INVALID_SYNTAX, as if it had come whole."""
    pair, _ = up()
    assert receive(pair, fragment(pair, 1, 2, b"\xff" * 100)) == []
    pair.b.ike.receive(A_TO_B, fragment(pair, 2, 2, b"\xff" * 100), pair.now)
    pair.drain()
    assert "N(INVALID_SYNTAX)" in pair.sent[-1][1]
