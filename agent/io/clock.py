"""The clocks of the daemon.

`monotonic` counts through suspend where the kernel can (CLOCK_BOOTTIME): after a night in the
bag a laptop's NAT mappings and SAs are as old as they really are. `wall` may be wrong by decades
on a board without a battery (board.clock judges it); only the log and certificates look at it.
"""

from __future__ import annotations

import time

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
try:
    time.clock_gettime(_BOOTTIME)
except OSError:  # known to Python, not to this kernel
    _BOOTTIME = time.CLOCK_MONOTONIC


def monotonic() -> float:
    """Seconds since some start, never going back, time in suspend included. Cannot fail."""
    return time.clock_gettime(_BOOTTIME)


def wall() -> float:
    """Seconds since 1970 as this machine believes. Cannot fail."""
    return time.time()
