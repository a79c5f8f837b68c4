"""PRFs made of AES-128, for machines that have AES in hardware and would rather not carry SHA-2.

AES-XCBC-PRF-128 (RFC 3566, RFC 4434), which RFC 8247 §2.2 calls SHOULD for IoT, and
AES-CMAC-PRF-128 (RFC 4615). Both take keys of any length, but RFC 7296 §2.14 has them take only
half of each nonce in SKEYSEED. XCBC is a CBC-MAC whose last block is masked, hence the last block
of one CBC encryption. Left out: both as integrity transforms, beside AES-CBC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.cmac import CMAC

from agent.crypto.algorithms import Prf

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK: Final = 16
HALF_NONCE: Final = 8  # octets of Ni and Nr each: RFC 7296 §2.14


class AesPrf(Prf):
    """`mac` is the MAC, `fitted` makes a key of 16 octets from one of another length."""

    __slots__ = ("_fitted", "_mac")

    def __init__(
        self,
        prf_id: int,
        mac: Callable[[bytes, bytes], bytes],
        fitted: Callable[[bytes], bytes],
    ) -> None:
        self.id = prf_id
        self.length = self.preferred_key_length = BLOCK
        self._mac = mac
        self._fitted = fitted

    def __call__(self, key: bytes, data: bytes) -> bytes:
        """See Prf."""
        return self._mac(key if len(key) == BLOCK else self._fitted(key), data)

    def nonce_key(self, ni: bytes, nr: bytes) -> bytes:
        """See Prf."""
        return ni[:HALF_NONCE] + nr[:HALF_NONCE]


def xcbc(prf_id: int) -> AesPrf:
    """RFC 4434 §2: a short key gets zeros behind it, a long one is hashed."""

    def fitted(key: bytes) -> bytes:
        return key.ljust(BLOCK, b"\0") if len(key) < BLOCK else _xcbc_mac(bytes(BLOCK), key)

    return AesPrf(prf_id, _xcbc_mac, fitted)


def cmac(prf_id: int) -> AesPrf:
    """RFC 4615 §3: a key of any other length is hashed."""
    return AesPrf(prf_id, _cmac, lambda key: _cmac(bytes(BLOCK), key))


def _cmac(key: bytes, data: bytes) -> bytes:
    mac = CMAC(AES(key))
    mac.update(data)
    return mac.finalize()


def _last_block(key: bytes, data: bytes) -> bytes:
    return Cipher(AES(key), CBC(bytes(BLOCK))).encryptor().update(data)[-BLOCK:]


def _xcbc_mac(key: bytes, data: bytes) -> bytes:
    """RFC 3566 §4, without cutting the result to 96 bits."""
    k1, k2, k3 = (_last_block(key, bytes((n,)) * BLOCK) for n in (1, 2, 3))
    mask = k2
    if not data or len(data) % BLOCK:
        data += b"\x80" + bytes(-(len(data) + 1) % BLOCK)
        mask = k3
    last = int.from_bytes(data[-BLOCK:], "big") ^ int.from_bytes(mask, "big")
    return _last_block(k1, data[:-BLOCK] + last.to_bytes(BLOCK, "big"))
