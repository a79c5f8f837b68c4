"""Installing and running the service; the init system's programs are played by the test."""

from __future__ import annotations

import subprocess

import pytest

from board.detect import InitSystem
from board.errors import ServiceError
from board.service import Outcome, ServiceStatus, find_service, run_program
from board.unit import init_text, is_reachable, unit_text

COMMAND = ("/usr/bin/hearthgate", "run")


class FakeInit:
    """Remembers what was called; answers by the longest matching prefix."""

    def __init__(self, answers: dict[str, Outcome] | None = None) -> None:
        self.calls: list[str] = []
        self.answers = answers or {}

    def __call__(self, arguments) -> Outcome:
        line = " ".join(arguments)
        self.calls.append(line)
        for prefix, outcome in self.answers.items():
            if line.startswith(prefix):
                return outcome
        return Outcome(0, "")


@pytest.fixture
def systemd_root(tmp_path):
    for folder in ("run/systemd/system", "etc/systemd/system", "etc/hearthgate", "usr/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nhearthgate:x:99:99::/:/no\n")
    (tmp_path / "etc/group").write_text("root:x:0:\ndialout:x:20:\nhearthgate:x:99:\n")
    (tmp_path / "usr/bin/hearthgate").write_text("\x7fELF")
    (tmp_path / "usr/bin/hearthgate").chmod(0o755)
    return tmp_path


def test_systemd_install_is_idempotent(systemd_root):
    run = FakeInit()
    service = find_service(systemd_root, run)
    assert service.kind is InitSystem.SYSTEMD
    assert service.install(COMMAND) is True
    unit = systemd_root / "etc/systemd/system/hearthgate.service"
    assert unit.stat().st_mode & 0o777 == 0o644
    assert "\nExecStart=/usr/bin/hearthgate run\n" in unit.read_text()
    assert "systemctl daemon-reload" in run.calls
    keys = systemd_root / "etc/hearthgate/keys"
    assert keys.stat().st_mode & 0o777 == 0o700
    assert any(call.startswith("chown -R -h") and str(keys) in call for call in run.calls)
    run.calls.clear()
    assert service.install(COMMAND) is False
    assert "systemctl daemon-reload" not in run.calls


