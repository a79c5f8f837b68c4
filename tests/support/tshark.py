"""tshark as an independent judge of what we send, given the keys that `--keylog` wrote.

That of tests/lab/newer.py: 4.0 of Debian 12 knows no RFC 8784, 9242, 9370, ML-KEM, and no ESN.
"""

from __future__ import annotations

import re
import struct
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.lab import newer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from agent.datagram import Address

RAW_IP = 101  # LINKTYPE_RAW
ESP_NAME = re.compile(r"^Encapsulating Security Payload", re.MULTILINE)
IKE_NAME = re.compile(r"^Internet Security Association", re.MULTILINE)

# What tshark has no name for, and need not: code points for private use, of mediation
# (draft-brunner-ikev2-mediation as strongSwan numbers it) and of ours (agent.wire.codes).
PRIVATE = {
    "Unknown (240)",  # exchange type ME_CONNECT
    *(f"STATUS TYPES ({number})" for number in (*range(40962, 40969), *range(41001, 41007))),
}
# What it has no name for in 4.6 either, with what it is and where it comes from.
_ADDITIONAL = "as additional key exchange, a transform type of which it knows no IDs"
UNNAMED = {
    "RESERVED to IANA (15)": "certificate encoding Raw Public Key, RFC 7670",
    "Transform ID: 19": f"ECP-256 {_ADDITIONAL}",
    "Transform ID: 20": f"ECP-384 {_ADDITIONAL}",
    "Transform ID: 36": f"ML-KEM-768 {_ADDITIONAL}",
    "Transform ID: 37": f"ML-KEM-1024 {_ADDITIONAL}",
}
_UNKNOWN = re.compile(
    r"unknown|private use|unassigned|undecoded|not dissected|reserved to iana|^transform id: \d+$",
    re.IGNORECASE,
)
_WRONG = re.compile(
    r"malformed|expert info|incorrect|bogus|\binvalid\b|\[Bad: True\]", re.IGNORECASE
)
# It reads every CERT as X.509, whatever its encoding is: what it makes of a raw public key (RFC
# 7670), a SEQUENCE as well, is not its judgement. tests/sim/test_oracle_proofs.py has another.
_RAW_KEY = re.compile(
    r"(Certificate Encoding: [^\n]*\(15\)\n( *)Certificate Data[^\n]*\n)(?:\2 +[^\n]*\n)*"
)

NON_ESP_MARKER = bytes(4)


def is_esp(data: bytes) -> bool:
    """Whether a datagram of port 4500 holds ESP (RFC 3948)."""
    return len(data) > 4 and data[:4] != NON_ESP_MARKER


def pcap(datagrams: Iterable[tuple[float, Address, Address, bytes]]) -> bytes:
    """A capture of UDP datagrams over IPv4: seconds, source, destination, payload."""
    out = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, RAW_IP)]
    for at, source, destination, data in datagrams:
        udp = struct.pack("!HHHH", source.port, destination.port, 8 + len(data), 0) + data
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
        packet = head + source.ip + destination.ip + udp
        out.append(struct.pack("<IIII", int(at), int(at % 1 * 1e6), *[len(packet)] * 2) + packet)
    return b"".join(out)


@dataclass(frozen=True)
class Verdict:
    """What tshark printed, one text a frame."""

    frames: tuple[str, ...]

    @property
    def esp(self) -> tuple[str, ...]:
        """The frames that are ESP."""
        return tuple(f for f in self.frames if ESP_NAME.search(f))

    @property
    def ike(self) -> tuple[str, ...]:
        """The frames that are IKE."""
        return tuple(f for f in self.frames if IKE_NAME.search(f))

    def names(self) -> set[str]:
        """All "Name (number)" of exchanges, payloads and notifies that it used."""
        return {m for f in self.ike for m in re.findall(r"(?:type|Type|Payload): (.*\(\d+\))", f)}

    def unknown(self) -> set[str]:
        """What it has no name for."""
        lines = [line.strip() for f in self.frames for line in f.splitlines()]
        found = [line for line in lines if _UNKNOWN.search(line) and "Payload: Notify" not in line]
        return {_short(line) for line in found}

    def wrong(self) -> list[str]:
        """Lines that call something malformed or not proven."""
        frames = (_RAW_KEY.sub(r"\1", f) for f in self.frames)
        return [x.strip() for f in frames for x in f.splitlines() if _WRONG.search(x)]

    def sealed(self) -> list[str]:
        """Frames of IKE whose Encrypted payload it did not open and prove."""
        return [f for f in self.ike if _is_sealed(f)]


def _is_sealed(frame: str) -> bool:
    return "Encrypted and Authenticated" in frame and not (
        "Decrypted Data" in frame and re.search(r"Integrity Checksum.*\[correct\]", frame)
    )


def _short(line: str) -> str:
    if line.startswith("Transform ID: "):
        return line
    return re.sub(r"^.*?: (Private Use - |RESERVED TO IANA - )?", "", line)


def dissect(folder: Path, capture: Path, lines: Sequence[str]) -> Verdict:
    """What tshark makes of `capture` with the lines of a key log; skips the test without tshark.

    Its table has one set of keys for an IKE SA, the last line's. With IKE_INTERMEDIATE there are
    several, one after the other: the capture is read once with each.
    """
    rounds: dict[str, list[str]] = {}
    for line in lines:
        if not line.startswith(('"IP', "#")):
            rounds.setdefault(line[:33], []).append(line)  # both SPIs and the comma
    verdicts = []
    for turn in range(max(map(len, rounds.values()), default=1)):
        last = [keys[-1 - turn % len(keys)] for keys in rounds.values()]
        verdicts.append(_dissect(folder, capture, [*lines, *last]))
    frames = zip(*(verdict.frames for verdict in verdicts), strict=True)
    opened = (next((f for f in same if not _is_sealed(f)), same[0]) for same in frames)
    return Verdict(tuple(opened))


def _dissect(folder: Path, capture: Path, lines: Sequence[str]) -> Verdict:
    if reason := newer.obstacle():
        pytest.skip(reason)
    profile = folder / "wireshark"
    profile.mkdir(parents=True, exist_ok=True)
    esp = [line for line in lines if line.startswith('"IP')]
    ike = [line for line in lines if not line.startswith('"IP')]
    for name, table in (("esp_sa", esp), ("ikev2_decryption_table", ike)):
        (profile / name).write_text("".join(f"{line}\n" for line in table))
    switches = ("enable_encryption_decode", "enable_authentication_check")
    options = [word for switch in switches for word in ("-o", f"esp.{switch}:TRUE")]
    done = subprocess.run(
        newer.inside(["tshark", "-n", "-V", "-r", str(capture), *options]),
        env={
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder),
            "PATH": "/usr/sbin:/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # That it runs as root; not that a line of a table is no good.
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"(Running as user .*|\s)*", done.stderr), done.stderr
    return Verdict(tuple(re.split(r"(?m)^Frame \d+: ", done.stdout)[1:]))
