"""Registering, calling, being called, and everything that goes wrong in between."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agent.datagram import Path
from agent.ike.events import CloseReason, IkeSaClosed
from agent.ike.pad import KeyAuth, Peer
from agent.ike.table import Ike
from agent.mediation.events import (
    ConnectFailed,
    ConnectFailure,
    ConnectProgress,
    ConnectRequested,
    ConnectStage,
    PathFound,
    PeerGone,
    PeerOnline,
    PeerRegistered,
    Registered,
    RegistrationLoss,
    RegistrationLost,
)
from agent.mediation.identity import accept_hash
from agent.mediation.settings import MediationSettings
from agent.wire.codes import ExchangeType
from agent.wire.mediation import is_check
from agent.wire.payloads import Identification
from tests.sim.scenes import PORT_RESTRICTED, Scene, scene
from tests.sim.stations import Machine, Mediator, registered
from tests.support.network import Network, Packet
from tests.support.pair import key_of, seeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.ike.extension import Extension


def exchange(packet: Packet) -> int:
    """The exchange type of a datagram, 0 for a check."""
    return 0 if is_check(packet.data) else packet.data[18]


def is_response(packet: Packet) -> bool:
    """Whether the R flag is set."""
    return bool(packet.data[19] & 0x20)


def first(
    condition: Callable[[str, Packet], bool], count: int = 1
) -> Callable[[str, Packet], bool]:
    """Lose the first `count` datagrams that match."""
    left = count

    def drops(name: str, packet: Packet) -> bool:
        nonlocal left
        if left and condition(name, packet):
            left -= 1
            return True
        return False

    return drops


# -- registering ---------------------------------------------------------------------------------


def test_registering_teaches_the_reflexive_endpoint() -> None:
    s = scene()
    for machine, ip in ((s.a, "198.51.100.1"), (s.b, "198.51.100.2")):
        (event,) = machine.of(Registered)
        assert event.reflexive is not None
        assert event.reflexive.host == ip
        assert machine.client.reflexive == event.reflexive
    assert len(s.mediator.server) == 2
    assert {e.identity for e in s.mediator.of(PeerRegistered)} == {s.a.pseudonym, s.b.pseudonym}


def test_a_server_that_does_no_mediation_is_said_so() -> None:
    s = scene(register=False)
    s.mediator.ike = Ike(pad=s.mediator, random=seeded("x"))
    s.a.register(s.mediator, s.now)
    s.network.run(5)
    (event,) = s.a.of(RegistrationLost)
    assert event.reason is RegistrationLoss.NO_MEDIATOR
    assert not s.a.has(Registered)
    assert not s.a.client.registered


def test_the_registration_ends_with_its_ike_sa() -> None:
    s = scene()
    (event,) = s.a.of(Registered)
    s.a.ike.close(event.ike_id, s.now)
    s.network.run(1)
    assert s.a.of(RegistrationLost)[0].reason is RegistrationLoss.CLOSED
    assert [e.identity for e in s.mediator.of(PeerGone)] == [s.a.pseudonym]
    assert len(s.mediator.server) == 1
    s.a.call(s.b, s.now)
    s.network.run(0.1)
    assert s.a.of(ConnectFailed)[0].reason is ConnectFailure.NOT_REGISTERED


@pytest.mark.parametrize("by", ["peer", "server"])
def test_the_registration_survives_rekeying(by: str) -> None:
    s = scene()
    side, ike_id = (s.a, 1) if by == "peer" else (s.mediator, 1)
    side.ike.rekey_ike(ike_id, s.now)
    s.network.run(5)
    assert s.a.client.registered
    assert len(s.mediator.server) == 2
    s.connect()
    assert s.is_connected


def test_a_newer_registration_replaces_the_older() -> None:
    s = scene()
    s.a.register(s.mediator, s.now)
    s.network.run(3)
    assert len(s.mediator.server) == 2
    assert len(s.a.of(Registered)) == 2
    assert s.a.client.registered
    s.connect()
    assert s.is_connected


def test_two_machines_with_one_identity_do_not_both_stay() -> None:
    s = scene()
    clone = Machine("a", "192.168.2.77")
    s.network.host("clone", clone, ("192.168.2.77", s.nat_b.inside))
    clone.register(s.mediator, s.now)
    s.network.run(120)  # INITIAL_CONTACT is silent: a finds out by its next probe
    assert clone.client.registered
    assert not s.a.client.registered
    assert s.a.of(RegistrationLost)
    assert len(s.mediator.server) == 2


def test_a_restarted_mediator_is_noticed_and_used_again() -> None:
    s = scene()
    s.mediator.start()
    assert s.network.run(120, lambda: s.a.has(RegistrationLost) and s.b.has(RegistrationLost))
    registered(s.network, s.mediator, s.a, s.b)
    s.connect()
    assert s.is_connected


def test_a_stolen_pseudonym_is_not_registered() -> None:
    s = scene(register=False)
    s.a.pseudonym = s.b.pseudonym  # claims b, proves a
    s.a.register(s.mediator, s.now)
    s.network.run(5)
    assert len(s.mediator.server) == 0
    assert s.a.of(IkeSaClosed)[0].reason is CloseReason.AUTHENTICATION_FAILED


# -- nobody there --------------------------------------------------------------------------------


def failure(s: Scene, called: Identification) -> tuple[ConnectFailed, int, int]:
    """What calling `called` ends in: the event, and how many datagrams and octets it took."""
    before = len(s.network.trace)
    s.a.client.connect(called, s.now)
    s.network.run(3)
    seen = [p for _, name, p in s.network.trace[before:] if name in ("a", "mediator")]
    (event,) = s.a.of(ConnectFailed)
    s.a.events.clear()
    return event, len(seen), sum(len(p.data) for p in seen)


def test_unknown_offline_and_not_allowed_look_the_same() -> None:
    s = scene()
    offline = Machine("offline", "192.168.2.50")
    s.network.host("offline", offline, ("192.168.2.50", s.nat_b.inside))
    offline.befriend(s.a)
    registered(s.network, s.mediator, offline)
    offline.ike.close(offline.of(Registered)[0].ike_id, s.now)
    s.network.run(1)
    closed = Machine("closed", "192.168.2.51")
    s.network.host("closed", closed, ("192.168.2.51", s.nat_b.inside))
    closed.befriend(s.b)  # but not a
    registered(s.network, s.mediator, closed)
    unknown = Identification.key_id(key_of("nobody").public)
    s.a.events.clear()
    outcomes = [failure(s, who) for who in (unknown, offline.pseudonym, closed.pseudonym)]
    assert {o[0].reason for o in outcomes} == {ConnectFailure.NOT_REACHABLE}
    assert {o[0].waiting for o in outcomes} == {True}
    assert len({o[1:] for o in outcomes}) == 1
    assert not closed.has(ConnectRequested)


def test_calling_oneself_is_not_possible() -> None:
    s = scene()
    s.a.events.clear()
    assert failure(s, s.a.pseudonym)[0].reason is ConnectFailure.NOT_REACHABLE


def test_callback_when_the_peer_comes() -> None:
    s = scene(register=False)
    registered(s.network, s.mediator, s.a)
    s.a.call(s.b, s.now)
    s.network.run(2)
    assert s.a.of(ConnectFailed)[0].waiting
    s.a.events.clear()
    registered(s.network, s.mediator, s.b)
    (event,) = s.a.of(PeerOnline)
    assert event.pseudonym == s.b.pseudonym
    s.connect()
    assert s.is_connected
    # Once only: a second registration calls nobody back.
    s.b.register(s.mediator, s.now)
    s.network.run(3)
    assert len(s.a.of(PeerOnline)) == 1


def test_callback_when_the_peer_begins_to_accept() -> None:
    s = scene(befriend=False)
    s.a.befriend(s.b, now=s.now)
    s.network.run(1)
    s.a.call(s.b, s.now)
    s.network.run(2)
    assert s.a.of(ConnectFailed)[0].reason is ConnectFailure.NOT_REACHABLE
    assert not s.a.has(PeerOnline)
    s.b.friends.append(s.a)
    s.b.client.set_accepts(frozenset({accept_hash(s.a.pseudonym)}), s.now)
    s.network.run(2)
    assert s.a.has(PeerOnline)
    s.a.events = [e for e in s.a.events if not isinstance(e, ConnectFailed)]
    s.connect()
    assert s.is_connected


def test_a_revoked_peer_is_not_relayed_any_more() -> None:
    s = scene()
    s.b.client.set_accepts(frozenset(), s.now)
    s.network.run(1)
    s.a.events.clear()
    assert failure(s, s.b.pseudonym)[0].reason is ConnectFailure.NOT_REACHABLE
    assert not s.b.has(ConnectRequested)


def test_a_long_list_of_accepted_peers_arrives_in_datagrams_that_fit() -> None:
    s = scene(register=False, befriend=False)
    hashes = frozenset(seeded("hashes")(16) for _ in range(300))
    s.b.client.set_accepts(hashes | {accept_hash(s.a.pseudonym)}, s.now)
    s.b.friends.append(s.a)
    s.a.friends.append(s.b)
    registered(s.network, s.mediator, s.a, s.b)
    s.network.run(5)
    assert max(len(p.data) for _, _, p in s.network.trace) < 1200
    s.connect()
    assert s.is_connected


def test_peers_without_a_list_are_decided_by_the_servers_configuration() -> None:
    pairs: list[tuple[Identification, Identification]] = []

    def allowed(caller: Identification, called: Identification) -> bool:
        pairs.append((caller, called))
        return True

    s = scene(mediator=Mediator(allowed=allowed))
    called = s.mediator.server._online[s.b.pseudonym.key]
    called.accepts = None  # strongSwan never says
    s.connect()
    assert s.is_connected
    assert pairs == [(s.a.pseudonym, s.b.pseudonym)]


# -- refusals, losses, ends ----------------------------------------------------------------------


def test_a_refusal_is_told_to_the_caller() -> None:
    s = scene()
    s.b.client.calls._may_answer = lambda pseudonym, connect_id: False
    s.connect()
    assert s.a.of(ConnectFailed)[0].reason is ConnectFailure.REFUSED
    assert not s.b.has(ConnectRequested)


def test_the_called_peer_checks_again_whom_it_accepts() -> None:
    """A mediator that relays what it should not."""
    s = scene()
    s.b.friends.clear()
    s.connect()
    assert s.a.of(ConnectFailed)[0].reason is ConnectFailure.REFUSED


def test_a_caller_that_went_away_is_told_to_the_called() -> None:
    s = scene()
    s.a.call(s.b, s.now)
    assert s.network.run(1, lambda: s.b.has(ConnectRequested))
    s.mediator.ike.close(1, s.now, silent=True)  # the server loses a between question and answer
    s.network.run(2)
    assert s.b.of(ConnectFailed)[0].reason is ConnectFailure.NOT_REACHABLE


def me_connect(response: bool, sender: str) -> Callable[[str, Packet], bool]:
    """ME_CONNECT messages of one sender."""
    return lambda name, p: (
        name == sender and exchange(p) == ExchangeType.ME_CONNECT and is_response(p) == response
    )


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("sender", ["a", "b", "mediator"])
@pytest.mark.parametrize("response", [False, True])
def test_a_lost_me_connect_message_does_no_harm(response: bool, sender: str, count: int) -> None:
    s = scene()
    s.network.drops = first(me_connect(response, sender), count)
    s.connect()
    assert s.is_connected
    assert 1 <= s.network.lost <= count


def test_the_answer_may_overtake_the_response() -> None:
    """The mediator's response to the question is lost for long, the answer gets through."""
    s = scene()
    s.network.drops = lambda name, p: (
        name == "mediator"
        and exchange(p) == ExchangeType.ME_CONNECT
        and is_response(p)
        and p.destination.host == "198.51.100.1"
    )
    assert s.connect() < 0.5
    stages = [e.stage for e in s.a.of(ConnectProgress)]
    assert stages == [ConnectStage.ASKED, ConnectStage.CHECKING]


