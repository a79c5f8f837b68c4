"""Random NATs, losses and moments: every attempt ends, and never in two tunnels."""

from __future__ import annotations

import random

import pytest

from agent.ike.events import IkeSaEstablished
from agent.mediation.events import ConnectFailed
from tests.sim.scenes import AD, APD, EI, scene
from tests.support.network import Link

BEHAVIOURS = (EI, AD, APD)


@pytest.mark.parametrize("seed", range(60))
def test_every_attempt_ends(seed: int) -> None:
    rng = random.Random(seed)
    nats = [(rng.choice(BEHAVIOURS), rng.choice(BEHAVIOURS)) for _ in range(2)]
    link = Link(
        delay=rng.uniform(0.001, 0.1),
        jitter=rng.uniform(0, 0.05),
        loss=rng.choice((0.0, 0.05, 0.2, 0.35)),
        duplicate=rng.choice((0.0, 0.2)),
        reorder=rng.choice((0.0, 0.2)),
    )
    s = scene(*nats, seed=seed, link=link, register=False)
    s.a.register(s.mediator, s.now)
    s.b.register(s.mediator, s.now)
    s.network.run(60, lambda: s.a.client.registered and s.b.client.registered)
    s.a.call(s.b, s.now)
    if rng.random() < 0.5:
        s.network.run(rng.uniform(0, 0.6))
        if not s.b.tunnels():
            s.b.call(s.a, s.now)
    if rng.random() < 0.3:
        s.network.run(rng.uniform(0, 1.0))
        rng.choice((s.nat_a, s.nat_b)).reboot()
    s.network.run(180)
    for machine in (s.a, s.b):
        assert not machine.client.calls._attempts
        assert machine.client.next_timeout() is None
        assert len(machine.tunnels()) <= 1
    # The caller was told of an end, one way or the other.
    assert s.a.has(ConnectFailed) or any(e.peer == "b" for e in s.a.of(IkeSaEstablished))
