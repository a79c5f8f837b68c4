"""Who has sent IKE_SA_INIT and not yet proven anything: bounded in all and per network.

RFC 7296 §2.6. One network is a /24 or /64: what one host, or one household, can have of addresses.
At a limit the oldest goes, so an attacker displaces others only as fast as honest peers finish
(with COOKIEs, only from addresses at which it receives). Everything is O(1).

A request that costs a key exchange and leaves nothing (a public value that is none, too short for
our answer) is no half-open SA: so many of them in one second lead to COOKIEs as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.ike.cookies import FIRST_ANSWERS_IN_ALL, AnswerRate

if TYPE_CHECKING:
    from agent.datagram import Address
    from agent.ike.sa import IkeSa
    from agent.ike.settings import IkeSettings

# Where COOKIEs are asked for, key exchanges in one second for one network that brings them: one
# COOKIE is good for any number of requests. Of MODP-4096 they take a quarter of a processor, and a
# crowd behind one NAT, back after an outage, is in within its retransmissions.
FIRST_PER_NETWORK: Final = 64


def network_of(address: Address) -> bytes:
    """The /24 or /64 of an address."""
    return address.ip[:3] if len(address.ip) == 4 else address.ip[:8]


class HalfOpen:
    """Half-open SAs as responder, the oldest first."""

    __slots__ = ("_by_request", "_cost", "_first", "_keys", "_networks", "_settings")

    def __init__(self, settings: IkeSettings) -> None:
        self._settings = settings
        self._by_request: dict[tuple[Address, bytes], IkeSa] = {}
        self._keys: dict[IkeSa, tuple[Address, bytes]] = {}
        self._networks: dict[bytes, dict[IkeSa, None]] = {}
        self._cost = AnswerRate(settings.cookie_threshold_net, settings.cookie_threshold)
        self._first = AnswerRate(FIRST_PER_NETWORK, FIRST_ANSWERS_IN_ALL)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, remote: Address, request: bytes) -> IkeSa | None:
        """The SA that this very request from there has made already."""
        return self._by_request.get((remote, request))

    def needs_cookie(self, remote: Address, now: float) -> bool:
        """Whether there are so many that a new one has to prove its address."""
        if len(self._keys) >= self._settings.cookie_threshold:
            return True
        network = network_of(remote)
        near = self._networks.get(network, ())
        return len(near) >= self._settings.cookie_threshold_net or self._cost.is_used_up(
            network, now
        )

    def was_fruitless(self, remote: Address, now: float) -> None:
        """A request from there cost a key exchange, and nothing became of it."""
        self._cost.take(network_of(remote), now)

    def admits(self, remote: Address, now: float) -> bool:
        """Whether one that had to prove its address may begin; if so it counts."""
        return self._first.take(network_of(remote), now)

    def displaced_by(self, remote: Address) -> IkeSa | None:
        """The SA that has to go for one more from there, or None."""
        near = self._networks.get(network_of(remote))
        if near is not None and len(near) >= self._settings.half_open_limit_net:
            return next(iter(near))
        if len(self._keys) >= self._settings.half_open_limit:
            return next(iter(self._keys))
        return None

    def add(self, sa: IkeSa, remote: Address, request: bytes) -> None:
        """`sa` is half-open now, because of `request`."""
        key = (remote, request)
        self._by_request[key] = sa
        self._keys[sa] = key
        self._networks.setdefault(network_of(remote), {})[sa] = None

    def remove(self, sa: IkeSa) -> None:
        """`sa` is not half-open (any more)."""
        key = self._keys.pop(sa, None)
        if key is None:
            return
        del self._by_request[key]
        network = network_of(key[0])
        near = self._networks[network]
        del near[sa]
        if not near:
            del self._networks[network]
