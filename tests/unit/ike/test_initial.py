"""IKE_SA_INIT and IKE_AUTH between two engines: RFC 7296 §1.2, §2.6, §2.15, §2.21."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agent.datagram import Path
from agent.ike.create_child_sa import CreateChild
from agent.ike.events import ChildSaEstablished, CloseReason, IkeSaClosed, IkeSaEstablished
from agent.ike.identities import COLLISION_SECONDS
from agent.ike.pad import ChildPolicy, KeyAuth, PskAuth
from agent.ike.settings import IkeSettings
from agent.wire.codes import CfgAttributeType, ExchangeType, NotifyType
from agent.wire.message import Header, encode_message
from agent.wire.payloads import (
    Identification,
    KePayload,
    NoncePayload,
    NotifyPayload,
    SaPayload,
)
from tests.support.pair import (
    A_ADDRESS,
    A_TO_B,
    Pair,
    Side,
    child_policy,
    established,
    ike_proposals,
    key_of,
    make_pair,
    seeded,
)

if TYPE_CHECKING:
    from agent.wire.payloads import Payload


def test_childless_with_ed25519() -> None:
    pair = make_pair()
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        a --> b: IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT)
        a <-- b: IKE_AUTH! IDr AUTH
        """
    )
    pair.quiet()
    for side, other in ((pair.a, "b@example.org"), (pair.b, "a@example.org")):
        event = side.last(IkeSaEstablished)
        assert event.remote_id.text == other
        assert event.is_initiator == (side is pair.a)
        assert event.suite == "aes128gcm16-prfsha256-x25519"
        assert event.remote_behind_nat  # forced by the random source hash
        assert not event.behind_nat
        assert not side.installed
    assert pair.a.last(IkeSaEstablished).spis == pair.b.last(IkeSaEstablished).spis


@pytest.mark.parametrize(
    "ike",
    [
        "aes128gcm16-prfsha256-x25519",
        "aes256gcm16-prfsha512-ecp256",
        "chacha20poly1305-prfsha384-x25519",
        "aes128-sha256-x25519",
        "aes256-sha256-modp2048",
        "aes128ccm8-prfsha512-ecp521",
        "aes128ccm8-prfaesxcbc-x25519",
        "aes128ccm8-prfaescmac-x25519",
        "aes256ccm16-prfsha384-modp3072",
        "aes256-sha384-ecp384",
        "aes128-sha512-modp4096",
    ],
)
@pytest.mark.parametrize("psk", [None, b"a shared secret"])
def test_with_child_sa(ike: str, psk: bytes | None) -> None:
    pair = make_pair(child=True, ike=(ike,), psk=psk)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        a --> b: IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT) SA TSi TSr
        a <-- b: IKE_AUTH! IDr AUTH SA TSi TSr
        """
    )
    pair.quiet()
    (ours,) = pair.a.installed.values()
    (theirs,) = pair.b.installed.values()
    assert (ours.spi_in, ours.spi_out) == (theirs.spi_out, theirs.spi_in)
    assert (ours.keys_in, ours.keys_out) == (theirs.keys_out, theirs.keys_in)
    assert ours.keys_in != ours.keys_out
    assert ours.use_at_once
    assert not theirs.use_at_once
    assert str(pair.a.last(ChildSaEstablished).remote_ts[0]) == "10.2.0.0/24"
    assert pair.b.last(ChildSaEstablished).local_ts == ours.remote_ts


def test_established_helper() -> None:
    pair = established(make_pair(child=True))
    assert len(pair.a.ike) == len(pair.b.ike) == 1


# -- negotiation ---------------------------------------------------------------------------------


def test_another_key_exchange_is_asked_for() -> None:
    """§1.2: INVALID_KE_PAYLOAD names the group; the retry proposes everything again."""
    pair = make_pair(ike=("aes128gcm16-prfsha256-x25519-ecp256",))
    pair.b.book.proposals = ike_proposals("aes128gcm16-prfsha256-ecp256")
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! N(INVALID_KE_PAYLOAD)
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        a --> b: IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT)
        a <-- b: IKE_AUTH! IDr AUTH
        """
    )
    assert pair.a.last(IkeSaEstablished).suite == "aes128gcm16-prfsha256-ecp256"


