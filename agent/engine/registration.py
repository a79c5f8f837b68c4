"""One registration at a mediation server: kept up for as long as its entry stands."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from agent.engine.backoff import STABLE_SECONDS, Backoff, Random
from agent.engine.events import Event, MediatorChanged, Notice, ResolveWanted
from agent.engine.sentences import FLAPPING, mediator_closed
from agent.ike.events import CloseReason
from agent.ike.resumption import TicketHolder
from agent.status import MediatorStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.datagram import Address, Path
    from agent.engine.entries import MediatorEntry
    from agent.ike.events import IkeSaClosed
    from agent.ike.table import Ike
    from agent.mediation.client import MediationClient

RETRY_FIRST = 2.0  # seconds; a mediator that restarts is back at once
RETRY_LIMIT = 120.0  # seconds; 400 gateways then knock three times a second at most
RESOLVE_SECONDS = 30.0  # a resolver that never answers
PATH_SECONDS = 5.0  # for the answer to IKE_SA_INIT where the name has another address


class State(StrEnum):
    """Where the registration stands."""

    WAITING = "waiting"
    RESOLVING = "resolving"
    CONNECTING = "connecting"
    REGISTERED = "registered"


class Registration:
    """Drives one `MediationClient` and the IKE SA under it. `deadline` is polled by the engine."""

    def __init__(
        self,
        entry: MediatorEntry,
        client: MediationClient,
        ike: Ike,
        random: Random,
        emit: Callable[[Event], None],
    ) -> None:
        self.entry = entry
        self.client = client
        self.state = State.WAITING
        self.ike_id: int | None = None
        self.deadline: float | None = None
        self._ike = ike
        self._emit = emit
        self._backoff = Backoff(random, RETRY_FIRST, RETRY_LIMIT)
        self._candidates: list[Path] = []
        self._tickets = TicketHolder()
        self._reflexive: Address | None = None
        self._since = 0.0
        self._error = ""

    def start(self, now: float) -> None:
        """Look the server up, then connect."""
        self._to(State.RESOLVING, now, now + RESOLVE_SECONDS)
        self._emit(
            ResolveWanted(
                key=("mediator", self.entry.name), host=self.entry.host, port=self.entry.port
            )
        )

    def restart(self, now: float) -> None:
        """Our addresses changed: what there was is given up without waiting for its timeouts."""
        self._drop_sa(now)
        self._backoff.reset()
        self.start(now)

    def hurry(self, now: float) -> None:
        """A person waits for it: do not wait for the next attempt's time."""
        if self.state is State.WAITING:
            self.start(now)

    def stop(self, now: float) -> None:
        """The entry is gone."""
        if self.ike_id is not None:
            self._ike.close(self.ike_id, now)
            self.ike_id = None
        self.deadline = None

    def on_resolved(self, paths: Sequence[Path], now: float) -> None:
        """Addresses of the server, best first."""
        if self.state is State.RESOLVING:
            self._candidates = list(paths)
            self._connect_next(now)

    def on_not_resolved(self, sentence: str, now: float) -> None:
        """The name is not known now."""
        if self.state is State.RESOLVING:
            self._fail(sentence, now)

    def on_registered(self, reflexive: Address | None, now: float) -> None:
        """The server counts us as online."""
        self._error = ""
        self._reflexive = reflexive
        self._to(State.REGISTERED, now, None)

    def on_reflexive(self, reflexive: Address, now: float) -> None:
        """The server sees us elsewhere now."""
        self._reflexive = reflexive
        self._to(self.state, now, self.deadline)

    def on_closed(self, event: IkeSaClosed, now: float) -> None:
        """The IKE SA under it ended."""
        if event.ike_id != self.ike_id:
            return
        self.ike_id = None
        if not event.established and self._candidates:
            self._connect_next(now)
            return
        lasted = now - self._since if self.state is State.REGISTERED else 0.0
        if self.state is State.REGISTERED and self._backoff.on_lost(lasted):
            self._emit(Notice(text=f"mediator {self.entry.name}: {FLAPPING}"))
        self._fail(mediator_closed(event.reason, event.detail), now)
        if event.reason is CloseReason.RESTARTED and lasted >= STABLE_SECONDS:
            self.start(now)  # it is there; or, soon after, another machine has our keys

    def on_refused(self, sentence: str, now: float) -> None:
        """The server is there but of no use (no mediation server, or it refused)."""
        self._drop_sa(now)
        self._fail(sentence, now)

    def on_timer(self, now: float) -> None:
        """`deadline` has come."""
        match self.state:
            case State.WAITING:
                self.start(now)
            case State.RESOLVING:
                self._fail(f"{self.entry.host} was not looked up in time.", now)
            case _:
                self.deadline = None

    def status(self, now: float) -> MediatorStatus:
        """For people."""
        return MediatorStatus(
            name=self.entry.name,
            address=f"{self.entry.host}:{self.entry.port}",
            state=self.state.value,
            reflexive=str(self._reflexive or ""),
            resumed=self.state is State.REGISTERED and self._tickets.resumed,
            since=now - self._since,
            retry_in=max(0.0, self.deadline - now)
            if self.state is State.WAITING and self.deadline
            else 0.0,
            error=self._error,
        )

    def _connect_next(self, now: float) -> None:
        if not self._candidates:
            self._fail(f"{self.entry.host} has no address that can be reached from here.", now)
            return
        path = self._candidates.pop(0)
        self.ike_id = self._ike.connect(
            self.entry.peer,
            path,
            now,
            extensions=(self.client.extension, self._tickets.extension),
            patience=PATH_SECONDS if self._candidates else None,
        )
        self._to(State.CONNECTING, now, None)

    def _fail(self, sentence: str, now: float) -> None:
        self._error = sentence
        self._reflexive = None
        self._to(State.WAITING, now, now + self._backoff.next_delay())

    def _drop_sa(self, now: float) -> None:
        if self.ike_id is not None:
            ike_id, self.ike_id = self.ike_id, None
            self._ike.close(ike_id, now, silent=True)

    def _to(self, state: State, now: float, deadline: float | None) -> None:
        if state is not self.state:
            self._since = now
        self.state = state
        self.deadline = deadline
        self._emit(
            MediatorChanged(
                name=self.entry.name,
                state=state.value,
                reflexive=str(self._reflexive or ""),
                error=self._error if state is State.WAITING else "",
            )
        )
