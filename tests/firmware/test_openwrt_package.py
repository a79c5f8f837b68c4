"""The OpenWrt package without an SDK: shell clean, init script and hotplug played through."""

from __future__ import annotations

import os
import py_compile
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import agent

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "firmware/openwrt/hearthgate"
FILES = PACKAGE / "files"
SHELL = ["hearthgate.init", "hearthgate.hotplug", "hearthgate.defaults", "hearthgate.launcher"]


def test_version_and_files_of_the_makefile():
    text = (PACKAGE / "Makefile").read_text()
    assert f"PKG_VERSION:={agent.__version__}\n" in text
    installed = re.findall(r"\./files/(\S+)", text)
    assert sorted(installed) == sorted(p.name for p in FILES.iterdir() if p.is_file())
    assert "site-packages" in text  # in the comment that says never
    assert "$(PYTHON3_PKG_DIR)" not in text
    assert "define Package/hearthgate/conffiles\n/etc/config/hearthgate\n" in text


@pytest.mark.parametrize("name", SHELL)
def test_shell_is_clean(name):
    checker = shutil.which("shellcheck")
    if not checker:
        pytest.skip("needs the Debian package shellcheck")
    arguments = [checker, "--shell=dash", "--severity=style", str(FILES / name)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# rc.common, procd.sh, functions.sh and uci as far as the init script uses them.
FAKE_SYSTEM = """
config_load() { [ "$1" = hearthgate ]; }
config_get_bool() { eval "$1=$ENABLED"; }
config_foreach() {
	case "$2" in device) "$1" boiler "$3" ;; *) : ;; esac
}
uci_load_validate() {
	shift 3; callback="$1"; shift
	echo "validate $*" >>"$LOG"
	"$callback" boiler "$VALID"
}
logger() { shift 5; echo "log $*" >>"$LOG"; }
uci() { cat "$UCI"; }
for name in open_instance set_param close_instance add_reload_trigger add_validation; do
	eval "procd_$name() { echo \\"procd $name \\$*\\" >>\\"\\$LOG\\"; }"
done
"""


@pytest.fixture
def router(tmp_path):
    """The init script with all paths moved into a folder, and a way to run its functions."""
    for folder in ("etc/config", "var", "run", "usr/bin", "usr/lib/hearthgate"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "usr/lib/hearthgate/board").symlink_to(ROOT / "board")
    compiled = tmp_path / "usr/lib/hearthgate/uci_toml.pyc"
    py_compile.compile(str(FILES / "uci_toml.py"), str(compiled), doraise=True)
    program = tmp_path / "usr/bin/hearthgate"
    program.write_text('#!/bin/sh\n[ -z "$WRONG" ] || { echo "$WRONG"; exit 78; }\n')
    program.chmod(0o755)
    text = (FILES / "hearthgate.init").read_text()
    text = re.sub(r"(?<![\w$}])/(etc|var|run|usr)/", rf"{tmp_path}/\1/", text)
    text = text.replace(f"{tmp_path}/usr/bin/python3", sys.executable).replace(
        "python3 -s", "python3"
    )
    text = text.replace("[ -e /run ]", "true").replace(f"{sys.executable} -s", sys.executable)
    script = tmp_path / "hearthgate.init"
    script.write_text(text.replace("#!/bin/sh /etc/rc.common", ""))
    (tmp_path / "uci").write_text("config hearthgate 'main'\n\toption name 'cabin'\n")

    def run(function: str = "start_service", **environment: str) -> tuple[int, list[str]]:
        log = tmp_path / "log"
        log.write_text("")
        variables = {
            "ENABLED": "1",
            "VALID": "0",
            "LOG": str(log),
            "UCI": str(tmp_path / "uci"),
            "WRONG": "",
            "PATH": os.environ["PATH"],
            **environment,
        }
        done = subprocess.run(
            ["sh", "-c", FAKE_SYSTEM + f". {script}\n{function}"],
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "not found" not in done.stderr, done.stderr
        return done.returncode, log.read_text().splitlines()

    run.root = tmp_path  # type: ignore[attr-defined]
    return run


def test_start_generates_the_configuration_and_opens_an_instance(router):
    code, log = router()
    assert code == 0, log
    root = router.root
    generated = root / "var/etc/hearthgate.toml"
    assert '"name" = "cabin"' in generated.read_text()
    assert generated.stat().st_mode & 0o777 == 0o600
    assert os.readlink(root / "etc/hearthgate/hearthgate.toml") == str(generated)
    assert os.readlink(root / "var/lib/hearthgate") == str(root / "etc/hearthgate/state")
    assert (root / "etc/hearthgate/keys").stat().st_mode & 0o777 == 0o700
    assert f"procd set_param command {root}/usr/bin/hearthgate run" in log
    assert "procd set_param respawn 3600 5 0" in log
    assert {"procd set_param stdout 1", "procd set_param stderr 1"} <= set(log)
    assert log[-1].startswith("procd close_instance")
    assert router()[0] == 0  # again


def test_not_enabled_does_nothing(router):
    assert router(ENABLED="0") == (0, [])
    assert not (router.root / "var/etc").exists()


def test_an_invalid_section_is_named_and_nothing_starts(router):
    code, log = router(VALID="1")
    assert code == 1
    assert any("section 'boiler'" in line for line in log)
    assert not any(line.startswith("procd") for line in log)


def test_a_wrong_configuration_is_logged_and_nothing_starts(router):
    code, log = router(WRONG="hearthgate.toml: [device.x] type is missing")
    assert code == 1
    assert any("type is missing" in line for line in log)
    assert not any(line.startswith("procd") for line in log)
    (router.root / "uci").write_text("config nonsense 'x'\n")
    assert router()[0] == 1


def test_a_file_of_the_users_own_wins(router):
    own = router.root / "etc/hearthgate/hearthgate.toml"
    own.parent.mkdir()
    own.write_text('name = "mine"\n')
    assert router()[0] == 0
    assert own.read_text() == 'name = "mine"\n'
    assert not (router.root / "var/etc/hearthgate.toml").exists()


def test_triggers(router):
    code, log = router("service_triggers")
    assert code == 0
    assert log[0] == "procd add_reload_trigger hearthgate"
    assert "procd add_validation validate_device" in log


@pytest.fixture
def usb(tmp_path):
    """A board with one FTDI adapter with two ports; runs the hotplug script on it."""
    device = tmp_path / "sys/devices/platform/usb1/1-1"
    for name, value in {
        "idVendor": "0403",
        "idProduct": "6010",
        "manufacturer": "FTDI",
        "product": "Dual RS232/../x",
        "serial": "FT 12\x1b",
    }.items():
        device.mkdir(parents=True, exist_ok=True)
        (device / name).write_text(value + "\n")
    for number, name in enumerate(("ttyUSB0", "ttyUSB1")):
        interface = device / f"1-1:1.{number}"
        (interface / name / "tty" / name).mkdir(parents=True)
        (interface / "bInterfaceNumber").write_text(f"0{number}\n")
        (interface / name / "port_number").write_text("0\n")

    def run(action: str, name: str, number: int = 0) -> dict[str, str]:
        path = f"/devices/platform/usb1/1-1/1-1:1.{number}/{name}/tty/{name}"
        environment = {"ACTION": action, "DEVNAME": name, "DEVPATH": path, "ROOT": str(tmp_path)}
        done = subprocess.run(
            ["sh", str(FILES / "hearthgate.hotplug")],
            env={**environment, "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        links = tmp_path / "dev/serial"
        return {str(p.relative_to(links)): os.readlink(p) for p in links.glob("*/*")}

    return run


def test_hotplug_names_adapters_as_udev_does(usb):
    name = "by-id/usb-FTDI_Dual_RS232_.._x_FT_12_-if0{}-port0"
    assert usb("add", "ttyUSB0") == {
        name.format(0): "../../ttyUSB0",
        "by-path/usb-1-1:1.0-port0": "../../ttyUSB0",
    }
    assert len(usb("add", "ttyUSB1", 1)) == 4
    assert usb("add", "ttyUSB1", 1)[name.format(1)] == "../../ttyUSB1"
    assert set(usb("remove", "ttyUSB0")) == {name.format(1), "by-path/usb-1-1:1.1-port0"}
    assert usb("remove", "ttyUSB1", 1) == {}
    assert usb("add", "ttyS0") == {}
    assert usb("add", "ttyUSB9", 7) == {}
