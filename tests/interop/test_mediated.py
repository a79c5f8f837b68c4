"""All combinations of {ours, strongSwan} as server, initiator and responder that have us in them.

Each through two nftables NATs, with PSK and with Ed25519, up to an inner echo in both directions.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

import pytest

from tests.interop.ends import (
    OURS,
    SERVER,
    STRONGSWAN,
    End,
    assert_echo,
    mediated_ours,
    mediated_strongswan,
    registration_proofs,
    start_server,
)
from tests.lab.daemon import Hearthgate, public_text
from tests.lab.scenario import seed

if TYPE_CHECKING:
    from agent.operations.lab import TwoNats

pytestmark = [pytest.mark.netns, pytest.mark.strongswan]

COMBINATIONS = [
    kinds
    for kinds in itertools.product((OURS, STRONGSWAN), repeat=3)
    if kinds != (STRONGSWAN, STRONGSWAN, STRONGSWAN)  # that one is test_strongswan_alone.py
]


def make_end(nats: TwoNats, kind: str, name: str, auth: str, server: str) -> End:
    host = nats.operator if name == "alice" else nats.gateway
    folder = nats.lab.folder / name
    if kind == OURS:
        return mediated_ours(host, folder, name, auth=auth)
    # As in strongSwan's own examples: whoever proves a PSK has the server prove its key.
    shown = "ed25519" if server == OURS else auth
    return mediated_strongswan(
        host, folder, name, auth=auth, proofs=registration_proofs(name, auth, shown)
    )


@pytest.mark.parametrize("auth", ["psk", "ed25519"])
@pytest.mark.parametrize(("server", "initiator", "responder"), COMBINATIONS)
def test_a_tunnel_through_two_nats(nats, server, initiator, responder, auth):
    kinds = {"alice": initiator, "bob": responder}
    both = [name for name in kinds if auth == "psk" and kinds[name] == OURS]
    start_server(nats.server, nats.lab.folder / "ms", server, auth=auth, psk_both=both)
    bob = make_end(nats, responder, "bob", auth, server)
    alice = make_end(nats, initiator, "alice", auth, server)
    for end in (bob, alice):
        end.start()
    for end in (bob, alice):
        end.wait_registered()
    alice.connect()
    for end in (alice, bob):
        end.wait_up()
    assert_echo(alice, bob)


def test_strongswan_passes_over_what_only_our_own_kind_takes(nats):
    """Without `local_id` a client takes the server for one of our kind, and offers ML-KEM.

    charon 5.9.8 has none, and minds neither the proposals nor N(HG_MEDIATION).
    """
    server = start_server(nats.server, nats.lab.folder / "ms", STRONGSWAN, auth="ed25519")
    bob = Hearthgate(
        nats.gateway,
        nats.lab.folder / "bob",
        f'[mediator.medsrv]\naddress = "{SERVER}"\nkey = "{public_text(seed("ms"))}"\n'
        'id = "ms@example.org"\n',
        mediation=seed("m-bob"),
    ).start()
    server.wait_log("parsed IKE_AUTH request 1")  # by a name that it does not know here
    assert re.search(r"parsed IKE_SA_INIT request 0 .*N\(ME_MED\) N\(\(41005\)\)", server.log)
    assert re.search("selected proposal: IKE:.*/CURVE_25519$", server.log, re.MULTILINE)
    assert bob.stop() == 0
