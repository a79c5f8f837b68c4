"""Rekeyings of an IKE SA that meet its end: nothing is left of either, on neither side.

RFC 7296 §2.8.2, §2.25.2. `a` is the side under test ("we"), `b` the peer; each for both roles.
"""

from __future__ import annotations

import pytest

from agent.ike.events import (
    ChildSaClosed,
    ChildSaRekeyed,
    CloseReason,
    IkeSaClosed,
    IkeSaRekeyed,
)
from agent.wire.codes import ExchangeType, NotifyType, ProtocolId
from agent.wire.payloads import DeletePayload, KePayload, NotifyPayload
from tests.support.pair import tunnels_told
from tests.unit.ike.test_collisions import (
    CHILD_OK,
    CHILD_REKEY,
    IKE_OK,
    IKE_REKEY,
    LINK,
    PLACES,
    Sides,
    sides,
    with_nonces,
)

pytestmark = pytest.mark.parametrize("swap", [False, True], ids=["initiator", "responder"])

ROUNDS = "aes128gcm16-prfsha256-x25519-ke1_ecp256"
CHILD_ROUNDS = "aes128gcm16-x25519-ke1_ecp256"


def _met(swap: bool) -> Sides:
    """Both rekey: theirs is answered, ours is lost."""
    s = sides(swap)
    s.rekey_ike(s.us, s.them)
    s.play(f"a --x b: {IKE_REKEY}\na <-- b: {IKE_REKEY}")
    return s


def _nothing_left(s: Sides) -> None:
    for side in (s.us, s.them):
        assert side.ike._by_spi == {}
        assert side.ike._current == {}
        assert side.installed == {}
        assert len(side.events(IkeSaClosed)) == 1
    assert s.us.last(IkeSaClosed).reason is CloseReason.DELETED


@pytest.mark.parametrize("answer", ["-->", "--x"])
def test_closed_while_two_rekeyings_meet(swap: bool, answer: str) -> None:
    """The peer may have what it made of its own rekeying in use: it is told there too."""
    s = _met(swap)
    s.play(f"a {answer} b: {IKE_OK}")
    s.close_ike(s.us)
    s.pair.sleep(60)
    _nothing_left(s)


def test_lost_while_two_rekeyings_meet(swap: bool) -> None:
    """Nobody answers any more: what the peer's rekeying made goes as well."""
    s = _met(swap)
    s.pair.sleep(200, deliver=False)
    assert s.us.ike._by_spi == {}
    assert s.us.installed == {}
    assert [e.reason for e in s.us.events(IkeSaClosed)] == [CloseReason.TIMEOUT]
    assert s.us.ike.next_timeout() is None


def test_replaced_silently_while_two_rekeyings_meet(swap: bool) -> None:
    s = _met(swap)
    s.us.ike.close(s.us.sa.ike_id, s.pair.now, silent=True)
    assert s.us.ike._by_spi == {}


def test_the_peer_goes_on_alone(swap: bool) -> None:
    """It has finished its rekeying, and neither its Delete nor our request ever arrives."""
    s = _met(swap)
    s.play(f"a --> b: {IKE_OK}")
    s.pair.sleep(15, deliver=False)
    s.pair.sleep(60)
    for side in (s.us, s.them):
        assert len(side.events(IkeSaRekeyed)) == 1
    s.agree()


@pytest.mark.parametrize("heard", ["<--", "x--"])
def test_closed_while_our_rekeying_is_answered(swap: bool, heard: str) -> None:
    """The peer uses the new IKE SA from its answer on, so that one is deleted too."""
    s = sides(swap)
    s.rekey_ike(s.us)
    s.play(f"a --> b: {IKE_REKEY}")
    s.close_ike(s.us)
    s.play(f"a {heard} b: {IKE_OK}")
    s.pair.sleep(60)
    _nothing_left(s)


