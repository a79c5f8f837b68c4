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
from itertools import chain, repeat
from typing import TYPE_CHECKING, Final

from agent.crypto.algorithms import IntegrityError
from agent.crypto.ciphers import AeadCipher
from agent.datagram import Transmit
from agent.ipsec.replay import ReplayWindow
from agent.ipsec.segments import runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
_HEADER = struct.Struct(">4sI").pack
_LOW = 1 << 32


def trailers(next_header: int, block: int) -> tuple[bytes, ...]:
    """What is appended to an inner packet, by its length modulo `block`."""
    lengths = ((-(rest + 2)) % block for rest in range(block))
    return tuple(PADDING[:pad] + bytes((pad, next_header)) for pad in lengths)


@lru_cache(maxsize=256)  # sizes that occur; one costs some 300 octets
def _layout(size: int, iv_length: int) -> tuple[struct.Struct, struct.Struct]:
    """How equal datagrams are cut: (header, IV, sealed) and (SPI, sequence number)."""
    return (
        struct.Struct(f"{HEADER}s{iv_length}s{size - HEADER - iv_length}s"),
        struct.Struct(f">4sI{size - HEADER}x"),
    )


class InboundEsp:
    """Receiving: replay check, ICV, decryption. `replayed` and `forged` count what was refused."""

    __slots__ = (
        "_aead", "_cipher", "_esn", "_spi", "foreign", "forged", "minimum", "replayed", "window"
    )  # fmt: skip

    def __init__(self, spi: bytes, cipher: Cipher, *, esn: bool) -> None:
        self._spi = spi
        self._cipher = cipher
        # With ESN the AAD is not what stands in the packet, with CBC each packet is several calls.
        self._aead = cipher if isinstance(cipher, AeadCipher) and not esn else None
        self._esn = esn
        self.window = ReplayWindow()
        self.minimum = HEADER + cipher.iv_length + cipher.icv_length + 2
        self.replayed = 0
        self.forged = 0
        self.foreign: list[bytes] = []
        """Datagrams of other SAs that the kernel had put into the same buffer."""

    def open(self, data: bytes, size: int) -> list[list[bytes]]:
        """The plaintexts (inner packets with their trailers) of the authentic and fresh ones.

        `data` are datagrams of `size` octets each, the last one may be shorter. In lists whose
        elements are of one length, none of them empty. Cannot fail.
        """
        rest = len(data) % size
        if not rest:
            runs = [self._open_equal(data, size)]
        else:
            runs = [
                self._open_equal(memoryview(data)[:-rest], size),
                self._open_equal(data[-rest:], rest),
            ]
        return [run for run in runs if run]

    def _open_equal(self, data: bytes | memoryview, size: int) -> list[bytes]:
        count = len(data) // size
        if size < self.minimum:
            self.forged += count
            return []
        pieces, numbers = _layout(size, self._cipher.iv_length)
        cut = list(pieces.iter_unpack(data))
        if self._aead is not None and count > 1:
            plain = self._open_run(self._aead, cut)
            if plain is not None:
                return plain
        return self._open_each(cut, numbers.iter_unpack(data))

    def _open_run(
        self, cipher: AeadCipher, cut: list[tuple[bytes, bytes, bytes]]
    ) -> list[bytes] | None:
        """The usual case at once: the next numbers of this SA, in any order, and all authentic.

        None if it is not so; then nothing has changed.
        """
        aads, ivs, sealed = zip(*cut, strict=True)
        count, top = len(aads), self.window.top
        if (
            top + count >= _LOW
            or min(aads) != self._spi + (top + 1).to_bytes(4, "big")
            or max(aads) != self._spi + (top + count).to_bytes(4, "big")
            or len(set(aads)) != count
        ):
            return None
        try:
            plain = cipher.open_many(ivs, sealed, aads)
        except IntegrityError:
            return None
        self.window.top = top + count
        return plain

    def _open_each(
        self, cut: list[tuple[bytes, bytes, bytes]], numbers: Iterable[tuple[bytes, int]]
    ) -> list[bytes]:
        plain: list[bytes] = []
        window, spi, esn, decrypt = self.window, self._spi, self._esn, self._cipher.open
        for (aad, iv, sealed), (which, sequence) in zip(cut, numbers, strict=True):
            if which != spi:
                self.foreign.append(aad + iv + sealed)
                continue
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
            window.mark(sequence)
            plain.append(opened)
        return plain

    def _open_extended(self, aad: bytes, iv: bytes, sealed: bytes, sequence: int) -> bytes:
        high = (sequence >> 32).to_bytes(4, "big")
        if self._cipher.iv_is_counter:
            return self._cipher.open(iv, sealed, aad[:4] + high + aad[4:])
        return self._cipher.open(iv, sealed, aad, high)


class OutboundEsp:
    """Sending: numbers, pads, seals, and groups packets of equal size for UDP_SEGMENT."""

    __slots__ = (
        "_aead", "_cipher", "_esn", "_random", "_spi", "_trailers", "overhead", "sequence"
    )  # fmt: skip

    def __init__(
        self, spi: bytes, cipher: Cipher, *, esn: bool, random: Callable[[int], bytes]
    ) -> None:
        self._spi = spi
        self._cipher = cipher
        self._aead = cipher if isinstance(cipher, AeadCipher) and not esn else None
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
        trailer_of = self._trailers[next_header]
        if len(packets) == 1:  # the usual case of who waits for an answer: without detours
            self.sequence += 1
            plain_one = packets[0] + trailer_of[len(packets[0]) % self._cipher.block]
            return [Transmit(path, self._seal_one(plain_one, self.sequence))]
        transmits: list[Transmit] = []
        lengths = list(map(len, packets))
        for start, end, size in runs(lengths, self._cipher.block, self.overhead):
            plain = self._padded(
                packets[start:end], lengths[start:end], self._trailers[next_header]
            )
            numbers = range(self.sequence + 1, self.sequence + 1 + len(plain))
            self.sequence = numbers[-1]
            if self._aead is not None:
                data = self._seal_run(self._aead, plain, numbers)
            else:
                data = b"".join(map(self._seal_one, plain, numbers))
            transmits.append(Transmit(path, data, size if end - start > 1 else 0))
        return transmits

    def _padded(
        self, packets: list[bytes], lengths: list[int], trailer_of: tuple[bytes, ...]
    ) -> list[bytes]:
        block, first = self._cipher.block, lengths[0]
        if lengths.count(first) == len(lengths):
            trailer = trailer_of[first % block]
            return [packet + trailer for packet in packets]
        return [
            packet + trailer_of[length % block]
            for packet, length in zip(packets, lengths, strict=True)
        ]

    def _seal_run(self, cipher: AeadCipher, plain: list[bytes], numbers: range) -> bytes:
        """Without ESN: the sequence number is AAD and IV."""
        ivs = list(map(_SEQUENCE, numbers))
        headers = list(map(_HEADER, repeat(self._spi), numbers))
        sealed = cipher.seal_many(ivs, plain, headers)
        return b"".join(chain.from_iterable(zip(headers, ivs, sealed, strict=True)))

    def _seal_one(self, plain: bytes, number: int) -> bytes:
        octets = _SEQUENCE(number)
        header, cipher = self._spi + octets[4:], self._cipher
        if cipher.iv_is_counter:
            aad = self._spi + octets if self._esn else header
            return header + octets + cipher.seal(octets, plain, aad)
        iv = self._random(cipher.iv_length)
        return header + iv + cipher.seal(iv, plain, header, octets[:4] if self._esn else b"")
