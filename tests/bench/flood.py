"""A responder under 10,000 IKE_SA_INIT a second: when an honest peer gets in, what it costs.

THREATS 5 and 6: from sources that are routed and never answer, and from neighbours that do not
exist, for which the kernel looks and keeps what is meant for them. The counts of the same scene are
asserted in tests/threats; here are its seconds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.operations.lab import Lab, TwoNats
from tests.bench.machines import SERVER, cpu_seconds, rss_mb, settled
from tests.interop.ends import OurEnd, Suite, direct_ours
from tests.lab.flooder import Flood

if TYPE_CHECKING:
    from agent.operations.lab import Namespace

SOURCES = {"routed": "198.18.0.0/15", "on-link": "203.0.113.128/25"}
ATTACKER = "203.0.113.66"
SUITE = Suite(ike="aes128gcm16-prfsha256-x25519", esp="aes128gcm16")
RATE = 10_000
IDLE_CPU = 0.005  # of a core: nothing is going on any more


@dataclass
class Street:
    """The responder `bob`, the honest `alice` behind a NAT, and somebody in the street."""

    bob: OurEnd
    alice: OurEnd
    attacker: Namespace

    @classmethod
    def build(cls, lab: Lab) -> Street:
        """Both run; nobody has connected yet."""
        nats = TwoNats.build(lab)
        attacker = lab.namespace("attacker")
        lab.connect(attacker, "eth0", nats.internet, [f"{ATTACKER}/24"])
        nats.server.shell(f"ip route add {SOURCES['routed']} via {ATTACKER}\n")
        ends = []
        for name, host in (("bob", nats.server), ("alice", nats.operator)):
            end = direct_ours(
                host,
                lab.folder / name,
                name,
                auth="ed25519",
                suite=SUITE,
                initiates=name == "alice",
            )
            end.start()
            ends.append(end)
        return cls(*ends, attacker)

    def flood(self, kind: str, seconds: float) -> Flood:
        """To be entered."""
        return Flood(self.attacker, SERVER, SOURCES[kind], rate=RATE, seconds=seconds)


def datagrams(host: Namespace, what: str) -> int:
    """UDP counters of a namespace: InDatagrams, OutDatagrams."""
    names, values = (
        line.split()
        for line in host.shell("cat /proc/net/snmp\n").splitlines()
        if "Udp:" in line[:4]
    )
    return int(values[names.index(what)])


def _connect(street: Street) -> float:
    started = time.monotonic()
    street.alice.connect()
    street.alice.wait_up(30.0)
    return time.monotonic() - started


def measure(seconds: float) -> dict[str, float]:
    """Seconds to connect meanwhile, MB more, seconds until the responder has nothing to do."""
    found: dict[str, float] = {}
    for kind, key in (("routed", "flood"), ("on-link", "flood_onlink")):
        with Lab(f"flood-{key}"[:20]) as lab:
            street = Street.build(lab)
            settled()
            pid = street.bob.agent.pid
            before = rss_mb(pid)
            with street.flood(kind, seconds):
                time.sleep(seconds / 2)
                found[f"{key}_s"] = round(_connect(street), 3)
            found[f"{key}_mb"] = round(rss_mb(pid) - before, 1)
            found[f"{key}_idle_s"] = _idle_after(pid)
    return found


def _idle_after(pid: int) -> float:
    started = time.monotonic()
    while time.monotonic() < started + 60:
        before = cpu_seconds(pid)
        time.sleep(1)
        if cpu_seconds(pid) - before < IDLE_CPU:
            break
    return round(time.monotonic() - started, 1)
