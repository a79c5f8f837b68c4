"""What the handlers of all commands share: the daemon, whom it knows, and its events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from agent.errors import InputError, UnknownNameError
from agent.io.clock import monotonic

if TYPE_CHECKING:
    from agent.daemon import Daemon
    from agent.engine.events import Event
    from agent.peers import KnownPeer

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
PATIENCE, REMINDER = 1.0, 5.0  # seconds until a person is told what is waited for, and again
QUEUE = 256  # events a slow watcher may lag behind before it misses some


class Part:
    """Handlers of some commands: `on_COMMAND(send, **arguments)`, as agent.control has checked."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.house = daemon.house

    def peer_status(self, name: str) -> dict[str, Any]:
        """Of one peer as JSON; idle if it is unknown."""
        peers = self.daemon.engine.status(monotonic()).peers
        return next((asdict(p) for p in peers if p.name == name), {"state": "idle", "error": ""})

    def mediator_trouble(self) -> str:
        """What is wrong with a registration, empty if all stand."""
        for mediator in self.daemon.engine.status(monotonic()).mediators:
            if mediator.state != "registered":
                why = mediator.error or f"{mediator.state} since {mediator.since:.0f} s."
                return f"mediator {mediator.name}: {why}"
        return ""

    def end_forwards(self, peer: str) -> None:
        """Close the local listeners that lead to a peer."""
        if self.daemon.forwards is not None:
            self.daemon.forwards.close(peer)

    def is_peer(self, name: str) -> bool:
        """Whether there is such a peer."""
        return any(p.name == name for p in self.daemon.engine.status(monotonic()).peers)

    def check_known(self, name: str) -> None:
        """Raises UnknownNameError if there is no such peer."""
        names = [p.name for p in self.daemon.engine.status(monotonic()).peers]
        if name not in names:
            raise UnknownNameError(_no_such_peer(name, names))

    def learnt(self, name: str) -> KnownPeer:
        """The paired peer. Raises UnknownNameError, or InputError for a configured one."""
        known = self.house.peers.peers.get(name)
        if known is not None:
            return known
        if any(p.name == name for p in self.house.config.peers):
            raise InputError(
                f"{name} stands in {self.house.layout.config}; change it there by hand."
            )
        raise UnknownNameError(_no_such_peer(name, list(self.house.peers.peers)))


async def patiently(work: Coroutine[Any, Any, Any], send: Send, state: str) -> Any:  # noqa: ANN401  # JSON
    """What `work` gives; who waits for it for long is told so."""
    started, patience = monotonic(), PATIENCE
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=patience))[0]:
            seconds, patience = round(monotonic() - started, 3), REMINDER
            await send({"event": "progress", "state": state, "seconds": seconds})
        return task.result()
    finally:
        task.cancel()  # who asked went away


def _no_such_peer(name: str, names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:10])
    return f'There is no peer "{name[:63]}"; ' + (f"known are {shown}." if names else "none is.")


class Events:
    """The daemon's events while a command runs, bounded."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._queue: asyncio.Queue[Event] = asyncio.Queue(QUEUE)

    async def __aenter__(self) -> Events:
        self._daemon.listeners.add(self._put)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._daemon.listeners.discard(self._put)

    def _put(self, event: Event) -> None:
        if not self._queue.full():
            self._queue.put_nowait(event)

    async def next(self) -> Event:
        """The next event."""
        return await self._queue.get()
