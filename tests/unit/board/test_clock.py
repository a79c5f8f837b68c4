"""Clocks that are wrong at boot (THREATS 31, 38)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from board import clock
from board.clock import BUILT, LOOKS, SYNCHRONIZED_SECONDS, SavedTime, is_disciplined, is_plausible
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


# -- a date that was remembered and never was ----------------------------------------------------

FUTURE, NOW, HOUR = BUILT + 3000 * DAY, BUILT + 300 * DAY, 3600


def mistaken(disk: Disk) -> SavedTime:
    saved = SavedTime(PATH, files=disk)
    assert saved.observe(FUTURE)
    return saved


def test_after_a_day_by_ntp_the_earlier_date_is_believed():
    disk = Disk()
    saved = mistaken(disk)
    for hour in range(LOOKS - 1):
        assert saved.observe(NOW + hour * HOUR, disciplined=True) is False
        assert not saved.is_plausible(NOW + hour * HOUR)
    assert saved.observe(NOW + LOOKS * HOUR, disciplined=True) is True
    assert saved.is_plausible(NOW + LOOKS * HOUR)
    assert SavedTime(PATH, files=disk).latest == NOW + LOOKS * HOUR


def test_an_undisciplined_clock_that_goes_back_is_never_believed():
    """Else who can set it could make certificates good again that have expired."""
    saved = mistaken(Disk())
    for hour in range(40 * 24):
        assert saved.observe(NOW + hour * HOUR) is False
    assert saved.latest == FUTURE


@pytest.mark.parametrize("between", [(NOW, False), (FUTURE + 60, True), (100, True)])
def test_the_day_has_no_gap(between):
    saved = mistaken(Disk())
    for _ in range(LOOKS - 1):
        saved.observe(NOW, disciplined=True)
    wall, disciplined = between
    assert saved.observe(wall, disciplined=disciplined) is False
    for _ in range(LOOKS - 1):
        assert saved.observe(NOW, disciplined=True) is False
    assert saved.latest == FUTURE


def test_an_impossible_date_is_not_believed_by_ntp_either():
    saved = mistaken(Disk())
    for _ in range(3 * LOOKS):
        assert saved.observe(BUILT - 1, disciplined=True) is False
    assert saved.latest == FUTURE


@pytest.mark.parametrize(
    ("ago", "expected"),
    [(0, True), (SYNCHRONIZED_SECONDS - 1, True), (SYNCHRONIZED_SECONDS + 1, False), (-60, False)],
)
def test_disciplined_is_what_was_synchronized_lately(tmp_path, ago, expected):
    """A mark in the future means that somebody else has set the clock back since."""
    marker = tmp_path / "synchronized"
    assert is_disciplined(NOW, marker) is False
    marker.touch()
    os.utime(marker, (NOW - ago, NOW - ago))
    assert is_disciplined(NOW, marker) is expected
