"""RFC 7383 with strongSwan, both ways, and the fallback of our default proposals.

strongSwan 5.9.8 knows no ML-KEM and no additional key exchanges: of what we offer it takes the
proposal without.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from agent.crypto.auth import parse_key_text
from agent.ike import fragmentation
from tests.bench.handshake import SUITE, Initiator
from tests.interop.ends import Suite, assert_echo, direct_ours, direct_strongswan
from tests.lab.daemon import CHECKOUT, public_text
from tests.lab.scenario import seed

pytestmark = [pytest.mark.netns, pytest.mark.strongswan]

PLAIN = "aes128gcm16-prfsha256-x25519"
# Both lines of a list in the configuration.
OFFER = Suite(ike=f'{PLAIN}-ke1_mlkem768", "{PLAIN}', esp="aes128gcm16-x25519")
TAKES = Suite(ike=PLAIN, esp="aes128gcm16-x25519")


@pytest.mark.parametrize("initiates", [True, False], ids=["initiator", "responder"])
def test_fallback_and_fragments_from_strongswan(nats, initiates: bool) -> None:
    ours_at, theirs_at = (nats.operator, nats.server) if initiates else (nats.server, nats.operator)
    our_name, their_name = ("alice", "bob") if initiates else ("bob", "alice")
    folder = nats.lab.folder
    ours = direct_ours(
        ours_at, folder / our_name, our_name, auth="ed25519", suite=OFFER, initiates=initiates
    )
    theirs = direct_strongswan(
        theirs_at,
        folder / their_name,
        their_name,
        auth="ed25519",
        suite=TAKES,
        initiates=not initiates,
        extra="fragment_size = 260",
    )
    for end in (ours, theirs):
        end.start()
    (ours if initiates else theirs).connect()
    for end in (ours, theirs):
        end.wait_up()
    assert_echo(ours, theirs)
    (peer,) = (p for p in ours.agent.status()["peers"] if p["name"] == "peer")
    assert peer["suite"] == PLAIN
    assert "splitting IKE message" in theirs.log
    assert "IKE_INTERMEDIATE" not in theirs.log
    # Rekeyings too: the responses are long enough for a few of these.
    ours.rekey("ike")
    ours.rekey("child")
    assert_echo(ours, theirs)


def test_strongswan_reads_our_fragments(nats) -> None:
    theirs = direct_strongswan(
        nats.server, nats.lab.folder / "bob", "bob", auth="ed25519", suite=SUITE, initiates=False
    )
    theirs.start()
    run = nats.operator.popen(
        [sys.executable, "-P", "-m", "tests.interop.test_fragments", public_text(seed("bob"))],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = run.communicate(timeout=20)
    assert run.returncode == 0, said.decode()
    assert "received fragment #1 of" in theirs.log
    assert "reassembled fragmented IKE message" in theirs.log


if __name__ == "__main__":
    fragmentation.SIZES = (200, 150)  # a handshake of ours has nothing that would need fragments
    Initiator(parse_key_text(sys.argv[1])).once()
