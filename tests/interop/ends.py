"""The two kinds of machine behind one face, so that a test is written once for all combinations.

`alice` sits at the operator, `bob` at the gateway, `ms` is the mediation server. Each end has one
inner address; `auth` is "psk" or "ed25519" and holds for the registration as well as for the
tunnel. By "psk" a server of ours proves its key to strongSwan, and the PSK to who wants that.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.lab.charon import Charon
from tests.lab.daemon import Hearthgate, public_text
from tests.lab.scenario import (
    ESP,
    IKE,
    mediated_connection,
    mediation_connection,
    secret,
    seed,
    server_connection,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agent.operations.lab import Namespace

OURS, STRONGSWAN = "ours", "strongswan"
SERVER = "203.0.113.10"
INNER = {"alice": "10.99.2.1", "bob": "10.99.1.1"}
OTHER = {"alice": "bob", "bob": "alice"}
PEER_SECRET = secret("peer")


def pseudonym(name: str) -> str:
    return f"{name}@medsrv.org"


def identity(name: str) -> str:
    return f"{name}@example.org"


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Proposals in both spellings, of the IKE SA and the Child SA; empty: what is the default."""

    ike: str = IKE
    esp: str = ESP


GCM = Suite()
CBC = Suite(ike="aes256-sha256-ecp256", esp="aes128-sha256-x25519")


class OurEnd:
    """alice or bob running hearthgate; the peer's connection is called `peer`."""

    def __init__(
        self, host: Namespace, folder: Path, name: str, config: str, *, address: bool = True
    ) -> None:
        self.name = name
        self.host = host
        own = f'addresses = ["{INNER[name]}/32"]\n' if address else ""
        self.agent = Hearthgate(
            host,
            folder,
            own + config,
            identity=seed(name),
            mediation=seed(f"m-{name}"),
        )

    def start(self, *arguments: str) -> None:
        self.agent.start(*arguments)

    def wait_registered(self) -> None:
        self.agent.wait_registered()

    def connect(self) -> None:
        self.agent.ask("connect", peer="peer")

    def wait_up(self, seconds: float = 15.0) -> None:
        self.agent.wait_peer("peer", "up", seconds)

    def wait_down(self, seconds: float = 15.0) -> None:
        self.agent.wait(
            "down",
            lambda s: all(p["state"] != "up" for p in s["peers"] if p["name"] == "peer"),
            seconds,
        )

    def delete(self) -> None:
        self.agent.ask("disconnect", peer="peer")

    def rekey(self, what: str) -> None:
        self.agent.ask("rekey", peer="peer", ike=what == "ike")

    @property
    def log(self) -> str:
        return self.agent.log