def test_cookie_then_another_key_exchange() -> None:
    """§2.6.1: the cookie goes along with the repeated request."""
    pair = make_pair(
        ike=("aes128gcm16-prfsha256-x25519-ecp256",), settings=IkeSettings(cookie_threshold=0)
    )
    pair.b.book.proposals = ike_proposals("aes128gcm16-prfsha256-ecp256")
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! N(COOKIE)
        a --> b: IKE_SA_INIT? N(COOKIE) SA KE No
        a <-- b: IKE_SA_INIT! N(INVALID_KE_PAYLOAD)
        a --> b: IKE_SA_INIT? N(COOKIE) SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        a --> b: IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT)
        a <-- b: IKE_AUTH! IDr AUTH
        """
    )
    assert pair.b.ike.half_open.find(A_ADDRESS, b"") is None
    assert len(pair.b.ike.half_open) == 0


def test_no_proposal_chosen_does_not_end_the_attempt_at_once() -> None:
    """§2.21.1: it is not authenticated; after a while of nothing better it is the reason."""
    pair = make_pair()
    pair.b.book.proposals = ike_proposals("aes256-sha256-modp2048")
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! N(NO_PROPOSAL_CHOSEN)
        """
    )
    assert pair.a.events(IkeSaClosed) == []
    pair.sleep(2)
    assert pair.a.events(IkeSaClosed) == []
    pair.b.book.proposals = ()
    pair.sleep(3)
    assert len(pair.a.events(IkeSaEstablished)) == 1


@pytest.mark.parametrize(
    ("notify", "reason"),
    [
        (NotifyType.NO_PROPOSAL_CHOSEN, CloseReason.NO_PROPOSAL_CHOSEN),
        (NotifyType.INVALID_SYNTAX, CloseReason.REFUSED),
        (NotifyType.INVALID_MAJOR_VERSION, CloseReason.REFUSED),
        (4711, CloseReason.REFUSED),
    ],
)
def test_forged_errors_shorten_an_attempt(notify: int, reason: CloseReason) -> None:
    pair = make_pair()
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    _answer(pair, NotifyPayload(notify))
    pair.pending.clear()
    pair.sleep(3.5, deliver=False)
    assert pair.a.events(IkeSaClosed) == []
    pair.sleep(1, deliver=False)
    closed = pair.a.last(IkeSaClosed)
    assert (closed.reason, closed.established) == (reason, False)


def _answer(pair: Pair, *payloads: Payload, spi: bytes = bytes(8)) -> None:
    """Forge a response to a's IKE_SA_INIT."""
    header = Header(
        initiator_spi=pair.a.sa.local_spi,
        responder_spi=spi,
        exchange=ExchangeType.IKE_SA_INIT,
        is_initiator=False,
        is_response=True,
        message_id=0,
    )
    pair.a.ike.receive(A_TO_B, encode_message(header, payloads), pair.now)
    pair.drain()


def test_endless_cookies() -> None:
    """THREATS 7: at most three rounds."""
    pair = make_pair()
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    for number in range(10):
        _answer(pair, NotifyPayload(NotifyType.COOKIE, bytes([number]) * 20))
    assert len(pair.sent) == 1 + 3
    assert pair.a.drops == ["cookie"] * 7
    _answer(pair, NotifyPayload(NotifyType.COOKIE, b""))
    _answer(pair, NotifyPayload(NotifyType.COOKIE, bytes(65)))
    assert len(pair.sent) == 1 + 3


def test_a_cookie_that_comes_again_costs_no_round() -> None:
    """Each sending that was slow is answered; and the secret may rotate after that."""
    pair = make_pair()
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    for _ in range(4):
        _answer(pair, NotifyPayload(NotifyType.COOKIE, b"first" * 4))
    assert len(pair.sent) == 1 + 1
    _answer(pair, NotifyPayload(NotifyType.COOKIE, b"other" * 4))
    assert len(pair.sent) == 1 + 2
    assert pair.a.drops == ["cookie_again"] * 3


