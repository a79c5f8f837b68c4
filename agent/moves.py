"""What the daemon learns about mediation servers: which one took over from which. Pure.

A server that is drained hands its peers over under the protection of its IKE SA (RFC 5685; the
other one's key comes with it). Who configured the first one by address and key registers at the
other one from then on, in later runs too, until the first one has him again; a configuration that
names another address or key is not concerned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agent.config import split_host
from agent.crypto.auth import key_text, parse_key_text
from agent.engine.entries import MediatorPlace
from agent.ike.pad import KeyAuth
from agent.records import record

if TYPE_CHECKING:
    from typing import Self

    from agent.engine.entries import MediatorEntry

MAX_MOVES: Final = 256  # servers of one machine; the oldest is forgotten


@record(frozen=True, slots=True)
class Moves:
    """Pairs of (as configured, where it is now), the newest last."""

    pairs: tuple[tuple[MediatorPlace, MediatorPlace], ...] = ()

    def after(self, place: MediatorPlace) -> MediatorPlace | None:
        """What took over from `place`."""
        return next((after for before, after in self.pairs if before == place), None)

    def of(self, entry: MediatorEntry) -> MediatorPlace | None:
        """What took over from the server of `entry`."""
        home = _home(entry)
        return self.after(home) if home is not None else None

    def noted(self, entry: MediatorEntry, successor: MediatorPlace | None) -> Moves:
        """With this one added, or taken away."""
        home = _home(entry)
        if home is None or self.after(home) == successor:
            return self
        others = tuple(pair for pair in self.pairs if pair[0] != home)
        if successor is None or successor == home:
            return Moves(others)
        return Moves((*others, (home, successor))[-MAX_MOVES:])

    def to_json(self) -> dict[str, Any]:
        """For the state file."""
        return {
            "moves": [
                {"from": _to_text(before), "to": _to_text(after)} for before, after in self.pairs
            ]
        }

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Self:
        """Raises ValueError, TypeError, KeyError or AttributeError if `to_json` did not make it."""
        pairs = tuple((_from_text(m["from"]), _from_text(m["to"])) for m in state["moves"])
        return cls(pairs[-MAX_MOVES:])


NO_MOVES: Final = Moves()


def _home(entry: MediatorEntry) -> MediatorPlace | None:
    auth = entry.peer.remote_auth
    if not isinstance(auth, KeyAuth):
        return None
    return MediatorPlace(entry.host, entry.port, auth.public)


def _to_text(place: MediatorPlace) -> str:
    return f"{place.address}#{key_text(place.key)}"


def _from_text(text: str) -> MediatorPlace:
    address, _, key = text.partition("#")
    return MediatorPlace(*split_host(address), parse_key_text(key))
