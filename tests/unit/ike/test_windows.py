"""Message IDs, retransmission, cached responses, paths: RFC 7296 §2.1 to §2.4, §2.23."""

from __future__ import annotations

import itertools

import pytest

from agent.datagram import Address, Path
from agent.ike.events import CloseReason, IkeSaClosed, PathChanged
from agent.ike.exchange import MAX_QUEUED
from agent.ike.extension import Extension
from agent.ike.settings import IkeSettings
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.message import decode_message, encode_message
from agent.wire.payloads import NotifyPayload
from tests.support.pair import A_ADDRESS, A_TO_B, B_ADDRESS, Pair, established, make_pair

MOVED = Address.parse("203.0.113.77", 61234)


def _pair(**options) -> Pair:
    pair = established(make_pair(**options))
    pair.sent.clear()
    return pair


def _probe(pair: Pair, name: str) -> None:
    side = getattr(pair, name)
    side.ike.check_liveness(side.sa.ike_id, pair.now)
    pair.drain()


# -- retransmission ------------------------------------------------------------------------------


def test_intervals_grow_until_the_peer_counts_as_gone() -> None:
    pair = make_pair()
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.sleep(100, deliver=False)
    times = [at - 1000 for at, _ in pair.sent]
    assert times[:5] == pytest.approx([0, 0.5, 1.4, 3.02, 5.936])
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert max(gaps) <= IkeSettings().longest_interval
    closed = pair.a.last(IkeSaClosed)
    assert (closed.reason, closed.detail) == (CloseReason.TIMEOUT, "no answer")
    assert not pair.a.ike._by_spi
    assert pair.a.ike.next_timeout() is None


def test_the_first_interval_follows_the_measured_round_trip() -> None:
    pair = _pair()  # settles with 10 ms each way
    _probe(pair, "a")
    sent_at = pair.now
    pair.pending.clear()
    pair.tick(pair.a)
    assert pair.now - sent_at == pytest.approx(IkeSettings().floor_interval)


def test_the_round_trip_is_known_after_a_rekeying_too() -> None:
    pair = _pair()
    measured = pair.a.sa.rtt
    assert measured > 0
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    pair.settle()
    assert pair.a.sa.rtt == pytest.approx(measured, rel=0.5)


def test_retransmissions_are_the_same_octets() -> None:
    pair = _pair(ike=("aes128-sha256-x25519",))  # random IVs would show
    _probe(pair, "a")
    for _ in range(4):
        pair.tick(pair.a)
    assert len({d.data for d in pair.pending}) == 1
    assert len(pair.pending) == 5


@pytest.mark.parametrize("lost", range(8))
def test_any_one_datagram_may_be_lost(lost: int) -> None:
    pair = make_pair(child=True)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    for number in range(4):
        pair.drain()
        datagram = pair.pending.pop(0) if pair.pending else None
        if datagram is not None and number != lost:
            pair.deliver(datagram)
    pair.sleep(10)
    assert pair.a.sa.established
    assert pair.b.sa.established
    assert len(pair.a.installed) == len(pair.b.installed) == 1


def test_everything_twice() -> None:
    pair = make_pair(child=True)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.drain()
    for _ in range(40):
        if not pair.pending:
            break
        datagram = pair.pending.pop(0)
        pair.deliver(datagram)
        waiting = pair.pending
        pair.pending = []
        pair.deliver(datagram)
        pair.pending = waiting  # what the repetition caused does not arrive
    assert pair.a.sa.established
    assert pair.b.sa.established
    assert len(pair.b.installed) == 1


def test_a_dead_peer() -> None:
    pair = _pair(liveness=30.0, child=True)
    pair.b.ike.close(pair.b.sa.ike_id, pair.now, silent=True)
    start = pair.now
    pair.sleep(200)
    closed = pair.a.last(IkeSaClosed)
    assert closed.reason is CloseReason.TIMEOUT
    assert closed.established
    assert not pair.a.installed
    assert pair.now - start == pytest.approx(200)


