"""Frozen status values: what a person, a script or a page is shown. No secrets."""

from __future__ import annotations

from agent.records import record


@record(frozen=True, slots=True, kw_only=True)
class MediatorStatus:
    """One registration. `state`: resolving, connecting, registered, waiting; times in seconds.

    `resumed`: by a ticket of an earlier one, without a handshake (RFC 5723).
    `address` is where it is, or is tried; `moved_from` what the entry says, if that is another.
    """

    name: str
    address: str
    state: str
    moved_from: str = ""
    reflexive: str = ""
    resumed: bool = False
    suite: str = ""
    since: float = 0.0
    retry_in: float = 0.0
    error: str = ""


@record(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """One peer. `state` is idle, waiting, asking, checking, connecting or up."""

    name: str
    state: str
    wanted: bool = False
    role: str = ""
    mediator: str = ""
    inner: tuple[str, ...] = ()
    path: str = ""
    direct: bool = False
    round_trip_ms: float | None = None
    since: float = 0.0
    suite: str = ""
    received: int = 0
    sent: int = 0
    retry_in: float = 0.0
    error: str = ""


@record(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    """The mediation server in this daemon; it counts and names nobody.

    `resumed`: how often somebody came back with a ticket since the start. `moved`: how often one
    left for the server that this one is drained to.
    """

    registered: int
    relayed: int
    refused: int
    resumed: int
    draining_to: str = ""
    moved: int = 0


@record(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """Everything the engine knows about itself."""

    mediators: tuple[MediatorStatus, ...]
    peers: tuple[PeerStatus, ...]
    server: ServerStatus | None
    dropped: dict[str, int]
