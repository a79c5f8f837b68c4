"""A chosen proposal as figures to work with, and what protects the messages of an IKE SA.

RFC 7296 §3.14: `Encrypted` payload with one IV counter per SA and direction for an AEAD (RFC 5282
§3.1: unique per key, and every IKE SA has keys of its own), random IVs for CBC. Retransmissions are
the same octets, so no IV is used twice.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from agent.crypto.algorithms import IntegrityError, Prf, key_lengths, make_cipher, make_prf
from agent.ike.errors import Ignored
from agent.ike.events import IkeKeysDerived
from agent.records import record
from agent.wire.codes import EsnId, TransformType
from agent.wire.keywords import ADDITIONAL
from agent.wire.message import (
    HEADER_LENGTH,
    encode_payloads,
    encrypted_prefix,
    fragment_prefix,
)
from agent.wire.proposals import Proposal, format_proposal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.crypto.keymat import IkeKeys
    from agent.wire.message import Header
    from agent.wire.payloads import Encrypted, EncryptedFragment, Payload
    from agent.wire.proposals import Transform


@record(frozen=True, slots=True, kw_only=True)
class Suite:
    """The algorithms of an IKE SA or Child SA; 0 = none. `group` 0: no key exchange of its own."""

    encr_id: int
    key_bits: int
    integ_id: int
    prf_id: int
    group: int
    additional: tuple[tuple[int, int], ...]  # transform type and group, in their order
    esn: bool
    text: str
    transforms: tuple[Transform, ...]

    @property
    def key_lengths(self) -> tuple[int, int]:
        """Octets of encryption key (with salt) and integrity key of one direction."""
        return key_lengths(self.encr_id, self.key_bits or None, self.integ_id or None)

    @property
    def additional_groups(self) -> tuple[int, ...]:
        """The key exchanges that follow the first one (RFC 9370), in their order."""
        return tuple(group for _, group in self.additional)

    @property
    def prf(self) -> Prf:
        """Of an IKE SA."""
        return make_prf(self.prf_id)

    def is_allowed_by(self, proposals: Sequence[Proposal]) -> bool:
        """Whether one of `proposals` has every algorithm of this IKE suite."""
        wanted = {
            (int(kind), number)
            for kind, number in (
                (TransformType.ENCR, self.encr_id),
                (TransformType.INTEG, self.integ_id),
                (TransformType.PRF, self.prf_id),
                (TransformType.KE, self.group),
            )
            if number
        } | set(self.additional)
        for proposal in proposals:
            has = {(int(t.type), int(t.id)) for t in proposal.transforms}
            sizes = {t.key_length or 0 for t in proposal.transforms if t.id == self.encr_id}
            # What the proposal has and does not call optional must not be missing here.
            due = {kind for kind in proposal.additional if (kind, 0) not in has}
            enough = due <= {kind for kind, _ in self.additional}
            if wanted <= has and enough and self.key_bits in sizes:
                return True
        return False


@lru_cache(maxsize=64)  # one object for the ten thousand SAs that chose the same
def suite_of(protocol: int, transforms: tuple[Transform, ...]) -> Suite:
    """The figures of a proposal with at most one transform of each type."""
    found = {t.type: t for t in transforms}
    encr = found.get(TransformType.ENCR)
    ids = {kind: int(t.id) for kind, t in found.items()}
    return Suite(
        encr_id=ids.get(TransformType.ENCR, 0),
        key_bits=(encr.key_length or 0) if encr else 0,
        integ_id=ids.get(TransformType.INTEG, 0),
        prf_id=ids.get(TransformType.PRF, 0),
        group=ids.get(TransformType.KE, 0),
        additional=tuple((kind, ids[kind]) for kind in ADDITIONAL if ids.get(kind)),
        esn=ids.get(TransformType.ESN, 0) == EsnId.ESN,
        text=format_proposal(Proposal(protocol, b"", transforms)),
        transforms=transforms,
    )


def keys_derived(suite: Suite, spis: bytes, keys: IkeKeys) -> IkeKeysDerived:
    """What the engine is told of them."""
    return IkeKeysDerived(
        spis=spis,
        encr_id=suite.encr_id,
        key_bits=suite.key_bits,
        integ_id=suite.integ_id,
        keys=keys,
    )


class Protection:
    """Seals and opens the messages of one IKE SA, and keeps SK_d for what is derived from it."""

    __slots__ = ("_inbound", "_iv", "_outbound", "sk_d")

    def __init__(self, suite: Suite, keys: IkeKeys, *, is_initiator: bool) -> None:
        of_initiator = (keys.sk_ei, keys.sk_ai)
        of_responder = (keys.sk_er, keys.sk_ar)
        ours, theirs = (
            (of_initiator, of_responder) if is_initiator else (of_responder, of_initiator)
        )
        kind = (suite.encr_id, suite.key_bits or None, suite.integ_id or None)
        self._outbound = make_cipher(*kind, *ours, frugal=True)
        self._inbound = make_cipher(*kind, *theirs, frugal=True)
        self._iv = 0
        self.sk_d = keys.sk_d

    def seal(
        self, header: Header, payloads: Sequence[Payload], random: Callable[[int], bytes]
    ) -> bytes:
        """The whole message."""
        return self.seal_inner(header, *encode_payloads(payloads), random)

    def seal_inner(
        self, header: Header, first: int, inner: bytes, random: Callable[[int], bytes]
    ) -> bytes:
        """The same for payloads that are encoded already."""
        iv, inner, length = self._prepared(inner, random)
        prefix = encrypted_prefix(header, first, length)
        return prefix + iv + self._outbound.seal(iv, inner, prefix)

    def seal_fragment(
        self,
        header: Header,
        first: int,
        number: int,
        total: int,
        chunk: bytes,
        random: Callable[[int], bytes],
    ) -> bytes:
        """One fragment of the inner octets (RFC 7383 §2.5), with an IV and ICV of its own."""
        iv, inner, length = self._prepared(chunk, random)
        prefix = fragment_prefix(header, first, number, total, length)
        return prefix + iv + self._outbound.seal(iv, inner, prefix)

    def _prepared(self, inner: bytes, random: Callable[[int], bytes]) -> tuple[bytes, bytes, int]:
        """IV, padded inner octets, and the length of IV, ciphertext and ICV."""
        cipher = self._outbound
        padding = -(len(inner) + 1) % cipher.block
        inner += bytes(padding) + bytes((padding,))
        if cipher.iv_is_counter:
            iv = self._iv.to_bytes(cipher.iv_length, "big")
            self._iv += 1
        else:
            iv = random(cipher.iv_length)
        return iv, inner, len(iv) + len(inner) + cipher.icv_length

    def room(self, octets: int, payload_header: int) -> int:
        """Inner octets that fit a message of `octets` in all."""
        cipher = self._outbound
        rest = octets - HEADER_LENGTH - payload_header - cipher.iv_length - cipher.icv_length
        return rest - rest % cipher.block - 1

    def open(self, encrypted: Encrypted | EncryptedFragment) -> bytes:
        """The inner payloads' octets, proven. Raises Ignored if they are not."""
        cipher = self._inbound
        body = encrypted.body
        if len(body) <= cipher.iv_length + cipher.icv_length:
            raise Ignored("integrity")
        try:
            inner = cipher.open(body[: cipher.iv_length], body[cipher.iv_length :], encrypted.aad)
        except IntegrityError:
            raise Ignored("integrity") from None
        if not inner or inner[-1] >= len(inner):
            raise Ignored("padding")
        return inner[: len(inner) - 1 - inner[-1]]
