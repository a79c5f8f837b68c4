"""From nothing to a running daemon and back: log, files, daemon, control socket, readiness."""

from __future__ import annotations

import gc
import logging
import sys

from agent.commands import Commands
from agent.crypto.auth import key_text
from agent.daemon import Daemon, str_address
from agent.house import House
from agent.io.local import serve as serve_control
from agent.layout import Layout
from board import storage
from board.watchdog import Watchdog

log = logging.getLogger("agent")


async def serve(layout: Layout, mediate: str | None, *, verbose: bool) -> int:
    """Run until told to stop. Raises HearthgateError or BoardError if it cannot start."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.raiseExceptions = False  # a full disk behind stderr must not end anything
    house = House.open(layout, mediate)
    storage.make_folder(layout.run, 0o755)
    watchdog = Watchdog()
    daemon = Daemon(house)
    control = await serve_control(layout.socket, Commands(daemon).handle)
    try:
        daemon.handle_signals()
        daemon.start()
        await daemon.start_services()
        _announce(house, daemon)
        # What is here now stays; the collector need not walk through it again and again.
        gc.collect()
        gc.freeze()
        watchdog.ready()
        daemon.spawn(watchdog.keep_alive())
        await daemon.stopping.wait()
        watchdog.stopping()
    finally:
        await control.close()
        await daemon.stop()
    return 0


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

