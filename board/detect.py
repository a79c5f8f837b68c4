"""Which board this is, which init system and distribution it runs, how much memory it has."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class InitSystem(StrEnum):
    """Who starts services here."""

    SYSTEMD = "systemd"
    PROCD = "procd"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """This machine. `memory_octets` is 0 if unknown."""

    model: str
    distribution: str
    distribution_id: str
    init: InitSystem
    memory_octets: int
    architecture: str


def detect_board(root: Path = Path("/")) -> Board:
    """Look at this machine. Cannot fail: what is not told is "unknown"."""
    release = _assignments(root / "etc/os-release") or _assignments(root / "usr/lib/os-release")
    openwrt = _assignments(root / "etc/openwrt_release")
    return Board(
        model=_model(root),
        distribution=openwrt.get("DISTRIB_DESCRIPTION")
        or release.get("PRETTY_NAME")
        or "an unknown Linux",
        distribution_id="openwrt" if openwrt else release.get("ID", "unknown"),
        init=detect_init(root),
        memory_octets=_memory(root),
        architecture=os.uname().machine,
    )


def detect_init(root: Path = Path("/")) -> InitSystem:
    """The init system that runs now (not merely is installed)."""
    if (root / "run/systemd/system").is_dir():  # as sd_booted(3) does it
        return InitSystem.SYSTEMD
    if (root / "sbin/procd").exists() and (root / "etc/rc.common").exists():
        return InitSystem.PROCD
    return InitSystem.NONE


def _model(root: Path) -> str:
    places = (
        "proc/device-tree/model",  # Raspberry Pi and most ARM boards; ends in a NUL
        "tmp/sysinfo/model",  # OpenWrt
        "sys/class/dmi/id/product_name",  # PCs
    )
    for place in places:
        text = _text(root / place).strip("\0 \n")
        if text:
            return "".join(c for c in text if c.isprintable())[:80]
    return "an unknown board"


def _memory(root: Path) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "MemTotal:" and words[1].isdecimal():
            return int(words[1][:12]) * 1024
    return 0


def _assignments(path: Path) -> dict[str, str]:
    """The KEY='value' lines of a file that shells may read, without asking a shell."""
    found = {}
    for line in _text(path).splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and key.isidentifier():
            found[key] = value.strip("\"' ")
    return found


def _text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(16 * 1024).decode("utf-8", "replace")
    except OSError:
        return ""
