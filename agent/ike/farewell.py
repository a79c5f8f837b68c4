"""The last answer of an IKE SA that is over, for whom it did not reach.

RFC 7296 §2.1: a response is remembered in case its request comes again. The peer's Delete (§1.4.1)
and a request that is answered with a fatal error (§2.21.3) end the SA with the answer; all else of
the SA is forgotten at once. Without this a peer whose answer was lost would be told
INVALID_IKE_SPI, which it must not believe, and ask on until it gives up.

Nothing here has a timer: what is too old goes when the next one comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from agent.ike.retransmission import count_elsewhere

if TYPE_CHECKING:
    from agent.datagram import Path
    from agent.ike.exchange import Incoming

# Our own Delete is repeated for 8 s, strongSwan's after 4, 11 and 24 s.
FAREWELL_SECONDS: Final = 30.0
# Less than 3 MB. The peers of a mediator that is drained go at a hundred a second
# (mediation.drain), so all 3000 of that time are kept.
MAX_FAREWELLS: Final = 4096


class Farewell(NamedTuple):
    """`path`: where the peer was."""

    incoming: Incoming
    path: Path
    until: float


class Farewells:
    """The last answers by our SPI, the oldest first. Only for who had proven itself."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[bytes, Farewell] = {}

    def keep(self, spi: bytes, incoming: Incoming, path: Path, now: float) -> None:
        """The SA that we called `spi` is over; the last of `incoming` was its end."""
        kept = self._kept
        while kept:
            oldest = next(iter(kept))
            if len(kept) < MAX_FAREWELLS and kept[oldest].until > now:
                break
            del kept[oldest]
        kept[spi] = Farewell(incoming, path, now + FAREWELL_SECONDS)

    def repeated(
        self, spi: bytes, message_id: int, path: Path, data: bytes, now: float
    ) -> tuple[bytes, ...]:
        """The datagrams that answer `data`, the last request once more; empty if it is not that.

        Raises Ignored for one too many from where the peer was not.
        """
        found = self._kept.get(spi)
        if found is None or found.until <= now or not found.incoming.repeats(message_id, data):
            return ()
        if path.remote != found.path.remote:
            count_elsewhere(found.incoming)
        return found.incoming.response
