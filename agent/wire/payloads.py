"""The payloads of RFC 7296 §3.3 to §3.16, RFC 7383 §2.5 and IDp of mediation.md as values.

Each class knows its type and how its body (what follows the generic header) is read and
written; `message` chains them. Unknown types become `UnknownPayload`. Reserved fields are
ignored when read and zero when written, except those of an identity, which AUTH covers. Left
out: looking into EAP messages and certificates. One small class a payload and the table of
them: longer than a file should be, but of one piece.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import fields
from struct import Struct
from typing import TYPE_CHECKING, ClassVar, Final

from agent.records import record
from agent.wire.codes import (
    AuthMethod,
    CertEncoding,
    CfgAttributeType,
    CfgType,
    IdType,
    KeyExchangeId,
    NotifyType,
    PayloadType,
    ProtocolId,
    known,
)
from agent.wire.errors import WireError
from agent.wire.identity import Identification
from agent.wire.proposals import Proposal, decode_proposals, encode_proposals
from agent.wire.selectors import TrafficSelector, decode_selectors, encode_selectors
from agent.wire.text import printable_hex

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__all__ = [
    "DECODERS",
    "AuthPayload",
    "CertPayload",
    "CertreqPayload",
    "CpPayload",
    "DeletePayload",
    "EapPayload",
    "Encrypted",
    "EncryptedFragment",
    "Identification",
    "IdiPayload",
    "IdpPayload",
    "IdrPayload",
    "KePayload",
    "NoncePayload",
    "NotifyPayload",
    "Payload",
    "SaPayload",
    "TsiPayload",
    "TsrPayload",
    "UnknownPayload",
    "VendorIdPayload",
]

# RFC 7296 §2.10: "Nonces ... MUST be ... between 16 and 256 octets in size, inclusive" (§3.9).
MIN_NONCE = 16
MAX_NONCE = 256
# A peer deletes what it has with us: two SPIs of a rekey, seldom more.
MAX_DELETE_SPIS = 256
MAX_CP_ATTRIBUTES = 64  # addresses, name servers, networks of one configuration
_MAX_NOTIFY_SPI = 16  # octets; 4 and 8 are used

_REPR_OCTETS = 32  # of a field; the rest says nothing in a log

_KE = Struct("!H2x")
_NOTIFY = Struct("!BBH")  # protocol, SPI size, type
_DELETE = Struct("!BBH")  # protocol, SPI size, count
_CP_ATTRIBUTE = Struct("!HH")
_FRAGMENT = Struct("!HH")  # fragment number, total


class Payload:
    """One payload: a value with a type."""

    # No ABC: its isinstance takes twice as long, and each message is asked for dozens of classes.
    # mypy looks after it as well.

    __slots__ = ()
    TYPE: ClassVar[int] = PayloadType.NONE

    @property
    def payload_type(self) -> int:
        """The number in the preceding payload's next payload field."""
        return self.TYPE

    @abstractmethod
    def encode(self) -> bytes:
        """The octets after the generic header. Raises WireError or struct.error."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{f.name}={_show(getattr(self, f.name))}" for f in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({shown})"


def _show(value: object) -> str:
    return printable_hex(value, 2 * _REPR_OCTETS) if isinstance(value, bytes) else repr(value)


@record(frozen=True, slots=True, repr=False)
class SaPayload(Payload):
    """RFC 7296 §3.3."""

    TYPE: ClassVar[int] = PayloadType.SA
    proposals: tuple[Proposal, ...]

    @classmethod
    def decode(cls, body: bytes) -> Self:
        return cls(decode_proposals(body))

    def encode(self) -> bytes:
        return encode_proposals(self.proposals)


@record(frozen=True, slots=True, repr=False)
class KePayload(Payload):
    """RFC 7296 §3.4. `data` is not checked here; the length belongs to the group."""

    TYPE: ClassVar[int] = PayloadType.KE
    group: int
    data: bytes

    @classmethod
    def decode(cls, body: bytes) -> Self:
        if len(body) <= _KE.size:
            raise WireError("ke_length")
        return cls(known(KeyExchangeId, _KE.unpack_from(body)[0]), body[_KE.size :])

    def encode(self) -> bytes:
        return _KE.pack(self.group) + self.data


@record(frozen=True, slots=True, repr=False)
class _IdPayload(Payload):
    """RFC 7296 §3.5. `reserved` as received: AUTH covers it (§2.15, RestOfIDPayload)."""

    identity: Identification
    reserved: bytes = bytes(3)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        if len(body) < 4:
            raise WireError("id_length")
        return cls(Identification(known(IdType, body[0]), body[4:]), body[1:4])

    def encode(self) -> bytes:
        if len(self.reserved) != 3:
            raise WireError("id_reserved")
        return bytes((self.identity.id_type,)) + self.reserved + self.identity.data

    @property
    def body(self) -> bytes:
        """RestOfInitIDPayload or RestOfRespIDPayload of RFC 7296 §2.15."""
        return self.encode()


@record(frozen=True, slots=True, repr=False)
class IdiPayload(_IdPayload):
    """The initiator's identity."""

    TYPE: ClassVar[int] = PayloadType.IDi


