"""Who was not let in is told here, with the reason, and not as often as somebody likes."""

from __future__ import annotations

from agent.engine.connection import TELL_REFUSAL_SECONDS
from agent.engine.events import Notice
from tests.support.network import Link, Network
from tests.unit.engine.machines import Machine

GATEWAY, OPERATOR = "203.0.113.20", "203.0.113.30"
PEER = '[peer.{}]\nid = "{}.example"\nlocal_id = "{}.example"\nremote_ts = "10.9.0.1"\n'


def machines(gateway: str, operator: str) -> tuple[Network, Machine, Machine]:
    network = Network()
    cabin = Machine("cabin", GATEWAY, config=PEER.format("laptop", "laptop", "cabin") + gateway)
    call = f'address = "{GATEWAY}"\n'
    laptop = Machine(
        "laptop", OPERATOR, config=PEER.format("cabin", "cabin", "laptop") + call + operator
    )
    quick = Link(delay=0.001)
    for machine, address in ((cabin, GATEWAY), (laptop, OPERATOR)):
        network.host(machine.name, machine, (address, network.public), link=quick)
    return network, cabin, laptop


def test_once_a_minute():
    network, cabin, laptop = machines('psk = "0123456789abcdef!"', 'psk = "another-0123456789"')
    laptop.engine.connect("cabin", network.now)
    network.run(TELL_REFUSAL_SECONDS / 2)
    notices = [event for event in cabin.events if isinstance(event, Notice)]
    assert [notice.text for notice in notices] == ["laptop was not let in: the proof is wrong"]
    network.run(4 * TELL_REFUSAL_SECONDS)
    notices = [event for event in cabin.events if isinstance(event, Notice)]
    assert 2 <= len(notices) <= 5
    assert not [event for event in laptop.events if isinstance(event, Notice)]
