"""Who may claim to be whom, before anything is proven: the peer authorization database."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from agent.engine.authority import Authority
from agent.engine.entries import MEDIATED, MediatedPeer, PeerEntry, ServerEntry
from agent.ike.pad import KeyAuth, PskAuth
from agent.ipsec import Grants
from agent.mediation.connect_id import ConnectIdExtension
from agent.mediation.server import MediationServer
from agent.mediation.server_extension import ServerExtension
from agent.mediation.settings import MediationSettings
from agent.wire.codes import IdType
from agent.wire.payloads import Identification
from tests.support.pair import ike_proposals, key_of, make_peers, seeded

KEY = key_of("board")
PSEUDONYM = Identification.key_id(KEY.public)
SERVER = key_of("server")
BOB = Identification.parse("bob@example.org")


@dataclass
class Calling:
    """As much of a MediationClient as is asked: whom it is calling."""

    called: Identification | None

    def expected(self, connect_id: bytes) -> Identification | None:
        """See MediationClient."""
        return self.called


def served(known: dict[Identification, PskAuth]) -> tuple[Authority, ServerExtension]:
    """A mediation server that knows these by configuration."""
    template = make_peers()[0]
    peers = {
        who.key: MediatedPeer(
            peer=replace(template, name=MEDIATED, remote_id=who, remote_auth=auth)
        )
        for who, auth in known.items()
    }
    authority = Authority(ike_proposals())
    authority.server = ServerEntry(
        key=SERVER,
        local_id=Identification.parse("ms.example.org"),
        proposals=ike_proposals(),
        peers=peers,
    )
    server = MediationServer(random=seeded("s"), settings=MediationSettings())
    return authority, ServerExtension(server)


def test_a_pseudonym_is_its_own_key() -> None:
    authority, asked = served({})
    peer = authority.find_peer(PSEUDONYM, None, (asked,))
    assert peer is not None
    assert peer.remote_auth == KeyAuth(public=KEY.public)


@pytest.mark.parametrize(
    "claimed",
    [
        *(Identification(kind, KEY.public) for kind in IdType if kind != IdType.ID_KEY_ID),
        Identification(77, KEY.public),
        Identification.key_id(KEY.public[:-1]),
        Identification.key_id(KEY.public + b"\0"),
        Identification.key_id(b""),
    ],
    ids=repr,
)
def test_the_octets_of_a_key_under_another_name_are_none(claimed: Identification) -> None:
    """Else somebody could register a name that belongs to somebody else."""
    authority, asked = served({})
    assert authority.find_peer(claimed, None, (asked,)) is None


@pytest.mark.parametrize("who", [PSEUDONYM, BOB], ids=["pseudonym", "name"])
def test_who_is_configured_is_known_by_that_proof_alone(who: Identification) -> None:
    """Also where the name is the public key of somebody."""
    auth = PskAuth(secret=b"0123456789abcdef")
    authority, asked = served({who: auth})
    peer = authority.find_peer(who, None, (asked,))
    assert peer is not None
    assert peer.remote_auth is auth


def test_a_registration_and_a_tunnel_do_not_know_each_others_peers() -> None:
    authority, asked = served({BOB: PskAuth(secret=b"0123456789abcdef")})
    carol = make_peers()[0]
    authority.set_peers([PeerEntry(name="carol", peer=carol, grants=Grants())])
    assert carol.remote_id is not None
    assert authority.find_peer(carol.remote_id, None, ()) is carol
    assert authority.find_peer(carol.remote_id, None, (asked,)) is None
    assert authority.find_peer(BOB, None, ()) is None
    assert authority.find_peer(PSEUDONYM, None, ()) is None


@pytest.mark.parametrize(
    ("called", "is_found"),
    [(PSEUDONYM, True), (Identification.key_id(SERVER.public), False), (BOB, False), (None, True)],
    ids=["the same", "another", "a name", "over"],
)
def test_a_path_belongs_to_whom_it_was_looked_for(called, is_found: bool) -> None:
    """A mediator that swaps connect requests must not pair a path with another peer."""
    peer = make_peers()[0]
    authority = Authority(ike_proposals())
    entry = PeerEntry(name="board", peer=peer, grants=Grants(), pseudonym=PSEUDONYM)
    authority.set_peers([entry])
    extension = ConnectIdExtension(Calling(called), b"c" * 8, is_initiator=False)
    assert authority.find_peer(peer.remote_id, None, (extension,)) is (peer if is_found else None)
