"""Ed25519 keys as people and files have them: text, PEM (RFC 8410), and what is derived from them.

The text of a public key is base64url of its 32 octets without padding, 43 characters. PEM and DER
of the one shape that RFC 8410 §4 and §7 give an Ed25519 key are read and written here, without
cryptography's serialization module (2 MB, 11 ms). Reading and printing keys does not load
cryptography at all; signing does. Left out: encrypted private keys; other algorithms are in
`public_keys`.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, Final

from agent.crypto.digest import sha256
from agent.crypto.signatures import ED25519, KeyKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.crypto.signatures import Scheme

    Random = Callable[[int], bytes]

KEY_LENGTH: Final = 32
KEY_TEXT_LENGTH: Final = 43

# Key files are a few hundred octets; more is some other file.
MAX_KEY_FILE: Final = 16384

PKCS8_HEAD: Final = bytes.fromhex("302e020100")  # RFC 8410 §7: SEQUENCE, length, version
PKCS8_ED25519: Final = bytes.fromhex("300506032b657004220420")
SPKI_PREFIX: Final = bytes.fromhex("302a300506032b6570032100")  # RFC 8410 §4

_FIELD: Final = 2**255 - 19
# y of the points of order 8, the other one being its negative.
_ORDER_8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER_Y: Final = frozenset((0, 1, _FIELD - 1, _ORDER_8, _FIELD - _ORDER_8))


class InvalidKey(ValueError):
    """This is not a key in a form that we read."""


class PublicKey:
    """An Ed25519 public key: 32 octets (RFC 8032 §5.1.5), compared and hashed by them."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        """Raises InvalidKey for a wrong length and for points of small order.

        Under a key of small order anyone can sign anything, so nobody may be pinned to one.
        """
        if len(raw) != KEY_LENGTH:
            raise InvalidKey(f"a public key has {KEY_LENGTH} octets, not {len(raw)}")
        y = int.from_bytes(raw, "little") & ((1 << 255) - 1)
        if y % _FIELD in _SMALL_ORDER_Y:
            raise InvalidKey("a key of small order proves nothing")
        self.raw = raw

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Whether the owner of this key signed `data`. Cannot fail, whatever the octets are."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            # Not at construction: a mediator pins many and checks few.
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except (InvalidSignature, ValueError):
            return False
        return True

    def verify_as(self, scheme: Scheme, data: bytes, signature: bytes) -> bool:
        """See Verifier."""
        return scheme is ED25519 and self.verify(data, signature)

    def verify_legacy(self, method: int, data: bytes, signature: bytes) -> bool:
        """See Verifier: Ed25519 has no method of its own."""
        return False

    @property
    def kind(self) -> KeyKind:
        """See Verifier."""
        return KeyKind.ED25519

    @property
    def spki(self) -> bytes:
        """DER SubjectPublicKeyInfo (RFC 8410 §4)."""
        return SPKI_PREFIX + self.raw

    def pem(self) -> bytes:
        """SubjectPublicKeyInfo, as other IPsec implementations read it."""
        return _armour(b"PUBLIC KEY", self.spki)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __str__(self) -> str:
        return key_text(self.raw)

    def __repr__(self) -> str:
        return f"PublicKey({key_text(self.raw)})"


class SigningKey:
    """An Ed25519 private key. Its repr shows the public half."""

    __slots__ = ("_key", "_seed", "public")

    def __init__(self, seed: bytes) -> None:
        """From the 32 octets that RFC 8032 calls the private key. Raises InvalidKey."""
        if len(seed) != KEY_LENGTH:
            raise InvalidKey(f"a private key has {KEY_LENGTH} octets, not {len(seed)}")
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        public = self._key.public_key()
        if hasattr(public, "public_bytes_raw"):
            self.public = public.public_bytes_raw()
        else:  # cryptography before 40
            from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

            self.public = public.public_bytes(Encoding.Raw, PublicFormat.Raw)

    @classmethod
    def from_seed(cls, seed: bytes) -> SigningKey:
        """The same as the constructor."""
        return cls(seed)

    @classmethod
    def generate(cls, random: Random) -> SigningKey:
        """A new key from 32 octets of `random`."""
        return cls(random(KEY_LENGTH))

    @classmethod
    def derive(cls, secret: bytes, purpose: str) -> SigningKey:
        """One of several independent keys from one secret of at least 16 octets (invitations).

        HMAC-SHA-256 under the secret, over a text that names us and the purpose. Raises InvalidKey
        for a shorter secret.
        """
        if len(secret) < 16:
            raise InvalidKey("a secret of less than 16 octets is not one")
        from agent.crypto.algorithms import make_prf
        from agent.wire.codes import PrfId

        prf = make_prf(PrfId.PRF_HMAC_SHA2_256)
        return cls(prf(secret, b"hearthgate key " + purpose.encode()))

    @property
    def seed(self) -> bytes:
        """The private octets, for who stores them."""
        return self._seed

    def sign(self, data: bytes) -> bytes:
        """64 octets."""
        return self._key.sign(data)

    def sign_as(self, scheme: Scheme, data: bytes) -> bytes:
        """See Signer."""
        return self.sign(data)

    def sign_legacy(self, data: bytes) -> tuple[int, bytes] | None:
        """See Signer: Ed25519 has no method of its own."""
        return None

    @property
    def kind(self) -> KeyKind:
        """See Signer."""
        return KeyKind.ED25519

    @property
    def spki(self) -> bytes:
        """See Signer."""
        return SPKI_PREFIX + self.public

    def public_key(self) -> PublicKey:
        """The public half as an object."""
        return PublicKey(self.public)

    def pem(self) -> bytes:
        """PKCS #8, not encrypted: a secret."""
        return _armour(b"PRIVATE KEY", PKCS8_HEAD + PKCS8_ED25519 + self._seed)

    def __repr__(self) -> str:
        return f"SigningKey(public={key_text(self.public)})"


