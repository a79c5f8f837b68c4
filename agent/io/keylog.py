"""The file of `--keylog`: lines appended, readable for its owner alone."""

from __future__ import annotations

import logging
import os
import stat
from typing import TYPE_CHECKING

from agent.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

log = logging.getLogger("agent.keylog")

PRIVATE = 0o600
# Some 200,000 connections. Strangers' handshakes are in it too, and whoever sends many of them
# while somebody debugs must not fill a board's flash.
MAX_OCTETS = 64 << 20


class KeyLog:
    """Call it with a line. A line that cannot be written is said once and costs nothing else."""

    def __init__(self, path: Path, header: Sequence[str] = ()) -> None:
        """Open or make `path`; `header` goes into a new one. Raises StorageError."""
        self.path = path
        self._failed = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags | os.O_NONBLOCK, PRIVATE)
        except OSError as error:
            raise StorageError(f"The key log {path} cannot be written: {error.strerror}.") from None
        try:
            found = os.fstat(self._fd)
            if not stat.S_ISREG(found.st_mode):
                raise StorageError(f"The key log {path} must be a file of its own.")
            os.fchmod(self._fd, PRIVATE)  # one that was there may have been open to others
        except OSError as error:
            self.close()
            raise StorageError(f"The key log {path} is not ours: {error.strerror}.") from None
        except StorageError:
            self.close()
            raise
        self._octets = found.st_size
        if not found.st_size:
            for line in header:
                self(line)

    def __call__(self, line: str) -> None:
        """Append a line."""
        data = line.encode() + b"\n"
        reason = "it is full"
        if self._octets + len(data) <= MAX_OCTETS:
            try:
                self._octets += os.write(self._fd, data)
                return
            except OSError as error:
                reason = error.strerror or "the system refuses it"
        if not self._failed:
            log.warning("the key log cannot be written any more: %s", reason)
        self._failed = True

    def close(self) -> None:
        """Give the file back."""
        os.close(self._fd)
