"""Scenes of certificates, raw public keys, tickets and redirects, as `exchanges` has the others.

`proven_by` leads up to IKE_AUTH with one kind of signature.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from agent.crypto.digest import sha256
from agent.crypto.public_keys import AnyPublicKey
from agent.crypto.signatures import ANNOUNCEMENT, KeyKind
from agent.crypto.ticket import TicketKey
from agent.ike.events import CloseReason
from agent.ike.extension import Extension
from agent.ike.pad import AnyKeyAuth, CertificateAuth
from agent.ike.redirect import RedirectClient, gateway_factory, redirection, send_elsewhere
from agent.ike.resumption import TicketHolder
from agent.ike.tickets import Tickets
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.payloads import NotifyPayload
from agent.wire.redirect import GatewayId, Successor
from tests.support.certificates import AT, Issued, issue
from tests.support.exchanges import (
    AUTH,
    AUTH_ONCE,
    P,
    Scene,
    following,
    responses_of,
)
from tests.support.exchanges import REQUESTS as PLAIN_REQUESTS
from tests.support.keys import private_key
from tests.support.pair import (
    A_ADDRESS,
    A_TO_B,
    B_ADDRESS,
    Datagram,
    Pair,
    established,
    make_pair,
    make_side,
    seeded,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.wire.payloads import Payload

    Start = Callable[[], tuple[Pair, Datagram]]

WALL = 1_800_000_000.0
TICKET_KEY = TicketKey(id=b"k" * 8, secret=b"s" * 32, since=int(WALL))
ELSEWHERE = GatewayId.of_host("203.0.113.9")
SUCCESSOR = Successor(4500, bytes(range(32)))

ROOT = issue("root")
SUB = issue("sub", ROOT, ca=True)


# -- proofs ----------------------------------------------------------------------------------------


class Before7427(Extension):
    """An initiator that announces no hashes."""

    __slots__ = ()

    def on_request_building(self, sa: Any, exchange: int, payloads: list[Payload]) -> None:
        """See Extension."""
        if exchange == ExchangeType.IKE_SA_INIT:
            payloads.remove(NotifyPayload(NotifyType.SIGNATURE_HASH_ALGORITHMS, ANNOUNCEMENT))


def _begin(pair: Pair, count: int, *extensions: Extension) -> tuple[Pair, Datagram]:
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now, extensions)
    for _ in range(count):
        pair.deliver(following(pair))
    return pair, following(pair)


def changed_pair(changes: dict[str, dict[str, Any]]) -> Pair:
    """Sides that see each other with these changes."""
    pair = make_pair(child=True)
    for side in (pair.a, pair.b):
        side.ike.wall = lambda: AT
        side.book.peers[0] = replace(side.peer, **changes[side.name])
    return pair


def _with(changes: dict[str, dict[str, Any]], *extensions: Extension) -> tuple[Pair, Datagram]:
    """Up to IKE_AUTH between them."""
    return _begin(changed_pair(changes), 2, *extensions)


def proven_by(kind: KeyKind, *, old: bool = False) -> tuple[Pair, Datagram]:
    """Both have the same key of this kind, pinned; `old`: neither knows RFC 7427."""
    key = private_key(kind)
    spki = key.spki
    pinned = AnyKeyAuth(sha256=sha256(spki), key=AnyPublicKey(spki))
    own = {"local_auth": key, "remote_auth": pinned}
    return _with({"a": own, "b": own}, *([Before7427()] if old else []))


def _certified(issued: Issued, *between: Issued) -> dict[str, Any]:
    anchors = (ROOT.certificate,)
    return {
        "local_auth": issued.key,
        "certificates": (issued.der, *(one.der for one in between)),
        "remote_auth": CertificateAuth(anchors=anchors),
    }


@cache
def certified(kind: KeyKind = KeyKind.ED25519) -> dict[str, dict[str, Any]]:
    """What is different in how a and b see each other where both have such a certificate."""
    return {
        name: _certified(issue(name, SUB, names=(f"{name}@example.org",), kind=kind), SUB)
        for name in "ab"
    }


@cache
def _certified_directly() -> dict[str, dict[str, Any]]:
    return {
        name: _certified(issue(name, ROOT, names=(f"{name}@example.org",), kind=KeyKind.ED25519))
        for name in "ab"
    }


def _by_raw_key() -> tuple[Pair, Datagram]:
    keys = {name: private_key(KeyKind.P256, name) for name in "ab"}
    other = {"a": "b", "b": "a"}
    return _with(
        {
            name: {
                "local_auth": keys[name],
                "remote_auth": AnyKeyAuth(sha256=sha256(keys[other[name]].spki)),
            }
            for name in "ab"
        }
    )


# -- tickets ---------------------------------------------------------------------------------------


def ticket_pair(**options: Any) -> tuple[Pair, TicketHolder]:
    """b gives tickets, and takes them from whoever begins with the holder's extension."""
    made = make_pair(child=True)
    pair = Pair(
        make_side("a", A_ADDRESS, made.a.book.peers),
        make_side("b", B_ADDRESS, [replace(made.b.peer, gives_tickets=True)], **options),
    )
    tickets = Tickets(seeded("tickets"), lambda: WALL + pair.now - 1000.0)
    tickets.keys = (TICKET_KEY,)
    b = make_side("b", B_ADDRESS, pair.b.book.peers, tickets=tickets, **options)
    return Pair(pair.a, b), TicketHolder()


