"""Bad intentions that are no numbered threat, and mistakes of ours: RFC 7296 §2.21, §2.8."""

from __future__ import annotations

import pytest

from agent.datagram import Path
from agent.ike.child import MAX_CHILDREN
from agent.ike.events import CloseReason, IkeSaClosed, IkeSaUnanswered
from agent.ike.sa import IkeSa
from agent.ike.states import TRANSITIONS, IkeState, LocalError, Step, When, after
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.message import Header, encode_message
from agent.wire.payloads import (
    KePayload,
    NoncePayload,
    NotifyPayload,
    SaPayload,
)
from tests.support.attacker import FROM_A, answers_of, outputs_of
from tests.support.pair import (
    A_ADDRESS,
    B_ADDRESS,
    Pair,
    established,
    ike_proposals,
    make_pair,
)

# -- floods --------------------------------------------------------------------------------------


# -- what the RFC wants answered, and what not ---------------------------------------------------


def test_malformed_inside_ends_both() -> None:
    """§2.21.3: INVALID_SYNTAX, and the SA is gone without a Delete."""
    pair = established(make_pair(child=True))
    pair.a.ike.request(
        pair.a.sa.ike_id,
        ExchangeType.CREATE_CHILD_SA,
        [NoncePayload(bytes(32))],  # no SA payload
        lambda m, now: None,
        pair.now,
    )
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? No
        a <-- b: CREATE_CHILD_SA! N(INVALID_SYNTAX)
        """
    )
    pair.quiet()
    for side in (pair.a, pair.b):
        assert side.last(IkeSaClosed).reason is CloseReason.PROTOCOL_ERROR
        assert not side.installed
        assert not side.ike._by_spi


def test_an_exchange_that_nobody_knows() -> None:
    pair = established(make_pair())
    pair.a.ike.request(pair.a.sa.ike_id, 99, [], lambda m, now: None, pair.now)
    pair.settle()
    assert pair.b.last(IkeSaClosed).reason is CloseReason.PROTOCOL_ERROR


def test_the_table_of_states() -> None:
    """What is not in the table is an error of ours; nothing leads out of CLOSED."""
    for state in IkeState:
        for step in Step:
            if (state, step) in TRANSITIONS:
                assert state is not IkeState.CLOSED
            else:
                with pytest.raises(LocalError):
                    after(state, step)
        if state is not IkeState.CLOSED:
            assert after(state, Step.CLOSE) is IkeState.CLOSED


def test_payload_rules() -> None:
    """Twice what may stand once: dropped before the proof, INVALID_SYNTAX after."""
    pair = make_pair()
    header = Header(b"attacker", bytes(8), ExchangeType.IKE_SA_INIT, True, False, 0)
    payloads = [
        SaPayload(ike_proposals()),
        KePayload(31, b"\x05" * 32),
        NoncePayload(b"n" * 32),
    ]
    twice = [payloads + payloads[1:2], payloads + payloads[2:]]
    for bad in (*twice, payloads[1:], payloads[:2], []):
        pair.b.ike.receive(FROM_A, encode_message(header, bad), pair.now)
    assert [o.reason for o in outputs_of(pair.b)] == ["invalid_syntax"] * 5
    pair.b.ike.receive(FROM_A, encode_message(header, payloads[::-1]), pair.now)  # any order
    assert len(answers_of(pair.b)) == 1


# -- a peer with credentials ---------------------------------------------------------------------


def test_rekeying_the_ike_sa_without_end_leaves_few_behind() -> None:
    """Each takes the place of the last; whoever never deletes those has two, not thousands."""
    pair = established(make_pair(child=True))
    for _ in range(20):
        pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
        pair.play(
            """
            a --> b: CREATE_CHILD_SA? SA No KE
            a <-- b: CREATE_CHILD_SA! SA No KE
            a --x b: INFORMATIONAL? D(IKE)
            """
        )
        assert len(pair.b.ike._by_spi) <= 2
    assert len(pair.b.installed) == 1
    assert pair.b.sa.established


def test_rekeying_the_child_sa_without_end_is_refused_at_last() -> None:
    """It is for whoever asked for a rekeying to delete the old one. This one does not."""
    pair = established(make_pair(child=True))
    for _ in range(30):
        pair.a.ike.rekey_child(next(reversed(pair.a.sa.children or {})), pair.now)
        pair.drain()
        while pair.pending:
            datagram = pair.pending.pop(0)
            if "D(ESP)" in pair.describe(datagram.sender, datagram.data):
                pair.a.sa.outgoing.clear()
            else:
                pair.deliver(datagram)
        assert len(pair.b.sa.children or ()) <= 2 * MAX_CHILDREN
    assert len(pair.b.installed) == 2 * MAX_CHILDREN
    assert pair.b.sa.established


def _hint(pair: Pair) -> bytes:
    """Somebody says in b's name that it does not know a's SA."""
    sa = pair.a.sa
    header = Header(sa.spis[:8], sa.spis[8:], ExchangeType.INFORMATIONAL, False, True, 7)
    return encode_message(header, [NotifyPayload(NotifyType.INVALID_IKE_SPI)])


def test_a_hint_about_one_who_does_not_answer_is_passed_on_and_shortens_nothing() -> None:
    """§2.21.4, THREATS 37: whoever can prove more begins anew beside the SA, which stays."""
    pair = established(make_pair())
    pair.a.ike.check_liveness(pair.a.sa.ike_id, pair.now)
    started = pair.now
    pair.sleep(10, deliver=False)
    assert not any(e.is_disowned for e in pair.a.events(IkeSaUnanswered))
    pair.sent.clear()
    due = pair.a.sa.timers.deadline(When.RETRANSMIT)
    for _ in range(5):
        pair.a.ike.receive(Path(A_ADDRESS, B_ADDRESS), _hint(pair), pair.now)
    pair.drain()
    assert sum(e.is_disowned for e in pair.a.events(IkeSaUnanswered)) == 1
    assert not pair.sent  # the request in flight is question enough
    assert pair.a.sa.timers.deadline(When.RETRANSMIT) == due
    give_up = pair.a.ike.settings.give_up
    pair.sleep(started + give_up - 0.1 - pair.now, deliver=False)
    assert pair.a.sa.established
    pair.sleep(0.2, deliver=False)
    assert pair.a.last(IkeSaClosed).reason is CloseReason.TIMEOUT


def test_a_request_in_flight_goes_out_again_on_a_new_path() -> None:
    """THREATS 36: what was sent to the old mapping is not waited for."""
    pair = established(make_pair())
    pair.b.ike.check_liveness(pair.b.sa.ike_id, pair.now)
    pair.drain()
    pair.pending.clear()
    pair.sleep(5, deliver=False)
    elsewhere = Path(A_ADDRESS._replace(port=9999), B_ADDRESS)
    pair.b.ike.set_path(pair.b.sa.ike_id, Path(B_ADDRESS, elsewhere.local), pair.now)
    pair.sent.clear()
    pair.tick(pair.b)
    (again,) = pair.pending
    assert again.path.remote == elsewhere.local


def test_a_mistake_with_one_sa_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = established(make_pair(liveness=5.0))
    sas = list(pair.b.ike._by_spi.values())
    pair.b.ike.connect(pair.b.peer, Path(B_ADDRESS, A_ADDRESS), pair.now)
    due = pair.now + 50
    for sa in [*sas, *pair.b.ike._by_spi.values()]:
        pair.b.ike._schedule.set(sa, pair.now)
    handle, failed = IkeSa.handle_timer, []

    def fail_once(self: IkeSa, now: float) -> None:
        if not failed:
            failed.append(self)
            raise RuntimeError("a mistake")
        handle(self, now)

    monkeypatch.setattr(IkeSa, "handle_timer", fail_once)
    with pytest.raises(RuntimeError):
        pair.b.ike.handle_timer(due)
    assert len(pair.b.ike._schedule) == 2
