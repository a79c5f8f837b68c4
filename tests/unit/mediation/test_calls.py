"""A client's side of ME_CONNECT, message by message: mediation.md §2, §4, §5."""

from __future__ import annotations

import random as stdlib_random
from typing import TYPE_CHECKING

import pytest

from agent.datagram import Address, Dropped, Path, Transmit
from agent.mediation.calls import Calls
from agent.mediation.endpoints import LocalEndpoint, collect
from agent.mediation.events import (
    ConnectFailed,
    ConnectFailure,
    ConnectProgress,
    ConnectRequested,
    ConnectStage,
    PeerOnline,
)
from agent.mediation.messages import BAD_SYNTAX, FAILED, ConnectMessage
from agent.mediation.settings import HEAD_START, MediationSettings
from agent.wire.codes import EndpointType, ExchangeType, NotifyType
from agent.wire.mediation import MeEndpoint
from agent.wire.message import Header, Message
from agent.wire.payloads import Identification, NotifyPayload, Payload
from tests.support.pair import seeded

if TYPE_CHECKING:
    from collections.abc import Callable

OWN = Identification.key_id(b"m" * 32)
LOWER = Identification.key_id(b"a" * 32)
HIGHER = Identification.key_id(b"z" * 32)
HOME = Address.parse("192.168.1.10", 4500)
OURS = b"cccccccc"
"""A connect ID as long as we make them, and one as strongSwan does."""
STRONGSWANS = b"cccc"
OFFER = (MeEndpoint.of(EndpointType.HOST, Address.parse("192.168.2.10", 4500)),)


def message(*payloads: Payload, is_response: bool = False) -> Message:
    header = Header(
        initiator_spi=b"i" * 8,
        responder_spi=b"r" * 8,
        exchange=ExchangeType.ME_CONNECT,
        is_initiator=True,
        is_response=is_response,
        message_id=0,
    )
    return Message(header, payloads)


def answer(*types: int) -> Message:
    return message(*(NotifyPayload(t) for t in types), is_response=True)


class FakeLine:
    """A mediation connection that keeps what it is given."""

    name = "line"

    def __init__(self) -> None:
        self.own_id: Identification | None = OWN
        self.requests: list[tuple[ConnectMessage, Callable[[Message | None, float], None]]] = []
        self.hosts = [HOME]

    def offers(self) -> tuple[LocalEndpoint, ...]:
        return collect(self.hosts, [])

    def excluded(self) -> set[Address]:
        return set(self.hosts)

    def request(
        self,
        content: ConnectMessage,
        on_response: Callable[[Message | None, float], None],
        now: float,
    ) -> None:
        self.requests.append((content, on_response))


class Bench:
    """Calls on a fake line."""

    def __init__(self, settings: MediationSettings | None = None) -> None:
        self.line = FakeLine()
        self.outputs: list[object] = []
        self.accepted = {LOWER.key, HIGHER.key}
        self.calls = Calls(
            self.line,
            random=seeded("calls"),
            settings=settings or MediationSettings(),
            accepts=lambda who: who.key in self.accepted,
            answers=lambda who, connect_id: True,
            emit=self.outputs.append,
        )

    def receive(self, content: ConnectMessage, now: float = 0.0) -> list[Payload]:
        return self.calls.on_connect_message(message(*content.payloads()), now)

    def reply(self, *types: int, index: int = -1, now: float = 0.1) -> None:
        self.line.requests[index][1](answer(*types), now)

    def of(self, kind: type) -> list[object]:
        return [o for o in self.outputs if isinstance(o, kind)]

    def failure(self) -> ConnectFailed:
        (event,) = self.of(ConnectFailed)
        assert isinstance(event, ConnectFailed)
        return event


def question(
    who: Identification = HIGHER, connect_id: bytes | None = OURS, **changes: object
) -> ConnectMessage:
    values: dict[str, object] = {
        "peer": who,
        "connect_id": connect_id,
        "key": b"i" * 16,
        "endpoints": OFFER,
    }
    return ConnectMessage(**(values | changes))  # type: ignore[arg-type]


# -- initiator -----------------------------------------------------------------------------------


def test_what_is_asked() -> None:
    bench = Bench()
    connect_id = bench.calls.connect(HIGHER, 0.0)
    ((content, _),) = bench.line.requests
    assert content.peer == HIGHER
    assert content.connect_id == connect_id
    assert 4 <= len(connect_id) <= 16
    assert content.is_callback
    assert not content.is_response
    assert content.key is not None
    assert 16 <= len(content.key) <= 32
    assert [e.address for e in content.endpoints] == [HOME]
    assert bench.calls.expected(connect_id) == HIGHER
    assert not bench.calls.answers(connect_id)


