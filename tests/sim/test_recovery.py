"""What has to come back by itself, how soon: paths that carry nothing, NATs and peers that forget.

THREATS 36 and 37, mediation.md §4. Whole engines in virtual time, 20 ms a NAT side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.datagram import Address
from agent.engine.events import MediatorChanged, PeerChanged
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.message import Header, encode_message
from agent.wire.payloads import NotifyPayload
from tests.unit.engine.machines import PORT, SERVER, Machine, Scene, echo
from tests.unit.engine.test_redirect import FIRST, Direct

if TYPE_CHECKING:
    from tests.support.network import Packet

IPV6 = {"gateway": "2001:db8:1::7", "operator": "2001:db8:2::7"}


def with_ipv6(scene: Scene) -> Scene:
    """Both also have a public IPv6 address; the mediator has none."""
    for name, text in IPV6.items():
        host, ip = scene.hosts[name], Address.parse(text, PORT).ip
        host.addresses[ip] = scene.network.public
        scene.network.public.members[ip] = host
        host.node.hosts.append(text)  # type: ignore[attr-defined]
        host.node.tell_addresses(scene.now)  # type: ignore[attr-defined]
    return scene


def is_handshake(packet: Packet) -> bool:
    """IKE_SA_INIT or IKE_AUTH behind a marker."""
    first = (ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH)
    return len(packet.data) > 28 and packet.data[:4] == bytes(4) and packet.data[22] in first


def flows_within(scene: Scene, seconds: float) -> float | None:
    """Seconds until an echo of the operator arrives, one sent each half second; None if never."""
    packet = echo(scene.operator.address, scene.gateway.address)
    started = scene.now
    while scene.now - started < seconds:
        before = len(scene.gateway.delivered)
        scene.operator.engine.receive_packets([packet], scene.now)
        if scene.run(0.5, lambda seen=before: len(scene.gateway.delivered) > seen):
            return scene.now - started
    return None


def test_checks_pass_but_the_handshake_does_not_and_the_next_path_is_taken():
    """The known weakness: the first path was waited for as long as IKE itself gives up, 40 s."""
    scene = with_ipv6(Scene()).registered()
    refused: list[Packet] = []

    def drops(host: str, packet: Packet) -> bool:
        if len(packet.destination.ip) == 16 and is_handshake(packet):
            refused.append(packet)
            return True
        return False

    scene.network.drops = drops
    started = scene.now
    scene.connect()
    assert scene.run(20, scene.both_up), scene.operator.peer("cabin", scene.now)
    assert refused
    assert scene.operator.peer("cabin").path.startswith("198.51.100.1:")
    assert scene.now - started < 6
    assert scene.echoes()


def test_no_path_carries_the_handshake_and_it_is_said_in_time():
    scene = with_ipv6(Scene()).registered()
    scene.network.drops = lambda host, packet: (
        host != "mediator" and (is_handshake(packet) and packet.destination.host != SERVER)
    )
    scene.connect()
    assert scene.run(45, lambda: bool(scene.operator.peer("cabin", scene.now).error))
    assert not scene.gateway.is_up("laptop")
    scene.network.drops = None
    assert scene.run(20, scene.both_up)


@pytest.mark.parametrize("whose", ["operator", "gateway", "both"])
def test_a_nat_gives_another_port_while_the_operator_uses_the_tunnel(whose: str):
    """Port-restricted NATs on both sides: only new checks can open them again."""
    scene = Scene().connected()
    scene.run(100)
    if whose in ("operator", "both"):
        scene.operator_nat.reboot()
    if whose in ("gateway", "both"):
        scene.gateway_nat.reboot()
    took = flows_within(scene, 60)
    assert took is not None
    assert took < (8 if whose == "operator" else 25)  # the gateway's own probe comes each 20 s
    scene.run(30)
    assert scene.echoes()
    assert scene.operator.is_up("cabin")
    assert len(scene.gateway.engine._connections["laptop"].children) == 1


def test_the_operators_nat_changes_while_idle_and_the_next_call_works_at_once():
    scene = Scene().registered()
    scene.operator_nat.reboot()
    scene.connect()
    assert scene.run(15, scene.both_up), scene.operator.peer("cabin", scene.now)


def test_a_killed_gateway_is_back_within_seconds_of_traffic():
    """THREATS 37. Its NAT still lets the operator in, so it can say that it knows nothing."""
    scene = Scene().connected()
    scene.run(100)
    scene.gateway.boot(scene.now)
    took = flows_within(scene, 60)
    assert took is not None
    assert took < 3  # two round trips to know it (RFC 6290), then the mediator and the checks
    assert scene.both_up()
    changes = [e for e in scene.operator.events if isinstance(e, PeerChanged)]
    assert "the other side was restarted." in [e.error for e in changes]


def test_a_killed_mediator_is_back_with_the_next_sign_of_life():
    """RFC 6290: no registration waits for timeouts; the tunnel does not notice at all."""
    scene = Scene().connected()
    scene.run(50)
    scene.mediator.boot(scene.now)
    assert scene.run(35, lambda: scene.mediator.engine.status(scene.now).server.registered == 2)
    assert scene.both_up()
    assert scene.echoes()


def forgets_what_proves_it(machine: Machine, now: float) -> None:
    """Restarted as somebody else's program is, that shows no tokens (strongSwan)."""
    machine.boot(now)
    machine.engine._ike._strays._tokens = None


