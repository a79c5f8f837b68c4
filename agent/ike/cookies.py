"""Stateless COOKIEs with a secret that rotates (RFC 7296 §2.6), and how many an address can get.

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
# Answers to IKE_SA_INIT that leave nothing behind (COOKIE, an error, the same once more) for one
# address in one second. An honest peer needs one or two; what goes to neighbours that do not exist
# fills the socket's buffer for the seconds that the kernel looks for them, and then nobody gets an
# answer: 250 of them at this rate occupy a good half of 4 MB.
FIRST_ANSWERS_PER_ADDRESS: Final = 4
FIRST_ANSWERS_IN_ALL: Final = 1 << 30  # as there is time for: each may be an honest peer's
# "I know no such SA" and the like, for one address and for all. After a restart of a mediator its
# ten thousand peers come to hear it within minutes and not within hours.
STRAY_ANSWERS_PER_ADDRESS: Final = 1
STRAY_ANSWERS_IN_ALL: Final = 100
# Counters, one octet each, that all addresses share: with 10,000 new sources a second one honest
# address in a thousand meets a full one, until the next second.
_COUNTERS: Final = 1 << 14


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


class AnswerRate:
    """How many answers an address got in this second, and all together.

    Memory does not grow with the addresses.
    """

    __slots__ = ("_counts", "_each", "_in_all", "_left", "_until")

    def __init__(self, each: int, in_all: int) -> None:
        self._each = each
        self._in_all = in_all
        self._left = 0
        self._counts = bytearray()
        self._until: float | None = None

    def take(self, ip: bytes, now: float) -> bool:
        """Whether one more answer may go to `ip`; if so it counts."""
        if self.is_used_up(ip, now):
            return False
        self._counts[hash(ip) % _COUNTERS] += 1
        self._left -= 1
        return True

    def is_used_up(self, ip: bytes, now: float) -> bool:
        """Whether none may go to `ip` until the second is over."""
        if self._until is None or now >= self._until:
            self._until = now + 1.0
            self._left = self._in_all
            self._counts = bytearray(_COUNTERS)
        slot = hash(ip) % _COUNTERS  # keyed in each process: nobody can choose neighbours
        return self._counts[slot] >= self._each or self._left <= 0
