"""A file system in memory that can lose power, as storage's file operations see it.

What survives a cut is only what was promised: file content up to its last fsync, names up to the
last fsync of their folder. What was not promised may have survived as well: `survivors` gives
every combination. Content that was written but not synced may be whole, half, or absent.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING

from board.storage import FileOperations

if TYPE_CHECKING:
    from collections.abc import Iterator


class PowerCut(BaseException):
    """The power is gone. No handler of the program runs after it, so it is no Exception."""


@dataclass(eq=False)
class Inode:
    mode: int
    content: bytes = b""
    synced: bytes = b""

    def possible_contents(self) -> list[bytes]:
        if self.content == self.synced:
            return [self.synced]
        kept = len(self.synced) if self.content.startswith(self.synced) else 0
        half = self.content[: (kept + len(self.content)) // 2]
        return list(dict.fromkeys([self.synced, self.content, half]))


@dataclass
class Descriptor:
    inode: Inode | None  # None: a folder
    position: int = 0
    append: bool = False


@dataclass
class Disk(FileOperations):
    """One folder `/d`. Cuts the power before operation number `cut_at`, fails at `fail_at`."""

    cut_at: int = 10**9
    fail_at: dict[int, int] = field(default_factory=dict)  # operation number -> errno
    short_writes: bool = False
    names: dict[str, Inode] = field(default_factory=dict)
    synced_names: list[dict[str, Inode]] = field(default_factory=lambda: [{}])
    operations: list[str] = field(default_factory=list)
    descriptors: dict[int, Descriptor] = field(default_factory=dict)
    is_dead: bool = False

    def _step(self, what: str) -> None:
        if self.is_dead:
            raise PowerCut
        number = len(self.operations)
        if number >= self.cut_at:
            self.is_dead = True
            raise PowerCut
        self.operations.append(what)
        if number in self.fail_at:
            code = self.fail_at[number]
            raise OSError(code, os.strerror(code))

    def _named(self) -> None:
        self.synced_names.append(dict(self.names))  # may be on the medium from now on

    def survivors(self) -> Iterator[dict[str, bytes]]:
        """Every content of the folder that may be found after the power is back."""
        for names in self.synced_names:
            inodes = list(names.items())
            for contents in itertools.product(*(i.possible_contents() for _, i in inodes)):
                yield {name: content for (name, _), content in zip(inodes, contents, strict=True)}

    @classmethod
    def holding(cls, files: dict[str, bytes], **settings: object) -> Disk:
        """A disk on which `files` were stored long ago."""
        disk = cls(**settings)  # type: ignore[arg-type]
        disk.names = {n: Inode(0o100600, c, c) for n, c in files.items()}
        disk.synced_names = [dict(disk.names)]
        return disk

    def contents(self) -> dict[str, bytes]:
        return {name: inode.content for name, inode in self.names.items()}

    # ---- FileOperations

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        if flags & os.O_DIRECTORY:
            self._step("open folder")
            return self._descriptor(Descriptor(None))
        name = os.path.basename(path)
        self._step(f"open {name}")
        if flags & os.O_CREAT:
            if name in self.names and flags & os.O_EXCL:
                raise FileExistsError(errno.EEXIST, name)
            if name not in self.names:
                self.names[name] = Inode(stat.S_IFREG | mode)
                self._named()
        elif name not in self.names:
            raise FileNotFoundError(errno.ENOENT, name)
        return self._descriptor(Descriptor(self.names[name], append=bool(flags & os.O_APPEND)))

    def _descriptor(self, descriptor: Descriptor) -> int:
        number = next(n for n in itertools.count(100) if n not in self.descriptors)
        self.descriptors[number] = descriptor
        return number

    def _inode(self, fd: int) -> Inode:
        inode = self.descriptors[fd].inode
        assert inode is not None
        return inode

    def read(self, fd: int, size: int) -> bytes:
        self._step("read")
        descriptor = self.descriptors[fd]
        part = self._inode(fd).content[descriptor.position : descriptor.position + size]
        descriptor.position += len(part)
        return part

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        self._step("pread")
        return self._inode(fd).content[offset : offset + size]

    def write(self, fd: int, data: bytes) -> int:
        self._step("write")
        inode = self._inode(fd)
        part = data[: max(1, len(data) // 2)] if self.short_writes else data
        inode.content += part
        return len(part)

    def truncate(self, fd: int, size: int) -> None:
        self._step("truncate")
        inode = self._inode(fd)
        inode.content = inode.content[:size]

    def fsync(self, fd: int) -> None:
        descriptor = self.descriptors[fd]
        self._step("fsync folder" if descriptor.inode is None else "fsync")
        if descriptor.inode is None:
            self.synced_names = [dict(self.names)]
        else:
            descriptor.inode.synced = descriptor.inode.content

    def close(self, fd: int) -> None:
        del self.descriptors[fd]

    def fstat(self, fd: int) -> os.stat_result:
        inode = self.descriptors[fd].inode
        mode = stat.S_IFDIR | 0o700 if inode is None else inode.mode
        size = 0 if inode is None else len(inode.content)
        return SimpleNamespace(  # type: ignore[return-value]
            st_mode=mode, st_size=size, st_uid=os.geteuid(), st_gid=os.getegid()
        )

    def fchmod(self, fd: int, mode: int) -> None:
        self._step("fchmod")
        self._inode(fd).mode = stat.S_IFREG | mode

    def fchown(self, fd: int, uid: int, gid: int) -> None:
        self._step("fchown")

    def rename(self, old: str, new: str) -> None:
        self._step("rename")
        source = os.path.basename(old)
        if source not in self.names:
            raise FileNotFoundError(errno.ENOENT, source)
        self.names[os.path.basename(new)] = self.names.pop(source)
        self._named()

    def unlink(self, path: str) -> None:
        name = os.path.basename(path)
        self._step("unlink")
        if name not in self.names:
            raise FileNotFoundError(errno.ENOENT, name)
        del self.names[name]
        self._named()

    def listdir(self, path: str) -> list[str]:
        return list(self.names)
