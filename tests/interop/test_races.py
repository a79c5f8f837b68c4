"""Requests that meet on the way: our engine and strongSwan, in both roles (RFC 7296 §2.8, §2.25).

Each race is forced (tests/interop/races.py), and has one end; the last test leaves it to short
lifetimes of both sides. THREATS 25.

tests/unit/ike/test_collisions.py has every case against our own engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.ike.child import remove_child
from agent.ike.create_child_sa import RekeyChild
from agent.ike.events import CloseReason
from agent.ike.pad import Lifetimes
from tests.conftest import strongswan_obstacle
from tests.interop.races import (
    CHILD_CREATE,
    CHILD_OK,
    CHILD_REKEY,
    CHILDREN,
    DELETE_CHILD,
    DELETE_IKE,
    DELETED_CHILD,
    DELETED_IKE,
    IKE_OK,
    IKE_REKEY,
    NOT_FOUND,
    NOT_NOW,
    SHORT,
    races,
    strongswan_beside_us,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.charon import Charon

pytestmark = [pytest.mark.netns, pytest.mark.strongswan]


@pytest.fixture(scope="module")
def charon() -> Iterator[Charon]:
    if obstacle := strongswan_obstacle():
        pytest.skip(obstacle)
    with strongswan_beside_us() as made:
        yield made


@pytest.fixture(params=["initiator", "responder"])
def race(charon: Charon, request):
    with races(charon, request.param) as make:
        yield make


# -- two rekeyings -------------------------------------------------------------------------------


@pytest.mark.parametrize("win", [True, False], ids=["win", "lose"])
def test_both_rekey_a_child(race, win):
    it = race()
    before = it.us.spis()
    it.nonces(win=win)
    it.we("rekey child")
    it.they("rekey child")
    it.us.hold(f"--> {CHILD_REKEY}", f"<-- {CHILD_REKEY}")
    it.us.play(
        f"""
        us --> them: {CHILD_REKEY}
        us <-- them: {CHILD_REKEY}
        us --> them: {CHILD_OK}
        us <-- them: {CHILD_OK}
        us <-- them: {DELETE_CHILD}
        us --> them: {DELETE_CHILD}
        """
    )
    it.agree()
    assert not it.us.spis() & before
    ((spi, _),) = it.us.spis()
    assert it.us.installed[spi].use_at_once is win  # as who made it does


@pytest.mark.parametrize("win", [True, False], ids=["win", "lose"])
def test_both_rekey_the_ike_sa(race, win):
    it = race()
    children = it.us.spis()
    it.nonces(win=win)
    it.we("rekey ike")
    it.they("rekey ike")
    it.us.hold(f"--> {IKE_REKEY}", f"<-- {IKE_REKEY}")
    it.us.play(
        f"""
        us --> them: {IKE_REKEY}
        us <-- them: {IKE_REKEY}
        us --> them: {IKE_OK}
        us <-- them: {IKE_OK}
        us <-- them: {DELETE_IKE}
        us --> them: {DELETE_IKE}
        """
    )
    it.agree()
    assert it.us.spis() == children  # inherited
    assert it.us.sa.is_initiator is win


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_an_ike_rekeying_is_noticed_by_one_side(race, first):
    """§2.8.2: one of the requests comes when the other side is done."""
    it = race()
    it.we("rekey ike")
    it.they("rekey ike")
    it.us.hold(f"--> {IKE_REKEY}", f"<-- {IKE_REKEY}")
    if first == "ours":
        script = f"""
        us --> them: {IKE_REKEY}
        us <-- them: {IKE_OK}
        us --x them: {DELETE_IKE}
        us <-- them: {IKE_REKEY}
        us --> them: {NOT_NOW}
        """
    else:
        script = f"""
        us <-- them: {IKE_REKEY}
        us --> them: {IKE_OK}
        us x-- them: {DELETE_IKE}
        us --> them: {IKE_REKEY}
        us <-- them: {NOT_NOW}
        """
    it.us.play(script)
    it.agree()
    assert it.us.sa.is_initiator is (first == "ours")


# -- rekeying and closing ------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True], ids=["temporary failure", "not found"])
def test_our_child_rekeying_meets_their_close(race, late):
    it = race(two=True)
    it.we("rekey child")
    it.they("close child")
    it.us.hold(f"--> {CHILD_REKEY}", f"<-- {DELETE_CHILD}")
    request = f"us --> them: {CHILD_REKEY}\nus <-- them: {NOT_FOUND if late else NOT_NOW}\n"
    closing = f"us <-- them: {DELETE_CHILD}\nus --> them: {DELETED_CHILD}\n"
    it.us.play(closing + request if late else request + closing)
    it.agree()
    assert not it._covers(CHILDREN["one"])


@pytest.mark.parametrize("late", [False, True], ids=["temporary failure", "not found"])
def test_our_close_of_a_child_meets_their_rekeying(race, late):
    it = race(two=True)
    it.we("close child")
    it.they("rekey child")
    it.us.hold(f"--> {DELETE_CHILD}", f"<-- {CHILD_REKEY}")
    request = f"us <-- them: {CHILD_REKEY}\nus --> them: {NOT_FOUND if late else NOT_NOW}\n"
    closing = f"us --> them: {DELETE_CHILD}\nus <-- them: {DELETED_CHILD}\n"
    it.us.play(closing + request if late else request + closing)
    it.agree()
    assert not it._covers(CHILDREN["one"])


def test_both_close_a_child(race):
    it = race(two=True)
    it.we("close child")
    it.they("close child")
    it.us.hold(f"--> {DELETE_CHILD}", f"<-- {DELETE_CHILD}")
    it.us.play(
        f"""
        us --> them: {DELETE_CHILD}
        us <-- them: {DELETE_CHILD}
        us --> them: INFORMATIONAL!
        us <-- them: INFORMATIONAL!
        """
    )
    it.agree()
    assert not it._covers(CHILDREN["one"])


def test_our_ike_rekeying_meets_their_close(race):
    it = race()
    it.we("rekey ike")
    it.they("close ike")
    it.us.hold(f"--> {IKE_REKEY}", f"<-- {DELETE_IKE}")
    it.us.play(
        f"""
        us --> them: {IKE_REKEY}
        us <-- them: {NOT_NOW}
        us <-- them: {DELETE_IKE}
        us --> them: {DELETED_IKE}
        """
    )
    it.gone()
    it.connect()


def test_our_close_meets_their_ike_rekeying(race):
    it = race()
    it.we("close ike")
    it.they("rekey ike")
    it.us.hold(f"--> {DELETE_IKE}", f"<-- {IKE_REKEY}")
    it.us.play(
        f"""
        us <-- them: {IKE_REKEY}
        us --> them: {NOT_NOW}
        us --> them: {DELETE_IKE}
        us <-- them: {DELETED_IKE}
        """
    )
    it.gone()
    it.connect()


# -- Child SA and IKE SA -------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["rekey child", "create child"])
def test_our_child_meets_their_ike_rekeying(race, what):
    it = race()
    it.we(what)
    it.they("rekey ike")
    request = CHILD_REKEY if what == "rekey child" else CHILD_CREATE
    it.us.hold(f"--> {request}", f"<-- {IKE_REKEY}")
    it.us.play(
        f"""
        us --> them: {request}
        us <-- them: {IKE_REKEY}
        us --> them: {NOT_NOW}
        us <-- them: {NOT_NOW}
        """
    )
    it.agree()


@pytest.mark.parametrize("what", ["rekey child", "create child"])
def test_our_ike_rekeying_meets_their_child(race, what):
    it = race()
    it.we("rekey ike")
    it.they(what, "one" if what == "rekey child" else "two")
    request = CHILD_REKEY if what == "rekey child" else CHILD_CREATE
    it.us.hold(f"--> {IKE_REKEY}", f"<-- {request}")
    it.us.play(
        f"""
        us --> them: {IKE_REKEY}
        us <-- them: {request}
        us --> them: {NOT_NOW}
        us <-- them: {NOT_NOW}
        """
    )
    it.agree()


@pytest.mark.parametrize("closer", ["ours", "theirs"])
def test_an_ike_rekeying_meets_the_close_of_a_child(race, closer):
    it = race(two=True)
    if closer == "ours":
        it.we("close child")
        it.they("rekey ike")
        it.us.hold(f"--> {DELETE_CHILD}", f"<-- {IKE_REKEY}")
        it.us.play(
            f"""
            us <-- them: {IKE_REKEY}
            us --> them: {NOT_NOW}
            us --> them: {DELETE_CHILD}
            us <-- them: {DELETED_CHILD}
            """
        )
    else:
        it.we("rekey ike")
        it.they("close child")
        it.us.hold(f"--> {IKE_REKEY}", f"<-- {DELETE_CHILD}")
        it.us.play(
            f"""
            us --> them: {IKE_REKEY}
            us <-- them: {NOT_NOW}
            us <-- them: {DELETE_CHILD}
            us --> them: {DELETED_CHILD}
            """
        )
    it.agree()
    assert not it._covers(CHILDREN["one"])


# -- several Child SAs ---------------------------------------------------------------------------


def test_each_side_rekeys_another_child(race):
    it = race(two=True)
    before = it.us.spis()
    it.we("rekey child", "one")
    it.they("rekey child", "two")
    it.us.hold(f"--> {CHILD_REKEY}", f"<-- {CHILD_REKEY}")
    it.us.play(
        f"""
        us --> them: {CHILD_REKEY}
        us <-- them: {CHILD_REKEY}
        us --> them: {CHILD_OK}
        us <-- them: {CHILD_OK}
        us <-- them: {DELETE_CHILD}
        us --> them: {DELETE_CHILD}
        us --> them: {DELETED_CHILD}
        us <-- them: {DELETED_CHILD}
        """
    )
    it.agree(children=2)
    assert not it.us.spis() & before


def test_both_rekey_both(race):
    """One collision after the other, as they come, and then the IKE SA from both sides."""
    it = race(two=True)
    before = it.us.spis()
    for child in CHILDREN:
        it.we("rekey child", child)
        it.they("rekey child", child)
    assert it.us.run(lambda: not it.us.spis() & before, 8), it._state()
    it.agree(children=2)
    spis = it.us.sa.spis
    it.we("rekey ike")
    it.they("rekey ike")
    assert it.us.run(lambda: it.us.sas and it.us.sa.spis != spis), it._state()
    it.agree(children=2)


def test_a_child_that_strongswan_does_not_know(race):
    """§2.25: forget it, and make another one."""
    it = race()
    child = it.child("one")
    own, unknown = child.spi_in, bytes.fromhex("0badcafe")
    child.spi_in = unknown  # in the request, and nowhere else
    it.us.sa.children[unknown] = child
    it.us.do(lambda now: it.us.sa.submit(RekeyChild(child), now))
    child.spi_in = own
    del it.us.sa.children[unknown]
    it.us.play(
        f"""
        us --> them: {CHILD_REKEY}
        us <-- them: {NOT_FOUND}
        us --> them: {CHILD_CREATE}
        us <-- them: {CHILD_OK}
        """
    )
    assert it.us.run(lambda: len(it.us.spis()) == 1)
    assert own.hex() not in dict(it.us.spis())
    assert it.us.spis() < it.theirs()  # which keeps its own until its lifetime ends
    it._engine_knows()
    it._echo(CHILDREN["one"])


def test_a_child_that_we_do_not_know(race):
    it = race(two=True)
    it.us.do(lambda now: remove_child(it.us.sa, it.child("one"), CloseReason.BY_PEER))
    it.they("rekey child")
    it.us.play(
        f"""
        us <-- them: {CHILD_REKEY}
        us --> them: {NOT_FOUND}
        us <-- them: {CHILD_CREATE}
        us --> them: {CHILD_OK}
        """
    )
    it.agree(children=2)


# -- by themselves -------------------------------------------------------------------------------


def test_lifetimes_that_end_together(race):
    """Both sides rekey each Child SA after 3 s and the IKE SA after 5 s: whatever comes of it.

    0.1 s each way, so that requests of the same moment do meet.
    """
    hard = Lifetimes(
        child_seconds=2.0 * SHORT, ike_seconds=2.0 * (SHORT + 2), margin=0.5, jitter=0.0
    )
    it = race(name="short", lifetimes=hard)
    first, ike = it.us.spis(), it.us.sa.spis
    it.us.run(lambda: False, 2.0 * SHORT, delay=0.1)
    it.agree()
    assert not it.us.spis() & first
    assert it.us.sa.spis != ike
    assert _collided(it.us.moved), it._state()


def _collided(moved: list[str]) -> bool:
    """Whether requests to rekey were on their way in both directions at once."""
    going: set[str] = set()
    for line in moved:
        _, arrow, _, what = line.split(maxsplit=3)
        if what in (CHILD_REKEY, IKE_REKEY):
            going.add(arrow)
            if len(going) == 2:
                return True
        elif what.startswith("CREATE_CHILD_SA!"):
            going.discard("<--" if arrow == "-->" else "-->")
    return False
