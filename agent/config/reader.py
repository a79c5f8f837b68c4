"""TOML text → the values of agent.config.values, each mistake as a ConfigError for people."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from agent.bridge.devices import check_devices
from agent.bridge.grants import parse_grant
from agent.bridge.tables import device_from_table
from agent.config.credentials import (
    read_identity,
    read_local_id,
    read_own,
    read_ppk,
    read_proofs,
    read_remote_id,
)
from agent.config.values import (
    AUTH_MINIMUM,
    ESP_PROPOSALS,
    IKE_PORT,
    IKE_PROPOSALS,
    MEDIATION_PROPOSALS,
    NAME,
    NAME_RULE,
    NATT_PORT,
    ROLES,
    Config,
    MediateConfig,
    MediatedPeerConfig,
    MediatorConfig,
    PeerConfig,
    split_host,
)
from agent.errors import ConfigError
from agent.toml_table import parse_toml
from agent.wire.codes import ProtocolId
from agent.wire.payloads import Identification
from agent.wire.proposals import Proposal, parse_proposals
from agent.wire.redirect import GatewayId
from agent.wire.selectors import TrafficSelector

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.bridge.devices import DeviceConfig
    from agent.toml_table import Table


# RFC 1918, and RFC 6598 for those who use all of these already.
PRIVATE_IPV4 = tuple(
    map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"))
)
_KEY_OF_A_MEDIATOR = "the public key that `hearthgate mediate` printed; give one of"
# THREATS 18: the proof made with it would go to whoever answers in the server's place.
_WITHOUT_A_PSK = (
    "Take the pre-shared key out; strongSwan can know us by the mediation key that "
    "`hearthgate peers --own` prints: remote { auth = pubkey  pubkeys = our.pem  id = local_id }."
)


def load_config(
    text: str, source: str = "hearthgate.toml", read: Callable[[str], bytes] | None = None
) -> Config:
    """Read the TOML `text`; `read` fetches what `psk_file` names. Raises ConfigError."""
    top = parse_toml(text, source)
    mediators = tuple(_mediator(name, table, read) for name, table in top.tables("mediator"))
    config = Config(
        name=_own_name(top),
        port=top.integer("port", NATT_PORT, 0, 65535),
        tun=_interface(top),
        mtu=top.integer("mtu", 1280, 1280, 9000),
        addresses=_prefixes(top),
        ipv4=top.parsed("ipv4", _inner_network, None),
        mediators=mediators,
        mediate=_mediate(top.table("mediate"), read) if top.has("mediate") else None,
        peers=tuple(_peer(name, table, mediators, read) for name, table in top.tables("peer")),
        devices=tuple(_device(name, table) for name, table in top.tables("device")),
    )
    top.done()
    if config.port == IKE_PORT:
        raise top.wrong("port", "500 is the port without UDP encapsulation; 4500 is usual.")
    _distinct_identities(top, config)
    try:
        check_devices(config.devices)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}.") from None
    return config


def _own_name(top: Table) -> str:
    name = top.text("name")
    if name and not NAME.fullmatch(name):  # it is proposed to those whom this machine invites
        raise top.wrong("name", NAME_RULE)
    return name


def _interface(top: Table) -> str:
    name = top.text("tun", "hearth0")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,14}", name):
        raise top.wrong("tun", "1 to 15 letters, digits, dots or dashes name an interface.")
    return name


def _prefixes(top: Table) -> tuple[str, ...]:
    try:
        return tuple(
            ipaddress.ip_interface(prefix).with_prefixlen for prefix in top.texts("addresses")
        )
    except ValueError:
        raise top.wrong("addresses", 'addresses are wanted, like ["10.99.0.1/32"].') from None


def _inner_network(text: str) -> ipaddress.IPv4Network:
    """Of addresses that nobody has on the Internet: who gives them out could take any others."""
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError:
        network = None
    if network is None or network.prefixlen > 29 or not any(map(network.subnet_of, PRIVATE_IPV4)):
        raise ValueError(
            'a private network is wanted, of 8 addresses or more, like "10.99.0.0/24".'
        )
    return network


def _name(name: str, table: Table) -> str:
    if not NAME.fullmatch(name):
        shown = ascii(table.name)[1:-1][:80]
        raise ConfigError(f"{table.source}: [{shown}]: {NAME_RULE}")
    return name


def _proposals(
    table: Table, key: str, default: tuple[str, ...], protocol: ProtocolId
) -> tuple[Proposal, ...]:
    texts = table.texts(key, default)
    try:
        return parse_proposals(texts, protocol)
    except ValueError as error:
        raise table.wrong(key, str(error)) from None


def _mediator(name: str, table: Table, read: Callable[[str], bytes] | None) -> MediatorConfig:
    address = table.required_text("address", "the host name or address of the mediation server.")
    try:
        host, port = split_host(address)
    except ValueError as error:
        raise table.wrong("address", str(error)) from None
    key, psk, theirs = read_proofs(
        table, read, wanted=_KEY_OF_A_MEDIATOR, beside_psk=_WITHOUT_A_PSK
    )
    signatures = read_own(table, read, theirs, psk)
    local_id = read_local_id(table, signatures)
    if psk is not None and local_id is None:
        raise table.missing("local_id", "the name that belongs to psk at this server.")
    is_ours = local_id is None and key is not None
    default = IKE_PROPOSALS if is_ours else MEDIATION_PROPOSALS
    mediator = MediatorConfig(
        name=_name(name, table),
        host=host,
        port=port,
        remote_id=read_remote_id(table, key),
        local_id=local_id,
        key=key,
        psk=psk,
        signatures=signatures,
        proposals=_proposals(table, "proposals", default, ProtocolId.IKE),
    )
    if not mediator.is_ours and any(p.additional for p in mediator.proposals):
        why = "ke1_… is not possible here: strongSwan's mediation ends at IKE_INTERMEDIATE."
        raise table.wrong("proposals", why)
    table.done()
    return mediator


def _mediate(table: Table, read: Callable[[str], bytes] | None) -> MediateConfig:
    address = table.text("address")
    if address:
        try:
            split_host(address)
        except ValueError as error:
            raise table.wrong("address", str(error)) from None
    config = MediateConfig(
        address=address,
        anycast=_anycast(table, address),
        local_id=read_identity(table, "local_id"),
        proposals=_proposals(table, "proposals", IKE_PROPOSALS, ProtocolId.IKE),
        peers=_mediated_peers(table, read),
    )
    table.done()
    return config


def _anycast(table: Table, address: str) -> tuple[bytes, ...]:
    """Who comes to one of these is sent to `address`, which belongs to this server alone."""
    try:
        anycast = tuple(ipaddress.ip_address(text).packed for text in table.texts("anycast"))
    except ValueError:
        raise table.wrong("anycast", 'addresses are wanted, like ["192.0.2.1"].') from None
    if anycast and not address:
        raise table.missing("address", "who comes to an anycast address is sent to it.")
    try:
        shared = bool(anycast) and GatewayId.of_host(split_host(address)[0]).ip in anycast
    except ValueError:
        raise table.wrong(
            "address", "who comes to an anycast address cannot be sent to it."
        ) from None
    if shared:
        raise table.wrong("anycast", "address is another one, of this server alone.")
    return anycast


def _mediated_peers(
    table: Table, read: Callable[[str], bytes] | None
) -> tuple[MediatedPeerConfig, ...]:
    """All of `[mediate]`, with what the server proves to those who prove a public key."""
    own = read_own(table, read)
    local_id = read_local_id(table, own)
    peers = tuple(_mediated_peer(name, inner, read) for name, inner in table.tables("peer"))
    if table.has("local_key_file") and all(peer.psk_both for peer in peers):
        raise table.wrong("local_key_file", "no [mediate.peer.NAME] is here to be shown it.")
    return tuple(
        replace(peer, local_id=read_identity(table, "local_id"))
        if peer.psk_both
        else replace(
            peer,
            local_id=local_id,
            signatures=replace(
                peer.signatures, own_key=own.own_key, own_certificates=own.own_certificates
            ),
        )
        for peer in peers
    )


def _mediated_peer(
    name: str, table: Table, read: Callable[[str], bytes] | None
) -> MediatedPeerConfig:
    key, psk, theirs = read_proofs(table, read)
    table.required_text("id", "the identity that this peer registers with.")
    try:
        may_call = tuple(Identification.parse(text) for text in table.texts("may_call"))
    except ValueError as error:
        raise table.wrong("may_call", str(error)) from None
    psk_both = table.flag("psk_both", False)
    if psk_both and psk is None:
        raise table.wrong("psk_both", "it says nothing without psk or psk_file.")
    table.done()
    return MediatedPeerConfig(
        name=_name(name, table),
        remote_id=read_remote_id(table, key),
        local_id=None,
        key=key,
        psk=psk,
        psk_both=psk_both,
        signatures=theirs,
        may_call=may_call,
    )


def _peer(
    name: str,
    table: Table,
    mediators: tuple[MediatorConfig, ...],
    read: Callable[[str], bytes] | None,
) -> PeerConfig:
    key, psk, theirs = read_proofs(table, read)
    signatures = read_own(table, read, theirs, psk)
    host, port = "", NATT_PORT
    if table.has("address"):
        try:
            host, port = split_host(table.text("address"))
        except ValueError as error:
            raise table.wrong("address", str(error)) from None
    ppk, ppk_id, ppk_required = read_ppk(table, read)
    peer = PeerConfig(
        name=_name(name, table),
        remote_id=read_remote_id(table, key),
        local_id=read_local_id(table, signatures),
        key=key,
        psk=psk,
        signatures=signatures,
        ppk=ppk,
        ppk_id=ppk_id,
        ppk_required=ppk_required,
        host=host,
        port=port,
        mediator=table.text("mediator"),
        pseudonym=read_identity(table, "pseudonym"),
        role=table.choice("role", "reader", ROLES),
        grants=_grants(table),
        proposals=_proposals(table, "proposals", IKE_PROPOSALS, ProtocolId.IKE),
        esp_proposals=_proposals(table, "esp_proposals", ESP_PROPOSALS, ProtocolId.ESP),
        local_ts=_selectors(table, "local_ts"),
        remote_ts=_selectors(table, "remote_ts"),
        virtual_ip=table.flag("virtual_ip", False),
        assign=_addresses(table, "assign"),
        start=table.flag("start", False),
        liveness_seconds=table.integer("liveness_seconds", 30, 1, 86400),
        auth_seconds=_auth_seconds(table),
        ike_seconds=table.integer("ike_seconds", 14400, 10, 7 * 86400),
        child_seconds=table.integer("child_seconds", 3600, 10, 86400),
        child_octets=table.integer("child_octets", 1 << 40, 1 << 16, 1 << 60),
        child_packets=table.integer("child_packets", 1 << 31, 1 << 8, 1 << 48),
    )
    table.done()
    _check_way(table, peer, mediators)
    return peer


def _auth_seconds(table: Table) -> int:
    """How long a proof is good, 0 for ever (RFC 4478)."""
    seconds = table.integer("auth_seconds", 0, 0, 7 * 86400)
    if 0 < seconds < AUTH_MINIMUM:
        raise table.wrong("auth_seconds", f"{AUTH_MINIMUM} or more is wanted, or 0 for never.")
    return seconds


def _check_way(table: Table, peer: PeerConfig, mediators: tuple[MediatorConfig, ...]) -> None:
    """How a peer is reached must be said in one way, and what is there must be known."""
    if peer.mediator and peer.pseudonym is None:
        raise table.missing("pseudonym", "the identity of this peer at the mediation server.")
    if peer.mediator and not any(m.name == peer.mediator for m in mediators):
        names = ", ".join(m.name for m in mediators) or "none is configured"
        raise table.wrong("mediator", f"there is no such [mediator.NAME]; known: {names}.")
    if peer.mediator and peer.host:
        raise table.wrong("address", "give address or mediator, not both.")
    if peer.pseudonym is not None and not peer.mediator:
        raise table.wrong("pseudonym", "it says nothing without mediator.")
    if peer.key is None and not peer.remote_ts and not peer.assign:
        why = 'the addresses of the other side inside the tunnel, like ["10.2.0.0/16"]; '
        raise table.missing("remote_ts", f"{why}or give it one with assign.")
    if peer.start and not peer.host and not peer.mediator:
        raise table.wrong("start", "this peer has neither address nor mediator to be called by.")


def _grants(table: Table) -> tuple[str, ...]:
    grants = table.texts("grants")
    try:
        for grant in grants:
            parse_grant(grant)
    except ValueError as error:
        raise table.wrong("grants", str(error)) from None
    return grants


def _selectors(table: Table, key: str) -> tuple[TrafficSelector, ...]:
    try:
        return tuple(TrafficSelector.parse(text) for text in table.texts(key))
    except ValueError as error:
        raise table.wrong(key, str(error)) from None


def _addresses(table: Table, key: str) -> tuple[bytes, ...]:
    try:
        return tuple(ipaddress.ip_address(text).packed for text in table.texts(key))
    except ValueError:
        raise table.wrong(key, 'addresses are wanted, like ["10.3.0.1"].') from None


def _device(name: str, table: Table) -> DeviceConfig:
    _name(name, table)
    try:
        return device_from_table(name, table.raw())
    except ValueError as error:
        raise ConfigError(f"{table.source}: [{table.name}] {error}") from None


def _distinct_identities(top: Table, config: Config) -> None:
    """Who comes is told by identity, so each may stand for one peer only."""
    served = config.mediate.peers if config.mediate is not None else ()
    for where, peers in (("peer", config.peers), ("mediate.peer", served)):
        seen: dict[object, str] = {}
        for peer in peers:
            other = seen.setdefault(peer.remote_id.key, peer.name)
            if other != peer.name:
                raise ConfigError(
                    f"{top.source}: [{where}.{peer.name}] has the identity of [{where}.{other}]: "
                    "each peer needs a key or an id of its own."
                )
