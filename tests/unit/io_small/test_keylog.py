"""The file of --keylog: private, appended to, and never in the way."""

from __future__ import annotations

import logging
import os
import stat

import pytest

from agent.errors import StorageError
from agent.io import keylog
from agent.io.keylog import KeyLog


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def open_umask():
    """A careless umask, so that the mode is ours and not its."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_new_file_is_private_and_has_the_header(tmp_path):
    path = tmp_path / "keys"
    key_log = KeyLog(path, ("# one", "# two"))
    assert mode(path) == 0o600
    key_log("line")
    key_log.close()
    assert path.read_text() == "# one\n# two\nline\n"


def test_an_old_file_becomes_private_and_goes_on(tmp_path):
    path = tmp_path / "keys"
    path.write_text("old\n")
    path.chmod(0o644)
    key_log = KeyLog(path, ("# header",))
    assert mode(path) == 0o600
    key_log("new")
    key_log.close()
    assert path.read_text() == "old\nnew\n"


def test_what_is_no_file_of_its_own(tmp_path):
    """A link may lead anywhere; a pipe would stop the daemon until somebody reads."""
    target = tmp_path / "target"
    target.write_text("")
    (tmp_path / "link").symlink_to(target)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", ".", "missing/keys"):
        with pytest.raises(StorageError) as caught:
            KeyLog(tmp_path / name)
        assert "key log" in caught.value.sentence
    with pytest.raises(StorageError, match="file of its own"):
        KeyLog(type(tmp_path)("/dev/null"))
    assert target.read_text() == ""
    assert mode(type(tmp_path)("/dev/null")) == 0o666


def test_it_does_not_grow_for_ever(caplog, tmp_path, monkeypatch):
    monkeypatch.setattr(keylog, "MAX_OCTETS", 15)
    path = tmp_path / "keys"
    path.write_text("first\n")
    key_log = KeyLog(path)
    for _ in range(3):
        key_log("12345678")
    key_log.close()
    assert path.read_text() == "first\n12345678\n"
    assert [r.getMessage() for r in caplog.records] == [
        "the key log cannot be written any more: it is full"
    ]


def test_a_full_disk_is_said_once(caplog, tmp_path):
    key_log = KeyLog(tmp_path / "keys")
    os.close(key_log._fd)
    key_log._fd = os.open("/dev/full", os.O_WRONLY)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            key_log("0123456789abcdef,secret")
    key_log.close()
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text
