"""What the measurements share: time and memory of processes, our machines in their usual roles."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from agent.operations.lab import PUBLIC
from tests.lab.daemon import Hearthgate, public_key, public_text
from tests.lab.scenario import seed

if TYPE_CHECKING:
    from agent.operations.lab import Namespace, TwoNats

SERVER = f"{PUBLIC}.10"
PINGER = Path(__file__).with_name("pinger.py")


def machine() -> str:
    """Which processor and kernel the figures are of."""
    model = platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}"


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process, exact to the scheduler's nanoseconds."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def rss_mb(pid: int) -> float:
    """Resident memory in MB as top and ps show them (2^20 octets)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no memory")


def our_server(host: Namespace, folder: Path) -> Hearthgate:
    """A mediation server that needs to know nobody."""
    return Hearthgate(
        host, folder, "[mediate]\n", identity=seed("ms-identity"), mediation=seed("ms")
    )


def our_peer(
    host: Namespace, folder: Path, name: str, other: str, more: str = "", top: str = ""
) -> Hearthgate:
    """alice or bob, known to each other by their keys and registered at our server."""
    pseudonym = public_key(seed(f"m-{other}")).hex()
    config = (
        f'{top}[mediator.med]\naddress = "{SERVER}"\nkey = "{public_text(seed("ms"))}"\n'
        f'[peer.{other}]\nkey = "{public_text(seed(other))}"\nmediator = "med"\n'
        f'pseudonym = "keyid:{pseudonym}"\nrole = "operator"\n{more}'
    )
    return Hearthgate(host, folder, config, identity=seed(name), mediation=seed(f"m-{name}"))


def our_three(nats: TwoNats, more: str = "") -> tuple[Hearthgate, Hearthgate, Hearthgate]:
    """(server, gateway bob, operator alice), running and registered; `more` is the gateway's."""
    folder = nats.lab.folder
    server = our_server(nats.server, folder / "ms").start()
    bob = our_peer(nats.gateway, folder / "bob", "bob", "alice", more).start()
    alice = our_peer(nats.operator, folder / "alice", "alice", "bob").start()
    for each in (bob, alice):
        each.wait_registered()
    return server, bob, alice


class Echo:
    """A pinger that runs while something else happens."""

    def __init__(self, host: Namespace, address: str) -> None:
        self._child = host.popen([sys.executable, "-E", PINGER, address], stdout=subprocess.PIPE)
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == b"ready\n"

    def first(self) -> float:
        """Monotonic time at which the first answer arrived."""
        assert self._child.stdout is not None
        with self._child.stdout:
            text = self._child.stdout.readline().decode()
        self._child.wait(5)
        if not text:
            raise RuntimeError("no echo came back")
        return float(text)


def settled(seconds: float = 1.0) -> None:
    """Let what was just started come to rest before it is measured."""
    time.sleep(seconds)
