"""A raw serial port and its clients, in virtual time."""

from __future__ import annotations

import pytest

from agent.bridge.backoff import HEALTHY_SECONDS, LAST_DELAY, Backoff
from agent.bridge.devices import Busy, Framing, LineConfig, SerialConfig, Sharing
from agent.bridge.grants import Peer, Role
from agent.bridge.outputs import Audit, CloseClient, Probe, ResetLine, ToClient, ToLine
from agent.bridge.serial_hub import BUSY_TEXT, MAX_BACKLOG, PROBE_SECONDS, SerialHub

PEER = Peer(name="laptop", role=Role.TECHNICIAN)
NOW = 50.0


def hub(**more):
    made = SerialHub(SerialConfig(name="bus", line=LineConfig(port="/dev/ttyUSB0"), **more))
    made.port_opened(NOW)
    return made


def drain(made):
    found = []
    while (output := made.poll_output()) is not None:
        if not isinstance(output, Audit):
            found.append(output)
    return found


def records(made):
    found = []
    while (output := made.poll_output()) is not None:
        if isinstance(output, Audit):
            found.append(output.record)
    return found


def test_octets_go_both_ways_and_a_frame_leaves_as_one_piece():
    made = hub()
    made.connect(1, PEER, NOW)
    assert drain(made) == [ResetLine()]
    made.receive_client(1, b"hello", NOW)
    assert drain(made) == [ToLine(b"hello")]
    made.receive_line(b"wo", NOW)
    made.receive_line(b"rld", NOW + 0.001)
    assert drain(made) == []
    at = made.next_timeout()
    assert at == pytest.approx(NOW + 0.001 + 20 / 9600)
    made.handle_timer(at)
    assert drain(made) == [ToClient(1, b"world")]
    assert made.next_timeout() is None


@pytest.mark.parametrize(("baud", "gap"), [(300, 0.020), (9600, 20 / 9600), (115200, 0.001)])
def test_the_gap_is_two_characters_between_1_and_20_ms(baud, gap):
    made = SerialHub(SerialConfig(name="b", line=LineConfig(port="/dev/x", baud=baud)))
    made.port_opened(NOW)
    made.connect(1, PEER, NOW)
    made.receive_line(b"x", NOW)
    assert made.next_timeout() == pytest.approx(NOW + gap)


def test_a_line_that_never_rests_is_still_passed_on():
    made = hub()
    made.connect(1, PEER, NOW)
    drain(made)
    now, last = NOW, NOW
    got = 0
    while now < NOW + 2:
        made.receive_line(b"x", now)
        made.handle_timer(now)
        for output in drain(made):
            got += len(output.data)
            assert now - last < 0.26
            last = now
        now += 0.001
    assert got > 1700


def test_a_busy_port_answers_and_closes():
    made = hub()
    made.connect(1, PEER, NOW)
    drain(made)
    made.connect(2, PEER, NOW)
    assert drain(made) == [Probe(1)]
    assert made.is_waiting(2)
    made.alive(1)
    assert drain(made) == [ToClient(2, BUSY_TEXT), CloseClient(2, "busy")]
    assert made.users == ["laptop"]
    assert BUSY_TEXT == b"Port already in use\r\n"


def test_a_dead_client_does_not_hold_the_port():
    made = hub()
    made.connect(1, PEER, NOW)
    made.connect(2, PEER, NOW)
    made.connect(3, PEER, NOW)
    drain(made)
    assert made.next_timeout() == NOW + PROBE_SECONDS
    made.handle_timer(NOW + PROBE_SECONDS)
    assert drain(made) == [
        CloseClient(1, "dead"),
        ResetLine(),
        ToClient(3, BUSY_TEXT),
        CloseClient(3, "busy"),
    ]
    made.receive_client(2, b"mine", NOW + 5)
    assert drain(made) == [ToLine(b"mine")]


def test_the_probe_resets_the_dead_connection():
    made = hub()
    made.connect(1, PEER, NOW)
    made.connect(2, PEER, NOW)
    drain(made)
    made.disconnect(1, NOW + 1)
    assert drain(made) == [ResetLine()]
    assert not made.is_waiting(2)
    assert made.next_timeout() is None


def test_newcomers_are_bounded():
    made = hub()
    for client in range(1, 9):
        made.connect(client, PEER, NOW)
    refused = [output.client for output in drain(made) if isinstance(output, CloseClient)]
    assert refused == [6, 7, 8]


