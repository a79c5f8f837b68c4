"""Pairing and expiry as values, and the JSON of the state file."""

from __future__ import annotations

import json

import pytest

from agent.crypto.auth import key_text
from agent.invitation import Enrolment, EnrolResult
from agent.peers import MAX_PEERS, KnownPeer, OpenInvitation, Peers
from tests.support.pair import key_of

ONE_TIME = key_text(key_of("one time").public)
NOW = 1_800_000_000.0


def enrolment(name: str = "laptop") -> Enrolment:
    return Enrolment(identity=key_of(name).public, mediation=key_of(name + " mediation").public)


def invitation(**changes) -> OpenInvitation:
    values = {
        "name": "laptop",
        "role": "operator",
        "identity": ONE_TIME,
        "mediation": key_text(key_of("one time mediation").public),
        "expires": int(NOW) + 3600,
        "lifetime": 3600,
    }
    return OpenInvitation(**{**values, **changes})


def known(name: str, key: str = "", **more) -> KnownPeer:
    key = key or name
    return KnownPeer(
        name=name,
        identity=key_text(key_of(key).public),
        mediation=key_text(key_of(key + " mediation").public),
        **more,
    )


def enrol(peers: Peers, who: str = "laptop", wall: float | None = NOW, **more):
    return peers.enrol(ONE_TIME, enrolment(who), wall, 7, **more)


def test_an_invitation_becomes_a_peer():
    peers = Peers((), (invitation(),))
    result, peer = enrol(peers)
    assert result is EnrolResult.ACCEPTED
    assert peer == known("laptop", role="operator", added=7, number=2)
    assert peers.peers == {"laptop": peer}
    assert peers.invitations[ONE_TIME].used_by == peer.identity


def test_the_same_keys_again_succeed_without_a_change():
    peers = Peers((), (invitation(),))
    first = enrol(peers)
    before = peers.to_json()
    assert enrol(peers) == first
    assert peers.to_json() == before


def test_other_keys_are_refused():
    peers = Peers((), (invitation(),))
    enrol(peers)
    before = peers.to_json()
    assert enrol(peers, "thief") == (EnrolResult.USED, None)
    assert peers.to_json() == before


def test_the_same_identity_with_another_mediation_key_is_refused():
    peers = Peers((), (invitation(),))
    enrol(peers)
    mixed = Enrolment(identity=key_of("laptop").public, mediation=key_of("thief").public)
    assert peers.enrol(ONE_TIME, mixed, NOW, 7) == (EnrolResult.USED, None)


def test_used_and_then_revoked_stays_refused():
    peers = Peers((), (invitation(),))
    enrol(peers)
    del peers.peers["laptop"]
    assert enrol(peers) == (EnrolResult.USED, None)
    assert peers.peers == {}


@pytest.mark.parametrize("wall", [NOW + 3600, NOW + 1e9])
def test_expired_by_the_wall_clock(wall):
    assert enrol(Peers((), (invitation(),)), wall=wall) == (EnrolResult.EXPIRED, None)


def test_one_second_before_it_expires():
    assert enrol(Peers((), (invitation(),)), wall=NOW + 3599)[0] is EnrolResult.ACCEPTED


def test_expired_by_running_time_where_there_is_no_clock():
    peers = Peers((), (invitation(),))
    assert not peers.expire(None, 1800)
    assert enrol(Peers((), tuple(peers.invitations.values())), wall=None)[0] is EnrolResult.ACCEPTED
    assert peers.expire(None, 1800)
    assert enrol(peers, wall=None) == (EnrolResult.EXPIRED, None)


def test_running_time_counts_also_with_a_clock_that_was_set_back():
    peers = Peers((), (invitation(served=3600),))
    assert enrol(peers, wall=NOW - 1e6) == (EnrolResult.EXPIRED, None)


def test_no_clock_and_an_invitation_of_long_ago():
    assert enrol(Peers((), (invitation(expires=1),)), wall=None)[0] is EnrolResult.ACCEPTED


def test_never_heard_of():
    assert enrol(Peers()) == (EnrolResult.EXPIRED, None)


