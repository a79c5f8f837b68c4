"""The one place that writes files: atomically, power-fail-safe, and as rarely as possible.

A file is replaced by writing a temporary one beside it, fsync, rename and fsync of the folder.
Until the rename the old content is there, after it the new; never neither, never a mixture and
no second copy to choose from. A write of what is stored already touches nothing: flash wears
out, and SD cards lose power in the middle of a write.

`JsonState` adds a version and a checksum, so that bit rot is told from an empty state. The
checksum is CRC-32 (zlib polynomial): it guards against accidents; who may write the folder
could forge any other just as well. Left out: locking between writers of one file (the daemon is
the only writer of state, io.local holds its lock), and symbolic links (a link at the place of a
file is replaced by the file).

A little longer than the soft limit: each way to write here is a few of the same system calls.
"""

from __future__ import annotations

import binascii
import contextlib
import errno
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from board.errors import DamagedFileError, StorageError, storage_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PRIVATE = 0o600  # keys and state
PUBLIC = 0o644  # configuration

MAX_FILE_OCTETS = 16 * 1024 * 1024  # no state of ours comes near; a sparse file must not fill RAM
MAX_DAMAGED_COPIES = 3  # the first ones tell most, and a boot loop must not fill the flash
_READ_OCTETS = 256 * 1024
_OURS = (-1, -1)  # an owner: as created


class FileOperations:
    """The system calls that storage uses.

    In one place so that the tests can cut the power between any two of them.
    """

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def read(self, fd: int, size: int) -> bytes:
        return os.read(fd, size)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def write(self, fd: int, data: bytes) -> int:
        return os.write(fd, data)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def fstat(self, fd: int) -> os.stat_result:
        return os.fstat(fd)

    def fchmod(self, fd: int, mode: int) -> None:
        os.fchmod(fd, mode)

    def fchown(self, fd: int, uid: int, gid: int) -> None:
        os.fchown(fd, uid, gid)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path, mode)

    def listdir(self, path: str) -> list[str]:
        return os.listdir(path)


SYSTEM = FileOperations()


