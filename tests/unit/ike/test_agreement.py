"""Whatever is rekeyed, deleted, lost, doubled and reordered: in the end both sides agree.

THREATS 24 and 25. Each seed is one run in virtual time.
"""

from __future__ import annotations

import random

import pytest

from agent.datagram import Path
from agent.ike.create_child_sa import CreateChild
from agent.ike.events import IkeSaClosed, IkeSaRekeyed
from agent.ike.pad import Lifetimes
from agent.ike.states import IkeState
from agent.ike.table import Ike
from tests.support.pair import (
    A_ADDRESS,
    A_TO_B,
    B_ADDRESS,
    Pair,
    established,
    make_pair,
    seeded,
    tunnels_told,
)


def _disturb(pair: Pair, chance: random.Random, loss: float) -> None:
    """Deliver about half of what waits: some lost, some twice, some out of order."""
    pair.drain()
    for datagram in list(pair.pending):
        if chance.random() < 0.5:
            continue
        pair.pending.remove(datagram)
        pair.now += chance.random() / 50
        fate = chance.random()
        if fate < loss:
            continue
        pair.deliver(datagram)
        if fate > 0.85:
            pair.deliver(datagram)
    if chance.random() < 0.3:
        chance.shuffle(pair.pending)
    pair.now += chance.random() / 10
    for side in (pair.a, pair.b):
        at = side.ike.next_timeout()
        if at is not None and at <= pair.now:
            side.ike.handle_timer(pair.now)
    pair.drain()


def _act(pair: Pair, chance: random.Random, verbs: list[str]) -> None:
    side = chance.choice((pair.a, pair.b))
    verb = chance.choice(verbs)
    sas = side.ike.sas()
    if not sas:
        return
    ike_id = sas[0].ike_id
    children = list(side.installed)
    if verb == "rekey_ike":
        side.ike.rekey_ike(ike_id, pair.now)
    elif verb == "probe":
        side.ike.check_liveness(ike_id, pair.now)
    elif verb == "rekey_child" and children:
        side.ike.rekey_child(chance.choice(children), pair.now)
    elif verb == "delete_child" and children:
        side.delete_child(chance.choice(children), pair.now)
    elif verb == "create_child" and sas[0].established:
        side.submit(CreateChild(), pair.now)
    elif verb == "close_ike":
        side.ike.close(ike_id, pair.now)


def _agree(pair: Pair, *, with_child: bool) -> None:
    for side in (pair.a, pair.b):
        assert side.events(IkeSaClosed) == []
        assert len(side.ike._by_spi) == 1, side.name
        assert side.ike.children.spis_in == set(side.installed)
        assert set(side.sa.children or ()) == set(side.installed)
    assert pair.a.sa.spis == pair.b.sa.spis
    ours = {(c.spi_in, c.spi_out): (c.keys_in, c.keys_out) for c in pair.a.installed.values()}
    theirs = {(c.spi_out, c.spi_in): (c.keys_out, c.keys_in) for c in pair.b.installed.values()}
    assert ours == theirs
    if with_child:
        assert len(ours) == 1


# One key exchange, and two more that follow it (RFC 9370).
SUITES = [
    ("aes128gcm16-prfsha256-x25519", "aes128gcm16-x25519"),
    pytest.param(
        (
            "aes128gcm16-prfsha256-x25519-ke1_mlkem768-ke2_ecp256",
            "aes128gcm16-x25519-ke1_mlkem768-ke2_ecp256",
        ),
        marks=pytest.mark.mlkem,
    ),
]


@pytest.mark.parametrize("loss", [0.0, 0.2])
@pytest.mark.parametrize(
    "verbs", [["rekey_ike"], ["rekey_child"], ["rekey_ike", "rekey_child", "probe"]]
)
@pytest.mark.parametrize("suites", SUITES, ids=["one", "several"])
@pytest.mark.parametrize("block", range(10))
def test_rekeyings_end_in_one_pair(
    block: int, suites: tuple[str, str], verbs: list[str], loss: float
) -> None:
    for seed in range(block * 8, block * 8 + 8):
        chance = random.Random(seed)
        pair = established(make_pair(child=True, ike=suites[:1], esp=suites[1:]))
        for _ in range(chance.randrange(1, 5)):
            _act(pair, chance, verbs)
            for _ in range(chance.randrange(4)):
                _disturb(pair, chance, loss)
        pair.sleep(120)
        try:
            _agree(pair, with_child=True)
        except AssertionError:
            print(f"seed {seed}", *pair.sent, sep="\n")
            raise


