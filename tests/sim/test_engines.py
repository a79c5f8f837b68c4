"""Whole engines on the simulated network: from `connect` to an inner echo and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest

from agent.crypto.keys import inner_address
from agent.datagram import Address, Path, Received, Transmit
from agent.engine.engine import Engine
from agent.engine.entries import MediatorEntry, PeerEntry, ServerEntry
from agent.engine.events import MediatorChanged, Packets, ResolveWanted, TunnelUp
from agent.ike.pad import ChildPolicy, KeyAuth, Peer
from agent.ipsec import Grants
from agent.wire.codes import ProtocolId
from agent.wire.payloads import Identification
from agent.wire.proposals import parse_proposals
from agent.wire.selectors import TrafficSelector
from tests.support.network import Network
from tests.support.pair import ike_proposals, key_of, seeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.wire.proposals import Proposal

T = TypeVar("T")
PORT = 4500
SERVER = Address.parse("203.0.113.10", PORT)
# X25519 alone for mediation, ML-KEM-768 besides between two ends, as by default.
HYBRID = ike_proposals("aes128gcm16-prfsha256-x25519-ke1_mlkem768", "aes128gcm16-prfsha256-x25519")
CIPHERS = parse_proposals(("aes128gcm16-esn",), ProtocolId.ESP)


class Box:
    """An engine as node of the network."""

    def __init__(
        self,
        name: str,
        *hosts: str,
        ike: tuple[Proposal, ...] | None = None,
        esp: tuple[Proposal, ...] = CIPHERS,
        key_log: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self.ike = ike or HYBRID
        self.esp = esp
        self.identity = key_of("identity " + name)
        self.mediation = key_of("mediation " + name)
        self.inner = inner_address(self.identity.public)
        self.events: list[object] = []
        self.delivered: list[bytes] = []
        self.engine = Engine(
            random=seeded(name),
            proposals=self.ike,
            enrol=lambda key, data: b"",
            key_log=key_log,
        )
        if hosts:
            addresses = [Address.parse(h, PORT) for h in hosts]
            self.engine.set_local_addresses(addresses, 1000.0)

    def of(self, kind: type[T]) -> list[T]:
        """The events of a class."""
        return [e for e in self.events if isinstance(e, kind)]

    def know(self, *others: Box, now: float, childless: bool = False) -> None:
        """`others` are peers with all rights, called through the mediator.

        With `childless` they are one-time identities, which may enrol and nothing else.
        """
        entries = [self._entry(other, childless=childless) for other in others]
        self.engine.set_peers(entries, now)

    def _entry(self, other: Box, *, childless: bool) -> PeerEntry:
        child = ChildPolicy(
            name="net",
            local_ts=(TrafficSelector(0, 0, 65535, self.inner, self.inner),),
            remote_ts=(TrafficSelector(0, 0, 65535, other.inner, other.inner),),
            proposals=self.esp,
        )
        peer = Peer(
            name=other.name,
            local_id=Identification.key_id(self.identity.public),
            remote_id=Identification.key_id(other.identity.public),
            local_auth=self.identity,
            remote_auth=KeyAuth(public=other.identity.public),
            proposals=self.ike,
            child=None if childless else child,
        )
        return PeerEntry(
            name=other.name,
            peer=peer,
            grants=Grants(),
            mediator="med",
            pseudonym=Identification.key_id(other.mediation.public),
            one_time=childless,
        )

    def register(self, server: Box, now: float, proposals: tuple[Proposal, ...] = ()) -> None:
        """Keep a registration at `server`."""
        peer = Peer(
            name="med",
            local_id=Identification.key_id(self.mediation.public),
            remote_id=Identification.key_id(server.mediation.public),
            local_auth=self.mediation,
            remote_auth=KeyAuth(public=server.mediation.public),
            proposals=proposals or (ike_proposals() if self.ike is HYBRID else self.ike),
        )
        entry = MediatorEntry(name="med", host="med.example.org", port=PORT, peer=peer)
        self.engine.set_mediators([entry], now)

    def receive(self, path: Path, data: bytes, now: float) -> None:
        """See Node."""
        self.engine.receive_datagrams([Received(path, data)], now)

    def next_timeout(self) -> float | None:
        """See Node."""
        return self.engine.next_timeout()

    def handle_timer(self, now: float) -> None:
        """See Node."""
        self.engine.handle_timer(now)

    def drain(self, now: float) -> list[Transmit]:
        """See Node."""
        sent = []
        while (output := self.engine.poll_output()) is not None:
            match output:
                case Transmit():
                    sent.append(output)
                case ResolveWanted(key=key, host=host):
                    # One name is used here; a server that takes over is told by its address.
                    found = Address.parse(host, PORT) if host[0].isdigit() else SERVER
                    self.engine.resolved(key, [Path(Address(bytes(4), PORT), found)], now)
                case Packets(writes=writes):
                    self.delivered += [b"".join(w) for w in writes]
                case _:
                    self.events.append(output)
        return sent


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total = int.from_bytes(data + b"\0" * (len(data) % 2), "big") % 65535
    return 65535 - total


def echo(source: bytes, destination: bytes, kind: int) -> bytes:
    """An ICMPv6 echo request (128) or reply (129)."""
    body = bytes((kind, 0, 0, 0)) + b"\x00\x01\x00\x01" + b"hearthgate"
    pseudo = source + destination + len(body).to_bytes(4, "big") + b"\0\0\0\x3a"
    body = body[:2] + checksum(pseudo + body).to_bytes(2, "big") + body[4:]
    header = b"\x60\0\0\0" + len(body).to_bytes(2, "big") + b"\x3a\x40"
    return header + source + destination + body


def registered() -> tuple[Network, Box, Box]:
    """Two that know each other, each behind a NAT, at a server of ours."""
    network = Network()
    server = Box("server")
    server.engine.serve(
        ServerEntry(
            key=server.mediation,
            local_id=Identification.key_id(server.mediation.public),
            proposals=ike_proposals(),
        )
    )
    network.host("server", server, ("203.0.113.10", network.public))
    a, b = Box("a", "192.168.1.10"), Box("b", "192.168.2.10")
    for index, box, other in ((1, a, b), (2, b, a)):
        nat = network.nat(f"198.51.100.{index}")
        network.host(box.name, box, (f"192.168.{index}.10", nat.inside))
        box.know(other, now=network.now)
        box.register(server, network.now)
    assert network.run(
        10, lambda: all(any(e.state == "registered" for e in x.of(MediatorChanged)) for x in (a, b))
    )
    return network, a, b


def test_connect_to_first_echo_in_half_a_second() -> None:
    """With ML-KEM-768: its round trip of 80 ms included."""
    network, a, b = registered()
    network.run(1)
    started = network.now
    a.engine.connect("b", network.now)
    assert network.run(5, lambda: bool(a.of(TunnelUp))), a.events
    a.engine.receive_packets([echo(a.inner, b.inner, 128)], network.now)
    assert network.run(5, lambda: bool(b.delivered))
    b.engine.receive_packets([echo(b.inner, a.inner, 129)], network.now)
    assert network.run(5, lambda: bool(a.delivered))
    assert network.now - started < 0.5
    network.run(600)  # nobody loses it
    a.delivered.clear()
    b.engine.receive_packets([echo(b.inner, a.inner, 128)], network.now)
    assert network.run(5, lambda: bool(a.delivered))


@pytest.mark.parametrize(
    ("offered", "accepted"),
    [
        pytest.param(HYBRID, HYBRID, marks=pytest.mark.mlkem),
        (HYBRID, HYBRID[1:]),
        (HYBRID[1:], HYBRID),
    ],
)
def test_a_mediator_of_our_own_may_have_ml_kem_too(
    offered: tuple[Proposal, ...], accepted: tuple[Proposal, ...]
) -> None:
    """Only where both are told so: by default mediation connections do without (strongSwan)."""
    network = Network()
    server, a = Box("server"), Box("a", "192.168.1.10")
    server.engine.serve(
        ServerEntry(
            key=server.mediation,
            local_id=Identification.key_id(server.mediation.public),
            proposals=accepted,
        )
    )
    network.host("server", server, ("203.0.113.10", network.public))
    network.host("a", a, ("192.168.1.10", network.nat("198.51.100.1").inside))
    a.register(server, network.now, offered)
    assert network.run(10, lambda: any(e.state == "registered" for e in a.of(MediatorChanged)))
    (sa,) = a.engine._ike.sas()
    assert sa.suite is not None
    assert sa.suite.additional_groups == ((36,) if offered == accepted else ())


@pytest.mark.mlkem
def test_status_says_what_was_negotiated() -> None:
    network, a, b = registered()
    a.engine.connect("b", network.now)
    assert network.run(5, lambda: bool(a.of(TunnelUp)))
    for box in (a, b):
        (peer,) = box.engine.status(network.now).peers
        assert peer.suite == "aes128gcm16-prfsha256-x25519-ke1_mlkem768"
