"""ME_CONNECT and what else is said inside a mediation connection (mediation.md §1, §2).

Built exactly as strongSwan does (order of payloads included), read liberally. A value of
`ConnectMessage` can say nothing that strongSwan would not survive: at most 17 endpoints, all with
an address, and always an IDp.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from agent.mediation.endpoints import relayable
from agent.mediation.settings import MAX_IDENTITY
from agent.records import record
from agent.wire.codes import EndpointFamily, EndpointType, NotifyType
from agent.wire.errors import WireError
from agent.wire.mediation import (
    MAX_CONNECT_ID,
    MAX_CONNECT_KEY,
    MIN_CONNECT_ID,
    MIN_CONNECT_KEY,
    MeEndpoint,
)
from agent.wire.payloads import Identification, IdpPayload, NotifyPayload, Payload

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.wire.message import Message

HASH_LENGTH = 16
MAX_HASHES = 48
"""Of one message: 768 octets, so that it stays one datagram on every path."""

_REPLACE, _ADD, _REMOVE = 0, 1, 2

FAILED = NotifyPayload(NotifyType.ME_CONNECT_FAILED)
"""The one answer to "unknown", "offline" and "not allowed"."""

BAD_SYNTAX = NotifyPayload(NotifyType.INVALID_SYNTAX)
"""As answer to ME_CONNECT; does not end the IKE SA here (mediation.md §2)."""


@record(frozen=True, slots=True, kw_only=True)
class ConnectMessage:
    """A request of exchange ME_CONNECT. `peer` is whom it is for, or, relayed, whom it is from."""

    peer: Identification
    connect_id: bytes | None = None
    key: bytes | None = field(default=None, repr=False)  # whoever has it can forge checks
    is_callback: bool = False
    is_response: bool = False
    has_failed: bool = False
    endpoints: tuple[MeEndpoint, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether it is a question or an answer with all that belongs to it."""
        return self.connect_id is not None and self.key is not None

    def payloads(self) -> list[Payload]:
        """For a request, in the order in which strongSwan sends them."""
        notifies: list[Payload] = []
        if self.connect_id is not None:
            notifies.append(NotifyPayload(NotifyType.ME_CONNECTID, self.connect_id))
        if self.key is not None:
            notifies.append(NotifyPayload(NotifyType.ME_CONNECTKEY, self.key))
        for is_set, type_ in (
            (self.is_callback, NotifyType.ME_CALLBACK),
            (self.is_response, NotifyType.ME_RESPONSE),
            (self.has_failed, NotifyType.ME_CONNECT_FAILED),
        ):
            if is_set:
                notifies.append(NotifyPayload(type_))
        for endpoint in relayable(self.endpoints):
            notifies.append(NotifyPayload(NotifyType.ME_ENDPOINT, endpoint.encode()))
        return [*notifies, IdpPayload(self.peer)]


def decode_connect(message: Message) -> ConnectMessage | None:
    """A decrypted ME_CONNECT request; None is to be answered with INVALID_SYNTAX. Cannot fail.

    Without IDp there is nothing to be done with it. Endpoints of unknown type or family, or
    without an address, are left out.
    """
    idp = message.first(IdpPayload)
    if idp is None or not 0 < len(idp.identity.data) <= MAX_IDENTITY:
        return None
    connect_id = _data(message, NotifyType.ME_CONNECTID)
    key = _data(message, NotifyType.ME_CONNECTKEY)
    if connect_id is not None and not MIN_CONNECT_ID <= len(connect_id) <= MAX_CONNECT_ID:
        return None
    if key is not None and not MIN_CONNECT_KEY <= len(key) <= MAX_CONNECT_KEY:
        return None
    try:
        endpoints = [MeEndpoint.decode(n.data) for n in message.notifies(NotifyType.ME_ENDPOINT)]
    except WireError:
        return None
    return ConnectMessage(
        peer=idp.identity,
        connect_id=connect_id,
        key=key,
        is_callback=message.notify(NotifyType.ME_CALLBACK) is not None,
        is_response=message.notify(NotifyType.ME_RESPONSE) is not None,
        has_failed=message.notify(NotifyType.ME_CONNECT_FAILED) is not None,
        endpoints=relayable(endpoints),
    )


def _data(message: Message, type_: NotifyType) -> bytes | None:
    notify = message.notify(type_)
    return notify.data if notify is not None else None


def reflexive_question() -> NotifyPayload:
    """ "Under which endpoint do you see me?" """
    return NotifyPayload(NotifyType.ME_ENDPOINT, MeEndpoint.question().encode())


def is_reflexive_question(message: Message) -> bool:
    """Whether its first ME_ENDPOINT asks for the reflexive endpoint (any priority)."""
    endpoint = _first_endpoint(message)
    return (
        endpoint is not None
        and endpoint.type == EndpointType.SERVER_REFLEXIVE
        and endpoint.family == EndpointFamily.NONE
    )


def reflexive_answer(message: Message) -> MeEndpoint | None:
    """The endpoint under which the server sees us, if it says so."""
    endpoint = _first_endpoint(message)
    if endpoint is None or endpoint.type != EndpointType.SERVER_REFLEXIVE:
        return None
    return endpoint if endpoint.address is not None else None


def _first_endpoint(message: Message) -> MeEndpoint | None:
    notify = message.notify(NotifyType.ME_ENDPOINT)
    if notify is None:
        return None
    try:
        return MeEndpoint.decode(notify.data)
    except WireError:
        return None


def accepts_replaced(hashes: Iterable[bytes]) -> NotifyPayload:
    """N(HG_ACCEPTS): "this is whom I accept", at most MAX_HASHES of them."""
    return NotifyPayload(NotifyType.HG_ACCEPTS, b"".join(hashes))


def accepts_changed(hashes: Iterable[bytes], *, added: bool) -> NotifyPayload:
    """N(HG_ACCEPTS): "these too" or "these no longer": one octet 1 or 2, then the hashes."""
    first = bytes((_ADD if added else _REMOVE,))
    return NotifyPayload(NotifyType.HG_ACCEPTS, first + b"".join(hashes))


def apply_accepts(
    known: frozenset[bytes] | None, data: bytes, limit: int
) -> frozenset[bytes] | None:
    """What `known` (None: nothing was said yet) becomes with the data of an N(HG_ACCEPTS).

    Nonsense changes nothing; more than `limit` hashes are not kept.
    """
    operation, body = _REPLACE, data
    if len(data) % HASH_LENGTH == 1:
        operation, body = data[0], data[1:]
    if len(body) % HASH_LENGTH or operation not in (_REPLACE, _ADD, _REMOVE):
        return known
    hashes = [body[i : i + HASH_LENGTH] for i in range(0, len(body), HASH_LENGTH)]
    if operation == _REMOVE:
        return (known or frozenset()).difference(hashes)
    kept = set(known or ()) if operation == _ADD else set()
    for item in hashes:
        if len(kept) < limit:
            kept.add(item)
    return frozenset(kept)
