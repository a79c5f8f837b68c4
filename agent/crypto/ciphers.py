"""What protects a message or a packet once keys are there: AEAD, and AES-CBC with HMAC.

RFC 4106, 4309 and 5282 (AES-GCM, AES-CCM), RFC 7634 (ChaCha20-Poly1305), RFC 3602 and 4868
(AES-CBC with HMAC-SHA2), encrypt-then-MAC as RFC 7296 §3.14 and RFC 4303 §3.3.2 say. Padding,
sequence numbers and headers belong to the callers, and so does the rule on which everything rests:
never one IV twice under one AEAD key (a counter), never a predictable IV for CBC (random).

One construction serves IKE and ESP:

    AEAD   nonce = salt | IV      AAD = aad | trailer             out = ciphertext | tag
    CBC    ICV = HMAC(aad | IV | ciphertext | trailer)            out = ciphertext | ICV

`trailer` exists for the high-order half of an extended sequence number, which ESP appends to what
HMAC covers without sending it (RFC 4303 §2.2.1); with an AEAD that half stands inside aad
(RFC 4106 §5).

A kept AEAD context of OpenSSL costs 2.5 kB, which is fine for an ESP SA and too much for the IKE
SAs of 10,000 idle peers. A *frugal* cipher keeps the key only and sets up for each call (+2 µs).

Left out: encryption without integrity and integrity without encryption; neither is offered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import InvalidTag

from agent.crypto.digest import bytes_eq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cryptography.hazmat.primitives.hashes import HashAlgorithm
    from cryptography.hazmat.primitives.hmac import HMAC

AES_BLOCK = 16

# RFC 4303 §2.4: an ESP payload ends on a 4-octet boundary. IKE has no such rule for an AEAD but
# permits any padding (RFC 7296 §3.14), so one figure serves both.
AEAD_ALIGNMENT = 4


class IntegrityError(ValueError):
    """The octets were not sealed with this key, or were changed on their way."""


class Cipher(Protocol):
    """One direction's protection. Objects hold keys and show none of them in their repr."""

    @property
    def iv_length(self) -> int:
        """Octets of the IV that travel with the message."""

    @property
    def icv_length(self) -> int:
        """Octets that `seal` adds."""

    @property
    def block(self) -> int:
        """What `seal` takes (with padding and pad length) is a multiple of this many octets."""

    @property
    def iv_is_counter(self) -> bool:
        """AEAD: the IV may be a counter and must never repeat. Else it must be random."""

    def seal(self, iv: bytes, plaintext: bytes, aad: bytes, trailer: bytes = b"") -> bytes:
        """Ciphertext and ICV. Raises ValueError for an IV or padding of a wrong length."""

    def open(self, iv: bytes, sealed: bytes, aad: bytes, trailer: bytes = b"") -> bytes:
        """The plaintext with its padding. Raises IntegrityError only, for any octets."""


