"""All at once: what each extension does alone still holds beside all the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.crypto.signatures import KeyKind
from agent.ike.crash import CrashDetection, Tokens
from agent.ike.events import IkeSaClosed, IkeSaEstablished, ReauthenticationDue
from agent.ike.pad import Ppk, PskAuth
from agent.ike.redirect import RedirectClient
from agent.ike.settings import IkeSettings
from tests.support.certificates import AT
from tests.support.keys import private_key
from tests.support.pair import (
    A_ADDRESS,
    A_TO_B,
    B_ADDRESS,
    Pair,
    child_policy,
    make_peers,
    make_side,
)
from tests.unit.ike.test_authentication import by_hash, certified, pinned, shows, trusts

pytestmark = pytest.mark.mlkem

SUITE = ("aes128gcm16-prfsha256-x25519-ke1_mlkem768",)
CHILDREN = (
    child_policy("10.1.0.0/24", "10.2.0.0/24", proposals=("aes128gcm16-x25519",)),
    child_policy("10.2.0.0/24", "10.1.0.0/24", proposals=("aes128gcm16-x25519",)),
)
PSK = PskAuth(secret=b"s" * 32)
KEYS = {"a": private_key(KeyKind.P384, "one"), "b": private_key(KeyKind.RSA, "two")}
PROOFS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "certificates": (
        {**shows(certified("a", KeyKind.RSA)), **trusts()},
        {**shows(certified("b", KeyKind.P521)), **trusts()},
    ),
    "raw keys in band": (
        {"local_auth": KEYS["a"], "remote_auth": by_hash(KEYS["b"].spki)},
        {"local_auth": KEYS["b"], "remote_auth": by_hash(KEYS["a"].spki)},
    ),
    "pinned keys": (
        {"local_auth": KEYS["a"], "remote_auth": pinned(KEYS["b"].spki)},
        {"local_auth": KEYS["b"], "remote_auth": pinned(KEYS["a"].spki)},
    ),
    "pre-shared key": ({"local_auth": PSK, "remote_auth": PSK},) * 2,
    "Ed25519": ({}, {}),
}


def pair_of(proof: str, *, required: bool = True, b_has_ppk: bool = True) -> Pair:
    """Under a flood, with a PPK, ML-KEM, quick crash detection and repeated authentication."""
    peer_b, peer_a = make_peers(ike=SUITE, children=CHILDREN)
    of_a, of_b = PROOFS[proof]
    ppk = Ppk(id=b"k", secret=b"p" * 32, required=required)
    peer_b = replace(peer_b, ppk=ppk, auth_seconds=300, **of_a)
    peer_a = replace(peer_a, ppk=ppk if b_has_ppk else None, auth_seconds=600, **of_b)
    settings = IkeSettings(cookie_threshold=0, cookie_threshold_net=0)
    return Pair(
        make_side("a", A_ADDRESS, [peer_b], wall=lambda: AT, tokens=Tokens(b"a" * 32)),
        make_side(
            "b", B_ADDRESS, [peer_a], wall=lambda: AT, tokens=Tokens(b"b" * 32), settings=settings
        ),
    )


def connect(pair: Pair) -> int:
    return pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now, (RedirectClient(),))


def both_up(pair: Pair) -> bool:
    a, b = pair.a.ike.sas(), pair.b.ike.sas()
    return (
        len(a) == len(b) == 1
        and a[0].established
        and b[0].established
        and a[0].protection.sk_d == b[0].protection.sk_d
        and len(pair.a.installed) == len(pair.b.installed) == 1
        and {c.spi_in for c in pair.a.installed.values()}
        == {c.spi_out for c in pair.b.installed.values()}
    )


@pytest.mark.parametrize("proof", PROOFS)
def test_from_the_first_message_to_the_second_proof(proof):
    pair = pair_of(proof)
    first = connect(pair)
    pair.settle()
    assert both_up(pair), (pair.a.events(IkeSaClosed), pair.b.events(IkeSaClosed))
    said = [line.partition(": ")[2] for _, line in pair.sent]
    assert said[1] == "IKE_SA_INIT! N(COOKIE)"
    assert said[2].startswith("IKE_SA_INIT? N(COOKIE) SA KE No")
    assert any("IKE_INTERMEDIATE? SKF(1/2)" in line for line in said)
    assert pair.a.last(IkeSaEstablished).suite == SUITE[0] + " + PPK"
    for side in (pair.a, pair.b):
        (token,) = (e for e in side.sa.extensions if isinstance(e, CrashDetection))
        assert len(token.theirs) == 16

    for ike in (pair.a.ike, pair.b.ike):  # either side rekeys, IKE SA and Child SA
        ike.rekey_ike(ike.sas()[0].ike_id, pair.now)
        pair.settle()
        ike.rekey_child(next(iter(ike.sas()[0].children)), pair.now)
        pair.settle()
        assert both_up(pair)

    pair.sleep(260)
    assert pair.a.events(ReauthenticationDue) == []
    pair.sleep(11)
    assert pair.a.last(ReauthenticationDue).ike_id == first
    second = connect(pair)
    pair.settle()
    assert second != first
    assert both_up(pair)
    assert pair.a.sa.ike_id == second
    pair.sleep(320)  # the responder's own 600 s have not begun with the first one
    assert both_up(pair)


@pytest.mark.parametrize("proof", PROOFS)
def test_a_ppk_that_only_one_side_has(proof):
    """NO_PPK_AUTH is made the way of AUTH (RFC 8784 §3)."""
    pair = pair_of(proof, required=False, b_has_ppk=False)
    other = replace(pair.b.peer, name="other", ppk=Ppk(id=b"o", secret=b"o" * 32))
    pair.b.book.peers.append(replace(other, remote_id=replace(other.local_id, data=b"nobody")))
    connect(pair)
    pair.settle()
    assert both_up(pair), (pair.a.events(IkeSaClosed), pair.b.events(IkeSaClosed))
    assert pair.a.last(IkeSaEstablished).suite == SUITE[0]


@pytest.mark.parametrize("lost", range(10))
def test_certificates_and_each_datagram_lost_once(lost):
    pair = pair_of("certificates")
    connect(pair)
    pair.drain()
    for number in range(40):
        if not pair.pending:
            break
        datagram = pair.pending.pop(0)
        if number != lost:
            pair.deliver(datagram)
    pair.sleep(30)
    assert both_up(pair)
