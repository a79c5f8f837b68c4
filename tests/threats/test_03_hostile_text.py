"""THREATS 3: hostile text becomes one escaped, truncated line; nothing is executed."""

from __future__ import annotations

import ast
import logging
from dataclasses import replace
from pathlib import Path as File

import pytest

from agent.control import event_line
from agent.datagram import Address, Path, Received
from agent.errors import InputError
from agent.ike.events import IkeSaClosed
from agent.invitation import Invitation, decode_invitation, encode_invitation
from agent.wire.codes import IdType
from agent.wire.payloads import (
    Identification,
    IdiPayload,
    IdrPayload,
    NotifyPayload,
    VendorIdPayload,
)
from tests.support.exchanges import REQUESTS, RESPONSES, payloads_of, sealed
from tests.support.pair import A_TO_B, Pair, make_pair
from tests.unit.engine.machines import Machine

from agent.wire.message import encode_payloads  # isort: skip

HOSTILE = {
    "newline": b"evil\nERROR root: all is well\r\n",
    "escape": b"\x1b[2J\x1b]0;owned\x07",
    "nul": b"a\0b",
    "shell": b"$(reboot) `reboot` ; reboot | reboot & %s %n {0} {0.__class__}",
    "64 kB": b"A" * 65000,
    "right to left": "‮gnp.exe⁦".encode(),
    "no UTF-8": b"\xff\xfe\xc3\x28",
    "surrogate": b"\xed\xa0\x80",
}
all_texts = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)


def _is_safe(line: str) -> bool:
    return line.isprintable() and line.isascii() and len(line) <= 400


def _told(events: list) -> list[str]:
    return [str(e.detail) for e in events if isinstance(e, IkeSaClosed)]


@all_texts
@pytest.mark.parametrize("id_type", [1, 2, 3, 5, 9, 11, 13, 201])
def test_identities(text: bytes, id_type: int) -> None:
    """In every repr, in every event that names one, for both roles."""
    identity = Identification(id_type, text[:60000])
    assert _is_safe(identity.text)
    assert _is_safe(repr(identity))
    assert _is_safe(repr(IdiPayload(identity)))
    for scene, cls in ((REQUESTS[0], IdiPayload), (RESPONSES[0], IdrPayload)):
        pair, true = scene.start()
        message, cipher = payloads_of(pair, true)
        payloads = [cls(identity) if isinstance(p, cls) else p for p in message.payloads]
        data = sealed(message, cipher, *encode_payloads(payloads))
        receiver = pair.other(true.sender)
        receiver.ike.receive(true.arriving, data, pair.now)
        pair.settle()
        for event in (*pair.a.outputs, *pair.b.outputs):
            assert all(map(_is_safe, _told([event])))
        assert len(receiver.ike) == 0


@all_texts
def test_notifies_and_vendor_ids(text: bytes) -> None:
    """They are octets in a repr, cut short, whatever their type."""
    for payload in (NotifyPayload(16384, text), NotifyPayload(54321, text), VendorIdPayload(text)):
        assert _is_safe(repr(payload))
    for scene in (REQUESTS[0], RESPONSES[0]):
        pair, true = scene.start()
        message, cipher = payloads_of(pair, true)
        more = (NotifyPayload(24, text[:20000]), NotifyPayload(54321, text[:20000]))
        payloads = [*message.payloads, *more, VendorIdPayload(text[:20000])]
        data = sealed(message, cipher, *encode_payloads(payloads))
        pair.other(true.sender).ike.receive(true.arriving, data, pair.now)
        pair.settle()
        assert all(map(_is_safe, _told([*pair.a.outputs, *pair.b.outputs])))


@all_texts
def test_what_people_and_programs_are_told(text: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A whole machine is called by a stranger of this name: no event and no log line has it."""
    caplog.set_level(logging.DEBUG)
    machine = Machine("m", "10.0.0.2", config='[mediate]\naddress = "203.0.113.10"')
    pair: Pair = make_pair()
    stranger = replace(pair.a.peer, local_id=Identification(IdType.ID_FQDN, text[:3000]))
    pair.a.ike.connect(stranger, A_TO_B, pair.now)
    path = Path(Address.parse("10.0.0.2", 500), Address.parse("198.18.0.1", 500))
    pair.drain()
    for _ in range(4):
        for datagram in pair.pending:
            machine.engine.receive_datagrams([Received(path, datagram.data)], pair.now)
        pair.pending.clear()
        for transmit in machine.drain(pair.now):
            pair.a.ike.receive(A_TO_B, transmit.data, pair.now)
        pair.drain()
    assert machine.engine.dropped or pair.a.events(IkeSaClosed)  # it did get there
    lines = [str(line) for e in machine.events if (line := event_line(e)) is not None]
    assert all(map(_is_safe, [*map(repr, machine.events), *lines, *caplog.messages]))


@all_texts
def test_names_in_invitations(text: bytes) -> None:
    """A name that another machine proposes is printable, or the line that brings it is refused."""
    made = Invitation(
        mediator="203.0.113.10",
        mediator_key=bytes(32),
        gateway_mediation=bytes(32),
        gateway_identity=bytes(32),
        name=text.decode("utf-8", "replace")[:60],
        invited="laptop",
        role="operator",
        expires=1,
        seed=bytes(16),
    )
    line = encode_invitation(made)
    if made.name.isprintable():
        assert decode_invitation(line) == made
        return
    with pytest.raises(InputError) as caught:
        decode_invitation(line)
    assert _is_safe(caught.value.sentence)


def test_nothing_that_a_peer_says_is_executed() -> None:
    """No shell anywhere, no eval; only operations and the command line start programs at all."""
    root = File(__file__).parent.parent.parent
    starts = set()
    for file in [*root.glob("agent/**/*.py"), *root.glob("board/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "os.system", "os.popen"), file
                shell = [k for k in node.keywords if k.arg == "shell"]
                assert not shell, file
                if called.startswith("subprocess."):
                    starts.add(file.relative_to(root).parts[1])
    assert starts <= {"operations", "cli", "service.py"}
