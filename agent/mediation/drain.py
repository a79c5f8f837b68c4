"""A mediation server that is to go sends its peers to another one (RFC 5685 §5, §6).

Who is registered is redirected on its mediation connection, a few at a time, so that the other
server is not flooded with handshakes (§11); who comes meanwhile is redirected in IKE_AUTH, when it
has proven itself. Peers of our own kind are told port and key of the other server (HG_REDIRECT);
others (strongSwan) have to find the same identity and key there (§3). Nobody is thrown out: who
cannot follow, or does not reach the other server, stays, is asked again now and then, and goes
with the process; who was sent on and comes again for that reason takes no redirects, and is let in
(`agent.engine.redirection`). Peers of our own kind ask now and then whether it is back, and return
when it drains no more. The tunnels of peers with each other do not depend on any of this.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from agent.ike.redirect import redirection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agent.wire.payloads import Payload
    from agent.wire.redirect import GatewayId, Successor

# 100 peers a second: at 1.7 ms each, with ML-KEM, the other server is busy for a sixth of its time,
# and ten thousand peers have moved in less than two minutes.
BATCH: Final = 10
BATCH_SECONDS: Final = 0.1
# Who is still here is asked again: three times in five minutes, as a client follows five.
AGAIN_SECONDS: Final = 90.0


class Drain:
    """Whom to ask when, and what came of it. Peers are named by the ike_id of their connection.

    `moved`: how often one that was sent to the other server left for it, from a registration or in
    IKE_AUTH. Who comes here again and is sent on counts again: nobody's name is kept.
    """

    def __init__(self, gateway: GatewayId, successor: Successor) -> None:
        self.gateway = gateway
        self.successor = successor
        self.moved = 0
        self._asked: set[int] = set()
        self._queue: dict[int, None] = {}  # in this order; none that has gone
        self._next: float = 0.0

    @property
    def text(self) -> str:
        """The other server, as people write it."""
        host = self.gateway.host
        return f"[{host}]:{self.successor.port}" if ":" in host else f"{host}:{self.successor.port}"

    def said(self, *, ours: bool) -> list[Payload]:
        """What a peer is told; `ours`: it is of our own kind."""
        return redirection(self.gateway, self.successor if ours else None)

    @property
    def next_timeout(self) -> float:
        """When `due` is to be called."""
        return self._next

    def due(self, online: Callable[[], Iterable[int]], now: float) -> list[int]:
        """Whom to ask now, out of all that are `online` when a round begins."""
        if now < self._next:
            return []
        if not self._queue:
            self._queue = dict.fromkeys(online())
        due = list(islice(self._queue, BATCH))
        for ike_id in due:
            del self._queue[ike_id]
        self._next = now + (BATCH_SECONDS if self._queue else AGAIN_SECONDS)
        return due

    def came(self, ike_id: int, now: float) -> None:
        """One more has registered all the same: it is asked soon."""
        self._queue[ike_id] = None
        self._next = min(self._next, now + BATCH_SECONDS)

    def asked(self, ike_id: int) -> None:
        """It takes redirects, and was sent one."""
        self._asked.add(ike_id)

    def gone(self, ike_id: int, *, by_peer: bool) -> None:
        """A mediation connection ended; if by the peer that was asked to go, it has moved."""
        self._queue.pop(ike_id, None)
        if ike_id in self._asked:
            self._asked.discard(ike_id)
            self.moved += by_peer
