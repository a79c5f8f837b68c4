"""Which pairs of NATs meet (RFC 4787 behaviours), how fast, and how failures end."""

from __future__ import annotations

import itertools

import pytest

from agent.engine.connection import PATH_SECONDS
from agent.mediation.events import ConnectFailed, ConnectFailure, PathFound, ReflexiveChanged
from agent.mediation.settings import UNANSWERED_BUDGET
from agent.wire.mediation import is_check
from tests.sim.scenes import AD, APD, EI, PORT_RESTRICTED, SYMMETRIC, scene
from tests.sim.stations import Machine, Mediator, registered
from tests.support.network import Behaviour, Link, Network

NATS = list(itertools.product((EI, AD, APD), repeat=2))


def can_meet(a: tuple[Behaviour, Behaviour], b: tuple[Behaviour, Behaviour]) -> bool:
    """What geometry allows, without guessing ports.

    Both keep their port: always. One does: it must take packets from another port of the same
    address. Neither: one must take packets from anybody to begin with, neither may insist on the
    port, and one must keep its port towards one address, else every answer has a new source.
    """
    mappings, filters = (a[0], b[0]), (a[1], b[1])
    if mappings == (EI, EI):
        return True
    if EI in mappings:
        return filters[mappings.index(EI)] is not APD
    return APD not in filters and EI in filters and AD in mappings


@pytest.mark.parametrize("nat_b", NATS, ids=lambda n: f"{n[0].name}/{n[1].name}")
@pytest.mark.parametrize("nat_a", NATS, ids=lambda n: f"{n[0].name}/{n[1].name}")
def test_matrix(nat_a: tuple[Behaviour, Behaviour], nat_b: tuple[Behaviour, Behaviour]) -> None:
    s = scene(nat_a, nat_b)
    took = s.connect()
    assert s.is_connected == can_meet(nat_a, nat_b)
    if s.is_connected:
        assert took < 0.5
        assert s.a.of(PathFound)[0].path.local == s.a.hosts[0]
    else:
        assert s.a.of(ConnectFailed)[0].reason is ConnectFailure.NO_PATH
        assert took < 16 + PATH_SECONDS  # an IKE_SA_INIT may have been tried in vain
        s.network.run(20)
        assert s.b.of(ConnectFailed)[0].reason is ConnectFailure.NO_PATH


def test_time_is_bound_by_round_trips() -> None:
    """20 ms a side: ME_CONNECT 80, checks 40 and one slot, IKE_SA_INIT 80, IKE_AUTH 80."""
    s = scene()
    s.connect()
    caller_up = s.a.established[s.a.tunnels()[0].ike_id]
    started = next(
        at
        for at, name, p in reversed(s.network.trace)
        if name == "a" and p.data[18] == 240 and not p.data[19] & 0x20
    )
    assert 0.28 < caller_up - started < 0.33


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("loss", [0.05, 0.15])
def test_loss_duplicates_and_reordering(loss: float, seed: int) -> None:
    link = Link(delay=0.02, jitter=0.01, loss=loss, duplicate=0.1, reorder=0.1)
    s = scene(seed=seed, link=link)
    took = s.connect()
    assert s.is_connected, s.a.of(ConnectFailed)
    assert took < (8 if loss < 0.1 else 35)


@pytest.mark.parametrize("seed", range(5))
def test_half_of_everything_is_lost_and_it_ends(seed: int) -> None:
    s = scene(seed=seed, register=False, link=Link(delay=0.02, loss=0.5))
    s.a.register(s.mediator, s.now)
    s.b.register(s.mediator, s.now)
    s.network.run(30, lambda: s.a.client.registered and s.b.client.registered)
    s.a.call(s.b, s.now)
    assert s.network.run(90, lambda: s.is_connected or s.has_failed)


def test_same_lan_meets_directly() -> None:
    network = Network()
    mediator = Mediator()
    network.host("mediator", mediator, ("203.0.113.10", network.public))
    nat = network.nat("198.51.100.1")
    a, b = Machine("a", "192.168.1.10"), Machine("b", "192.168.1.20")
    a.befriend(b)
    b.befriend(a)
    network.host("a", a, ("192.168.1.10", nat.inside))
    network.host("b", b, ("192.168.1.20", nat.inside))
    registered(network, mediator, a, b)
    a.call(b, network.now)
    assert network.run(5, lambda: bool(a.tunnels() and b.tunnels()))
    assert a.tunnels()[0].path.remote == b.hosts[0]


def test_same_lan_behind_a_nat_that_hairpins_prefers_the_lan() -> None:
    network = Network()
    mediator = Mediator()
    network.host("mediator", mediator, ("203.0.113.10", network.public))
    nat = network.nat("198.51.100.1", hairpins=True, filtering=EI)
    a, b = Machine("a", "192.168.1.10"), Machine("b", "192.168.1.20")
    a.befriend(b)
    b.befriend(a)
    network.host("a", a, ("192.168.1.10", nat.inside))
    network.host("b", b, ("192.168.1.20", nat.inside))
    registered(network, mediator, a, b)
    a.call(b, network.now)
    assert network.run(5, lambda: bool(a.tunnels() and b.tunnels()))
    assert a.tunnels()[0].path.remote == b.hosts[0]