def key_text(public: bytes) -> str:
    """The 43 characters that people see for 32 octets."""
    text = binascii.b2a_base64(public, newline=False).decode("ascii")
    return text.rstrip("=").translate(_TO_URL)


_TO_URL: Final = str.maketrans("+/", "-_")
_FROM_URL: Final = str.maketrans("-_", "+/")


def parse_key_text(text: str) -> bytes:
    """The 32 octets behind 43 characters. Raises InvalidKey for anything else.

    Only the one way to write a key is taken, so that texts may be compared as texts.
    """
    text = text.strip()
    if len(text) != KEY_TEXT_LENGTH or not text.isascii():
        raise InvalidKey(f"a public key is written in {KEY_TEXT_LENGTH} characters A-Z a-z 0-9 - _")
    try:
        raw = binascii.a2b_base64(text.translate(_FROM_URL) + "=")
    except binascii.Error:
        raw = b""
    if len(raw) != KEY_LENGTH or key_text(raw) != text:
        raise InvalidKey("this public key is misspelt: a character is wrong or was left out")
    return raw


def load_private_key(data: bytes) -> SigningKey:
    """From 32 raw octets, or PKCS #8 in PEM or DER. Raises InvalidKey, which shows no octets."""
    if len(data) == KEY_LENGTH:
        return SigningKey(data)
    der = _unarmour(data, b"PRIVATE KEY")
    start = len(PKCS8_HEAD) + len(PKCS8_ED25519)
    # Version 1 (RFC 5958) adds the public half at the end, which we compute ourselves.
    if (
        len(der) >= start + KEY_LENGTH
        and der[0] == 0x30
        and der[1] == len(der) - 2
        and der[2:4] == b"\x02\x01"
        and der[4] <= 1
        and der[len(PKCS8_HEAD) : start] == PKCS8_ED25519
    ):
        return SigningKey(der[start : start + KEY_LENGTH])
    raise InvalidKey("this is not an Ed25519 private key in PKCS #8 without a password")


def load_public_key(data: bytes) -> PublicKey:
    """From 32 raw octets, 43 characters, or SPKI in PEM or DER. Raises InvalidKey."""
    if len(data) == KEY_LENGTH:
        return PublicKey(data)
    text = data.strip()
    if len(text) == KEY_TEXT_LENGTH:
        return PublicKey(parse_key_text(text.decode("ascii", "replace")))
    der = _unarmour(data, b"PUBLIC KEY")
    if len(der) != len(SPKI_PREFIX) + KEY_LENGTH or not der.startswith(SPKI_PREFIX):
        raise InvalidKey("this is not an Ed25519 public key")
    return PublicKey(der[len(SPKI_PREFIX) :])


def inner_address(public: bytes) -> bytes:
    """The IPv6 ULA (RFC 4193 §3.1 with the L bit) of the machine with this identity key, 16 octets.

    The first 120 bits of a hash; to own somebody's address is to find a second preimage of them.
    """
    return b"\xfd" + sha256(b"hearthgate address" + public)[:15]


def pseudonym_hash(id_octets: bytes) -> bytes:
    """The 16 octets by which a peer tells its mediator whom it accepts, without telling whom."""
    return sha256(b"hearthgate pseudonym" + id_octets)[:16]


def _armour(label: bytes, der: bytes) -> bytes:
    body = binascii.b2a_base64(der, newline=False)  # never more than one line of 64 characters
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (label, body, label)


def _unarmour(data: bytes, label: bytes) -> bytes:
    """DER from PEM, or `data` itself where there is no armour. Raises InvalidKey."""
    if len(data) > MAX_KEY_FILE:
        raise InvalidKey("this is too long for a key")
    begin = b"-----BEGIN %b-----" % label
    start = data.find(begin)
    if start < 0:
        if b"-----BEGIN" in data:
            raise InvalidKey(f"a PEM file with a {label.decode()} is needed")
        return data
    end = data.find(b"-----END %b-----" % label, start)
    if end < 0:
        raise InvalidKey("the PEM file is cut short")
    try:
        return binascii.a2b_base64(data[start + len(begin) : end])
    except binascii.Error:
        raise InvalidKey("the PEM file is damaged") from None
