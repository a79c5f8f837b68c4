"""ESP of one direction: published packets, round trips, everything that must be refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.crypto.algorithms import make_cipher
from agent.ipsec.esp import IPV4, IPV6, InboundEsp, OutboundEsp
from agent.ipsec.segments import MAX_GROUP, MAX_SEGMENTS
from agent.wire.codes import EncryptionId, IntegrityId
from tests.support.vectors import vector_json
from tests.unit.ipsec.packets import CBC, GCM, PATH_A, SUITES, datagrams, echo, octets

SPI = b"\1\2\3\4"
EACH = pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
ESN = pytest.mark.parametrize("esn", [False, True], ids=["32", "esn"])


def ends(suite=GCM, *, esn=False):
    make = octets(3)
    key, integ_key = make(suite[3]), make(suite[4])

    def cipher():
        return make_cipher(*suite[:3], key, integ_key)

    return OutboundEsp(SPI, cipher(), esn=esn, random=octets(4)), InboundEsp(SPI, cipher(), esn=esn)


def opened(inbound, *packets):
    plain = []
    for packet in packets:
        for run in inbound.open(packet, len(packet)):
            plain += run
    return plain


def test_rfc7634_appendix_a():
    # https://www.rfc-editor.org/rfc/rfc7634#appendix-A
    vector = vector_json("rfc/rfc_vectors.json")["rfc7634_esp"]
    cipher = make_cipher(
        EncryptionId.ENCR_CHACHA20_POLY1305, None, None, bytes.fromhex(vector["keymat"]), b""
    )
    inbound = InboundEsp(bytes.fromhex(vector["spi"]), cipher, esn=False)
    plain = opened(inbound, bytes.fromhex(vector["esp_ip_packet"])[20:])
    assert plain == [bytes.fromhex(vector["plaintext"])]
    assert inbound.window.top == 5


def test_sealed_as_rfc7634_appendix_a_but_for_the_iv():
    vector = vector_json("rfc/rfc_vectors.json")["rfc7634_esp"]
    cipher = make_cipher(
        EncryptionId.ENCR_CHACHA20_POLY1305, None, None, bytes.fromhex(vector["keymat"]), b""
    )
    outbound = OutboundEsp(bytes.fromhex(vector["spi"]), cipher, esn=False, random=octets())
    outbound.sequence = 4
    [packet] = datagrams(outbound.seal([bytes.fromhex(vector["source_packet"])], IPV4, PATH_A))
    assert packet[:8] == bytes.fromhex(vector["aad"])
    assert packet[8:16] == (5).to_bytes(8, "big")
    assert cipher.open(packet[8:16], packet[16:], packet[:8]) == bytes.fromhex(vector["plaintext"])


@EACH
@ESN
@given(sizes=st.lists(st.integers(20, 1400), min_size=1, max_size=12))
def test_what_is_sealed_is_opened(suite, esn, sizes):
    outbound, inbound = ends(suite, esn=esn)
    packets = [octets(n)(n) for n in sizes]
    plain = []
    for transmit in outbound.seal(packets, IPV6, PATH_A):
        for run in inbound.open(transmit.data, transmit.segment or len(transmit.data)):
            plain += run
    assert [p[: -2 - p[-2]] for p in plain] == packets
    assert {p[-1] for p in plain} == {41}
    assert outbound.sequence == inbound.window.top == len(packets)


@EACH
@ESN
def test_any_changed_octet_is_refused_and_the_window_stays(suite, esn):
    outbound, inbound = ends(suite, esn=esn)
    [packet] = datagrams(outbound.seal([echo()], IPV6, PATH_A))
    for at in range(4, len(packet)):
        assert opened(inbound, packet[:at] + bytes((packet[at] ^ 1,)) + packet[at + 1 :]) == []
    assert inbound.window.top == 0
    assert inbound.forged + inbound.replayed == len(packet) - 4
    assert len(opened(inbound, packet)) == 1


@EACH
def test_any_truncation_is_refused(suite):
    outbound, inbound = ends(suite)
    [packet] = datagrams(outbound.seal([echo()], IPV6, PATH_A))
    for size in range(4, len(packet)):
        assert opened(inbound, packet[:size]) == []
    assert inbound.window.top == 0


def test_a_replayed_packet_is_not_even_decrypted():
    outbound, inbound = ends()
    first, second = datagrams(outbound.seal([echo(), echo()], IPV6, PATH_A))
    assert len(opened(inbound, second, first)) == 2
    forged_copy = first[:-1] + bytes((first[-1] ^ 1,))
    assert opened(inbound, first, second, forged_copy) == []
    assert (inbound.replayed, inbound.forged) == (3, 0)


def test_sequence_number_zero_is_refused():
    outbound, inbound = ends()
    outbound.sequence = -1 % 2**64  # what a peer that has wrapped would send
    cipher = outbound._cipher
    packet = (
        SPI + bytes(4) + bytes(8) + cipher.seal(bytes(8), bytes(40) + b"\1\2\2\4", SPI + bytes(4))
    )
    assert opened(inbound, packet) == []
    assert inbound.replayed == 1


@EACH
def test_extended_numbers_pass_2_to_the_32(suite):
    outbound, inbound = ends(suite, esn=True)
    outbound.sequence = 2**32 - 3
    inbound.window.mark(2**32 - 3)
    packets = datagrams(outbound.seal([echo()] * 5, IPV6, PATH_A))
    assert [p[4:8].hex() for p in packets] == [
        "fffffffe", "ffffffff", "00000000", "00000001", "00000002"
    ]  # fmt: skip
    assert len(opened(inbound, *reversed(packets))) == 5
    assert opened(inbound, *packets) == []
    assert inbound.window.top == 2**32 + 2


def test_ends_must_agree_on_extended_numbers():
    outbound, _ = ends(esn=True)
    _, inbound = ends(esn=False)
    assert opened(inbound, *datagrams(outbound.seal([echo()], IPV6, PATH_A))) == []


def test_packets_of_another_sa_in_the_same_buffer_are_handed_back():
    outbound, inbound = ends()
    [first, second] = datagrams(outbound.seal([echo(), echo()], IPV6, PATH_A))
    stranger = b"\xee" * len(first)
    [plain] = inbound.open(first + stranger + second, len(first))
    assert len(plain) == 2
    assert inbound.foreign == [stranger]


def test_a_shorter_last_datagram():
    outbound, inbound = ends()
    transmits = outbound.seal([bytes(100), bytes(100), bytes(20)], IPV6, PATH_A)
    assert [(t.segment, len(t.data)) for t in transmits] == [(136, 136 * 2 + 56)]
    plain = inbound.open(transmits[0].data, transmits[0].segment)
    assert [[len(p) for p in run] for run in plain] == [[104, 104], [24]]


@EACH
@given(st.lists(st.sampled_from([20, 21, 22, 23, 40, 600, 1399, 1400]), max_size=300))
def test_groups_hold_neighbours_of_one_size(suite, sizes):
    outbound, inbound = ends(suite)
    transmits = outbound.seal([bytes(n) for n in sizes], IPV6, PATH_A)
    for transmit in transmits:
        assert len(transmit.data) <= MAX_GROUP
        if transmit.segment:
            assert transmit.segment < len(transmit.data) <= transmit.segment * MAX_SEGMENTS
    plain = opened(inbound, *datagrams(transmits))
    assert [len(p) - 2 - p[-2] for p in plain] == sizes


def test_a_stream_of_full_packets_needs_few_calls():
    outbound, _ = ends()
    transmits = outbound.seal([bytes(1400)] * 90, IPV6, PATH_A)
    assert [len(t.data) // t.segment for t in transmits] == [45, 45]


def test_no_iv_is_used_twice():
    outbound, _ = ends()
    packets = datagrams(outbound.seal([bytes(60)] * 40, IPV6, PATH_A))
    packets += datagrams(outbound.seal([bytes(60)] * 40, IPV4, PATH_A))
    assert len({p[8:16] for p in packets}) == 80
    assert [int.from_bytes(p[4:8], "big") for p in packets] == list(range(1, 81))


def test_cbc_ivs_come_from_the_random_source():
    outbound, _ = ends(CBC)
    packets = datagrams(outbound.seal([bytes(60)] * 3, IPV6, PATH_A))
    source = octets(4)
    assert [p[8:24] for p in packets] == [source(16) for _ in range(3)]


def test_keys_do_not_show():
    outbound, inbound = ends(
        (EncryptionId.ENCR_AES_CBC, 256, IntegrityId.AUTH_HMAC_SHA2_256_128, 32, 32)
    )
    key = octets(3)(32)
    assert key.hex() not in repr(outbound) + repr(inbound)
    assert str(key) not in repr(outbound) + repr(inbound)
