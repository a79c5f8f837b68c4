"""Throughput of the tunnel against charon with kernel-libipsec, in the same run.

Two network namespaces joined by a veth pair without TCP and UDP segmentation and with GRO, as a
real card without offloads; each end pinned to a core of its own together with its iperf3.
AES-128-GCM, an inner MTU of 1400. Needs root, two cores, iperf3 and strongSwan; cleans up after
itself.

`python -m tests.bench.throughput [--json] [--seconds N] [--rounds N] [--only NAME …]`
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agent.crypto.auth import key_text
from agent.house import House
from agent.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

_COUNT = itertools.count()
ROOT = Path(__file__).resolve().parents[2]
INNER = {4: ("10.77.1.1", "10.77.2.1"), 6: ("fd77:1::1", "fd77:2::1")}
OUTER = ("192.0.2.1", "192.0.2.2")
MTU = 1400
CHARON = "/usr/lib/ipsec/charon"


@dataclass(frozen=True, slots=True)
class Load:
    """One measurement: `streams` TCP connections, or UDP datagrams of `datagram` octets."""

    name: str
    family: int
    streams: int = 1
    datagram: int = 0


LOADS = (
    Load("tcp4_1", 4),
    Load("tcp4_4", 4, streams=4),
    Load("tcp6_1", 6),
    Load("tcp6_4", 6, streams=4),
    Load("udp4_1372", 4, datagram=1372),
)


def run(*command: str, check: bool = True, seconds: float = 60) -> str:
    """Run a program and return what it printed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=seconds)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout


