"""What the engine is told: whom to register with, whom to know, what to serve. Values only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING

from agent.records import record

if TYPE_CHECKING:
    from agent.crypto.auth import SigningKey
    from agent.ike.pad import Peer
    from agent.ipsec.spd import Grants
    from agent.wire.payloads import Identification
    from agent.wire.proposals import Proposal


USUAL_PORT = 4500
# The name of every peer of a mediation server: it keeps none. No peer of ours has a space in its
# name.
MEDIATED = "mediated peer"


@record(frozen=True, slots=True)
class MediatorPlace:
    """A mediation server of our kind: where it is, and its public key (32 octets)."""

    host: str
    port: int
    key: bytes

    @property
    def address(self) -> str:
        """As a person writes it: the usual port is left out."""
        if self.port == USUAL_PORT:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@record(frozen=True, slots=True, kw_only=True)
class MediatorEntry:
    """A mediation server to register with as `peer.local_id`, for as long as the entry stands.

    `moved`: which one it handed us over to in an earlier run; tried first. It changes while the
    registration stands, and makes no other entry of it. `is_covered`: another entry leads there
    too, and one registration is enough.
    """

    name: str
    host: str
    port: int
    peer: Peer
    moved: MediatorPlace | None = field(default=None, compare=False)
    is_covered: bool = False


@record(frozen=True, slots=True, kw_only=True)
class PeerEntry:
    """A peer: how it proves itself (`peer`), where it is found, what it may reach here.

    With `mediator` and `pseudonym` it is called through that registration, else at `host`.
    `one_time` marks the identity of an invitation: it gets no Child SA and may only enrol.
    """

    name: str
    peer: Peer
    grants: Grants
    mediator: str = ""
    pseudonym: Identification | None = None
    host: str = ""
    port: int = 4500
    role: str = ""
    one_time: bool = False
    wanted: bool = False


@record(frozen=True, slots=True, kw_only=True)
class MediatedPeer:
    """A peer that our mediation server knows by configuration (strongSwan), under its own name for

    it (`peer.remote_id`).
    """

    peer: Peer
    may_call: frozenset[tuple[int, bytes]] = frozenset()  # by Identification.key


@record(frozen=True, slots=True, kw_only=True)
class ServerEntry:
    """This engine is a mediation server, by `key` to who comes under a pseudonym.

    Who comes to one of the `anycast` addresses is sent to `host`, its own (RFC 5685 §4).
    """

    key: SigningKey
    local_id: Identification
    proposals: tuple[Proposal, ...]
    # By Identification.key.
    peers: Mapping[tuple[int, bytes], MediatedPeer] = field(default_factory=dict)
    host: str = ""
    anycast: frozenset[bytes] = frozenset()


# Called with the one-time public key and the data of N(HG_ENROLL); answers the data of
# N(HG_ENROLLED) after whatever it stored is on disk.
Enrol = Callable[[bytes, bytes], bytes]
