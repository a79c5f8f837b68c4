"""The mediation server, message by message: mediation.md §1, §2, §5; THREATS 22."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from agent.datagram import Address, Path
from agent.ike.errors import NoAdditionalSas
from agent.ike.events import CloseReason
from agent.mediation.events import PeerGone, PeerRegistered
from agent.mediation.identity import accept_hash
from agent.mediation.messages import (
    BAD_SYNTAX,
    FAILED,
    ConnectMessage,
    accepts_replaced,
    decode_connect,
    reflexive_question,
)
from agent.mediation.server import MediationServer
from agent.mediation.server_extension import ServerExtension
from agent.mediation.settings import HEAD_START, MediationSettings
from agent.wire.codes import EndpointType, ExchangeType, NotifyType
from agent.wire.mediation import MeEndpoint
from agent.wire.message import Header, Message
from agent.wire.payloads import Identification, NotifyPayload, Payload, SaPayload
from tests.support.pair import seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.ike.sa import IkeSa
    from agent.ike.table import Ike

SERVER = Address.parse("203.0.113.10", 4500)
OFFER = (MeEndpoint.of(EndpointType.HOST, Address.parse("192.168.2.10", 4500)),)


def message(
    *payloads: Payload, exchange: int = ExchangeType.ME_CONNECT, is_response: bool = False
) -> Message:
    header = Header(
        initiator_spi=b"i" * 8,
        responder_spi=b"r" * 8,
        exchange=exchange,
        is_initiator=True,
        is_response=is_response,
        message_id=0,
    )
    return Message(header, payloads)


@dataclass
class FakeSa:
    """As much of an IKE SA as the extension looks at."""

    ike_id: int
    remote_id: Identification
    path: Path
    extensions: tuple[object, ...] = ()


@dataclass
class FakeIke:
    """Keeps the requests."""

    requests: list[tuple[int, ConnectMessage, Callable[[Message | None, float], None]]] = field(
        default_factory=list
    )
    closed: list[int] = field(default_factory=list)

    def request(
        self,
        ike_id: int,
        exchange: int,
        payloads: Sequence[Payload],
        on_response: Callable[[Message | None, float], None],
        now: float,
    ) -> None:
        assert exchange == ExchangeType.ME_CONNECT
        content = decode_connect(message(*payloads))
        assert content is not None
        self.requests.append((ike_id, content, on_response))

    def close(self, ike_id: int, now: float, *, silent: bool = False) -> None:
        self.closed.append(ike_id)


class Bench:
    """A server with peers that are registered by hand."""

    def __init__(
        self,
        settings: MediationSettings | None = None,
        allowed: Callable[[Identification, Identification], bool] | None = None,
    ) -> None:
        self.server = MediationServer(
            random=seeded("s"), settings=settings or MediationSettings(), allowed=allowed
        )
        self.ike = FakeIke()
        self.server.bind(cast("Ike", self.ike))
        self.sas: dict[int, tuple[ServerExtension, FakeSa]] = {}

    def join(
        self, name: str | Identification, *accepts: str, listed: bool = True
    ) -> tuple[ServerExtension, int]:
        """`name` registers; `listed` False: without N(HG_ACCEPTS), as strongSwan."""
        identity = Identification.parse(name) if isinstance(name, str) else name
        ike_id = len(self.sas) + 1
        remote = Address(ike_id.to_bytes(4, "big"), 4500)
        sa = FakeSa(ike_id, identity, Path(SERVER, remote))
        peer = ServerExtension(self.server)
        self.sas[ike_id] = (peer, sa)
        peer.on_attach(cast("IkeSa", sa))
        hashes = [accept_hash(Identification.parse(a)) for a in accepts]
        payloads = [accepts_replaced(hashes)] if listed else []
        peer.on_request(
            cast("IkeSa", sa), message(*payloads, exchange=ExchangeType.IKE_AUTH), [], 0.0
        )
        peer.on_established(cast("IkeSa", sa), 0.0)
        return peer, ike_id

    def leave(self, ike_id: int) -> None:
        peer, sa = self.sas[ike_id]
        peer.on_closed(cast("IkeSa", sa), CloseReason.BY_PEER, 0.0)

    def say(self, ike_id: int, content: ConnectMessage, now: float = 0.0) -> list[Payload]:
        peer, sa = self.sas[ike_id]
        return peer.handle_exchange(cast("IkeSa", sa), message(*content.payloads()), now)

    def events(self) -> list[object]:
        out = []
        while (event := self.server.poll_output()) is not None:
            out.append(event)
        return out


OURS = b"cccccccc"
"""A connect ID as long as we make them, and one as strongSwan does."""
STRONGSWANS = b"cccc"


def question(called: str, connect_id: bytes = OURS, **changes: object) -> ConnectMessage:
    values: dict[str, object] = {
        "peer": Identification.parse(called),
        "connect_id": connect_id,
        "key": b"k" * 16,
        "endpoints": OFFER,
        "is_callback": True,
    }
    return ConnectMessage(**(values | changes))  # type: ignore[arg-type]


def test_extension_only_for_those_who_ask_for_mediation() -> None:
    bench = Bench()
    init = message(NotifyPayload(NotifyType.ME_MEDIATION), exchange=ExchangeType.IKE_SA_INIT)
    sa = cast("IkeSa", None)
    assert isinstance(bench.server.factory(sa, init), ServerExtension)
    assert bench.server.factory(sa, message(exchange=ExchangeType.IKE_SA_INIT)) is None
    assert bench.server.factory(sa, None) is None


def test_mediation_is_repeated_and_our_kind_is_shown() -> None:
    bench = Bench()
    peer, ike_id = bench.join("a@x")
    payloads: list[Payload] = []
    sa = cast("IkeSa", bench.sas[ike_id][1])
    peer.on_request(sa, message(exchange=ExchangeType.IKE_SA_INIT), payloads, 0.0)
    assert [p.type for p in payloads if isinstance(p, NotifyPayload)] == [
        NotifyType.ME_MEDIATION,
        NotifyType.HG_ACCEPTS,
    ]


@pytest.mark.parametrize("exchange", [ExchangeType.IKE_AUTH, ExchangeType.INFORMATIONAL])
def test_the_reflexive_endpoint_is_the_source_of_the_request(exchange: int) -> None:
    bench = Bench()
    peer, ike_id = bench.join("a@x")
    sa = cast("IkeSa", bench.sas[ike_id][1])
    payloads: list[Payload] = []
    peer.on_request(sa, message(reflexive_question(), exchange=exchange), payloads, 0.0)
    (notify,) = payloads
    assert isinstance(notify, NotifyPayload)
    assert notify.data.hex() == "0040ffff01031194" + "00000001"
    payloads.clear()
    peer.on_request(sa, message(exchange=exchange), payloads, 0.0)
    assert not payloads


def test_child_sas_are_refused() -> None:
    bench = Bench()
    peer, ike_id = bench.join("a@x")
    sa = cast("IkeSa", bench.sas[ike_id][1])
    with pytest.raises(NoAdditionalSas):
        peer.on_request(sa, message(SaPayload(()), exchange=ExchangeType.IKE_AUTH), [], 0.0)


def test_relaying_a_question_and_its_answer() -> None:
    bench = Bench()
    _, i = bench.join("i@x")
    _, r = bench.join("r@x", "i@x")
    assert bench.say(i, question("R@X")) == []  # RFC822_ADDR ignores case
    ((to, relayed, _),) = bench.ike.requests
    assert to == r
    assert relayed.peer == Identification.parse("i@x")
    assert not relayed.is_callback  # never relayed
    assert (relayed.connect_id, relayed.key, relayed.endpoints) == (OURS, b"k" * 16, OFFER)
    answer = question("i@x", is_callback=False, is_response=True, key=b"r" * 16)
    assert bench.say(r, answer) == []
    to, relayed, _ = bench.ike.requests[-1]
    assert to == i
    assert relayed.peer == Identification.parse("r@x")
    assert relayed.is_response
    assert bench.say(r, answer) == [FAILED]  # once


def test_the_answer_to_strongswan_gives_it_a_head_start() -> None:
    """What follows our response to its question closely may be taken before it by its threads."""
    bench = Bench()
    _, i = bench.join("i@x")
    _, r = bench.join("r@x", "i@x")
    assert bench.say(i, question("r@x", STRONGSWANS), 7.0) == []
    assert [to for to, *_ in bench.ike.requests] == [r]  # the question goes on at once
    answer = question("i@x", STRONGSWANS, is_callback=False, is_response=True)
    assert bench.say(r, answer, 7.001) == []
    assert bench.say(r, answer, 7.002) == [FAILED]  # once
    assert bench.server.next_timeout() == 7.0 + HEAD_START
    bench.server.handle_timer(7.0 + HEAD_START / 2)
    assert len(bench.ike.requests) == 1
    bench.server.handle_timer(7.0 + HEAD_START)
    to, relayed, _ = bench.ike.requests[-1]
    assert to == i
    assert relayed.is_response
    assert bench.server.next_timeout() is None
    bench.server.handle_timer(8.0)
    assert len(bench.ike.requests) == 2


def test_an_answer_that_took_longer_than_the_head_start_is_not_held() -> None:
    bench = Bench()
    _, i = bench.join("i@x")
    _, r = bench.join("r@x", "i@x")
    bench.say(i, question("r@x", STRONGSWANS), 7.0)
    bench.say(r, question("i@x", STRONGSWANS, is_response=True), 7.0 + HEAD_START)
    assert [to for to, *_ in bench.ike.requests] == [r, i]


def test_a_caller_that_goes_during_its_head_start_is_told_nothing() -> None:
    bench = Bench()
    _, i = bench.join("i@x")
    _, r = bench.join("r@x", "i@x")
    bench.say(i, question("r@x", STRONGSWANS))
    bench.say(r, question("i@x", STRONGSWANS, is_response=True))
    bench.leave(i)
    bench.server.handle_timer(1.0)
    assert [to for to, *_ in bench.ike.requests] == [r]


def test_an_answer_before_the_response_is_relayed() -> None:
    """strongSwan sends its ME_RESPONSE before it answers the relayed request."""
    bench = Bench()
    _, i = bench.join("i@x")
    _, r = bench.join("r@x", "i@x")
    bench.say(i, question("r@x"))
    response_to_relayed = bench.ike.requests[0][2]
    assert bench.say(r, question("i@x", is_response=True)) == []
    response_to_relayed(message(is_response=True), 0.1)
    assert len(bench.ike.requests) == 2


@pytest.mark.parametrize(
    "answer",
    [
        question("i@x", b"other", is_response=True),
        question("third@x", is_response=True),
    ],
)
def test_answers_to_no_question_of_that_peer(answer: ConnectMessage) -> None:
    bench = Bench()
    _, i = bench.join("i@x")
    _, r = bench.join("r@x", "i@x")
    bench.join("third@x", "r@x")
    bench.say(i, question("r@x"))
    assert bench.say(r, answer) == [FAILED]
    assert len(bench.ike.requests) == 1


def test_the_caller_is_gone_when_the_answer_comes() -> None:
    bench = Bench()
    _, i = bench.join("i@x")
    _, r = bench.join("r@x", "i@x")
    bench.say(i, question("r@x"))
    bench.leave(i)
    assert bench.say(r, question("i@x", is_response=True)) == [FAILED]


@pytest.mark.parametrize("how", ["refused", "lost", "later"])
def test_a_refusal_is_forwarded(how: str) -> None:
    bench = Bench()
    _, i = bench.join("i@x")
    _, r = bench.join("r@x", "i@x")
    bench.say(i, question("r@x"))
    on_response = bench.ike.requests[0][2]
    if how == "refused":
        on_response(message(FAILED, is_response=True), 0.1)
    elif how == "lost":
        on_response(None, 40.0)
    else:
        on_response(message(is_response=True), 0.1)
        failed = ConnectMessage(peer=Identification.parse("i@x"), has_failed=True)
        assert bench.say(r, failed) == []
        assert bench.say(r, failed) == []  # nothing is left to be refused
    assert len(bench.ike.requests) == 2
    to, told, _ = bench.ike.requests[-1]
    assert to == i
    assert told.has_failed
    assert told.peer == Identification.parse("r@x")
    assert told.connect_id == OURS


def test_strongswan_is_told_a_refusal_in_the_least_words() -> None:
    bench = Bench()
    _, i = bench.join("i@x", listed=False)
    bench.join("r@x", "i@x")
    bench.say(i, question("r@x"))
    bench.ike.requests[0][2](message(FAILED, is_response=True), 0.1)
    told = bench.ike.requests[-1][1]
    assert told == ConnectMessage(peer=Identification.parse("r@x"), has_failed=True)


def test_syntax() -> None:
    bench = Bench()
    peer, i = bench.join("i@x")
    bench.join("r@x", "i@x")
    assert bench.say(i, question("r@x", key=None)) == [BAD_SYNTAX]
    assert bench.say(i, question("r@x", connect_id=None)) == [BAD_SYNTAX]
    sa = cast("IkeSa", bench.sas[i][1])
    assert peer.handle_exchange(sa, message(), 0.0) == [BAD_SYNTAX]
    assert bench.say(i, question("r@x", endpoints=())) == [FAILED]
    assert not bench.ike.requests


def test_unknown_offline_not_allowed_oneself_and_too_many_are_one_answer() -> None:
    bench = Bench(MediationSettings(connect_burst=8, connect_rate=0))
    _, i = bench.join("i@x", "i@x")
    _, gone = bench.join("gone@x", "i@x")
    bench.leave(gone)
    bench.join("closed@x", "somebody@x")
    bench.join("silent@x", listed=False)
    bench.join("r@x", "i@x")
    for called in ("unknown@x", "gone@x", "closed@x", "silent@x", "i@x"):
        assert bench.say(i, question(called)) == [FAILED]
    assert not bench.ike.requests
    for _ in range(10):
        last = bench.say(i, question("r@x"))
    assert last == [FAILED]
    assert len(bench.ike.requests) == 3


@pytest.mark.parametrize("allow", [True, False])
def test_configured_peers_are_decided_by_a_callable(allow: bool) -> None:
    asked = []

    def allowed(caller: Identification, called: Identification) -> bool:
        asked.append((caller.text, called.text))
        return allow

    bench = Bench(allowed=allowed)
    _, i = bench.join("i@x", listed=False)
    bench.join("r@x", listed=False)
    assert (bench.say(i, question("r@x")) == []) is allow
    assert asked == [("i@x", "r@x")]


def test_an_empty_list_accepts_nobody_whatever_is_configured() -> None:
    bench = Bench(allowed=lambda caller, called: True)
    _, i = bench.join("i@x")
    bench.join("r@x")
    assert bench.say(i, question("r@x")) == [FAILED]


def test_callback_once_and_after_the_registration_is_through() -> None:
    bench = Bench()
    _, i = bench.join("i@x")
    bench.say(i, question("r@x"))
    assert bench.server.next_timeout() is None
    _, r = bench.join("r@x", "i@x")
    assert not bench.ike.requests  # r's IKE_AUTH response goes out first
    assert bench.server.next_timeout() == 0.0
    bench.server.handle_timer(1.0)
    ((to, content, _),) = bench.ike.requests
    assert to == i
    assert content == ConnectMessage(peer=Identification.parse("r@x"), is_callback=True)
    bench.leave(r)
    bench.join("r@x", "i@x")
    bench.server.handle_timer(2.0)
    assert len(bench.ike.requests) == 1


def test_no_callback_without_being_asked_or_accepted() -> None:
    bench = Bench()
    _, i = bench.join("i@x")
    bench.say(i, question("r@x", is_callback=False))
    bench.say(i, question("q@x"))
    bench.join("r@x", "i@x")
    q, q_id = bench.join("q@x")
    bench.server.handle_timer(1.0)
    assert not bench.ike.requests
    hashes = accepts_replaced([accept_hash(Identification.parse("i@x"))])
    q.on_request(
        cast("IkeSa", bench.sas[q_id][1]),
        message(hashes, exchange=ExchangeType.INFORMATIONAL),
        [],
        2.0,
    )
    bench.server.handle_timer(2.0)
    assert len(bench.ike.requests) == 1


def test_callbacks_end_with_the_registration_of_who_asked() -> None:
    bench = Bench()
    _, i = bench.join("i@x")
    bench.say(i, question("r@x"))
    bench.leave(i)
    assert not bench.server._wanted
    bench.join("i@x")
    bench.join("r@x", "i@x")
    bench.server.handle_timer(1.0)
    assert not bench.ike.requests


@pytest.mark.parametrize(("late", "called_back"), [(0.0, 1), (1.0, 0)])
def test_a_callback_that_is_not_asked_for_again_is_forgotten(late: float, called_back: int) -> None:
    bench = Bench()
    _, i = bench.join("i@x")
    bench.say(i, question("r@x"), 10.0)
    bench.join("r@x", "i@x")
    bench.server.handle_timer(10.0 + MediationSettings().callback_lifetime + late)
    assert len(bench.ike.requests) == called_back
    assert not bench.server._wanted


def test_callbacks_are_bounded_per_caller_and_per_called() -> None:
    bench = Bench(MediationSettings(connect_burst=1e9))
    _, i = bench.join("i@x")
    for index in range(1000):
        bench.say(i, question(f"ghost{index}@x"))
    assert len(bench.server._wanted) == 32
    for index in range(400):
        _, caller = bench.join(f"caller{index}@x")
        bench.say(caller, question("popular@x"))
    assert len(bench.server._wanted[Identification.parse("popular@x").key]) == 256


def test_open_questions_to_one_peer_are_bounded_and_expire() -> None:
    bench = Bench(MediationSettings(connect_burst=1e9))
    _, i = bench.join("i@x")
    r, _ = bench.join("r@x", "i@x")
    relayed = [bench.say(i, question("r@x", b"%04d" % n)) == [] for n in range(50)]
    assert sum(relayed) == 16
    assert bench.say(i, question("r@x", b"late"), 200.0) == []
    assert len(r.questions or {}) == 1


def test_a_newer_registration_takes_the_place() -> None:
    bench = Bench()
    older, old_id = bench.join("i@x")
    _, new_id = bench.join("I@X")
    bench.join("r@x", "i@x")
    assert bench.ike.closed == [old_id]
    assert len(bench.server) == 2
    assert bench.say(old_id, question("r@x")) == [FAILED]
    bench.leave(old_id)
    assert len(bench.server) == 2
    assert bench.say(new_id, question("r@x")) == []
    assert older.identity is None


def test_events() -> None:
    bench = Bench()
    _, i = bench.join("i@x")
    bench.leave(i)
    kinds = [type(e) for e in bench.events()]
    assert kinds == [PeerRegistered, PeerGone]


def test_ten_thousand_peers_are_a_hash_table() -> None:
    """What a registration adds here is small, and a call looks at nobody else's."""
    bench = Bench()
    looked_at = 0

    class Counting(Identification):
        __slots__ = ()

        @property
        def key(self) -> tuple[int, bytes]:
            nonlocal looked_at
            looked_at += 1
            return (11, self.data)

    for index in range(10_000):
        bench.join(Counting(11, b"%032d" % index), listed=index % 2 == 0)
    assert len(bench.server) == 10_000
    _, caller = bench.join("i@x")
    bench.join("r@x", "i@x")
    looked_at = 0
    assert bench.say(caller, question("r@x")) == []
    assert bench.say(caller, question("unknown@x")) == [FAILED]
    assert looked_at == 0
    peer = bench.sas[1][0]
    held = sys.getsizeof(peer) + sys.getsizeof(peer.accepts)
    assert held < 400
    assert not hasattr(peer, "__dict__")