def test_id_and_key_are_fresh_for_every_attempt() -> None:
    bench = Bench()
    seen = set()
    for _ in range(5):
        bench.calls.abandon(bench.calls.connect(HIGHER, 0.0))
        content = bench.line.requests[-1][0]
        seen |= {content.connect_id, content.key}
    assert len(seen) == 10


@pytest.mark.parametrize(
    ("types", "reason", "waiting"),
    [
        ((NotifyType.ME_CONNECT_FAILED,), ConnectFailure.NOT_REACHABLE, True),
        ((NotifyType.INVALID_SYNTAX,), ConnectFailure.REFUSED, False),
        ((NotifyType.TEMPORARY_FAILURE,), ConnectFailure.REFUSED, False),
    ],
)
def test_the_mediator_says_no(
    types: tuple[int, ...], reason: ConnectFailure, waiting: bool
) -> None:
    bench = Bench()
    bench.calls.connect(HIGHER, 0.0)
    bench.reply(*types)
    assert bench.failure().reason is reason
    assert bench.failure().waiting is waiting
    assert len(bench.calls) == 0


def test_no_response_at_all() -> None:
    bench = Bench()
    bench.calls.connect(HIGHER, 0.0)
    bench.line.requests[0][1](None, 40.0)
    assert bench.failure().reason is ConnectFailure.MEDIATOR_SILENT


def test_relayed_then_silence() -> None:
    bench = Bench()
    bench.calls.connect(HIGHER, 0.0)
    bench.reply(now=1.0)
    stages = [e.stage for e in bench.of(ConnectProgress) if isinstance(e, ConnectProgress)]
    assert stages == [ConnectStage.ASKED, ConnectStage.RELAYED]
    assert bench.calls.next_timeout() == 21.0  # counted from the first response
    bench.calls.handle_timer(20.9)
    assert not bench.of(ConnectFailed)
    bench.calls.handle_timer(21.0)
    assert bench.failure().reason is ConnectFailure.TIMEOUT


def test_an_answer_starts_the_checks_at_once() -> None:
    bench = Bench()
    connect_id = bench.calls.connect(HIGHER, 0.0)
    assert bench.receive(question(HIGHER, connect_id, is_response=True)) == []
    assert len(bench.of(Transmit)) == 1
    bench.reply()  # the response to the question comes later: no harm
    assert not bench.of(ConnectFailed)


@pytest.mark.parametrize(
    "wrong",
    [
        question(HIGHER, b"other", is_response=True),
        question(LOWER, None, is_response=True),
        question(LOWER, is_response=True),
    ],
)
def test_an_answer_to_nothing_is_refused(wrong: ConnectMessage) -> None:
    bench = Bench()
    bench.calls.connect(HIGHER, 0.0)
    assert bench.receive(wrong) in ([FAILED], [BAD_SYNTAX])
    assert not bench.of(Transmit)


def test_an_answer_of_somebody_else_is_refused() -> None:
    bench = Bench()
    connect_id = bench.calls.connect(HIGHER, 0.0)
    assert bench.receive(question(LOWER, connect_id, is_response=True)) == [FAILED]
    assert not bench.of(Transmit)


def test_an_answer_with_our_own_key_is_refused() -> None:
    bench = Bench()
    connect_id = bench.calls.connect(HIGHER, 0.0)
    key = bench.line.requests[0][0].key
    assert bench.receive(question(HIGHER, connect_id, is_response=True, key=key)) == [FAILED]


def test_a_second_answer_changes_nothing() -> None:
    bench = Bench()
    connect_id = bench.calls.connect(HIGHER, 0.0)
    bench.receive(question(HIGHER, connect_id, is_response=True))
    assert bench.receive(question(HIGHER, connect_id, is_response=True, key=b"x" * 16)) == []
    assert len(bench.of(Transmit)) == 1


def test_a_forwarded_refusal_ends_it() -> None:
    bench = Bench()
    bench.calls.connect(HIGHER, 0.0)
    bench.reply()
    assert bench.receive(ConnectMessage(peer=HIGHER, has_failed=True)) == []
    assert bench.failure().reason is ConnectFailure.REFUSED


