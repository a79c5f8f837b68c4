"""Endpoints: which of ours are offered, which of theirs may be probed (mediation.md §2, §5).

A mediator or a peer can name any address. What is refused here never gets a single check:
multicast, broadcast, unspecified, loopback and link-local addresses, port 0, and whatever the
caller excludes (its own endpoints, the mediator). Addresses of the own LAN stay allowed: two peers
may share it. Directed broadcast is left to the socket, which refuses it without SO_BROADCAST.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.records import record
from agent.wire.codes import EndpointType
from agent.wire.mediation import MAX_ENDPOINTS, MeEndpoint, endpoint_priority

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from agent.datagram import Address

MARKERLESS_PORT = 500
"""strongSwan neither adds nor expects the non-ESP marker there: never offered (mediation.md §3)."""

_KNOWN = frozenset(EndpointType)
_LOCAL_PREFERENCE = 65535
_NAT64 = bytes.fromhex("0064ff9b")


@record(frozen=True, slots=True, kw_only=True)
class LocalEndpoint:
    """One of ours: `base` is where packets leave from, `address` what others see."""

    priority: int
    type: EndpointType
    address: Address
    base: Address

    @property
    def offered(self) -> MeEndpoint:
        """As it stands in ME_CONNECT."""
        return MeEndpoint.of(self.type, self.address, self.priority)


def is_usable(address: Address) -> bool:
    """Whether a datagram to this address may go out at all. Cannot fail."""
    ip, port = address
    if port == 0:
        return False
    if len(ip) == 4:
        if (
            ip[0] in (0, 127) or ip[0] >= 224
        ):  # "this" network, loopback, multicast, reserved, all ones
            return False
        return ip[:2] != b"\xa9\xfe"  # 169.254/16 link-local
    if len(ip) != 16:
        return False
    # 2000::/3 global, fc00::/7 unique local, 64:ff9b::/32 translated. Everything else is loopback,
    # unspecified, mapped IPv4 (which would smuggle in any of the above), link-local or multicast.
    return ip[0] & 0xE0 == 0x20 or ip[0] & 0xFE == 0xFC or ip[:4] == _NAT64


def is_private(address: Address) -> bool:
    """Whether this address means something inside one network only (RFC 1918, 6598, 4193)."""
    ip = address.ip
    if len(ip) == 4:
        return (
            ip[0] == 10
            or (ip[0] == 172 and ip[1] & 0xF0 == 16)
            or (ip[0] == 192 and ip[1] == 168)
            or (ip[0] == 100 and ip[1] & 0xC0 == 64)
        )
    return ip[0] & 0xFE == 0xFC


def is_unspecified(address: Address) -> bool:
    """Whether the kernel is to choose the source address."""
    return not any(address.ip)


def same_base(base: Address, local: Address) -> bool:
    """Whether a datagram that came to `local` came to `base` (all zeros stand for any address)."""
    if base == local:
        return True
    return base.port == local.port and len(base.ip) == len(local.ip) and is_unspecified(base)


def resolve_base(local: Address, hosts: Sequence[Address]) -> Address:
    """The base behind a socket's local address: itself, or the first host address of its family."""
    if not is_unspecified(local):
        return local
    return next((h for h in hosts if len(h.ip) == len(local.ip) and h.port == local.port), local)


def collect(
    hosts: Iterable[Address], reflexive: Iterable[tuple[Address, Address]]
) -> tuple[LocalEndpoint, ...]:
    """What we offer, best first, at most 17: host addresses, then (seen as, base) of the reflexive

    ones and port mappings. Redundant ones (same address and base) go, the lower priority first.
    """
    found: list[LocalEndpoint] = []
    seen: set[tuple[Address, Address]] = set()
    offers = [(EndpointType.HOST, host, host) for host in hosts]
    offers += [(EndpointType.SERVER_REFLEXIVE, address, base) for address, base in reflexive]
    preference = dict.fromkeys(EndpointType, _LOCAL_PREFERENCE)
    for type_, address, base in offers:
        if not is_usable(address) or address.port == MARKERLESS_PORT or (address, base) in seen:
            continue
        if type_ is not EndpointType.HOST and any(address == known for known, _ in seen):
            continue
        seen.add((address, base))
        found.append(
            LocalEndpoint(
                priority=endpoint_priority(type_, preference[type_]),
                type=type_,
                address=address,
                base=base,
            )
        )
        preference[type_] -= 1
    return _with_reflexive(found)


def _with_reflexive(found: list[LocalEndpoint]) -> tuple[LocalEndpoint, ...]:
    """The first 17, but a reflexive one always: without it nobody gets through a NAT."""
    kept = found[:MAX_ENDPOINTS]
    others = [e for e in found[MAX_ENDPOINTS:] if e.type is EndpointType.SERVER_REFLEXIVE]
    if others and not any(e.type is EndpointType.SERVER_REFLEXIVE for e in kept):
        kept[-1] = others[0]
    return tuple(kept)


def received(
    offered: Iterable[MeEndpoint], excluded: Collection[Address] = ()
) -> tuple[MeEndpoint, ...]:
    """What may be probed of a peer's offer: best first, at most 17, each address once."""
    best: dict[Address, MeEndpoint] = {}
    for candidate in offered:
        address = candidate.address
        if candidate.type not in _KNOWN or address is None:
            continue
        if not is_usable(address) or address in excluded:
            continue
        known = best.get(address)
        if known is None or candidate.priority > known.priority:
            best[address] = candidate
    return tuple(sorted(best.values(), key=lambda e: -e.priority)[:MAX_ENDPOINTS])


def relayable(offered: Iterable[MeEndpoint]) -> tuple[MeEndpoint, ...]:
    """What a server passes on: with an address and known, as they came, the best 17."""
    known = [e for e in offered if e.type in _KNOWN and e.address is not None]
    return tuple(sorted(known, key=lambda e: -e.priority)[:MAX_ENDPOINTS])
