"""Inner packets: ICMP echoes over IPv4."""

from __future__ import annotations


def _summed(data: bytes, at: int) -> bytes:
    words = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)) % 65535
    return data[:at] + (65535 - words).to_bytes(2, "big") + data[at + 2 :]


def echo_request(source: bytes, destination: bytes, number: int) -> bytes:
    """From one address of 4 octets to another."""
    body = _summed(bytes((8, 0, 0, 0, 0x48, 0x47)) + number.to_bytes(2, "big") + bytes(16), 2)
    head = bytes((0x45, 0, 0, 20 + len(body), 0, 0, 0, 0, 64, 1, 0, 0)) + source + destination
    return _summed(head, 10) + body


def echo_reply(request: bytes) -> bytes:
    """The answer to an echo request without IP options."""
    body = request[20:]
    body = _summed(bytes(4) + body[4:] + bytes(len(body) % 2), 2)[: len(body)]
    head = request[:10] + bytes(2) + request[16:20] + request[12:16]
    return _summed(head, 10) + body


def is_request(packet: bytes) -> bool:
    """Whether it is an echo request."""
    return packet[9:10] == b"\x01" and packet[20:21] == b"\x08"
