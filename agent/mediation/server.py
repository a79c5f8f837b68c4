"""The mediation server: registrations, relaying of ME_CONNECT, callbacks (mediation.md §1, §2, §5).

Peers that are online stand in a hash table by their authenticated identity: no lists, no names, no
addresses beyond those of the IKE SA, nothing at rest. A peer is its `ServerExtension` there.

Who may call whom: a peer that sent N(HG_ACCEPTS) is relayed only what comes from those on its list,
for others (strongSwan) `allowed(caller, called)` decides, and without it nobody may. "Unknown",
"offline", "not allowed" and "too many" are the same ME_CONNECT_FAILED.

Left out: relaying of payload, and taking a pseudonym for anything but the identity that IKE proved.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

from agent.ike import redirect
from agent.ike.half_open import network_of
from agent.mediation.budget import Bucket
from agent.mediation.events import PeerGone, PeerRegistered, ServerEvent
from agent.mediation.identity import accept_hash
from agent.mediation.messages import BAD_SYNTAX, FAILED, ConnectMessage, decode_connect
from agent.mediation.server_extension import ServerExtension
from agent.mediation.settings import answered_from
from agent.records import record
from agent.wire.codes import ExchangeType, NotifyType

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.ike.extension import Extension
    from agent.ike.sa import IkeSa
    from agent.ike.table import Ike
    from agent.mediation.drain import Drain
    from agent.mediation.server_extension import Key
    from agent.mediation.settings import MediationSettings, Random
    from agent.wire.message import Message
    from agent.wire.payloads import Identification, Payload

_MAX_WAITING_FOR_ONE = 256
"""Callers that wait for one peer: a public pseudonym cannot be made to call back a crowd."""


@record(frozen=True, slots=True)
class _HeldAnswer:
    """Of R to I, until I had its head start."""

    until: float
    caller: Key
    called: Identification
    content: ConnectMessage


class MediationServer:
    """See the module. `allowed(caller, called)` is asked for peers without a list of their own."""

    def __init__(
        self,
        *,
        random: Random,
        settings: MediationSettings,
        allowed: Callable[[Identification, Identification], bool] | None = None,
    ) -> None:
        self.settings = settings
        self.counters: Counter[str] = Counter()
        self.accepted = 0  # hashes in the lists of all peers
        self.drain: Drain | None = None  # set when everybody is to go to another server
        self._networks: Counter[bytes] = Counter()
        self._allowed = allowed
        self._ike: Ike | None = None
        self._online: dict[Key, ServerExtension] = {}
        self._wanted: dict[Key, dict[Key, None]] = {}  # offline → who waits for it
        self._due: deque[Key] = deque()  # those for whom callbacks may have to go out
        self._held: list[_HeldAnswer] = []  # at most one for each question
        self._outputs: deque[ServerEvent] = deque()

    def __len__(self) -> int:
        """Peers online."""
        return len(self._online)

    def factory(self, sa: IkeSa, request: Message | None) -> Extension | None:
        """Responder extension factory for `Ike`: an extension if the request asks for mediation."""
        if request is None or request.notify(NotifyType.ME_MEDIATION) is None:
            return None
        ours = request.notify(NotifyType.HG_MEDIATION) is not None
        return ServerExtension(self, takes_additional=ours)

    def bind(self, ike: Ike) -> None:
        """Requests of this server go through `ike`."""
        self._ike = ike

    def handle_timer(self, now: float) -> None:
        """Send callbacks. Not where they arise: R's IKE_AUTH response goes out first."""
        while self._due:
            self._call_back(self._due.popleft(), now)
        self._release(now)
        if self.drain is not None:
            self._redirect(self.drain, now)

    def next_timeout(self) -> float | None:
        """At once (0) while callbacks wait; else when an answer is to go on, or for draining."""
        if self._due:
            return 0.0
        times = [held.until for held in self._held]
        if self.drain is not None:
            times.append(self.drain.next_timeout)
        return min(times, default=None)

    def poll_output(self) -> ServerEvent | None:
        """What happened."""
        return self._outputs.popleft() if self._outputs else None

    # -- draining --------------------------------------------------------------------------------

    def elsewhere(self, sa: IkeSa) -> list[Payload]:
        """What the client of a new mediation connection is told in IKE_AUTH, for `Ike`.

        Only one of our own kind: strongSwan's charon 5.9.8 follows such a redirect into a double
        free. It is let in, and redirected right after that, which it survives.
        """
        peer = _of(sa)
        if self.drain is None or peer is None or peer.accepts is None:
            return []
        self.drain.asked(sa.ike_id)
        return self.drain.said(ours=True)

    def _redirect(self, drain: Drain, now: float) -> None:
        assert self._ike is not None
        for ike_id in drain.due(lambda: [peer.ike_id for peer in self._online.values()], now):
            sa = self._ike.sa(ike_id)
            peer = _of(sa) if sa is not None else None
            if peer is not None:
                said = drain.said(ours=peer.accepts is not None)
                if redirect.send_elsewhere(self._ike, ike_id, said, now):
                    drain.asked(ike_id)

    # -- registrations ---------------------------------------------------------------------------

    def has_room_for(self, sa: IkeSa) -> bool:
        """Whether one more may register from there; who is registered may come again."""
        if sa.remote_id is not None and sa.remote_id.key in self._online:
            return True
        near = self._networks[network_of(sa.path.remote)] < self.settings.max_registered_net
        return near and len(self._online) < self.settings.max_registered

    def accepts_limit(self, own: int) -> int:
        """How many hashes a peer that has `own` now may have."""
        settings = self.settings
        if self.accepted - own < settings.max_accepted_in_all:
            return settings.max_accepted
        return settings.max_accepted_then

    def register(
        self, peer: ServerExtension, identity: Identification, now: float, network: bytes = b""
    ) -> None:
        """`peer` has proven `identity`: it is online, and an older one with it goes."""
        older = self._online.get(identity.key)
        peer.identity = identity
        peer.network = network
        self._networks[network] += 1
        self._online[identity.key] = peer
        self.counters["registered"] += 1
        if self.drain is not None:
            self.drain.came(peer.ike_id, now)
        if older is not None and older is not peer:
            self._forget_callbacks(older)
            self._leave_network(older)
            older.identity = None
            assert self._ike is not None
            self._ike.close(older.ike_id, now)
        else:
            self._outputs.append(PeerRegistered(ike_id=peer.ike_id, identity=identity))
        if identity.key in self._wanted:
            self._due.append(identity.key)

    def unregister(self, peer: ServerExtension, now: float) -> None:
        """The mediation connection of `peer` has ended."""
        identity = peer.identity
        if identity is None:
            return
        self._forget_callbacks(peer)
        self._leave_network(peer)
        peer.identity = None
        if self._online.get(identity.key) is peer:
            del self._online[identity.key]
            self._outputs.append(PeerGone(ike_id=peer.ike_id, identity=identity))

    def _leave_network(self, peer: ServerExtension) -> None:
        self._networks[peer.network] -= 1
        if not self._networks[peer.network]:
            del self._networks[peer.network]

    def on_accepts_changed(self, peer: ServerExtension, now: float) -> None:
        """`peer` accepts others now: those it did not may wait for it."""
        assert peer.identity is not None
        if peer.identity.key in self._wanted:
            self._due.append(peer.identity.key)

    def _may_call(self, caller: ServerExtension, called: ServerExtension) -> bool:
        assert caller.identity is not None
        assert called.identity is not None
        if called.accepts is not None:
            return accept_hash(caller.identity) in called.accepts
        return self._allowed is not None and self._allowed(caller.identity, called.identity)

    # -- ME_CONNECT ------------------------------------------------------------------------------

    def on_connect_message(
        self, peer: ServerExtension, message: Message, now: float
    ) -> list[Payload]:
        """A decrypted ME_CONNECT request of `peer`; returns what it is answered."""
        if peer.identity is None:
            return [FAILED]  # replaced by a newer registration, its Delete is on the way
        content = decode_connect(message)
        if content is None:
            return [BAD_SYNTAX]
        if content.has_failed:
            self._forward_failure(peer, content, now)
            return []
        if not content.is_complete:
            return [BAD_SYNTAX]
        if peer.bucket is None:
            burst = self.settings.connect_burst
            peer.bucket = Bucket(burst, self.settings.connect_rate, now)
        relayed = content.is_response or peer.bucket.take(now)
        if relayed:
            relay = self._relay_answer if content.is_response else self._relay_question
            relayed = bool(content.endpoints) and relay(peer, content, now)
        if not relayed:
            self.counters["failed"] += 1
            if content.is_callback and not content.is_response:
                self._note_callback(peer, content.peer, now)
        return [] if relayed else [FAILED]

    def _relay_question(self, caller: ServerExtension, content: ConnectMessage, now: float) -> bool:
        assert caller.identity is not None
        assert content.connect_id is not None
        called = self._online.get(content.peer.key)
        if called is None or called is caller or not self._may_call(caller, called):
            return False
        questions = self._open_questions(called, now)
        if len(questions) >= self.settings.max_questions and content.connect_id not in questions:
            return False
        # Known before it is sent: strongSwan's answer comes before its response.
        questions[content.connect_id] = (caller.identity.key, now)
        self.counters["relayed"] += 1
        caller_key, called_id = caller.identity.key, content.peer

        def on_response(message: Message | None, at: float) -> None:
            refused = message is None or message.notify(NotifyType.ME_CONNECT_FAILED) is not None
            if refused and questions.pop(content.connect_id or b"", None) is not None:
                self._tell_failure(caller_key, called_id, content.connect_id, at)

        self._relay(called, caller.identity, content, on_response, now)
        return True

    def _relay_answer(self, called: ServerExtension, content: ConnectMessage, now: float) -> bool:
        assert called.identity is not None
        question = (called.questions or {}).pop(content.connect_id or b"", None)
        if question is None or question[0] != content.peer.key:
            return False
        caller, asked = question
        if caller not in self._online:
            return False
        until = answered_from(content.connect_id or b"", asked)
        self._held.append(_HeldAnswer(until, caller, called.identity, content))
        self._release(now)
        return True

    def _release(self, now: float) -> None:
        """Pass on the answers whose time has come."""
        due = [held for held in self._held if held.until <= now]
        self._held = [held for held in self._held if held.until > now]
        for held in due:
            caller = self._online.get(held.caller)
            if caller is not None:
                self.counters["answered"] += 1
                self._relay(caller, held.called, held.content, lambda message, at: None, now)

    def _forward_failure(
        self, called: ServerExtension, content: ConnectMessage, now: float
    ) -> None:
        """R refuses later on: IDp(I) N(ME_CONNECT_FAILED)."""
        assert called.identity is not None
        questions = called.questions or {}
        for connect_id, (caller, _) in list(questions.items()):
            if caller == content.peer.key and content.connect_id in (None, connect_id):
                del questions[connect_id]
                self._tell_failure(caller, called.identity, connect_id, now)

    def _tell_failure(
        self, caller_key: Key, called: Identification, connect_id: bytes | None, now: float
    ) -> None:
        """S → I: the peer refused. The connect ID is for our own kind only."""
        caller = self._online.get(caller_key)
        if caller is None:
            return
        self.counters["refused"] += 1
        ours = caller.accepts is not None
        content = ConnectMessage(
            peer=called, connect_id=connect_id if ours else None, has_failed=True
        )
        self._send(caller, content, lambda message, at: None, now)

    def _relay(
        self,
        to: ServerExtension,
        sender: Identification,
        content: ConnectMessage,
        on_response: Callable[[Message | None, float], None],
        now: float,
    ) -> None:
        relayed = ConnectMessage(
            peer=sender,
            connect_id=content.connect_id,
            key=content.key,
            is_response=content.is_response,  # and never the callback flag
            endpoints=content.endpoints,
        )
        self._send(to, relayed, on_response, now)

    def _send(
        self,
        to: ServerExtension,
        content: ConnectMessage,
        on_response: Callable[[Message | None, float], None],
        now: float,
    ) -> None:
        assert self._ike is not None
        self._ike.request(to.ike_id, ExchangeType.ME_CONNECT, content.payloads(), on_response, now)

    def _open_questions(
        self, called: ServerExtension, now: float
    ) -> dict[bytes, tuple[Key, float]]:
        """What was relayed to `called` and may still be answered."""
        if called.questions is None:
            called.questions = {}
        oldest = now - self.settings.question_lifetime
        for connect_id in [c for c, (_, at) in called.questions.items() if at < oldest]:
            del called.questions[connect_id]
        return called.questions

    # -- callbacks -------------------------------------------------------------------------------

    def _note_callback(self, caller: ServerExtension, called: Identification, now: float) -> None:
        """Whether `called` is offline, unknown or does not want: nobody can tell the difference."""
        assert caller.identity is not None
        if caller.waits_for is None:
            caller.waits_for = {}
        caller.waits_for.pop(called.key, None)
        if len(caller.waits_for) >= self.settings.max_callbacks:
            self._forget_callback(caller, next(iter(caller.waits_for)))
        waiting = self._wanted.setdefault(called.key, {})
        if len(waiting) >= _MAX_WAITING_FOR_ONE:
            del waiting[next(iter(waiting))]
        waiting[caller.identity.key] = None
        caller.waits_for[called.key] = now

    def _forget_callback(self, caller: ServerExtension, called: Key) -> None:
        assert caller.identity is not None
        if caller.waits_for is not None:
            caller.waits_for.pop(called, None)
        waiting = self._wanted.get(called)
        if waiting is not None:
            waiting.pop(caller.identity.key, None)
            if not waiting:
                del self._wanted[called]

    def _forget_callbacks(self, caller: ServerExtension) -> None:
        for called in list(caller.waits_for or ()):
            self._forget_callback(caller, called)

    def _call_back(self, called_key: Key, now: float) -> None:
        """`called_key` is online: tell those who wait and may, once."""
        called = self._online.get(called_key)
        if called is None or called.identity is None:
            return
        oldest = now - self.settings.callback_lifetime
        for caller_key in list(self._wanted.get(called_key, ())):
            caller = self._online.get(caller_key)
            at = (caller.waits_for or {}).get(called_key) if caller is not None else None
            if caller is None or at is None or at < oldest:
                self._wanted[called_key].pop(caller_key, None)
            elif self._may_call(caller, called):
                self._forget_callback(caller, called_key)
                self.counters["callbacks"] += 1
                content = ConnectMessage(peer=called.identity, is_callback=True)
                self._send(caller, content, lambda message, response_at: None, now)
        if not self._wanted.get(called_key, True):
            del self._wanted[called_key]


def _of(sa: IkeSa) -> ServerExtension | None:
    """The mediation connection that `sa` is."""
    return next((e for e in sa.extensions if isinstance(e, ServerExtension)), None)
