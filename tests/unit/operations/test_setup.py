"""What `setup` writes, and what it leaves alone."""

from __future__ import annotations

import pytest

from agent.bridge.devices import SerialConfig
from agent.config import load_config
from agent.crypto.auth import key_text
from agent.errors import ConfigError, InputError, RefusedError, UnavailableError
from agent.layout import Layout
from agent.operations import setup
from agent.operations.setup import first_config, install_service, parse_mediator, prepare
from board.serial_ports import NamedBy, SerialPort
from tests.support.pair import key_of

KEY = key_text(key_of("med").public)
MEDIATOR = f"med.example.org:4600#{KEY}"


def port(name: str, description: str = "An adapter") -> SerialPort:
    return SerialPort(
        name=name, device="/dev/ttyUSB0", named_by=NamedBy.ID, description=description
    )


def test_the_mediators_line():
    assert parse_mediator(f"  {MEDIATOR}\n") == ("med.example.org:4600", KEY)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("med.example.org", "quote it"),
        ("", "quote it"),
        (f"#{KEY}", "host name"),
        (f"a b#{KEY}", "host name"),
        ("med.example.org#short", "43 characters"),
        (f"med.example.org#{KEY}x", "43 characters"),
        (f"med.example.org:0#{KEY}", "1 to 65535"),
    ],
)
def test_what_is_no_mediators_line(text, said):
    with pytest.raises(InputError, match=said):
        parse_mediator(text)


def test_a_first_configuration(tmp_path):
    layout = Layout(tmp_path)
    found = prepare(layout, MEDIATOR, "cabin")
    assert found.config_written
    assert found.config == layout.config
    config = load_config(layout.config.read_text())
    assert config.name == "cabin"
    assert (config.mediators[0].host, config.mediators[0].port) == ("med.example.org", 4600)
    assert config.devices == ()
    assert layout.config.stat().st_mode & 0o777 == 0o644


def test_the_example_in_it_is_right_once_uncommented():
    text = first_config("cabin", "med", KEY, ())
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("# [device.boiler]"))
    example = "\n".join(line.removeprefix("# ").removeprefix("#") for line in lines[start:])
    device = load_config("\n".join(lines[:start]) + "\n" + example).devices[0]
    assert [p.name for p in device.points] == ["flow_temperature", "setpoint"]
    assert device.points[1].writable


def test_the_ports_that_were_found():
    ports = (port("/dev/serial/by-id/usb-FTDI"), port('/dev/odd"name\\', "# not a comment"))
    config = load_config(first_config("cabin", "med", KEY, ports))
    assert all(isinstance(device, SerialConfig) for device in config.devices)
    assert [d.line.port for d in config.devices] == [p.name for p in ports]
    assert [d.listen for d in config.devices] == [7001, 7002]


def test_without_a_name_the_host_name_counts():
    assert load_config(first_config("", "med", KEY, ())).name == ""


@pytest.mark.parametrize("name", ["my cabin", 'a"\n[mediate]\n#', "é", "x" * 64])
def test_an_impossible_name(tmp_path, name):
    with pytest.raises(InputError, match="name of this machine"):
        prepare(Layout(tmp_path), MEDIATOR, name)
    assert not Layout(tmp_path).config.exists()


def test_again_changes_nothing(tmp_path):
    layout = Layout(tmp_path)
    prepare(layout, MEDIATOR, "cabin")
    layout.config.write_text(layout.config.read_text() + "# mine\n")
    before = layout.config.read_text()
    assert not prepare(layout, MEDIATOR, "cabin").config_written
    assert not prepare(layout, MEDIATOR, "").config_written
    moved = f"moved.example.org#{MEDIATOR.partition('#')[2]}"
    for mediator, name, said in (
        (MEDIATOR, "other", 'Write name = "other" there'),
        (moved, "", 'Write address = "moved.example.org" under'),
    ):
        with pytest.raises(InputError, match=said):
            prepare(layout, mediator, name)
    assert layout.config.read_text() == before


def test_an_existing_configuration_with_another_mediator(tmp_path):
    layout = Layout(tmp_path)
    prepare(layout, MEDIATOR, "cabin")
    other = key_text(key_of("other").public)
    before = layout.config.read_text()
    with pytest.raises(InputError) as caught:
        prepare(layout, f"other.example.org#{other}", "")
    assert layout.config.read_text() == before
    # what it advises is right
    advice = caught.value.sentence.partition("\n\n")[2]
    assert len(load_config(before + "\n" + advice).mediators) == 2


def test_an_existing_configuration_with_a_psk_file(tmp_path):
    layout = Layout(tmp_path)
    prepare(layout, MEDIATOR, "cabin")
    with layout.config.open("a") as file:
        file.write('[peer.x]\nid = "x"\npsk_file = "x.psk"\nassign = "10.3.0.1"\n')
    (layout.config.parent / "x.psk").write_text("correct horse battery")
    assert not prepare(layout, MEDIATOR, "").config_written


def test_an_existing_configuration_that_is_broken(tmp_path):
    layout = Layout(tmp_path)
    layout.config.parent.mkdir(parents=True)
    layout.config.write_text("nonsense")
    with pytest.raises(ConfigError, match=r"hearthgate\.toml: this is not valid TOML"):
        prepare(layout, MEDIATOR, "")


def test_services_are_for_the_whole_machine(tmp_path, monkeypatch):
    with pytest.raises(UnavailableError, match="hearthgate --root"):
        install_service(tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(RefusedError, match="sudo"):
        install_service(setup.SYSTEM_ROOT)


def test_no_daemon_runs_in_an_empty_folder(tmp_path):
    assert not setup.daemon_runs(tmp_path)


def test_the_service_starts_this_program():
    command = setup.own_command()
    assert command[-1] == "run"
    assert command[0].startswith("/")
