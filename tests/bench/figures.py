"""All figures of the house in one run: measured here, reach beside it, strongSwan in the same run.

`python -m tests.bench.figures [--json] [--quick] [--only NAME …]`, as root; tests/bench/run
installs what it needs and calls it. `--quick` takes under a minute: fewer rounds, fewer peers.
Nothing here is asserted: a figure is of its machine and its minute.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from tests.bench import connect, crowd, flood, handshake, idle, machines
from tests.lab.daemon import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable

# JSON key → what it is, what is wanted, whether less is better
REACH: dict[str, tuple[str, float, bool]] = {
    "echo_s": ("connect command to first inner echo, s", 0.5, True),
    "echo_ratio": ("the same, against strongSwan", 1.0, True),
    "tcp_ratio": ("TCP through the tunnel, against charon (the worst of four)", 2.5, False),
    "udp_ratio": ("UDP of 1372 octets received, against charon", 1.8, False),
    "idle_rss_mb": ("resident memory of an idle gateway with a serial device, MB", 32.0, True),
    "operator_rss_mb": ("resident memory of an idle operator, MB", 32.0, True),
    "start_s": ("start of `hearthgate run` to registered, s", 0.5, True),
    "handshake_ratio": ("CPU of a responder's full handshake, against charon's", 1.0, True),
    "resume_ratio": ("CPU of the mediator, return by ticket against a handshake", 1.0, True),
    "flood_s": ("connect under 10,000 spoofed IKE_SA_INIT a second, s", 1.0, True),
    "flood_onlink_s": ("the same from neighbours that do not exist, s", 2.0, True),
    "flood_mb": ("more memory of the responder meanwhile, MB", 5.0, True),
    "flood_idle_s": ("until it has nothing to do any more, s", 60.0, True),
    "peer_kb": ("memory of the mediator for each registered peer, kB", 8.0, True),
}


def throughput(seconds: int, rounds: int) -> dict[str, Any]:
    """The ratios of tests/bench/throughput.py: the worst of the TCP ones, and UDP."""
    argv = [sys.executable, "-m", "tests.bench.throughput", "--json"]
    argv += ["--seconds", str(seconds), "--rounds", str(rounds)]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"throughput: {done.stderr[-800:]}")
    loads = json.loads(done.stdout.splitlines()[-1])
    tcp = [each["ratio"] for name, each in loads.items() if name.startswith("tcp")]
    udp = [each["ratio"] for name, each in loads.items() if name.startswith("udp")]
    return {"tcp_ratio": min(tcp), "udp_ratio": min(udp), "throughput": loads}


def plan(quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Name of each measurement → how it is done."""
    return {
        "connect": lambda: connect.measure(1 if quick else 5),
        "idle": lambda: dict(idle.measure(3 if quick else 7)),
        "handshake": lambda: dict(handshake.measure(200 if quick else 1000)),
        "crowd": lambda: crowd.measure(1000 if quick else 10_000),
        "flood": lambda: dict(flood.measure(2.0 if quick else 10.0)),
        "throughput": lambda: throughput(1, 1) if quick else throughput(3, 5),
    }


def main() -> int:
    """Measure and print; 1 if a measurement could not be made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object")
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--only", nargs="*", choices=list(plan(True)), help="some of them")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machines.machine(), "quick": options.quick}
    failed = {}
    for name, measurement in plan(options.quick).items():
        if options.only and name not in options.only:
            continue
        started = time.monotonic()
        try:
            results.update(measurement())
        except Exception as error:  # one that fails must not take the others with it
            failed[name] = f"{type(error).__name__}: {error}"[-500:]
        if not options.json:
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    if failed:
        results["failed"] = failed
    print(json.dumps(results) if options.json else table(results))
    return 1 if failed else 0


def table(results: dict[str, Any]) -> str:
    """For people."""
    lines = [results["machine"]]
    for key, (what, reach, less) in REACH.items():
        if key in results:
            value = results[key]
            mark = "" if (value < reach if less else value >= reach) else "   not reached"
            wanted = f"{'under' if less else 'at least'} {reach:g}"
            lines.append(f"{key:16} {value:8}   {wanted:13} {what}{mark}")
    lines += [
        f"{key}: {json.dumps(value)}"
        for key, value in results.items()
        if key not in REACH and key not in ("machine", "quick")
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