def test_expire_forgets_only_what_is_over():
    other = invitation(identity=key_text(key_of("other").public), expires=int(NOW) + 9)
    peers = Peers((), (invitation(), other))
    assert not peers.expire(NOW)
    assert peers.expire(NOW + 10)
    assert list(peers.invitations) == [ONE_TIME]


def test_a_taken_name_gets_a_number():
    peers = Peers((known("laptop", "another"),), (invitation(),))
    assert enrol(peers, reserved={"laptop-2"})[1].name == "laptop-3"
    assert peers.peers["laptop"].identity == key_text(key_of("another").public)


def test_a_free_name_keeps_within_the_bound():
    long = "a" * 63
    assert len(Peers((known(long, "x"),)).free_name(long)) <= 63


def test_somebody_known_gets_the_new_role_and_keeps_the_rest():
    before = known(
        "old-name",
        "laptop",
        role="reader",
        grants=("tcp:22",),
        mediator="med.example.org",
        mediator_key=key_text(key_of("med").public),
        wanted=True,
        added=3,
    )
    peers = Peers((before,), (invitation(role="owner"),))
    result, peer = enrol(peers)
    assert result is EnrolResult.ACCEPTED
    assert (peer.name, peer.role, peer.grants) == ("old-name", "owner", ("tcp:22",))
    assert (peer.mediator, peer.wanted, peer.added) == ("med.example.org", True, 3)


def test_full():
    peers = Peers((), (invitation(),))
    filler = known("x")
    peers.peers = {str(i): filler for i in range(MAX_PEERS)}
    assert enrol(peers) == (EnrolResult.FULL, None)
    assert not peers.invitations[ONE_TIME].used_by


def test_json_round_trip():
    peers = Peers((known("a", grants=("tcp:22",), wanted=True),), (invitation(served=5),))
    again = Peers.from_json(json.loads(json.dumps(peers.to_json())))
    assert again.peers == peers.peers
    assert again.invitations == peers.invitations


def damaged(path: str, value: object) -> dict:
    state = json.loads(json.dumps(Peers((known("a"),), (invitation(),)).to_json()))
    kind, _, key = path.partition(".")
    if key:
        state[kind][0][key] = value
    else:
        state[kind] = value
    return state


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("peers", {"a": 1}),
        ("peers", None),
        ("peers", [7]),
        ("peers", ["text"]),
        ("peers.name", 7),
        ("peers.identity", "short"),
        ("peers.mediation", 7),
        ("peers.role", "king"),
        ("peers.role", None),
        ("peers.grants", [1]),
        ("peers.grants", 7),
        ("peers.wanted", "yes"),
        ("peers.added", 1.5),
        ("peers.mediator", "med"),  # without its key
        ("peers.colour", "red"),
        ("invitations", [[]]),
        ("invitations.served", "1"),
        ("invitations.identity", ""),
        ("invitations.expires", None),
    ],
)
def test_a_damaged_state_is_told(path, value):
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        Peers.from_json(damaged(path, value))


def test_a_key_that_is_missing():
    with pytest.raises(KeyError):
        Peers.from_json({"peers": []})


def test_numbers_stay_with_their_peers():
    """They are the place in the gateway's IPv4 network; a gateway of ours needs none."""
    there = {"mediator": "med", "mediator_key": key_text(key_of("med").public)}
    peers = Peers((known("a"), known("cabin", **there), known("b")), (invitation(),))
    assert enrol(peers)[1].number == 4
    stored = Peers.from_json(json.loads(json.dumps(peers.to_json())))
    del stored.peers["a"]
    after = Peers(tuple(stored.peers.values()), (invitation(),))
    assert enrol(after, "another")[1].number == 2
    assert {p.name: p.number for p in after.peers.values()} == {
        "cabin": 0,
        "b": 3,
        "laptop": 4,
        "laptop-2": 2,
    }


def test_a_gateway_that_comes_to_us_too_gets_a_number():
    there = {"mediator": "med", "mediator_key": key_text(key_of("med").public)}
    peers = Peers((known("cabin", "laptop", **there), known("a")), (invitation(),))
    assert enrol(peers)[1].number == 3