def first_asked(scene: Scene, by: str) -> float:
    """When that host sent its first INFORMATIONAL over IKE."""
    return next(
        at
        for at, host, packet in scene.network.trace
        if host == by and packet.data[:4] == bytes(4) and packet.data[22] == 37
    )


def test_a_mediator_that_cannot_prove_its_restart_is_found_again_beside_the_old_sa():
    """THREATS 14 and 37: what it says unproven ends nothing; what it proves on a new SA does."""
    scene = Scene().connected()
    scene.run(50)
    forgets_what_proves_it(scene.mediator, scene.now)
    scene.network.trace.clear()
    before = scene.gateway.engine._registrations["main"].ike_id
    ends = scene.gateway.engine._ike.sa(before)
    changed = len(scene.gateway.of(MediatorChanged))
    assert scene.run(40, lambda: scene.gateway.engine._registrations["main"].ike_id != before)
    assert scene.now - first_asked(scene, "gateway") < 6
    assert ends.has_proven_peer
    states = [e.state for e in scene.gateway.of(MediatorChanged)[changed:]]
    assert set(states) <= {"registered"}
    assert scene.run(10, lambda: scene.mediator.engine.status(scene.now).server.registered == 2)
    assert scene.both_up()
    assert scene.echoes()


def test_a_peer_called_directly_that_cannot_prove_its_restart_is_back_within_seconds():
    """THREATS 37."""
    direct = Direct().start()
    assert direct.up(FIRST)
    direct.run(30)
    forgets_what_proves_it(direct.first, direct.network.now)
    started = direct.network.now
    while not direct.passes(direct.first):
        assert direct.network.now - started < 10
    assert direct.network.now - started < 7  # 2 s without an answer, 2.5 s of doubt
    direct.run(60)
    assert direct.client.sas == 1
    assert direct.first.sas == 1


def test_one_who_says_that_a_living_sa_is_unknown_has_nothing_begun():
    scene = Scene().connected()
    registration = scene.gateway.engine._registrations["main"]
    sa = scene.gateway.engine._ike.sa(registration.ike_id)
    spis = sa.spis
    lie = encode_message(
        Header(spis[:8], spis[8:], ExchangeType.INFORMATIONAL, False, True, 9),
        [NotifyPayload(NotifyType.INVALID_IKE_SPI)],
    )
    scene.network.trace.clear()
    for _ in range(60):
        scene.gateway.receive(sa.path, bytes(4) + lie, scene.now)
        scene.run(0.5)
    assert scene.gateway.engine._ike.sa(registration.ike_id) is sa
    assert not registration.redirection.is_active
    assert not any(is_handshake(packet) for _, _, packet in scene.network.trace)


