"""A mediator is restarted: everybody comes back by ticket, and nobody's tunnel notices.

RFC 5723 with RFC 6290. Whole engines in virtual time; operations are counted, not seconds.
"""

from __future__ import annotations

from collections import Counter

import pytest

from agent.crypto import kem, kex
from agent.crypto.keys import PublicKey, SigningKey
from agent.crypto.ticket import TICKET_SECONDS
from agent.datagram import Address
from agent.profiles import MEDIATOR_LIVENESS
from tests.support.network import Link
from tests.unit.engine.machines import SERVER, Machine, Scene

CROWD = 40


@pytest.fixture
def operations(monkeypatch) -> Counter[str]:
    """How often each kind of public-key operation was begun."""
    counted: Counter[str] = Counter()

    def count(owner: type, method: str, name: str) -> None:
        original = getattr(owner, method)

        def counting(*arguments, **more):
            counted[name] += 1
            return original(*arguments, **more)

        monkeypatch.setattr(owner, method, counting)

    for owner in (kex.X25519KeyExchange, kex.EcpKeyExchange, kex.ModpKeyExchange):
        count(owner, "__init__", "key exchange")
        count(owner, "shared", "key exchange")
    for owner in (kem.Decapsulation, kem.Encapsulation):
        count(owner, "__init__", "ML-KEM")
    count(SigningKey, "sign", "signature")
    count(PublicKey, "verify", "signature")
    return counted


class Town(Scene):
    """The scene with many more peers at the same mediator, on public addresses."""

    def __init__(self, count: int = CROWD) -> None:
        super().__init__()
        main = f'[mediator.main]\naddress = "{SERVER}"\nkey = "{self.mediator_key}"\n'
        self.crowd = []
        for number in range(count):
            address = f"203.0.{114 + number // 200}.{number % 200 + 1}"
            machine = Machine(f"peer{number}", address, config=main)
            self.hosts[machine.name] = self.network.host(
                machine.name, machine, (address, self.network.public), link=Link(delay=0.02)
            )
            self.crowd.append(machine)

    @property
    def everybody(self) -> list[Machine]:
        return [self.gateway, self.operator, *self.crowd]

    def all_registered(self) -> bool:
        return all(m.mediator(self.now).state == "registered" for m in self.everybody)

    def online(self) -> int:
        return self.mediator.engine.status(self.now).server.registered

    def came_back(self, seconds: float = 60.0) -> bool:
        """Also in their own opinion: the server knows it half a round trip earlier."""
        came = self.run(seconds, lambda: self.online() == len(self.everybody))
        self.run(1)
        return came

    def roam(self, inner: str, outer: str) -> None:
        """The operator comes to another network: nothing of its old address is left."""
        host, nat = self.hosts["operator"], self.network.nat(outer)
        ip = Address.parse(inner, 0).ip
        host.addresses = {ip: nat.inside}
        nat.inside.members[ip] = host
        self.operator.hosts = [inner]
        self.operator.tell_addresses(self.now)

    def resumed(self) -> int:
        return sum(m.mediator(self.now).resumed for m in self.everybody)


def started(count: int = CROWD) -> Town:
    town = Town(count)
    town.connected()
    assert town.run(20, town.all_registered)
    town.run(200)
    return town


def tunnels(town: Town) -> list[tuple]:
    """Which SAs carry the tunnel, on both sides."""
    return [
        (machine.engine._connections[name].ike_id, *machine.engine._connections[name].children)
        for machine, name in ((town.operator, "cabin"), (town.gateway, "laptop"))
    ]


def test_all_come_back_without_one_public_key_operation(operations) -> None:
    town = started()
    assert operations["key exchange"] >= 4 * len(town.everybody)
    assert operations["signature"] >= 4 * len(town.everybody)
    assert town.resumed() == 0
    before = tunnels(town)
    operations.clear()
    town.mediator.boot(town.now)
    assert town.came_back()
    town.run(5)
    assert town.all_registered()
    assert operations == {}
    assert town.resumed() == len(town.everybody)
    assert town.mediator.engine.status(town.now).server.resumed == len(town.everybody)
    assert tunnels(town) == before
    assert town.both_up()
    assert town.echoes()


def test_the_registration_is_as_good_as_any(operations) -> None:
    """What goes over it still goes: reflexive endpoints, whom we accept, calls."""
    town = started(2)
    seen = town.operator.mediator(town.now).reflexive
    town.operator.engine.disconnect("cabin", town.now)
    town.run(2)
    assert not town.both_up()
    town.mediator.boot(town.now)
    assert town.came_back()
    assert town.resumed() == 4
    assert town.operator.mediator(town.now).reflexive == seen != ""
    town.connect()
    assert town.run(15, town.both_up), town.operator.peer("cabin", town.now)
    assert town.echoes()


