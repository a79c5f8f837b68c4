"""Redirect (RFC 5685) with strongSwan 5.9.8, and a mediation server of ours that is drained.

strongSwan as a client follows redirects in IKE_SA_INIT and INFORMATIONAL; one in IKE_AUTH ends
charon 5.9.8 (double free), strongSwan 6 follows it too. As a gateway it has `swanctl --redirect`,
and no more without a plugin.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from agent.engine.entries import PeerEntry
from agent.ike.pad import ChildPolicy, Peer, PskAuth
from agent.ike.redirect import gateway_factory, redirection
from agent.ipsec import Grants
from agent.ipsec.spd import ALL
from agent.operations.lab import PUBLIC
from agent.wire.codes import ProtocolId
from agent.wire.payloads import Identification
from agent.wire.proposals import parse_proposals
from agent.wire.redirect import GatewayId
from agent.wire.selectors import TrafficSelector
from tests.bench.machines import our_three
from tests.interop.ends import (
    GCM,
    INNER,
    OURS,
    PEER_SECRET,
    SERVER,
    StrongswanEnd,
    assert_echo,
    direct_ours,
    direct_strongswan,
    identity,
    mediated_strongswan,
    start_server,
)
from tests.interop.machine import Machine
from tests.lab.daemon import Hearthgate, public_text
from tests.lab.scenario import seed
from tests.lab.vici import ViciError

if TYPE_CHECKING:
    from pathlib import Path

    from agent.operations.lab import Namespace, TwoNats

pytestmark = [pytest.mark.netns, pytest.mark.strongswan]

SECOND = f"{PUBLIC}.20"
INTERVAL = 0.02


def second_host(nats: TwoNats) -> Namespace:
    """One more machine in public."""
    host = nats.lab.namespace("second")
    nats.lab.connect(host, "eth0", nats.internet, [f"{SECOND}/24"])
    return host


class Pinging:
    """Echoes through a tunnel while something else happens."""

    def __init__(self, host: Namespace, folder: Path, address: str) -> None:
        self._said = folder / f"ping-{address.replace(':', '-')}"
        self._started = time.monotonic()
        with self._said.open("wb") as said:
            self._process: subprocess.Popen[bytes] = host.popen(
                ["ping", "-i", str(INTERVAL), "-W", "2", address], stdout=said, stderr=said
            )

    def lost(self) -> int:
        """How many of those until now were not answered; ends it.

        Not ping's own count: what is under way when it ends is lost to it. An answer to an echo
        of after this call is waited for, and each one before that must have one too.
        """
        now = time.monotonic()
        later = int((now - self._started) / INTERVAL) + 3  # ping may send one ahead of its time
        while not (answered := self._answered()) or max(answered) < later:
            assert time.monotonic() < now + 5, self._said.read_text()
            time.sleep(INTERVAL)
        self._process.send_signal(2)
        self._process.wait(5)
        assert len(answered) > 10, answered
        return max(answered) - len(answered)

    def _answered(self) -> set[int]:
        """Numbers of the echoes, which begin at 1, that came back."""
        whole = self._said.read_text().rpartition("\n")[0]
        return {int(number) for number in re.findall(r"bytes from .*icmp_seq=(\d+)", whole)}


def mediators(agent: Hearthgate) -> list[tuple[str, str]]:
    return [(m["state"], m["address"]) for m in agent.status()["mediators"]]


def wait_at(agent: Hearthgate, host: str, seconds: float = 10.0) -> None:
    there = ("registered", f"{host}:4500")
    agent.wait(
        f"at {host}",
        lambda s: [(m["state"], m["address"]) for m in s["mediators"]] == [there],
        seconds,
    )


# -- ours alone ----------------------------------------------------------------------------------


def test_a_mediator_is_drained_and_no_tunnel_is_lost(nats):
    server, bob, alice = our_three(nats)
    folder = nats.lab.folder
    second = Hearthgate(
        second_host(nats), folder / "ms2", "[mediate]\n", mediation=seed("ms2")
    ).start()
    alice.ask("connect", peer="bob")
    bob.wait_peer("alice", "up")
    before = {name: agent.peer(name)["since"] for name, agent in (("bob", alice), ("alice", bob))}
    pings = [
        Pinging(alice.host, folder, bob.status()["address"]),
        Pinging(bob.host, folder, alice.status()["address"]),
    ]
    other = f"{SECOND}#{public_text(seed('ms2'))}"
    done = server.cli("mediate", "--drain", other)
    assert re.match(rf"2 moved to {SECOND}:4500 in \d", done.stdout), done.stdout + done.stderr
    for agent in (alice, bob):
        assert mediators(agent) == [("registered", f"{SECOND}:4500")]
        assert f"at {SECOND}:4500 (instead of {SERVER}:4500)" in agent.cli("status").stdout
    assert server.stop() == 0
    time.sleep(0.5)
    assert [ping.lost() for ping in pings] == [0, 0]
    for name, agent in (("bob", alice), ("alice", bob)):
        status = agent.peer(name)
        assert status["state"] == "up"
        assert status["since"] > before[name]  # it is the same tunnel
    assert second.status()["server"]["registered"] == 2
    # The old server is off; who starts anew is at the other one, and is called there.
    bob.kill()
    bob.start()
    wait_at(bob, SECOND)
    alice.wait_peer("bob", "up")
    alice.ask("disconnect", peer="bob")
    alice.ask("connect", peer="bob")
    assert alice.host.ping(bob.status()["address"], seconds=3.0), alice.log[-3000:]


def test_who_comes_to_a_drained_mediator_is_sent_on(nats):
    server, bob, alice = our_three(nats)
    second = Hearthgate(
        second_host(nats), nats.lab.folder / "ms2", "[mediate]\n", mediation=seed("ms2")
    )
    other = f"{SECOND}#{public_text(seed('ms2'))}"
    assert alice.stop() == 0
    done = server.cli("mediate", "--drain", "nonsense", check=False)
    assert (done.returncode, "HOST#KEY" in done.stderr) == (65, True)
    done = server.cli("mediate", "--drain", f"{SERVER}#{public_text(seed('ms'))}", check=False)
    assert (done.returncode, "this very" in done.stderr) == (65, True)
    second.start()
    server.ask("drain", address=SECOND, key=other.partition("#")[2])
    wait_at(bob, SECOND)
    alice.start()
    wait_at(alice, SECOND)
    shown = server.cli("status").stdout
    assert f"draining to {SECOND}:4500: 2 moved" in shown
    done = bob.cli("mediate", "--drain", other, check=False)
    assert done.returncode == 69
    assert "no mediation server" in done.stderr


def waiting_for_drain(server: Hearthgate, other: str) -> subprocess.Popen[bytes]:
    """`mediate --drain`, which has told its first line."""
    process = server.host.popen(
        [*server.argv, "mediate", "--drain", other],
        env=server.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert b"0 moved, 2 left" in process.stderr.readline()
    return process


def test_a_drain_that_leads_nowhere_is_left_and_another_one_begun(nats):
    server, bob, alice = our_three(nats)
    second = Hearthgate(
        second_host(nats), nats.lab.folder / "ms2", "[mediate]\n", mediation=seed("ms2")
    ).start()
    key = public_text(seed("ms2"))
    left = waiting_for_drain(server, f"{PUBLIC}.77#{key}")
    left.send_signal(signal.SIGINT)
    _, said = left.communicate(timeout=10)
    assert (left.returncode, b"goes on sending" in said, b"Traceback" in said) == (130, True, False)
    assert f"draining to {PUBLIC}.77:4500: 0 moved" in server.cli("status").stdout

    overtaken = waiting_for_drain(server, f"{PUBLIC}.77#{key}")
    done = server.cli("mediate", "--drain", f"{SECOND}#{key}")
    assert f"2 moved to {SECOND}:4500" in done.stdout
    _, said = overtaken.communicate(timeout=10)
    assert overtaken.returncode == 75
    assert f"sent to {SECOND}:4500 now" in said.decode()
    for agent in (alice, bob):
        assert mediators(agent) == [("registered", f"{SECOND}:4500")]

    second.kill()  # in the middle of what comes now
    assert server.stop() == 0
    server.start()  # drained no more
    assert "draining" not in server.cli("status").stdout
    wait_at(alice, SERVER, 90.0)
    wait_at(bob, SERVER, 90.0)
    alice.ask("connect", peer="bob")
    bob.wait_peer("alice", "up")


# -- strongSwan as gateway -----------------------------------------------------------------------


def test_strongswan_redirects_us_on_a_living_sa(nats):
    folder = nats.lab.folder
    host = second_host(nats)
    alice = direct_ours(nats.operator, folder / "alice", "alice", auth="ed25519", initiates=True)
    gateways = [
        direct_strongswan(ns, folder / name, "bob", auth="ed25519", initiates=False, **more)
        for ns, name, more in ((nats.server, "bob", {}), (host, "bob2", {}))
    ]
    for end in (*gateways, alice):
        end.start()
    alice.connect()
    assert alice.agent.peer("peer")["path"] == f"{SERVER}:4500"
    ping = Pinging(alice.host, folder, INNER["bob"])
    time.sleep(0.4)
    gateways[0].charon.vici("redirect", {"ike": "peer", "gateway": SECOND})
    alice.agent.wait(
        "at the other gateway", lambda s: s["peers"][0]["path"] == f"{SECOND}:4500", 5.0
    )
    gateways[1].wait_up()
    assert alice.host.ping(INNER["bob"], seconds=3.0), alice.log[-3000:]
    gateways[0].wait_down()
    lost = ping.lost()
    assert lost <= 5, lost  # those that were on their way to the other machine
    assert "N(REDIR_FROM)" in gateways[1].log


def test_strongswan_is_redirected_in_ike_sa_init(nats):
    """By a server that shares an address with others; to the second machine, with the same key."""
    folder, host = nats.lab.folder, second_host(nats)
    anycast = f'[mediate]\naddress = "{SECOND}"\nanycast = ["{SERVER}"]\n'
    first = direct_ours(
        nats.server, folder / "bob", "bob", auth="ed25519", initiates=False, more=anycast
    )
    second = direct_ours(host, folder / "bob2", "bob", auth="ed25519", initiates=False)
    alice = direct_strongswan(
        nats.operator, folder / "alice", "alice", auth="ed25519", initiates=True
    )
    for end in (first, second, alice):
        end.start()
    alice.connect()
    second.wait_up()
    assert_echo(alice, second)
    assert "parsed IKE_SA_INIT response 0 [ N(REDIR) ]" in alice.log
    assert first.agent.peer("peer")["state"] == "idle"


@pytest.mark.newer
def test_strongswan_6_is_redirected_in_ike_auth(nats):
    """What ends charon 5.9.8. By an engine, since our daemon spares strongSwan that (see below)."""
    folder, host = nats.lab.folder, second_host(nats)
    first = Machine(nats.server, SERVER, gateway(), name="first")
    told = [redirection(GatewayId.of_host(SECOND))]
    attachment = first.ike.attachment
    elsewhere = gateway_factory(lambda sa: told.pop() if told else [])
    attachment._responder = (elsewhere, *attachment._responder)
    second = direct_ours(host, folder / "bob2", "bob", auth="psk", initiates=False)
    alice = direct_strongswan(
        nats.operator,
        folder / "alice",
        "alice",
        auth="psk",
        initiates=True,
        connection={"local_port": 4500, "remote_port": 4500},
        newer=True,
    )
    for end in (second, alice):
        end.start()
    with contextlib.suppress(ViciError):  # timeout -1: it does not wait, and says so
        alice.charon.vici("initiate", {"child": "peer", "timeout": -1})
    with contextlib.closing(first):
        assert first.run(lambda: bool(alice.charon.children("peer")), 10), alice.log
        assert first.run(lambda: not first.sas), first.moved
    assert "us --> them: IKE_AUTH! IDr AUTH N(REDIRECT)" in first.moved
    second.wait_up()
    assert_echo(alice, second)


def gateway() -> PeerEntry:
    """How bob sees alice."""
    auth = PskAuth(secret=PEER_SECRET.encode())
    peer = Peer(
        name="alice",
        local_id=Identification.parse(identity("bob")),
        remote_id=Identification.parse(identity("alice")),
        local_auth=auth,
        remote_auth=auth,
        proposals=parse_proposals((GCM.ike,), ProtocolId.IKE),
        child=ChildPolicy(
            name="net",
            local_ts=(TrafficSelector.parse(f"{INNER['bob']}/32"),),
            remote_ts=(TrafficSelector.parse(f"{INNER['alice']}/32"),),
            proposals=parse_proposals((GCM.esp,), ProtocolId.ESP),
        ),
    )
    return PeerEntry(name="alice", peer=peer, grants=Grants(ALL))


# -- strongSwan as client ------------------------------------------------------------------------


class Servers:
    """Two of ours under one identity and key, as strongSwan wants it (RFC 5685 §3)."""

    def __init__(self, nats: TwoNats) -> None:
        folder = nats.lab.folder
        self.second_host = second_host(nats)
        self.first = start_server(nats.server, folder / "ms", OURS, auth="ed25519")
        self.second = start_server(self.second_host, folder / "ms2", OURS, auth="ed25519")
        self.alice: StrongswanEnd = mediated_strongswan(
            nats.operator, folder / "alice", "alice", auth="ed25519"
        )

    def drain(self) -> None:
        self.first.ask("drain", address=SECOND, key=public_text(seed("ms")))

    def wait_at_the_second(self) -> None:
        deadline = time.monotonic() + 10
        while self.second.status()["server"]["registered"] != 1:
            assert time.monotonic() < deadline, self.alice.log[-6000:]
            time.sleep(0.02)
        assert self.alice.charon.sa("medsrv")["remote-host"] == SECOND


def test_strongswan_comes_to_a_drained_mediator(nats):
    """Not in IKE_AUTH but right after: nothing tells 5.9.8, which ends over it, from others."""
    servers = Servers(nats)
    servers.drain()
    servers.alice.start()
    servers.wait_at_the_second()
    assert servers.first.status()["server"]["registered"] == 0
    assert "N(REDIR)" not in "".join(re.findall("parsed IKE_AUTH.*", servers.alice.log))


def test_strongswan_is_redirected_on_a_living_sa(nats):
    servers = Servers(nats)
    servers.alice.start()
    servers.alice.wait_registered()
    servers.drain()
    servers.wait_at_the_second()
    assert servers.first.status()["server"]["registered"] == 0
