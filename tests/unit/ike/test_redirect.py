"""Redirect, RFC 5685, client and gateway: in IKE_SA_INIT, in IKE_AUTH, on a living IKE SA."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agent.datagram import Address
from agent.ike.events import CloseReason, IkeSaClosed, IkeSaEstablished, Redirected
from agent.ike.pad import KeyAuth
from agent.ike.redirect import (
    MAX_REDIRECTS,
    REDIRECT_LOOP_DETECT_PERIOD,
    RedirectClient,
    Redirects,
    gateway_factory,
    leads_astray,
    redirection,
    send_elsewhere,
)
from agent.ike.settings import IkeSettings
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.message import Header, decode_message, encode_message
from agent.wire.payloads import NotifyPayload
from agent.wire.redirect import GatewayId, Redirect, Successor
from tests.support.pair import A_TO_B, B_ADDRESS, Pair, established, key_of, make_pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.wire.payloads import Payload

OTHER = GatewayId.of_host("203.0.113.9")
NAME = GatewayId.of_host("gw2.example.org")
SUCCESSOR = Successor(4501, bytes(range(32)))
A_FIRST = "a --> b: IKE_SA_INIT? SA KE No N(REDIRECT_SUPPORTED)"


def pair_of(said: Sequence[Payload] = (), *, child: bool = False) -> Pair:
    """b takes note of clients that take redirects; `said` is what it tells them in IKE_AUTH."""
    return make_pair(child=child, factories=(gateway_factory(lambda sa: said),))


def begin(pair: Pair, client: RedirectClient | None = None) -> None:
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now, (client or RedirectClient(),))


def up(pair: Pair, client: RedirectClient | None = None) -> Pair:
    return established(pair, (client or RedirectClient(),))


def answer_first(pair: Pair, *payloads: Payload) -> None:
    """Somebody answers a's IKE_SA_INIT; it stays on its way to b."""
    asked = decode_message(pair.pending[0].data)
    header = Header(
        initiator_spi=asked.header.initiator_spi,
        responder_spi=bytes(8),
        exchange=ExchangeType.IKE_SA_INIT,
        is_initiator=False,
        is_response=True,
        message_id=0,
    )
    pair.a.ike.receive(A_TO_B, encode_message(header, payloads), pair.now)
    pair.drain()


def redirect(data: bytes) -> NotifyPayload:
    return NotifyPayload(NotifyType.REDIRECT, data)


def nonce(pair: Pair) -> bytes:
    return pair.a.sa.handshake.own_nonce


# -- IKE_SA_INIT ---------------------------------------------------------------------------------


def test_gateway_in_ike_sa_init_keeps_nothing() -> None:
    pair = pair_of()
    pair.b.ike.first_contact = lambda path: OTHER if path.local == B_ADDRESS else None
    begin(pair)
    pair.play(
        f"""
        {A_FIRST}
        a <-- b: IKE_SA_INIT! N(REDIRECT)
        """
    )
    assert pair.b.ike.sas() == []
    assert len(pair.b.ike.half_open) == 0
    event = pair.a.last(Redirected)
    assert (event.gateway, event.original, event.proven) == (OTHER, B_ADDRESS, False)
    assert event.successor is None


def test_gateway_answers_with_no_responder_spi() -> None:
    pair = pair_of()
    pair.b.ike.first_contact = lambda path: OTHER
    begin(pair)
    pair.play(A_FIRST)
    header = decode_message(pair.pending[0].data).header
    assert header.responder_spi == bytes(8)


