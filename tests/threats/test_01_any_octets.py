"""THREATS 1: any octet string is parsed or one typed error, little work and memory, and we live."""

from __future__ import annotations

import ast
import random
import sys
import tracemalloc
from pathlib import Path as File

import pytest

from agent.datagram import Address, Dropped, Path, Received, Transmit
from agent.wire.codes import ExchangeType
from tests.support.attacker import FROM_A, outputs_of
from tests.support.pair import (
    A_TO_B,
    established,
    make_pair,
)
from tests.unit.engine.machines import Machine


def test_nothing_but_drops_for_truncated_and_changed_octets() -> None:
    """THREATS 1, 2: at every stage, every message truncated everywhere and one octet changed."""
    chance = random.Random(1)
    pair = make_pair(child=True)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.drain()
    for _ in range(20):
        if not pair.pending:
            break
        datagram = pair.pending.pop(0)
        receiver = pair.other(datagram.sender)
        data = datagram.data
        bad = [data[:cut] for cut in range(0, len(data), 3)]
        bad += [data + b"\0", data + data, b"", bytes(4) + data]
        for _ in range(200):
            at = chance.randrange(len(data))
            flipped = data[at] ^ (1 << chance.randrange(8))
            bad.append(data[:at] + bytes((flipped,)) + data[at + 1 :])
        first = data[18] == ExchangeType.IKE_SA_INIT
        for octets in bad:
            receiver.ike.receive(datagram.arriving, octets, pair.now)
            outputs = outputs_of(receiver)
            if not first:
                # Nothing proven: one drop for each, or a cached answer for what is the same.
                kinds = {type(o) for o in outputs}
                assert kinds <= {Dropped, Transmit}
                sent = sum(len(o.data) for o in outputs if isinstance(o, Transmit))
                assert sent <= len(octets)
        pair.deliver(datagram)
    else:
        pytest.fail("this never ends")
    # An IKE_SA_INIT with a changed octet is somebody else's: it may have been answered, and then
    # the handshake fails by its own signature; but nothing hurts, and a fresh one works.
    pair.sleep(60)
    if len(pair.a.ike) == 0:
        pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
        pair.sleep(10)
    assert pair.a.sa.established
    assert pair.b.sa.established


def test_random_octets() -> None:
    chance = random.Random(2)
    pair = established(make_pair())
    spis = pair.b.sa.spis
    for _ in range(3000):
        octets = chance.randbytes(chance.choice((0, 1, 3, 27, 28, 29, 60, 200)))
        if chance.random() < 0.5 and len(octets) >= 28:
            exchange, flags = chance.choice((34, 35, 36, 37, 240)), chance.choice((0, 8, 32, 40))
            head = spis + bytes((chance.choice((0, 33, 41, 46)), 0x20, exchange, flags))
            octets = head + chance.randbytes(4) + len(octets).to_bytes(4, "big") + octets[28:]
        pair.b.ike.receive(FROM_A, octets, pair.now)
    outputs = outputs_of(pair.b)
    assert sum(isinstance(o, Dropped) for o in outputs) == 3000
    # At most one INVALID_IKE_SPI and one probe, however many there were.
    assert len(outputs) <= 3002
    assert pair.b.sa.established


def _worst() -> dict[str, bytes]:
    """What makes the most objects of one datagram."""
    v = (4).to_bytes(2, "big")
    chain = [bytes((43, 0)) + v] * 16000
    many_notifies = b"".join(bytes((41, 0, 0, 8, 0, 0, 0x40, 0x10)) for _ in range(8000))
    transform = bytes((3, 0, 0, 8, 1, 0, 0, 12))
    proposal = bytes((2, 0)) + (8 + 255 * 8).to_bytes(2, "big") + bytes((1, 1, 0, 255))
    proposals = (proposal + transform * 255) * 31
    sa = bytes((0, 0)) + (4 + len(proposals)).to_bytes(2, "big") + proposals
    selector = bytes((7, 0, 0, 16, 0, 0, 255, 255)) + bytes(8)
    ts = bytes((45, 0)) + (8 + 255 * 16).to_bytes(2, "big") + bytes((255, 0, 0, 0)) + selector * 255
    attribute = bytes((0, 1, 0, 0)) * 16000
    cp = bytes((0, 0)) + (8 + len(attribute)).to_bytes(2, "big") + bytes((1, 0, 0, 0)) + attribute
    spis = b"spi." * 16000
    delete = bytes((0, 0)) + (8 + len(spis)).to_bytes(2, "big") + b"\3\4\x3e\x80" + spis
    firsts = {
        "vendor IDs": (43, b"".join(chain)),
        "notifies": (41, many_notifies),
        "proposals": (33, sa),
        "selectors": (44, ts * 15),
        "attributes": (47, cp),
        "SPIs to delete": (42, delete),
    }
    found = {}
    for name, (first, octets) in firsts.items():
        head = b"attacker" + bytes(8) + bytes((first, 0x20, 34, 8)) + bytes(4)
        found[name] = head + (28 + len(octets)).to_bytes(4, "big") + octets
    return found


@pytest.mark.parametrize("exchange", [34, 35, 36, 37, 43, 44, 240])
@pytest.mark.parametrize("data", _worst().values(), ids=_worst())
def test_the_worst_datagrams_cost_little(data: bytes, exchange: int) -> None:
    """On a machine with all roles: a megabyte at most, and few calls for 64 kB."""
    engine = Machine("m", "10.0.0.2", config='[mediate]\naddress = "203.0.113.10"').engine
    path = Path(Address.parse("10.0.0.2", 4500), Address.parse("198.18.0.1", 9999))
    octets = bytes(4) + data[:18] + bytes((exchange,)) + data[19:]
    engine.receive_datagrams([Received(path, octets)], 1.0)  # imports and caches
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    tracemalloc.start()
    sys.setprofile(count)
    try:
        engine.receive_datagrams([Received(path, octets)], 2.0)
    finally:
        sys.setprofile(None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1_000_000
    assert calls < 10_000
    assert len(engine._ike._by_spi) == 0


def test_no_assert_keeps_input_out() -> None:
    """Under -O they are gone: each only says, to a type checker, what cannot be otherwise."""
    root = File(__file__).parent.parent.parent
    for file in [*root.glob("agent/**/*.py"), *root.glob("board/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Assert):
                said = ast.unparse(node.test)
                assert said.endswith(" is not None") or said.removeprefix("not ").startswith(
                    "isinstance("
                ), f"{file}:{node.lineno}: assert {said}"
