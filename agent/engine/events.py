"""What the engine tells its driver: what is to be sent or delivered, and what happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.datagram import Path, Transmit
from agent.records import record

if TYPE_CHECKING:
    from agent.engine.entries import MediatorPlace
    from agent.wire.selectors import TrafficSelector


@record(frozen=True, slots=True)
class Packets:
    """For the TUN device, in order: each element is the list of buffers of one write."""

    writes: list[list[bytes]]


@record(frozen=True, slots=True, kw_only=True)
class ResolveWanted:
    """`host` is to be looked up; answer with `Engine.resolved` or `Engine.not_resolved`."""

    key: tuple[str, str]
    host: str
    port: int


@record(frozen=True, slots=True, kw_only=True)
class MediatorChanged:
    """A registration went to `state`; `error` is a sentence if it was lost or failed."""

    name: str
    state: str
    reflexive: str = ""
    error: str = ""


@record(frozen=True, slots=True, kw_only=True)
class MediatorMoved:
    """To be kept: a mediator handed us over to another one, where we are registered now.

    `successor` None: we are back where the entry says.
    """

    name: str
    successor: MediatorPlace | None


@record(frozen=True, slots=True, kw_only=True)
class PeerChanged:
    """A connection went to `state`; `error` is a sentence if it failed or was lost."""

    name: str
    state: str
    path: Path | None = None
    error: str = ""


@record(frozen=True, slots=True, kw_only=True)
class TunnelUp:
    """Packets between the selectors may be routed to the TUN device; `addresses` are now ours."""

    name: str
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    addresses: tuple[bytes, ...]


@record(frozen=True, slots=True, kw_only=True)
class TunnelDown:
    """No Child SA with this peer is left."""

    name: str


@record(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """The gateway's answer to our enrolment: data of N(HG_ENROLLED), None if there was none."""

    name: str
    answer: bytes | None


@record(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something a person should read once in the log, already safe to print."""

    text: str


Event = (
    Packets
    | ResolveWanted
    | MediatorChanged
    | MediatorMoved
    | PeerChanged
    | TunnelUp
    | TunnelDown
    | Enrolled
    | Notice
)
Output = Transmit | Event
