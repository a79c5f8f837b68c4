"""Roles and grants: what each one opens, and nothing else."""

from __future__ import annotations

import pytest

from agent.bridge.devices import LineConfig, MqttConfig, SerialConfig
from agent.bridge.grants import MAX_GRANTS, Access, Peer, Role, parse_grant
from tests.unit.bridge.line import CONFIG, SETPOINT

BUS = SerialConfig(name="bus", line=LineConfig(port="/dev/ttyUSB1"), listen=7001)
METER = SerialConfig(
    name="meter", line=LineConfig(port="/dev/ttyUSB2"), listen=7002, read_only=True
)
MQTT = MqttConfig(name="mqtt")
ALL = (CONFIG, BUS, METER, MQTT)
HTTP = (6, 80)
EVERY_PORT = range(65536)


def access(role=Role.NONE, *grants):
    return Access(Peer(name="p", role=role, grants=grants))


@pytest.mark.parametrize(
    ("role", "reads", "writes", "services"),
    [
        (Role.NONE, False, False, set()),
        (Role.READER, True, False, {HTTP}),
        (Role.OPERATOR, True, True, {HTTP}),
        (Role.TECHNICIAN, True, True, {HTTP, (6, 502), (6, 7001), (6, 7002), (6, 1883)}),
        (Role.OWNER, True, True, {HTTP, (6, 502), (6, 7001), (6, 7002), (6, 1883)}),
    ],
)
def test_roles(role, reads, writes, services):
    may = access(role)
    assert may.may_read(CONFIG, SETPOINT) is reads
    assert may.may_write(CONFIG, SETPOINT) is writes
    assert may.services(ALL, EVERY_PORT) == services
    raw = role in (Role.TECHNICIAN, Role.OWNER)
    assert may.may_write_raw(CONFIG, None) is raw
    assert may.may_write_line(BUS) is raw
    assert not may.may_write_line(METER)


def test_a_role_for_one_device():
    may = access(Role.NONE, "operator:boiler")
    assert may.may_write(CONFIG, SETPOINT)
    assert not may.may_see(MQTT)
    assert may.services(ALL, EVERY_PORT) == {HTTP}


def test_one_point():
    may = access(Role.NONE, "read:boiler.setpoint")
    other = CONFIG.points[1]
    assert may.may_read(CONFIG, SETPOINT)
    assert not may.may_write(CONFIG, SETPOINT)
    assert not may.may_read(CONFIG, other)
    assert not may.may_connect(CONFIG)
    may = access(Role.READER, "write:boiler.setpoint")
    assert may.may_write(CONFIG, SETPOINT)
    assert not may.may_write(CONFIG, other)


def test_raw_modbus_by_steps():
    may = access(Role.OPERATOR, "connect:boiler")
    assert (6, 502) in may.services(ALL, EVERY_PORT)
    assert not may.may_write_raw(CONFIG, range(40, 41))
    may = access(Role.NONE, "raw-write:boiler/40-49")
    assert may.may_connect(CONFIG)
    assert may.may_write_raw(CONFIG, range(40, 50))
    assert not may.may_write_raw(CONFIG, range(49, 51))
    assert not may.may_write_raw(CONFIG, None)
    assert access(Role.NONE, "raw-write:boiler").may_write_raw(CONFIG, None)
    assert not may.may_read(CONFIG, SETPOINT)


def test_ports_of_the_gateway_itself():
    assert access(Role.NONE, "tcp:22", "udp:53").services(ALL, EVERY_PORT) == {(6, 22), (17, 53)}
    assert (6, 22) not in access(Role.OWNER).services(ALL, EVERY_PORT)


@pytest.mark.parametrize(
    "text",
    ["", "root", "read", "read:", "read:a b", "connect:boiler.setpoint", "tcp:", "tcp:0", "tcp:x",
     "tcp:70000", "udp:-1", "raw-write:boiler/", "raw-write:boiler/9-3", "operator:", "none",
     "read:boiler.", "read:boiler.a.b", "write:boiler/3", "tcp:٣"],
)  # fmt: skip
def test_what_is_no_grant_is_refused_and_gives_nothing(text):
    with pytest.raises(ValueError, match="grant"):
        parse_grant(text)
    may = access(Role.NONE, text)
    assert may.services(ALL, EVERY_PORT) == frozenset()
    assert not any(may.may_see(device) for device in ALL)


def test_the_number_of_grants_is_bounded():
    many = [f"tcp:{port}" for port in range(1, 1000)]
    assert len(access(Role.NONE, *many).services(ALL, EVERY_PORT)) == MAX_GRANTS


def test_a_port_that_another_program_has_is_not_ours_to_grant():
    technician = access(Role.TECHNICIAN)
    assert technician.services(ALL, {80, 7001}) == {HTTP, (6, 7001)}
    assert technician.services(ALL, ()) == frozenset()
    assert access(Role.NONE, "read:boiler").services(ALL, {502}) == frozenset()
    assert access(Role.OPERATOR, "tcp:80").services(ALL, ()) == {HTTP}