def test_liveness_only_after_silence() -> None:
    pair = _pair(liveness=30.0)
    for _ in range(10):
        pair.sleep(20)
        for side in (pair.a, pair.b):
            side.ike.seen_inbound(side.sa.ike_id, pair.now)
    assert pair.sent == []
    pair.sleep(300)
    assert 9 <= len(pair.sent) / 2 <= 22  # whoever asks first is an answer to the other, too
    assert pair.a.events(IkeSaClosed) == []


# -- message IDs ---------------------------------------------------------------------------------


class Counter(Extension):
    """Counts what it handles."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def claims_exchange(self, exchange: int) -> bool:
        return exchange == ExchangeType.ME_CONNECT

    def handle_exchange(self, sa, message, now):
        self.count += 1
        return [NotifyPayload(NotifyType.ME_RESPONSE)]


def test_a_repeated_request_is_answered_the_same_and_handled_once() -> None:
    counter = Counter()
    pair = _pair(factories=[lambda sa, message: counter])
    answers = []
    pair.a.ike.request(
        pair.a.sa.ike_id, ExchangeType.ME_CONNECT, [], lambda m, now: answers.append(m), pair.now
    )
    pair.drain()
    request = pair.pending.pop()
    for _ in range(3):
        pair.deliver(request)
    responses = {d.data for d in pair.pending if d.sender is pair.b}
    assert len(responses) == 1
    pair.settle()
    assert counter.count == 1
    assert len(answers) == 1
    assert pair.a.drops == ["unsolicited"] * 2


def test_one_request_at_a_time() -> None:
    pair = _pair(factories=[lambda sa, message: Counter()])
    order = []
    for number in range(5):
        pair.a.ike.request(
            pair.a.sa.ike_id,
            ExchangeType.ME_CONNECT,
            [],
            lambda m, now, number=number: order.append(number),
            pair.now,
        )
        pair.drain()
        assert len(pair.pending) == 1
    pair.settle()
    assert order == [0, 1, 2, 3, 4]


def test_the_queue_is_bounded() -> None:
    pair = _pair(factories=[lambda sa, message: Counter()])
    failed = []
    for _ in range(MAX_QUEUED + 11):
        pair.a.ike.request(
            pair.a.sa.ike_id,
            ExchangeType.ME_CONNECT,
            [],
            lambda m, now: failed.append(m is None),
            pair.now,
        )
    assert failed == [True] * 10
    pair.a.ike.close(pair.a.sa.ike_id, pair.now)
    pair.settle()
    assert failed.count(True) == 10 + MAX_QUEUED  # each one hears about it, once
    assert len(failed) == MAX_QUEUED + 11


def test_no_sa_no_request() -> None:
    pair = make_pair()
    answers = []
    pair.a.ike.request(17, 37, [], lambda m, now: answers.append(m), pair.now)
    ike_id = pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.a.ike.request(ike_id, 37, [], lambda m, now: answers.append(m), pair.now)
    assert answers == [None, None]


# -- paths ---------------------------------------------------------------------------------------


def _move(pair: Pair, name: str) -> None:
    """From now on `name` is seen at another address."""
    side = getattr(pair, name)
    side.ike.set_path(side.sa.ike_id, Path(MOVED, pair.other(side).address), pair.now)
    pair.drain()


@pytest.mark.parametrize("rekeyed_by", ["", "a", "b"])
def test_the_other_side_is_followed(rekeyed_by: str) -> None:
    """§2.23: the answers go to where the last proven message came from, and so do requests."""
    pair = _pair(child=True)
    if rekeyed_by:
        side = getattr(pair, rekeyed_by)
        side.ike.rekey_ike(side.sa.ike_id, pair.now)
        pair.settle()
    _move(pair, "a")
    pair.a.outputs.clear()
    _probe(pair, "a")
    pair.settle()
    assert pair.b.sa.path == Path(B_ADDRESS, MOVED)
    assert pair.b.last(PathChanged).path == Path(B_ADDRESS, MOVED)
    _probe(pair, "b")
    assert pair.pending[0].path.remote == MOVED


def test_a_host_behind_nat_that_started_it_does_not_follow() -> None:
    pair = _pair(settings=IkeSettings(force_encapsulation=True))
    pair.a.sa.behind_nat = True
    _move(pair, "b")
    _probe(pair, "b")
    pair.settle()
    assert pair.a.sa.path == A_TO_B


def test_nobody_is_followed_where_no_nat_was_found() -> None:
    pair = _pair(settings=IkeSettings(force_encapsulation=False))
    assert not pair.b.sa.remote_behind_nat
    _move(pair, "a")
    _probe(pair, "a")
    pair.drain()
    pair.deliver(pair.pending.pop())
    assert pair.b.sa.path.remote == A_ADDRESS
    assert pair.pending[0].path.remote == MOVED  # the answer goes to where the request came from


def test_replayed_messages_move_nothing() -> None:
    pair = _pair()
    _probe(pair, "a")
    request = pair.pending[0]
    pair.settle()
    elsewhere = Path(B_ADDRESS, MOVED)
    pair.b.ike.receive(elsewhere, request.data, pair.now)  # cached response
    pair.b.ike.receive(elsewhere, request.data[:-1] + b"\0", pair.now)
    pair.drain()
    assert pair.b.sa.path.remote == A_ADDRESS
    assert pair.b.events(PathChanged) == []


def test_ike_auth_moves_to_another_port() -> None:
    """A peer that starts on port 500 and goes on from 4500."""
    pair = make_pair(settings=IkeSettings(force_encapsulation=False))
    local, remote = Address(A_ADDRESS.ip, 500), Address(B_ADDRESS.ip, 500)
    pair.a.ike.connect(pair.a.peer, Path(local, remote), pair.now)
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        """
    )
    (auth,) = pair.pending
    auth.path = A_TO_B
    pair.settle()
    assert pair.b.sa.path == Path(B_ADDRESS, A_ADDRESS)
    assert not pair.b.sa.remote_behind_nat


