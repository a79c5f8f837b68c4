"""Published vectors that stand beside the repository, not in it, and readers for their formats.

A test that needs them calls `vector_file` and is skipped, saying so, where the folder is absent.
"""

from __future__ import annotations

import gzip
import json
import os
import struct
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


def vectors_dir() -> Path | None:
    """The folder of HEARTHGATE_VECTORS, else ../shared/vectors beside the repository, or None."""
    named = os.environ.get("HEARTHGATE_VECTORS")
    folder = Path(named) if named else Path(__file__).parents[3] / "shared" / "vectors"
    return folder if folder.is_dir() else None


def vector_file(name: str) -> Path:
    """One file of the folder; skips the test without a folder, fails if only the file lacks."""
    folder = vectors_dir()
    if folder is None:
        pytest.skip("the folder of published vectors is not here (HEARTHGATE_VECTORS)")
    path = folder / name
    assert path.is_file(), f"{name} is missing in the folder of vectors"
    return path


def vector_octets(name: str) -> bytes:
    """Content of a file, unpacked if its name ends in .gz."""
    data = vector_file(name).read_bytes()
    return gzip.decompress(data) if name.endswith(".gz") else data


@cache
def vector_json(name: str) -> Any:
    """Content of a JSON file, unpacked if its name ends in .gz."""
    return json.loads(vector_octets(name))


def wycheproof(name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Group and case of each test in wycheproof/NAME_test.json.gz."""
    for group in vector_json(f"wycheproof/{name}_test.json.gz")["testGroups"]:
        for case in group["tests"]:
            yield group, case


def rsp_cases(text: str) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Header and values of each case of a NIST CAVP response file."""
    header: dict[str, str] = {}
    case: dict[str, str] = {}
    case_header = header
    for line in [*text.splitlines(), "COUNT = end"]:
        if line.startswith("["):
            name, _, value = line.strip("[]").partition(" = ")
            # A group begins anew with the first of its bracketed lines.
            header = {name: value} if name == "g^ir length" else {**header, name: value}
        elif " = " in line:
            name, value = line.split(" = ", 1)
            if name == "COUNT":
                if case:
                    yield case_header, case
                case, case_header = {}, header
            else:
                case[name] = value.strip()


def udp_payloads(capture: bytes) -> list[bytes]:
    """UDP payloads of the Ethernet/IPv4 frames of a pcap or pcapng file, in their order."""
    frames = _pcapng(capture) if capture[:4] == b"\n\r\r\n" else _pcap(capture)
    payloads = []
    for frame in frames:
        packet = frame[14:]
        if frame[12:14] != b"\x08\x00" or packet[9] != 17:
            continue
        start = (packet[0] & 15) * 4
        (length,) = struct.unpack_from("!H", packet, start + 4)
        payloads.append(packet[start + 8 : start + length])
    return payloads


def _pcap(data: bytes) -> Iterator[bytes]:
    order = "<" if data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    at = 24
    while at < len(data):
        (length,) = struct.unpack_from(order + "8xI", data, at)
        yield data[at + 16 : at + 16 + length]
        at += 16 + length


def _pcapng(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        if kind == 6:  # enhanced packet block
            (captured,) = struct.unpack_from("<I", data, at + 20)
            yield data[at + 28 : at + 28 + captured]
        at += length
