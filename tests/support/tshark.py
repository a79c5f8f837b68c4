"""tshark as an independent judge of what we send, given the keys that `--keylog` wrote."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from agent.datagram import Address

RAW_IP = 101  # LINKTYPE_RAW
ESP_NAME = re.compile(r"^Encapsulating Security Payload", re.MULTILINE)
IKE_NAME = re.compile(r"^Internet Security Association", re.MULTILINE)

# What tshark 4.0 has no name for, and need not: code points for private use, of mediation
# (draft-brunner-ikev2-mediation as strongSwan numbers it) and of ours (agent.wire.codes).
PRIVATE = {
    "Unknown (240)",  # exchange type ME_CONNECT
    "Private Use (128)",  # payload type IDp
    *(f"STATUS TYPES ({number})" for number in (*range(40962, 40969), *range(41001, 41005))),
}
# What newer ones have names for: ML-KEM-768, IKE_INTERMEDIATE, IKE_FOLLOWUP_KE.
NEWER = {"Unknown (36)", "Unknown (43)", "Unknown (44)"}
_INTERMEDIATE = "Exchange type: Unknown (43)", "Exchange type: IKE_INTERMEDIATE (43)"
_UNKNOWN = re.compile(r"unknown|private use|unassigned|undecoded|not dissected", re.IGNORECASE)
_WRONG = re.compile(
    r"malformed|expert info|incorrect|bogus|\binvalid\b|\[Bad: True\]", re.IGNORECASE
)


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
    """What tshark printed: one text a frame, and what it said about its tables."""

    frames: tuple[str, ...]
    complaints: str

    @property
    def knows_esn(self) -> bool:
        """Whether this tshark takes the fields for extended sequence numbers."""
        return "More fields than required" not in self.complaints

    @property
    def lacks_chacha20(self) -> bool:
        """Whether there is ChaCha20-Poly1305 in the log and this tshark cannot do it."""
        return "invalid value: ChaCha20" in self.complaints

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
        return {re.sub(r"^.*?: (Private Use - )?", "", line) for line in found}

    def wrong(self) -> list[str]:
        """Lines that call something malformed or not proven."""
        return [x.strip() for f in self.frames for x in f.splitlines() if _WRONG.search(x)]

    def sealed(self) -> list[str]:
        """Frames of IKE whose Encrypted payload it did not open and prove."""
        return [
            f
            for f in self.ike
            if "Encrypted and Authenticated" in f
            and not ("Decrypted Data" in f and re.search(r"Integrity Checksum.*\[correct\]", f))
        ]


def dissect(folder: Path, capture: Path, lines: Sequence[str]) -> Verdict:
    """What tshark makes of `capture` with the lines of a key log; skips the test without tshark.

    Its table has one set of keys for an IKE SA, the last line's. With IKE_INTERMEDIATE there are
    two: the frames of that exchange are read once more, with the first line.
    """
    verdict = _dissect(folder, capture, lines)
    if any(name in frame for frame in verdict.frames for name in _INTERMEDIATE):
        first = _dissect(folder, capture, lines[::-1])
        frames = zip(verdict.frames, first.frames, strict=True)
        chosen = (b if any(name in b for name in _INTERMEDIATE) else a for a, b in frames)
        return Verdict(tuple(chosen), verdict.complaints)
    return verdict


def _dissect(folder: Path, capture: Path, lines: Sequence[str]) -> Verdict:
    if shutil.which("tshark") is None:
        pytest.skip("needs the Debian package tshark")
    profile = folder / "wireshark"
    profile.mkdir(parents=True, exist_ok=True)
    esp = [line for line in lines if line.startswith('"IP')]
    ike = [line for line in lines if not line.startswith('"IP')]
    for name, table in (("esp_sa", esp), ("ikev2_decryption_table", ike)):
        (profile / name).write_text("".join(f"{line}\n" for line in table))
    switches = ("enable_encryption_decode", "enable_authentication_check")
    options = [word for switch in switches for word in ("-o", f"esp.{switch}:TRUE")]
    done = subprocess.run(
        ["tshark", "-n", "-V", "-r", str(capture), *options],
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
    assert done.returncode == 0, done.stderr
    frames = re.split(r"(?m)^Frame \d+: ", done.stdout)[1:]
    return Verdict(tuple(frames), done.stderr)
