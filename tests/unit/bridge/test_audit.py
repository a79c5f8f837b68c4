"""Audit records: one line each, whatever is in them."""

from __future__ import annotations

import itertools
import json
import math

import pytest

from agent.bridge.audit import (
    BUDGET_LINES,
    BUDGET_SECONDS,
    MAX_FOLDED,
    MAX_LINE,
    MAX_TEXT,
    AuditBudget,
    encode_line,
    stamped,
    write_record,
)


def record(**more):
    plain = {"peer": "laptop", "device": "boiler", "point": "setpoint", "result": "ok"}
    return write_record(**{**plain, "old": 20.0, "new": 21.5, **more})


def test_the_documented_line():
    line = encode_line(stamped(record(), 1795252443.21))
    assert line == (
        '{"time":1795252443.2,"peer":"laptop","device":"boiler","point":"setpoint",'
        '"old":20.0,"new":21.5,"result":"ok"}'
    )


@pytest.mark.parametrize(
    "new",
    ["a\nb", "\x1b[2J", "\u2028", "x" * 100_000, math.nan, -math.inf, 10**5000, [10**5000], None],
    ids=range(9),
)
def test_whatever_is_written_it_stays_one_short_line_of_ascii(new):
    line = encode_line(stamped(record(new=new, result="r" * 5000), -5))
    assert "\n" not in line
    assert len(line) <= MAX_LINE
    assert all(32 <= ord(character) < 127 for character in line)
    assert len(json.loads(line)["result"]) <= MAX_TEXT


def test_a_record_of_others_that_is_too_long_keeps_who_and_where():
    line = encode_line({**record(), "extra": "x" * 5000})
    assert json.loads(line)["peer"] == "laptop"
    assert json.loads(line)["result"] == "record too long"


def test_a_program_that_writes_every_second_fills_no_flash():
    budget, written = AuditBudget(), []
    for second in range(86400):
        written += budget.offer(stamped(record(new=second), second), float(second))
    written += budget.finish()
    assert sum(len(encode_line(line)) for line in written) < 1_000_000
    assert sum(line.get("repeated", 1) for line in written) == 86400  # none is forgotten
    assert [line["new"] for line in written[:BUDGET_LINES]] == list(range(BUDGET_LINES))
    assert written[-1]["new"] == 86399
    assert all(a["time"] <= b["time"] for a, b in itertools.pairwise(written))


def test_what_was_gathered_is_told_when_the_budget_allows():
    budget = AuditBudget()
    for _ in range(BUDGET_LINES):
        assert len(budget.offer(record(), 0.0)) == 1
    assert budget.next_timeout() is None
    assert budget.offer(record(new=1), 0.0) == []
    assert budget.offer(record(new=2), 0.0) == []
    assert budget.offer(record(peer="other"), 0.0) == []
    assert budget.next_timeout() == BUDGET_SECONDS
    assert budget.handle_timer(BUDGET_SECONDS - 1) == []
    (line,) = budget.handle_timer(BUDGET_SECONDS)
    assert (line["new"], line["repeated"]) == (2, 2)
    (line,) = budget.handle_timer(2 * BUDGET_SECONDS)
    assert (line["peer"], line["repeated"]) == ("other", 1)
    assert budget.next_timeout() is None


def test_what_is_gathered_is_bounded_and_counted():
    budget = AuditBudget()
    told = []
    for number in range(BUDGET_LINES + 1000):
        told += budget.offer(record(point=f"p{number}"), 0.0)
    left = budget.finish()
    assert len(left) <= MAX_FOLDED
    assert sum(line.get("repeated", 1) for line in told + left) == BUDGET_LINES + 1000
