"""Messages and payloads that others made: well-formed ones come back, broken ones are refused.

Sources in each folder of the vectors: openiked/openiked-portable regress/parser, AOSP IKE unit
tests, Wireshark and tcpdump and scapy test captures, rusticata/ipsec-parser assets.
"""

from __future__ import annotations

import pytest

from agent.wire import ip
from agent.wire.codes import ExchangeType, NotifyType, PayloadType
from agent.wire.errors import UnsupportedVersion, WireError
from agent.wire.esp import Kind, classify
from agent.wire.message import decode_message, decode_payloads, encode_message, encode_payloads
from agent.wire.payloads import (
    AuthPayload,
    CertPayload,
    DeletePayload,
    EapPayload,
    Encrypted,
    EncryptedFragment,
    IdiPayload,
    IdrPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsiPayload,
    TsrPayload,
)
from agent.wire.selectors import TrafficSelector, decode_selectors, narrow
from tests.support.vectors import vector_json, vector_octets

from . import samples
from .captures import datagrams, ike_messages

# --- openiked ----------------------------------------------------------------------------------

OPENIKED = {
    "sa": PayloadType.SA,
    "saxform": PayloadType.SA,
    "ke": PayloadType.KE,
    "id": PayloadType.IDi,
    "cert": PayloadType.CERT,
    "certreq": PayloadType.CERTREQ,
    "auth": PayloadType.AUTH,
    "nonce": PayloadType.NONCE,
    "delete": PayloadType.D,
    "vendor": PayloadType.V,
    "ts": PayloadType.TSi,
    "cp": PayloadType.CP,
    "eap": PayloadType.EAP,
}


@pytest.mark.parametrize("name", OPENIKED)
def test_openiked_payloads(name):
    data = vector_octets(f"openiked/{name}_pld.bin")
    if name == "cert":  # eight octets stand behind what its length says
        data = data[:-8]
    payloads = decode_payloads(OPENIKED[name], data)
    assert payloads
    assert encode_payloads(payloads) == (OPENIKED[name], data)
    for part in samples.truncations(data):
        with pytest.raises(WireError):
            decode_payloads(OPENIKED[name], part)


def test_openiked_content():
    def read(name: str) -> tuple[Payload, ...]:
        return decode_payloads(OPENIKED[name], vector_octets(f"openiked/{name}_pld.bin"))

    (auth, identity, ts) = (*read("auth"), *read("id"), *read("ts"))
    assert isinstance(auth, AuthPayload)
    assert len(auth.data) == 256
    assert isinstance(identity, IdiPayload)
    assert identity.identity.text == "172.18.125.1"
    assert isinstance(ts, TsiPayload)
    assert list(map(str, ts.selectors)) == ["172.40.125.0/24"]
    assert read("delete") == (
        DeletePayload(1, (bytes.fromhex("deadbeefcafeaffe"),)),
        DeletePayload(3, (bytes.fromhex("aabbccdd"), bytes.fromhex("eeff0011"))),
    )
    (sa,) = read("saxform")
    assert isinstance(sa, SaPayload)
    assert [str(t) for t in sa.proposals[0].transforms][2:3] == ["modp2048"]
    assert all(isinstance(p, EapPayload) for p in read("eap"))


def test_openiked_sealed_payloads():
    for name, kind in (("sk", Encrypted), ("skf_1of1", EncryptedFragment)):
        body = vector_octets(f"openiked/{name}_pld.bin")
        head = bytearray(encode_message(samples.HEADER, ()))
        head[16] = PayloadType.SK if kind is Encrypted else PayloadType.SKF
        data = samples.with_length(bytes(head) + body)
        message = decode_message(data)
        (sealed,) = message.payloads
        assert isinstance(sealed, kind)
        assert sealed.first_inner == PayloadType.SA
        assert encode_message(message.header, message.payloads) == data


def test_openiked_message():
    data = vector_octets("openiked/valid_packet.bin")
    message = decode_message(data)
    assert message.header.exchange == ExchangeType.IKE_SA_INIT
    assert message.first(KePayload).group == 14
    assert message.notify(NotifyType.NAT_DETECTION_SOURCE_IP) is not None
    assert encode_message(message.header, message.payloads) == data


def test_openiked_dictionary_in_place_of_octets():
    """Each entry of the fuzzing dictionary, put over a message at every fourth octet."""
    data = vector_octets("openiked/valid_packet.bin")
    lines = vector_octets("openiked/ike_libfuzzer.dict").decode("ascii").splitlines()
    entries = {line[line.index('"') + 1 : -1] for line in lines if '"' in line}
    # Sorted, as the order of a set of texts differs from run to run.
    words = [
        entry.encode("ascii").decode("unicode_escape").encode("latin-1")
        for entry in sorted(entries)
    ]
    assert len(words) > 20
    accepted = refused = 0
    for word in words:
        for at in range(0, len(data) - len(word), 4):
            damaged = samples.with_length(data[:at] + word + data[at + len(word) :])
            try:
                message = decode_message(damaged)
            except WireError:
                refused += 1
                continue
            accepted += 1
            again = decode_message(encode_message(message.header, message.payloads))
            assert samples.comparable(again) == samples.comparable(message)
    assert min(accepted, refused) > 500


