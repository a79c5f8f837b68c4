"""An append-only log of lines that survives power cuts: the audit record.

One write and one fsync a line (lines are rare: somebody changed a setpoint). A torn last
line, left by a power cut, is closed before the next one is written, so a line is whole or the
last of its run. At `max_octets` the file is renamed to `NAME.1`, that to `NAME.2` and so on;
what is beyond `keep` goes. Who writes is one process.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from board.errors import StorageError, storage_error
from board.storage import PRIVATE, SYSTEM, FileOperations, opened, read_file, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_LINE_OCTETS = 8 * 1024  # a record is a few hundred; a peer's text must not fill the flash


class AppendLog:
    """Lines in `path` and its older parts. Takes no descriptor between calls."""

    def __init__(
        self,
        path: Path,
        *,
        max_octets: int = 256 * 1024,
        keep: int = 3,
        mode: int = PRIVATE,
        files: FileOperations = SYSTEM,
    ) -> None:
        if keep < 1 or max_octets < MAX_LINE_OCTETS:
            raise ValueError("keep must be 1 or more, max_octets at least one line")
        self.path = path
        self._max_octets = max_octets
        self._keep = keep
        self._mode = mode
        self._files = files

    def append(self, line: str) -> None:
        """Store one line; it is on the medium when this returns. Raises StorageError.

        Control characters and what is no text are escaped, so that a line stays one line.
        """
        data = _one_line(line)
        try:
            is_new = self._rotate_if_full(len(data))
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            with opened(self._files, str(self.path), flags, self._mode) as fd:
                self._write(fd, data)
            if is_new:
                sync_folder(self.path.parent, self._files)
        except OSError as error:
            raise storage_error("Writing", self.path, error) from error

    def lines(self) -> Iterator[str]:
        """All lines that are kept, oldest first. Raises StorageError."""
        for number in range(self._keep, -1, -1):
            limit = self._max_octets + MAX_LINE_OCTETS
            data = read_file(self._part(number), limit=limit, files=self._files)
            for line in (data or b"").split(b"\n"):
                if line:
                    yield line.decode("utf-8", "replace")

    def _write(self, fd: int, data: bytes) -> None:
        files = self._files
        size = files.fstat(fd).st_size
        try:
            if size and files.pread(fd, 1, size - 1) != b"\n":
                data = b"\n" + data
            view = data
            while view:
                view = view[files.write(fd, view) :]
            files.fsync(fd)
        except OSError:
            with contextlib.suppress(OSError):
                files.truncate(fd, size)  # a full disk leaves no half line behind
            raise

    def _rotate_if_full(self, more: int) -> bool:
        """Whether the next line begins a new file."""
        files = self._files
        try:
            with opened(files, str(self.path), os.O_RDONLY | os.O_NOFOLLOW) as fd:
                size = files.fstat(fd).st_size
        except FileNotFoundError:
            return True
        if size + more <= self._max_octets:
            return False
        for number in range(self._keep, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                files.rename(str(self._part(number - 1)), str(self._part(number)))
        return True

    def _part(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path


def _one_line(line: str) -> bytes:
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    data = text.encode("utf-8", "backslashreplace")
    if len(data) >= MAX_LINE_OCTETS:
        raise StorageError(f"A log line of {len(data)} octets is too long")
    return data + b"\n"
