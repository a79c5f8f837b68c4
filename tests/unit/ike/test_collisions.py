"""Exchanges that meet: every case of RFC 7296 §2.8.1, §2.8.2, §2.25, §1.4.1 and RFC 4718 §5.11.

In the scripts `a` is the side under test ("we") and `b` the peer; each runs for both roles, that is
with the first IKE SA begun by us and by the peer.

| what meets what                                              | section          | test_…                      |
| ------------------------------------------------------------ | ---------------- | --------------------------- |
| Child rekey and Child rekey, each of four nonces the lowest  | 2.8.1            | children_both_rekeyed       |
| … nonces that begin alike; one is the beginning of the other | 2.8.1, 4718 5.10 | nonces_are_compared         |
| … our request lost                                           | 2.8.1, figure 2  | child_request_lost          |
| … our response lost; theirs lost                             | 2.1, 2.8.1       | child_response_lost         |
| … the Delete overtakes the response                          | 2.8.1            | child_delete_overtakes      |
| IKE rekey and IKE rekey, each of four nonces the lowest      | 2.8.2            | ikes_both_rekeyed           |
| … only one side notices, Delete first                        | 2.8.2, figure    | ike_noticed_by_one          |
| … only one side notices, request first: TEMPORARY_FAILURE    | 2.8.2            | ike_request_comes_late      |
| … a response lost                                            | 2.1, 2.8.2       | ike_response_lost           |
| we close a Child SA, peer rekeys it: TEMPORARY_FAILURE       | 2.25.1           | child_rekey_meets_our_close |
| … its request comes after the close: CHILD_SA_NOT_FOUND      | 2.25.1           | child_rekey_after_our_close |
| we rekey a Child SA, peer closes it: as usual, with Delete   | 2.25.1           | child_close_meets_our_rekey |
| both close a Child SA: no Delete in the answers              | 1.4.1, 2.25.1    | child_closed_by_both        |
| peer closes a Child SA that is not there: no Delete          | 2.25.1           | close_of_an_unknown_child   |
| peer rekeys a Child SA that is not there, SPI copied         | 2.25             | rekey_of_an_unknown_child   |
| … while we make one: TEMPORARY_FAILURE                       | 2.25, 4718 5.11.7| rekey_of_a_child_in_making  |
| we are told CHILD_SA_NOT_FOUND: forget, make anew            | 2.25             | child_lost_by_the_peer      |
| … and a new one is refused: its end is reported              | 2.25, 1.3        | child_lost_and_refused      |
| we create a Child SA, peer rekeys the IKE SA                 | 2.25.1           | ike_rekey_meets_our_child   |
| we rekey a Child SA, peer rekeys the IKE SA                  | 2.25.1           | ike_rekey_meets_our_child   |
| we close a Child SA, peer rekeys the IKE SA                  | 2.25.1           | ike_rekey_meets_our_child   |
| we rekey the IKE SA, peer creates or rekeys a Child SA       | 2.25.2           | child_meets_our_ike_rekey   |
| we rekey the IKE SA, peer closes a Child SA: with Delete     | 2.25.2           | close_meets_our_ike_rekey   |
| we close the IKE SA, peer rekeys it: TEMPORARY_FAILURE       | 2.25.2           | ike_rekey_meets_our_close   |
| … or is in the follow-ups of it or of a Child SA: the same   | 2.25.2           | follow_ups_meet_our_close   |
| we rekey the IKE SA, peer closes it: as usual, forget        | 2.25.2           | ike_close_meets_our_rekey   |
| both close the IKE SA                                        | 2.25.2           | ike_closed_by_both          |
| we close the IKE SA, peer creates, rekeys, closes a Child SA | 2.25.2, 1.4.1    | child_meets_our_ike_close   |
| Child requests on an IKE SA that was replaced                | 2.8, 2.25.2      | child_on_a_replaced_sa      |
| TEMPORARY_FAILURE is not retried at once, but later          | 2.25             | temporary_failure_waits     |
| TEMPORARY_FAILURE for minutes: the IKE SA is closed          | 2.25             | temporary_failure_for_ever  |
| … not if they are different matters                          | 2.25             | temporary_failures_long_ap… |
| message IDs of a new IKE SA, and of the old one              | 1.3.2            | message_ids_of_a_new_ike_sa |
| NO_ADDITIONAL_SAS for a new Child SA, a rekey, an IKE rekey  | 1.3              | no_additional_sas           |
| rekeying never works: the IKE SA ends with the Child SA      | 2.8              | child_that_expires          |
| no new exchange while the peer's IKE rekey has follow-ups    | 1.3.2, 9370 2.2.4| nothing_begins_meanwhile    |

Requests that are lost and repeated are met again at random in `test_agreement`, with many seeds.
"""  # noqa: E501  a table

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agent.ike.child import OUT_OF_SYNC_SECONDS
from agent.ike.create_child_sa import CreateChild
from agent.ike.events import (
    ChildSaClosed,
    ChildSaEstablished,
    ChildSaRekeyed,
    CloseReason,
    IkeSaClosed,
    IkeSaRekeyed,
)
from agent.ike.pad import Lifetimes
from agent.ike.states import LINGER_SECONDS
from agent.wire.codes import NotifyType, ProtocolId
from agent.wire.message import decode_header
from agent.wire.payloads import NotifyPayload
from tests.support.pair import Pair, Side, established, make_pair, seeded

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.parametrize("swap", [False, True], ids=["initiator", "responder"])

