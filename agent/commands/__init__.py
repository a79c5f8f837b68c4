"""What the daemon does when a command asks for it (agent.control has the requests)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from agent import __version__
from agent.commands.part import Events, Part, Send
from agent.control import check_request, event_line
from agent.crypto.auth import key_text
from agent.errors import StorageError
from agent.io.clock import monotonic
from agent.tunnels import str_address
from board.errors import BoardError

if TYPE_CHECKING:
    from agent.daemon import Daemon


class Commands:
    """Finds a command's handler. Errors are HearthgateErrors; the control socket tells them."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def handle(self, request: dict[str, Any], send: Send) -> None:
        """Carry out one request; the last line sent is final."""
        name, arguments = check_request(request)
        handler = getattr(part_of(name)(self._daemon), f"on_{name}")
        try:
            result = await handler(send, **arguments)
        except BoardError as error:
            raise StorageError(error.sentence) from error
        await send({"final": True, "result": result})


def part_of(name: str) -> type[Part]:
    """The class that handles the command `name` of agent.control.

    Imported when it is first asked for: most boards are only looked at for months.
    """
    match name:
        case "connect" | "disconnect" | "rekey":
            from agent.commands.connecting import Connecting

            return Connecting
        case "invite" | "accept" | "peers" | "revoke" | "grant":
            from agent.commands.pairing import Pairing

            return Pairing
        case "devices" | "get" | "set":
            from agent.commands.points import Points

            return Points
        case "drain":
            from agent.commands.draining import Draining

            return Draining
        case _:
            return Looking


class Looking(Part):
    """status, watch, audit."""

    async def on_status(self, send: Send) -> dict[str, Any]:
        """Everything there is to know."""
        daemon, house = self.daemon, self.house
        status = asdict(daemon.engine.status(monotonic()))
        services = daemon.services
        return {
            "version": __version__,
            "name": house.name,
            "identity": key_text(house.keys.identity.public),
            "mediation": key_text(house.keys.mediation.public),
            "address": str_address(house.keys.address),
            "interface": daemon.tun.name if daemon.tun else "",
            "port": daemon.port,
            "uptime": round(monotonic() - daemon.started, 1),
            "mediates": house.config.mediate.address if house.config.mediate else None,
            **status,
            "devices": services.status() if services is not None else [],
            "get_and_set": services.refused if services is not None else "",  # why it is not there
            "forwards": daemon.forwards.status() if daemon.forwards is not None else [],
            "invitations": [
                {"name": i.name, "role": i.role, "expires": i.expires, "used": bool(i.used_by)}
                for i in house.peers.invitations.values()
            ],
        }

    async def on_watch(self, send: Send) -> None:
        """Events until the client goes away."""
        async with Events(self.daemon) as events:
            await send({"event": "Status", "status": await self.on_status(send)})
            while True:
                line = event_line(await events.next())
                if line is not None:
                    await send(line)

    async def on_audit(self, send: Send, count: int = 50) -> list[dict[str, Any]]:
        """The last writes to devices."""
        return self.house.audit_lines(max(1, min(count, 10000)))