@pytest.mark.parametrize("last", [False, True])
def test_closed_while_our_rekeying_has_follow_ups(swap: bool, last: bool) -> None:
    """Nothing is made before the last of them, and none is begun for an end."""
    s = sides(swap, ike=ROUNDS)
    s.rekey_ike(s.us)
    s.play(f"a --> b: {IKE_REKEY}")
    if last:
        s.play(f"a <-- b: {IKE_OK} {LINK}\na --> b: IKE_FOLLOWUP_KE? KE {LINK}")
    s.close_ike(s.us)
    if last:
        s.play("a <-- b: IKE_FOLLOWUP_KE! KE")
    else:
        s.play(f"a <-- b: {IKE_OK} {LINK}\na --> b: INFORMATIONAL? D(IKE)")
    s.pair.sleep(60)
    _nothing_left(s)


def test_closed_while_our_child_rekeying_is_answered(swap: bool) -> None:
    """Whoever was told that all is over is not told of a new tunnel."""
    s = sides(swap)
    s.rekey_child(s.us)
    s.play(f"a --> b: {CHILD_REKEY}")
    s.close_ike(s.us)
    s.play(f"a <-- b: {CHILD_OK}")
    assert s.us.installed == {}
    assert s.us.events(ChildSaRekeyed) == []
    s.pair.sleep(60)
    _nothing_left(s)


@pytest.mark.parametrize("first", ["new", "old"])
def test_the_peer_gives_up_what_it_rekeyed(swap: bool, first: str) -> None:
    """Both rekey, and the peer deletes the old and the new Child SA before it hears of ours."""
    s = sides(swap)
    s.rekey_child(s.us, s.them)
    s.play(f"a --x b: {CHILD_REKEY}\na <-- b: {CHILD_REKEY}\na --> b: {CHILD_OK}")
    s.take(s.them)
    s.them.sa.outgoing.clear()  # its Delete of the old one alone was never sent
    old, new = s.them.installed
    spis = (new, old) if first == "new" else (old, new)
    delete = [DeletePayload(ProtocolId.ESP, spis)]
    ask = s.them.ike.request
    ask(s.them.sa.ike_id, ExchangeType.INFORMATIONAL, delete, lambda m, now: None, s.pair.now)
    s.play("a <-- b: INFORMATIONAL? D(ESP)")
    assert s.us.installed == {}
    assert tunnels_told(s.us) == set()


def test_a_long_outage_after_the_answer(swap: bool) -> None:
    """Our request is repeated for 40 seconds: so long the old one is there to be replaced."""
    s = sides(swap)
    s.rekey_child(s.us)
    s.play(f"a --> b: {CHILD_REKEY}\na x-- b: {CHILD_OK}")
    s.pair.sleep(25, deliver=False)
    s.pair.sleep(60)
    for side in (s.us, s.them):
        assert len(side.events(ChildSaRekeyed)) == 1
        assert side.events(ChildSaClosed) == []
    s.agree()


@pytest.mark.parametrize("kind", ["child", "ike"])
def test_the_loser_goes_on_all_the_same(swap: bool, kind: str) -> None:
    """RFC 9370 §2.2.4: what is not to be continued is not known any more."""
    s = sides(swap, ike=ROUNDS, esp=CHILD_ROUNDS)
    ours, theirs, _ = PLACES["their Ni"]
    with_nonces(s.us, ours)
    with_nonces(s.them, theirs)
    request, answer = (CHILD_REKEY, CHILD_OK) if kind == "child" else (IKE_REKEY, IKE_OK)
    (s.rekey_child if kind == "child" else s.rekey_ike)(s.us, s.them)
    s.play(f"a --> b: {request}\na <-- b: {request}\na --> b: {answer} {LINK}")
    assert s.us.sa.pending is not None
    group, link = s.us.sa.pending.groups[0], s.us.sa.pending.link
    s.play(f"a <-- b: {answer} {LINK}")
    forbidden = [
        KePayload(group, s.them.ike.key_exchange(group).public),
        NotifyPayload(NotifyType.ADDITIONAL_KEY_EXCHANGE, link),
    ]
    ask = s.them.ike.request
    ask(s.them.sa.ike_id, ExchangeType.IKE_FOLLOWUP_KE, forbidden, lambda m, now: None, s.pair.now)
    s.take(s.us)
    s.play(f"a <-- b: IKE_FOLLOWUP_KE? KE {LINK}\na --> b: IKE_FOLLOWUP_KE! N(STATE_NOT_FOUND)")