ESP = "aes128gcm16-x25519"
IKE = "aes128gcm16-prfsha256-x25519"
CHILD_REQUEST = "CREATE_CHILD_SA? SA No KE TSi TSr"
CHILD_REKEY = "CREATE_CHILD_SA? N(REKEY_SA) SA No KE TSi TSr"
CHILD_OK = "CREATE_CHILD_SA! SA No KE TSi TSr"
IKE_REKEY = "CREATE_CHILD_SA? SA No KE"
IKE_OK = "CREATE_CHILD_SA! SA No KE"
NOT_NOW = "CREATE_CHILD_SA! N(TEMPORARY_FAILURE)"
LINK = "N(ADDITIONAL_KEY_EXCHANGE)"


class Sides:
    """`us` and `them`, and scripts as seen by us."""

    def __init__(self, pair: Pair, *, swap: bool) -> None:
        self.pair = pair
        self.swap = swap
        self.us, self.them = (pair.b, pair.a) if swap else (pair.a, pair.b)
        pair.sent.clear()

    def play(self, script: str) -> None:
        if self.swap:
            for arrow, other in (("-->", "<--"), ("--x", "x--")):
                script = script.replace(arrow, "@").replace(other, arrow).replace("@", other)
        self.pair.play(script)

    def take(self, side: Side) -> object:
        """What `side` sent waits outside."""
        self.pair.drain()
        found = next(d for d in self.pair.pending if d.sender is side)
        self.pair.pending.remove(found)
        return found

    def child(self, side: Side) -> bytes:
        (spi,) = side.installed
        return spi

    def rekey_child(self, *sides: Side) -> None:
        for side in sides or (self.us,):
            side.ike.rekey_child(self.child(side), self.pair.now)

    def rekey_ike(self, *sides: Side) -> None:
        for side in sides:
            side.ike.rekey_ike(side.sa.ike_id, self.pair.now)

    def close_ike(self, *sides: Side) -> None:
        for side in sides:
            side.ike.close(side.sa.ike_id, self.pair.now)

    def agree(self, *, children: int = 1) -> None:
        """One IKE SA, as many pairs of Child SAs, the same on both sides; and it still works."""
        pair = self.pair
        pair.quiet()
        assert pair.a.sa.spis == pair.b.sa.spis
        for _ in range(2):
            ours = {
                (c.spi_in, c.spi_out, c.keys_in, c.keys_out) for c in self.us.installed.values()
            }
            theirs = {
                (c.spi_out, c.spi_in, c.keys_out, c.keys_in) for c in self.them.installed.values()
            }
            assert ours == theirs
            assert len(ours) == children
            for side in (self.us, self.them):
                assert side.events(IkeSaClosed) == []
                assert len(side.ike._by_spi) == len(side.ike) == 1
                assert (
                    set(side.sa.children or ()) == set(side.installed) == side.ike.children.spis_in
                )
                for spi in list(side.installed):
                    side.ike.rekey_child(spi, pair.now)
                    pair.settle()
                    assert spi not in side.installed


def sides(
    swap: bool, *, esp: str = ESP, ike: str = IKE, lifetimes: Lifetimes | None = None
) -> Sides:
    pair = make_pair(child=True, esp=(esp,), ike=(ike,), lifetimes=lifetimes)
    return Sides(established(pair), swap=swap)


def with_nonces(side: Side, nonces: Sequence[bytes]) -> None:
    """Ni and Nr that `side` draws: the first and the fourth 32 octets, with two keys between."""
    ni, nr = nonces
    waiting, source = [ni, b"", b"", nr], side.ike.random
    side.ike.random = lambda n: (n == 32 and waiting and waiting.pop(0)) or source(n)


HIGH, HIGHER, HIGHEST = (bytes([octet]) * 32 for octet in (0x80, 0xA0, 0xC0))
LOW = bytes(32)
# Our Ni, our Nr, their Ni, their Nr with the lowest in each place; and whether ours survives. An
# exchange is our Ni with their Nr, the other one their Ni with our Nr.
PLACES = {
    "our Ni": ((LOW, HIGH), (HIGHER, HIGHEST), False),
    "our Nr": ((HIGH, LOW), (HIGHER, HIGHEST), True),
    "their Ni": ((HIGH, HIGHER), (LOW, HIGHEST), True),
    "their Nr": ((HIGH, HIGHER), (HIGHEST, LOW), False),
}
# The lower and the higher one of two that differ late, or in length only.
ALIKE = {
    "last octet": (b"\x11" * 31 + b"\x01", b"\x11" * 31 + b"\x02"),
    "shorter": (b"\x11" * 16, b"\x11" * 32),
    "not as numbers": (b"\x10" + b"\xff" * 31, b"\x11" * 16),
}