def test_two_networks_with_the_same_private_subnet() -> None:
    """A host endpoint of the one names a stranger (or nobody) on the LAN of the other."""
    s = scene(hosts=("192.168.1.10", "192.168.1.20"))
    stranger = Machine("stranger", "192.168.1.20")
    s.network.host("stranger", stranger, ("192.168.1.20", s.nat_a.inside))
    s.connect()
    assert s.is_connected
    assert s.a.tunnels()[0].path.remote.host == "198.51.100.2"
    assert stranger.dropped  # it got checks and said nothing
    assert not any(name == "stranger" for _, name, _ in s.network.trace)


def test_a_peer_with_our_own_address_is_not_mistaken_for_us() -> None:
    s = scene(hosts=("192.168.1.10", "192.168.1.10"))
    s.connect()
    assert s.is_connected
    assert all(p.destination != s.b.hosts[0] for _, name, p in s.network.trace if name == "a")


def test_nested_nat() -> None:
    network = Network()
    mediator = Mediator()
    network.host("mediator", mediator, ("203.0.113.10", network.public))
    carrier = network.nat("198.51.100.1")
    home = network.nat("100.64.0.7", outer=carrier.inside)
    other = network.nat("198.51.100.2")
    a, b = Machine("a", "192.168.1.10"), Machine("b", "192.168.2.10")
    a.befriend(b)
    b.befriend(a)
    network.host("a", a, ("192.168.1.10", home.inside))
    network.host("b", b, ("192.168.2.10", other.inside))
    registered(network, mediator, a, b)
    a.call(b, network.now)
    assert network.run(5, lambda: bool(a.tunnels() and b.tunnels()))


def test_ipv6_through_two_firewalls_is_preferred() -> None:
    """Host endpoints of both families; the mediator is reached by IPv4 only."""
    network = Network()
    mediator = Mediator()
    network.host("mediator", mediator, ("203.0.113.10", network.public))
    machines = []
    for index, name in ((1, "a"), (2, "b")):
        nat = network.nat(f"198.51.100.{index}")
        wall = network.nat(f"2001:db8:{index}::1", translates=False)
        v4, v6 = f"192.168.{index}.10", f"2001:db8:{index}::10"
        machine = Machine(name, v6, v4)
        network.host(name, machine, (v4, nat.inside), (v6, wall.inside))
        machines.append(machine)
    a, b = machines
    a.befriend(b)
    b.befriend(a)
    registered(network, mediator, a, b)
    a.call(b, network.now)
    assert network.run(5, lambda: bool(a.tunnels() and b.tunnels()))
    assert a.tunnels()[0].path.remote == b.hosts[0]
    assert len(a.tunnels()[0].path.remote.ip) == 16


def test_many_host_addresses_do_not_exhaust_the_budget() -> None:
    """Eight addresses a side make 64 host pairs above the one that works."""
    network = Network()
    mediator = Mediator()
    network.host("mediator", mediator, ("203.0.113.10", network.public))
    machines = []
    for index, name in ((1, "a"), (2, "b")):
        nat = network.nat(f"198.51.100.{index}")
        hosts = [f"10.{index}.{i}.10" for i in range(8)]
        machine = Machine(name, *hosts)
        network.host(name, machine, *((h, nat.inside) for h in hosts))
        machines.append(machine)
    a, b = machines
    a.befriend(b)
    b.befriend(a)
    registered(network, mediator, a, b)
    a.call(b, network.now)
    assert network.run(1, lambda: bool(a.tunnels() and b.tunnels()))
    checks = [p for _, name, p in network.trace if name == "a" and is_check(p.data)]
    requests = [p for p in checks if not p.data[19] & 0x20]
    assert len(requests) <= UNANSWERED_BUDGET + 14


def test_checks_to_silence_are_bounded() -> None:
    s = scene(SYMMETRIC, SYMMETRIC)
    s.connect()
    s.network.run(60)
    for name in ("a", "b"):
        sent: dict[object, int] = {}
        for _, who, packet in s.network.trace:
            if who == name and is_check(packet.data):
                sent[packet.destination] = sent.get(packet.destination, 0) + 1
        assert sent
        assert max(sent.values()) <= 8


def test_nat_with_other_port_after_the_registration() -> None:
    """The NAT forgot the mapping; the next probe tells b where it is seen now."""
    s = scene()
    s.nat_b.reboot()
    s.network.run(40)
    assert len(s.b.of(ReflexiveChanged)) == 1
    s.connect()
    assert s.is_connected


def test_port_restricted_against_symmetric_fails_on_both_sides() -> None:
    s = scene(PORT_RESTRICTED, SYMMETRIC)
    took = s.connect()
    assert 5 <= took < 6
    assert [e.reason for e in s.a.of(ConnectFailed)] == [ConnectFailure.NO_PATH]
    s.network.run(1)
    assert s.b.of(ConnectFailed)
    assert s.a.client.next_timeout() is None
    assert s.b.client.next_timeout() is None
