"""The main job in virtual time: register, connect through two NATs, carry packets, come back."""

from __future__ import annotations

from dataclasses import replace

from agent.engine.events import PeerChanged, TunnelDown, TunnelUp
from tests.support.network import Behaviour
from tests.unit.engine.machines import SERVER, Scene, echo


def test_registers_and_tells_where_it_is_seen():
    scene = Scene().registered()
    status = scene.gateway.mediator(scene.now)
    assert (status.name, status.state, status.error) == ("main", "registered", "")
    assert status.reflexive == "198.51.100.1:4500"
    assert scene.operator.mediator().name == SERVER  # learnt from a pairing: named by address
    server = scene.mediator.engine.status(scene.now).server
    assert server.registered == 2


def test_connects_and_carries_packets_both_ways():
    scene = Scene().connected()
    assert scene.echoes()
    assert scene.operator.states("cabin") == ["asking", "checking", "connecting", "up"]
    up = scene.operator.of(TunnelUp, "cabin")
    assert [ts.start for ts in up[0].remote_ts] == [scene.gateway.address]
    status = scene.operator.peer("cabin", scene.now)
    assert status.direct
    assert status.wanted
    assert status.path == "198.51.100.1:4500"
    assert status.suite.startswith("aes128gcm16-prfsha256-x25519")
    assert status.sent > 0
    assert status.received > 0
    assert status.mediator == SERVER


def test_the_suite_is_that_of_the_ike_sa_in_use():
    """What a rekeying negotiates is told too, be it less than at first."""
    scene = Scene().connected()
    connection = scene.gateway.engine._connections["laptop"]
    sa = scene.gateway.engine._ike.sa(connection.ike_id)
    sa.peer = replace(sa.peer, proposals=sa.peer.proposals[-1:])
    scene.gateway.engine.rekey("laptop", scene.now, ike=True)
    scene.run(1)
    now_used = scene.gateway.engine._ike.sa(connection.ike_id).suite.text
    assert now_used != sa.suite.text
    assert scene.gateway.peer("laptop", scene.now).suite == now_used
    assert scene.operator.peer("cabin", scene.now).suite == now_used


def test_nothing_that_the_mediator_sees_is_payload():
    scene = Scene().connected()
    scene.network.trace.clear()
    assert scene.echoes()
    mediated = [p for _, name, p in scene.network.trace if name == "mediator"]
    assert mediated == []


def test_disconnect_ends_it_on_both_sides_and_stays_ended():
    scene = Scene().connected()
    scene.operator.engine.disconnect("cabin", scene.now)
    scene.run(1)
    assert scene.operator.peer("cabin").state == "idle"
    assert scene.gateway.peer("laptop").state == "idle"
    assert scene.operator.of(TunnelDown)
    assert scene.gateway.of(TunnelDown)
    assert not scene.passes(
        scene.operator, scene.gateway, echo(scene.operator.address, scene.gateway.address)
    )
    scene.run(600)
    assert scene.operator.peer("cabin").state == "idle"


def test_connect_before_the_registration_is_there():
    scene = Scene()
    scene.connect()
    assert scene.operator.peer("cabin").state == "waiting"
    assert scene.run(5, scene.both_up)


def test_connect_again_while_up_changes_nothing():
    scene = Scene().connected()
    before = len(scene.operator.of(PeerChanged, "cabin"))
    scene.connect()
    scene.run(5)
    assert len(scene.operator.of(PeerChanged, "cabin")) == before


def test_rekeying_keeps_the_tunnel():
    scene = Scene().connected()
    downs = len(scene.operator.of(TunnelDown))
    for ike in (False, True, False):
        scene.operator.engine.rekey("cabin", scene.now, ike=ike)
        scene.run(2)
        assert scene.echoes()
    assert scene.both_up()
    assert len(scene.operator.of(TunnelDown)) == downs == 0


def test_hours_of_idling_with_all_their_rekeyings():
    scene = Scene().connected()
    scene.run(5 * 3600)  # longer than the lifetime of an IKE SA
    assert scene.both_up()
    assert scene.echoes()
    assert not scene.operator.of(TunnelDown)
    assert scene.gateway.mediator().state == "registered"


# --- coming back -------------------------------------------------------------------------------


def test_the_tunnel_outlives_the_mediator():
    scene = Scene().connected()
    scene.hosts["mediator"].is_up = False
    scene.run(300)
    assert scene.echoes()
    assert scene.gateway.mediator().state != "registered"
    assert "does not answer" in scene.gateway.mediator().error


