"""A NAT in userspace between two TUN devices, with delay and loss (run as a program).

Behaviours by RFC 4787: mapping and filtering each endpoint-independent (`ei`), address-dependent
(`ad`) or address-and-port-dependent (`apd`); port preservation or random ports; hairpinning (§6)
with the external source address; a binding lifetime that outbound packets refresh (§4.3).
UDP, TCP (as if it were UDP: no state of its own) and ICMP echo, IPv4. SIGHUP forgets all mappings,
as a reboot does.

The delay lies between NAT and internet, in each direction: an outbound packet is translated at
once and leaves after the delay, an inbound one is translated when it has arrived. One thread, a
heap of packets under way and a select() with microseconds: late by a tenth of a millisecond.
Left out: ICMP errors, fragments.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import heapq
import ipaddress
import os
import random
import select
import signal
import struct
import time
from dataclasses import dataclass, field

TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x0001 | 0x1000
ICMP, TCP, UDP = 1, 6, 17
CHECKSUM_AT = {TCP: 16, UDP: 6, ICMP: 2}
FIRST_PORT = 1024

Endpoint = tuple[bytes, int]


@dataclass(slots=True)
class Packet:
    """The parts of an IPv4 packet that a NAT reads; ports are the identifier for ICMP echo."""

    data: bytearray
    header: int
    protocol: int
    source: Endpoint
    destination: Endpoint


@dataclass(slots=True)
class Mapping:
    inside: Endpoint
    outside_port: int
    key: tuple[object, ...]
    expires: float
    contacted: set[Endpoint] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What kind of NAT it is. `delay` in seconds one way, `loss` from 0 to 1."""

    address: bytes
    mapping: str = "ei"
    filtering: str = "apd"
    random_ports: bool = False
    lifetime: float = 120.0
    delay: float = 0.0
    loss: float = 0.0


def parse(data: bytes) -> Packet | None:
    """None for what this NAT does not carry. Cannot fail."""
    if len(data) < 28 or data[0] >> 4 != 4:
        return None
    header = (data[0] & 15) * 4
    protocol = data[9]
    if struct.unpack_from("!H", data, 6)[0] & 0x3FFF or len(data) < header + 8:
        return None  # a fragment
    if protocol in (TCP, UDP):
        source_port, destination_port = struct.unpack_from("!HH", data, header)
    elif protocol == ICMP and data[header] in (0, 8):
        source_port = destination_port = struct.unpack_from("!H", data, header + 4)[0]
    else:
        return None
    return Packet(
        bytearray(data),
        header,
        protocol,
        (bytes(data[12:16]), source_port),
        (bytes(data[16:20]), destination_port),
    )


def adjusted(checksum: int, old: bytes, new: bytes) -> int:
    """RFC 1624: the checksum after octets `old` became `new` (even lengths)."""
    total = (~checksum & 0xFFFF) + sum(struct.unpack(f"!{len(new) // 2}H", new))
    total += sum(~word & 0xFFFF for word in struct.unpack(f"!{len(old) // 2}H", old))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def rewrite(packet: Packet, *, source: Endpoint | None, destination: Endpoint | None) -> bytes:
    """The packet with other endpoints and right checksums."""
    data, header = packet.data, packet.header
    for endpoint, address_at, port_at in ((source, 12, 0), (destination, 16, 2)):
        if endpoint is None:
            continue
        if packet.protocol == ICMP:
            port_at = 4
        old_address = bytes(data[address_at : address_at + 4])
        old_port = bytes(data[header + port_at : header + port_at + 2])
        new_port = struct.pack("!H", endpoint[1])
        data[address_at : address_at + 4] = endpoint[0]
        data[header + port_at : header + port_at + 2] = new_port
        _fix(data, 10, old_address, endpoint[0])
        at = header + CHECKSUM_AT[packet.protocol]
        if packet.protocol == ICMP:
            _fix(data, at, old_port, new_port)
        elif packet.protocol == TCP or data[at] or data[at + 1]:
            _fix(data, at, old_address + old_port, endpoint[0] + new_port)
    return bytes(data)


def _fix(data: bytearray, at: int, old: bytes, new: bytes) -> None:
    checksum = adjusted(struct.unpack_from("!H", data, at)[0], old, new)
    struct.pack_into("!H", data, at, checksum)


