"""A serial port without blocking: opened and set by pyserial, then only its descriptor is used.

Locked against other programs by a UUCP lock file, flock and TIOCEXCL (the file not for ptys, which
have no name that others know). Whatever goes wrong is one `PortError` with a reason for people.
The ioctls that ptys refuse are in `ModemLines`, which tests replace.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
import struct
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


READ_OCTETS = 4096
# What may wait for the line. More is thrown away and counted; a driver that looks at `pending`
# and stops reading its clients, which bring 4 kB each at a time, never gets here.
MAX_PENDING = 131072
LOCK_FOLDER = Path("/var/lock")
_PARITIES = {"none": "N", "even": "E", "odd": "O", "mark": "M", "space": "S"}
_RTS = struct.pack("I", 0x004)  # TIOCM_RTS
_RS485_ENABLED_AND_RTS_ON_SEND = 1 | 2
_TIOCSRS485 = 0xC020542F if os.uname().machine.startswith("mips") else 0x542F


class PortError(Exception):
    """The port could not be opened or is gone; the text is the reason."""


class ModemLines:
    """RS-485 and RTS. Each call says whether the driver knows it; ptys answer ENOTTY."""

    def enable_rs485(self, descriptor: int) -> bool:
        """Let the driver switch the direction (TIOCSRS485)."""
        settings = struct.pack("8I", _RS485_ENABLED_AND_RTS_ON_SEND, 0, 0, 0, 0, 0, 0, 0)
        return self._ioctl(descriptor, _TIOCSRS485, settings)

    def set_rts(self, descriptor: int, on: bool) -> bool:
        """Raise or drop RTS."""
        return self._ioctl(descriptor, termios.TIOCMBIS if on else termios.TIOCMBIC, _RTS)

    @staticmethod
    def _ioctl(descriptor: int, request: int, argument: bytes) -> bool:
        try:
            fcntl.ioctl(descriptor, request, argument)
        except OSError:
            return False
        return True


class SerialPort:
    """An open port. `on_data(octets)` and `on_gone(reason)` are called from the event loop;

    after `on_gone` the port is closed. `on_drained` tells that all that was written is out.
    """

    def __init__(
        self,
        path: str,
        *,
        baud: int,
        databits: int,
        parity: str,
        stopbits: float,
        rs485: bool = False,
        lines: ModemLines | None = None,
        lock_folder: Path = LOCK_FOLDER,
    ) -> None:
        """Opens the port. Raises PortError."""
        self._lines = lines or ModemLines()
        self._settings = {
            "baudrate": baud,
            "bytesize": databits,
            "parity": _PARITIES[parity],
            "stopbits": stopbits,
        }
        bits = 1 + databits + (parity != "none") + stopbits
        self._character = bits / baud
        self._lock = _lock_file(path, lock_folder)
        try:
            self._serial = _open(path, self._settings)
        except BaseException:
            _unlock_file(self._lock)
            raise
        self._fd: int = self._serial.fileno()
        self._rts_by_hand = rs485 and not self._lines.enable_rs485(self._fd)
        if self._rts_by_hand:
            self._rts_by_hand = self._lines.set_rts(self._fd, False)
        self._buffer = bytearray()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_data: Callable[[bytes], None] = lambda _: None
        self._on_gone: Callable[[str], None] = lambda _: None
        self._on_drained: Callable[[], None] = lambda: None
        self._is_closed = False
        self._rts_timer: asyncio.TimerHandle | None = None
        self.dropped = 0

    @property
    def pending(self) -> int:
        """Octets that wait for the line."""
        return len(self._buffer)

    def start(
        self,
        loop: asyncio.AbstractEventLoop,
        on_data: Callable[[bytes], None],
        on_gone: Callable[[str], None],
        on_drained: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin to read."""
        self._loop = loop
        self._on_data, self._on_gone, self._on_drained = on_data, on_gone, on_drained
        loop.add_reader(self._fd, self._on_readable)

    def write(self, data: bytes) -> None:
        """Send as soon as the line takes it. Never blocks; a lost port is told by `on_gone`."""
        if self._is_closed:
            return
        room = MAX_PENDING - len(self._buffer)
        self.dropped += max(0, len(data) - room)
        was_idle = not self._buffer
        self._buffer += data[:room]
        if self._rts_by_hand:
            self._lines.set_rts(self._fd, True)
        if was_idle:
            self._on_writable()

    def discard_input(self) -> None:
        """Throw away what was received and not yet read."""
        if not self._is_closed:
            with contextlib.suppress(termios.error, OSError):
                termios.tcflush(self._fd, termios.TCIFLUSH)

    def reset(self) -> None:
        """Set the line's parameters again, whatever somebody made of them."""
        if self._is_closed:
            return
        try:
            self._serial.apply_settings(self._settings)
            self._serial._reconfigure_port(force_update=True)
        except (OSError, ValueError, termios.error) as error:
            self._gone(reason_of(error))

    def close(self) -> None:
        """Give the port back. Cannot fail."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._loop is not None:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
        if self._rts_timer is not None:
            self._rts_timer.cancel()
        with contextlib.suppress(termios.error, OSError):
            # close() of a port whose other end does not read waits up to 30 s for the output
            termios.tcflush(self._fd, termios.TCOFLUSH)
        with contextlib.suppress(OSError):
            # While anybody else has it open it would stay exclusive, and closed to all but root.
            fcntl.ioctl(self._fd, termios.TIOCNXCL)
        with contextlib.suppress(OSError, termios.error):
            self._serial.close()
        _unlock_file(self._lock)

    def _gone(self, reason: str) -> None:
        if not self._is_closed:
            self.close()
            self._on_gone(reason)

    def _on_readable(self) -> None:
        try:
            data = os.read(self._fd, READ_OCTETS)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._gone(reason_of(error))
            return
        if data:
            self._on_data(data)
        elif self._is_hung_up():
            self._gone("unplugged")

    def _is_hung_up(self) -> bool:
        """No octets may also mean that they were discarded after the loop had seen them."""
        poll = select.poll()
        poll.register(self._fd, 0)
        return bool(poll.poll(0))

    def _on_writable(self) -> None:
        try:
            written = os.write(self._fd, self._buffer) if self._buffer else 0
        except (BlockingIOError, InterruptedError):
            written = 0
        except OSError as error:
            self._gone(reason_of(error))
            return
        del self._buffer[:written]
        if self._loop is None:
            return
        if self._buffer:
            self._loop.add_writer(self._fd, self._on_writable)
            return
        self._loop.remove_writer(self._fd)
        if self._rts_by_hand and written:
            self._release_later(written)
        self._on_drained()

    def _release_later(self, octets: int) -> None:
        assert self._loop is not None
        if self._rts_timer is not None:
            self._rts_timer.cancel()
        self._rts_timer = self._loop.call_later(octets * self._character, self._release)

    def _release(self) -> None:
        """Drop RTS when the last octet has left the adapter."""
        self._rts_timer = None
        assert self._loop is not None
        try:
            (left,) = struct.unpack("I", fcntl.ioctl(self._fd, termios.TIOCOUTQ, b"\0\0\0\0"))
        except OSError:
            left = 0
        if left:
            self._rts_timer = self._loop.call_later(left * self._character, self._release)
        else:
            self._lines.set_rts(self._fd, False)


def reason_of(error: BaseException) -> str:
    """Why a port failed, for people."""
    number = getattr(error, "errno", None)
    if number is None and error.args and isinstance(error.args[0], int):
        number = error.args[0]  # termios.error
    if number is None and error.__context__ is not None:
        return reason_of(error.__context__)  # pyserial makes a text of some
    reasons = {
        errno.EIO: "unplugged (input/output error)",
        errno.ENXIO: "unplugged (no such device)",
        errno.ENODEV: "unplugged (no such device)",
        errno.ENOENT: "there is no such port: is the adapter plugged in?",
        errno.EACCES: "no permission: the user must be in the group of the port (dialout)",
        errno.EPERM: "no permission",
        errno.EBUSY: "in use by another program",
        errno.EAGAIN: "in use by another program",
        errno.ENOTTY: "not a serial port",
        errno.EINVAL: "does not take these line parameters",
    }
    return reasons.get(number or 0) or (os.strerror(number) if number else "cannot be set up")


def _open(path: str, settings: dict[str, object]) -> Any:  # noqa: ANN401  # serial.Serial, which has no types
    import serial  # type: ignore[import-untyped]  # here: 3 ms that only ports need

    try:
        if not stat.S_ISCHR(os.stat(path).st_mode):
            raise PortError("not a serial port")
        port = serial.Serial(timeout=0, write_timeout=0, exclusive=True, **settings)
        port.port = path
        port.open()
    except (OSError, ValueError, termios.error) as error:
        raise PortError(reason_of(error)) from None
    with contextlib.suppress(OSError):
        fcntl.ioctl(port.fileno(), termios.TIOCEXCL)
    return port


def _lock_file(path: str, folder: Path) -> Path | None:
    """Take the UUCP lock `LCK..ttyUSB0`. None where there is no use for one."""
    name = os.path.realpath(path)
    if not name.startswith("/dev/") or name.startswith("/dev/pts/") or not folder.is_dir():
        return None
    lock = folder / ("LCK.." + os.path.basename(name))
    for _ in range(2):
        try:
            descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            if _is_held(lock):
                raise PortError("in use by another program (lock file)") from None
            with contextlib.suppress(OSError):
                lock.unlink()
            continue
        except OSError:
            return None  # not ours to write: flock and TIOCEXCL remain
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{os.getpid():10d}\n")
        return lock
    raise PortError("in use by another program (lock file)")


def _is_held(lock: Path) -> bool:
    """Whether the process in the lock file lives. A file that says nothing is held by nobody."""
    try:
        pid = int(lock.read_text()[:20])
        if pid == os.getpid():
            return True
        os.kill(pid, 0)
    except (ValueError, ProcessLookupError):
        return False
    except OSError:
        return True
    return True


def _unlock_file(lock: Path | None) -> None:
    if lock is not None:
        with contextlib.suppress(OSError):
            lock.unlink()