def _both_rekey_a_child(s: Sides, *, ours_survives: bool) -> None:
    old = s.child(s.us)
    s.rekey_child(s.us, s.them)
    s.play(
        f"""
        a --> b: {CHILD_REKEY}
        a <-- b: {CHILD_REKEY}
        a --> b: {CHILD_OK}
        a <-- b: {CHILD_OK}
        """
    )
    assert len(s.us.installed) == len(s.them.installed) == 3  # as the RFC counts them
    s.play(
        """
        a --> b: INFORMATIONAL? D(ESP)
        a <-- b: INFORMATIONAL? D(ESP)
        a --> b: INFORMATIONAL! D(ESP)
        a <-- b: INFORMATIONAL! D(ESP)
        """
    )
    # Who made the survivor uses it at once, and the other side after a packet or the Delete.
    assert s.us.installed[s.child(s.us)].use_at_once is ours_survives
    assert s.them.installed[s.child(s.them)].use_at_once is not ours_survives
    for side in (s.us, s.them):
        assert side.events(ChildSaClosed) == []
        (event,) = side.events(ChildSaRekeyed)
        assert event.spi_in in side.installed
    assert s.us.last(ChildSaRekeyed).old_spi_in == old
    s.agree()


@pytest.mark.parametrize("place", PLACES)
def test_children_both_rekeyed(swap: bool, place: str) -> None:
    s = sides(swap)
    ours, theirs, survives = PLACES[place]
    with_nonces(s.us, ours)
    with_nonces(s.them, theirs)
    _both_rekey_a_child(s, ours_survives=survives)


def test_the_losers_child_has_an_end(swap: bool) -> None:
    """Who made it closes it; where that never comes it is not rekeyed, and we do in the end."""
    s = sides(swap, lifetimes=Lifetimes(child_seconds=3600.0))
    ours, theirs, _ = PLACES["their Ni"]
    with_nonces(s.us, ours)
    with_nonces(s.them, theirs)
    s.rekey_child(s.us, s.them)
    s.play(
        f"""
        a --> b: {CHILD_REKEY}
        a <-- b: {CHILD_REKEY}
        a --> b: {CHILD_OK}
        a <-- b: {CHILD_OK}
        """
    )
    (event,) = s.us.events(ChildSaRekeyed)
    of_them = {event.old_spi_in, *s.us.installed} - {event.spi_in}
    assert len(of_them) == 2  # the old one, and theirs
    for spi in of_them:
        child = s.us.sa.children[spi]
        assert child.ends_silently
        assert child.rekey_at is None
        assert child.expire_at == s.pair.now + LINGER_SECONDS


@pytest.mark.parametrize("kind", ["child", "ike"])
@pytest.mark.parametrize("ours_is_lower", [True, False])
@pytest.mark.parametrize("alike", ALIKE)
def test_nonces_are_compared(swap: bool, alike: str, ours_is_lower: bool, kind: str) -> None:
    s = sides(swap)
    lower, higher = ALIKE[alike]
    with_nonces(s.us, [lower if ours_is_lower else higher, HIGHEST])
    with_nonces(s.them, [higher if ours_is_lower else lower, HIGHEST])
    if kind == "child":
        _both_rekey_a_child(s, ours_survives=not ours_is_lower)
    else:
        _both_rekey_the_ike_sa(s, ours_survives=not ours_is_lower)


@pytest.mark.parametrize("answer", ["CHILD_SA_NOT_FOUND", "TEMPORARY_FAILURE"])
def test_child_request_lost(swap: bool, answer: str) -> None:
    """The peer is done, or about to be, before it hears that we wanted the same."""
    s = sides(swap)
    s.rekey_child(s.us, s.them)
    s.play(
        f"""
        a --x b: {CHILD_REKEY}
        a <-- b: {CHILD_REKEY}
        a --> b: {CHILD_OK}
        """
    )
    delete = "a <-- b: INFORMATIONAL? D(ESP)\na --> b: INFORMATIONAL! D(ESP)\n"
    if answer == "CHILD_SA_NOT_FOUND":
        s.play(delete)
    s.pair.tick(s.us)
    again = f"a --> b: {CHILD_REKEY}\na <-- b: CREATE_CHILD_SA! N({answer})\n"
    if answer == "TEMPORARY_FAILURE":  # the Delete is on its way
        late = s.take(s.them)
        s.play(again)
        s.pair.deliver(late)  # type: ignore[arg-type]
        s.play("a --> b: INFORMATIONAL! D(ESP)")
    else:
        s.play(again)
    for side in (s.us, s.them):
        assert side.events(ChildSaClosed) == []
        assert len(side.events(ChildSaRekeyed)) == 1
    s.agree()