class Bench:
    """Two namespaces, `a` on core 0 and `b` on core 1."""

    def __init__(self) -> None:
        number = f"{os.getpid()}n{next(_COUNT)}"
        self.names = tuple(f"hg-ips{side}{number}" for side in "ab")
        self._running: list[subprocess.Popen[bytes]] = []
        self.folder = Path(tempfile.mkdtemp(prefix="hgbench"))

    def __enter__(self) -> Bench:
        for name in self.names:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        a, b = self.names
        run("ip", "-n", a, "link", "add", "wire", "type", "veth", "peer", "wire", "netns", b)
        for name, address in zip(self.names, OUTER, strict=True):
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "wire")
            run("ip", "-n", name, "link", "set", "wire", "up")
            self.python(name, "-c", _NO_OFFLOADS)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for name in self.names:
            run("ip", "netns", "delete", name, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def inside(self, side: int, *command: str) -> list[str]:
        """A command line in a namespace, pinned to its core."""
        return ["ip", "netns", "exec", self.names[side], "taskset", "-c", str(side), *command]

    def python(self, name: str, *arguments: str) -> None:
        """Run Python in a namespace."""
        subprocess.run(
            ["ip", "netns", "exec", name, sys.executable, *arguments], check=True, cwd=ROOT
        )

    def start(self, side: int, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a daemon at one end."""
        process = subprocess.Popen(
            self.inside(side, *command),
            cwd=ROOT,
            env={**os.environ, **environment},
            start_new_session=True,
            stdout=(self.folder / f"out{side}").open("ab"),
            stderr=subprocess.STDOUT,
        )
        self._running.append(process)
        return process

    def stop(self) -> None:
        """End what `start` started."""
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._running:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._running.clear()

    def measure(self, load: Load, seconds: int) -> float:
        """Mbit/s of TCP or thousands of UDP packets received a second; one more try if it hangs."""
        try:
            return self._measure(load, seconds)
        except (subprocess.TimeoutExpired, RuntimeError):
            return self._measure(load, seconds)

    def _measure(self, load: Load, seconds: int) -> float:
        server = subprocess.Popen(
            self.inside(1, "iperf3", "-s", "-1", "-B", INNER[load.family][1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            time.sleep(0.3)
            client = self.inside(
                0, "iperf3", "-J", "-t", str(seconds), "-P", str(load.streams),
                "-B", INNER[load.family][0], "-c", INNER[load.family][1],
            )  # fmt: skip
            if load.datagram:
                client += ["-u", "-b", "0", "-l", str(load.datagram)]
            else:
                client += ["-O", "1"]  # slow start; with UDP it spoils the count of lost packets
            end = json.loads(run(*client, seconds=seconds + 10))["end"]
            server.wait(10)
        finally:
            server.kill()
            server.wait()
        if "sum_received" not in end:
            raise RuntimeError("iperf3 was cut off")
        received = end["sum_received"]
        if not load.datagram:
            return float(received["bits_per_second"]) / 1e6
        return float(received["bytes"]) / load.datagram / float(received["seconds"]) / 1e3

    def wait_for_tunnel(self) -> None:
        """Until an echo comes back, both families."""
        for family, (_, far) in INNER.items():
            for _ in range(100):
                if "1 received" in run(*self.inside(0, "ping", "-c1", "-W1", far), check=False):
                    break
                time.sleep(0.1)
            else:
                log = (self.folder / "out0").read_text(errors="replace")
                raise RuntimeError(f"no IPv{family} through the tunnel: {log[-2000:]}")


class Contender(Protocol):
    """Something that can bring up a tunnel between the two ends."""

    name: str

    def up(self, bench: Bench) -> None:
        """Start both ends and give them INNER."""


class Ours:
    """The daemon as it is: `hearthgate run` at both ends, keys pinned in the configuration."""

    name = "ours"

    def up(self, bench: Bench) -> None:
        """See Contender."""
        homes = [Layout(bench.folder / f"ours{side}") for side in (0, 1)]
        keys = [key_text(House.open(home).keys.identity.public) for home in homes]
        for side, home in enumerate(homes):
            own, far = ([pair[i] for pair in INNER.values()] for i in (side, 1 - side))
            home.config.write_text(
                _HEARTHGATE_TOML.format(
                    addresses=json.dumps(own), mtu=MTU, key=keys[1 - side], local=json.dumps(own),
                    remote=json.dumps(far), host=f'address = "{OUTER[1]}"' if side == 0 else "",
                    start=str(side == 0).lower(),
                )
            )  # fmt: skip
        for side in (1, 0):  # the one that calls last
            command = [sys.executable, "-P", "-m", "agent", "--root", str(homes[side].root), "run"]
            bench.start(side, *command, PYTHONPATH=str(ROOT))


class Charon:
    """Debian's strongSwan with its userspace ESP."""

    name = "charon"

    def up(self, bench: Bench) -> None:
        """See Contender."""
        for side, name in enumerate(bench.names):
            for family, addresses in INNER.items():
                prefix = "32" if family == 4 else "128"
                own = [f"{addresses[side]}/{prefix}", "dev", "lo"]
                run("ip", "-n", name, "address", "add", *own, *(["nodad"] if family == 6 else []))
            home = bench.folder / f"charon{side}"
            (home / "swanctl").mkdir(parents=True)
            (home / "strongswan.conf").write_text(_STRONGSWAN_CONF.format(home=home))
            (home / "swanctl" / "swanctl.conf").write_text(
                _SWANCTL_CONF.format(
                    local=OUTER[side], remote=OUTER[1 - side],
                    local_ts=",".join(pair[side] for pair in INNER.values()),
                    remote_ts=",".join(pair[1 - side] for pair in INNER.values()),
                )
            )  # fmt: skip
            self._command(bench, side, CHARON, start=True)
            self._wait_for(home / "vici")
            self._command(bench, side, "swanctl", "--load-all", "--uri", f"unix://{home}/vici")
        uri = f"unix://{bench.folder}/charon0/vici"
        self._command(bench, 0, "swanctl", "--initiate", "--child", "peer", "--uri", uri)

    def _wait_for(self, path: Path) -> None:
        for _ in range(100):
            if path.exists():
                return
            time.sleep(0.1)
        raise RuntimeError(f"charon does not come up: {path}")

    def _command(self, bench: Bench, side: int, *command: str, start: bool = False) -> None:
        home = bench.folder / f"charon{side}"
        environment = {
            "STRONGSWAN_CONF": f"{home}/strongswan.conf",
            "SWANCTL_DIR": f"{home}/swanctl",
        }
        if start:
            apart = ("unshare", "-m", "bash", "-c", f"mount -t tmpfs t /run; exec {CHARON}")
            bench.start(side, *apart, **environment)
        else:
            setting = [f"{key}={value}" for key, value in environment.items()]
            run(*bench.inside(side, "env", *setting, *command))


_HEARTHGATE_TOML = """addresses = {addresses}
mtu = {mtu}
[peer.far]
key = "{key}"
{host}
local_ts = {local}
remote_ts = {remote}
proposals = "aes128gcm16-prfsha256-x25519"
esp_proposals = "aes128gcm16"
grants = ["all"]
start = {start}
"""
_STRONGSWAN_CONF = """charon {{
  load = random nonce openssl pem curve25519 hmac sha1 sha2 kdf aes gcm drbg vici kernel-libipsec \
kernel-netlink socket-default updown
  filelog {{ log {{ path = {home}/log
      default = 1
      flush_line = yes }} }}
  plugins {{ vici {{ socket = unix://{home}/vici }} }}
}}
"""
_SWANCTL_CONF = """connections {{ peer {{
    local_addrs = {local}
    remote_addrs = {remote}
    local {{ auth = psk
      id = {local} }}
    remote {{ auth = psk
      id = {remote} }}
    children {{ peer {{ local_ts = {local_ts}
        remote_ts = {remote_ts}
        esp_proposals = aes128gcm128 }} }}
    version = 2
    mobike = no
    proposals = aes128-sha256-x25519 }} }}
secrets {{ ike-1 {{ secret = benchmark }} }}
"""
_NO_OFFLOADS = (
    "from tests.bench.ethtool import set_features; set_features('wire', {"
    "'tx-tcp-segmentation': False, 'tx-tcp6-segmentation': False, "
    "'tx-udp-segmentation': False, 'rx-gro': True})"
)


@contextlib.contextmanager
def tunnel(contender: Contender) -> Iterator[Bench]:
    """A tunnel that is up."""
    with Bench() as bench:
        contender.up(bench)
        bench.wait_for_tunnel()
        yield bench


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[load.name for load in LOADS])
    parser.add_argument("--contender", choices=("ours", "charon", "both"), default="both")
    options = parser.parse_args()
    contenders = [c for c in (Charon(), Ours()) if options.contender in (c.name, "both")]
    figures: dict[str, dict[str, list[float]]] = {}
    with contextlib.ExitStack() as stack:
        benches = {c.name: stack.enter_context(tunnel(c)) for c in contenders}
        for _ in range(options.rounds):
            for load in LOADS:
                if load.name in options.only:
                    each = figures.setdefault(load.name, {})
                    for who, bench in benches.items():
                        each.setdefault(who, []).append(bench.measure(load, options.seconds))
    result = {}
    for name, each in figures.items():
        # The two are measured in turn, so what else runs on the machine takes from both.
        medians = {who: round(statistics.median(values), 1) for who, values in each.items()}
        if len(medians) == 2:
            medians["ratio"] = round(medians["ours"] / medians["charon"], 2)
        result[name] = medians
        if not options.json:
            print(f"{name:10}", *(f"{who} {value:8}" for who, value in medians.items()))
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
