"""Resident memory of an idle gateway with one serial device, of an operator, and of their parts.

Also the time from the start of `hearthgate run` to registered, without network delay.
"""

from __future__ import annotations

import os
import pty
import statistics
import subprocess
import sys
import time

from agent.operations.lab import Lab, TwoNats
from tests.bench.machines import our_peer, our_server, rss_mb, settled
from tests.lab.daemon import CHECKOUT, Hearthgate

DEVICE = """
[device.boiler]
type = "serial"
port = "{port}"
listen = 7001
"""
# Each stage is a process of its own that imports what stands here and the stages before it.
PARTS = (
    ("python", "pass"),
    ("asyncio without ssl", "import sys; sys.modules['ssl'] = None; import asyncio"),
    ("cryptography", "import agent.crypto.algorithms, agent.crypto.kex, agent.crypto.auth"),
    ("wire and ike", "import agent.ike.table"),
    ("mediation and ipsec", "import agent.mediation.client, agent.ipsec"),
    ("daemon", "import agent.serve"),
    ("serial services", "import agent.services, agent.io.serial"),
)


def parts() -> dict[str, float]:
    """What each stage adds, MB."""
    found, before, lines = {}, 0.0, []
    for name, line in PARTS:
        lines.append(line)
        script = "\n".join([*lines, "print('ready', flush=True); input()"])
        with subprocess.Popen(
            [sys.executable, "-P", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": ""},
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            now = rss_mb(child.pid)
            child.communicate(b"\n")
        found[name] = round(now - before, 1)
        before = now
    return found


def measure(rounds: int) -> dict[str, object]:
    """Memory in MB and start in seconds."""
    master, slave = pty.openpty()
    try:
        with Lab("idle") as lab:
            nats = TwoNats.build(lab)
            folder = lab.folder
            server = our_server(nats.server, folder / "ms").start()
            device = DEVICE.format(port=os.ttyname(slave))
            bob = our_peer(nats.gateway, folder / "bob", "bob", "alice", device)
            starts = [_start(bob) for _ in range(rounds)]
            bob.start()
            alice = our_peer(nats.operator, folder / "alice", "alice", "bob").start()
            for each in (bob, alice):
                each.wait_registered()
            settled()
            memory = {
                "idle_rss_mb": rss_mb(bob.pid),
                "operator_rss_mb": rss_mb(alice.pid),
                "mediator_rss_mb": rss_mb(server.pid),
            }
            alice.ask("connect", peer="bob")
            settled()
            memory["connected_rss_mb"] = rss_mb(bob.pid)
    finally:
        os.close(master)
        os.close(slave)
    return {
        **{key: round(value, 1) for key, value in memory.items()},
        "parts_mb": parts(),
        "start_s": round(statistics.median(starts), 3),
    }


def _start(agent: Hearthgate) -> float:
    """Seconds from the start of the process to the line that says registered."""
    position = len(agent.log)
    started = time.monotonic()
    agent.launch()
    while "registered" not in agent.log[position:]:
        if time.monotonic() - started > 20:
            raise RuntimeError(f"never registered:\n{agent.log}")
        time.sleep(0.001)
    seconds = time.monotonic() - started
    agent.stop()
    return seconds