@pytest.mark.parametrize("lost", ["ours", "theirs"])
@pytest.mark.parametrize("place", PLACES)
def test_child_response_lost(swap: bool, lost: str, place: str) -> None:
    """The same response comes again, so the collision ends as it would have."""
    s = sides(swap)
    ours, theirs, survives = PLACES[place]
    with_nonces(s.us, ours)
    with_nonces(s.them, theirs)
    s.rekey_child(s.us, s.them)
    s.play(
        f"""
        a --> b: {CHILD_REKEY}
        a <-- b: {CHILD_REKEY}
        a {"--x" if lost == "ours" else "-->"} b: {CHILD_OK}
        a {"x--" if lost == "theirs" else "<--"} b: {CHILD_OK}
        """
    )
    s.pair.sleep(20)
    for side in (s.us, s.them):
        assert side.events(ChildSaClosed) == []
    assert s.us.installed[s.child(s.us)].use_at_once is survives
    s.agree()


def test_child_delete_overtakes(swap: bool) -> None:
    """The peer has won and deletes the old one; its answer to us comes after that."""
    s = sides(swap)
    ours, theirs, _ = PLACES["our Ni"]
    with_nonces(s.us, ours)
    with_nonces(s.them, theirs)
    s.rekey_child(s.us, s.them)
    s.play(f"a --> b: {CHILD_REKEY}")
    s.pair.drain()
    late = next(d for d in s.pair.pending if d.sender is s.them and "!" in _said(s, d))
    s.pair.pending.remove(late)
    s.play(
        f"""
        a <-- b: {CHILD_REKEY}
        a --> b: {CHILD_OK}
        a <-- b: INFORMATIONAL? D(ESP)
        a --> b: INFORMATIONAL! D(ESP)
        """
    )
    s.pair.deliver(late)
    s.play(
        """
        a --> b: INFORMATIONAL? D(ESP)
        a <-- b: INFORMATIONAL! D(ESP)
        """
    )
    assert s.us.events(ChildSaClosed) == s.them.events(ChildSaClosed) == []
    s.agree()


def _said(s: Sides, datagram) -> str:
    return s.pair.describe(datagram.sender, datagram.data)


# -- IKE SA and IKE SA ---------------------------------------------------------------------------


def _both_rekey_the_ike_sa(s: Sides, *, ours_survives: bool) -> None:
    s.rekey_ike(s.us, s.them)
    s.play(
        f"""
        a --> b: {IKE_REKEY}
        a <-- b: {IKE_REKEY}
        a --> b: {IKE_OK}
        a <-- b: {IKE_OK}
        """
    )
    s.play(
        """
        a --> b: INFORMATIONAL? D(IKE)
        a <-- b: INFORMATIONAL? D(IKE)
        a --> b: INFORMATIONAL!
        a <-- b: INFORMATIONAL!
        """
    )
    assert s.us.sa.is_initiator is ours_survives
    assert s.them.sa.is_initiator is not ours_survives
    for side in (s.us, s.them):
        (event,) = side.events(IkeSaRekeyed)
        assert event.spis == side.sa.spis
    s.agree()


@pytest.mark.parametrize("place", PLACES)
def test_ikes_both_rekeyed(swap: bool, place: str) -> None:
    s = sides(swap)
    ours, theirs, survives = PLACES[place]
    with_nonces(s.us, ours)
    with_nonces(s.them, theirs)
    _both_rekey_the_ike_sa(s, ours_survives=survives)


def test_ike_noticed_by_one(swap: bool) -> None:
    """We are done; the peer learns by our Delete that we never saw its request."""
    s = sides(swap)
    s.rekey_ike(s.us, s.them)
    s.play(
        f"""
        a --> b: {IKE_REKEY}
        a x-- b: {IKE_REKEY}
        a <-- b: {IKE_OK}
        a --> b: INFORMATIONAL? D(IKE)
        a <-- b: INFORMATIONAL!
        """
    )
    s.pair.quiet()  # and does not repeat it
    s.pair.sleep(60)
    assert sum(line.split(": ")[1] == IKE_REKEY for _, line in s.pair.sent) == 2
    assert s.us.sa.is_initiator
    s.agree()


def test_ike_request_comes_late(swap: bool) -> None:
    s = sides(swap)
    s.rekey_ike(s.us, s.them)
    late = s.take(s.them)
    s.play(
        f"""
        a --> b: {IKE_REKEY}
        a <-- b: {IKE_OK}
        """
    )
    s.pair.deliver(late)  # type: ignore[arg-type]
    s.play(
        f"""
        a --> b: INFORMATIONAL? D(IKE)
        a --> b: {NOT_NOW}
        a <-- b: INFORMATIONAL!
        """
    )
    s.agree()