# --- AOSP --------------------------------------------------------------------------------------


def aosp(group: str, name: str) -> bytes:
    return bytes.fromhex(vector_json("aosp-ike/aosp_hex_constants.json")[group][name])


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("IkeSocketTest", "IKE_REQ_MESSAGE_HEX_STRING"),
        ("IkeHeaderTest", "IKE_SA_INIT_RAW_PACKET"),
        ("IkeSkPayloadTest", "IKE_AUTH_INIT_REQUEST_HEX_STRING"),
    ],
)
def test_aosp_messages(group, name):
    data = aosp(group, name)
    message = decode_message(data)
    assert encode_message(message.header, message.payloads) == data


def test_aosp_content_of_an_encrypted_message():
    message = decode_message(aosp("IkeSkPayloadTest", "IKE_AUTH_INIT_REQUEST_HEX_STRING"))
    (sealed,) = message.payloads
    assert isinstance(sealed, Encrypted)
    assert sealed.aad == aosp("IkeEncryptedPayloadBodyTest", "IKE_AUTH_INIT_REQUEST_HEADER") + aosp(
        "IkeEncryptedPayloadBodyTest", "IKE_AUTH_INIT_REQUEST_SK_HEADER"
    )
    assert sealed.body.startswith(aosp("IkeEncryptedPayloadBodyTest", "IKE_AUTH_INIT_REQUEST_IV"))
    content = aosp("IkeSkPayloadTest", "IKE_AUTH_INIT_REQUEST_DECRYPTED_BODY_HEX_STRING")
    payloads = decode_payloads(sealed.first_inner, content)
    assert [type(p) for p in payloads] == [
        IdiPayload,
        IdrPayload,
        AuthPayload,
        SaPayload,
        TsiPayload,
        TsrPayload,
        NotifyPayload,
        NotifyPayload,
    ]
    assert encode_payloads(payloads) == (sealed.first_inner, content)
    for part in samples.truncations(content):
        with pytest.raises(WireError):
            decode_payloads(sealed.first_inner, part)


@pytest.mark.parametrize(
    ("group", "name", "kind"),
    [
        ("IkeNoncePayloadTest", "NONCE_PAYLOAD_RAW_HEX_STRING", NoncePayload),
        ("IkeTsPayloadTest", "TS_INITIATOR_PAYLOAD_HEX_STRING", TsiPayload),
        ("IkeIdPayloadTest", "IPV4_ADDR_ID_PAYLOAD_RESPONDER_HEX_STRING", IdrPayload),
        ("IkeIdPayloadTest", "IPV6_ADDR_ID_PAYLOAD_RESPONDER_HEX_STRING", IdrPayload),
        ("IkeAuthPskPayloadTest", "PSK_AUTH_PAYLOAD_HEX_STRING", AuthPayload),
        ("IkeDeletePayloadTest", "DELETE_IKE_PAYLOAD_HEX_STRING", DeletePayload),
        ("IkeDeletePayloadTest", "DELETE_CHILD_PAYLOAD_HEX_STRING", DeletePayload),
        ("ChildSessionStateMachineTest", "IKE_AUTH_REQ_SA_PAYLOAD", SaPayload),
    ],
)
def test_aosp_payloads(group, name, kind):
    body = aosp(group, name)[4:]
    assert kind.decode(body).encode() == body


def test_aosp_bodies():
    for group, name, kind in (
        ("IkeSaPayloadTest", "OUTBOUND_PROPOSAL_RAW_PACKET", SaPayload),
        ("IkeSaPayloadTest", "INBOUND_TWO_PROPOSAL_RAW_PACKET", SaPayload),
        ("IkeNotifyPayloadTest", "NOTIFY_PAYLOAD_BODY_RAW_PACKET", NotifyPayload),
        ("IkeKePayloadTest", "KE_PAYLOAD_RAW_PACKET", KePayload),
        ("IkeCertX509CertPayloadTest", "CERT_PAYLOAD_BODY_HEX_STRING", CertPayload),
        (
            "IkeAuthDigitalSignPayloadTest",
            "AUTH_PAYLOAD_BODY_GENERIC_DIGITAL_SIGN_HEX_STRING",
            None,
        ),
    ):
        body = aosp(group, name)
        assert (kind or AuthPayload).decode(body).encode() == body


def test_aosp_selectors():
    def read(name: str) -> TrafficSelector:
        (found,) = decode_selectors(b"\1\0\0\0" + aosp("IkeTrafficSelectorTest", name))
        return found

    assert str(read("TS_IPV4_ONE_HEX_STRING")) == "192.0.2.100-192.0.3.101[0/16-65520]"
    assert str(read("TS_IPV4_TWO_HEX_STRING")) == "192.0.4.100-192.0.4.102"
    for name in (
        "TX_IPV4_INVALID_PORT_RANGE_HEX_STRING",
        "TX_IPV4_INVALID_ADDRESS_RANGE_HEX_STRING",
    ):
        assert read(name).is_empty
        assert narrow([read(name)], [TrafficSelector.any(4)]) == ()


