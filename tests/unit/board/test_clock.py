"""Clocks that are wrong at boot (THREATS 31, 38)."""

from __future__ import annotations

from pathlib import Path

import pytest

from board import clock
from board.clock import BUILT, SavedTime, is_plausible
from tests.unit.board.power_cut import Disk

DAY = 86400
PATH = Path("/d/time.json")


@pytest.mark.parametrize(
    ("wall", "latest", "expected"),
    [
        (0, 0, False),
        (BUILT - 1, 0, False),
        (BUILT, 0, True),
        (BUILT + 10 * 365 * DAY, 0, True),
        (clock.LATEST, 0, False),
        (BUILT + 5 * DAY, BUILT + 6 * DAY, False),
        (BUILT + 6 * DAY - 60, BUILT + 6 * DAY, True),
        (float("nan"), 0, False),
    ],
)
def test_plausible(wall, latest, expected):
    assert is_plausible(wall, latest) is expected


def test_the_latest_time_is_written_once_a_day_and_survives():
    disk = Disk()
    saved = SavedTime(PATH, files=disk)
    assert saved.observe(0) is False
    assert saved.observe(BUILT + 1000) is True
    renames = disk.operations.count("rename")
    for hour in range(24):
        assert saved.observe(BUILT + 999 + hour * 3600) is False
    assert disk.operations.count("rename") == renames
    assert saved.observe(BUILT + 1000 + DAY) is True
    again = SavedTime(PATH, files=disk)
    assert again.latest == BUILT + 1000 + DAY
    assert not again.is_plausible(BUILT + 1000)


@pytest.mark.parametrize("content", [b"rot", b'{"version": 9}', b""])
def test_a_damaged_hint_is_no_error(content):
    assert SavedTime(PATH, files=Disk.holding({PATH.name: content})).latest == 0


def test_a_broken_clock_is_not_remembered():
    saved = SavedTime(PATH, files=Disk())
    assert saved.observe(clock.LATEST + 1) is False
    assert saved.is_plausible(BUILT + 1)
