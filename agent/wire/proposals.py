"""What may protect an SA: the choice among proposals, and the words of a configuration.

RFC 7296 §2.7 (negotiation), §3.3.6 (what makes a proposal unacceptable). The values and their
octets are in `transforms`, the words in `keywords`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.wire.codes import EsnId, ProtocolId, TransformType
from agent.wire.keywords import AEAD, KEYWORDS, PRF_OF_HASH, REFUSED, Keyword
from agent.wire.text import printable
from agent.wire.transforms import (
    MAX_PROPOSALS,
    MAX_TRANSFORMS,
    Proposal,
    Transform,
    decode_proposals,
    encode_proposals,
    format_proposal,
    implied_prfs,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "MAX_PROPOSALS",
    "MAX_TRANSFORMS",
    "Proposal",
    "Transform",
    "accepted",
    "choose",
    "decode_proposals",
    "encode_proposals",
    "format_proposal",
    "parse_proposals",
]

# Types whose ID 0 means "none": leaving the type out says the same (RFC 7296 §3.3.3, RFC 9370).
_MAY_BE_NONE = frozenset(
    {TransformType.INTEG, TransformType.KE}
    | set(range(TransformType.ADDKE1, TransformType.ADDKE7 + 1))
)


# --- choice -------------------------------------------------------------------------------


def choose(offered: Iterable[Proposal], acceptable: Iterable[Proposal]) -> Proposal | None:
    """The offered proposal to accept, reduced to one transform of each type, or None.

    Our proposals go by our order, then the offered ones by theirs, transforms by ours. Number
    and SPI are those of the offered one (its sender's SPI); put your own with `with_spi`.
    Every type of ours must be met and none of theirs may be left over (RFC 7296 §3.3.6); only
    "none" (ID 0) of a type that may be absent equals its absence. Cannot fail.
    """
    theirs = [(proposal, _by_type(proposal)) for proposal in offered]
    for ours in acceptable:
        wanted = _by_type(ours)
        for proposal, types in theirs:
            if proposal.protocol != ours.protocol:
                continue
            chosen = _choose_transforms(types, wanted)
            if chosen is not None:
                return Proposal(proposal.protocol, proposal.spi, chosen, proposal.number)
    return None


def accepted(answer: Sequence[Proposal], sent: Sequence[Proposal]) -> Proposal | None:
    """What the responder chose, if it is one of the `sent` proposals with one transform of each

    type (RFC 7296 §2.7: the initiator must verify this), else None. Its SPI is the responder's.
    """
    if len(answer) != 1:
        return None
    proposal = answer[0]
    if len(_by_type(proposal)) != len(proposal.transforms):
        return None
    candidates = [ours for ours in sent if ours.number == proposal.number]
    return choose(answer, candidates)


def _by_type(proposal: Proposal) -> dict[int, list[Transform]]:
    types: dict[int, list[Transform]] = {}
    for transform in proposal.transforms:
        types.setdefault(transform.type, []).append(transform)
    return types


def _choose_transforms(
    theirs: dict[int, list[Transform]], ours: dict[int, list[Transform]]
) -> tuple[Transform, ...] | None:
    chosen: list[Transform] = []
    for type_ in sorted(theirs.keys() | ours.keys()):
        offered = theirs.get(type_) or _nothing(type_)
        for transform in ours.get(type_) or _nothing(type_):
            if transform in offered:
                break
        else:
            return None
        if type_ in theirs:  # what they left out, the answer leaves out
            chosen.append(transform)
    return tuple(chosen)


def _nothing(type_: int) -> list[Transform]:
    return [Transform(type_, 0)] if type_ in _MAY_BE_NONE else []


# --- words --------------------------------------------------------------------------------


def parse_proposals(texts: Iterable[str], protocol: int) -> tuple[Proposal, ...]:
    """From strongSwan's keywords, such as `aes128gcm16-prfsha256-x25519`; numbered from 1.

    `protocol` is ProtocolId.IKE or .ESP; ESP gets NO_ESN where neither esn nor noesn is named.
    Raises ValueError: a sentence that names the word and what is allowed.
    """
    if protocol not in (ProtocolId.IKE, ProtocolId.ESP):
        raise ValueError("proposals are for IKE or for ESP")
    proposals = tuple(
        Proposal(protocol, b"", _parse_transforms(text.strip(), protocol), number)
        for number, text in enumerate(texts, start=1)
    )
    if not 0 < len(proposals) <= MAX_PROPOSALS:
        raise ValueError(f"there must be 1 to {MAX_PROPOSALS} proposals")
    return proposals


def _parse_transforms(text: str, protocol: int) -> tuple[Transform, ...]:
    words = text.split("-")
    if not text or len(words) > 255:
        raise ValueError("a proposal is words joined by -, such as aes128gcm16-prfsha256-x25519")
    aead = any(KEYWORDS[w].id in AEAD for w in words if _is_encryption(w))
    if aead and not all(KEYWORDS[w].id in AEAD for w in words if _is_encryption(w)):
        raise ValueError(
            f"{printable(text)}: AES-CBC cannot share a proposal with AES-GCM, AES-CCM or"
            " ChaCha20-Poly1305; make it two"
        )
    transforms: list[Transform] = []
    for word in words:
        if protocol == ProtocolId.IKE and aead and word in PRF_OF_HASH:
            found = Transform(TransformType.PRF, PRF_OF_HASH[word])
        else:
            found = Transform(*_look_up(word, text, protocol))
        if found not in transforms:
            transforms.append(found)
    return _completed(transforms, text, protocol, aead=aead)


def _is_encryption(word: str) -> bool:
    return word in KEYWORDS and KEYWORDS[word].type == TransformType.ENCR


def _look_up(word: str, text: str, protocol: int) -> Keyword:
    keyword = KEYWORDS.get(word)
    types = (
        {TransformType.ENCR, TransformType.INTEG, TransformType.PRF, TransformType.KE}
        if protocol == ProtocolId.IKE
        else {TransformType.ENCR, TransformType.INTEG, TransformType.KE, TransformType.ESN}
    )
    if keyword is not None and keyword.type in types:
        return keyword
    if word in REFUSED:
        raise ValueError(f"{printable(text)}: '{word}': {REFUSED[word]}")
    allowed = " ".join(w for w, k in KEYWORDS.items() if k.type in types)
    if keyword is not None:
        why = f"has no place in a proposal for {'IKE' if protocol == ProtocolId.IKE else 'ESP'}"
    else:
        why = "is not known here"
    raise ValueError(f"{printable(text)}: '{printable(word)}' {why}; allowed: {allowed}")


def _completed(
    transforms: list[Transform], text: str, protocol: int, *, aead: bool
) -> tuple[Transform, ...]:
    """Add what the words imply, in the order of the types; refuse what makes no proposal."""
    types = {t.type for t in transforms}
    name = printable(text)
    if TransformType.ENCR not in types:
        raise ValueError(f"{name}: no encryption, such as aes128gcm16 or aes128")
    if aead and TransformType.INTEG in types:
        raise ValueError(
            f"{name}: AES-GCM, AES-CCM and ChaCha20-Poly1305 take no sha256, sha384 or sha512"
            " beside them"
        )
    if not aead and TransformType.INTEG not in types:
        raise ValueError(
            f"{name}: AES-CBC needs integrity protection beside it: sha256, sha384 or sha512"
        )
    if protocol == ProtocolId.IKE:
        if TransformType.PRF not in types:
            transforms += implied_prfs(t for t in transforms if t.type == TransformType.INTEG)
        if not any(t.type == TransformType.PRF for t in transforms):
            raise ValueError(f"{name}: no PRF: prfsha256, prfsha384 or prfsha512")
        if TransformType.KE not in types:
            raise ValueError(f"{name}: no key exchange: x25519, ecp256 or modp2048")
    elif TransformType.ESN not in types:
        transforms.append(Transform(TransformType.ESN, EsnId.NO_ESN))
    return tuple(sorted(transforms, key=lambda t: t.type))
