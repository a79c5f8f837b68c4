"""Errors of the board, for people: each says what happened and what to do.

They look like those of the agent (`sentence`, `exit_code` after sysexits.h) without knowing it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class BoardError(Exception):
    """The board cannot do what was asked of it."""

    exit_code = 71  # EX_OSERR

    @property
    def sentence(self) -> str:
        """What is printed: the facts if given, else the docstring's first line."""
        return str(self) or (type(self).__doc__ or "").splitlines()[0]


class StorageError(BoardError):
    """A file could not be read or written; what was stored before is unchanged."""

    exit_code = 74  # EX_IOERR


class DamagedFileError(StorageError):
    """A state file is damaged; `aside` is where it is kept now (None: not kept aside)."""

    def __init__(self, text: str, aside: Path | None = None) -> None:
        super().__init__(text)
        self.aside = aside


class ServiceError(BoardError):
    """The service could not be installed, started or stopped."""


ADVICE = {
    errno.ENOSPC: "no space is left: free some and try again; what was stored before is unchanged",
    errno.EDQUOT: "the quota is used up: free some space; what was stored before is unchanged",
    errno.EROFS: "the file system is read-only: remount it writable, or check the medium "
    "(a worn out SD card turns read-only)",
    errno.EACCES: "no right to do this: run the command as root",
    errno.EPERM: "no right to do this: run the command as root",
    errno.EIO: "the medium reports an error: save what is on it and replace it",
    errno.EMFILE: "too many files are open in this process",
    errno.ENOENT: "the folder does not exist",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "this is a folder, not a file",
}


def storage_error(doing: str, path: Path | str, error: OSError) -> StorageError:
    """`error` as a sentence: what was being done with which file, why it failed, what to do."""
    why = ADVICE.get(error.errno or 0, error.strerror or str(error))
    return StorageError(f"{doing} {path} failed: {why}")