@pytest.mark.parametrize("lost", ["ours", "theirs"])
@pytest.mark.parametrize("place", PLACES)
def test_ike_response_lost(swap: bool, lost: str, place: str) -> None:
    s = sides(swap)
    ours, theirs, survives = PLACES[place]
    with_nonces(s.us, ours)
    with_nonces(s.them, theirs)
    s.rekey_ike(s.us, s.them)
    s.play(
        f"""
        a --> b: {IKE_REKEY}
        a <-- b: {IKE_REKEY}
        a {"--x" if lost == "ours" else "-->"} b: {IKE_OK}
        a {"x--" if lost == "theirs" else "<--"} b: {IKE_OK}
        """
    )
    s.pair.sleep(60)
    assert s.us.sa.is_initiator is survives
    s.agree()


# -- Child SA: rekeying and closing --------------------------------------------------------------


def test_child_rekey_meets_our_close(swap: bool) -> None:
    s = sides(swap)
    s.us.delete_child(s.child(s.us), s.pair.now)
    s.rekey_child(s.them)
    s.play(
        f"""
        a <-- b: {CHILD_REKEY}
        a --> b: INFORMATIONAL? D(ESP)
        a --> b: {NOT_NOW}
        a <-- b: INFORMATIONAL! D(ESP)
        """
    )
    s.pair.sleep(60)  # nothing is left to rekey
    assert sum("CREATE" in line for _, line in s.pair.sent) == 2
    assert s.us.last(ChildSaClosed).reason is CloseReason.DELETED
    assert s.them.last(ChildSaClosed).reason is CloseReason.BY_PEER
    s.agree(children=0)


def test_child_rekey_after_our_close(swap: bool) -> None:
    """Its request was on the way while all of our close happened. It does not make a new one."""
    s = sides(swap)
    s.us.delete_child(s.child(s.us), s.pair.now)
    s.rekey_child(s.them)
    late = s.take(s.them)
    s.play("a --> b: INFORMATIONAL? D(ESP)\na <-- b: INFORMATIONAL! D(ESP)")
    s.pair.deliver(late)  # type: ignore[arg-type]
    s.play("a --> b: CREATE_CHILD_SA! N(CHILD_SA_NOT_FOUND)")
    s.agree(children=0)


def test_child_close_meets_our_rekey(swap: bool) -> None:
    s = sides(swap)
    s.rekey_child(s.us)
    s.them.delete_child(s.child(s.them), s.pair.now)
    late = s.take(s.us)
    s.play("a <-- b: INFORMATIONAL? D(ESP)\na --> b: INFORMATIONAL! D(ESP)")
    s.pair.deliver(late)  # type: ignore[arg-type]
    s.play("a <-- b: CREATE_CHILD_SA! N(CHILD_SA_NOT_FOUND)")
    assert s.us.last(ChildSaClosed).reason is CloseReason.BY_PEER
    assert len(s.us.events(ChildSaClosed)) == 1
    s.agree(children=0)


def test_child_closed_by_both(swap: bool) -> None:
    s = sides(swap)
    for side in (s.us, s.them):
        side.delete_child(s.child(side), s.pair.now)
    s.play(
        """
        a --> b: INFORMATIONAL? D(ESP)
        a <-- b: INFORMATIONAL? D(ESP)
        a --> b: INFORMATIONAL!
        a <-- b: INFORMATIONAL!
        """
    )
    for side in (s.us, s.them):
        assert len(side.events(ChildSaClosed)) == 1
        assert side.sa.children is None
    s.agree(children=0)


def test_close_of_an_unknown_child(swap: bool) -> None:
    s = sides(swap)
    s.us.sa.children.clear()
    s.them.delete_child(s.child(s.them), s.pair.now)
    s.play("a <-- b: INFORMATIONAL? D(ESP)\na --> b: INFORMATIONAL!")
    assert not s.them.installed


def test_rekey_of_an_unknown_child(swap: bool) -> None:
    """The notify says which: protocol and SPI are those of REKEY_SA, which is the peer's."""
    s = sides(swap)
    spi = s.child(s.them)
    s.us.sa.children.clear()
    s.rekey_child(s.them)
    s.play(f"a <-- b: {CHILD_REKEY}")
    s.pair.drain()
    (answer,) = s.pair.pending
    notify = s.pair.message(s.us, answer.data).first(NotifyPayload)
    assert notify == NotifyPayload(NotifyType.CHILD_SA_NOT_FOUND, b"", ProtocolId.ESP, spi)


