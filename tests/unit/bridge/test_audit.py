"""Audit records: one line each, whatever is in them."""

from __future__ import annotations

import json
import math

import pytest

from agent.bridge.audit import MAX_LINE, MAX_TEXT, encode_line, stamped, write_record


def record(**more):
    plain = {"peer": "laptop", "device": "boiler", "point": "setpoint", "result": "ok"}
    return write_record(**{**plain, "old": 20.0, "new": 21.5, **more})


def test_the_documented_line():
    line = encode_line(stamped(record(), 1795252443.21))
    assert line == (
        b'{"time":1795252443.2,"peer":"laptop","device":"boiler","point":"setpoint",'
        b'"old":20.0,"new":21.5,"result":"ok"}\n'
    )


@pytest.mark.parametrize(
    "new",
    ["a\nb", "\x1b[2J", "\u2028", "x" * 100_000, math.nan, -math.inf, 10**5000, [10**5000], None],
    ids=range(9),
)
def test_whatever_is_written_it_stays_one_short_line_of_ascii(new):
    line = encode_line(stamped(record(new=new, result="r" * 5000), -5))
    assert line.count(b"\n") == 1
    assert len(line) <= MAX_LINE
    assert all(32 <= octet < 127 for octet in line[:-1])
    assert len(json.loads(line)["result"]) <= MAX_TEXT


def test_a_record_of_others_that_is_too_long_keeps_who_and_where():
    line = encode_line({**record(), "extra": "x" * 5000})
    assert json.loads(line)["peer"] == "laptop"
    assert json.loads(line)["result"] == "record too long"
