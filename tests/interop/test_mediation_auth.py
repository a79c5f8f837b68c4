"""Registrations by keys of other kinds and by certificates, with strongSwan 5.9.8 in either place.

At each server one of the two clients is ours and the other strongSwan; all three prove themselves
in the same way, and both clients then call each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agent.crypto.signatures import KeyKind
from tests.interop.ends import (
    OTHER,
    OURS,
    STRONGSWAN,
    OurEnd,
    StrongswanEnd,
    assert_echo,
    mediated_ours,
    mediated_strongswan,
    pseudonym,
)
from tests.lab.charon import PLUGINS, Charon
from tests.lab.daemon import Hearthgate
from tests.lab.scenario import IKE, seed, server_connection
from tests.support.certificates import Issued, issue
from tests.support.keys import private_key_pem, public_key_pem

if TYPE_CHECKING:
    from agent.operations.lab import TwoNats

pytestmark = [pytest.mark.netns, pytest.mark.strongswan]

SERVER_ID = "ms@example.org"
NAMES = {"ms": SERVER_ID, "alice": pseudonym("alice"), "bob": pseudonym("bob")}
NOW = datetime.now(UTC).replace(microsecond=0)
VALID = {"begins": NOW - timedelta(days=1), "ends": NOW + timedelta(days=1)}
# What strongSwan needs for paths with more than one CA.
WITH_X509 = PLUGINS + " x509 constraints"


@dataclass(frozen=True)
class Proof:
    """How the server and both clients prove themselves: lines and files of each program."""

    kind: KeyKind

    def wanted(self, name: str) -> str:
        """Our line for how `name` is proven."""
        return f'key_file = "{name}.pub"\n'

    def own(self, name: str) -> str:
        """Our lines for what `name` proves itself with."""
        return f'local_key_file = "{name}.key"\n'

    def our_files(self, name: str) -> dict[str, bytes]:
        """Beside our configuration."""
        public = {f"{other}.pub": public_key_pem(self.kind, other) for other in NAMES}
        return {f"{name}.key": private_key_pem(self.kind, name), **public}

    def side(self, name: str) -> dict[str, Any]:
        """strongSwan's section for the proof of `name`, its own or another's."""
        return {"auth": "pubkey", "pubkeys": f"{name}-any", "id": NAMES[name]}

    def other_side(self, name: str) -> dict[str, Any]:
        """The same where `name` is another machine."""
        return self.side(name)

    @property
    def registration(self) -> dict[str, Any]:
        """More of strongSwan's mediation connection."""
        return {}

    def their_files(self, name: str) -> dict[str, bytes]:
        """In strongSwan's folder."""
        public = {f"pubkey/{other}-any": public_key_pem(self.kind, other) for other in NAMES}
        return {f"private/{name}-any": private_key_pem(self.kind, name), **public}


@dataclass(frozen=True)
class Certified(Proof):
    """Certificates of a CA between them and the root; their machines have different ones."""

    issued: dict[str, Issued] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        root = self.issued.setdefault("root", issue("root", kind=self.kind, **VALID))
        for name, who in NAMES.items():
            ca = self.issued[f"{name} ca"] = issue(
                f"{name} ca", root, kind=self.kind, ca=True, **VALID
            )
            self.issued[name] = issue(name, ca, kind=self.kind, names=(who,), **VALID)

    def wanted(self, name: str) -> str:
        return 'ca_files = "root.pem"\n'

    def own(self, name: str) -> str:
        return super().own(name) + f'local_certificate_files = "{name}.pem"\n'

    def our_files(self, name: str) -> dict[str, bytes]:
        own = self.issued[name]
        return {
            "root.pem": self.issued["root"].pem,
            f"{name}.key": own.key_pem,
            f"{name}.pem": own.pem + self.issued[f"{name} ca"].pem,
        }

    def side(self, name: str) -> dict[str, Any]:
        return {"auth": "pubkey", "certs": f"{name}.pem", "id": NAMES[name]}

    def other_side(self, name: str) -> dict[str, Any]:
        return {"auth": "pubkey", "cacerts": "root.pem", "id": NAMES[name]}

    @property
    def registration(self) -> dict[str, Any]:
        """strongSwan shows its certificate where it is asked for one, or always.

        Our answer to IKE_SA_INIT, of 1.1 times the size of the request, has no room to ask where
        the only proposal is a short one.
        """
        if self.kind is KeyKind.RSA:
            return {"send_cert": "always"}
        return {"proposals": f"{IKE},aes128gcm16-prfsha256-x25519"}

    def their_files(self, name: str) -> dict[str, bytes]:
        return {
            f"private/{name}-any": self.issued[name].key_pem,
            f"x509/{name}.pem": self.issued[name].pem,
            f"x509ca/{name}_ca.pem": self.issued[f"{name} ca"].pem,
            "x509ca/root.pem": self.issued["root"].pem,
        }


