"""Which path a tunnel's IKE SA uses, and its keepalives (RFC 3948 §4)."""

from __future__ import annotations

from agent.datagram import Address, Path, Transmit
from agent.engine.paths import KEEPALIVE_SECONDS, KIND, Paths
from agent.timers import Schedule
from agent.wire.esp import KEEPALIVE

HERE = Address.parse("192.0.2.1", 4500)
ONE, OTHER = (Path(HERE, Address.parse(f"198.51.100.{n}", 4500)) for n in (1, 2))


def test_a_keepalive_goes_where_the_peer_is_now():
    schedule: Schedule[tuple[str, str]] = Schedule()
    paths = Paths(schedule)
    paths.keep_alive(7, ONE, 100.0)
    assert schedule.next_deadline() == 100.0 + KEEPALIVE_SECONDS
    assert schedule.expired(120.0) == [(KIND, "7")]
    assert paths.keepalive(7, 120.0) == Transmit(ONE, KEEPALIVE)
    paths.move(7, OTHER)
    assert paths.keepalive(7, 140.0) == Transmit(OTHER, KEEPALIVE)
    assert schedule.next_deadline() == 140.0 + KEEPALIVE_SECONDS
    paths.keep_alive(7, None, 150.0)
    assert paths.keepalive(7, 160.0) is None
    assert schedule.next_deadline() is None


def test_a_move_without_nat_makes_no_keepalives():
    paths = Paths(Schedule())
    paths.move(7, ONE)
    assert paths.keepalive(7, 1.0) is None


def test_the_path_of_a_tunnel_is_of_the_newest():
    """Two IKE SAs on one path, for a moment: the end of the older one changes nothing."""
    paths = Paths(Schedule())
    paths.note(1, ONE)
    paths.note(2, ONE)
    assert paths.ike_ids() == [1, 2]
    paths.note(1, None)
    assert paths.by_path == {ONE: 2}
    paths.note(2, OTHER)
    assert paths.by_path == {OTHER: 2}
    paths.note(2, None)
    assert not paths.by_path
    assert len(paths) == 0
