"""The simulated heating controller on a pty, served by a thread of the test."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agent.operations.controller import Controller, Port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Slave:
    """A controller behind a symbolic link, which can be unplugged and plugged in again."""

    def __init__(self, link: Path) -> None:
        self.link = link
        self.controller = Controller()
        self._port: Port | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    @property
    def name(self) -> str:
        """The pty's own name."""
        assert self._port is not None
        return self._port.name

    def plug_in(self) -> None:
        """Make the pty and serve it."""
        self._port = Port(self.controller)
        self.link.unlink(missing_ok=True)
        self.link.symlink_to(self._port.name)
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(self._port,), daemon=True)
        self._thread.start()

    def unplug(self) -> None:
        """The pty and its name are gone."""
        if self._port is None or self._thread is None:
            return
        self._stop.set()
        self._thread.join(5)
        self._port.close()
        self.link.unlink(missing_ok=True)
        self._port = None

    def _run(self, port: Port) -> None:
        while not self._stop.is_set():
            port.step(0.02)


@contextmanager
def slave_on_pty(folder: Path) -> Iterator[Slave]:
    """A slave at `folder`/boiler for the length of the block."""
    slave = Slave(folder / "boiler")
    slave.plug_in()
    try:
        yield slave
    finally:
        slave.unplug()
