"""Draining: whom a mediation server sends to another one, when, and with what words."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from agent.mediation.drain import AGAIN_SECONDS, BATCH, BATCH_SECONDS, Drain
from agent.wire.codes import NotifyType
from agent.wire.redirect import GatewayId, Redirect, Successor
from tests.unit.mediation.test_server import Bench

if TYPE_CHECKING:
    from agent.ike.sa import IkeSa

SUCCESSOR = Successor(4501, bytes(range(32)))


def drain(host: str = "med2.example.org") -> Drain:
    return Drain(GatewayId.of_host(host), SUCCESSOR)


def test_a_few_at_a_time_and_once_in_a_round():
    draining, online = drain(), list(range(1, 26))
    asked = []
    now = 100.0
    for _ in range(3):
        due = draining.due(lambda: online, now)
        assert len(due) <= BATCH
        asked += due
        assert draining.due(lambda: online, now) == []  # not before its time
        now = draining.next_timeout
    assert asked == online
    assert now == 100.0 + 2 * BATCH_SECONDS + AGAIN_SECONDS


def test_who_stays_is_asked_again():
    draining = drain()
    assert draining.due(lambda: [1, 2], 0.0) == [1, 2]
    assert draining.due(lambda: [2], AGAIN_SECONDS - 1) == []
    assert draining.due(lambda: [2], AGAIN_SECONDS) == [2]


def test_who_comes_is_asked_soon():
    draining = drain()
    assert draining.due(lambda: [], 0.0) == []
    draining.came(7, 5.0)
    assert draining.next_timeout == 5.0 + BATCH_SECONDS
    assert draining.due(lambda: [], draining.next_timeout) == [7]


def test_who_has_gone_is_waited_for_no_more():
    """Else one that comes and goes as often as it can would keep the others waiting."""
    draining = drain()
    assert draining.due(lambda: [], 0.0) == []
    for ike_id in range(1, 1000):
        draining.came(ike_id, 1.0)
        draining.gone(ike_id, by_peer=False)
    draining.came(1000, 1.0)
    assert draining.due(lambda: [], draining.next_timeout) == [1000]


def test_what_counts_as_moved():
    draining = drain()
    for ike_id in (1, 2):
        draining.asked(ike_id)
    draining.gone(1, by_peer=True)
    draining.gone(1, by_peer=True)
    draining.gone(2, by_peer=False)  # it was silent, or replaced
    draining.gone(3, by_peer=True)  # it would have gone anyway
    assert draining.moved == 1


def test_words():
    assert drain().text == "med2.example.org:4501"
    assert drain("2001:db8::1").text == "[2001:db8::1]:4501"
    ours, theirs = (drain().said(ours=ours) for ours in (True, False))
    assert [n.type for n in ours] == [NotifyType.REDIRECT, NotifyType.HG_REDIRECT]
    assert Successor.decode(ours[1].data) == SUCCESSOR
    (notify,) = theirs
    redirect = Redirect.decode(notify.data, with_nonce=False)
    assert redirect.gateway.host == "med2.example.org"


def test_in_ike_auth_only_our_own_kind():
    """charon 5.9.8 would not survive it."""
    bench = Bench()
    for listed, expected in ((True, 2), (False, 0)):
        peer, ike_id = bench.join(f"{listed}@x", listed=listed)
        sa = bench.sas[ike_id][1]
        sa.extensions = (peer,)
        bench.server.drain = None
        assert bench.server.elsewhere(cast("IkeSa", sa)) == []
        bench.server.drain = drain()
        assert len(bench.server.elsewhere(cast("IkeSa", sa))) == expected


def test_the_server_wants_to_be_called_while_it_drains():
    bench = Bench()
    assert bench.server.next_timeout() is None
    bench.server.drain = drain()
    assert bench.server.next_timeout() == 0.0
