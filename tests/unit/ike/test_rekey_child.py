"""Child SA rekeying with and without PFS: RFC 7296 §1.3.3, §2.8. Collisions: `test_collisions`."""

from __future__ import annotations

from dataclasses import replace

from agent.ike.create_child_sa import CreateChild
from agent.ike.events import (
    ChildSaClosed,
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
    # §2.8: it could not be rekeyed, so the IKE SA ends too.
    assert not pair.a.installed
    assert not pair.b.installed
    assert pair.a.last(IkeSaClosed).reason is CloseReason.REKEY_FAILED
    assert pair.b.last(IkeSaClosed).reason is CloseReason.BY_PEER


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
