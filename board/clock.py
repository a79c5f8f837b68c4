"""Whether the wall clock can be believed.

Many boards have no battery: they start in 1970, or where a file system last was, and jump when
NTP answers. Nothing that must work may depend on the wall clock; what is only nicer with it
(dates in the log, the expiry of an invitation) asks here first. `SavedTime` keeps the latest
time that was believed, so that a clock which went back is noticed; it is written once a day.

A clock that was years ahead for some hours leaves a date behind that never was. It is forgotten
when NTP has kept the clock at an earlier one for a whole day, and not for less: then certificates
that have expired by the later date are good again.
"""

from __future__ import annotations

from pathlib import Path

from board.errors import StorageError
from board.storage import SYSTEM, FileOperations, JsonState

BUILT = 1_767_225_600  # 2026-01-01 UTC: nothing of this program is older
LATEST = 4_102_444_800  # 2100-01-01 UTC: a clock beyond is broken, not late
SAVE_SECONDS = 24 * 3600  # flash wears out; a day is near enough to tell a clock that went back
TOLERANCE_SECONDS = 3600  # what NTP may rightly correct
LOOKS = 24  # so many in a row, one an hour, until an earlier date by NTP counts
# systemd-timesyncd(8): touched after each successful synchronization, each 2048 s at the latest.
# Of other NTP clients nothing is known here: the kernel's word (adjtimex) is closed to the service.
SYNCHRONIZED = Path("/run/systemd/timesync/synchronized")
SYNCHRONIZED_SECONDS = 3 * 2048


def is_plausible(wall: float, latest_known: float = 0) -> bool:
    """Whether `wall` (seconds since 1970) can be true, given a time that has certainly passed."""
    return max(BUILT, latest_known - TOLERANCE_SECONDS) <= wall < LATEST


def is_disciplined(wall: float, marker: Path | None = None) -> bool:
    """Whether NTP has set the clock that says `wall` lately, and nobody has since. Cannot fail."""
    try:
        last = (marker or SYNCHRONIZED).stat().st_mtime
    except OSError:
        return False
    return last <= wall <= last + SYNCHRONIZED_SECONDS


class SavedTime:
    """The latest plausible wall clock time, kept over reboots."""

    def __init__(self, path: Path, *, files: FileOperations = SYSTEM) -> None:
        self._state = JsonState(path, files=files)
        try:
            content = self._state.load() or {}
        except StorageError:
            content = {}  # it is only a hint; the next save mends it
        value = content.get("latest")
        self._looks = 0
        self.latest = 0.0
        if isinstance(value, int) and is_plausible(value):
            self.latest = float(value)

    def is_plausible(self, wall: float) -> bool:
        """Whether `wall` is no earlier than what was seen before."""
        return is_plausible(wall, self.latest)

    def observe(self, wall: float, *, disciplined: bool = False) -> bool:
        """Take note of the time, once an hour; True if it was written. Raises StorageError.

        That is once a day, or when a clock that NTP sets (`disciplined`) says for a whole day that
        it is earlier.
        """
        if self.is_plausible(wall):
            self._looks = 0
            if wall < self.latest + SAVE_SECONDS:
                return False
        else:
            self._looks = self._looks + 1 if disciplined and is_plausible(wall) else 0
            if self._looks < LOOKS:
                return False
        self._state.save({"latest": int(wall)})
        self.latest = wall
        return True
