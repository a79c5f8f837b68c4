"""The systemd unit: the packaged file, its exposure, and that its rights really suffice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from board.unit import unit_text

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "firmware/systemd/hearthgate.service"


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if not program:
        pytest.skip("needs the Debian package systemd (systemd-analyze)")
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_the_packaged_unit_is_the_one_that_setup_writes():
    assert UNIT.read_text() == unit_text(("/usr/bin/hearthgate", "run"))


def test_exposure_is_two_or_better():
    done = analyze("security", "--offline=true", "--threshold=20", "--no-pager", str(UNIT))
    assert done.returncode == 0, done.stdout[-300:]
    strict = analyze("security", "--offline=true", "--threshold=5", "--no-pager", str(UNIT))
    assert strict.returncode != 0  # the threshold is really looked at


def test_systemd_understands_every_line(tmp_path):
    program = tmp_path / "hearthgate"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "hearthgate.service"
    unit.write_text(unit_text((str(program), "run"), user="", groups=()))
    done = analyze("verify", "--man=no", str(unit))
    said = [line for line in done.stderr.splitlines() if "hearthgate.service" in line]
    assert said == []
    unit.write_text(unit.read_text().replace("ProtectClock", "ProtectClok"))
    assert "ProtectClok" in analyze("verify", "--man=no", str(unit)).stderr


USE_EVERYTHING = """
import ctypes, fcntl, os, socket, struct
assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) in (0, -1)  # MemoryDenyWriteExecute, Linux 6.3
from agent.crypto.auth import SigningKey
from agent.io.netlink import Netlink
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
AESGCM(bytes(16)).encrypt(bytes(12), b"x", None)
SigningKey.from_seed(bytes(32)).sign(b"x")
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"hg-unit0", 0x1001))
with Netlink() as kernel:
    kernel.add_address("hg-unit0", bytes([0xFD]) + bytes(14) + b"\\1", 128)
    kernel.set_link("hg-unit0", up=True, mtu=1280)
    kernel.add_route(bytes([0xFD, 1]) + bytes(14), 16, "hg-unit0")
listener = socket.socket(socket.AF_INET6)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"hg-unit0")
listener.bind(("fd00::1", 80))
try:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
except PermissionError:
    print("done")
"""


@pytest.mark.netns
def test_two_capabilities_suffice():
    """TUN, addresses, routes, port 80 and SO_BINDTODEVICE in a namespace; no raw sockets."""
    rights = "-all,+net_admin,+net_bind_service"
    done = subprocess.run(
        [
            *("unshare", "--net", "setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"),
            *("--no-new-privs", sys.executable, "-c", USE_EVERYTHING),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr


def test_user_and_folders_of_the_package_are_those_of_the_unit():
    unit = UNIT.read_text()
    users = (UNIT.with_suffix(".sysusers")).read_text()
    folders = (UNIT.with_suffix(".tmpfiles")).read_text()
    assert "\nUser=hearthgate\nGroup=hearthgate\nSupplementaryGroups=dialout\n" in unit
    assert "\nu hearthgate " in users
    assert "\nm hearthgate dialout\n" in users
    assert "\nd /etc/hearthgate/keys 0700 hearthgate hearthgate " in folders
    assert "ReadWritePaths=-/etc/hearthgate/keys " in unit
