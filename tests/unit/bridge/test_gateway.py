"""Modbus TCP: framing, order, what each role may, which octets reach the line (threat 35)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.bridge.gateway import MAX_BUFFER
from agent.bridge.grants import Peer, Role
from tests.unit.bridge.line import CONFIG, Line, adu, config

TECHNICIAN = Peer(name="vendor", role=Role.TECHNICIAN)
LOOKER = Peer(name="looker", grants=("connect:boiler",))
READ = bytes.fromhex("0300000001")
WRITE_21 = bytes.fromhex("06000000d2")


def session(peer=TECHNICIAN, made=CONFIG):
    line = Line(made)
    line.gateway.connect(7, peer, line.now)
    return line


def ask(line: Line, unit: int, pdu: bytes) -> bytes:
    """One request; the PDU of the answer, or nothing."""
    before = len(line.to_clients)
    line.gateway.receive(7, adu(0x1234, unit, pdu), line.now)
    line.run()
    if len(line.to_clients) == before:
        return b""
    client, data = line.to_clients[-1]
    assert client == 7
    assert data[:4] == b"\x12\x34\0\0"
    assert data[6] == unit
    assert int.from_bytes(data[4:6], "big") == len(data) - 6
    return data[7:]


def test_transaction_and_unit_are_echoed_around_the_slaves_answer():
    assert ask(session(), 1, READ).hex() == "030200c8"


def test_two_requests_in_one_segment_are_answered_in_order():
    line = session()
    line.gateway.receive(7, adu(1, 1, READ) + adu(2, 1, b"\3\0\1\0\1"), line.now)
    assert len(line.drain()) == 1  # one outstanding
    line.master.receive(line.answer(line.sent[0][1]), line.now)
    line.run()
    assert [data[:2] for _, data in line.to_clients] == [b"\0\1", b"\0\2"]


def test_a_request_octet_by_octet():
    line = session()
    for octet in adu(5, 1, READ):
        line.gateway.receive(7, bytes((octet,)), line.now)
    line.run()
    assert line.to_clients[0][1].hex() == "00050000000501030200c8"


@pytest.mark.parametrize(
    "head",
    ["000100010006", "000100000000", "000100000001", "0001000000ff", "00010000ffff"],
    ids=["protocol", "length 0", "length 1", "length 255", "length max"],
)
def test_a_length_or_protocol_without_meaning_ends_the_connection(head):
    line = session()
    line.gateway.receive(7, bytes.fromhex(head) + b"\1" + READ, line.now)
    line.drain()
    assert line.closed == [(7, "not Modbus TCP")]
    assert line.sent == []
    line.gateway.receive(7, adu(1, 1, READ), line.now)
    assert line.drain() == []


def test_a_length_that_disagrees_with_the_function_is_an_exception_and_not_forwarded():
    line = session()
    assert ask(line, 1, READ + b"\0").hex() == "8303"
    assert ask(line, 1, READ[:-1]).hex() == "8303"
    assert line.sent == []


def test_silent_and_garbled_slaves_and_a_lost_port():
    line = session()
    line.controller.faults.silent = True
    assert ask(line, 1, READ).hex() == "830b"
    line.controller.faults.silent = False
    line.controller.faults.bad_crc = True
    assert ask(line, 1, READ).hex() == "8304"
    line.master.port_closed(line.now)
    assert ask(line, 1, READ).hex() == "830a"


def test_units_off_the_list_are_not_reached():
    line = session()
    assert ask(line, 3, READ).hex() == "830a"
    assert ask(line, 255, READ).hex() == "830a"
    assert line.sent == []


@pytest.mark.parametrize("role", [Role.NONE, Role.READER, Role.OPERATOR])
def test_points_only_roles_have_no_raw_modbus(role):
    line = session(Peer(name="p", role=role))
    line.drain()
    assert line.closed == [(7, "not granted")]


@pytest.mark.parametrize(
    "text",
    [
        "0500000000",
        "06000000d2",
        "0f000000010101",
        "10000000010200d2",
        "16000000f20025",
        "1700000001000000010200d2",
        "0800010000",
        "2b0d0100",
        "150700000000000000",
        "6401",
    ],
)
def test_writes_are_denied_unless_granted(text):
    line = session(LOOKER)
    pdu = bytes.fromhex(text)
    assert ask(line, 1, pdu) == bytes((pdu[0] | 0x80, 1))
    assert line.sent == []
    assert line.records[-1]["result"] == "refused: not granted"
    assert line.records[-1]["peer"] == "looker"
    assert ask(line, 1, READ).hex() == "030200c8"


def test_a_write_is_forwarded_as_it_came_and_recorded():
    line = session()
    assert ask(line, 1, WRITE_21) == WRITE_21
    assert line.sent[0][1][1:-2] == WRITE_21
    assert line.records == [
        {
            "peer": "vendor",
            "device": "boiler",
            "point": "",
            "old": None,
            "new": "00d2",
            "result": "ok",
            "unit": 1,
            "function": 6,
            "registers": [0, 0],
        }
    ]


@pytest.mark.parametrize(
    "text",
    [
        "06000000012d"[:10],  # 0.1 °C
        "060000012d",  # 30.1 °C
        "100000000102012d",
        "100000000306012d00000000",
        "16000000ffff012d",
        "17000000010000000102012d",
        "10000a0001020000",  # half of a float32 with limits
        "10000a0002047fc00000",  # not a number
        "10000a00020440c00000",  # 6.0
    ],
)
def test_no_role_lifts_the_limits_of_a_point(text):
    line = session(Peer(name="o", role=Role.OWNER))
    pdu = bytes.fromhex(text)
    if pdu[0] == 6 and pdu[3:5] == b"\0\0":
        pdu = bytes.fromhex("0600000001")
    expected = 3
    assert ask(line, 1, pdu) == bytes((pdu[0] | 0x80, expected))
    assert line.sent == []
    assert str(line.records[-1]["result"]).startswith("refused: ")


def test_within_the_limits_several_registers_pass():
    line = session()
    assert ask(line, 1, bytes.fromhex("10000a0002043fc00000")).hex() == "10000a0002"  # 1.5
    assert ask(line, 2, bytes.fromhex("060000012d")).hex() == "860b"  # unit 2 has no such point


def test_registers_that_may_be_written_raw():
    line = session(made=config(raw_write_registers=(range(40, 50),)))
    assert ask(line, 1, WRITE_21).hex() == "8602"
    assert ask(line, 1, bytes.fromhex("0600280001")).hex() == "0600280001"
    assert ask(line, 1, bytes.fromhex("10003100020400000000")).hex() == "9002"
    assert ask(line, 1, bytes.fromhex("6401")).hex() == "e402"
    line = session(Peer(name="p", grants=("raw-write:boiler/40-49",)))
    assert ask(line, 1, WRITE_21).hex() == "8601"
    assert ask(line, 1, bytes.fromhex("0600280001")).hex() == "0600280001"


def test_broadcast_is_off_unless_configured_and_has_no_reply():
    line = session()
    assert ask(line, 0, WRITE_21).hex() == "860a"
    assert line.sent == []
    line = session(made=config(broadcast=True))
    assert ask(line, 0, WRITE_21) == b""
    assert line.controller.holding[0] == 210
    assert line.records[-1]["result"] == "sent"
    assert ask(line, 0, READ).hex() == "830a"
    assert ask(line, 0, bytes.fromhex("060000012d")).hex() == "8603"
    assert ask(line, 1, READ).hex() == "030200d2"  # and the session goes on


def test_a_write_of_somebody_who_left_is_done_once_and_recorded():
    line = session()
    line.gateway.receive(7, adu(1, 1, WRITE_21), line.now)
    line.gateway.disconnect(7)
    line.run()
    assert len(line.sent) == 1
    assert line.records[-1]["result"] == "ok"
    assert line.to_clients == []
    line.gateway.connect(7, TECHNICIAN, line.now)
    line.gateway.receive(7, adu(2, 1, READ), line.now)
    line.gateway.disconnect(7)
    line.run()
    assert line.to_clients == []


def test_idle_connections_are_closed_and_waiting_ones_are_not():
    line = session(made=config(idle_timeout=1, retries=5))
    line.controller.faults.silent = True
    line.gateway.receive(7, adu(1, 1, READ), line.now)
    line.gateway.connect(8, TECHNICIAN, line.now)
    start = line.now
    while not line.to_clients:
        assert line.step()
        line.drain()
    assert line.now - start > 2
    assert line.closed == [(8, "idle")]
    while line.step():
        line.drain()
    assert line.closed == [(8, "idle"), (7, "idle")]


def test_the_number_of_connections_is_bounded():
    line = session(made=config(connections=2))
    line.gateway.connect(8, TECHNICIAN, line.now)
    line.gateway.connect(9, TECHNICIAN, line.now)
    line.drain()
    assert line.closed == [(9, "too many connections")]
    line.gateway.disconnect(8)
    line.gateway.connect(10, TECHNICIAN, line.now)
    line.drain()
    assert len(line.closed) == 1


def test_who_sends_ahead_is_not_read():
    line = session()
    line.gateway.receive(7, adu(1, 1, READ) * 20, line.now)
    assert not line.gateway.is_full(7)
    line.gateway.receive(7, adu(1, 1, READ) * (MAX_BUFFER // 12), line.now)
    assert line.gateway.is_full(7)
    line.run(60)
    assert not line.gateway.is_full(7)


@given(st.lists(st.binary(max_size=40), max_size=8), st.sampled_from([TECHNICIAN, LOOKER]))
def test_whatever_a_client_sends_only_allowed_requests_reach_the_line(pieces, peer):
    line = session(peer)
    for piece in pieces:
        line.gateway.receive(7, piece, line.now)
    line.run(5)
    for _, frame in line.sent:
        assert frame[0] in CONFIG.units
        if peer is LOOKER:
            assert frame[1] in (1, 2, 3, 4, 7, 8, 11, 12, 17, 20, 24, 43)