def test_a_peer_that_never_answers_ends_in_a_timeout() -> None:
    s = scene()
    s.network.drops = lambda name, p: name == "b" and exchange(p) == ExchangeType.ME_CONNECT
    took = s.connect()
    assert 15 < took < 25
    assert s.a.of(ConnectFailed)[0].reason is ConnectFailure.TIMEOUT


def test_a_mediator_that_went_silent_is_told_from_a_silent_peer() -> None:
    s = scene()
    s.network.drops = lambda name, p: name == "mediator"
    took = s.connect()
    assert 5 < took < 10
    assert s.a.of(ConnectFailed)[0].reason is ConnectFailure.MEDIATOR_SILENT


def test_a_handshake_that_never_ends_is_ended() -> None:
    """The path is open for checks, and for nothing else."""
    s = scene()
    s.network.drops = lambda name, p: name == "a" and exchange(p) == ExchangeType.IKE_SA_INIT
    took = s.connect(120)
    assert took < 60
    assert s.a.of(ConnectFailed)
    s.network.run(60)
    assert s.b.of(ConnectFailed)[0].reason is ConnectFailure.TIMEOUT


def test_abandoning_is_silent() -> None:
    s = scene()
    s.a.client.abandon(s.a.call(s.b, s.now))
    s.network.run(30)
    assert not s.a.has(ConnectFailed)
    assert not s.a.has(PathFound)
    assert s.a.client.next_timeout() is None


