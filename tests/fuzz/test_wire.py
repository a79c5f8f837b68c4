"""Invariants of the wire codecs under generated input. One sentence each; seconds, repeatable.

Longer: `HYPOTHESIS_PROFILE=thorough`.
"""

from __future__ import annotations

import random
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.wire import ip
from agent.wire.errors import WireError
from agent.wire.esp import Kind, classify
from agent.wire.identity import Identification
from agent.wire.mediation import MeEndpoint, decode_check, encode_check, is_check
from agent.wire.message import (
    MAJOR_VERSION,
    ONLY_ONCE,
    Header,
    decode_message,
    decode_payloads,
    encode_message,
)
from agent.wire.payloads import (
    AuthPayload,
    CpPayload,
    DeletePayload,
    IdiPayload,
    IdpPayload,
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
from agent.wire.proposals import Proposal, Transform, accepted, choose
from agent.wire.redirect import Redirect, Successor, decode_redirected_from, encode_gateway
from agent.wire.selectors import TrafficSelector, narrow
from agent.wire.text import MAX_TEXT, printable
from tests.fuzz.mutate import mutated
from tests.unit.wire import samples

octet = st.integers(0, 255)
word = st.integers(0, 65535)
text = st.binary(max_size=40)

transforms = st.builds(
    Transform,
    st.sampled_from([1, 2, 3, 4, 5, 6, 99]),
    st.sampled_from([0, 1, 2, 12, 20, 31, 65535]),
    st.sampled_from([None, 128, 256]),
)
proposals = st.builds(
    Proposal,
    st.sampled_from([1, 3]),
    st.sampled_from([b"", b"spi4", b"eight123"]),
    st.lists(transforms, max_size=6).map(tuple),
    octet,
)


@st.composite
def selectors(draw: st.DrawFn) -> TrafficSelector:
    size = draw(st.sampled_from([4, 16]))
    ends = st.binary(min_size=size, max_size=size)
    return TrafficSelector(draw(octet), draw(word), draw(word), draw(ends), draw(ends))


selector_lists = st.lists(selectors(), max_size=5).map(tuple)
identities = st.builds(Identification, octet, text)
unknown_types = octet.filter(lambda t: t not in range(33, 54) and t not in (0, 128))
payloads: st.SearchStrategy[Payload] = st.one_of(
    st.builds(SaPayload, st.lists(proposals, min_size=1, max_size=4).map(tuple)),
    st.builds(KePayload, word, st.binary(min_size=1, max_size=40)),
    st.builds(IdiPayload, identities, st.binary(min_size=3, max_size=3)),
    st.builds(IdpPayload, identities),
    st.builds(AuthPayload, octet, text),
    st.builds(NoncePayload, st.binary(min_size=16, max_size=256)),
    st.builds(NotifyPayload, word, text, octet, st.binary(max_size=16)),
    st.builds(
        DeletePayload,
        octet,
        st.lists(st.binary(min_size=4, max_size=4), max_size=5).map(tuple),
    ),
    st.builds(VendorIdPayload, text),
    st.builds(TsiPayload, selector_lists),
    st.builds(TsrPayload, selector_lists),
    st.builds(
        CpPayload,
        octet,
        st.lists(st.tuples(st.integers(0, 0x7FFF), text), max_size=5).map(tuple),
    ),
    st.builds(UnknownPayload, unknown_types, st.just(False), text),
)
headers = st.builds(
    Header,
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=8, max_size=8),
    octet,
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32 - 1),
    next_payload=st.just(0),  # it and the length follow from the payloads
    major=st.just(MAJOR_VERSION),
    minor=st.integers(0, 15),
    higher_version=st.booleans(),
    length=st.just(0),
)


@settings(max_examples=500)
@given(headers, st.lists(payloads, max_size=6).map(tuple))
def test_what_can_be_constructed_can_be_encoded_and_is_read_back(header, content):
    types = [p.payload_type for p in content]
    content = tuple(
        p for i, p in enumerate(content) if types[i] not in ONLY_ONCE or types[i] not in types[:i]
    )
    message = decode_message(encode_message(header, content))
    assert message.payloads == content
    assert samples.comparable(message)[0] == header


@settings(max_examples=1500)
@given(st.integers(0, 255), st.binary(max_size=300))
def test_any_octets_are_payloads_or_a_wire_error(first, data):
    with suppress(WireError):
        decode_payloads(first, data)


@settings(max_examples=1000)
@given(st.binary(max_size=300))
def test_any_datagram_is_a_message_or_a_wire_error(data):
    for variant in (data, samples.with_length(data)):
        with suppress(WireError):
            decode_message(variant)
        with suppress(WireError):
            decode_check(variant)
        assert isinstance(is_check(variant), bool)
        assert classify(variant) in Kind


