"""What a first user stumbled over: each sentence here was once missing or misleading."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from agent.cli.ask import shown

pytestmark = pytest.mark.netns

# Modbus TCP through the local port: reads holding register 0 of unit 1.
ASK = """
import socket, sys
try:
    link = socket.create_connection(("127.0.0.1", 10502), 5)
    link.sendall(bytes.fromhex("000100000006010300000001"))
    print(link.recv(20).hex())
except OSError as error:
    print(type(error).__name__)
"""


def text(machine, *words: str) -> str:
    return machine.cli(*words).stdout


@pytest.fixture
def laptop(pair):
    """Change what the operator may do; it is an operator again afterwards."""

    def grant(*words: str) -> None:
        pair.gateway.cli("grant", "laptop", *words)

    yield grant
    grants = pair.gateway.json("peers")[0]["grants"]
    grant("operator", *[word for g in grants for word in ("--remove", g)])


def test_a_port_is_shown_only_to_who_may_use_it(pair, laptop):
    said = text(pair.operator, "connect", "cabin")
    assert re.search(r"^  boiler  modbus +get and set +5 points, 2 writable$", said, re.M)
    assert re.search(r"^  bus +serial +not granted +.*is the adapter plugged in", said, re.M)
    laptop("technician")
    said = text(pair.operator, "connect", "cabin")
    assert re.search(r"^  boiler  modbus  tcp \[fd[0-9a-f:]+\]:502 +5 points", said, re.M)


def test_points_are_counted_as_they_are_granted(pair, laptop):
    laptop("none", "--add", "read:boiler.setpoint")
    said = text(pair.operator, "connect", "cabin")
    assert re.search(r"^  boiler  modbus  get and set  1 point, 0 writable$", said, re.M)
    laptop("reader")
    assert "5 points, 0 writable" in text(pair.operator, "connect", "cabin")


def test_doctor_says_everything_once(pair):
    said = pair.gateway.cli("doctor", check=False).stdout
    assert said.count("FAIL  device bus: ") == 1


def test_forward(pair, laptop):
    """Tools without IPv6 reach what is granted, until disconnect, and nothing else."""
    assert "nothing to forward" in text(pair.operator, "connect", "cabin", "--forward")
    laptop("none", "--add", "connect:boiler", "--add", "read:boiler")
    said = text(pair.operator, "connect", "cabin", "--forward")
    assert "until `hearthgate disconnect cabin`:\n  boiler  tcp 127.0.0.1:10502\n" in said
    (forward,) = pair.operator.json("connect", "cabin", "--forward")["forwards"]
    assert forward == {"device": "boiler", "host": "127.0.0.1", "port": 10502}
    assert "forward  cabin boiler  at 127.0.0.1:10502" in text(pair.operator, "status")
    command = [sys.executable, "-c", ASK]
    assert pair.net.operator.run(command).stdout.startswith("000100000005010302")
    text(pair.operator, "disconnect", "cabin")
    assert pair.operator.status()["forwards"] == []
    assert pair.net.operator.run(command).stdout == "ConnectionRefusedError\n"
    text(pair.operator, "connect", "cabin")
    assert pair.operator.status()["forwards"] == []


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_outputs_are_no_mistake(closed):
    command = f"{sys.executable} -m agent completion bash {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_values_are_shown_as_exact_as_they_came(pair):
    assert [shown(v) for v in (1234567.8, 20.0, 3, True, False)] == [
        "1234567.8", "20.0", "3", "on", "off",
    ]  # fmt: skip
    assert text(pair.operator, "set", "cabin", "boiler.hot_water", "on") == (
        "boiler.hot_water is on\n"
    )
    text(pair.operator, "set", "cabin", "boiler.hot_water", "off")
    assert re.search(r"boiler\.hot_water +on → off +ok", text(pair.gateway, "audit"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["set", "cabin", "boiler.setpoint"], "The value is missing: set cabin boiler.setpoint"),
        (["get", "cabin"], "cabin is a peer; name a device too"),
        (["rekey", "cabin"], "cabin is not connected"),
    ],
)
def test_what_is_missing_is_said(pair, words, said):
    text(pair.operator, "disconnect", "cabin")
    done = pair.operator.cli(*words, check=False)
    assert done.returncode != 0
    assert said in done.stderr


def test_rekey_says_that_it_does_something(pair):
    text(pair.operator, "connect", "cabin")
    assert text(pair.operator, "rekey", "cabin") == "cabin: new keys are being made.\n"


def test_setup_names_the_command_as_it_was_called(pair):
    said = text(pair.gateway, "setup", pair.line, "--no-service")
    assert f"Next: hearthgate --root {pair.gateway.layout.root} run" in said


def test_a_call_that_failed_is_not_called_waiting(pair):
    """The progress line of a failure said "waiting for the mediation server"."""
    text(pair.operator, "disconnect", "cabin")
    pair.gateway.stop()
    try:
        done = pair.operator.cli("connect", "cabin", check=False)
    finally:
        pair.operator.cli("disconnect", "cabin")
        pair.gateway.start()
        pair.gateway.wait_registered()
    assert done.returncode == 75
    assert "it is offline" in done.stderr
    assert "waiting for" not in done.stderr


def restart(machine, network: str) -> None:
    config = machine.layout.config
    lines = [line for line in config.read_text().splitlines() if not line.startswith("ipv4")]
    config.write_text("\n".join([f'ipv4 = "{network}"' if network else "", *lines, ""]))
    assert machine.stop() == 0
    machine.start()


REGISTERS = """
import socket, sys
link = socket.create_connection((sys.argv[1], 502), 5)
link.sendall(bytes.fromhex("000100000006010300000001"))
print(link.getsockname()[0], link.recv(20).hex())
"""


def test_ipv4_for_those_who_ask(pair, laptop):
    """Off by default; a gateway's network, and only within what the operator allows."""
    laptop("technician")
    assert pair.operator.json("connect", "cabin")["ipv4"] == ""
    restart(pair.gateway, "10.99.7.0/24")
    pair.gateway.wait_registered()
    assert pair.operator.json("connect", "cabin")["ipv4"] == ""
    restart(pair.operator, "10.99.0.0/16")
    said = text(pair.operator, "connect", "cabin")
    assert re.search(r"^cabin  up, direct, .* fd[0-9a-f:]+  10\.99\.7\.1$", said, re.M)
    ask = [sys.executable, "-c", REGISTERS, "10.99.7.1"]
    answer = pair.net.operator.run(ask).stdout
    assert answer.startswith("10.99.7.2 000100000005010302")
    assert pair.net.gateway.ping("10.99.7.2")
    assert "setpoint" in text(pair.operator, "get", "cabin", "boiler")
    text(pair.operator, "disconnect", "cabin")
    shown = pair.net.operator.shell("ip -4 addr show hearth0; ip -4 route show dev hearth0")
    assert "10.99" not in shown
    assert pair.operator.status()["address"] in pair.net.operator.shell("ip -6 addr")
    restart(pair.gateway, "")  # it has none any more, and says so by giving none
    pair.gateway.wait_registered()
    assert pair.operator.json("connect", "cabin")["ipv4"] == ""
    restart(pair.gateway, "10.42.0.0/24")  # not what the operator allows
    pair.gateway.wait_registered()
    assert pair.operator.json("connect", "cabin")["ipv4"] == ""
    assert "10.42" not in pair.net.operator.shell("ip -4 addr")
    restart(pair.gateway, "")
    restart(pair.operator, "")
    pair.gateway.wait_registered()
    text(pair.operator, "connect", "cabin")
