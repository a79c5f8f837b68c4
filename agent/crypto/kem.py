"""ML-KEM as key exchange: FIPS 203, draft-ietf-ipsecme-ikev2-mlkem.

The initiator sends an encapsulation key, the responder the ciphertext, and both have 32 octets of
shared secret. The two halves are therefore two classes, behind the one face of `kex.KeyExchange`.
What FIPS 203 §7.2 and §7.3 want checked (lengths, and that each coefficient of the key is reduced)
is checked by the cryptography package, from version 48 on, where its OpenSSL has ML-KEM. A
ciphertext that was tampered with is not noticed here: it gives a secret that nobody else has
(implicit rejection), in the same time, and the next message fails its integrity check.
Left out: ML-KEM-512, which cryptography does not offer.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol

from agent.wire.codes import KeyExchangeId

if TYPE_CHECKING:
    from collections.abc import Callable

    Random = Callable[[int], bytes]

# Octets of an encapsulation key, FIPS 203 table 3.
PUBLIC_LENGTHS: Final[dict[int, int]] = {
    KeyExchangeId.ML_KEM_768: 1184,
    KeyExchangeId.ML_KEM_1024: 1568,
}
_CIPHERTEXT_LENGTHS: Final[dict[int, int]] = {
    KeyExchangeId.ML_KEM_768: 1088,
    KeyExchangeId.ML_KEM_1024: 1568,
}
# d and z of FIPS 203 §7.1.
SEED_LENGTH: Final = 64


class InvalidKeyExchange(ValueError):
    """The peer's public value has a wrong length, is off the curve, of low order, or 0, 1, p-1;

    with ML-KEM: is no key or no ciphertext.
    """


class _Private(Protocol):
    def decapsulate(self, ciphertext: bytes) -> bytes: ...

    def public_key(self) -> Any: ...  # noqa: ANN401 - one class per parameter set, no common one


class _Public(Protocol):
    def encapsulate(self) -> tuple[bytes, bytes]: ...


_Makers = tuple["Callable[[bytes], _Private]", "Callable[[bytes], _Public]"]


@cache
def _makers() -> dict[int, _Makers]:
    """What makes a private key of a seed and a public one of its octets.

    Raises ImportError where there is none. Around the public constructors, which import the
    whole backend first, as with X25519 (`kex`).
    """
    try:
        from cryptography.hazmat.bindings._rust import openssl

        m = openssl.mlkem
        return {
            KeyExchangeId.ML_KEM_768: (m.from_mlkem768_seed_bytes, m.from_mlkem768_public_bytes),
            KeyExchangeId.ML_KEM_1024: (
                m.from_mlkem1024_seed_bytes,
                m.from_mlkem1024_public_bytes,
            ),
        }
    except (ImportError, AttributeError):  # another version's inside, or none
        return _public_makers()


def _public_makers() -> dict[int, _Makers]:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import mlkem as m

    try:
        m.MLKEM768PrivateKey.generate()
    except UnsupportedAlgorithm:
        raise ImportError("this OpenSSL has no ML-KEM") from None
    return {
        KeyExchangeId.ML_KEM_768: (
            m.MLKEM768PrivateKey.from_seed_bytes,
            m.MLKEM768PublicKey.from_public_bytes,
        ),
        KeyExchangeId.ML_KEM_1024: (
            m.MLKEM1024PrivateKey.from_seed_bytes,
            m.MLKEM1024PublicKey.from_public_bytes,
        ),
    }


@cache
def is_there() -> bool:
    """Whether this cryptography package has ML-KEM."""
    try:
        _makers()
    except ImportError:
        return False
    return True


class Decapsulation:
    """The initiator's half: an encapsulation key from 64 random octets."""

    __slots__ = ("_private", "group", "public")

    def __init__(self, group: int, random: Random) -> None:
        self.group = group
        self._private = _makers()[group][0](random(SEED_LENGTH))
        self.public: bytes = self._private.public_key().public_bytes_raw()

    def shared(self, peer_public: bytes) -> bytes:
        """From the responder's ciphertext. Raises InvalidKeyExchange for a wrong length."""
        if len(peer_public) != _CIPHERTEXT_LENGTHS[self.group]:
            raise InvalidKeyExchange("ML-KEM: a ciphertext of a wrong length")
        try:
            return self._private.decapsulate(peer_public)
        except ValueError:
            raise InvalidKeyExchange("ML-KEM: not a ciphertext") from None


class Encapsulation:
    """The responder's half. `public`, the ciphertext, is there once `shared` was called.

    Its randomness is the cryptography package's own.
    """

    __slots__ = ("group", "public")

    def __init__(self, group: int, random: Random) -> None:
        _makers()
        self.group = group
        self.public = b""

    def shared(self, peer_public: bytes) -> bytes:
        """From the initiator's encapsulation key. Raises InvalidKeyExchange."""
        if len(peer_public) != PUBLIC_LENGTHS[self.group]:
            raise InvalidKeyExchange("ML-KEM: an encapsulation key of a wrong length")
        try:
            secret, self.public = _makers()[self.group][1](peer_public).encapsulate()
        except ValueError:
            raise InvalidKeyExchange("ML-KEM: not an encapsulation key") from None
        return secret
