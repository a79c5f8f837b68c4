"""Times and bounds of mediation, each with its reason. Seconds, unless a name says otherwise."""

from __future__ import annotations

from collections.abc import Callable

from agent.records import record

Random = Callable[[int], bytes]

MAX_PAIRS = 36
"""Of one checklist: 50 unanswered checks are allowed, and some pairs need more than one."""

MAX_PEER_REFLEXIVE = 8
"""Sources of authenticated checks that were not announced: a NAT makes one or two."""

SILENT_ENDPOINT_BUDGET = 8
"""Checks (84 octets each, under 1 kB in all) to a remote endpoint from which nothing came."""

HEARD_ENDPOINT_BUDGET = 28
"""Checks to a remote endpoint that sent authenticated checks itself: two full runs of 14."""

UNANSWERED_BUDGET = 50
"""Checks without answer of one attempt, all endpoints together."""

TRIGGERED_RESERVE = 6
"""Of these, kept for triggered checks: they are the ones that open both NATs."""

ANSWER_BURST = 64
"""Answers to checks of one attempt at once (a check can be replayed by whoever saw it) …"""

ANSWER_RATE = 40.0
"""… and per second: one per check slot of a peer, repetitions are slower than that."""

PRIVATE_WAIT = 0.025
"""How long a private endpoint that was asked can hold up a valid path: a neighbour is this near."""

STRONGSWAN_CONNECT_ID = 4
"""Octets of the connect IDs that strongSwan's initiators choose."""

HEAD_START = 0.05
"""The answer to a question of strongSwan's stays this far behind the mediator's response to it.

Its initiator has a checklist only when a thread of its has seen that response. If another thread
is the first to see the answer, close behind it, then the answer finds no checklist and the attempt
is dead for good (mediation.md §6). The threads of a busy machine need milliseconds to get in order;
strongSwan waits a second anyhow before it uses a path, and ours need no head start.
"""

MAX_IDENTITY = 256
"""Octets of an identity in IDp: with 17 endpoints the message still fits one datagram."""


def answered_from(connect_id: bytes, asked: float) -> float:
    """When the answer to a question of the time `asked` may go on its way."""
    return asked + (HEAD_START if len(connect_id) == STRONGSWAN_CONNECT_ID else 0.0)


@record(frozen=True, slots=True, kw_only=True)
class MediationSettings:
    """Of a client and of a server; the defaults are meant for everybody."""

    pace: float = 0.025  # first checks and triggered ones: at most one in this time
    retry_first: float = 0.025  # an unanswered check: again after this, this, then × 1.8 …
    retry_factor: float = 1.8
    retries: int = 13  # … this many times
    patience: float = 5.0  # checks are answered this long before "no path" is said
    ask_timeout: float = 8.0  # until the mediator has answered our question
    connect_timeout: float = 20.0  # from then to the other side's answer
    check_timeout: float = 15.0  # from the first check to a path, or to the other's IKE_SA_INIT
    handshake_timeout: float = 42.0  # from there to an authenticated IKE SA (IKE itself: 40)
    answered_rtt_limit: float = 0.5  # at most this long is waited for a better path
    relay_wait: float = 1.0  # a relayed path waits this long for a direct one
    max_attempts: int = 32  # connection attempts of a client at once, both directions
    max_callbacks: int = 32  # per caller
    callback_lifetime: float = 7 * 86400.0  # a call that nobody repeats is forgotten at last
    max_accepted: int = 1024  # accepted pseudonyms of one peer
    # Anybody can make a key and register with it, so there is an end: 65,536 peers are 0.3 GB, and
    # one /24 or /64 (a provider's NAT may have thousands behind it) gets a sixteenth of that. Lists
    # of accepted pseudonyms: 80 octets each, so 40 MB in all; after that only short ones are kept.
    max_registered: int = 65536
    max_registered_net: int = 4096
    max_accepted_in_all: int = 500_000
    max_accepted_then: int = 32
    # ME_CONNECT of one peer at once and per second. Who keeps up tunnels to 400 gateways calls them
    # all again after an outage: within a minute, at a few milliseconds of the mediator's time each.
    connect_burst: float = 64.0
    connect_rate: float = 8.0
    max_questions: int = 16  # relayed to one peer and not answered yet
    question_lifetime: float = 120.0