def test_registers_again_after_the_mediator_restarted():
    scene = Scene().connected()
    scene.mediator.boot(scene.now)
    assert scene.run(240, lambda: scene.mediator.engine.status(scene.now).server.registered == 2)
    assert scene.both_up()
    scene.operator.engine.disconnect("cabin", scene.now)
    scene.run(1)
    scene.connect()
    assert scene.run(10, scene.both_up)


def test_the_gateway_restarts():
    scene = Scene().connected()
    scene.gateway.boot(scene.now)
    scene.run(1)
    assert scene.run(240, scene.both_up)
    assert scene.echoes()


def test_the_operator_restarts_and_the_gateway_takes_the_new_one():
    scene = Scene().connected()
    scene.operator.boot(scene.now)
    scene.registered()
    scene.connect()
    assert scene.run(10, lambda: scene.operator.is_up("cabin"))
    scene.run(1)
    assert scene.echoes()
    assert len(scene.gateway.engine._connections["laptop"].children) == 1
    # and when this one goes, nothing of the first is left
    scene.operator.engine.disconnect("cabin", scene.now)
    scene.run(1)
    assert scene.gateway.peer("laptop").state == "idle"
    assert len(scene.gateway.of(TunnelDown)) >= 1
    assert isinstance(scene.gateway.of(TunnelUp | TunnelDown)[-1], TunnelDown)
    assert scene.gateway.sas == 1  # the registration


def test_a_wanted_connection_that_is_stored_starts_by_itself():
    scene = Scene()
    from dataclasses import replace

    known = scene.operator.peers.peers["cabin"]
    scene.operator.learn(replace(known, wanted=True))
    scene.operator.boot(scene.now)
    assert scene.run(10, scene.both_up)


def test_the_operators_nat_gives_another_port_under_traffic():
    """THREATS 36: where the other NAT lets the new port in, the first packet mends it."""
    scene = Scene(filtering=Behaviour.ADDRESS_DEPENDENT).connected()
    scene.operator_nat.reboot()
    before = scene.gateway.peer("laptop").path
    assert scene.passes(
        scene.operator, scene.gateway, echo(scene.operator.address, scene.gateway.address)
    )
    assert scene.gateway.peer("laptop").path != before
    assert scene.echoes()


def test_the_operators_nat_gives_another_port_and_the_gateways_keeps_it_out():
    """Nobody can tell the gateway's NAT but the mediator: a new connection beside the old one."""
    scene = Scene().connected()
    before = scene.operator.engine._connections["cabin"].ike_id
    scene.operator_nat.reboot()
    assert not scene.echoes()
    assert scene.run(10, lambda: scene.operator.engine._connections["cabin"].ike_id != before)
    scene.run(1)
    assert scene.echoes()


def test_both_nats_forget():
    scene = Scene().connected()
    scene.operator_nat.reboot()
    scene.gateway_nat.reboot()
    scene.run(240)
    assert scene.both_up()
    assert scene.echoes()


def test_the_operator_moves_to_another_address():
    scene = Scene().connected()
    host = scene.hosts["operator"]
    moved = scene.network.nat("192.0.2.99")
    from agent.datagram import Address

    new = Address.parse("10.0.9.9", 0).ip
    host.addresses = {new: moved.inside}
    moved.inside.members[new] = host
    scene.operator.hosts = ["10.0.9.9"]
    scene.operator.tell_addresses(scene.now)
    assert not scene.operator.is_up("cabin")
    assert scene.run(10, lambda: scene.operator.is_up("cabin"))
    assert scene.echoes()
    assert scene.gateway.peer("laptop").path.startswith("192.0.2.99")


def test_offline_then_back():
    scene = Scene().registered()
    scene.hosts["gateway"].is_up = False
    scene.run(240)  # until the mediator has noticed
    scene.connect()
    scene.run(30)
    status = scene.operator.peer("cabin", scene.now)
    assert status.state == "waiting"
    assert "not reachable at the mediation server" in status.error
    assert status.retry_in > 0
    scene.run(3600)  # it keeps trying ever more rarely
    assert scene.operator.peer("cabin", scene.now).state == "waiting"
    tries = len([e for e in scene.operator.of(PeerChanged, "cabin") if e.state == "asking"])
    assert tries < 30
    scene.hosts["gateway"].is_up = True
    scene.gateway.boot(scene.now)
    # The mediator's callback brings it back long before the next attempt is due.
    assert scene.run(5, scene.both_up)
    assert scene.echoes()
