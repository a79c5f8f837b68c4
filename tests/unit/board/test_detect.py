"""What the board is, from files as they are on real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from board.detect import InitSystem, detect_board

if TYPE_CHECKING:
    from pathlib import Path


def make(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_raspberry_pi(tmp_path):
    make(
        tmp_path,
        {
            "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
            "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
            "proc/meminfo": "MemTotal:         948304 kB\nMemFree: 1 kB\n",
        },
    )
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    board = detect_board(tmp_path)
    assert board.model == "Raspberry Pi 4 Model B Rev 1.4"
    assert board.distribution == "Debian GNU/Linux 12 (bookworm)"
    assert board.distribution_id == "debian"
    assert board.init is InitSystem.SYSTEMD
    assert board.memory_octets == 948304 * 1024


def test_openwrt_router(tmp_path):
    make(
        tmp_path,
        {
            "tmp/sysinfo/model": "GL.iNet GL-MT300N V2\n",
            "etc/openwrt_release": "DISTRIB_ID='OpenWrt'\n"
            "DISTRIB_DESCRIPTION='OpenWrt 24.10.0 r28427'\n",
            "etc/os-release": 'ID="openwrt"\nPRETTY_NAME="OpenWrt 24.10.0"\n',
            "sbin/procd": "",
            "etc/rc.common": "",
        },
    )
    board = detect_board(tmp_path)
    assert (board.model, board.distribution) == ("GL.iNet GL-MT300N V2", "OpenWrt 24.10.0 r28427")
    assert board.distribution_id == "openwrt"
    assert board.init is InitSystem.PROCD


@pytest.mark.parametrize(
    "files", [{}, {"proc/meminfo": "MemTotal: lots\n", "etc/os-release": "\0=\n=x\nA B=c\n"}]
)
def test_an_unknown_machine(tmp_path, files):
    board = detect_board(make(tmp_path, files))
    assert board.model == "an unknown board"
    assert board.distribution == "an unknown Linux"
    assert board.init is InitSystem.NONE
    assert board.memory_octets == 0
