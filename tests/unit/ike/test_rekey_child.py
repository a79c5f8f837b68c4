"""Child SA rekeying with and without PFS, and its collisions: RFC 7296 §1.3.3, §2.8.1, §2.25.1."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.ike.create_child_sa import CreateChild
from agent.ike.events import (
    ChildSaClosed,
    ChildSaEstablished,
    ChildSaRekeyed,
    CloseReason,
    IkeSaClosed,
)
from agent.ike.pad import Lifetimes
from agent.wire.codes import NotifyType, ProtocolId
from agent.wire.proposals import parse_proposals
from tests.support.pair import Pair, established, make_pair

PFS = "aes128gcm16-x25519"


def _pair(*esp: str) -> Pair:
    pair = established(make_pair(child=True, esp=esp or (PFS,)))
    pair.sent.clear()
    return pair


def _spi(pair: Pair, name: str) -> bytes:
    (spi,) = (pair.a if name == "a" else pair.b).installed
    return spi


def _agree(pair: Pair) -> None:
    pair.quiet()
    (ours,) = pair.a.installed.values()
    (theirs,) = pair.b.installed.values()
    assert (ours.spi_in, ours.spi_out) == (theirs.spi_out, theirs.spi_in)
    assert (ours.keys_in, ours.keys_out) == (theirs.keys_out, theirs.keys_in)
    assert ours.local_ts == theirs.remote_ts
    for side in (pair.a, pair.b):
        assert side.events(ChildSaClosed) == []
        assert side.last(ChildSaRekeyed).spi_in in side.installed


def test_initiator_rekeys_with_pfs() -> None:
    pair = _pair()
    old = pair.a.installed[_spi(pair, "a")]
    pair.a.ike.rekey_child(_spi(pair, "a"), pair.now)
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? N(REKEY_SA) SA No KE TSi TSr
        a <-- b: CREATE_CHILD_SA! SA No KE TSi TSr
        a --> b: INFORMATIONAL? D(ESP)
        a <-- b: INFORMATIONAL! D(ESP)
        """
    )
    _agree(pair)
    (new,) = pair.a.installed.values()
    assert new.replaces == old.spi_in
    assert new.use_at_once
    assert new.keys_in != old.keys_in
    assert not next(iter(pair.b.installed.values())).use_at_once


def test_responder_rekeys_without_pfs() -> None:
    pair = _pair("aes256gcm16")
    pair.b.ike.rekey_child(_spi(pair, "b"), pair.now)
    pair.play(
        """
        a <-- b: CREATE_CHILD_SA? N(REKEY_SA) SA No TSi TSr
        a --> b: CREATE_CHILD_SA! SA No TSi TSr
        a <-- b: INFORMATIONAL? D(ESP)
        a --> b: INFORMATIONAL! D(ESP)
        """
    )
    _agree(pair)


def test_another_group_is_asked_for() -> None:
    pair = _pair("aes128gcm16-x25519-ecp256")
    pair.b.book.peers[0] = _with_esp(pair.b.peer, "aes128gcm16-ecp256")
    pair.b.sa.peer = pair.b.peer
    pair.a.ike.rekey_child(_spi(pair, "a"), pair.now)
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? N(REKEY_SA) SA No KE TSi TSr
        a <-- b: CREATE_CHILD_SA! N(INVALID_KE_PAYLOAD)
        a --> b: CREATE_CHILD_SA? N(REKEY_SA) SA No KE TSi TSr
        a <-- b: CREATE_CHILD_SA! SA No KE TSi TSr
        a --> b: INFORMATIONAL? D(ESP)
        a <-- b: INFORMATIONAL! D(ESP)
        """
    )
    _agree(pair)


def _with_esp(peer, text):
    return replace(
        peer, child=replace(peer.child, proposals=parse_proposals((text,), ProtocolId.ESP))
    )


@pytest.mark.parametrize("lowest", ["a", "b"])
def test_both_rekey_at_once(lowest: str) -> None:
    """§2.8.1: who made the SA with the lowest of four nonces deletes it, the other one the old."""
    pair = _pair()
    old = {"a": _spi(pair, "a"), "b": _spi(pair, "b")}
    _with_nonces(pair, low=lowest)
    pair.a.ike.rekey_child(old["a"], pair.now)
    pair.b.ike.rekey_child(old["b"], pair.now)
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? N(REKEY_SA) SA No KE TSi TSr
        a <-- b: CREATE_CHILD_SA? N(REKEY_SA) SA No KE TSi TSr
        a --> b: CREATE_CHILD_SA! SA No KE TSi TSr
        a <-- b: CREATE_CHILD_SA! SA No KE TSi TSr
        a --> b: INFORMATIONAL? D(ESP)
        a <-- b: INFORMATIONAL? D(ESP)
        a --> b: INFORMATIONAL! D(ESP)
        a <-- b: INFORMATIONAL! D(ESP)
        """
    )
    _agree(pair)
    # The survivor was made by the side whose nonces were higher.
    winner = pair.b if lowest == "a" else pair.a
    assert next(iter(winner.installed.values())).use_at_once