def test_the_user_is_made_and_without_one_it_runs_as_root(systemd_root):
    (systemd_root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (systemd_root / "etc/group").write_text("root:x:0:\nuucp:x:14:\n")
    run = FakeInit()
    find_service(systemd_root, run).install(COMMAND)
    assert run.calls[0].startswith("useradd --system -U ")
    text = (systemd_root / "etc/systemd/system/hearthgate.service").read_text()
    assert "\nUser=" not in text  # it still does not exist
    assert "\nGroup=" not in text
    assert "\nSupplementaryGroups=uucp\n" in text
    assert "CAP_DAC_READ_SEARCH" in text
    assert any("root:root" in call for call in run.calls)


def test_a_packaged_unit_is_used_and_a_different_command_overrides_it(systemd_root):
    packaged = systemd_root / "usr/lib/systemd/system/hearthgate.service"
    packaged.parent.mkdir(parents=True)
    packaged.write_text(unit_text(COMMAND))
    own = systemd_root / "etc/systemd/system/hearthgate.service"
    service = find_service(systemd_root, FakeInit())
    assert service.install(COMMAND) is False
    assert not own.exists()
    assert service.install(("/opt/hg/bin/hearthgate", "run")) is True
    assert "ExecStart=/opt/hg/bin/hearthgate run" in own.read_text()
    assert service.install(COMMAND) is True
    assert not own.exists()


def test_systemd_status_and_failures_name_the_log(systemd_root):
    run = FakeInit(
        {
            "systemctl is-active": Outcome(3, "failed"),
            "systemctl is-enabled": Outcome(0, "enabled"),
            "systemctl start": Outcome(1, "Job for hearthgate.service failed."),
        }
    )
    service = find_service(systemd_root, run)
    assert service.status() == ServiceStatus(
        is_installed=False, is_enabled=True, is_active=False, detail="failed"
    )
    assert service.remove() is False
    with pytest.raises(ServiceError, match=r"Starting.*Job for.*journalctl -u hearthgate"):
        service.start()


def test_systemd_remove(systemd_root):
    run = FakeInit()
    service = find_service(systemd_root, run)
    service.install(COMMAND)
    assert service.remove() is True
    assert "systemctl disable --now hearthgate.service" in run.calls
    assert not (systemd_root / "etc/systemd/system/hearthgate.service").exists()


@pytest.fixture
def procd_root(tmp_path):
    for folder in ("sbin", "etc/init.d", "etc/config"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "sbin/procd").touch()
    (tmp_path / "etc/rc.common").touch()
    return tmp_path


def test_procd_with_the_package(procd_root):
    script = procd_root / "etc/init.d/hearthgate"
    script.write_text("#!/bin/sh /etc/rc.common\n")
    (procd_root / "etc/config/hearthgate").touch()
    run = FakeInit({f"{script} running": Outcome(1, "")})
    service = find_service(procd_root, run)
    assert service.kind is InitSystem.PROCD
    assert service.install(COMMAND) is False
    assert script.read_text() == "#!/bin/sh /etc/rc.common\n"
    service.enable()
    assert run.calls == [
        "uci set hearthgate.main.enabled=1",
        "uci commit hearthgate",
        f"{script} enable",
    ]
    assert service.status().detail == "stopped"
    assert service.remove() is True
    assert script.exists()  # the package's


def test_procd_without_the_package(procd_root):
    script = procd_root / "etc/init.d/hearthgate"
    service = find_service(procd_root, FakeInit())
    assert service.status().is_installed is False
    assert service.install(("/root/it's here/hearthgate", "run")) is True
    assert script.stat().st_mode & 0o777 == 0o755
    assert "'/root/it'\\''s here/hearthgate' 'run'" in script.read_text()
    assert service.status().is_active
    assert service.remove() is True
    assert not script.exists()
    assert service.remove() is False


def test_neither_is_told(tmp_path):
    with pytest.raises(ServiceError, match="Neither systemd nor OpenWrt's procd"):
        find_service(tmp_path)


def test_missing_program_is_told():
    with pytest.raises(ServiceError, match="is missing"):
        run_program(["/absent/systemctl"])
    assert run_program(["/bin/sh", "-c", "echo said; exit 3"]) == Outcome(3, "said")


@pytest.mark.parametrize(
    ("word", "line"),
    [("/opt/a b/hg", '"/opt/a b/hg"'), ("/o%t", "/o%%t"), ("/o$t", "/o$$t"), ('/q"', '"/q\\""')],
)
def test_the_command_is_escaped_for_systemd(word, line):
    assert f"\nExecStart={line} run\n" in unit_text((word, "run"))


@pytest.mark.parametrize("command", [(), ("hearthgate",), ("/x\nUser=root",)])
def test_a_command_that_cannot_be_is_refused(command):
    with pytest.raises(ServiceError):
        unit_text(command)
    with pytest.raises(ServiceError):
        init_text(command)


def test_a_program_in_a_home_stays_visible():
    assert "\nProtectHome=read-only\n" in unit_text(("/home/pi/hearthgate/hearthgate", "run"))
    assert "\nPrivateTmp=no\n" in unit_text(("/tmp/hg/hearthgate", "run"))
    assert "\nProtectHome=yes\n" in unit_text(COMMAND)


def test_a_program_in_a_private_home_runs_as_root(systemd_root):
    program = systemd_root / "home/pi/hearthgate"
    interpreter = systemd_root / "root/python"
    for path, text in ((program, "#!/root/python -s\n"), (interpreter, "\x7fELF")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)
    assert is_reachable("/home/pi/hearthgate", systemd_root)
    assert not is_reachable("/usr/bin/absent", systemd_root)
    interpreter.parent.chmod(0o700)
    assert not is_reachable("/home/pi/hearthgate", systemd_root)
    find_service(systemd_root, FakeInit()).install(("/home/pi/hearthgate", "run"))
    text = (systemd_root / "etc/systemd/system/hearthgate.service").read_text()
    assert "\nUser=" not in text
    assert "CAP_DAC_READ_SEARCH" in text
    find_service(systemd_root, FakeInit()).install(("/root/python",))
    interpreter.parent.chmod(0o755)
    find_service(systemd_root, FakeInit()).install(("/home/pi/hearthgate", "run"))
    text = (systemd_root / "etc/systemd/system/hearthgate.service").read_text()
    assert "\nUser=hearthgate\n" in text


def test_the_procd_script_is_clean_shell(tmp_path):
    script = tmp_path / "hearthgate.init"
    script.write_text(init_text(COMMAND))
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
