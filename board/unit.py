"""The text of the systemd unit and of the procd script, and what decides their variants.

The unit keeps two capabilities: NET_ADMIN makes the TUN device, its addresses and routes,
NET_BIND_SERVICE opens ports 80 and 502 on the inner address (SO_BINDTODEVICE needs none since
Linux 5.7). `systemd-analyze security` is to stay at 2.0 or below.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from board.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Sequence

USER = "hearthgate"  # whom the daemon runs as under systemd
GROUP = "hearthgate"  # may use the control socket
GENERATED = "# Made by `hearthgate setup`."


def is_reachable(program: str, root: Path = Path("/")) -> bool:
    """Whether a user without rights can run `program`, its interpreter included. Cannot fail."""
    path = root / program.lstrip("/")
    try:
        with open(path, "rb") as file:
            head = file.readline(256)
    except OSError:
        return False
    interpreter = head[2:].split()[:1] if head.startswith(b"#!") else []
    paths = [path, *(root / os.fsdecode(word).lstrip("/") for word in interpreter)]
    return all(_is_open(p, root) and _is_open(Path(os.path.realpath(p)), root) for p in paths)


def _is_open(path: Path, root: Path) -> bool:
    """Whether others may execute `path` and pass through every folder above it, up to `root`."""
    above = [folder for folder in path.parents if folder != root and root in folder.parents]
    try:
        return all(os.stat(p).st_mode & stat.S_IXOTH for p in (path, *above))
    except OSError:
        return False


def command_line(command: Sequence[str]) -> str:
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


def unit_text(
    command: Sequence[str], *, user: str = USER, groups: Sequence[str] = (GROUP, "dialout")
) -> str:
    """The systemd unit that runs `command` as `user` (empty: root). Raises ServiceError.

    Root without CAP_DAC_READ_SEARCH could not enter somebody's home, so a program there gets it.
    """
    program = command[0] if command else ""
    in_home = program.startswith(("/home/", "/root/"))
    in_tmp = program.startswith(("/tmp/", "/var/tmp/"))  # noqa: S108  # only looked at
    capabilities = "CAP_NET_ADMIN CAP_NET_BIND_SERVICE"
    lines = [f"User={user}"] if user else []
    if GROUP in groups:
        lines.append(f"Group={GROUP}")  # owns what the daemon makes, the control socket above all
    others = " ".join(group for group in groups if group != GROUP)
    if others:
        lines.append(f"SupplementaryGroups={others}")
    if user:
        lines.append(f"AmbientCapabilities={capabilities}")
    else:
        capabilities += " CAP_DAC_READ_SEARCH"
    return _UNIT.format(
        command=command_line(command),
        identity="\n".join(lines),
        capabilities=capabilities,
        home="read-only" if in_home else "yes",
        tmp="no" if in_tmp else "yes",
    )


def init_text(command: Sequence[str]) -> str:
    """The procd init script for a program that no OpenWrt package brought. Raises ServiceError."""
    command_line(command)
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in command)
    return _INIT.format(generated=GENERATED, command=quoted)


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
UMask=0077

{identity}
CapabilityBoundingSet={capabilities}
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
# Keys are made on the first start; serial ports have lock files.
ReadWritePaths=-/etc/hearthgate/keys -/run/lock
ProtectHome={home}
PrivateTmp={tmp}
PrivateMounts=yes
ProtectProc=invisible
ProcSubset=pid
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