def _with_nonces(pair: Pair, *, low: str) -> None:
    """The next 32 octets that `low` draws (its Ni) begin with zero, all others with 0xff."""
    for side in (pair.a, pair.b):
        firsts = [b"\x00"] if side.name == low else []
        source = side.ike.random

        def random(n: int, firsts=firsts, source=source) -> bytes:
            if n != 32:
                return source(n)
            return (firsts.pop() if firsts else b"\xff") + source(n - 1)

        side.ike.random = random


def test_both_rekey_and_one_request_is_lost() -> None:
    """§2.8.1, second figure: b is done before it hears that a wanted the same."""
    pair = _pair()
    pair.a.ike.rekey_child(_spi(pair, "a"), pair.now)
    pair.b.ike.rekey_child(_spi(pair, "b"), pair.now)
    pair.play(
        """
        a --x b: CREATE_CHILD_SA? N(REKEY_SA) SA No KE TSi TSr
        a <-- b: CREATE_CHILD_SA? N(REKEY_SA) SA No KE TSi TSr
        a --> b: CREATE_CHILD_SA! SA No KE TSi TSr
        a <-- b: INFORMATIONAL? D(ESP)
        a --> b: INFORMATIONAL! D(ESP)
        """
    )
    pair.tick(pair.a)
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? N(REKEY_SA) SA No KE TSi TSr
        a <-- b: CREATE_CHILD_SA! N(CHILD_SA_NOT_FOUND)
        """
    )
    _agree(pair)
    assert len(pair.a.events(ChildSaRekeyed)) == 1


def test_rekeying_what_the_peer_closes_is_put_off() -> None:
    """§2.25.1: TEMPORARY_FAILURE; then the delete arrives and nothing is left to rekey."""
    pair = _pair()
    pair.b.ike.expire_child(_spi(pair, "b"), True, pair.now)
    pair.a.ike.rekey_child(_spi(pair, "a"), pair.now)
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? N(REKEY_SA) SA No KE TSi TSr
        a <-- b: INFORMATIONAL? D(ESP)
        a <-- b: CREATE_CHILD_SA! N(TEMPORARY_FAILURE)
        a --> b: INFORMATIONAL! D(ESP)
        """
    )
    pair.sleep(60)
    assert not pair.a.installed
    assert not pair.b.installed
    assert pair.a.last(ChildSaClosed).reason is CloseReason.BY_PEER
    assert pair.b.last(ChildSaClosed).reason is CloseReason.REKEY_FAILED
    assert sum("CREATE" in line for _, line in pair.sent) == 2


