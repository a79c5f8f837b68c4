"""Serial ports under names that stay: /dev/serial/by-id, else by-path, else the device itself.

What counts as a serial port is told by sysfs (a tty with hardware under it), so that virtual
consoles, pseudo-terminals, dangling links and UARTs that the board does not have are left out,
and so is the port that the kernel uses as its console. On OpenWrt, which has no udev, the links
are made by the package's hotplug script. Nothing is opened here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

MAX_PORTS = 256  # of a broken /dev; more than any board has
_MAX_TEXT = 80  # characters of a description, which an adapter's maker chose
_BY_ID = re.compile(r"usb-(?P<text>.+?)-if(?P<interface>[0-9a-f]{2})(?:-port(?P<port>\d+))?$")


class NamedBy(StrEnum):
    """How stable `SerialPort.name` is."""

    ID = "id"  # maker, product and serial number: the same adapter wherever it is plugged in
    PATH = "path"  # the socket it is plugged into
    DEVICE = "device"  # the order of discovery, for adapters; fixed for the board's own UARTs


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialPort:
    """A port: `name` for the configuration, `device` as it is called now."""

    name: str
    device: str
    named_by: NamedBy
    description: str
    usb_id: str = ""  # vendor:product in hex, empty for what is no USB adapter


def serial_ports(root: Path = Path("/")) -> list[SerialPort]:
    """All serial ports, sorted by name. Cannot fail: what cannot be read is left out."""
    devices = [name for name in _listed(root / "sys/class/tty") if _is_port(root, name)]
    by_id = _links(root, "dev/serial/by-id")
    by_path = _links(root, "dev/serial/by-path")
    ports = []
    for device in devices[:MAX_PORTS]:
        link, named_by = f"/dev/{device}", NamedBy.DEVICE
        if device in by_id:
            link, named_by = by_id[device], NamedBy.ID
        elif device in by_path:
            link, named_by = by_path[device], NamedBy.PATH
        usb = _usb_device(root, device)
        ports.append(
            SerialPort(
                name=link,
                device=f"/dev/{device}",
                named_by=named_by,
                description=_description(usb, link, device),
                usb_id=f"{_read(usb, 'idVendor')}:{_read(usb, 'idProduct')}" if usb else "",
            )
        )
    return sorted(ports, key=lambda port: port.name)


def _is_port(root: Path, name: str) -> bool:
    tty = root / "sys/class/tty" / name
    if not (tty / "device").exists() or not (root / "dev" / name).exists():
        return False
    if name in _consoles(root):
        return False
    # 8250 drivers announce UARTs that are not there, with type 0 (PORT_UNKNOWN).
    return _read(tty, "type") != "0"


def _consoles(root: Path) -> frozenset[str]:
    return frozenset(_read(root / "sys/class/tty/console", "active").split())


def _links(root: Path, folder: str) -> dict[str, str]:
    """Device name → link, the shortest of several (udev makes two kinds of path links)."""
    found: dict[str, str] = {}
    for name in _listed(root / folder):
        try:
            target = os.path.basename(os.readlink(root / folder / name))
        except OSError:
            continue
        known = found.get(target)
        link = f"/{folder}/{name}"
        if known is None or (len(link), link) < (len(known), known):
            found[target] = link
    return found


def _usb_device(root: Path, name: str) -> Path | None:
    """The sysfs folder of the USB device above a tty, None if there is none."""
    folder = Path(os.path.realpath(root / "sys/class/tty" / name / "device"))
    for _ in range(6):  # tty, port, interface, device; hubs lie above
        if (folder / "idVendor").exists():
            return folder
        folder = folder.parent
    return None


def _description(usb: Path | None, link: str, device: str) -> str:
    parts = [_read(usb, "manufacturer"), _read(usb, "product")] if usb else []
    text = " ".join(part for part in parts if part)
    serial = _read(usb, "serial") if usb else ""
    if text:
        return _plain(f"{text} ({serial})" if serial else text)
    match = _BY_ID.match(os.path.basename(link))
    if match:
        return _plain(match["text"].replace("_", " "))
    return "USB serial adapter" if usb else f"serial port of the board ({_plain(device)})"


def _plain(text: str) -> str:
    """What a maker wrote into an adapter, safe to print."""
    return "".join(c if c.isprintable() else "?" for c in text)[:_MAX_TEXT].strip()


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _read(folder: Path | None, name: str) -> str:
    if folder is None:
        return ""
    try:
        with open(folder / name, "rb") as file:
            return file.read(256).decode("utf-8", "replace").strip()
    except OSError:
        return ""
