"""CPU of a responder for one full handshake: ours against charon's.

The same initiator (one process of ours, `python -m tests.bench.handshake KEY COUNT`, in a namespace
behind a NAT) makes the same SA with both, one after the other without a pause: X25519, Ed25519 on
both sides, AES-GCM, one Child SA with its route, and the delete that ends it. Both log to a file
what they log by default. Processor time of the responder is the scheduler's, over all threads.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from agent.crypto.auth import SigningKey, parse_key_text
from agent.datagram import Address, Path, Transmit
from agent.ike.events import ChildSaEstablished, IkeSaClosed
from agent.ike.pad import ChildPolicy, KeyAuth, Peer
from agent.ike.settings import IkeSettings
from agent.ike.table import Ike
from agent.operations.lab import Lab, TwoNats
from agent.wire.codes import ProtocolId
from agent.wire.payloads import Identification
from agent.wire.proposals import parse_proposals
from agent.wire.selectors import TrafficSelector
from tests.bench.crowd import MARKER, Nobody
from tests.bench.machines import SERVER, cpu_seconds
from tests.interop.ends import (
    INNER,
    OURS,
    End,
    Suite,
    direct_ours,
    direct_strongswan,
    identity,
)
from tests.lab.daemon import CHECKOUT, public_text
from tests.lab.scenario import seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.ike.events import Output

WARM_UP = 20
BLOCKS = 5
SUITE = Suite(ike="aes128gcm16-prfsha256-x25519", esp="aes128gcm16")
SECONDS = 5.0  # one handshake that takes longer is a failure, not a measurement


class Initiator:
    """Makes SAs with bob and deletes them."""

    def __init__(self, key: bytes) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect((SERVER, 4500))
        host, port = self._socket.getsockname()
        self._path = Path(Address.parse(host, port), Address.parse(SERVER, 4500))
        self._ike = Ike(
            pad=Nobody(), random=os.urandom, settings=IkeSettings(), responder_extensions=()
        )
        self._peer = Peer(
            name="bob",
            local_id=Identification.parse(identity("alice")),
            remote_id=Identification.parse(identity("bob")),
            local_auth=SigningKey(seed("alice")),
            remote_auth=KeyAuth(public=key),
            proposals=parse_proposals([SUITE.ike], ProtocolId.IKE),
            child=ChildPolicy(
                name="bob",
                local_ts=(TrafficSelector.parse(f"{INNER['alice']}/32"),),
                remote_ts=(TrafficSelector.parse(f"{INNER['bob']}/32"),),
                proposals=parse_proposals([SUITE.esp], ProtocolId.ESP),
            ),
        )

    def once(self) -> None:
        """One SA from the first octet to its end."""
        ike_id = self._ike.connect(self._peer, self._path, time.monotonic())
        self._until(ChildSaEstablished)
        self._ike.close(ike_id, time.monotonic())
        self._until(IkeSaClosed)

    def _until(self, kind: type[Output]) -> None:
        deadline = time.monotonic() + SECONDS
        while True:
            found = False
            while (output := self._ike.poll_output()) is not None:
                if isinstance(output, Transmit):
                    self._socket.send(MARKER + output.data)
                elif isinstance(output, kind):
                    found = True
                elif isinstance(output, IkeSaClosed):
                    raise RuntimeError(f"the handshake failed: {output.reason} {output.detail}")
            if found:
                return
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            data = self._socket.recv(65536)
            if data.startswith(MARKER):
                self._ike.receive(self._path, data[4:], time.monotonic())


def main() -> None:
    """A line with a count on standard input: so many handshakes, then a line back."""
    initiator = Initiator(parse_key_text(sys.argv[1]))
    for line in sys.stdin:
        for _ in range(int(line)):
            initiator.once()
        print(json.dumps({"done": int(line)}), flush=True)


@contextlib.contextmanager
def responder(kind: str) -> Iterator[Callable[[int], float]]:
    """A responder and its initiator; what is yielded takes a count, gives processor ms for each."""
    with Lab(f"handshake-{kind}"[:20]) as lab:
        nats = TwoNats.build(lab)
        make = direct_ours if kind == OURS else direct_strongswan
        bob: End = make(
            nats.server, lab.folder / "bob", "bob", auth="ed25519", suite=SUITE, initiates=False
        )
        bob.start()
        pid = bob.agent.pid if kind == OURS else bob.charon.pid
        child = nats.operator.popen(
            [sys.executable, "-P", "-m", "tests.bench.handshake", public_text(seed("bob"))],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

        def spent(count: int) -> float:
            before = cpu_seconds(pid)
            _order(child, count)
            return (cpu_seconds(pid) - before) / count * 1000

        spent(WARM_UP)
        yield spent
        child.communicate()


def _order(child: subprocess.Popen[bytes], count: int) -> None:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b"%d\n" % count)
    child.stdin.flush()
    if not child.stdout.readline():
        raise RuntimeError("the initiator gave up")


def measure(count: int) -> dict[str, float]:
    """Milliseconds and their ratio: blocks of both in turn, so that other load hits both."""
    with responder(OURS) as ours, responder("strongswan") as charon:
        blocks = [(ours(count // BLOCKS), charon(count // BLOCKS)) for _ in range(BLOCKS)]
    return {
        "handshake_ms": round(statistics.median(mine for mine, _ in blocks), 2),
        "handshake_charon_ms": round(statistics.median(theirs for _, theirs in blocks), 2),
        "handshake_ratio": round(statistics.median(m / t for m, t in blocks), 2),
    }


if __name__ == "__main__":
    main()
