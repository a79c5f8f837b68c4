"""THREATS 18: a rogue responder collects AUTH made with a shared key, to guess it at leisure.

tests/unit/config/test_config.py::test_a_weak_psk_is_refused_and_not_repeated
tests/unit/config/test_config.py::test_psk_file_with_a_weak_key
tests/unit/ike/test_initial.py::test_psk_is_no_answer_to_a_pinned_key
tests/unit/ike/test_authentication.py::test_threat_18_a_psk_never_stands_in_for_a_key
tests/unit/ike/test_authentication.py::test_a_key_never_stands_in_for_a_psk
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agent import profiles
from agent.config import load_config
from agent.config.values import PSK_MINIMUM
from agent.crypto.auth import key_text
from agent.crypto.digest import sha256
from agent.crypto.public_keys import AnyPublicKey
from agent.crypto.signatures import KeyKind
from agent.errors import ConfigError
from agent.ike import proof, resumption
from agent.ike.events import IkeSaClosed, IkeSaEstablished
from agent.ike.pad import AnyKeyAuth, CertificateAuth, KeyAuth, PskAuth
from agent.peers import Peers
from agent.profiles import Keys
from agent.wire.codes import AuthMethod
from agent.wire.payloads import AuthPayload
from tests.support.certificates import issue
from tests.support.exchanges import following
from tests.support.feature_scenes import ROOT, SUB, certified, changed_pair
from tests.support.keys import public_key_pem
from tests.support.pair import A_TO_B, Pair, key_of, make_pair

if TYPE_CHECKING:
    from agent.ike.sa import IkeSa
    from agent.wire.payloads import IdiPayload

PLACES = {
    "a peer": '[peer.x]\naddress = "192.0.2.1"\nid = "x"\npsk = "{}"\nremote_ts = ["10.0.0.0/8"]\n',
    "a mediator": '[mediator.x]\naddress = "192.0.2.1"\npsk = "{}"\nid = "ms"\n',
    "a peer of our mediator": '[mediate]\n[mediate.peer.x]\nid = "x"\npsk = "{}"\n',
}
WEAK = ["a", "secret", "x" * (PSK_MINIMUM - 1), "a" * 64, " " * 40, "password" * 8]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("secret", WEAK)
def test_weak_keys_are_refused_wherever_one_is_read(place: str, secret: str) -> None:
    """And the sentence that refuses it does not repeat it."""
    with pytest.raises(ConfigError) as caught:
        load_config(PLACES[place].format(secret))
    assert "psk" in caught.value.sentence
    assert len(secret) < 8 or secret not in caught.value.sentence


def _proofs(pair: Pair) -> list[int]:
    """The methods of all AUTH payloads that a has sent, whoever could read them."""
    found = []
    while pair.pending:
        datagram = pair.pending.pop(0)
        if datagram.sender is pair.a:
            message = pair.message(pair.a, datagram.data)
            found += [auth.method for auth in message.all(AuthPayload)]
        pair.deliver(datagram)
    return found


def test_who_has_a_key_to_sign_with_makes_no_other_proof() -> None:
    """Whatever the responder is, or says: our proof is a signature, which is no use elsewhere."""
    for theirs in (PskAuth(secret=b"p" * 32), KeyAuth(public=key_of("rogue").public)):
        pair = make_pair()
        pair.b.book.peers[0] = replace(pair.b.peer, remote_auth=theirs)
        pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
        pair.drain()
        assert _proofs(pair) == [AuthMethod.DIGITAL_SIGNATURE]
        assert not pair.a.events(IkeSaEstablished)


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_pinned_key_is_never_answered_by_a_shared_one(side: str) -> None:
    """In either role: a peer whose key is pinned and who comes with a shared key is refused."""
    pair = make_pair(psk=b"p" * 32)
    here = getattr(pair, side)
    other = "b" if side == "a" else "a"
    pinned = KeyAuth(public=key_of(other).public)
    here.book.peers[0] = replace(here.peer, remote_auth=pinned)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.settle()
    assert not here.events(IkeSaEstablished)
    assert pair.a.events(IkeSaClosed)
    assert len(pair.a.ike) == len(pair.b.ike) == 0


DEMANDS = {
    "a key of any kind": lambda spki: AnyKeyAuth(sha256=sha256(spki), key=AnyPublicKey(spki)),
    "the hash of a key": lambda spki: AnyKeyAuth(sha256=sha256(spki)),
    "a certificate": lambda spki: CertificateAuth(anchors=(ROOT.certificate,)),
}
# What a peer without the key could think of: nothing, and what is public.
GUESSES = [b"p" * 32, b"", "the key", "its hash", "the Ed25519 key of this side"]


@pytest.mark.parametrize("guess", GUESSES)
@pytest.mark.parametrize("demand", DEMANDS)
@pytest.mark.parametrize("side", ["a", "b"])
def test_nor_is_any_other_key_or_a_certificate(side: str, demand: str, guess: bytes | str) -> None:
    """Method 2 with any secret, with the certificate and the raw key shown beside it."""
    other = "b" if side == "a" else "a"
    issued = issue(other, SUB, names=(f"{other}@example.org",), kind=KeyKind.P256)
    public = {
        "the key": issued.key.spki,
        "its hash": sha256(issued.key.spki),
        "the Ed25519 key of this side": key_of(side).public,
    }
    secret = guess if isinstance(guess, bytes) else public[guess]
    changes = {
        side: {"remote_auth": DEMANDS[demand](issued.key.spki)},
        other: {
            "local_auth": PskAuth(secret=secret),
            "certificates": (issued.der, SUB.der),
        },
    }
    pair = changed_pair(changes)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.settle()
    here = getattr(pair, side)
    assert not here.events(IkeSaEstablished)
    assert here.last(IkeSaClosed).detail in (
        "the proof is wrong",
        "the peer did not show the raw public key that is pinned",
    )
    assert len(pair.a.ike) == len(pair.b.ike) == 0


@pytest.mark.parametrize("kind", [KeyKind.RSA, KeyKind.P384])
def test_who_has_a_certificate_makes_no_proof_with_a_shared_key(kind: KeyKind) -> None:
    """Whatever the responder is, and whatever it takes of what it announces."""
    for theirs in (PskAuth(secret=b"p" * 32), KeyAuth(public=key_of("rogue").public)):
        pair = changed_pair({**certified(kind), "b": {"remote_auth": theirs}})
        pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
        pair.drain()
        proofs = _proofs(pair)
        assert AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE not in proofs
        assert not pair.a.events(IkeSaEstablished)


def test_the_proof_of_a_resumed_sa_is_none_without_a_ticket(monkeypatch) -> None:
    """RFC 5723 §4.3.3 has no PSK: the same MIC, with SK_pi alone, after a key exchange."""
    for changes in ({"a": {}, "b": {}}, certified(KeyKind.P256)):
        pair = changed_pair(changes)
        with monkeypatch.context() as patch:
            patch.setattr("agent.ike.proof.give", _as_if_resumed)
            pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
            pair.deliver(following(pair))
            pair.deliver(following(pair))
        request = following(pair)
        (shown,) = pair.message(pair.a, request.data).all(AuthPayload)
        assert shown.method == AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE
        pair.deliver(request)
        pair.settle()
        assert not pair.b.events(IkeSaEstablished)
        assert pair.b.last(IkeSaClosed).detail == "the proof is wrong"


def _as_if_resumed(sa: IkeSa, peer: object, own_id: IdiPayload) -> AuthPayload:
    return resumption.proof(sa, proof._signed_octets(sa, own_id.body, by_us=True))


# -- never PSK where the peer has a pinned key ---------------------------------------------------

SECRET = "Yz0-9fK2_mQ7xw3LrT8v"
FILES = {"x.pub": public_key_pem(KeyKind.P256), "ca.pem": ROOT.pem}
PROOFS = {
    "key": f'key = "{key_text(key_of("x").public)}"\n',
    "key_file": 'key_file = "x.pub"\n',
    "key_sha256": f'key_sha256 = "{"ab" * 32}"\n',
    "ca_files": 'ca_files = "ca.pem"\n',
    "psk": f'psk = "{SECRET}"\n',
}
WITHOUT = {place: text.replace('psk = "{}"\n', "") for place, text in PLACES.items()}
OWN = 'local_id = "me"\n'


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("pinned", [proof for proof in PROOFS if proof != "psk"])
def test_a_configuration_has_one_or_the_other(place: str, pinned: str) -> None:
    """A key and a shared key for one side would give the MIC to whoever answers in its place."""
    with pytest.raises(ConfigError) as caught:
        load_config(WITHOUT[place] + PROOFS[pinned] + PROOFS["psk"], read=FILES.__getitem__)
    assert f"psk is wrong: give {pinned} or psk, not both." in caught.value.sentence
    assert SECRET not in caught.value.sentence
    if place == "a mediator":
        assert "remote { auth = pubkey" in caught.value.sentence


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("proof", PROOFS)
def test_we_prove_a_shared_key_to_those_alone_who_prove_it(place: str, proof: str) -> None:
    """Whatever a configuration gives. Our server gives its MIC to those alone who expect it."""
    own = "" if place == "a peer of our mediator" else OWN
    config = load_config(WITHOUT[place] + own + PROOFS[proof], read=FILES.__getitem__)
    keys = Keys(identity=key_of("me"), mediation=key_of("mediation me"))
    served = profiles.server(config, keys)
    (peer,) = [
        *(entry.peer for entry in profiles.peers(config, keys, Peers())),
        *(entry.peer for entry in profiles.mediators(config, keys, Peers())),
        *(known.peer for known in (served.peers.values() if served is not None else ())),
    ]
    assert isinstance(peer.remote_auth, PskAuth) is (proof == "psk")
    expected = proof == "psk" and place != "a peer of our mediator"
    assert isinstance(peer.local_auth, PskAuth) is expected
