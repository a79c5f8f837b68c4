"""How pseudonyms are compared, and what a peer tells its mediator about those it accepts."""

from __future__ import annotations

from agent.crypto.auth import pseudonym_hash
from agent.wire.codes import IdType
from agent.wire.payloads import Identification

_IGNORING_CASE = (IdType.ID_FQDN, IdType.ID_RFC822_ADDR)


def normalised(identity: Identification) -> bytes:
    """The octets that count: FQDN and RFC822_ADDR ignore case (mediation.md, IDp). Cannot fail."""
    return identity.data.lower() if identity.id_type in _IGNORING_CASE else identity.data


def identity_key(identity: Identification) -> bytes:
    """Type and octets, for hash tables: equal for what IDp and IDi are to be compared as."""
    return bytes((identity.id_type,)) + normalised(identity)


def accept_hash(identity: Identification) -> bytes:
    """16 octets for N(HG_ACCEPTS). For ID_KEY_ID this is `pseudonym_hash(public key)`."""
    return pseudonym_hash(normalised(identity))