def test_endless_key_exchanges() -> None:
    pair = make_pair(ike=("aes128gcm16-prfsha256-x25519-ecp256",))
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    for group in (31, 19, 31, 19, 14, 0, 65535):
        _answer(pair, NotifyPayload(NotifyType.INVALID_KE_PAYLOAD, group.to_bytes(2, "big")))
    _answer(pair, NotifyPayload(NotifyType.INVALID_KE_PAYLOAD, b""))
    assert len(pair.sent) == 2


def test_a_forged_answer_does_not_stop_the_true_one() -> None:
    """Answers that make no sense are dropped and the request stays in flight."""
    pair = make_pair()
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.drain()
    proposal = ike_proposals("aes256gcm16-prfsha256-x25519")[0]  # was not offered
    nonce = NoncePayload(bytes(32))
    _answer(pair, SaPayload((proposal,)), KePayload(31, b"\x05" * 32), nonce, spi=b"x" * 8)
    good = pair.a.peer.proposals
    for low in (bytes(32), b"\x01" + bytes(31), b"short"):  # X25519 points of low order
        _answer(pair, SaPayload(good), KePayload(31, low), nonce, spi=b"x" * 8)
    _answer(pair, SaPayload(good), KePayload(19, bytes(64)), nonce, spi=b"x" * 8)
    _answer(pair, SaPayload(good), KePayload(31, b"\x05" * 32), nonce)  # no SPI
    assert pair.a.drops == ["invalid_response"] * 6
    pair.settle()
    assert pair.a.sa.established


def test_stripped_hash_algorithms() -> None:
    """THREATS 13: without them we would have to sign what we may not; wait for the true answer."""
    pair = make_pair()
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.drain()
    _answer(
        pair,
        SaPayload(pair.a.peer.proposals),
        KePayload(31, b"\x05" * 32),
        NoncePayload(bytes(32)),
        spi=b"x" * 8,
    )
    assert pair.a.drops == ["invalid_response"]
    pair.settle()
    assert pair.a.sa.established


# -- authentication ------------------------------------------------------------------------------

FAILED = """
    a --> b: IKE_SA_INIT? SA KE No
    a <-- b: IKE_SA_INIT! SA KE No
    a --> b: IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT)
    a <-- b: IKE_AUTH! N(AUTHENTICATION_FAILED)
    """


def _change(side: Side, **changes: object) -> None:
    side.book.peers[0] = replace(side.peer, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"remote_auth": PskAuth(secret=b"another")},
        {"remote_auth": KeyAuth(public=key_of("somebody").public)},
        {"remote_id": Identification.parse("c@example.org")},
        {"proposals": ike_proposals("aes256gcm16-prfsha256-x25519")},
    ],
)
def test_the_responder_does_not_believe_it(changes: dict[str, object]) -> None:
    """§2.21.2: whatever is wrong, the answer is the same."""
    pair = make_pair()
    pair.b.book.proposals = pair.b.peer.proposals
    _change(pair.b, **changes)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(FAILED)
    closed = pair.a.last(IkeSaClosed)
    assert closed.reason is CloseReason.AUTHENTICATION_FAILED
    assert not closed.established
    assert pair.b.events(IkeSaEstablished) == []
    assert len(pair.b.ike) == 0
    pair.sleep(60)
    assert not pair.b.ike._by_spi


def test_psk_is_no_answer_to_a_pinned_key() -> None:
    """THREATS 18: a peer with a pinned key is never taken by PSK."""
    pair = make_pair(psk=b"secret")
    _change(pair.b, remote_auth=KeyAuth(public=key_of("a").public))
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(FAILED)


def test_the_refusal_is_repeated_when_it_was_lost() -> None:
    pair = make_pair()
    _change(pair.b, remote_auth=PskAuth(secret=b"another"))
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(FAILED.replace("<-- b: IKE_AUTH", "x-- b: IKE_AUTH"))
    pair.sleep(1)
    assert pair.a.last(IkeSaClosed).reason is CloseReason.AUTHENTICATION_FAILED


