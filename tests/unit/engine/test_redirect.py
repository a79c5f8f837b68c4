"""Whole engines that are redirected: anycast, peers that are called directly, forgeries, loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.crypto.auth import key_text
from agent.datagram import Address, Path
from agent.engine.events import MediatorChanged, MediatorMoved, Notice, TunnelDown
from agent.engine.redirection import MAX_CANDIDATES
from agent.ike.redirect import gateway_factory, redirection, send_elsewhere
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.message import Header, decode_message, encode_message
from agent.wire.payloads import NoncePayload, NotifyPayload
from agent.wire.redirect import GatewayId, Redirect, Successor, decode_redirected_from
from tests.support.network import Link, Network
from tests.unit.engine.machines import SERVER, Machine, echo

if TYPE_CHECKING:
    from tests.support.network import Packet

QUICK = Link(delay=0.001)
ANYCAST = "203.0.113.1"
FIRST, SECOND = "203.0.113.21", "203.0.113.22"


def first_messages(packets: list[Packet], exchange: int = ExchangeType.IKE_SA_INIT) -> list:
    """The IKE_SA_INIT requests among them."""
    found = []
    for packet in packets:
        data = packet.data[4:] if packet.data[:4] == bytes(4) else b""
        if len(data) > 28 and data[18] == exchange and not data[19] & 0x20:
            found.append((packet.destination.host, decode_message(data)))
    return found


# -- anycast -------------------------------------------------------------------------------------


def test_anycast_first_contact():
    """RFC 5685 §4: to the unicast address; and the anycast address is named there (§9.3)."""
    network, sent = Network(), []
    network.drops = lambda host, packet: sent.append(packet) if host == "gateway" else None
    config = f'[mediate]\naddress = "{SERVER}"\nanycast = ["{ANYCAST}"]'
    mediator = Machine("mediator", SERVER, config=config)
    key = key_text(mediator.keys.mediation.public)
    gateway = Machine(
        "cabin", "10.0.1.2", config=f'[mediator.main]\naddress = "{ANYCAST}"\nkey = "{key}"\n'
    )
    public, nat = network.public, network.nat("198.51.100.1")
    network.host("mediator", mediator, (SERVER, public), (ANYCAST, public), link=QUICK)
    network.host("gateway", gateway, ("10.0.1.2", nat.inside), link=QUICK)

    assert network.run(5, lambda: gateway.mediator().state == "registered")
    assert gateway.mediator().address == f"{SERVER}:4500"
    (there, asked), (then, again) = first_messages(sent)
    assert (there, then) == (ANYCAST, SERVER)
    assert asked.notify(NotifyType.REDIRECT_SUPPORTED) is not None
    came = decode_redirected_from(again.notify(NotifyType.REDIRECTED_FROM).data)
    assert came.host == ANYCAST
    assert mediator.sas == 1
    # Nothing was proven but the mediator itself: next time the anycast address is asked again.
    assert gateway.of(MediatorMoved) == []
    gateway.boot(network.now)
    sent.clear()
    assert network.run(5, lambda: gateway.mediator().state == "registered")
    assert [host for host, _ in first_messages(sent)] == [ANYCAST, SERVER]

    # With a ticket of it no less: IKE_SESSION_RESUME is answered as IKE_SA_INIT is.
    network.run(200)
    sent.clear()
    mediator.boot(network.now)
    assert network.run(60, lambda: mediator.sas == 1)
    network.run(1)
    assert gateway.mediator().address == f"{SERVER}:4500"
    resumed = first_messages(sent, ExchangeType.IKE_SESSION_RESUME)
    assert [host for host, _ in resumed] == [ANYCAST, SERVER]
    assert gateway.mediator().resumed
    assert first_messages(sent) == []


def test_servers_that_share_a_key_do_not_tell_each_others_tokens():
    """RFC 6290 §9.2: whoever shows one server the SPIs of an IKE SA at the other."""
    network = Network()
    first, other = (
        Machine(
            name, host, config=f'[mediate]\naddress = "{host}"\nanycast = ["{ANYCAST}"]', key="m"
        )
        for name, host in (("first", FIRST), ("other", SECOND))
    )
    key = key_text(first.keys.mediation.public)
    client = Machine(
        "client", "192.0.2.9", config=f'[mediator.main]\naddress = "{FIRST}"\nkey = "{key}"\n'
    )
    sent = []
    network.drops = lambda host, packet: sent.append(packet) if host == "client" else None
    for machine in (first, other, client):
        network.host(machine.name, machine, (machine.hosts[0], network.public), link=QUICK)
    assert network.run(5, lambda: client.mediator().state == "registered")
    client.engine._ike.check_liveness(1, network.now)
    client.engine._settle(network.now)
    network.run(1)
    probe = sent[-1].data[4:]
    there = Path(Address.parse(SECOND, 4500), Address.parse("192.0.2.9", 4500))
    other.engine._ike.receive(there, probe, network.now)
    shown = other.engine._ike.poll_output().data
    tokens = decode_message(shown).notifies(NotifyType.QUICK_CRASH_DETECTION)
    assert len(tokens) == 1
    back = Path(there.remote, there.local)
    client.engine._ike.receive(back, shown, network.now)
    client.engine._settle(network.now)
    assert client.mediator().state == "registered"
    assert client.sas == 1


# -- a peer that is called directly --------------------------------------------------------------


class Direct:
    """A client, and two gateways with one identity between which it may be sent about."""

    def __init__(self, *, key: str = "gw", more: str = "") -> None:
        self.network = Network()
        self.client = Machine("client", "192.0.2.9")
        public = key_text(Machine("gw").keys.identity.public)
        peer = f'[peer.office]\naddress = "{FIRST}"\nkey = "{public}"\nstart = true\n{more}'
        self.client = Machine("client", "192.0.2.9", config=peer)
        client = key_text(self.client.keys.identity.public)
        config = f'[peer.client]\nkey = "{client}"\n'
        self.first = Machine("first", FIRST, config=config, key="gw")
        self.second = Machine("second", SECOND, config=config, key=key)
        self.sent: list[Packet] = []
        self.network.drops = lambda host, packet: (
            self.sent.append(packet) if host == "client" else None
        )
        self.run = self.network.run

    def start(self) -> Direct:
        for machine in (self.client, self.first, self.second):
            address = (machine.hosts[0], self.network.public)
            self.network.host(machine.name, machine, address, link=QUICK)
        return self

    @property
    def path(self) -> str:
        return self.client.peer("office").path

    def up(self, host: str, seconds: float = 10.0) -> bool:
        return self.run(seconds, lambda: self.is_up() and self.path == f"{host}:4500")

    def is_up(self) -> bool:
        return self.client.is_up("office")

    def passes(self, gateway: Machine) -> bool:
        before = len(gateway.delivered)
        packet = echo(self.client.address, gateway.address)
        self.client.engine.receive_packets([packet], self.network.now)
        self.run(1)
        return packet in gateway.delivered[before:]

    def send_elsewhere(self, gateway: Machine, host: str) -> None:
        ike = gateway.engine._ike
        (sa,) = ike.sas()
        said = redirection(GatewayId.of_host(host))
        assert send_elsewhere(ike, sa.ike_id, said, self.network.now)
        gateway.engine._settle(self.network.now)
        self.run(0)


def test_on_a_living_tunnel_make_before_break():
    direct = Direct().start()
    assert direct.up(FIRST)
    direct.sent.clear()
    direct.send_elsewhere(direct.first, SECOND)
    assert direct.up(SECOND, 2)
    assert direct.passes(direct.second)
    direct.run(1)
    assert direct.first.sas == 0  # the client deleted it (§5)
    ((host, asked),) = first_messages(direct.sent)
    assert host == SECOND
    assert decode_redirected_from(asked.notify(NotifyType.REDIRECTED_FROM).data).host == FIRST
    assert direct.client.of(TunnelDown) == []


def test_a_proof_that_is_repeated_makes_before_it_breaks():
    """RFC 4478: addresses and routes of the tunnel stay on both sides."""
    direct = Direct(more="auth_seconds = 3600").start()
    assert direct.up(FIRST)
    before = direct.client.engine._connections["office"].ike_id
    direct.run(3700)
    assert direct.client.engine._connections["office"].ike_id != before
    assert direct.passes(direct.first)
    assert direct.client.of(TunnelDown) == direct.first.of(TunnelDown) == []


def test_a_name_is_looked_up():
    direct = Direct().start()
    direct.client.dns["gw2.example.org"] = [SECOND]
    assert direct.up(FIRST)
    direct.send_elsewhere(direct.first, "gw2.example.org")
    assert direct.up(SECOND, 2)


@pytest.mark.parametrize("found", [None, [], ["127.0.0.1", "224.0.0.1"]], ids=str)
def test_a_name_that_leads_nowhere_costs_nothing(found):
    direct = Direct().start()
    direct.client.dns["gw2.example.org"] = found
    assert direct.up(FIRST)
    direct.send_elsewhere(direct.first, "gw2.example.org")
    direct.run(60)
    assert direct.path == f"{FIRST}:4500"
    assert direct.passes(direct.first)
    assert direct.client.of(TunnelDown) == []


def test_a_gateway_with_another_identity_is_not_taken():
    """§3: the same PAD entry as with the original gateway."""
    direct = Direct(key="somebody else").start()
    assert direct.up(FIRST)
    direct.send_elsewhere(direct.first, SECOND)
    direct.run(60)
    assert direct.path == f"{FIRST}:4500"
    assert direct.passes(direct.first)
    assert direct.client.of(TunnelDown) == []
    assert direct.client.of(Notice) == []  # nobody came to us in its name


def test_the_key_of_a_successor_counts_for_mediators_only():
    direct = Direct(key="somebody else").start()
    assert direct.up(FIRST)
    ike = direct.first.engine._ike
    (sa,) = ike.sas()
    other = Successor(4500, direct.second.keys.identity.public)
    said = redirection(GatewayId.of_host(SECOND), other)
    assert send_elsewhere(ike, sa.ike_id, said, direct.network.now)
    direct.first.engine._settle(direct.network.now)
    direct.run(60)
    assert direct.path == f"{FIRST}:4500"
    assert direct.second.sas == 0


def test_in_ike_auth():
    direct = Direct()
    said = redirection(GatewayId.of_host(SECOND))
    direct.first.engine._ike.attachment._responder = (gateway_factory(lambda sa: said),)
    direct.start()
    assert direct.up(SECOND)
    assert direct.passes(direct.second)
    direct.run(20)
    assert direct.first.sas == 0


def test_in_ike_auth_to_one_that_is_another_it_gets_in():
    """The next time it says no more that it takes redirects (§3)."""
    direct = Direct(key="somebody else")
    said = redirection(GatewayId.of_host(SECOND))
    direct.first.engine._ike.attachment._responder = (gateway_factory(lambda sa: said),)
    direct.start()
    assert direct.up(FIRST, 30)
    assert direct.passes(direct.first)
    asked = [m for host, m in first_messages(direct.sent) if host == FIRST]
    assert [m.notify(NotifyType.REDIRECT_SUPPORTED) is not None for m in asked] == [True, False]


def test_in_ike_auth_the_other_addresses_of_its_name_are_left_alone():
    direct = Direct()
    direct.client.dns[FIRST] = [FIRST, "203.0.113.66"]
    said = redirection(GatewayId.of_host(SECOND))
    direct.first.engine._ike.attachment._responder = (gateway_factory(lambda sa: said),)
    direct.client.boot(0.0)
    direct.start()
    assert direct.up(SECOND)
    assert "203.0.113.66" not in {p.destination.host for p in direct.sent}


def test_in_ike_sa_init_the_first_attempt_ends_when_the_other_one_is_up():
    direct = Direct()
    direct.first.engine._ike.first_contact = lambda path: GatewayId.of_host(SECOND)
    direct.start()
    assert direct.up(SECOND)
    assert len(direct.client.engine._ike.sas()) == 1
    direct.sent.clear()
    direct.run(50)
    assert FIRST not in {p.destination.host for p in direct.sent}
    assert direct.passes(direct.second)


def test_the_first_one_is_back_after_the_second_has_gone():
    """The redirect is nothing to be kept: a lost tunnel is made with the configured gateway."""
    direct = Direct().start()
    assert direct.up(FIRST)
    direct.send_elsewhere(direct.first, SECOND)
    assert direct.up(SECOND, 2)
    direct.network.drops = lambda host, packet: packet.destination.host == SECOND
    assert direct.up(FIRST, 120)


def test_two_that_send_to_each_other():
    direct = Direct().start()
    assert direct.up(FIRST)
    there = {FIRST: direct.first, SECOND: direct.second}
    for _ in range(12):
        here = direct.path.partition(":")[0]
        other = SECOND if here == FIRST else FIRST
        direct.send_elsewhere(there[here], other)
        direct.run(2)
    assert direct.is_up()
    assert len(first_messages(direct.sent)) == 6  # the first, and five that were followed
    said = [n.text for n in direct.client.of(Notice)]
    assert len(said) == 1
    assert "redirected again and again" in said[0]
    assert direct.passes(there[direct.path.partition(":")[0]])


# -- forged --------------------------------------------------------------------------------------


class Forger:
    """Sees each first request on its way and answers first, redirecting to `host`."""

    def __init__(self, direct: Direct, host: str, exchange: int = ExchangeType.IKE_SA_INIT) -> None:
        self.direct, self.host, self.forged, self.exchange = direct, host, 0, exchange
        direct.network.drops = self

    def __call__(self, host: str, packet: Packet) -> bool:
        direct = self.direct
        if host == "client":
            direct.sent.append(packet)
        if host != "client" or packet.destination.host != FIRST:
            return False
        for _, asked in first_messages([packet], self.exchange):
            header = Header(
                initiator_spi=asked.header.initiator_spi,
                responder_spi=bytes(8),
                exchange=self.exchange,
                is_initiator=False,
                is_response=True,
                message_id=0,
            )
            nonce = asked.first(NoncePayload).data
            redirect = Redirect(GatewayId.of_host(self.host), nonce).encode()
            answer = encode_message(header, [NotifyPayload(NotifyType.REDIRECT, redirect)])
            path = Path(packet.source, packet.destination)
            for _ in range(50):
                direct.client.engine._ike.receive(path, answer, direct.network.now)
                self.forged += 1
            direct.client.engine._settle(direct.network.now)
        return False


@pytest.mark.parametrize("host", [SECOND, "198.51.100.77", "127.0.0.1"])
def test_a_forged_redirect_costs_one_attempt_and_changes_nothing(host):
    """THREATS 13, 14: by one who sees our nonce; 50 of them."""
    direct = Direct(key="somebody else")
    forger = Forger(direct, host)
    direct.start()
    started = direct.network.now
    assert direct.up(FIRST, 2)
    assert direct.network.now - started < 0.5  # no later than without
    assert len(direct.client.engine._ike.sas()) == 1  # and the other attempt is over
    assert forger.forged == 50
    direct.run(60)
    assert direct.path == f"{FIRST}:4500"
    assert direct.client.sas == 1
    assert direct.client.of(Notice) == []
    astray = [p for p in direct.sent if p.destination.host == host]
    assert len(astray) <= 6  # one attempt, of five seconds
    assert sum(len(p.data) for p in astray) < 6000


def test_a_forged_redirect_to_one_that_does_no_mediation():
    """It answers IKE_SA_INIT; the registration that stands meanwhile is none of its business."""
    direct = Direct(key="somebody else")
    mediator = Machine("mediator", FIRST, config=f'[mediate]\naddress = "{FIRST}"')
    key = key_text(mediator.keys.mediation.public)
    direct.first = mediator
    direct.client = Machine(
        "client", "192.0.2.9", config=f'[mediator.main]\naddress = "{FIRST}"\nkey = "{key}"\n'
    )
    Forger(direct, SECOND)
    slow = Link(delay=0.05)
    for machine, link in ((direct.client, QUICK), (mediator, slow), (direct.second, QUICK)):
        direct.network.host(
            machine.name, machine, (machine.hosts[0], direct.network.public), link=link
        )
    assert direct.run(2, lambda: direct.client.mediator().state == "registered")
    direct.client.events.clear()
    direct.run(60)
    assert SECOND in {p.destination.host for p in direct.sent}
    assert direct.client.of(MediatorChanged) == []
    assert direct.client.mediator().state == "registered"


def test_a_proof_is_repeated_without_the_ticket_that_a_forger_had_shown():
    """RFC 4478: whatever became of the attempts, what comes later is a proof of its own."""
    direct = Direct(key="somebody else")
    mediator = Machine("mediator", FIRST, config=f'[mediate]\naddress = "{FIRST}"')
    key = key_text(mediator.keys.mediation.public)
    direct.first = mediator
    direct.client = Machine(
        "client", "192.0.2.9", config=f'[mediator.main]\naddress = "{FIRST}"\nkey = "{key}"\n'
    )
    direct.start()
    assert direct.run(2, lambda: direct.client.mediator().state == "registered")
    direct.run(200)
    mediator.boot(direct.network.now)
    forger = Forger(direct, SECOND, ExchangeType.IKE_SESSION_RESUME)
    assert direct.run(60, lambda: mediator.sas == 1)
    direct.run(10)
    assert forger.forged > 0
    assert direct.client.mediator().resumed
    direct.sent.clear()
    direct.client.engine._registrations["main"].reauthenticate(direct.network.now)
    direct.client.engine._settle(direct.network.now)
    direct.run(5)
    assert first_messages(direct.sent, ExchangeType.IKE_SESSION_RESUME) == []
    assert [host for host, _ in first_messages(direct.sent)] == [FIRST]
    assert not direct.client.mediator().resumed


def test_an_answer_to_an_older_question_is_nobodys():
    """Two redirects one after the other: the addresses of the first name are not the second's."""
    direct = Direct().start()
    assert direct.up(FIRST)
    questions = []
    direct.client._resolve = lambda wanted, now: questions.append(wanted)  # type: ignore[method-assign]
    for name in ("a.example.org", "b.example.org"):
        direct.send_elsewhere(direct.first, name)
        direct.run(0.1)
    old, new = questions
    assert (old.host, new.host) == ("a.example.org", "b.example.org")
    own, port = Address.parse("192.0.2.9", 4500), 4500
    direct.client.engine.resolved(old.key, [Path(own, Address.parse("203.0.113.66", port))], 0.0)
    direct.client.engine.not_resolved(old.key, "There is no such name.", direct.network.now)
    direct.run(1)
    assert "203.0.113.66" not in {p.destination.host for p in direct.sent}
    now = direct.network.now
    direct.client.engine.resolved(new.key, [Path(own, Address.parse(SECOND, port))], now)
    assert direct.up(SECOND, 2)


def test_a_name_with_a_hundred_addresses():
    direct = Direct().start()
    direct.client.dns["gw2.example.org"] = [f"198.51.100.{n}" for n in range(1, 101)]
    assert direct.up(FIRST)
    direct.send_elsewhere(direct.first, "gw2.example.org")
    direct.run(300)
    tried = {p.destination.host for p in direct.sent if p.destination.host.startswith("198")}
    assert len(tried) == MAX_CANDIDATES
    assert direct.path == f"{FIRST}:4500"


def test_forged_redirects_while_the_gateway_is_off_are_bounded():
    """Five attempts in five minutes at most go to whom the forger names; then nothing is lost."""
    direct, victim = Direct(key="somebody else"), "198.51.100.77"
    forger = Forger(direct, victim)
    off = True
    direct.network.drops = lambda host, packet: (
        bool(forger(host, packet)) or (off and packet.destination.host == FIRST)
    )
    direct.start()
    direct.run(290)
    astray = [p for p in direct.sent if p.destination.host == victim]
    assert 5 <= len(astray) <= 5 * 6
    assert forger.forged > 200
    off = False
    assert direct.up(FIRST, 120)
