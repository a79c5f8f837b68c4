"""Stateless COOKIEs with a secret that rotates (RFC 7296 §2.6).

    cookie = number of the secret (1 octet) | prf(secret, Ni | IPi | port | SPIi), first 16 octets

A cookie proves that its sender receives what is sent to its address. It is good for one to two
rotations. Secrets are drawn when they are needed and never leave the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.crypto.algorithms import make_prf
from agent.crypto.digest import bytes_eq
from agent.wire.codes import PrfId

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.datagram import Address

_SECRET_LENGTH: Final = 32
_MAC_LENGTH: Final = 16


class Cookies:
    """Makes and checks cookies."""

    __slots__ = ("_number", "_prf", "_random", "_rotation", "_secrets", "_since")

    def __init__(self, random: Callable[[int], bytes], rotation: float) -> None:
        self._random = random
        self._rotation = rotation
        self._prf = make_prf(PrfId.PRF_HMAC_SHA2_256)
        self._secrets: dict[int, bytes] = {}
        self._number = 0
        self._since: float | None = None

    def make(self, nonce: bytes, remote: Address, spi: bytes, now: float) -> bytes:
        """The cookie that a request with these must bring."""
        self._rotate(now)
        return self._cookie(self._number, nonce, remote, spi)

    def check(self, cookie: bytes, nonce: bytes, remote: Address, spi: bytes, now: float) -> bool:
        """Whether `cookie` is one of ours and not too old. Cannot fail."""
        self._rotate(now)
        if not cookie or cookie[0] not in self._secrets:
            return False
        return bytes_eq(cookie, self._cookie(cookie[0], nonce, remote, spi))

    def _cookie(self, number: int, nonce: bytes, remote: Address, spi: bytes) -> bytes:
        seed = nonce + remote.ip + remote.port.to_bytes(2, "big") + spi
        return bytes((number,)) + self._prf(self._secrets[number], seed)[:_MAC_LENGTH]

    def _rotate(self, now: float) -> None:
        if self._since is not None and now < self._since + self._rotation:
            return
        kept = {}
        if self._since is not None and now < self._since + 2 * self._rotation:
            kept = {self._number: self._secrets[self._number]}
        self._number = (self._number + 1) % 256
        self._secrets = {**kept, self._number: self._random(_SECRET_LENGTH)}
        self._since = now
