"""Serial ports by id, in a /dev and /sys made for the test."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from board.serial_ports import NamedBy, serial_ports

if TYPE_CHECKING:
    from pathlib import Path

FTDI = "usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0"


def add_tty(root: Path, name: str, *, usb: dict[str, str] | None = None, type: str = "") -> None:
    """A tty with hardware under it, as the kernel shows it."""
    hardware = root / "sys/devices" / ("usb1/1-1.2" if usb else "platform") / name
    folder = hardware
    if usb:
        interface = hardware / "1-1.2:1.0"
        folder = interface / name
        for key, value in usb.items():
            hardware.mkdir(parents=True, exist_ok=True)
            (hardware / key).write_text(value + "\n")
    tty = folder / "tty" / name
    tty.mkdir(parents=True)
    (tty / "device").symlink_to(folder)
    if type:
        (tty / "type").write_text(type + "\n")
    (root / "sys/class/tty").mkdir(parents=True, exist_ok=True)
    (root / "sys/class/tty" / name).symlink_to(tty)
    (root / "dev").mkdir(exist_ok=True)
    (root / "dev" / name).touch()


def add_link(root: Path, kind: str, name: str, target: str) -> None:
    folder = root / "dev/serial" / kind
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(f"../../{target}")


USB = {
    "idVendor": "0403",
    "idProduct": "6001",
    "manufacturer": "FTDI",
    "product": "FT232R USB UART",
    "serial": "A50285BI",
}


def test_an_adapter_is_named_by_id_and_described_by_its_maker(tmp_path):
    add_tty(tmp_path, "ttyUSB0", usb=USB)
    add_link(tmp_path, "by-id", FTDI, "ttyUSB0")
    add_link(tmp_path, "by-path", "platform-3f980000.usb-usb-0:1.2:1.0-port0", "ttyUSB0")
    [port] = serial_ports(tmp_path)
    assert port.name == f"/dev/serial/by-id/{FTDI}"
    assert port.device == "/dev/ttyUSB0"
    assert port.named_by is NamedBy.ID
    assert port.description == "FTDI FT232R USB UART (A50285BI)"
    assert port.usb_id == "0403:6001"


def test_without_an_id_the_path_names_it_and_without_both_the_device(tmp_path):
    add_tty(tmp_path, "ttyUSB0", usb={"idVendor": "1a86", "idProduct": "7523"})
    add_link(tmp_path, "by-path", "pci-0000:00:14.0-usbv2-0:1.2:1.0-port0", "ttyUSB0")
    add_link(tmp_path, "by-path", "pci-0000:00:14.0-usb-0:1.2:1.0-port0", "ttyUSB0")
    add_tty(tmp_path, "ttyAMA0")
    path, device = sorted(serial_ports(tmp_path), key=lambda port: port.named_by, reverse=True)
    assert path.name == "/dev/serial/by-path/pci-0000:00:14.0-usb-0:1.2:1.0-port0"
    assert path.named_by is NamedBy.PATH
    assert path.description == "USB serial adapter"
    assert device.name == "/dev/ttyAMA0"
    assert device.named_by is NamedBy.DEVICE
    assert device.description == "serial port of the board (ttyAMA0)"
    assert device.usb_id == ""


def test_the_id_describes_where_sysfs_does_not(tmp_path):
    add_tty(tmp_path, "ttyACM0")
    add_link(tmp_path, "by-id", "usb-Arduino_Uno_1234-if00", "ttyACM0")
    assert serial_ports(tmp_path)[0].description == "Arduino Uno 1234"


def test_what_is_no_serial_adapter_is_left_out(tmp_path):
    add_tty(tmp_path, "ttyS0", type="4")
    add_tty(tmp_path, "ttyS1", type="0")  # a UART that the board does not have
    add_tty(tmp_path, "ttyS2", type="4")  # the kernel's console
    (tmp_path / "sys/class/tty/console").mkdir()
    (tmp_path / "sys/class/tty/console/active").write_text("tty0 ttyS2\n")
    (tmp_path / "sys/class/tty/tty1").mkdir()  # a virtual console has no device
    (tmp_path / "dev/tty1").touch()
    add_tty(tmp_path, "ttyUSB3", usb=USB)
    (tmp_path / "dev/ttyUSB3").unlink()  # gone meanwhile
    add_link(tmp_path, "by-id", "usb-gone-if00", "ttyUSB7")
    (tmp_path / "dev/serial/by-id/file").touch()
    assert [port.device for port in serial_ports(tmp_path)] == ["/dev/ttyS0"]


def test_texts_of_an_adapter_are_bounded_and_printable(tmp_path):
    hostile = {**USB, "product": "x\x1b[31m\0" + "y" * 500}
    add_tty(tmp_path, "ttyUSB0", usb=hostile)
    [port] = serial_ports(tmp_path)
    assert port.description.isprintable()
    assert len(port.description) <= 80


def test_a_machine_without_any(tmp_path):
    assert serial_ports(tmp_path) == []
    assert all(os.path.exists(port.device) for port in serial_ports())
