"""From nothing to a running daemon and back: log, files, daemon, control socket, readiness."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from typing import TYPE_CHECKING, Any

from agent.commands import Commands
from agent.crypto.auth import key_text
from agent.daemon import Daemon
from agent.errors import TemporaryError
from agent.house import House
from agent.io.local import serve as serve_control
from agent.tunnels import str_address
from board import storage
from board.watchdog import Notifier

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.io.local import Reply
    from agent.layout import Layout

log = logging.getLogger("agent")


async def serve(
    layout: Layout, mediate: str | None, *, verbose: bool, keylog: Path | None = None
) -> int:
    """Run until told to stop. Raises HearthgateError or BoardError if it cannot start.

    `keylog`: a file that is given the keys of all connections, for debugging.
    """
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.raiseExceptions = False  # a full disk behind stderr must not end anything
    # Nothing of this is printed, and asking for it takes longer than the rest of a record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    notifier = Notifier()
    storage.make_folder(layout.run, 0o755)
    commands: Commands | None = None

    async def handle(request: dict[str, Any], reply: Reply) -> None:
        if commands is None:
            raise TemporaryError("The daemon is just starting; try again.")
        await commands.handle(request, reply)

    # First of all: its lock keeps a second daemon away from the state, the ports and the device.
    control = await serve_control(layout.socket, handle)
    try:
        house = House.open(layout, mediate)
        daemon = Daemon(house, _key_log(keylog) if keylog is not None else None)
    except BaseException:
        await control.close()
        raise
    try:
        commands = Commands(daemon)
        daemon.handle_signals()
        daemon.start()
        await daemon.start_services()
        _announce(house, daemon)
        # What is here now stays; the collector need not walk through it again and again.
        gc.collect()
        gc.freeze()
        notifier.ready()
        if notifier.interval is not None:
            daemon.spawn(_keep_alive(notifier, notifier.interval))
        await daemon.stopping.wait()
        notifier.stopping()
    finally:
        await control.close()
        await daemon.stop()
    return 0


def _key_log(path: Path) -> Callable[[str], None]:
    from agent.engine.keylog import HEADER
    from agent.io.keylog import KeyLog

    key_log = KeyLog(path, HEADER)
    log.warning("the keys of all connections go to %s: it gives away all traffic", path)
    return key_log


async def _keep_alive(notifier: Notifier, interval: float) -> None:
    while True:
        notifier.alive()
        await asyncio.sleep(interval)


def _announce(house: House, daemon: Daemon) -> None:
    log.info(
        "%s, inner address %s, UDP port %d",
        house.name,
        str_address(house.keys.address),
        daemon.port,
    )
    mediate = house.config.mediate
    if mediate is not None:
        print(f"{mediate.address}#{key_text(house.keys.mediation.public)}", flush=True)
