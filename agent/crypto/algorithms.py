"""The table of suites: what a transform of a proposal means in octets and functions.

A new algorithm is a row here (and a vector in the tests). RFC 8247 and RFC 8221 decide what has a
row: nothing that they call MUST NOT or SHOULD NOT. AES-GCM-16 (RFC 4106, 5282), AES-CCM-8 and -16
(RFC 4309, 5282), ChaCha20-Poly1305 (RFC 7634), AES-CBC (RFC 3602) with HMAC-SHA2 (RFC 4868 §2.1);
PRF HMAC-SHA2 (RFC 4868 §2.4), AES-XCBC and AES-CMAC (`aes_prf`), prf+ (RFC 7296 §2.13). Key
exchanges have their own table in `kex`. Left out although permitted: 192 bit keys, AES-CTR,
AES-CCM-12, integrity by AES.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final, cast

from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.hmac import HMAC

from agent.crypto.ciphers import (
    Aead,
    AeadCipher,
    CbcHmacCipher,
    Cipher,
    FrugalAeadCipher,
    IntegrityError,
)
from agent.records import record
from agent.wire.codes import EncryptionId, IntegrityId, PrfId

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Cipher",
    "EncryptionAlgorithm",
    "IntegrityAlgorithm",
    "IntegrityError",
    "Prf",
    "UnsupportedAlgorithm",
    "encryption",
    "integrity",
    "is_aead",
    "key_lengths",
    "make_cipher",
    "make_prf",
    "prf_plus",
    "supports_encryption",
    "supports_integrity",
    "supports_prf",
]


class UnsupportedAlgorithm(ValueError):
    """There is no row for this transform, or not with this key length."""


@record(frozen=True, slots=True, kw_only=True)
class EncryptionAlgorithm:
    """One encryption transform. Lengths are octets but for `key_bits`."""

    id: int
    key_bits: tuple[int, ...]
    fixed_key: bool = False
    """No Key Length attribute is sent; there is one length only."""
    salt: int = 0
    """Octets of key material after the key that become the start of each nonce."""
    iv_length: int
    icv_length: int = 0
    aead: Callable[[bytes], Aead] | None = None
    """Makes the AEAD from a key; None where a separate integrity transform is needed."""


@record(frozen=True, slots=True, kw_only=True)
class IntegrityAlgorithm:
    """One integrity transform: HMAC with `hash`, cut to `icv_length` octets."""

    id: int
    hash: type[HashAlgorithm]
    key_length: int
    icv_length: int


@cache
def _aead_class(name: str) -> Callable[[bytes], Aead]:
    """AESGCM or ChaCha20Poly1305, by the shortest way there is.

    Their public module lies in a package that loads every block cipher and mode besides (0.7 MB).
    """
    try:
        from cryptography.hazmat.bindings._rust import openssl

        found = getattr(openssl.aead, name)
    except (ImportError, AttributeError):  # another version's inside
        from cryptography.hazmat.primitives.ciphers import aead

        found = getattr(aead, name)
    return cast("Callable[[bytes], Aead]", found)


def _aes_gcm(key: bytes) -> Aead:
    return _aead_class("AESGCM")(key)


def _aes_ccm_8(key: bytes) -> Aead:
    return cast("Callable[[bytes, int], Aead]", _aead_class("AESCCM"))(key, 8)


def _aes_ccm_16(key: bytes) -> Aead:
    return _aead_class("AESCCM")(key)


def _chacha20_poly1305(key: bytes) -> Aead:
    return _aead_class("ChaCha20Poly1305")(key)


_ENCRYPTION: Final = {
    row.id: row
    for row in (
        EncryptionAlgorithm(
            id=EncryptionId.ENCR_AES_GCM_16,
            key_bits=(128, 256),
            salt=4,
            iv_length=8,
            icv_length=16,
            aead=_aes_gcm,
        ),
        EncryptionAlgorithm(
            id=EncryptionId.ENCR_AES_CCM_8,
            key_bits=(128, 256),
            salt=3,
            iv_length=8,
            icv_length=8,
            aead=_aes_ccm_8,
        ),
        EncryptionAlgorithm(
            id=EncryptionId.ENCR_AES_CCM_16,
            key_bits=(128, 256),
            salt=3,
            iv_length=8,
            icv_length=16,
            aead=_aes_ccm_16,
        ),
        EncryptionAlgorithm(
            id=EncryptionId.ENCR_CHACHA20_POLY1305,
            key_bits=(256,),
            fixed_key=True,
            salt=4,
            iv_length=8,
            icv_length=16,
            aead=_chacha20_poly1305,
        ),
        EncryptionAlgorithm(id=EncryptionId.ENCR_AES_CBC, key_bits=(128, 256), iv_length=16),
    )
}

_INTEGRITY: Final = {
    row.id: row
    for row in (
        IntegrityAlgorithm(
            id=IntegrityId.AUTH_HMAC_SHA2_256_128, hash=SHA256, key_length=32, icv_length=16
        ),
        IntegrityAlgorithm(
            id=IntegrityId.AUTH_HMAC_SHA2_384_192, hash=SHA384, key_length=48, icv_length=24
        ),
        IntegrityAlgorithm(
            id=IntegrityId.AUTH_HMAC_SHA2_512_256, hash=SHA512, key_length=64, icv_length=32
        ),
    )
}

_PRF: Final[dict[int, type[HashAlgorithm]]] = {
    PrfId.PRF_HMAC_SHA2_256: SHA256,
    PrfId.PRF_HMAC_SHA2_384: SHA384,
    PrfId.PRF_HMAC_SHA2_512: SHA512,
}
_OF_AES: Final = frozenset({PrfId.PRF_AES128_XCBC, PrfId.PRF_AES128_CMAC})


def encryption(encr_id: int) -> EncryptionAlgorithm:
    """The row of an encryption transform. Raises UnsupportedAlgorithm."""
    row = _ENCRYPTION.get(encr_id)
    if row is None:
        raise UnsupportedAlgorithm(f"encryption transform {int(encr_id)} is not supported")
    return row


def integrity(integ_id: int) -> IntegrityAlgorithm:
    """The row of an integrity transform. Raises UnsupportedAlgorithm."""
    row = _INTEGRITY.get(integ_id)
    if row is None:
        raise UnsupportedAlgorithm(f"integrity transform {int(integ_id)} is not supported")
    return row


def is_aead(encr_id: int) -> bool:
    """Whether the transform needs no integrity transform beside it. Raises UnsupportedAlgorithm."""
    return encryption(encr_id).aead is not None


def supports_encryption(encr_id: int, key_bits: int | None) -> bool:
    """Whether `make_cipher` takes this transform with this Key Length attribute. Cannot fail."""
    row = _ENCRYPTION.get(encr_id)
    if row is None:
        return False
    return key_bits is None if row.fixed_key else key_bits in row.key_bits


def supports_integrity(integ_id: int) -> bool:
    """Whether `make_cipher` takes this transform. Cannot fail."""
    return integ_id in _INTEGRITY


def supports_prf(prf_id: int) -> bool:
    """Whether `make_prf` takes this transform. Cannot fail."""
    return prf_id in _PRF or prf_id in _OF_AES


def _suite(
    encr_id: int, key_bits: int | None, integ_id: int | None
) -> tuple[EncryptionAlgorithm, int, IntegrityAlgorithm | None]:
    """Row, key octets without salt, and integrity row of a combination that makes sense."""
    row = encryption(encr_id)
    bits = row.key_bits[0] if row.fixed_key and key_bits is None else key_bits
    if bits not in row.key_bits:
        raise UnsupportedAlgorithm(f"encryption transform {int(encr_id)} has no {bits} bit key")
    if row.aead is None:
        if not integ_id:
            raise UnsupportedAlgorithm("encryption without integrity is not offered")
        return row, bits // 8, integrity(integ_id)
    if integ_id:
        raise UnsupportedAlgorithm("an AEAD has no integrity transform beside it")
    return row, bits // 8, None


def key_lengths(encr_id: int, key_bits: int | None, integ_id: int | None) -> tuple[int, int]:
    """Octets of key material of one direction: encryption key with its salt, integrity key.

    `key_bits` is the Key Length attribute, None where the transform has none; `integ_id` is None
    or 0 with an AEAD. Raises UnsupportedAlgorithm.
    """
    row, octets, integ = _suite(encr_id, key_bits, integ_id)
    return octets + row.salt, 0 if integ is None else integ.key_length


def make_cipher(
    encr_id: int,
    key_bits: int | None,
    integ_id: int | None,
    key: bytes,
    integ_key: bytes = b"",
    *,
    frugal: bool = False,
) -> Cipher:
    """One direction's cipher. `key` is the encryption key followed by the salt, as prf+ gave it.

    `frugal` keeps 2.5 kB less per cipher and costs 2 µs more per call: for IKE SAs. Raises
    UnsupportedAlgorithm, and ValueError for keys of other lengths than `key_lengths` says.
    """
    row, octets, integ = _suite(encr_id, key_bits, integ_id)
    integ_length = 0 if integ is None else integ.key_length
    if len(key) != octets + row.salt or len(integ_key) != integ_length:
        raise ValueError("keys do not have the lengths of this suite")
    if row.aead is None:
        assert integ is not None  # _suite saw to it
        return CbcHmacCipher(key, integ_key, integ.hash(), integ.icv_length, frugal=frugal)
    key, salt = key[:octets], key[octets:]
    if frugal:
        return FrugalAeadCipher(row.aead, key, salt, row.iv_length, row.icv_length)
    return AeadCipher(row.aead(key), salt, row.iv_length, row.icv_length)


class Prf:
    """A pseudorandom function of RFC 7296 §2.13: HMAC, and in `aes_prf` two made of AES."""

    __slots__ = ("_hash", "id", "length", "preferred_key_length")

    def __init__(self, prf_id: int, algorithm: HashAlgorithm) -> None:
        self.id = prf_id
        self._hash = algorithm
        self.length = algorithm.digest_size
        self.preferred_key_length = algorithm.digest_size

    def __call__(self, key: bytes, data: bytes) -> bytes:
        """prf(key, data), `length` octets."""
        mac = HMAC(key, self._hash)
        mac.update(data)
        return mac.finalize()

    def nonce_key(self, ni: bytes, nr: bytes) -> bytes:
        """What of the nonces is the key in SKEYSEED (§2.14): with HMAC all of them."""
        return ni + nr

    def __repr__(self) -> str:
        return f"Prf({self.id!r})"


_MADE: Final[dict[int, Prf]] = {
    prf_id: Prf(prf_id, algorithm()) for prf_id, algorithm in _PRF.items()
}


def make_prf(prf_id: int) -> Prf:
    """The PRF of a transform; always the same object. Raises UnsupportedAlgorithm."""
    prf = _MADE.get(prf_id)
    if prf is None and prf_id in _OF_AES:
        from agent.crypto import aes_prf  # ciphers and modes, which nobody else needs

        made = aes_prf.xcbc if prf_id == PrfId.PRF_AES128_XCBC else aes_prf.cmac
        prf = _MADE[prf_id] = made(prf_id)
    if prf is None:
        raise UnsupportedAlgorithm(f"PRF transform {int(prf_id)} is not supported")
    return prf


def prf_plus(prf: Prf, key: bytes, seed: bytes, length: int) -> bytes:
    """`length` octets of prf+(key, seed), RFC 7296 §2.13.

    Raises ValueError beyond 255 blocks, where the construction ends.
    """
    count = -(-length // prf.length)
    if count > 255:
        raise ValueError("prf+ is not defined beyond 255 blocks")
    block = b""
    blocks = []
    for number in range(1, count + 1):
        block = prf(key, block + seed + bytes((number,)))
        blocks.append(block)
    return b"".join(blocks)[:length]
