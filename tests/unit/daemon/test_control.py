"""The control protocol: what is understood, and what a watcher is shown."""

from __future__ import annotations

import json

import pytest

from agent.commands import part_of
from agent.control import COMMANDS, MAX_TEXT, check_request, event_line
from agent.datagram import Address, Path
from agent.engine.events import Enrolled, MediatorChanged, Notice, Packets, PeerChanged, TunnelDown
from agent.errors import UsageError

GOOD = [
    {"command": "status"},
    {"command": "connect", "peer": "cabin"},
    {"command": "rekey", "peer": "cabin", "ike": True},
    {"command": "invite", "name": "a", "role": "reader", "seconds": 60},
    {"command": "grant", "peer": "a", "add": ["tcp:22"], "remove": []},
    {"command": "get", "device": "boiler"},
    {"command": "set", "device": "boiler", "point": "x", "value": 21.5},
    {"command": "set", "device": "boiler", "point": "x", "value": False, "peer": "cabin"},
    {"command": "audit", "count": 3},
    {"command": "drain", "address": "med2.example.org", "key": "k"},
]


@pytest.mark.parametrize("request_", GOOD, ids=str)
def test_good_requests(request_):
    name, arguments = check_request(request_)
    assert name == request_["command"]
    assert {"command": name, **arguments} == request_


BAD = [
    ({}, "same version"),
    ({"command": None}, "same version"),
    ({"command": ["status"]}, "same version"),
    ({"command": "__init__"}, "same version"),
    ({"command": "handle"}, "same version"),
    ({"command": "status", "peer": "x"}, "'peer' is not understood"),
    ({"command": "connect"}, "peer is missing"),
    ({"command": "connect", "peer": 7}, "'peer' is not understood"),
    ({"command": "connect", "peer": None}, "'peer' is not understood"),
    ({"command": "connect", "peer": "x" * (MAX_TEXT + 1)}, "'peer' is not understood"),
    ({"command": "connect", "peer": "x", "self": 1}, "'self' is not understood"),
    ({"command": "connect", "peer": "x", "send": 1}, "'send' is not understood"),
    ({"command": "connect", "peer": "x", "k" * 9999: 1}, "kkk"),
    ({"command": "rekey", "peer": "x", "ike": 1}, "'ike' is not understood"),
    ({"command": "invite", "name": "a", "role": "reader", "seconds": True}, "is a number"),
    ({"command": "invite", "name": "a", "role": "reader", "seconds": "60"}, "'seconds'"),
    ({"command": "grant", "peer": "a", "add": "tcp:22"}, "'add' is not understood"),
    ({"command": "grant", "peer": "a", "add": ["x"] * (MAX_TEXT + 1)}, "'add'"),
    ({"command": "set", "device": "d", "point": "p"}, "value is missing"),
]


@pytest.mark.parametrize(("request_", "said"), BAD, ids=range(len(BAD)))
def test_bad_requests(request_, said):
    with pytest.raises(UsageError) as caught:
        check_request(request_)
    assert said in caught.value.sentence
    assert len(caught.value.sentence) < 200


def test_each_command_has_a_handler_with_its_arguments():
    import inspect

    for name, arguments in COMMANDS.items():
        handler = getattr(part_of(name), f"on_{name}")
        parameters = dict(inspect.signature(handler).parameters)
        del parameters["self"], parameters["send"]
        assert set(parameters) == set(arguments)
        for key, (_, required) in arguments.items():
            assert (parameters[key].default is inspect.Parameter.empty) == required, (name, key)


def test_events_for_watchers_are_json_and_show_no_keys():
    path = Path(Address.parse("10.0.0.1", 4500), Address.parse("fd00::1", 4500))
    line = event_line(PeerChanged(name="a", state="up", path=path))
    assert json.loads(json.dumps(line)) == {
        "event": "PeerChanged",
        "name": "a",
        "state": "up",
        "path": line["path"],
    }
    assert "[fd00::1]:4500" in str(line["path"])
    assert event_line(Notice(text="x")) == {"event": "Notice", "text": "x"}
    assert event_line(MediatorChanged(name="m", state="waiting", error="why")) == {
        "event": "MediatorChanged",
        "name": "m",
        "state": "waiting",
        "error": "why",
    }
    for silent in (Enrolled(name="a", answer=b"x"), Packets([]), TunnelDown(name="a"), object()):
        assert event_line(silent) is None
