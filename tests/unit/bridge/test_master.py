"""The master of one line, in virtual time: turns, retries, waits, broken answers."""

from __future__ import annotations

import pytest

from agent.bridge import modbus
from agent.bridge.master import BROADCAST_TURNAROUND, MAX_WAITING, Answer, Failure
from tests.unit.bridge.line import Line, config

READ = bytes.fromhex("0300000001")


def reading(value: int) -> bytes:
    return b"\3\2" + value.to_bytes(2, "big")


def frame(pdu: bytes, unit: int = 1) -> bytes:
    return modbus.encode_frame(unit, pdu)


@pytest.fixture
def line():
    return Line()


def test_a_request_is_framed_and_its_answer_comes_back(line):
    ticket = line.master.submit(1, 1, READ, line.now)
    assert line.drain() == [bytes.fromhex("010300000001840a")]
    line.master.receive(frame(reading(200)), line.now)
    line.drain()
    assert line.answers == [Answer(ticket, reading(200))]


def test_an_answer_octet_by_octet_is_whole_at_its_predicted_length(line):
    line.master.submit(1, 1, READ, line.now)
    line.drain()
    whole = frame(reading(7))
    for octet in whole[:-1]:
        line.now += 0.05  # slower than 3.5 characters: a USB adapter in need of a nap
        line.master.receive(bytes((octet,)), line.now)
        assert line.drain() == []
        assert not line.answers
    line.master.receive(whole[-1:], line.now)
    line.drain()
    assert line.answers[0].pdu == reading(7)


def test_one_on_the_wire_and_clients_take_turns(line):
    for client, register in ((1, 0), (1, 1), (1, 2), (2, 3), (3, 4)):
        line.master.submit(client, 1, bytes((3, 0, register, 0, 1)), line.now)
    order = []
    while frames := line.drain() or (line.step() and line.drain()):
        assert len(frames) == 1
        order.append(frames[0][3])
        line.master.receive(line.answer(frames[0]), line.now)
    assert order == [0, 3, 4, 1, 2]


def test_requests_are_a_pause_apart(line):
    line.master.submit(1, 1, READ, line.now)
    line.run()
    line.master.submit(1, 1, READ, line.now)
    line.run()
    times = [at for at, _ in line.sent]
    assert times[1] - times[0] == pytest.approx(0.1)


def test_silence_is_asked_again_three_times_and_then_told(line):
    line.answer = lambda _: b""
    start = line.now
    line.master.submit(1, 1, READ, line.now)
    line.run(60)
    assert len(line.sent) == 4
    assert line.answers[0].failure is Failure.SILENT
    # Four times 500 ms and what the frames take at 9600 baud, three pauses of 100 ms.
    assert 2.3 < line.now - start < 2.6
    assert line.master.counters["silent"] == 4


def test_a_slave_that_wakes_up_is_heard(line):
    line.controller.faults.silent_times = 2
    line.master.submit(1, 1, READ, line.now)
    line.run()
    assert line.answers[0].pdu == reading(200)
    assert len(line.sent) == 3


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: whole[:-1] + bytes((whole[-1] ^ 1,)),
        lambda whole: whole[:-1],
        lambda whole: b"\xff" + whole,
        lambda whole: frame(whole[1:-2], unit=9),
        lambda whole: frame(b"\4" + whole[2:-2]),
        lambda whole: frame(b"\3\4" + whole[3:-2] + b"\0\0"),
        lambda whole: whole * 200,
    ],
    ids=["crc", "cut", "noise before", "other unit", "other function", "longer", "babble"],
)
def test_a_garbled_answer_is_asked_again_and_then_an_exception_4(line, spoil):
    line.answer = lambda request: spoil(line.controller.answer(request))
    if spoil(b"12345678") == b"12345678" * 200:
        line.answer = lambda request: b"\xaa" * 5000
    line.master.submit(1, 1, READ, line.now)
    line.run(60)
    assert len(line.sent) == 4
    assert line.answers[0].failure is Failure.GARBLED
    assert Failure.GARBLED.value == 4


@pytest.mark.parametrize("noise", [b"\xaa", b"\1\3\2", b"\1"])
def test_a_line_that_never_falls_silent_is_given_up(line, noise):
    line.master.submit(1, 1, READ, line.now)
    start = line.now
    while not line.answers:
        line.drain()
        line.now += 0.003
        line.master.receive(noise, line.now)
        line.master.handle_timer(line.now)
        assert line.now - start < 10
    assert line.answers[0].failure is Failure.GARBLED
    assert len(line.sent) == 4


