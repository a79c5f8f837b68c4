"""Which suite a mediation connection gets: ML-KEM between our own ends, none with others.

RFC 9370, mediation.md §5 (strongSwan's mediation ends at IKE_INTERMEDIATE), THREATS 13.
"""

from __future__ import annotations

import pytest

from agent.mediation.registration import RegistrationExtension
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.message import decode_message, encode_message
from agent.wire.payloads import NotifyPayload
from tests.unit.engine.machines import Machine, Scene

PLAIN = "aes128gcm16-prfsha256-x25519"
HYBRID = PLAIN + "-ke1_mlkem768"
DATAGRAM = 1280  # octets of what leaves towards the mediator, IP and UDP headers left out

pytestmark = pytest.mark.mlkem


def suite(scene: Scene, machine: Machine | None = None) -> str:
    """As the client says it, after a look at what the server has."""
    told = (machine or scene.gateway).mediator(scene.now).suite
    assert told in suites_at_server(scene)
    return told


def suites_at_server(scene: Scene) -> list[str]:
    return [sa.suite.text for sa in scene.mediator.engine._ike.sas() if sa.established]


def one_at_server(scene: Scene):
    """The gateway's there."""
    sa = scene.gateway.engine._ike.sa(scene.gateway.engine._registrations["main"].ike_id)
    return next(s for s in scene.mediator.engine._ike.sas() if s.spis == sa.spis)


def says_so(payload) -> bool:
    return isinstance(payload, NotifyPayload) and payload.type == NotifyType.HG_MEDIATION


def without_ml_kem(machine: Machine) -> None:
    machine.engine._ike.supports_group = lambda group: group not in (36, 37)


def again(scene: Scene, machine: Machine) -> None:
    """It registers anew, after whatever was changed."""
    machine.boot(scene.now)


def test_between_our_own_ends_it_is_the_default():
    scene = Scene().registered()
    assert suite(scene) == suite(scene, scene.operator) == HYBRID


@pytest.mark.parametrize("whose", ["mediator", "gateway"])
def test_without_it_in_either_library_there_is_none(whose):
    scene = Scene()
    without_ml_kem(getattr(scene, whose))
    scene.registered()
    assert suite(scene) == PLAIN
    assert suite(scene, scene.operator) == (PLAIN if whose == "mediator" else HYBRID)


def test_what_is_configured_at_the_client_wins():
    scene = Scene()
    key = scene.mediator_key
    scene.gateway.config = Machine(
        "cabin",
        config=f'[mediator.main]\naddress = "203.0.113.10"\nkey = "{key}"\n'
        f'proposals = ["{PLAIN}"]\n',
    ).config
    again(scene, scene.gateway)
    scene.registered()
    assert suite(scene) == PLAIN


def test_what_is_configured_at_the_server_wins():
    scene = Scene()
    scene.mediator.config = Machine("m", config=f'[mediate]\nproposals = ["{PLAIN}"]\n').config
    again(scene, scene.mediator)
    scene.registered()
    assert suite(scene) == PLAIN


def test_who_does_not_say_that_it_takes_them_gets_none(monkeypatch):
    """As strongSwan 6 would: additional key exchanges in its proposal, and IKE_INTERMEDIATE."""
    built = RegistrationExtension.on_request_building

    def as_strongswan(self, sa, exchange, payloads):
        built(self, sa, exchange, payloads)
        payloads[:] = [p for p in payloads if not says_so(p)]

    monkeypatch.setattr(RegistrationExtension, "on_request_building", as_strongswan)
    scene = Scene().registered()
    gateway = scene.gateway.engine
    assert gateway._ike.sa(gateway._registrations["main"].ike_id).proposals[0].additional
    assert suite(scene) == PLAIN
    before = one_at_server(scene).spis
    scene.mediator.engine._ike.rekey_ike(one_at_server(scene).ike_id, scene.now)
    scene.run(5)
    assert one_at_server(scene).spis != before
    assert suites_at_server(scene) == [PLAIN, PLAIN]


def test_what_is_stripped_on_the_way_breaks_the_proof():
    """THREATS 13: both first messages are under AUTH, so nobody is registered with less."""
    scene = Scene()
    receive = scene.mediator.receive

    def stripped(path, data, now):
        if data[22:23] == bytes((ExchangeType.IKE_SA_INIT,)):
            message = decode_message(data[4:])
            kept = [p for p in message.payloads if not says_so(p)]
            assert len(kept) == len(message.payloads) - 1
            data = data[:4] + encode_message(message.header, kept)
        receive(path, data, now)

    scene.mediator.receive = stripped
    scene.run(10)
    assert scene.gateway.mediator(scene.now).state != "registered"
    scene.mediator.receive = receive
    assert scene.run(60, lambda: len(suites_at_server(scene)) == 2)
    scene.run(1)
    assert suite(scene) == HYBRID


def test_each_datagram_on_the_way_to_the_mediator_fits():
    """The key of ML-KEM is cut (RFC 7383): a fragment that is too large would be lost silently."""
    scene, sizes = Scene(), {}

    def note(host, packet):
        sizes.setdefault(packet.data[22] if len(packet.data) > 22 else 0, []).append(
            len(packet.data)
        )

    scene.network.drops = note
    scene.registered()
    assert len(sizes[ExchangeType.IKE_INTERMEDIATE]) >= 3 * 2  # two fragments there, one back
    assert max(max(of) for of in sizes.values()) <= DATAGRAM


@pytest.mark.parametrize("whose", ["mediator", "gateway"])
def test_rekeyed_by_either_side_it_is_there_again(whose):
    """With IKE_FOLLOWUP_KE (RFC 9370 §2.2.4)."""
    scene, exchanges = Scene().registered(), []
    gateway = scene.gateway.engine
    ike_id = gateway._registrations["main"].ike_id
    before = gateway._ike.sa(ike_id).spis
    engine = getattr(scene, whose).engine
    scene.network.drops = lambda host, packet: exchanges.append(packet.data[22:23])
    sa = one_at_server(scene) if whose == "mediator" else gateway._ike.sa(ike_id)
    engine._ike.rekey_ike(sa.ike_id, scene.now)
    engine._settle(scene.now)
    scene.run(2)
    assert gateway._ike.sa(ike_id).spis != before
    assert bytes((ExchangeType.IKE_FOLLOWUP_KE,)) in exchanges
    assert suite(scene) == HYBRID
    assert scene.gateway.mediator(scene.now).state == "registered"


def test_a_ticket_goes_on_with_what_was_negotiated():
    """RFC 5723 §5: no key exchange at all, under keys that came of both."""
    scene = Scene().registered()
    scene.run(200)
    scene.mediator.boot(scene.now)
    assert scene.run(60, lambda: len(suites_at_server(scene)) == 2)
    scene.run(1)
    assert scene.gateway.mediator(scene.now).resumed
    assert suite(scene) == HYBRID


def test_nothing_of_the_handshake_stays_at_the_server():
    """It holds ten thousand of them."""
    scene = Scene().registered()
    scene.run(60)
    for sa in scene.mediator.engine._ike.sas():
        assert sa.handshake is None
        assert sa.fragments.request is None
        assert sa.fragments.response is None
        assert len(b"".join(sa.incoming.response)) < 500
