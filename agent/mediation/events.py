"""What the mediation client and server tell the engine. Events, not orders."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from agent.datagram import Address, Dropped, Path, Transmit
from agent.records import record

if TYPE_CHECKING:
    from agent.wire.payloads import Identification


class ConnectStage(StrEnum):
    """How far a connection attempt has come."""

    ASKED = "asked"  # ME_CONNECT is on its way to the mediator
    RELAYED = "relayed"  # the mediator knows the peer and has passed the request on
    CHECKING = "checking"  # the peer answered; connectivity checks are running
    RETRYING = "retrying"  # the path found did not carry the IKE SA, others are tried


class ConnectFailure(StrEnum):
    """Why a connection attempt ended."""

    NOT_REACHABLE = "not_reachable"  # unknown, offline or not allowed: nobody can tell which
    NO_PATH = "no_path"  # every connectivity check failed
    TIMEOUT = "timeout"  # the peer did not answer in time
    MEDIATOR_SILENT = "mediator_silent"  # the mediator did not answer our question
    REFUSED = "refused"  # the peer, or the mediator, said no
    NOT_REGISTERED = "not_registered"  # there is no mediation connection, or it was lost meanwhile
    REPLACED = "replaced"  # by a newer attempt of the same peer, or by its own of the same moment


class RegistrationLoss(StrEnum):
    """Why a registration ended."""

    NO_MEDIATOR = "no_mediator"  # the server does not speak the mediation extension
    CLOSED = "closed"  # the IKE SA ended; its own event says why


@record(frozen=True, slots=True, kw_only=True)
class Registered:
    """`client` is online at its mediator, seen there as `reflexive` (None: not said)."""

    client: str
    ike_id: int
    reflexive: Address | None


@record(frozen=True, slots=True, kw_only=True)
class ReflexiveChanged:
    """The mediator now sees `client` elsewhere: a NAT was rebooted, a route changed."""

    client: str
    reflexive: Address


@record(frozen=True, slots=True, kw_only=True)
class RegistrationLost:
    """`client` is no longer online; callbacks it had asked for are forgotten with it."""

    client: str
    ike_id: int
    reason: RegistrationLoss
    detail: str = ""


@record(frozen=True, slots=True, kw_only=True)
class ConnectRequested:
    """The peer `pseudonym` wants to connect and is let: checks begin, an IKE_SA_INIT will come."""

    client: str
    pseudonym: Identification
    connect_id: bytes


@record(frozen=True, slots=True, kw_only=True)
class ConnectProgress:
    """An attempt came one stage further."""

    client: str
    connect_id: bytes
    pseudonym: Identification
    stage: ConnectStage


@record(frozen=True, slots=True, kw_only=True)
class PathFound:
    """Checks went through `path` both ways. An initiator starts its IKE_SA_INIT there now; it may

    come again with another path if that one did not carry the IKE SA. `rtt` in seconds.
    """

    client: str
    connect_id: bytes
    pseudonym: Identification
    path: Path
    is_initiator: bool
    rtt: float


@record(frozen=True, slots=True, kw_only=True)
class ConnectFailed:
    """An attempt ended without an IKE SA. With `replaced_by` the other side's goes on instead.

    `waiting`: the mediator was asked to call back when the peer comes online.
    """

    client: str
    connect_id: bytes
    pseudonym: Identification
    reason: ConnectFailure
    detail: str = ""
    replaced_by: bytes | None = None
    waiting: bool = False


@record(frozen=True, slots=True, kw_only=True)
class PeerOnline:
    """The mediator calls back: a peer that was not reachable before has registered."""

    client: str
    pseudonym: Identification


@record(frozen=True, slots=True, kw_only=True)
class PeerRegistered:
    """Server: `identity` is online."""

    ike_id: int
    identity: Identification


@record(frozen=True, slots=True, kw_only=True)
class PeerGone:
    """Server: `identity` is no longer online."""

    ike_id: int
    identity: Identification


ClientEvent = (
    Registered
    | ReflexiveChanged
    | RegistrationLost
    | ConnectRequested
    | ConnectProgress
    | PathFound
    | ConnectFailed
    | PeerOnline
)
ClientOutput = Transmit | Dropped | ClientEvent
ServerEvent = PeerRegistered | PeerGone