def test_nat_detection() -> None:
    pair = make_pair(settings=IkeSettings(force_encapsulation=False))
    inside = Path(Address.parse("192.168.1.5", 4500), B_ADDRESS)
    pair.a.ike.connect(pair.a.peer, inside, pair.now)
    pair.drain()
    while pair.pending:
        datagram = pair.pending.pop(0)
        if datagram.sender is pair.a:
            pair.b.ike.receive(Path(B_ADDRESS, MOVED), datagram.data, pair.now)
        else:
            pair.a.ike.receive(inside, datagram.data, pair.now)
        pair.drain()
    assert (pair.a.sa.behind_nat, pair.a.sa.remote_behind_nat) == (True, False)
    assert (pair.b.sa.behind_nat, pair.b.sa.remote_behind_nat) == (False, True)


def test_one_of_several_source_addresses_is_enough() -> None:
    """§2.23: who does not know which of its addresses will be used names them all."""
    pair = make_pair(settings=IkeSettings(force_encapsulation=False))
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.drain()
    (request,) = pair.pending
    message = decode_message(request.data)
    other = NotifyPayload(NotifyType.NAT_DETECTION_SOURCE_IP, bytes(20))
    several = encode_message(message.header, [other, *message.payloads, other])
    pair.b.ike.receive(request.arriving, several, pair.now)
    (sa,) = pair.b.ike.sas()
    assert not sa.remote_behind_nat


def test_the_kernel_chooses_our_address() -> None:
    """`path.local` may be unspecified until the first answer shows it."""
    pair = make_pair()
    pair.a.ike.connect(pair.a.peer, Path(Address(bytes(4), 4500), B_ADDRESS), pair.now)
    pair.drain()
    (request,) = pair.pending
    pair.pending.clear()
    pair.b.ike.receive(Path(B_ADDRESS, A_ADDRESS), request.data, pair.now)
    pair.settle()
    assert pair.a.sa.path == A_TO_B
    assert not pair.a.sa.behind_nat
