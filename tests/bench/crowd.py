"""Ten thousand peers that register at one mediator: what each costs there, and each lookup.

The server is our daemon in a namespace of its own; the crowd is one process with one IKE SA and one
key for each peer (`python -m tests.bench.crowd SERVER KEY COUNT`, run in another namespace), which
registers them over the network as peers do, a few at a time, from several networks, as the server
takes so many from one only. Its answers are JSON lines.
Lookups: each of a hundred peers asks for somebody who is not there, once among few and once
among all. Returns: the same peers lose their registrations and come back, by ticket (RFC 5723) and
by a full handshake in turns.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from agent.crypto.auth import SigningKey, parse_key_text
from agent.datagram import Address, Path, Transmit
from agent.ike.events import CloseReason
from agent.ike.pad import KeyAuth, Peer
from agent.ike.resumption import TicketHolder
from agent.ike.settings import IkeSettings
from agent.ike.table import Ike
from agent.mediation.client import MediationClient
from agent.mediation.events import Registered
from agent.mediation.identity import accept_hash
from agent.mediation.settings import MediationSettings
from agent.operations.lab import Lab, TwoNats
from agent.profiles import OUR_IKE
from agent.wire.payloads import Identification
from tests.bench.machines import SERVER, cpu_seconds, our_server, rss_mb, settled
from tests.lab.daemon import Hearthgate, public_text
from tests.lab.scenario import seed

if TYPE_CHECKING:
    from agent.wire.message import Message
    from agent.wire.proposals import Proposal

WINDOW = 8  # registrations under way; more from one network would have to show cookies
WARM_UP = 200  # the server's first peers pay for its tables and caches
ASKERS = 100
RETURNERS = 200  # at once; each three times by ticket and three times without
ROUNDS = 3
MARKER = bytes(4)
KNOWN = 4  # pseudonyms that each peer accepts
NETWORKS = [f"198.18.{number}.1" for number in range(1, 9)]


class Crowd:
    """The peers, in one process."""

    def __init__(self, server: str, key: bytes) -> None:
        self._sockets = dict(_connected(host, server) for host in NETWORKS)
        self._paths = itertools.cycle(self._sockets)
        self._key = key
        self._ike = Ike(
            pad=Nobody(), random=os.urandom, settings=IkeSettings(), responder_extensions=()
        )
        self._clients: list[MediationClient] = []
        self._of: dict[int, MediationClient] = {}
        self._peers: list[tuple[Peer, TicketHolder, int]] = []  # with its IKE SA
        self._proposals = OUR_IKE

    def grow(self, count: int) -> int:
        """Register `count` more; returns how many there are."""
        registered, started = 0, 0
        under_way: set[str] = set()
        while registered < count:
            while started < count and len(under_way) < WINDOW:
                under_way.add(self._start())
                started += 1
            self._exchange()
            for name in [n for n in under_way if self._clients[int(n)].registered]:
                under_way.discard(name)
                registered += 1
        return len(self._clients)

    def resume(self, count: int) -> int:
        """The last `count` peers lose their SAs and come back; returns how many by ticket."""
        return self._return(count, by_ticket=True)

    def again(self, count: int) -> int:
        """The same without tickets."""
        return self._return(count, by_ticket=False)

    def _return(self, count: int, *, by_ticket: bool) -> int:
        resumed = 0
        for index in range(len(self._clients) - count, len(self._clients)):
            peer, holder, ike_id = self._peers[index]
            sa = self._ike.sa(ike_id)
            assert sa is not None
            sa.close(CloseReason.TIMEOUT, "", time.monotonic())
            if not by_ticket:
                holder.stored = None
            self._connect(index, peer, holder)
            while not self._clients[index].registered:
                self._exchange()
            resumed += holder.resumed
        return resumed

    def ask(self, count: int) -> int:
        """The last `count` peers each ask for somebody unknown; returns how many were answered."""
        asked = [*self._of.items()][-count:]
        for ike_id, client in asked:
            attempt = client.connect(Identification.key_id(os.urandom(32)), time.monotonic())
            self._send()
            sa = self._ike.sa(ike_id)
            while sa is not None and sa.outgoing.task is not None:
                self._exchange()
            client.abandon(attempt)
        return len(asked)

    def _start(self) -> str:
        name = str(len(self._clients))
        key = SigningKey.generate(os.urandom)
        client = MediationClient(
            name=name,
            random=os.urandom,
            settings=MediationSettings(),
            accepts=lambda who: False,
            answers=lambda who, connect_id: False,
        )
        client.bind(self._ike)
        known = [Identification.key_id(os.urandom(32)) for _ in range(KNOWN)]
        client.set_accepts(frozenset(map(accept_hash, known)), time.monotonic())
        self._clients.append(client)
        peer = Peer(
            name=name,
            local_id=Identification.key_id(key.public),
            remote_id=Identification.key_id(self._key),
            local_auth=key,
            remote_auth=KeyAuth(public=self._key),
            proposals=self._proposals,
            liveness_seconds=3600,
        )
        self._peers.append((peer, TicketHolder(), 0))
        self._connect(len(self._clients) - 1, peer, self._peers[-1][1])
        return name

    def _connect(self, index: int, peer: Peer, holder: TicketHolder) -> None:
        client = self._clients[index]
        extensions = (client.extension, holder.extension)
        path, now = next(self._paths), time.monotonic()
        self._of.pop(self._peers[index][2], None)
        ike_id = self._ike.connect(peer, path, now, extensions=extensions)
        self._peers[index] = (peer, holder, ike_id)
        self._of[ike_id] = client
        self._send()

    def _exchange(self) -> bool:
        """Take what has come (returns whether anything has), and send what follows from it."""
        ready = select.select(self._sockets.values(), [], [], 0.02)[0]
        now = time.monotonic()
        for path, sock in self._sockets.items():
            if sock in ready and (data := sock.recv(65536)).startswith(MARKER):
                self._ike.receive(path, data[4:], now)
        self._ike.handle_timer(now)
        self._send()
        return bool(ready)

    def _send(self) -> None:
        while (output := self._ike.poll_output()) is not None:
            if isinstance(output, Transmit):
                self._sockets[output.path].send(MARKER + output.data)
        for client in self._clients[-2 * ASKERS :]:
            while (event := client.poll_output()) is not None:
                assert not isinstance(event, Registered) or event.client


def _connected(host: str, server: str) -> tuple[Path, socket.socket]:
    """A socket with the address `host`, and its path to the server."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    sock.connect((server, 4500))
    port = sock.getsockname()[1]
    return Path(Address.parse(host, port), Address.parse(server, 4500)), sock


