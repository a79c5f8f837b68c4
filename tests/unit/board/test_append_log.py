"""The audit log: a line that was appended stays, whatever happens after it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from board.append_log import MAX_LINE_OCTETS, AppendLog
from board.errors import StorageError
from tests.unit.board.power_cut import Disk
from tests.unit.board.test_storage import cut_at_every_step, failure_of

PATH = Path("/d/audit.log")


def test_lines_come_back_in_order_and_stay_lines(tmp_path):
    log = AppendLog(tmp_path / "audit.log")
    log.append("one")
    log.append("two\nthree\x1b[31m \0")
    log.append("Hütte \ud800")
    assert list(log.lines()) == ["one", "two\\nthree\\x1b[31m \\x00", "Hütte \\ud800"]
    assert (tmp_path / "audit.log").stat().st_mode & 0o777 == 0o600


def test_power_cut_at_every_step_keeps_every_line_that_was_confirmed():
    for disk, _ in cut_at_every_step({"audit.log": b"first\n"}, _append_two):
        confirmed = disk.__dict__.get("confirmed", [])
        for found in disk.survivors():
            lines = list(AppendLog(PATH, files=Disk.holding(found)).lines())
            assert lines[: 1 + len(confirmed)] == ["first", *confirmed]


def _append_two(disk: Disk) -> None:
    log = AppendLog(PATH, files=disk)
    disk.confirmed = []  # type: ignore[attr-defined]
    for line in ("second", "third"):
        log.append(line)
        disk.confirmed.append(line)  # type: ignore[attr-defined]


def test_a_line_after_a_torn_one_is_whole():
    disk = Disk.holding({"audit.log": b"first\ntor"})
    AppendLog(PATH, files=disk).append("second")
    assert list(AppendLog(PATH, files=disk).lines()) == ["first", "tor", "second"]


def test_a_full_disk_leaves_no_half_line_and_says_so():
    for step in range(20):
        disk = Disk.holding({"audit.log": b"first\n"}, fail_at={step: errno.ENOSPC})
        error = failure_of(lambda disk=disk: AppendLog(PATH, files=disk).append("x" * 100))
        if error is not None:
            assert "no space is left" in str(error)
            assert disk.contents()["audit.log"] == b"first\n"
            assert not disk.descriptors
    disk = Disk.holding({"audit.log": b"first\n"}, short_writes=True)
    AppendLog(PATH, files=disk).append("x" * 100)
    second_write = [n for n, what in enumerate(disk.operations) if what == "write"][1]
    disk = Disk.holding(
        {"audit.log": b"first\n"}, short_writes=True, fail_at={second_write: errno.ENOSPC}
    )
    with pytest.raises(StorageError):
        AppendLog(PATH, files=disk).append("x" * 100)
    assert disk.contents()["audit.log"] == b"first\n"


def test_size_is_bounded_and_the_oldest_goes_first(tmp_path):
    log = AppendLog(tmp_path / "audit.log", max_octets=MAX_LINE_OCTETS, keep=2)
    numbers = range(3000)
    for number in numbers:
        log.append(f"line {number:05}")
    parts = sorted(tmp_path.iterdir())
    assert [p.name for p in parts] == ["audit.log", "audit.log.1", "audit.log.2"]
    assert all(p.stat().st_size <= MAX_LINE_OCTETS for p in parts)
    lines = list(log.lines())
    assert lines == [f"line {n:05}" for n in numbers][-len(lines) :]
    assert len(lines) > 1400


def test_power_cut_while_rotating_loses_at_most_the_oldest_part():
    old = {"audit.log.1": b"a\n", "audit.log": b"b" * (MAX_LINE_OCTETS - 2) + b"\n"}
    for disk, _ in cut_at_every_step(old, _append_to_full):
        for found in disk.survivors():
            assert old["audit.log"] in found.values()


def _append_to_full(disk: Disk) -> None:
    AppendLog(PATH, max_octets=MAX_LINE_OCTETS, keep=2, files=disk).append("next")


def test_a_line_too_long_is_refused(tmp_path):
    with pytest.raises(StorageError, match="too long"):
        AppendLog(tmp_path / "audit.log").append("x" * MAX_LINE_OCTETS)
    with pytest.raises(ValueError, match="at least one line"):
        AppendLog(tmp_path / "audit.log", max_octets=10)
