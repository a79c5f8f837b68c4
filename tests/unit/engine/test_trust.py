"""Who gets in, as what, and what happens to who does not: keys, grants, revocation, clones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.crypto.auth import key_text
from agent.engine.events import MediatorChanged, PeerChanged, TunnelDown
from tests.support.network import Link
from tests.support.pair import key_of
from tests.unit.engine.machines import SERVER, Machine, Scene, echo, tcp, udp

DEVICES = """
[device.boiler]
type = "modbus"
port = "/dev/ttyUSB0"
listen = 502
[device.boiler.points.setpoint]
register = 0
[device.bus]
type = "serial"
port = "/dev/ttyUSB1"
listen = 7001
[device.broker]
type = "mqtt"
listen = 1883
"""


def open_ports(scene: Scene, *ports: int) -> set[int]:
    """Which ports of the gateway the operator can open a connection to."""
    there = (scene.operator.address, scene.gateway.address)
    return {
        port for port in ports if scene.passes(scene.operator, scene.gateway, tcp(*there, port))
    }


@pytest.mark.parametrize(
    ("role", "reach"),
    [
        ("none", set()),
        ("reader", {80}),
        ("operator", {80}),
        ("technician", {80, 502, 7001, 1883}),
        ("owner", {80, 502, 7001, 1883}),
    ],
)
def test_a_role_is_what_the_spd_lets_through(role, reach):
    scene = Scene(role=role, devices=DEVICES).connected()
    assert open_ports(scene, 22, 80, 502, 1883, 7001, 443) == reach
    assert scene.echoes()


def test_a_grant_of_one_port():
    scene = Scene(role="none")
    scene.gateway.learn(scene.operator.known("laptop", "none", grants=("tcp:22", "udp:53")))
    scene.gateway.refresh(scene.now)
    scene.connected()
    there = (scene.operator.address, scene.gateway.address)
    assert open_ports(scene, 21, 22, 53, 80) == {22}
    assert scene.passes(scene.operator, scene.gateway, udp(*there, 53))
    assert not scene.passes(scene.operator, scene.gateway, udp(*there, 54))


def test_the_gateway_reaches_nothing_of_the_operators():
    scene = Scene(role="owner", devices=DEVICES).connected()
    back = (scene.gateway.address, scene.operator.address)
    assert not scene.passes(scene.gateway, scene.operator, tcp(*back, 22))
    assert not scene.passes(scene.gateway, scene.operator, udp(*back, 53))


def test_grants_change_while_the_tunnel_is_up():
    scene = Scene(role="none", devices=DEVICES).connected()
    assert open_ports(scene, 80, 502) == set()
    for role, reach in (("owner", {80, 502}), ("reader", {80}), ("none", set())):
        scene.gateway.learn(scene.operator.known("laptop", role))
        scene.gateway.refresh(scene.now)
        assert open_ports(scene, 80, 502) == reach
    assert scene.both_up()
    assert not scene.gateway.of(TunnelDown)


def test_a_source_address_that_is_not_the_peers_is_dropped():
    scene = Scene(role="owner", devices=DEVICES).connected()
    stranger = key_of("stranger").public[:16]
    there = scene.gateway.address
    assert not scene.passes(scene.operator, scene.gateway, echo(stranger, there))
    assert not scene.passes(scene.operator, scene.gateway, echo(scene.operator.address, stranger))


def test_a_revoked_peer_is_out_at_once_and_stays_out():
    scene = Scene().connected()
    del scene.gateway.peers.peers["laptop"]
    scene.gateway.refresh(scene.now)
    packet = echo(scene.operator.address, scene.gateway.address)
    assert not scene.passes(scene.operator, scene.gateway, packet)
    assert scene.gateway.of(TunnelDown)
    scene.run(120)
    status = scene.operator.peer("cabin", scene.now)
    assert status.state == "waiting"
    assert "does not let us call it" in status.error
    assert scene.gateway.sas == 1


def test_a_peer_that_was_never_paired():
    scene = Scene()
    del scene.gateway.peers.peers["laptop"]
    scene.gateway.refresh(scene.now)
    scene.registered()
    scene.gateway.events.clear()
    scene.connect()
    scene.run(10)
    assert "not reachable at the mediation server" in scene.operator.peer("cabin").error
    assert not scene.gateway.of(PeerChanged)


def test_the_other_side_has_another_identity_key():
    """Reinstalled, or somebody else in its place: the pinned key decides."""
    scene = Scene()
    wrong = replace(
        scene.operator.peers.peers["cabin"], identity=key_text(key_of("another").public)
    )
    scene.operator.learn(wrong)
    scene.operator.refresh(scene.now)
    scene.registered()
    scene.connect()
    assert scene.run(60, lambda: bool(scene.operator.peer("cabin").error))
    assert "did not prove the key or pre-shared key" in scene.operator.peer("cabin").error
    assert scene.operator.states("cabin")[-1] == "waiting"
    assert not scene.gateway.is_up("laptop")


def test_the_mediator_has_another_key():
    scene = Scene()
    wrong = replace(
        scene.operator.peers.peers["cabin"], mediator_key=key_text(key_of("another").public)
    )
    scene.operator.learn(wrong)
    scene.operator.boot(scene.now)
    assert scene.run(60, lambda: bool(scene.operator.mediator().error))
    assert "key that is pinned" in scene.operator.mediator().error
    assert "hearthgate mediate" in scene.operator.mediator().error


def test_the_mediator_is_down_and_comes_back():
    scene = Scene()
    scene.hosts["mediator"].is_up = False
    scene.connect()
    assert scene.run(60, lambda: bool(scene.operator.mediator().error))
    assert "does the network let UDP port 4500 out" in scene.operator.mediator().error
    assert scene.operator.peer("cabin").state == "waiting"
    scene.run(3600)
    resolving = [e for e in scene.operator.of(MediatorChanged) if e.state == "resolving"]
    assert 20 < len(resolving) < 60  # with growing pauses, not without end
    scene.hosts["mediator"].is_up = True
    assert scene.run(200, scene.both_up)


def test_connecting_makes_the_registration_hurry():
    scene = Scene()
    scene.hosts["mediator"].is_up = False
    scene.run(1800)
    assert scene.run(300, lambda: scene.operator.mediator(scene.now).retry_in > 40)
    scene.hosts["mediator"].is_up = True
    scene.hosts["gateway"].node.boot(scene.now)
    scene.run(2)
    scene.connect()
    assert scene.run(2, scene.both_up)


def test_a_mediator_whose_name_does_not_resolve():
    scene = Scene()
    scene.operator.dns[SERVER] = None
    scene.operator.boot(scene.now)
    scene.run(3)
    assert scene.operator.mediator().error == f"There is no name {SERVER}."
    assert scene.operator.mediator().state in ("waiting", "resolving")
    scene.operator.dns.clear()
    assert scene.run(60, lambda: scene.operator.mediator().state == "registered")


def test_the_second_address_of_a_mediator_is_tried():
    scene = Scene()
    scene.operator.dns[SERVER] = ["203.0.113.77", SERVER]
    scene.operator.boot(scene.now)
    assert scene.run(60, lambda: scene.operator.mediator().state == "registered")


def test_a_server_that_is_no_mediator():
    scene = Scene()
    plain = Machine("plain", "203.0.113.20")
    me = scene.operator
    # An IKEv2 responder that knows the operator's mediation key as an ordinary, childless peer.
    from agent import profiles
    from agent.engine.entries import PeerEntry
    from agent.ike.pad import KeyAuth, Peer
    from agent.ipsec import Grants
    from agent.wire.payloads import Identification

    entry = PeerEntry(
        name="x",
        peer=Peer(
            name="x",
            local_id=Identification.key_id(plain.keys.mediation.public),
            remote_id=Identification.key_id(me.keys.mediation.public),
            local_auth=plain.keys.mediation,
            remote_auth=KeyAuth(public=me.keys.mediation.public),
            proposals=profiles.OUR_IKE,
        ),
        grants=Grants(),
    )
    plain.engine.set_peers([entry], 0.0)
    scene.network.host(
        "plain", plain, ("203.0.113.20", scene.network.public), link=Link(delay=0.001)
    )
    known = replace(
        me.peers.peers["cabin"],
        mediator="203.0.113.20",
        mediator_key=key_text(plain.keys.mediation.public),
    )
    me.learn(known)
    me.boot(scene.now)
    assert scene.run(60, lambda: bool(me.mediator().error))
    assert me.mediator().error == "this server does no mediation; is the address right?"


# --- two at once -------------------------------------------------------------------------------


def both_ways(scene: Scene) -> None:
    """Let the gateway call the operator as well."""
    scene.gateway.learn(
        scene.operator.known("laptop", "operator", mediator=SERVER, mediator_key=scene.mediator_key)
    )
    scene.gateway.refresh(scene.now)


@pytest.mark.parametrize("after", [0.0, 0.005, 0.02, 0.045, 0.06, 0.08, 0.1, 0.13, 0.17])
def test_both_connect_at_once(after):
    scene = Scene()
    both_ways(scene)
    scene.registered()
    scene.connect()
    scene.run(after)
    scene.gateway.engine.connect("laptop", scene.now)
    assert scene.run(15, scene.both_up), (
        scene.operator.peer("cabin", scene.now), scene.gateway.peer("laptop", scene.now),
    )  # fmt: skip
    scene.run(40)
    assert scene.both_up()
    assert (scene.operator.sas, scene.gateway.sas) == (2, 2)  # this one and the registration
    assert scene.echoes()


def direct(name: str, other: str, address: str) -> str:
    return (
        f'[peer.{other}]\nkey = "{key_text(key_of(other).public)}"\naddress = "{address}"\n'
        'role = "owner"\n'
    )


def direct_pair(delay: float = 0.02) -> tuple[Machine, Machine, object]:
    from tests.support.network import Network

    network = Network()
    a = Machine("a", "203.0.113.1", config=direct("a", "b", "203.0.113.2"))
    b = Machine("b", "203.0.113.2", config=direct("b", "a", "203.0.113.1"))
    for machine in (a, b):
        network.host(
            machine.name, machine, (machine.hosts[0], network.public), link=Link(delay=delay)
        )
    return a, b, network


@pytest.mark.parametrize("after", [0.0, 0.01, 0.03, 0.05, 0.07, 0.09, 0.11])
def test_both_connect_at_once_without_a_mediator(after):
    a, b, network = direct_pair()
    a.engine.connect("b", network.now)
    network.run(after)
    b.engine.connect("a", network.now)
    assert network.run(15, lambda: a.is_up("b") and b.is_up("a"))
    network.run(60)
    assert (a.sas, b.sas) == (1, 1)
    assert a.is_up("b")
    assert b.is_up("a")
    for source, target in ((a, b), (b, a)):
        packet = echo(source.address, target.address)
        source.engine.receive_packets([packet], network.now)
        network.run(1)
        assert packet in target.delivered
    assert len(a.engine._connections["b"].children) == 1
