"""Key exchanges: X25519 (RFC 8031), ECP (RFC 5903), MODP (RFC 3526), with the checks of RFC 6989;
ML-KEM-768 and ML-KEM-1024 (FIPS 203, draft-ietf-ipsecme-ikev2-mlkem), see `kem`.

A new group is a row in the table at the end. Private values come from random octets that are passed
in, so a test gets the same bytes each run; the arithmetic is OpenSSL's, which takes the same time
for each private value.

MODP: Python's pow() takes a time that depends on the exponent, and 2.3 ms with a 256 bit one, so
it is not used. cryptography's `generate_private_key()` is quick but draws its own random octets, so
the key is built from numbers. These want the public value too, which we do not have; nothing in
OpenSSL compares the two, hence a key with a stand-in is made first (8 µs) and "exchanged" with the
generator: that is g^x, our public value. Measured: 0.28 ms for each half with cryptography 50, 2 ms
with 38, where OpenSSL also checks the peer's value for its subgroup. cryptography calls finite
field groups deprecated; a version without them has no MODP, and `supports_group` says so.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from agent.crypto import kem
from agent.crypto.kem import InvalidKeyExchange
from agent.crypto.modp import MODP_2048, MODP_3072, MODP_4096
from agent.wire.codes import KeyExchangeId

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.dh import (
        DHParameterNumbers,
        DHPrivateNumbers,
        DHPublicNumbers,
    )
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurve
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    Random = Callable[[int], bytes]

__all__ = [
    "InvalidKeyExchange",
    "KeyExchange",
    "KeyExchangeFactory",
    "UnsupportedGroup",
    "generate_key_exchange",
    "public_length",
    "supports_group",
]

# A random octet string is no valid scalar of P-256 once in 2^32, of the others more rarely. Eight
# in a row say that the source is broken, and a broken source must not become an endless loop.
MAX_SCALAR_DRAWS: Final = 8


class UnsupportedGroup(ValueError):
    """There is no row for this group, or this cryptography package does not have it."""


class KeyExchange(Protocol):
    """Our half of one key exchange. Use it once; it shows no private value.

    Where we answer, call `shared` before `public` is read: what a KEM sends back is a ciphertext,
    which is made of what came.
    """

    @property
    def group(self) -> int:
        """Transform ID, as the KE payload names it."""

    @property
    def public(self) -> bytes:
        """Key exchange data as the KE payload carries it."""

    def shared(self, peer_public: bytes) -> bytes:
        """The shared secret as SKEYSEED wants it. Raises InvalidKeyExchange, for any octets."""


@cache
def _x25519() -> tuple[Callable[[bytes], X25519PrivateKey], Callable[[bytes], X25519PublicKey]]:
    """What makes a private and a public key of raw octets.

    The public constructors import the whole OpenSSL backend only to ask it whether it knows
    X25519: RSA, random and the old ciphers, 2.3 MB of resident memory. What they then call is
    called here directly, where it is there.
    """
    try:
        from cryptography.hazmat.bindings._rust import openssl

        return openssl.x25519.from_private_bytes, openssl.x25519.from_public_bytes
    except (ImportError, AttributeError):  # another version's inside
        from cryptography.hazmat.primitives.asymmetric import x25519

        return (
            x25519.X25519PrivateKey.from_private_bytes,
            x25519.X25519PublicKey.from_public_bytes,
        )


class X25519KeyExchange:
    """RFC 8031 §2: 32 octets each way; an all-zero result is refused (RFC 7748 §6.1)."""

    __slots__ = ("_private", "group", "public")

    def __init__(self, group: int, random: Random) -> None:
        self.group = group
        self._private = _x25519()[0](random(32))
        public = self._private.public_key()
        if hasattr(public, "public_bytes_raw"):
            self.public = public.public_bytes_raw()
        else:  # cryptography before 40
            from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

            self.public = public.public_bytes(Encoding.Raw, PublicFormat.Raw)

    def shared(self, peer_public: bytes) -> bytes:
        """See KeyExchange."""
        try:
            return self._private.exchange(_x25519()[1](peer_public))
        except ValueError:  # wrong length, or a point of low order
            raise InvalidKeyExchange("X25519: not a usable public value") from None


class EcpKeyExchange:
    """RFC 5903 §7: x and y of the point each way, x alone as the secret."""

    __slots__ = ("_curve", "_private", "group", "public")

    def __init__(self, group: int, curve: EllipticCurve, order: int, random: Random) -> None:
        from cryptography.hazmat.primitives.asymmetric.ec import derive_private_key

        self.group = group
        self._curve = curve
        self._private = derive_private_key(_scalar(order, random), curve)
        numbers = self._private.public_key().public_numbers()
        size = (curve.key_size + 7) // 8
        self.public = numbers.x.to_bytes(size, "big") + numbers.y.to_bytes(size, "big")

    def shared(self, peer_public: bytes) -> bytes:
        """See KeyExchange."""
        from cryptography.hazmat.primitives.asymmetric.ec import ECDH, EllipticCurvePublicKey

        # One length, so only the uncompressed form can be meant. It is checked to be on the curve.
        if len(peer_public) == len(self.public):
            try:
                peer = EllipticCurvePublicKey.from_encoded_point(self._curve, b"\x04" + peer_public)
                return self._private.exchange(ECDH(), peer)
            except ValueError:
                pass
        raise InvalidKeyExchange("ECP: not a point of the curve")


def _scalar(order: int, random: Random) -> int:
    """A private value from 1 to order - 1 by rejection: the octets drawn *are* the value."""
    bits = order.bit_length()
    size = (bits + 7) // 8
    for _ in range(MAX_SCALAR_DRAWS):
        value = int.from_bytes(random(size), "big") & ((1 << bits) - 1)
        if 0 < value < order:
            return value
    raise RuntimeError("the random source does not give random octets")


class ModpKeyExchange:
    """RFC 7296 appendix B and §3.4: values and secret as long as the prime, zeros in front."""

    __slots__ = ("_prime", "_private", "group", "public")

    def __init__(self, group: int, prime: int, exponent_length: int, random: Random) -> None:
        self.group = group
        self._prime = prime
        # The top bit is set, so that the exponent is never short nor zero whatever was drawn.
        exponent = int.from_bytes(b"\x80" + bytes(exponent_length - 1), "big") | int.from_bytes(
            random(exponent_length), "big"
        )
        stand_in = _dh().public(2, _dh().parameters(prime, 2))
        self._private = _dh().private(exponent, stand_in).private_key()
        self.public = self._exchange(2)

    def _exchange(self, value: int) -> bytes:
        peer = _dh().public(value, _dh().parameters(self._prime, 2)).public_key()
        secret = self._private.exchange(peer)
        return secret.rjust((self._prime.bit_length() + 7) // 8, b"\0")

    def shared(self, peer_public: bytes) -> bytes:
        """See KeyExchange."""
        value = int.from_bytes(peer_public, "big")
        # RFC 6989 §2.1 for groups with a safe prime: the range is all there is to check.
        if len(peer_public) == len(self.public) and 1 < value < self._prime - 1:
            try:
                return self._exchange(value)
            except ValueError:  # what OpenSSL refuses beyond that
                pass
        raise InvalidKeyExchange("MODP: not a usable public value")


class _Dh(NamedTuple):
    """The classes of cryptography's dh module that are used here."""

    private: type[DHPrivateNumbers]
    public: type[DHPublicNumbers]
    parameters: type[DHParameterNumbers]


