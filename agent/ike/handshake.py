"""What an IKE SA needs until both sides are proven, and not afterwards."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Final

from agent.crypto.keymat import derive_ike_keys
from agent.ike.events import CloseReason
from agent.ike.suite import Protection, keys_derived
from agent.records import record

if TYPE_CHECKING:
    from agent.crypto.kex import KeyExchange
    from agent.crypto.keymat import IkeKeys
    from agent.crypto.signatures import Scheme
    from agent.ike.intermediate import Rounds
    from agent.ike.negotiation import Offer
    from agent.ike.sa import IkeSa
    from agent.ike.suite import Suite
    from agent.wire.payloads import Identification

NO_ANSWER: Final = (CloseReason.TIMEOUT, "no answer")


@record(frozen=True, slots=True, kw_only=True)
class Resumes:
    """The IKE SA that this one goes on with (RFC 5723 §5, "from the ticket").

    The responder also has what stands for the peer's `credential`, the AUTH `method` of the time,
    and the `tag` of the ticket.
    """

    idi: Identification
    idr: Identification
    suite: Suite
    sk_d: bytes = field(repr=False)
    credential: bytes = field(repr=False, default=b"")
    method: int = 0
    tag: bytes = b""


class Handshake:
    """Nonces, first messages and keys of the initial exchanges (RFC 7296 §2.14, §2.15).

    No repr shows a key: there is none. `hint` is what an unauthenticated error said, for the case
    that nothing better comes. `peer_hashes`: what SIGNATURE_HASH_ALGORITHMS of the peer said, None
    without one; `peer_scheme`: how it signed; `asked`: the encodings that its CERTREQs named.
    """

    __slots__ = (
        "asked",
        "cookie",
        "groups",
        "hint",
        "kex",
        "keys",
        "offer",
        "own_message",
        "own_nonce",
        "peer_hashes",
        "peer_message",
        "peer_nonce",
        "peer_scheme",
        "resumes",
        "rounds",
        "rounds_due",
    )

    def __init__(self) -> None:
        self.kex: KeyExchange | None = None
        self.keys: IkeKeys | None = None
        self.own_message = b""
        self.peer_message = b""
        self.own_nonce = b""
        self.peer_nonce = b""
        self.cookie = b""
        self.resumes: Resumes | None = None
        self.rounds = 0
        self.rounds_due: Rounds | None = None
        self.groups: list[int] = []
        self.peer_hashes: frozenset[int] | None = None
        self.peer_scheme: Scheme | None = None
        self.asked: frozenset[int] = frozenset()
        self.offer: Offer | None = None
        self.hint: tuple[CloseReason, str] = NO_ANSWER


def begin(sa: IkeSa) -> Handshake:
    """For a first request. Another one of the same attempt (with a ticket, or without one) has the

    COOKIE rounds that are left of it: they are a bound on what anybody can make us send.
    """
    before = sa.handshake
    hs = sa.handshake = Handshake()
    hs.rounds = before.rounds if before is not None else 0
    return hs


def derive(sa: IkeSa, suite: Suite, seed: bytes, ni: bytes, nr: bytes) -> None:
    """The keys of a first IKE SA from its SKEYSEED (RFC 7296 §2.14)."""
    encr_length, integ_length = suite.key_lengths
    spis = sa.spis
    keys = derive_ike_keys(
        suite.prf,
        seed,
        ni=ni,
        nr=nr,
        spi_i=spis[:8],
        spi_r=spis[8:],
        encr_length=encr_length,
        integ_length=integ_length,
    )
    assert sa.handshake is not None
    sa.handshake.keys = keys
    sa.handshake.kex = None
    sa.suite = suite
    sa.protection = Protection(suite, keys, is_initiator=sa.is_initiator)
    sa.table.emit(keys_derived(suite, spis, keys))
