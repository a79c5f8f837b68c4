"""What the daemon learns: peers and invitations, as values and as the JSON of their files. Pure.

`Peers` decides pairing and expiry; whoever calls writes the file before anything is answered, so a
power cut leaves an invitation either unused or burned together with its peer.
"""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from agent.bridge.grants import Role
from agent.crypto.auth import key_text, parse_key_text
from agent.invitation import Enrolment, EnrolResult
from agent.records import record

if TYPE_CHECKING:
    from collections.abc import Container

MAX_PEERS = 4096  # a vendor's office; each costs about 1 kB of file and memory
MAX_INVITATIONS = 256
_ROLES = tuple(role.value for role in Role)


@record(frozen=True, slots=True, kw_only=True)
class KnownPeer:
    """A paired machine. Keys are 43 characters of base64url; `added` is seconds since 1970.

    `mediator` and `mediator_key` are where the *other* one is registered, empty for a peer that
    comes to us. `number`, from 2, is the latter's place in our network of inner IPv4 addresses; it
    keeps it as long as it is known here.
    """

    name: str
    identity: str
    mediation: str
    role: str = ""
    grants: tuple[str, ...] = ()
    mediator: str = ""
    mediator_key: str = ""
    wanted: bool = False
    added: int = 0
    number: int = 0

    @property
    def identity_key(self) -> bytes:
        """32 octets."""
        return parse_key_text(self.identity)

    @property
    def mediation_key(self) -> bytes:
        """32 octets, also the pseudonym."""
        return parse_key_text(self.mediation)


@record(frozen=True, slots=True, kw_only=True)
class OpenInvitation:
    """An invitation as the gateway remembers it: public halves only.

    It ends when the wall clock passes `expires`, or after `lifetime` seconds of running time,
    whatever comes first: a board without a clock counts only the second. `used_by` is the
    identity that used it up; it is kept until it expires so that the answer can be clear.
    """

    name: str
    role: str
    identity: str
    mediation: str
    expires: int
    lifetime: int
    served: int = 0
    used_by: str = ""

    def is_over(self, wall: float | None) -> bool:
        """`wall` is seconds since 1970, None where the clock is not to be trusted."""
        return self.served >= self.lifetime or (wall is not None and wall >= self.expires)


E = TypeVar("E", KnownPeer, OpenInvitation)


class Peers:
    """All of it, by name and by key."""

    def __init__(
        self, peers: tuple[KnownPeer, ...] = (), invitations: tuple[OpenInvitation, ...] = ()
    ) -> None:
        self.peers = {peer.name: peer for peer in peers}
        for peer in peers:  # paired before there were numbers
            if not peer.number and not peer.mediator:
                self.peers[peer.name] = replace(peer, number=self._free_number())
        self.invitations = {invitation.identity: invitation for invitation in invitations}

    def by_identity(self, identity: str) -> KnownPeer | None:
        """The peer with this identity key."""
        return next((p for p in self.peers.values() if p.identity == identity), None)

    def _free_number(self) -> int:
        taken = {peer.number for peer in self.peers.values()}
        return next(number for number in range(2, len(taken) + 3) if number not in taken)

    def free_name(self, wanted: str, reserved: Container[str] = ()) -> str:
        """`wanted`, or `wanted-2` and so on if there is such a peer, here or in `reserved`."""
        name, count = wanted, 2
        while name in self.peers or name in reserved:
            name, count = f"{wanted[:58]}-{count}", count + 1
        return name

    def enrol(
        self,
        one_time: str,
        enrolment: Enrolment,
        wall: float | None,
        added: int,
        reserved: Container[str] = (),
    ) -> tuple[EnrolResult, KnownPeer | None]:
        """Turn an invitation into a peer. Saying it again with the same keys succeeds again.

        A peer that is known already gets the invitation's role; what else we know of it stays.
        `reserved` are names of peers in the configuration.
        """
        invitation = self.invitations.get(one_time)
        if invitation is None or invitation.is_over(wall):
            return EnrolResult.EXPIRED, None
        identity = key_text(enrolment.identity)
        known = self.by_identity(identity)
        mediation = key_text(enrolment.mediation)
        if invitation.used_by:
            if invitation.used_by != identity or known is None or known.mediation != mediation:
                return EnrolResult.USED, None
            return EnrolResult.ACCEPTED, known
        if known is None and len(self.peers) >= MAX_PEERS:
            return EnrolResult.FULL, None
        if known is not None:
            number = known.number or self._free_number()
            peer = replace(known, mediation=mediation, role=invitation.role, number=number)
        else:
            peer = KnownPeer(
                name=self.free_name(invitation.name, reserved),
                identity=identity,
                mediation=mediation,
                role=invitation.role,
                added=added,
                number=self._free_number(),
            )
        self.peers[peer.name] = peer
        self.invitations[one_time] = replace(invitation, used_by=identity)
        return EnrolResult.ACCEPTED, peer

    def expire(self, wall: float | None, running: int = 0) -> bool:
        """Count `running` more seconds and forget what is over; True if something was forgotten."""
        before = len(self.invitations)
        self.invitations = {
            key: counted
            for key, invitation in self.invitations.items()
            if not (counted := replace(invitation, served=invitation.served + running)).is_over(
                wall
            )
        }
        return len(self.invitations) != before

    def to_json(self) -> dict[str, Any]:
        """For the state file."""
        return {
            "peers": [asdict(peer) for peer in self.peers.values()],
            "invitations": [asdict(invitation) for invitation in self.invitations.values()],
        }

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Peers:
        """Raises ValueError, TypeError, KeyError or AttributeError if `to_json` did not make it."""
        peers = tuple(
            _checked(KnownPeer(**{**entry, "grants": tuple(entry.get("grants", ()))}))
            for entry in state["peers"]
        )
        invitations = tuple(_checked(OpenInvitation(**entry)) for entry in state["invitations"])
        return cls(peers, invitations)


def _checked(entry: E) -> E:
    """`entry` if its values are of their types and its keys are keys; else raises ValueError."""
    for item in fields(entry):
        value = getattr(entry, item.name)
        if isinstance(value, tuple):
            fits = item.name == "grants" and all(isinstance(one, str) for one in value)
        else:
            fits = type(value).__name__ == item.type
        if not fits:
            raise ValueError(f"{item.name} has the wrong type")
    for key in (entry.identity, entry.mediation):
        parse_key_text(key)
    if entry.role and entry.role not in _ROLES:
        raise ValueError(f"there is no role {entry.role!r:.40}")
    if isinstance(entry, KnownPeer) and entry.mediator:
        parse_key_text(entry.mediator_key)
    return entry
