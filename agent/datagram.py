"""Values that every layer shares: where a datagram goes, came from, or why it was dropped."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from agent.records import record


class Address(NamedTuple):
    """A UDP endpoint: `ip` is 4 or 16 octets in network order, `port` 0 to 65535."""

    ip: bytes
    port: int

    @classmethod
    def parse(cls, host: str, port: int) -> Address:
        """From a numeric host. Raises ValueError for anything that is not an address."""
        return cls(ipaddress.ip_address(host).packed, port)

    @property
    def host(self) -> str:
        """The address as people write it."""
        return str(ipaddress.ip_address(self.ip))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if len(self.ip) == 4 else f"[{self.host}]:{self.port}"


class Path(NamedTuple):
    """A pair of endpoints. `local.port` also names the socket that is used.

    `local.ip` may be all zero octets: then the kernel chooses the source address.
    """

    local: Address
    remote: Address

    def __str__(self) -> str:
        return f"{self.local} > {self.remote}"


class Transmit(NamedTuple):
    """Octets to be sent. With `segment` > 0 they are several datagrams of that many octets each

    (the last may be shorter), which the kernel cuts apart (UDP_SEGMENT).
    """

    path: Path
    data: bytes
    segment: int = 0


class Received(NamedTuple):
    """What one receive call brought; `segment` as in `Transmit` (UDP_GRO)."""

    path: Path
    data: bytes
    segment: int = 0


@record(frozen=True, slots=True)
class Dropped:
    """A datagram that was not accepted: one short word for the counter, nothing more."""

    reason: str
