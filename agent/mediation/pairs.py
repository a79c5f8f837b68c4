"""The pairs of one checklist: built from both sides' endpoints, numbered, grown (mediation.md §3).

Numbers are private to each side: 1, 2, … in the order of priority as built, and the number of pairs
plus one for each that is added later; they never change.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from agent.mediation.endpoints import LocalEndpoint, same_base
from agent.mediation.settings import MAX_PAIRS, MAX_PEER_REFLEXIVE
from agent.wire.codes import EndpointType
from agent.wire.mediation import PRIORITY_HOST, MeEndpoint, pair_priority

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agent.datagram import Address


class PairState(Enum):
    """As in RFC 8445, without "frozen"."""

    WAITING = auto()
    IN_PROGRESS = auto()
    SUCCEEDED = auto()
    FAILED = auto()


class Pair:
    """One way a check can go: from `base` to `remote`."""

    __slots__ = (
        "base",
        "first_sent",
        "is_direct",
        "is_revealed",
        "next_send",
        "number",
        "priority",
        "prodded",
        "remote",
        "rtt",
        "sent",
        "state",
        "triggered",
        "was_heard",
        "was_nominated",
    )

    def __init__(
        self, number: int, base: Address, remote: Address, priority: int, *, is_direct: bool
    ) -> None:
        self.number = number
        self.base = base
        self.remote = remote
        self.priority = priority
        self.is_direct = is_direct
        self.is_revealed = False  # by a check, from where no endpoint was offered
        self.state = PairState.WAITING
        self.triggered = False  # queued because the other side's check came
        self.prodded = False  # a check of this run was already sent because of that
        self.was_heard = False  # the other side's check came on it
        self.was_nominated = False
        self.sent = 0  # checks of this run
        self.first_sent = 0.0
        self.next_send = 0.0  # IN_PROGRESS: the next repetition, or the end
        self.rtt = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it may still become valid by its own checks."""
        return self.triggered or self.state in (PairState.WAITING, PairState.IN_PROGRESS)


class Pairs:
    """All pairs of one attempt, highest priority first."""

    __slots__ = (
        "_added",
        "_by_number",
        "_by_remote",
        "_is_initiator",
        "_local",
        "_remote",
        "_sorted",
    )

    def __init__(
        self, local: Sequence[LocalEndpoint], remote: Iterable[MeEndpoint], *, is_initiator: bool
    ) -> None:
        self._is_initiator = is_initiator
        self._local = tuple(local)
        self._remote = {e.address: e for e in remote if e.address is not None}
        self._added = 0
        self._by_number: dict[int, Pair] = {}
        self._by_remote: dict[Address, list[Pair]] = {}
        best: dict[tuple[Address, Address], tuple[int, bool]] = {}
        for ours in self._local:
            for address, theirs in self._remote.items():
                if len(address.ip) != len(ours.base.ip):
                    continue
                value = self._priority(ours.priority, theirs.priority)
                direct = EndpointType.RELAYED not in (ours.type, theirs.type)
                key = (ours.base, address)
                if key not in best or best[key][0] < value:
                    best[key] = (value, direct)
        order = sorted(best, key=lambda key: -best[key][0])
        if len(order) > MAX_PAIRS:
            # One pair to each remote endpoint at least: the last ones are those behind the NAT.
            kept = set({key[1]: key for key in reversed(order)}.values())
            kept.update([key for key in order if key not in kept][: MAX_PAIRS - len(kept)])
            order = [key for key in order if key in kept]
        self._sorted: list[Pair] = []
        for number, key in enumerate(order, 1):
            value, direct = best[key]
            self._put(Pair(number, *key, value, is_direct=direct))

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._sorted)

    def __len__(self) -> int:
        return len(self._sorted)

    def numbered(self, number: int) -> Pair | None:
        """The pair of a response's message ID."""
        return self._by_number.get(number)

    def find(self, local: Address, remote: Address) -> Pair | None:
        """The pair by which a datagram came."""
        for pair in self._by_remote.get(remote, ()):
            if same_base(pair.base, local):
                return pair
        return None

    def reveal(self, local: Address, remote: Address, priority: int) -> Pair | None:
        """A new pair for a check from `remote`; its `priority` counts if `remote` was not offered.

        None if there are too many already.
        """
        if self._added >= MAX_PEER_REFLEXIVE:
            return None
        self._added += 1
        known = self._remote.get(remote)
        ours = next((e.priority for e in self._local if e.address == local), PRIORITY_HOST)
        theirs = known.priority if known is not None else priority
        direct = known is None or known.type != EndpointType.RELAYED
        number = len(self._sorted) + 1
        pair = Pair(number, local, remote, self._priority(ours, theirs), is_direct=direct)
        pair.is_revealed = True
        self._put(pair)
        self._sorted.sort(key=lambda p: -p.priority)
        return pair

    def _put(self, pair: Pair) -> None:
        self._sorted.append(pair)
        self._by_number[pair.number] = pair
        self._by_remote.setdefault(pair.remote, []).append(pair)

    def _priority(self, ours: int, theirs: int) -> int:
        return pair_priority(ours, theirs) if self._is_initiator else pair_priority(theirs, ours)
