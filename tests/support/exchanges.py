"""Scenes that lead up to one true message of each exchange, in each direction.

What is inside its protection can be changed and sealed anew with the keys of its sender.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from agent.datagram import Address
from agent.ike.create_child_sa import CreateChild
from agent.ike.extension import Extension
from agent.mediation.client import MediationClient
from agent.mediation.messages import ConnectMessage
from agent.mediation.server import MediationServer
from agent.mediation.settings import MediationSettings
from agent.wire.codes import EndpointType, ExchangeType, NotifyType, PayloadType
from agent.wire.mediation import MeEndpoint
from agent.wire.message import decode_message, encrypted_prefix
from agent.wire.payloads import (
    CpPayload,
    DeletePayload,
    Encrypted,
    Identification,
    NotifyPayload,
    VendorIdPayload,
)
from tests.support.damage import Kind
from tests.support.pair import (
    A_TO_B,
    Datagram,
    Pair,
    Side,
    established,
    make_pair,
    seeded,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.wire.message import Message

SYNTAX = "N(INVALID_SYNTAX)"
CRITICAL = "N(UNSUPPORTED_CRITICAL_PAYLOAD)"
AUTH = "N(AUTHENTICATION_FAILED)"
NO_PROPOSAL = "N(NO_PROPOSAL_CHOSEN)"
TS = "N(TS_UNACCEPTABLE)"
KE = "N(INVALID_KE_PAYLOAD)"
FATAL = {SYNTAX, AUTH}
SAID = {Kind.SHORT, Kind.LENGTH, Kind.MISSING, Kind.NONSENSE}  # there is a chain of payloads
PLAIN = "aes128gcm16-prfsha256-x25519"
ROUNDS = PLAIN + "-ke1_ecp256"
P = PayloadType


# -- scenes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """`start` leads up to the message. `usual`: what the undamaged one is answered.

    `once`: what may not stand there twice. `twice`, `missing`, `senseless`: what is answered where
    a payload of a type is there again, is not there, or says nothing sensible; what is not listed
    changes nothing. The first word is that for a whole SA payload or selector, the rest may occur
    when it is cut short.
    `lasting`: what is said and makes no sense does not end the SA (mediation.md §2).
    """

    name: str
    start: Callable[[], tuple[Pair, Datagram]]
    usual: str
    once: frozenset[int] = frozenset()
    missing: dict[int, set[str]] = field(default_factory=dict)
    senseless: dict[int, set[str]] = field(default_factory=dict)
    lasting: bool = False
    twice: dict[int, set[str]] = field(default_factory=dict)


def following(pair: Pair) -> Datagram:
    pair.drain()
    (datagram,) = pair.pending
    pair.pending.clear()
    return datagram


def answer_to(start: Callable[[], tuple[Pair, Datagram]]) -> Callable[[], tuple[Pair, Datagram]]:
    """The response to what `start` leads up to."""

    def answered() -> tuple[Pair, Datagram]:
        pair, datagram = start()
        pair.deliver(datagram)
        return pair, following(pair)

    return answered


def connecting(count: int, **options) -> Callable[[], tuple[Pair, Datagram]]:
    """The datagram after `count` others of the initial exchanges."""

    def start() -> tuple[Pair, Datagram]:
        pair = make_pair(child=True, **options)
        pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
        for _ in range(count):
            pair.deliver(following(pair))
        return pair, following(pair)

    return start


def child(pair: Pair) -> None:
    pair.a.submit(CreateChild(), pair.now)


def _rekey_child(pair: Pair) -> None:
    pair.a.ike.rekey_child(next(iter(pair.a.installed)), pair.now)


def _rekey_ike(pair: Pair) -> None:
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)


def _informational(pair: Pair) -> None:
    payloads = [
        NotifyPayload(54321, b"some data"),
        DeletePayload(3, (b"\xee" * 4, b"\xdd" * 4)),
        CpPayload(1, ((1, b""), (3, b"\x0a\0\0\1"))),
        VendorIdPayload(b"vendor"),
    ]
    ask = pair.a.ike.request
    ask(pair.a.sa.ike_id, ExchangeType.INFORMATIONAL, payloads, lambda m, now: None, pair.now)


def up(then: Callable[[Pair], None], skip: int = 0, **options) -> Callable:
    """The first request after the pair is established, or that after `skip` datagrams."""

    def start() -> tuple[Pair, Datagram]:
        pair = established(make_pair(child=True, **options))
        then(pair)
        for _ in range(skip):
            pair.deliver(following(pair))
        return pair, following(pair)

    return start


class _Asks(Extension):
    """Asks for mediation."""

    __slots__ = ()

    def on_request_building(self, sa, exchange, payloads):
        if exchange == ExchangeType.IKE_SA_INIT:
            payloads.append(NotifyPayload(NotifyType.ME_MEDIATION))


WANTED = ConnectMessage(
    peer=Identification.key_id(b"p" * 32),
    connect_id=b"c" * 8,
    key=b"k" * 16,
    is_callback=True,
    endpoints=(MeEndpoint.of(EndpointType.HOST, Address.parse("192.168.2.10", 4500)),),
)


def _to_mediator() -> tuple[Pair, Datagram]:
    server = MediationServer(random=seeded("s"), settings=MediationSettings())
    pair = make_pair(factories=[server.factory])
    server.bind(pair.b.ike)
    established(pair, [_Asks()])
    ask = pair.a.ike.request
    ask(pair.a.sa.ike_id, ExchangeType.ME_CONNECT, WANTED.payloads(), lambda m, now: None, pair.now)
    return pair, following(pair)


def _from_mediator() -> tuple[Pair, Datagram]:
    server = MediationServer(random=seeded("s"), settings=MediationSettings())
    pair = make_pair(factories=[server.factory])
    server.bind(pair.b.ike)
    client = MediationClient(
        name="b",
        random=seeded("client"),
        settings=MediationSettings(),
        accepts=lambda who: False,
        answers=lambda who, connect_id: False,
    )
    client.bind(pair.a.ike)
    established(pair, [client.extension])
    relayed = ConnectMessage(peer=WANTED.peer, connect_id=b"c" * 8, key=b"k" * 16)
    ask, content = pair.b.ike.request, relayed.payloads()
    ask(pair.b.sa.ike_id, ExchangeType.ME_CONNECT, content, lambda m, now: None, pair.now)
    return pair, following(pair)


AUTH_ONCE = frozenset({P.IDi, P.IDr, P.AUTH, P.SA, P.TSi, P.TSr})
_CHILD_ONCE = frozenset({P.SA, P.NONCE, P.KE, P.TSi, P.TSr})
_NO_CHILD = f"IDr AUTH {NO_PROPOSAL}"
_CHILD_MISSING = {P.KE: {KE}, **{key: {SYNTAX} for key in (P.SA, P.NONCE, P.TSi, P.TSr)}}
_CHILD_SENSELESS = {
    P.SA: {NO_PROPOSAL, SYNTAX},
    P.TSi: {TS},
    P.TSr: {TS},
    P.KE: {KE, SYNTAX},
}
_FOLLOWED = {"ike": (ROUNDS,), "esp": ("aes128gcm16-x25519-ke1_ecp256",)}

REQUESTS = [
    Scene(
        "IKE_AUTH",
        connecting(2),
        "IDr AUTH SA TSi TSr",
        AUTH_ONCE,
        # Half a Child SA is none of this exchange's messages; none at all is childless (RFC 6023).
        {key: {SYNTAX} for key in (P.IDi, P.AUTH, P.SA, P.TSi, P.TSr)},
        {
            P.IDi: {AUTH},
            P.IDr: {AUTH},
            P.AUTH: {AUTH},
            P.SA: {_NO_CHILD, SYNTAX},
            P.TSi: {f"IDr AUTH {TS}"},
            P.TSr: {f"IDr AUTH {TS}"},
        },
    ),
    Scene(
        "IKE_INTERMEDIATE",
        connecting(2, ike=(ROUNDS,)),
        "KE",
        frozenset({P.KE}),
        {P.KE: {SYNTAX}},
        {P.KE: {SYNTAX}},
    ),
    Scene(
        "CREATE_CHILD_SA new",
        up(child, esp=("aes128gcm16-x25519",)),
        "SA No KE TSi TSr",
        _CHILD_ONCE,
        _CHILD_MISSING,
        _CHILD_SENSELESS,
    ),
    Scene(
        "CREATE_CHILD_SA rekey",
        up(_rekey_child, esp=("aes128gcm16-x25519",)),
        "SA No KE TSi TSr",
        _CHILD_ONCE,
        _CHILD_MISSING,  # without N(REKEY_SA) it is one more Child SA
        {**_CHILD_SENSELESS, P.N: {"N(CHILD_SA_NOT_FOUND)"}},
    ),
    Scene(
        "CREATE_CHILD_SA IKE",
        up(_rekey_ike),
        "SA No KE",
        _CHILD_ONCE,
        {P.SA: {SYNTAX}, P.NONCE: {SYNTAX}, P.KE: {KE}},
        # Proposals that are not all for IKE ask for a Child SA, and that is not all there.
        {P.SA: {NO_PROPOSAL, SYNTAX, "N(NO_ADDITIONAL_SAS)"}, P.KE: {KE, SYNTAX}},
    ),
    Scene(
        "IKE_FOLLOWUP_KE",
        up(_rekey_child, 2, **_FOLLOWED),
        "KE",
        frozenset({P.KE}),
        {P.KE: {SYNTAX}, P.N: {SYNTAX}},
        {P.KE: {SYNTAX}, P.N: {"N(STATE_NOT_FOUND)", SYNTAX}},
    ),
    Scene("INFORMATIONAL", up(_informational), "", frozenset({P.CP})),
    Scene(
        "ME_CONNECT to the mediator",
        _to_mediator,
        "N(ME_CONNECT_FAILED)",
        missing={P.IDp: {SYNTAX}, P.N: {SYNTAX, "N(ME_CONNECT_FAILED)"}},
        senseless={P.IDp: {SYNTAX}, P.N: {SYNTAX}},
        lasting=True,
    ),
    Scene(
        "ME_CONNECT from the mediator",
        _from_mediator,
        "N(ME_CONNECT_FAILED)",
        missing={P.IDp: {SYNTAX}, P.N: {SYNTAX}},
        senseless={P.IDp: {SYNTAX}, P.N: {SYNTAX}},
        lasting=True,
    ),
]


def responses_of(requests: list[Scene]) -> list[Scene]:
    """The scenes that go on to the answers."""
    return [Scene(s.name, answer_to(s.start), "", s.once, {}, s.senseless) for s in requests]


RESPONSES = responses_of(REQUESTS)
BOTH = [
    *[(s.name + " request", s) for s in REQUESTS],
    *[(s.name + " response", s) for s in RESPONSES],
]
all_scenes = pytest.mark.parametrize("scene", [s for _, s in BOTH], ids=[name for name, _ in BOTH])


# -- what the sender could do ----------------------------------------------------------------------


def payloads_of(pair: Pair, true: Datagram) -> tuple[Message, object]:
    """The message, and the cipher that sealed it."""
    message = pair.message(true.sender, true.data)
    own = message.header.spis[:8] if message.header.is_initiator else message.header.spis[8:]
    encrypted = decode_message(true.data).first(Encrypted)
    assert encrypted is not None
    for cipher in reversed(true.sender.seals[own]):
        body, iv = encrypted.body, cipher.iv_length
        try:
            cipher.open(body[:iv], body[iv:], encrypted.aad)
        except Exception:  # another round's key
            continue
        return message, cipher
    raise KeyError(own)


def sealed(message: Message, cipher, first: int, inner: bytes) -> bytes:
    """The message with this inside; its IV is used by nobody else here."""
    iv = (1 << 63).to_bytes(cipher.iv_length, "big")
    inner += b"\0"
    length = len(iv) + len(inner) + cipher.icv_length
    prefix = encrypted_prefix(message.header, first, length)
    return prefix + iv + cipher.seal(iv, inner, prefix)


def state_of(side: Side) -> tuple:
    """All that could have changed."""
    ike = side.ike
    sas = [
        (sa.spis, sa.state, sa.path, sa.incoming.next_id, sa.outgoing.next_id, sa.outgoing.task)
        for sa in ike._by_spi.values()
    ]
    tables = (
        ike._current,
        ike.children.spis_in,
        ike.children.spis_out,
        ike.predecessors,
        ike.half_open,
    )
    return (*sas, *map(len, tables), len(ike._schedule), len(side.installed))