@pytest.mark.parametrize(
    "other",
    [
        ConnectMessage(peer=LOWER, has_failed=True),
        ConnectMessage(peer=HIGHER, connect_id=b"stale", has_failed=True),
    ],
)
def test_a_refusal_of_something_else_is_ignored(other: ConnectMessage) -> None:
    bench = Bench()
    bench.calls.connect(HIGHER, 0.0)
    assert bench.receive(other) == []
    assert not bench.of(ConnectFailed)


def test_not_registered_or_without_an_address() -> None:
    bench = Bench()
    bench.line.own_id = None
    bench.calls.connect(HIGHER, 0.0)
    assert bench.failure().reason is ConnectFailure.NOT_REGISTERED
    bench = Bench()
    bench.line.hosts = []
    bench.calls.connect(HIGHER, 0.0)
    assert bench.failure().reason is ConnectFailure.NO_PATH
    assert not bench.line.requests


def test_attempts_are_bounded() -> None:
    bench = Bench(MediationSettings(max_attempts=3))
    for index in range(5):
        bench.calls.connect(Identification.key_id(bytes([index]) * 32), 0.0)
    assert len(bench.calls) == 3
    assert len(bench.of(ConnectFailed)) == 2


def test_losing_the_registration_fails_only_what_needs_it() -> None:
    bench = Bench()
    running = bench.calls.connect(HIGHER, 0.0)
    bench.receive(question(HIGHER, running, is_response=True))
    asked = bench.calls.connect(LOWER, 0.0)
    bench.calls.registration_lost()
    assert bench.failure().connect_id == asked
    assert bench.calls.expected(running) == HIGHER


# -- callbacks -----------------------------------------------------------------------------------


def test_a_callback_that_was_asked_for_is_told_once() -> None:
    bench = Bench()
    bench.calls.connect(HIGHER, 0.0)
    bench.reply(NotifyType.ME_CONNECT_FAILED)
    callback = ConnectMessage(peer=HIGHER, is_callback=True)
    assert bench.receive(callback) == []
    assert bench.receive(callback) == []
    assert len(bench.of(PeerOnline)) == 1


def test_a_callback_that_nobody_asked_for_is_ignored() -> None:
    bench = Bench()
    assert bench.receive(ConnectMessage(peer=HIGHER, is_callback=True)) == []
    assert not bench.of(PeerOnline)


def test_callbacks_are_bounded_and_end_with_the_registration() -> None:
    bench = Bench(MediationSettings(max_callbacks=4))
    for index in range(10):
        bench.calls.connect(Identification.key_id(bytes([index]) * 32), 0.0)
        bench.reply(NotifyType.ME_CONNECT_FAILED)
    assert len(bench.calls._waiting) == 4
    bench.calls.registration_lost()
    assert not bench.calls._waiting


# -- responder -----------------------------------------------------------------------------------


def test_a_question_is_answered() -> None:
    bench = Bench()
    assert bench.receive(question()) == []
    ((content, _),) = bench.line.requests
    assert content.is_response
    assert not content.is_callback
    assert content.connect_id == OURS
    assert content.key not in (None, b"i" * 16)
    assert bench.of(ConnectRequested)
    assert bench.calls.answers(OURS)
    assert not bench.of(Transmit)  # checks begin when the mediator has acknowledged
    bench.reply()
    assert len(bench.of(Transmit)) == 1


def test_strongswan_is_answered_after_a_head_start() -> None:
    """Its thread that takes the mediator's response may be slower than the one for our answer."""
    bench = Bench()
    assert bench.receive(question(connect_id=STRONGSWANS), 7.0) == []
    assert bench.of(ConnectRequested)
    assert bench.calls.next_timeout() == 7.0 + HEAD_START
    bench.calls.handle_timer(7.0 + HEAD_START / 2)
    assert not bench.line.requests
    bench.calls.handle_timer(7.0 + HEAD_START)
    ((content, _),) = bench.line.requests
    assert content.is_response
    assert content.connect_id == STRONGSWANS
    bench.calls.handle_timer(8.0)
    assert len(bench.line.requests) == 1
    bench.reply(now=8.0)
    assert len(bench.of(Transmit)) == 1


def test_a_registration_lost_during_the_head_start() -> None:
    bench = Bench()
    bench.receive(question(connect_id=STRONGSWANS))
    bench.line.own_id = None
    bench.calls.registration_lost()
    assert bench.failure().reason is ConnectFailure.NOT_REGISTERED
    bench.calls.handle_timer(1.0)
    assert not bench.line.requests