def read_file(
    path: Path,
    *,
    limit: int = MAX_FILE_OCTETS,
    private: bool = False,
    files: FileOperations = SYSTEM,
) -> bytes | None:
    """The content of `path`, or None if there is no such file.

    Raises StorageError if it cannot be read, is no plain file, holds more than `limit` octets,
    or, with `private`, if group or others may use it.
    """
    try:
        with opened(files, str(path), os.O_RDONLY | os.O_NONBLOCK) as fd:
            mode = files.fstat(fd).st_mode
            if not stat.S_ISREG(mode):
                raise StorageError(f"Reading {path} failed: it is not a plain file")
            if private and mode & 0o077:
                raise StorageError(
                    f"{path} holds a secret and has mode {stat.S_IMODE(mode):04o}: "
                    f"others may use it. Run: chmod 600 {path}"
                )
            return _read_all(files, fd, limit, path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error("Reading", path, error) from error


def write_file(
    path: Path, data: bytes, *, mode: int = PRIVATE, files: FileOperations = SYSTEM
) -> bool:
    """Replace the content of `path` by `data`; True if anything had to be written.

    The file has `mode` from its first moment on, whatever the umask, and keeps its owner; a new
    one that root writes belongs to whom its folder belongs (the daemon has a user of its own).
    Raises StorageError; then the old content is still there.
    """
    folder = path.parent
    temporary = str(folder / f".{path.name}.{os.getpid()}.new")
    try:
        owner = _unchanged(path, data, mode, files)
        if owner is None:
            return False
        try:
            _write_temporary(temporary, data, mode, owner, files)
            files.rename(temporary, str(path))
        except BaseException:
            with contextlib.suppress(OSError):
                files.unlink(temporary)
            raise
        sync_folder(folder, files)
    except OSError as error:
        raise storage_error("Writing", path, error) from error
    return True


def remove_file(path: Path, *, files: FileOperations = SYSTEM) -> bool:
    """Remove `path` for good; True if it was there. Raises StorageError."""
    try:
        files.unlink(str(path))
        sync_folder(path.parent, files)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise storage_error("Removing", path, error) from error
    return True


def make_folder(path: Path, mode: int = 0o700, *, files: FileOperations = SYSTEM) -> bool:
    """Make `path` and what is missing above it; True if anything was made. Raises StorageError.

    A folder that exists keeps its mode: it belongs to whoever made it. A new one that root makes
    belongs to whom the folder above belongs.
    """
    try:
        files.mkdir(str(path), mode)
        with opened(files, str(path), os.O_RDONLY | os.O_DIRECTORY) as fd:
            owner = _folder_owner(path.parent, files)
            if owner != _OURS:
                files.fchown(fd, *owner)
    except FileExistsError:
        if not path.is_dir():
            raise StorageError(f"{path} is in the way: a file where a folder is needed") from None
        return False
    except FileNotFoundError:
        make_folder(path.parent, 0o755, files=files)
        return make_folder(path, mode, files=files)
    except OSError as error:
        raise storage_error("Making folder", path, error) from error
    try:
        sync_folder(path.parent, files)
    except OSError as error:
        raise storage_error("Making folder", path, error) from error
    return True


def sweep(folder: Path, *, files: FileOperations = SYSTEM) -> int:
    """Remove what power cuts left behind in `folder`; how many files. Cannot fail.

    For the start of the daemon. A temporary file of a process that lives is left alone.
    """
    count = 0
    try:
        names = files.listdir(str(folder))
    except OSError:
        return 0
    for name in names:
        process = name.rsplit(".", 2)[-2] if name.count(".") >= 3 else ""
        if not (name.startswith(".") and name.endswith(".new") and process.isdecimal()):
            continue
        if int(process[:10]) != os.getpid() and Path("/proc", process).exists():
            continue
        with contextlib.suppress(OSError):
            files.unlink(str(folder / name))
            count += 1
    return count


class JsonState:
    """One JSON object in one file, with a version and a checksum.

    `version` is that of the content. `upgrade(old_version, content)` makes content of this
    version from an older one; without it any other version is refused.
    """

    def __init__(
        self,
        path: Path,
        *,
        version: int = 1,
        upgrade: Callable[[int, dict[str, Any]], dict[str, Any]] | None = None,
        mode: int = PRIVATE,
        files: FileOperations = SYSTEM,
    ) -> None:
        self.path = path
        self.version = version
        self._upgrade = upgrade
        self._mode = mode
        self._files = files

    def load(self) -> dict[str, Any] | None:
        """What was saved last, or None if nothing ever was.

        Raises DamagedFileError after moving the damaged file aside (the next `load` returns
        None, so that the daemon can go on without it), StorageError for one that cannot be read
        or that a newer program wrote (it stays as it is).
        """
        data = read_file(self.path, files=self._files)
        if data is None:
            return None
        try:
            version, content = _decode_state(data)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._damaged(str(error) or type(error).__name__) from None
        if version == self.version:
            return content
        if self._upgrade is None or version > self.version:
            raise StorageError(
                f"{self.path} has version {version}, this program knows {self.version}: "
                "install the newer hearthgate again, or move the file away to start afresh"
            )
        return self._upgrade(version, content)

    def save(self, content: Mapping[str, Any]) -> bool:
        """Store `content`; True if it differed from what is stored. Raises StorageError."""
        data = _encode_state(self.version, content)
        return write_file(self.path, data, mode=self._mode, files=self._files)

    def _damaged(self, why: str) -> DamagedFileError:
        aside = _move_aside(self.path, self._files)
        where = f"it was kept as {aside}" if aside else "it stays where it is"
        return DamagedFileError(
            f"{self.path} is damaged ({why}); {where}. "
            "Put a backup in its place, or go on without: what it held has to be set up again",
            aside,
        )


def damaged_copies(folder: Path, *, files: FileOperations = SYSTEM) -> list[Path]:
    """Damaged files that were kept aside in `folder`, for `doctor`. Cannot fail."""
    try:
        return sorted(folder / name for name in files.listdir(str(folder)) if ".damaged" in name)
    except OSError:
        return []


def _encode_state(version: int, content: Mapping[str, Any]) -> bytes:
    content = json.loads(json.dumps(content, allow_nan=False))  # as `load` will see it
    text = json.dumps(content, indent=1, sort_keys=True)
    head = json.dumps({"version": version, "crc32": _checksum(version, content)})
    return (head[:-1] + ', "content": ' + text + "}\n").encode()


def _decode_state(data: bytes) -> tuple[int, dict[str, Any]]:
    """Version and content. Raises ValueError, KeyError, TypeError, RecursionError."""
    outer = json.loads(data)
    if not isinstance(outer, dict):
        raise ValueError("no JSON object")
    version, checksum, content = outer["version"], outer["crc32"], outer["content"]
    if not isinstance(version, int) or not isinstance(content, dict):
        raise ValueError("no state file")
    if checksum != _checksum(version, content):
        raise ValueError("the checksum does not match")
    return version, content


def _checksum(version: int, content: Mapping[str, Any]) -> str:
    # Over a canonical form, so that only content counts, never layout.
    text = json.dumps([version, content], sort_keys=True, separators=(",", ":"))
    return f"{binascii.crc32(text.encode()):08x}"


def _move_aside(path: Path, files: FileOperations) -> Path | None:
    """Rename a damaged file; None if that is impossible or enough copies are kept already."""
    for number in range(1, MAX_DAMAGED_COPIES + 1):
        aside = path.with_name(f"{path.name}.damaged-{number}")
        try:
            if read_file(aside, files=files) is not None:
                continue
            files.rename(str(path), str(aside))
            sync_folder(path.parent, files)
        except (OSError, StorageError):
            return None
        return aside
    with contextlib.suppress(OSError):
        files.unlink(str(path))
    return None


def _unchanged(path: Path, data: bytes, mode: int, files: FileOperations) -> tuple[int, int] | None:
    """None if `path` holds `data` with `mode` already, else who is to own it."""
    try:
        with opened(files, str(path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW) as fd:
            status = files.fstat(fd)
            same = (
                stat.S_ISREG(status.st_mode)
                and stat.S_IMODE(status.st_mode) == mode
                and status.st_size == len(data)
                and _read_all(files, fd, len(data), path) == data
            )
            return None if same else (status.st_uid, status.st_gid)
    except FileNotFoundError:
        return _folder_owner(path.parent, files)
    except (OSError, StorageError):
        return _OURS  # unreadable: writing tells the truth


def _folder_owner(folder: Path, files: FileOperations) -> tuple[int, int]:
    """Who is to own what root makes in `folder`."""
    if os.geteuid() != 0:
        return _OURS
    with opened(files, str(folder), os.O_RDONLY | os.O_DIRECTORY) as fd:
        status = files.fstat(fd)
    return status.st_uid, status.st_gid


def _write_temporary(
    temporary: str, data: bytes, mode: int, owner: tuple[int, int], files: FileOperations
) -> None:
    """A new file of ours, complete and on the medium. O_EXCL: nobody can have it open already."""
    with contextlib.suppress(FileNotFoundError):
        files.unlink(temporary)  # of a process of the same number, before a power cut
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with opened(files, temporary, flags, PRIVATE) as fd:
        view = data
        while view:
            view = view[files.write(fd, view) :]
        if owner != _OURS:
            with contextlib.suppress(PermissionError):
                files.fchown(fd, *owner)
        files.fchmod(fd, mode)
        files.fsync(fd)


def sync_folder(folder: Path, files: FileOperations) -> None:
    """Make what was made, renamed or removed in `folder` survive a power cut. Raises OSError."""
    with opened(files, str(folder), os.O_RDONLY | os.O_DIRECTORY) as fd:
        try:
            files.fsync(fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some FUSE, 9p: nothing to do
                raise


def _read_all(files: FileOperations, fd: int, limit: int, path: Path) -> bytes:
    parts: list[bytes] = []
    left = limit + 1
    while left > 0 and (part := files.read(fd, min(left, _READ_OCTETS))):
        parts.append(part)
        left -= len(part)
    if left <= 0:
        raise StorageError(f"Reading {path} failed: it holds more than {limit} octets")
    return b"".join(parts)


class opened:
    """An open descriptor for the length of a `with`; closing it never hides another error."""

    __slots__ = ("_fd", "_files")

    def __init__(self, files: FileOperations, path: str, flags: int, mode: int = PRIVATE) -> None:
        self._files = files
        self._fd = files.open(path, flags, mode)

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        self._files.close(self._fd)
