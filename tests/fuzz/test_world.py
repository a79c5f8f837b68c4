"""Whole machines whose neighbours lie behind authentication. One sentence of invariant.

Mediator, gateway and operator of a living world are told the contents of every exchange, changed a
little and sealed with the keys of who would send them: requests, responses, fragments, and ESP.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from agent.datagram import Received
from agent.wire.codes import ExchangeType
from tests.fuzz.mutate import mutated
from tests.support import feature_scenes
from tests.support.damage import chain, raw
from tests.support.exchanges import REQUESTS, RESPONSES, payloads_of
from tests.unit.engine.machines import Machine, Scene

if TYPE_CHECKING:
    from agent.ike.sa import IkeSa

SCENES = (*REQUESTS, *RESPONSES, *feature_scenes.REQUESTS, *feature_scenes.RESPONSES)
MOST_SAS = 40  # of one machine: what it has, what was replaced, and attempts
MARKER = bytes(4)


def _corpus() -> list[tuple[int, int, bytes]]:
    """Exchange, first payload and inner octets of each true message."""
    found = []
    for scene in SCENES:
        message, _ = payloads_of(*scene.start())
        found.append((message.header.exchange, *chain(raw(message.payloads))))
    return found


def _ends(world: Scene) -> list[tuple[IkeSa, Machine, IkeSa]]:
    """(the liar's SA, who is lied to, its SA) for all that have keys at both ends."""
    machines = (world.gateway, world.operator, world.mediator)
    own = {
        spi: (machine, sa)
        for machine in machines
        for spi, sa in machine.engine._ike._by_spi.items()
        if sa.protection is not None
    }
    return [(sa, *own[sa.remote_spi]) for _, sa in own.values() if sa.remote_spi in own]


def _lie(source: random.Random, liar: IkeSa, to: IkeSa, content: tuple[int, int, bytes]) -> bytes:
    exchange, first, inner = content
    inner = mutated(source, inner) if source.random() < 0.8 else inner
    is_response = to.outgoing.task is not None and source.random() < 0.5
    if is_response and to.outgoing.task is not None:
        exchange = to.outgoing.task.exchange
    elif source.random() < 0.2:
        exchange = source.choice([*ExchangeType, 99])
    number = to.outgoing.next_id if is_response else to.incoming.next_id
    header = liar.header(exchange, number, is_response=is_response)
    assert liar.protection is not None
    random_octets = liar.table.random
    if source.random() < 0.8:
        return liar.protection.seal_inner(header, first, inner, random_octets)
    total = source.choice((0, 1, 2, 2, 2, 3, 65535))
    place = source.choice((0, 1, 2, total))
    return liar.protection.seal_fragment(header, first, place, total, inner, random_octets)


def _esp(source: random.Random, world: Scene) -> None:
    """The operator seals what it likes for the gateway."""
    gateway = world.gateway.engine._plane._sas
    for sa in world.operator.engine._plane._sas.values():
        receiving = gateway.get(sa.parameters.spi_out)
        if receiving is None:
            continue
        packet = source.randbytes(source.randrange(1, 90))
        for transmit in sa.outbound.seal([packet], source.choice((4, 41)), receiving.tunnel.path):
            world.gateway.receive(receiving.tunnel.path, transmit.data, world.now)


def _agrees(machine: Machine) -> bool:
    ike = machine.engine._ike
    children = {spi for sa in ike._by_spi.values() for spi in sa.children or ()}
    return (
        len(ike._by_spi) <= MOST_SAS
        and len(ike._schedule) <= len(ike._by_spi)
        and children == ike.children.spis_in == set(machine.engine._plane._sas)
    )


@pytest.mark.parametrize("seed", range(4))
def test_neighbours_that_lie_leave_tables_that_agree_and_a_world_that_heals(seed: int) -> None:
    source = random.Random(seed)
    corpus = _corpus()
    world = Scene().connected()
    machines = (world.gateway, world.operator, world.mediator)
    lies = 0
    for turn in range(600):
        if turn % 40 == 0:
            world.connect()
        ends = _ends(world)
        if ends:
            liar, machine, sa = source.choice(ends)
            data = MARKER + _lie(source, liar, sa, source.choice(corpus))
            machine.engine.receive_datagrams([Received(sa.path, data)], world.now)
            machine._transmits += machine.drain(world.now)
            lies += 1
        else:
            world.run(20)
        if source.random() < 0.3:
            _esp(source, world)
        world.run(source.choice((0.01, 0.1, 1.0, 5.0)))
        world.network.trace.clear()
        assert all(map(_agrees, machines))
    assert lies > 200
    world.connect()
    assert world.run(400, world.both_up)
    assert world.echoes()
