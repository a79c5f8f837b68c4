"""The mediation client: registration, connection attempts in both directions, checks (signatures)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agent.datagram import Address, Path
from agent.ike.extension import Extension
from agent.ike.table import Ike
from agent.mediation.events import ClientOutput
from agent.mediation.settings import MediationSettings, Random
from agent.wire.payloads import Identification


class MediationClient:
    """One mediator's client, over any number of registrations one after the other."""

    def __init__(
        self,
        *,
        name: str,
        random: Random,
        settings: MediationSettings,
        accepts: Callable[[Identification], bool],
        answers: Callable[[Identification, bytes], bool],
    ) -> None:
        raise NotImplementedError

    @property
    def extension(self) -> Extension:
        """For `Ike.connect` of a mediation connection: a new one for each IKE SA."""
        raise NotImplementedError

    def connect_extension(self, connect_id: bytes) -> Extension:
        """For `Ike.connect` of the mediated IKE SA after `PathFound`: adds N(ME_CONNECTID), calls

        `authenticated` when the IKE SA is up and `path_failed` when it is not to be.
        """
        raise NotImplementedError

    @property
    def registered(self) -> bool:
        """Whether the mediator counts us as online."""
        raise NotImplementedError

    @property
    def reflexive(self) -> Address | None:
        """The endpoint under which the mediator sees us."""
        raise NotImplementedError

    def bind(self, ike: Ike) -> None:
        """Requests of this client go through `ike`."""
        raise NotImplementedError

    def set_local_endpoints(self, addresses: Sequence[Address]) -> None:
        """Host endpoints, best first, with the port of the mediation socket."""
        raise NotImplementedError

    def set_mapped_endpoints(self, mapped: Sequence[tuple[Address, Address]]) -> None:
        """Port mappings of the gateway: (outside, local base)."""
        raise NotImplementedError

    def set_accepts(self, hashes: frozenset[bytes], now: float) -> None:
        """Whom our own kind of mediator may relay to us: `identity.accept_hash` of each pseudonym."""
        raise NotImplementedError

    def connect(self, pseudonym: Identification, now: float) -> bytes:
        """Ask for a connection; returns its connect ID. An attempt that runs already is returned."""
        raise NotImplementedError

    def abandon(self, connect_id: bytes) -> None:
        """Forget an attempt, silently."""
        raise NotImplementedError

    def expected(self, connect_id: bytes) -> Identification | None:
        """The pseudonym behind a running attempt, of either direction."""
        raise NotImplementedError

    def authenticated(self, connect_id: bytes, now: float) -> None:
        """The mediated IKE SA is up: the attempt is over."""
        raise NotImplementedError

    def path_failed(self, connect_id: bytes, now: float) -> None:
        """The IKE SA on the path found did not come up: the next candidate, or `ConnectFailed`."""
        raise NotImplementedError

    def receive_check(self, path: Path, data: bytes, now: float) -> bool:
        """An unencrypted INFORMATIONAL with zero SPIs, marker removed. Whether it was ours."""
        raise NotImplementedError

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        raise NotImplementedError

    def next_timeout(self) -> float | None:
        """When `handle_timer` wants to be called."""
        raise NotImplementedError

    def poll_output(self) -> ClientOutput | None:
        """What is to be sent (checks, without marker) and what happened, in order."""
        raise NotImplementedError
