"""What may pass: the services granted to a peer, and the packets that answer what we asked for.

RFC 4301 §4.4.1 in the small: the traffic selectors of the SA are checked in `tunnel`; here stands
what a peer may reach within them. ICMP echo and ICMP errors always pass, a granted destination port
passes, TCP passes unless it opens a connection, UDP passes if it answers a flow that we opened.
Fragments pass only for ICMP and for peers who may reach everything, because their ports cannot be
seen. Not here: anything about names or roles.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Literal

TCP = 6
UDP = 17
ICMP = 1
ICMPV6 = 58

_ICMP_TYPES = frozenset({0, 3, 8, 11, 12})
_ICMPV6_TYPES = frozenset({1, 2, 3, 4, 128, 129})


class All(enum.Enum):
    """Every service."""

    ALL = "all"


ALL: Final = All.ALL


@dataclass(frozen=True, slots=True)
class Grants:
    """What a peer may reach: (IP protocol, destination port) pairs, or `ALL`."""

    services: frozenset[tuple[int, int]] | Literal[All.ALL] = frozenset()


NOTHING = Grants()


class Verdict(enum.Enum):
    """What happens to the packets of a flow from a peer."""

    PASS = "let through"
    REPLY = "reply"
    """TCP: pass unless it opens a connection."""
    DROP = "drop"


def judge(
    grants: Grants, protocol: int, ports: tuple[int, int] | None, icmp_type: int | None
) -> Verdict:
    """The verdict on a flow; `ports` is (source, destination) and None where not to be seen."""
    if grants.services is ALL:
        return Verdict.PASS
    if protocol == ICMPV6:
        return Verdict.PASS if icmp_type is None or icmp_type in _ICMPV6_TYPES else Verdict.DROP
    if protocol == ICMP:
        return Verdict.PASS if icmp_type is None or icmp_type in _ICMP_TYPES else Verdict.DROP
    if ports is None:
        return Verdict.DROP
    if (protocol, ports[1]) in grants.services:
        return Verdict.PASS
    return Verdict.REPLY if protocol == TCP else Verdict.DROP
