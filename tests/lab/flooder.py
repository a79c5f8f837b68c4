"""IKE_SA_INIT in masses from sources that are not its own, out of a namespace.

`python -m tests.lab.flooder TARGET SOURCES RATE SECONDS`: SOURCES is a network, RATE datagrams a
second. Prints "ready", then, when it is done, how many it has sent. Each request is one of its own.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import random
import socket
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from agent.wire.codes import ExchangeType, ProtocolId
from agent.wire.message import Header, encode_message
from agent.wire.payloads import KePayload, NoncePayload, SaPayload
from agent.wire.proposals import parse_proposals
from tests.lab.daemon import CHECKOUT

if TYPE_CHECKING:
    from agent.operations.lab import Namespace

PORT = 500
PROPOSALS = parse_proposals(["aes128gcm16-prfsha256-x25519"], ProtocolId.IKE)
TICK = 0.01  # seconds between bursts


def request(spi: bytes) -> bytes:
    """An acceptable first request."""
    header = Header(spi, bytes(8), ExchangeType.IKE_SA_INIT, True, False, 0)
    payloads = [SaPayload(PROPOSALS), KePayload(31, b"\x05" * 32), NoncePayload(b"n" * 32)]
    return encode_message(header, payloads)


def packet(source: bytes, target: bytes, port: int, data: bytes) -> bytes:
    """An IPv4 packet; the kernel puts in its checksum, UDP goes without."""
    udp = struct.pack("!HHHH", port, PORT, 8 + len(data), 0) + data
    return (
        struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, source, target) + udp
    )


def main() -> None:
    """See the module."""
    target, network, rate, seconds = sys.argv[1:]
    sources = ipaddress.ip_network(network)
    chance = random.Random(1)
    octets = socket.inet_aton(target)
    template = request(b"flooding")[8:]
    packets = [
        packet(
            sources[chance.randrange(1, sources.num_addresses - 1)].packed,
            octets,
            chance.randrange(1024, 65536),
            chance.randbytes(8) + template,
        )
        for _ in range(int(int(rate) * float(seconds)))
    ]
    out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    print("ready", flush=True)
    started, sent = time.monotonic(), 0
    while sent < len(packets):
        due = min(len(packets), int((time.monotonic() - started) * int(rate)) + 1)
        for data in packets[sent:due]:
            with contextlib.suppress(OSError):  # our own link is full
                out.sendto(data, (target, 0))
        sent = due
        time.sleep(TICK)
    print(sent, flush=True)


class Flood:
    """The flooder in a namespace; a context manager that waits for its end."""

    def __init__(
        self, host: Namespace, target: str, sources: str, *, rate: int, seconds: float
    ) -> None:
        command = [sys.executable, "-P", "-m", "tests.lab.flooder"]
        command += [target, sources, str(rate), str(seconds)]
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        self._child = host.popen(command, env=environment, stdout=subprocess.PIPE)
        self.sent = 0

    def __enter__(self) -> Flood:
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._child.stdout is not None
        with self._child.stdout:
            self.sent = int(self._child.stdout.readline() or 0)
        self._child.wait(10)


if __name__ == "__main__":
    main()