def test_asking_twice_is_one_attempt() -> None:
    s = scene()
    assert s.a.call(s.b, s.now) == s.a.call(s.b, s.now)
    s.network.run(2)
    assert s.is_connected


def test_a_new_attempt_replaces_one_that_was_forgotten() -> None:
    """The caller restarted: same pseudonym, another connect ID."""
    s = scene()
    s.network.drops = lambda name, p: is_check(p.data)
    old = s.a.call(s.b, s.now)
    s.network.run(1)
    s.a.client.abandon(old)
    s.network.drops = None
    s.connect()
    assert s.is_connected
    (event,) = s.b.of(ConnectFailed)
    assert event.connect_id == old
    assert event.reason is ConnectFailure.REPLACED
    assert event.replaced_by is not None


# -- both at once --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("head_start", [0.0, 0.001, 0.02, 0.0425, 0.07, 0.1, 0.2, 0.3, 0.5])
@pytest.mark.parametrize("first_caller", ["a", "b"])
def test_both_connecting_at_once_end_in_one_ike_sa(
    first_caller: str, head_start: float, seed: int
) -> None:
    s = scene(seed=seed)
    one, other = (s.a, s.b) if first_caller == "a" else (s.b, s.a)
    one.call(other, s.now)
    s.network.run(head_start)
    if not other.tunnels():
        other.call(one, s.now)
    s.network.run(10)
    assert len(s.a.tunnels()) == 1
    assert len(s.b.tunnels()) == 1
    assert s.a.tunnels()[0].spis == s.b.tunnels()[0].spis
    assert not s.a.client.calls._attempts
    assert not s.b.client.calls._attempts
    for machine in (s.a, s.b):
        for event in machine.of(ConnectFailed):
            assert event.reason in (ConnectFailure.REPLACED, ConnectFailure.REFUSED)
            if event.reason is ConnectFailure.REPLACED:
                assert event.replaced_by is not None


