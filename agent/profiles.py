"""Configuration, keys and learnt peers → what the engine is told. Pure.

A little longer than the soft limit: functions without state, and one kind of entry each; peers need
the names that their mediators got.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING

from agent.bridge.grants import Access, Role
from agent.bridge.grants import Peer as BridgePeer
from agent.config import (
    ESP_PROPOSALS,
    IKE_PROPOSALS,
    Config,
    MediatedPeerConfig,
    MediatorConfig,
    PeerConfig,
    SignatureConfig,
    split_host,
)
from agent.crypto.auth import SigningKey, inner_address, parse_key_text
from agent.crypto.digest import sha256
from agent.engine.entries import (
    MEDIATED,
    MediatedPeer,
    MediatorEntry,
    PeerEntry,
    ServerEntry,
)
from agent.ike.pad import (
    AnyKeyAuth,
    CertificateAuth,
    ChildPolicy,
    KeyAuth,
    Lifetimes,
    Peer,
    Ppk,
    PskAuth,
)
from agent.ipsec import ALL, Grants
from agent.moves import NO_MOVES
from agent.records import record
from agent.wire.codes import CfgAttributeType, ProtocolId
from agent.wire.payloads import Identification
from agent.wire.proposals import parse_proposals
from agent.wire.selectors import TrafficSelector

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from agent.bridge.devices import DeviceConfig
    from agent.crypto.signatures import Signer
    from agent.ike.pad import RemoteAuth
    from agent.invitation import Invitation
    from agent.moves import Moves
    from agent.peers import KnownPeer, OpenInvitation, Peers
    from agent.wire.proposals import Proposal

    Proven = PeerConfig | MediatorConfig | MediatedPeerConfig

OUR_IKE = parse_proposals(IKE_PROPOSALS, ProtocolId.IKE)
OUR_ESP = parse_proposals(ESP_PROPOSALS, ProtocolId.ESP)
# Seconds. As often as a keepalive: only an authentic packet shows the mediator a new NAT mapping,
# and until then nobody can call. Ten thousand peers are 500 probes a second.
MEDIATOR_LIVENESS = 20.0
ANY_PORT = range(1, 65536)
INVITATION = "invitation:"  # names of the peers that are invitations begin with this
ENROLMENT = "enrolment:"  # names of the registration and peer of an `accept` under way


@record(frozen=True, slots=True)
class Keys:
    """The two keys of this machine."""

    identity: SigningKey = field(repr=False)
    mediation: SigningKey = field(repr=False)

    @property
    def address(self) -> bytes:
        """The inner IPv6 address, 16 octets."""
        return inner_address(self.identity.public)


def single(address: bytes) -> TrafficSelector:
    """All protocols and ports of one address."""
    return TrafficSelector(protocol=0, start_port=0, end_port=65535, start=address, end=address)


def restart_secret(config: Config, keys: Keys) -> bytes:
    """32 octets that outlive a restart, for quick crash detection (RFC 6290 §5.1).

    Mediation servers may share their keys (anycast), and one must not tell the tokens of another's
    living IKE SAs (§9.2): each has an address of its own.
    """
    address = config.mediate.address if config.mediate is not None else ""
    return SigningKey.derive(keys.identity.seed, f"quick crash detection {address}".rstrip()).seed


def mediator_name(address: str, key: str, config: Config, peers: Peers) -> str:
    """What the registration with this mediator is called: as configured, else its address.

    A mediator whose key changed is another one; its address is then no name any more.
    """
    raw = parse_key_text(key)
    for mediator in config.mediators:
        if mediator.key == raw and mediator.is_ours:
            return mediator.name
    first = next((p.mediator_key for p in peers.peers.values() if p.mediator == address), key)
    taken = any(mediator.name == address for mediator in config.mediators)
    return f"{address}#{key}" if taken or first != key else address


def mediators(
    config: Config, keys: Keys, peers: Peers, moves: Moves = NO_MOVES
) -> list[MediatorEntry]:
    """Everywhere that this machine registers: as configured, and where its peers are."""
    return _registrations(config, keys, peers, moves)[0]


def _registrations(
    config: Config, keys: Keys, peers: Peers, moves: Moves
) -> tuple[list[MediatorEntry], dict[str, str]]:
    """The entries; and which names mean another one, as both lead to one server by now.

    Two registrations there under one pseudonym would throw each other off, so one is covered.
    """
    kept: list[MediatorEntry] = []
    names: dict[str, str] = {}
    found: dict[tuple[bytes, bytes], str] = {}
    entries = [
        replace(entry, moved=moves.of(entry)) for entry in _all_mediators(config, keys, peers)
    ]
    for entry in sorted(entries, key=lambda entry: entry.moved is not None):
        auth = entry.peer.remote_auth
        there = auth.public if isinstance(auth, KeyAuth) else b""
        there = entry.moved.key if entry.moved is not None else there
        place = (there, entry.peer.local_id.data)
        if entry.moved is not None and place in found:
            names[entry.name] = found[place]
            kept.append(replace(entry, is_covered=True))
        else:
            found[place] = entry.name
            kept.append(entry)
    return kept, names


def _all_mediators(config: Config, keys: Keys, peers: Peers) -> list[MediatorEntry]:
    entries = {m.name: _configured_mediator(m, keys) for m in config.mediators}
    for peer in peers.peers.values():
        if peer.mediator:
            name = mediator_name(peer.mediator, peer.mediator_key, config, peers)
            if name not in entries:
                entries[name] = our_mediator(
                    name, peer.mediator, parse_key_text(peer.mediator_key), keys.mediation
                )
    return list(entries.values())


def our_mediator(name: str, address: str, key: bytes, own: SigningKey) -> MediatorEntry:
    """Registration with a mediation server of our kind, under the key `own`."""
    host, port = split_host(address)
    return MediatorEntry(
        name=name,
        host=host,
        port=port,
        peer=_mediator_peer(name, key, own),
    )


def _mediator_peer(name: str, key: bytes, own: SigningKey) -> Peer:
    return Peer(
        name=f"mediator {name}",
        local_id=Identification.key_id(own.public),
        remote_id=Identification.key_id(key),
        local_auth=own,
        remote_auth=KeyAuth(public=key),
        proposals=OUR_IKE,
        liveness_seconds=MEDIATOR_LIVENESS,
    )


def _configured_mediator(config: MediatorConfig, keys: Keys) -> MediatorEntry:
    peer = Peer(
        name=f"mediator {config.name}",
        local_id=config.local_id or Identification.key_id(keys.mediation.public),
        remote_id=config.remote_id,
        local_auth=_local_auth(config.psk, config.signatures, keys.mediation),
        remote_auth=_remote_auth(config),
        certificates=_shown(config),
        proposals=config.proposals,
        liveness_seconds=MEDIATOR_LIVENESS,
    )
    return MediatorEntry(name=config.name, host=config.host, port=config.port, peer=peer)


def server(config: Config, keys: Keys) -> ServerEntry | None:
    """The mediation server of this machine, if it is one."""
    mediate = config.mediate
    if mediate is None:
        return None
    return ServerEntry(
        key=keys.mediation,
        local_id=mediate.local_id or Identification.key_id(keys.mediation.public),
        proposals=mediate.proposals,
        host=split_host(mediate.address)[0] if mediate.anycast else "",
        anycast=frozenset(mediate.anycast),
        peers={
            p.remote_id.key: MediatedPeer(
                peer=_mediated_peer(p, keys, mediate.proposals),
                may_call=frozenset(i.key for i in p.may_call),
            )
            for p in mediate.peers
        },
    )


def _mediated_peer(config: MediatedPeerConfig, keys: Keys, proposals: tuple[Proposal, ...]) -> Peer:
    psk = config.psk if config.psk_both else None
    return Peer(
        name=MEDIATED,
        local_id=config.local_id or Identification.key_id(keys.mediation.public),
        remote_id=config.remote_id,
        local_auth=_local_auth(psk, config.signatures, keys.mediation),
        remote_auth=_remote_auth(config),
        certificates=_shown(config),
        proposals=proposals,
        gives_tickets=True,
    )


def peers(
    config: Config,
    keys: Keys,
    known: Peers,
    moves: Moves = NO_MOVES,
    listening: Container[int] = ANY_PORT,
) -> list[PeerEntry]:
    """Everybody this machine knows: configured, paired, invited.

    `listening`: the ports of its services that are its own at this moment.
    """
    devices = config.devices
    entries = [_configured_peer(p, keys, devices, listening) for p in config.peers]
    entries += [_known_peer(p, config, keys, known, listening) for p in known.peers.values()]
    entries += [_invited(i, keys) for i in known.invitations.values()]
    names = _registrations(config, keys, known, moves)[1]
    return [replace(e, mediator=names.get(e.mediator, e.mediator)) for e in entries]


def _known_peer(
    peer: KnownPeer, config: Config, keys: Keys, known: Peers, listening: Container[int]
) -> PeerEntry:
    """A paired machine: pinned key, one address on each side."""
    mediator = ""
    if peer.mediator:
        mediator = mediator_name(peer.mediator, peer.mediator_key, config, known)
    elif config.mediators:
        # It came to us by an invitation, so it registers where we do.
        mediator = next((m.name for m in config.mediators if m.is_ours), "")
    return PeerEntry(
        name=peer.name,
        peer=Peer(
            name=peer.name,
            local_id=Identification.key_id(keys.identity.public),
            remote_id=Identification.key_id(peer.identity_key),
            local_auth=keys.identity,
            remote_auth=KeyAuth(public=peer.identity_key),
            proposals=OUR_IKE,
            child=_between(peer, config, keys),
        ),
        grants=granted(peer.name, peer.role, peer.grants, config.devices, listening),
        mediator=mediator,
        pseudonym=Identification.key_id(peer.mediation_key),
        role=peer.role,
        wanted=peer.wanted,
    )


def _between(peer: KnownPeer, config: Config, keys: Keys) -> ChildPolicy:
    """What flows between us and a paired machine: from its one address to ours, and IPv4.

    Who was invited asks for an address, if told to, and gets its IPv6 one besides, which it has
    already: so a gateway without IPv4 has an answer too. Whatever it names, the selectors that are
    offered hold its own IPv6 address and the configured network only.
    """
    remote = inner_address(peer.identity_key)
    policy = ChildPolicy(
        name=peer.name,
        local_ts=(single(keys.address),),
        remote_ts=(single(remote),),
        proposals=OUR_ESP,
    )
    network, own = config.ipv4, config.own_ipv4
    if peer.mediator:
        if network is None:
            return policy
        wide = (TrafficSelector.parse(str(network)),)
        return replace(
            policy,
            local_ts=policy.local_ts + wide,
            remote_ts=policy.remote_ts + wide,
            request_addresses=(
                CfgAttributeType.INTERNAL_IP4_ADDRESS,
                CfgAttributeType.INTERNAL_IP6_ADDRESS,
            ),
        )
    # The last one is for broadcast; whoever comes after it has no IPv4.
    if network is None or own is None or not 1 < peer.number < network.num_addresses - 1:
        return replace(policy, assign=(remote,))
    return replace(
        policy,
        local_ts=(*policy.local_ts, single(own)),
        assign=(network[peer.number].packed, remote),
    )


def _invited(invitation: OpenInvitation, keys: Keys) -> PeerEntry:
    identity = parse_key_text(invitation.identity)
    return _one_time(
        INVITATION + invitation.identity,
        keys.identity,
        identity,
        parse_key_text(invitation.mediation),
        "",
    )


def _one_time(
    name: str, own: SigningKey, remote: bytes, pseudonym: bytes, mediator: str
) -> PeerEntry:
    return PeerEntry(
        name=name,
        peer=Peer(
            name=name,
            local_id=Identification.key_id(own.public),
            remote_id=Identification.key_id(remote),
            local_auth=own,
            remote_auth=KeyAuth(public=remote),
            proposals=OUR_IKE,
        ),
        grants=Grants(),
        mediator=mediator,
        pseudonym=Identification.key_id(pseudonym),
        one_time=True,
    )


def enrolment(invitation: Invitation) -> tuple[MediatorEntry, PeerEntry]:
    """What the invited side needs for the one connection in which it hands over its keys."""
    one_time = invitation.identity
    name = ENROLMENT + Identification.key_id(one_time.public[:4]).text.removeprefix("keyid:")
    mediator = our_mediator(
        name, invitation.mediator, invitation.mediator_key, invitation.mediation
    )
    peer = _one_time(
        name, one_time, invitation.gateway_identity, invitation.gateway_mediation, name
    )
    return mediator, replace(peer, wanted=True)


def _configured_peer(
    config: PeerConfig, keys: Keys, devices: tuple[DeviceConfig, ...], listening: Container[int]
) -> PeerEntry:
    remote_ts = config.remote_ts
    if not remote_ts and config.key is not None:
        remote_ts = (single(inner_address(config.key)),)
    local_ts = config.local_ts
    if not local_ts and not config.virtual_ip:
        local_ts = (single(keys.address),)
    return PeerEntry(
        name=config.name,
        peer=Peer(
            name=config.name,
            local_id=config.local_id or Identification.key_id(keys.identity.public),
            remote_id=config.remote_id,
            local_auth=_local_auth(config.psk, config.signatures, keys.identity),
            remote_auth=_remote_auth(config),
            certificates=_shown(config),
            proposals=config.proposals,
            child=ChildPolicy(
                name=config.name,
                local_ts=local_ts,
                remote_ts=remote_ts,
                proposals=config.esp_proposals,
                request_addresses=_requests(config),
                assign=config.assign,
            ),
            lifetimes=Lifetimes(
                ike_seconds=config.ike_seconds,
                child_seconds=config.child_seconds,
                child_octets=config.child_octets,
                child_packets=config.child_packets,
            ),
            liveness_seconds=config.liveness_seconds,
            auth_seconds=config.auth_seconds,
            ppk=_ppk(config),
        ),
        grants=granted(config.name, config.role, config.grants, devices, listening),
        mediator=config.mediator,
        pseudonym=config.pseudonym,
        host=config.host,
        port=config.port,
        role=config.role,
        wanted=config.start,
    )


def _local_auth(
    psk: bytes | None, signatures: SignatureConfig, key: SigningKey
) -> PskAuth | Signer:
    """What we prove: with what the configuration gives, else with this `key` of ours."""
    if psk is not None:
        return PskAuth(secret=psk)
    return signatures.own_key or key


def _shown(config: Proven) -> tuple[bytes, ...]:
    return tuple(c.der for c in config.signatures.own_certificates)


def _remote_auth(config: Proven) -> RemoteAuth:
    """The one of them that the configuration gives."""
    if config.psk is not None:
        return PskAuth(secret=config.psk)
    if config.key is not None:
        return KeyAuth(public=config.key)
    signatures = config.signatures
    if signatures.public_key is not None:
        return AnyKeyAuth(sha256=sha256(signatures.public_key.spki), key=signatures.public_key)
    if signatures.key_sha256:
        return AnyKeyAuth(sha256=signatures.key_sha256)
    return CertificateAuth(anchors=signatures.anchors)


def _ppk(config: PeerConfig) -> Ppk | None:
    if config.ppk is None:
        return None
    return Ppk(id=config.ppk_id.encode(), secret=config.ppk, required=config.ppk_required)


def _requests(config: PeerConfig) -> tuple[int, ...]:
    if not config.virtual_ip:
        return ()
    families = {len(ts.start) for ts in config.remote_ts} or {4}
    wanted = {4: CfgAttributeType.INTERNAL_IP4_ADDRESS, 16: CfgAttributeType.INTERNAL_IP6_ADDRESS}
    return tuple(wanted[length] for length in sorted(families))


def bridge_peer(name: str, role: str, grants: Iterable[str]) -> BridgePeer:
    """Who somebody is to the bridges."""
    return BridgePeer(name=name, role=Role(role or "none"), grants=tuple(grants))


def granted(
    name: str,
    role: str,
    grants: Iterable[str],
    devices: tuple[DeviceConfig, ...],
    listening: Container[int] = ANY_PORT,
) -> Grants:
    """The ports of this machine that a peer may reach."""
    grants = tuple(grants)
    if "all" in grants:
        return Grants(services=ALL)
    return Grants(services=Access(bridge_peer(name, role, grants)).services(devices, listening))
