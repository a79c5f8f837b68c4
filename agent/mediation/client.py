"""The mediation client: registration, connection attempts in both directions, their checks.

mediation.md §1 to §5 for a peer. One object per configured mediator, over any number of
registrations one after the other (`extension` makes the next one). Bounds: one attempt per
pseudonym and `max_attempts` in all, `connect_rate` for requests that the mediator relays to us,
17 endpoints, the budgets of `budget`. Every attempt has a deadline and ends in `PathFound` followed
by `authenticated`, or in `ConnectFailed`; abandoning is the only silent end.

Both sides connecting at once: two connect IDs, of which the one chosen by the peer with the lower
identity (type, then octets) survives. That peer refuses the other's request; the other gives its
own attempt up when it sees the survivor's, and says which one replaces it.

Left out: asking the mediator again under a living IKE SA and moving it (needs MOBIKE).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from agent.datagram import Address, Dropped, Path
from agent.mediation.attempt import Attempt, Stage
from agent.mediation.budget import Bucket
from agent.mediation.checklist import Checklist
from agent.mediation.connect_id import ConnectIdExtension
from agent.mediation.endpoints import LocalEndpoint, collect, is_usable, received, resolve_base
from agent.mediation.events import (
    ClientOutput,
    ConnectFailed,
    ConnectFailure,
    ConnectProgress,
    ConnectRequested,
    ConnectStage,
    PathFound,
    PeerOnline,
    ReflexiveChanged,
    Registered,
    RegistrationLoss,
    RegistrationLost,
)
from agent.mediation.messages import BAD_SYNTAX, FAILED, ConnectMessage, decode_connect
from agent.mediation.registration import RegistrationExtension
from agent.wire.codes import ExchangeType, NotifyType, is_error_notify
from agent.wire.errors import WireError
from agent.wire.mediation import decode_check
from agent.wire.payloads import Identification, NotifyPayload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.ike.events import CloseReason
    from agent.ike.extension import Extension
    from agent.ike.table import Ike
    from agent.mediation.settings import MediationSettings, Random
    from agent.wire.message import Message
    from agent.wire.payloads import Payload

CONNECT_ID_LENGTH = 8
CONNECT_KEY_LENGTH = 16
RELAYED_BURST = 20.0
"""Requests that our mediator relays to us at once; per second this × `connect_rate`."""


class MediationClient:
    """See the module. Drive it: a verb with `now`, drain `poll_output`, wait `next_timeout`."""

    def __init__(
        self,
        *,
        name: str,
        random: Random,
        settings: MediationSettings,
        accepts: Callable[[Identification], bool],
        answers: Callable[[Identification, bytes], bool],
    ) -> None:
        self.name = name
        self.accepted: frozenset[bytes] = frozenset()
        self._random = random
        self._settings = settings
        self._accepts = accepts
        self._answers = answers
        self._ike: Ike | None = None
        self._outputs: deque[ClientOutput] = deque()
        self._registration: RegistrationExtension | None = None
        self._own_id: Identification | None = None
        self._reflexive: Address | None = None
        self._hosts: tuple[Address, ...] = ()
        self._mapped: tuple[tuple[Address, Address], ...] = ()
        self._attempts: dict[bytes, Attempt] = {}
        self._waiting: dict[tuple[int, bytes], Identification] = {}  # callbacks asked for
        self._relayed: Bucket | None = None

    # -- what the engine calls -------------------------------------------------------------------

    @property
    def extension(self) -> Extension:
        """For `Ike.connect` of a mediation connection: a new one for each IKE SA."""
        assert self._ike is not None, "bind() comes first"
        return RegistrationExtension(self, self._ike)

    def connect_extension(self, connect_id: bytes) -> Extension:
        """For `Ike.connect` of the mediated IKE SA after `PathFound`: adds N(ME_CONNECTID), calls

        `authenticated` when the IKE SA is up and `path_failed` when it is not to be.
        """
        attempt = self._attempts.get(connect_id)
        pair = attempt.checklist.nominated if attempt and attempt.checklist else None
        rtt = pair.rtt if pair is not None else 0.0
        return ConnectIdExtension(self, connect_id, is_initiator=True, rtt=rtt)

    @property
    def registered(self) -> bool:
        """Whether the mediator counts us as online."""
        return self._registration is not None

    @property
    def reflexive(self) -> Address | None:
        """The endpoint under which the mediator sees us."""
        return self._reflexive

    def bind(self, ike: Ike) -> None:
        """Requests of this client go through `ike`."""
        self._ike = ike

    def set_local_endpoints(self, addresses: Sequence[Address]) -> None:
        """Host endpoints, best first, with the port of the mediation socket."""
        self._hosts = tuple(addresses)

    def set_mapped_endpoints(self, mapped: Sequence[tuple[Address, Address]]) -> None:
        """Port mappings of the gateway: (outside, local base)."""
        self._mapped = tuple(mapped)

    def set_accepts(self, hashes: frozenset[bytes], now: float) -> None:
        """Whom our own kind of mediator may relay to us: `accept_hash` of each pseudonym."""
        limit = self._settings.max_accepted
        self.accepted = frozenset(sorted(hashes)[:limit]) if len(hashes) > limit else hashes
        if self._registration is not None:
            self._registration.announce(now)

    def connect(self, pseudonym: Identification, now: float) -> bytes:
        """Ask for a connection; returns its connect ID.

        An attempt with this peer that is on its way already, of either direction, is returned.
        """
        running = self._with(pseudonym)
        if running is not None:
            return running.connect_id
        attempt = Attempt(
            connect_id=self._random(CONNECT_ID_LENGTH),
            pseudonym=pseudonym,
            is_initiator=True,
            key=self._random(CONNECT_KEY_LENGTH),
            local=self._offers(),
            deadline=now + self._settings.connect_timeout,
        )
        # Created before it is asked for: the answer may overtake the response (mediation.md §6).
        self._attempts[attempt.connect_id] = attempt
        if self._registration is None:
            self._fail(attempt, ConnectFailure.NOT_REGISTERED)
        elif not attempt.local:
            self._fail(attempt, ConnectFailure.NO_PATH, "there is no usable address here")
        elif len(self._attempts) > self._settings.max_attempts:
            self._fail(attempt, ConnectFailure.REFUSED, "too many attempts at once")
        else:
            self._progress(attempt, ConnectStage.ASKED)
            self._request(
                self._message(attempt, is_callback=True),
                lambda message, at: self._on_asked(attempt, message, at),
                now,
            )
        return attempt.connect_id

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
            self._outputs.append(Dropped("check_early"))
            return True
        reason = attempt.checklist.receive(path, check, now)
        if reason is not None:
            self._outputs.append(Dropped(reason))
        self._follow(attempt, now)
        return True

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        for attempt in list(self._attempts.values()):
            if attempt.checklist is not None:
                attempt.checklist.handle_timer(now)
                self._follow(attempt, now)
            if now >= attempt.deadline and attempt.connect_id in self._attempts:
                checking = attempt.stage is Stage.CHECKING and not attempt.reported
                self._fail(attempt, ConnectFailure.NO_PATH if checking else ConnectFailure.TIMEOUT)

    def next_timeout(self) -> float | None:
        """When `handle_timer` wants to be called."""
        due: list[float] = []
        for attempt in self._attempts.values():
            due.append(attempt.deadline)
            if attempt.checklist is None:
                continue
            if (at := attempt.checklist.next_timeout()) is not None:
                due.append(at)
            if attempt.checklist.is_exhausted and attempt.checklist.started_at is not None:
                due.append(attempt.checklist.started_at + self._settings.patience)
        return min(due, default=None)

    def poll_output(self) -> ClientOutput | None:
        """What is to be sent (checks, without marker) and what happened, in order."""
        return self._outputs.popleft() if self._outputs else None

    # -- the registration ------------------------------------------------------------------------

    def on_registered(
        self, registration: RegistrationExtension, own_id: Identification, now: float
    ) -> None:
        """A mediation connection is up; an older one does not count any more."""
        self._registration = registration
        self._own_id = own_id
        self._reflexive = registration.reflexive
        self._outputs.append(
            Registered(client=self.name, ike_id=registration.ike_id, reflexive=self._reflexive)
        )

    def on_reflexive(
        self, registration: RegistrationExtension, address: Address, now: float
    ) -> None:
        """The server says where it sees us (in IKE_AUTH that is before `on_registered`)."""
        if registration is self._registration and address != self._reflexive:
            self._reflexive = address
            self._outputs.append(ReflexiveChanged(client=self.name, reflexive=address))

    def on_registration_closed(
        self,
        registration: RegistrationExtension,
        was_up: bool,
        refused: str,
        reason: CloseReason,
        now: float,
    ) -> None:
        """A mediation connection ended, or was never to be."""
        if registration is self._registration:
            self._registration = None
            self._reflexive = None
            self._waiting.clear()  # strongSwan forgets them; so do we, and start over
            for attempt in list(self._attempts.values()):
                if attempt.stage in (Stage.ASKED, Stage.RELAYED):
                    self._fail(attempt, ConnectFailure.NOT_REGISTERED)
        elif was_up:
            return  # an older one: the newer stands
        self._outputs.append(
            RegistrationLost(
                client=self.name,
                ike_id=registration.ike_id,
                reason=RegistrationLoss.NO_MEDIATOR if refused else RegistrationLoss.CLOSED,
                detail=refused or reason.value,
            )
        )

    # -- ME_CONNECT, as initiator ----------------------------------------------------------------

    def _on_asked(self, attempt: Attempt, message: Message | None, now: float) -> None:
        """The mediator's response to our question, None if there was none."""
        if self._attempts.get(attempt.connect_id) is not attempt:
            return
        if attempt.stage is not Stage.ASKED:
            return  # the answer came first
        if message is None:
            self._fail(attempt, ConnectFailure.TIMEOUT, "the mediator does not answer")
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
            self._outputs.append(PeerOnline(client=self.name, pseudonym=pseudonym))
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
            self._relayed = Bucket(RELAYED_BURST, RELAYED_BURST * self._settings.connect_rate, now)
        if not self._relayed.take(now) or not self._accepts(caller):
            return False
        known = self._attempts.get(content.connect_id)
        if known is not None:
            return known.pseudonym.matches(caller) and not known.is_initiator
        if self._own_id is None or self._own_id.matches(caller):
            return False
        if not received(content.endpoints, self._excluded()) or not self._offers():
            return False
        running = self._with(caller)
        if running is not None and running.is_initiator and self._own_id.key < caller.key:
            return False  # ours survives
        if running is None and len(self._attempts) >= self._settings.max_attempts:
            return False
        if not self._answers(caller, content.connect_id):
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
            local=self._offers(),
            deadline=now + self._settings.connect_timeout,
        )
        self._attempts[attempt.connect_id] = attempt
        # Key and list are there before the answer goes out: the other side's checks may come first.
        self._begin_checks(attempt, content, now)
        self._outputs.append(
            ConnectRequested(
                client=self.name, pseudonym=attempt.pseudonym, connect_id=attempt.connect_id
            )
        )
        self._request(
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
            remote=received(content.endpoints, self._excluded()),
            settings=self._settings,
            now=now,
        )

    def _follow(self, attempt: Attempt, now: float) -> None:
        """Pass on what the checklist sends and says."""
        checks = attempt.checklist
        if checks is None or attempt.connect_id not in self._attempts:
            return
        self._outputs.extend(checks.outputs)
        checks.outputs.clear()
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
            self._outputs.append(
                PathFound(
                    client=self.name,
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

    def _excluded(self) -> set[Address]:
        """Addresses to which a check would be nonsense: ourselves, and the mediator."""
        excluded = set(self._hosts)
        if self._registration is not None and self._registration.path is not None:
            excluded.add(self._registration.path.remote)
        return excluded

    def _offers(self) -> tuple[LocalEndpoint, ...]:
        path = self._registration.path if self._registration is not None else None
        hosts = list(self._hosts)
        if path is None:
            return collect(hosts, self._mapped)
        base = resolve_base(path.local, hosts)
        if is_usable(base):
            # The address by which the mediator is reached is the one by which others are.
            hosts = [base, *(h for h in hosts if h != base)]
        seen = [(self._reflexive, base)] if self._reflexive is not None else []
        return collect(hosts, [*seen, *self._mapped])

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

    def _request(
        self,
        content: ConnectMessage,
        on_response: Callable[[Message | None, float], None],
        now: float,
    ) -> None:
        assert self._ike is not None
        assert self._registration is not None
        self._ike.request(
            self._registration.ike_id,
            ExchangeType.ME_CONNECT,
            content.payloads(),
            on_response,
            now,
        )

    def _progress(self, attempt: Attempt, stage: ConnectStage) -> None:
        self._outputs.append(
            ConnectProgress(
                client=self.name,
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
        self._outputs.append(
            ConnectFailed(
                client=self.name,
                connect_id=attempt.connect_id,
                pseudonym=attempt.pseudonym,
                reason=reason,
                detail=detail,
                replaced_by=replaced_by,
                waiting=waiting,
            )
        )
