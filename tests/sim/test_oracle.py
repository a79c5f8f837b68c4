"""tshark, given the keys of `--keylog`, reads a session of each feature: one list of scenes.

A scene is two engines on the simulated network, what they are told, what they do, and the words
that tshark has to find. Not one message or ESP packet may stay sealed, not one field unknown or
malformed, but for those of `UNNAMED` (each with its reason) that the scene names.
To cover a further feature, add a scene. Those of the proofs are in test_oracle_proofs.

What tshark has no cipher for is opened by tests/support/recast.py and judged like the rest. The
mediation exchange (ME_CONNECT, exchange type 240, payload IDp, notifies 40962 to 40968) and our own
notifies are for private use: no tshark names them, so tests/sim/test_keylog.py judges them by their
framing, and that their numbers are just these. tests/interop/test_keylog.py does the same with
sockets and strongSwan.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from agent.crypto.ticket import TicketKey
from agent.datagram import Address, Path, Received, Transmit
from agent.engine.engine import Engine
from agent.engine.entries import PeerEntry
from agent.engine.events import Packets, ResolveWanted
from agent.ike.create_child_sa import CreateChild
from agent.ike.events import CloseReason
from agent.ike.informational import DeleteChild
from agent.ike.pad import ChildPolicy, KeyAuth, Lifetimes, Peer, Ppk, PskAuth
from agent.ike.redirect import gateway_factory, redirection, send_elsewhere
from agent.ike.resumption import TicketHolder
from agent.ike.settings import IkeSettings
from agent.ike.states import IkeState
from agent.ike.tickets import Tickets
from agent.ipsec.spd import ALL, Grants
from agent.wire.codes import CfgAttributeType, ProtocolId
from agent.wire.payloads import Identification
from agent.wire.proposals import parse_proposals
from agent.wire.redirect import GatewayId
from agent.wire.selectors import TrafficSelector
from tests.support.echoes import echo_reply, echo_request, is_request
from tests.support.network import Network
from tests.support.pair import key_of, seeded
from tests.support.recast import recast
from tests.support.tshark import UNNAMED, dissect, is_esp, pcap

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path as Folder

    from agent.ike.sa import IkeSa
    from tests.support.tshark import Verdict

PORT = 4500
IKE, ESP = "aes128gcm16-prfsha256-x25519", "aes128gcm16-x25519"
OUTER = {"a": "203.0.113.1", "b": "203.0.113.2"}
INNER = {"a": bytes((10, 1, 0, 1)), "b": bytes((10, 2, 0, 1))}
NETWORK = {"a": "10.1.0.0/24", "b": "10.2.0.0/24"}
VIRTUAL = bytes((10, 9, 0, 7))
TICKET_KEY = TicketKey(id=b"k" * 8, secret=b"s" * 32, since=1_800_000_000)


class End:
    """An engine as node of the network; it answers echoes."""

    def __init__(self, name: str, lines: list[str], peer: Peer, **options: Any) -> None:
        self.name = name
        self.peer = peer
        self.inner = INNER[name]
        self.delivered: list[bytes] = []
        self.key_log = lines.append
        self.options = options
        self.count = 0
        self.begin(1000.0)

    def begin(self, now: float) -> None:
        """Anew, as after a restart: nothing is known but what was configured."""
        self.count += 1
        self.engine = Engine(
            random=seeded(f"{self.name} {self.count}"),
            proposals=self.peer.proposals,
            enrol=lambda key, data: b"",
            key_log=self.key_log,
            **self.options,
        )
        other = "b" if self.name == "a" else "a"
        entry = PeerEntry(
            name="peer", peer=self.peer, grants=Grants(ALL), host=OUTER[other], port=PORT
        )
        self.engine.set_local_addresses([Address.parse(OUTER[self.name], PORT)], now)
        self.engine.set_peers([entry], now)

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
                case ResolveWanted(key=key):
                    remote = Address.parse(OUTER["b" if self.name == "a" else "a"], PORT)
                    self.engine.resolved(key, [Path(Address(bytes(4), PORT), remote)], now)
                case Packets(writes=writes):
                    for packet in (b"".join(w) for w in writes):
                        self.delivered.append(packet)
                        if is_request(packet):
                            self.engine.receive_packets([echo_reply(packet)], now)
        return sent

    @property
    def sas(self) -> list[IkeSa]:
        return [sa for sa in self.engine._ike.sas() if sa.state is IkeState.ESTABLISHED]


@dataclass(frozen=True)
class Scene:
    """`a` and `b` are changes of how each sees the other, `options` of both engines."""

    name: str
    act: Callable[[Stage], None]
    shows: tuple[str, ...] = ()
    ike: tuple[str, ...] = (IKE,)
    esp: tuple[str, ...] = (ESP,)
    a: dict[str, Any] = field(default_factory=dict)
    b: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    unnamed: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.name


class Stage:
    """Both ends on their network, and what a scene can let them do."""

    def __init__(self, scene: Scene) -> None:
        self.network = Network()
        self.lines: list[str] = []
        self.number = 0
        self.a, self.b = (
            End(name, self.lines, _peer(scene, name), **scene.options) for name in "ab"
        )
        for end in (self.a, self.b):
            self.network.host(end.name, end, (OUTER[end.name], self.network.public))

    def run(self, seconds: float) -> None:
        self.network.run(seconds)

    def do(self, verb: Callable[[float], object], *, seconds: float = 1.0) -> None:
        """Call an engine and let time pass."""
        verb(self.network.now)
        for end in (self.a, self.b):
            end.engine._settle(self.network.now)
        self.network.run(seconds)

    def connect(self) -> None:
        self.do(lambda now: self.a.engine.connect("peer", now))
        assert self.a.sas
        assert self.b.sas

    def echo(self) -> None:
        """Both ways."""
        for one, other in ((self.a, self.b), (self.b, self.a)):
            self.number += 1
            packet = echo_request(one.inner, other.inner, self.number)
            one.delivered.clear()
            self.do(lambda now, one=one, packet=packet: one.engine.receive_packets([packet], now))
            assert any(not is_request(p) for p in one.delivered)

    def rekey(self, end: End, *, ike: bool) -> None:
        before = end.sas[0].spis, set(end.sas[0].children or ())
        self.do(lambda now: end.engine.rekey("peer", now, ike=ike))
        after = end.sas[0].spis, set(end.sas[0].children or ())
        assert before[0] != after[0] if ike else not before[1] & after[1]

    def submit(self, end: End, task: Any) -> None:
        self.do(lambda now: end.sas[0].submit(task, now))

    def close(self) -> None:
        self.do(lambda now: self.a.engine.disconnect("peer", now))
        assert not self.a.sas
        assert not self.b.sas


def _peer(scene: Scene, name: str) -> Peer:
    other = "b" if name == "a" else "a"
    peer = Peer(
        name="peer",
        local_id=Identification.parse(f"{name}@example.org"),
        remote_id=Identification.parse(f"{other}@example.org"),
        local_auth=key_of(name),
        remote_auth=KeyAuth(public=key_of(other).public),
        proposals=parse_proposals(scene.ike, ProtocolId.IKE),
        child=ChildPolicy(
            name="net",
            local_ts=(TrafficSelector.parse(NETWORK[name]),),
            remote_ts=(TrafficSelector.parse(NETWORK[other]),),
            proposals=parse_proposals(scene.esp, ProtocolId.ESP),
        ),
        lifetimes=Lifetimes(ike_seconds=0, child_seconds=0),
        liveness_seconds=20.0,
    )
    changes = dict(scene.a if name == "a" else scene.b)
    if "child" in changes:
        changes["child"] = replace(peer.child, **changes["child"])  # type: ignore[type-var]
    return replace(peer, **changes)


# -- what they do --------------------------------------------------------------------------------


def ordinary(s: Stage) -> None:
    """Rekeyings from either side, liveness, a delete, and echoes between."""
    s.connect()
    s.echo()
    for end in (s.a, s.b):
        for ike in (False, True):
            s.rekey(end, ike=ike)
            s.echo()
    s.run(50)
    s.close()


def briefly(s: Stage) -> None:
    s.connect()
    s.echo()
    s.close()


def resumed(s: Stage) -> None:
    """b restarts, a comes back by ticket; then the ticket is refused, and it is a handshake."""
    holder, tickets = TicketHolder(), s.b.options["tickets"]
    path = Path(*(Address.parse(OUTER[name], PORT) for name in "ab"))
    for keys, by_ticket in (((TICKET_KEY,), False), ((TICKET_KEY,), True), ((), False)):
        tickets.keys = keys
        s.do(lambda now: s.a.engine._ike.connect(s.a.peer, path, now, (holder.extension,)))
        s.echo()
        assert holder.resumed is by_ticket
        s.b.begin(s.network.now)
        s.do(lambda now: s.a.sas[0].close(CloseReason.TIMEOUT, "", now))


def several_children(s: Stage) -> None:
    """Three of them and one too many; each rekeyed, one deleted; all inherited by a new IKE SA."""
    s.connect()
    for _ in range(3):
        s.submit(s.b, CreateChild())
    assert len(s.a.sas[0].children or ()) == 3
    s.rekey(s.a, ike=False)
    s.rekey(s.b, ike=True)
    s.echo()
    s.submit(s.a, DeleteChild(next(iter(s.a.sas[0].children.values())), CloseReason.DELETED))
    assert len(s.b.sas[0].children or ()) == 2
    s.echo()
    s.close()


def collisions(s: Stage) -> None:
    """All errors of §2.25."""
    s.connect()
    for ike in (False, True):

        def both(now: float, ike: bool = ike) -> None:
            for end in (s.a, s.b):
                end.engine.rekey("peer", now, ike=ike)

        s.do(both)
        s.echo()

    def crossing(now: float) -> None:
        s.a.engine.rekey("peer", now, ike=True)
        s.b.engine.rekey("peer", now, ike=False)

    s.do(crossing)
    s.b.sas[0].children.clear()
    s.rekey(s.a, ike=False)
    s.close()


def crash(s: Stage) -> None:
    """b restarts and shows its token; a believes it at once and connects anew."""
    s.connect()
    s.echo()
    s.rekey(s.a, ike=True)  # tokens for the new SPIs
    s.b.begin(s.network.now)
    spis = s.a.sas[0].spis
    number = echo_request(s.a.inner, s.b.inner, 99)
    s.do(lambda now: s.a.engine.receive_packets([number], now), seconds=5)
    s.run(10)
    assert s.a.sas[0].spis != spis
    s.echo()
    s.close()


def redirects(s: Stage) -> None:
    """In IKE_SA_INIT, in IKE_AUTH and on a living IKE SA; each time b sends a to b by its name."""
    gateway = GatewayId.of_host("gw.example.org")
    ike, once = s.b.engine._ike, [gateway]
    ike.first_contact = lambda path: once.pop() if once else None
    s.connect()
    s.echo()
    first = s.a.sas[0].spis
    s.do(lambda now: send_elsewhere(ike, s.b.sas[0].ike_id, redirection(gateway), now), seconds=3)
    assert [sa.spis for sa in s.a.sas] != [first]
    s.echo()
    s.close()
    told = [redirection(gateway)]
    elsewhere = gateway_factory(lambda sa: told.pop() if told else [])
    ike.attachment._responder = (elsewhere, *ike.attachment._responder)
    s.connect()
    s.echo()
    s.close()


def repeated_authentication(s: Stage) -> None:
    s.connect()
    spis = s.a.sas[0].spis
    s.echo()
    s.run(330)
    assert [sa.spis for sa in s.a.sas] != [spis]
    s.echo()
    s.close()


def refused(s: Stage) -> None:
    """The initiator is told why there is none."""
    s.do(lambda now: s.a.engine.connect("peer", now), seconds=3)
    s.do(lambda now: s.a.engine.disconnect("peer", now))
    assert not s.a.sas
    assert not s.b.sas


def virtual_address(s: Stage) -> None:
    s.a.inner = VIRTUAL
    briefly(s)


PPK = Ppk(id=b"the office", secret=b"p" * 32)
PSK = {"local_auth": PskAuth(secret=b"0" * 20), "remote_auth": PskAuth(secret=b"0" * 20)}
REKEYS = ("CREATE_CHILD_SA (36)", "REKEY_SA (16393)", "Delete (42)")

SCENES = [
    Scene("plain", ordinary, (*REKEYS, "INITIAL_CONTACT (16384)", "Digital Signature (14)")),
    Scene("preshared key", briefly, ("Shared Key Message Integrity Code (2)",), a=PSK, b=PSK),
    Scene("several Child SAs", several_children, (*REKEYS, "NO_ADDITIONAL_SAS (35)")),
    Scene(
        "collisions",
        collisions,
        (*REKEYS, "TEMPORARY_FAILURE (43)", "CHILD_SA_NOT_FOUND (44)"),
    ),
    Scene("no PFS", ordinary, REKEYS, esp=("aes128gcm16",)),
    Scene(
        "PPK",
        ordinary,
        ("USE_PPK (16435)", "PPK_IDENTITY (16436)"),
        a={"ppk": PPK},
        b={"ppk": PPK},
    ),
    Scene(
        "optional PPK that the responder lacks",
        briefly,
        ("USE_PPK (16435)",),
        a={"ppk": replace(PPK, required=False)},
    ),
    Scene(
        "redirect",
        redirects,
        ("REDIRECT_SUPPORTED (16406)", "REDIRECT (16407)", "REDIRECTED_FROM (16408)"),
    ),
    Scene(
        "crash detection",
        crash,
        ("QUICK_CRASH_DETECTION (16419)", "INVALID_IKE_SPI (4)", "INVALID_SPI (11)"),
        options={"restart_secret": b"r" * 32},
    ),
    Scene(
        "repeated authentication",
        repeated_authentication,
        ("AUTH_LIFETIME (16403)",),
        b={"auth_seconds": 330.0},
    ),
    Scene(
        "cookie",
        ordinary,
        ("COOKIE (16390)",),
        options={"ike_settings": IkeSettings(cookie_threshold=0)},
    ),
    Scene(
        "a wrong guess of the group",
        ordinary,
        ("INVALID_KE_PAYLOAD (17)",),
        ike=(IKE + "-ecp256",),
        esp=(ESP + "-ecp256",),
        b={"proposals": parse_proposals(("aes128gcm16-prfsha256-ecp256",), ProtocolId.IKE)},
    ),
    Scene(
        "virtual address",
        virtual_address,
        ("CFG_REQUEST (1)", "CFG_REPLY (2)", "INTERNAL_IP4_ADDRESS (1)"),
        a={
            "child": {"local_ts": (), "request_addresses": (CfgAttributeType.INTERNAL_IP4_ADDRESS,)}
        },
        b={"child": {"remote_ts": (TrafficSelector.host(VIRTUAL),), "assign": (VIRTUAL,)}},
    ),
    Scene(
        "narrowing",
        ordinary,
        a={"child": {"remote_ts": (TrafficSelector.parse("10.0.0.0/8"),)}},
        b={"child": {"remote_ts": (TrafficSelector.parse("10.1.0.0/30"),)}},
    ),
    Scene(
        "no common selectors",
        refused,
        ("TS_UNACCEPTABLE (38)",),
        b={"child": {"local_ts": (TrafficSelector.parse("10.3.0.0/24"),)}},
    ),
    Scene(
        "no common proposal",
        refused,
        ("NO_PROPOSAL_CHOSEN (14)",),
        b={"proposals": parse_proposals(("aes256-sha512-ecp521",), ProtocolId.IKE)},
    ),
    Scene(
        "a proof that is none",
        refused,
        ("AUTHENTICATION_FAILED (24)",),
        b={"remote_auth": KeyAuth(public=key_of("c").public)},
    ),
    Scene(
        "additional key exchanges",
        ordinary,
        (
            *("IKE_INTERMEDIATE (43)", "IKE_FOLLOWUP_KE (44)"),
            *("INTERMEDIATE_EXCHANGE_SUPPORTED (16438)", "ADDITIONAL_KEY_EXCHANGE (16441)"),
        ),
        ike=(f"{IKE}-ke1_ecp256-ke2_ecp384",),
        esp=(f"{ESP}-ke1_ecp256-ke2_ecp384",),
        unnamed=frozenset({"Transform ID: 19", "Transform ID: 20"}),
    ),
    Scene(
        "ML-KEM and fragments",
        ordinary,
        ("Fragment (53)", "IKEV2_FRAGMENTATION_SUPPORTED", "ML-KEM"),
        ike=(f"{IKE}-ke1_mlkem768",),
        esp=(f"{ESP}-ke1_mlkem768",),
        unnamed=frozenset({"Transform ID: 36"}),
    ),
    Scene(
        "ML-KEM-1024 and a PPK",
        ordinary,
        ("Fragment (53)", "PPK_IDENTITY (16436)", "IKE_FOLLOWUP_KE (44)"),
        ike=(f"{IKE}-ke1_mlkem1024",),
        esp=(f"{ESP}-ke1_mlkem1024",),
        a={"ppk": PPK},
        b={"ppk": PPK},
        unnamed=frozenset({"Transform ID: 37"}),
    ),
    *(
        Scene(f"{ike} {esp}", ordinary, ike=(ike,), esp=(esp,))
        for ike, esp in (
            ("aes128-sha256-ecp256", "aes128-sha256-ecp256"),
            ("aes256-sha384-ecp384", "aes256-sha384-esn"),
            ("aes256-sha512-ecp521", "aes256-sha512-modp3072"),
            ("aes128ccm8-prfsha256-modp2048", "aes128ccm8-x25519"),
            ("aes256ccm8-prfsha384-modp3072", "aes256ccm8-esn"),
            ("aes128ccm16-prfsha512-modp4096", "aes128ccm16-x25519"),
            ("aes256ccm16-prfsha256-x25519", "aes256ccm16-esn"),
            ("aes256gcm16-prfaesxcbc-x25519", "aes256gcm16-esn"),
            ("chacha20poly1305-prfsha256-x25519", "chacha20poly1305-x25519"),
            ("chacha20poly1305-prfaescmac-x25519", "chacha20poly1305-esn"),
        )
    ),
    Scene(
        "resumption",
        resumed,
        (
            *("IKE_SESSION_RESUME (38)", "TICKET_REQUEST (16410)", "TICKET_LT_OPAQUE (16409)"),
            *("TICKET_OPAQUE (16413)", "TICKET_NACK (16412)"),
        ),
        b={"gives_tickets": True},
        options={"tickets": Tickets(seeded("tickets"), lambda: TICKET_KEY.since)},
    ),
    Scene(
        "childless until asked for",
        briefly,
        options={"ike_settings": IkeSettings(announce_childless=True)},
    ),
]


def _marks(scene: Scene) -> tuple[pytest.MarkDecorator, ...]:
    return (pytest.mark.mlkem,) if any("mlkem" in text for text in scene.ike) else ()


@pytest.mark.parametrize(
    "scene", [pytest.param(scene, id=scene.name, marks=_marks(scene)) for scene in SCENES]
)
def test_tshark_reads_it_all(tmp_path, scene):
    judge(tmp_path, scene)


def judge(tmp_path: Folder, scene: Scene) -> Verdict:
    """Play the scene and let tshark judge it."""
    stage = Stage(scene)
    scene.act(stage)
    lines = list(dict.fromkeys(stage.lines))
    trace = [(at, p.source, p.destination, p.data) for at, _, p in stage.network.trace]
    datagrams, lines = recast(trace, lines)
    path = tmp_path / "capture.pcap"
    path.write_bytes(pcap(datagrams))
    verdict = dissect(tmp_path, path, lines)
    assert len(verdict.frames) == len(trace)
    assert verdict.sealed() == []
    assert scene.unnamed <= set(UNNAMED)
    assert verdict.unknown() <= scene.unnamed
    assert verdict.wrong() == []
    assert len(verdict.esp) == sum(is_esp(data) for *_, data in trace)
    for frame in verdict.esp:
        assert "[Good: True]" in frame
        assert "Echo (ping)" in frame
    text = "\n".join(verdict.ike)
    for words in scene.shows:
        assert words in text, words
    return verdict
