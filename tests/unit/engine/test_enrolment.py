"""Pairing by invitation, in all its outcomes, through two NATs."""

from __future__ import annotations

import pytest

from agent import profiles
from agent.crypto.auth import key_text
from agent.engine.events import Enrolled, PeerChanged
from agent.invitation import EnrolResult, Invitation, encode_enrolment
from agent.wire.codes import NotifyType
from tests.support.network import Link
from tests.support.pair import key_of
from tests.unit.engine.machines import SERVER, WALL, Machine, Scene


def begin(machine: Machine, invitation: Invitation, now: float) -> str:
    """What `accept` begins with; the name of the one-time connection."""
    mediator, peer = profiles.enrolment(invitation)
    machine.extra.append((mediator, peer))
    machine.refresh(now)
    return peer.name


def hand_over(
    scene: Scene,
    invitation: Invitation,
    machine: Machine | None = None,
    data: bytes | None = None,
    seconds: float = 30,
) -> bytes | None:
    """The whole of `accept`; the gateway's answer, None if it could not be reached."""
    machine = machine or scene.operator
    name = begin(machine, invitation, scene.now)
    try:
        if not scene.run(
            seconds, lambda: any(e.state == "up" for e in machine.of(PeerChanged, name))
        ):
            return None
        if data is None:
            data = encode_enrolment(
                machine.keys.identity,
                machine.keys.mediation,
                invitation.identity.public,
                invitation.gateway_identity,
            )
        machine.engine.send_enrolment(name, data, scene.now)
        assert scene.run(60, lambda: bool(machine.of(Enrolled, name)))
        answer = machine.of(Enrolled, name)[-1].answer
        assert isinstance(answer, bytes)
        return answer
    finally:
        machine.extra.clear()
        machine.refresh(scene.now)
        machine.events.clear()
        scene.gateway.refresh(scene.now)
        scene.run(1)


def invited() -> tuple[Scene, Invitation]:
    scene = Scene(paired=False)
    invitation = scene.gateway.invite("laptop")
    scene.gateway.refresh(scene.now)
    assert scene.run(10, lambda: scene.gateway.mediator().state == "registered")
    return scene, invitation


def test_an_invitation_pairs_and_the_tunnel_follows():
    scene, invitation = invited()
    assert hand_over(scene, invitation) == b"\0operator"
    paired = scene.gateway.peers.peers["laptop"]
    assert paired.identity == key_text(scene.operator.keys.identity.public)
    assert paired.mediation == key_text(scene.operator.keys.mediation.public)
    scene.operator.learn(
        scene.gateway.known("cabin", mediator=SERVER, mediator_key=scene.mediator_key)
    )
    scene.operator.refresh(scene.now)
    scene.connected()
    assert scene.echoes()
    assert scene.gateway.sas == 2  # nothing of the one-time connection is left


def test_the_one_time_connection_carries_no_packets():
    scene, invitation = invited()
    name = begin(scene.operator, invitation, scene.now)
    assert scene.run(30, lambda: any(e.state == "up" for e in scene.operator.of(PeerChanged, name)))
    assert scene.operator.engine._connections[name].children == []
    assert [p.name for p in scene.gateway.engine.status(scene.now).peers] == []


def test_the_answer_was_lost_and_the_same_machine_tries_again():
    scene, invitation = invited()
    assert hand_over(scene, invitation) == b"\0operator"
    assert hand_over(scene, invitation) == b"\0operator"
    assert list(scene.gateway.peers.peers) == ["laptop"]


def test_another_machine_with_the_same_line_is_refused():
    scene, invitation = invited()
    assert hand_over(scene, invitation) == b"\0operator"
    thief = Machine("thief", "192.0.2.66")
    scene.network.host("thief", thief, ("192.0.2.66", scene.network.public), link=Link(delay=0.01))
    assert hand_over(scene, invitation, thief) == bytes((EnrolResult.USED,))
    paired = scene.gateway.peers.peers["laptop"]
    assert paired.identity == key_text(scene.operator.keys.identity.public)


def test_it_expired_after_the_connection_was_made():
    scene, invitation = invited()
    scene.gateway.wall = WALL + 4000
    assert hand_over(scene, invitation) == bytes((EnrolResult.EXPIRED,))
    assert scene.gateway.peers.peers == {}


def test_it_expired_and_was_forgotten():
    scene, invitation = invited()
    assert scene.gateway.peers.expire(WALL + 4000)
    scene.gateway.refresh(scene.now)
    scene.run(1)
    assert hand_over(scene, invitation, seconds=20) is None


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 193, b"\1" * 193, b"\1" * 5000], ids=["none", "zeros", "ones", "long"]
)
def test_nonsense_is_refused_and_the_invitation_stays(data):
    scene, invitation = invited()
    assert hand_over(scene, invitation, data=data) == bytes((EnrolResult.INVALID,))
    assert hand_over(scene, invitation) == b"\0operator"


def test_keys_of_somebody_else_are_refused():
    scene, invitation = invited()
    stolen = bytearray(
        encode_enrolment(
            scene.operator.keys.identity,
            scene.operator.keys.mediation,
            invitation.identity.public,
            invitation.gateway_identity,
        )
    )
    stolen[1:33] = key_of("victim").public
    assert hand_over(scene, invitation, data=bytes(stolen)) == bytes((EnrolResult.INVALID,))


def test_a_paired_peer_may_not_enrol():
    """N(HG_ENROLL) is for the identity of an invitation only."""
    scene = Scene().connected()
    scene.operator.engine.send_enrolment("cabin", b"x" * 193, scene.now)
    assert scene.run(10, lambda: bool(scene.operator.of(Enrolled)))
    assert scene.operator.of(Enrolled)[0].answer is None
    assert scene.gateway.stored == 0
    assert NotifyType.HG_ENROLLED


def test_enrolling_without_a_connection_is_answered_at_once():
    scene, invitation = invited()
    name = begin(scene.operator, invitation, scene.now)
    scene.operator.engine.send_enrolment(name, b"", scene.now)
    scene.operator.drain(scene.now)
    assert scene.operator.of(Enrolled)[0].answer is None


def test_a_stranger_with_a_seed_of_its_own_is_not_relayed():
    scene, invitation = invited()
    from dataclasses import replace

    guessed = replace(invitation, seed=b"g" * 16)
    assert hand_over(scene, guessed, seconds=20) is None
    assert not scene.gateway.of(PeerChanged, profiles.INVITATION)
