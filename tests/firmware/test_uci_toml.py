"""UCI to TOML, judged by the real loader of the configuration."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from agent.bridge.devices import LineConfig, ModbusConfig, MqttConfig, PointConfig, SerialConfig
from agent.config import (
    MediateConfig,
    MediatedPeerConfig,
    MediatorConfig,
    PeerConfig,
    load_config,
)

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "firmware/openwrt/hearthgate/files/uci_toml.py"
_spec = importlib.util.spec_from_file_location("uci_toml", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
uci_toml = importlib.util.module_from_spec(_spec)
sys.modules["uci_toml"] = uci_toml
_spec.loader.exec_module(uci_toml)

KEY = "A" * 43
EXPORT = f"""package hearthgate

config hearthgate 'main'
	option enabled '1'
	option name 'cabin'
	option port '4501'
	list addresses '10.99.0.1/32'

config mediator 'home'
	option address 'med.example.org:4500'
	option key '{KEY}'

config device 'boiler'
	option name 'boiler-1'
	option type 'modbus'
	option port '/dev/serial/by-id/usb-FTDI-if00-port0'
	option baud '019200'
	option parity 'even'
	option stopbits '1'
	option rs485 'on'
	list units '1'
	list units '2'
	list raw_write_registers '4'
	list raw_write_registers '100-119'
	option pause '0.05'

config point 'p1'
	option device 'boiler'
	option name 'setpoint'
	option register '4'
	option scale '0.1'
	option offset '-1.5'
	option unit '°C'
	option writable '1'
	option min '5'
	option max '30'

config device 'bus'
	option type 'serial'
	option port '/dev/ttyUSB1'
	option listen '7001'
	option sharing 'readers'
	option read_only '0'

config device 'broker'
	option type 'mqtt'
	option broker '127.0.0.1'
	option broker_port '1884'

config peer 'office'
	option key '{KEY}'
	option address '[2001:db8::1]:4500'
	option role 'operator'
	option virtual_ip '0'
	option liveness_seconds '20'
	option proposals 'aes128gcm16-prfsha256-x25519 aes256gcm16-prfsha384-x25519'
"""


def convert(text: str) -> str:
    return uci_toml.to_toml(uci_toml.parse_export(text))


def test_a_whole_export_loads():
    config = load_config(convert(EXPORT))
    assert (config.name, config.port, config.addresses) == ("cabin", 4501, ("10.99.0.1/32",))
    assert config.mediators[0].host == "med.example.org"
    boiler, bus, broker = config.devices
    assert isinstance(boiler, ModbusConfig)
    assert boiler.name == "boiler-1"
    assert (boiler.line.baud, boiler.line.rs485, boiler.pause) == (19200, True, 0.05)
    assert boiler.units == {1, 2}
    assert boiler.raw_write_registers == (range(4, 5), range(100, 120))
    [point] = boiler.points
    assert (point.scale, point.offset, point.unit, point.max) == (0.1, -1.5, "°C", 30)
    assert isinstance(bus, SerialConfig)
    assert bus.listen == 7001
    assert isinstance(broker, MqttConfig)
    assert broker.broker_port == 1884
    assert config.peers[0].liveness_seconds == 20
    assert len(config.peers[0].proposals) == 2


def test_lists_of_files():
    toml = convert(
        "config peer 'x'\n\toption id 'bob'\n\tlist ca_files 'root.pem'\n"
        "\tlist ca_files 'my ca.pem'\n\toption local_certificate_files 'own.pem sub.pem'\n"
        "\toption local_key_file 'own.key'\n\tlist assign '10.3.0.1'\n"
    )
    peer = tomllib.loads(toml)["peer"]["x"]
    assert peer["ca_files"] == ["root.pem", "my ca.pem"]
    assert peer["local_certificate_files"] == ["own.pem", "sub.pem"]
    assert peer["local_key_file"] == "own.key"
    load_config(toml)


PROOFS = """
	list ca_files 'root.pem'
	list ca_files 'my ca.pem'
"""
OWN = """
	option local_key_file 'own.key'
	option local_certificate_files 'own.pem sub.pem'
