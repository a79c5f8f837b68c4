"""One peer: the way from "wanted" to a tunnel, and back to it after whatever happens.

Longer than the soft limit: one state machine, in which every event may come in every state.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from agent.engine.backoff import Backoff, Random
from agent.engine.events import Event, PeerChanged, ResolveWanted, TunnelDown, TunnelUp
from agent.engine.redirection import Place, Redirection
from agent.engine.registration import Registration
from agent.engine.registration import State as RegistrationState
from agent.engine.sas import Sas
from agent.engine.sentences import connect_failed, peer_closed
from agent.ike.events import CloseReason
from agent.ike.ppk import negotiated
from agent.mediation.events import ConnectFailed, ConnectStage
from agent.status import PeerStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.datagram import Path
    from agent.engine.entries import PeerEntry
    from agent.ike.events import (
        ChildSaClosed,
        ChildSaEstablished,
        ChildSaRekeyed,
        IkeSaClosed,
        IkeSaEstablished,
        Redirected,
    )
    from agent.ike.extension import Extension
    from agent.ike.table import Ike

RETRY_FIRST = 5.0  # seconds; a person may be waiting
RETRY_LIMIT = 300.0  # seconds; the callback of the mediator comes earlier anyway …
RETRY_UNCALLED = 45.0  # … and where none was asked for, somebody's NAT may be sane again by then
FLAP_SECONDS = 120.0  # two boards with one image chase each other off within seconds
FLAP_COUNT = 4
# Anybody can claim to be a peer and be refused, as often as he likes: told once in this time.
TELL_REFUSAL_SECONDS = 60.0
BRIEF_SECONDS = 10.0  # one that restarts sooner again is not called at once
ATTEMPT_SECONDS = 45.0  # the whole of one attempt, longer than each of its parts
# For the answer to IKE_SA_INIT where there may be another path: four sendings with 150 ms of delay.
# Checks are small and prove one moment; what they found need not carry an IKE SA.
PATH_SECONDS = 4.0


class State(StrEnum):
    """Where the connection stands."""

    IDLE = "idle"
    WAITING = "waiting"  # for the registration, or to try again
    ASKING = "asking"  # the mediator, or the resolver
    CHECKING = "checking"  # which path is open
    CONNECTING = "connecting"  # IKE
    UP = "up"


class Connection:
    """Drives one peer. `deadline` is polled by the engine."""

    def __init__(
        self,
        entry: PeerEntry,
        registration: Callable[[], Registration | None],
        ike: Ike,
        random: Random,
        emit: Callable[[Event], None],
        extensions: tuple[Extension, ...] = (),
    ) -> None:
        self.entry = entry
        self._extensions = extensions
        self.state = State.IDLE
        self.wanted = entry.wanted
        self.connect_id: bytes | None = None
        self.deadline: float | None = None
        self._sas = Sas()
        self._attempt: int | None = None
        self._has_tunnel = False
        self._registration = registration
        self._ike = ike
        self._emit = emit
        self._backoff = Backoff(random, RETRY_FIRST, RETRY_LIMIT)
        self._path: Path | None = None
        self._since = 0.0
        self._error = ""
        self._attempt_error = ""
        self._replaced: list[float] = []
        self._doubtful = False  # up, but nothing comes back
        self._candidates: list[Path] = []  # of a peer that is called directly
        self.redirection = Redirection(
            ("peer", entry.name),
            ike,
            emit,
            lambda: self._extensions,
            self._on_redirection_failed,
        )
        self._tell_refusals_at = 0.0

    @property
    def ike_id(self) -> int | None:
        """The newest IKE SA, else the attempt under way."""
        return self._attempt if (newest := self._sas.newest) is None else newest

    @property
    def children(self) -> list[bytes]:
        """SPIs of the Child SAs inbound."""
        return self._sas.children

    def owns(self, ike_id: int) -> bool:
        """Whether this is an IKE SA of ours."""
        return ike_id in (*self._sas, self._attempt, *self.redirection.attempts)

    def was_replaced(self, now: float) -> bool:
        """Note that the other side put a newer SA in the place of one; True if it does so often."""
        if self._sas.is_initiated(self.ike_id):
            return False  # we called anew ourselves
        self._replaced = [at for at in self._replaced if now - at < FLAP_SECONDS] + [now]
        return len(self._replaced) == FLAP_COUNT

    def refused(self, now: float) -> bool:
        """Note that somebody who came in its name was refused; True if that is to be told."""
        tell = now >= self._tell_refusals_at
        if tell:
            self._tell_refusals_at = now + TELL_REFUSAL_SECONDS
        return tell

    def want(self, now: float) -> None:
        """Somebody asked for it; it stays asked for."""
        self.wanted = True
        if self.state in (State.IDLE, State.WAITING):
            self._backoff.reset()
            if (registration := self._registration()) is not None and not self.entry.host:
                registration.hurry(now)
            self.begin(now)

    def hurry(self, now: float) -> None:
        """The network changed: do not wait for the next attempt's time, if it is called directly.

        Those that go by a mediator follow their registration.
        """
        if self.wanted and self.entry.host and self.state is State.WAITING:
            self._backoff.reset()
            self.begin(now)

    def unwant(self, now: float) -> None:
        """Nobody wants it any more."""
        self.wanted = False
        self._abandon(now)
        self._error = ""
        self._to(State.IDLE, now, None)

    def begin(self, now: float) -> None:
        """Start an attempt, or wait for the registration that it needs."""
        self._attempt_error = ""
        if self.entry.host:
            self._to(State.ASKING, now, now + ATTEMPT_SECONDS)
            self._emit(
                ResolveWanted(
                    key=("peer", self.entry.name), host=self.entry.host, port=self.entry.port
                )
            )
            return
        registration = self._registration()
        if registration is None or self.entry.pseudonym is None:
            self._fail("there is no way to call it: it has neither address nor mediator.", now)
        elif registration.state is not RegistrationState.REGISTERED:
            self._error = ""  # what is wrong is told by the registration
            self._to(State.WAITING, now, None)  # goes on in on_registered
        else:
            # After a failure it may be that the mediator sees us elsewhere by now.
            afresh = bool(self._error)
            self.connect_id = registration.client.connect(self.entry.pseudonym, now, afresh=afresh)
            self._to(State.ASKING, now, now + ATTEMPT_SECONDS)

    def on_registered(self, now: float) -> None:
        """The registration it needs is up, or the mediator says that the peer's is."""
        if self._doubtful and self.state is State.UP:
            self.on_unanswered(now)
        elif self.wanted and self.state is State.WAITING:
            self.begin(now)

    def on_unanswered(self, now: float) -> None:
        """It is up, but does not answer: look for a path anew, beside what there is.

        It may have restarted, or a NAT have a new mapping. If the old one comes to life again,
        nothing is lost; if not, the new IKE SA takes its place.
        """
        registration = self._registration()
        self._doubtful = self.state is State.UP
        if (
            self._doubtful
            and self.wanted
            and self.connect_id is None
            and self.entry.pseudonym is not None
            and not self.entry.host
            and registration is not None
            and registration.state is RegistrationState.REGISTERED
        ):
            self.connect_id = registration.client.connect(self.entry.pseudonym, now, afresh=True)

    def reauthenticate(self, ike_id: int, now: float) -> None:
        """The proof is to be repeated: a new IKE SA on the path there is, beside this one."""
        if ike_id == self.ike_id and self._attempt is None and self._path is not None:
            self._connect(self._path, (), PATH_SECONDS, now)

    def on_resolved(self, paths: Sequence[Path], now: float) -> None:
        """Addresses of a peer that is called directly."""
        if self.state is State.ASKING and self.connect_id is None:
            self._candidates = list(paths)
            if paths:
                self._connect_next(now)
            else:
                self._fail(f"{self.entry.host} cannot be reached from here.", now)

    def on_not_resolved(self, sentence: str, now: float) -> None:
        """Its name is not known now."""
        if self.state is State.ASKING and self.connect_id is None:
            self._fail(sentence, now)

    def on_redirected(self, event: Redirected, now: float) -> None:
        """The gateway, or who speaks in its name, sends us to another: by the same entry."""
        host, port = event.gateway.host, event.original.port
        place = Place(host, port, self.entry.peer, is_proven=event.proven)
        self.redirection.follow(event, place, now)

    def _on_redirection_failed(self, sentence: str, now: float) -> None:
        """No gateway that we were sent to has taken us."""
        if self.ike_id is None and self.state is State.CONNECTING:
            self._fail(sentence, now)

    def on_progress(self, connect_id: bytes, stage: ConnectStage, now: float) -> None:
        """The mediated way came a stage further."""
        if self.state is State.UP:
            return
        if connect_id == self.connect_id and stage is ConnectStage.CHECKING:
            self._to(State.CHECKING, now, self.deadline)

    def on_path_found(self, connect_id: bytes, path: Path, now: float) -> None:
        """The checks found a path on which we are the initiator (again, if the last one failed)."""
        registration = self._registration()
        if connect_id == self.connect_id and registration is not None and self._attempt is None:
            extension = registration.client.connect_extension(connect_id)
            self._connect(path, (extension,), PATH_SECONDS, now)

    def on_connect_failed(self, event: ConnectFailed, now: float) -> None:
        """The mediated way failed, or the other side's attempt of that moment goes on instead."""
        if event.connect_id != self.connect_id:
            return
        self.connect_id = event.replaced_by
        if self.connect_id is None and self.state is not State.UP:
            sentence = self._attempt_error or connect_failed(event.reason, event.detail)
            self._fail(sentence, now, will_be_called=event.waiting)

    def on_established(self, event: IkeSaEstablished, now: float) -> None:
        """An IKE SA with this peer is up, whoever began."""
        if event.ike_id in self.redirection.attempts:
            self.redirection.take(event.ike_id, now)
            self._give_way(now)
        elif event.ike_id == self._attempt:
            self.redirection.drop(now)
            self._attempt = None
        self._sas.add(event.ike_id, initiated=event.is_initiator)
        registration = self._registration()
        if self.connect_id is not None and registration is not None and not event.is_initiator:
            registration.client.abandon(self.connect_id)
        self.connect_id = None
        self._doubtful = False
        self._candidates = []
        self._path, self._error = event.path, ""
        if self.entry.peer.child is None:
            self._to(State.UP, now, None)

    def on_child(self, event: ChildSaEstablished, now: float) -> None:
        """Packets can flow."""
        if event.ike_id not in self._sas:
            return
        self._sas.add_child(event.ike_id, event.spi_in)
        self._has_tunnel = True
        self._emit(
            TunnelUp(
                name=self.entry.name,
                local_ts=event.local_ts,
                remote_ts=event.remote_ts,
                addresses=_within(event) if self._sas.is_initiated(event.ike_id) else (),
            )
        )
        self._to(State.UP, now, None)

    def on_child_replaced(self, event: ChildSaRekeyed) -> None:
        """A rekeying exchanged one Child SA for another."""
        self._sas.replace_child(event.ike_id, event.old_spi_in, event.spi_in)

    def on_child_closed(self, event: ChildSaClosed, now: float) -> None:
        """One Child SA is gone; without any the IKE SA is of no use."""
        if event.ike_id not in self._sas:
            return
        has_others = self._sas.remove_child(event.ike_id, event.spi_in)
        if event.reason is CloseReason.IKE_SA_CLOSED:
            return  # `on_closed` comes next
        self._without_tunnel()
        if not has_others and self.entry.peer.child is not None:
            self._ike.close(event.ike_id, now)

    def on_path_changed(self, path: Path) -> None:
        """The other side moved, or its NAT did."""
        self._path = path

    def on_closed(self, event: IkeSaClosed, now: float) -> None:
        """The IKE SA ended."""
        sentence = peer_closed(event.reason, event.detail)
        if self.redirection.on_closed(event, sentence, now) or not self.owns(event.ike_id):
            return
        self._sas.remove(event.ike_id)
        if event.ike_id == self._attempt:
            self._attempt = None
        if self._sas and event.reason is CloseReason.REPLACED:
            return  # what took its place has a tunnel in a moment, or ends too
        self._without_tunnel()
        if self._sas:
            return  # another one carries on
        redirected = event.reason is CloseReason.REDIRECTED
        if not event.established and self._candidates and not redirected:
            self._connect_next(now)
        elif self.redirection.is_active:
            self._to(State.CONNECTING, now, now + ATTEMPT_SECONDS)
        elif event.established and self.connect_id is not None and self.wanted:
            self._doubtful = False
            self._error = sentence
            self._to(State.ASKING, now, now + ATTEMPT_SECONDS)  # looked for already
        elif not event.established and self.connect_id is not None:
            # The mediation client tries its next path, or says that there is none.
            self._attempt_error = sentence
            self._to(State.CHECKING, now, self.deadline)
        elif self.wanted:
            if self.state is State.UP:
                lasted = now - self._since
                self._backoff.on_lost(lasted)
                # One took its time already, the other is known to be there: do not wait more.
                if event.reason is CloseReason.TIMEOUT or (
                    event.reason is CloseReason.RESTARTED and lasted >= BRIEF_SECONDS
                ):
                    self._error, self._path = sentence, None
                    self._to(State.WAITING, now, None)
                    self.begin(now)
                    return
            self._fail(sentence, now)
        else:
            self._path = None
            self._error = "" if event.established else sentence
            self._to(State.IDLE, now, None)

    def on_timer(self, now: float) -> None:
        """`deadline` has come."""
        if self.state is State.WAITING:
            self.begin(now)
        elif self.state in (State.ASKING, State.CHECKING, State.CONNECTING):
            self._abandon(now)
            self._fail("the attempt took too long.", now)
        else:
            self.deadline = None

    def status(self, now: float, sent: int, received: int, rtt: float | None) -> PeerStatus:
        """For people; octets are those inside the tunnel."""
        sa = self._ike.sa(self.ike_id) if self.ike_id is not None else None
        return PeerStatus(
            name=self.entry.name,
            state=self.state.value,
            wanted=self.wanted,
            role=self.entry.role,
            mediator="" if self.entry.host else self.entry.mediator,
            inner=tuple(
                str(ts) for ts in (self.entry.peer.child.remote_ts if self.entry.peer.child else ())
            ),
            path=str(self._path.remote) if self._path else "",
            direct=self.state is State.UP,
            round_trip_ms=round(rtt * 1000, 1) if rtt else None,
            since=now - self._since,
            suite=negotiated(sa) if sa is not None and self.state is State.UP else "",
            sent=sent,
            received=received,
            retry_in=max(0.0, self.deadline - now)
            if self.state is State.WAITING and self.deadline
            else 0.0,
            error=self._error,
        )

    def _connect_next(self, now: float) -> None:
        path = self._candidates.pop(0)
        self._connect(path, (), PATH_SECONDS if self._candidates else None, now)

    def _connect(
        self, path: Path, extensions: tuple[Extension, ...], patience: float | None, now: float
    ) -> None:
        # Whom a mediator introduced is at the end of one path, and nowhere else.
        first = self.redirection.client(now) if self.entry.host else ()
        self._attempt = self._ike.connect(
            self.entry.peer,
            path,
            now,
            extensions=(*first, *extensions, *self._extensions),
            patience=patience,
        )
        if self.state is not State.UP:
            self._path = path
            self._to(State.CONNECTING, now, now + ATTEMPT_SECONDS)

    def _give_way(self, now: float) -> None:
        """The gateway that we were sent to has us; what leads to the other one may go."""
        before = [*self._sas] if self._attempt is None else [*self._sas, self._attempt]
        self._attempt = None
        for ike_id in before:
            self._ike.close(ike_id, now)

    def _abandon(self, now: float) -> None:
        self.redirection.drop(now)
        registration = self._registration()
        if self.connect_id is not None and registration is not None:
            registration.client.abandon(self.connect_id)
        self.connect_id = None
        going = [*self._sas] if self._attempt is None else [*self._sas, self._attempt]
        self._sas.clear()
        self._attempt = None
        self._candidates = []
        self._doubtful = False
        self._without_tunnel()
        for ike_id in going:
            self._ike.close(ike_id, now)

    def _without_tunnel(self) -> None:
        if self._has_tunnel and not self.children:
            self._has_tunnel = False
            self._emit(TunnelDown(name=self.entry.name))

    def _fail(self, sentence: str, now: float, *, will_be_called: bool = False) -> None:
        self._error = sentence
        self._path = None
        if self.wanted:
            delay = self._backoff.next_delay(None if will_be_called else RETRY_UNCALLED)
            self._to(State.WAITING, now, now + delay)
        else:
            self._to(State.IDLE, now, None)

    def _to(self, state: State, now: float, deadline: float | None) -> None:
        if state is not self.state:
            self._since = now
        self.state = state
        self.deadline = deadline
        failed = state in (State.WAITING, State.IDLE)
        self._emit(
            PeerChanged(
                name=self.entry.name,
                state=state.value,
                path=self._path,
                error=self._error if failed else "",
            )
        )


def _within(event: ChildSaEstablished) -> tuple[bytes, ...]:
    """The addresses that we were given, without those that we did not ask to be."""
    return tuple(
        ip
        for ip in event.addresses
        if any(len(ts.start) == len(ip) and ts.start <= ip <= ts.end for ts in event.local_ts)
    )
