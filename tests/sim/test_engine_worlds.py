"""Whole engines in random worlds: whatever happened, a wanted connection is there a minute later.

Loss, duplicates, reordering, NATs that reboot, machines that restart, links that are down, changed
networks, each at a random moment; then the world is kind again. Seeds make every run the same.
"""

from __future__ import annotations

import random

import pytest

from tests.unit.engine.machines import Scene, echo

SEEDS = [*range(24), 134, 254, 746, 931]  # the last four once waited for their back-off
CALM_SECONDS = 150.0  # a back-off of two minutes may just have begun


def misfortune(scene: Scene, rng: random.Random) -> None:
    """One thing happens."""
    machine = rng.choice([scene.operator, scene.gateway])
    nat = rng.choice([scene.operator_nat, scene.gateway_nat])
    match rng.randrange(8):
        case 0 | 1:
            nat.reboot(new_ports=rng.random() < 0.7)
        case 2:
            scene.gateway.boot(scene.now)
        case 3:
            scene.mediator.boot(scene.now)
        case 4:
            machine.tell_addresses(scene.now)
        case 5:
            host = rng.choice(list(scene.hosts.values()))
            scene.network.drops = lambda name, packet: name == host.name
        case 6:
            scene.network.drops = None
        case 7:
            loss = rng.random() * 0.5
            for link in (scene.operator_nat.link, scene.gateway_nat.link):
                link.loss, link.duplicate, link.reorder = loss, 0.1, 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_wanted_connection_survives_the_world(seed: int) -> None:
    rng = random.Random(seed)
    scene = Scene().connected()
    packet = echo(scene.operator.address, scene.gateway.address)
    for _ in range(rng.randrange(4, 12)):
        misfortune(scene, rng)
        for _ in range(rng.randrange(1, 40)):
            scene.operator.engine.receive_packets([packet], scene.now)
            scene.run(rng.random() * 2)
    scene.network.drops = None
    for link in (scene.operator_nat.link, scene.gateway_nat.link):
        link.loss = link.duplicate = link.reorder = 0.0
    calm = scene.now
    arrived = len(scene.gateway.delivered)
    while len(scene.gateway.delivered) == arrived:
        assert scene.now - calm < CALM_SECONDS, scene.operator.peer("cabin", scene.now)
        scene.operator.engine.receive_packets([packet], scene.now)
        scene.run(0.5)
    scene.run(60)
    assert scene.both_up()
    assert scene.echoes()
    for machine, name in ((scene.operator, "cabin"), (scene.gateway, "laptop")):
        assert len(machine.engine._connections[name].children) == 1
        assert len(machine.engine._paths) == 1
        assert len(machine.engine._ike.sas()) == 2  # the tunnel and the registration
