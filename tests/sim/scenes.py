"""Two peers behind NATs and a mediator on a public segment, 20 ms one way per NAT side."""

from __future__ import annotations

from dataclasses import dataclass

from agent.mediation.events import ConnectFailed
from tests.sim.stations import Machine, Mediator, registered
from tests.support.network import Behaviour, Link, Nat, Network

EI = Behaviour.ENDPOINT_INDEPENDENT
AD = Behaviour.ADDRESS_DEPENDENT
APD = Behaviour.ADDRESS_AND_PORT_DEPENDENT

PORT_RESTRICTED = (EI, APD)
SYMMETRIC = (APD, APD)


@dataclass
class Scene:
    """What a test drives."""

    network: Network
    mediator: Mediator
    a: Machine
    b: Machine
    nat_a: Nat
    nat_b: Nat

    @property
    def now(self) -> float:
        """The virtual time."""
        return self.network.now

    @property
    def is_connected(self) -> bool:
        """Whether each has one tunnel with the other."""
        return len(self.a.tunnels()) == 1 and len(self.b.tunnels()) == 1

    @property
    def has_failed(self) -> bool:
        """Whether the caller was told that it did not work."""
        return self.a.has(ConnectFailed)

    def connect(self, limit: float = 60.0) -> float:
        """a calls b; returns the seconds until both have a tunnel, or a was told of a failure."""
        started = self.now
        self.a.call(self.b, self.now)
        assert self.network.run(limit, lambda: self.is_connected or self.has_failed), "no end"
        return self.now - started


def scene(
    nat_a: tuple[Behaviour, Behaviour] = PORT_RESTRICTED,
    nat_b: tuple[Behaviour, Behaviour] = PORT_RESTRICTED,
    *,
    seed: int = 1,
    link: Link | None = None,
    register: bool = True,
    mediator: Mediator | None = None,
    hosts: tuple[str, str] = ("192.168.1.10", "192.168.2.10"),
    befriend: bool = True,
) -> Scene:
    """Everything registered (unless told otherwise) and befriended."""
    network = Network(seed)
    server = mediator or Mediator()
    network.host("mediator", server, ("203.0.113.10", network.public))
    nats = [
        network.nat(ip, mapping=mapping, filtering=filtering, link=link or Link(delay=0.02))
        for ip, (mapping, filtering) in (("198.51.100.1", nat_a), ("198.51.100.2", nat_b))
    ]
    a, b = Machine("a", hosts[0]), Machine("b", hosts[1])
    if befriend:
        a.befriend(b)
        b.befriend(a)
    network.host("a", a, (hosts[0], nats[0].inside))
    network.host("b", b, (hosts[1], nats[1].inside))
    if register:
        registered(network, server, a, b)
    return Scene(network, server, a, b, nats[0], nats[1])
