"""COOKIE (RFC 7296 §2.6) with strongSwan 5.9.8 in both roles, while somebody floods us or it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from agent.crypto.signatures import KeyKind
from tests.interop.ends import SERVER, assert_echo, direct_ours, direct_strongswan
from tests.interop.test_auth import with_certificates
from tests.lab.daemon import CHECKOUT
from tests.lab.flooder import request

pytestmark = [pytest.mark.netns, pytest.mark.strongswan]

NON_ESP = bytes(4)
# One network may have 16 half-open SAs before we ask for COOKIEs, and an address gets four of those
# in a second: with more of them the one that is meant would have to ask again, after seconds.
MANY = 18
# strongSwan asks from the second on, and blocks none of the address.
THEIR_THRESHOLD = "cookie_threshold = 1\n  block_threshold = 0"


def half_open(nats, count: int) -> None:
    """`count` requests of somebody behind the initiator's NAT, who goes no further."""
    run = nats.operator.popen(
        [sys.executable, "-P", "-m", "tests.interop.test_cookies", SERVER, str(count)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = run.communicate(timeout=20)
    assert run.returncode == 0, said.decode()


@pytest.mark.parametrize("initiates", [True, False], ids=["initiator", "responder"])
def test_cookies(nats, initiates: bool) -> None:
    ours_at, theirs_at = (nats.operator, nats.server) if initiates else (nats.server, nats.operator)
    our_name, their_name = ("alice", "bob") if initiates else ("bob", "alice")
    folder = nats.lab.folder
    ours = direct_ours(ours_at, folder / our_name, our_name, auth="ed25519", initiates=initiates)
    theirs = direct_strongswan(
        theirs_at,
        folder / their_name,
        their_name,
        auth="ed25519",
        initiates=not initiates,
        extra=THEIR_THRESHOLD,
    )
    for end in (ours, theirs):
        end.start()
    half_open(nats, MANY)
    (ours if initiates else theirs).connect()
    for end in (ours, theirs):
        end.wait_up()
    assert_echo(ours, theirs)
    assert "N(COOKIE)" in theirs.log, theirs.log


@pytest.mark.parametrize("role", ["initiator", "responder"])
def test_with_certificates_in_fragments(nats, role: str) -> None:
    """What is signed is the request that brought the COOKIE."""
    pair = with_certificates(nats, role, KeyKind.RSA, extra=f"rsa_pss = yes\n  {THEIR_THRESHOLD}")
    half_open(nats, MANY)
    pair.up()
    log = pair.strongswan.log
    assert "N(COOKIE)" in log, log
    assert "splitting IKE message" in log


if __name__ == "__main__":
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        for number in range(int(sys.argv[2])):
            spi = (number + 1).to_bytes(8, "big")
            out.sendto(NON_ESP + request(spi), (sys.argv[1], 4500))
