"""The engine's peer authorization database (RFC 4301 §4.4.3): whom it lets in, and as what.

Three kinds come: peers of the mediation server (their pseudonym is their key, or they stand in the
configuration), known peers (each with an identity and what proves it), and invited ones (pinned
one-time identity, childless, may only enrol).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agent.engine.entries import MEDIATED
from agent.ike import certificates
from agent.ike.negotiation import without_additional
from agent.ike.pad import KeyAuth, Peer
from agent.mediation.connect_id import ConnectIdExtension
from agent.wire.codes import IdType, NotifyType
from agent.wire.payloads import Identification
from agent.wire.redirect import GatewayId

if TYPE_CHECKING:
    from agent.datagram import Path
    from agent.engine.entries import PeerEntry, ServerEntry
    from agent.ike.extension import Extension
    from agent.mediation.server_extension import ServerExtension
    from agent.wire.message import Message
    from agent.wire.payloads import CertreqPayload
    from agent.wire.proposals import Proposal

KEY_LENGTH = 32


class Authority:
    """Implements `agent.ike.pad.Pad` over the entries that the engine keeps."""

    def __init__(self, proposals: tuple[Proposal, ...]) -> None:
        self.server: ServerEntry | None = None
        self._default = proposals
        self._proposals = proposals
        self._by_id: dict[tuple[int, bytes], PeerEntry] = {}
        self._requests: tuple[CertreqPayload, ...] = ()
        self._server_requests: tuple[CertreqPayload, ...] = ()

    def set_peers(self, entries: list[PeerEntry]) -> None:
        """All that may come, one entry per remote identity."""
        self._by_id = {
            entry.peer.remote_id.key: entry for entry in entries if entry.peer.remote_id is not None
        }
        self._requests = certificates.requests([entry.peer.remote_auth for entry in entries])
        wanted = [p for entry in entries for p in entry.peer.proposals]
        if self.server is not None:
            wanted = [*self.server.proposals, *wanted]
            mediated = [known.peer.remote_auth for known in self.server.peers.values()]
            self._server_requests = certificates.requests(mediated)
        # Ours in the order of preference, then what single peers need besides.
        self._proposals = tuple(dict.fromkeys([*self._default, *wanted]))

    def responder_proposals(self, path: Path, request: Message) -> tuple[Proposal, ...]:
        """What is acceptable before anybody has said who it is.

        A mediation connection has the server's own.
        """
        if self.server is not None and request.notify(NotifyType.ME_MEDIATION) is not None:
            ours = request.notify(NotifyType.HG_MEDIATION) is not None
            return _for_mediation(self.server, takes_additional=ours)
        return self._proposals

    def find_peer(
        self,
        remote_id: Identification,
        local_id: Identification | None,
        context: tuple[Extension, ...],
    ) -> Peer | None:
        """Who claims `remote_id`, by what the IKE_SA_INIT asked for."""
        if self.server is not None and (asked := _of_the_server(context)) is not None:
            proposals = _for_mediation(self.server, takes_additional=asked.takes_additional)
            return _mediated(self.server, remote_id, local_id, proposals)
        entry = self._by_id.get(remote_id.key)
        if entry is None:
            return None
        for extension in context:
            if isinstance(extension, ConnectIdExtension):
                expected = extension.expected
                # A mediator that swaps connect requests must not pair a path with another peer.
                if (
                    expected is not None
                    and entry.pseudonym is not None
                    and not expected.matches(entry.pseudonym)
                ):
                    return None
        return entry.peer

    def uses_ppk(self) -> bool:
        """Whether a peer has a postquantum preshared key."""
        return any(entry.peer.ppk is not None for entry in self._by_id.values())

    def certificate_requests(self, request: Message) -> tuple[CertreqPayload, ...]:
        """All peers' trust anchors, or those for the configured peers of the mediation server."""
        if request.notify(NotifyType.ME_MEDIATION) is not None:
            return self._server_requests
        return self._requests

    def first_contact(self, path: Path) -> GatewayId | None:
        """Where a client is sent that comes along `path` for the first time (RFC 5685 §4)."""
        server = self.server
        if server is None or path.local.ip not in server.anycast:
            return None
        return GatewayId.of_host(server.host)

    def may_call(self, caller: Identification, called: Identification) -> bool:
        """Whether the mediation server relays, where `called` has no list of its own."""
        server = self.server
        known = server.peers.get(called.key) if server is not None else None
        caller_entry = server.peers.get(caller.key) if server is not None else None
        return (
            known is not None and caller_entry is not None and called.key in caller_entry.may_call
        )


def _mediated(
    server: ServerEntry,
    remote_id: Identification,
    asked: Identification | None,
    proposals: tuple[Proposal, ...],
) -> Peer | None:
    """A peer of the server: one it knows by configuration, or one whose pseudonym is its key."""
    known = server.peers.get(remote_id.key)
    if known is not None:
        return replace(known.peer, proposals=proposals)
    if not _is_pseudonym(remote_id):
        return None
    # A peer of our kind asks for the identity that belongs to our key, and knows no other.
    own = Identification.key_id(server.key.public)
    names = (own.key, server.local_id.key)
    if asked is not None and _is_pseudonym(asked) and asked.key not in names:
        return None  # sent here for another server: what it has with us is to stand
    return Peer(
        name=MEDIATED,
        local_id=own if asked is not None and asked.key == own.key else server.local_id,
        remote_id=remote_id,
        local_auth=server.key,
        remote_auth=KeyAuth(public=remote_id.data),
        proposals=proposals,
        gives_tickets=True,
    )


def _is_pseudonym(identity: Identification) -> bool:
    """Whether it can be a public key: one that certifies itself."""
    return identity.id_type == IdType.ID_KEY_ID and len(identity.data) == KEY_LENGTH


def _for_mediation(server: ServerEntry, *, takes_additional: bool) -> tuple[Proposal, ...]:
    """What a mediation connection may use: with strongSwan, whose mediation ends there, nothing

    comes between IKE_SA_INIT and IKE_AUTH (mediation.md §5).
    """
    return server.proposals if takes_additional else without_additional(server.proposals)


def _of_the_server(context: tuple[Extension, ...]) -> ServerExtension | None:
    """What says in `context` that the mediation server is asked."""
    from agent.mediation.server_extension import ServerExtension  # loaded where there is a server

    return next((e for e in context if isinstance(e, ServerExtension)), None)