def test_rekey_of_a_child_in_making(swap: bool) -> None:
    """4718 §5.11.7: one that the peer has made and of which our response is still on its way."""
    s = sides(swap)
    s.us.submit(CreateChild(), s.pair.now)
    s.play(f"a --> b: {CHILD_REQUEST}\na x-- b: {CHILD_OK}")
    new = next(child for child in s.them.sa.children.values() if child.settles_at is not None)
    s.them.ike.rekey_child(new.spi_in, s.pair.now)
    s.pair.quiet()  # ours does not do it before it knows that we have the response
    new.settles_at = None
    s.them.ike.rekey_child(new.spi_in, s.pair.now)
    s.play(f"a <-- b: {CHILD_REKEY}\na --> b: {NOT_NOW}")
    s.pair.sleep(60)
    s.agree(children=2)
    assert len(s.them.events(ChildSaRekeyed)) >= 1


def test_child_lost_by_the_peer(swap: bool) -> None:
    s = sides(swap)
    old = s.child(s.us)
    s.them.sa.children.clear()
    s.rekey_child(s.us)
    s.play(
        f"""
        a --> b: {CHILD_REKEY}
        a <-- b: CREATE_CHILD_SA! N(CHILD_SA_NOT_FOUND)
        a --> b: {CHILD_REQUEST}
        a <-- b: {CHILD_OK}
        """
    )
    s.pair.quiet()
    assert old not in s.us.installed
    assert s.child(s.us) == s.us.last(ChildSaEstablished).spi_in
    # There is never a moment without any, as far as events say.
    events = [o for o in s.us.outputs if isinstance(o, ChildSaEstablished | ChildSaClosed)]
    assert isinstance(events[-2], ChildSaEstablished)
    assert isinstance(events[-1], ChildSaClosed)
    assert events[-1].spi_in == old


def test_child_lost_and_refused(swap: bool) -> None:
    s = sides(swap)
    old = s.child(s.us)
    s.them.sa.children.clear()
    s.them.sa.peer = replace(s.them.sa.peer, child=None)
    s.rekey_child(s.us)
    s.play(
        f"""
        a --> b: {CHILD_REKEY}
        a <-- b: CREATE_CHILD_SA! N(CHILD_SA_NOT_FOUND)
        a --> b: {CHILD_REQUEST}
        a <-- b: CREATE_CHILD_SA! N(NO_ADDITIONAL_SAS)
        """
    )
    assert not s.us.installed
    assert s.us.last(ChildSaClosed).spi_in == old
    assert s.us.last(ChildSaClosed).detail == "NO_ADDITIONAL_SAS"


# -- Child SA and IKE SA -------------------------------------------------------------------------

OURS = {
    "create": CHILD_REQUEST,
    "rekey": CHILD_REKEY,
    "close": "INFORMATIONAL? D(ESP)",
}


def _begin(s: Sides, side: Side, what: str) -> None:
    if what == "create":
        side.submit(CreateChild(), s.pair.now)
    elif what == "rekey":
        s.rekey_child(side)
    else:
        side.delete_child(s.child(side), s.pair.now)


@pytest.mark.parametrize("what", OURS)
def test_ike_rekey_meets_our_child(swap: bool, what: str) -> None:
    s = sides(swap)
    _begin(s, s.us, what)
    s.rekey_ike(s.them)
    late = s.take(s.us)
    s.play(f"a <-- b: {IKE_REKEY}\na --> b: {NOT_NOW}")
    assert _said(s, late) == OURS[what]
    s.pair.deliver(late)  # type: ignore[arg-type]
    s.pair.sleep(60)
    assert len(s.them.events(IkeSaRekeyed)) == 1  # later
    s.agree(children={"create": 2, "rekey": 1, "close": 0}[what])


@pytest.mark.parametrize("what", ["create", "rekey"])
def test_child_meets_our_ike_rekey(swap: bool, what: str) -> None:
    s = sides(swap)
    s.rekey_ike(s.us)
    _begin(s, s.them, what)
    s.play(f"a <-- b: {OURS[what]}\na --> b: {IKE_REKEY}")
    # The peer got ours while its own was on its way: both are put off, and nothing is half done.
    s.play(f"a --> b: {NOT_NOW}\na <-- b: {NOT_NOW}")
    assert s.us.events(IkeSaRekeyed) == []
    s.pair.sleep(90)
    assert len(s.us.events(IkeSaRekeyed)) == 1
    if what == "rekey":
        assert len(s.them.events(ChildSaRekeyed)) == 1
    s.agree()


def test_close_meets_our_ike_rekey(swap: bool) -> None:
    s = sides(swap)
    s.rekey_ike(s.us)
    s.them.delete_child(s.child(s.them), s.pair.now)
    s.play(
        f"""
        a <-- b: INFORMATIONAL? D(ESP)
        a --> b: {IKE_REKEY}
        a --> b: INFORMATIONAL! D(ESP)
        a <-- b: {NOT_NOW}
        """
    )
    assert s.us.last(ChildSaClosed).reason is CloseReason.BY_PEER
    s.pair.sleep(60)
    assert len(s.us.events(IkeSaRekeyed)) == 1
    s.agree(children=0)