class Nobody:
    """The crowd answers nobody."""

    def responder_proposals(self, path: Path, request: Message) -> tuple[Proposal, ...]:
        return ()

    def find_peer(self, *_: object) -> None:
        return None


def main() -> None:
    """Commands on standard input: `grow N`, `ask N`, `resume N`, `again N`; one JSON line each."""
    crowd = Crowd(sys.argv[1], parse_key_text(sys.argv[2]))
    for line in sys.stdin:
        verb, number = line.split()
        print(json.dumps({verb: getattr(crowd, verb)(int(number))}), flush=True)


class Remote:
    """The crowd's process, seen from the measurement."""

    def __init__(self, lab: Lab, nats: TwoNats, server: Hearthgate) -> None:
        host = lab.namespace("crowd")
        addresses = [f"{address}/32" for address in NETWORKS]
        lab.connect(host, "eth0", nats.internet, ["203.0.113.20/24", *addresses])
        nats.server.shell("ip route add 198.18.0.0/16 via 203.0.113.20\n")
        command = [sys.executable, "-m", "tests.bench.crowd", SERVER, public_text(seed("ms"))]
        self._child = host.popen(
            command, env=server.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def do(self, verb: str, number: int) -> int:
        """Carry out one command; returns its answer."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{verb} {number}\n".encode())
        self._child.stdin.flush()
        return int(json.loads(self._child.stdout.readline())[verb])

    def close(self) -> None:
        """End it by closing its input."""
        self._child.communicate()


def measure(count: int) -> dict[str, object]:
    """kB per peer, microseconds of the server's processor per lookup among few and among all."""
    with Lab("crowd") as lab:
        nats = TwoNats.build(lab)
        server = our_server(nats.server, lab.folder / "ms").start()
        crowd = Remote(lab, nats, server)
        crowd.do("grow", WARM_UP)
        settled(0.3)
        few = _lookup_us(crowd, server.pid)
        before, cpu, started = rss_mb(server.pid), cpu_seconds(server.pid), time.monotonic()
        crowd.do("grow", count)
        seconds, cpu = time.monotonic() - started, cpu_seconds(server.pid) - cpu
        settled(0.3)
        each = (rss_mb(server.pid) - before) * 1024 / count
        registered = server.status()["server"]["registered"]
        many = _lookup_us(crowd, server.pid)
        returns = _returns(crowd, server.pid)
        crowd.close()
        server.kill()  # its goodbyes to so many would take their time
    return {
        "peers": registered,
        "peer_kb": round(each, 2),
        "register_cpu_ms": round(cpu / count * 1000, 2),
        "registrations_per_s": round(count / seconds),
        "lookup_us": {"among few": few, "among all": many},
        **returns,
    }


def _returns(crowd: Remote, pid: int) -> dict[str, float]:
    """Milliseconds of the server's processor for a peer that comes back by ticket, and the ratio

    to one that comes back by a handshake.
    """
    spent = {"resume": 0.0, "again": 0.0}
    for _ in range(ROUNDS):
        for verb in spent:
            before = cpu_seconds(pid)
            resumed = crowd.do(verb, RETURNERS)
            spent[verb] += cpu_seconds(pid) - before
            if resumed != (RETURNERS if verb == "resume" else 0):
                raise RuntimeError(f"{verb}: {resumed} came back by ticket")
    return {
        "resume_cpu_ms": round(spent["resume"] / ROUNDS / RETURNERS * 1000, 2),
        "resume_ratio": round(spent["resume"] / spent["again"], 2),
    }


def _lookup_us(crowd: Remote, pid: int) -> int:
    before = cpu_seconds(pid)
    crowd.do("ask", ASKERS)
    return round((cpu_seconds(pid) - before) / ASKERS * 1e6)


if __name__ == "__main__":
    main()