def test_traffic_that_nobody_answers_costs_a_probe_and_nothing_else():
    """One-way traffic is no fault: the same IKE SA stays."""
    scene = Scene().connected()
    before = scene.operator.engine._connections["cabin"].ike_id
    packet = echo(scene.operator.address, scene.gateway.address)
    for _ in range(60):
        scene.operator.engine.receive_packets([packet], scene.now)
        scene.run(1)
    assert scene.operator.engine._connections["cabin"].ike_id == before
    assert len(scene.gateway.delivered) == 60


def test_a_short_outage_does_not_end_the_tunnel():
    scene = Scene().connected()
    before = scene.operator.engine._connections["cabin"].ike_id
    scene.network.drops = lambda host, packet: True
    assert flows_within(scene, 15) is None
    scene.network.drops = None
    assert scene.operator.is_up("cabin")
    took = flows_within(scene, 20)
    assert took is not None
    assert took < 1
    assert scene.operator.engine._connections["cabin"].ike_id is not None
    scene.run(30)
    assert scene.both_up()
    assert scene.echoes()
    assert before is not None


def test_a_restarted_mediator_is_found_again_soon_after_the_first_probe():
    scene = Scene().registered()
    scene.run(5)
    scene.mediator.boot(scene.now)
    took = scene.now
    registered = lambda: scene.mediator.engine.status(scene.now).server.registered == 2  # noqa: E731
    assert scene.run(60, registered)
    assert scene.now - took < 30


class Unscanned(dict):
    """A table that may be asked for one entry, and not gone through."""

    def __iter__(self):
        raise AssertionError("gone through")

    def values(self):
        raise AssertionError("gone through")

    items = keys = values


def test_what_an_event_costs_does_not_depend_on_the_number_of_peers():
    scene = Scene().registered()
    for machine in (scene.operator, scene.gateway):
        unscanned = Unscanned(machine.engine._connections)
        machine.engine._connections = machine.engine._roster.connections = unscanned
    scene.connect()
    scene.run(2)
    packet = echo(scene.operator.address, scene.gateway.address)
    scene.operator.engine.receive_packets([packet], scene.now)
    scene.run(1)
    assert scene.gateway.delivered == [packet]
    scene.operator_nat.reboot()
    assert flows_within(scene, 10) is not None
    scene.operator.engine.rekey("cabin", scene.now, ike=True)
    scene.operator.engine.rekey("cabin", scene.now, ike=False)
    scene.run(60)
    scene.operator.engine.disconnect("cabin", scene.now)
    scene.run(1)
    assert scene.gateway.engine._connections["laptop"].ike_id is None
    for machine in (scene.operator, scene.gateway):  # nothing is left in the indexes
        assert not machine.engine._roster.by_ike_id
        assert not machine.engine._by_path
        assert not machine.engine._paths


def test_a_link_that_is_back_is_used_at_once():
    """The cable was out for an hour, the address stayed: the attempts had become rare."""
    scene = Scene().connected()
    host = scene.hosts["operator"]
    scene.network.drops = lambda name, packet: (
        name == "operator" or (packet.destination.ip == scene.operator_nat.ip)
    )
    scene.run(3600)
    assert scene.operator.mediator(scene.now).state != "registered"
    assert not scene.operator.is_up("cabin")
    scene.operator.dns[SERVER] = None
    scene.operator.tell_addresses(scene.now)  # the link is up, the route comes a moment later
    scene.network.flush(host)
    scene.run(0.2)
    scene.network.drops = None
    del scene.operator.dns[SERVER]
    scene.operator.tell_addresses(scene.now)
    scene.network.flush(host)
    assert scene.run(4, scene.both_up), scene.operator.mediator(scene.now)
    assert scene.echoes()


def test_a_new_network_is_noticed_at_once():
    """Same address, other router (another WLAN with the same private net), and nobody said so."""
    scene = Scene().connected()
    scene.run(60)
    scene.operator_nat.reboot()
    scene.operator.tell_addresses(scene.now)
    scene.network.flush(scene.hosts["operator"])
    scene.run(1)
    seen = scene.operator.mediator(scene.now).reflexive
    assert seen not in ("", "192.0.2.1:4500")
    assert scene.run(8, lambda: scene.gateway.peer("laptop").path == seen)  # without any traffic
    scene.run(1)
    assert scene.echoes()


