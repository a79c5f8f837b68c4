"""drain: everybody who is registered at this mediation server moves to another one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from agent.commands.part import Part, Send
from agent.config import split_host
from agent.crypto.auth import parse_key_text
from agent.engine.entries import MediatorPlace
from agent.errors import InputError, TemporaryError, UnavailableError
from agent.io.clock import monotonic
from agent.io.resolve import resolve
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
        await self._check_other(place)
        started = told = last_change = monotonic()
        self.daemon.drive(lambda now: self.daemon.engine.drain(place, now))
        server = self._server()
        to = server.draining_to

        def goes_on() -> bool:
            is_late = monotonic() >= last_change + PATIENCE_SECONDS
            return server.draining_to == to and server.registered > 0 and not is_late

        while goes_on():
            await asyncio.sleep(LOOK_SECONDS)
            before, server = server, self._server()
            now = monotonic()
            if server.registered != before.registered:
                last_change = now
            if now >= told + TELL_SECONDS:
                told = now
                await send({"event": "progress", "state": "draining", **_counts(server, started)})
        if server.draining_to != to:
            raise TemporaryError(
                f"Another --drain came in between: everybody is sent to {server.draining_to} now."
            )
        return {"to": to, **_counts(server, started)}

    def _place(self, address: str, key: str) -> MediatorPlace:
        if self.house.config.mediate is None:
            raise UnavailableError(
                "The daemon here is no mediation server, so nobody is registered with it."
            )
        try:
            place = MediatorPlace(*split_host(address), parse_key_text(key))
            GatewayId.of_host(place.host)
        except ValueError as error:
            raise InputError(f"{address[:80]!r} is no mediation server: {error}") from None
        return place

    async def _check_other(self, place: MediatorPlace) -> None:
        """Raises InputError for ourselves, and what `resolve` does for a name that is not known."""
        found = await resolve(place.host, place.port)
        own = self.house.keys.mediation.public
        is_ours = place.key == own or place.port == self.house.config.port
        if is_ours and any(self.daemon.is_own(address.ip) for address in found):
            raise InputError("That is this very mediation server; name another one.")

    def _server(self) -> ServerStatus:
        server = self.daemon.engine.status(monotonic()).server
        assert server is not None
        return server


def _counts(server: ServerStatus, started: float) -> dict[str, Any]:
    seconds = round(monotonic() - started, 3)
    return {"moved": server.moved, "left": server.registered, "seconds": seconds}
