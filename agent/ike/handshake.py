"""What an IKE SA needs until both sides are proven, and not afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.ike.events import CloseReason

if TYPE_CHECKING:
    from agent.crypto.kex import KeyExchange
    from agent.crypto.keymat import IkeKeys
    from agent.ike.negotiation import Offer

NO_ANSWER: Final = (CloseReason.TIMEOUT, "no answer")


class Handshake:
    """Nonces, first messages and keys of the initial exchanges (RFC 7296 §2.14, §2.15).

    No repr shows a key: there is none. `hint` is what an unauthenticated error said, for the case
    that nothing better comes.
    """

    __slots__ = (
        "cookie",
        "groups",
        "hint",
        "kex",
        "keys",
        "offer",
        "own_message",
        "own_nonce",
        "peer_knows_identity_hash",
        "peer_message",
        "peer_nonce",
        "rounds",
    )

    def __init__(self) -> None:
        self.kex: KeyExchange | None = None
        self.keys: IkeKeys | None = None
        self.own_message = b""
        self.peer_message = b""
        self.own_nonce = b""
        self.peer_nonce = b""
        self.cookie = b""
        self.rounds = 0
        self.groups: list[int] = []
        self.peer_knows_identity_hash = False
        self.offer: Offer | None = None
        self.hint: tuple[CloseReason, str] = NO_ANSWER
