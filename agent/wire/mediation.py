"""IKE-ME on the wire: ME_ENDPOINT data and the connectivity checks (mediation.md).

Pure codec; SHA-1 over `check_octets` and the key is the caller's. A check is an unencrypted
INFORMATIONAL with both SPIs zero that carries exactly three notifies.
"""

from __future__ import annotations

from struct import Struct

from agent.datagram import Address
from agent.records import record
from agent.wire.codes import (
    EndpointFamily,
    EndpointType,
    ExchangeType,
    NotifyType,
    PayloadType,
    known,
)
from agent.wire.errors import WireError
from agent.wire.message import NO_SPI, Header, decode_message, encode_message
from agent.wire.payloads import NotifyPayload, UnknownPayload

MIN_CONNECT_ID = 4
MAX_CONNECT_ID = 16
MIN_CONNECT_KEY = 16
MAX_CONNECT_KEY = 32
CHECK_AUTH_LENGTH = 20  # SHA-1
# strongSwan drops an IKE SA over more than 20 notifies in a request; ID, key and one flag go too.
MAX_ENDPOINTS = 17

PRIORITY_HOST = 0x00FFFFFF
PRIORITY_PEER_REFLEXIVE = 0x0080FFFF
PRIORITY_SERVER_REFLEXIVE = 0x0040FFFF
PRIORITY_RELAYED = 0x0000FFFF

# Header, three times generic header and notify, then ID, auth and endpoint at their shortest.
_MIN_CHECK = 28 + 3 * 8 + MIN_CONNECT_ID + CHECK_AUTH_LENGTH + 8
# Unknown payloads that are not critical are ignored, as everywhere; they get some room.
_MAX_CHECK_WITH_UNKNOWN = 512

_PREFERENCES: dict[int, int] = {
    EndpointType.HOST: 255,
    EndpointType.PEER_REFLEXIVE: 128,
    EndpointType.SERVER_REFLEXIVE: 64,
    EndpointType.RELAYED: 0,
}
_ENDPOINT = Struct("!IBBH")  # priority, family, type, port
_OCTETS: dict[int, int] = {EndpointFamily.IPV4: 4, EndpointFamily.IPV6: 16}
_FAMILIES = {4: EndpointFamily.IPV4, 16: EndpointFamily.IPV6}
_CHECK_NOTIFIES = (NotifyType.ME_CONNECTID, NotifyType.ME_ENDPOINT, NotifyType.ME_CONNECTAUTH)


def endpoint_priority(type_: int, local_preference: int = 65535) -> int:
    """Type preference × 2^16 + local preference (0 to 65535); an unknown type ranks lowest."""
    return _PREFERENCES.get(type_, 0) << 16 | (local_preference & 0xFFFF)


def pair_priority(initiator: int, responder: int) -> int:
    """Of a pair, 64 bits, the same on both sides: from the priorities of its endpoints."""
    low, high = min(initiator, responder), max(initiator, responder)
    return (low << 32) + 2 * high + (1 if initiator > responder else 0)


@record(frozen=True, slots=True)
class MeEndpoint:
    """Data of ME_ENDPOINT. `address` is None with family NONE and with one that is unknown."""

    priority: int
    family: int
    type: int
    address: Address | None = None

    def __post_init__(self) -> None:
        octets = len(self.address.ip) if self.address is not None else None
        if octets != _OCTETS.get(self.family):
            raise WireError("endpoint_family")

    @classmethod
    def of(cls, type_: int, address: Address, priority: int | None = None) -> MeEndpoint:
        """An endpoint with an address; the priority of its type unless another is given."""
        family = _FAMILIES.get(len(address.ip))
        if family is None:
            raise WireError("endpoint_address")
        value = endpoint_priority(type_) if priority is None else priority
        return cls(value, family, type_, address)

    @classmethod
    def question(cls) -> MeEndpoint:
        """ "Under which endpoint do you see me?", as a peer asks its mediator."""
        return cls(
            PRIORITY_SERVER_REFLEXIVE, EndpointFamily.NONE, EndpointType.SERVER_REFLEXIVE, None
        )

    @classmethod
    def decode(cls, data: bytes) -> MeEndpoint:
        """From the data of an ME_ENDPOINT notify. Raises WireError.

        An unknown family is kept without its address: receivers ignore it.
        """
        if len(data) < _ENDPOINT.size:
            raise WireError("endpoint_length")
        priority, family, type_, port = _ENDPOINT.unpack_from(data)
        octets = 0 if family == EndpointFamily.NONE else _OCTETS.get(family)
        if octets is not None and len(data) != _ENDPOINT.size + octets:
            raise WireError("endpoint_length")
        address = Address(data[_ENDPOINT.size :], port) if octets else None
        return cls(priority, known(EndpointFamily, family), known(EndpointType, type_), address)

    def encode(self) -> bytes:
        """Data of an ME_ENDPOINT notify: 8, 12 or 24 octets. Raises WireError."""
        port = self.address.port if self.address is not None else 0
        ip = self.address.ip if self.address is not None else b""
        if not (0 <= self.priority < 1 << 32 and 0 <= port < 1 << 16 and 0 <= self.type < 256):
            raise WireError("value_out_of_range")
        return _ENDPOINT.pack(self.priority, self.family, self.type, port) + ip


