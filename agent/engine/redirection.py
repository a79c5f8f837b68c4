"""Following redirects (RFC 5685), and repeating a proof: attempts beside what there is.

Nothing that stands is given up for a redirect before the other gateway has proven itself, and it
has to prove what the first one had to (`Place.peer`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agent.engine.events import Event, Notice, ResolveWanted
from agent.engine.sentences import LOOPING
from agent.ike.pad import KeyAuth
from agent.ike.redirect import (
    REDIRECT_LOOP_DETECT_PERIOD,
    RedirectClient,
    Redirects,
    leads_astray,
)
from agent.records import record
from agent.wire.payloads import Identification

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.datagram import Address, Path
    from agent.ike.events import IkeSaClosed, Redirected
    from agent.ike.extension import Extension
    from agent.ike.pad import Peer
    from agent.ike.table import Ike

PATH_SECONDS = 5.0  # for the answer to IKE_SA_INIT where the name has another address
MAX_CANDIDATES = 4  # addresses of a name that are tried: somebody else chose it


@record(frozen=True, slots=True)
class Place:
    """Where a gateway is, and by which entry it proves itself.

    `is_proven`: a gateway that had proven itself sent us there.
    `entrance`: the place from which an answer that proves nothing led here (anycast, §4).
    """

    host: str
    port: int
    peer: Peer
    is_proven: bool = False
    entrance: Place | None = None

    @property
    def lasting(self) -> Place:
        """Where to go next time: another one may be behind the entrance by then."""
        return self if self.entrance is None else self.entrance

    @property
    def text(self) -> str:
        """As people write it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def is_same(self, other: Place) -> bool:
        """Whether `other` is this very gateway, whoever named it."""
        here = (self.host, self.port, self.peer.remote_auth)
        return here == (other.host, other.port, other.peer.remote_auth)


def handed_over(peer: Peer, key: bytes) -> Peer | None:
    """The entry of a mediator of our kind with the `key` of the one that takes over.

    None if `peer` is known by anything but its key: then the other one has to prove the same.
    """
    auth = peer.remote_auth
    if not isinstance(auth, KeyAuth) or peer.remote_id != Identification.key_id(auth.public):
        return None
    return replace(peer, remote_id=Identification.key_id(key), remote_auth=KeyAuth(public=key))


class Redirection:
    """Of one registration or connection. `failed` is called when no attempt is left.

    `key`: of the last name that was to be looked up; answers to other questions come too late.
    `attempts`: IKE SAs on their way, with where to. `_declines_until`: no redirect is taken before,
    as the last one led nowhere. `_target`: the newest place to go to, while its
    name is looked up or it has addresses left to try. `_original`: who sent us there, if anybody.
    """

    def __init__(
        self,
        key: tuple[str, str],
        ike: Ike,
        emit: Callable[[Event], None],
        extensions: Callable[[], tuple[Extension, ...]],
        failed: Callable[[str, float], None],
    ) -> None:
        self.attempts: dict[int, Place] = {}
        self.key = key
        self._ike = ike
        self._emit = emit
        self._extensions = extensions
        self._failed = failed
        self._redirects = Redirects()
        self._declines_until = 0.0
        self._count = 0
        self._target: Place | None = None
        self._original: Address | None = None
        self._candidates: list[Path] = []

    @property
    def is_active(self) -> bool:
        """Whether another gateway is being tried."""
        return bool(self.attempts) or self._target is not None

    def client(self, now: float) -> tuple[Extension, ...]:
        """What says in IKE_SA_INIT that redirects are taken.

        Whoever was sent elsewhere lately and has not arrived says nothing (§3): else a gateway that
        sends everybody to one that is off would have nobody any more.
        """
        return () if now < self._declines_until else (RedirectClient(),)

    def follow(self, event: Redirected, place: Place, now: float) -> None:
        """Try `place`, unless this goes round in circles."""
        if event.proven:
            self._declines_until = now + REDIRECT_LOOP_DETECT_PERIOD
        if not self._redirects.admit(now):
            if self._redirects.refused == 1:
                self._emit(Notice(text=f"{self.key[1]}: {LOOPING}"))
            return
        if event.proven:
            self.drop(now)
        self._look_up(place, event.original)

    def seek(self, place: Place) -> None:
        """Nobody sent us: see whether the gateway at `place` has us, beside what there is."""
        self._look_up(place, None)

    def _look_up(self, place: Place, original: Address | None) -> None:
        self._target, self._original = place, original
        self._candidates = []
        self._count += 1
        self.key = (f"{self.key[0].partition(' ')[0]} redirect {self._count}", self.key[1])
        self._emit(ResolveWanted(key=self.key, host=place.host, port=place.port))

    def beside(self, place: Place, path: Path, now: float) -> None:
        """Nobody sent us: the gateway that we have at the end of `path`, once more."""
        self._attempt(RedirectClient(), place, path, None, now)

    def on_resolved(self, paths: Sequence[Path], now: float) -> None:
        """Addresses of the gateway, best first; those that it may not send us to are left out."""
        if self._target is None:
            return
        sent_by = self._original
        usable = [p for p in paths if not (sent_by and leads_astray(p.remote.ip, sent_by.ip))]
        self._candidates = usable[:MAX_CANDIDATES]
        if self._candidates:
            self._connect_next(now)
        else:
            host = self._target.host
            self._give_up(f"we are sent to {host}, which has no address that can be used.", now)

    def on_not_resolved(self, sentence: str, now: float) -> None:
        """Its name is not known now."""
        self._give_up(sentence, now)

    def on_closed(self, event: IkeSaClosed, sentence: str, now: float) -> bool:
        """An IKE SA ended; whether it was one of these attempts."""
        if event.ike_id not in self.attempts:
            return False
        del self.attempts[event.ike_id]
        if self._candidates:
            self._connect_next(now)
        elif not self.is_active:
            self._failed(sentence, now)
        return True

    def take(self, ike_id: int, now: float) -> Place:
        """This attempt came through: the others are over."""
        place = self.attempts.pop(ike_id)
        self._declines_until = now
        self.drop(now)
        return place

    def drop(self, now: float) -> None:
        """Nothing of it is wanted any more."""
        attempts, self.attempts = self.attempts, {}
        self._target = None
        self._candidates = []
        for ike_id in attempts:
            self._ike.close(ike_id, now, silent=True)

    def _connect_next(self, now: float) -> None:
        assert self._target is not None
        place, path = self._target, self._candidates.pop(0)
        if not self._candidates:
            self._target = None
        # Whoever is there may be nobody's gateway but a victim: a few datagrams and no more.
        patience = None if place.is_proven and not self._candidates else PATH_SECONDS
        client = RedirectClient(self._original.ip if self._original is not None else None)
        self._attempt(client, place, path, patience, now)

    def _attempt(
        self, client: RedirectClient, place: Place, path: Path, patience: float | None, now: float
    ) -> None:
        extensions = (client, *self._extensions())
        ike_id = self._ike.connect(place.peer, path, now, extensions=extensions, patience=patience)
        self.attempts[ike_id] = place

    def _give_up(self, sentence: str, now: float) -> None:
        if self._target is None:
            return
        self._target = None
        if not self.attempts:
            self._failed(sentence, now)