class Aead(Protocol):
    """The shape of cryptography's AEAD classes."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """Ciphertext and tag."""

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """Plaintext. Raises InvalidTag."""


class AeadCipher:
    """An AEAD that is called for each packet: one concatenation, one call."""

    __slots__ = ("_decrypt", "_encrypt", "_salt", "icv_length", "iv_length")

    block = AEAD_ALIGNMENT
    iv_is_counter = True

    def __init__(self, aead: Aead, salt: bytes, iv_length: int, icv_length: int) -> None:
        self._encrypt = aead.encrypt
        self._decrypt = aead.decrypt
        self._salt = salt
        self.iv_length = iv_length
        self.icv_length = icv_length

    def seal(self, iv: bytes, plaintext: bytes, aad: bytes, trailer: bytes = b"") -> bytes:
        """See Cipher."""
        if len(iv) != self.iv_length:
            raise ValueError("wrong IV length")  # AES-GCM would take it, as another nonce
        if trailer:
            aad += trailer
        return self._encrypt(self._salt + iv, plaintext, aad)

    def open(self, iv: bytes, sealed: bytes, aad: bytes, trailer: bytes = b"") -> bytes:
        """See Cipher."""
        if trailer:
            aad += trailer
        try:
            return self._decrypt(self._salt + iv, sealed, aad)
        except (InvalidTag, ValueError):  # ValueError: an IV that was cut short
            raise IntegrityError from None

    def seal_many(
        self, ivs: Iterable[bytes], plaintexts: Iterable[bytes], aads: Iterable[bytes]
    ) -> list[bytes]:
        """`seal` of each with no step of the interpreter in between; IVs of the right length."""
        salt = self._salt
        return list(map(self._encrypt, [salt + iv for iv in ivs], plaintexts, aads))

    def open_many(
        self, ivs: Iterable[bytes], sealed: Iterable[bytes], aads: Iterable[bytes]
    ) -> list[bytes]:
        """`open` of each. Raises IntegrityError if any of them fails; then open them one by one."""
        salt = self._salt
        try:
            return list(map(self._decrypt, [salt + iv for iv in ivs], sealed, aads))
        except (InvalidTag, ValueError):
            raise IntegrityError from None


class FrugalAeadCipher:
    """An AEAD that is called a few times an hour: keeps the key, no context."""

    __slots__ = ("_factory", "_key", "_salt", "icv_length", "iv_length")

    block = AEAD_ALIGNMENT
    iv_is_counter = True

    def __init__(
        self,
        factory: Callable[[bytes], Aead],
        key: bytes,
        salt: bytes,
        iv_length: int,
        icv_length: int,
    ) -> None:
        self._factory = factory
        self._key = key
        self._salt = salt
        self.iv_length = iv_length
        self.icv_length = icv_length

    def _full(self) -> AeadCipher:
        return AeadCipher(self._factory(self._key), self._salt, self.iv_length, self.icv_length)

    def seal(self, iv: bytes, plaintext: bytes, aad: bytes, trailer: bytes = b"") -> bytes:
        """See Cipher."""
        return self._full().seal(iv, plaintext, aad, trailer)

    def open(self, iv: bytes, sealed: bytes, aad: bytes, trailer: bytes = b"") -> bytes:
        """See Cipher."""
        return self._full().open(iv, sealed, aad, trailer)


class CbcHmacCipher:
    """AES-CBC and HMAC, encrypt then MAC; the ICV is checked before anything is decrypted."""

    __slots__ = ("_aes", "_cbc", "_cipher", "_hash", "_integ_key", "_mac", "icv_length")

    block = AES_BLOCK
    iv_length = AES_BLOCK
    iv_is_counter = False

    def __init__(
        self,
        key: bytes,
        integ_key: bytes,
        algorithm: HashAlgorithm,
        icv_length: int,
        *,
        frugal: bool = False,
    ) -> None:
        # Only who uses CBC pays for the module.
        from cryptography.hazmat.primitives.ciphers import Cipher as OpenSslCipher
        from cryptography.hazmat.primitives.ciphers.algorithms import AES
        from cryptography.hazmat.primitives.ciphers.modes import CBC

        self._cipher = OpenSslCipher
        self._cbc = CBC
        self._aes = AES(key)
        self._hash = algorithm
        self._integ_key = integ_key
        self._mac = None if frugal else self._keyed()
        self.icv_length = icv_length

    def _keyed(self) -> HMAC:
        from cryptography.hazmat.primitives.hmac import HMAC

        return HMAC(self._integ_key, self._hash)

    def _icv(self, covered: bytes) -> bytes:
        mac = self._keyed() if self._mac is None else self._mac.copy()
        mac.update(covered)
        return mac.finalize()[: self.icv_length]

    def seal(self, iv: bytes, plaintext: bytes, aad: bytes, trailer: bytes = b"") -> bytes:
        """See Cipher."""
        encryptor = self._cipher(self._aes, self._cbc(iv)).encryptor()
        ciphertext = encryptor.update(plaintext)
        encryptor.finalize()  # raises ValueError unless whole blocks were given
        return ciphertext + self._icv(aad + iv + ciphertext + trailer)

    def open(self, iv: bytes, sealed: bytes, aad: bytes, trailer: bytes = b"") -> bytes:
        """See Cipher."""
        end = len(sealed) - self.icv_length
        if end < AES_BLOCK or end % AES_BLOCK or len(iv) != AES_BLOCK:
            raise IntegrityError
        ciphertext = sealed[:end]
        if not bytes_eq(self._icv(aad + iv + ciphertext + trailer), sealed[end:]):
            raise IntegrityError
        return self._cipher(self._aes, self._cbc(iv)).decryptor().update(ciphertext)
