"""Which signatures there are and how each is named: RFC 7427 §3 and appendix A, RFC 8420, RFC 4055.

A signature algorithm is known by the octets of its AlgorithmIdentifier, in AUTH payloads as in
certificates; nothing is parsed, and what is not in the table is not known. Where specifications
allow several encodings (RSASSA-PSS: parameters of each hash NULL or left out, RFC 4055 §2.1; the
default trailer field said, as in RFC 7427 A.4.3, or not, as DER wants it; PKCS #1 v1.5: parameters
NULL or left out, RFC 4055 §5) all of them are known and one is sent. SHA-1 is in no entry (RFC 8247
§3.2: MUST NOT), nor are DSA and salts of another length than the hash.

RFC 4754's methods (ECDSA with the hash that belongs to the curve, r | s as they are) serve peers
without RFC 7427. RSA Digital Signature (method 1) is left out: it is SHA-1 in practice.
"""

from __future__ import annotations

from enum import Enum
from itertools import product
from typing import Final, NamedTuple, Protocol

from agent.wire.codes import AuthMethod, HashId
from agent.wire.der import SEQUENCE, encode_element, encode_oid


class KeyKind(Enum):
    """What a key is; the values are for people."""

    ED25519 = "Ed25519"
    P256 = "ECDSA P-256"
    P384 = "ECDSA P-384"
    P521 = "ECDSA P-521"
    RSA = "RSA"

    @property
    def is_ecdsa(self) -> bool:
        """Whether it is one of the curves of FIPS 186."""
        return self in _LEGACY


class Scheme(NamedTuple):
    """A signature algorithm."""

    name: str
    hash: HashId
    algorithm: bytes
    """DER AlgorithmIdentifier, as it is sent."""
    is_ecdsa: bool = False
    is_pss: bool = False

    def fits(self, kind: KeyKind) -> bool:
        """Whether keys of this kind make such signatures."""
        if self is ED25519:
            return kind is KeyKind.ED25519
        return kind.is_ecdsa if self.is_ecdsa else kind is KeyKind.RSA


class Signer(Protocol):
    """A private key of any kind."""

    @property
    def kind(self) -> KeyKind:
        """Of what kind."""
        ...

    @property
    def spki(self) -> bytes:
        """The public half, DER SubjectPublicKeyInfo."""
        ...

    def sign_as(self, scheme: Scheme, data: bytes) -> bytes:
        """The signature of `data` as it stands in AUTH; `scheme` has to fit."""
        ...

    def sign_legacy(self, data: bytes) -> tuple[int, bytes] | None:
        """Method and signature of RFC 4754, None for keys without one."""
        ...


class Verifier(Protocol):
    """A public key of any kind."""

    @property
    def kind(self) -> KeyKind:
        """Of what kind."""
        ...

    def verify_as(self, scheme: Scheme, data: bytes, signature: bytes) -> bool:
        """Whether `signature` is one of `data`; False for a scheme that does not fit."""
        ...

    def verify_legacy(self, method: int, data: bytes, signature: bytes) -> bool:
        """Whether this is AUTH `method` of RFC 4754 over `data`, r and s side by side."""
        ...


_NULL: Final = b"\x05\0"
_SHA2: Final = {
    # NIST's identifiers, 2.16.840.1.101.3.4.2.n, and the octets of the hash
    HashId.SHA2_256: ("SHA2-256", encode_oid("2.16.840.1.101.3.4.2.1"), 32),
    HashId.SHA2_384: ("SHA2-384", encode_oid("2.16.840.1.101.3.4.2.2"), 48),
    HashId.SHA2_512: ("SHA2-512", encode_oid("2.16.840.1.101.3.4.2.3"), 64),
}
HASH_LENGTHS: Final = {hash_id: length for hash_id, (_, _, length) in _SHA2.items()}


def _identifier(oid: str, parameters: bytes) -> bytes:
    return encode_element(SEQUENCE, encode_oid(oid), parameters)


def _pss(hash_id: HashId, *, null: bool, mask_null: bool, trailer: bool) -> bytes:
    """RSASSA-PSS-params: hash, MGF1 with the same hash, a salt as long as it, trailer field 1."""
    _, oid, salt = _SHA2[hash_id]
    hashed, masked = (
        encode_element(SEQUENCE, oid, _NULL if said else b"") for said in (null, mask_null)
    )
    mgf1 = encode_element(SEQUENCE, encode_oid("1.2.840.113549.1.1.8"), masked)
    parameters = encode_element(
        SEQUENCE,
        encode_element(0xA0, hashed),
        encode_element(0xA1, mgf1),
        encode_element(0xA2, encode_element(0x02, bytes((salt,)))),
        encode_element(0xA3, b"\x02\x01\x01") if trailer else b"",
    )
    return _identifier("1.2.840.113549.1.1.10", parameters)