def test_a_peer_that_wants_the_proof_repeated():
    """RFC 4478: registration and tunnel are made anew beside the old ones, without a gap."""
    scene = Scene().connected()
    scene.run(100)
    notify = NotifyPayload(NotifyType.AUTH_LIFETIME, bytes(4))
    for machine in (scene.mediator, scene.gateway):
        ike = machine.engine._ike
        for sa in ike.sas():
            if not sa.started_by_us:
                ike.request(sa.ike_id, 37, [notify], lambda message, now: None, scene.now)
        machine.engine._settle(scene.now)
    before = {m: set(m.engine._ike._current) for m in (scene.operator, scene.gateway)}
    scene.run(20, lambda: not scene.operator.is_up("cabin"))
    assert scene.both_up()
    for machine, ike_ids in before.items():
        begun = {sa.ike_id for sa in machine.engine._ike.sas() if sa.started_by_us}
        assert begun.isdisjoint(ike_ids)
    assert scene.mediator.engine.status(scene.now).server.registered == 2
    assert scene.echoes()


def wants_proof_again(scene: Scene) -> None:
    """The mediator says in the middle of it that the proofs were good until now (RFC 4478 §3)."""
    scene.run(100)
    ike = scene.mediator.engine._ike
    notify = NotifyPayload(NotifyType.AUTH_LIFETIME, bytes(4))
    for sa in ike.sas():
        ike.request(sa.ike_id, 37, [notify], lambda message, now: None, scene.now)
    scene.mediator.engine._settle(scene.now)


def test_a_registration_is_made_anew_before_the_old_one_ends():
    """RFC 4478: make before break, so whoever calls just then gets through."""
    scene = Scene().registered()
    wants_proof_again(scene)
    scene.gateway.events.clear()
    before = scene.gateway.engine._registrations["main"].ike_id
    online: set[int] = set()
    server = scene.mediator.engine._server

    def looks() -> bool:
        online.add(len(server))
        return scene.gateway.engine._registrations["main"].ike_id != before

    assert scene.run(20, looks)
    assert {e.state for e in scene.gateway.of(MediatorChanged)} == {"registered"}
    scene.run(1)
    assert online == {2}
    assert scene.mediator.sas == 2  # nothing of the old ones is left
    assert len(scene.gateway.engine._ike.sas()) == 1
    scene.connect()
    assert scene.run(2, scene.both_up)


def test_the_old_registration_stands_while_no_new_one_comes_about():
    scene = Scene().registered()
    wants_proof_again(scene)
    before = scene.gateway.engine._registrations["main"].ike_id
    begun: list[float] = []

    def no_handshake(name: str, packet: Packet) -> bool:
        if not is_handshake(packet):
            return False
        if name == "gateway":
            begun.append(scene.now)
        return True

    scene.network.drops = no_handshake
    scene.run(100)
    assert scene.gateway.mediator(scene.now).state == "registered"
    assert scene.gateway.engine._registrations["main"].ike_id == before
    assert 0 < len(begun) < 40  # one attempt at a time
    scene.network.drops = None
    assert scene.run(60, lambda: scene.gateway.engine._registrations["main"].ike_id != before)
    assert scene.gateway.mediator(scene.now).state == "registered"


@pytest.mark.parametrize("ms", range(0, 200, 20))
def test_a_call_while_the_registration_is_made_anew(ms: int):
    scene = Scene().registered()
    wants_proof_again(scene)
    begun: list[float] = []
    scene.network.drops = lambda name, packet: begun.append(1.0) if is_handshake(packet) else None
    assert scene.run(20, lambda: bool(begun))
    scene.run(ms / 1000)
    scene.connect()
    assert scene.run(1.5, scene.both_up), (scene.operator.peer("cabin"), scene.operator.events)
    assert scene.echoes()