def test_the_slaves_own_exceptions_pass(line):
    line.controller.faults.exception = 2
    line.master.submit(1, 1, READ, line.now)
    line.run()
    assert line.answers[0].pdu == b"\x83\2"
    assert len(line.sent) == 1


def test_an_unknown_function_ends_by_silence_and_is_sent_once(line):
    line.master.submit(1, 1, b"\x41\1\2\3", line.now)
    line.run()
    assert line.answers[0].pdu == b"\x41\3\2\1"
    line.answer = lambda _: b""
    line.master.submit(1, 1, b"\x41\1\2\3", line.now)
    line.run()
    assert line.answers[1].failure is Failure.SILENT
    assert len(line.sent) == 2


def test_the_answer_to_an_earlier_write_is_not_taken_for_this_one(line):
    line.answer = lambda _: frame(bytes.fromhex("0600000064"))
    line.master.submit(1, 1, bytes.fromhex("06000000c8"), line.now)
    line.run(60)
    assert line.answers[0].failure is Failure.GARBLED


def test_a_broadcast_has_no_answer_and_the_line_rests(line):
    ticket = line.master.submit(1, 0, bytes.fromhex("06000000c8"), line.now)
    line.master.submit(1, 1, READ, line.now)
    line.run()
    assert line.answers[0] == Answer(ticket)
    assert line.controller.holding[0] == 200
    (first, _), (second, _) = line.sent
    assert second - first >= BROADCAST_TURNAROUND


def test_identical_reads_in_flight_share_one_answer(line):
    tickets = [line.master.submit(client, 1, READ, line.now) for client in (1, 2, 3)]
    other = line.master.submit(4, 2, READ, line.now)
    line.run()
    assert {a.ticket for a in line.answers if a.pdu == reading(200)} == set(tickets)
    assert [a.failure for a in line.answers if a.ticket == other] == [Failure.SILENT]
    assert line.master.counters["joined"] == 2


def test_writes_are_never_joined(line):
    write = bytes.fromhex("06000000c8")
    for client in (1, 2):
        line.master.submit(client, 1, write, line.now)
    line.run()
    assert len(line.sent) == 2


def test_who_left_is_not_asked_for(line):
    line.master.submit(1, 1, READ, line.now)
    line.drain()
    line.master.submit(2, 1, bytes.fromhex("0300050001"), line.now)
    line.master.cancel(1)
    line.master.cancel(2)
    line.answer = lambda _: b""
    line.run(60)
    assert len(line.sent) == 1
    assert line.answers == []
    line.answer = line.controller.answer
    line.master.submit(3, 1, READ, line.now)
    line.run()
    assert line.answers[0].pdu == reading(200)


def test_one_of_two_who_share_a_read_leaves(line):
    line.master.submit(1, 1, READ, line.now)
    kept = line.master.submit(2, 1, READ, line.now)
    line.master.cancel(1)
    line.run()
    assert [answer.ticket for answer in line.answers] == [kept]


def test_a_port_that_goes_fails_all_at_once_and_comes_back(line):
    for register in range(3):
        line.master.submit(register, 1, bytes((3, 0, register, 0, 1)), line.now)
    line.drain()
    line.master.port_closed(line.now)
    line.drain()
    assert [answer.failure for answer in line.answers] == [Failure.CLOSED] * 3
    assert line.master.next_timeout() is None
    line.master.submit(1, 1, READ, line.now)
    line.drain()
    assert line.answers[3].failure is Failure.CLOSED
    line.master.receive(b"ghost", line.now)
    line.master.port_opened(line.now)
    line.master.submit(1, 1, READ, line.now)
    line.run()
    assert line.answers[4].pdu == reading(200)


def test_the_queue_is_bounded(line):
    for client in range(MAX_WAITING + 2):
        line.master.submit(client, 1, b"\3" + client.to_bytes(2, "big") + b"\0\1", line.now)
    line.drain()
    assert line.master.waiting == MAX_WAITING
    assert [answer.failure for answer in line.answers] == [Failure.BUSY]


def test_without_a_pause_the_next_request_leaves_with_the_answer():
    line = Line(config(pause=0))
    line.master.submit(1, 1, READ, line.now)
    line.drain()
    line.master.submit(1, 1, bytes.fromhex("0300050001"), line.now)
    line.master.receive(frame(reading(1)), line.now)
    assert len(line.drain()) == 1
