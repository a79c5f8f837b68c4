"""Inner packets with checksums, a pair of data planes, the kernel's view of a super-packet."""

from __future__ import annotations

import random
import struct

from agent.datagram import Address, Path, Received, Transmit
from agent.ipsec import ALL, DataPlane, EspSaParameters, Grants, Offload
from agent.wire.codes import EncryptionId, IntegrityId
from agent.wire.selectors import TrafficSelector

HERE6, THERE6 = b"\xfd" + bytes(14) + b"\1", b"\xfd" + bytes(14) + b"\2"
HERE4, THERE4 = bytes([10, 77, 1, 1]), bytes([10, 77, 2, 1])
ANY = (TrafficSelector.parse("::/0"), TrafficSelector.parse("0.0.0.0/0"))
PATH_A = Path(Address(bytes([192, 0, 2, 1]), 4500), Address(bytes([192, 0, 2, 2]), 4500))
PATH_B = Path(PATH_A.remote, PATH_A.local)
GCM = (EncryptionId.ENCR_AES_GCM_16, 128, None, 20, 0)
CBC = (EncryptionId.ENCR_AES_CBC, 128, IntegrityId.AUTH_HMAC_SHA2_256_128, 16, 32)
CBC_512 = (EncryptionId.ENCR_AES_CBC, 256, IntegrityId.AUTH_HMAC_SHA2_512_256, 32, 64)
CCM_8 = (EncryptionId.ENCR_AES_CCM_8, 128, None, 19, 0)
CHACHA = (EncryptionId.ENCR_CHACHA20_POLY1305, None, None, 36, 0)
SUITES = {"gcm": GCM, "cbc": CBC, "cbc-512": CBC_512, "ccm-8": CCM_8, "chacha": CHACHA}


