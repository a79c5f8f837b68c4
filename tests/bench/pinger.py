"""When does the first echo come back? Run in a namespace: `pinger.py ADDRESS` (IPv4 or IPv6).

Sends an echo request every two milliseconds and prints the monotonic time (of the whole machine) at
which the first answer arrived. Requests before there is a way are lost, as a person's would be.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import time

INTERVAL = 0.002
GIVE_UP = 30.0


def main(address: str) -> int:
    """0 and one line, or 1 after half a minute."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    protocol, request, reply = (
        (socket.IPPROTO_ICMPV6, 128, 129)
        if family == socket.AF_INET6
        else (socket.IPPROTO_ICMP, 8, 0)
    )
    sock = socket.socket(family, socket.SOCK_RAW, protocol)
    sock.setblocking(False)
    identifier = os.getpid() & 0xFFFF
    started = following = time.monotonic()
    number = 0
    print("ready", flush=True)
    while time.monotonic() - started < GIVE_UP:
        if time.monotonic() >= following:
            number = (number + 1) & 0xFFFF
            following += INTERVAL
            with contextlib.suppress(OSError):  # no route yet
                sock.sendto(echo(request, identifier, number), (address, 0))
        ready, _, _ = select.select([sock], [], [], max(0.0, following - time.monotonic()))
        now = time.monotonic()
        if ready:
            data = sock.recv(65536)
            if family == socket.AF_INET:
                data = data[(data[0] & 15) * 4 :]
            if data[0] == reply and struct.unpack_from("!H", data, 4)[0] == identifier:
                print(f"{now:.6f}", flush=True)
                return 0
    return 1


def echo(kind: int, identifier: int, number: int) -> bytes:
    """An echo request; the kernel computes the checksum of ICMPv6 itself."""
    body = struct.pack("!BBHHH", kind, 0, 0, identifier, number)
    total = sum(struct.unpack("!4H", body))
    total = (total & 0xFFFF) + (total >> 16)
    return body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
