"""What may pass: traffic selectors, services granted to a peer, and answers to what we asked for.

RFC 4301 §4.4.1 in the small. The selectors of an SA say which addresses, protocols and ports it
carries; the grants say what the peer may reach within them: ICMP echo and ICMP errors always pass,
a granted destination port passes, TCP passes unless it opens a connection, UDP passes if it answers
a flow that we opened. Fragments pass for ICMP only, and for a peer who may reach everything,
because their ports are not to be seen. Not here: names and roles.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, Literal

from agent.records import record
from agent.wire.ip import ICMP, ICMPV6, TCP, UDP

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.ipsec.flow import Flow
    from agent.wire.selectors import TrafficSelector

_ICMP_TYPES = frozenset({0, 3, 8, 11, 12})
_ICMPV6_TYPES = frozenset({1, 2, 3, 4, 128, 129})
_LAST_PORT = 65535

OPENED_FLOWS = 1024
"""UDP flows of ours remembered for a peer, twice (a young and an old generation)."""


class All(enum.Enum):
    """Every service."""

    ALL = "all"


ALL: Final = All.ALL


@record(frozen=True, slots=True)
class Grants:
    """What a peer may reach: (IP protocol, destination port) pairs, or `ALL`."""

    services: frozenset[tuple[int, int]] | Literal[All.ALL] = frozenset()


NOTHING: Final = Grants()


class Verdict(enum.IntEnum):
    """What happens to the packets of a flow that comes from a peer."""

    ACCEPT = 0
    NO_OPENING = 1
    """TCP: accepted unless it opens a connection."""
    ANSWER = 2
    """UDP: accepted if we opened the flow."""
    REFUSE = 3


def judge(grants: Grants, flow: Flow) -> Verdict:
    """What `grants` say about a packet."""
    if grants.services is ALL:
        return Verdict.ACCEPT
    if flow.protocol in (ICMP, ICMPV6):
        allowed = _ICMP_TYPES if flow.protocol == ICMP else _ICMPV6_TYPES
        return Verdict.ACCEPT if flow.kind is None or flow.kind in allowed else Verdict.REFUSE
    if flow.ports is None:
        return Verdict.REFUSE
    if (flow.protocol, flow.ports[1]) in grants.services:
        return Verdict.ACCEPT
    return Verdict.NO_OPENING if flow.protocol == TCP else Verdict.ANSWER


def covers(
    sources: Iterable[TrafficSelector], destinations: Iterable[TrafficSelector], flow: Flow
) -> bool:
    """Whether a packet is within the selectors of its source and of its destination."""
    from_port: int | None
    to_port: int | None
    if flow.ports is not None:
        from_port, to_port = flow.ports
    elif flow.kind is not None:  # RFC 7296 §3.13.1: type and code in place of a port
        from_port = to_port = flow.kind << 8 | flow.code
    else:
        from_port = to_port = None
    return _within(sources, flow.protocol, flow.source, from_port) and _within(
        destinations, flow.protocol, flow.destination, to_port
    )


def _within(
    selectors: Iterable[TrafficSelector], protocol: int, address: bytes, port: int | None
) -> bool:
    size = len(address)
    for selector in selectors:
        if selector.protocol not in (0, protocol) or len(selector.start) != size:
            continue
        if not selector.start <= address <= selector.end:
            continue
        if selector.start_port == 0 and selector.end_port == _LAST_PORT:
            return True
        if port is not None and selector.start_port <= port <= selector.end_port:
            return True
    return False


def answer_to(flow: Flow) -> tuple[bytes, bytes, tuple[int, int] | None]:
    """Names the flow that would answer this one."""
    ports = flow.ports
    return flow.destination, flow.source, None if ports is None else (ports[1], ports[0])


class OpenedFlows:
    """UDP flows that we opened, in two generations: bounded, forgotten when two have passed."""

    __slots__ = ("_old", "_young")

    def __init__(self) -> None:
        self._young: set[tuple[bytes, bytes, tuple[int, int] | None]] = set()
        self._old: set[tuple[bytes, bytes, tuple[int, int] | None]] = set()

    def add(self, flow: Flow) -> None:
        """We sent this packet."""
        if flow.protocol != UDP:
            return
        if len(self._young) >= OPENED_FLOWS:
            self.age()
        self._young.add(answer_to(flow))

    def awaits(self, flow: Flow) -> bool:
        """Whether this packet answers one of ours."""
        name = (flow.source, flow.destination, flow.ports)
        return name in self._young or name in self._old

    def age(self) -> None:
        """Begin a new generation."""
        self._old, self._young = self._young, set()
