"""What the configuration says, as frozen values. Keys and pre-shared keys never show in a repr."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import field
from typing import TYPE_CHECKING

from agent.records import record

if TYPE_CHECKING:
    from agent.bridge.devices import DeviceConfig
    from agent.crypto.certificates import Certificate
    from agent.crypto.public_keys import AnyPublicKey, PrivateKey
    from agent.wire.payloads import Identification
    from agent.wire.proposals import Proposal
    from agent.wire.selectors import TrafficSelector

IKE_PORT = 500
NATT_PORT = 4500

# What mediation connections with strongSwan offer, best first. X25519 and AES-GCM are everywhere;
# ChaCha20 serves boards without AES instructions; the CBC suites meet old peers. No ML-KEM here:
# strongSwan's mediation ends at IKE_INTERMEDIATE (mediation.md §5).
MEDIATION_PROPOSALS = (
    "aes128gcm16-prfsha256-x25519",
    "aes256gcm16-prfsha384-x25519",
    "chacha20poly1305-prfsha256-x25519",
    "aes128-sha256-x25519",
    "aes256-sha256-ecp256",
    "aes128-sha256-modp2048",
)
# Between two ends, and with mediation servers of our kind, ML-KEM-768 comes after X25519 wherever
# both have it (RFC 9370): whoever records today what a quantum computer could read one day would
# have to break both.
IKE_PROPOSALS = (
    "aes128gcm16-prfsha256-x25519-ke1_mlkem768",
    "aes256gcm16-prfsha384-x25519-ke1_mlkem768",
    "chacha20poly1305-prfsha256-x25519-ke1_mlkem768",
    *MEDIATION_PROPOSALS,
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
# RFC 8784 §6: 256 bits, of which a quantum computer leaves 128. 44 characters of base64 have them;
# fewer than 32 characters of anything cannot.
PPK_MINIMUM = 32
# Repeated authentication (RFC 4478 §3 advises against less than 300). strongSwan begins 24 minutes
# before the end unless told otherwise: with less it would begin again at once, for ever.
AUTH_MINIMUM = 3600
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
NAME_RULE = "a name has 1 to 63 letters, digits, dots, dashes or underscores."
ROLES = ("none", "reader", "operator", "technician", "owner")


@record(frozen=True, slots=True, kw_only=True)
class SignatureConfig:
    """Signatures other than with the Ed25519 keys of this machine and of paired ones.

    The peer: `public_key`, or a key with the SHA-256 `key_sha256` of its SubjectPublicKeyInfo, or
    a certificate under one of `anchors`. Ourselves: `own_key`, with `own_certificates` if any.
    """

    public_key: AnyPublicKey | None = None
    key_sha256: bytes = b""
    anchors: tuple[Certificate, ...] = ()
    own_key: PrivateKey | None = None
    own_certificates: tuple[Certificate, ...] = ()


@record(frozen=True, slots=True, kw_only=True)
class MediatorConfig:
    """A mediation server to register with; one of `key` (32 octets), `psk` and `signatures`

    proves it, and the same kind of thing proves us.
    """

    name: str
    host: str
    port: int
    remote_id: Identification
    local_id: Identification | None
    key: bytes | None
    psk: bytes | None = field(repr=False)
    signatures: SignatureConfig
    proposals: tuple[Proposal, ...]

    @property
    def is_ours(self) -> bool:
        """Whether it is a server of our kind: its Ed25519 key is all that those whom we invite

        have to know, and it knows us by our mediation key (strongSwan by another name).
        """
        return self.local_id is None and self.key is not None


@record(frozen=True, slots=True, kw_only=True)
class MediatedPeerConfig:
    """A peer that registers here under a configured identity (strongSwan).

    `local_id`: ours for it, None: that of our mediation key. What we prove it with is the same for
    all of them, `own_key` of `signatures`, else the mediation key, unless `psk_both` has us prove
    the `psk` as well. strongSwan's own examples have a server prove a key to who proves a PSK.
    """

    name: str
    remote_id: Identification
    local_id: Identification | None
    key: bytes | None
    psk: bytes | None = field(repr=False)
    psk_both: bool
    signatures: SignatureConfig
    may_call: tuple[Identification, ...]


@record(frozen=True, slots=True, kw_only=True)
class MediateConfig:
    """This machine is a mediation server."""

    address: str  # what others are told to reach it by
    anycast: tuple[bytes, ...]  # packed addresses that several servers share (RFC 5685 §4)
    local_id: Identification | None
    proposals: tuple[Proposal, ...]
    peers: tuple[MediatedPeerConfig, ...]


@record(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """A peer that was configured by hand. Seconds, octets and packets as named."""

    name: str
    remote_id: Identification
    local_id: Identification | None
    key: bytes | None
    psk: bytes | None = field(repr=False)
    signatures: SignatureConfig
    ppk: bytes | None = field(repr=False)
    ppk_id: str
    ppk_required: bool
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
    auth_seconds: int
    ike_seconds: int
    child_seconds: int
    child_octets: int
    child_packets: int


@record(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole file."""

    name: str
    port: int
    tun: str
    mtu: int
    addresses: tuple[str, ...]
    ipv4: ipaddress.IPv4Network | None
    mediators: tuple[MediatorConfig, ...]
    mediate: MediateConfig | None
    peers: tuple[PeerConfig, ...]
    devices: tuple[DeviceConfig, ...]

    @property
    def direct(self) -> bool:
        """Whether peers may come without a mediator, and so on port 500 too."""
        return any(not peer.mediator and not peer.host for peer in self.peers)

    @property
    def own_ipv4(self) -> bytes | None:
        """The address of a gateway in its network of IPv4; the first one."""
        # Without a mediation server nobody can be invited here: then it is for asking only.
        return self.ipv4[1].packed if self.ipv4 is not None and self.mediators else None

    @property
    def needs_tun(self) -> bool:
        """A machine that only mediates carries no packets."""
        return self.mediate is None or bool(self.mediators or self.peers or self.devices)


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
    if ":" in host or text.startswith("["):
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError("an IPv6 address, or a host name without colons, is wanted.") from None
    if port and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise ValueError("the port is a number from 1 to 65535.")
    return host, int(port[:6]) if port else default_port
