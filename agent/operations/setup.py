"""Making a machine ready: configuration, keys, service. What `setup`, `accept` and `service` do."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agent.config import NAME, NAME_RULE, load_config, split_host
from agent.crypto.auth import parse_key_text
from agent.errors import InputError, RefusedError, UnavailableError
from agent.house import read_config
from agent.layout import Layout
from agent.records import record
from board import storage
from board.detect import detect_board
from board.serial_ports import SerialPort, serial_ports
from board.service import ServiceStatus, find_service

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.config import Config

SYSTEM_ROOT = Path("/")


@record(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What `setup` found and made."""

    board: str
    ports: tuple[SerialPort, ...]
    config: Path
    config_written: bool


def parse_mediator(text: str) -> tuple[str, str]:
    """`host[:port]#key` as `hearthgate mediate` prints it. Raises InputError."""
    address, mark, key = text.strip().partition("#")
    if not mark:
        raise InputError(
            "A mediation server is written HOST#KEY, just as `hearthgate mediate` printed it "
            "(quote it: the shell takes # for a comment)."
        )
    try:
        split_host(address)
        parse_key_text(key)
    except ValueError as error:
        raise InputError(
            f"{text[:80]!r} is not what `hearthgate mediate` printed: {error}"
        ) from None
    return address, key


def prepare(layout: Layout, mediator: str, name: str) -> Prepared:
    """Write a first configuration. An existing one is left alone, and must then name `mediator`."""
    address, key = parse_mediator(mediator)
    ports = tuple(serial_ports(layout.root))
    board = detect_board(layout.root)
    storage.make_folder(layout.config.parent, 0o755)
    is_new = not layout.config.exists()
    if not is_new:
        config = read_config(layout)
        _check_fits(layout.config, config, address, key, name)
    else:
        if name and not NAME.fullmatch(name):
            raise InputError(f"{name[:80]!r} cannot be the name of this machine: {NAME_RULE}")
        text = first_config(name, address, key, ports)
        load_config(text, str(layout.config))
        storage.write_file(layout.config, text.encode(), mode=0o644)
    return Prepared(board=board.model, ports=ports, config=layout.config, config_written=is_new)


def _check_fits(path: Path, config: Config, address: str, key: str, name: str) -> None:
    """A configuration that is there must say what was asked for. Raises InputError."""
    known = next((m for m in config.mediators if m.key == parse_key_text(key)), None)
    if known is None:
        taken = {m.name for m in config.mediators}
        free = next(n for n in ("main", "second", "third", address) if n not in taken)
        raise InputError(
            f"{path} exists already and names no mediation server with this key. "
            f"Add these lines to it (or remove it and try again):\n\n[mediator.{free}]\n"
            f'address = "{address}"\nkey = "{key}"'
        )
    if (known.host, known.port) != split_host(address):
        raise InputError(
            f"{path} exists already and has another address for this mediation server. "
            f'Write address = "{address}" under [mediator.{known.name}].'
        )
    if name and config.name != name:
        raise InputError(
            f'{path} exists already and has another name for this machine. Write name = "{name}" '
            "there."
        )


def first_config(name: str, address: str, key: str, ports: tuple[SerialPort, ...]) -> str:
    """A configuration for a person to go on with."""
    text = f"""\
# hearthgate: what this machine is and offers. `hearthgate check-config` tells mistakes,
# a restart of the service makes changes count.

{f'name = "{name}"' if name else '# name = "cabin"    # else the host name'}

[mediator.main]
address = "{address}"
key = "{key}"
"""
    for number, port in enumerate(ports, 1):
        text += f"""
# {port.description}
[device.serial{number}]
type = "serial"          # raw octets over TCP, for technicians
port = {json.dumps(port.name)}
baud = 9600
listen = {7000 + number}
"""
    return text + _MODBUS_EXAMPLE


_MODBUS_EXAMPLE = """
# A Modbus RTU device with named points looks like this:
#
# [device.boiler]
# type = "modbus"
# port = "/dev/serial/by-id/…"
# baud = 9600
# parity = "even"
#
# [device.boiler.points.flow_temperature]
# kind = "input"
# register = 0
# scale = 0.1
# unit = "°C"
#
# [device.boiler.points.setpoint]
# register = 10
# scale = 0.1
# unit = "°C"
# writable = true
# min = 5
# max = 30
"""


def own_command() -> list[str]:
    """How the service starts this very program."""
    # From a checkout its launcher, which keeps the environment in order; else what was installed.
    launcher = Path(__file__).resolve().parents[2] / "hearthgate"
    if launcher.is_file():
        return [str(launcher), "run"]
    found = shutil.which("hearthgate")
    if found:
        return [str(Path(found).resolve()), "run"]
    return [sys.executable, "-m", "agent", "run"]


def check_root(root: Path) -> None:
    """Raises UnavailableError unless it is about the machine itself."""
    if root != SYSTEM_ROOT:
        raise UnavailableError(
            f"Services are installed for the whole machine only; with --root {root} start "
            f"`hearthgate --root {root} run` yourself."
        )


def install_service(root: Path) -> ServiceStatus:
    """Install, enable and start the service. Raises ServiceError, StorageError, RefusedError."""
    check_root(root)
    import os

    if os.geteuid() != 0:
        raise RefusedError("Installing the service takes root: try again with sudo.")
    service = find_service()
    service.install(own_command())
    service.enable()
    service.restart()
    return service.status()


def daemon_runs(root: Path) -> bool:
    """Whether somebody answers on the control socket."""
    from agent.io.local import ControlClient

    try:
        for _ in ControlClient(Layout(root).socket, timeout=5).request({"command": "status"}):
            pass
    except UnavailableError:
        return False
    return True


def ensure_daemon(root: Path, tell: Callable[[str], None] = lambda _: None) -> None:
    """See that a daemon runs: install and start the service if there is none; `tell` says so."""
    if not daemon_runs(root):
        if root == SYSTEM_ROOT:
            tell("installing and starting the service")
        install_service(root)
        _wait_for_daemon(root)


def _wait_for_daemon(root: Path) -> None:
    import time

    for _ in range(50):  # a slow board takes some seconds to start
        if daemon_runs(root):
            return
        time.sleep(0.2)
    raise UnavailableError(
        "The service was started but does not answer; its log says why "
        "(journalctl -u hearthgate -e, or logread -e hearthgate)."
    )