@record(frozen=True, slots=True)
class ConnectivityCheck:
    """A check. `number` is that of the sender's pair, `auth` 20 octets.

    `endpoint_data` is the endpoint as it was received, which `auth` covers (empty: as we encode
    it). A request has an endpoint without an address, a response one with.
    """

    connect_id: bytes
    endpoint: MeEndpoint
    auth: bytes
    number: int
    is_response: bool
    endpoint_data: bytes = b""

    @property
    def octets(self) -> bytes:
        """What SHA-1 covers before the key."""
        data = self.endpoint_data or self.endpoint.encode()
        return check_octets(self.number, self.connect_id, data)


def check_octets(number: int, connect_id: bytes, endpoint_data: bytes) -> bytes:
    """What ME_CONNECTAUTH covers, to which the sender's key is appended: SHA-1(this | key)."""
    return number.to_bytes(4, "big") + connect_id + endpoint_data


def is_check(data: bytes) -> bool:
    """Whether a datagram (without marker) can be a check: worth decoding, no more. Cannot fail."""
    return (
        _MIN_CHECK <= len(data) <= _MAX_CHECK_WITH_UNKNOWN
        and data[18] == ExchangeType.INFORMATIONAL
        and data[16] == PayloadType.N
        and data[:16] == bytes(16)
    )


def encode_check(check: ConnectivityCheck) -> bytes:
    """The message, without the non-ESP marker. Raises WireError."""
    header = Header(
        initiator_spi=NO_SPI,
        responder_spi=NO_SPI,
        exchange=ExchangeType.INFORMATIONAL,
        is_initiator=not check.is_response,
        is_response=check.is_response,
        message_id=check.number,
    )
    _verify(check)
    notifies = (
        NotifyPayload(NotifyType.ME_CONNECTID, check.connect_id),
        NotifyPayload(NotifyType.ME_ENDPOINT, check.endpoint_data or check.endpoint.encode()),
        NotifyPayload(NotifyType.ME_CONNECTAUTH, check.auth),
    )
    return encode_message(header, notifies)


def decode_check(data: bytes) -> ConnectivityCheck:
    """From a datagram without its marker. Raises WireError for whatever is not exactly a check.

    A request must have family 0 and a response an address: `auth` does not cover the flags, and
    so neither can be turned into the other.
    """
    if not is_check(data):
        raise WireError("not_a_check")
    message = decode_message(data)
    header = message.header
    if header.is_initiator == header.is_response:
        raise WireError("check_flags")
    found: dict[int, bytes] = {}
    for payload in message.payloads:
        match payload:
            case NotifyPayload(type=type_, data=content, spi=b"") if (
                type_ in _CHECK_NOTIFIES and type_ not in found
            ):
                found[type_] = content
            case UnknownPayload():
                pass
            case _:
                raise WireError("check_payloads")
    if len(found) != len(_CHECK_NOTIFIES):
        raise WireError("check_payloads")
    check = ConnectivityCheck(
        connect_id=found[NotifyType.ME_CONNECTID],
        endpoint=MeEndpoint.decode(found[NotifyType.ME_ENDPOINT]),
        auth=found[NotifyType.ME_CONNECTAUTH],
        number=header.message_id,
        is_response=header.is_response,
        endpoint_data=found[NotifyType.ME_ENDPOINT],
    )
    _verify(check)
    return check


def _verify(check: ConnectivityCheck) -> None:
    if not MIN_CONNECT_ID <= len(check.connect_id) <= MAX_CONNECT_ID:
        raise WireError("connect_id_length")
    if len(check.auth) != CHECK_AUTH_LENGTH:
        raise WireError("check_auth_length")
    if check.is_response != (check.endpoint.address is not None):
        raise WireError("check_endpoint")
    if not check.is_response and check.endpoint.family != EndpointFamily.NONE:
        raise WireError("check_endpoint")
