"""Invariants of the IKE engine under mutated messages, sealed with the true keys and without them.

The corpus is the true message of each exchange (tests/support/exchanges.py). Seconds, repeatable.
"""

from __future__ import annotations

import random

import pytest

from agent.datagram import Dropped, Path, Received, Transmit
from agent.ike.child import MAX_CHILDREN
from agent.ike.exchange import MAX_QUEUED
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.message import decode_message
from agent.wire.payloads import Encrypted, NotifyPayload
from tests.fuzz.mutate import mutated
from tests.support import feature_scenes
from tests.support.damage import Raw, chain, raw
from tests.support.exchanges import (
    REQUESTS,
    RESPONSES,
    Scene,
    all_scenes,
    connecting,
    payloads_of,
    sealed,
)
from tests.support.pair import Pair, Side, established, make_pair
from tests.unit.engine.machines import Scene as World
from tests.unit.wire import samples


def _is_consistent(side: Side) -> bool:
    """All tables say the same."""
    ike = side.ike
    children = {spi for sa in ike._by_spi.values() for spi in sa.children or ()}
    return (
        children == ike.children.spis_in == set(side.installed)
        and len(ike.children.spis_out) <= len(children)
        and len(ike._by_spi) <= 4
        and len(ike._schedule) <= len(ike._by_spi)
        and len(ike) <= len(ike._current)
        and all(len(sa.children or ()) <= 2 * MAX_CHILDREN for sa in ike._by_spi.values())
        and all(len(sa.outgoing.queue or ()) <= MAX_QUEUED for sa in ike._by_spi.values())
    )


@pytest.mark.parametrize(
    "scene",
    [*REQUESTS, *RESPONSES, *feature_scenes.REQUESTS, *feature_scenes.RESPONSES],
    ids=lambda s: s.name,
)
def test_any_content_under_true_keys_has_at_most_one_answer_and_an_end(scene: Scene) -> None:
    source = random.Random(scene.name)
    for _ in range(120):
        pair, true = scene.start()
        receiver = pair.other(true.sender)
        message, cipher = payloads_of(pair, true)
        first, octets = chain(raw(message.payloads))
        bad = mutated(source, octets, times=4)
        if source.random() < 0.2:
            first = source.choice((0, 33, 34, 35, 41, 42, 44, 47, 51, 200))
        receiver.ike.receive(true.arriving, sealed(message, cipher, first, bad), pair.now)
        pair.drain()
        assert sum(d.sender is receiver for d in pair.pending) <= 1
        pair.settle()
        pair.sleep(120)
        for side in (pair.a, pair.b):
            assert _is_consistent(side)


def _lies(source: random.Random, parts: list[Raw]) -> list[Raw]:
    """Payloads of the corpus in any number and order, their bodies changed a little."""
    chosen = [source.choice(parts) for _ in range(source.randrange(0, 7))]
    return [
        part._replace(body=mutated(source, part.body)) if source.random() < 0.3 else part
        for part in chosen
    ]


@pytest.mark.parametrize("seed", range(6))
def test_a_peer_that_lies_for_hours_cannot_make_us_grow(seed: int) -> None:
    """Requests and responses of all exchanges from all payloads there are, one after the other."""
    source = random.Random(seed)
    parts = []
    for scene in (*REQUESTS, *RESPONSES, *feature_scenes.REQUESTS, *feature_scenes.RESPONSES):
        pair, true = scene.start()
        parts += raw(payloads_of(pair, true)[0].payloads)
    parts += [Raw(41, NotifyPayload(kind, b"12345678").encode()) for kind in NotifyType]
    pair = Pair(*_pair())
    for _ in range(400):
        sas = pair.a.ike.sas()
        if not sas or not sas[0].established or len(pair.b.ike) == 0:
            pair = Pair(*_pair())
            sas = pair.a.ike.sas()
        sa = sas[0]
        number = pair.b.sa.incoming.next_id
        header = sa.header(
            source.choice([*ExchangeType, 37, 37, 36, 36, 36, 44, 240]),
            source.choice((number, number, number, number - 1, 0)) % 2**32,
            is_response=source.random() < 0.2,
        )
        first, inner = chain(_lies(source, parts))
        data = sa.protection.seal_inner(header, first, inner, pair.a.ike.random)
        pair.b.ike.receive(pair.b.sa.path, data, pair.now)
        pair.b.ike.handle_timer(pair.now)
        pair.now += source.random() * 20
        pair.drain()
        pair.pending.clear()
        assert _is_consistent(pair.b)


def _pair() -> tuple[Side, Side]:
    esp = ("aes128gcm16-x25519", "aes128gcm16", "aes128gcm16-x25519-ke1_ecp256")
    made = established(make_pair(child=True, esp=esp))
    return made.a, made.b


@all_scenes
def test_any_change_outside_is_dropped_or_a_repetition(scene: Scene) -> None:
    source = random.Random(scene.name)
    pair, true = scene.start()
    receiver = pair.other(true.sender)
    for _ in range(400):
        data = mutated(source, true.data, start=0)
        data = samples.with_length(data) if source.random() < 0.8 else data
        if data == true.data:
            continue
        receiver.ike.receive(true.arriving, data, pair.now)
        outputs = list(iter(receiver.ike.poll_output, None))
        said = [o for o in outputs if isinstance(o, Transmit)]
        assert sum(isinstance(o, Dropped) for o in outputs) == len(outputs) - len(said)
        for answer in said:  # INVALID_IKE_SPI, INVALID_MAJOR_VERSION, or an IKE_SA_INIT of its own
            assert decode_message(answer.data).first(Encrypted) is None
            assert len(answer.data) <= 1.1 * len(data)
    pair.deliver(true)
    pair.settle()
    assert pair.a.sa.established


def test_any_datagram_that_was_ever_sent_changed_a_little_leaves_a_tunnel_standing() -> None:
    """A whole world's traffic (mediation, checks, IKE, ESP) as corpus, to all three machines."""
    source = random.Random(7)
    world = World()
    world.network.trace.clear()
    world.connected()
    assert world.echoes()
    corpus = [packet.data for _, _, packet in world.network.trace]
    assert len(corpus) > 30
    machines = (world.gateway, world.operator, world.mediator)
    paths = [sa.path for machine in machines for sa in machine.engine._ike.sas()]
    for _ in range(6000):
        data = mutated(source, source.choice(corpus))
        if len(data) > 32 and data[:4] == bytes(4) and source.random() < 0.7:
            data = data[:4] + samples.with_length(data[4:])
        machine, path = source.choice(machines), source.choice(paths)
        machine.engine.receive_datagrams([Received(path, data)], world.now)
        machine.drain(world.now)
    world.run(120)
    assert world.both_up()
    assert world.echoes()


@pytest.mark.parametrize("start", [connecting(0), feature_scenes.resuming(0)])
def test_first_requests_changed_in_any_way_never_fill_a_table(start) -> None:
    source = random.Random(8)
    pair, true = start()
    limit = pair.b.ike.settings.half_open_limit_net
    for _ in range(4000):
        data = samples.with_length(mutated(source, true.data, times=6))
        pair.now += 0.01
        pair.b.ike.receive(Path(*true.arriving), data, pair.now)
        out = sum(
            len(o.data) for o in iter(pair.b.ike.poll_output, None) if isinstance(o, Transmit)
        )
        assert out <= 1.1 * len(data)
        assert len(pair.b.ike._by_spi) <= limit
    pair.b.ike.handle_timer(pair.now + 60)
    assert not pair.b.ike._by_spi
    assert len(pair.b.ike._schedule) == 0
