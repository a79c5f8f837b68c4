"""Requests that meet on the way where rekeyings have additional key exchanges: strongSwan 6.

RFC 9370 §2.2.4, as tests/interop/test_races.py has RFC 7296 §2.25. ECP-256 is the additional one:
what ML-KEM sends would come in fragments, and each datagram of these scripts is one message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import strongswan_obstacle
from tests.interop.ends import Suite
from tests.interop.races import (
    CHILD_OK,
    CHILD_REKEY,
    CHILDREN,
    DELETE_CHILD,
    DELETE_IKE,
    DELETED_CHILD,
    DELETED_IKE,
    IKE_OK,
    IKE_REKEY,
    NOT_NOW,
    races,
    strongswan_beside_us,
)
from tests.lab import newer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.charon import Charon

pytestmark = [pytest.mark.netns, pytest.mark.strongswan, pytest.mark.newer]

SUITE = Suite(ike="aes128gcm16-prfsha256-x25519-ke1_ecp256", esp="aes128gcm16-x25519-ke1_ecp256")
LINK = "N(ADDITIONAL_KEY_EXCHANGE)"
FOLLOWUP = f"IKE_FOLLOWUP_KE? KE {LINK}"
FOLLOWED = "IKE_FOLLOWUP_KE! KE"
FOLLOWED_NOT = "IKE_FOLLOWUP_KE! N(TEMPORARY_FAILURE)"
WORDS = {
    "child": (CHILD_REKEY, f"{CHILD_OK} {LINK}", DELETE_CHILD, DELETED_CHILD),
    "ike": (IKE_REKEY, f"{IKE_OK} {LINK}", DELETE_IKE, DELETED_IKE),
}
what = pytest.mark.parametrize("what", WORDS)


@pytest.fixture(scope="module")
def charon() -> Iterator[Charon]:
    if obstacle := strongswan_obstacle() or newer.obstacle():
        pytest.skip(obstacle)
    with strongswan_beside_us(SUITE, newer=True) as made:
        yield made


@pytest.fixture(params=["initiator", "responder"])
def race(charon: Charon, request):
    with races(charon, request.param) as make:
        yield make


# -- two rekeyings -------------------------------------------------------------------------------


@pytest.mark.parametrize("win", [True, False], ids=["win", "lose"])
@what
def test_both_rekey(race, what, win):
    """Only one of the two is followed up: who has lost sees it by the nonces, and stops."""
    it = race(suite=SUITE)
    children, spis = it.us.spis(), it.us.sa.spis
    it.nonces(win=win)
    request, answer, delete, deleted = WORDS[what]
    it.we(f"rekey {what}")
    it.they(f"rekey {what}")
    it.us.hold(f"--> {request}", f"<-- {request}")
    on, back = ("-->", "<--") if win else ("<--", "-->")
    it.us.play(
        f"""
        us --> them: {request}
        us <-- them: {request}
        us --> them: {answer}
        us <-- them: {answer}
        us {on} them: {FOLLOWUP}
        us {back} them: {FOLLOWED}
        us {on} them: {delete}
        us {back} them: {deleted}
        """
    )
    it.agree()
    if what == "child":
        assert not it.us.spis() & children
    else:
        assert it.us.sa.spis != spis
        assert it.us.sa.is_initiator is win
        assert it.us.spis() == children


@pytest.mark.parametrize("first", ["ours", "theirs"])
@what
def test_one_comes_when_the_other_is_followed_up(race, what, first):
    it = race(suite=SUITE)
    children, spis = it.us.spis(), it.us.sa.spis
    request, answer, delete, deleted = WORDS[what]
    it.we(f"rekey {what}")
    it.they(f"rekey {what}")
    it.us.hold(f"--> {request}", f"<-- {request}")
    on, back = ("-->", "<--") if first == "ours" else ("<--", "-->")
    it.us.play(
        f"""
        us {on} them: {request}
        us {back} them: {answer}
        us {on} them: {FOLLOWUP}
        us {back} them: {request}
        us {on} them: {NOT_NOW}
        us {back} them: {FOLLOWED}
        us {on} them: {delete}
        us {back} them: {deleted}
        """
    )
    it.agree()
    if what == "child":
        assert not it.us.spis() & children
    else:
        assert it.us.sa.spis != spis
        assert it.us.sa.is_initiator is (first == "ours")


# -- rekeying and closing ------------------------------------------------------------------------


@pytest.mark.parametrize("rekeys", ["we", "they"])
@what
def test_what_is_followed_up_is_closed(race, what, rekeys):
    """By who answers: nothing comes of the rekeying, and what it was about is gone."""
    it = race(suite=SUITE, two=True)
    request, answer, delete, deleted = WORDS[what]
    on, back = ("-->", "<--") if rekeys == "we" else ("<--", "-->")
    rekey, close = (it.we, it.they) if rekeys == "we" else (it.they, it.we)
    rekey(f"rekey {what}")
    it.us.play(f"us {on} them: {request}\nus {back} them: {answer}")
    close(f"close {what}")
    it.us.hold(f"{on} {FOLLOWUP}", f"{back} {delete}")
    it.us.play(
        f"""
        us {back} them: {delete}
        us {on} them: {FOLLOWUP}
        us {back} them: {FOLLOWED_NOT}
        us {on} them: {deleted}
        """
    )
    if what == "child":
        it.agree()
        assert not it._covers(CHILDREN["one"])
    else:
        it.us.do(lambda now: it.us.engine.disconnect("them", now))
        it.gone()
