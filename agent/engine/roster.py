"""Who there is: registrations and connections by name, and by what events know them.

Looked up in indexes, so that what an event costs does not depend on how many peers there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.mediation.identity import accept_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.engine.connection import Connection
    from agent.engine.redirection import Redirection
    from agent.engine.registration import Registration
    from agent.mediation.events import ConnectFailed, ConnectProgress, PathFound
    from agent.wire.payloads import Identification

Key = tuple[str, str]
"""Kind and name, as schedules and `ResolveWanted` have it."""


class Roster:
    """Everybody the engine deals with."""

    def __init__(self) -> None:
        self.registrations: dict[str, Registration] = {}
        self.connections: dict[str, Connection] = {}
        self.by_ike_id: dict[int, Connection] = {}
        self._by_pseudonym: dict[tuple[int, bytes], list[Connection]] = {}

    def index_pseudonyms(self) -> None:
        """To be called when connections came or went."""
        self._by_pseudonym.clear()
        for connection in self.connections.values():
            if (pseudonym := connection.entry.pseudonym) is not None:
                self._by_pseudonym.setdefault(pseudonym.key, []).append(connection)

    def with_pseudonym(self, pseudonym: Identification) -> Sequence[Connection]:
        """Whom a mediator knows under it; several where two entries name one machine."""
        return self._by_pseudonym.get(pseudonym.key, ())

    def accepts(self, pseudonym: Identification) -> bool:
        """Whether somebody with it may call us."""
        return pseudonym.key in self._by_pseudonym

    def accept_hashes(self) -> frozenset[bytes]:
        """What a mediator of ours is told about whom we accept."""
        pseudonyms = [c.entry.pseudonym for c in self.connections.values()]
        return frozenset(accept_hash(p) for p in pseudonyms if p is not None)

    def calling(self, event: ConnectProgress | PathFound | ConnectFailed) -> Connection | None:
        """Whose mediated attempt it is about."""
        called = self.with_pseudonym(event.pseudonym)
        return next((c for c in called if c.connect_id == event.connect_id), None)

    def owner_of(self, key: Key) -> Registration | Connection | None:
        """Whose deadline or name it is."""
        kind, name = key
        if kind.startswith("mediator"):
            return self.registrations.get(name)
        return self.connections.get(name)

    def resolving(self, key: Key) -> Registration | Connection | Redirection | None:
        """Who wanted this name to be resolved, if it still does."""
        owner = self.owner_of(key)
        if owner is None or " redirect" not in key[0]:
            return owner
        return owner.redirection if owner.redirection.key == key else None

    def registration_of(self, name: str) -> Callable[[], Registration | None]:
        """How a connection finds the registration that it goes by at that moment."""
        return lambda: self.registrations.get(self.connections[name].entry.mediator)