# -- a mediator or a peer that lies --------------------------------------------------------------


class Impostor(Machine):
    """Holds b's mediation key, but not its identity key."""

    def peer_for(self, friend: object) -> Peer:
        peer = super().peer_for(friend)  # type: ignore[arg-type]
        return replace(peer, local_auth=key_of("somebody else"))


def test_an_impostor_at_the_other_end_fails_the_authentication() -> None:
    network = Network()
    mediator = Mediator()
    network.host("mediator", mediator, ("203.0.113.10", network.public))
    nats = [network.nat("198.51.100.1"), network.nat("198.51.100.2")]
    a, b = Machine("a", "192.168.1.10"), Impostor("b", "192.168.2.10")
    a.befriend(b)
    b.befriend(a)
    network.host("a", a, ("192.168.1.10", nats[0].inside))
    network.host("b", b, ("192.168.2.10", nats[1].inside))
    registered(network, mediator, a, b)
    a.call(b, network.now)
    assert network.run(30, lambda: a.has(ConnectFailed))
    assert not a.tunnels()
    closed = [e for e in a.of(IkeSaClosed) if e.peer == "b"]
    assert closed[0].reason is CloseReason.AUTHENTICATION_FAILED
    assert any(e.stage is ConnectStage.RETRYING for e in a.of(ConnectProgress))


