"""THREATS 27: cloned board images with one identity: one SA, back-off, an event, no flapping."""

from __future__ import annotations

from agent.engine.events import MediatorChanged, Notice, TunnelUp
from tests.support.network import Link
from tests.unit.engine.machines import Machine, Scene


def test_a_copied_board_image():
    """Two gateways with the same keys do not throw each other off for ever."""
    scene = Scene().registered()
    clone_nat = scene.network.nat("198.51.100.7")
    clone = Machine("cabin", "10.0.7.2")
    clone.config = scene.gateway.config
    clone.learn(*scene.gateway.peers.peers.values())
    clone.boot(scene.now)
    scene.network.host("clone", clone, ("10.0.7.2", clone_nat.inside), link=Link(delay=0.001))
    for _ in range(360):
        scene.run(10)
        server = scene.mediator.engine.status(scene.now).server
        assert server.registered <= 2  # the operator and one of the two
    for machine in (scene.gateway, clone):
        registered = [e for e in machine.of(MediatorChanged) if e.state == "registered"]
        assert len(registered) < 60
    notices = [e.text for m in (scene.gateway, clone) for e in m.of(Notice)]
    assert notices
    assert all("keys of its own" in text for text in notices)
    assert len(notices) < 6


def test_an_operator_has_at_most_one_of_them():
    """Whichever is registered is reached; there is one SA with that identity at a time."""
    scene = Scene().registered()
    clone_nat = scene.network.nat("198.51.100.7")
    clone = Machine("cabin", "10.0.7.2")
    clone.config = scene.gateway.config
    clone.learn(*scene.gateway.peers.peers.values())
    scene.network.host("clone", clone, ("10.0.7.2", clone_nat.inside), link=Link(delay=0.001))
    scene.connect()
    clone.boot(scene.now)
    ups, changes = [], len(scene.operator.of(TunnelUp))
    for _ in range(360):
        scene.run(10)
        ups.append(sum(len(c._sas) for c in scene.operator.engine._connections.values()))
    assert max(ups) == 1
    # No flapping: both sides back off, so there are few tunnels in an hour.
    assert len(scene.operator.of(TunnelUp)) - changes < 60
