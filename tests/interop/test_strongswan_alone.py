"""strongSwan with strongSwan, mediated through two NATs: proof of the harness.

What fails here is the laboratory, never us: none of our code but the NATs is in it. 20 ms one way
per side, because without any delay its initiator loses a race against itself about once in a
hundred times: an answer that comes right behind the server's response may be taken by a thread that
is faster than the response's, and finds no checklist (`HEAD_START` in agent/mediation/settings.py).
Where our side takes part it keeps them apart, so the kernel's NATs are for test_mediated.py.
"""

from __future__ import annotations

import pytest

from agent.operations.lab import TwoNats
from tests.lab.charon import Charon
from tests.lab.routers import two_user_nats
from tests.lab.scenario import mediated_connection, mediation_connection, seed, server_connection

pytestmark = [pytest.mark.netns, pytest.mark.strongswan]


def psk_secrets(*names: str) -> dict:
    return {f"ike-{n}": {"id": f"{n}@medsrv.org", "secret": f"sec-{n}"} for n in names}


def start_three(nats: TwoNats) -> tuple[Charon, Charon, Charon]:
    """(server, gateway "bob", operator "alice"), both registered."""
    folder = nats.lab.folder
    server = Charon(
        nats.server,
        folder / "server",
        {
            "connections": {"medsrv": server_connection({"auth": "psk"})},
            "secrets": psk_secrets("alice", "bob"),
        },
        private={"ms": seed("ms")},
    ).start()
    peers = []
    for host, name, other, own_ts, other_ts in (
        (nats.gateway, "bob", "alice", TwoNats.GATEWAY, TwoNats.OPERATOR),
        (nats.operator, "alice", "bob", TwoNats.OPERATOR, TwoNats.GATEWAY),
    ):
        config = {
            "connections": {
                "medsrv": mediation_connection(
                    {"auth": "psk", "id": f"{name}@medsrv.org"},
                    {"auth": "pubkey", "pubkeys": "ms", "id": "ms@example.org"},
                ),
                "peer": mediated_connection(
                    {"auth": "pubkey", "pubkeys": name, "id": f"{name}@example.org"},
                    {"auth": "pubkey", "pubkeys": other, "id": f"{other}@example.org"},
                    f"{other}@medsrv.org",
                    local_ts=f"{own_ts}/32",
                    remote_ts=f"{other_ts}/32",
                ),
            },
            "secrets": psk_secrets(name),
        }
        peers.append(
            Charon(
                host,
                folder / name,
                config,
                private={name: seed(name)},
                public={other: seed(other), "ms": seed("ms")},
            ).start()
        )
    for peer in peers:
        peer.wait_log(r"IKE_SA medsrv\[\d+\] established")
    return server, peers[0], peers[1]


def test_two_peers_meet_through_two_nats(lab):
    nats = two_user_nats(lab, "--delay", "20")
    _, gateway, operator = start_three(nats)
    assert not nats.operator.ping(TwoNats.GATEWAY, seconds=0.3)
    operator.initiate("peer")
    gateway.wait_child("peer")
    assert nats.operator.ping(TwoNats.GATEWAY)
    assert nats.gateway.ping(TwoNats.OPERATOR)
    sa = operator.sa("peer")
    assert sa is not None
    assert sa["remote-host"] == TwoNats.NAT_A