def resuming(count: int, **options: Any) -> Start:
    """The datagram after `count` others of a connection that begins with a ticket."""

    def start() -> tuple[Pair, Datagram]:
        pair, holder = ticket_pair(**options)
        established(pair, (holder.extension,))
        for side in (pair.a, pair.b):  # neither heard of the other for long
            side.sa.close(CloseReason.TIMEOUT, "", pair.now)
        pair.drain()
        for side in (pair.a, pair.b):
            side.outputs.clear()
        return _begin(pair, count, holder.extension)

    return start


def _first_with_ticket() -> tuple[Pair, Datagram]:
    pair, holder = ticket_pair()
    return _begin(pair, 2, holder.extension)


def _asks_for_ticket() -> tuple[Pair, Datagram]:
    pair, holder = ticket_pair()
    established(pair, (holder.extension,))
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    for _ in range(2):
        pair.deliver(following(pair))
    waiting = {pair.describe(d.sender, d.data): d for d in pair.pending}
    pair.pending.clear()
    pair.deliver(waiting["INFORMATIONAL? D(IKE)"])
    pair.deliver(following(pair))
    return pair, waiting["INFORMATIONAL? N(TICKET_REQUEST)"]


# -- redirects -------------------------------------------------------------------------------------


def _redirecting(*said: Payload) -> Pair:
    return make_pair(child=True, factories=[gateway_factory(lambda sa: said)])


def _told_in_auth() -> tuple[Pair, Datagram]:
    return _begin(_redirecting(*redirection(ELSEWHERE)), 2, RedirectClient())


def _told_while_up() -> tuple[Pair, Datagram]:
    pair = established(_redirecting(), (RedirectClient(),))
    assert send_elsewhere(pair.b.ike, pair.b.sa.ike_id, redirection(ELSEWHERE, SUCCESSOR), pair.now)
    return pair, following(pair)


# -- all -------------------------------------------------------------------------------------------

_USUAL = PLAIN_REQUESTS[0]


def _usual_with(words: str) -> tuple[dict[int, set[str]], dict[int, set[str]]]:
    """What is missing and senseless in IKE_AUTH, where the answer begins with these words."""
    senseless = {
        key: {answer.replace("IDr AUTH", words, 1) for answer in answers}
        for key, answers in _USUAL.senseless.items()
    }
    return dict(_USUAL.missing), senseless


def _certificate_scene(name: str, words: str, changes: dict[str, dict[str, Any]]) -> Scene:
    missing, senseless = _usual_with(words)
    usual = f"{words} SA TSi TSr"
    missing[P.CERT] = senseless[P.CERT] = {AUTH}
    senseless[P.CERTREQ] = {usual}
    return Scene(
        name,
        lambda: _with(changes),
        usual,
        AUTH_ONCE,
        missing,
        senseless,
        twice={P.CERT: {usual}},
    )


def _raw_key_scene() -> Scene:
    missing, senseless = _usual_with("IDr CERT AUTH")
    usual, unasked = "IDr CERT AUTH SA TSi TSr", "IDr AUTH SA TSi TSr"
    missing[P.CERT] = senseless[P.CERT] = {AUTH}
    missing[P.CERTREQ], senseless[P.CERTREQ] = {unasked}, {unasked, usual}
    return Scene("IKE_AUTH with raw keys", _by_raw_key, usual, AUTH_ONCE, missing, senseless)


def _ticket_scene(name: str, start: Start) -> Scene:
    words = "IDr AUTH N(TICKET_LT_OPAQUE)"
    missing, senseless = _usual_with(words)
    usual, unasked = f"{words} SA TSi TSr", "IDr AUTH SA TSi TSr"
    either = {usual, unasked}
    missing[P.N] = senseless[P.N] = either
    return Scene(name, start, usual, AUTH_ONCE, missing, senseless, twice={P.N: either})


# Too long to be cut at each octet; its certificates have an order.
CHAINED = _certificate_scene("IKE_AUTH with a CA between", "IDr CERT CERT AUTH", certified())
REQUESTS = [
    _certificate_scene("IKE_AUTH with certificates", "IDr CERT AUTH", _certified_directly()),
    _raw_key_scene(),
    _ticket_scene("IKE_AUTH that asks for a ticket", _first_with_ticket),
    _ticket_scene("IKE_AUTH after a ticket", resuming(2)),
    Scene(
        "INFORMATIONAL that asks for a ticket",
        _asks_for_ticket,
        "N(TICKET_LT_OPAQUE)",
        missing={P.N: {""}},
        senseless={P.N: {""}},
        twice={P.N: {""}},
    ),
    Scene(
        "IKE_AUTH that is redirected",
        _told_in_auth,
        "IDr AUTH N(REDIRECT)",
        AUTH_ONCE,
        _USUAL.missing,
        # There is no Child SA, so what is said of it does not matter while it can be read.
        {
            **{key: _USUAL.senseless[key] for key in (P.IDi, P.IDr, P.AUTH)},
            **{key: {"IDr AUTH N(REDIRECT)"} for key in (P.SA, P.TSi, P.TSr)},
        },
    ),
    Scene("INFORMATIONAL that redirects", _told_while_up, ""),
]
RESPONSES = responses_of(REQUESTS)
