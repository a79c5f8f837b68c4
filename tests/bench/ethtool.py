"""Switches offloads of a network device off and on, as `ethtool -K` does, without that program."""

from __future__ import annotations

import array
import fcntl
import socket
import struct

_SIOCETHTOOL = 0x8946
_GSTRINGS = 0x1B
_GSSET_INFO = 0x37
_SFEATURES = 0x3B
_SS_FEATURES = 4
_STRING = 32


def set_features(device: str, wanted: dict[str, bool]) -> None:
    """Switch features of `device` (in this network namespace) by the kernel's names for them.

    Such as tx-tcp-segmentation, tx-udp-segmentation, rx-gro. Unknown names raise KeyError.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        names = _names(sock, device)
        blocks = [[0, 0] for _ in range((len(names) + 31) // 32)]
        for name, on in wanted.items():
            index = names[name]
            blocks[index // 32][0] |= 1 << index % 32
            blocks[index // 32][1] |= on << index % 32
        request = struct.pack("=II", _SFEATURES, len(blocks))
        request += b"".join(struct.pack("=II", *block) for block in blocks)
        _call(sock, device, request)


def _names(sock: socket.socket, device: str) -> dict[str, int]:
    info = _call(sock, device, struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _SS_FEATURES, 0))
    count = struct.unpack_from("=I", info, 16)[0]
    head = struct.pack("=III", _GSTRINGS, _SS_FEATURES, count)
    answer = _call(sock, device, head + bytes(count * _STRING))
    strings = (answer[12 + i * _STRING :][:_STRING] for i in range(count))
    return {text.split(b"\0")[0].decode(): i for i, text in enumerate(strings)}


def _call(sock: socket.socket, device: str, request: bytes) -> bytes:
    buffer = array.array("B", request)
    ifreq = struct.pack("=16sQ16x", device.encode(), buffer.buffer_info()[0])
    fcntl.ioctl(sock, _SIOCETHTOOL, ifreq)
    return buffer.tobytes()