def _all_gone(s: Sides) -> None:
    s.pair.sleep(60)
    for side in (s.us, s.them):
        assert len(side.events(IkeSaClosed)) == 1
        assert not side.ike._by_spi
        assert not side.installed
        assert side.ike.next_timeout() is None


def test_ike_rekey_meets_our_close(swap: bool) -> None:
    s = sides(swap)
    s.close_ike(s.us)
    s.rekey_ike(s.them)
    s.play(
        f"""
        a <-- b: {IKE_REKEY}
        a --> b: INFORMATIONAL? D(IKE)
        a --> b: {NOT_NOW}
        a <-- b: INFORMATIONAL!
        """
    )
    _all_gone(s)
    assert s.us.last(IkeSaClosed).reason is CloseReason.DELETED
    assert s.them.last(IkeSaClosed).reason is CloseReason.BY_PEER


def test_ike_close_meets_our_rekey(swap: bool) -> None:
    s = sides(swap)
    s.rekey_ike(s.us)
    s.close_ike(s.them)
    s.play(
        f"""
        a <-- b: INFORMATIONAL? D(IKE)
        a --> b: {IKE_REKEY}
        a --> b: INFORMATIONAL!
        """
    )
    assert s.us.last(IkeSaClosed).reason is CloseReason.BY_PEER
    s.pair.pending.clear()  # the peer's SA is gone, what it answers is for nobody
    s.pair.tick(s.them) if s.them.ike.next_timeout() is not None else None
    _all_gone(s)
    assert sum(IKE_REKEY in line for _, line in s.pair.sent) == 1


def test_ike_closed_by_both(swap: bool) -> None:
    s = sides(swap)
    s.close_ike(s.us, s.them)
    s.play(
        """
        a --> b: INFORMATIONAL? D(IKE)
        a <-- b: INFORMATIONAL? D(IKE)
        a --> b: INFORMATIONAL!
        a <-- b: INFORMATIONAL!
        """
    )
    _all_gone(s)


@pytest.mark.parametrize("what", OURS)
def test_child_meets_our_ike_close(swap: bool, what: str) -> None:
    s = sides(swap)
    _begin(s, s.them, what)
    s.close_ike(s.us)
    answer = "INFORMATIONAL!" if what == "close" else NOT_NOW
    s.play(
        f"""
        a <-- b: {OURS[what]}
        a --> b: INFORMATIONAL? D(IKE)
        a --> b: {answer}
        a <-- b: INFORMATIONAL!
        """
    )
    _all_gone(s)


@pytest.mark.parametrize("what", ["ike", "child"])
def test_follow_ups_meet_our_close(swap: bool, what: str) -> None:
    s = sides(swap, ike=IKE + "-ke1_ecp256", esp=ESP + "-ke1_ecp256")
    if what == "ike":
        s.rekey_ike(s.them)
        s.play(f"a <-- b: {IKE_REKEY}\na --> b: {IKE_OK} {LINK}")
    else:
        s.rekey_child(s.them)
        s.play(f"a <-- b: {CHILD_REKEY}\na --> b: {CHILD_OK} {LINK}")
    s.close_ike(s.us)
    s.play(
        f"""
        a <-- b: IKE_FOLLOWUP_KE? KE {LINK}
        a --> b: INFORMATIONAL? D(IKE)
        a --> b: IKE_FOLLOWUP_KE! N(TEMPORARY_FAILURE)
        a <-- b: INFORMATIONAL!
        """
    )
    _all_gone(s)


@pytest.mark.parametrize("what", OURS)
def test_child_on_a_replaced_sa(swap: bool, what: str) -> None:
    """Its request was on the way while the peer, as it seems, answered our rekeying: put off."""
    s = sides(swap)
    _begin(s, s.them, what)
    late = s.take(s.them)
    task, s.them.sa.outgoing.task = s.them.sa.outgoing.task, None  # one that does not mind
    s.rekey_ike(s.us)
    s.play(f"a --> b: {IKE_REKEY}\na <-- b: {IKE_OK}")
    assert task is not None
    s.pair.deliver(late)  # type: ignore[arg-type]
    answer = "INFORMATIONAL!" if what == "close" else NOT_NOW
    s.play(f"a --> b: INFORMATIONAL? D(IKE)\na --> b: {answer}")
    assert len(s.us.installed) == 1


# -- errors --------------------------------------------------------------------------------------


def test_temporary_failure_waits(swap: bool) -> None:
    s = sides(swap)
    s.us.delete_child(s.child(s.us), s.pair.now)
    late = s.take(s.us)
    s.rekey_ike(s.them)
    s.play(f"a <-- b: {IKE_REKEY}\na --> b: {NOT_NOW}")
    s.pair.sleep(9, deliver=False)
    assert [line for at, line in s.pair.sent if line.split(": ")[1] == IKE_REKEY] == [
        f"a {'-->' if swap else '<--'} b: {IKE_REKEY}"
    ]
    s.pair.deliver(late)  # type: ignore[arg-type]
    s.pair.sleep(30)
    assert len(s.them.events(IkeSaRekeyed)) == 1