@record(frozen=True, slots=True, repr=False)
class IdrPayload(_IdPayload):
    """The responder's identity."""

    TYPE: ClassVar[int] = PayloadType.IDr


@record(frozen=True, slots=True, repr=False)
class IdpPayload(_IdPayload):
    """The other peer's pseudonym in ME_CONNECT (mediation.md)."""

    TYPE: ClassVar[int] = PayloadType.IDp


@record(frozen=True, slots=True, repr=False)
class _CertificatePayload(Payload):
    encoding: int
    data: bytes

    @classmethod
    def decode(cls, body: bytes) -> Self:
        if not body:
            raise WireError("cert_length")
        return cls(known(CertEncoding, body[0]), body[1:])

    def encode(self) -> bytes:
        return bytes((self.encoding,)) + self.data


@record(frozen=True, slots=True, repr=False)
class CertPayload(_CertificatePayload):
    """RFC 7296 §3.6."""

    TYPE: ClassVar[int] = PayloadType.CERT


@record(frozen=True, slots=True, repr=False)
class CertreqPayload(_CertificatePayload):
    """RFC 7296 §3.7."""

    TYPE: ClassVar[int] = PayloadType.CERTREQ


@record(frozen=True, slots=True, repr=False)
class AuthPayload(Payload):
    """RFC 7296 §3.8."""

    TYPE: ClassVar[int] = PayloadType.AUTH
    method: int
    data: bytes

    @classmethod
    def decode(cls, body: bytes) -> Self:
        if len(body) < 4:
            raise WireError("auth_length")
        return cls(known(AuthMethod, body[0]), body[4:])

    def encode(self) -> bytes:
        return bytes((self.method, 0, 0, 0)) + self.data


@record(frozen=True, slots=True, repr=False)
class NoncePayload(Payload):
    """RFC 7296 §3.9: 16 to 256 octets."""

    TYPE: ClassVar[int] = PayloadType.NONCE
    data: bytes

    @classmethod
    def decode(cls, body: bytes) -> Self:
        if not MIN_NONCE <= len(body) <= MAX_NONCE:
            raise WireError("nonce_length")
        return cls(body)

    def encode(self) -> bytes:
        if not MIN_NONCE <= len(self.data) <= MAX_NONCE:
            raise WireError("nonce_length")
        return self.data


@record(frozen=True, slots=True, repr=False)
class NotifyPayload(Payload):
    """RFC 7296 §3.10. `protocol` and `spi` only where the notify is about a Child SA."""

    TYPE: ClassVar[int] = PayloadType.N
    type: int
    data: bytes = b""
    protocol: int = 0
    spi: bytes = b""

    @classmethod
    def decode(cls, body: bytes) -> Self:
        if len(body) < _NOTIFY.size:
            raise WireError("notify_length")
        protocol, spi_size, type_ = _NOTIFY.unpack_from(body)
        start = _NOTIFY.size + spi_size
        if spi_size > _MAX_NOTIFY_SPI or start > len(body):
            raise WireError("notify_spi")
        return cls(
            known(NotifyType, type_),
            body[start:],
            known(ProtocolId, protocol),
            body[_NOTIFY.size : start],
        )

    def encode(self) -> bytes:
        if len(self.spi) > _MAX_NOTIFY_SPI:
            raise WireError("notify_spi")
        return _NOTIFY.pack(self.protocol, len(self.spi), self.type) + self.spi + self.data


@record(frozen=True, slots=True, repr=False)
class DeletePayload(Payload):
    """RFC 7296 §3.11. No SPI for the IKE SA itself, 4 octets each for ESP."""

    TYPE: ClassVar[int] = PayloadType.D
    protocol: int
    spis: tuple[bytes, ...] = ()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        if len(body) < _DELETE.size:
            raise WireError("delete_length")
        protocol, size, count = _DELETE.unpack_from(body)
        if count > MAX_DELETE_SPIS:
            raise WireError("delete_count")
        # `size * count` alone would let 65,535 SPIs of no octets through.
        if (count and not size) or _DELETE.size + size * count != len(body):
            raise WireError("delete_length")
        spis = tuple(body[at : at + size] for at in range(_DELETE.size, len(body), size or 1))
        return cls(known(ProtocolId, protocol), spis)

    def encode(self) -> bytes:
        size = len(self.spis[0]) if self.spis else 0
        if len(self.spis) > MAX_DELETE_SPIS or any(len(s) != size or not s for s in self.spis):
            raise WireError("delete_spis")
        return _DELETE.pack(self.protocol, size, len(self.spis)) + b"".join(self.spis)


