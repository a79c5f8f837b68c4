"""What a peer tells its mediator about those whom it accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.crypto.auth import pseudonym_hash

if TYPE_CHECKING:
    from agent.wire.payloads import Identification


def accept_hash(identity: Identification) -> bytes:
    """16 octets for N(HG_ACCEPTS). For an ID_KEY_ID this is `pseudonym_hash(public key)`.

    Names are hashed without case, as they are compared.
    """
    return pseudonym_hash(identity.key[1])
