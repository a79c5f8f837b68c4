"""Connectivity checks: each rule of mediation.md §3, §4, §5; its messages are the vectors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.crypto.digest import sha1
from agent.datagram import Address, Path, Transmit
from agent.mediation.checklist import Checklist
from agent.mediation.endpoints import LocalEndpoint, collect
from agent.mediation.pairs import Pairs, PairState
from agent.mediation.settings import MediationSettings
from agent.wire.codes import EndpointType
from agent.wire.mediation import (
    PRIORITY_HOST,
    PRIORITY_PEER_REFLEXIVE,
    PRIORITY_RELAYED,
    PRIORITY_SERVER_REFLEXIVE,
    ConnectivityCheck,
    MeEndpoint,
    decode_check,
    encode_check,
)

# mediation.md §3, as seen between two strongSwan 5.9.8.
C = bytes.fromhex("39e8500b")
KI = bytes.fromhex("97b3bcc58af3360b4bdde9658d8bc7ce")
KR = bytes.fromhex("9f225318f0d4904d484ab25d753d6272")
REQUEST = bytes.fromhex(
    "00000000000000000000000000000000 29202508 00000002 00000054 2900000c0000a005 39e8500b"
    "290000100000a003 0080ffff00020000 0000001c0000a007 7a89a0bf8d010de414ab913420f20a3a88fff2c0"
)
RESPONSE = bytes.fromhex(
    "00000000000000000000000000000000 29202520 00000002 00000058 2900000c0000a005 39e8500b"
    "290000140000a003 0080ffff01021194cb007115 0000001c0000a007"
    "643751346b039e5347836f886e8bb651c9226ff7"
)

HOME = Address.parse("192.168.1.10", 4500)
SEEN = Address.parse("203.0.113.21", 4500)
PEER_HOST = Address.parse("192.168.2.10", 4500)
PEER_SEEN = Address.parse("198.51.100.2", 4500)
STRANGER = Address.parse("198.51.100.2", 13314)

LOCAL = collect([HOME], [(SEEN, HOME)])
REMOTE = (
    MeEndpoint.of(EndpointType.HOST, PEER_HOST),
    MeEndpoint.of(EndpointType.SERVER_REFLEXIVE, PEER_SEEN),
)
TO_HOST, TO_SEEN = Path(HOME, PEER_HOST), Path(HOME, PEER_SEEN)


def make(
    *,
    is_initiator: bool = True,
    local: tuple[LocalEndpoint, ...] = LOCAL,
    remote: tuple[MeEndpoint, ...] = REMOTE,
    settings: MediationSettings | None = None,
    start: bool = True,
) -> Checklist:
    own, theirs = (KI, KR) if is_initiator else (KR, KI)
    checklist = Checklist(
        connect_id=C,
        is_initiator=is_initiator,
        own_key=own,
        remote_key=theirs,
        local=local,
        remote=remote,
        settings=settings or MediationSettings(),
        now=0.0,
    )
    if start:
        checklist.start(0.0)
    return checklist


def sent(checklist: Checklist) -> list[Transmit]:
    out = list(checklist.outputs)
    checklist.outputs.clear()
    return out


def until(checklist: Checklist, end: float) -> list[tuple[float, Transmit]]:
    """What is sent up to `end`, with the time."""
    out: list[tuple[float, Transmit]] = []
    now = 0.0
    while True:
        at = checklist.next_timeout()
        if at is None or at > end:
            return out
        assert at >= now
        now = at
        checklist.handle_timer(now)
        out += [(round(now, 3), t) for t in sent(checklist)]


def sign(check: ConnectivityCheck, key: bytes) -> ConnectivityCheck:
    return replace(check, auth=sha1(check.octets + key))


def request(
    number: int = 1, key: bytes = KR, priority: int = PRIORITY_PEER_REFLEXIVE
) -> ConnectivityCheck:
    endpoint = MeEndpoint(priority, 0, EndpointType.PEER_REFLEXIVE, None)
    return sign(ConnectivityCheck(C, endpoint, b"", number, False), key)


def response(number: int, seen: Address = SEEN, key: bytes = KR) -> ConnectivityCheck:
    endpoint = MeEndpoint.of(EndpointType.PEER_REFLEXIVE, seen)
    return sign(ConnectivityCheck(C, endpoint, b"", number, True), key)


def states(checklist: Checklist) -> list[str]:
    return [p.state.name for p in checklist.pairs]


# -- vectors -------------------------------------------------------------------------------------


def test_vector_request() -> None:
    """Pair 2 of I is host to reflexive; its check is the octets that strongSwan sends."""
    checklist = make()
    by_path = {
        t.path: t.data for _, t in [(0.0, t) for t in sent(checklist)] + until(checklist, 0.026)
    }
    assert by_path[TO_SEEN] == REQUEST


def test_vector_response() -> None:
    checklist = make(is_initiator=False, start=False)
    assert checklist.receive(Path(PEER_SEEN, SEEN), decode_check(REQUEST), 0.0) is None
    answer = sent(checklist)[0]
    assert answer.path == Path(PEER_SEEN, SEEN)
    assert answer.data == RESPONSE


def test_vector_response_is_accepted() -> None:
    checklist = make()
    until(checklist, 0.026)
    assert checklist.receive(TO_SEEN, decode_check(RESPONSE), 0.1) is None
    assert states(checklist) == ["IN_PROGRESS", "SUCCEEDED"]


# -- pairs ---------------------------------------------------------------------------------------


def test_pairs_of_the_local_reflexive_endpoint_are_redundant() -> None:
    pairs = list(make(start=False).pairs)
    assert [(p.number, p.base, p.remote) for p in pairs] == [
        (1, HOME, PEER_HOST),
        (2, HOME, PEER_SEEN),
    ]
    assert pairs[0].priority == (PRIORITY_HOST << 32) + 2 * PRIORITY_HOST
    assert pairs[1].priority == (PRIORITY_SERVER_REFLEXIVE << 32) + 2 * PRIORITY_HOST + 1


def test_pair_priority_is_the_same_on_both_sides() -> None:
    ours = make(start=False).pairs.find(HOME, PEER_SEEN)
    remote = (MeEndpoint.of(EndpointType.HOST, HOME),)
    local = collect([], [(PEER_SEEN, PEER_SEEN)])
    theirs = make(is_initiator=False, local=local, remote=remote, start=False).pairs
    assert ours is not None
    assert ours.priority == next(iter(theirs)).priority


def test_families_are_not_mixed() -> None:
    remote = (MeEndpoint.of(EndpointType.HOST, Address.parse("2001:db8::2", 4500)),)
    assert len(Pairs(LOCAL, remote, is_initiator=True)) == 0


def test_pairs_are_bounded_and_every_remote_endpoint_keeps_one() -> None:
    local = collect([Address.parse(f"10.0.{i}.1", 4500) for i in range(17)], [])
    remote = tuple(
        MeEndpoint.of(EndpointType.HOST, Address.parse(f"10.1.{i}.1", 4500), PRIORITY_HOST - i)
        for i in range(16)
    )
    remote += (MeEndpoint.of(EndpointType.SERVER_REFLEXIVE, PEER_SEEN),)
    pairs = Pairs(local, remote, is_initiator=True)
    assert len(pairs) == 36
    assert {p.remote for p in pairs} == {e.address for e in remote}
    assert [p.number for p in pairs] == list(range(1, 37))


# -- sending -------------------------------------------------------------------------------------


def test_first_check_at_once_then_one_per_slot_and_repetitions_outside() -> None:
    checklist = make()
    first = sent(checklist)
    assert [t.path for t in first] == [TO_HOST]
    times = [(at, t.path) for at, t in until(checklist, 2.0)]
    to_host = [at for at, path in times if path == TO_HOST]
    to_seen = [at for at, path in times if path == TO_SEEN]
    # 25 ms, 25 ms, then × 1.8 (mediation.md §6: 25, 25, 45, 81, 145, 262, 472)
    assert to_host == [0.025, 0.05, 0.095, 0.176, 0.322, 0.584, 1.057]
    assert to_seen == [0.025, 0.05, 0.075, 0.12, 0.201, 0.347, 0.609, 1.082]


def test_repetitions_are_the_same_octets() -> None:
    checklist = make()
    data = {t.data for t in sent(checklist)} | {
        t.data for _, t in until(checklist, 1.0) if t.path == TO_HOST
    }
    assert len(data) == 1


def test_nothing_is_sent_before_the_start() -> None:
    checklist = make(is_initiator=False, start=False)
    assert checklist.next_timeout() is None
    checklist.handle_timer(5.0)
    assert not sent(checklist)


def test_eight_checks_to_silence_then_the_pair_fails() -> None:
    checklist = make()
    count = len(sent(checklist)) + len(until(checklist, 100.0))
    assert count == 16
    assert states(checklist) == ["FAILED", "FAILED"]
    assert checklist.is_exhausted
    assert checklist.next_timeout() is None


def test_fifty_unanswered_checks_in_all() -> None:
    remote = tuple(
        MeEndpoint.of(EndpointType.HOST, Address.parse(f"10.1.{i}.1", 4500), PRIORITY_HOST - i)
        for i in range(17)
    )
    checklist = make(remote=remote)
    count = len(sent(checklist)) + len(until(checklist, 100.0))
    assert 17 <= count <= 50
    assert {p.remote for p in checklist.pairs} <= set(checklist.budget._sent)
    assert checklist.is_exhausted


def test_an_endpoint_that_answers_is_not_counted() -> None:
    checklist = make()
    until(checklist, 0.6)
    before = checklist.budget.unanswered
    checklist.receive(TO_SEEN, response(2), 0.6)
    assert checklist.budget.unanswered < before
    assert checklist.budget.allows(PEER_SEEN)


def test_a_pair_that_is_heard_goes_on_to_thirteen_repetitions() -> None:
    checklist = make(is_initiator=False)
    until(checklist, 0.1)
    checklist.receive(TO_SEEN, request(key=KI), 0.1)
    sent(checklist)
    until(checklist, 300.0)
    pair = checklist.pairs.numbered(2)
    assert pair is not None
    assert pair.state is PairState.FAILED
    assert pair.sent == 14


# -- receiving requests --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (request(key=KI), "check_auth"),  # our own key: reflected
        (request(key=b"x" * 16), "check_auth"),
        (replace(request(), auth=bytes(20)), "check_auth"),
        (replace(request(), number=9), "check_auth"),
        (response(1, key=KI), "check_auth"),
        (response(7), "check_unsolicited"),
    ],
)
def test_silence(check: ConnectivityCheck, reason: str) -> None:
    checklist = make()
    sent(checklist)
    assert checklist.receive(TO_HOST, check, 0.01) == reason
    assert not sent(checklist)
    assert states(checklist) == ["IN_PROGRESS", "WAITING"]


def test_our_own_check_sent_back_is_silence() -> None:
    checklist = make()
    (first,) = sent(checklist)
    assert checklist.receive(TO_HOST, decode_check(first.data), 0.01) == "check_auth"
    assert not sent(checklist)


def test_flipped_flags_do_not_make_a_response_of_a_request() -> None:
    as_response = bytearray(encode_check(request()))
    as_response[19] = 0x20
    as_request = bytearray(encode_check(response(1)))
    as_request[19] = 0x08
    for data in (as_response, as_request):
        with pytest.raises(ValueError, match="check_endpoint"):
            decode_check(bytes(data))


def test_a_request_is_answered_and_triggers_its_pair() -> None:
    checklist = make()
    sent(checklist)
    assert checklist.receive(TO_SEEN, request(number=5), 0.01) is None
    (answer,) = sent(checklist)
    said = decode_check(answer.data)
    assert said.is_response
    assert said.number == 5
    assert said.endpoint.address == PEER_SEEN
    assert said.endpoint.priority == PRIORITY_PEER_REFLEXIVE
    # In the next slot, before the waiting pairs, with the pair's own number.
    assert checklist.next_timeout() == pytest.approx(0.025)
    triggered = [t for _, t in until(checklist, 0.0251) if t.path == TO_SEEN]
    assert decode_check(triggered[0].data).number == 2
    assert triggered[0].data == REQUEST  # looks like any earlier one


def test_a_triggered_check_goes_at_once_when_the_slot_is_free() -> None:
    checklist = make(is_initiator=False)
    until(checklist, 0.25)
    assert checklist.receive(TO_SEEN, request(key=KI), 0.25) is None
    assert [(decode_check(t.data).is_response, t.path) for t in sent(checklist)] == [
        (True, TO_SEEN),
        (False, TO_SEEN),
    ]


def test_a_pair_in_progress_is_triggered_once_in_a_run() -> None:
    checklist = make(is_initiator=False)
    until(checklist, 0.21)
    checks = []
    for count in range(5):
        checklist.receive(TO_SEEN, request(key=KI), 0.21 + count * 0.02)
        checks += [t for t in sent(checklist) if not decode_check(t.data).is_response]
    assert len(checks) == 1


def test_the_caller_goes_on_as_soon_as_it_hears_the_other_side() -> None:
    """Both have sent on that pair and theirs has come: their NAT lets ours in."""
    checklist = make()
    until(checklist, 0.21)
    checklist.receive(TO_SEEN, request(), 0.21)
    assert checklist.nominated is checklist.pairs.numbered(2)
    checklist.resume(0.3)  # it did not carry the IKE_SA_INIT
    assert checklist.nominated is None
    checklist.receive(TO_SEEN, response(2), 0.4)
    assert checklist.nominated is checklist.pairs.numbered(2)


def test_a_failed_pair_is_tried_again() -> None:
    checklist = make()
    until(checklist, 10.0)
    assert checklist.is_exhausted
    checklist.receive(TO_SEEN, request(), 20.0)
    assert not checklist.is_exhausted
    assert [t.path for t in sent(checklist)] == [TO_SEEN, TO_SEEN]
    assert checklist.receive(TO_SEEN, response(2), 20.1) is None
    assert states(checklist) == ["FAILED", "SUCCEEDED"]


def test_a_pair_that_succeeded_is_only_answered() -> None:
    checklist = make(is_initiator=False)
    until(checklist, 0.05)
    assert checklist.receive(TO_HOST, response(1, key=KI), 0.06) is None
    sent(checklist)
    checklist.receive(TO_HOST, request(key=KI), 0.06)
    assert [decode_check(t.data).is_response for t in sent(checklist)] == [True]


def test_an_unknown_source_becomes_peer_reflexive() -> None:
    checklist = make()
    until(checklist, 0.3)
    checklist.receive(Path(HOME, STRANGER), request(priority=0x0080FFFF), 0.3)
    assert [t.path.remote for t in sent(checklist)] == [STRANGER, STRANGER]
    pair = checklist.pairs.find(HOME, STRANGER)
    assert pair is not None
    assert pair.number == 3  # existing numbers stay
    assert pair.priority == (PRIORITY_PEER_REFLEXIVE << 32 | 0) + 2 * PRIORITY_HOST + 1
    assert [p.number for p in checklist.pairs] == [1, 3, 2]  # put in by priority
    assert checklist.receive(Path(HOME, STRANGER), response(3), 0.4) is None
    assert pair.state is PairState.SUCCEEDED


def test_a_check_to_another_local_address_makes_a_pair_of_its_own() -> None:
    checklist = make()
    other = Address.parse("192.168.9.9", 4500)
    checklist.receive(Path(other, PEER_SEEN), request(), 0.3)
    pair = checklist.pairs.find(other, PEER_SEEN)
    assert pair is not None
    assert pair.number == 3


def test_peer_reflexive_endpoints_are_bounded() -> None:
    """A replayed check with 1,000 sources: eight pairs, and answers at a bounded rate."""
    checklist = make()
    sent(checklist)
    for index in range(1000):
        source = Address(bytes([198, 18, index >> 8, index & 255]), 4500)
        checklist.receive(Path(HOME, source), request(), 0.001)
    assert len(checklist.pairs) == 10
    answers = [t for t in checklist.outputs if decode_check(t.data).is_response]
    assert len(answers) == 64


@pytest.mark.parametrize("source", ["255.255.255.255", "224.0.0.1", "127.0.0.1", "0.0.0.0"])
def test_impossible_sources_get_no_answer(source: str) -> None:
    checklist = make()
    sent(checklist)
    path = Path(HOME, Address.parse(source, 4500))
    assert checklist.receive(path, request(), 0.01) == "check_source"
    assert not sent(checklist)


def test_a_check_starts_the_responders_checks() -> None:
    checklist = make(is_initiator=False, start=False)
    checklist.receive(TO_SEEN, request(key=KI), 3.0)
    assert checklist.started_at == 3.0
    assert [decode_check(t.data).is_response for t in sent(checklist)] == [True, False]


# -- receiving responses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        TO_SEEN,  # another remote than pair 1 has
        Path(Address.parse("192.168.9.9", 4500), PEER_HOST),  # to another local address
        Path(Address.parse("192.168.1.10", 4501), PEER_HOST),
        Path(HOME, STRANGER),
    ],
)
def test_a_response_must_come_from_where_the_check_went(path: Path) -> None:
    checklist = make()
    assert checklist.receive(path, response(1), 0.01) == "check_unsolicited"
    assert states(checklist)[0] == "IN_PROGRESS"  # and its state is left alone


def test_a_response_to_a_check_that_was_not_sent_is_ignored() -> None:
    checklist = make()
    assert checklist.receive(TO_SEEN, response(2), 0.01) == "check_unsolicited"
    assert states(checklist)[1] == "WAITING"


def test_a_response_that_shows_a_new_local_endpoint_counts_for_its_pair() -> None:
    checklist = make()
    until(checklist, 0.05)
    assert checklist.receive(TO_SEEN, response(2, seen=STRANGER), 0.1) is None
    assert states(checklist)[1] == "SUCCEEDED"


def test_a_base_that_the_kernel_chooses_matches_any_local_address() -> None:
    anything = Address.parse("0.0.0.0", 4500)
    local = (
        LocalEndpoint(
            priority=PRIORITY_SERVER_REFLEXIVE,
            type=EndpointType.SERVER_REFLEXIVE,
            address=SEEN,
            base=anything,
        ),
    )
    checklist = make(local=local)
    until(checklist, 0.05)
    assert checklist.receive(TO_SEEN, response(2), 0.1) is None


# -- nomination ----------------------------------------------------------------------------------


def test_the_best_pair_is_chosen_at_once() -> None:
    checklist = make()
    checklist.receive(TO_HOST, response(1), 0.004)
    assert checklist.nominated is checklist.pairs.numbered(1)
    assert checklist.nominated is not None
    assert checklist.nominated.rtt == pytest.approx(0.004)
    sent(checklist)
    assert checklist.next_timeout() is None  # and no more checks are sent


def test_an_unanswered_private_pair_does_not_hold_up() -> None:
    checklist = make()
    until(checklist, 0.026)
    checklist.receive(TO_SEEN, response(2), 0.105)
    assert checklist.nominated is checklist.pairs.numbered(2)


PUBLIC = Address.parse("198.51.100.77", 4500)
PUBLIC_REMOTE = (MeEndpoint.of(EndpointType.HOST, PUBLIC), REMOTE[1])


def test_a_better_public_pair_is_waited_for_one_round_trip_of_its_own() -> None:
    checklist = make(remote=PUBLIC_REMOTE)
    until(checklist, 0.026)
    # Pair 1 was asked at 0, pair 2 at 0.025; the answer to pair 2 takes 20 ms.
    checklist.receive(TO_SEEN, response(2), 0.045)
    assert checklist.nominated is checklist.pairs.numbered(2)  # pair 1 had its 20 ms


def test_a_better_pair_asked_late_holds_up_at_most_one_round_trip() -> None:
    checklist = make(remote=PUBLIC_REMOTE)
    sent(checklist)
    # The other side's check triggers pair 2; its answer comes 100 ms later.
    until(checklist, 0.026)
    until(checklist, 0.09)
    later = checklist.pairs.reveal(HOME, STRANGER, PRIORITY_HOST)
    assert later is not None
    checklist.receive(TO_SEEN, response(2), 0.125)
    assert checklist.nominated is None
    assert checklist.next_timeout() is not None
    until(checklist, 0.2249)
    assert checklist.nominated is None
    until(checklist, 0.2251)
    assert checklist.nominated is checklist.pairs.numbered(2)


def test_the_better_pair_wins_if_it_answers_meanwhile() -> None:
    checklist = make(remote=PUBLIC_REMOTE)
    until(checklist, 0.09)
    checklist.pairs.reveal(HOME, STRANGER, PRIORITY_HOST + 1)
    checklist.receive(TO_SEEN, response(2), 0.125)
    assert checklist.nominated is None
    until(checklist, 0.151)
    checklist.receive(Path(HOME, STRANGER), response(3), 0.2)
    assert checklist.nominated is checklist.pairs.numbered(3)


def test_a_relayed_pair_waits_for_direct_ones() -> None:
    relay = Address.parse("198.51.100.200", 40000)
    remote = (*REMOTE, MeEndpoint.of(EndpointType.RELAYED, relay, PRIORITY_RELAYED))
    checklist = make(remote=remote)
    until(checklist, 0.06)
    checklist.receive(Path(HOME, relay), response(3), 0.1)
    assert checklist.nominated is None
    until(checklist, 1.0)
    assert checklist.nominated is None
    until(checklist, 1.11)
    assert checklist.nominated is checklist.pairs.numbered(3)


def test_the_responder_goes_on_checking() -> None:
    checklist = make(is_initiator=False)
    until(checklist, 0.05)
    checklist.receive(TO_SEEN, response(2, key=KI), 0.1)
    assert checklist.nominated is checklist.pairs.numbered(2)
    assert checklist.next_timeout() is not None


def test_the_initiator_answers_after_it_has_chosen() -> None:
    checklist = make()
    checklist.receive(TO_HOST, response(1), 0.01)
    sent(checklist)
    checklist.receive(TO_SEEN, request(), 0.02)
    assert [decode_check(t.data).is_response for t in sent(checklist)] == [True]


def test_paused_checks_are_answered_and_resumed() -> None:
    checklist = make(is_initiator=False)
    sent(checklist)
    checklist.pause()
    assert checklist.next_timeout() is None
    checklist.receive(TO_SEEN, request(key=KI), 0.1)
    assert [decode_check(t.data).is_response for t in sent(checklist)] == [True]
    checklist.resume(0.5)
    assert {t.path for t in sent(checklist)} == {TO_HOST, TO_SEEN}


def test_the_next_candidate_after_a_path_that_failed() -> None:
    checklist = make()
    until(checklist, 0.026)
    checklist.receive(TO_SEEN, response(2), 0.105)
    first = checklist.nominated
    assert first is checklist.pairs.numbered(2)
    checklist.receive(TO_HOST, response(1), 0.2)  # came late, is kept
    assert checklist.nominated is first
    checklist.resume(3.0)
    assert checklist.nominated is checklist.pairs.numbered(1)
    checklist.resume(6.0)
    assert checklist.nominated is None
    assert checklist.is_exhausted