# -- anybody can make keys -----------------------------------------------------------------------


def _auth(bench: Bench, name: str, host: str, *hashes: bytes) -> tuple[ServerExtension, FakeSa]:
    """`name` has proven itself in IKE_AUTH from `host`; registered only by what follows."""
    sa = FakeSa(1000, Identification.parse(name), Path(SERVER, Address.parse(host, 4500)))
    peer = ServerExtension(bench.server)
    peer.on_attach(cast("IkeSa", sa))
    payloads = [accepts_replaced(hashes)] if hashes else []
    peer.on_request(cast("IkeSa", sa), message(*payloads, exchange=ExchangeType.IKE_AUTH), [], 0.0)
    peer.on_established(cast("IkeSa", sa), 0.0)
    return peer, sa


def test_registrations_are_bounded_in_all_and_per_network() -> None:
    bench = Bench(MediationSettings(max_registered=4, max_registered_net=2))
    first, sa = _auth(bench, "a@x", "198.51.100.1")
    _auth(bench, "b@x", "198.51.100.2")
    with pytest.raises(NoAdditionalSas):
        _auth(bench, "c@x", "198.51.100.3")
    _auth(bench, "c@x", "192.0.2.1")
    _auth(bench, "d@x", "203.0.113.1")
    with pytest.raises(NoAdditionalSas):
        _auth(bench, "e@x", "100.64.0.1")
    # Who is registered may come again, and a place that was left is free.
    again, again_sa = _auth(bench, "a@x", "198.51.100.1")
    first.on_closed(cast("IkeSa", sa), CloseReason.DELETED, 1.0)
    assert len(bench.server) == 4
    again.on_closed(cast("IkeSa", again_sa), CloseReason.BY_PEER, 1.0)
    assert len(bench.server) == 3
    _auth(bench, "f@x", "198.51.100.9")
    assert sum(bench.server._networks.values()) == len(bench.server) == 4


def test_lists_of_accepted_are_bounded_in_all() -> None:
    bench = Bench(MediationSettings(max_accepted=40, max_accepted_in_all=60, max_accepted_then=5))
    hashes = [index.to_bytes(16, "big") for index in range(48)]
    peers = [_auth(bench, f"{index}@x", "198.51.100.1", *hashes) for index in range(4)]
    assert [len(peer.accepts or ()) for peer, _ in peers] == [40, 40, 5, 5]
    assert bench.server.accepted == 90
    for peer, sa in peers:
        peer.on_closed(cast("IkeSa", sa), CloseReason.DELETED, 1.0)
    assert bench.server.accepted == 0
