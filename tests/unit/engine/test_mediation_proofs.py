"""Every way in which a client and a mediation server prove themselves to each other.

Through configuration and authority, up to a tunnel between two clients. With strongSwan in either
place: tests/interop/test_mediation_auth.py.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from agent.crypto.auth import key_text
from agent.crypto.digest import sha256
from agent.crypto.signatures import KeyKind
from agent.engine.events import MediatorChanged
from agent.ike.certificates import requests
from agent.ike.pad import AnyKeyAuth, CertificateAuth
from agent.mediation.server_extension import ServerExtension
from agent.wire.codes import CertEncoding, NotifyType
from agent.wire.message import Header, Message
from agent.wire.payloads import Identification, NotifyPayload
from tests.support.certificates import issue
from tests.support.keys import private_key, private_key_pem, public_key_pem
from tests.support.network import Link, Network
from tests.support.pair import key_of
from tests.unit.engine.machines import SERVER, Machine

if TYPE_CHECKING:
    from agent.wire.payloads import CertreqPayload

ROOT = issue("root")
SUB = issue("sub", ROOT, ca=True)
HOSTS = {"cabin": "198.51.100.1", "laptop": "198.51.100.2"}
OTHER = {"cabin": "laptop", "laptop": "cabin"}
PROOFS = ("key", "key_file", "key_sha256", "ca_files")
FILES: dict[str, bytes] = {"root.pem": ROOT.pem}
for _name in ("cabin", "laptop", "ms"):
    FILES[f"{_name}.pub"] = public_key_pem(KeyKind.P256, _name)
    FILES[f"{_name}.key"] = private_key_pem(KeyKind.P256, _name)
    FILES[f"{_name}.rsa"] = private_key_pem(KeyKind.RSA, _name)
    issued = issue(_name, SUB, kind=KeyKind.RSA, names=(f"{_name}.example.org",))
    FILES[f"{_name}.pem"] = issued.pem + SUB.pem


def mismatches(*proofs: str) -> list[tuple[str, str]]:
    """What is given and what is wanted, where they are not the same key."""
    same_key = {"key_file", "key_sha256"}
    return [pair for pair in itertools.permutations(proofs, 2) if set(pair) != same_key]


def secret(name: str) -> str:
    return f"{name}-0123456789abcdef"


def theirs(proof: str, name: str, client: str = "") -> str:
    """How `name` is proven."""
    match proof:
        case "key":
            return f'key = "{key_text(key_of(f"mediation {name}").public)}"\n'
        case "key_file":
            return f'key_file = "{name}.pub"\n'
        case "key_sha256":
            spki = private_key(KeyKind.P256, name).spki
            return f'key_sha256 = "{sha256(spki).hex()}"\n'
        case "ca_files":
            return 'ca_files = "root.pem"\n'
        case _:
            return f'psk = "{secret(client or name)}"\n'


def own(proof: str, name: str) -> str:
    """What `name` proves itself with, and as whom."""
    named = f'local_id = "{name}.example.org"\n'
    match proof:
        case "key_file" | "key_sha256":
            return named + f'local_key_file = "{name}.key"\n'
        case "ca_files":
            chain = f'local_certificate_files = "{name}.pem"\n'
            return named + f'local_key_file = "{name}.rsa"\n{chain}'
        case _:
            return named


def machines(
    clients: str, server: str, *, at_the_server: str = "", shown: str = "", psk_both: bool = False
) -> tuple[Network, dict[str, Machine]]:
    """A server that proves itself by `server` and knows two clients, who prove `clients`.

    `at_the_server`: what the server wants of them instead; `shown`: what they want of it;
    `psk_both`: it proves their pre-shared key as well.
    """
    network = Network()
    config = f'[mediate]\naddress = "{SERVER}"\n{own(server, "ms")}'
    for name in HOSTS:
        config += (
            f'[mediate.peer.{name}]\nid = "{name}.example.org"\n'
            f"{theirs(at_the_server or clients, name)}{'psk_both = true' if psk_both else ''}\n"
            f'may_call = "{OTHER[name]}.example.org"\n'
        )
    found = {"ms": Machine("ms", SERVER, config=config, files=FILES)}
    for name, address in HOSTS.items():
        other = OTHER[name]
        found[name] = Machine(
            name,
            address,
            config=f'[mediator.main]\naddress = "{SERVER}"\nid = "ms.example.org"\n'
            f"{theirs(shown or server, 'ms', name)}{own(clients, name)}"
            f'[peer.{other}]\nkey = "{key_text(key_of(other).public)}"\nmediator = "main"\n'
            f'pseudonym = "{other}.example.org"\n',
            files=FILES,
        )
    for name, machine in found.items():
        address = HOSTS.get(name, SERVER)
        network.host(name, machine, (address, network.public), link=Link(delay=0.001))
    return network, found


def are_registered(found: dict[str, Machine]) -> bool:
    return all(found[name].mediator().state == "registered" for name in HOSTS)


@pytest.mark.parametrize(
    ("clients", "server"), [*itertools.product(PROOFS, PROOFS), ("psk", "psk")]
)
def test_a_tunnel_between_two_who_registered_by(clients, server):
    network, found = machines(clients, server, psk_both=clients == "psk")
    assert network.run(10, lambda: are_registered(found)), [m.events for m in found.values()]
    cabin, laptop = found["cabin"], found["laptop"]
    laptop.engine.connect("cabin", network.now)
    assert network.run(10, lambda: laptop.is_up("cabin") and cabin.is_up("laptop"))


@pytest.mark.parametrize(("given", "wanted"), mismatches(*PROOFS, "psk"))
def test_a_server_lets_in_by_the_configured_proof_alone(given, wanted):
    """Neither the right name nor another proof of the same machine opens the door."""
    server = "psk" if "psk" in (given, wanted) else "key"
    shown = "psk" if given == "psk" else "key"
    network, found = machines(given, server, at_the_server=wanted, shown=shown)
    network.run(8)
    assert not any(found[name].mediator().state == "registered" for name in HOSTS)
    assert found["ms"].engine.status(network.now).server.registered == 0


@pytest.mark.parametrize(("given", "wanted"), mismatches(*PROOFS))
def test_a_client_takes_no_other_server(given, wanted):
    network, found = machines("key", given, shown=wanted)
    network.run(8)
    for name in HOSTS:
        assert found[name].mediator().state != "registered"
        assert any(e.error for e in found[name].of(MediatorChanged))


# -- what a server is for those of our own kind --------------------------------------------------


@pytest.mark.parametrize("server", PROOFS)
def test_our_kind_knows_a_server_by_its_key_whatever_else_it_has(server):
    """Address and key, as `hearthgate mediate` printed them, are all that it needs."""
    network, found = machines("key", server)
    key = theirs("key", "ms")
    plain = Machine("plain", "198.51.100.3", config=f'[mediator.m]\naddress = "{SERVER}"\n{key}')
    network.host("plain", plain, ("198.51.100.3", network.public), link=Link(delay=0.001))
    assert network.run(10, lambda: plain.mediator().state == "registered"), plain.events
    assert network.run(10, lambda: are_registered(found))


def test_a_pseudonym_gets_no_certificate_of_the_server():
    """Who proves nothing but a key of its own making is shown the server's key alone."""
    _, found = machines("ca_files", "ca_files")
    engine = found["ms"].engine
    who = Identification.key_id(found["cabin"].keys.mediation.public)
    peer = engine._authority.find_peer(who, None, (ServerExtension(engine._server),))
    assert peer.certificates == ()
    assert peer.local_auth is engine._authority.server.key