@pytest.mark.parametrize(
    "changes",
    [
        {"remote_auth": PskAuth(secret=b"another")},
        {"remote_auth": KeyAuth(public=key_of("somebody").public)},
    ],
)
def test_the_initiator_does_not_believe_it(changes: dict[str, object]) -> None:
    """§2.21.2: the responder counts the SA as established, so it is told."""
    pair = make_pair(child=True)
    _change(pair.a, **changes)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        a --> b: IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT) SA TSi TSr
        a <-- b: IKE_AUTH! IDr AUTH SA TSi TSr
        a --> b: INFORMATIONAL? N(AUTHENTICATION_FAILED)
        a <-- b: INFORMATIONAL!
        """
    )
    assert pair.a.last(IkeSaClosed).reason is CloseReason.AUTHENTICATION_FAILED
    assert pair.b.last(IkeSaClosed).reason is CloseReason.AUTHENTICATION_FAILED
    for side in (pair.a, pair.b):
        assert not side.installed
        assert not side.ike._by_spi


def test_another_responder_answers() -> None:
    pair = make_pair()
    _change(pair.b, local_id=Identification.parse("c@example.org"))
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.settle()
    closed = pair.a.last(IkeSaClosed)
    assert closed.reason is CloseReason.AUTHENTICATION_FAILED
    assert "c@example.org" in closed.detail


def test_a_late_authentication_failed_changes_nothing() -> None:
    """Only the request right after IKE_AUTH may end the SA so (§2.21.2)."""
    pair = established(make_pair())
    pair.a.ike.check_liveness(pair.a.sa.ike_id, pair.now)
    pair.settle()
    pair.a.ike.request(
        pair.a.sa.ike_id,
        ExchangeType.INFORMATIONAL,
        [NotifyPayload(NotifyType.AUTHENTICATION_FAILED)],
        lambda message, now: None,
        pair.now,
    )
    pair.settle()
    assert pair.b.sa.established


# -- the first Child SA --------------------------------------------------------------------------


def _with_children(local: ChildPolicy | None, remote: ChildPolicy | None) -> Pair:
    pair = make_pair()
    _change(pair.a, child=local)
    _change(pair.b, child=remote)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.settle()
    return pair


def test_selectors_are_narrowed() -> None:
    """§2.9: the responder permits less than what is offered."""
    pair = _with_children(
        child_policy("10.1.0.0/16", "0.0.0.0/0"), child_policy("10.2.0.0/24", "10.1.7.0/24")
    )
    event = pair.a.last(ChildSaEstablished)
    assert [str(ts) for ts in event.local_ts + event.remote_ts] == ["10.1.7.0/24", "10.2.0.0/24"]


@pytest.mark.parametrize(
    ("remote", "notify", "reason"),
    [
        (
            child_policy("10.9.0.0/24", "10.1.0.0/24"),
            "TS_UNACCEPTABLE",
            CloseReason.TS_UNACCEPTABLE,
        ),
        (
            child_policy("10.2.0.0/24", "10.1.0.0/24", proposals=("aes256gcm16",)),
            "NO_PROPOSAL_CHOSEN",
            CloseReason.NO_PROPOSAL_CHOSEN,
        ),
        (None, "NO_ADDITIONAL_SAS", CloseReason.REFUSED),
    ],
)
def test_no_child_sa(remote: ChildPolicy | None, notify: str, reason: CloseReason) -> None:
    """§2.21.2: the IKE SA stands without it; the initiator came for it and deletes the IKE SA."""
    pair = _with_children(child_policy("10.1.0.0/24", "10.2.0.0/24"), remote)
    lines = [line for _, line in pair.sent]
    assert lines[3] == f"a <-- b: IKE_AUTH! IDr AUTH N({notify})"
    assert lines[4:] == ["a --> b: INFORMATIONAL? D(IKE)", "a <-- b: INFORMATIONAL!"]
    closed = pair.a.last(IkeSaClosed)
    assert (closed.reason, closed.detail, closed.established) == (reason, notify, True)
    assert not pair.a.installed
    assert not pair.b.installed


def test_childless_request_to_a_peer_with_a_child_policy() -> None:
    """RFC 6023: an IKE SA without a Child SA; one can be made later, from either side."""
    both = child_policy("10.1.0.0/24", "10.2.0.0/24"), child_policy("10.2.0.0/24", "10.1.0.0/24")
    pair = _with_children(None, both[1])
    assert not pair.b.installed
    pair.a.sa.peer = replace(pair.a.peer, child=both[0])
    pair.b.submit(CreateChild(), pair.now)
    pair.settle()
    assert len(pair.a.installed) == len(pair.b.installed) == 1


IP4, IP6 = CfgAttributeType.INTERNAL_IP4_ADDRESS, CfgAttributeType.INTERNAL_IP6_ADDRESS


def test_virtual_addresses() -> None:
    """§2.19: asked for and handed out; the selectors follow, also when it is rekeyed."""
    four, six = bytes((10, 9, 0, 1)), bytes.fromhex("fd00") + bytes(13) + b"\x01"
    pair = _with_children(
        child_policy("", "0.0.0.0/0", request=(IP4, IP6)),
        child_policy("10.2.0.0/24", "", assign=(four, six)),
    )
    for side in (pair.a, pair.b):
        assert side.last(ChildSaEstablished).addresses == (four, six)
    assert pair.sent[2][1].endswith("N(INITIAL_CONTACT) CP SA TSi TSr")
    assert pair.sent[3][1].endswith("AUTH CP SA TSi TSr")
    event = pair.a.last(ChildSaEstablished)
    assert [str(ts) for ts in event.local_ts] == ["10.9.0.1/32", "fd00::1/128"]
    pair.b.ike.rekey_child(next(iter(pair.b.installed)), pair.now)
    pair.settle()
    (order,) = pair.a.installed.values()
    assert order.local_ts == event.local_ts


def test_no_address_to_give() -> None:
    pair = _with_children(
        child_policy("", "0.0.0.0/0", request=(IP6,)),
        child_policy("10.2.0.0/24", "", assign=(bytes((10, 9, 0, 1)),)),
    )
    closed = pair.a.last(IkeSaClosed)
    assert (closed.reason, closed.detail) == (CloseReason.REFUSED, "INTERNAL_ADDRESS_FAILURE")


def test_a_responder_that_gives_more_than_was_offered() -> None:
    """§2.9: then the Child SA is not used, and the IKE SA ends."""
    pair = make_pair(child=True)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        """
    )
    offer = pair.a.sa.handshake.offer
    offer.remote_ts = child_policy("10.1.0.0/24", "10.2.0.0/25").remote_ts
    pair.settle()
    assert pair.a.last(IkeSaClosed).reason is CloseReason.TS_UNACCEPTABLE
    assert not pair.a.installed
    assert not pair.b.installed


