"""IKE SA rekeying and its collisions: RFC 7296 §1.3.2, §2.8.2, §2.18, §2.25.2."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.ike.events import CloseReason, IkeSaClosed, IkeSaRekeyed
from agent.ike.extension import Extension
from agent.ike.pad import Lifetimes
from agent.ike.states import IkeState
from agent.wire.codes import ExchangeType
from tests.support.pair import Pair, established, ike_proposals, make_pair
from tests.unit.ike.test_rekey_child import _with_nonces


def _pair(**options) -> Pair:
    pair = established(make_pair(child=True, **options))
    pair.sent.clear()
    return pair


def _agree(pair: Pair, rekeyings: int = 1) -> None:
    pair.quiet()
    assert pair.a.sa.spis == pair.b.sa.spis
    for side in (pair.a, pair.b):
        assert side.events(IkeSaClosed) == []
        assert len(side.events(IkeSaRekeyed)) == rekeyings
        assert side.last(IkeSaRekeyed).spis == side.sa.spis
        assert len(side.ike._by_spi) == 1
        assert len(side.ike) == 1
        assert set(side.sa.children) == set(side.installed)
    # It works, in both directions.
    for side in (pair.a, pair.b):
        side.ike.rekey_child(next(iter(side.installed)), pair.now)
        pair.settle()
    assert len(pair.a.installed) == len(pair.b.installed) == 1


@pytest.mark.parametrize("starter", ["a", "b"])
def test_rekeying(starter: str) -> None:
    pair = _pair()
    side = getattr(pair, starter)
    before = side.sa.spis
    side.ike.rekey_ike(side.sa.ike_id, pair.now)
    script = """
        a --> b: CREATE_CHILD_SA? SA No KE
        a <-- b: CREATE_CHILD_SA! SA No KE
        a --> b: INFORMATIONAL? D(IKE)
        a <-- b: INFORMATIONAL!
        """
    if starter == "b":
        script = script.replace("-->", "@").replace("<--", "-->").replace("@", "<--")
    pair.play(script)
    assert before != side.sa.spis
    assert side.sa.is_initiator
    assert not pair.other(side).sa.is_initiator
    assert pair.a.sa.started_by_us  # who started the first one is not forgotten
    assert not pair.b.sa.started_by_us
    _agree(pair)


@pytest.mark.parametrize("lowest", ["a", "b"])
def test_both_rekey_at_once(lowest: str) -> None:
    """§2.8.2: the SA with the lowest nonce is deleted by who made it, the other inherits."""
    pair = _pair()
    _with_nonces(pair, low=lowest)
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    pair.b.ike.rekey_ike(pair.b.sa.ike_id, pair.now)
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? SA No KE
        a <-- b: CREATE_CHILD_SA? SA No KE
        a --> b: CREATE_CHILD_SA! SA No KE
        a <-- b: CREATE_CHILD_SA! SA No KE
        a --> b: INFORMATIONAL? D(IKE)
        a <-- b: INFORMATIONAL? D(IKE)
        a --> b: INFORMATIONAL!
        a <-- b: INFORMATIONAL!
        """
    )
    winner = pair.b if lowest == "a" else pair.a
    assert winner.sa.is_initiator
    _agree(pair)


def test_only_one_notices() -> None:
    """§2.8.2, last figure: the Delete of the old SA says that the other side never saw ours."""
    pair = _pair()
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    pair.b.ike.rekey_ike(pair.b.sa.ike_id, pair.now)
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? SA No KE
        a x-- b: CREATE_CHILD_SA? SA No KE
        a <-- b: CREATE_CHILD_SA! SA No KE
        a --> b: INFORMATIONAL? D(IKE)
        a <-- b: INFORMATIONAL!
        """
    )
    pair.sleep(5)
    _agree(pair)


def test_late_request_meets_an_sa_that_is_being_closed() -> None:
    pair = _pair()
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    pair.b.ike.rekey_ike(pair.b.sa.ike_id, pair.now)
    pair.drain()
    late = next(d for d in pair.pending if d.sender is pair.b)
    pair.pending.remove(late)
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? SA No KE
        a <-- b: CREATE_CHILD_SA! SA No KE
        """
    )
    pair.deliver(late)
    pair.play(
        """
        a --> b: INFORMATIONAL? D(IKE)
        a --> b: CREATE_CHILD_SA! N(TEMPORARY_FAILURE)
        a <-- b: INFORMATIONAL!
        """
    )
    _agree(pair)