def test_the_next_candidate_is_tried_after_a_failed_handshake() -> None:
    """Two paths are open; on the better one somebody else answers IKE with nonsense."""
    network = Network()
    mediator = Mediator()
    network.host("mediator", mediator, ("203.0.113.10", network.public))
    nat = network.nat("198.51.100.1", hairpins=True, filtering=PORT_RESTRICTED[0])
    a, b = Machine("a", "192.168.1.10"), Machine("b", "192.168.1.20")
    a.befriend(b)
    b.befriend(a)
    network.host("a", a, ("192.168.1.10", nat.inside))
    network.host("b", b, ("192.168.1.20", nat.inside))
    registered(network, mediator, a, b)
    # On the LAN path IKE_SA_INIT gets no answer; the checks do.
    network.drops = lambda name, p: (
        name == "b"
        and exchange(p) == ExchangeType.IKE_SA_INIT
        and p.destination.host == "192.168.1.10"
    )
    a.call(b, network.now)
    network.run(2)
    assert len(a.of(PathFound)) == 1
    assert network.run(60, lambda: bool(a.tunnels()))
    paths = [e.path.remote.host for e in a.of(PathFound)]
    assert paths == ["192.168.1.20", "198.51.100.1"]


def test_an_identity_that_does_not_belong_to_the_pseudonym_is_refused() -> None:
    """a and c are both friends of b; c answers IKE with an attempt of a."""
    s = scene()
    c = Machine("c", "192.168.1.30")
    s.b.befriend(c, now=s.now)
    c.befriend(s.b)
    s.network.host("c", c, ("192.168.1.30", s.nat_a.inside))
    connect_id = s.a.call(s.b, s.now)
    assert s.network.run(1, lambda: s.b.has(PathFound))
    path = s.a.of(PathFound)[0].path if s.a.has(PathFound) else None
    if path is None:
        assert s.network.run(1, lambda: s.a.has(PathFound))
        path = s.a.of(PathFound)[0].path
    c.ike.connect(
        c.peer_for(s.b),
        Path(c.hosts[0], path.remote),
        s.now,
        (s.a.client.connect_extension(connect_id),),
    )
    s.network.run(5)
    assert s.is_connected
    assert not c.tunnels()


def test_relaying_is_only_for_questions_that_were_asked() -> None:
    """b sends an answer without a question: a never hears of it."""
    s = scene()
    attempt_id = b"\x01" * 8
    from agent.mediation.messages import ConnectMessage

    answers: list[object] = []
    content = ConnectMessage(
        peer=s.a.pseudonym,
        connect_id=attempt_id,
        key=bytes(16),
        is_response=True,
        endpoints=tuple(e.offered for e in s.b.client.offers()),
    )
    s.b.client.request(content, lambda message, now: answers.append(message), s.now)
    s.network.run(2)
    (message,) = answers
    assert message is not None
    assert message.payloads[0].type == 8192  # type: ignore[attr-defined]
    assert s.mediator.server.counters["answered"] == 0


def test_me_connect_is_limited_per_caller() -> None:
    s = scene(mediator=Mediator(settings=MediationSettings(connect_burst=10, connect_rate=0.5)))
    for _ in range(40):
        s.a.client.abandon(s.a.call(s.b, s.now))
    s.network.run(10)
    assert s.mediator.server.counters["relayed"] <= 16
    assert s.mediator.server.counters["failed"] >= 24


def test_callbacks_are_limited_per_caller() -> None:
    s = scene()
    limit = s.mediator.settings.max_callbacks
    for index in range(60):
        s.a.client.connect(Identification.key_id(key_of(f"ghost {index}").public), s.now)
        s.network.run(3)
    assert len(s.mediator.server._wanted) <= limit
    s.mediator.ike.close(1, s.now)
    assert not s.mediator.server._wanted


def test_a_responder_without_extension_context_is_still_an_ordinary_one() -> None:
    """An IKE_SA_INIT whose connect ID names nothing is treated as any other."""
    s = scene()
    s.connect()
    extension: Extension = s.a.client.connect_extension(b"nothing at all")
    tunnel = s.a.tunnels()[0]
    s.a.ike.connect(s.a.peer_for(s.b), tunnel.path, s.now, (extension,))
    s.network.run(3)
    assert s.a.tunnels()
    assert s.b.tunnels()


def test_pinned_key_type_is_what_the_mediator_proves() -> None:
    s = scene(register=False)
    wrong = Mediator("another")
    peer_key = KeyAuth(public=wrong.mediation_key.public)
    assert peer_key.public != s.mediator.mediation_key.public
    s.mediator.mediation_key = wrong.mediation_key  # somebody else at the same address
    real = Mediator()
    s.a.register(real, s.now)
    s.network.run(5)
    assert not s.a.client.registered
