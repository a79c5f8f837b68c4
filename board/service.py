"""The service of the init system: install, enable, start, stop, remove, look after it.

systemd gets a unit file (the same text as firmware/systemd/hearthgate.service when installed
from a package), OpenWrt's procd an init script. Where a package of the distribution has brought
either, that one is used and nothing is written. Every action runs the init system's own program;
what it says is in the error.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from board.detect import InitSystem, detect_init
from board.errors import ServiceError
from board.storage import PUBLIC, read_file, remove_file, write_file

NAME = "hearthgate"
GROUP = "hearthgate"  # may use the control socket
SERIAL_GROUPS = ("dialout", "uucp")  # owns serial ports: Debian and OpenWrt, Arch
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


class Service:
    """What the init systems have in common. Every method raises ServiceError."""

    kind: InitSystem
    log_command: str

    def __init__(self, root: Path, run: Run) -> None:
        self._root = root
        self._run = run

    def install(self, command: Sequence[str]) -> bool:
        """Make the service run `command` (absolute path first); True if anything changed.

        Neither starts nor enables it. Raises StorageError as well.
        """
        raise NotImplementedError

    def remove(self) -> bool:
        """Stop, disable and remove what `install` made; False if there was nothing."""
        raise NotImplementedError

    def enable(self) -> None:
        """Start it at every boot."""
        raise NotImplementedError

    def disable(self) -> None:
        """Start it at boot no longer."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it now; it is up when this returns (systemd: has said that it is ready)."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop it now."""
        raise NotImplementedError

    def restart(self) -> None:
        """Stop and start it."""
        raise NotImplementedError

    def status(self) -> ServiceStatus:
        """How it is."""
        raise NotImplementedError

    def _must(self, doing: str, *arguments: str) -> str:
        outcome = self._run(arguments)
        if outcome.code:
            said = f": {outcome.text}" if outcome.text else ""
            raise ServiceError(
                f"{doing} the service failed ({' '.join(arguments)}){said}. "
                f"More is in the log: {self.log_command}"
            )
        return outcome.text

    def _make_group(self) -> None:
        groups = read_file(self._root / "etc/group") or b""
        if f"\n{GROUP}:".encode() not in b"\n" + groups:
            # Without the group the socket is root's alone: less convenient, not broken.
            self._run(("groupadd", "--system", GROUP))


class SystemdService(Service):
    """systemd, by systemctl."""

    kind = InitSystem.SYSTEMD
    log_command = f"journalctl -u {NAME} -e"

    def install(self, command: Sequence[str]) -> bool:
        self._make_group()
        packaged = self._packaged()
        if packaged and f"\nExecStart={_command_line(command)}\n" in packaged:
            changed = remove_file(self._unit)
        else:
            text = unit_text(command, groups=self._groups())
            changed = write_file(self._unit, text.encode(), mode=PUBLIC)
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

    def _groups(self) -> tuple[str, ...]:
        """Of the groups that help, those that exist: systemd refuses a unit that names others."""
        known = (read_file(self._root / "etc/group") or b"").decode("utf-8", "replace")
        names = {line.partition(":")[0] for line in known.splitlines()}
        return tuple(name for name in (GROUP, *SERIAL_GROUPS) if name in names)


class ProcdService(Service):
    """OpenWrt's procd, by the init script; `enabled` also stands in /etc/config/hearthgate."""

    kind = InitSystem.PROCD
    log_command = f"logread -e {NAME}"

    def install(self, command: Sequence[str]) -> bool:
        known = read_file(self._script)
        if known is not None and GENERATED not in known.decode("utf-8", "replace"):
            return False  # that of the package, which knows UCI as well
        self._make_group()
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


GENERATED = "# Made by `hearthgate setup`."


def _command_line(command: Sequence[str]) -> str:
    """`command` as systemd reads it. Raises ServiceError for a relative program."""
    if not command or not command[0].startswith("/"):
        raise ServiceError(f"The service needs the full path of its program, not {command!r}")
    words = []
    for word in command:
        if any(not c.isprintable() for c in word):
            raise ServiceError(f"The service's command has unprintable characters: {word!r}")
        escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
        escaped = escaped.replace("$", "$$")
        words.append(escaped if re.fullmatch(r"[\w./:=@%+,$-]+", escaped) else f'"{escaped}"')
    return " ".join(words)


def unit_text(command: Sequence[str], *, groups: Sequence[str] = (GROUP, "dialout")) -> str:
    """The systemd unit that runs `command`. Raises ServiceError."""
    program = command[0] if command else ""
    in_home = program.startswith(("/home/", "/root/"))
    in_tmp = program.startswith(("/tmp/", "/var/tmp/"))  # noqa: S108  # only looked at
    return _UNIT.format(
        command=_command_line(command),
        groups=_group_lines(groups),
        home="read-only" if in_home else "yes",
        tmp="no" if in_tmp else "yes",
    )


def _group_lines(groups: Sequence[str]) -> str:
    """The first one owns what the daemon makes, the control socket above all: no chown needed."""
    lines = [f"Group={GROUP}"] if GROUP in groups else []
    others = [group for group in groups if group != GROUP]
    if others:
        lines.append(f"SupplementaryGroups={' '.join(others)}")
    return "".join(f"{line}\n" for line in lines)


def init_text(command: Sequence[str]) -> str:
    """The procd init script for a program that no OpenWrt package brought. Raises ServiceError."""
    _command_line(command)
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in command)
    return _INIT.format(generated=GENERATED, command=quoted)


# Capabilities: NET_ADMIN makes the TUN device, its addresses and routes; NET_BIND_SERVICE port
# 80 and 502 on the inner address. SO_BINDTODEVICE needs none since Linux 5.7. It stays root, with
# no right of root's but these, so that keys and state are root's alone.
_UNIT = """\
[Unit]
Description=hearthgate: devices behind a NAT router through a direct IPsec tunnel
Documentation=man:hearthgate(1)
After=network.target
Wants=network.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
Restart=always
RestartSec=2
# A wrong configuration (78) or command line (64) does not get better by itself.
RestartPreventExitStatus=64 78
TimeoutStartSec=60
TimeoutStopSec=20
WatchdogSec=30
StateDirectory=hearthgate
StateDirectoryMode=0700
RuntimeDirectory=hearthgate
RuntimeDirectoryMode=0755
{groups}UMask=0077

CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE
NoNewPrivileges=yes

DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
DeviceAllow=char-ttyUSB rw
DeviceAllow=char-ttyACM rw
DeviceAllow=char-ttyAMA rw
DeviceAllow=char-ttyS rw
DeviceAllow=char-ttyO rw
DeviceAllow=char-ttymxc rw
DeviceAllow=char-ttySC rw
DeviceAllow=char-ttySAC rw

ProtectSystem=strict
ProtectHome={home}
PrivateTmp={tmp}
PrivateMounts=yes
ProtectProc=invisible
ProcSubset=pid
# Out of sight then, and wanted to tell one boot's uptime from another's.
Environment=HEARTHGATE_BOOT_ID=%b
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources @obsolete @debug @mount @swap @reboot @module @raw-io
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""

_INIT = """\
#!/bin/sh /etc/rc.common
{generated}
# shellcheck disable=SC2034  # read by rc.common
USE_PROCD=1
START=95
STOP=10

start_service() {{
	procd_open_instance
	procd_set_param command {command}
	procd_set_param respawn 3600 5 0
	procd_set_param stdout 1
	procd_set_param stderr 1
	procd_set_param term_timeout 15
	procd_close_instance
}}
"""
