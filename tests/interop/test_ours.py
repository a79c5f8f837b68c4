"""Only our own daemons, under what networks do: delay, loss, other NATs, restarts, both at once."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from agent.operations.lab import TwoNats
from tests.bench.machines import our_three
from tests.lab.routers import two_user_nats

pytestmark = pytest.mark.netns


def assert_echo(one, other):
    for here, there in ((one, other), (other, one)):
        address = there.status()["address"]
        assert here.host.ping(address, count=5, seconds=3.0), f"{here.log}\n{there.log}"


def connect(alice, bob):
    alice.ask("connect", peer="bob")
    bob.wait_peer("alice", "up")


@pytest.mark.parametrize(
    "options",
    [
        ("--delay", "20"),
        ("--delay", "20", "--loss", "0.05", "--seed", "7"),
        ("--random-ports", "--filtering", "apd"),
        ("--filtering", "ad", "--mapping", "ei"),
    ],
    ids=["delay", "delay and loss", "random ports", "address filter"],
)
def test_through_other_nats(lab, options):
    _, bob, alice = our_three(two_user_nats(lab, *options))
    connect(alice, bob)
    assert_echo(alice, bob)


SYMMETRIC = ("--mapping", "apd", "--filtering", "apd", "--random-ports")


def test_one_symmetric_nat_is_crossed(lab):
    """Another port for each destination: only a peer-reflexive endpoint leads through."""
    _, bob, alice = our_three(two_user_nats(lab, "--filtering", "ad", b=SYMMETRIC))
    connect(alice, bob)
    assert_echo(alice, bob)


def test_two_symmetric_nats_are_named_as_the_obstacle(lab):
    _, _, alice = our_three(two_user_nats(lab, *SYMMETRIC))
    done = alice.cli("connect", "bob", check=False)
    assert done.returncode != 0
    assert "no direct path" in done.stderr, done.stderr
    assert alice.is_running


def test_both_at_once_end_in_one_tunnel(nats):
    _, bob, alice = our_three(nats)
    asking = [
        threading.Thread(target=who.ask, args=("connect",), kwargs={"peer": peer})
        for who, peer in ((alice, "bob"), (bob, "alice"))
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(30)
    alice.wait_peer("bob", "up")
    bob.wait_peer("alice", "up")
    assert_echo(alice, bob)


def test_a_gateway_that_was_cut_off_comes_back(nats):
    """A power cut, a new start: the operator's tunnel, asked for once, comes back by itself."""
    _, bob, alice = our_three(nats)
    connect(alice, bob)
    assert_echo(alice, bob)
    bob.kill()
    bob.start()
    bob.wait_registered()
    alice.ask("disconnect", peer="bob")
    connect(alice, bob)
    assert_echo(alice, bob)


def test_a_killed_gateway_is_back_by_itself_within_seconds(nats):
    """THREATS 37, RFC 6290: it proves that it knows nothing, and the operator calls at once."""
    _, bob, alice = our_three(nats)
    connect(alice, bob)
    assert_echo(alice, bob)
    address = bob.status()["address"]
    bob.kill()
    bob.start()
    started = time.monotonic()
    while not alice.host.ping(address, count=1, seconds=0.3):
        # Without the proof: 30 s until alice asks, and 40 more. A busy machine needs a few.
        assert time.monotonic() - started < 15, f"{alice.log[-4000:]}\n{bob.log[-4000:]}"
    assert_echo(alice, bob)
    assert "was restarted" in alice.log
    assert len(bob.status()["peers"]) == 1


def test_an_operator_that_was_cut_off_replaces_its_old_tunnel(nats):
    _, bob, alice = our_three(nats)
    connect(alice, bob)
    alice.kill()
    alice.start()
    alice.wait_registered()
    connect(alice, bob)
    assert_echo(alice, bob)


def test_a_tunnel_outlives_its_mediator(nats):
    server, bob, alice = our_three(nats)
    connect(alice, bob)
    server.kill()
    assert_echo(alice, bob)


def test_a_stopped_daemon_takes_everything_back(nats):
    """SIGTERM: exit status 0, no device, no route, no socket; the other side knows at once."""
    _, bob, alice = our_three(nats)
    connect(alice, bob)
    assert alice.stop() == 0
    assert "hearth0" not in nats.operator.shell("ip -o link")
    assert not alice.layout.socket.exists()
    bob.wait("alice down", lambda s: all(p["state"] != "up" for p in s["peers"]), 5.0)


def test_nothing_else_of_the_gateway_is_reachable(nats):
    """An operator's tunnel reaches what was granted: not the gateway's other services."""
    _, bob, alice = our_three(nats)
    connect(alice, bob)
    address = bob.status()["address"]
    serve = (
        "import socket\n"
        "server = socket.create_server(('::', 2222), family=socket.AF_INET6)\n"
        "while True: server.accept()"
    )
    nats.gateway.popen([sys.executable, "-c", serve])
    probe = (
        "import socket,sys\n"
        "try: socket.create_connection((sys.argv[1],2222),1.0)\n"
        "except OSError as error: print(type(error).__name__)\nelse: print('open')"
    )
    deadline = time.monotonic() + 5
    while nats.gateway.run([sys.executable, "-c", probe, "::1"]).stdout.strip() != "open":
        assert time.monotonic() < deadline
    assert nats.operator.run([sys.executable, "-c", probe, address]).stdout.strip() != "open"


def test_the_standard_addresses_are_the_nats(nats):
    """What peers see of each other is the NAT's outside; nothing else could have been crossed."""
    _, bob, alice = our_three(nats)
    connect(alice, bob)
    assert TwoNats.NAT_A in alice.peer("bob")["path"]
    assert TwoNats.NAT_B in bob.peer("alice")["path"]