"""


def test_proofs_of_mediation_servers_and_their_peers():
    toml = convert(
        f"config mediator 'm'\n\toption address 'med.example.org'\n\toption id 'ms'\n{PROOFS}{OWN}"
        f"config mediate\n{OWN}"
        f"config mediated_peer 'p'\n\toption id 'p'\n\toption key_sha256 '{'ab' * 32}'\n"
        "config mediated_peer 'q'\n\toption id 'q'\n\toption key_file 'q.pem'\n"
        f"config mediated_peer 'r'\n\toption id 'r'\n\tlist may_call 'q'\n{PROOFS}"
    )
    tables = tomllib.loads(toml)
    for proven in (tables["mediator"]["m"], tables["mediate"]["peer"]["r"]):
        assert proven["ca_files"] == ["root.pem", "my ca.pem"]
    for own in (tables["mediator"]["m"], tables["mediate"]):
        assert own["local_certificate_files"] == ["own.pem", "sub.pem"]
    config = load_config(toml)
    assert config.mediate is not None
    assert [peer.name for peer in config.mediate.peers] == ["p", "q", "r"]


def kinds() -> dict[str, set[str]]:
    """Option -> the types it has in the configuration's values."""
    found: dict[str, set[str]] = {}
    devices = (LineConfig, ModbusConfig, SerialConfig, MqttConfig, PointConfig)
    for cls in (*devices, PeerConfig, MediatorConfig, MediateConfig, MediatedPeerConfig):
        for item in fields(cls):
            found.setdefault(item.name, set()).add(str(item.type))
    return found


# Fields that the loader makes of others, or of tables.
NOT_OPTIONS = {
    *("line", "points", "host", "remote_id", "local_id", "pseudonym", "key", "psk", "name"),
    "peers",
}


def test_every_option_has_the_type_that_the_loader_wants():
    for key, types in kinds().items():
        if key in NOT_OPTIONS or key == "port":
            continue
        for kind in types:
            if kind == "bool":
                assert key in uci_toml.FLAGS, key
            elif kind in ("int", "float", "float | None"):
                assert key in uci_toml.NUMBERS, key
            elif kind.startswith(("tuple", "frozenset")):
                lists = uci_toml.NUMBER_LISTS | uci_toml.MIXED_LISTS | uci_toml.TEXT_LISTS
                assert key in lists, key
            else:
                assert key not in uci_toml.NUMBERS | uci_toml.FLAGS, key


@pytest.mark.parametrize(
    "text", ["it's", 'say "x"', "back\\slash", "tab\tnew\nline\x7f\x1b", "ü€😀"]
)
def test_texts_come_through_unchanged(text):
    quoted = text.replace("'", "'\\''")
    toml = convert(f"config hearthgate 'main'\n\toption name '{quoted}'\n")
    assert tomllib.loads(toml) == {"name": text}
    toml = convert(f"config device\n\toption name '{quoted}'\n\toption x '1'\n")
    assert tomllib.loads(toml) == {"device": {text: {"x": "1"}}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "config device 'a'\n\toption baud '9600; rm'",
            "section 'a', option baud '9600; rm': a number",
        ),
        ("config device 'a'\n\toption rs485 'maybe'", "1 or 0 is wanted"),
        ("config nonsense 'a'", "no sections of type 'nonsense'"),
        ("config device\n\toption baud '1'", "has no name"),
        ("config point 'p'\n\toption device 'x'", "there is no device 'x'"),
        ("option a b", "not understood"),
        ("config device 'a'\n\toption name 'unclosed", "quote is not closed"),
        ("config device 'a'\n\toption baud '1'\n\tlist baud '2'", "an option and a list at once"),
        ("config device 'a'\n\tlist baud '1'\n\tlist baud '2'", "only one value"),
    ],
)
def test_mistakes_are_named(text, said):
    with pytest.raises(uci_toml.UciError) as caught:
        convert(text)
    assert said in str(caught.value)


def test_as_a_program(tmp_path):
    target = tmp_path / "hearthgate.toml"

    def run(text: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, SCRIPT, target],
            input=text.encode(),
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=False,
        )

    assert run(EXPORT).returncode == 0
    assert target.stat().st_mode & 0o777 == 0o600  # it may hold a pre-shared key
    before = target.read_bytes()
    wrong = run("config x 'y'")
    assert (wrong.returncode, wrong.stderr.count(b"\n")) == (78, 1)
    assert b"Traceback" not in wrong.stderr
    assert target.read_bytes() == before
