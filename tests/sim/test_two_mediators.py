"""Two mediators that are restarted, drained to each other and rekeyed in any order, with loss.

What tickets (RFC 5723), redirects (RFC 5685), crash tokens (RFC 6290) and rekeyings promise one by
one has to hold where they meet: everybody ends registered, once, and can be called.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from agent.engine.registration import HOME_SECONDS
from tests.sim.test_drain import SECOND, at, drain, place, registered, second
from tests.unit.engine.machines import SERVER, Machine, Scene

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = 30
PAUSES = (0.01, 0.05, 0.3, 1, 5, 30, 200)


class Trouble:
    """Draws what happens next."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.scene = Scene()
        self.mediators = {SERVER: self.scene.mediator, SECOND: second(self.scene)}
        self.draining: set[str] = set()
        self.loss = 0.0
        self.scene.network.drops = lambda host, packet: self.chance.random() < self.loss
        self.scene.connected()

    @property
    def peers(self) -> tuple[Machine, Machine]:
        return self.scene.gateway, self.scene.operator

    def nobody_asks(self) -> bool:
        """Whether each IKE SA stands, and none is there to ask a server about its being back."""
        machines = (*self.mediators.values(), *self.peers)
        sas = [sa for machine in machines for sa in machine.engine._ike.sas()]
        return all(sa.established for sa in sas)

    def step(self) -> None:
        every: list[Callable[[], None]] = [
            self.restart_mediator,
            self.drain_mediator,
            self.restart_peer,
            self.lose,
            self.rekey,
            self.rekey,
        ]
        self.chance.choice(every)()
        self.scene.run(self.chance.choice(PAUSES))
        for machine in self.mediators.values():
            machine.rotate(self.scene.now)

    def restart_mediator(self) -> None:
        host = self.chance.choice([*self.mediators])
        self.mediators[host].boot(self.scene.now)
        self.draining.discard(host)

    def drain_mediator(self) -> None:
        host, other = self.chance.sample([*self.mediators], 2)
        if other not in self.draining:  # else they are sent to and fro on purpose
            drain(self.scene, self.mediators[host], place(self.mediators[other], other))
            self.draining.add(host)

    def restart_peer(self) -> None:
        self.chance.choice(self.peers).boot(self.scene.now)

    def lose(self) -> None:
        self.loss = self.chance.choice([0, 0, 0.2, 0.4])

    def rekey(self) -> None:
        engine = self.chance.choice([*self.mediators.values(), *self.peers]).engine
        for sa in engine._ike.sas():
            engine._ike.rekey_ike(sa.ike_id, self.scene.now)
        engine._settle(self.scene.now)


@pytest.mark.parametrize("seed", range(16))
def test_in_any_order(seed: int) -> None:
    trouble = Trouble(seed)
    scene = trouble.scene
    for _ in range(STEPS):
        trouble.step()
    trouble.loss = 0.0
    scene.run(HOME_SECONDS + 60)
    assert scene.run(60, trouble.nobody_asks)
    (here,) = {place for machine in trouble.peers for place in at(machine)}
    assert here[0] == "registered"
    assert here[1].partition(":")[0] not in trouble.draining
    mediators = trouble.mediators.values()
    assert sum(map(registered, mediators)) == 2
    assert all(machine.sas <= 2 for machine in trouble.peers)  # the registration, and the tunnel
    scene.connect()
    assert scene.run(400, scene.both_up)
    assert scene.echoes()