def test_gateway_redirects_nobody_who_did_not_ask() -> None:
    """§3: MUST NOT."""
    pair = pair_of()
    pair.b.ike.first_contact = lambda path: OTHER
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        """
    )


def test_redirected_from_announces_it_too() -> None:
    """§9.3; and the client says where it was sent from."""
    pair = pair_of()
    pair.b.ike.first_contact = lambda path: OTHER
    begin(pair, RedirectClient(bytes((203, 0, 113, 1))))
    asked = pair.a.ike.poll_output()
    notify = decode_message(asked.data).notify(NotifyType.REDIRECTED_FROM)
    assert notify.data == bytes((1, 4, 203, 0, 113, 1))
    pair.b.ike.receive(A_TO_B, asked.data, pair.now)
    pair.drain()
    assert pair.sent[-1][1] == "a <-- b: IKE_SA_INIT! N(REDIRECT)"


def test_a_cookie_comes_first() -> None:
    """Under a flood nobody is redirected who has not proven its address."""
    settings = IkeSettings(cookie_threshold=0)
    pair = make_pair(settings=settings, factories=(gateway_factory(lambda sa: ()),))
    pair.b.ike.first_contact = lambda path: OTHER
    begin(pair)
    pair.play(
        f"""
        {A_FIRST}
        a <-- b: IKE_SA_INIT! N(COOKIE)
        a --> b: IKE_SA_INIT? N(COOKIE) SA KE No N(REDIRECT_SUPPORTED)
        a <-- b: IKE_SA_INIT! N(REDIRECT)
        """
    )
    assert pair.a.last(Redirected).gateway == OTHER


def test_the_attempt_goes_on_beside_an_unproven_redirect() -> None:
    """THREATS 13, 14: whoever saw our nonce has neither ended nor delayed anything."""
    pair = pair_of()
    begin(pair)
    pair.drain()
    deadline = pair.a.ike.next_timeout()
    answer_first(pair, redirect(Redirect(OTHER, nonce(pair)).encode()))
    assert len(pair.a.events(Redirected)) == 1
    assert pair.a.ike.next_timeout() == deadline
    pair.settle()
    assert pair.a.sa.established


def test_an_unproven_redirect_counts_once() -> None:
    """A forger may send thousands: one is followed for an attempt."""
    pair = pair_of()
    begin(pair)
    pair.drain()
    for last in range(1, 200):
        gateway = GatewayId.of_ip(bytes((203, 0, 113, last)))
        answer_first(pair, redirect(Redirect(gateway, nonce(pair)).encode()))
    assert len(pair.a.events(Redirected)) == 1
    assert pair.a.drops == ["redirect_again"] * 198
    pair.settle()
    assert pair.a.sa.established


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (lambda n: Redirect(OTHER, bytes(32)).encode(), "redirect_nonce"),
        (lambda n: Redirect(OTHER, n[:-1]).encode(), "redirect_nonce"),
        (lambda n: Redirect(OTHER, n + b"\0").encode(), "redirect_nonce"),
        (lambda n: Redirect(OTHER).encode(), "redirect_nonce"),
        (lambda n: b"", "gateway_length"),
        (lambda n: b"\x04" + Redirect(OTHER, n).encode()[1:], "gateway_type"),
        (lambda n: b"\xf1" + Redirect(OTHER, n).encode()[1:], "gateway_type"),
        (lambda n: b"\x01\x05\xcb\x00\x71\x09\x00" + n, "gateway_length"),
        (lambda n: b"\x03\x03a b" + n, "gateway_name"),
        (lambda n: Redirect(GatewayId.of_ip(B_ADDRESS.ip), n).encode(), "redirect_again"),
    ],
)
def test_what_is_no_redirect_is_dropped(data, reason) -> None:
    """§3: silently, and the client keeps waiting for another response."""
    pair = pair_of()
    begin(pair)
    pair.drain()
    answer_first(pair, redirect(data(nonce(pair))))
    assert pair.a.drops == [reason]
    assert pair.a.events(Redirected) == []
    pair.settle()
    assert pair.a.sa.established


def test_a_redirect_that_nobody_asked_for_is_dropped() -> None:
    pair = make_pair()
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.drain()
    answer_first(pair, redirect(Redirect(OTHER, nonce(pair)).encode()))
    assert pair.a.drops == ["redirect_unasked"]


def test_a_key_in_ike_sa_init_counts_for_nothing() -> None:
    pair = pair_of()
    begin(pair)
    pair.drain()
    key = NotifyPayload(NotifyType.HG_REDIRECT, SUCCESSOR.encode())
    answer_first(pair, redirect(Redirect(OTHER, nonce(pair)).encode()), key)
    assert pair.a.last(Redirected).successor is None


# -- IKE_AUTH ------------------------------------------------------------------------------------


@pytest.mark.parametrize("gateway", [OTHER, NAME])
def test_in_ike_auth(gateway) -> None:
    """§6: both are proven, there is no Child SA, the client deletes the IKE SA."""
    pair = pair_of(redirection(gateway), child=True)
    begin(pair)
    pair.play(
        f"""
        {A_FIRST}
        a <-- b: IKE_SA_INIT! SA KE No
        a --> b: IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT) SA TSi TSr
        a <-- b: IKE_AUTH! IDr AUTH N(REDIRECT)
        a --> b: INFORMATIONAL? D(IKE)
        a <-- b: INFORMATIONAL!
        """
    )
    pair.quiet()
    event = pair.a.last(Redirected)
    assert (event.gateway, event.original, event.proven) == (gateway, B_ADDRESS, True)
    closed = pair.a.last(IkeSaClosed)
    assert (closed.reason, closed.established) == (CloseReason.REDIRECTED, False)
    assert closed.ike_id == event.ike_id
    assert pair.a.events(IkeSaEstablished) == []
    assert pair.a.installed == pair.b.installed == {}
    assert pair.a.ike.sas() == pair.b.ike.sas() == []


def test_in_ike_auth_with_a_successor() -> None:
    pair = pair_of(redirection(OTHER, SUCCESSOR))
    begin(pair)
    pair.settle()
    assert pair.a.last(Redirected).successor == SUCCESSOR


def test_in_ike_auth_only_whoever_takes_it() -> None:
    pair = pair_of(redirection(OTHER), child=True)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.settle()
    assert pair.a.sa.established
    assert len(pair.a.installed) == len(pair.b.installed) == 1


def test_in_ike_auth_nobody_who_has_not_proven_itself() -> None:
    """§11: a redirect must not leak where the real one is sent."""
    pair = pair_of(redirection(OTHER), child=True)
    pair.b.book.peers = [replace(pair.b.peer, remote_auth=KeyAuth(public=key_of("c").public))]
    begin(pair)
    pair.play(
        f"""
        {A_FIRST}
        a <-- b: IKE_SA_INIT! SA KE No
        a --> b: IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT) SA TSi TSr
        a <-- b: IKE_AUTH! N(AUTHENTICATION_FAILED)
        """
    )
    assert pair.a.events(Redirected) == []


def test_in_ike_auth_nobody_follows_who_has_not_proven_itself() -> None:
    """§6: the client MUST verify the gateway's AUTH payload before acting on the redirect."""
    pair = pair_of(redirection(OTHER), child=True)
    pair.b.book.peers = [replace(pair.b.peer, local_auth=key_of("c"))]
    begin(pair)
    pair.settle()
    assert pair.a.events(Redirected) == []
    assert pair.a.last(IkeSaClosed).reason is CloseReason.AUTHENTICATION_FAILED


