"""The client's mediation connection, hook by hook: mediation.md §1."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from agent.datagram import Address, Path
from agent.ike.events import CloseReason
from agent.mediation.client import MediationClient
from agent.mediation.events import (
    ReflexiveChanged,
    Registered,
    RegistrationLoss,
    RegistrationLost,
)
from agent.mediation.messages import apply_accepts
from agent.mediation.registration import NoMediator, RegistrationExtension
from agent.mediation.settings import MediationSettings
from agent.wire.codes import EndpointType, ExchangeType, NotifyType, ProtocolId
from agent.wire.mediation import MeEndpoint
from agent.wire.message import Header, Message
from agent.wire.payloads import Identification, NotifyPayload, Payload, SaPayload
from agent.wire.proposals import Proposal, parse_proposals
from tests.support.pair import seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.ike.sa import IkeSa
    from agent.ike.table import Ike

OWN = Identification.key_id(b"m" * 32)
LOCAL = Address.parse("192.168.1.10", 4500)
SERVER = Address.parse("203.0.113.10", 4500)
MEDIATION = NotifyPayload(NotifyType.ME_MEDIATION)
OURS = NotifyPayload(NotifyType.HG_ACCEPTS)


def message(*payloads: Payload, exchange: int) -> Message:
    header = Header(
        initiator_spi=b"i" * 8,
        responder_spi=b"r" * 8,
        exchange=exchange,
        is_initiator=False,
        is_response=True,
        message_id=0,
    )
    return Message(header, payloads)


@dataclass
class FakePeer:
    local_id: Identification = OWN


@dataclass
class FakeSa:
    ike_id: int = 7
    path: Path = field(default_factory=lambda: Path(LOCAL, SERVER))
    peer: FakePeer = field(default_factory=FakePeer)
    proposals: tuple[Proposal, ...] = ()


@dataclass
class FakeIke:
    requests: list[tuple[int, list[Payload], Callable[[Message | None, float], None]]] = field(
        default_factory=list
    )

    def request(
        self,
        ike_id: int,
        exchange: int,
        payloads: Sequence[Payload],
        on_response: Callable[[Message | None, float], None],
        now: float,
    ) -> None:
        self.requests.append((exchange, list(payloads), on_response))


class Bench:
    def __init__(self) -> None:
        self.ike = FakeIke()
        self.client = MediationClient(
            name="m",
            random=seeded("c"),
            settings=MediationSettings(),
            accepts=lambda who: True,
            answers=lambda who, connect_id: True,
        )
        self.client.bind(cast("Ike", self.ike))
        self.sa = cast("IkeSa", FakeSa())
        self.extension = self.next()

    def next(self) -> RegistrationExtension:
        extension = self.client.extension
        assert isinstance(extension, RegistrationExtension)
        extension.on_attach(self.sa)
        return extension

    def built(self, exchange: int, *already: Payload) -> list[Payload]:
        payloads = list(already)
        self.extension.on_request_building(self.sa, exchange, payloads)
        return payloads[len(already) :]

    def respond(self, exchange: int, *payloads: Payload) -> None:
        self.extension.on_response(self.sa, exchange, message(*payloads, exchange=exchange), 0.0)

    def register(self, *, ours: bool) -> list[Payload]:
        self.built(ExchangeType.IKE_SA_INIT)
        notifies = (MEDIATION, OURS) if ours else (MEDIATION,)
        self.respond(ExchangeType.IKE_SA_INIT, SaPayload(()), *notifies)
        auth = self.built(ExchangeType.IKE_AUTH)
        self.extension.on_established(self.sa, 0.0)
        return auth

    def events(self) -> list[object]:
        out = []
        while (output := self.client.poll_output()) is not None:
            out.append(output)
        return out


def types(payloads: Sequence[Payload]) -> list[int]:
    return [p.type for p in payloads if isinstance(p, NotifyPayload)]


def seen_as(text: str, port: int = 4500) -> NotifyPayload:
    endpoint = MeEndpoint.of(EndpointType.SERVER_REFLEXIVE, Address.parse(text, port))
    return NotifyPayload(NotifyType.ME_ENDPOINT, endpoint.encode())


def hashes(count: int) -> frozenset[bytes]:
    return frozenset(i.to_bytes(16, "big") for i in range(count))


def test_mediation_is_asked_for_each_time_the_init_is_sent() -> None:
    bench = Bench()
    assert types(bench.built(ExchangeType.IKE_SA_INIT)) == [NotifyType.ME_MEDIATION]
    bench.respond(ExchangeType.IKE_SA_INIT, NotifyPayload(NotifyType.COOKIE, b"x"))  # needs none
    assert types(bench.built(ExchangeType.IKE_SA_INIT)) == [NotifyType.ME_MEDIATION]


@pytest.mark.parametrize("exchange", [ExchangeType.IKE_SA_INIT, ExchangeType.IKE_SESSION_RESUME])
@pytest.mark.parametrize(("ke", "said"), [("", False), ("-ke1_mlkem768", True)])
def test_it_says_so_where_it_offers_additional_key_exchanges(
    exchange: ExchangeType, ke: str, said: bool
) -> None:
    bench = Bench()
    words = ["aes128gcm16-prfsha256-x25519" + ke, "aes128gcm16-prfsha256-x25519"]
    cast("FakeSa", bench.sa).proposals = parse_proposals(words, ProtocolId.IKE)
    assert (NotifyType.HG_MEDIATION in types(bench.built(exchange))) is said


def test_a_server_that_does_not_repeat_it_is_none() -> None:
    bench = Bench()
    with pytest.raises(NoMediator):
        bench.respond(ExchangeType.IKE_SA_INIT, SaPayload(()))
    bench.extension.on_closed(bench.sa, CloseReason.PROTOCOL_ERROR, 0.0)
    (event,) = bench.events()
    assert isinstance(event, RegistrationLost)
    assert event.reason is RegistrationLoss.NO_MEDIATOR


def test_a_forged_answer_before_the_good_one_is_forgotten() -> None:
    bench = Bench()
    with pytest.raises(NoMediator):
        bench.respond(ExchangeType.IKE_SA_INIT, SaPayload(()))
    bench.register(ours=True)
    bench.events()
    bench.extension.on_closed(bench.sa, CloseReason.RESTARTED, 0.0)
    (event,) = bench.events()
    assert isinstance(event, RegistrationLost)
    assert event.reason is RegistrationLoss.CLOSED


def test_strongswan_is_never_told_whom_we_accept() -> None:
    bench = Bench()
    bench.client.set_accepts(hashes(3), 0.0)
    assert types(bench.register(ours=False)) == [NotifyType.ME_ENDPOINT]
    bench.client.set_accepts(hashes(5), 1.0)
    assert not bench.ike.requests
    assert not bench.built(ExchangeType.INFORMATIONAL)


def test_our_server_is_told_in_ike_auth_and_then_the_differences() -> None:
    bench = Bench()
    bench.client.set_accepts(hashes(100), 0.0)
    auth = bench.register(ours=True)
    assert types(auth) == [NotifyType.ME_ENDPOINT, NotifyType.HG_ACCEPTS]
    known = apply_accepts(None, auth[1].data, 1024)  # type: ignore[attr-defined]
    assert known is not None
    assert len(known) == 32
    step = 0
    while step < len(bench.ike.requests):
        exchange, payloads, on_response = bench.ike.requests[step]
        assert exchange == ExchangeType.INFORMATIONAL
        for payload in payloads:
            assert isinstance(payload, NotifyPayload)
            assert len(payload.data) < 1000
            known = apply_accepts(known, payload.data, 1024)
        step += 1
        if step == 1:
            bench.client.set_accepts(hashes(120) - hashes(10), 1.0)  # while one is on its way
        on_response(message(exchange=exchange), 2.0)
    assert known == hashes(120) - hashes(10)


def test_a_difference_that_was_lost_is_sent_again_with_the_next_change() -> None:
    bench = Bench()
    bench.register(ours=True)
    bench.client.set_accepts(hashes(1), 1.0)
    bench.ike.requests[0][2](None, 2.0)
    bench.client.set_accepts(hashes(2), 3.0)
    data = bench.ike.requests[1][1][0].data  # type: ignore[attr-defined]
    assert apply_accepts(frozenset(), data, 10) == hashes(2)


def test_registered_tells_the_reflexive_endpoint_of_ike_auth() -> None:
    bench = Bench()
    bench.respond(ExchangeType.IKE_AUTH, seen_as("198.51.100.1", 7))
    bench.register(ours=True)
    (event,) = bench.events()
    assert event == Registered(client="m", ike_id=7, reflexive=Address.parse("198.51.100.1", 7))
    offered = [(e.type, str(e.address), str(e.base)) for e in bench.client.offers()]
    assert offered == [
        (EndpointType.HOST, "192.168.1.10:4500", "192.168.1.10:4500"),
        (EndpointType.SERVER_REFLEXIVE, "198.51.100.1:7", "192.168.1.10:4500"),
    ]


def test_a_probe_asks_again_and_a_change_is_told_once() -> None:
    bench = Bench()
    bench.respond(ExchangeType.IKE_AUTH, seen_as("198.51.100.1"))
    bench.register(ours=True)
    assert types(bench.built(ExchangeType.INFORMATIONAL)) == [NotifyType.ME_ENDPOINT]
    assert not bench.built(ExchangeType.INFORMATIONAL, MEDIATION)  # no probe
    bench.events()
    for text in ("198.51.100.1", "198.51.100.9", "198.51.100.9"):
        bench.respond(ExchangeType.INFORMATIONAL, seen_as(text))
    assert bench.events() == [
        ReflexiveChanged(client="m", reflexive=Address.parse("198.51.100.9", 4500))
    ]


def test_an_answer_without_an_address_changes_nothing() -> None:
    bench = Bench()
    bench.respond(ExchangeType.IKE_AUTH, seen_as("198.51.100.1"))
    bench.register(ours=False)
    bench.events()
    bench.respond(ExchangeType.INFORMATIONAL)
    bench.respond(
        ExchangeType.INFORMATIONAL,
        NotifyPayload(NotifyType.ME_ENDPOINT, MeEndpoint.question().encode()),
    )
    assert not bench.events()
    assert bench.client.reflexive == Address.parse("198.51.100.1", 4500)


def test_another_path_asks_for_the_reflexive_endpoint() -> None:
    bench = Bench()
    bench.register(ours=False)
    bench.extension.on_path_changed(bench.sa, Path(LOCAL, SERVER), 5.0)
    ((exchange, payloads, _),) = bench.ike.requests
    assert exchange == ExchangeType.INFORMATIONAL
    assert types(payloads) == [NotifyType.ME_ENDPOINT]


def test_the_newer_registration_counts() -> None:
    bench = Bench()
    bench.register(ours=True)
    older, bench.extension = bench.extension, bench.next()
    bench.register(ours=True)
    bench.events()
    older.on_closed(bench.sa, CloseReason.REPLACED, 1.0)
    assert not bench.events()
    assert bench.client.registered
    bench.extension.on_closed(bench.sa, CloseReason.TIMEOUT, 2.0)
    (event,) = bench.events()
    assert isinstance(event, RegistrationLost)
    assert event.reason is RegistrationLoss.CLOSED
    assert event.detail == "timeout"
    assert not bench.client.registered


def test_only_me_connect_is_claimed() -> None:
    bench = Bench()
    assert bench.extension.claims_exchange(ExchangeType.ME_CONNECT)
    assert not bench.extension.claims_exchange(241)
