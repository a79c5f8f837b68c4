"""connect, disconnect, rekey."""

from __future__ import annotations

import asyncio
from typing import Any

from agent.commands.part import Events, Part, Send
from agent.engine.events import Event, MediatorChanged, PeerChanged
from agent.errors import TemporaryError, UnavailableError
from agent.io.clock import monotonic
from agent.tunnels import str_address

CONNECT_SECONDS = 60.0  # one attempt and a bit; then the person is told how it stands
DEVICES_SECONDS = 3.5  # two retransmissions of a lost SYN; it is known without asking a slave


class Connecting(Part):
    """Tunnels, as a person asks for them."""

    async def on_connect(self, send: Send, peer: str, forward: bool = False) -> dict[str, Any]:
        """Ask for a tunnel and wait for it; it stays asked for.

        `forward`: offer what is granted behind it on 127.0.0.1 too, until `disconnect`.
        """
        self.check_known(peer)
        self.house.set_wanted(peer, True)
        started = monotonic()
        async with Events(self.daemon) as events:
            self.daemon.drive(lambda now: self.daemon.engine.connect(peer, now))
            await self._until_up(peer, events, send, started)
        inner = self.daemon.tunnels.inner_addresses(peer)
        answer = {
            "peer": peer,
            "seconds": round(monotonic() - started, 4),
            "address": self.daemon.tunnels.inner_address(peer),
            "ipv4": next((str_address(ip) for ip in inner if len(ip) == 4), ""),
            "status": self.peer_status(peer),
        }
        if forward:
            answer["forwards"] = await self._forward(peer)
        return answer

    async def _forward(self, peer: str) -> list[dict[str, Any]]:
        from agent.forward import Forwards
        from agent.web.client import request_json

        address = self.daemon.tunnels.inner_address(peer)
        if address is None:
            raise UnavailableError(f"{peer}: it has no services of hearthgate's kind.")
        found = await request_json(address, "GET", "/api/devices", seconds=DEVICES_SECONDS)
        if self.daemon.forwards is None:
            self.daemon.forwards = Forwards(self.daemon.tunnels.inner_address)
        return await self.daemon.forwards.open(peer, found.get("devices", []))

    async def _until_up(self, peer: str, events: Events, send: Send, started: float) -> None:
        status = self.peer_status(peer)
        if status["state"] == "up":
            return
        mediator = status.get("mediator", "")
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                while True:
                    event = await events.next()
                    self._mediator_failed(event, mediator, peer)
                    if not isinstance(event, PeerChanged) or event.name != peer:
                        continue
                    if event.state in ("waiting", "idle") and event.error:
                        raise TemporaryError(
                            f"{peer}: {event.error} hearthgate keeps trying; "
                            f"`hearthgate disconnect {peer}` ends that."
                        )
                    seconds = round(monotonic() - started, 3)
                    await send({"event": "progress", "state": event.state, "seconds": seconds})
                    if event.state == "up":
                        return
        except TimeoutError:
            status = self.peer_status(peer)
            why = status["error"] or self.mediator_trouble() or "no answer yet"
            raise TemporaryError(
                f"{peer}: not connected after {CONNECT_SECONDS:.0f} s ({why}) hearthgate keeps "
                f"trying; `hearthgate disconnect {peer}` ends that."
            ) from None

    @staticmethod
    def _mediator_failed(event: Event, mediator: str, peer: str) -> None:
        """Raises TemporaryError if the mediator on the way to `peer` just failed."""
        if isinstance(event, MediatorChanged) and event.name == mediator and event.error:
            raise TemporaryError(
                f"{peer}: mediator {mediator}: {event.error} hearthgate keeps trying; "
                f"`hearthgate disconnect {peer}` ends that."
            )

    async def on_disconnect(self, send: Send, peer: str) -> dict[str, Any]:
        """Close a tunnel and stop asking for it."""
        self.check_known(peer)
        self.house.set_wanted(peer, False)
        self.end_forwards(peer)
        self.daemon.drive(lambda now: self.daemon.engine.disconnect(peer, now))
        return {"peer": peer}

    async def on_rekey(self, send: Send, peer: str, ike: bool = False) -> dict[str, Any]:
        """New keys now."""
        self.check_known(peer)
        if self.peer_status(peer)["state"] != "up":
            raise UnavailableError(f"{peer} is not connected: `hearthgate connect {peer}` first.")
        self.daemon.drive(lambda now: self.daemon.engine.rekey(peer, now, ike=ike))
        return {"peer": peer}