def test_busy_drop_gives_the_port_to_the_newcomer():
    made = hub(busy=Busy.DROP)
    made.connect(1, PEER, NOW)
    drain(made)
    made.connect(2, PEER, NOW)
    assert drain(made) == [CloseClient(1, "taken over"), ResetLine()]


def test_readers_and_one_writer():
    made = hub(sharing=Sharing.READERS)
    for client in (1, 2):
        made.connect(client, PEER, NOW)
    drain(made)
    made.receive_client(2, b"no", NOW)
    assert drain(made) == []
    made.receive_client(1, b"yes", NOW)
    assert drain(made) == [ToLine(b"yes")]
    made.receive_line(b"all", NOW)
    made.handle_timer(NOW + 1)
    assert drain(made) == [ToClient(1, b"all"), ToClient(2, b"all")]
    made.disconnect(1, NOW)
    drain(made)
    made.receive_client(2, b"now", NOW)
    assert drain(made) == [ToLine(b"now")]


def test_shared_writers_are_kept_apart_by_lines():
    made = hub(sharing=Sharing.SHARED, framing=Framing.LINE)
    for client in (1, 2):
        made.connect(client, PEER, NOW)
    drain(made)
    made.receive_client(1, b"TT=", NOW)
    made.receive_client(2, b"GW=1\r\nTC", NOW)
    made.receive_client(1, b"21.5\r\n", NOW)
    assert drain(made) == [ToLine(b"GW=1\r\n"), ToLine(b"TT=21.5\r\n")]
    made.handle_timer(NOW + 1)
    assert drain(made) == [ToLine(b"TC")]
    made.receive_client(1, b"x" * 3000, NOW)
    assert drain(made) == [ToLine(b"x" * 3000)]


def test_a_read_only_port_takes_nothing():
    made = hub(read_only=True)
    made.connect(1, PEER, NOW)
    drain(made)
    made.receive_client(1, b"no", NOW)
    assert drain(made) == []
    assert made.counters["not_written"] == 2


def test_a_slow_reader_is_closed_and_the_others_read_on():
    made = hub(sharing=Sharing.READERS)
    for client in (1, 2):
        made.connect(client, PEER, NOW)
    drain(made)
    made.backlog(1, MAX_BACKLOG)
    assert drain(made) == []
    made.backlog(1, MAX_BACKLOG + 1)
    assert drain(made) == [CloseClient(1, "too slow")]
    made.receive_line(b"x", NOW)
    made.handle_timer(NOW + 1)
    assert drain(made) == [ToClient(2, b"x")]


def test_an_unplugged_port_closes_its_clients_and_tells_newcomers():
    made = hub()
    made.connect(1, PEER, NOW)
    drain(made)
    made.receive_line(b"last words", NOW)
    made.port_closed(NOW)
    assert drain(made) == [ToClient(1, b"last words"), CloseClient(1, "port closed")]
    made.connect(2, PEER, NOW)
    assert [type(output) for output in drain(made)] == [ToClient, CloseClient]
    made.port_opened(NOW)
    made.connect(3, PEER, NOW)
    assert drain(made) == [ResetLine()]


def test_without_the_grant_there_is_no_port():
    made = hub()
    made.connect(1, Peer(name="p", role=Role.OPERATOR), NOW)
    assert drain(made) == [CloseClient(1, "not granted")]


def test_who_wrote_is_recorded_once_and_at_the_end():
    made = hub()
    made.connect(1, PEER, NOW)
    for _ in range(5):
        made.receive_client(1, b"12", NOW)
    made.disconnect(1, NOW)
    assert [(r["peer"], r["new"], r["result"]) for r in records(made)] == [
        ("laptop", "", "writing begun"),
        ("laptop", "10 octets", "writing ended"),
    ]
    made.connect(2, PEER, NOW)
    made.disconnect(2, NOW)
    assert records(made) == []


def test_backoff_grows_through_a_storm_and_forgets_it_after_health():
    backoff = Backoff()
    now = 0.0
    delays = []
    for _ in range(8):
        backoff.opened(now)
        delays.append(backoff.failed(now + 0.001))
    assert delays[:3] == [0.25, 0.5, 1.0]
    assert delays[-1] == LAST_DELAY
    backoff.opened(now)
    assert backoff.failed(now + HEALTHY_SECONDS) == 0.25
