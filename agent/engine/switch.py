"""The switch between the rooms: what ike and the mediation clients put out → whom it concerns."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from agent.datagram import Dropped, Path, Transmit
from agent.engine import keylog
from agent.engine.events import Event, Notice
from agent.engine.sentences import REPLACED_OFTEN
from agent.engine.translate import esp_parameters
from agent.ike import events as ike_events
from agent.mediation import events as me

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable

    from agent.engine.inner_offload import InnerOffload
    from agent.engine.paths import Paths
    from agent.engine.registration import Registration
    from agent.engine.roster import Roster
    from agent.ike.table import Ike
    from agent.ipsec import DataPlane

K = TypeVar("K")


class Switch:
    """Keeps nothing of its own. What goes out is given to `transmit` and `emit`."""

    def __init__(
        self,
        ike: Ike,
        plane: DataPlane,
        roster: Roster,
        paths: Paths,
        *,
        inner_offload: InnerOffload | None,
        dropped: Counter[str],
        transmit: Callable[[Transmit], None],
        emit: Callable[[Event], None],
        key_log: Callable[[str], None] | None,
    ) -> None:
        self._ike = ike
        self._plane = plane
        self._roster = roster
        self._paths = paths
        self._inner_offload = inner_offload
        self._dropped = dropped
        self._transmit = transmit
        self._emit = emit
        self._key_log = key_log

    def on_ike(self, output: ike_events.Output, now: float) -> None:
        """What `Ike` puts out."""
        match output:
            case Transmit():
                self._transmit(output)
            case Dropped(reason):
                self._dropped[reason] += 1
            case ike_events.InstallChildSa():
                agreed = self._inner_offload.agreed if self._inner_offload is not None else ()
                self._plane.install(esp_parameters(output, unsummed=output.ike_id in agreed), now)
                self._log_keys(keylog.esp_lines, output)
            case ike_events.IkeKeysDerived():
                self._log_keys(keylog.ike_lines, output)
            case ike_events.RemoveChildSa(spi_in=spi_in):
                self._plane.remove(spi_in)
            case ike_events.IkeSaEstablished():
                self._on_established(output, now)
            case ike_events.IkeSaClosed():
                self._on_closed(output, now)
            case ike_events.ChildSaEstablished(peer=name):
                if name in self._roster.connections:
                    self._roster.connections[name].on_child(output, now)
            case ike_events.ChildSaRekeyed():
                if (connection := self._roster.by_ike_id.get(output.ike_id)) is not None:
                    connection.on_child_replaced(output)
            case ike_events.ChildSaClosed():
                if (connection := self._roster.by_ike_id.get(output.ike_id)) is not None:
                    connection.on_child_closed(output, now)
            case ike_events.PathChanged(ike_id=ike_id, path=path):
                self._on_path_changed(ike_id, path)
            case ike_events.ReauthenticationDue(ike_id=ike_id):
                if (connection := self._roster.by_ike_id.get(ike_id)) is not None:
                    connection.reauthenticate(ike_id, now)
                self._register_anew(ike_id, now)
            case ike_events.Redirected(peer=name):
                for registration in self._roster.registrations.values():
                    registration.on_redirected(output, now)
                if name in self._roster.connections:
                    self._roster.connections[name].on_redirected(output, now)
            case ike_events.IkeSaUnanswered():
                self._on_unanswered(output, now)
            case ike_events.IkeSaRekeyed():
                pass

    def on_client(self, registration: Registration, event: me.ClientOutput, now: float) -> None:
        """What the mediation client of `registration` puts out."""
        match event:
            case Transmit():
                self._transmit(event)
            case Dropped(reason):
                self._dropped[reason] += 1
            case me.Registered():
                registration.on_registered(event.ike_id, event.reflexive, now)
                for connection in self._roster.connections.values():
                    if connection.entry.mediator == registration.entry.name:
                        connection.on_registered(now)
            case me.ReflexiveChanged():
                registration.on_reflexive(event.reflexive, now)
            case me.RegistrationLost(reason=me.RegistrationLoss.NO_MEDIATOR):
                registration.on_refused("this server does no mediation; is the address right?", now)
            case me.ConnectProgress():
                if (calling := self._roster.calling(event)) is not None:
                    calling.on_progress(event.connect_id, event.stage, now)
            case me.PathFound(is_initiator=True):
                if (calling := self._roster.calling(event)) is not None:
                    calling.on_path_found(event.connect_id, event.path, now)
            case me.ConnectFailed():
                if event.reason is me.ConnectFailure.NOT_REACHABLE:
                    registration.ask_home(now)
                if (calling := self._roster.calling(event)) is not None:
                    calling.on_connect_failed(event, now)
            case me.PeerOnline():
                for connection in self._roster.with_pseudonym(event.pseudonym):
                    connection.on_registered(now)
            case _:
                pass

    def _on_established(self, event: ike_events.IkeSaEstablished, now: float) -> None:
        if event.behind_nat:
            self._paths.keep_alive(event.ike_id, event.path, now)
        connection = self._roster.connections.get(event.peer)
        if connection is not None:
            self._roster.by_ike_id[event.ike_id] = connection
            self._paths.note(event.ike_id, event.path)
            connection.on_established(event, now)

    def _on_closed(self, event: ike_events.IkeSaClosed, now: float) -> None:
        self._paths.keep_alive(event.ike_id, None, now)
        self._roster.by_ike_id.pop(event.ike_id, None)
        self._paths.note(event.ike_id, None)
        for registration in self._roster.registrations.values():
            registration.on_closed(event, now)
        connection = self._roster.connections.get(event.peer)
        if connection is not None:
            refused = event.reason is ike_events.CloseReason.AUTHENTICATION_FAILED
            if refused and not connection.owns(event.ike_id) and connection.refused(now):
                self._emit(Notice(text=f"{event.peer} was not let in: {event.detail}"))
            connection.on_closed(event, now)
            if event.reason is ike_events.CloseReason.REPLACED and connection.was_replaced(now):
                self._emit(Notice(text=f"{event.peer}: {REPLACED_OFTEN}"))

    def _log_keys(self, lines: Callable[[K], Iterable[str]], output: K) -> None:
        if self._key_log is not None:
            for line in lines(output):
                self._key_log(line)

    def _on_path_changed(self, ike_id: int, path: Path) -> None:
        self._plane.set_path(ike_id, path)
        self._paths.move(ike_id, path)
        if (connection := self._roster.by_ike_id.get(ike_id)) is not None:
            self._paths.note(ike_id, path)
            connection.on_path_changed(path)

    def _register_anew(self, ike_id: int, now: float) -> None:
        """On a new IKE SA with the mediator, beside this one."""
        for registration in self._roster.registrations.values():
            if registration.ike_id == ike_id:
                registration.reauthenticate(now)

    def _on_unanswered(self, event: ike_events.IkeSaUnanswered, now: float) -> None:
        """A peer does not answer: its NAT or ours may have a new mapping (THREATS 36)."""
        if event.is_disowned:  # or it has restarted and cannot prove it but by a new IKE SA
            self._register_anew(event.ike_id, now)
        if (connection := self._roster.by_ike_id.get(event.ike_id)) is None:
            return
        registration = self._roster.registrations.get(connection.entry.mediator)
        if registration is not None and registration.ike_id is not None:
            # If it was ours, the mediator does not reach us either until it has heard from us.
            self._ike.check_liveness(registration.ike_id, now)
        connection.on_unanswered(now)
        if event.is_disowned and connection.wanted and connection.entry.host:
            connection.reauthenticate(event.ike_id, now)
