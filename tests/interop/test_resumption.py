"""Session resumption (RFC 5723): our daemons in namespaces, and strongSwan without it."""

from __future__ import annotations

import json
import stat

import pytest

from tests.bench.machines import our_three
from tests.interop.ends import OURS, STRONGSWAN, mediated_ours, start_server
from tests.interop.test_ours import assert_echo, connect
from tests.lab.daemon import public_text
from tests.lab.scenario import seed

pytestmark = pytest.mark.netns


def resumed(daemon) -> bool:
    (mediator,) = daemon.json("status")["mediators"]
    return mediator["state"] == "registered" and mediator["resumed"]


def two(nats, auth):
    """alice and bob, registered under configured names."""
    hosts = {"alice": nats.operator, "bob": nats.gateway}
    ends = [
        mediated_ours(host, nats.lab.folder / name, name, auth=auth) for name, host in hosts.items()
    ]
    for end in ends:
        end.start()
        end.wait_registered()
    return [end.agent for end in ends]


def back(server, *daemons) -> None:
    server.wait("all back", lambda s: s["server"]["registered"] == len(daemons), 40.0)
    for daemon in daemons:
        daemon.wait_registered()


def test_the_mediator_is_killed_and_all_come_back_by_ticket(nats):
    """THREATS 31, 37. The tunnel between the two stays the very same one."""
    server, bob, alice = our_three(nats)
    connect(alice, bob)
    assert_echo(alice, bob)
    assert not resumed(alice)
    since = alice.peer("bob")["since"]
    server.kill()
    server.start()
    for each in (alice, bob):  # whoever says something to the mediator notices at once
        each.cli("invite", "guest")  # whom the mediator has to let through
    back(server, alice, bob)
    assert resumed(alice)
    assert resumed(bob)
    assert server.status()["server"]["resumed"] == 2
    assert "resumed by ticket" in alice.cli("status").stdout
    assert alice.peer("bob")["since"] > since
    assert_echo(alice, bob)
    keys = server.layout.ticket_keys
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    content = json.loads(keys.read_text())["content"]["keys"]
    assert len(content) == 1
    for daemon in (server, bob, alice):
        assert content[0]["secret"] not in daemon.log
    assert not alice.layout.ticket_keys.exists()


@pytest.mark.parametrize("gone", [True, False], ids=["removed", "another key"])
def test_who_is_revoked_does_not_come_back(nats, gone):
    """In the server's configuration alice has another key now, or is not there at all."""
    server = start_server(nats.server, nats.lab.folder / "ms", OURS, auth="ed25519")
    alice, bob = two(nats, "ed25519")
    config = server.layout.config.read_text()
    if gone:
        start, end = (config.index(f"[mediate.peer.{name}]") for name in ("alice", "bob"))
        config = config[:start] + config[end:]
    else:
        before, after = (public_text(seed(name)) for name in ("m-alice", "somebody"))
        assert before in config
        config = config.replace(before, after)
    server.kill()
    server.layout.config.write_text(config)
    server.start()
    for each in (alice, bob):  # whoever sends something notices at once
        each.cli("connect", "peer", check=False)
    alice.wait("refused", lambda s: "did not accept us" in s["mediators"][0]["error"], 40.0)
    server.wait("bob is back", lambda s: s["server"]["registered"] == 1, 40.0)
    assert resumed(bob)
    assert server.status()["server"]["resumed"] == 1


@pytest.mark.strongswan
@pytest.mark.parametrize("auth", ["psk", "ed25519"])
def test_strongswan_ignores_the_question(nats, auth):
    """5.9.8 reads TICKET_REQUEST, gives no ticket, and works on; so do we without one."""
    charon = start_server(nats.server, nats.lab.folder / "ms", STRONGSWAN, auth=auth)
    daemons = two(nats, auth)
    charon.wait_log(r"parsed IKE_AUTH request 1 \[.*N\(TKT_REQ\).*\]")
    assert "TKT" not in "".join(line for line in charon.log.splitlines() if "generating" in line)
    for daemon in daemons:
        assert not resumed(daemon)
        assert daemon.status()["mediators"][0]["state"] == "registered"
