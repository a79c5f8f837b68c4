"""One sample of everything that has a codec, and the ways in which each is damaged."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agent.datagram import Address
from agent.wire.codes import (
    AuthMethod,
    CertEncoding,
    CfgAttributeType,
    CfgType,
    EndpointType,
    ExchangeType,
    IdType,
    KeyExchangeId,
    NotifyType,
    ProtocolId,
    TransformType,
)
from agent.wire.mediation import MeEndpoint
from agent.wire.message import HEADER_LENGTH, ONLY_ONCE, Header, Message, encode_message
from agent.wire.payloads import (
    AuthPayload,
    CertPayload,
    CertreqPayload,
    CpPayload,
    DeletePayload,
    EapPayload,
    Encrypted,
    EncryptedFragment,
    Identification,
    IdiPayload,
    IdpPayload,
    IdrPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsiPayload,
    TsrPayload,
    UnknownPayload,
    VendorIdPayload,
)
from agent.wire.proposals import Proposal, Transform, parse_proposals
from agent.wire.selectors import TrafficSelector

if TYPE_CHECKING:
    from collections.abc import Iterator

SPI_I = bytes.fromhex("0123456789abcdef")
SPI_R = bytes.fromhex("fedcba9876543210")
ESP_SPI = bytes.fromhex("c0ffee01")

HEADER = Header(SPI_I, SPI_R, ExchangeType.INFORMATIONAL, True, False, 7)

IKE_PROPOSALS = parse_proposals(
    ["aes128gcm16-aes256gcm16-prfsha256-x25519-ecp256", "aes128-sha256-modp2048"], ProtocolId.IKE
)
ESP_PROPOSALS = tuple(
    p.with_spi(ESP_SPI)
    for p in parse_proposals(["chacha20poly1305-x25519-esn-noesn", "aes256-sha256"], ProtocolId.ESP)
)
STRANGE_PROPOSAL = Proposal(
    ProtocolId.ESP,
    ESP_SPI,
    (
        Transform(TransformType.ENCR, 12, 128, ((0x8001, b"ab"), (99, b"variable"))),
        Transform(250, 60000),
    ),
    200,
)
SELECTORS = tuple(
    TrafficSelector.parse(text)
    for text in ("10.1.0.0/16[tcp/80]", "fd00::/8", "0.0.0.0/0[udp/opaque]", "10.0.0.3-10.0.0.9")
)

PAYLOADS: tuple[Payload, ...] = (
    SaPayload(IKE_PROPOSALS),
    SaPayload(ESP_PROPOSALS),
    SaPayload((STRANGE_PROPOSAL,)),
    KePayload(KeyExchangeId.CURVE25519, bytes(range(32))),
    KePayload(65000, b"\x01"),
    IdiPayload(Identification.parse("alice@example.org")),
    IdiPayload(Identification.parse("192.0.2.1"), b"\x01\x02\x03"),
    IdrPayload(Identification.parse("gateway.example.org")),
    IdrPayload(Identification(IdType.ID_NULL, b"")),
    IdpPayload(Identification.key_id(bytes(range(32)))),
    CertPayload(CertEncoding.X509_SIGNATURE, b"\x30\x00"),
    CertreqPayload(CertEncoding.X509_SIGNATURE, bytes(20)),
    AuthPayload(AuthMethod.DIGITAL_SIGNATURE, bytes(72)),
    NoncePayload(bytes(range(32))),
    NotifyPayload(NotifyType.COOKIE, b"cookie"),
    NotifyPayload(NotifyType.REKEY_SA, b"", ProtocolId.ESP, ESP_SPI),
    NotifyPayload(54321),
    NotifyPayload(
        NotifyType.ME_ENDPOINT,
        MeEndpoint.of(EndpointType.HOST, Address.parse("192.0.2.7", 4500)).encode(),
    ),
    DeletePayload(ProtocolId.IKE),
    DeletePayload(ProtocolId.ESP, (ESP_SPI, b"\x01\x02\x03\x04")),
    VendorIdPayload(b"strange vendor"),
    VendorIdPayload(b""),
    TsiPayload(SELECTORS),
    TsrPayload(SELECTORS[:1]),
    CpPayload(
        CfgType.CFG_REPLY,
        (
            (CfgAttributeType.INTERNAL_IP4_ADDRESS, bytes([10, 3, 0, 1])),
            (CfgAttributeType.INTERNAL_IP6_DNS, b""),
            (0x7ABC, b"x"),
        ),
    ),
    CpPayload(CfgType.CFG_REQUEST),
    EapPayload(bytes.fromhex("01000005 01")),
    UnknownPayload(200, False, b"whatever"),
)

# All that can share one message: of some types it may have only one.
TOGETHER = tuple(
    payload
    for index, payload in enumerate(PAYLOADS)
    if payload.payload_type not in ONLY_ONCE
    or payload.payload_type not in [p.payload_type for p in PAYLOADS[:index]]
)

# What stands last, as its next payload field tells what is inside.
LAST: tuple[Payload, ...] = (
    Encrypted(35, bytes(range(64))),
    EncryptedFragment(35, 2, 3, bytes(range(64))),
)


def messages() -> Iterator[bytes]:
    """A message around each payload, one with all of them and one with none."""
    yield encode_message(HEADER, ())
    for payload in PAYLOADS + LAST:
        yield encode_message(HEADER, (payload,))
    yield encode_message(HEADER, TOGETHER)
    yield encode_message(
        HEADER._replace(is_response=True, is_initiator=False), (*TOGETHER, LAST[0])
    )


def with_length(message: bytes) -> bytes:
    """The same with the header's length field put right."""
    if len(message) < HEADER_LENGTH:
        return message
    return message[:24] + len(message).to_bytes(4, "big") + message[28:]


def truncations(data: bytes) -> Iterator[bytes]:
    """Every proper beginning."""
    return (data[:length] for length in range(len(data)))


def bit_flips(data: bytes) -> Iterator[bytes]:
    """Every single bit turned over."""
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        yield bytes(flipped)


def comparable(message: Message) -> tuple[Header, tuple[Payload, ...]]:
    """A message without what its octets alone decide: lengths, and what stood before SK."""
    header = message.header._replace(length=0, next_payload=0)
    payloads = tuple(
        replace(p, aad=b"") if isinstance(p, Encrypted | EncryptedFragment) else p
        for p in message.payloads
    )
    return header, payloads
