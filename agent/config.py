"""hearthgate.toml → frozen values. The file is written by people, never by the daemon.

An error names file, key, value and what is allowed. Keys and pre-shared keys never show in a repr.
Left out: what the daemon learns by itself (peers, invitations), which is in agent/peers.py.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.bridge.devices import check_devices
from agent.bridge.grants import parse_grant
from agent.bridge.tables import device_from_table
from agent.crypto.auth import parse_key_text
from agent.errors import ConfigError
from agent.toml_table import Table, parse_toml
from agent.wire.codes import ProtocolId
from agent.wire.payloads import Identification
from agent.wire.proposals import Proposal, parse_proposals
from agent.wire.selectors import TrafficSelector

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.bridge.devices import DeviceConfig

IKE_PORT = 500
NATT_PORT = 4500

# What our own ends offer and accept, best first. X25519 and AES-GCM are everywhere; ChaCha20 serves
# boards without AES instructions; the CBC suites meet old peers.
IKE_PROPOSALS = (
    "aes128gcm16-prfsha256-x25519",
    "aes256gcm16-prfsha384-x25519",
    "chacha20poly1305-prfsha256-x25519",
    "aes128-sha256-x25519",
    "aes256-sha256-ecp256",
    "aes128-sha256-modp2048",
)
ESP_PROPOSALS = (
    "aes128gcm16-x25519-esn",
    "aes128gcm16-x25519",
    "aes128gcm16-esn",
    "aes128gcm16",
    "chacha20poly1305",
    "aes256gcm16",
    "aes128-sha256",
)
# A pre-shared key can be tried offline by whoever answers once in the peer's place (RFC 7296 §2.15,
# THREATS 18), so short ones are refused. 16 characters of base64 are 96 bit.
PSK_MINIMUM = 16
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
NAME_RULE = "a name has 1 to 63 letters, digits, dots, dashes or underscores."
ROLES = ("none", "reader", "operator", "technician", "owner")


@dataclass(frozen=True, slots=True, kw_only=True)
class MediatorConfig:
    """A mediation server to register with; `key` (32 octets) proves it, else `psk`."""

    name: str
    host: str
    port: int
    remote_id: Identification
    local_id: Identification | None
    key: bytes | None
    psk: bytes | None = field(repr=False)
    proposals: tuple[Proposal, ...]

    @property
    def is_ours(self) -> bool:
        """Whether we show our mediation key there (strongSwan knows us by another name)."""
        return self.local_id is None


@dataclass(frozen=True, slots=True, kw_only=True)
class MediatedPeerConfig:
    """A peer that registers here under a configured identity (strongSwan)."""

    name: str
    remote_id: Identification
    key: bytes | None
    psk: bytes | None = field(repr=False)
    may_call: tuple[Identification, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MediateConfig:
    """This machine is a mediation server."""

    address: str  # what others are told to reach it by
    local_id: Identification | None
    proposals: tuple[Proposal, ...]
    peers: tuple[MediatedPeerConfig, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """A peer that was configured by hand. Seconds, octets and packets as named."""

    name: str
    remote_id: Identification
    local_id: Identification | None
    key: bytes | None
    psk: bytes | None = field(repr=False)
    host: str
    port: int
    mediator: str
    pseudonym: Identification | None
    role: str
    grants: tuple[str, ...]
    proposals: tuple[Proposal, ...]
    esp_proposals: tuple[Proposal, ...]
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    virtual_ip: bool
    assign: tuple[bytes, ...]
    start: bool
    liveness_seconds: int
    ike_seconds: int
    child_seconds: int
    child_octets: int
    child_packets: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole file."""

    name: str
    port: int
    tun: str
    mtu: int
    addresses: tuple[str, ...]
    mediators: tuple[MediatorConfig, ...]
    mediate: MediateConfig | None
    peers: tuple[PeerConfig, ...]
    devices: tuple[DeviceConfig, ...]

    @property
    def direct(self) -> bool:
        """Whether peers may come without a mediator, and so on port 500 too."""
        return any(not peer.mediator and not peer.host for peer in self.peers)

    @property
    def needs_tun(self) -> bool:
        """A machine that only mediates carries no packets."""
        return self.mediate is None or bool(self.mediators or self.peers or self.devices)


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


def split_host(text: str, default_port: int = NATT_PORT) -> tuple[str, int]:
    """`host`, `host:port`, `[v6]:port` or a bare IPv6 address. Raises ValueError."""
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("an IPv6 address with a port is written [fd00::1]:4500.")
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or not re.fullmatch(r"[A-Za-z0-9._:%-]{1,253}", host):
        raise ValueError("a host name or an address is wanted, like med.example.org.")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise ValueError("the port is a number from 1 to 65535.")
    return host, int(port[:6]) if port else default_port


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


def _name(name: str, table: Table) -> str:
    if not NAME.fullmatch(name):
        shown = ascii(table.name)[1:-1][:80]
        raise ConfigError(f"{table.source}: [{shown}]: {NAME_RULE}")
    return name


def _key(table: Table) -> bytes | None:
    return table.parsed("key", parse_key_text, None)


