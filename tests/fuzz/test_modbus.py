"""Invariants of the Modbus bridge under any octets from clients and from the line."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.bridge import modbus
from agent.bridge.gateway import MAX_BUFFER
from agent.bridge.grants import Peer, Role
from tests.fuzz.mutate import mutated
from tests.unit.bridge.line import Line, adu

TECHNICIAN = Peer(name="vendor", role=Role.TECHNICIAN)
LOOKER = Peer(name="looker", grants=("connect:boiler",))
READ = bytes.fromhex("0300000001")
REQUESTS = [
    READ, b"\1\0\0\0\x0a", b"\4\0\0\0\2", b"\5\0\0\xff\0", b"\6\0\0\0\xd2", b"\x0f\0\0\0\3\1\5",
    b"\x10\0\0\0\2\4\0\1\0\2", b"\x16\0\0\0\xf2\0\x25", b"\x17\0\0\0\1\0\0\0\1\2\0\7",
    b"\7", b"\x08\0\0ab", b"\x0b", b"\x11", b"\x14\7\6\0\4\0\1\0\2", b"\x18\0\4", b"\x2b\x0e\1\0",
]  # fmt: skip

# By the standard: single and multiple coils and registers, file records, mask, read and write.
WRITES = (5, 6, 15, 16, 21, 22, 23)


@settings(max_examples=800)
@given(st.binary(min_size=1, max_size=260), st.binary(max_size=260))
def test_any_request_and_answer_are_judged_and_never_raise(request, answer):
    length = modbus.answer_length(request, answer)
    assert length >= modbus.MORE_OCTETS
    assert isinstance(modbus.answer_fits(request, answer), bool)
    assert isinstance(modbus.has_valid_crc(answer), bool)
    assert modbus.has_valid_crc(modbus.encode_frame(1, request))


def test_who_may_only_read_never_gets_a_write_onto_the_line():
    """Any stream of mutated frames, cut anywhere: what reaches the line is whole and only reads."""
    source = random.Random(1)
    for _ in range(60):
        line = Line()
        line.gateway.connect(7, LOOKER, line.now)
        stream = b""
        for number in range(30):
            pdu = source.choice(REQUESTS)
            frame = adu(number, source.choice((0, 1, 2, 3, 255)), pdu)
            stream += mutated(source, frame, start=source.choice((0, 7))) if number % 2 else frame
        while stream:
            length = source.randrange(1, 40)
            line.gateway.receive(7, stream[:length], line.now)
            stream = stream[length:]
            line.run(1)
        for _, frame in line.sent:
            assert modbus.has_valid_crc(frame)
            assert frame[1] not in WRITES, frame.hex()


def test_any_octets_of_the_line_leave_the_master_working():
    """Noise before, within, instead of and behind answers: then a true one is understood."""
    source = random.Random(2)
    line = Line()
    line.gateway.connect(7, TECHNICIAN, line.now)
    for _ in range(200):
        request = source.choice(REQUESTS)
        line.gateway.receive(7, adu(1, 1, request), line.now)
        for frame in line.drain():
            answer = line.answer(frame) or b""
            for piece in (mutated(source, answer or b"\1"), source.randbytes(source.randrange(9))):
                line.master.receive(piece, line.now)
                line.drain()
        line.answer = lambda frame: b""
        line.run(60)
        line.answer = line.controller.answer
        if 7 in [client for client, _ in line.closed]:
            line.closed.clear()
            line.gateway.connect(7, TECHNICIAN, line.now)
    assert line.master.waiting == 0
    line.to_clients.clear()
    line.gateway.receive(7, adu(0x4242, 1, READ), line.now)
    line.run()
    assert [data[:2] for _, data in line.to_clients] == [b"\x42\x42"]


@settings(max_examples=150)
@given(st.lists(st.binary(max_size=400), max_size=12))
def test_any_stream_of_a_client_stays_within_its_buffer(pieces):
    line = Line()
    line.gateway.connect(7, TECHNICIAN, line.now)
    for piece in pieces:
        line.gateway.receive(7, piece, line.now)
        line.run(1)
        session = line.gateway._sessions.get(7)
        assert session is None or len(session.buffer) <= MAX_BUFFER
