"""THREATS 39: power cut at every step, full disk, read-only, bit rot → old or new, keys intact."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from board import storage
from board.errors import DamagedFileError, StorageError
from board.storage import JsonState
from tests.unit.board.power_cut import Disk, PowerCut

OLD = b"old " * 300
NEW = b"new " * 500
PATH = Path("/d/state.json")
NAME = PATH.name


def cut_at_every_step(before: dict[str, bytes], work) -> list[tuple[Disk, bool]]:
    """Do `work(disk)` with the power cut before each of its operations; (disk, came to the end)."""
    runs = []
    for cut in range(200):
        disk = Disk.holding(before, cut_at=cut, short_writes=True)
        try:
            work(disk)
        except PowerCut:
            runs.append((disk, False))
            continue
        runs.append((disk, True))
        return runs
    raise AssertionError("the work never ends")


def failure_of(work) -> StorageError | None:
    try:
        work()
    except StorageError as error:
        return error
    return None


def write_new(disk: Disk) -> None:
    storage.write_file(PATH, NEW, files=disk)


def test_power_cut_at_every_step_leaves_the_old_or_the_new_content():
    runs = cut_at_every_step({NAME: OLD}, write_new)
    assert len(runs) > 10
    seen = set()
    for disk, _ in runs:
        for found in disk.survivors():
            assert found[NAME] in (OLD, NEW), disk.operations
            seen.add(found[NAME])
    assert seen == {OLD, NEW}


def test_once_write_file_returns_the_new_content_is_there_for_good():
    disk, ended = cut_at_every_step({NAME: OLD}, write_new)[-1]
    assert ended
    assert [found[NAME] for found in disk.survivors()] == [NEW]
    assert list(disk.names) == [NAME]


def test_power_cut_while_a_first_file_is_written_leaves_none_or_the_whole():
    for disk, _ in cut_at_every_step({}, write_new):
        for found in disk.survivors():
            assert found.get(NAME, NEW) == NEW


def test_what_a_power_cut_leaves_behind_is_overwritten_and_swept():
    left = f".{NAME}.{os.getpid()}.new"
    disk = Disk.holding({NAME: OLD, left: b"torn"})
    storage.write_file(PATH, NEW, files=disk)
    assert disk.contents() == {NAME: NEW}
    disk = Disk.holding({NAME: OLD, left: b"torn", ".state.json.x.new": b"", ".new": b""})
    assert storage.sweep(Path("/d"), files=disk) == 1
    assert set(disk.names) == {NAME, ".state.json.x.new", ".new"}


def test_sweep_leaves_the_file_of_a_process_that_lives():
    disk = Disk.holding({".state.json.1.new": b"half"})
    assert storage.sweep(Path("/d"), files=disk) == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES])
def test_an_error_at_any_step_keeps_the_old_content_and_says_what_to_do(code):
    steps = len(cut_at_every_step({NAME: OLD}, write_new)[-1][0].operations)
    failures = 0
    for step in range(steps):
        disk = Disk.holding({NAME: OLD}, fail_at={step: code})
        caught = failure_of(lambda disk=disk: storage.write_file(PATH, NEW, files=disk))
        if caught is not None:
            failures += 1
            assert str(PATH) in str(caught)
            assert os.strerror(code) not in str(caught)  # a sentence of ours, with advice
            assert disk.contents()[NAME] == OLD or "rename" in disk.operations[:step]
        assert not disk.descriptors
    assert failures >= 5


def test_a_full_disk_leaves_no_temporary_file():
    disk = Disk.holding({NAME: OLD})
    storage.write_file(PATH, NEW, files=disk)
    step = disk.operations.index("write")
    disk = Disk.holding({NAME: OLD}, fail_at={step: errno.ENOSPC})
    with pytest.raises(StorageError, match="no space is left: free some"):
        storage.write_file(PATH, NEW, files=disk)
    assert disk.contents() == {NAME: OLD}


def test_folder_that_cannot_be_synced_is_no_error():
    disk = Disk.holding({NAME: OLD})
    storage.write_file(PATH, NEW, files=disk)
    step = disk.operations.index("fsync folder")
    disk = Disk.holding({NAME: OLD}, fail_at={step: errno.EINVAL})
    assert storage.write_file(PATH, NEW, files=disk)


def test_the_same_content_is_not_written_again():
    disk = Disk.holding({NAME: OLD})
    assert storage.write_file(PATH, OLD, files=disk) is False
    assert not {"write", "fsync", "rename", "fsync folder"} & set(disk.operations)
    assert storage.write_file(PATH, OLD, mode=0o644, files=disk) is True  # another mode is


def test_files_are_private_from_their_first_moment_whatever_the_umask(tmp_path):
    seen = []

    class Watching(storage.FileOperations):
        def write(self, fd, data):
            seen.append(stat.S_IMODE(os.fstat(fd).st_mode))
            return super().write(fd, data)

    old = os.umask(0)
    try:
        storage.write_file(tmp_path / "key", b"secret", files=Watching())
        storage.write_file(tmp_path / "open", b"public", mode=0o644, files=Watching())
    finally:
        os.umask(old)
    assert seen == [0o600, 0o600]
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o644
    old = os.umask(0o777)
    try:
        storage.write_file(tmp_path / "open2", b"public", mode=0o644)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "open2").stat().st_mode) == 0o644


def test_a_planted_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    (tmp_path / f".state.{os.getpid()}.new").symlink_to(victim)
    (tmp_path / "state").symlink_to(victim)
    storage.write_file(tmp_path / "state", b"new")
    assert victim.read_bytes() == b"untouched"
    assert not (tmp_path / "state").is_symlink()


def test_read_private_refuses_what_others_may_read(tmp_path):
    path = tmp_path / "key"
    storage.write_file(path, b"secret")
    assert storage.read_file(path, private=True) == b"secret"
    path.chmod(0o640)
    with pytest.raises(StorageError, match="chmod 600"):
        storage.read_file(path, private=True)


def test_reading_is_bounded_and_takes_no_devices(tmp_path):
    (tmp_path / "big").write_bytes(b"x" * 11)
    assert storage.read_file(tmp_path / "big", limit=11) == b"x" * 11
    with pytest.raises(StorageError, match="more than 10 octets"):
        storage.read_file(tmp_path / "big", limit=10)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="not a plain file"):
        storage.read_file(tmp_path / "pipe")
    assert storage.read_file(tmp_path / "absent") is None


def test_folder_errors_are_sentences(tmp_path):
    with pytest.raises(StorageError, match="the folder does not exist"):
        storage.write_file(tmp_path / "no" / "file", b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="a file where a folder is needed"):
        storage.make_folder(tmp_path / "file")
    assert storage.make_folder(tmp_path / "a" / "b")
    assert not storage.make_folder(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert storage.remove_file(tmp_path / "file")
    assert not storage.remove_file(tmp_path / "file")


def test_what_root_makes_belongs_to_whom_the_folder_belongs(tmp_path):
    owner = (12345, 12346) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(tmp_path, *owner)
    storage.write_file(tmp_path / "file", b"1")
    storage.make_folder(tmp_path / "folder")
    for name in ("file", "folder"):
        status = (tmp_path / name).stat()
        assert (status.st_uid, status.st_gid) == owner
    inode = (tmp_path / "file").stat().st_ino
    other = (7, 8) if os.geteuid() == 0 else owner
    os.chown(tmp_path / "file", *other)
    storage.write_file(tmp_path / "file", b"2")
    status = (tmp_path / "file").stat()
    assert (status.st_uid, status.st_gid) == other
    assert status.st_ino != inode


def test_a_process_killed_in_the_middle_leaves_a_whole_file(tmp_path):
    """The real file system: a writer that is killed, again and again."""
    path = tmp_path / "state.json"
    program = (
        "import sys; from pathlib import Path; from board.storage import JsonState\n"
        "state = JsonState(Path(sys.argv[1])); n = 0\n"
        "while True:\n n += 1; state.save({'n': n, 'x': 'y' * 20000}); print(n, flush=True)\n"
    )
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(5):
                writer.stdout.readline()
            writer.kill()
        content = JsonState(path).load()
        assert content is not None
        assert content["n"] >= 5
        storage.sweep(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


# ---- JsonState


def test_state_comes_back_and_is_written_only_when_it_differs(tmp_path):
    state = JsonState(tmp_path / "s.json")
    content = {"peers": [{"name": "Hütte", "key": "\ud800"}], "n": 1.5, "big": 2**70, "no": None}
    assert state.load() is None
    assert state.save(content)
    assert state.load() == content
    inode = (tmp_path / "s.json").stat().st_ino
    assert not state.save(dict(reversed(content.items())))
    assert (tmp_path / "s.json").stat().st_ino == inode
    assert state.save({2: "a", 10: "b"})
    assert state.load() == {"2": "a", "10": "b"}


def test_every_flipped_bit_and_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "s.json"
    JsonState(path).save({"key": "AbC", "n": 12, "list": [True, None]})
    good = path.read_bytes()
    loaded: list[object] = []
    damages = 0
    damaged = [good[:length] for length in range(len(good) - 1)]
    damaged += [
        bytes([*good[:i], good[i] ^ (1 << bit), *good[i + 1 :]])
        for i in range(len(good))
        for bit in range(8)
    ]
    for data in damaged:
        path.write_bytes(data)
        error = failure_of(lambda: loaded.append(JsonState(path).load()))
        if isinstance(error, DamagedFileError):
            damages += 1
            assert str(path) in str(error)
            assert error.aside is not None
            assert error.aside.read_bytes() == data
            error.aside.unlink()
        elif error is not None:  # a space became a part of the version: other than ours
            raise error
    # White space may change without changing anything.
    assert all(content == {"key": "AbC", "n": 12, "list": [True, None]} for content in loaded)
    assert damages > len(damaged) * 0.9


def test_a_damaged_file_is_kept_aside_and_the_daemon_can_go_on(tmp_path):
    path = tmp_path / "peers.json"
    path.write_bytes(b"\0" * 100)
    state = JsonState(path)
    with pytest.raises(
        DamagedFileError, match=r"peers\.json is damaged.*kept as.*backup"
    ) as caught:
        state.load()
    assert caught.value.aside == tmp_path / "peers.json.damaged-1"
    assert caught.value.aside.read_bytes() == b"\0" * 100
    assert state.load() is None
    assert state.save({"a": 1})
    assert storage.damaged_copies(tmp_path) == [caught.value.aside]


def test_damaged_copies_do_not_pile_up(tmp_path):
    path = tmp_path / "s.json"
    for number in range(6):
        path.write_bytes(b"damage %d" % number)
        with pytest.raises(DamagedFileError):
            JsonState(path).load()
    kept = storage.damaged_copies(tmp_path)
    assert [copy.read_bytes() for copy in kept] == [b"damage 0", b"damage 1", b"damage 2"]


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "1", "{}", '{"version":1,"crc32":"0","content":[]}', '{"version":"1"}']
)
def test_hostile_state_is_damage_not_a_crash(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(DamagedFileError):
        JsonState(tmp_path / "s.json").load()


def test_versions(tmp_path):
    path = tmp_path / "s.json"
    JsonState(path, version=2).save({"b": 1})
    with pytest.raises(StorageError, match="install the newer hearthgate again"):
        JsonState(path, version=1).load()
    assert path.exists()
    state = JsonState(path, version=3, upgrade=lambda old, content: {"from": old, **content})
    assert state.load() == {"from": 2, "b": 1}


def test_power_cut_while_state_is_saved_loads_the_old_or_the_new():
    disk = Disk()
    JsonState(PATH, files=disk).save({"n": 1})
    before = disk.contents()
    for cut, _ in cut_at_every_step(before, lambda d: JsonState(PATH, files=d).save({"n": 2})):
        for found in cut.survivors():
            after = Disk.holding(found)
            assert JsonState(PATH, files=after).load() in ({"n": 1}, {"n": 2})


def test_power_cut_while_a_damaged_file_is_moved_aside_loses_it_nowhere():
    for cut, _ in cut_at_every_step({NAME: b"broken"}, _load_damaged):
        for found in cut.survivors():
            assert b"broken" in found.values()


def _load_damaged(disk: Disk) -> None:
    with pytest.raises(DamagedFileError):
        JsonState(PATH, files=disk).load()
