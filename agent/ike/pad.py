"""The peer authorization database: who may authenticate how, and what it then may have.

RFC 4301 §4.4.3, in the words of RFC 7296: identities, authentication data, proposals, and the
policy of the one Child SA. These are values; who fills them (configuration, invitations, a mediator
that takes self-certifying pseudonyms) is not known here. EAP is left out.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Protocol

from agent.records import record

if TYPE_CHECKING:
    from agent.crypto.certificates import Certificate
    from agent.crypto.signatures import Signer, Verifier
    from agent.datagram import Path
    from agent.ike.extension import Extension
    from agent.wire.message import Message
    from agent.wire.payloads import CertreqPayload, Identification
    from agent.wire.proposals import Proposal
    from agent.wire.selectors import TrafficSelector


@record(frozen=True, slots=True, kw_only=True)
class PskAuth:
    """A shared secret, for either side (RFC 7296 §2.15). `secret` are its raw octets."""

    secret: bytes = field(repr=False)


@record(frozen=True, slots=True, kw_only=True)
class KeyAuth:
    """What the remote side must prove: the Ed25519 key with these 32 public octets (RFC 8420)."""

    public: bytes


@record(frozen=True, slots=True, kw_only=True)
class AnyKeyAuth:
    """What the remote side must prove: a key of any kind, pinned by the SHA-256 of its

    SubjectPublicKeyInfo. `key` None: only that is known here, and the key itself has to come in
    band (RFC 7670).
    """

    sha256: bytes
    key: Verifier | None = None


@record(frozen=True, slots=True, kw_only=True)
class CertificateAuth:
    """What the remote side must prove: the key of a certificate for its identity, to which a path

    leads from one of `anchors` (RFC 5280 §6, RFC 4945).
    """

    anchors: tuple[Certificate, ...]


RemoteAuth = PskAuth | KeyAuth | AnyKeyAuth | CertificateAuth


@record(frozen=True, slots=True, kw_only=True)
class Ppk:
    """A postquantum preshared key and its name, in octets (RFC 8784).

    `required`: no IKE SA without it; else it is used with whoever has it too.
    """

    id: bytes
    secret: bytes = field(repr=False)
    required: bool = True


@record(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """When SAs are replaced (RFC 7296 §2.8: each side keeps its own, nothing is negotiated).

    The figures are hard limits: then the SA is closed. Rekeying begins `margin` of the lifetime
    earlier, and up to `jitter` of the lifetime before that, so that two sides rarely collide.
    Seconds; 0 = never. Octets and packets count one direction of one Child SA: 2^31 packets keep
    clear of the 2^32 where sequence numbers without ESN end, 2^38 octets keep AES-GCM and
    ChaCha20-Poly1305 far below their usage limits.
    """

    ike_seconds: float = 14400.0
    child_seconds: float = 3600.0
    child_octets: int = 1 << 38
    child_packets: int = 1 << 31
    margin: float = 0.1
    jitter: float = 0.1


@record(frozen=True, slots=True, kw_only=True)
class ChildPolicy:
    """What the Child SA of a peer may be: tunnel mode ESP between these selectors.

    `local_ts` may be empty where `request_addresses` is not: then everything of that family is
    offered and the answer narrows it to the address that was handed out.
    `request_addresses`: CfgAttributeType INTERNAL_IP4_ADDRESS and/or INTERNAL_IP6_ADDRESS that the
    initiator asks for. `assign`: packed addresses that the responder hands to this very peer.
    Proposals with a key exchange method mean that rekeying has perfect forward secrecy.
    """

    name: str
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    proposals: tuple[Proposal, ...]
    request_addresses: tuple[int, ...] = ()
    assign: tuple[bytes, ...] = ()


@record(frozen=True, slots=True, kw_only=True)
class Peer:
    """One line of the database. `remote_id` None accepts whatever authenticates (initiator only).

    `certificates`: DER, shown with what `local_auth` signs; its own first, then those above it.

    `child` None: a childless IKE SA (RFC 6023, mediation). `liveness_seconds` 0: no probes.
    `unique`: a newer IKE SA with it between the same identities replaces the older one.
    `auth_seconds`: how long a proof is good, then authentication is repeated (RFC 4478); 0: always.
    `gives_tickets`: as responder we let it resume the IKE SA later (RFC 5723).
    """

    name: str
    local_id: Identification
    remote_id: Identification | None
    local_auth: PskAuth | Signer
    remote_auth: RemoteAuth
    proposals: tuple[Proposal, ...]
    certificates: tuple[bytes, ...] = ()
    child: ChildPolicy | None = None
    lifetimes: Lifetimes = Lifetimes()
    liveness_seconds: float = 30.0
    unique: bool = True
    ppk: Ppk | None = None
    auth_seconds: float = 0.0
    gives_tickets: bool = False


class Pad(Protocol):
    """Where the IKE engine, as responder, asks who somebody is."""

    def responder_proposals(self, path: Path, request: Message) -> tuple[Proposal, ...]:
        """What is acceptable in the IKE_SA_INIT `request` on `path`, best first."""
        ...

    def find_peer(
        self,
        remote_id: Identification,
        local_id: Identification | None,
        context: tuple[Extension, ...],
    ) -> Peer | None:
        """The peer that claims IDi `remote_id` (and asks for IDr `local_id`), not yet proven.

        `context` are the extensions of the IKE SA. None ends in AUTHENTICATION_FAILED, which looks
        the same as a wrong proof.
        """
        ...

    def uses_ppk(self) -> bool:
        """Whether any peer has a PPK: only then USE_PPK is answered (RFC 8784 §3)."""
        ...

    def certificate_requests(self, request: Message) -> tuple[CertreqPayload, ...]:
        """What is asked of whoever sent this IKE_SA_INIT; nothing unless a peer has to show it."""
        ...