# -- one IKE SA with each peer -------------------------------------------------------------------


def test_initial_contact_after_a_restart() -> None:
    """§2.4: the old SA goes without a word; nobody is there to hear it."""
    pair = established(make_pair(child=True))
    restarted = make_pair(child=True).a
    restarted.ike.random = seeded("after the restart")
    pair.a = restarted
    pair.now += 100
    pair.sent.clear()
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.settle()
    assert len(pair.sent) == 4
    assert pair.b.events(IkeSaClosed)[0].reason is CloseReason.REPLACED
    assert len(pair.b.ike) == len(pair.b.installed) == 1
    assert pair.a.sa.spis == pair.b.sa.spis


def test_two_peers_with_one_pair_of_identities() -> None:
    """Who proves the one takes nothing from the other, and no first contact is claimed (§2.4)."""
    psk = PskAuth(secret=b"0" * 20)
    pair = established(make_pair(child=True))
    for side in (pair.a, pair.b):
        other = replace(side.peer, name="other", local_auth=psk, remote_auth=psk)
        side.book.peers.insert(0, other)
    pair.now += 100
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play("""
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        a --> b: IKE_AUTH? IDi IDr AUTH SA TSi TSr
    """)
    pair.settle()
    for side in (pair.a, pair.b):
        assert len(side.ike) == len(side.installed) == 2
        assert not side.events(IkeSaClosed)


