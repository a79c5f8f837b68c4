"""Connect command to first inner echo: 20 ms one way per NAT, both port-restricted.

The operator's daemon is registered before; each round is a laboratory of its own, so that no
mapping is left open. Bound by round trips: 0.40 s.
"""

from __future__ import annotations

import statistics
import threading
import time

from agent.operations.lab import Lab, TwoNats
from tests.bench.machines import Echo, our_three
from tests.interop.ends import INNER
from tests.interop.test_strongswan_alone import start_three
from tests.lab.routers import two_user_nats

OPTIONS = ("--delay", "20", "--mapping", "ei", "--filtering", "apd")


def ours() -> float:
    """Seconds of one round of ours."""
    with Lab("connect") as lab:
        nats = two_user_nats(lab, *OPTIONS)
        _, bob, alice = our_three(nats)
        echo = Echo(nats.operator, bob.status()["address"])
        return _timed(lambda: alice.ask("connect", peer="bob"), echo)


def strongswan() -> float:
    """Seconds of one round of strongSwan alone."""
    with Lab("connect") as lab:
        nats = two_user_nats(lab, *OPTIONS)
        _, _, operator = start_three(nats)
        echo = Echo(nats.operator, TwoNats.GATEWAY)
        return _timed(lambda: operator.initiate("peer"), echo)


def _timed(command, echo: Echo) -> float:
    """The command waits for the tunnel; the echo may well be back before it returns."""
    started = time.monotonic()
    asking = threading.Thread(target=command)
    asking.start()
    at = echo.first()
    asking.join()
    return at - started


def measure(rounds: int) -> dict[str, float]:
    """Medians of both and their ratio."""
    mine = statistics.median(ours() for _ in range(rounds))
    theirs = statistics.median(strongswan() for _ in range(rounds))
    return {
        "echo_s": round(mine, 3),
        "echo_strongswan_s": round(theirs, 3),
        "echo_ratio": round(mine / theirs, 3),
    }


__all__ = ["INNER", "measure"]
