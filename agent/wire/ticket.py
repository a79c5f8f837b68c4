"""The notifies of session resumption: RFC 5723 §7. Protocol ID and SPI size are 0 in all of them.

TICKET_LT_OPAQUE   lifetime in seconds (4 octets) | ticket      responder → initiator, encrypted
TICKET_OPAQUE      ticket                                       initiator → responder, in clear
TICKET_REQUEST, TICKET_ACK, TICKET_NACK   no data
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from agent.wire.codes import NotifyType
from agent.wire.errors import WireError
from agent.wire.payloads import NotifyPayload

if TYPE_CHECKING:
    from agent.wire.message import Message

# Octets of a ticket. IKE_SESSION_RESUME comes before there is anything to fragment with, so with
# nonce, COOKIE and NAT detection it has to fit a datagram of 1280.
MAX_TICKET: Final = 1024
_LIFETIME: Final = 4
_LONGEST: Final = (1 << 32) - 1


class GrantedTicket(NamedTuple):
    """What TICKET_LT_OPAQUE holds: seconds from now, and octets that only their maker reads."""

    lifetime: int
    ticket: bytes


def encode_granted(lifetime: int, ticket: bytes) -> NotifyPayload:
    """TICKET_LT_OPAQUE. Raises WireError for what cannot be one."""
    if not 0 < lifetime <= _LONGEST or not 0 < len(ticket) <= MAX_TICKET:
        raise WireError("ticket")
    return NotifyPayload(NotifyType.TICKET_LT_OPAQUE, lifetime.to_bytes(_LIFETIME, "big") + ticket)


def decode_granted(message: Message) -> GrantedTicket | None:
    """The ticket in a (decrypted) response; None if there is none. Raises WireError."""
    data = _only(message, NotifyType.TICKET_LT_OPAQUE)
    if data is None:
        return None
    lifetime, ticket = int.from_bytes(data[:_LIFETIME], "big"), data[_LIFETIME:]
    if not lifetime or not 0 < len(ticket) <= MAX_TICKET:
        raise WireError("ticket")
    return GrantedTicket(lifetime, ticket)


def encode_presented(ticket: bytes) -> NotifyPayload:
    """TICKET_OPAQUE. Raises WireError for what cannot be one."""
    if not 0 < len(ticket) <= MAX_TICKET:
        raise WireError("ticket")
    return NotifyPayload(NotifyType.TICKET_OPAQUE, ticket)


def decode_presented(message: Message) -> bytes:
    """The ticket that an IKE_SESSION_RESUME request has to carry. Raises WireError."""
    ticket = _only(message, NotifyType.TICKET_OPAQUE)
    if ticket is None or not 0 < len(ticket) <= MAX_TICKET:
        raise WireError("ticket")
    return ticket


def says(message: Message, notify: NotifyType) -> bool:
    """Whether `message` has TICKET_REQUEST, TICKET_ACK or TICKET_NACK. Cannot fail.

    One that is malformed says nothing.
    """
    try:
        return _only(message, notify) == b""
    except WireError:
        return False


def _only(message: Message, notify: NotifyType) -> bytes | None:
    """The data of the one notify of this type."""
    found = message.notifies(notify)
    if len(found) > 1 or any(each.protocol or each.spi for each in found):
        raise WireError("ticket")
    return found[0].data if found else None
