"""Transforms and proposals as values, on the wire and as text (RFC 7296 §3.3).

Numbers of proposals and transforms are bounded; an attribute that nobody knows makes its
transform, not the message, unacceptable (§3.3.6). `proposals` chooses among them and reads the
words of a configuration. Left out: AH, IPComp.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from agent.records import record
from agent.wire.codes import (
    EncryptionId,
    EsnId,
    IntegrityId,
    KeyExchangeId,
    PrfId,
    ProtocolId,
    TransformAttributeType,
    TransformType,
    known,
)
from agent.wire.errors import WireError
from agent.wire.keywords import ADDITIONAL, PRF_OF_INTEGRITY, word_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from enum import IntEnum

# The proposals of honest peers number less than 20 with less than 60 transforms each; without
# a bound one datagram of 64 kB holds 8,000 transforms, each an object, before anything is proven.
MAX_PROPOSALS = 64
MAX_TRANSFORMS = 512  # in one SA payload
MAX_ATTRIBUTES = 8  # of one transform; one is defined
MAX_SPI = 8  # octets: 4 of ESP, 8 of IKE

_PROPOSAL = Struct("!BxHBBBB")  # last, length, number, protocol, SPI size, transforms
_TRANSFORM = Struct("!BxHBxH")  # last, length, type, ID
_ATTRIBUTE = Struct("!HH")  # format bit and type, value or length
_MORE_PROPOSALS = 2
_MORE_TRANSFORMS = 3
_FIXED_FORMAT = 0x8000

_IDS: dict[int, type[IntEnum]] = {
    TransformType.ENCR: EncryptionId,
    TransformType.PRF: PrfId,
    TransformType.INTEG: IntegrityId,
    TransformType.KE: KeyExchangeId,
    TransformType.ESN: EsnId,
    **dict.fromkeys(range(TransformType.ADDKE1, TransformType.ADDKE7 + 1), KeyExchangeId),
}


@record(frozen=True, slots=True)
class Transform:
    """One algorithm. `key_length` in bits, None where the attribute is absent.

    `attributes` are those that we do not understand (type, value); such a transform equals
    none of ours and is never chosen.
    """

    type: int
    id: int
    key_length: int | None = None
    attributes: tuple[tuple[int, bytes], ...] = ()

    def __str__(self) -> str:
        return word_of(self.type, self.id, self.key_length)


_KEY_EXCHANGES = frozenset({TransformType.KE, *ADDITIONAL})


@record(frozen=True, slots=True)
class Proposal:
    """Alternatives for one SA: any one transform of each type. `spi` is empty, 4 or 8 octets."""

    protocol: int
    spi: bytes = b""
    transforms: tuple[Transform, ...] = ()
    number: int = 1

    def of_type(self, type_: int) -> tuple[Transform, ...]:
        """The transforms of one type, in their order."""
        return tuple([t for t in self.transforms if t.type == type_])

    def transform(self, type_: int) -> Transform | None:
        """The first transform of a type; the only one in a chosen proposal."""
        return next((t for t in self.transforms if t.type == type_), None)

    @property
    def additional(self) -> tuple[int, ...]:
        """The types of additional key exchanges that it has (RFC 9370), "none" among them."""
        kinds = {t.type for t in self.transforms}
        return tuple(kind for kind in ADDITIONAL if kind in kinds)

    def with_spi(self, spi: bytes) -> Proposal:
        """The same with another SPI."""
        return Proposal(self.protocol, spi, self.transforms, self.number)

    def without_key_exchange(self) -> Proposal:
        """The same for IKE_AUTH, where a Child SA has no exchange of its own (RFC 7296 §1.2)."""
        kept = tuple(t for t in self.transforms if t.type not in _KEY_EXCHANGES)
        return Proposal(self.protocol, self.spi, kept, self.number)

    def __str__(self) -> str:
        return format_proposal(self)


# --- wire ---------------------------------------------------------------------------------


def decode_proposals(data: bytes) -> tuple[Proposal, ...]:
    """The body of an SA payload. Raises WireError."""
    proposals: list[Proposal] = []
    offset, budget, more = 0, MAX_TRANSFORMS, True
    while more:
        if len(proposals) == MAX_PROPOSALS:
            raise WireError("too_many_proposals")
        if len(data) - offset < _PROPOSAL.size:
            raise WireError("proposal_length")
        last, length, number, protocol, spi_size, count = _PROPOSAL.unpack_from(data, offset)
        more = last == _MORE_PROPOSALS
        start = offset + _PROPOSAL.size + spi_size
        end = offset + length
        if start > end or end > len(data):
            raise WireError("proposal_length")
        if last not in (0, _MORE_PROPOSALS) or spi_size > MAX_SPI:
            raise WireError("proposal")
        budget -= count
        if budget < 0:
            raise WireError("too_many_transforms")
        proposals.append(
            Proposal(
                protocol=known(ProtocolId, protocol),
                spi=data[start - spi_size : start],
                transforms=_decode_transforms(data, start, end, count),
                number=number,
            )
        )
        offset = end
    if offset != len(data):
        raise WireError("proposal_length")
    return tuple(proposals)


def _decode_transforms(data: bytes, offset: int, end: int, count: int) -> tuple[Transform, ...]:
    transforms: list[Transform] = []
    for left in range(count - 1, -1, -1):
        if end - offset < _TRANSFORM.size:
            raise WireError("transform_length")
        last, length, type_, id_ = _TRANSFORM.unpack_from(data, offset)
        next_offset = offset + length
        if length < _TRANSFORM.size or next_offset > end:
            raise WireError("transform_length")
        if last != (_MORE_TRANSFORMS if left else 0):
            raise WireError("transform_count")
        key_length, unknown = _decode_attributes(data, offset + _TRANSFORM.size, next_offset)
        ids = _IDS.get(type_)
        transforms.append(
            Transform(
                known(TransformType, type_), known(ids, id_) if ids else id_, key_length, unknown
            )
        )
        offset = next_offset
    if offset != end:
        raise WireError("transform_count")
    return tuple(transforms)


def _decode_attributes(
    data: bytes, offset: int, end: int
) -> tuple[int | None, tuple[tuple[int, bytes], ...]]:
    key_length: int | None = None
    unknown: list[tuple[int, bytes]] = []
    while offset < end:
        if end - offset < _ATTRIBUTE.size:
            raise WireError("attribute_length")
        type_, value = _ATTRIBUTE.unpack_from(data, offset)
        offset += _ATTRIBUTE.size
        if type_ == _FIXED_FORMAT | TransformAttributeType.KEY_LENGTH and key_length is None:
            key_length = value
            continue
        if len(unknown) == MAX_ATTRIBUTES:
            raise WireError("too_many_attributes")
        # A second key length or one in the variable format ends here too: not understood.
        if type_ & _FIXED_FORMAT:
            unknown.append((type_, data[offset - 2 : offset]))
            continue
        if value > end - offset:
            raise WireError("attribute_length")
        unknown.append((type_, data[offset : offset + value]))
        offset += value
    return key_length, tuple(unknown)


def encode_proposals(proposals: Sequence[Proposal]) -> bytes:
    """The body of an SA payload. Raises WireError for what the wire has no room for."""
    if not 0 < len(proposals) <= MAX_PROPOSALS:
        raise WireError("proposal_count")
    last = len(proposals) - 1
    return b"".join(
        _encode_proposal(proposal, more=index < last) for index, proposal in enumerate(proposals)
    )


def _encode_proposal(proposal: Proposal, *, more: bool) -> bytes:
    count = len(proposal.transforms)
    if count > 255 or len(proposal.spi) > MAX_SPI:
        raise WireError("proposal")
    transforms = b"".join(
        _encode_transform(transform, more=left > 1)
        for left, transform in zip(range(count, 0, -1), proposal.transforms, strict=True)
    )
    head = _PROPOSAL.pack(
        _MORE_PROPOSALS if more else 0,
        _PROPOSAL.size + len(proposal.spi) + len(transforms),
        proposal.number,
        proposal.protocol,
        len(proposal.spi),
        count,
    )
    return head + proposal.spi + transforms


def _encode_transform(transform: Transform, *, more: bool) -> bytes:
    attributes = b""
    if transform.key_length is not None:
        attributes = _ATTRIBUTE.pack(
            _FIXED_FORMAT | TransformAttributeType.KEY_LENGTH, transform.key_length
        )
    for type_, value in transform.attributes:
        if type_ & _FIXED_FORMAT:
            attributes += type_.to_bytes(2, "big") + value
        else:
            attributes += _ATTRIBUTE.pack(type_, len(value)) + value
    length = _TRANSFORM.size + len(attributes)
    head = _TRANSFORM.pack(_MORE_TRANSFORMS if more else 0, length, transform.type, transform.id)
    return head + attributes


# --- text ---------------------------------------------------------------------------------


def format_proposal(proposal: Proposal) -> str:
    """The shortest text that `parse_proposals` makes this proposal from. Cannot fail.

    Transforms that have no keyword get a made-up word (`encr3`), for logs.
    """
    return "-".join(_words(proposal)) or "none"


def _words(proposal: Proposal) -> Iterator[str]:
    implied: list[Transform] = []
    if proposal.protocol == ProtocolId.IKE and proposal.of_type(TransformType.INTEG):
        implied = implied_prfs(proposal.of_type(TransformType.INTEG))
    order = (
        *(TransformType.ENCR, TransformType.INTEG, TransformType.PRF, TransformType.KE),
        *ADDITIONAL,
    )
    shown = [t for type_ in order for t in proposal.of_type(type_)]
    shown += [t for t in proposal.transforms if t.type not in order]
    if list(proposal.of_type(TransformType.PRF)) == implied:
        shown = [t for t in shown if t.type != TransformType.PRF]
    sequence = proposal.of_type(TransformType.ESN)
    if sequence == (Transform(TransformType.ESN, EsnId.NO_ESN),):
        shown = [t for t in shown if t.type != TransformType.ESN]
    return map(str, shown)


def implied_prfs(integrity: Iterable[Transform]) -> list[Transform]:
    """The PRFs that strongSwan takes from integrity algorithms where none is named."""
    return [
        Transform(TransformType.PRF, PRF_OF_INTEGRITY[t.id])
        for t in integrity
        if t.id in PRF_OF_INTEGRITY
    ]
