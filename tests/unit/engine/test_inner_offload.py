"""N(HG_INNER_OFFLOAD): both ends or neither, for good, and never with a mediator."""

from __future__ import annotations

import pytest

from agent.ipsec import Offload
from agent.wire.codes import NotifyType
from tests.unit.engine.machines import Scene, tcp

VNET = Offload(vnet=True, udp=True)


def scene(*, gateway: bool = True, operator: bool = True) -> Scene:
    """Connected, with devices that have virtio-net headers or have not."""
    made = Scene()
    for machine, has in ((made.gateway, gateway), (made.operator, operator)):
        machine.offload = VNET if has else None
        machine.boot(0.0)
    assert not made.operator.engine.takes_unfinished
    return made.connected()


def vouched(made: Scene) -> bool:
    """Whether the operator lets its kernel take a checksum for verified."""
    packet = tcp(made.gateway.address, made.operator.address, 80, syn=False)
    made.operator.delivered.clear()
    made.send(made.gateway, packet)
    [write] = made.operator.delivered
    return write[:10] == bytes((1, 0, 0, 0, 0, 0, 40, 0, 16, 0))


def test_both_ends_agree_and_keep_it_over_rekeys():
    made = scene()
    for ike in (False, True, False):
        for machine in (made.gateway, made.operator):
            assert machine.engine.takes_unfinished
        assert vouched(made)
        made.operator.engine.rekey("cabin", made.now, ike=ike)
        made.run(5)
    assert vouched(made)
    assert len(made.operator.engine._inner_offload.agreed) == 1
    made.operator.engine.disconnect("cabin", made.now)
    made.run(2)
    for machine in (made.gateway, made.operator):
        assert not machine.engine.takes_unfinished
        assert not machine.engine._inner_offload.agreed


@pytest.mark.parametrize("which", ["gateway", "operator", "both"])
def test_not_where_an_end_cannot(which):
    made = scene(gateway=which == "operator", operator=which == "gateway")
    for machine in (made.gateway, made.operator):
        assert not machine.engine.takes_unfinished
    if which == "gateway":
        assert not vouched(made)


def test_a_mediator_is_not_told(monkeypatch):
    from agent.engine.inner_offload import InnerOffload

    asked = []
    building = InnerOffload.on_request_building

    def noted(self, sa, exchange, payloads):
        before = len(payloads)
        building(self, sa, exchange, payloads)
        asked.append((sa.peer.name, [p.type for p in payloads[before:]]))

    monkeypatch.setattr(InnerOffload, "on_request_building", noted)
    made = scene()
    offers = [name for name, types in asked if types == [NotifyType.HG_INNER_OFFLOAD]]
    assert offers == ["cabin"]
    assert not made.mediator.engine.takes_unfinished
    # Even if it were asked: an IKE SA without a Child SA agrees to nothing.
    assert made.mediator.engine._inner_offload is None