def test_not_while_a_child_is_rekeyed() -> None:
    """§2.25.1: TEMPORARY_FAILURE, and tried again later."""
    pair = _pair()
    pair.b.ike.rekey_child(next(iter(pair.b.installed)), pair.now)
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? SA No KE
        a x-- b: CREATE_CHILD_SA? N(REKEY_SA) SA No TSi TSr
        a <-- b: CREATE_CHILD_SA! N(TEMPORARY_FAILURE)
        """
    )
    assert pair.a.events(IkeSaRekeyed) == []
    pair.sleep(30)
    _agree(pair)


def test_rekeying_meets_delete() -> None:
    """§2.25.2: to close wins; the rekeying is forgotten, or is told TEMPORARY_FAILURE."""
    pair = _pair()
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    pair.b.ike.close(pair.b.sa.ike_id, pair.now)
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? SA No KE
        a <-- b: INFORMATIONAL? D(IKE)
        a <-- b: CREATE_CHILD_SA! N(TEMPORARY_FAILURE)
        a --> b: INFORMATIONAL!
        """
    )
    assert pair.a.last(IkeSaClosed).reason is CloseReason.BY_PEER
    assert pair.b.last(IkeSaClosed).reason is CloseReason.DELETED
    pair.sleep(60)
    for side in (pair.a, pair.b):
        assert not side.ike._by_spi
        assert not side.installed
        assert side.ike.next_timeout() is None


def test_both_delete_at_once() -> None:
    pair = _pair()
    pair.a.ike.close(pair.a.sa.ike_id, pair.now)
    pair.b.ike.close(pair.b.sa.ike_id, pair.now)
    pair.settle()
    for side in (pair.a, pair.b):
        assert len(side.events(IkeSaClosed)) == 1
        assert not side.ike._by_spi


class Recorder(Extension):
    """Claims an exchange and remembers the hooks."""

    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls: list[str] = []

    def claims_exchange(self, exchange: int) -> bool:
        return exchange == ExchangeType.ME_CONNECT

    def handle_exchange(self, sa, message, now):
        self.calls.append("handled")
        return []

    def on_rekeyed(self, old, new, now) -> None:
        assert old.state is IkeState.REPLACED
        assert new.established
        self.calls.append("rekeyed")

    def on_closed(self, sa, reason, now) -> None:
        self.calls.append(reason)


def test_extensions_and_waiting_requests_move_along() -> None:
    recorder = Recorder()
    pair = make_pair(factories=[lambda sa, message: recorder])
    established(pair)
    answers = []
    ike_id = pair.a.sa.ike_id
    pair.a.ike.rekey_ike(ike_id, pair.now)
    for number in range(2):
        pair.a.ike.request(
            ike_id,
            ExchangeType.ME_CONNECT,
            [],
            lambda m, now, number=number: answers.append((number, m is not None)),
            pair.now,
        )
    pair.settle()
    assert answers == [(0, True), (1, True)]
    assert recorder.calls == ["rekeyed", "handled", "handled"]
    pair.a.ike.close(ike_id, pair.now)
    pair.settle()
    assert recorder.calls[-1] is CloseReason.BY_PEER


def test_a_request_on_the_old_sa_is_repeated_on_the_new_one() -> None:
    pair = established(make_pair(factories=[lambda sa, message: Recorder()]))
    answers = []
    pair.a.ike.request(
        pair.a.sa.ike_id, ExchangeType.ME_CONNECT, [], lambda m, now: answers.append(m), pair.now
    )
    pair.b.ike.rekey_ike(pair.b.sa.ike_id, pair.now)
    pair.play(
        """
        a --x b: ME_CONNECT?
        a <-- b: CREATE_CHILD_SA? SA No KE
        a --> b: CREATE_CHILD_SA! SA No KE
        a <-- b: INFORMATIONAL? D(IKE)
        a --> b: INFORMATIONAL!
        a --> b: ME_CONNECT?
        a <-- b: ME_CONNECT!
        """
    )
    assert len(answers) == 1
    assert answers[0] is not None


def test_lifetime_ends_when_rekeying_does_not_work() -> None:
    pair = established(make_pair(lifetimes=Lifetimes(ike_seconds=600)))
    pair.b.sa.timers.clear()
    pair.b.sa.peer = replace(pair.b.sa.peer, proposals=ike_proposals("aes256-sha256-ecp256"))
    pair.sleep(590)
    assert pair.a.events(IkeSaClosed) == []
    tries = [line for _, line in pair.sent if "NO_PROPOSAL_CHOSEN" in line]
    assert 2 <= len(tries) <= 15
    pair.sleep(20)
    assert pair.a.last(IkeSaClosed).reason is CloseReason.REKEY_FAILED
    assert pair.b.last(IkeSaClosed).reason is CloseReason.BY_PEER


def test_message_ids_end_in_time() -> None:
    pair = established(make_pair())
    pair.a.sa.outgoing.next_id = pair.b.sa.incoming.next_id = (1 << 31) - 1
    pair.a.ike.check_liveness(pair.a.sa.ike_id, pair.now)
    pair.settle()
    pair.a.ike.check_liveness(pair.a.sa.ike_id, pair.now)
    pair.sleep(1)
    assert len(pair.a.events(IkeSaRekeyed)) == 1
    assert pair.a.sa.outgoing.next_id < 10
