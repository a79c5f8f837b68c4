"""THREATS 5: IKE_SA_INIT from spoofed sources: cookies, a bounded memory, honest peers get in."""

from __future__ import annotations

from agent.ike.settings import IkeSettings
from tests.support.attacker import flood
from tests.support.pair import (
    A_TO_B,
    established,
    make_pair,
)


def test_cookies_bound_the_half_open() -> None:
    """THREATS 5, 9: whoever does not answer from its address gets no state."""
    pair = established(make_pair(child=True))
    accepted = flood(pair, 3000)
    assert accepted == IkeSettings().cookie_threshold
    assert len(pair.b.ike.half_open) == accepted
    # An honest peer still gets in, within the round trips of a cookie.
    pair.a.ike.close(pair.a.sa.ike_id, pair.now, silent=True)
    pair.sent.clear()
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.settle()
    assert [line for _, line in pair.sent][1] == "a <-- b: IKE_SA_INIT! N(COOKIE)"
    assert pair.a.sa.established
    # And all is idle again.
    pair.sleep(60)
    assert len(pair.b.ike.half_open) == 0
    assert len(pair.b.ike._by_spi) == 1