@pytest.mark.parametrize(
    "content",
    [
        question(Identification.key_id(b"stranger")),
        question(OWN),
        question(endpoints=()),
        question(endpoints=(MeEndpoint.of(EndpointType.HOST, HOME),)),  # our own address
        question(endpoints=(MeEndpoint.of(EndpointType.HOST, Address.parse("127.0.0.1", 4500)),)),
    ],
)
def test_refused(content: ConnectMessage) -> None:
    bench = Bench()
    bench.accepted.add(OWN.key)
    assert bench.receive(content) == [FAILED]
    assert not bench.line.requests
    assert not bench.of(ConnectRequested)


def test_incomplete_or_malformed_questions() -> None:
    bench = Bench()
    assert bench.receive(question(key=None)) == [BAD_SYNTAX]
    assert bench.receive(question(connect_id=None)) == [BAD_SYNTAX]
    assert bench.calls.on_connect_message(message(), 0.0) == [BAD_SYNTAX]
    assert BAD_SYNTAX.type == NotifyType.INVALID_SYNTAX


def test_the_same_question_again_is_not_a_new_attempt() -> None:
    bench = Bench()
    bench.receive(question())
    assert bench.receive(question()) == []
    assert len(bench.line.requests) == 1
    assert bench.receive(question(LOWER)) == [FAILED]  # another peer with the same connect ID


def test_a_new_question_replaces_the_old_one() -> None:
    bench = Bench()
    bench.receive(question())
    assert bench.receive(question(connect_id=b"dddd")) == []
    assert bench.failure().connect_id == OURS
    assert bench.failure().reason is ConnectFailure.REPLACED
    assert bench.failure().replaced_by == b"dddd"
    assert len(bench.calls) == 1


def test_questions_are_rate_limited() -> None:
    bench = Bench()
    accepted = [bench.receive(question(connect_id=b"%04d" % i)) == [] for i in range(100)]
    assert sum(accepted) == 20
    assert bench.receive(question(connect_id=b"late"), 10.0) == []


def test_the_caller_has_gone() -> None:
    bench = Bench()
    bench.receive(question())
    bench.reply(NotifyType.ME_CONNECT_FAILED)
    assert bench.failure().reason is ConnectFailure.NOT_REACHABLE
    assert not bench.of(Transmit)


def test_checks_for_unknown_connect_ids_are_not_ours() -> None:
    bench = Bench()
    data = bytes(16) + bytes.fromhex("292025080000000200000054") + bytes(56)
    assert not bench.calls.receive_check(Path(HOME, HOME), data, 0.0)
    bench.receive(question())
    assert not bench.calls.receive_check(Path(HOME, HOME), data, 0.0)
    assert not bench.outputs[2:]


def test_noise_never_raises_and_keeps_no_state() -> None:
    bench = Bench()
    bench.receive(question(connect_id=STRONGSWANS))
    noise = stdlib_random.Random(7)
    valid = bytes.fromhex(
        "00000000000000000000000000000000292025080000000200000054"
        "2900000c0000a00563636363290000100000a0030080ffff00020000"
        "0000001c0000a0077a89a0bf8d010de414ab913420f20a3a88fff2c0"
    )
    before = len(bench.outputs)
    for _ in range(3000):
        data = bytearray(valid)
        for _ in range(noise.randrange(1, 5)):
            data[noise.randrange(len(data))] = noise.randrange(256)
        bench.calls.receive_check(Path(HOME, HOME), bytes(data[: noise.randrange(1, 85)]), 0.0)
        bench.calls.receive_check(Path(HOME, HOME), bytes(data), 0.0)
    assert all(isinstance(o, Dropped) for o in bench.outputs[before:])


# -- both at once --------------------------------------------------------------------------------


def test_the_lower_identity_refuses_the_others_question() -> None:
    bench = Bench()
    own = bench.calls.connect(HIGHER, 0.0)
    assert bench.receive(question(HIGHER)) == [FAILED]
    assert bench.calls.expected(own) == HIGHER


def test_the_higher_identity_gives_its_own_up() -> None:
    bench = Bench()
    own = bench.calls.connect(LOWER, 0.0)
    assert bench.receive(question(LOWER)) == []
    assert bench.failure().connect_id == own
    assert bench.failure().replaced_by == OURS
    bench.reply(index=0)  # the late response to what was given up changes nothing
    assert bench.calls.answers(OURS)


def test_connecting_to_a_peer_that_is_calling_joins_its_attempt() -> None:
    bench = Bench()
    bench.receive(question())
    assert bench.calls.connect(HIGHER, 0.0) == OURS
    assert len(bench.line.requests) == 1
