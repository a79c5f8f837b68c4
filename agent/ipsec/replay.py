"""Anti-replay window of an inbound SA (RFC 4303 §3.4.3 and appendix A), with and without ESN.

Check before decrypting, mark only after the ICV has been verified.
"""

from __future__ import annotations

WINDOW = 2048
"""How far behind the newest packet one may be. Batches of several flows overtake each other by a
few hundred packets; 2048 bits cost 300 octets, and no time while packets come in order."""

_MASK = (1 << WINDOW) - 1
_LOW = 1 << 32


class ReplayWindow:
    """Which sequence numbers have been seen. `top` is the highest, 0 before the first packet.

    While numbers come in order only `top` moves, so that the usual packet costs a comparison;
    the bits are written when the order breaks.
    """

    __slots__ = ("_bits", "_run", "top")

    def __init__(self) -> None:
        self.top = 0
        # Everything from _run to top was seen; bit i of _bits says that _run - i was.
        # Number 0 is never sent (RFC 4303 §3.3.3), so it counts as seen.
        self._run = 0
        self._bits = 1

    def is_fresh(self, sequence: int) -> bool:
        """Whether a packet of this (extended) number may be new. Cannot fail."""
        if sequence > self.top:
            return True
        if sequence >= self._run or sequence <= self.top - WINDOW or sequence <= 0:
            return False
        return not (self._bits >> (self._run - sequence)) & 1

    def mark(self, sequence: int) -> None:
        """Remember an authenticated number that `is_fresh` accepted."""
        if sequence == self.top + 1:
            self.top = sequence
        elif sequence > self.top:
            self._move(sequence)
        else:
            self._bits |= 1 << (self._run - sequence)

    def extended(self, low: int) -> int:
        """The 64-bit number that 32 transmitted bits stand for (RFC 4303 appendix A2.2).

        Negative where no such packet can exist; `is_fresh` then says no.
        """
        high, top_low = divmod(self.top, _LOW)
        bottom = top_low - WINDOW + 1
        if bottom >= 0:
            return (high << 32 if low >= bottom else (high + 1) << 32) + low
        return ((high - 1) << 32 if low >= bottom + _LOW else high << 32) + low

    def _move(self, sequence: int) -> None:
        """Write the run into the bits and begin the next one at `sequence`."""
        run = self.top - self._run
        step = sequence - self.top
        if step >= WINDOW:
            self._bits = 1
        elif run >= WINDOW:
            self._bits = (_MASK << step | 1) & _MASK
        else:
            seen = self._bits << run | ((1 << run) - 1)
            self._bits = (seen << step | 1) & _MASK
        self._run = self.top = sequence
