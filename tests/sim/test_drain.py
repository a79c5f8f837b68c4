"""A mediator is drained: everybody moves to another one, and no tunnel notices (RFC 5685).

Whole engines in virtual time, each behind a NAT of its own.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from agent.config import load_config
from agent.crypto.auth import key_text
from agent.datagram import Address
from agent.engine.entries import MediatorPlace
from agent.engine.events import MediatorChanged, MediatorMoved, Notice, TunnelDown
from agent.engine.registration import HOME_AGAIN, HOME_SECONDS, HOME_SOON
from agent.ike.redirect import MAX_REDIRECTS, REDIRECT_LOOP_DETECT_PERIOD
from agent.mediation.drain import AGAIN_SECONDS
from agent.moves import NO_MOVES
from agent.wire.codes import ExchangeType
from tests.support.network import Link
from tests.support.pair import key_of
from tests.unit.engine.machines import PORT, SERVER, Machine, Scene, echo

SECOND = "203.0.113.20"
QUICK = Link(delay=0.001)
PAIRS = 60
INIT_REQUEST = bytes((ExchangeType.IKE_SA_INIT, 0x08))  # exchange type and flags of the header
A_KEY = key_text(key_of("a").public)


def place(machine: Machine, host: str) -> MediatorPlace:
    return MediatorPlace(host, PORT, machine.keys.mediation.public)


def second(scene: Scene) -> Machine:
    """Another mediator, with a key of its own."""
    machine = Machine("second", SECOND, config=f'[mediate]\naddress = "{SECOND}"')
    scene.hosts["second"] = scene.network.host(
        "second", machine, (SECOND, scene.network.public), link=QUICK
    )
    return machine


def drain(scene: Scene, machine: Machine, to: MediatorPlace) -> None:
    machine.engine.drain(to, scene.now)
    scene.run(0)


def registered(machine: Machine) -> int:
    server = machine.engine.status(0.0).server
    assert server is not None
    return server.registered


def at(machine: Machine) -> list[tuple[str, str]]:
    return [(m.state, m.address) for m in machine.engine.status(0.0).mediators]


HERE, THERE = ("registered", f"{SERVER}:4500"), ("registered", f"{SECOND}:4500")


def drops_everything_of(scene: Scene, name: str) -> None:
    """As if it were switched off."""
    addresses = {SERVER} if name == "mediator" else {SECOND}
    scene.network.drops = lambda host, packet: host == name or packet.destination.host in addresses


# -- all of them ---------------------------------------------------------------------------------


class Crowd:
    """Gateways and operators in pairs, all connected; `mediator` is drained to `second`."""

    def __init__(self, pairs: int) -> None:
        self.scene = Scene(paired=False)
        self.second = second(self.scene)
        key = self.scene.mediator_key
        self.pairs = [self._pair(number, key) for number in range(pairs)]

    def _pair(self, number: int, key: str) -> tuple[Machine, Machine]:
        config = f'[mediator.main]\naddress = "{SERVER}"\nkey = "{key}"\n'
        gateway = Machine(f"cabin{number}", f"10.1.{number}.2", config=config)
        operator = Machine(f"laptop{number}", f"10.2.{number}.2")
        gateway.learn(operator.known("laptop", "operator"))
        operator.learn(gateway.known("cabin", mediator=SERVER, mediator_key=key, wanted=True))
        for machine, public in ((gateway, "198.51.100"), (operator, "192.0.2")):
            nat = self.scene.network.nat(f"{public}.{number + 50}")
            self.scene.network.host(
                machine.name, machine, (machine.hosts[0], nat.inside), link=QUICK
            )
            machine.refresh(0.0)
        return gateway, operator

    @property
    def machines(self) -> list[Machine]:
        return [machine for pair in self.pairs for machine in pair]

    def connected(self) -> bool:
        return all(g.is_up("laptop") and o.is_up("cabin") for g, o in self.pairs)

    def echo(self) -> int:
        """One packet each way of each pair; returns how many arrive within a second."""
        before = sum(len(m.delivered) for m in self.machines)
        for gateway, operator in self.pairs:
            there = echo(operator.address, gateway.address)
            back = echo(gateway.address, operator.address)
            operator.engine.receive_packets([there], self.scene.now)
            gateway.engine.receive_packets([back], self.scene.now)
        self.scene.run(1.0)
        return sum(len(m.delivered) for m in self.machines) - before


@pytest.fixture(scope="module")
def drained() -> tuple[Crowd, list[int]]:
    """All pairs after draining, and how many packets arrived in each second of it."""
    crowd = Crowd(PAIRS)
    assert crowd.scene.run(60, crowd.connected)
    assert registered(crowd.scene.mediator) >= 2 * PAIRS
    for machine in crowd.machines:
        machine.events.clear()
    drain(crowd.scene, crowd.scene.mediator, place(crowd.second, SECOND))
    return crowd, [crowd.echo() for _ in range(5)]


def test_everybody_moves(drained):
    crowd, _ = drained
    assert registered(crowd.second) == 2 * PAIRS + 1  # and the gateway of the scene
    assert [at(machine) for machine in crowd.machines] == [[THERE]] * 2 * PAIRS
    server = crowd.scene.mediator.engine.status(0.0).server
    assert server.moved >= 2 * PAIRS
    assert server.draining_to == f"{SECOND}:4500"


def test_no_tunnel_notices(drained):
    crowd, arrived = drained
    assert arrived == [2 * PAIRS] * 5  # each packet of each second, both ways
    assert crowd.connected()
    assert [e for m in crowd.machines for e in m.of(TunnelDown)] == []


def test_nobody_is_unregistered_for_a_moment(drained):
    crowd, _ = drained
    states = {e.state for m in crowd.machines for e in m.of(MediatorChanged)}
    assert states <= {"registered"}


def test_a_few_at_a_time(drained):
    """100 in a second: the other one is not flooded (§11)."""
    crowd, _ = drained
    assert len(crowd.scene.mediator.engine._server.drain._asked) <= 2  # who has not gone


# -- what they remember --------------------------------------------------------------------------


def moved_scene() -> tuple[Scene, Machine]:
    scene = Scene()
    other = second(scene)
    scene.registered()
    drain(scene, scene.mediator, place(other, SECOND))
    assert scene.run(5, lambda: at(scene.gateway) == at(scene.operator) == [THERE])
    return scene, other


def meet_after_a_restart_with_the_old_mediator_off(scene: Scene) -> None:
    drops_everything_of(scene, "mediator")
    for machine in (scene.gateway, scene.operator):
        machine.boot(scene.now)
    assert scene.run(5, lambda: at(scene.gateway) == at(scene.operator) == [THERE])
    scene.connect()
    assert scene.run(10, scene.both_up)


def test_after_a_restart_with_the_old_mediator_off_they_meet_at_the_new_one():
    scene, _ = moved_scene()
    meet_after_a_restart_with_the_old_mediator_off(scene)
    assert scene.echoes()


def test_the_status_says_where_it_was_configured():
    scene, _ = moved_scene()
    assert scene.gateway.mediator(scene.now).moved_from == f"{SERVER}:4500"


def test_who_moved_comes_back_to_the_other_one_by_ticket():
    """RFC 5723: that one is restarted too, one day."""
    scene, other = moved_scene()
    scene.run(1)
    before = scene.gateway.engine._registrations["main"].ike_id
    other.boot(scene.now)
    assert scene.run(60, lambda: registered(other) == 2)
    scene.run(1)
    after = scene.gateway.engine._registrations["main"].ike_id
    assert after != before
    for machine in (scene.gateway, scene.operator):
        (status,) = machine.engine.status(scene.now).mediators
        assert (status.state, status.address, status.resumed) == (*THERE, True)


def test_the_other_one_restarts_and_everybody_is_there_again():
    """RFC 6290 says that it is there. Only then the configured one is asked, by all alike."""
    scene, other = moved_scene()
    scene.run(1)
    other.boot(scene.now)
    assert scene.run(60, lambda: registered(other) == 2)
    assert registered(scene.mediator) == 0
    assert scene.gateway.moves.pairs != ()
    scene.mediator.boot(scene.now)  # drains no more
    assert scene.run(HOME_SOON, lambda: registered(scene.mediator) == 2)


def test_a_ticket_of_the_drained_one_is_not_shown_to_the_other():
    """It opens there only, and the attempt may fail: then it is needed where it came from."""
    scene = Scene()
    second(scene)
    scene.registered()
    drops_everything_of(scene, "second")
    scene.run(1)
    drain(scene, scene.mediator, MediatorPlace(SECOND, PORT, key_of("nobody").public))
    scene.run(60)
    scene.mediator.boot(scene.now)
    assert scene.run(60, lambda: registered(scene.mediator) == 2)
    scene.run(1)
    assert scene.gateway.mediator(scene.now).resumed


def test_where_the_new_one_is_gone_they_go_back_and_forget_it():
    scene, _ = moved_scene()
    scene.mediator.boot(scene.now)  # drains no more
    drops_everything_of(scene, "second")
    scene.gateway.boot(scene.now)
    assert scene.run(120, lambda: at(scene.gateway) == [HERE]), scene.gateway.events
    assert scene.gateway.moves.pairs == ()
    assert scene.gateway.mediator(scene.now).moved_from == ""


# -- coming back ---------------------------------------------------------------------------------


def counts_asked(scene: Scene, asked: list[float]) -> None:
    """Note each IKE_SA_INIT that the gateway sends to the server of its configuration."""
    drops = scene.network.drops

    def note(host: str, packet) -> bool:
        if (
            host == "gateway"
            and packet.destination.host == SERVER
            and packet.data[22:24] == INIT_REQUEST
        ):
            asked.append(scene.now)
        return drops(host, packet) if drops is not None else False

    scene.network.drops = note


def test_the_configured_server_has_everybody_again_when_it_is_back():
    scene, other = moved_scene()
    scene.connect()
    assert scene.run(5, scene.both_up)
    scene.mediator.boot(scene.now)  # drains no more
    for machine in (scene.gateway, scene.operator):
        machine.events.clear()
    assert scene.run(HOME_SECONDS + 10, lambda: at(scene.gateway) == at(scene.operator) == [HERE])
    scene.run(1)
    assert (registered(scene.mediator), registered(other)) == (2, 0)
    for machine in (scene.gateway, scene.operator):
        assert machine.moves.pairs == ()
        assert {e.state for e in machine.of(MediatorChanged)} == {"registered"}
        assert machine.of(TunnelDown) == []
    asked: list[float] = []
    counts_asked(scene, asked)
    scene.run(4 * HOME_SECONDS)
    assert asked == []  # it is there, and asks no more


@pytest.mark.parametrize("minutes", [1, 3, 10])
def test_after_a_short_update_it_is_asked_soon(minutes):
    """Who knows nothing of it all calls there: the gateway is away three times as long at most."""
    scene, _ = moved_scene()
    scene.run(60 * minutes)
    scene.mediator.boot(scene.now)
    scene.operator.moves = NO_MOVES
    scene.operator.boot(scene.now)
    assert scene.run(5, lambda: at(scene.operator) == [HERE])
    scene.connect()
    assert scene.run(2 * 60 * minutes + HOME_SOON, scene.both_up)
    assert at(scene.gateway) == [HERE]


def test_at_the_start_it_is_asked_soon():
    scene, _ = moved_scene()
    scene.mediator.boot(scene.now)
    scene.gateway.boot(scene.now)
    assert scene.run(5, lambda: at(scene.gateway) == [THERE])  # it does not wait for that
    assert scene.run(HOME_SOON, lambda: at(scene.gateway) == [HERE])


@pytest.mark.parametrize("why", ["drains on", "is off", "is another", "has no name"])
def test_while_it_does_not_have_us_nothing_changes(why):
    scene, other = moved_scene()
    if why == "is off":
        drops_everything_of(scene, "mediator")
    elif why == "is another":
        scene.mediator.keys = Machine("somebody").keys
        scene.mediator.boot(scene.now)
    elif why == "has no name":
        scene.gateway.dns[SERVER] = scene.operator.dns[SERVER] = None
    asked: list[float] = []
    counts_asked(scene, asked)
    scene.gateway.events.clear()
    ike_id = scene.gateway.engine._registrations["main"].ike_id
    hours = 6
    scene.run(hours * 3600)
    assert at(scene.gateway) == [THERE]
    assert scene.gateway.engine._registrations["main"].ike_id == ike_id
    assert scene.gateway.of(MediatorMoved) == scene.gateway.of(Notice) == []
    assert scene.gateway.moves.pairs != ()
    assert registered(scene.mediator) == 0
    assert registered(other) == 2
    times = sum(after - before > 60 for before, after in pairwise([0.0, *asked]))
    assert times <= 2 * hours * 3600 / HOME_SECONDS
    assert (times >= hours * 3600 / HOME_SECONDS - 1) is (why != "has no name")
    assert len(asked) <= 5 * times


def test_who_calls_one_that_has_gone_back_goes_after_it():
    """And not only when its own time has come: a person waits."""
    scene, _ = moved_scene()
    (operators,) = scene.operator.engine._registrations.values()

    def would_not_ask_soon() -> bool:
        assert operators.deadline is not None
        quiet = scene.now - operators._home_asked > HOME_AGAIN
        return quiet and operators.deadline - scene.now > 2 * HOME_SOON

    assert scene.run(2 * HOME_SECONDS, would_not_ask_soon)
    scene.mediator.boot(scene.now)
    scene.gateway.boot(scene.now)
    assert scene.run(HOME_SOON + 5, lambda: at(scene.gateway) == [HERE])
    assert at(scene.operator) == [THERE]
    scene.connect()
    assert scene.run(8, scene.both_up), scene.operator.peer("cabin", scene.now)
    assert at(scene.operator) == [HERE]


def test_two_registrations_that_had_become_one_part_again():
    """Its peers have gone back to the first server: there it has to be for them."""
    scene = Scene()
    other = second(scene)
    key = key_text(other.keys.mediation.public)
    scene.operator.learn(other.known("shed", mediator=SECOND, mediator_key=key))
    scene.operator.refresh(0.0)
    assert scene.run(10, lambda: sorted(at(scene.operator)) == [HERE, THERE])
    drain(scene, scene.mediator, place(other, SECOND))
    assert scene.run(20, lambda: at(scene.operator) == at(scene.gateway) == [THERE])
    scene.operator.events.clear()
    scene.run(2 * HOME_SECONDS)
    assert scene.operator.of(MediatorMoved) == []
    assert at(scene.operator) == [THERE]
    scene.mediator.boot(scene.now)
    assert scene.run(2 * HOME_SECONDS, lambda: sorted(at(scene.operator)) == [HERE, THERE]), (
        scene.operator.events
    )
    assert scene.run(HOME_SECONDS, lambda: at(scene.gateway) == [HERE])
    scene.connect()
    assert scene.run(8, scene.both_up)
    assert sorted(at(scene.operator)) == [HERE, THERE]


def test_drained_back_after_an_update_nothing_is_left_of_it():
    scene, other = moved_scene()
    scene.mediator.boot(scene.now)
    drain(scene, other, place(scene.mediator, SERVER))
    assert scene.run(5, lambda: at(scene.gateway) == at(scene.operator) == [HERE])
    for machine in (scene.gateway, scene.operator):
        assert machine.moves.pairs == ()
        assert machine.mediator(scene.now).moved_from == ""
    assert scene.run(1, lambda: registered(other) == 0)


def test_who_comes_meanwhile_is_sent_on():
    """In IKE_AUTH; it had been offline when the others moved."""
    scene = Scene()
    other = second(scene)
    drain(scene, scene.mediator, place(other, SECOND))
    assert scene.run(10, lambda: at(scene.gateway) == at(scene.operator) == [THERE])
    assert registered(scene.mediator) == 0
    scene.run(30)
    assert scene.mediator.sas == 0
    assert scene.mediator.engine.status(scene.now).server.moved == 2
    scene.connect()
    assert scene.run(10, scene.both_up)


@pytest.mark.parametrize("ms", range(-200, 200, 20))
def test_a_call_in_the_middle_of_it_comes_through(ms):
    """Whichever of the two has moved when: what was asked at one is asked at the other anew."""
    scene = Scene().registered()
    other = second(scene)
    if ms < 0:
        scene.connect()
        scene.run(-ms / 1000)
    drain(scene, scene.mediator, place(other, SECOND))
    if ms >= 0:
        scene.run(ms / 1000)
        scene.connect()
    assert scene.run(1.0, scene.both_up), (scene.operator.peer("cabin"), scene.operator.events)
    assert scene.run(5, lambda: at(scene.gateway) == at(scene.operator) == [THERE])
    assert scene.echoes()


def test_one_that_moved_is_called_by_one_that_comes_later():
    scene = Scene()
    other = second(scene)
    assert scene.run(10, lambda: at(scene.gateway) == [HERE])
    drain(scene, scene.mediator, place(other, SECOND))
    assert scene.run(5, lambda: at(scene.gateway) == [THERE])
    scene.operator.boot(scene.now)
    scene.connect()
    assert scene.run(15, scene.both_up)


def test_two_registrations_that_end_at_one_server_become_one():
    """Else they would throw each other off for ever: both are the same pseudonym."""
    scene = Scene()
    other = second(scene)
    key = key_text(other.keys.mediation.public)
    shed = Machine(
        "shed", "10.0.1.3", config=f'[mediator.m]\naddress = "{SECOND}"\nkey = "{key}"\n'
    )
    shed.learn(scene.operator.known("laptop"))
    scene.network.host("shed", shed, ("10.0.1.3", scene.gateway_nat.inside), link=QUICK)
    shed.refresh(0.0)
    scene.operator.learn(shed.known("shed", mediator=SECOND, mediator_key=key))
    scene.operator.refresh(0.0)
    assert scene.run(10, lambda: sorted(at(scene.operator)) == [HERE, THERE])
    scene.connect()
    assert scene.run(10, scene.both_up)
    drain(scene, scene.mediator, place(other, SECOND))
    assert scene.run(20, lambda: at(scene.operator) == [THERE]), scene.operator.events
    scene.operator.events.clear()
    scene.run(120)
    assert at(scene.operator) == [THERE]
    # The other one asks for its server, and is not registered.
    assert {e.name for e in scene.operator.of(MediatorChanged)} == {SERVER}
    assert "registered" not in {e.state for e in scene.operator.of(MediatorChanged)}
    assert scene.operator.of(TunnelDown) == []
    scene.operator.engine.connect("shed", scene.now)
    assert scene.run(10, lambda: scene.operator.is_up("shed"))


def test_only_the_registration_that_is_redirected_moves():
    scene = Scene()
    other = second(scene)
    third = Machine("third", "203.0.113.30", config='[mediate]\naddress = "203.0.113.30"')
    scene.network.host("third", third, ("203.0.113.30", scene.network.public), link=QUICK)
    key = key_text(other.keys.mediation.public)
    scene.operator.learn(other.known("shed", mediator=SECOND, mediator_key=key))
    scene.operator.refresh(0.0)
    assert scene.run(10, lambda: sorted(at(scene.operator)) == [HERE, THERE])
    drain(scene, scene.mediator, place(third, "203.0.113.30"))
    moved = ("registered", "203.0.113.30:4500")
    assert scene.run(5, lambda: sorted(at(scene.operator)) == [THERE, moved])
    scene.operator.events.clear()
    scene.run(30)
    assert scene.operator.of(MediatorChanged) == []


def test_the_other_addresses_of_a_drained_mediator_are_left_alone():
    scene = Scene()
    other = second(scene)
    drain(scene, scene.mediator, place(other, SECOND))
    scene.gateway.dns[SERVER] = [SERVER, "203.0.113.66"]
    scene.gateway.boot(scene.now)
    sent = []
    scene.network.drops = lambda host, packet: sent.append(packet.destination.host)
    assert scene.run(5, lambda: at(scene.gateway) == [THERE])
    assert "203.0.113.66" not in sent


# -- anycast -------------------------------------------------------------------------------------

ANYCAST = "203.0.113.1"


def answers_at_anycast(scene: Scene, name: str, machine: Machine) -> None:
    """RFC 5685 §4: who comes to `ANYCAST` is at `machine`, and sent to its own address."""
    machine.config = load_config(
        f'[mediate]\naddress = "{machine.hosts[0]}"\nanycast = ["{ANYCAST}"]'
    )
    machine.boot(scene.now)
    leads_to(scene, name)


def leads_to(scene: Scene, name: str) -> None:
    ip, public = Address.parse(ANYCAST, 0).ip, scene.network.public
    for host in scene.hosts.values():
        host.addresses.pop(ip, None)
    scene.hosts[name].addresses[ip] = public
    public.members[ip] = scene.hosts[name]


def configured_by_anycast() -> Scene:
    scene = Scene()
    answers_at_anycast(scene, "mediator", scene.mediator)
    main = f'[mediator.main]\naddress = "{ANYCAST}"\nkey = "{scene.mediator_key}"\n'
    scene.gateway.config = load_config(main)
    scene.operator.learn(
        scene.gateway.known("cabin", mediator=ANYCAST, mediator_key=scene.mediator_key)
    )
    for machine in (scene.gateway, scene.operator):
        machine.boot(scene.now)
    return scene.registered()


def test_back_from_a_move_at_an_anycast_address_it_is_forgotten():
    """That server proves the configured key, at an address of its own."""
    scene = configured_by_anycast()
    assert at(scene.gateway) == [HERE]
    other = second(scene)
    drain(scene, scene.mediator, place(other, SECOND))
    assert scene.run(5, lambda: at(scene.gateway) == at(scene.operator) == [THERE])
    assert scene.gateway.moves.pairs != ()
    scene.mediator.boot(scene.now)
    assert scene.run(HOME_SECONDS + 10, lambda: at(scene.gateway) == at(scene.operator) == [HERE])
    for machine in (scene.gateway, scene.operator):
        assert machine.moves.pairs == ()
    asked: list[float] = []
    counts_asked(scene, asked)
    scene.run(4 * HOME_SECONDS)
    assert asked == []
    scene.gateway.boot(scene.now)
    drops_everything_of(scene, "second")
    assert scene.run(5, lambda: at(scene.gateway) == [HERE])


def moved_to_anycast() -> tuple[Scene, Machine]:
    scene = Scene()
    other = second(scene)
    answers_at_anycast(scene, "second", other)
    scene.registered()
    drain(scene, scene.mediator, place(other, ANYCAST))
    assert scene.run(5, lambda: at(scene.gateway) == at(scene.operator) == [THERE])
    return scene, other


def test_a_move_to_an_anycast_address_is_remembered():
    """What the drained server named, and not where that led this time."""
    scene, other = moved_to_anycast()
    assert [after for _, after in scene.gateway.moves.pairs] == [place(other, ANYCAST)]
    meet_after_a_restart_with_the_old_mediator_off(scene)


def test_who_moved_to_an_anycast_address_stays_while_the_configured_one_drains():
    scene, _ = moved_to_anycast()
    ike_id = scene.gateway.engine._registrations["main"].ike_id
    scene.gateway.events.clear()
    scene.run(60)
    sent = set()
    scene.network.drops = lambda host, packet: sent.add(packet.destination.host)
    scene.run(3 * 3600)
    assert SERVER in sent
    assert ANYCAST not in sent
    assert scene.gateway.engine._registrations["main"].ike_id == ike_id
    assert scene.gateway.of(MediatorMoved) == scene.gateway.of(Notice) == []


def test_who_moved_to_an_anycast_address_comes_back():
    scene, _ = moved_to_anycast()
    scene.mediator.boot(scene.now)  # drains no more
    assert scene.run(HOME_SECONDS + 10, lambda: at(scene.gateway) == at(scene.operator) == [HERE])
    assert scene.gateway.moves.pairs == ()


def test_one_of_several_behind_an_anycast_address_is_drained_to_the_others():
    """They share a key, and the address leads to another one by now."""
    scene = configured_by_anycast()
    other = second(scene)
    other.keys = scene.mediator.keys
    answers_at_anycast(scene, "second", other)
    drain(scene, scene.mediator, place(other, ANYCAST))
    assert scene.run(5, lambda: at(scene.gateway) == at(scene.operator) == [THERE])
    assert scene.gateway.moves.pairs == ()
    scene.connect()
    assert scene.run(10, scene.both_up)


def test_drained_to_the_anycast_address_that_still_leads_here():
    """Whoever drains forgot to withdraw it: nobody is thrown out, and nothing goes round."""
    scene = configured_by_anycast()
    asked: list[float] = []
    counts_asked(scene, asked)
    for machine in (scene.gateway, scene.operator):
        machine.events.clear()
    drain(scene, scene.mediator, place(scene.mediator, ANYCAST))
    scene.run(600)
    assert at(scene.gateway) == at(scene.operator) == [HERE]
    assert scene.gateway.of(Notice) == scene.gateway.of(MediatorMoved) == []
    assert len(asked) <= 600 / AGAIN_SECONDS + 1


# -- what goes wrong -----------------------------------------------------------------------------


def test_the_other_mediator_is_off_and_nobody_is_lost():
    scene = Scene().connected()
    other = second(scene)
    drops_everything_of(scene, "second")
    drain(scene, scene.mediator, place(other, SECOND))
    scene.run(60)
    assert at(scene.gateway) == at(scene.operator) == [HERE]
    assert scene.echoes()
    scene.network.drops = lambda host, packet: False
    # It is asked again, and goes.
    assert scene.run(120, lambda: at(scene.gateway) == at(scene.operator) == [THERE])
    assert scene.echoes()


@pytest.mark.parametrize("seed", range(6))
def test_a_third_of_all_datagrams_is_lost(seed):
    scene = Scene().connected()
    other = second(scene)
    chance = Random(seed)
    scene.network.drops = lambda host, packet: chance.random() < 0.33
    for machine in (scene.gateway, scene.operator):
        machine.events.clear()
    drain(scene, scene.mediator, place(other, SECOND))
    # Once for most; the first attempt may be lost, then it is asked again.
    assert scene.run(200, lambda: at(scene.gateway) == at(scene.operator) == [THERE])
    assert scene.gateway.of(TunnelDown) == scene.operator.of(TunnelDown) == []
    scene.network.drops = lambda host, packet: False
    assert scene.echoes()


def test_another_key_than_the_one_that_was_told_is_not_accepted():
    scene = Scene().registered()
    second(scene)
    wrong = MediatorPlace(SECOND, PORT, scene.gateway.keys.identity.public)
    drain(scene, scene.mediator, wrong)
    scene.run(30)
    assert at(scene.gateway) == at(scene.operator) == [HERE]
    assert scene.gateway.moves.pairs == ()


def test_the_other_one_is_no_mediator_and_nobody_is_lost():
    """It answers IKE_SA_INIT, but says nothing of mediation."""
    scene = Scene().registered()
    plain = Machine("plain", SECOND, config=f'[peer.x]\nkey = "{A_KEY}"')
    scene.network.host("plain", plain, (SECOND, scene.network.public), link=QUICK)
    for machine in (scene.gateway, scene.operator):
        machine.events.clear()
    drain(scene, scene.mediator, place(plain, SECOND))
    scene.run(30)
    assert at(scene.gateway) == at(scene.operator) == [HERE]
    for machine in (scene.gateway, scene.operator):
        assert {e.state for e in machine.of(MediatorChanged)} <= {"registered"}
    assert plain.sas == 0


def drained_to_nowhere(why: str) -> tuple[Scene, Machine]:
    scene = Scene().registered()
    other = second(scene)
    to = place(other, SECOND)
    match why:
        case "off":
            drops_everything_of(scene, "second")
        case "another key":
            to = MediatorPlace(SECOND, PORT, key_of("x").public)
        case "no name":
            scene.gateway.dns["x.example.org"] = scene.operator.dns["x.example.org"] = None
            to = MediatorPlace("x.example.org", PORT, other.keys.mediation.public)
        case "itself":
            to = place(scene.mediator, SERVER)
        case "itself, another key":
            to = MediatorPlace(SERVER, PORT, key_of("x").public)
    drain(scene, scene.mediator, to)
    return scene, other


NOWHERE = ["off", "another key", "no name", "itself", "itself, another key"]


@pytest.mark.parametrize("why", NOWHERE)
def test_who_is_registered_stays_when_it_is_drained_to_nowhere(why):
    scene, _ = drained_to_nowhere(why)
    scene.gateway.events.clear()
    for _ in range(20):
        scene.run(60)
        assert registered(scene.mediator) == 2
    states = {e.state for e in scene.gateway.of(MediatorChanged)}
    assert states <= {"registered"}
    assert scene.gateway.of(MediatorMoved) == []


@pytest.mark.parametrize("why", NOWHERE)
def test_who_comes_to_one_that_is_drained_to_nowhere_gets_in(why):
    """Once it has tried the other one it says no more that it takes redirects (§3)."""
    scene, _ = drained_to_nowhere(why)
    scene.run(5)
    scene.operator.boot(scene.now)
    scene.connect()
    assert scene.run(60, scene.both_up), scene.operator.mediator(scene.now)
    assert at(scene.operator) == [HERE]


def test_who_fell_silent_has_not_moved():
    scene, _ = drained_to_nowhere("off")
    scene.network.drops = lambda host, packet: host in ("gateway", "second")
    assert scene.run(600, lambda: registered(scene.mediator) == 1)
    assert at(scene.operator) == [HERE]
    assert scene.mediator.engine.status(scene.now).server.moved == 0


def test_who_has_arrived_takes_redirects_again():
    scene, other = moved_scene()
    other.boot(scene.now)
    assert scene.run(60, lambda: registered(other) == 2)
    scene.mediator.boot(scene.now)
    drain(scene, other, place(scene.mediator, SERVER))
    assert scene.run(5, lambda: at(scene.gateway) == at(scene.operator) == [HERE])


def test_who_got_in_goes_when_the_other_one_is_on():
    scene, other = drained_to_nowhere("off")
    scene.operator.boot(scene.now)
    assert scene.run(60, lambda: at(scene.operator) == [HERE])
    for _ in range(10):
        scene.run(60)
        assert at(scene.operator) == at(scene.gateway) == [HERE]
    scene.network.drops = lambda host, packet: False
    scene.operator.events.clear()
    assert scene.run(HOME_SECONDS, lambda: at(scene.operator) == at(scene.gateway) == [THERE])
    assert {e.state for e in scene.operator.of(MediatorChanged)} == {"registered"}
    assert scene.run(1, lambda: (registered(scene.mediator), registered(other)) == (0, 2))


@pytest.mark.parametrize("host", ["127.0.0.1", "224.0.0.1", "0.0.0.0"])
def test_nobody_is_sent_to_addresses_that_lead_astray(host):
    scene = Scene().registered()
    other = second(scene)
    sent = []
    scene.network.drops = lambda at, packet: sent.append(packet.destination.host) or False
    drain(scene, scene.mediator, place(other, host))
    scene.run(20)
    assert host not in sent
    assert at(scene.gateway) == [HERE]


def test_two_mediators_that_are_drained_to_each_other():
    """§7: five in five minutes; then it is said once, and everybody is where he was configured."""
    scene = Scene()
    other = second(scene)
    drain(scene, scene.mediator, place(other, SECOND))
    drain(scene, other, place(scene.mediator, SERVER))
    started = scene.now
    sent = []
    scene.network.drops = lambda at, packet: (
        sent.append(1) if at == "gateway" and packet.data[22:24] == INIT_REQUEST else None
    )
    scene.run(REDIRECT_LOOP_DETECT_PERIOD - 1)
    said = [n.text for n in scene.gateway.of(Notice)]
    assert len(said) == 1
    assert "redirected again and again" in said[0]
    # 5 that are followed, and the first of each attempt of the back-off: 2, 4, … 120 s.
    assert MAX_REDIRECTS <= len(sent) <= MAX_REDIRECTS + 14, (len(sent), scene.now - started)
    assert at(scene.gateway) == at(scene.operator) == [HERE]
    scene.connect()
    assert scene.run(10, scene.both_up)
    # One of them is started anew: everything is well by itself.
    other.boot(scene.now)
    assert scene.run(HOME_SECONDS, lambda: at(scene.gateway) == at(scene.operator) == [THERE])
    assert scene.gateway.of(MediatorMoved)