@pytest.mark.parametrize("what", ["child", "ike"])
def test_temporary_failure_for_ever(swap: bool, what: str) -> None:
    s = sides(swap)
    s.us.submit(CreateChild(), s.pair.now)  # the peer hears of it, its answer never comes
    s.pair.drain()
    s.pair.pending.clear()
    s.us.sa.timers.clear()
    if what == "child":
        s.us.installed[s.child(s.us)]
        s.us.sa.children[s.child(s.us)].is_closing = True
        s.rekey_child(s.them)
    else:
        s.rekey_ike(s.them)
    s.pair.sleep(OUT_OF_SYNC_SECONDS - 5)
    assert s.them.events(IkeSaClosed) == []
    refused = sum(NOT_NOW in line for _, line in s.pair.sent)
    assert 10 < refused < 30
    s.pair.sleep(40)
    assert s.them.last(IkeSaClosed).reason is CloseReason.REKEY_FAILED
    assert s.us.last(IkeSaClosed).reason is CloseReason.BY_PEER


def test_temporary_failures_long_apart(swap: bool) -> None:
    """Each is its own matter, and none of them ends the IKE SA."""
    s = sides(swap)
    for _ in range(3):
        s.rekey_child(s.them)
        s.us.sa.children[s.child(s.us)].is_closing = True
        s.play(f"a <-- b: {CHILD_REKEY}\na --> b: {NOT_NOW}")
        s.them.sa.children[s.child(s.them)].rekey_at = None
        s.pair.sleep(OUT_OF_SYNC_SECONDS)
    assert s.them.events(IkeSaClosed) == []


def test_message_ids_of_a_new_ike_sa(swap: bool) -> None:
    """§1.3.2: both begin with 0 again, the old one goes on counting."""
    s = sides(swap)
    old = s.us.sa
    counted = old.outgoing.next_id
    s.rekey_ike(s.us)
    s.pair.settle()
    assert old.outgoing.next_id == counted + 2
    for side in (s.us, s.them):
        assert side.sa.outgoing.next_id == side.sa.incoming.next_id == 0
        side.ike.check_liveness(side.sa.ike_id, s.pair.now)
    s.pair.drain()
    assert [decode_header(d.data).message_id for d in s.pair.pending] == [0, 0]


def test_no_additional_sas(swap: bool) -> None:
    s = sides(swap, lifetimes=Lifetimes(ike_seconds=0, child_seconds=0))
    s.them.sa.peer = replace(s.them.sa.peer, child=None)
    for what in ("create", "rekey"):
        _begin(s, s.us, what)
        s.play(f"a --> b: {OURS[what]}\na <-- b: CREATE_CHILD_SA! N(NO_ADDITIONAL_SAS)")
    assert s.us.last(ChildSaClosed).detail == "NO_ADDITIONAL_SAS"
    assert len(s.us.installed) == 1  # what is there stays
    assert s.us.sa.established
    before = len(s.pair.sent)
    s.pair.sleep(25)  # the rekeying is tried again
    assert len(s.pair.sent) >= before + 2


def test_child_that_expires(swap: bool) -> None:
    s = sides(swap, lifetimes=Lifetimes(ike_seconds=0, child_seconds=300))
    s.them.sa.peer = replace(s.them.sa.peer, child=None)
    s.them.sa.children[s.child(s.them)].rekey_at = None
    s.them.sa.children[s.child(s.them)].expire_at = None
    s.pair.sleep(299)
    assert s.us.events(IkeSaClosed) == []
    s.pair.sleep(2)
    assert s.us.last(IkeSaClosed).reason is CloseReason.REKEY_FAILED
    _all_gone(s)


@pytest.mark.mlkem
def test_nothing_begins_meanwhile(swap: bool) -> None:
    """Once the peer rekeys the IKE SA, no CREATE_CHILD_SA of ours begins on it (§1.3.2)."""
    s = sides(swap, ike=IKE + "-ke1_mlkem768")
    for side in (s.us, s.them):
        side.sa.fragments.limit = 60_000
    s.rekey_ike(s.them)
    s.play(f"a <-- b: {IKE_REKEY}\na --> b: {IKE_OK} {LINK}")
    s.rekey_child(s.us)
    s.play(
        f"""
        a <-- b: IKE_FOLLOWUP_KE? KE {LINK}
        a --> b: IKE_FOLLOWUP_KE! KE
        a <-- b: INFORMATIONAL? D(IKE)
        a --> b: INFORMATIONAL!
        """
    )
    s.pair.quiet()
    s.pair.sleep(30)  # but on the new one
    assert len(s.us.events(ChildSaRekeyed)) == 1
    s.agree()


def test_the_random_source_is_seeded(swap: bool) -> None:
    """The races above are the same in each run."""
    assert seeded("a")(32) == seeded("a")(32) != seeded("b")(32)