# --- captures ----------------------------------------------------------------------------------

# File → whole IKEv2 messages in it. Each of them must come back octet by octet.
WELL_FORMED = {
    "scapy/ikev2_nat_t.pcapng": 30,
    "scapy/ikev2_notify_redirect.pcap": 4,
    "tcpdump/ikev2four.pcap": 21,
    "wireshark/ikev2-decrypt-3des-sha1_160.pcap": 6,
    "wireshark/ikev2-decrypt-aes128ccm12-2.pcap": 6,
    "wireshark/ikev2-decrypt-aes128ccm12.pcap": 6,
    "wireshark/ikev2-decrypt-aes192ctr.pcap": 6,
    "wireshark/ikev2-decrypt-aes256cbc.pcapng": 4,
    "wireshark/ikev2-decrypt-aes256ccm16.pcapng": 4,
    "wireshark/ikev2-decrypt-aes256gcm16.pcap": 6,
    "wireshark/ikev2-decrypt-aes256gcm8.pcap": 6,
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_well_formed_captures(name):
    found = list(ike_messages(vector_octets(name)))
    assert len(found) == WELL_FORMED[name]
    for data, is_whole in found:
        assert is_whole
        message = decode_message(data)
        assert encode_message(message.header, message.payloads) == data


@pytest.mark.parametrize("name", ["ike-sa-init-req", "ike-sa-init-resp"])
def test_rusticata_messages(name):
    data = vector_octets(f"rusticata-ipsec-parser/{name}.bin")
    message = decode_message(data)
    assert encode_message(message.header, message.payloads) == data
    for part in samples.truncations(data):
        with pytest.raises(WireError):
            decode_message(samples.with_length(part))


def test_reserved_bits_in_the_wild():
    """racoon2 sets reserved bits that the RFC tells to ignore: read, and written as zero."""
    found = list(ike_messages(vector_octets("tcpdump/ikev2pI2.pcap")))
    assert len(found) == 2
    for data, _ in found:
        message = decode_message(data)
        again = encode_message(message.header, message.payloads)
        assert again != data
        assert samples.comparable(decode_message(again)) == samples.comparable(message)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tcpdump/ikev2pI2-segfault.pcapng", "transform_count"),
        ("tcpdump/ikev2-id-short.pcap", "id_length"),
        ("tcpdump/ikev2-id-normal.pcap", "trailing_octets"),
        ("tcpdump/isakmp-delete-segfault.pcap", "length"),
        ("tcpdump/isakmp-pointer-loop.pcap", "length"),
        ("tcpdump/isakmp-no-none-np.pcapng", "length"),
        ("tcpdump/isakmp-various-oobr.pcap", "length"),
        ("tcpdump/isakmp-ikev1_n_print-oobr.pcap", "length"),
        ("tcpdump/isakmpv1-attr-oobr.pcap", "length"),
        ("tcpdump/ikev1_id_ipv6_addr_subnet-oobr.pcap", "length"),
    ],
)
def test_packets_that_crashed_others(name, reason):
    found = list(ike_messages(vector_octets(name)))
    assert found
    for data, _ in found:
        with pytest.raises(WireError) as caught:
            decode_message(data)
        assert caught.value.reason == reason
        # The same if the length told the truth: a value or a WireError, nothing else.
        try:
            decode_message(samples.with_length(data))
        except WireError as error:
            assert error.reason != "length"  # noqa: PT017  reading it is fine as well


@pytest.mark.parametrize(
    "name",
    [
        "tcpdump/isakmp4500.pcap",
        "tcpdump/ISAKMP_sa_setup.pcap",
        "tcpdump/isakmp-identification-segfault.pcap",
        "wireshark/ikev1-bug-12610.pcapng.gz",
        "wireshark/ikev1-bug-12620.pcapng.gz",
        "wireshark/ikev1-certs.pcap",
    ],
)
def test_ikev1_is_told_apart(name):
    found = list(ike_messages(vector_octets(name)))
    assert found
    for data, _ in found:
        with pytest.raises(UnsupportedVersion) as caught:
            decode_message(data)
        assert caught.value.major == 1


def test_esp_in_udp_is_told_apart():
    esp = [d.data for d in datagrams(vector_octets("tcpdump/espudp1.pcap"))]
    assert len(esp) >= 8
    assert {classify(data) for data in esp} == {Kind.ESP}
    mixed = [d.data for d in datagrams(vector_octets("tcpdump/isakmp4500.pcap")) if 4500 in d[:2]]
    assert {classify(data) for data in mixed} >= {Kind.IKE}


def test_rfc_7634_inner_packet():
    # RFC 7634 appendix A: an ICMP echo request inside ESP.
    packet = bytes.fromhex(
        "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10"
        "0007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223"
        "2425262728292a2b2c2d2e2f3031323334353637"
    )
    source, destination = bytes([198, 51, 100, 5]), bytes([192, 0, 2, 5])
    assert ip.flow(packet) == (1, source, destination, 0x0800, 0x0800)
    assert ip.length(packet) == 84