def test_temporary_failure_is_tried_again() -> None:
    pair = _pair()
    pair.b.sa.timers.clear()
    pair.b.ike.rekey_ike(pair.b.sa.ike_id, pair.now)
    pair.a.ike.rekey_child(_spi(pair, "a"), pair.now)
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? N(REKEY_SA) SA No KE TSi TSr
        a <-- b: CREATE_CHILD_SA? SA No KE
        a <-- b: CREATE_CHILD_SA! N(TEMPORARY_FAILURE)
        a --> b: CREATE_CHILD_SA! N(TEMPORARY_FAILURE)
        """
    )
    pair.sleep(30)
    assert pair.a.sa.spis == pair.b.sa.spis
    _agree(pair)


def test_both_delete_at_once() -> None:
    """§1.4.1, §2.25.1: neither answers with a Delete of its own."""
    pair = _pair()
    pair.a.ike.expire_child(_spi(pair, "a"), True, pair.now)
    pair.b.ike.expire_child(_spi(pair, "b"), True, pair.now)
    pair.play(
        """
        a --> b: INFORMATIONAL? D(ESP)
        a <-- b: INFORMATIONAL? D(ESP)
        a --> b: INFORMATIONAL!
        a <-- b: INFORMATIONAL!
        """
    )
    pair.quiet()
    for side in (pair.a, pair.b):
        assert not side.installed
        assert len(side.events(ChildSaClosed)) == 1
        assert side.sa.children is None


def test_a_child_that_the_peer_lost_is_made_anew() -> None:
    """§2.25: CHILD_SA_NOT_FOUND for one that we have: forget it, make another one."""
    pair = _pair()
    pair.b.sa.children.clear()
    pair.a.ike.rekey_child(_spi(pair, "a"), pair.now)
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? N(REKEY_SA) SA No KE TSi TSr
        a <-- b: CREATE_CHILD_SA! N(CHILD_SA_NOT_FOUND)
        a --> b: CREATE_CHILD_SA? SA No KE TSi TSr
        a <-- b: CREATE_CHILD_SA! SA No KE TSi TSr
        """
    )
    pair.quiet()
    assert pair.a.events(ChildSaClosed) == []
    assert len(pair.a.events(ChildSaEstablished)) == 2


def test_a_rekeyed_one_is_not_rekeyed_again() -> None:
    pair = _pair()
    spi = _spi(pair, "a")
    pair.a.ike.rekey_child(spi, pair.now)
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? N(REKEY_SA) SA No KE TSi TSr
        a <-- b: CREATE_CHILD_SA! SA No KE TSi TSr
        """
    )
    pair.a.ike.rekey_child(spi, pair.now)
    pair.settle()
    _agree(pair)
    assert len(pair.a.events(ChildSaRekeyed)) == 1


def test_lifetimes_rekey_in_time_from_either_side() -> None:
    pair = established(
        make_pair(child=True, lifetimes=Lifetimes(ike_seconds=3000, child_seconds=600))
    )
    pair.sleep(10_000)
    for side in (pair.a, pair.b):
        assert side.events(IkeSaClosed) == []
        assert side.events(ChildSaClosed) == []
        assert 16 <= len(side.events(ChildSaRekeyed)) <= 25
    assert pair.a.sa.spis == pair.b.sa.spis
    assert len(pair.a.installed) == len(pair.b.installed) == 1


def test_limits_of_octets() -> None:
    pair = _pair("aes128gcm16")
    order = pair.a.installed[_spi(pair, "a")]
    assert order.hard_packets * 0.75 < order.soft_packets < order.hard_packets * 0.95
    pair.a.ike.expire_child(order.spi_in, False, pair.now)
    pair.settle()
    _agree(pair)
    pair.a.ike.expire_child(_spi(pair, "a"), True, pair.now)
    pair.settle()
    assert not pair.a.installed
    assert pair.a.last(ChildSaClosed).reason is CloseReason.REKEY_FAILED
    assert pair.b.last(ChildSaClosed).reason is CloseReason.BY_PEER


def test_the_peer_never_deletes_what_it_replaced() -> None:
    """Then we do."""
    pair = _pair()
    pair.a.ike.rekey_child(_spi(pair, "a"), pair.now)
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? N(REKEY_SA) SA No KE TSi TSr
        a <-- b: CREATE_CHILD_SA! SA No KE TSi TSr
        """
    )
    pair.a.sa.abandon_request(pair.now)
    pair.a.sa.outgoing.next_id += 1
    pair.pending.clear()
    pair.sleep(40)
    assert len(pair.b.installed) == 1


def test_further_children_are_bounded() -> None:
    pair = _pair()
    for _ in range(5):
        pair.a.submit(CreateChild(), pair.now)
    pair.settle()
    assert len(pair.a.installed) == len(pair.b.installed) == 3
    assert pair.a.last(ChildSaClosed).detail == NotifyType.NO_ADDITIONAL_SAS.name