def test_the_gateway_deletes_what_the_client_left_behind() -> None:
    pair = pair_of(redirection(OTHER))
    begin(pair)
    for _ in range(4):
        pair.drain()
        pair.deliver(pair.pending.pop(0))
    pair.pending.clear()  # a's Delete, and a is gone
    assert pair.b.sa.established
    at = pair.now
    pair.tick(pair.b)
    assert pair.now == pytest.approx(at + pair.b.ike.settings.redirect_seconds, abs=0.1)
    assert pair.b.last(IkeSaClosed).reason is CloseReason.REDIRECTED


@pytest.mark.parametrize(
    "data",
    [b"", OTHER.data, b"\x05\x04\xcb\x00\x71\x09", Redirect(OTHER, bytes(32)).encode()],
)
def test_in_ike_auth_what_nobody_can_follow_fails(data) -> None:
    """The gateway does not want us and cannot say where to go: no IKE SA, and a next time."""
    pair = pair_of([redirect(data)])
    begin(pair)
    pair.settle()
    assert pair.a.events(Redirected) == []
    assert pair.a.last(IkeSaClosed).established is False
    assert pair.a.ike.sas() == []


# -- on a living IKE SA --------------------------------------------------------------------------


def test_informational() -> None:
    """§5: answered empty; the IKE SA lives on until the client deletes it."""
    pair = up(pair_of(child=True))
    assert send_elsewhere(pair.b.ike, pair.b.sa.ike_id, redirection(NAME, SUCCESSOR), pair.now)
    pair.play(
        """
        a <-- b: INFORMATIONAL? N(REDIRECT) N(HG_REDIRECT)
        a --> b: INFORMATIONAL!
        """
    )
    pair.quiet()
    event = pair.a.last(Redirected)
    assert event.ike_id == pair.a.sa.ike_id
    assert (event.gateway, event.successor, event.proven) == (NAME, SUCCESSOR, True)
    assert pair.a.sa.established
    assert len(pair.a.installed) == 1
    pair.a.ike.close(pair.a.sa.ike_id, pair.now)
    pair.settle()
    assert pair.b.ike.sas() == []


