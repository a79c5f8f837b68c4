"""The keys that a mediation server seals its tickets with, on disk: so tickets outlive a restart.

RFC 5723 §9.5. One file in the state folder, readable for its owner alone, written twice a day: when
a key begins and when the one before it ends (`agent.crypto.ticket.rotated`). Whatever is wrong with
it costs a handshake of each peer: a damaged file is kept aside, and with one that others may read
new keys begin; what cannot be stored serves this run only.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from agent.crypto.ticket import KEY_ID_LENGTH, MAX_KEYS, SECRET_LENGTH, TicketKey, rotated
from board.errors import StorageError
from board.storage import JsonState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

log = logging.getLogger("agent.house")

VERSION = 1


class TicketKeys:
    """The ring of keys, newest first."""

    def __init__(self, path: Path) -> None:
        self._file = JsonState(path, version=VERSION)
        self._keys: tuple[TicketKey, ...] | None = None

    def at(self, wall: float | None) -> tuple[TicketKey, ...]:
        """The ring to use now, stored if it changed; none where the clock is not to be trusted."""
        if wall is None:
            return ()
        before = self._loaded() if self._keys is None else self._keys
        self._keys = rotated(before, wall, os.urandom)
        if self._keys != before:
            try:
                self._file.save({"keys": [_to_json(key) for key in self._keys]})
            except StorageError as error:
                log.error("%s; after a restart every peer makes a handshake", error)
        return self._keys

    def _loaded(self) -> tuple[TicketKey, ...]:
        try:
            if self._is_shared():
                raise StorageError("others may use what is in it")
            content = self._file.load() or {}
            return tuple(_from_json(each) for each in content.get("keys", [])[:MAX_KEYS])
        except (StorageError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.error("%s: begun anew (%s)", self._file.path, error)
            return ()

    def _is_shared(self) -> bool:
        """Whether anybody else could have read these keys, or put them there."""
        try:
            return bool(self._file.path.stat().st_mode & 0o077)
        except OSError:
            return False  # there is none, or `load` says what is wrong with it


def _to_json(key: TicketKey) -> dict[str, Any]:
    return {"id": key.id.hex(), "secret": key.secret.hex(), "since": key.since}


def _from_json(content: Mapping[str, Any]) -> TicketKey:
    """Raises ValueError, TypeError, KeyError."""
    key_id, secret = bytes.fromhex(content["id"]), bytes.fromhex(content["secret"])
    if len(key_id) != KEY_ID_LENGTH or len(secret) != SECRET_LENGTH:
        raise ValueError("a key of a wrong length")
    return TicketKey(id=key_id, secret=secret, since=int(content["since"]))
