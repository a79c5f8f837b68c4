"""The keys of tickets on disk: kept over restarts, exchanged daily, written seldom, never shown."""

from __future__ import annotations

import logging
import stat

import pytest

from agent.crypto.ticket import KEY_SECONDS, MAX_KEYS, TICKET_SECONDS
from agent.ticket_keys import TicketKeys
from board.storage import JsonState

WALL = 1_800_000_000.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ticket-keys.json"


def test_kept_over_a_restart_for_the_owner_alone(path) -> None:
    ring = TicketKeys(path).at(WALL)
    assert len(ring) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert TicketKeys(path).at(WALL + 60) == ring


def test_written_twice_a_day(path, monkeypatch) -> None:
    """When a key begins and when the one before it ends; in between nothing is touched."""
    written = []
    original = JsonState.save

    def save(self, content):
        written.append(original(self, content))
        return written[-1]

    monkeypatch.setattr(JsonState, "save", save)
    keys = TicketKeys(path)
    for minute in range(3 * 24 * 60):
        keys.at(WALL + 60 * minute)
    assert written == [True] * (3 + 2)


def test_overlap_then_destroyed(path) -> None:
    keys = TicketKeys(path)
    (first,) = keys.at(WALL)
    assert keys.at(WALL + KEY_SECONDS)[1] == first
    assert keys.at(WALL + KEY_SECONDS)[0] != first
    assert first in keys.at(WALL + KEY_SECONDS + TICKET_SECONDS - 1)
    keys.at(WALL + 2 * KEY_SECONDS)
    assert first.secret.hex() not in path.read_text()


def test_no_clock_no_keys(path) -> None:
    keys = TicketKeys(path)
    assert keys.at(None) == ()
    assert not path.exists()
    ring = keys.at(WALL)
    assert keys.at(None) == ()
    assert keys.at(WALL) == ring


@pytest.mark.parametrize(
    "content",
    [
        b"not JSON",
        b"{}",
        None,
    ],
    ids=["no json", "no state", "checksum"],
)
def test_a_damaged_file_is_kept_aside(path, caplog, content) -> None:
    (before,) = TicketKeys(path).at(WALL)
    path.write_bytes(
        content if content is not None else path.read_bytes().replace(b"since", b"sinse")
    )
    with caplog.at_level(logging.ERROR):
        (after,) = TicketKeys(path).at(WALL)
    assert after != before
    assert "damaged" in caplog.text
    assert before.secret.hex() not in caplog.text
    assert TicketKeys(path).at(WALL) == (after,)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_keys_that_others_could_have_read_are_used_no_more(path, caplog, mode) -> None:
    """Put back from a backup, say. A handshake each is cheaper than everybody's SK_d."""
    (before,) = TicketKeys(path).at(WALL)
    path.chmod(mode)
    (after,) = TicketKeys(path).at(WALL)
    assert after != before
    assert "others" in caplog.text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert TicketKeys(path).at(WALL) == (after,)


@pytest.mark.parametrize(
    "keys",
    [
        "text",
        [1],
        [{}],
        [{"id": "00", "secret": "00", "since": 1}],
        [{"id": "zz" * 8, "secret": "00" * 32, "since": 1}],
        [{"id": "00" * 8, "secret": "00" * 32, "since": "soon"}],
    ],
)
def test_a_file_of_somebody_else(path, caplog, keys) -> None:
    JsonState(path, version=1).save({"keys": keys})
    ring = TicketKeys(path).at(WALL)
    assert len(ring) == 1
    assert "begun anew" in caplog.text


def test_more_keys_than_there_can_be(path) -> None:
    entry = {"secret": "00" * 32, "since": int(WALL)}
    JsonState(path, version=1).save({"keys": [{"id": f"{n:016x}", **entry} for n in range(1000)]})
    assert len(TicketKeys(path).at(WALL)) == MAX_KEYS


def test_a_full_disk_serves_this_run(path, caplog, monkeypatch) -> None:
    def full(self, content):
        from board.errors import StorageError

        raise StorageError("Writing failed: no space left")

    monkeypatch.setattr(JsonState, "save", full)
    keys = TicketKeys(path)
    ring = keys.at(WALL)
    assert keys.at(WALL + 60) == ring
    assert caplog.text.count("no space left") == 1
