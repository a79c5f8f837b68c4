"""Tickets by value for session resumption: RFC 5723 §6.1, §9.5, appendix A.1.

    version (1) | 0 (3) | key id (8) | salt (32)                           authenticated
    AES-256-GCM( issued (8) | expires (8) | method (1) | credential (16)
                 | length of SK_d (1) | SK_d | type of the next payload (1) | IDi | IDr | SA )

Who has a key of the ring reads the tickets of its time, and with what went over the wire every key
that came of them; so keys are exchanged daily and then destroyed, and are good for nothing else.

No (key, IV) pair may come twice, not after a restart, not on a board whose disk image (with the
ring in it) was put back, not where the random source itself starts over with a restored memory.
96 random bits of IV under the ring's key would leave all that to the random source. Instead each
ticket has a key and an IV of its own,

    salt     = prf(ring key, "hearthgate ticket salt" | 32 random octets | content)
    key, IV  = prf+(ring key, "hearthgate ticket key" | salt)

so a pair repeats only where both the random octets and the content do, and then it is the same
ticket with the same octets. Collisions of 256-bit salts are out of reach of any number of tickets,
so none is counted. The prf is HMAC-SHA2-256; the labels keep its two uses apart.

Times are those of the wall clock: nothing else survives the restart of its maker. A ticket is
refused before it was issued as well as after it expired, so that a clock which is years off
refuses tickets and prolongs none.

Left out: the SPIs of the old SA (§5 note 4: they may be there; it is found by its identities).
"""

from __future__ import annotations

import struct
from dataclasses import field
from typing import TYPE_CHECKING, Final

from agent.crypto.algorithms import make_cipher, make_prf, prf_plus
from agent.crypto.ciphers import IntegrityError
from agent.records import record
from agent.wire.codes import EncryptionId, PrfId
from agent.wire.errors import WireError
from agent.wire.message import decode_payloads, encode_payloads
from agent.wire.payloads import IdiPayload, IdrPayload, SaPayload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.crypto.ciphers import Cipher
    from agent.wire.payloads import Identification
    from agent.wire.proposals import Proposal

    Random = Callable[[int], bytes]

VERSION: Final = 1
# Seconds that a ticket is good at most: as long as an IKE SA by default (RFC 5723 §6.2).
TICKET_SECONDS: Final = 4 * 3600
# Seconds that new tickets are made with one key ("significantly longer" than that, §6.2); it opens
# them for as long again as the last of them lives.
KEY_SECONDS: Final = 24 * 3600
# What a clock may rightly be set back.
SKEW_SECONDS: Final = 300
# The newest one makes tickets; the one before opens what is left. More come of clocks that jump.
MAX_KEYS: Final = 4
KEY_ID_LENGTH: Final = 8
SECRET_LENGTH: Final = 32
CREDENTIAL_LENGTH: Final = 16
TAG_LENGTH: Final = 16

_SALT_LENGTH: Final = 32
_HEAD: Final = struct.Struct("!B3x8s32s")
_FIXED: Final = struct.Struct("!QQB16sB")
_KEY_LENGTH, _IV_LENGTH = 32 + 4, 8
_PRF: Final = make_prf(PrfId.PRF_HMAC_SHA2_256)


class InvalidTicket(Exception):
    """Not one of ours, or not good any more. Why is nobody's business outside."""


@record(frozen=True, slots=True, kw_only=True)
class TicketKey:
    """One key of the ring. `since`: seconds since 1970 when it began to make tickets."""

    id: bytes
    secret: bytes = field(repr=False)
    since: int


@record(frozen=True, slots=True, kw_only=True)
class TicketState:
    """What is "from the ticket" in the table of RFC 5723 §5, and what the maker checks besides.

    `credential` stands for what the peer proved itself with: with another one the ticket is void.
    Times in seconds since 1970.
    """

    sk_d: bytes = field(repr=False)
    idi: Identification
    idr: Identification
    chosen: Proposal
    method: int
    credential: bytes = field(repr=False)
    issued: int
    expires: int