# -- what a server asks for ----------------------------------------------------------------------


def asked(server: Machine, *payloads: NotifyPayload) -> tuple[CertreqPayload, ...]:
    header = Header(bytes(8), bytes(8), 34, is_initiator=True, is_response=False, message_id=0)
    return server.engine._authority.certificate_requests(Message(header, payloads))


def test_a_server_asks_for_what_its_peers_have_to_show():
    mediation = NotifyPayload(NotifyType.ME_MEDIATION)
    anchors = requests([CertificateAuth(anchors=(ROOT.certificate,))])
    in_band = requests([AnyKeyAuth(sha256=bytes(32))])
    assert in_band[0].encoding == CertEncoding.RAW_PUBLIC_KEY
    for proof, expected in (
        ("key", ()),
        ("psk", ()),
        ("key_file", ()),
        ("key_sha256", in_band),
        ("ca_files", anchors),
    ):
        _, found = machines(proof, "psk" if proof == "psk" else "key")
        assert asked(found["ms"], mediation) == expected
        assert asked(found["ms"]) == ()  # for those who come for a tunnel


def test_the_anchors_of_tunnels_are_none_of_the_mediation():
    server = Machine(
        "ms",
        SERVER,
        config='[mediate]\n[peer.x]\nid = "x"\nca_files = "root.pem"\nassign = "10.3.0.1"\n',
        files=FILES,
    )
    assert asked(server) == requests([CertificateAuth(anchors=(ROOT.certificate,))])
    assert asked(server, NotifyPayload(NotifyType.ME_MEDIATION)) == ()


def test_a_tunnel_and_a_registration_between_the_same_identities():
    """Each has a proof of its own, so neither takes the other's place."""
    tunnel, registration = secret("tunnel"), secret("registration")
    network = Network()
    network_of = {"ms": "10.1.0.0/24", "cabin": "10.2.0.0/24"}

    def peer(name: str, other: str) -> str:
        return (
            f'[peer.{other}]\nid = "{other}.example.org"\nlocal_id = "{name}.example.org"\n'
            f'psk = "{tunnel}"\nlocal_ts = "{network_of[name]}"\n'
            f'remote_ts = "{network_of[other]}"\n'
        )

    ms = Machine(
        "ms",
        SERVER,
        config=f'[mediate]\naddress = "{SERVER}"\nlocal_id = "ms.example.org"\n'
        f'[mediate.peer.cabin]\nid = "cabin.example.org"\npsk = "{registration}"\n'
        f"psk_both = true\n{peer('ms', 'cabin')}",
    )
    cabin = Machine(
        "cabin",
        HOSTS["cabin"],
        config=f'[mediator.main]\naddress = "{SERVER}"\nid = "ms.example.org"\n'
        f'local_id = "cabin.example.org"\npsk = "{registration}"\n'
        f'{peer("cabin", "ms")}address = "{SERVER}"\n',
    )
    for machine in (ms, cabin):
        address = (machine.hosts[0], network.public)
        network.host(machine.name, machine, address, link=Link(delay=0.001))
    assert network.run(5, lambda: cabin.mediator().state == "registered")
    cabin.engine.connect("ms", network.now)
    assert network.run(5, lambda: cabin.is_up("ms") and ms.is_up("cabin"))
    network.run(60)
    assert cabin.mediator().state == "registered"
    assert cabin.is_up("ms")
    assert (cabin.sas, ms.sas) == (2, 2)