@cache
def _dh() -> _Dh:
    """Raises ImportError where cryptography has no finite field groups any more."""
    with warnings.catch_warnings():
        # Naming these classes warns that they will go: known, and nothing a user can change.
        warnings.simplefilter("ignore")
        from cryptography.hazmat.primitives.asymmetric.dh import (
            DHParameterNumbers,
            DHPrivateNumbers,
            DHPublicNumbers,
        )
    return _Dh(DHPrivateNumbers, DHPublicNumbers, DHParameterNumbers)


# Orders of the curves' groups: FIPS 186-4 D.1.2.3 to D.1.2.5, SEC 2 §2.4.2, §2.5.1, §2.6.1.
_ECP: Final = {
    KeyExchangeId.ECP_256: (
        "SECP256R1",
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    ),
    KeyExchangeId.ECP_384: (
        "SECP384R1",
        2**384 - 0x389CB27E0BC8D220A7E5F24DB74F58851313E695333AD68D,
    ),
    KeyExchangeId.ECP_521: (
        "SECP521R1",
        2**521 - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7,
    ),
}
_MODP: Final = {
    KeyExchangeId.MODP_2048: MODP_2048,
    KeyExchangeId.MODP_3072: MODP_3072,
    KeyExchangeId.MODP_4096: MODP_4096,
}


