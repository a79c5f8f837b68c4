"""ML-KEM and additional key exchanges with strongSwan 6: RFC 9242, RFC 9370, and what they meet.

Its IKE shares nothing with ours; its ML-KEM is OpenSSL's, as the cryptography package's is, for
which tests/unit/crypto/test_kem.py has published vectors. Its version changes until its Debian is
released: nothing here depends on which it is. Collisions are in
tests/interop/test_races_post_quantum.py.
"""

from __future__ import annotations

import re

import pytest

from agent.crypto.signatures import KeyKind
from tests.interop.ends import (
    OURS,
    STRONGSWAN,
    End,
    Suite,
    assert_echo,
    mediated_ours,
    mediated_strongswan,
    start_server,
)
from tests.interop.test_auth import with_certificates, with_keys
from tests.interop.test_cookies import MANY, THEIR_THRESHOLD, half_open
from tests.interop.test_direct import ROLES, Pair
from tests.interop.test_ppk import our_name, ours, theirs
from tests.lab.vici import ViciError

pytestmark = [pytest.mark.netns, pytest.mark.strongswan, pytest.mark.newer, pytest.mark.mlkem]

IKE, ESP = "aes128gcm16-prfsha256-x25519", "aes128gcm16-x25519"
HYBRID = Suite(ike=f"{IKE}-ke1_mlkem768", esp=f"{ESP}-ke1_mlkem768")


def rounds(end: End) -> int:
    """How many IKE_INTERMEDIATE exchanges strongSwan has finished."""
    return len(re.findall(r"(?:parsed|generating) IKE_INTERMEDIATE response \d+ \[ KE \]", end.log))


def followed(end: End) -> int:
    """Likewise IKE_FOLLOWUP_KE."""
    return len(re.findall(r"(?:parsed|generating) IKE_FOLLOWUP_KE response \d+ \[ KE", end.log))


def suite_of(pair) -> str:
    return pair.ours.agent.peer("peer")["suite"]


# -- key exchanges -------------------------------------------------------------------------------


@pytest.mark.parametrize("chain", ["ke1_mlkem768", "ke1_mlkem1024", "ke1_ecp384-ke2_mlkem768"])
@pytest.mark.parametrize("role", ROLES)
def test_a_connection_and_its_rekeyings(nats, role, chain):
    """Either side's, of the Child SA and of the IKE SA; each new one carries on."""
    suite = Suite(ike=f"{IKE}-{chain}", esp=f"{ESP}-{chain}")
    pair = Pair(nats, role, suite=suite, newer=True)
    pair.assert_echo()
    count = len(chain.split("-"))
    assert suite_of(pair) == suite.ike
    assert rounds(pair.strongswan) == count
    assert followed(pair.strongswan) == 0
    for number, (side, what) in enumerate(
        ((side, what) for side in (pair.ours, pair.strongswan) for what in ("child", "ike")), 1
    ):
        before = pair.spis(what)
        side.rekey(what)
        pair.wait_rekeyed(what, before)
        pair.assert_echo()
        assert followed(pair.strongswan) == number * count
    assert suite_of(pair) == suite.ike


@pytest.mark.parametrize("role", ROLES)
def test_in_fragments(nats, role):
    """Ours, and theirs of 260 octets."""
    suite = Suite(ike=f"{IKE}-ke1_mlkem1024", esp=ESP)
    pair = Pair(nats, role, suite=suite, newer=True, extra="fragment_size = 260")
    pair.assert_echo()
    assert rounds(pair.strongswan) == 1
    last = re.compile(r"(parsed|generating) IKE_INTERMEDIATE \w+ 1 \[ EF\((\d+)/\2\) \]")
    counts = {verb: int(count) for verb, count in last.findall(pair.strongswan.log)}
    assert counts["parsed"] > 1
    assert counts["generating"] > 4


# -- proposals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proposals", "result"),
    [
        ("default", None),
        (f"{IKE},{HYBRID.ike}", None),
        (HYBRID.ike, HYBRID.ike),
        (IKE, IKE),
        (f"{IKE}-ke1_mlkem512-ke1_mlkem768-ke1_none", HYBRID.ike),
    ],
    ids=["their default", "both", "with", "without", "a choice"],
)
@pytest.mark.parametrize("role", ROLES)
def test_our_default(nats, role, proposals, result):
    """What we offer and take where nothing is configured; both agree on what it came to."""
    connection = {"proposals": proposals}
    pair = Pair(nats, role, suite=Suite(ike="", esp=""), newer=True, connection=connection)
    pair.assert_echo()
    assert suite_of(pair) == result or not result
    assert rounds(pair.strongswan) == ("ke1_" in suite_of(pair))


def test_they_offer_ml_kem_512_alone(nats):
    """Which we do not have. What they take of ours is a choice above."""
    their = {"proposals": f"{IKE}-ke1_mlkem512"}
    with pytest.raises(ViciError):
        Pair(nats, "responder", suite=Suite(ike="", esp=""), newer=True, connection=their)


# -- with others ---------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_with_a_ppk(nats, role):
    pair = Pair(
        nats, role, suite=HYBRID, more=ours(True), newer=True, **theirs(our_name(role), True)
    )
    pair.assert_echo()
    assert suite_of(pair) == f"{HYBRID.ike} + PPK"
    assert pair.strongswan.charon.sa("peer").get("ppk") == "yes"
    for what in ("ike", "child"):
        before = pair.spis(what)
        pair.strongswan.rekey(what)
        pair.wait_rekeyed(what, before)
        pair.assert_echo()


@pytest.mark.parametrize("role", ROLES)
def test_with_certificates_and_cookies(nats, role):
    pair = with_certificates(
        nats,
        role,
        KeyKind.RSA,
        extra=f"rsa_pss = yes\n  {THEIR_THRESHOLD}",
        suite=HYBRID,
        newer=True,
    )
    half_open(nats, MANY)
    pair.up()
    assert "N(COOKIE)" in pair.strongswan.log
    assert suite_of(pair) == HYBRID.ike


@pytest.mark.parametrize("role", ROLES)
def test_with_raw_keys(nats, role):
    pair = with_keys(nats, role, KeyKind.P384, suite=HYBRID, newer=True)
    pair.up()
    assert suite_of(pair) == HYBRID.ike


@pytest.mark.parametrize(
    ("server", "initiator", "responder"),
    [
        (OURS, OURS, STRONGSWAN),
        (OURS, STRONGSWAN, OURS),
        (OURS, STRONGSWAN, STRONGSWAN),
        (STRONGSWAN, OURS, OURS),
        (STRONGSWAN, STRONGSWAN, OURS),
    ],
)
def test_mediated(nats, server, initiator, responder):
    """The tunnel has ML-KEM; the connections to the mediator, strongSwan's or ours, do not."""
    mediator = start_server(nats.server, nats.lab.folder / "ms", server, auth="ed25519", newer=True)
    ends = {}
    for host, name, kind in (
        (nats.gateway, "bob", responder),
        (nats.operator, "alice", initiator),
    ):
        make = mediated_ours if kind == OURS else mediated_strongswan
        options = {} if kind == OURS else {"newer": True}
        folder = nats.lab.folder / name
        ends[name] = make(host, folder, name, auth="ed25519", suite=HYBRID, **options)
    for end in ends.values():
        end.start()
    for end in ends.values():
        end.wait_registered()
    ends["alice"].connect()
    for end in ends.values():
        end.wait_up()
    assert_echo(ends["alice"], ends["bob"])
    if server == STRONGSWAN:
        assert "IKE_INTERMEDIATE" not in mediator.log
