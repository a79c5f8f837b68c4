"""The service of the init system: install, enable, start, stop, remove, look after it.

systemd gets a unit file (board.unit), OpenWrt's procd an init script. Where a package of the
distribution has brought either, that one is used and nothing is written. Under systemd the daemon
runs as a user of its own, which then owns keys and state. Every action runs the init system's own
program; what it says is in the error.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from board.detect import InitSystem, detect_init
from board.errors import ServiceError
from board.storage import PUBLIC, make_folder, read_file, remove_file, write_file
from board.unit import GENERATED, GROUP, USER, command_line, init_text, is_reachable, unit_text

NAME = "hearthgate"
SERIAL_GROUPS = ("dialout", "uucp")  # own serial ports: Debian, Arch
COMMAND_SECONDS = 60  # stopping waits for the daemon's farewell to its peers

Run = Callable[[Sequence[str]], "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended and what it printed."""

    code: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """The service as the init system sees it; `detail` is its own word for the state."""

    is_installed: bool
    is_enabled: bool
    is_active: bool
    detail: str


def run_program(arguments: Sequence[str]) -> Outcome:
    """Run a program of the init system. Raises ServiceError if it is missing or hangs."""
    try:
        done = subprocess.run(  # noqa: S603  # fixed programs; arguments are ours, no shell
            list(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise ServiceError(f"The program {arguments[0]} is missing") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceError(f"{' '.join(arguments)} did not work: {error}") from error
    return Outcome(done.returncode, done.stdout.decode("utf-8", "replace").strip()[-1000:])


def find_service(root: Path = Path("/"), run: Run = run_program) -> Service:
    """The service of this machine. Raises ServiceError if no init system of ours runs here."""
    match detect_init(root):
        case InitSystem.SYSTEMD:
            return SystemdService(root, run)
        case InitSystem.PROCD:
            return ProcdService(root, run)
        case InitSystem.NONE:
            raise ServiceError(
                "Neither systemd nor OpenWrt's procd runs on this machine, so no service can be "
                "installed: have your init system start `hearthgate run` as root"
            )


class Service(ABC):
    """What the init systems have in common. Every method raises ServiceError."""

    kind: InitSystem
    log_command: str

    def __init__(self, root: Path, run: Run) -> None:
        self._root = root
        self._run = run

    @abstractmethod
    def install(self, command: Sequence[str]) -> bool:
        """Make the service run `command` (absolute path first); True if anything changed.

        Neither starts nor enables it. Raises StorageError as well.
        """

    @abstractmethod
    def remove(self) -> bool:
        """Stop, disable and remove what `install` made; False if there was nothing."""

    @abstractmethod
    def enable(self) -> None:
        """Start it at every boot."""

    @abstractmethod
    def disable(self) -> None:
        """Start it at boot no longer."""

    @abstractmethod
    def start(self) -> None:
        """Start it now; it is up when this returns (systemd: has said that it is ready)."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it now."""

    @abstractmethod
    def restart(self) -> None:
        """Stop and start it."""

    @abstractmethod
    def status(self) -> ServiceStatus:
        """How it is."""

    def _must(self, doing: str, *arguments: str) -> str:
        outcome = self._run(arguments)
        if outcome.code:
            said = f": {outcome.text}" if outcome.text else ""
            raise ServiceError(
                f"{doing} the service failed ({' '.join(arguments)}){said}. "
                f"More is in the log: {self.log_command}"
            )
        return outcome.text


class SystemdService(Service):
    """systemd, by systemctl."""

    kind = InitSystem.SYSTEMD
    log_command = f"journalctl -u {NAME} -e"

    def install(self, command: Sequence[str]) -> bool:
        self._make_user()
        packaged = self._packaged()
        if packaged and f"\nExecStart={command_line(command)}\n" in packaged:
            changed = remove_file(self._unit)
        else:
            text = unit_text(command, user=self._user(command), groups=self._groups())
            changed = write_file(self._unit, text.encode(), mode=PUBLIC)
        self._hand_over_keys()
        if changed:
            self._must("Installing", "systemctl", "daemon-reload")
        return changed

    def remove(self) -> bool:
        if not self.status().is_installed:
            return False
        self._must("Stopping", "systemctl", "disable", "--now", f"{NAME}.service")
        if remove_file(self._unit):
            self._must("Removing", "systemctl", "daemon-reload")
        return True

    def enable(self) -> None:
        self._must("Enabling", "systemctl", "enable", f"{NAME}.service")

    def disable(self) -> None:
        self._must("Disabling", "systemctl", "disable", f"{NAME}.service")

    def start(self) -> None:
        self._must("Starting", "systemctl", "start", f"{NAME}.service")

    def stop(self) -> None:
        self._must("Stopping", "systemctl", "stop", f"{NAME}.service")

    def restart(self) -> None:
        self._must("Restarting", "systemctl", "restart", f"{NAME}.service")

    def status(self) -> ServiceStatus:
        active = self._run(("systemctl", "is-active", f"{NAME}.service"))
        enabled = self._run(("systemctl", "is-enabled", f"{NAME}.service"))
        return ServiceStatus(
            is_installed=self._unit.exists() or bool(self._packaged()),
            is_enabled=enabled.text == "enabled",
            is_active=active.text == "active",
            detail=active.text or "unknown",
        )

    @property
    def _unit(self) -> Path:
        return self._root / f"etc/systemd/system/{NAME}.service"

    def _packaged(self) -> str:
        for folder in ("usr/lib/systemd/system", "lib/systemd/system"):
            data = read_file(self._root / folder / f"{NAME}.service")
            if data:
                return data.decode("utf-8", "replace")
        return ""

    def _make_user(self) -> None:
        """Without a user the service runs as root, with no more capabilities: it still works."""
        home = ("--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin")
        if USER in _names(self._root / "etc/passwd"):
            return
        with contextlib.suppress(ServiceError):
            group = ("--gid", GROUP) if GROUP in _names(self._root / "etc/group") else ("-U",)
            self._run(("useradd", "--system", *group, *home, USER))

    def _user(self, command: Sequence[str]) -> str:
        """Whom to run `command` as: root if nobody else can reach it (a checkout in a home)."""
        exists = USER in _names(self._root / "etc/passwd")
        reachable = is_reachable(command[0], self._root)
        if self._root == Path("/"):  # the launcher ends up in the interpreter that runs now
            reachable = reachable and is_reachable(sys.executable)
        return USER if exists and reachable else ""

    def _groups(self) -> tuple[str, ...]:
        """Of the groups that help, those that exist: systemd refuses a unit that names others."""
        known = _names(self._root / "etc/group")
        return tuple(name for name in (GROUP, *SERIAL_GROUPS) if name in known)

    def _hand_over_keys(self) -> None:
        """Keys belong to whom the unit in force names; systemd hands over the state folder."""
        unit = (read_file(self._unit) or b"").decode("utf-8", "replace") or self._packaged()
        owner = f"{USER}:{GROUP}" if f"\nUser={USER}\n" in unit else "root:root"
        folder = self._root / "etc/hearthgate/keys"
        make_folder(folder)
        self._must("Installing", "chown", "-R", "-h", owner, str(folder))


class ProcdService(Service):
    """OpenWrt's procd, by the init script; `enabled` also stands in /etc/config/hearthgate."""

    kind = InitSystem.PROCD
    log_command = f"logread -e {NAME}"

    def install(self, command: Sequence[str]) -> bool:
        known = read_file(self._script)
        if known is not None and GENERATED not in known.decode("utf-8", "replace"):
            return False  # that of the package, which knows UCI as well
        return write_file(self._script, init_text(command).encode(), mode=0o755)

    def remove(self) -> bool:
        known = read_file(self._script)
        if known is None:
            return False
        self.stop()
        self.disable()
        if GENERATED in known.decode("utf-8", "replace"):
            remove_file(self._script)
        return True

    def enable(self) -> None:
        self._set_enabled("1")
        self._must("Enabling", str(self._script), "enable")

    def disable(self) -> None:
        self._set_enabled("0")
        self._must("Disabling", str(self._script), "disable")

    def start(self) -> None:
        self._must("Starting", str(self._script), "start")

    def stop(self) -> None:
        self._must("Stopping", str(self._script), "stop")

    def restart(self) -> None:
        self._must("Restarting", str(self._script), "restart")

    def status(self) -> ServiceStatus:
        if not self._script.exists():
            return ServiceStatus(
                is_installed=False, is_enabled=False, is_active=False, detail="not installed"
            )
        running = self._run((str(self._script), "running")).code == 0
        return ServiceStatus(
            is_installed=True,
            is_enabled=self._run((str(self._script), "enabled")).code == 0,
            is_active=running,
            detail="running" if running else "stopped",
        )

    @property
    def _script(self) -> Path:
        return self._root / f"etc/init.d/{NAME}"

    def _set_enabled(self, value: str) -> None:
        if (self._root / f"etc/config/{NAME}").exists():
            self._must("Configuring", "uci", "set", f"{NAME}.main.enabled={value}")
            self._must("Configuring", "uci", "commit", NAME)


def _names(path: Path) -> set[str]:
    """The first fields of /etc/passwd or /etc/group."""
    text = (read_file(path) or b"").decode("utf-8", "replace")
    return {line.partition(":")[0] for line in text.splitlines()}