@pytest.mark.parametrize("suites", SUITES, ids=["one", "several"])
@pytest.mark.parametrize("block", range(10))
def test_deletes_among_them(block: int, suites: tuple[str, str]) -> None:
    for seed in range(block * 8, block * 8 + 8):
        chance = random.Random(seed)
        pair = established(make_pair(child=True, ike=suites[:1], esp=suites[1:]))
        for _ in range(chance.randrange(1, 5)):
            _act(pair, chance, ["rekey_ike", "rekey_child", "delete_child"])
            for _ in range(chance.randrange(4)):
                _disturb(pair, chance, 0.2)
        pair.sleep(120)
        try:
            _agree(pair, with_child=False)
        except AssertionError:
            print(f"seed {seed}", *pair.sent, sep="\n")
            raise


@pytest.mark.parametrize("suites", SUITES, ids=["one", "several"])
@pytest.mark.parametrize("block", range(10))
def test_ends_and_outages_among_them(block: int, suites: tuple[str, str]) -> None:
    """Nothing outlives its end on one side only, and what is told is what there is."""
    verbs = "rekey_ike rekey_ike rekey_child rekey_child delete_child create_child close_ike"
    for seed in range(block * 20, block * 20 + 20):
        chance = random.Random(seed)
        pair = established(make_pair(child=True, ike=suites[:1], esp=suites[1:], liveness=30.0))
        for _ in range(chance.randrange(1, 6)):
            _act(pair, chance, verbs.split())
            for _ in range(chance.randrange(5)):
                _disturb(pair, chance, 0.2)
            if chance.random() < 0.15:
                pair.sleep(chance.choice((1, 5, 12, 25, 45)), deliver=False)
        pair.sleep(300)
        try:
            _same_is_left(pair)
        except AssertionError:
            print(f"seed {seed}", *pair.sent, sep="\n")
            raise


@pytest.mark.parametrize("block", range(5))
def test_beginnings_and_restarts_among_them(block: int) -> None:
    """However often both begin at once or forget: one IKE SA at most, the same on both sides."""
    for seed in range(block * 20, block * 20 + 20):
        chance = random.Random(seed)
        pair = make_pair(child=True, liveness=30.0)
        for _ in range(chance.randrange(3, 10)):
            verb = chance.choice(["connect", "connect", "restart", "others", "others"])
            side, path = chance.choice([(pair.a, A_TO_B), (pair.b, Path(B_ADDRESS, A_ADDRESS))])
            if verb == "connect":
                side.ike.connect(side.peer, path, pair.now)
            elif verb == "restart":
                side.ike = Ike(pad=side.book, random=seeded(f"{side.name} {pair.now}"))
                side.installed.clear()
                side.outputs.clear()
            else:
                _act(pair, chance, ["rekey_ike", "rekey_child", "probe", "close_ike"])
            for _ in range(chance.randrange(8)):
                _disturb(pair, chance, 0.1)
        pair.sleep(300)
        try:
            _same_is_left(pair)
            assert len(pair.a.ike) <= 1
            assert len(pair.a.ike.half_open) == len(pair.b.ike.half_open) == 0
        except AssertionError:
            print(f"seed {seed}", *pair.sent, sep="\n")
            raise


def _same_is_left(pair: Pair) -> None:
    for side in (pair.a, pair.b):
        assert all(sa.state is IkeState.ESTABLISHED for sa in side.ike._by_spi.values())
        assert len(side.ike._by_spi) == len(side.ike) == len(side.ike._current)
        assert side.ike.children.spis_in == set(side.installed) == tunnels_told(side)
    assert {sa.spis for sa in pair.a.ike.sas()} == {sa.spis for sa in pair.b.ike.sas()}
    ours = {(c.spi_in, c.spi_out) for c in pair.a.installed.values()}
    assert ours == {(c.spi_out, c.spi_in) for c in pair.b.installed.values()}


def test_days_with_loss_leave_nothing_behind() -> None:
    """THREATS 40 in small: rekeyings, probes and losses for days; all tables stay flat."""
    chance = random.Random(7)
    lifetimes = Lifetimes(ike_seconds=14400, child_seconds=3600)
    pair = established(make_pair(child=True, lifetimes=lifetimes, liveness=60.0))
    deliver = pair.deliver
    pair.deliver = lambda d: deliver(d) if chance.random() > 0.1 else None  # type: ignore[method-assign]
    pair.sleep(4 * 86400)
    pair.deliver = deliver  # type: ignore[method-assign]
    pair.sleep(60)
    _agree(pair, with_child=True)
    for side in (pair.a, pair.b):
        assert len(side.ike._current) == len(side.ike._schedule) == 1
        assert len(side.ike._schedule._heap) < 100
        assert len(side.sa.timers._deadlines) <= 3
        assert len(side.events(IkeSaRekeyed)) > 4 * 5