def checksum(data: bytes) -> int:
    """RFC 1071, the slow and plain way."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ip(
    protocol: int, body: bytes, *, v4: bool = False, back: bool = False, ident: int = 7
) -> bytes:
    """An IP packet from here to there (or back)."""
    if v4:
        ends = (THERE4 + HERE4) if back else (HERE4 + THERE4)
        head = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(body), ident, 0x4000, 64, protocol)
        return head + struct.pack("!H", checksum(head + b"\0\0" + ends)) + ends + body
    ends = (THERE6 + HERE6) if back else (HERE6 + THERE6)
    return struct.pack("!IHBB", 6 << 28 | 0x12345, len(body), protocol, 64) + ends + body


def with_checksum(packet: bytes) -> bytes:
    """`packet` (TCP or UDP) with the checksum that its receiver expects."""
    at, ends = (40, packet[8:40]) if packet[0] >> 4 == 6 else (20, packet[12:20])
    protocol = packet[6] if at == 40 else packet[9]
    place = at + (16 if protocol == 6 else 6)
    body = packet[at:place] + b"\0\0" + packet[place + 2 :]
    pseudo = ends + struct.pack("!II", len(body), protocol)
    value = checksum(pseudo + body) or (0xFFFF if protocol == 17 else 0)
    return packet[:place] + struct.pack("!H", value) + packet[place + 2 :]


def tcp(
    payload: bytes,
    *,
    sequence: int = 1000,
    ack: int = 5,
    flags: int = 0x10,
    ports: tuple[int, int] = (4000, 80),
    options: bytes = b"\1\1\x08\x0a" + bytes(8),
    v4: bool = False,
    back: bool = False,
    ident: int = 7,
) -> bytes:
    """A TCP packet."""
    head = struct.pack(
        "!HHIIBBHHH", *ports, sequence % 2**32, ack, (5 + len(options) // 4) << 4, flags, 500, 0, 0
    )
    return with_checksum(ip(6, head + options + payload, v4=v4, back=back, ident=ident))


def udp(
    payload: bytes,
    *,
    ports: tuple[int, int] = (5000, 53),
    v4: bool = False,
    back: bool = False,
    ident: int = 7,
) -> bytes:
    """A UDP packet."""
    head = struct.pack("!HHHH", *ports, 8 + len(payload), 0)
    return with_checksum(ip(17, head + payload, v4=v4, back=back, ident=ident))


def echo(*, v4: bool = False, back: bool = False, size: int = 56) -> bytes:
    """An echo request."""
    return ip(
        1 if v4 else 58,
        bytes((8 if v4 else 128, 0, 0, 0, 1, 2, 3, 4)) + bytes(size),
        v4=v4,
        back=back,
    )


def octets(seed: int = 1):
    """A repeatable Random."""
    return random.Random(seed).randbytes


def parameters(*, mirror: bool = False, suite=GCM, seed: int = 1, **changes) -> EspSaParameters:
    """One end of a Child SA; `mirror` is the other end of the same."""
    make = octets(seed)
    keys = [(make(suite[3]), make(suite[4])) for _ in range(2)]
    spis = [make(4), make(4)]
    values = {
        "ike_id": 1,
        "peer": "b" if not mirror else "a",
        "spi_in": spis[mirror],
        "spi_out": spis[not mirror],
        "encr_id": suite[0],
        "key_bits": suite[1],
        "integ_id": suite[2],
        "keys_in": keys[mirror],
        "keys_out": keys[not mirror],
        "local_ts": ANY,
        "remote_ts": ANY,
        "path": PATH_B if mirror else PATH_A,
    }
    return EspSaParameters(**(values | changes))


class Pair:
    """Two data planes with a Child SA between them; packets go from `a` to `b`."""

    def __init__(self, *, offload: Offload | None = None, grants=Grants(ALL), **changes) -> None:  # noqa: B008
        self.a = DataPlane(random=octets(8), mtu=1400)
        self.b = DataPlane(random=octets(9), mtu=1400, offload=offload)
        self.sa_a = parameters(**changes)
        self.sa_b = parameters(mirror=True, **changes)
        self.a.install(self.sa_a, 0.0)
        self.b.install(self.sa_b, 0.0)
        self.a.set_grants("b", grants)
        self.b.set_grants("a", grants)

    def carry(self, *packets: bytes, now: float = 0.0) -> list[bytes]:
        """What `b` delivers of what `a` was given."""
        return self.b.receive(arriving(self.a.seal(packets, now)), now).packets

    def back(self, *packets: bytes, now: float = 0.0) -> list[bytes]:
        """The same from `b` to `a`."""
        return self.a.receive(arriving(self.b.seal(packets, now)), now).packets


def arriving(transmits: list[Transmit], path: Path | None = None) -> list[Received]:
    """How the other side sees what was sent."""
    return [
        Received(path or Path(t.path.remote, t.path.local), t.data, t.segment) for t in transmits
    ]


def datagrams(transmits: list[Transmit]) -> list[bytes]:
    """What goes over the wire, one by one."""
    found = []
    for transmit in transmits:
        size = transmit.segment or len(transmit.data)
        found += [transmit.data[i : i + size] for i in range(0, len(transmit.data), size)]
    return found


def segment(buffers: list[bytes]) -> list[bytes]:
    """What a kernel makes of a write with a vnet header, checksums included.

    Fails the test where Linux would refuse the header (virtio_net_hdr_to_skb).
    """
    frame = b"".join(buffers)
    flags, gso, header, size, start, offset = struct.unpack_from("=BBHHHH", frame)
    packet = frame[10:]
    if not flags and not gso:
        return [packet]
    v6 = packet[0] >> 4 == 6
    at = 40 if v6 else 20
    protocol = packet[6] if v6 else packet[9]
    assert flags == 1
    assert gso == (5 if protocol == 17 else 4 if v6 else 1)
    assert start == at
    assert offset == (6 if protocol == 17 else 16)
    assert header == at + (8 if protocol == 17 else (packet[at + 12] >> 4) * 4)
    assert len(packet) <= 65535
    if v6:
        assert int.from_bytes(packet[4:6], "big") == len(packet) - 40
    else:
        assert int.from_bytes(packet[2:4], "big") == len(packet)
        assert checksum(packet[:20]) == 0
    ends = packet[8:40] if v6 else packet[12:20]
    pseudo = checksum(ends + struct.pack("!II", len(packet) - at, protocol)) ^ 0xFFFF
    assert int.from_bytes(packet[at + offset : at + offset + 2], "big") % 0xFFFF == pseudo % 0xFFFF
    payload = packet[header:]
    assert len(payload) > size
    if protocol == 17:
        assert len(payload) <= size * 64
        assert int.from_bytes(packet[at + 4 : at + 6], "big") == len(packet) - at
    return [
        _one(packet[:header], payload[i : i + size], i, last=i + size >= len(payload))
        for i in range(0, len(payload), size)
    ]


def _one(header: bytes, payload: bytes, position: int, *, last: bool) -> bytes:
    head = bytearray(header)
    v6 = head[0] >> 4 == 6
    at = 40 if v6 else 20
    if v6:
        head[4:6] = struct.pack("!H", len(header) - 40 + len(payload))
    else:
        head[2:4] = struct.pack("!H", len(header) + len(payload))
        head[10:12] = b"\0\0"
        head[10:12] = struct.pack("!H", checksum(bytes(head[:20])))
    if (head[6] if v6 else head[9]) == 17:
        head[at + 4 : at + 6] = struct.pack("!H", 8 + len(payload))
    else:
        sequence = int.from_bytes(head[at + 4 : at + 8], "big") + position
        head[at + 4 : at + 8] = struct.pack("!I", sequence % 2**32)
        if not last:
            head[at + 13] &= ~0x09  # PSH and FIN belong to the last segment
    return with_checksum(bytes(head) + payload)
