"""Connection attempts of a mediation client, in both directions (mediation.md §2 to §5).

One attempt per pseudonym, `max_attempts` in all. Each has a deadline and ends in `PathFound`, then
`authenticated`, or in `ConnectFailed`; abandoning is the only silent end.

Both sides connecting at once: two connect IDs, of which the one chosen by the peer with the lower
identity (type, then octets) survives. That peer refuses the other's request; the other gives its
own attempt up when it sees the survivor's, and says which one replaces it.

Longer than the soft limit: both roles live in one table of attempts, and most rules are about how
one ends the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from agent.datagram import Dropped, Path
from agent.mediation.attempt import Attempt, Stage
from agent.mediation.budget import Bucket
from agent.mediation.checklist import Checklist
from agent.mediation.endpoints import LocalEndpoint, received
from agent.mediation.events import (
    ClientOutput,
    ConnectFailed,
    ConnectFailure,
    ConnectProgress,
    ConnectRequested,
    ConnectStage,
    PathFound,
    PeerOnline,
)
from agent.mediation.messages import BAD_SYNTAX, FAILED, ConnectMessage, decode_connect
from agent.mediation.settings import answered_from
from agent.wire.codes import NotifyType, is_error_notify
from agent.wire.errors import WireError
from agent.wire.mediation import decode_check
from agent.wire.payloads import NotifyPayload

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.datagram import Address
    from agent.mediation.settings import MediationSettings, Random
    from agent.wire.message import Message
    from agent.wire.payloads import Identification, Payload

CONNECT_ID_LENGTH = 8
CONNECT_KEY_LENGTH = 16
RELAYED_BURST = 20.0
"""Requests that our mediator relays to us at once, whoever they are from …"""

RELAYED_RATE = 10.0
"""… and per second."""


class Line(Protocol):
    """The mediation connection, as far as attempts need it."""

    name: str

    @property
    def own_id(self) -> Identification | None:
        """Our pseudonym, None while we are not registered."""

    def offers(self) -> tuple[LocalEndpoint, ...]:
        """What we offer to a peer."""

    def excluded(self) -> set[Address]:
        """Addresses to which a check would be nonsense."""

    def refresh(self, then: Callable[[float], None], now: float) -> None:
        """Learn how we are seen, then call `then`."""

    def request(
        self,
        content: ConnectMessage,
        on_response: Callable[[Message | None, float], None],
        now: float,
    ) -> None:
        """Send a ME_CONNECT request."""


class Calls:
    """See the module. What is to be sent and what happened goes to `emit`."""

    def __init__(
        self,
        line: Line,
        *,
        random: Random,
        settings: MediationSettings,
        accepts: Callable[[Identification], bool],
        answers: Callable[[Identification, bytes], bool],
        emit: Callable[[ClientOutput], None],
    ) -> None:
        self._line = line
        self._random = random
        self._settings = settings
        self._accepts = accepts
        self._may_answer = answers
        self._emit = emit
        self._attempts: dict[bytes, Attempt] = {}
        self._waiting: dict[tuple[int, bytes], Identification] = {}  # callbacks asked for
        self._relayed: Bucket | None = None

    def __len__(self) -> int:
        """Attempts that are on their way."""
        return len(self._attempts)

    def connect(self, pseudonym: Identification, now: float, *, afresh: bool = False) -> bytes:
        """Ask for a connection; returns its connect ID.

        An attempt with this peer that is on its way already, of either direction, is returned.
        `afresh`: what we offer is collected anew once the mediator has said where it sees us.
        """
        running = self._with(pseudonym)
        if running is not None:
            return running.connect_id
        attempt = Attempt(
            connect_id=self._random(CONNECT_ID_LENGTH),
            pseudonym=pseudonym,
            is_initiator=True,
            key=self._random(CONNECT_KEY_LENGTH),
            local=self._line.offers(),
            deadline=now + self._settings.ask_timeout,
        )
        # Created before it is asked for: the answer may overtake the response (mediation.md §6).
        self._attempts[attempt.connect_id] = attempt
        if self._line.own_id is None:
            self._fail(attempt, ConnectFailure.NOT_REGISTERED)
        elif not attempt.local:
            self._fail(attempt, ConnectFailure.NO_PATH, "there is no usable address here")
        elif len(self._attempts) > self._settings.max_attempts:
            self._fail(attempt, ConnectFailure.REFUSED, "too many attempts at once")
        else:
            self._progress(attempt, ConnectStage.ASKED)
            if afresh:
                self._line.refresh(lambda at: self._ask(attempt, at), now)
            else:
                self._ask(attempt, now)
        return attempt.connect_id

    def _ask(self, attempt: Attempt, now: float) -> None:
        """Send our question to the mediator."""
        if self._attempts.get(attempt.connect_id) is not attempt:
            return
        if self._line.own_id is None:
            self._fail(attempt, ConnectFailure.NOT_REGISTERED)
            return
        attempt.local = self._line.offers() or attempt.local
        self._line.request(
            self._message(attempt, is_callback=True),
            lambda message, at: self._on_asked(attempt, message, at),
            now,
        )

    def abandon(self, connect_id: bytes) -> None:
        """Forget an attempt, silently."""
        self._attempts.pop(connect_id, None)

    def answers(self, connect_id: bytes) -> bool:
        """Whether an attempt runs in which the other side will send IKE_SA_INIT."""
        attempt = self._attempts.get(connect_id)
        return attempt is not None and not attempt.is_initiator

    def expected(self, connect_id: bytes) -> Identification | None:
        """The pseudonym behind a running attempt, of either direction."""
        attempt = self._attempts.get(connect_id)
        return attempt.pseudonym if attempt is not None else None

    def authenticated(self, connect_id: bytes, now: float) -> None:
        """The mediated IKE SA is up: the attempt is over, and others with this peer with it."""
        done = self._attempts.pop(connect_id, None)
        if done is not None:
            self._waiting.pop(done.pseudonym.key, None)

    def path_failed(self, connect_id: bytes, now: float) -> None:
        """The IKE SA on the path found did not come up: the next candidate, or `ConnectFailed`."""
        attempt = self._attempts.get(connect_id)
        if attempt is None or attempt.checklist is None or attempt.stage is not Stage.CHOSEN:
            return
        attempt.stage = Stage.CHECKING
        attempt.reported = 0
        attempt.deadline = now + self._settings.check_timeout
        self._progress(attempt, ConnectStage.RETRYING)
        attempt.checklist.resume(now)
        self._follow(attempt, now)

    def handshake_began(self, connect_id: bytes, now: float) -> None:
        """Responder: an IKE_SA_INIT with this connect ID came; nothing is proven yet."""
        attempt = self._attempts.get(connect_id)
        if attempt is not None and attempt.checklist is not None and not attempt.is_initiator:
            attempt.stage = Stage.CHOSEN
            attempt.deadline = now + self._settings.handshake_timeout
            attempt.checklist.pause()

    def handshake_failed(self, connect_id: bytes, now: float) -> None:
        """Responder: that IKE SA came to nothing; the checks go on where they were."""
        attempt = self._attempts.get(connect_id)
        if attempt is not None and attempt.checklist is not None and not attempt.is_initiator:
            attempt.stage = Stage.CHECKING
            attempt.deadline = now + self._settings.check_timeout
            attempt.checklist.resume(now)
            self._follow(attempt, now)

    def receive_check(self, path: Path, data: bytes, now: float) -> bool:
        """An unencrypted INFORMATIONAL with zero SPIs, marker removed. Whether it was ours."""
        if not self._attempts:
            return False
        try:
            check = decode_check(data)
        except WireError:
            return False
        attempt = self._attempts.get(check.connect_id)
        if attempt is None:
            return False
        if attempt.checklist is None:
            self._emit(Dropped("check_early"))
            return True
        reason = attempt.checklist.receive(path, check, now)
        if reason is not None:
            self._emit(Dropped(reason))
        self._follow(attempt, now)
        return True

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        for attempt in list(self._attempts.values()):
            self._release(attempt, now)
            if attempt.checklist is not None:
                attempt.checklist.handle_timer(now)
                self._follow(attempt, now)
            if now >= attempt.deadline and attempt.connect_id in self._attempts:
                self._fail(attempt, self._lateness(attempt))

    @staticmethod
    def _lateness(attempt: Attempt) -> ConnectFailure:
        """Why an attempt ran out of time."""
        if attempt.stage is Stage.ASKED:
            return ConnectFailure.MEDIATOR_SILENT
        if attempt.stage is Stage.CHECKING and not attempt.reported:
            return ConnectFailure.NO_PATH
        return ConnectFailure.TIMEOUT

    def next_timeout(self) -> float | None:
        """When `handle_timer` wants to be called."""
        due: list[float] = []
        for attempt in self._attempts.values():
            due.append(attempt.deadline)
            if attempt.stage is Stage.HELD:
                due.append(attempt.held_until)
            if attempt.checklist is None:
                continue
            if (at := attempt.checklist.next_timeout()) is not None:
                due.append(at)
            if attempt.checklist.is_exhausted and attempt.checklist.started_at is not None:
                due.append(attempt.checklist.started_at + self._settings.patience)
        return min(due, default=None)

    def round_trip(self, connect_id: bytes) -> float:
        """Of the path that was chosen, in seconds; 0 if there is none."""
        attempt = self._attempts.get(connect_id)
        pair = attempt.checklist.nominated if attempt and attempt.checklist else None
        return pair.rtt if pair is not None else 0.0

    def registration_lost(self) -> None:
        """What still needed the mediator fails; checks go on without it."""
        self._waiting.clear()  # strongSwan forgets them; so do we, and start over
        for attempt in list(self._attempts.values()):
            if attempt.stage in (Stage.ASKED, Stage.RELAYED, Stage.HELD):
                self._fail(attempt, ConnectFailure.NOT_REGISTERED)

    # -- ME_CONNECT, as initiator ----------------------------------------------------------------

    def _on_asked(self, attempt: Attempt, message: Message | None, now: float) -> None:
        """The mediator's response to our question, None if there was none."""
        if self._attempts.get(attempt.connect_id) is not attempt:
            return
        if attempt.stage is not Stage.ASKED:
            return  # the answer came first
        if message is None:
            self._fail(attempt, ConnectFailure.MEDIATOR_SILENT)
            return
        errors = [
            p.type
            for p in message.payloads
            if isinstance(p, NotifyPayload) and is_error_notify(p.type)
        ]
        if NotifyType.ME_CONNECT_FAILED in errors:
            self._wait_for(attempt.pseudonym)
            self._fail(attempt, ConnectFailure.NOT_REACHABLE, waiting=True)
        elif errors:
            self._fail(attempt, ConnectFailure.REFUSED, f"the mediator answered {errors[0]}")
        else:
            attempt.stage = Stage.RELAYED
            attempt.deadline = now + self._settings.connect_timeout
            self._progress(attempt, ConnectStage.RELAYED)

    def _wait_for(self, pseudonym: Identification) -> None:
        self._waiting.pop(pseudonym.key, None)
        self._waiting[pseudonym.key] = pseudonym
        while len(self._waiting) > self._settings.max_callbacks:
            del self._waiting[next(iter(self._waiting))]

    def on_connect_message(self, message: Message, now: float) -> list[Payload]:
        """A decrypted ME_CONNECT request of the mediator; returns what it is answered."""
        content = decode_connect(message)
        if content is None:
            return [BAD_SYNTAX]
        if content.has_failed:
            return self._on_failed(content)
        if content.is_callback:
            return self._on_callback(content)
        if not content.is_complete:
            return [BAD_SYNTAX]
        accepted = self._on_answer if content.is_response else self._on_question
        return [] if accepted(content, now) else [FAILED]

    def _on_failed(self, content: ConnectMessage) -> list[Payload]:
        """The peer refused what the mediator had relayed."""
        attempt = self._with(content.peer)
        if (
            attempt is not None
            and attempt.stage in (Stage.ASKED, Stage.RELAYED)
            and content.connect_id in (None, attempt.connect_id)
        ):
            self._fail(attempt, ConnectFailure.REFUSED)
        return []

    def _on_callback(self, content: ConnectMessage) -> list[Payload]:
        pseudonym = self._waiting.pop(content.peer.key, None)
        if pseudonym is not None:
            self._emit(PeerOnline(client=self._line.name, pseudonym=pseudonym))
        return []

    def _on_answer(self, content: ConnectMessage, now: float) -> bool:
        attempt = self._attempts.get(content.connect_id or b"")
        if attempt is None or not attempt.is_initiator:
            return False
        if not attempt.pseudonym.matches(content.peer) or content.key == attempt.key:
            return False  # with equal keys our own checks could be sent back to us
        if attempt.checklist is not None:
            return True
        self._begin_checks(attempt, content, now)
        assert attempt.checklist is not None
        attempt.checklist.start(now)
        self._follow(attempt, now)
        return True

    # -- ME_CONNECT, as responder ----------------------------------------------------------------

    def _on_question(self, content: ConnectMessage, now: float) -> bool:
        """Somebody wants to connect: answer it (True), or refuse (False)."""
        assert content.connect_id is not None
        caller = content.peer
        if self._relayed is None:
            self._relayed = Bucket(RELAYED_BURST, RELAYED_RATE, now)
        if not self._relayed.take(now) or not self._accepts(caller):
            return False
        known = self._attempts.get(content.connect_id)
        if known is not None:
            return known.pseudonym.matches(caller) and not known.is_initiator
        own_id = self._line.own_id
        if own_id is None or own_id.matches(caller):
            return False
        if not received(content.endpoints, self._line.excluded()) or not self._line.offers():
            return False
        running = self._with(caller)
        if running is not None and running.is_initiator and own_id.key < caller.key:
            return False  # ours survives
        if running is None and len(self._attempts) >= self._settings.max_attempts:
            return False
        if not self._may_answer(caller, content.connect_id):
            return False
        if running is not None:
            self._fail(running, ConnectFailure.REPLACED, replaced_by=content.connect_id)
        self._answer(content, now)
        return True

    def _answer(self, content: ConnectMessage, now: float) -> None:
        assert content.connect_id is not None
        attempt = Attempt(
            connect_id=content.connect_id,
            pseudonym=content.peer,
            is_initiator=False,
            key=self._random(CONNECT_KEY_LENGTH),
            local=self._line.offers(),
            deadline=now + self._settings.connect_timeout,
            held_until=answered_from(content.connect_id, now),
        )
        self._attempts[attempt.connect_id] = attempt
        # Key and list are there before the answer goes out: the other side's checks may come first.
        self._begin_checks(attempt, content, now)
        self._emit(
            ConnectRequested(
                client=self._line.name, pseudonym=attempt.pseudonym, connect_id=attempt.connect_id
            )
        )
        self._release(attempt, now)

    def _release(self, attempt: Attempt, now: float) -> None:
        """Send our answer if its time has come."""
        if attempt.stage is not Stage.HELD or now < attempt.held_until:
            return
        attempt.stage = Stage.ANSWERED
        self._line.request(
            self._message(attempt, is_response=True),
            lambda message, at: self._on_acknowledged(attempt, message, at),
            now,
        )

    def _on_acknowledged(self, attempt: Attempt, message: Message | None, now: float) -> None:
        if self._attempts.get(attempt.connect_id) is not attempt or attempt.checklist is None:
            return
        if attempt.checklist.started_at is not None:
            return  # the other side's checks came first
        if message is None:
            self._fail(attempt, ConnectFailure.TIMEOUT, "the mediator does not answer")
        elif message.notify(NotifyType.ME_CONNECT_FAILED) is not None:
            self._fail(attempt, ConnectFailure.NOT_REACHABLE, "the caller has gone")
        else:
            attempt.checklist.start(now)
            self._follow(attempt, now)

    # -- checks ----------------------------------------------------------------------------------

    def _begin_checks(self, attempt: Attempt, content: ConnectMessage, now: float) -> None:
        assert content.key is not None
        attempt.checklist = Checklist(
            connect_id=attempt.connect_id,
            is_initiator=attempt.is_initiator,
            own_key=attempt.key,
            remote_key=content.key,
            local=attempt.local,
            remote=received(content.endpoints, self._line.excluded()),
            settings=self._settings,
            now=now,
        )

    def _follow(self, attempt: Attempt, now: float) -> None:
        """Pass on what the checklist sends and says."""
        checks = attempt.checklist
        if checks is None or attempt.connect_id not in self._attempts:
            return
        while checks.outputs:
            self._emit(checks.outputs.popleft())
        if checks.started_at is None:
            return
        if attempt.stage in (Stage.ASKED, Stage.RELAYED, Stage.ANSWERED):
            attempt.stage = Stage.CHECKING
            attempt.deadline = now + self._settings.check_timeout
            self._progress(attempt, ConnectStage.CHECKING)
        pair = checks.nominated
        if pair is not None and attempt.reported != pair.number:
            attempt.reported = pair.number
            if attempt.is_initiator:
                attempt.stage = Stage.CHOSEN
                attempt.deadline = now + self._settings.handshake_timeout
            self._emit(
                PathFound(
                    client=self._line.name,
                    connect_id=attempt.connect_id,
                    pseudonym=attempt.pseudonym,
                    path=Path(pair.base, pair.remote),
                    is_initiator=attempt.is_initiator,
                    rtt=pair.rtt,
                )
            )
        elif checks.is_exhausted and now >= checks.started_at + self._settings.patience:
            self._fail(attempt, ConnectFailure.NO_PATH)

    # -- inside ----------------------------------------------------------------------------------

    def _with(self, pseudonym: Identification) -> Attempt | None:
        return next((a for a in self._attempts.values() if a.pseudonym.matches(pseudonym)), None)

    @staticmethod
    def _message(
        attempt: Attempt, *, is_callback: bool = False, is_response: bool = False
    ) -> ConnectMessage:
        return ConnectMessage(
            peer=attempt.pseudonym,
            connect_id=attempt.connect_id,
            key=attempt.key,
            is_callback=is_callback,
            is_response=is_response,
            endpoints=tuple(e.offered for e in attempt.local),
        )

    def _progress(self, attempt: Attempt, stage: ConnectStage) -> None:
        self._emit(
            ConnectProgress(
                client=self._line.name,
                connect_id=attempt.connect_id,
                pseudonym=attempt.pseudonym,
                stage=stage,
            )
        )

    def _fail(
        self,
        attempt: Attempt,
        reason: ConnectFailure,
        detail: str = "",
        *,
        replaced_by: bytes | None = None,
        waiting: bool = False,
    ) -> None:
        self._attempts.pop(attempt.connect_id, None)
        self._emit(
            ConnectFailed(
                client=self._line.name,
                connect_id=attempt.connect_id,
                pseudonym=attempt.pseudonym,
                reason=reason,
                detail=detail,
                replaced_by=replaced_by,
                waiting=waiting,
            )
        )
