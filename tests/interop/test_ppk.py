"""Postquantum preshared keys (RFC 8784) with strongSwan 5.9.8, both roles, required and not."""

from __future__ import annotations

import pytest

from tests.interop.ends import INNER, PEER_SECRET, identity
from tests.interop.test_direct import ROLES, Pair
from tests.lab.vici import ViciError

pytestmark = [pytest.mark.netns, pytest.mark.strongswan]

PPK_ID = "the-office-key"
PPK = "Qm5hY3l0Y3VyZWx5LWdlbmVyYXRlZC1wcGs9"
OTHER = "Zm9yZ290dGVuLWFuZC1yZXBsYWNlZC1wcGs9"


def ours(required: bool, secret: str = PPK) -> str:
    return f'ppk = "{secret}"\nppk_id = "{PPK_ID}"\nppk_required = {str(required).lower()}\n'


def theirs(name: str, required: bool, secret: str = PPK) -> dict:
    return {
        "connection": {"ppk_id": PPK_ID, "ppk_required": required},
        "sections": {
            "secrets": {
                "ike-peer": {"id": identity(name), "secret": PEER_SECRET},
                "ppk-office": {"id": PPK_ID, "secret": f'"{secret}"'},
            }
        },
    }


def our_name(role: str) -> str:
    return "alice" if role == "initiator" else "bob"


@pytest.mark.parametrize("auth", ["ed25519", "psk"])
@pytest.mark.parametrize("required", [True, False], ids=["required", "optional"])
@pytest.mark.parametrize("role", ROLES)
def test_with_a_ppk(nats, role, required, auth):
    pair = Pair(nats, role, auth=auth, more=ours(required), **theirs(our_name(role), required))
    pair.assert_echo()
    assert pair.strongswan.charon.sa("peer").get("ppk") == "yes"
    assert pair.ours.agent.peer("peer")["suite"].endswith("+ PPK")
    if required and auth == "ed25519":
        for what in ("ike", "child"):  # it is in SK_d, and nothing is mixed in twice
            before = pair.spis(what)
            pair.ours.rekey(what)
            pair.wait_rekeyed(what, before)
            pair.assert_echo()


@pytest.mark.parametrize("role", ROLES)
def test_only_we_have_one_and_do_not_require_it(nats, role):
    pair = Pair(nats, role, more=ours(False))
    pair.assert_echo()
    assert not pair.ours.agent.peer("peer")["suite"].endswith("+ PPK")


@pytest.mark.parametrize("role", ROLES)
def test_only_strongswan_has_one_and_does_not_require_it(nats, role):
    pair = Pair(nats, role, **theirs(our_name(role), False))
    pair.assert_echo()


@pytest.mark.parametrize("role", ROLES)
def test_required_but_another_one(nats, role):
    """Nothing comes up, and nothing falls back."""
    with pytest.raises((AssertionError, ViciError)):
        Pair(nats, role, wait=3.0, more=ours(True), **theirs(our_name(role), True, OTHER))
    assert not nats.operator.ping(INNER["bob"], seconds=0.3)