def test_the_newer_one_replaces_the_older() -> None:
    pair = established(make_pair(child=True))
    pair.now += 100
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.settle()
    assert pair.a.sa.spis == pair.b.sa.spis
    for side in (pair.a, pair.b):
        assert side.events(IkeSaClosed)[0].reason is CloseReason.REPLACED
        assert len(side.installed) == 1


@pytest.mark.parametrize("seed", range(8))
def test_one_that_the_other_side_begins_much_later_is_newer_too(seed: int) -> None:
    """Whoever begins anew has a reason to: only what is begun at once is weighed by its SPIs."""
    pair = make_pair(child=True)
    pair.a.ike.random = seeded(f"{seed}")
    established(pair)
    first = pair.a.sa.spis
    pair.now += 2 * COLLISION_SECONDS
    pair.b.ike.connect(pair.b.peer, Path(A_TO_B.remote, A_TO_B.local), pair.now)
    pair.settle()
    assert pair.a.sa.spis == pair.b.sa.spis != first
    assert len(pair.a.installed) == len(pair.b.installed) == 1


@pytest.mark.parametrize("seed", range(30))
def test_both_connect_at_once(seed: int) -> None:
    """mediation.md §6: two procedures must end in one IKE SA, in whatever order they meet."""
    chance = random.Random(seed)
    pair = make_pair(child=True)
    pair.a.ike.random = seeded(f"{seed}")
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.b.ike.connect(pair.b.peer, Path(A_TO_B.remote, A_TO_B.local), pair.now)
    pair.drain()
    while pair.pending:
        pair.now += 0.02
        pair.deliver(pair.pending.pop(chance.randrange(len(pair.pending))))
    pair.sleep(60)
    assert len(pair.a.ike) == len(pair.b.ike) == 1
    assert pair.a.sa.spis == pair.b.sa.spis
    # Of two, that with the lower SPIs: each side has to know it by itself, whatever version it is.
    assert pair.a.sa.spis == min(event.spis for event in pair.a.events(IkeSaEstablished))
    (ours,), (theirs,) = pair.a.installed.values(), pair.b.installed.values()
    assert ours.spi_in == theirs.spi_out


@pytest.mark.parametrize("length", [0, 1, 31, 33, 300])
def test_a_pseudonym_that_is_no_key(length: int) -> None:
    """A mediator takes the identity for the key: whatever it is, it is only a wrong proof."""
    pair = make_pair()
    pseudonym = Identification.key_id(b"\xff" * length)
    _change(pair.a, local_id=pseudonym)
    _change(pair.b, remote_id=pseudonym, remote_auth=KeyAuth(public=pseudonym.data))
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(FAILED)


def _truth_after_a_forged_error() -> Pair:
    """b has answered a, who had heard NO_PROPOSAL_CHOSEN from nobody knows whom."""
    pair = make_pair()
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.drain()
    _answer(pair, NotifyPayload(NotifyType.NO_PROPOSAL_CHOSEN))
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        """
    )
    return pair


def test_a_forged_error_does_not_hurry_the_rest() -> None:
    """THREATS 13: once a true answer came, the attempt has all its time again."""
    pair = _truth_after_a_forged_error()
    pair.pending.clear()
    pair.sleep(20, deliver=False)
    assert pair.a.events(IkeSaClosed) == []
    pair.sleep(20)
    assert pair.a.sa.established


def test_a_forged_error_is_not_why_nobody_answers_later() -> None:
    pair = _truth_after_a_forged_error()
    pair.sleep(120, deliver=False)
    assert pair.a.last(IkeSaClosed).reason is CloseReason.TIMEOUT
