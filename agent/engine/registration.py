"""One registration at a mediation server: kept up for as long as its entry stands."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from agent.engine.backoff import STABLE_SECONDS, Backoff, Random
from agent.engine.entries import MediatorPlace
from agent.engine.events import Event, MediatorChanged, MediatorMoved, Notice, ResolveWanted
from agent.engine.redirection import PATH_SECONDS, Place, Redirection, handed_over
from agent.engine.sentences import FLAPPING, mediator_closed
from agent.ike.events import CloseReason
from agent.ike.pad import KeyAuth
from agent.ike.ppk import negotiated
from agent.ike.redirect import follows
from agent.ike.resumption import TicketHolder, resumption_of
from agent.status import MediatorStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.datagram import Address, Path
    from agent.engine.entries import MediatorEntry
    from agent.ike.events import IkeSaClosed, Redirected
    from agent.ike.resumption import StoredTicket
    from agent.ike.table import Ike
    from agent.mediation.client import MediationClient

RETRY_FIRST = 2.0  # seconds; a mediator that restarts is back at once
RETRY_LIMIT = 120.0  # seconds; 400 gateways then knock three times a second at most
RESOLVE_SECONDS = 30.0  # a resolver that never answers
# Who was handed over asks so long after it came to the other server, or half of that, whether the
# configured one is back, and then each time after twice as long: about as long as that is away.
# For who was off during the draining registers there, and cannot call those that have gone. Ten
# thousand that came at once are 300 a second.
HOME_SOON = 60.0
# … and no less often than this: one that is off for good costs each time four datagrams of 0.7 kB.
HOME_SECONDS = 1800.0
# Where somebody who is called is not reachable he may have gone back: but not asked more often.
HOME_AGAIN = 300.0


class State(StrEnum):
    """Where the registration stands."""

    WAITING = "waiting"
    RESOLVING = "resolving"
    CONNECTING = "connecting"
    REGISTERED = "registered"


class Registration:
    """Drives one `MediationClient` and the IKE SA under it. `deadline` is polled by the engine.

    `_places`: where to register, in the order in which to try, the entry's own among them; a
    mediator that hands us over puts another before it. `_place`: where we are, or try to be.
    Where another registration covers this one it only asks, now and then, whether the server of the
    entry is back; then the entries are made anew.
    More attributes than the soft limit: what is shown of it is half of them.
    """

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
        self._home_after = Backoff(random, HOME_SOON, HOME_SECONDS)
        self._home_asked = -HOME_AGAIN
        self._candidates: list[Path] = []
        self._tickets = TicketHolder()
        self._lent: StoredTicket | None = None  # to be shown at the server's own address
        self._reflexive: Address | None = None
        self._since = 0.0
        self._error = ""
        self._places = [_home(entry)] if entry.is_covered else _places(entry)
        self._place = self._places[0]
        self.redirection = Redirection(
            ("mediator", entry.name),
            ike,
            emit,
            # A ticket is for the server that gave it, so each attempt elsewhere has a holder anew.
            lambda: (self.client.extension, TicketHolder(self._lent).extension),
            self._on_redirection_failed,
        )

    def begin(self, now: float) -> None:
        """The entry is new: register, or wait where another registration does for it."""
        if self.entry.is_covered:
            self._to(State.WAITING, now, now + self._home_after.next_delay())
        else:
            self.start(now)

    def start(self, now: float) -> None:
        """Look the server up, then connect."""
        self._place = place = self._places[0]
        self._to(State.RESOLVING, now, now + RESOLVE_SECONDS)
        self._emit(
            ResolveWanted(key=("mediator", self.entry.name), host=place.host, port=place.port)
        )

    def restart(self, now: float) -> None:
        """Our addresses changed: what there was is given up without waiting for its timeouts."""
        self._drop_sa(now)
        self._backoff.reset()
        self.start(now)

    def reauthenticate(self, now: float) -> None:
        """The proof is to be repeated (RFC 4478): on a new IKE SA beside this one, which stands

        until the server has us on the new one. To be called again while that does not come about.
        """
        sa = self._ike.sa(self.ike_id) if self.ike_id is not None else None
        if sa is not None and not self.redirection.is_active:
            self.redirection.beside(self._place, sa.path, now)

    def ask_home(self, now: float) -> None:
        """Somebody who is called is not reachable where we are: he may have gone back."""
        if now >= self._home_asked + HOME_AGAIN:
            self._seek_home(now)

    def _seek_home(self, now: float) -> None:
        """See whether the server that the entry names has us again, beside the one we are at.

        For as long as it is drained it sends us back here, which changes nothing.
        """
        if self._is_away and self.state is State.REGISTERED and not self.redirection.attempts:
            self._home_asked = now
            self.redirection.seek(_home(self.entry))

    @property
    def _is_away(self) -> bool:
        """Whether another server took over from the one of the entry."""
        return not self._place.lasting.is_same(_home(self.entry))

    @property
    def _takes_redirects(self) -> bool:
        """Whether the server may send us elsewhere: on this IKE SA we may have declined it."""
        sa = self._ike.sa(self.ike_id) if self.ike_id is not None else None
        return sa is None or follows(sa)

    def hurry(self, now: float) -> None:
        """A person waits for it: do not wait for the next attempt's time."""
        if self.state is State.WAITING:
            self.start(now)

    def stop(self, now: float) -> None:
        """The entry is gone."""
        self.redirection.drop(now)
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

    def on_redirected(self, event: Redirected, now: float) -> None:
        """The server, or who speaks in its name, sends us to another one."""
        attempts = self.redirection.attempts
        if event.ike_id != self.ike_id and event.ike_id not in attempts:
            return
        here = attempts.get(event.ike_id, self._place)
        peer, port = here.peer, event.original.port
        if event.successor is not None and (other := handed_over(peer, event.successor.key)):
            peer, port = other, event.successor.port
        entrance = None if event.proven else here.lasting
        place = Place(event.gateway.host, port, peer, is_proven=event.proven, entrance=entrance)
        if self._has_us(place, asked_by=event.ike_id):
            return
        # From an anycast address: it may well be the server that gave the ticket.
        sa = None if event.proven else self._ike.sa(event.ike_id)
        resumption = resumption_of(sa) if sa is not None else None
        self._lent = resumption.presented if resumption is not None else None
        self.redirection.follow(event, place, now)

    def _has_us(self, place: Place, asked_by: int) -> bool:
        """Whether an attempt led back to where we are, by this registration or what covers it."""
        if self.entry.is_covered:
            return _places(self.entry)[0].is_same(place)
        beside = self.state is State.REGISTERED and asked_by != self.ike_id
        return beside and (self._place.is_same(place) or self._place.lasting.is_same(place))

    def on_registered(self, ike_id: int, reflexive: Address | None, now: float) -> None:
        """The server counts us as online."""
        was_sent = ike_id in self.redirection.attempts
        if was_sent:
            self._move(ike_id, now)
        elif ike_id == self.ike_id:
            self.redirection.drop(now)
            self._settle_at(self._place.lasting)
        self._lent = None
        self._error = ""
        self._reflexive = reflexive
        self._home_after.reset()
        is_settled = self._takes_redirects and not self._is_away
        ask_at = None if is_settled else now + self._home_after.next_delay()
        self._to(State.REGISTERED, now, ask_at)

    def on_reflexive(self, reflexive: Address, now: float) -> None:
        """The server sees us elsewhere now."""
        self._reflexive = reflexive
        self._to(self.state, now, self.deadline)

    def on_closed(self, event: IkeSaClosed, now: float) -> None:
        """The IKE SA under it ended."""
        sentence = mediator_closed(event.reason, event.detail)
        if self.redirection.on_closed(event, sentence, now) or event.ike_id != self.ike_id:
            return
        self.ike_id = None
        redirected = event.reason is CloseReason.REDIRECTED
        if not event.established and self._candidates and not redirected:
            self._connect_next(now)
            return
        if self.redirection.is_active and event.reason is CloseReason.REPLACED:
            return  # by a newer one with the same server, which has us in this moment
        if self.redirection.is_active:
            self._reflexive = None
            self._to(State.CONNECTING, now, now + RESOLVE_SECONDS)
            return
        lasted = now - self._since if self.state is State.REGISTERED else 0.0
        if self.state is State.REGISTERED and self._backoff.on_lost(lasted):
            self._emit(Notice(text=f"mediator {self.entry.name}: {FLAPPING}"))
        restarted = event.reason is CloseReason.RESTARTED
        self._fail(sentence, now, is_there=restarted)
        if restarted and lasted >= STABLE_SECONDS:
            self.start(now)  # or, soon after, another machine has our keys

    def on_refused(self, sentence: str, now: float) -> None:
        """An attempt of late ended at one that is of no use (no mediation server).

        `on_closed` has heard of its end before; here is why, for people. An answer to IKE_SA_INIT
        proves nothing, so it ends neither what stands nor what else is tried.
        """
        if self.state is State.WAITING:
            self._error = sentence
            self._to(State.WAITING, now, self.deadline)

    def on_timer(self, now: float) -> None:
        """`deadline` has come."""
        match self.state:
            case State.WAITING:
                self.start(now)
            case State.REGISTERED:
                self.deadline = now + self._home_after.next_delay()
                if self._is_away:
                    self._seek_home(now)
                elif not self._takes_redirects:
                    self.reauthenticate(now)
            case State.RESOLVING:
                self._fail(f"{self._place.host} was not looked up in time.", now)
            case State.CONNECTING if self.ike_id is None and not self.redirection.attempts:
                self.redirection.drop(now)
                self._fail("the server that we were sent to was not looked up in time.", now)
            case _:
                self.deadline = None

    def status(self, now: float) -> MediatorStatus:
        """For people."""
        registered = self.state is State.REGISTERED
        sa = self._ike.sa(self.ike_id) if self.ike_id is not None and registered else None
        home = _home(self.entry).text
        return MediatorStatus(
            name=self.entry.name,
            address=self._place.text,
            state=self.state.value,
            moved_from=home if self._is_away and home != self._place.text else "",
            reflexive=str(self._reflexive or ""),
            resumed=registered and self._tickets.resumed,
            suite=negotiated(sa) if sa is not None else "",
            since=now - self._since,
            retry_in=max(0.0, self.deadline - now)
            if self.state is State.WAITING and self.deadline
            else 0.0,
            error=self._error,
        )

    def _connect_next(self, now: float) -> None:
        if not self._candidates:
            self._fail(f"{self._place.host} has no address that can be reached from here.", now)
            return
        path = self._candidates.pop(0)
        self.ike_id = self._ike.connect(
            self._place.peer,
            path,
            now,
            extensions=(
                *self.redirection.client(now),
                self.client.extension,
                self._tickets.extension,
            ),
            patience=PATH_SECONDS if self._candidates else None,
        )
        self._to(State.CONNECTING, now, None)

    def _move(self, ike_id: int, now: float) -> None:
        """The server that we were sent to has us; the other one may go."""
        before, self.ike_id = self.ike_id, ike_id
        sa = self._ike.sa(ike_id)
        resumption = resumption_of(sa) if sa is not None else None
        self._tickets = resumption.holder if resumption is not None else TicketHolder()
        self._place = self.redirection.take(ike_id, now)
        self._candidates = []
        self._settle_at(self._place.lasting)
        if before is not None:
            self._ike.close(before, now)

    def _settle_at(self, place: Place) -> None:
        """We are registered at `place`: next time it is tried first, in the next run too."""
        before, home = self._places, _home(self.entry)
        self._places = [home] if place.is_same(home) else [place, home]
        if not self.entry.is_covered and before == self._places:
            return
        auth = place.peer.remote_auth
        if place.is_same(home):
            self._emit(MediatorMoved(name=self.entry.name, successor=None))
        elif isinstance(auth, KeyAuth):
            there = MediatorPlace(place.host, place.port, auth.public)
            self._emit(MediatorMoved(name=self.entry.name, successor=there))

    def _on_redirection_failed(self, sentence: str, now: float) -> None:
        """No server that we were sent to has taken us."""
        if self.ike_id is None and self.state is State.CONNECTING:
            self._fail(sentence, now)

    def _fail(self, sentence: str, now: float, *, is_there: bool = False) -> None:
        """Try again later; at the next place, unless the server `is_there`, whatever failed."""
        if not is_there:
            self._places.append(self._places.pop(0))
        self._error = "" if self.entry.is_covered else sentence
        self._reflexive = None
        again = self._home_after if self.entry.is_covered else self._backoff
        self._to(State.WAITING, now, now + again.next_delay())

    def _drop_sa(self, now: float) -> None:
        self.redirection.drop(now)
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


def _home(entry: MediatorEntry) -> Place:
    return Place(entry.host, entry.port, entry.peer)


def _places(entry: MediatorEntry) -> list[Place]:
    """Where an earlier run was handed over to, and where the entry says."""
    home, moved, auth = _home(entry), entry.moved, entry.peer.remote_auth
    if moved is None or not isinstance(auth, KeyAuth):
        return [home]
    same = auth.public == moved.key
    peer = entry.peer if same else handed_over(entry.peer, moved.key)
    if peer is None:
        return [home]
    return [Place(moved.host, moved.port, peer, is_proven=True), home]