def rotated(keys: Sequence[TicketKey], wall: float, random: Random) -> tuple[TicketKey, ...]:
    """The ring as it is to be at `wall`, the key that makes tickets first."""
    longest = KEY_SECONDS + TICKET_SECONDS
    alive = [key for key in keys if -SKEW_SECONDS <= wall - key.since < longest]
    alive.sort(key=lambda key: -key.since)
    if not alive or wall - alive[0].since >= KEY_SECONDS:
        fresh = TicketKey(id=random(KEY_ID_LENGTH), secret=random(SECRET_LENGTH), since=int(wall))
        alive.insert(0, fresh)
    return tuple(alive[:MAX_KEYS])


def tag_of(ticket: bytes) -> bytes:
    """What a ticket is remembered by; it is not secret and no two have the same. Cannot fail."""
    return ticket[_HEAD.size - _SALT_LENGTH : _HEAD.size][:TAG_LENGTH]


def seal_ticket(key: TicketKey, state: TicketState, random: Random) -> bytes:
    """A ticket. Raises WireError for identities that are too long for the wire."""
    content = _encode(state)
    salt = _PRF(key.secret, b"hearthgate ticket salt" + random(_SALT_LENGTH) + content)
    head = _HEAD.pack(VERSION, key.id, salt)
    cipher, iv = _cipher(key, salt)
    return head + cipher.seal(iv, content, head)


def open_ticket(keys: Sequence[TicketKey], ticket: bytes, wall: float) -> TicketState:
    """What was sealed. Raises InvalidTicket only, for any octets."""
    if len(ticket) < _HEAD.size:
        raise InvalidTicket
    version, key_id, salt = _HEAD.unpack_from(ticket)
    key = next((key for key in keys if key.id == key_id), None)
    if version != VERSION or key is None:
        raise InvalidTicket
    cipher, iv = _cipher(key, salt)
    try:
        state = _decode(cipher.open(iv, ticket[_HEAD.size :], ticket[: _HEAD.size]))
    except (IntegrityError, WireError, struct.error):
        raise InvalidTicket from None
    if not state.issued - SKEW_SECONDS <= wall < state.expires:
        raise InvalidTicket
    return state


def _cipher(key: TicketKey, salt: bytes) -> tuple[Cipher, bytes]:
    """The cipher of one ticket, and its IV."""
    material = prf_plus(_PRF, key.secret, b"hearthgate ticket key" + salt, _KEY_LENGTH + _IV_LENGTH)
    aead = EncryptionId.ENCR_AES_GCM_16
    return make_cipher(aead, 256, None, material[:_KEY_LENGTH]), material[_KEY_LENGTH:]


def _encode(state: TicketState) -> bytes:
    fixed = _FIXED.pack(
        state.issued,
        state.expires,
        state.method,
        state.credential,
        len(state.sk_d),
    )
    payloads = (IdiPayload(state.idi), IdrPayload(state.idr), SaPayload((state.chosen,)))
    first, chain = encode_payloads(payloads)
    return fixed + state.sk_d + bytes((first,)) + chain


def _decode(content: bytes) -> TicketState:
    """Raises WireError, struct.error."""
    issued, expires, method, credential, length = _FIXED.unpack_from(content)
    at = _FIXED.size + length
    if len(content) <= at:
        raise WireError("ticket")
    payloads = decode_payloads(content[at], content[at + 1 :])
    if [type(p) for p in payloads] != [IdiPayload, IdrPayload, SaPayload]:
        raise WireError("ticket")
    idi, idr, sa = payloads
    assert isinstance(idi, IdiPayload)
    assert isinstance(idr, IdrPayload)
    assert isinstance(sa, SaPayload)
    return TicketState(
        sk_d=content[_FIXED.size : at],
        idi=idi.identity,
        idr=idr.identity,
        chosen=sa.proposals[0],
        method=method,
        credential=credential,
        issued=issued,
        expires=expires,
    )