def _ecdsa_scheme(hash_id: HashId, arc: int) -> Scheme:
    algorithm = _identifier(f"1.2.840.10045.4.3.{arc}", b"")
    return Scheme(f"ECDSA with {_SHA2[hash_id][0]}", hash_id, algorithm, is_ecdsa=True)


def _pkcs1(arc: int, parameters: bytes) -> bytes:
    return _identifier(f"1.2.840.113549.1.1.{arc}", parameters)


def _pkcs1_scheme(hash_id: HashId, arc: int) -> Scheme:
    algorithm = _pkcs1(arc, _NULL)
    return Scheme(f"RSASSA-PKCS1-v1_5 with {_SHA2[hash_id][0]}", hash_id, algorithm)


def _pss_scheme(hash_id: HashId) -> Scheme:
    algorithm = _pss(hash_id, null=True, mask_null=True, trailer=False)
    return Scheme(f"RSASSA-PSS with {_SHA2[hash_id][0]}", hash_id, algorithm, is_pss=True)


# RFC 8420 appendix A: SEQUENCE { OID 1.3.101.112 }, no parameters.
ED25519: Final = Scheme("Ed25519", HashId.IDENTITY, _identifier("1.3.101.112", b""))
ECDSA: Final = tuple(_ecdsa_scheme(hash_id, arc) for arc, hash_id in enumerate(_SHA2, 2))
RSA_PSS: Final = tuple(map(_pss_scheme, _SHA2))
RSA_PKCS1: Final = tuple(_pkcs1_scheme(hash_id, arc) for arc, hash_id in enumerate(_SHA2, 11))
SCHEMES: Final = (ED25519, *ECDSA, *RSA_PSS, *RSA_PKCS1)

_BOTH: Final = (True, False)
_BY_ALGORITHM: Final[dict[bytes, Scheme]] = {
    **{scheme.algorithm: scheme for scheme in SCHEMES},
    **{
        _pss(scheme.hash, null=null, mask_null=mask_null, trailer=trailer): scheme
        for scheme, null, mask_null, trailer in product(RSA_PSS, _BOTH, _BOTH, _BOTH)
    },
    **{_pkcs1(arc, b""): scheme for arc, scheme in enumerate(RSA_PKCS1, 11)},
}

# RFC 4754 §3: method and hash of each curve, and how long r and s each are.
_LEGACY: Final = {
    KeyKind.P256: (AuthMethod.ECDSA_SHA256_P256, ECDSA[0], 32),
    KeyKind.P384: (AuthMethod.ECDSA_SHA384_P384, ECDSA[1], 48),
    KeyKind.P521: (AuthMethod.ECDSA_SHA512_P521, ECDSA[2], 66),
}

ANNOUNCED: Final = (HashId.SHA2_256, HashId.SHA2_384, HashId.SHA2_512, HashId.IDENTITY)
"""What SIGNATURE_HASH_ALGORITHMS says on our side: the hash of every scheme."""
ANNOUNCEMENT: Final = b"".join(hash_id.to_bytes(2, "big") for hash_id in ANNOUNCED)


def scheme_of(algorithm: bytes) -> Scheme | None:
    """The scheme with this AlgorithmIdentifier; None: unknown, or not good enough."""
    return _BY_ALGORITHM.get(algorithm)


def decode_announcement(data: bytes) -> frozenset[int]:
    """The hashes in SIGNATURE_HASH_ALGORITHMS (RFC 7427 §4). Cannot fail."""
    return frozenset(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data) - 1, 2))


def choose(kind: KeyKind, hashes: frozenset[int], like: Scheme | None = None) -> Scheme | None:
    """How to sign for a peer that announced `hashes`, None if there is no way.

    ECDSA: the hash of the curve's own size if the peer has it, else the next best. RSA: PSS (RFC
    8247 §3.2), SHA2-256 first, which every peer has to have; PKCS #1 v1.5 if the peer signed
    `like` that, as it then perhaps has nothing newer (RFC 7427 §5).
    """
    if kind is KeyKind.ED25519:
        schemes: tuple[Scheme, ...] = (ED25519,)
    elif kind is KeyKind.RSA:
        schemes = RSA_PKCS1 if like in RSA_PKCS1 else RSA_PSS
    else:
        own = _LEGACY[kind][1]
        schemes = (own, *(scheme for scheme in reversed(ECDSA) if scheme is not own))
    return next((scheme for scheme in schemes if scheme.hash in hashes), None)


def legacy_method(kind: KeyKind) -> tuple[AuthMethod, Scheme, int] | None:
    """For peers without RFC 7427: method, scheme, and octets of r and of s (RFC 4754 §3)."""
    return _LEGACY.get(kind)
