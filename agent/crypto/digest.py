"""Plain digests and the comparison of secrets, without loading hashlib.

`cryptography.hazmat.primitives.constant_time` would be the obvious place to compare, but it imports
the standard library's hmac, which imports hashlib, which loads a second OpenSSL: 3.8 MB for one
comparison. CPython keeps the same function in `_operator`, where hmac itself takes it from if
there is no OpenSSL. The digests import cryptography when they are called, so that a command that
only compares or prints keys starts without its 20 ms and 9 MB.
"""

from __future__ import annotations

from _operator import _compare_digest
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hashes import Hash


def bytes_eq(a: bytes, b: bytes) -> bool:
    """Whether both are the same octets, in a time that tells their length only. Cannot fail."""
    return _compare_digest(a, b)


def sha1(data: bytes) -> bytes:
    """20 octets. Only where a protocol demands it: NAT detection (RFC 7296 §2.23) and

    connectivity checks (mediation.md §3). Neither relies on collision resistance.
    """
    digest = _sha1().copy()
    digest.update(data)
    return digest.finalize()


def sha256(data: bytes) -> bytes:
    """32 octets, FIPS 180-4."""
    digest = _sha256().copy()
    digest.update(data)
    return digest.finalize()


# Nothing is ever fed to these two; a copy of one takes a third of what making one takes.


@cache
def _sha1() -> Hash:
    from cryptography.hazmat.primitives.hashes import SHA1, Hash

    return Hash(SHA1())  # noqa: S303 - fixed by the two protocols named above


@cache
def _sha256() -> Hash:
    from cryptography.hazmat.primitives.hashes import SHA256, Hash

    return Hash(SHA256())
