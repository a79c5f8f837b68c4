"""CPU of a responder for one full handshake: ours against charon's.

The same initiator (charon) makes the same SA with both: X25519, Ed25519 on both sides, AES-GCM, one
Child SA with its route. Processor time is the scheduler's, over all threads; deleting the SA again
is left out.
"""

from __future__ import annotations

import statistics
import time

from agent.operations.lab import Lab, TwoNats
from tests.bench.machines import cpu_seconds
from tests.interop.ends import OURS, STRONGSWAN, End, direct_ours, direct_strongswan

WARM_UP = 5
REST = 0.01  # seconds for what the responder does after its last answer


def responder_ms(kind: str, count: int, auth: str = "ed25519") -> float:
    """Milliseconds of processor time for each handshake."""
    with Lab("handshake") as lab:
        nats = TwoNats.build(lab)
        bob: End
        if kind == OURS:
            bob = direct_ours(nats.server, lab.folder / "bob", "bob", auth=auth, initiates=False)
        else:
            bob = direct_strongswan(
                nats.server, lab.folder / "bob", "bob", auth=auth, initiates=False, level=0
            )
        alice = direct_strongswan(
            nats.operator, lab.folder / "alice", "alice", auth=auth, initiates=True, level=0
        )
        bob.start()
        alice.start()
        pid = bob.agent.pid if kind == OURS else bob.charon.pid
        spent = []
        for _ in range(WARM_UP + count):
            before = cpu_seconds(pid)
            alice.connect()
            time.sleep(REST)
            spent.append(cpu_seconds(pid) - before)
            alice.delete()
            time.sleep(REST)
        return statistics.median(spent[WARM_UP:]) * 1000


def measure(count: int) -> dict[str, float]:
    """Milliseconds and their ratio."""
    mine, theirs = responder_ms(OURS, count), responder_ms(STRONGSWAN, count)
    return {
        "handshake_ms": round(mine, 2),
        "handshake_charon_ms": round(theirs, 2),
        "handshake_ratio": round(mine / theirs, 2),
    }
