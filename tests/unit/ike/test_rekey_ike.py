"""IKE SA rekeying: RFC 7296 §1.3.2, §2.8, §2.18. Collisions: `test_collisions`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.ike.events import CloseReason, IkeSaClosed, IkeSaRekeyed
from agent.ike.extension import Extension
from agent.ike.pad import Lifetimes
from agent.ike.states import IkeState
from agent.wire.codes import ExchangeType
from tests.support.pair import Pair, established, ike_proposals, make_pair


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
