"""Data of the notifies of RFC 5685 §9, and of the private one beside REDIRECT.

    REDIRECT, REDIRECTED_FROM    GW Ident Type 1 | GW Ident Len 1 | identity | [nonce]
    HG_REDIRECT                  port 2 | public key 32

REDIRECT_SUPPORTED has no data. Whether a nonce belongs there depends on the exchange (§9.2), so
whoever decodes says what is due. Pure codec; raises WireError and nothing else.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from agent.datagram import Address
from agent.records import record
from agent.wire.codes import GatewayIdType, known
from agent.wire.errors import WireError
from agent.wire.text import printable

if TYPE_CHECKING:
    from typing import Self

# RFC 7296 §3.9.
MIN_NONCE: Final = 16
MAX_NONCE: Final = 256
# RFC 1035 §2.3.4, as text.
MAX_FQDN: Final = 253
KEY_LENGTH: Final = 32

_LENGTHS: Final[dict[int, int]] = {GatewayIdType.IPV4: 4, GatewayIdType.IPV6: 16}
_OF_LENGTH: Final = {4: GatewayIdType.IPV4, 16: GatewayIdType.IPV6}
_LETTERS: Final = frozenset(b"-._0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


@record(frozen=True, slots=True)
class GatewayId:
    """A gateway by its address (4 or 16 octets) or its name (ASCII). Raises WireError."""

    type: GatewayIdType
    data: bytes

    def __post_init__(self) -> None:
        length = _LENGTHS.get(self.type)
        if length is None and not (0 < len(self.data) <= MAX_FQDN and set(self.data) <= _LETTERS):
            raise WireError("gateway_name")
        if length is not None and len(self.data) != length:
            raise WireError("gateway_length")

    @classmethod
    def of_ip(cls, ip: bytes) -> Self:
        """From 4 or 16 octets."""
        return cls(_OF_LENGTH.get(len(ip), GatewayIdType.IPV6), ip)

    @classmethod
    def of_host(cls, host: str) -> Self:
        """From a numeric address or a name."""
        try:
            return cls.of_ip(ipaddress.ip_address(host).packed)
        except ValueError:
            return cls(GatewayIdType.FQDN, host.encode("ascii", "replace"))

    @property
    def ip(self) -> bytes | None:
        """4 or 16 octets, None for a name."""
        return None if self.type == GatewayIdType.FQDN else self.data

    @property
    def host(self) -> str:
        """As people write it, and as a resolver takes it."""
        if self.type == GatewayIdType.FQDN:
            return printable(self.data, MAX_FQDN)
        return Address(self.data, 0).host


@record(frozen=True, slots=True)
class Redirect:
    """Data of REDIRECT. `nonce` is Ni in IKE_SA_INIT, and empty elsewhere (§9.2)."""

    gateway: GatewayId
    nonce: bytes = b""

    @classmethod
    def decode(cls, data: bytes, *, with_nonce: bool) -> Redirect:
        """Raises WireError, also where a nonce stands that is not due, or one is missing."""
        gateway, nonce = _decode_gateway(data)
        if with_nonce and not MIN_NONCE <= len(nonce) <= MAX_NONCE:
            raise WireError("redirect_nonce")
        if nonce and not with_nonce:
            raise WireError("redirect_length")
        return cls(gateway, nonce)

    def encode(self) -> bytes:
        """At most 2 + 253 + 256 octets."""
        return encode_gateway(self.gateway) + self.nonce


def encode_gateway(gateway: GatewayId) -> bytes:
    """Data of REDIRECTED_FROM, and of REDIRECT before the nonce."""
    return bytes((gateway.type, len(gateway.data))) + gateway.data


def decode_redirected_from(data: bytes) -> GatewayId:
    """Raises WireError; only an address may stand there (§9.3)."""
    gateway, rest = _decode_gateway(data)
    if rest or gateway.type == GatewayIdType.FQDN:
        raise WireError("redirected_from")
    return gateway


@record(frozen=True, slots=True)
class Successor:
    """Data of HG_REDIRECT: UDP port (1 to 65535) and Ed25519 public key (32 octets)."""

    port: int
    key: bytes

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises WireError."""
        port = int.from_bytes(data[:2], "big")
        if len(data) != 2 + KEY_LENGTH or not port:
            raise WireError("successor")
        return cls(port, data[2:])

    def encode(self) -> bytes:
        """34 octets."""
        return self.port.to_bytes(2, "big") + self.key


def _decode_gateway(data: bytes) -> tuple[GatewayId, bytes]:
    if len(data) < 2 or len(data) < 2 + data[1]:
        raise WireError("gateway_length")
    type_ = known(GatewayIdType, data[0])
    if not isinstance(type_, GatewayIdType):
        raise WireError("gateway_type")
    end = 2 + data[1]
    return GatewayId(type_, data[2:end]), data[end:]