def test_mutated_messages_are_refused_or_mean_the_same_after_writing():
    source = random.Random(20)
    seeds = list(samples.messages())
    accepted_count = 0
    for _ in range(15000):
        data = mutated(source, source.choice(seeds), start=16)
        try:
            message = decode_message(samples.with_length(data))
        except WireError:
            continue
        accepted_count += 1
        again = decode_message(encode_message(message.header, message.payloads))
        assert samples.comparable(again) == samples.comparable(message)
        assert len(repr(message)) < 100_000
    assert accepted_count > 500


@settings(max_examples=500)
@given(st.binary(max_size=40))
def test_any_octets_are_an_endpoint_or_a_wire_error(data):
    try:
        endpoint = MeEndpoint.decode(data)
    except WireError:
        return
    assert MeEndpoint.decode(endpoint.encode()) == endpoint


@settings(max_examples=1000)
@given(st.binary(max_size=4), st.binary(max_size=40), st.booleans())
def test_any_octets_are_a_redirect_that_comes_back_or_a_wire_error(start, rest, with_nonce):
    data = start + rest
    with suppress(WireError):
        redirect = Redirect.decode(data, with_nonce=with_nonce)
        assert redirect.encode() == data
        assert redirect.gateway.host.isprintable()
        assert bool(redirect.nonce) == with_nonce
    with suppress(WireError):
        assert encode_gateway(decode_redirected_from(data)) == data
    with suppress(WireError):
        assert Successor.decode(data).encode() == data


def test_mutated_checks_are_refused_or_come_back():
    source = random.Random(21)
    header = Header(bytes(8), bytes(8), 37, True, False, 1)
    content = [
        NotifyPayload(40965, b"abcd"),
        NotifyPayload(40963, bytes(8)),
        NotifyPayload(40967, bytes(20)),
    ]
    seed = encode_message(header, content)
    accepted_count = 0
    for _ in range(5000):
        data = bytearray(seed)
        for _ in range(source.randrange(1, 3)):
            data[source.randrange(16, len(data))] = source.randrange(256)
        try:
            check = decode_check(bytes(data))
        except WireError:
            continue
        accepted_count += 1
        assert decode_check(encode_check(check)) == check
    assert accepted_count > 500


@settings(max_examples=500)
@given(st.binary(max_size=500) | st.text(max_size=500), st.integers(3, 200))
def test_any_text_becomes_one_short_line_of_plain_ascii(data, limit):
    shown = printable(data, limit)
    assert len(shown) <= limit
    assert shown.isascii()
    assert shown.isprintable()
    if isinstance(data, bytes):
        for id_type in range(16):
            assert len(Identification(id_type, data).text) <= MAX_TEXT
            assert Identification(id_type, data).text.isprintable()


@settings(max_examples=500)
@given(st.lists(proposals, max_size=4), st.lists(proposals, max_size=4))
def test_a_choice_is_one_transform_of_each_offered_type_and_ours(offered, acceptable):
    chosen = choose(offered, acceptable)
    if chosen is None:
        return
    theirs = [
        p
        for p in offered
        if (p.number, p.spi, p.protocol) == (chosen.number, chosen.spi, chosen.protocol)
    ]
    assert any(
        set(chosen.transforms) <= set(p.transforms)
        and {t.type for t in chosen.transforms} == {t.type for t in p.transforms}
        for p in theirs
    )
    assert len({t.type for t in chosen.transforms}) == len(chosen.transforms)
    assert any(
        all(t in ours.transforms or t.id == 0 for t in chosen.transforms) for ours in acceptable
    )
    assert choose([chosen], acceptable) is not None
    assert accepted([chosen], offered) == chosen


@settings(max_examples=300)
@given(selector_lists, selector_lists)
def test_narrowing_returns_subsets_of_both(offered, policy):
    for selector in narrow(offered, policy):
        assert not selector.is_empty
        assert any(o.contains(selector) for o in offered)
        assert any(p.contains(selector) for p in policy)


@settings(max_examples=1000)
@given(st.sampled_from([0x45, 0x46, 0x60, 0x00]), st.binary(max_size=120))
def test_any_packet_is_read_or_none(first, rest):
    packet = bytes((first,)) + rest
    if len(packet) > 6:
        packet = packet[:2] + bytes((0, len(packet))) + packet[4:]
    flow = ip.flow(packet)
    transport = ip.transport(packet)
    if flow is not None:
        assert transport is not None
        assert flow[0] == transport[0]
        assert flow[1:3] == (ip.source(packet), ip.destination(packet))
        assert all(-1 <= port <= 65535 for port in flow[3:])
