"""The connectivity checks of one attempt (mediation.md §3, §4): which path is open.

One `Checklist` per connect ID. It sends checks in slots of 25 ms (the oldest triggered pair, else
the highest waiting one), repeats what is not answered outside of them, answers the other side's
checks, and tells which valid pair to use. Sides: `is_initiator` is whoever chose the connect ID.

    WAITING --slot--> IN_PROGRESS --response--> SUCCEEDED
                           |  no answer              ^
                           v                         | response
                         FAILED --triggered--> IN_PROGRESS

Where the draft and strongSwan differ: a pair in progress is triggered at once (strongSwan), but
once in a run only; a response that does not fit leaves the pair alone (strongSwan); a valid pair
keeps its own priority when the response shows a new local peer-reflexive endpoint (strongSwan).

Nomination. The first valid pair is used at once if no pair that can still win ranks higher. One
that does rank higher can win for one measured round trip after its own first check, but never
longer than one after the first valid pair; a private one that was not even asked yet cannot.
A relayed pair waits for direct ones. Valid means "a hint that packets pass", nothing more: checks
are authenticated by SHA-1 with a key that the mediator knows.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from agent.crypto.digest import bytes_eq, sha1
from agent.datagram import Path, Transmit
from agent.mediation.budget import CheckBudget
from agent.mediation.endpoints import LocalEndpoint, is_private, is_usable
from agent.mediation.pairs import Pair, Pairs, PairState
from agent.mediation.settings import PRIVATE_WAIT, MediationSettings
from agent.wire.codes import EndpointFamily, EndpointType
from agent.wire.mediation import (
    PRIORITY_PEER_REFLEXIVE,
    ConnectivityCheck,
    MeEndpoint,
    check_octets,
    encode_check,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_QUESTION = MeEndpoint(
    PRIORITY_PEER_REFLEXIVE, EndpointFamily.NONE, EndpointType.PEER_REFLEXIVE, None
)


class Checklist:
    """See the module. Drive it: a call with `now`, take `outputs`, again at `next_timeout`."""

    def __init__(
        self,
        *,
        connect_id: bytes,
        is_initiator: bool,
        own_key: bytes,
        remote_key: bytes,
        local: Sequence[LocalEndpoint],
        remote: Iterable[MeEndpoint],
        settings: MediationSettings,
        now: float,
    ) -> None:
        self.outputs: deque[Transmit] = deque()
        self.pairs = Pairs(local, remote, is_initiator=is_initiator)
        self.budget = CheckBudget(now)
        self.started_at: float | None = None
        self.nominated: Pair | None = None
        self._connect_id = connect_id
        self._is_initiator = is_initiator
        self._own_key = own_key
        self._remote_key = remote_key
        self._settings = settings
        self._triggered: deque[Pair] = deque()
        self._next_slot = now
        self._held_until: float | None = None
        self._first_valid: float | None = None  # when, and that pair's round trip
        self._first_rtt = 0.0
        self._is_quiet = False  # paused, or a path is chosen: answers only

    # -- verbs -----------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin to send (R: its ME_RESPONSE was acknowledged; I: it was relayed)."""
        if self.started_at is None:
            self.started_at = now
            self._next_slot = now
            self._run(now)

    def pause(self) -> None:
        """An IKE_SA_INIT with our connect ID came: answer checks, send none."""
        self._is_quiet = True

    def resume(self, now: float) -> None:
        """That IKE SA came to nothing, or the nominated path did not carry it: send again."""
        self._is_quiet = False
        self.nominated = None
        self._held_until = None
        self._first_valid = None
        self._consider(now)
        self._run(now)

    def receive(self, path: Path, check: ConnectivityCheck, now: float) -> str | None:
        """A check with our connect ID came along `path`; a word if it was not accepted."""
        if not bytes_eq(sha1(check.octets + self._remote_key), check.auth):
            return "check_auth"
        if check.is_response:
            reason = self._on_response(path, check, now)
        else:
            reason = self._on_request(path, check, now)
        self._consider(now)
        self._run(now)
        return reason

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        self._run(now)
        self._consider(now)

    def next_timeout(self) -> float | None:
        """When something is due; None if only the other side can change anything."""
        due: list[float] = []
        if self._held_until is not None:
            due.append(self._held_until)
        if self.started_at is not None and not self._is_quiet:
            if self._triggered or any(p.state is PairState.WAITING for p in self.pairs):
                due.append(self._next_slot)
            due += [p.next_send for p in self.pairs if p.state is PairState.IN_PROGRESS]
        return min(due, default=None)

    @property
    def valid(self) -> Pair | None:
        """The valid pair of highest priority that was not nominated before.

        For the initiator a pair of offered endpoints is as good as valid when both sides' checks
        have left on it and the other one's has come: its NAT is open for us then, and the response
        to ours, half a round trip away, would seldom say anything else. (It would where our NAT
        maps by destination and lets everybody in.) Should it not carry the IKE_SA_INIT after all,
        that is given up and the checks go on (`resume`), as with any path.
        """
        for pair in self.pairs:
            is_open = pair.was_heard and pair.sent and pair.state is PairState.IN_PROGRESS
            if (is_open or pair.state is PairState.SUCCEEDED) and not pair.was_nominated:
                return pair
        return None

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing that is left here can find a path (the other side's checks still can)."""
        return (
            self.nominated is None and self.valid is None and not any(p.is_open for p in self.pairs)
        )

    # -- sending ---------------------------------------------------------------------------------

    def _run(self, now: float) -> None:
        if self.started_at is None or self._is_quiet:
            return
        for pair in self.pairs:
            if pair.state is PairState.IN_PROGRESS and pair.next_send <= now:
                self._repeat(pair, now)
        if now >= self._next_slot and self._fill_slot(now):
            self._next_slot = now + self._settings.pace

    def _fill_slot(self, now: float) -> bool:
        while self._triggered:
            pair = self._triggered.popleft()
            pair.triggered = False
            if pair.state is PairState.SUCCEEDED:
                continue
            if not self.budget.allows(pair.remote, triggered=True):
                continue
            if pair.state is not PairState.IN_PROGRESS:
                self._begin(pair, now)
            pair.prodded = True
            self._send(pair, now)
            return True
        while (waiting := self._next_waiting()) is not None:
            if self.budget.allows(waiting.remote):
                self._begin(waiting, now)
                self._send(waiting, now)
                return True
            waiting.state = PairState.FAILED
        return False

    def _next_waiting(self) -> Pair | None:
        """The highest waiting pair; one to an endpoint that was not asked at all comes before.

        With one local address that is no difference. With many, the pairs that work would
        otherwise come after all combinations of private addresses.
        """
        waiting = [p for p in self.pairs if p.state is PairState.WAITING]
        fresh = (p for p in waiting if not self.budget.was_asked(p.remote))
        return next(fresh, waiting[0] if waiting else None)

    def _begin(self, pair: Pair, now: float) -> None:
        pair.state = PairState.IN_PROGRESS
        pair.sent = 0
        pair.first_sent = now
        pair.prodded = False

    def _repeat(self, pair: Pair, now: float) -> None:
        if pair.sent > self._settings.retries or self.budget.is_spent(pair.remote):
            pair.state = PairState.FAILED
            return
        # What was not probed once comes before what is probed again.
        waiting = sum(p.state is PairState.WAITING for p in self.pairs)
        if self.budget.allows(pair.remote, reserve=waiting):
            self._send(pair, now)
        else:
            pair.sent += 1
            pair.next_send = now + self._interval(pair.sent)

    def _send(self, pair: Pair, now: float) -> None:
        self.budget.spend(pair.remote)
        pair.sent += 1
        pair.next_send = now + self._interval(pair.sent)
        data = self._encode(pair.number, _QUESTION, is_response=False)
        self.outputs.append(Transmit(Path(pair.base, pair.remote), data))

    def _interval(self, sent: int) -> float:
        """From the `sent`-th check of a pair to the next: 25 ms, 25 ms, then × 1.8 each time."""
        return self._settings.retry_first * self._settings.retry_factor ** max(0, sent - 2)

    def _encode(self, number: int, endpoint: MeEndpoint, *, is_response: bool) -> bytes:
        octets = check_octets(number, self._connect_id, endpoint.encode())
        return encode_check(
            ConnectivityCheck(
                connect_id=self._connect_id,
                endpoint=endpoint,
                auth=sha1(octets + self._own_key),
                number=number,
                is_response=is_response,
            )
        )

    # -- receiving -------------------------------------------------------------------------------

    def _on_request(self, path: Path, check: ConnectivityCheck, now: float) -> str | None:
        if not is_usable(path.remote):
            return "check_source"
        if not self.budget.may_answer(now):
            return "check_rate"
        pair = self.pairs.find(path.local, path.remote)
        if pair is None:
            pair = self.pairs.reveal(path.local, path.remote, check.endpoint.priority)
        if pair is not None:
            self.budget.heard(path.remote)
            self._trigger(pair)
            if self._is_initiator and not pair.is_revealed and not pair.was_heard:
                pair.was_heard = True
                self._note_valid(pair, now)
        seen = MeEndpoint.of(EndpointType.PEER_REFLEXIVE, path.remote, check.endpoint.priority)
        data = self._encode(check.number, seen, is_response=True)
        self.outputs.append(Transmit(path, data))
        # Its sender has our key, so our ME_RESPONSE arrived: its acknowledgement is not needed.
        self.start(now)
        return None

    def _trigger(self, pair: Pair) -> None:
        if pair.triggered or pair.state is PairState.SUCCEEDED:
            return
        if pair.state is PairState.IN_PROGRESS and pair.prodded:
            return  # its repetitions go on
        pair.triggered = True
        self._triggered.append(pair)

    def _on_response(self, path: Path, check: ConnectivityCheck, now: float) -> str | None:
        pair = self.pairs.numbered(check.number)
        if pair is None or not pair.sent or pair is not self.pairs.find(path.local, path.remote):
            return "check_unsolicited"
        self.budget.answered(pair.remote)
        if pair.state is not PairState.SUCCEEDED:
            pair.state = PairState.SUCCEEDED
            pair.rtt = now - pair.first_sent
            self._note_valid(pair, now)
            if pair.was_heard:
                pair.was_nominated = pair is self.nominated
        return None

    def _note_valid(self, pair: Pair, now: float) -> None:
        if self._first_valid is None and pair.sent:
            self._first_valid = now
            self._first_rtt = now - pair.first_sent

    # -- nomination ------------------------------------------------------------------------------

    def _consider(self, now: float) -> None:
        self._held_until = None
        best = self.valid
        if self.nominated is not None or best is None:
            return
        if self._is_initiator:
            until = self._hold(best, now)
            if until > now:
                self._held_until = until
                return
            self._is_quiet = True
        best.was_nominated = True
        self.nominated = best

    def _hold(self, best: Pair, now: float) -> float:
        """Until when a better pair than `best` may still come."""
        since = self._first_valid if self._first_valid is not None else now
        round_trip = min(self._first_rtt, self._settings.answered_rtt_limit)
        latest = since + round_trip
        until = 0.0
        for pair in self.pairs:
            if pair.priority <= best.priority and (best.is_direct or not pair.is_direct):
                continue
            if not pair.is_open:
                continue
            if not best.is_direct and pair.is_direct:
                return since + self._settings.relay_wait
            private = is_private(pair.remote)
            if pair.state is PairState.IN_PROGRESS:
                limit = min(round_trip, PRIVATE_WAIT) if private else round_trip
                until = max(until, min(pair.first_sent + limit, latest))
            elif not private or pair.triggered:
                until = latest
        return until
