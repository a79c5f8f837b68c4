"""A race: our engine and strongSwan with requests that meet on the way (RFC 7296 §2.8, §2.25).

Our side is the engine in this process, which sends and takes one datagram after the other as a
script says (tests/interop/machine.py), so both requests are on their way before either arrives. Our
nonces are chosen, so that ours or strongSwan's new SA has the lowest of the four. In the end both
sides have the same Child SAs, by their SPIs, and echoes pass in both directions.
"""

from __future__ import annotations

import contextlib
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agent.engine.entries import PeerEntry
from agent.ike.create_child_sa import CreateChild
from agent.ike.events import CloseReason
from agent.ike.informational import DeleteChild
from agent.ike.pad import ChildPolicy, Lifetimes, Peer, PskAuth
from agent.ike.settings import IkeSettings
from agent.ike.states import IkeState
from agent.ipsec import Grants
from agent.ipsec.spd import ALL
from agent.operations.lab import Lab, Namespace
from agent.wire.codes import ProtocolId
from agent.wire.payloads import Identification
from agent.wire.proposals import parse_proposals
from agent.wire.selectors import TrafficSelector
from tests.interop.ends import PEER_SECRET, Suite
from tests.interop.machine import Machine
from tests.lab.charon import Charon
from tests.lab.vici import ViciError
from tests.support.echoes import echo_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OURS, THEIRS = "203.0.113.1", "203.0.113.2"
PLAIN = Suite(ike="aes128gcm16-prfsha256-x25519", esp="aes128gcm16-x25519")
# Inner addresses: strongSwan's in 10.99.1.0/24, ours in 10.99.2.0/24; one pair a Child SA.
CHILDREN = {"one": 1, "two": 2}
SHORT = 3  # s: lifetimes of the connection whose rekeyings collide by themselves

CHILD_REKEY = "CREATE_CHILD_SA? N(REKEY_SA) SA No KE TSi TSr"
CHILD_CREATE = "CREATE_CHILD_SA? SA No KE TSi TSr"
CHILD_OK = "CREATE_CHILD_SA! SA No KE TSi TSr"
IKE_REKEY = "CREATE_CHILD_SA? SA No KE"
IKE_OK = "CREATE_CHILD_SA! SA No KE"
DELETE_CHILD = "INFORMATIONAL? D(ESP)"
DELETED_CHILD = "INFORMATIONAL! D(ESP)"
DELETE_IKE = "INFORMATIONAL? D(IKE)"
DELETED_IKE = "INFORMATIONAL!"
NOT_NOW = "CREATE_CHILD_SA! N(TEMPORARY_FAILURE)"
NOT_FOUND = "CREATE_CHILD_SA! N(CHILD_SA_NOT_FOUND)"


def _connection(name: str, suite: Suite, **more: object) -> dict[str, object]:
    children = {
        f"{name}-{child}": {
            "local_ts": f"10.99.1.{number}/32",
            "remote_ts": f"10.99.2.{number}/32",
            "esp_proposals": suite.esp,
            "rekey_time": 0,
            **({"rekey_time": SHORT, "life_time": 60, "rand_time": 0} if more else {}),
        }
        for child, number in CHILDREN.items()
    }
    return {
        "local": {"auth": "psk", "id": "them@example.org"},
        "remote": {"auth": "psk", "id": f"{name}@example.org"},
        "remote_addrs": OURS,
        "remote_port": 4500,
        "local_port": 4500,
        "children": children,
        "version": 2,
        "mobike": False,
        "proposals": suite.ike,
        "rekey_time": 0,
        **more,
    }


@contextmanager
def strongswan_beside_us(suite: Suite = PLAIN, *, newer: bool = False) -> Iterator[Charon]:
    """One strongSwan for all races, and a host beside it for us (`charon.lab`)."""
    with Lab("races") as lab:
        wire = lab.switch("wire")
        for name, address in (("us", OURS), ("them", THEIRS)):
            lab.connect(lab.namespace(name), "eth0", wire, [f"{address}/24"])
        them = lab.namespaces["them"]
        them.shell("".join(f"ip addr add 10.99.1.{n}/32 dev lo\n" for n in CHILDREN.values()))
        config = {
            "connections": {
                "race": _connection("race", suite),
                "short": _connection(
                    "short", suite, rekey_time=SHORT + 2, over_time=60, rand_time=0
                ),
            },
            "secrets": {"ike-all": {"secret": PEER_SECRET}},
        }
        yield Charon(
            them, lab.folder / "charon", config, retransmit_timeout=1.0, newer=newer
        ).start()


