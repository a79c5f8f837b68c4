"""Configuration, keys and learnt peers become what the engine is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent import profiles
from agent.config import load_config
from agent.crypto.auth import inner_address, key_text
from agent.ike.pad import KeyAuth, PskAuth
from agent.invitation import Invitation
from agent.ipsec import ALL
from agent.peers import KnownPeer, OpenInvitation, Peers
from agent.wire.codes import CfgAttributeType
from agent.wire.payloads import Identification
from tests.support.pair import key_of

KEYS = profiles.Keys(identity=key_of("me"), mediation=key_of("mediation me"))
KEY = key_text(key_of("med").public)
OTHER = key_text(key_of("other med").public)
PSK = "correct horse battery"
EMPTY = load_config("")


def known(name: str, **more) -> KnownPeer:
    return KnownPeer(
        name=name,
        identity=key_text(key_of(name).public),
        mediation=key_text(key_of("mediation " + name).public),
        **more,
    )


def at(address: str, key: str = KEY) -> dict[str, str]:
    return {"mediator": address, "mediator_key": key}


def test_no_secret_in_a_repr():
    assert "SigningKey" not in repr(KEYS)
    config = load_config(f'[peer.x]\nid = "x"\npsk = "{PSK}"\nassign = "10.3.0.1"')
    assert PSK not in repr(profiles.peers(config, KEYS, Peers()))


def test_registrations_of_pairings_are_shared_and_named_by_address():
    peers = Peers((known("a", **at("med")), known("b", **at("med")), known("c", **at("med2:9"))))
    entries = profiles.mediators(EMPTY, KEYS, peers)
    assert [(e.name, e.host, e.port) for e in entries] == [
        ("med", "med", 4500),
        ("med2:9", "med2", 9),
    ]
    assert entries[0].peer.local_id == Identification.key_id(KEYS.mediation.public)
    assert entries[0].peer.remote_auth == KeyAuth(public=key_of("med").public)


def test_a_configured_mediator_is_used_for_pairings_too():
    config = load_config(f'[mediator.main]\naddress = "med"\nkey = "{KEY}"')
    peers = Peers((known("a", **at("med.example.org")),))
    assert [e.name for e in profiles.mediators(config, KEYS, peers)] == ["main"]
    assert profiles.peers(config, KEYS, peers)[0].mediator == "main"


def test_a_mediator_with_a_new_key_is_another_one():
    peers = Peers((known("a", **at("med")), known("b", **at("med", OTHER))))
    entries = profiles.mediators(EMPTY, KEYS, peers)
    assert [e.name for e in entries] == ["med", f"med#{OTHER}"]
    assert [p.mediator for p in profiles.peers(EMPTY, KEYS, peers)] == ["med", f"med#{OTHER}"]
    assert entries[1].peer.remote_auth == KeyAuth(public=key_of("other med").public)


def test_an_address_that_is_also_a_configured_name():
    config = load_config(f'[mediator.med]\naddress = "elsewhere"\nkey = "{OTHER}"')
    entries = profiles.mediators(config, KEYS, Peers((known("a", **at("med")),)))
    assert [e.name for e in entries] == ["med", f"med#{KEY}"]


@pytest.mark.parametrize(
    ("more", "local", "remote"),
    [
        (f'key = "{KEY}"\nlocal_id = "a@b"', "SigningKey", KeyAuth),
        (f'id = "ms"\nlocal_id = "a@b"\npsk = "{PSK}"', PskAuth, PskAuth),
    ],
)
def test_credentials_of_a_strongswan_mediator(more, local, remote):
    entry = profiles.mediators(load_config(f'[mediator.m]\naddress = "m"\n{more}'), KEYS, Peers())[
        0
    ]
    if local == "SigningKey":
        assert entry.peer.local_auth is KEYS.mediation
    else:
        assert entry.peer.local_auth == PskAuth(secret=PSK.encode())
    assert isinstance(entry.peer.remote_auth, remote)
    assert entry.peer.local_id == Identification.parse("a@b")


def test_who_was_invited_registers_at_a_server_of_our_kind():
    other = f'[mediator.a]\naddress = "a"\nid = "ms"\nkey_sha256 = "{"ab" * 32}"\n'
    config = load_config(f'{other}[mediator.main]\naddress = "med"\nkey = "{KEY}"')
    assert [p.mediator for p in profiles.peers(config, KEYS, Peers((known("a"),)))] == ["main"]
    assert [p.mediator for p in profiles.peers(load_config(other), KEYS, Peers((known("a"),)))] == [
        ""
    ]


def test_a_paired_peer_has_one_address_on_each_side_and_a_pinned_key():
    entry = profiles.peers(EMPTY, KEYS, Peers((known("a", role="reader", **at("med")),)))[0]
    public = key_of("a").public
    assert entry.peer.remote_auth == KeyAuth(public=public)
    assert entry.peer.local_auth is KEYS.identity
    assert entry.peer.child is not None
    assert [(t.start, t.end) for t in entry.peer.child.local_ts] == [(KEYS.address, KEYS.address)]
    assert [t.start for t in entry.peer.child.remote_ts] == [inner_address(public)]
    assert entry.pseudonym == Identification.key_id(key_of("mediation a").public)


MEDIATOR = f'[mediator.main]\naddress = "med"\nkey = "{KEY}"\n'


def child(text: str, **more):
    entry = profiles.peers(load_config(text), KEYS, Peers((known("a", **more),)))[0]
    assert entry.peer.child is not None
    return entry.peer.child


def selectors(found) -> list[str]:
    return [str(ts) for ts in found]


def test_a_gateway_gives_each_peer_its_ipv4_address():
    here, there = str(profiles.single(KEYS.address)), inner_address(key_of("a").public)
    policy = child(f'ipv4 = "10.99.0.0/24"\n{MEDIATOR}', number=7)
    assert policy.assign == (bytes((10, 99, 0, 7)), there)
    assert selectors(policy.local_ts) == [here, "10.99.0.1/32"]
    assert selectors(policy.remote_ts) == [str(profiles.single(there))]
    assert policy.request_addresses == ()
    for text, number in (
        (MEDIATOR, 7),  # none to give
        (f'ipv4 = "10.99.0.0/29"\n{MEDIATOR}', 7),  # used up
        ('ipv4 = "10.99.0.0/24"', 7),  # nobody can be invited here
    ):
        policy = child(text, number=number)
        assert policy.assign == (there,)
        assert selectors(policy.local_ts) == [here]


def test_ipv4_is_asked_for_within_what_the_configuration_says():
    here, there = (
        str(profiles.single(a)) for a in (KEYS.address, inner_address(key_of("a").public))
    )
    policy = child('ipv4 = "10.99.0.0/16"', **at("med"))
    assert policy.assign == ()
    assert selectors(policy.local_ts) == [here, "10.99.0.0/16"]
    assert selectors(policy.remote_ts) == [there, "10.99.0.0/16"]
    assert policy.request_addresses == (
        CfgAttributeType.INTERNAL_IP4_ADDRESS,
        CfgAttributeType.INTERNAL_IP6_ADDRESS,
    )
    policy = child("", **at("med"))
    assert (policy.request_addresses, selectors(policy.remote_ts)) == ((), [there])


def test_a_configured_peer():
    config = load_config(
        f'[peer.p]\nkey = "{KEY}"\naddress = "p.example.org:7"\nlocal_ts = ["10.1.0.0/16"]\n'
        'remote_ts = ["10.2.0.0/16", "fd00::/64"]\nvirtual_ip = true\nchild_packets = 1000\n'
        "liveness_seconds = 5\nstart = true"
    )
    entry = profiles.peers(config, KEYS, Peers())[0]
    assert (entry.host, entry.port, entry.wanted) == ("p.example.org", 7, True)
    assert entry.peer.lifetimes.child_packets == 1000
    assert entry.peer.liveness_seconds == 5
    assert entry.peer.child is not None
    assert [str(t) for t in entry.peer.child.local_ts] == ["10.1.0.0/16"]
    assert entry.peer.child.request_addresses == (
        CfgAttributeType.INTERNAL_IP4_ADDRESS,
        CfgAttributeType.INTERNAL_IP6_ADDRESS,
    )


def test_a_configured_peer_with_nothing_but_a_key_has_our_kind_of_addresses():
    entry = profiles.peers(load_config(f'[peer.p]\nkey = "{KEY}"'), KEYS, Peers())[0]
    assert entry.peer.child is not None
    assert entry.peer.child.local_ts == (profiles.single(KEYS.address),)
    assert entry.peer.child.remote_ts == (profiles.single(inner_address(key_of("med").public)),)
    assert entry.peer.child.request_addresses == ()


def test_psk_on_both_sides():
    config = load_config(f'[peer.p]\nid = "p"\npsk = "{PSK}"\nassign = "10.3.0.1"')
    peer = profiles.peers(config, KEYS, Peers())[0].peer
    assert peer.local_auth == peer.remote_auth == PskAuth(secret=PSK.encode())


INVITATION = Invitation(
    mediator="med:4600",
    mediator_key=key_of("med").public,
    gateway_mediation=key_of("mediation gateway").public,
    gateway_identity=key_of("gateway").public,
    name="cabin",
    invited="laptop",
    role="owner",
    expires=0,
    seed=bytes(16),
)


def test_both_ends_of_an_invitation_fit():
    opened = OpenInvitation(
        name="laptop",
        role="owner",
        identity=key_text(INVITATION.identity.public),
        mediation=key_text(INVITATION.mediation.public),
        expires=0,
        lifetime=60,
    )
    here = profiles.peers(EMPTY, KEYS, Peers((), (opened,)))[0]
    mediator, there = profiles.enrolment(INVITATION)
    assert here.one_time
    assert there.one_time
    assert here.peer.child is there.peer.child is None
    assert here.peer.remote_id == there.peer.local_id
    assert here.pseudonym == mediator.peer.local_id
    assert there.mediator == mediator.name
    assert there.wanted
    assert not here.wanted
    assert here.grants.services == frozenset()  # whatever the role will be


def test_an_invitation_to_an_impossible_server():
    with pytest.raises(ValueError, match="host name"):
        profiles.enrolment(replace(INVITATION, mediator="a b"))


def test_grants():
    device = load_config('[device.d]\ntype = "mqtt"\nlisten = 1883').devices
    assert profiles.granted("x", "reader", (), device).services == {(6, 80)}
    assert profiles.granted("x", "owner", (), device).services == {(6, 80), (6, 1883)}
    assert profiles.granted("x", "none", ("tcp:22", "udp:53"), device).services == {
        (6, 22),
        (17, 53),
    }
    assert profiles.granted("x", "none", ("all",), ()).services is ALL
    assert profiles.granted("x", "", (), device).services == frozenset()


def test_server():
    assert profiles.server(EMPTY, KEYS) is None
    text = f"""[mediate.peer.a]
id = "A@b"
psk = "{PSK}"
may_call = ["c@b"]
[mediate.peer.c]
id = "c@b"
key = "{KEY}"
"""
    entry = profiles.server(load_config(text), KEYS)
    assert entry is not None
    assert entry.local_id == Identification.key_id(KEYS.mediation.public)
    a = entry.peers[Identification.parse("a@b").key]  # mail names ignore case
    assert a.may_call == {Identification.parse("c@b").key}
    assert a.peer.remote_auth == PskAuth(secret=PSK.encode())
    assert a.peer.local_auth is KEYS.mediation
    both = profiles.server(load_config(text.replace("may_call", "psk_both = true\nmay_call")), KEYS)
    assert both is not None
    assert both.peers[Identification.parse("a@b").key].peer.local_auth == a.peer.remote_auth
    c = entry.peers[Identification.parse("c@b").key]
    assert c.peer.local_auth is KEYS.mediation
    assert c.peer.remote_auth == KeyAuth(public=key_of("med").public)
    assert PSK not in repr(entry)
