"""What can be wrong with a machine, looked at one thing after the other. Changes nothing."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from agent.bridge.devices import MqttConfig
from agent.errors import HearthgateError, UnavailableError
from agent.house import read_config
from agent.records import record
from board import storage
from board.clock import BUILT, SavedTime, is_plausible
from board.detect import InitSystem, detect_board
from board.errors import BoardError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config import Config
    from agent.crypto.certificates import Certificate
    from agent.layout import Layout

LOW_DISK = 1 << 20  # octets; state and audit log together stay below
RENEW_SECONDS = 30 * 86400  # a certificate that ends sooner is worth a note


@record(frozen=True, slots=True)
class Finding:
    """`ok` None: worth knowing, not wrong."""

    what: str
    ok: bool | None
    text: str


def examine(layout: Layout) -> list[Finding]:
    """Everything, most basic first."""
    findings = [_board(layout), _rights(), _tun(), _clock(layout), *_files(layout)]
    config, found = _config(layout)
    findings.append(found)
    if config is not None:
        findings += _ports(config)
        findings += _certificates(config, layout)
    told = {finding.what for finding in findings if finding.ok is False}
    return findings + [finding for finding in _daemon(layout) if finding.what not in told]


def _board(layout: Layout) -> Finding:
    board = detect_board()
    service = {
        InitSystem.SYSTEMD: "systemd",
        InitSystem.PROCD: "procd",
        InitSystem.NONE: "no service manager of ours",
    }[board.init]
    memory = f"{board.memory_octets >> 20} MB" if board.memory_octets else "unknown memory"
    return Finding("board", None, f"{board.model}, {board.distribution}, {memory}, {service}")


def _rights() -> Finding:
    if os.geteuid() == 0:
        return Finding("rights", True, "root")
    return Finding("rights", None, "not root; the daemon needs root or CAP_NET_ADMIN")


def _tun() -> Finding:
    if not os.path.exists("/dev/net/tun"):
        return Finding("tun", False, "/dev/net/tun is missing: modprobe tun")
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return Finding("tun", None, "/dev/net/tun is there, but not for this user")
    return Finding("tun", True, "/dev/net/tun is there")


def _clock(layout: Layout) -> Finding:
    now = time.time()
    shown = _date(now)
    if not is_plausible(now):
        text = f"{shown} cannot be right; everything works, but invitations last by uptime, and"
        return Finding("clock", None, f"{text} certificates are judged by the latest date known")
    known = SavedTime(layout.time)
    if not known.is_plausible(now):
        text = f"{shown} is earlier than {_date(known.latest)}, which was seen before; if that was"
        text = f"{text} wrong, remove {layout.time} and restart, or let systemd-timesyncd set the"
        return Finding("clock", None, f"{text} clock for a day")
    return Finding("clock", True, shown)


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _files(layout: Layout) -> Iterator[Finding]:
    for path in (layout.identity_key, layout.mediation_key):
        try:
            mode = path.stat().st_mode & 0o777
        except FileNotFoundError:
            yield Finding("keys", None, f"{path} is made at the first start")
            continue
        except OSError as error:
            yield Finding("keys", None, f"{path} cannot be looked at: {error.strerror}")
            continue
        if mode & 0o077:
            yield Finding("keys", False, f"{path} can be read by others: chmod 600 {path}")
        else:
            yield Finding("keys", True, f"{path} is private")
    folder = layout.state
    while not os.path.exists(folder):  # no right to look counts as not there
        folder = folder.parent
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    if room.f_flag & os.ST_RDONLY:
        text = f"{folder} is on a read-only medium (a worn out SD card turns read-only)"
        yield Finding("disk", False, text)
    else:
        yield Finding("disk", free >= LOW_DISK, f"{free >> 20} MB free at {folder}")
    for path in storage.damaged_copies(layout.state):
        yield Finding("state", False, f"{path} is a damaged file that was kept aside; restore it")


def _config(layout: Layout) -> tuple[Config | None, Finding]:
    try:
        config = read_config(layout)
    except (HearthgateError, BoardError) as error:
        return None, Finding("configuration", False, error.sentence)
    if not os.path.exists(layout.config):
        return config, Finding("configuration", None, f"{layout.config} is not there; defaults")
    return config, Finding("configuration", True, str(layout.config))


def _ports(config: Config) -> Iterator[Finding]:
    for device in config.devices:
        if isinstance(device, MqttConfig):
            continue
        port = device.line.port
        there = os.path.exists(port)
        yield Finding(
            f"device {device.name}",
            there,
            f"{port} is there" if there else f"{port} is not there: is the adapter plugged in?",
        )


def _certificates(config: Config, layout: Layout) -> Iterator[Finding]:
    """Ours, and the CAs: when they end."""
    now, known = time.time(), SavedTime(layout.time)
    now = now if known.is_plausible(now) else max(BUILT, known.latest)
    named: dict[Certificate, str] = {}
    proofs = [(m.signatures, f"mediator {m.name}") for m in config.mediators]
    proofs += [(p.signatures, f"peer {p.name}") for p in config.peers]
    if config.mediate is not None:
        proofs += [(p.signatures, f"mediated peer {p.name}") for p in config.mediate.peers]
    for signatures, whom in proofs:
        for certificate in (*signatures.own_certificates, *signatures.anchors):
            named.setdefault(certificate, f"certificate for {whom}")
    for certificate, what in named.items():
        until = _date(certificate.not_after)
        if now > certificate.not_after:
            yield Finding(what, False, f"{certificate.name} ended on {until}: renew it")
        else:
            ok = True if now + RENEW_SECONDS < certificate.not_after else None
            yield Finding(what, ok, f"{certificate.name} is good until {until}")


def _daemon(layout: Layout) -> Iterator[Finding]:
    from agent.io.local import ControlClient

    status: dict[str, Any] = {}
    try:
        for line in ControlClient(layout.socket, timeout=5).request({"command": "status"}):
            status = line.get("result") or status
            if "error" in line:
                raise UnavailableError(str(line["error"]))
    except HearthgateError as error:
        yield Finding("daemon", False, error.sentence)
        return
    yield Finding("daemon", True, f"runs since {status['uptime']:.0f} s, UDP {status['port']}")
    for mediator in status["mediators"]:
        registered = mediator["state"] == "registered"
        seen = f", seen as {mediator['reflexive']}" if mediator["reflexive"] else ""
        name = f"mediator {mediator['name']}"
        yield Finding(name, True, f"registered{seen}") if registered else _not_yet(name, mediator)
    for peer in status["peers"]:
        if peer["wanted"] or peer["state"] == "up":
            up, name = peer["state"] == "up", f"peer {peer['name']}"
            yield Finding(name, True, f"up, {peer['path']}") if up else _not_yet(name, peer)
    if status.get("get_and_set"):
        yield Finding("get and set", False, status["get_and_set"])
    for device in status["devices"]:
        if device.get("reason"):
            yield Finding(f"device {device['name']}", False, str(device["reason"]))


def _not_yet(what: str, entry: dict[str, Any]) -> Finding:
    """Wrong if it says why; else it has only just begun."""
    if entry["error"]:
        return Finding(what, False, f"{entry['state']}: {entry['error']}")
    return Finding(what, None, f"{entry['state']} for {entry['since']:.0f} s")