class Race:
    """We (a fresh engine) and strongSwan with Child SA `one`, and `two` if asked for."""

    def __init__(
        self,
        charon: Charon,
        role: str,
        *,
        name: str = "race",
        suite: Suite = PLAIN,
        two: bool = False,
        lifetimes: Lifetimes | None = None,
    ) -> None:
        self.charon = charon
        self.name = name
        self.role = role
        self.suite = suite
        self.us = Machine(
            _host(charon),
            OURS,
            self._entry(lifetimes or Lifetimes(ike_seconds=0, child_seconds=0)),
            name=name,
            ike_settings=IkeSettings(floor_interval=1.0),
        )
        self.number = 0
        try:
            self.connect()
            if two:
                self._initiate("two")
                self.agree(children=2)
        except BaseException:
            self.close()
            raise

    def _entry(self, lifetimes: Lifetimes) -> PeerEntry:
        esp = parse_proposals((self.suite.esp,), ProtocolId.ESP)
        peer = Peer(
            name="them",
            local_id=Identification.parse(f"{self.name}@example.org"),
            remote_id=Identification.parse("them@example.org"),
            local_auth=PskAuth(secret=PEER_SECRET.encode()),
            remote_auth=PskAuth(secret=PEER_SECRET.encode()),
            proposals=parse_proposals((self.suite.ike,), ProtocolId.IKE),
            child=ChildPolicy(
                name="net",
                local_ts=(TrafficSelector.parse("10.99.2.0/24"),),
                remote_ts=(TrafficSelector.parse("10.99.1.0/24"),),
                proposals=esp,
            ),
            lifetimes=lifetimes,
        )
        return PeerEntry(name="them", peer=peer, grants=Grants(ALL), host=THEIRS)

    def connect(self) -> None:
        if self.role == "initiator":
            self.us.do(lambda now: self.us.engine.connect("them", now))
        else:
            self._initiate("one")
        assert self.us.run(lambda: bool(self.us.spis())), self._state()
        self.agree()

    def close(self) -> None:
        """Let go of everything on both sides."""
        self.us.do(self.us.engine.close)
        self.us.run(lambda: not self.us.ike._by_spi, 2)
        self.us.close()

    def _initiate(self, child: str) -> None:
        self._vici("initiate", {"child": f"{self.name}-{child}", "timeout": -1})
        wanted = len(self.us.spis()) + 1
        assert self.us.run(lambda: len(self.us.spis()) == wanted), self._state()

    def _vici(self, command: str, message: dict[str, object]) -> None:
        with contextlib.suppress(ViciError):  # timeout -1: it does not wait, and says so
            self.charon.vici(command, message)

    # -- what both can do ------------------------------------------------------------------------

    def we(self, what: str, child: str = "one") -> None:
        us = self.us
        ike_id = us.sa.ike_id
        if what == "rekey ike":
            us.do(lambda now: us.ike.rekey_ike(ike_id, now))
        elif what == "close ike":
            us.do(lambda now: us.ike.close(ike_id, now))
        elif what == "rekey child":
            us.do(lambda now: us.ike.rekey_child(self.child(child).spi_in, now))
        elif what == "create child":
            us.do(lambda now: us.sa.submit(CreateChild(), now))
        else:
            task = DeleteChild(self.child(child), CloseReason.DELETED)
            us.do(lambda now: us.sa.submit(task, now))

    def they(self, what: str, child: str = "one") -> None:
        verb, _, target = what.partition(" ")
        command = {"rekey": "rekey", "close": "terminate", "create": "initiate"}[verb]
        which = {target: self.name if target == "ike" else f"{self.name}-{child}"}
        self._vici(command, {**which, **({} if verb == "rekey" else {"timeout": -1})})

    def child(self, name: str):
        """Ours of the pair whose addresses it has."""
        address = bytes((10, 99, 1, CHILDREN[name]))
        return next(
            child
            for child in self.us.sa.children.values()
            if any(ts.start <= address <= ts.end for ts in child.remote_ts)
        )

    def nonces(self, *, win: bool) -> None:
        """Our Ni, or our Nr, is the lowest possible nonce (two keys are drawn between them)."""
        low, high = bytes(32), b"\xff" * 32
        waiting = [high, b"", b"", low] if win else [low, b"", b"", high]
        source = self.us.ike.random
        self.us.ike.random = lambda n: (n == 32 and waiting and waiting.pop(0)) or source(n)

    # -- in the end ------------------------------------------------------------------------------

    def theirs(self) -> set[tuple[str, str]]:
        """As `Machine.spis`, if strongSwan has one IKE SA and nothing on its way; else nothing.

        DELETED is what it keeps for some seconds for packets that come late.
        """
        sas = [sa for sa in self.charon.sas() if sa["name"] == self.name]
        children = [child for sa in sas for child in sa.get("child-sas", {}).values()]
        children = [child for child in children if child["state"] != "DELETED"]
        if [sa["state"] for sa in sas] != ["ESTABLISHED"]:
            return set()
        if any(child["state"] != "INSTALLED" for child in children):
            return set()
        return {(child["spi-out"], child["spi-in"]) for child in children}

    def agree(self, children: int = 1) -> None:
        """The same IKE SA and Child SAs on both sides, and echoes both ways through each."""
        us = self.us

        def same() -> bool:
            # A spare one: strongSwan's threads may see our Delete of the old IKE SA before our
            # response to its own rekeying, and then know of no redundant one to delete (§2.8.2).
            states = {sa.state for sa in us.ike._by_spi.values()} - {IkeState.SPARE}
            alone = states == {IkeState.ESTABLISHED} and len(us.sas) == 1
            ours = us.spis()
            return alone and len(ours) == children and ours == self.theirs()

        assert us.run(same, 8), self._state()
        self._engine_knows()
        (theirs,) = (sa for sa in self.charon.sas() if sa["name"] == self.name)
        assert theirs["initiator-spi"] + theirs["responder-spi"] == us.sa.spis.hex()
        for number in {n for n in CHILDREN.values() if self._covers(n)}:
            self._echo(number)

    def _engine_knows(self) -> None:
        """What `status` and the tunnel device go by."""
        connection = self.us.engine._connections["them"]
        assert {spi.hex() for spi in connection.children} == {ours for ours, _ in self.us.spis()}

    def _covers(self, number: int) -> bool:
        address = bytes((10, 99, 1, number))
        children = self.us.sa.children or {}
        return any(ts.start <= address <= ts.end for c in children.values() for ts in c.remote_ts)

    def _echo(self, number: int) -> None:
        us = self.us
        own, other = bytes((10, 99, 2, number)), bytes((10, 99, 1, number))
        self.number += 1
        us.delivered.clear()
        us.do(lambda now: us.engine.receive_packets([echo_request(own, other, self.number)], now))
        assert us.run(lambda: any(p[20:21] == b"\0" for p in us.delivered), 3), self._state()
        command = ["ping", "-n", "-q", "-c", "1", "-W", "3", "-I", f"10.99.1.{number}"]
        ping = self.charon.host.popen([*command, f"10.99.2.{number}"])
        assert us.run(lambda: ping.poll() is not None, 5), self._state()
        assert ping.returncode == 0, self._state()

    def gone(self) -> None:
        """Neither side has anything left."""
        us = self.us
        assert us.run(
            lambda: not us.sas and all(sa["name"] != self.name for sa in self.charon.sas())
        ), self._state()

    def _state(self) -> str:
        return "\n".join(
            (
                *self.us.moved,
                f"ours: {self.us.spis()}, theirs: {self.charon.sas()}",
                f"events: {self.us.events[-5:]} drops: {self.us.engine.status(0).dropped}",
                self.charon.log[-5000:],
            )
        )


def _host(charon: Charon) -> Namespace:
    them = charon.host
    return Namespace("us", them.full.removesuffix("them") + "us", them.mark)


@contextmanager
def races(charon: Charon, role: str) -> Iterator[Callable[..., Race]]:
    """Makes races in one of our roles, and ends them."""
    made: list[Race] = []

    def make(**options) -> Race:
        made.append(Race(charon, role, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
        deadline = time.monotonic() + 5
        while any(sa["name"] == one.name for sa in charon.sas()):
            assert time.monotonic() < deadline, charon.log[-4000:]
            # It begins anew where a Child SA was still to be made.
            with contextlib.suppress(ViciError):
                charon.vici("terminate", {"ike": one.name, "force": "yes", "timeout": -1})
            time.sleep(0.02)