def start_server(nats: TwoNats, kind: str, proof: Proof) -> Charon | Hearthgate:
    folder = nats.lab.folder / "ms"
    if kind == STRONGSWAN:
        connections = {
            f"medsrv-{name}": server_connection(proof.other_side(name), proof.side("ms"))
            for name in OTHER
        }
        files = proof.their_files("ms")
        config = {"connections": connections}
        return Charon(nats.server, folder, config, files=files, plugins=WITH_X509).start()
    config = f'[mediate]\nlocal_id = "{SERVER_ID}"\n{proof.own("ms")}'
    for name, other in OTHER.items():
        config += (
            f'[mediate.peer.{name}]\nid = "{NAMES[name]}"\n{proof.wanted(name)}'
            f'may_call = ["{NAMES[other]}"]\n'
        )
    server = Hearthgate(
        nats.server, folder, config, identity=seed("ms-identity"), mediation=seed("ms")
    )
    write(server, proof.our_files("ms"))
    return server.start()


def write(agent: Hearthgate, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (agent.layout.config.parent / name).write_bytes(content)


def ours(nats: TwoNats, proof: Proof) -> OurEnd:
    """alice."""
    lines = proof.wanted("ms") + proof.own("alice")
    end = mediated_ours(
        nats.operator, nats.lab.folder / "alice", "alice", auth="ed25519", proof=lines
    )
    write(end.agent, proof.our_files("alice"))
    return end


def strongswan(nats: TwoNats, proof: Proof) -> StrongswanEnd:
    """bob."""
    return mediated_strongswan(
        nats.gateway,
        nats.lab.folder / "bob",
        "bob",
        auth="ed25519",
        proofs=(proof.side("bob"), proof.other_side("ms")),
        registration=proof.registration,
        files=proof.their_files("bob"),
        plugins=WITH_X509,
    )


PROOFS = {
    "ECDSA": Proof(KeyKind.P256),
    "RSA": Proof(KeyKind.RSA),
    "ECDSA certificate": Certified(KeyKind.P384),
    "RSA certificate": Certified(KeyKind.RSA),
}


@pytest.mark.parametrize("proof", PROOFS.values(), ids=PROOFS)
@pytest.mark.parametrize("server", [OURS, STRONGSWAN])
def test_registered_and_called(nats, server, proof):
    """RSA's chains do not fit into one datagram: fragments on mediation connections too."""
    ms = start_server(nats, server, proof)
    alice, bob = ours(nats, proof), strongswan(nats, proof)
    bob.start()
    alice.start()
    for end in (bob, alice):
        end.wait_registered()
    caller = alice if proof.kind is KeyKind.RSA else bob
    caller.connect()
    for end in (alice, bob):
        end.wait_up()
    assert_echo(alice, bob)
    assert "Traceback" not in alice.log + ms.log
    # Nothing but what is configured has proven anybody.
    logs = [end.log for end in (ms, bob) if isinstance(end, Charon | StrongswanEnd)]
    words = "RSA_EMSA" if proof.kind is KeyKind.RSA else "ECDSA_WITH_SHA"
    for log in logs:
        assert f"with {words}" in log, log
    if isinstance(proof, Certified):
        assert all("sending end entity cert" in log for log in logs)
        if proof.kind is KeyKind.RSA:
            assert all("splitting IKE message" in log for log in logs)