def test_again_and_again(operations) -> None:
    town = started(5)
    operations.clear()
    for _ in range(4):
        town.run(300)
        town.mediator.boot(town.now)
        assert town.came_back()
        assert town.resumed() == len(town.everybody)
    assert operations == {}


@pytest.mark.parametrize("why", ["keys are lost", "clock is lost", "clock is wrong"])
def test_without_its_keys_or_its_clock_it_takes_handshakes(operations, why: str) -> None:
    town = started(5)
    operations.clear()
    match why:
        case "keys are lost":
            town.mediator.ticket_keys = ()
        case "clock is lost":
            town.mediator.wall = None
        case "clock is wrong":
            town.mediator.wall += 10 * 365 * 86400
    town.mediator.boot(town.now)
    assert town.came_back()
    town.run(2)
    assert town.resumed() == 0
    assert operations["signature"] == 4 * len(town.everybody)
    assert town.both_up()


def test_away_for_a_while() -> None:
    """Attempts without an answer use no ticket up; one that has expired meanwhile is not shown."""
    for hours, back in ((1, True), (TICKET_SECONDS / 3600 + 1, False)):
        town = started(3)
        town.hosts["mediator"].is_up = False
        town.run(hours * 3600)
        assert not town.all_registered()
        # Each attempt also tries IKE_SA_INIT for 3.2 s: who is just there would come without one.
        assert town.run(
            900, lambda t=town: {m.mediator().state for m in t.everybody} == {"waiting"}
        )
        town.mediator.boot(town.now)
        town.hosts["mediator"].is_up = True
        assert town.came_back(200)
        town.run(1)
        assert town.resumed() == (len(town.everybody) if back else 0)
        assert town.both_up()


@pytest.mark.parametrize("seed", range(5))
def test_on_a_bad_network(seed: int) -> None:
    """Whatever is lost, everybody is back, by a ticket or by a handshake."""
    town = started(10)
    town.network.random.seed(seed)
    for machine in town.crowd:
        town.hosts[machine.name].link = Link(
            delay=0.05, jitter=0.05, loss=0.3, duplicate=0.1, reorder=0.1
        )
    town.mediator.boot(town.now)
    assert town.came_back(240)
    assert town.run(60, town.all_registered)
    assert town.resumed() >= 2
    assert town.both_up()


def test_days_of_it() -> None:
    """Rekeyings ask for new tickets, keys rotate: at any time a restart finds a good one."""
    town = started(0)
    for hours in (5, 20):
        for _ in range(int(hours * 6)):
            town.run(600)
            town.mediator.rotate(town.now)
        town.mediator.boot(town.now)
        assert town.came_back()
        assert town.resumed() == len(town.everybody)
        assert len(town.mediator.ticket_keys) <= 2


def test_from_another_address_too(operations) -> None:
    """A ticket is bound to the pseudonym, not to an address: a laptop that roams is back at once.

    The server still has the older SA then; the resumed one takes its place.
    """
    town = started(2)
    town.operator.engine.disconnect("cabin", town.now)
    town.run(2)
    for number in (1, 2):
        operations.clear()
        seen = town.operator.mediator(town.now).reflexive
        town.roam(f"10.0.{number}.7", f"192.0.2.{90 + number}")
        assert town.run(5, lambda: town.operator.mediator(town.now).state == "registered")
        assert town.operator.mediator(town.now).resumed
        assert operations == {}
        assert town.operator.mediator(town.now).reflexive != seen
        town.run(5)
        assert town.online() == len(town.everybody) == town.mediator.sas


def test_a_resumed_registration_is_rekeyed_and_has_a_token_of_its_own(operations) -> None:
    """RFC 6290: the second restart is noticed as soon as the first; and resumed from once more."""
    town = started(2)
    town.mediator.boot(town.now)
    assert town.came_back()
    for machine in town.everybody:
        (registration,) = machine.engine._registrations.values()
        machine.engine._ike.rekey_ike(registration.ike_id, town.now)
        machine.engine._settle(town.now)
        machine.events.clear()
    town.run(200)
    assert town.resumed() == town.online() == len(town.everybody)
    operations.clear()
    town.mediator.boot(town.now)
    assert town.came_back(MEDIATOR_LIVENESS + 5)
    assert operations == {}
    assert town.resumed() == len(town.everybody)


def test_an_older_ticket_is_not_shown_after_a_goodbye(operations) -> None:
    """§6.2: what was deleted is not resumed."""
    town = started(2)
    registration = next(iter(town.operator.engine._registrations.values()))
    town.operator.engine._ike.close(registration.ike_id, town.now)
    town.operator.engine._settle(town.now)
    assert town.run(30, lambda: town.operator.mediator(town.now).state == "registered")
    assert not town.operator.mediator(town.now).resumed