def _psk(table: Table, read: Callable[[str], bytes] | None) -> bytes | None:
    psk: bytes | None = None
    if table.has("psk"):
        psk = table.text("psk").encode()
    if table.has("psk_file"):
        path = table.text("psk_file")
        if psk is not None:
            raise table.wrong("psk_file", "give psk or psk_file, not both.")
        if read is None:  # only looked at, not used
            return b""
        try:
            psk = read(path).strip()
        except OSError as error:
            raise table.wrong("psk_file", f"this file cannot be read: {error.strerror}.") from None
    if psk is not None and (len(psk) < PSK_MINIMUM or len(set(psk)) < 5):
        where = "psk_file" if table.has("psk_file") else "psk"
        raise _weak_psk(table, where)
    return psk


def _weak_psk(table: Table, key: str) -> ConfigError:
    """The error for a weak pre-shared key; it never repeats the key."""
    return ConfigError(
        f"{table.source}: [{table.name}] {key}: this pre-shared key is too weak, as it can be "
        f"guessed offline; use {PSK_MINIMUM} random characters or more "
        "(openssl rand -base64 24), or better a public key."
    )


def _one_credential(table: Table, key: bytes | None, psk: bytes | None) -> None:
    if (key is None) == (psk is None):
        raise table.missing("key", "give the public key of the other side, or psk, one of both.")


def _identity(table: Table, key: str) -> Identification | None:
    return table.parsed(key, Identification.parse, None)


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
    key, psk = _key(table), _psk(table, read)
    local_id, remote_id = _identity(table, "local_id"), _identity(table, "id")
    if key is None and psk is None:
        raise table.missing("key", "the public key that `hearthgate mediate` printed.")
    if psk is not None and local_id is None:
        raise table.missing("local_id", "the name that belongs to psk at this server.")
    if remote_id is None:
        if key is None:
            raise table.missing("id", "the identity that this server proves with psk.")
        remote_id = Identification.key_id(key)
    mediator = MediatorConfig(
        name=_name(name, table),
        host=host,
        port=port,
        remote_id=remote_id,
        local_id=local_id,
        key=key,
        psk=psk,
        proposals=_proposals(table, "proposals", IKE_PROPOSALS, ProtocolId.IKE),
    )
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
        local_id=_identity(table, "local_id"),
        proposals=_proposals(table, "proposals", IKE_PROPOSALS, ProtocolId.IKE),
        peers=tuple(_mediated_peer(name, inner, read) for name, inner in table.tables("peer")),
    )
    table.done()
    return config


def _mediated_peer(
    name: str, table: Table, read: Callable[[str], bytes] | None
) -> MediatedPeerConfig:
    key, psk = _key(table), _psk(table, read)
    _one_credential(table, key, psk)
    table.required_text("id", "the identity that this peer registers with.")
    remote_id = _identity(table, "id")
    assert remote_id is not None
    try:
        may_call = tuple(Identification.parse(text) for text in table.texts("may_call"))
    except ValueError as error:
        raise table.wrong("may_call", str(error)) from None
    table.done()
    return MediatedPeerConfig(
        name=_name(name, table), remote_id=remote_id, key=key, psk=psk, may_call=may_call
    )


def _peer(
    name: str,
    table: Table,
    mediators: tuple[MediatorConfig, ...],
    read: Callable[[str], bytes] | None,
) -> PeerConfig:
    key, psk = _key(table), _psk(table, read)
    _one_credential(table, key, psk)
    remote_id = _identity(table, "id")
    if remote_id is None:
        if key is None:
            raise table.missing("id", "the identity that the other side proves with psk.")
        remote_id = Identification.key_id(key)
    host, port = "", NATT_PORT
    if table.has("address"):
        try:
            host, port = split_host(table.text("address"))
        except ValueError as error:
            raise table.wrong("address", str(error)) from None
    peer = PeerConfig(
        name=_name(name, table),
        remote_id=remote_id,
        local_id=_identity(table, "local_id"),
        key=key,
        psk=psk,
        host=host,
        port=port,
        mediator=table.text("mediator"),
        pseudonym=_identity(table, "pseudonym"),
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
        ike_seconds=table.integer("ike_seconds", 14400, 10, 7 * 86400),
        child_seconds=table.integer("child_seconds", 3600, 10, 86400),
        child_octets=table.integer("child_octets", 1 << 40, 1 << 16, 1 << 60),
        child_packets=table.integer("child_packets", 1 << 31, 1 << 8, 1 << 48),
    )
    table.done()
    _check_way(table, peer, mediators)
    return peer


def _check_way(table: Table, peer: PeerConfig, mediators: tuple[MediatorConfig, ...]) -> None:
    """How a peer is reached must be said in one way."""
    if peer.mediator and peer.pseudonym is None:
        raise table.missing("pseudonym", "the identity of this peer at the mediation server.")
    if peer.mediator and not any(m.name == peer.mediator for m in mediators):
        names = ", ".join(m.name for m in mediators) or "none is configured"
        raise table.wrong("mediator", f"there is no such [mediator.NAME]; known: {names}.")
    if peer.mediator and peer.host:
        raise table.wrong("address", "give address or mediator, not both.")
    if peer.pseudonym is not None and not peer.mediator:
        raise table.wrong("pseudonym", "it says nothing without mediator.")
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
    seen: dict[object, str] = {}
    for peer in config.peers:
        other = seen.setdefault(peer.remote_id.key, peer.name)
        if other != peer.name:
            raise ConfigError(
                f"{top.source}: [peer.{peer.name}] has the identity of [peer.{other}]: "
                "each peer needs a key or an id of its own."
            )
