"""agent.timers against the simplest thing that does the same."""

from __future__ import annotations

import random

import pytest

from agent.timers import Schedule


@pytest.mark.parametrize("seed", range(20))
def test_a_schedule_is_a_table_of_deadlines(seed):
    dice = random.Random(seed)
    schedule: Schedule[str] = Schedule()
    table: dict[str, float] = {}
    now = 0.0
    for _ in range(2000):
        key = f"{dice.randrange(12)}"
        match dice.randrange(8):
            case 0:
                schedule.set(key, None)
                table.pop(key, None)
            case 1:
                now += dice.randrange(6)
                due = schedule.expired(now)
                assert sorted(due) == sorted(k for k, at in table.items() if at <= now)
                assert [table[k] for k in due] == sorted(table[k] for k in due)
                for each in due:
                    del table[each]
            case _:
                table[key] = now + dice.randrange(1, 20)
                schedule.set(key, table[key])
        assert schedule.next_deadline() == min(table.values(), default=None)
        assert len(schedule) == len(table)


def test_moving_a_deadline_on_and_on_keeps_nothing():
    schedule: Schedule[int] = Schedule()
    for step in range(10_000):
        schedule.set(1, 1000.0 - step / 100)  # each earlier than the last
    assert len(schedule._heap) <= 64 + 4 + 1
