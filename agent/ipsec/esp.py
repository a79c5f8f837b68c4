"""ESP, one direction of an SA at a time (RFC 4303 §§2, 3.3, 3.4), many packets a call.

A packet on the wire is SPI | sequence | IV | sealed(inner packet | padding | pad length | next
header). AEADs use the sequence number as IV (RFC 4106 §3.1 wants uniqueness only), AES-CBC random
octets. With ESN the high half of the sequence number is covered by the ICV without being sent:
inside the AAD for AEADs (RFC 4106 §5), behind the ciphertext for HMAC (RFC 4303 §2.2.1).

The loops here run once a packet and are most of the daemon's work, hence the local names. Left out:
transport mode, traffic flow confidentiality when sending (it is accepted when receiving).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from agent.crypto.algorithms import IntegrityError
from agent.datagram import Transmit
from agent.ipsec.replay import ReplayWindow
from agent.ipsec.segments import runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.crypto.algorithms import Cipher
    from agent.datagram import Path

HEADER = 8
IPV4 = 4
IPV6 = 41
NO_NEXT_HEADER = 59
"""A dummy packet: authenticated, then dropped (RFC 4303 §2.6)."""

PADDING: Final = bytes(range(1, 256))
"""RFC 4303 §2.4: 1, 2, 3 …"""

_SEQUENCE = struct.Struct(">Q").pack


def trailers(next_header: int, block: int) -> tuple[bytes, ...]:
    """What is appended to an inner packet, by its length modulo `block`."""
    lengths = ((-(rest + 2)) % block for rest in range(block))
    return tuple(PADDING[:pad] + bytes((pad, next_header)) for pad in lengths)


@lru_cache(maxsize=256)  # sizes that occur; one costs some 300 octets
def _layout(size: int, iv_length: int) -> tuple[struct.Struct, struct.Struct]:
    """How equal datagrams are cut: (header, IV, sealed) and (SPI, sequence number)."""
    return (
        struct.Struct(f"{HEADER}s{iv_length}s{size - HEADER - iv_length}s"),
        struct.Struct(f">II{size - HEADER}x"),
    )


class InboundEsp:
    """Receiving: replay check, ICV, decryption. `replayed` and `forged` count what was refused."""

    __slots__ = (
        "_cipher", "_esn", "_spi", "foreign", "forged", "minimum", "replayed", "window"
    )  # fmt: skip

    def __init__(self, spi: bytes, cipher: Cipher, *, esn: bool) -> None:
        self._spi = int.from_bytes(spi, "big")
        self._cipher = cipher
        self._esn = esn
        self.window = ReplayWindow()
        self.minimum = HEADER + cipher.iv_length + cipher.icv_length + 2
        self.replayed = 0
        self.forged = 0
        self.foreign: list[bytes] = []
        """Datagrams of other SAs that the kernel had put into the same buffer."""

    def open(self, data: bytes, size: int, plain: list[bytes]) -> None:
        """Append the plaintexts (inner packets with their trailers) of the authentic, fresh ones.

        `data` are datagrams of `size` octets each, the last one may be shorter. Cannot fail.
        """
        rest = len(data) % size
        if not rest:
            self._open_equal(data, size, plain)
            return
        self._open_equal(memoryview(data)[:-rest], size, plain)
        self._open_equal(data[-rest:], rest, plain)

    def _open_equal(self, data: bytes | memoryview, size: int, plain: list[bytes]) -> None:
        if size < self.minimum:
            self.forged += len(data) // size
            return
        pieces, numbers = _layout(size, self._cipher.iv_length)
        window, spi, esn = self.window, self._spi, self._esn
        decrypt, append = self._cipher.open, plain.append
        top = window.top
        for (aad, iv, sealed), (which, sequence) in zip(
            pieces.iter_unpack(data), numbers.iter_unpack(data), strict=True
        ):
            if which != spi:
                self.foreign.append(aad + iv + sealed)
                continue
            if sequence != top + 1 or esn:
                window.top = top
                if esn:
                    sequence = window.extended(sequence)
                if not window.is_fresh(sequence):
                    self.replayed += 1
                    continue
            try:
                if esn:
                    opened = self._open_extended(aad, iv, sealed, sequence)
                else:
                    opened = decrypt(iv, sealed, aad)
            except IntegrityError:
                self.forged += 1
                continue
            append(opened)
            if sequence == top + 1:
                top = sequence
            else:
                window.mark(sequence)
                top = window.top
        window.top = top

    def _open_extended(self, aad: bytes, iv: bytes, sealed: bytes, sequence: int) -> bytes:
        high = (sequence >> 32).to_bytes(4, "big")
        if self._cipher.iv_is_counter:
            return self._cipher.open(iv, sealed, aad[:4] + high + aad[4:])
        return self._cipher.open(iv, sealed, aad, high)


class OutboundEsp:
    """Sending: numbers, pads, seals, and groups packets of equal size for UDP_SEGMENT."""

    __slots__ = ("_cipher", "_esn", "_random", "_spi", "_trailers", "overhead", "sequence")

    def __init__(
        self, spi: bytes, cipher: Cipher, *, esn: bool, random: Callable[[int], bytes]
    ) -> None:
        self._spi = spi
        self._cipher = cipher
        self._esn = esn
        self._random = random
        self._trailers = {
            next_header: trailers(next_header, cipher.block) for next_header in (IPV4, IPV6)
        }
        self.sequence = 0
        """The last one that was used. The caller sees to it that it does not reach its limit."""
        self.overhead = HEADER + cipher.iv_length + cipher.icv_length

    def seal(self, packets: list[bytes], next_header: int, path: Path) -> list[Transmit]:
        """The datagrams for inner `packets`, in order; each Transmit holds as many as it may."""
        transmits: list[Transmit] = []
        spi, esn, sequence, cipher = self._spi, self._esn, self.sequence, self._cipher
        seal, block, counter = cipher.seal, cipher.block, cipher.iv_is_counter
        trailer_of = self._trailers[next_header]
        inner, trailer = -1, b""
        for start, end, size in runs(list(map(len, packets)), block, self.overhead):
            parts: list[bytes] = []
            for packet in packets[start:end]:
                sequence += 1
                number = _SEQUENCE(sequence)
                if len(packet) != inner:
                    inner = len(packet)
                    trailer = trailer_of[inner % block]
                header = spi + number[4:]
                if counter:
                    sealed = seal(number, packet + trailer, spi + number if esn else header)
                    parts += header, number, sealed
                else:
                    iv = self._random(block)
                    high = number[:4] if esn else b""
                    parts += header, iv, seal(iv, packet + trailer, header, high)
            transmits.append(Transmit(path, b"".join(parts), size if end - start > 1 else 0))
        self.sequence = sequence
        return transmits
