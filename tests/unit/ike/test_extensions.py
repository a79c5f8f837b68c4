"""The hooks of extensions: which, when, on which side, and what their errors do."""

from __future__ import annotations

import pytest

from agent.ike.errors import NoAdditionalSas, ProtocolError
from agent.ike.events import CloseReason, IkeSaClosed, IkeSaEstablished
from agent.ike.extension import Extension
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.payloads import NotifyPayload
from tests.support.pair import A_TO_B, Pair, established, make_pair


class Recorder(Extension):
    """Writes down each hook, adds a notify to whatever goes out, and fails where told to."""

    __slots__ = ("at", "calls", "error", "fails_in")

    def __init__(self, fails_in: str = "", error: ProtocolError | None = None) -> None:
        self.calls: list[str] = []
        self.fails_in = fails_in
        self.error = error
        self.at: float | None = None

    def _note(self, text: str) -> None:
        self.calls.append(text)
        if text == self.fails_in and self.error is not None:
            raise self.error

    def on_attach(self, sa) -> None:
        self._note("attach")

    def on_request_building(self, sa, exchange, payloads) -> None:
        self._note(f"building {exchange.name}")
        payloads.append(NotifyPayload(NotifyType.ME_MEDIATION))

    def on_request(self, sa, message, payloads, now) -> None:
        assert message.notify(NotifyType.ME_MEDIATION)
        if message.header.exchange == ExchangeType.IKE_AUTH:
            assert sa.remote_id.text == "a@example.org"
        self._note(f"request {message.header.exchange.name}")
        payloads.append(NotifyPayload(NotifyType.ME_RESPONSE))

    def on_response(self, sa, exchange, message, now) -> None:
        if exchange != ExchangeType.CREATE_CHILD_SA:  # whose request no extension answers
            assert message.notify(NotifyType.ME_RESPONSE)
        self._note(f"response {exchange.name}")

    def on_established(self, sa, now) -> None:
        assert sa.established
        self._note("established")
        self.at = now + 5

    def on_rekeyed(self, old, new, now) -> None:
        self._note("rekeyed")

    def on_closed(self, sa, reason, now) -> None:
        self._note(f"closed {reason}")

    def next_timeout(self) -> float | None:
        return self.at

    def on_timer(self, sa, now) -> None:
        assert now >= self.at
        self._note("timer")
        self.at = None


def _pair(ours: Recorder, theirs: Recorder) -> Pair:
    pair = make_pair(factories=[lambda sa, message: theirs])
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now, [ours])
    pair.settle()
    return pair


def test_a_life() -> None:
    ours, theirs = Recorder(), Recorder()
    pair = _pair(ours, theirs)
    pair.sleep(6)
    pair.a.ike.check_liveness(pair.a.sa.ike_id, pair.now)
    pair.settle()
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    pair.settle()
    pair.a.ike.close(pair.a.sa.ike_id, pair.now)
    pair.settle()
    assert ours.calls == [
        "attach",
        "building IKE_SA_INIT",
        "response IKE_SA_INIT",
        "building IKE_AUTH",
        "response IKE_AUTH",
        "established",
        "timer",
        "building INFORMATIONAL",
        "response INFORMATIONAL",
        "building CREATE_CHILD_SA",
        "rekeyed",
        "response CREATE_CHILD_SA",
        "building INFORMATIONAL",
        "closed deleted",
    ]
    assert theirs.calls == [
        "attach",
        "request IKE_SA_INIT",
        "request IKE_AUTH",
        "established",
        "timer",
        "request INFORMATIONAL",
        "rekeyed",
        "closed by_peer",
    ]


def test_events_follow_the_response() -> None:
    """mediation.md §2: what `on_established` sends comes after the response of IKE_AUTH."""

    class Eager(Extension):
        __slots__ = ()

        def on_established(self, sa, now) -> None:
            sa.table.request(sa.ike_id, 37, [], lambda m, at: None, now)

    pair = make_pair(factories=[lambda sa, message: Eager()])
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        a --> b: IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT)
        a <-- b: IKE_AUTH! IDr AUTH
        a <-- b: INFORMATIONAL?
        a --> b: INFORMATIONAL!
        """
    )


@pytest.mark.parametrize("stage", ["IKE_SA_INIT", "IKE_AUTH"])
def test_the_responder_refuses(stage: str) -> None:
    theirs = Recorder(f"request {stage}", NoAdditionalSas())
    ours = Recorder()
    pair = _pair(ours, theirs)
    pair.sleep(10)
    assert f"a <-- b: {stage}! N(NO_ADDITIONAL_SAS)" in [line for _, line in pair.sent]
    closed = pair.a.last(IkeSaClosed)
    assert (closed.reason, closed.detail) == (CloseReason.REFUSED, "NO_ADDITIONAL_SAS")
    assert ours.calls[-1] == "closed refused"
    assert pair.b.events(IkeSaEstablished) == []
    pair.sleep(40)
    assert not pair.b.ike._by_spi


def test_the_initiator_finds_no_mediator() -> None:
    """Unproven in IKE_SA_INIT: the attempt goes on for a while and then says why it ends."""
    ours = Recorder("response IKE_SA_INIT", ProtocolError("this is no mediation server"))
    pair = _pair(ours, Recorder())
    assert pair.a.events(IkeSaClosed) == []
    pair.sleep(10)
    closed = pair.a.last(IkeSaClosed)
    assert closed.detail == "this is no mediation server"
    assert not closed.established


def test_the_initiator_refuses_after_the_proof() -> None:
    ours = Recorder("response IKE_AUTH", NoAdditionalSas("not like this"))
    pair = _pair(ours, Recorder())
    pair.settle()
    closed = pair.a.last(IkeSaClosed)
    assert (closed.reason, closed.detail) == (CloseReason.REFUSED, "not like this")
    assert pair.b.last(IkeSaClosed).reason is CloseReason.BY_PEER
    assert ours.calls[-1] == "closed refused"


def test_half_open_extensions_are_told_too() -> None:
    theirs = Recorder()
    pair = make_pair(factories=[lambda sa, message: theirs])
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now, [Recorder()])
    pair.play("a --> b: IKE_SA_INIT? SA KE No N(ME_MEDIATION)")
    pair.pending.clear()
    pair.a.ike.close(1, pair.now)
    pair.sleep(60)
    assert theirs.calls[-1] == "closed timeout"
    assert pair.b.events(IkeSaClosed) == []


def test_error_of_a_claimed_exchange_does_not_end_the_sa() -> None:
    """mediation.md §2: INVALID_SYNTAX as an answer to ME_CONNECT is only that."""

    class Strict(Extension):
        __slots__ = ()

        def claims_exchange(self, exchange: int) -> bool:
            return exchange == ExchangeType.ME_CONNECT

        def handle_exchange(self, sa, message, now):
            raise ProtocolError("no IDp", notify=NotifyType.INVALID_SYNTAX)

    pair = established(make_pair(factories=[lambda sa, message: Strict()]))
    answers = []
    pair.a.ike.request(
        pair.a.sa.ike_id, ExchangeType.ME_CONNECT, [], lambda m, now: answers.append(m), pair.now
    )
    pair.settle()
    assert answers[0].notify(NotifyType.INVALID_SYNTAX) is not None
    assert pair.a.sa.established
    assert pair.b.sa.established