def _ecp(group: int, random: Random) -> KeyExchange:
    from cryptography.hazmat.primitives.asymmetric import ec

    name, order = _ECP[KeyExchangeId(group)]
    return EcpKeyExchange(group, getattr(ec, name)(), order, random)


def _modp(group: int, random: Random) -> KeyExchange:
    row = _MODP[KeyExchangeId(group)]
    return ModpKeyExchange(group, row.prime, row.exponent_length, random)


def _always() -> bool:
    return True


def _has_finite_fields() -> bool:
    try:
        _dh()
    except ImportError:
        return False
    return True


class _Group(NamedTuple):
    public_length: int  # octets of what the initiator sends
    generate: Callable[[int, Random], KeyExchange]
    is_there: Callable[[], bool] = _always
    # What a responder answers with, where the two sides do not do the same (a KEM).
    answer: Callable[[int, Random], KeyExchange] | None = None


_GROUPS: Final[dict[int, _Group]] = {
    KeyExchangeId.CURVE25519: _Group(32, X25519KeyExchange),
    KeyExchangeId.ECP_256: _Group(64, _ecp),
    KeyExchangeId.ECP_384: _Group(96, _ecp),
    KeyExchangeId.ECP_521: _Group(132, _ecp),
    KeyExchangeId.MODP_2048: _Group(256, _modp, _has_finite_fields),
    KeyExchangeId.MODP_3072: _Group(384, _modp, _has_finite_fields),
    KeyExchangeId.MODP_4096: _Group(512, _modp, _has_finite_fields),
    **{
        group: _Group(size, kem.Decapsulation, kem.is_there, kem.Encapsulation)
        for group, size in kem.PUBLIC_LENGTHS.items()
    },
}


def public_length(group: int) -> int:
    """Octets of key exchange data of this group. Raises UnsupportedGroup."""
    row = _GROUPS.get(group)
    if row is None:
        raise UnsupportedGroup(f"key exchange group {int(group)} is not supported")
    return row.public_length


def supports_group(group: int) -> bool:
    """Whether `generate_key_exchange` takes this group. Cannot fail."""
    row = _GROUPS.get(group)
    return row is not None and row.is_there()


class KeyExchangeFactory(Protocol):
    """As `generate_key_exchange`."""

    def __call__(self, group: int, random: Random, *, answering: bool = False) -> KeyExchange:
        """Our half, or what answers the other side's."""


def generate_key_exchange(group: int, random: Random, *, answering: bool = False) -> KeyExchange:
    """Our half, from octets of `random` alone but for a KEM's ciphertext. Raises UnsupportedGroup.

    `answering`: the initiator's half is there already (see KeyExchange).
    """
    row = _GROUPS.get(group)
    if row is None:
        raise UnsupportedGroup(f"key exchange group {int(group)} is not supported")
    make = row.answer if answering and row.answer is not None else row.generate
    try:
        return make(group, random)
    except ImportError:
        raise UnsupportedGroup(f"this cryptography package has no group {int(group)}") from None
