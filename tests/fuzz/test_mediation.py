"""Invariants of mediation under generated ME_CONNECT messages and checks. One sentence each."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.datagram import Address, Path, Transmit
from agent.mediation.messages import MAX_HASHES, ConnectMessage, apply_accepts, decode_connect
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.mediation import MAX_ENDPOINTS
from agent.wire.message import Header, Message, encode_payloads
from agent.wire.payloads import Identification, IdpPayload, NotifyPayload, VendorIdPayload
from tests.fuzz.mutate import mutated
from tests.sim.scenes import scene as calling
from tests.support.exchanges import REQUESTS, payloads_of, sealed
from tests.support.pair import Datagram

KINDS = [k for k in NotifyType if k.name.startswith(("ME_", "HG_"))]
HEADER = Header(b"i" * 8, b"r" * 8, ExchangeType.ME_CONNECT, True, False, 1)
SCENES = {s.name: s for s in REQUESTS if s.name.startswith("ME_CONNECT")}

data = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", b"c" * 8, b"k" * 16, bytes(8), bytes(12), bytes(24)]),
)
notifies = st.builds(NotifyPayload, st.sampled_from(KINDS), data)
identities = st.builds(Identification, st.integers(0, 255), st.binary(max_size=40))
contents = st.lists(
    st.one_of(notifies, st.builds(IdpPayload, identities), st.builds(VendorIdPayload, data)),
    max_size=30,
)


@settings(max_examples=600)
@given(contents)
def test_any_content_is_a_message_within_its_bounds_or_none(payloads):
    message = decode_connect(Message(HEADER, tuple(payloads)))
    if message is None:
        return
    assert isinstance(message, ConnectMessage)
    assert len(message.endpoints) <= MAX_ENDPOINTS
    assert all(e.address is not None for e in message.endpoints)
    again = decode_connect(Message(HEADER, tuple(message.payloads())))
    assert again == message


@settings(max_examples=120)
@given(contents, st.sampled_from(sorted(SCENES)))
def test_any_content_has_one_answer_and_the_sa_stays(payloads, name):
    pair, true = SCENES[name].start()
    receiver = pair.other(true.sender)
    message, cipher = payloads_of(pair, true)
    octets = sealed(message, cipher, *encode_payloads(payloads))
    receiver.ike.receive(true.arriving, octets, pair.now)
    pair.drain()
    answers = [d for d in pair.pending if d.sender is receiver]
    assert isinstance(answers[0], Datagram)
    assert "ME_CONNECT! N(" in pair.describe(receiver, answers[0].data) or (
        pair.describe(receiver, answers[0].data) == "ME_CONNECT!"
    )
    assert receiver.sa.established


@settings(max_examples=500)
@given(st.lists(st.binary(max_size=70), max_size=6), st.integers(1, 8))
def test_any_lists_of_whom_we_accept_stay_within_the_limit(updates, limit):
    known = None
    for update in updates:
        known = apply_accepts(known, update, limit)
        assert known is None or len(known) <= limit <= MAX_HASHES


def test_any_check_changed_a_little_is_silence_and_no_state():
    """Checks of a running attempt as corpus: with another octet they are nobody's."""
    source = random.Random(3)
    world = calling()
    world.network.trace.clear()
    world.a.call(world.b, world.now)
    world.network.run(1.0)
    corpus = [p.data for _, _, p in world.network.trace if p.data[4:20] == bytes(16)]
    corpus += [p.data for _, _, p in world.network.trace if p.data[:16] == bytes(16)]
    assert corpus
    stranger = Address.parse("198.18.0.66", 4500)
    for machine in (world.a, world.b):
        machine.taken()
        before = len(machine.events)
        local = Address.parse("192.168.1.10", 4500)
        for _ in range(3000):
            octets = mutated(source, source.choice(corpus))
            if octets in corpus:
                continue
            machine.receive(Path(local, stranger), octets, world.now)
        sent = [o for o in machine.taken() if isinstance(o, Transmit)]
        assert not [o for o in sent if o.path.remote == stranger]
        assert len(machine.events) == before
