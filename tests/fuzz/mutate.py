"""What a fuzzer does to octets, from a seeded source: the same in every run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

TELLING = (0, 1, 2, 3, 4, 0x7F, 0x80, 0xFE, 0xFF)  # lengths, counts and flags at their edges


def mutated(
    source: random.Random, seed: bytes, *, start: int = 0, times: int = 3, most: int = 65507
) -> bytes:
    """`seed` with one to `times` changes behind its first `start` octets."""
    data = bytearray(seed)
    for _ in range(source.randrange(1, times + 1)):
        at = source.randrange(start, max(start + 1, len(data)))
        match source.randrange(7):
            case 0 if at < len(data):
                data[at] = source.choice(TELLING)
            case 1 if at < len(data):
                data[at] ^= 1 << source.randrange(8)
            case 2:
                del data[at : at + source.randrange(1, 9)]
            case 3:
                data[at:at] = source.randbytes(source.randrange(1, 9))
            case 4:  # something twice, as an attacker repeats payloads
                length = source.randrange(1, 65)
                data[at:at] = data[at : at + length]
            case 5:  # two that change places
                other = source.randrange(start, max(start + 1, len(data)))
                data[at : at + 4], data[other : other + 4] = (
                    data[other : other + 4],
                    data[at : at + 4],
                )
            case _:
                del data[at:]
    return bytes(data[:most])
