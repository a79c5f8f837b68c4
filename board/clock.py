"""Whether the wall clock can be believed.

Many boards have no battery: they start in 1970, or where a file system last was, and jump when
NTP answers. Nothing that must work may depend on the wall clock; what is only nicer with it
(dates in the log, the expiry of an invitation) asks here first. `SavedTime` keeps the latest
time that was believed, so that a clock which went back is noticed; it is written once a day.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from board.errors import StorageError
from board.storage import SYSTEM, FileOperations, JsonState

if TYPE_CHECKING:
    from pathlib import Path

BUILT = 1_767_225_600  # 2026-01-01 UTC: nothing of this program is older
LATEST = 4_102_444_800  # 2100-01-01 UTC: a clock beyond is broken, not late
SAVE_SECONDS = 24 * 3600  # flash wears out; a day is near enough to tell a clock that went back
TOLERANCE_SECONDS = 3600  # what NTP may rightly correct


def is_plausible(wall: float, latest_known: float = 0) -> bool:
    """Whether `wall` (seconds since 1970) can be true, given a time that has certainly passed."""
    return max(BUILT, latest_known - TOLERANCE_SECONDS) <= wall < LATEST


class SavedTime:
    """The latest plausible wall clock time, kept over reboots."""

    def __init__(self, path: Path, *, files: FileOperations = SYSTEM) -> None:
        self._state = JsonState(path, files=files)
        try:
            content = self._state.load() or {}
        except StorageError:
            content = {}  # it is only a hint; the next save mends it
        value = content.get("latest")
        self.latest = 0.0
        if isinstance(value, int) and is_plausible(value):
            self.latest = float(value)

    def is_plausible(self, wall: float) -> bool:
        """Whether `wall` is no earlier than what was seen before."""
        return is_plausible(wall, self.latest)

    def observe(self, wall: float) -> bool:
        """Take note of the time; True if it was written (once a day). Raises StorageError."""
        if not self.is_plausible(wall) or wall < self.latest + SAVE_SECONDS:
            return False
        self._state.save({"latest": int(wall)})
        self.latest = wall
        return True
