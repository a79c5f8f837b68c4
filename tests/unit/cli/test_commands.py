"""Every command against a running pair: what a person reads and what a script reads."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time

import pytest

from agent.cli import COMMANDS, main
from tests.unit.daemon.process import argv, environment, wait

pytestmark = pytest.mark.netns

KEY = r"[A-Za-z0-9_-]{43}"


def text(machine, *words: str) -> str:
    done = machine.cli(*words)
    return done.stdout


def refused(machine, *words: str) -> tuple[int, str]:
    done = machine.cli(*words, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode != 0
    return done.returncode, done.stderr.strip().rpartition("\n")[2]


# --- the first hour ----------------------------------------------------------------------------


def test_mediate_prints_what_others_need(running):
    assert re.fullmatch(rf"203\.0\.113\.10#{KEY}", running.mediator.log.splitlines()[-1]) or (
        running.line in running.mediator.log
    )
    shown = text(running.mediator, "status")
    assert "mediates at 203.0.113.10: " in shown


def test_setup_again_and_what_it_says(running):
    said = text(running.gateway, "setup", running.line, "--no-service")
    assert "was there already" in said
    assert "Board: " in said


def test_invite(running):
    done = running.gateway.cli("invite", "phone", "--role", "reader", "--expires", "30m")
    assert re.fullmatch(r"hg1:[A-Za-z0-9_-]{150,300}\n", done.stdout)
    assert "Single use, until " in done.stderr
    assert "as reader" in done.stderr
    answer = running.gateway.json("invite", "tablet", "--role", "technician", "--expires", "7d")
    assert (answer["name"], answer["role"]) == ("tablet", "technician")
    assert 7 * 86400 - 60 < answer["expires"] - time.time() < 7 * 86400 + 60
    assert "invitation  phone (reader), not used yet" in text(running.gateway, "status")
    for name in ("phone", "tablet"):
        assert text(running.gateway, "revoke", name) == f"{name} is forgotten.\n"
    assert "invitation" not in text(running.gateway, "status")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["a b"], 65, "1 to 63 letters"),
        (["x" * 64], 65, "1 to 63 letters"),
        (["x", "--expires", "30s"], 64, "30m, 24h or 7d"),
        (["x", "--expires", "31d"], 65, "one minute to 30 days"),
        (["x", "--role", "king"], 64, "invalid choice"),
        ([], 64, "See `hearthgate invite --help`"),
    ],
)
def test_invite_refuses(running, words, code, said):
    found, sentence = refused(running.gateway, "invite", *words)
    assert found == code
    assert said in sentence


def test_only_a_gateway_invites(running):
    code, sentence = refused(running.mediator, "invite", "x")
    assert code == 78
    assert "hearthgate setup HOST#KEY" in sentence


def test_connect_shows_what_is_behind(pair):
    done = pair.operator.cli("connect", "cabin")
    first, boiler = done.stdout.splitlines()[:2]
    assert re.match(r"cabin  up, direct, (\d+ ms|measuring)   fd[0-9a-f:]+$", first)
    assert re.match(r"  boiler  modbus .* \d+ points, \d+ writable", boiler)
    answer = pair.operator.json("connect", "cabin")
    assert answer["peer"] == "cabin"
    assert answer["status"]["state"] == "up"
    assert {d["name"] for d in answer["devices"]} == {"boiler", "bus"}


def test_status(pair):
    said = text(pair.operator, "status")
    assert re.search(
        r"mediator 203\.0\.113\.10  registered for \d+ s, seen as 203\.0\.113\.2:", said
    )
    assert re.search(r"peer  cabin  up", said)
    status = pair.operator.json("status")
    assert status["version"]
    assert re.fullmatch(KEY, status["identity"])
    assert status["peers"][0]["name"] == "cabin"
    assert status["peers"][0]["suite"].startswith("aes128gcm16")
    gateway = text(pair.gateway, "status")
    assert re.search(r"device  bus +serial .* closed .*is the adapter plugged in", gateway)


def test_no_secret_in_any_json(pair):
    shown = pair.gateway.cli("status", "--json").stdout + pair.gateway.cli("peers", "--json").stdout
    pem = pair.gateway.layout.identity_key.read_text().splitlines()[1]
    assert pem[-20:] not in shown
    assert "seed" not in shown


def test_get_and_set(pair):
    one = text(pair.operator, "get", "cabin", "boiler.flow_temperature")
    assert re.fullmatch(r"flow_temperature  [\d.]+ °C\n", one)
    everything = text(pair.operator, "get", "cabin", "boiler")
    assert re.search(r"setpoint +[\d.]+ °C +5 to 30", everything)
    points = pair.operator.json("get", "cabin", "boiler")
    assert {p["name"] for p in points["points"]} >= {"flow_temperature", "setpoint"}
    assert text(pair.operator, "set", "cabin", "boiler.setpoint", "22.5").startswith(
        "boiler.setpoint is 22.5 °C"
    )
    assert pair.operator.json("get", "cabin", "boiler.setpoint")["value"] == 22.5
    # on the gateway itself, without a tunnel
    assert "22.5 °C" in text(pair.gateway, "get", "boiler.setpoint")
    assert pair.gateway.json("set", "boiler.setpoint", "20")["value"] == 20


def test_options_may_stand_anywhere(pair):
    for words in (["get", "--json", "cabin", "boiler.setpoint"], ["get", "cabin", "--json", "boiler.setpoint"]):  # fmt: skip  # noqa: E501
        assert json.loads(pair.operator.cli(*words).stdout)["name"] == "setpoint"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["set", "cabin", "boiler.setpoint", "80"], 77, "80 is outside of the limits 5 to 30 °C"),
        (["set", "cabin", "boiler.setpoint", "-5"], 77, "outside of the limits"),
        (["set", "cabin", "boiler.setpoint", "warm"], 64, "a number, on or off"),
        (["set", "cabin", "boiler.setpoint", "nan"], 64, "no value that a device could take"),
        (["set", "cabin", "boiler.setpoint", "1e999"], 64, "no value that a device could take"),
        (["set", "cabin", "boiler", "20"], 64, "DEVICE.POINT"),
        (["set", "20"], 64, "DEVICE.POINT"),
        (["set", "cabin", "boiler.flow_temperature", "20"], 77, "flow_temperature"),
        (["set", "cabin", "boiler.nothing", "20"], 68, "nothing"),
        (["get", "cabin", "boiler.nothing"], 68, "nothing"),
        (["get", "cabin", "toaster"], 68, "toaster"),
        (["get", "cabin", "a b\r\nX: y"], 68, "There is no device"),
        (["get", "cabin", "boiler./../x"], 68, "There is no point"),
        (["get", "hut", "boiler"], 68, 'There is no peer "hut"; known are cabin.'),
        (["connect", "hut"], 68, 'There is no peer "hut"'),
        (["disconnect", "hut"], 68, 'There is no peer "hut"'),
        (["rekey", "hut"], 68, 'There is no peer "hut"'),
        (["revoke", "hut"], 68, 'There is no peer "hut"'),
        (["grant", "hut", "owner"], 68, 'There is no peer "hut"'),
        (["grant", "cabin"], 64, "Nothing to change"),
        (["grant", "cabin", "--add", "fly"], 65, "allowed are"),
        (["grant", "cabin", "--add", "read:boyler"], 68, 'no device "boyler" here; it has none.'),
        (["grant", "cabin", "--remove", "tcp:22"], 65, "cabin has no grant 'tcp:22'; it has none."),
        (["accept", "nonsense"], 65, "it should begin with hg1:"),
        (["accept", "hg1:nonsense"], 65, "damaged"),
        (["stat"], 64, "did you mean status?"),
        (["--rot", "/tmp", "status"], 64, "is no option"),
        (["status", "--jsn"], 64, "unrecognized arguments"),
        (["get"], 64, "See `hearthgate get --help`"),
        (["completion", "tcsh"], 64, "invalid choice"),
        (["check-config", "/does/not/exist"], 78, "there is no such file"),
        (["get", "boiler"], 68, "No device is configured on this machine"),
    ],
)
def test_mistakes(pair, words, code, said):
    found, sentence = refused(pair.operator, *words)
    assert (found, said in sentence) == (code, True), sentence
    assert sentence.startswith("hearthgate: ")


def test_an_unplugged_adapter(pair):
    """The daemon runs, says so once, and the other device works."""
    doctor = pair.gateway.cli("doctor", check=False)
    assert doctor.returncode == 1
    wrong = "FAIL  device bus: /dev/unplugged is not there: is the adapter plugged in?"
    assert wrong in doctor.stdout
    status = next(d for d in pair.gateway.status()["devices"] if d["name"] == "bus")
    assert status["reason"] == "there is no such port: is the adapter plugged in?"
    assert status["state"] == "closed"
    assert pair.gateway.log.count("/dev/unplugged") == 1
    assert pair.gateway.json("get", "boiler.setpoint")["name"] == "setpoint"


def test_doctor(pair):
    done = pair.operator.cli("doctor", check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"ok    daemon: runs since \d+ s, UDP 4500", done.stdout)
    assert re.search(r"ok    mediator 203\.0\.113\.10: registered, seen as", done.stdout)
    assert re.search(r"ok    peer cabin: up, ", done.stdout)
    findings = pair.operator.json("doctor")
    assert {f["what"] for f in findings} >= {"board", "rights", "tun", "clock", "daemon"}


def test_peers(pair):
    said = text(pair.gateway, "peers")
    assert re.search(r"^NAME +ROLE +GRANTS +KEY$", said, re.M)
    assert re.search(r"^laptop +operator ", said, re.M)
    listed = pair.gateway.json("peers")
    assert [(p["name"], p["role"]) for p in listed] == [("laptop", "operator")]
    assert listed[0]["key"] == pair.operator.status()["identity"]
    assert listed[0]["proof"] == "key"
    own = pair.gateway.json("peers", "--own")
    assert own["identity"]["key"] == pair.gateway.status()["identity"]
    assert own["identity"]["pem"].startswith("-----BEGIN PUBLIC KEY-----")
    assert own["mediation"]["id"].startswith("keyid:")
    assert "-----BEGIN PUBLIC KEY-----" in text(pair.gateway, "peers", "--own")
    assert text(pair.mediator, "peers") == "Nobody yet.\n"


def test_grants_hold_at_once(pair):
    code, _ = refused(pair.operator, "get", "cabin", "bus.x")
    assert text(pair.gateway, "grant", "laptop", "reader") == "laptop is reader.\n"
    code, sentence = refused(pair.operator, "set", "cabin", "boiler.setpoint", "21")
    assert code == 77, sentence
    for grant, said in (
        ("connect:boyler", 'There is no device "boyler" here; known are boiler, bus.'),
        ("write:boiler.setpiont", "boiler has no point setpiont"),
        ("read:bus.x", "bus has no point x"),
    ):
        code, sentence = refused(pair.gateway, "grant", "laptop", "--add", grant)
        assert (code, said in sentence) == (68, True), sentence
    said = text(pair.gateway, "grant", "laptop", "none", "--add", "read:boiler", "--add", "tcp:22")
    assert said == "laptop is none and read:boiler, tcp:22.\n"
    assert "°C" in text(pair.operator, "get", "cabin", "boiler.setpoint")
    answer = pair.gateway.json("grant", "laptop", "operator", "--remove", "read:boiler")
    assert (answer["role"], answer["grants"]) == ("operator", ["tcp:22"])
    pair.gateway.cli("grant", "laptop", "--remove", "tcp:22")
    assert "21" in text(pair.operator, "set", "cabin", "boiler.setpoint", "21")
    assert pair.operator.peer("cabin")["state"] == "up"


def test_audit(pair):
    pair.operator.cli("set", "cabin", "boiler.setpoint", "23")
    refused(pair.operator, "set", "cabin", "boiler.setpoint", "99")
    wait("audited", lambda: "99" in str(pair.gateway.json("audit")))
    records = pair.gateway.json("audit", "-n", "2")
    assert len(records) == 2
    assert {r["peer"] for r in records} == {"laptop"}
    shown = text(pair.gateway, "audit")
    assert re.search(r"^20\d\d-\d\d-\d\d \d\d:\d\d:\d\d  laptop  boiler\.setpoint", shown, re.M)
    assert text(pair.operator, "audit") == "No writes yet.\n"


def test_rekey(pair):
    for words in (["cabin"], ["cabin", "--ike"]):
        pair.operator.cli("rekey", *words)
        assert "°C" in text(pair.operator, "get", "cabin", "boiler.setpoint")


def test_check_config(pair):
    said = text(pair.gateway, "check-config")
    assert said.startswith("The configuration is right:\n")
    assert "boiler, bus" in said
    assert pair.gateway.json("check-config") == {
        "mediators": ["main"],
        "mediates": False,
        "peers": [],
        "devices": ["boiler", "bus"],
    }


@pytest.mark.parametrize("action", ["install", "remove", "status"])
def test_service_with_a_root_of_its_own(pair, action):
    """Never that of the machine itself."""
    code, sentence = refused(pair.gateway, "service", action)
    assert code == 69
    assert "whole machine only" in sentence


def test_export_and_import(pair, tmp_path):
    (tmp_path / "password").write_text("correct horse\n")
    words = ("--password-file", str(tmp_path / "password"))
    said = text(pair.gateway, "export-identity", str(tmp_path / "board"), *words)
    assert "Stop this board before another" in said
    code, sentence = refused(pair.gateway, "import-identity", str(tmp_path / "board"), *words)
    assert code == 65
    assert "stop it first" in sentence
    from agent.layout import Layout

    new = Layout(tmp_path / "new")
    done = subprocess.run(
        [*argv(new.root, "import-identity", str(tmp_path / "board"), *words)],
        env=environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"written: {new.identity_key}" in done.stdout
    assert new.identity_key.read_bytes() == pair.gateway.layout.identity_key.read_bytes()
    assert new.peers.read_bytes()


# --- invitations, once more --------------------------------------------------------------------


def test_an_invitation_is_used_once(pair):
    line = pair.gateway.json("invite", "again")["invitation"]
    answer = pair.operator.json("accept", line, "--name", "cabin")
    assert answer == {"peer": "cabin", "role": "operator"}
    # the same machine again: the answer may have been lost
    assert pair.operator.json("accept", line, "--name", "cabin")["peer"] == "cabin"
    code, sentence = refused(pair.mediator, "accept", line)
    assert code == 77
    assert "used by another machine already" in sentence
    assert [p["name"] for p in pair.gateway.json("peers")] == ["laptop"]


def test_an_invitation_from_oneself(pair):
    line = pair.gateway.json("invite", "myself")["invitation"]
    code, sentence = refused(pair.gateway, "accept", line)
    assert code == 65
    assert "from this very machine" in sentence
    pair.gateway.cli("revoke", "myself")


def test_an_invitation_that_expired(pair):
    from dataclasses import replace

    from agent.invitation import decode_invitation, encode_invitation

    line = pair.gateway.json("invite", "late")["invitation"]
    old = encode_invitation(replace(decode_invitation(line), expires=1_700_000_000))
    code, sentence = refused(pair.operator, "accept", old)
    assert code == 65
    assert "has expired; ask for a new one" in sentence
    pair.gateway.cli("revoke", "late")


def test_an_invitation_that_was_revoked(pair):
    line = pair.gateway.json("invite", "gone")["invitation"]
    pair.gateway.cli("revoke", "gone")
    code, sentence = refused(pair.operator, "accept", line, "--name", "other")
    assert code == 69
    assert "Or the invitation has expired" in sentence
    assert [p["name"] for p in pair.operator.json("peers")] == ["cabin"]


def test_an_invitation_to_a_name_that_does_not_resolve(pair):
    from dataclasses import replace

    from agent.invitation import decode_invitation, encode_invitation

    line = pair.gateway.json("invite", "lost")["invitation"]
    elsewhere = replace(decode_invitation(line), mediator="no-such-host.invalid")
    started = time.monotonic()
    code, sentence = refused(pair.operator, "accept", encode_invitation(elsewhere))
    assert code == 75
    assert "no-such-host.invalid" in sentence
    assert time.monotonic() - started < 20
    pair.gateway.cli("revoke", "lost")


def test_the_invitation_comes_from_standard_input(pair):
    line = pair.gateway.json("invite", "piped")["invitation"]
    done = subprocess.run(
        pair.operator.host.argv([*pair.operator.argv, "accept", "-", "--name", "cabin"]),
        env=environment(), input=line + "\n", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "Paired with cabin; your role there is operator." in done.stdout


# --- the shell ---------------------------------------------------------------------------------


def watch(machine, *words):
    return subprocess.Popen(
        machine.host.argv([*machine.argv, "status", "--watch", *words]),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_watch_tells_each_change_until_ctrl_c(pair):
    pair.operator.cli("connect", "cabin")
    child = watch(pair.operator, "--json")
    first = json.loads(child.stdout.readline())
    assert first["event"] == "Status"
    pair.operator.cli("disconnect", "cabin")
    event = json.loads(child.stdout.readline())
    assert (event["event"], event["name"], event["state"]) == ("PeerChanged", "cabin", "idle")
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=10)
    assert child.returncode == 130
    assert err.strip() == b""


def test_watch_for_people(pair):
    child = watch(pair.operator)
    lines = [child.stdout.readline().decode()]
    assert lines[0].strip()
    pair.operator.cli("connect", "cabin")
    wait("told", lambda: "cabin up" in child.stdout.readline().decode())
    child.stdout.close()
    child.terminate()
    child.stderr.close()
    child.wait(10)


def test_progress_goes_to_stderr(pair):
    assert text(pair.operator, "disconnect", "cabin") == "cabin disconnected.\n"
    done = pair.operator.cli("connect", "cabin")
    assert re.search(r"^ +\d+\.\d{3} s  asking the mediation server$", done.stderr, re.M)
    assert re.search(r"^ +\d+\.\d{3} s  connected$", done.stderr, re.M)
    pair.operator.cli("disconnect", "cabin")
    assert pair.operator.cli("connect", "cabin", "--json").stderr == ""


def test_nobody_reads(pair):
    """`hearthgate status | true`, and a watcher whose reader went."""
    for words in (["status"], ["--help"], ["peers", "--json"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            pair.operator.host.argv([*pair.operator.argv, *words]),
            env=environment(), stdout=writer, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
        os.close(writer)
        assert done.stderr == b""
        assert done.returncode == 74


def test_the_disk_behind_stdout_is_full(pair):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            pair.operator.host.argv([*pair.operator.argv, "status"]),
            env=environment(), stdout=full, stderr=subprocess.PIPE, check=False, text=True,
        )  # fmt: skip
    assert done.stderr == "hearthgate: No space left on device\n"
    assert done.returncode == 74


def test_a_terminal_without_a_degree_sign(pair):
    done = subprocess.run(
        pair.operator.host.argv([*pair.operator.argv, "get", "cabin", "boiler.setpoint"]),
        env=environment(PYTHONIOENCODING="ascii"), capture_output=True, check=True, text=True,
    )  # fmt: skip
    assert re.fullmatch(r"setpoint  [\d.]+ \?C.*\n", done.stdout)


def test_root_may_stand_before_and_after_and_in_the_environment(pair):
    root = str(pair.operator.layout.root)
    base = pair.operator.argv[:-2]
    for words, more in (
        (["--root", root, "peers"], {}),
        ([f"--root={root}", "peers"], {}),
        (["peers", "--root", root], {}),
        (["peers"], {"HEARTHGATE_ROOT": root}),
    ):
        env = {**environment(), **more}
        done = subprocess.run([*base, *words], env=env, capture_output=True, text=True, check=True)
        assert "cabin" in done.stdout


def test_every_command_has_help(capsys):
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    for command in COMMANDS:
        assert f"  {command} " in overview
        with pytest.raises(SystemExit) as caught:
            main([command, "--help"])
        assert caught.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: hearthgate {command}")
    assert main(["--version"]) == 0
    assert re.fullmatch(r"hearthgate \d+\.\d+\.\d+.*\n", capsys.readouterr().out)
    assert main([]) == 64
