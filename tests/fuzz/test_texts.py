"""Invariants of what people, programs and files hand to us as text. One sentence each."""

from __future__ import annotations

import json
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.bridge.audit import encode_line, write_record
from agent.cli.ask import table
from agent.cli.connect import device_row
from agent.cli.get import row
from agent.config import Config, load_config
from agent.control import COMMANDS, check_request
from agent.errors import ConfigError, InputError, UnavailableError, UsageError
from agent.invitation import (
    Invitation,
    decode_enrolment,
    decode_invitation,
    encode_enrolment,
    encode_invitation,
)
from agent.io.local import _decode as decode_line
from agent.peers import Peers
from agent.web.client import _parse as parse_answer
from tests.fuzz.mutate import mutated
from tests.support.pair import key_of
from tests.unit.config.test_config import FULL, PSK

LINE = encode_invitation(
    Invitation(
        mediator="med.example.org",
        mediator_key=bytes(32),
        gateway_mediation=bytes(range(32)),
        gateway_identity=bytes(32),
        name="cabin",
        invited="laptop",
        role="operator",
        expires=1_800_000_000,
        seed=bytes(16),
    )
)
SHOWN_KEYS = [
    "name", "type", "port", "reachable", "line", "state", "points", "writable", "reason", "error",
    "value", "unit", "min", "max",
]  # fmt: skip
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)


def _is_sentence(text: str) -> bool:
    return text.isprintable() and 0 < len(text) < 1500


@settings(max_examples=400)
@given(st.text(max_size=300) | st.text(max_size=300).map("hg1:{}".format))
def test_any_text_is_an_invitation_or_one_sentence(text):
    try:
        read = decode_invitation(text)
    except InputError as error:
        said = error.sentence
    else:
        said = encode_invitation(read)
    assert _is_sentence(said)


def test_any_change_of_an_invitation_is_noticed():
    source = random.Random(1)
    for _ in range(3000):
        text = mutated(source, LINE.encode()).decode("utf-8", "replace")
        if "".join(text.split()) == LINE:
            continue
        try:
            decode_invitation(text)
        except InputError as error:
            said = error.sentence
        else:
            said = ""
        assert _is_sentence(said), text


def test_any_change_of_an_enrolment_is_refused():
    source = random.Random(2)
    one_time, gateway = bytes(32), bytes(range(32))
    good = encode_enrolment(key_of("i"), key_of("m"), one_time, gateway)
    assert decode_enrolment(good, one_time, gateway) is not None
    for _ in range(300):
        bad = mutated(source, good)
        assert bad == good or decode_enrolment(bad, one_time, gateway) is None


@settings(max_examples=400)
@given(st.dictionaries(st.sampled_from(["command", "peer", "device", "value", "count", "x"]),
                       json_values | st.sampled_from(sorted(COMMANDS)), max_size=5))  # fmt: skip
def test_any_request_is_understood_as_the_table_says_or_refused(request):
    try:
        name, arguments = check_request(request)
    except UsageError as error:
        assert _is_sentence(error.sentence.replace("\\", ""))  # noqa: PT017
        return
    assert set(arguments) <= set(COMMANDS[name])
    assert all(isinstance(v, COMMANDS[name][k][0]) for k, v in arguments.items())


@settings(max_examples=400)
@given(st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode() + b"\n"))
def test_any_line_is_one_object_or_a_value_error(line):
    for octets in (line, line + b"\n", b"[" * 5000 + line, b'{"a":' * 5000 + line + b"\n"):
        try:
            read = decode_line(octets)
        except ValueError:
            continue
        assert isinstance(read, dict)


hostile_texts = (
    st.sampled_from(["\x1b]0;owned\x07", "a\nb", "\u202eabc", "\x9b2J", "°C"]) | st.text()
)
hostile_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | hostile_texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(SHOWN_KEYS) | hostile_texts, inner, max_size=6)
    ),
    max_leaves=12,
)
rows_of_a_gateway = st.lists(
    st.dictionaries(st.sampled_from(SHOWN_KEYS), hostile_values, max_size=8), max_size=3
)


@settings(max_examples=400)
@given(hostile_values | rows_of_a_gateway, st.sampled_from(["devices", "points"]))
def test_any_answer_of_a_gateway_is_shown_in_its_lines_and_does_nothing_else(value, key):
    """THREATS 3: on a terminal, in a log line and in what scripts read."""
    octets = b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps({key: value}).encode()
    try:
        _, answer = parse_answer(octets)
    except UnavailableError:
        return
    rows = answer[key]
    text = table([device_row(r, "fd00::1") for r in rows]) if key == "devices" else ""
    text += table([row(r) for r in rows]) if key == "points" else ""
    assert all(line.isprintable() for line in text.split("\n"))
    assert len(text.split("\n")) == max(1, len(rows))
    assert json.dumps(answer, ensure_ascii=False, allow_nan=False).isprintable()


@settings(max_examples=200)
@given(hostile_values, hostile_texts)
def test_any_value_that_is_refused_is_recorded_in_one_harmless_line(value, text):
    record = json.loads(
        encode_line(
            write_record(peer="p", device=text, point=text, old=value, new=value, result=text)
        )
    )
    assert all(str(part).isprintable() for part in record.values())


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_answer_of_a_gateway_is_read_or_one_sentence(octets):
    for data in (
        octets,
        b"HTTP/1.1 200 OK\r\n\r\n" + octets,
        b"HTTP/1.1 200\r\n\r\n" + b"[" * 9999,
        b'HTTP/1.1 200 OK\r\n\r\n{"value": 1e999}',
        b'HTTP/1.1 200 OK\r\n\r\n{"points": [7]}',
    ):
        try:
            status, answer = parse_answer(data)
        except UnavailableError:
            continue
        assert isinstance(status, int)
        assert isinstance(answer, dict)
        assert json.dumps(answer, allow_nan=False)


@settings(max_examples=300)
@given(json_values)
def test_any_stored_state_is_peers_or_one_of_the_errors_that_its_reader_knows(state):
    if not isinstance(state, dict):
        return
    for made in (state, {"peers": state}, {"peers": [state], "invitations": [state]}):
        try:
            read = Peers.from_json(made)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        assert isinstance(read, Peers)


def _load(text: str) -> str:
    """The sentence that refuses it; empty if it is a configuration."""
    try:
        assert isinstance(load_config(text), Config)
    except ConfigError as error:
        return error.sentence
    return ""


def test_any_change_of_a_configuration_is_one_or_one_sentence():
    """Which never repeats the secret that stands in it."""
    source = random.Random(3)
    accepted = 0
    words = sorted({word for word in FULL.replace("=", " ").split() if len(word) < 40})
    for _ in range(1500):
        text = mutated(source, FULL.encode(), times=2).decode("utf-8", "replace")
        if source.random() < 0.4:  # a word for another one: the tables, not only the syntax
            text = FULL.replace(source.choice(words), source.choice(words), 1)
        said = _load(text)
        accepted += not said
        assert not said or _is_sentence(said), said
        assert PSK not in said
    assert 0 < accepted < 1400


def test_nothing_that_is_too_much_for_its_reader_gets_out_as_a_traceback():
    deep = ["a = " + "[" * 50000, "a = " + "{b=" * 3000, "[" + "a." * 20000 + "a]"]
    huge = ["port = " + "9" * 5000, "port = 0x" + "f" * 9000, "mtu = 1e999999", "port = nan"]
    for text in (*deep, *huge):
        assert _is_sentence(_load(text))
