"""THREATS 5 and 6 with a real daemon: a flood from a namespace beside it, and an honest peer.

Octets and datagrams are counted; the seconds of the same scene are figures of tests/bench/flood.py.
"""

from __future__ import annotations

import time

import pytest

from tests.bench.flood import SOURCES, Street, datagrams
from tests.bench.machines import rss_mb
from tests.interop.ends import assert_echo

pytestmark = pytest.mark.netns

SECONDS = 2.0
# IKE_SA_INIT, once more with a COOKIE, IKE_AUTH and a keepalive, each of them sent four times at
# most: the fifth time would be 6 s after the first.
DATAGRAMS = 13
MORE_MB = 5.0
REALLY_SENT = 3000  # of 20,000; a machine that is busy with other things sends and takes less


@pytest.mark.parametrize("kind", SOURCES)
def test_an_honest_peer_connects_meanwhile(lab, kind: str) -> None:
    street = Street.build(lab)
    bob, alice = street.bob, street.alice
    pid = bob.agent.pid
    time.sleep(0.5)
    before = rss_mb(pid)
    received = datagrams(bob.host, "InDatagrams")
    with street.flood(kind, SECONDS) as flood:
        time.sleep(SECONDS / 4)
        sent = datagrams(alice.host, "OutDatagrams")
        alice.connect()
        alice.wait_up()
        sent = datagrams(alice.host, "OutDatagrams") - sent
    taken = datagrams(bob.host, "InDatagrams") - received
    assert sent <= DATAGRAMS
    assert flood.sent >= REALLY_SENT
    assert taken >= REALLY_SENT
    assert rss_mb(pid) - before <= MORE_MB
    assert bob.agent.is_running
    assert "mistake" not in bob.log
    assert_echo(alice, bob)