class StrongswanEnd:
    """alice or bob running strongSwan; the connection and its child are called `peer`."""

    def __init__(self, host: Namespace, charon: Charon, name: str) -> None:
        self.name = name
        self.host = host
        self.charon = charon

    def start(self) -> None:
        # The inner address: kernel-libipsec routes from it, and echoes to it are answered.
        self.host.shell(f"ip addr add {INNER[self.name]}/32 dev lo\n")
        self.charon.start()

    def wait_registered(self) -> None:
        self.charon.wait_log(r"IKE_SA medsrv\[\d+\] established")

    def connect(self) -> None:
        self.charon.initiate("peer")

    def wait_up(self, seconds: float = 15.0) -> None:
        self.charon.wait_child("peer", seconds)

    def wait_down(self, seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while self.charon.children("peer") or self.charon.sa("peer"):
            assert time.monotonic() < deadline, self.charon.log[-4000:]
            time.sleep(0.02)

    def delete(self) -> None:
        self.charon.terminate("peer")

    def rekey(self, what: str) -> None:
        if what == "ike":
            self.charon.rekey(ike="peer")
        else:
            self.charon.rekey(child="peer")

    @property
    def log(self) -> str:
        return self.charon.log


End = OurEnd | StrongswanEnd


# --- without mediation -------------------------------------------------------------------------


def direct_ours(
    host: Namespace,
    folder: Path,
    name: str,
    *,
    auth: str,
    suite: Suite = GCM,
    initiates: bool,
    more: str = "",
    dynamic: bool = False,
) -> OurEnd:
    """Ours towards strongSwan; only the initiator knows an address.

    With `dynamic` the selector of the initiator's side is left to the virtual address.
    """
    address = f'address = "{SERVER}"\n' if initiates else ""
    ours, theirs = _single(name), _single(OTHER[name])
    if dynamic:
        ours, theirs = ("", theirs) if initiates else (ours, '["10.98.0.8/32"]')
    config = f"[peer.peer]\n{address}{_our_peer(name, auth, suite, ours, theirs)}{more}"
    return OurEnd(host, folder, name, config, address=not (dynamic and initiates))


def direct_strongswan(
    host: Namespace,
    folder: Path,
    name: str,
    *,
    auth: str,
    suite: Suite = GCM,
    initiates: bool,
    connection: dict[str, Any] | None = None,
    child: dict[str, Any] | None = None,
    sections: dict[str, Any] | None = None,
    **options: Any,
) -> StrongswanEnd:
    """strongSwan towards ours; `sections` are more of swanctl.conf."""
    other = OTHER[name]
    settings: dict[str, Any] = {
        "local": _strongswan_proof(name, identity(name), auth),
        "remote": _strongswan_proof(other, identity(other), auth),
        "children": {
            "peer": {
                "local_ts": f"{INNER[name]}/32",
                "remote_ts": f"{INNER[other]}/32",
                "esp_proposals": suite.esp or "default",
                **(child or {}),
            }
        },
        "version": 2,
        "mobike": False,
        "proposals": suite.ike or "default",
        **({"remote_addrs": SERVER} if initiates else {}),
        **(connection or {}),
    }
    config = {
        "connections": {"peer": settings},
        "secrets": {"ike-peer": {"id": identity(other), "secret": PEER_SECRET}},
        **(sections or {}),
    }
    charon = Charon(
        host, folder, config, private={name: seed(name)}, public={other: seed(other)}, **options
    )
    return StrongswanEnd(host, charon, name)


# --- mediated ----------------------------------------------------------------------------------


def mediated_ours(
    host: Namespace, folder: Path, name: str, *, auth: str, proof: str = "", suite: Suite = GCM
) -> OurEnd:
    """Ours, registered at the server under a configured name, by the lines `proof` if given."""
    other = OTHER[name]
    if not proof:
        proof = f'psk = "{secret(name)}"\n' if auth == "psk" else f"{_key_line('ms')}\n"
    config = (
        f'[mediator.medsrv]\naddress = "{SERVER}"\n'
        f'id = "ms@example.org"\nlocal_id = "{pseudonym(name)}"\n{proof}'
        f'[peer.peer]\nmediator = "medsrv"\npseudonym = "{pseudonym(other)}"\n'
        f"{_our_peer(name, auth, suite, _single(name), _single(other))}"
    )
    return OurEnd(host, folder, name, config)


def mediated_strongswan(
    host: Namespace,
    folder: Path,
    name: str,
    *,
    auth: str,
    suite: Suite = GCM,
    proofs: tuple[dict[str, Any], ...] | None = None,
    registration: dict[str, Any] | None = None,
    **options: Any,
) -> StrongswanEnd:
    """strongSwan, registered at the server by `proofs` (its own, the server's) if given.

    `registration` is more of the mediation connection.
    """
    other = OTHER[name]
    local, remote = proofs or registration_proofs(name, auth, auth)
    config = {
        "connections": {
            "medsrv": mediation_connection(local, remote, **(registration or {})),
            "peer": mediated_connection(
                _strongswan_proof(name, identity(name), auth),
                _strongswan_proof(other, identity(other), auth),
                pseudonym(other),
                local_ts=f"{INNER[name]}/32",
                remote_ts=f"{INNER[other]}/32",
                ike=suite.ike,
            ),
        },
        "secrets": {
            "ike-medsrv": {"id": pseudonym(name), "secret": secret(name)},
            "ike-peer": {"id": identity(other), "secret": PEER_SECRET},
        },
    }
    charon = Charon(
        host,
        folder,
        config,
        private={name: seed(name), f"m-{name}": seed(f"m-{name}")},
        public={other: seed(other), "ms": seed("ms")},
        **options,
    )
    return StrongswanEnd(host, charon, name)


def registration_proofs(name: str, client: str, server: str) -> tuple[dict[str, Any], ...]:
    """strongSwan's proof of itself to the server, and of the server."""
    return (
        _strongswan_proof(f"m-{name}", pseudonym(name), client),
        _strongswan_proof("ms", "ms@example.org", server),
    )


def start_server(
    host: Namespace,
    folder: Path,
    kind: str,
    *,
    auth: str,
    psk_both: Sequence[str] = (),
    newer: bool = False,
) -> Charon | Hearthgate:
    """The mediation server for alice and bob under their configured names, running.

    `psk_both`: to whom ours proves itself with the PSK as well.
    """
    if kind == STRONGSWAN:
        return _strongswan_server(host, folder, auth, newer).start()
    config = '[mediate]\nlocal_id = "ms@example.org"\n'
    for name in ("alice", "bob"):
        proof = f'psk = "{secret(name)}"' if auth == "psk" else _key_line(f"m-{name}")
        proof += "\npsk_both = true" if name in psk_both else ""
        config += (
            f'[mediate.peer.{name}]\nid = "{pseudonym(name)}"\n{proof}\n'
            f'may_call = ["{pseudonym(OTHER[name])}"]\n'
        )
    return Hearthgate(
        host, folder, config, identity=seed("ms-identity"), mediation=seed("ms")
    ).start()


def _strongswan_server(host: Namespace, folder: Path, auth: str, newer: bool) -> Charon:
    connections: dict[str, Any] = {}
    public = {}
    if auth == "psk":
        connections["medsrv"] = server_connection({"auth": "psk"}, {"auth": "psk"})
    else:
        for name in ("alice", "bob"):
            connections[f"medsrv-{name}"] = server_connection(
                {"auth": "pubkey", "pubkeys": f"m-{name}", "id": pseudonym(name)}
            )
            public[f"m-{name}"] = seed(f"m-{name}")
    secrets = {
        f"ike-{name}": {"id": pseudonym(name), "secret": secret(name)} for name in ("alice", "bob")
    }
    config = {"connections": connections, **({"secrets": secrets} if auth == "psk" else {})}
    return Charon(host, folder, config, private={"ms": seed("ms")}, public=public, newer=newer)


def _our_peer(name: str, auth: str, suite: Suite, ours: str = "", theirs: str = "") -> str:
    other = OTHER[name]
    proof = f'psk = "{PEER_SECRET}"' if auth == "psk" else _key_line(other)
    lines = [
        f'id = "{identity(other)}"',
        f'local_id = "{identity(name)}"',
        proof,
    ]
    lines += [f'proposals = ["{suite.ike}"]'] if suite.ike else []
    lines += [f'esp_proposals = ["{suite.esp}"]'] if suite.esp else []
    lines += [f"local_ts = {ours}"] if ours else []
    lines += [f"remote_ts = {theirs}"] if theirs else []
    return "\n".join(lines) + "\n"


def _single(name: str) -> str:
    return f'["{INNER[name]}/32"]'


def _key_line(name: str) -> str:
    return f'key = "{public_text(seed(name))}"'


def _strongswan_proof(name: str, who: str, auth: str) -> dict[str, Any]:
    if auth == "psk":
        return {"auth": "psk", "id": who}
    return {"auth": "pubkey", "pubkeys": name, "id": who}


def assert_echo(one: End, other: End) -> None:
    """An inner echo in each direction."""
    for here, there in ((one, other), (other, one)):
        assert here.host.ping(INNER[there.name], seconds=3.0), (
            f"no echo from {here.name} to {there.name}\n--- {one.name}\n{one.log[-4000:]}\n"
            f"--- {other.name}\n{other.log[-4000:]}"
        )
