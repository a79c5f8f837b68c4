"""What `mediate --drain` and `status` say about it."""

from __future__ import annotations

import pytest

from agent.cli import ask, main
from agent.cli.status import describe

KEY = "A" * 42 + "E"
STATUS = {
    "name": "cabin",
    "address": "fd00::1",
    "uptime": 1.0,
    "mediators": [],
    "peers": [],
    "devices": [],
}
MEDIATOR = {
    "name": "main",
    "state": "registered",
    "address": "med2.example.org:4500",
    "moved_from": "med.example.org:4500",
    "resumed": False,
    "suite": "aes128gcm16-prfsha256-x25519-ke1_mlkem768",
    "since": 3.0,
    "reflexive": "",
}


def test_status_says_where_one_is_registered():
    said = describe({**STATUS, "mediators": [MEDIATOR]})
    where = "at med2.example.org:4500 (instead of med.example.org:4500)"
    assert f"mediator main  registered {where} for 3 s, aes128gcm16-prfsha256-x25519-ke1" in said
    at_home = {**MEDIATOR, "moved_from": ""}
    assert "mediator main  registered for 3 s" in describe({**STATUS, "mediators": [at_home]})


def test_status_of_a_drained_server():
    server = {"registered": 2, "draining_to": "med2.example.org:4500", "moved": 5}
    said = describe({**STATUS, "mediates": "med.example.org", "server": server})
    assert "2 registered, draining to med2.example.org:4500: 5 moved" in said
    server = {"registered": 2, "draining_to": "", "moved": 0}
    assert describe({**STATUS, "mediates": "m", "server": server}).endswith("2 registered")


@pytest.fixture
def daemon(monkeypatch):
    """A daemon that answers `drain` with what the test puts here; it keeps what was asked."""
    talk: dict = {"asked": []}

    def answer(root, request, progress=None):
        talk["asked"].append(request)
        progress({"event": "progress", "moved": 1, "left": 2, "seconds": 1.0})
        return talk["result"]

    monkeypatch.setattr(ask, "ask", answer)
    return talk


def test_all_have_gone(daemon, capsys):
    daemon["result"] = {"to": "med2.example.org:4500", "moved": 3, "left": 0, "seconds": 1.26}
    assert main(["mediate", "--drain", f"med2.example.org#{KEY}"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("3 moved to med2.example.org:4500 in 1.3 s, nobody is left.")
    assert "1 moved, 2 left" in said.err
    assert daemon["asked"] == [{"command": "drain", "address": "med2.example.org", "key": KEY}]


def test_some_are_left(daemon, capsys):
    daemon["result"] = {"to": "m:4500", "moved": 1, "left": 2, "seconds": 61.0}
    assert main(["mediate", "--drain", f"m#{KEY}"]) == 75
    said = capsys.readouterr()
    assert "1 moved to m:4500 in 61.0 s, 2 left" in said.err
    assert said.out == ""


def test_whoever_stops_waiting_is_told_that_it_goes_on(monkeypatch, capsys):
    def interrupted(root, request, progress=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(ask, "ask", interrupted)
    assert main(["mediate", "--drain", f"m#{KEY}"]) == 130
    said = capsys.readouterr()
    assert "goes on sending everybody there" in said.err
    assert said.err.endswith("stopped.\n")


@pytest.mark.parametrize("other", ["m", f"#{KEY}", f"a b#{KEY}", "m#short", f"m:99999#{KEY}"])
def test_what_is_no_mediation_server(other, capsys):
    assert main(["mediate", "--drain", other]) == 65
    assert "hearthgate mediate" in capsys.readouterr().err


def test_help_and_completion_know_it(capsys):
    with pytest.raises(SystemExit):
        main(["mediate", "--help"])
    assert "--drain OTHER" in capsys.readouterr().out
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        assert "drain" in capsys.readouterr().out
