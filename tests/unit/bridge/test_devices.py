"""Devices out of TOML tables, and what their errors say."""

from __future__ import annotations

import re
import tomllib

import pytest

from agent.bridge.devices import (
    Busy,
    LineConfig,
    ModbusConfig,
    MqttConfig,
    Parity,
    SerialConfig,
    Sharing,
    WordOrder,
    check_devices,
    parse_registers,
    type_word,
)
from agent.bridge.tables import device_from_table
from agent.operations.controller import EXAMPLE_TOML


def made(text: str):
    return device_from_table("boiler", tomllib.loads(text))


def test_the_example_of_the_simulated_controller():
    tables = tomllib.loads(EXAMPLE_TOML.format(port="/dev/pts/5"))["device"]
    device = device_from_table("boiler", tables["boiler"])
    assert isinstance(device, ModbusConfig)
    assert device.line.text == "9600 8N1"
    assert len(device.points) == 5
    assert sum(point.writable for point in device.points) == 2
    setpoint = device.point("setpoint")
    assert setpoint is not None
    assert (setpoint.min, setpoint.max, setpoint.unit) == (5, 30, "°C")


def test_everything_that_can_be_said():
    device = made(
        """
        type = "modbus"
        port = "/dev/serial/by-id/usb-x"
        baud = 19200
        parity = "even"
        stopbits = 2
        rs485 = true
        listen = 1502
        units = [3, 4]
        broadcast = true
        raw_write_registers = [7, "100-119"]
        response_timeout = 1
        retries = 0
        pause = 0.02
        [points.power]
        register = 8
        kind = "input"
        type = "int32"
        word_order = "little"
        """
    )
    assert device.line == LineConfig(
        port="/dev/serial/by-id/usb-x", baud=19200, parity=Parity.EVEN, stopbits=2, rs485=True
    )
    assert device.raw_write_registers == (range(7, 8), range(100, 120))
    assert device.points[0].slave == 3  # the first of the units, if none is said
    assert device.points[0].word_order is WordOrder.LITTLE
    assert device.line.character_seconds == pytest.approx(12 / 19200)
    serial = made('type = "serial"\nport = "/dev/ttyS1"\nsharing = "readers"\nbusy = "drop"')
    assert isinstance(serial, SerialConfig)
    assert (serial.sharing, serial.busy, serial.listen) == (Sharing.READERS, Busy.DROP, 7001)
    mqtt = made('type = "mqtt"\nbroker = "192.168.1.5"')
    assert isinstance(mqtt, MqttConfig)
    assert [type_word(device) for device in (device, serial, mqtt)] == ["modbus", "serial", "mqtt"]


PORT = 'type = "modbus"\nport = "/dev/x"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "type = None: allowed is modbus, serial, mqtt"),
        ('type = "knx"', "type = 'knx': allowed is modbus, serial, mqtt"),
        ("type = 7", "type = 7"),
        ('type = "modbus"', "port: is missing"),
        ('type = "modbus"\nport = "socket://h:1"', "port = 'socket://h:1': allowed is the path"),
        ('type = "modbus"\nport = "rfc2217://h:1"', "allowed is the path"),
        (PORT + "baud = 9601", "baud = 9601: allowed is 300"),
        (PORT + 'baud = "9600"', "baud = '9600': allowed is a whole number"),
        (PORT + "baud = true", "baud = True"),
        (PORT + 'parity = "E"', "parity = 'E': allowed is none, even, odd"),
        (PORT + "stopbits = 3", "stopbits = 3"),
        (PORT + "listen = 70000", "listen = 70000: allowed is 1 to 65535"),
        (PORT + "units = 1", "units = 1: allowed is a list"),
        (PORT + "units = [0]", "units = [0]"),
        (PORT + "retries = 99", "retries = 99: allowed is 0 to 10"),
        (PORT + "pause = nan", "pause = nan"),
        (PORT + "colour = 1", "colour: unknown key; there are type, listen"),
        (PORT + 'raw_write_registers = ["9-3"]', "raw_write_registers = '9-3'"),
        (PORT + "[points.p]", "points.p.register: is missing"),
        (PORT + "points = 1", "points = 1"),
        (PORT + "[points]\np = 1", "points.p = 1: allowed is a table"),
        (PORT + "[points.p]\nregister = 65536", "points.p.register = 65536"),
        (PORT + '[points.p]\nregister = 65535\ntype = "int32"', "points.p.register = 65535"),
        (PORT + "[points.p]\nregister = 1\nwritable = true", "needs min and max"),
        (PORT + "[points.p]\nregister = 1\nmin = 3\nmax = 2", "points.p.min = 3"),
        (PORT + "[points.p]\nregister = 1\nscale = 0", "points.p.scale = 0"),
        (PORT + "[points.p]\nregister = 1\nscale = inf", "points.p.scale = inf"),
        (PORT + '[points.p]\nregister = 1\nkind = "input"\nwritable = true\nmin=0\nmax=1', "writ"),
        (PORT + '[points.p]\nregister = 1\nkind = "coil"\ntype = "int16"', "points.p.type"),
        (PORT + '[points.p]\nregister = 1\nunit = "\\u001b[1m"', "points.p.unit"),
        (PORT + "[points.p]\nregister = 1\nslave = 300", "points.p.slave"),
        (PORT + "units = [1]\n[points.p]\nregister = 1\nslave = 2", "points.p.slave = 2"),
        (PORT + '[points."a.b"]\nregister = 1', "point name 'a.b'"),
        ('type = "mqtt"\nbroker = "a b"', "broker = 'a b'"),
        ('type = "mqtt"\nport = "/dev/x"', "port: unknown key"),
    ],
)
def test_errors_name_key_value_and_what_is_allowed(text, says):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        made(text)
    assert "\x1b" not in str(caught.value)


def test_a_device_name_stands_in_urls():
    with pytest.raises(ValueError, match="letters, digits"):
        device_from_table("a/b", {"type": "mqtt"})


def test_two_devices_do_not_share_a_port():
    first = device_from_table("a", {"type": "serial", "port": "/dev/x"})
    second = device_from_table("b", {"type": "serial", "port": "/dev/y"})
    with pytest.raises(ValueError, match="listen = 7001 is used by a"):
        check_devices([first, second])
    third = device_from_table("c", {"type": "serial", "port": "/dev/x", "listen": 7002})
    with pytest.raises(ValueError, match="port = /dev/x is used by a"):
        check_devices([first, third])
    with pytest.raises(ValueError, match="twice"):
        check_devices([first, first])
    with pytest.raises(ValueError, match="listen = 80 is used by get and set"):
        check_devices([device_from_table("m", {"type": "mqtt", "listen": 80})])


@pytest.mark.parametrize("text", ["", "-", "1-", "x", "70000", "3-2", "1-2-3", "٣"])
def test_registers_that_are_none(text):
    with pytest.raises(ValueError, match="register"):
        parse_registers(text)
