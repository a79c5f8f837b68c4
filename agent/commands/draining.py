"""drain: everybody who is registered at this mediation server moves to another one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from agent.commands.part import Part, Send
from agent.config import split_host
from agent.crypto.auth import parse_key_text
from agent.engine.entries import MediatorPlace
from agent.errors import InputError, UnavailableError
from agent.io.clock import monotonic
from agent.wire.redirect import GatewayId

if TYPE_CHECKING:
    from agent.status import ServerStatus

LOOK_SECONDS = 0.1
TELL_SECONDS = 1.0
# While nobody moves for so long, the rest does not: a client gives a server 40 s to answer.
PATIENCE_SECONDS = 60.0


class Draining(Part):
    """The end of a mediation server."""

    async def on_drain(self, send: Send, address: str, key: str) -> dict[str, Any]:
        """Begin, and tell until all have gone, or nobody goes any more.

        It goes on when nobody listens any more, until the daemon ends.
        """
        place = self._place(address, key)
        started = told = last_change = monotonic()
        self.daemon.drive(lambda now: self.daemon.engine.drain(place, now))
        server = self._server()
        while server.registered and monotonic() < last_change + PATIENCE_SECONDS:
            await asyncio.sleep(LOOK_SECONDS)
            before, server = server, self._server()
            now = monotonic()
            if server.registered != before.registered:
                last_change = now
            if now >= told + TELL_SECONDS:
                told = now
                await send({"event": "progress", "state": "draining", **_counts(server, started)})
        return {"to": server.draining_to, **_counts(server, started)}

    def _place(self, address: str, key: str) -> MediatorPlace:
        mediate = self.house.config.mediate
        if mediate is None:
            raise UnavailableError(
                "The daemon here is no mediation server, so nobody is registered with it."
            )
        try:
            place = MediatorPlace(*split_host(address), parse_key_text(key))
            GatewayId.of_host(place.host)
        except ValueError as error:
            raise InputError(f"{address[:80]!r} is no mediation server: {error}") from None
        own = self.house.keys.mediation.public
        if place == MediatorPlace(*split_host(mediate.address), own):
            raise InputError("That is this very mediation server; name another one.")
        return place

    def _server(self) -> ServerStatus:
        server = self.daemon.engine.status(monotonic()).server
        assert server is not None
        return server


def _counts(server: ServerStatus, started: float) -> dict[str, Any]:
    seconds = round(monotonic() - started, 3)
    return {"moved": server.moved, "left": server.registered, "seconds": seconds}