@record(frozen=True, slots=True, repr=False)
class _OpaquePayload(Payload):
    data: bytes

    @classmethod
    def decode(cls, body: bytes) -> Self:
        return cls(body)

    def encode(self) -> bytes:
        return self.data


@record(frozen=True, slots=True, repr=False)
class VendorIdPayload(_OpaquePayload):
    """RFC 7296 §3.12."""

    TYPE: ClassVar[int] = PayloadType.V


@record(frozen=True, slots=True, repr=False)
class EapPayload(_OpaquePayload):
    """RFC 7296 §3.16: one EAP message, not looked into."""

    TYPE: ClassVar[int] = PayloadType.EAP


@record(frozen=True, slots=True, repr=False)
class _TsPayload(Payload):
    selectors: tuple[TrafficSelector, ...]

    @classmethod
    def decode(cls, body: bytes) -> Self:
        return cls(decode_selectors(body))

    def encode(self) -> bytes:
        return encode_selectors(self.selectors)


@record(frozen=True, slots=True, repr=False)
class TsiPayload(_TsPayload):
    """RFC 7296 §3.13: the initiator's side. Empty if no selector has a type that we know."""

    TYPE: ClassVar[int] = PayloadType.TSi


@record(frozen=True, slots=True, repr=False)
class TsrPayload(_TsPayload):
    """RFC 7296 §3.13: the responder's side."""

    TYPE: ClassVar[int] = PayloadType.TSr


@record(frozen=True, slots=True, repr=False)
class CpPayload(Payload):
    """RFC 7296 §3.15. `attributes` are (type, value); lengths are the reader's to check."""

    TYPE: ClassVar[int] = PayloadType.CP
    cfg_type: int
    attributes: tuple[tuple[int, bytes], ...] = ()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        if len(body) < 4:
            raise WireError("cp_length")
        attributes: list[tuple[int, bytes]] = []
        offset = 4
        while offset < len(body):
            if len(attributes) == MAX_CP_ATTRIBUTES:
                raise WireError("too_many_attributes")
            if len(body) - offset < _CP_ATTRIBUTE.size:
                raise WireError("cp_attribute_length")
            type_, length = _CP_ATTRIBUTE.unpack_from(body, offset)
            offset += _CP_ATTRIBUTE.size
            if length > len(body) - offset:
                raise WireError("cp_attribute_length")
            value = body[offset : offset + length]
            attributes.append((known(CfgAttributeType, type_ & 0x7FFF), value))
            offset += length
        return cls(known(CfgType, body[0]), tuple(attributes))

    def encode(self) -> bytes:
        if len(self.attributes) > MAX_CP_ATTRIBUTES:
            raise WireError("too_many_attributes")
        parts = [bytes((self.cfg_type, 0, 0, 0))]
        for type_, value in self.attributes:
            parts.append(_CP_ATTRIBUTE.pack(type_ & 0x7FFF, len(value)) + value)
        return b"".join(parts)


@record(frozen=True, slots=True, repr=False)
class UnknownPayload(Payload):
    """A payload of a type that is not read here. Ignored unless critical (RFC 7296 §2.5)."""

    type: int
    critical: bool
    data: bytes

    @property
    def payload_type(self) -> int:
        return self.type

    def encode(self) -> bytes:
        return self.data


@record(frozen=True, slots=True, repr=False)
class Encrypted(Payload):
    """RFC 7296 §3.14, the last payload. `body` is IV, ciphertext and ICV; `aad` all before it.

    `first_inner` is the type of the first payload inside (`PayloadType.NONE`: empty).
    """

    TYPE: ClassVar[int] = PayloadType.SK
    first_inner: int
    body: bytes
    aad: bytes = b""

    def encode(self) -> bytes:
        return self.body


@record(frozen=True, slots=True, repr=False)
class EncryptedFragment(Payload):
    """RFC 7383 §2.5, the last payload; `aad` goes up to and includes number and total."""

    TYPE: ClassVar[int] = PayloadType.SKF
    first_inner: int
    number: int
    total: int
    body: bytes
    aad: bytes = b""

    def encode(self) -> bytes:
        return _FRAGMENT.pack(self.number, self.total) + self.body


# By type: what reads the octets after the generic header. Raises WireError. The two that hold
# ciphertext are read by `message`, which knows where they begin.
DECODERS: Final[dict[int, Callable[[bytes], Payload]]] = {
    cls.TYPE: cls.decode
    for cls in (
        SaPayload,
        KePayload,
        IdiPayload,
        IdrPayload,
        IdpPayload,
        CertPayload,
        CertreqPayload,
        AuthPayload,
        NoncePayload,
        NotifyPayload,
        DeletePayload,
        VendorIdPayload,
        TsiPayload,
        TsrPayload,
        CpPayload,
        EapPayload,
    )
}