class Nat:
    """Mappings and filters. `now` is monotonic seconds; knows no device."""

    def __init__(self, behaviour: Behaviour, seed: int) -> None:
        self._is = behaviour
        self._random = random.Random(seed)
        self._by_key: dict[tuple[object, ...], Mapping] = {}
        self._by_port: dict[tuple[int, int], Mapping] = {}

    def forget(self) -> None:
        """A reboot: all mappings are gone."""
        self._by_key.clear()
        self._by_port.clear()

    def is_lost(self) -> bool:
        """Whether the next packet falls to the loss rate."""
        return self._is.loss > 0 and self._random.random() < self._is.loss

    def outbound(self, data: bytes, now: float) -> tuple[bytes, bool] | None:
        """From inside: (translated packet, whether it turns back inside), or None to drop it."""
        packet = parse(data)
        if packet is None:
            return None
        mapping = self._mapping(packet, now)
        mapping.expires = now + self._is.lifetime
        mapping.contacted.add(packet.destination)
        hairpin = packet.destination[0] == self._is.address
        out = rewrite(packet, source=(self._is.address, mapping.outside_port), destination=None)
        return out, hairpin

    def inbound(self, data: bytes, now: float) -> bytes | None:
        """From outside: the translated packet, or None if no mapping or filter lets it in."""
        packet = parse(data)
        if packet is None:
            return None
        mapping = self._by_port.get((packet.protocol, packet.destination[1]))
        if mapping is None or mapping.expires < now or not self._admits(mapping, packet):
            return None
        return rewrite(packet, source=None, destination=mapping.inside)

    def _admits(self, mapping: Mapping, packet: Packet) -> bool:
        match self._is.filtering:
            case "ei":
                return True
            case "ad":
                return any(address == packet.source[0] for address, _ in mapping.contacted)
            case _:
                return packet.source in mapping.contacted

    def _mapping(self, packet: Packet, now: float) -> Mapping:
        key: tuple[object, ...] = (packet.protocol, packet.source)
        if self._is.mapping != "ei":
            key += (packet.destination if self._is.mapping == "apd" else packet.destination[0],)
        known = self._by_key.get(key)
        if known is not None and known.expires >= now:
            return known
        port = self._free_port(packet.protocol, packet.source[1], now)
        mapping = Mapping(packet.source, port, key, now + self._is.lifetime)
        if known is not None:
            self._by_port.pop((packet.protocol, known.outside_port), None)
        self._by_key[key] = self._by_port[packet.protocol, port] = mapping
        return mapping

    def _free_port(self, protocol: int, wanted: int, now: float) -> int:
        port = wanted
        if self._is.random_ports:
            port = self._random.randrange(FIRST_PORT, 65536)
        for _ in range(65536):
            taken = self._by_port.get((protocol, port))
            if taken is None or taken.expires < now:
                if taken is not None:
                    self._by_key.pop(taken.key, None)
                return port
            port = port + 1 if port < 65535 else FIRST_PORT
        raise RuntimeError("every port is taken")


def open_tun(name: str) -> int:
    """The file descriptor of a TUN device that exists already."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN_NO_PI))
    return descriptor


class Router:
    """Moves packets between the two devices until it is ended."""

    def __init__(self, lan: int, wan: int, nat: Nat, delay: float) -> None:
        self._lan, self._wan, self._nat, self._delay = lan, wan, nat, delay
        self._under_way: list[tuple[float, int, bool, bytes]] = []
        self._count = 0

    def run(self) -> None:
        while True:
            now = time.monotonic()
            while self._under_way and self._under_way[0][0] <= now:
                _, _, is_inbound, data = heapq.heappop(self._under_way)
                self._arrive(is_inbound, data, now)
            wait = self._under_way[0][0] - time.monotonic() if self._under_way else None
            ready, _, _ = select.select(
                [self._lan, self._wan], [], [], None if wait is None else max(0.0, wait)
            )
            for descriptor in ready:
                self._read(descriptor)

    def _read(self, descriptor: int) -> None:
        for _ in range(64):
            try:
                data = os.read(descriptor, 65536)
            except BlockingIOError:
                return
            now = time.monotonic()
            if descriptor == self._wan:
                self._send_later(True, data, now)
                continue
            done = self._nat.outbound(data, now)
            if done is None:
                continue
            data, hairpin = done
            if hairpin:
                self._deliver(data, now)
            else:
                self._send_later(False, data, now)

    def _send_later(self, is_inbound: bool, data: bytes, now: float) -> None:
        if self._nat.is_lost():
            return
        self._count += 1
        heapq.heappush(self._under_way, (now + self._delay, self._count, is_inbound, data))

    def _arrive(self, is_inbound: bool, data: bytes, now: float) -> None:
        if is_inbound:
            self._deliver(data, now)
        else:
            _write(self._wan, data)

    def _deliver(self, data: bytes, now: float) -> None:
        inside = self._nat.inbound(data, now)
        if inside is not None:
            _write(self._lan, inside)


def _write(descriptor: int, data: bytes) -> None:
    with contextlib.suppress(OSError):  # a device that is full or down loses packets, as cables do
        os.write(descriptor, data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lan", default="natlan", help="TUN device towards the private side")
    parser.add_argument("--wan", default="natwan", help="TUN device towards the public side")
    parser.add_argument("--address", required=True, help="public IPv4 address")
    parser.add_argument("--mapping", choices=("ei", "ad", "apd"), default="ei")
    parser.add_argument("--filtering", choices=("ei", "ad", "apd"), default="apd")
    parser.add_argument("--random-ports", action="store_true")
    parser.add_argument("--lifetime", type=float, default=120.0, help="seconds")
    parser.add_argument("--delay", type=float, default=0.0, help="one way, milliseconds")
    parser.add_argument("--loss", type=float, default=0.0, help="0 to 1")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    behaviour = Behaviour(
        address=ipaddress.IPv4Address(options.address).packed,
        mapping=options.mapping,
        filtering=options.filtering,
        random_ports=options.random_ports,
        lifetime=options.lifetime,
        delay=options.delay / 1000,
        loss=options.loss,
    )
    nat = Nat(behaviour, options.seed)
    signal.signal(signal.SIGHUP, lambda *_: nat.forget())
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with contextlib.suppress(OSError):
        os.nice(-10)  # a NAT that waits for the processor would be a longer cable
    router = Router(open_tun(options.lan), open_tun(options.wan), nat, behaviour.delay)
    print("ready", flush=True)
    router.run()


if __name__ == "__main__":
    main()