def test_after_a_rekeying_it_goes_on() -> None:
    pair = up(pair_of())
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    pair.settle()
    assert send_elsewhere(pair.b.ike, pair.b.sa.ike_id, redirection(OTHER), pair.now)
    pair.settle()
    assert pair.a.last(Redirected).ike_id == pair.a.sa.ike_id


def test_only_the_original_responder_redirects() -> None:
    """§10: the other way it is neither sent nor heeded."""
    pair = up(pair_of())
    assert not send_elsewhere(pair.a.ike, pair.a.sa.ike_id, redirection(OTHER), pair.now)
    said, exchange = redirection(OTHER), ExchangeType.INFORMATIONAL
    pair.a.ike.request(pair.a.sa.ike_id, exchange, said, lambda m, at: None, pair.now)
    pair.settle()
    assert pair.b.events(Redirected) == []
    assert pair.b.sa.established


def test_who_takes_none_is_told_none() -> None:
    pair = established(pair_of())
    assert not send_elsewhere(pair.b.ike, pair.b.sa.ike_id, redirection(OTHER), pair.now)
    assert not send_elsewhere(pair.b.ike, 4711, redirection(OTHER), pair.now)
    pair.quiet()


@pytest.mark.parametrize(
    "payloads",
    [
        [redirect(b"")],
        [redirect(b"\x04" + Redirect(OTHER).encode()[1:])],
        [redirect(Redirect(OTHER, bytes(32)).encode())],  # §9.2: no nonce here
        [redirect(Redirect(OTHER).encode()), NotifyPayload(NotifyType.HG_REDIRECT, b"\x11")],
    ],
)
def test_what_is_malformed_is_answered_and_not_followed(payloads) -> None:
    pair = up(pair_of())
    assert send_elsewhere(pair.b.ike, pair.b.sa.ike_id, payloads, pair.now)
    pair.settle()
    assert pair.a.events(Redirected) == []
    assert pair.a.sa.established
    assert pair.b.sa.outgoing.task is None


def test_forged_on_a_living_sa_changes_nothing() -> None:
    """THREATS 14: in the clear, whatever it says."""
    pair = up(pair_of())
    for is_response in (False, True):
        header = Header(
            initiator_spi=pair.a.sa.spis[:8],
            responder_spi=pair.a.sa.spis[8:],
            exchange=ExchangeType.INFORMATIONAL,
            is_initiator=False,
            is_response=is_response,
            message_id=0,
        )
        data = encode_message(header, redirection(OTHER))
        pair.a.ike.receive(A_TO_B, data, pair.now)
    pair.settle()
    assert pair.a.events(Redirected) == []
    assert pair.a.sa.established


# -- bounds --------------------------------------------------------------------------------------


def test_five_in_five_minutes() -> None:
    redirects = Redirects()
    assert [redirects.admit(float(at)) for at in range(8)] == [True] * 5 + [False] * 3
    assert MAX_REDIRECTS == 5
    # The first of them is out of the period: there is room for one.
    assert redirects.admit(REDIRECT_LOOP_DETECT_PERIOD)
    assert not redirects.admit(REDIRECT_LOOP_DETECT_PERIOD)


def ip(host: str) -> bytes:
    return Address.parse(host, 0).ip


ASTRAY = """
    127.0.0.1 127.255.0.9 ::1 ::ffff:127.0.0.1 0.0.0.0 0.1.2.3 :: 224.0.0.1 239.1.1.1 ff02::1
    255.255.255.255 240.0.0.1 169.254.1.1 fe80::1 ::ffff:224.0.0.1
"""


@pytest.mark.parametrize("host", ASTRAY.split())
def test_addresses_that_lead_astray(host) -> None:
    assert leads_astray(ip(host), ip("198.51.100.2"))
    assert leads_astray(ip(host), ip("2001:db8::2"))


@pytest.mark.parametrize(
    "host", ["203.0.113.9", "10.0.0.1", "192.168.1.1", "2001:db8::9", "fd00::9"]
)
def test_addresses_that_do_not(host) -> None:
    assert not leads_astray(ip(host), ip("198.51.100.2"))


def test_who_is_there_itself_may_send_there() -> None:
    assert not leads_astray(ip("127.0.0.2"), ip("127.0.0.1"))
    assert not leads_astray(ip("fe80::2"), ip("fe80::1"))
    assert not leads_astray(ip("::1"), ip("127.0.0.1"))
    assert leads_astray(ip("224.0.0.1"), ip("127.0.0.1"))
    assert leads_astray(ip("0.0.0.0"), ip("127.0.0.1"))
