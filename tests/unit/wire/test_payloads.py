"""Bodies of payloads: octets as the RFC draws them, and lengths that disagree."""

from __future__ import annotations

import pytest

from agent.wire.codes import IdType, NotifyType, ProtocolId, is_error_notify, known
from agent.wire.errors import WireError
from agent.wire.payloads import (
    MAX_CP_ATTRIBUTES,
    MAX_DELETE_SPIS,
    AuthPayload,
    CertPayload,
    CpPayload,
    DeletePayload,
    EapPayload,
    IdiPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    SaPayload,
    TsiPayload,
    VendorIdPayload,
)

from . import samples


@pytest.mark.parametrize("payload", samples.PAYLOADS, ids=lambda p: type(p).__name__)
def test_encoded_and_decoded(payload):
    if hasattr(type(payload), "decode") and payload.TYPE:
        assert type(payload).decode(payload.encode()) == payload


@pytest.mark.parametrize(
    ("payload", "octets"),
    [
        (KePayload(31, b"abc"), "001f0000 616263"),
        (IdiPayload(samples.Identification(2, b"a.b")), "02000000 612e62"),
        (AuthPayload(14, b"sig"), "0e000000 736967"),
        (CertPayload(4, b"\x30"), "04 30"),
        (NotifyPayload(16393, b"d", 3, b"abcd"), "03044009 61626364 64"),
        (NotifyPayload(NotifyType.ME_RESPONSE), "0000a008"),
        (DeletePayload(1), "01000000"),
        (DeletePayload(3, (b"abcd", b"efgh")), "03040002 6162636465666768"),
        (CpPayload(1, ((1, b""), (8, b"xy"))), "01000000 00010000 00080002 7879"),
        (VendorIdPayload(b"abc"), "616263"),
    ],
)
def test_octets_on_the_wire(payload, octets):
    assert payload.encode() == bytes.fromhex(octets)
    assert type(payload).decode(bytes.fromhex(octets)) == payload


@pytest.mark.parametrize(
    ("cls", "octets", "reason"),
    [
        (SaPayload, "", "proposal_length"),
        (KePayload, "001f", "ke_length"),
        (KePayload, "001f0000", "ke_length"),  # no key at all
        (IdiPayload, "020000", "id_length"),
        (CertPayload, "", "cert_length"),
        (AuthPayload, "0e0000", "auth_length"),
        (NoncePayload, "00" * 15, "nonce_length"),
        (NoncePayload, "00" * 257, "nonce_length"),
        (NotifyPayload, "030440", "notify_length"),
        (NotifyPayload, "03044009 616263", "notify_spi"),
        (NotifyPayload, "03ff4009" + "00" * 255, "notify_spi"),
        (DeletePayload, "0304", "delete_length"),
        (DeletePayload, "03040002 61626364", "delete_length"),
        (DeletePayload, "03040001 6162636465", "delete_length"),
        (DeletePayload, "03000001", "delete_length"),
        (DeletePayload, "0300ffff", "delete_count"),
        (DeletePayload, "03040101" + "00" * 4 * 257, "delete_count"),
        (CpPayload, "010000", "cp_length"),
        (CpPayload, "01000000 0001", "cp_attribute_length"),
        (CpPayload, "01000000 00010002 00", "cp_attribute_length"),
        (CpPayload, "01000000 0001ffff 00", "cp_attribute_length"),
        (CpPayload, "01000000" + "00010000" * (MAX_CP_ATTRIBUTES + 1), "too_many_attributes"),
        (TsiPayload, "010000", "selectors_length"),
    ],
)
def test_malformed_bodies(cls, octets, reason):
    with pytest.raises(WireError) as caught:
        cls.decode(bytes.fromhex(octets))
    assert caught.value.reason == reason


def test_nonces_at_their_limits():
    for length in (16, 256):
        assert NoncePayload.decode(bytes(length)).encode() == bytes(length)
    for length in (0, 15, 257):
        with pytest.raises(WireError):
            NoncePayload(bytes(length)).encode()


def test_reserved_octets_of_an_identity_are_kept_for_auth():
    # RFC 7296 §2.15: RestOfInitIDPayload = IDType | RESERVED | InitIDData, as it was sent.
    body = bytes.fromhex("02 0a0b0c 612e62")
    payload = IdiPayload.decode(body)
    assert payload.body == body
    assert payload.identity.text == "a.b"


def test_reserved_octets_elsewhere_are_ignored():
    assert KePayload.decode(bytes.fromhex("001fffff 01")) == KePayload(31, b"\x01")
    assert AuthPayload.decode(bytes.fromhex("0effffff")) == AuthPayload(14, b"")
    # The R bit of a configuration attribute "MUST be ignored on receipt" (RFC 7296 §3.15.1).
    assert CpPayload.decode(bytes.fromhex("01ffffff 80010000")) == CpPayload(1, ((1, b""),))


def test_deletes_that_cannot_be_written():
    for spis in ((b"abcd", b"ef"), (b"",), (b"abcd",) * (MAX_DELETE_SPIS + 1)):
        with pytest.raises(WireError):
            DeletePayload(3, spis).encode()


def test_known_values_are_members_and_others_stay_numbers():
    assert known(IdType, 2) is IdType.ID_FQDN
    assert known(IdType, 77) == 77
    assert type(known(IdType, 77)) is int
    assert NotifyPayload.decode(bytes.fromhex("00004006")).type is NotifyType.COOKIE
    assert is_error_notify(NotifyType.ME_CONNECT_FAILED)
    assert not is_error_notify(NotifyType.INITIAL_CONTACT)


def test_a_representation_is_short_and_one_line():
    text = repr(NotifyPayload(1, b"\n\x1b[31m" * 10000, ProtocolId.NONE))
    assert len(text) < 250
    assert text.isprintable()
    assert len(repr(EapPayload(bytes(60000)))) < 120
