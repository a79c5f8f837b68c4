"""Named points: numbers and registers, limits, and the dialogues that read and write."""

from __future__ import annotations

import math
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.bridge import failures, points
from agent.bridge.devices import NumberType, PointConfig, PointKind, WordOrder
from agent.bridge.master import Answer, Failure
from agent.operations.controller import Controller, crc
from tests.unit.bridge.line import PRESSURE, SETPOINT

WIDE = {"writable": True, "min": -1e12, "max": 1e12}


def point(name="p", register=0, **more):
    return PointConfig(name=name, register=register, **{**WIDE, **more})


@pytest.mark.parametrize(
    ("made", "data", "value"),
    [
        (point(), "ff38", -200),
        (point(type=NumberType.UINT16), "ff38", 65336),
        (point(scale=0.1), "01cf", 46.3),
        (point(scale=0.1, offset=-40), "01cf", 6.3),
        (point(type=NumberType.INT32), "fffffffe", -2),
        (point(type=NumberType.UINT32), "00010002", 65538),
        (point(type=NumberType.UINT32, word_order=WordOrder.LITTLE), "00010002", 131073),
        (point(type=NumberType.FLOAT32), "42393333", 46.3),
        (point(type=NumberType.FLOAT32, word_order=WordOrder.LITTLE), "33334239", 46.3),
    ],
)
def test_registers_and_numbers(made, data, value):
    assert points.decode_value(made, bytes.fromhex(data)) == value
    encoded, sent = points.encode_value(made, value)
    assert (encoded.hex(), sent) == (data, value)


@pytest.mark.parametrize("data", ["7fc00000", "7f800000", "ff800000"])
def test_a_float_that_is_no_number_has_no_value(data):
    assert points.decode_value(PRESSURE, bytes.fromhex(data)) is None


@pytest.mark.parametrize(
    "value", ["21", None, [21], {}, True, False, math.nan, math.inf, -math.inf, 10**400]
)
def test_what_is_no_number_is_refused(value):
    with pytest.raises(failures.BadValue):
        points.encode_value(SETPOINT, value)


@pytest.mark.parametrize("value", [4.99, 30.01, -1e300, 30.06, 2**70])
def test_limits_hold(value):
    with pytest.raises(failures.OutOfLimits):
        points.encode_value(SETPOINT, value)


def test_limits_hold_after_rounding_too():
    odd = replace(SETPOINT, max=21.55)
    assert points.encode_value(odd, 21.5)[1] == 21.5
    with pytest.raises(failures.OutOfLimits):
        points.encode_value(odd, 21.55)  # would be 21.6 in the register


def test_what_does_not_fit_the_register_is_out_of_limits():
    with pytest.raises(failures.OutOfLimits, match="int16"):
        points.encode_value(point(), 40000)
    with pytest.raises(failures.OutOfLimits, match="float32"):
        points.encode_value(point(type=NumberType.FLOAT32, max=1e300), 1e299)


@given(st.floats(5, 30))
def test_rounding_is_never_more_than_half_a_step_and_stays_within(value):
    data, sent = points.encode_value(SETPOINT, value)
    assert abs(sent - value) <= 0.05 + 1e-9
    assert 5 <= sent <= 30
    assert points.decode_value(SETPOINT, data) == sent


@given(
    st.sampled_from(list(NumberType)[:5]),
    st.sampled_from(list(WordOrder)),
    st.binary(min_size=4, max_size=4),
)
def test_every_raw_value_survives_the_way_back(kind, order, data):
    data = data[: 2 * kind.registers]
    made = point(type=kind, word_order=order, min=-4e38, max=4e38)
    value = points.decode_value(made, data)
    if value is not None and kind is not NumberType.FLOAT32:
        assert points.encode_value(made, value) == (data, value)
    elif value is not None:
        sent = points.encode_value(made, value)[1]
        assert struct.pack(">f", sent) == struct.pack(">f", value)


def answered(dialogue, controller: Controller, failures_at=()):
    """Drive a dialogue against the controller; the queries and the result."""
    asked = []
    try:
        query = next(dialogue)
        while True:
            asked.append(query)
            body = bytes((query.unit,)) + query.pdu
            frame = controller.answer(body + crc(body))
            if len(asked) - 1 in failures_at or not frame:
                answer = Answer(0, failure=Failure.SILENT)
            else:
                answer = Answer(0, frame[1:-2])
            query = dialogue.send(answer)
    except StopIteration as end:
        return asked, end.value


def test_neighbours_are_read_together():
    controller = Controller()
    wanted = [
        PointConfig(name="room", register=2, kind=PointKind.INPUT, scale=0.1),
        PointConfig(name="setpoint", register=0, scale=0.1),
        PointConfig(name="pressure", register=3, kind=PointKind.INPUT, type=NumberType.FLOAT32),
        PointConfig(name="flow", register=0, kind=PointKind.INPUT, scale=0.1),
        PointConfig(name="burner", register=0, kind=PointKind.DISCRETE, type=NumberType.BOOL),
    ]
    asked, readings = answered(points.read_points(wanted), controller)
    assert [r.value for r in readings] == [19.5, 20.0, 1.4, 46.5, True]
    assert sorted(query.pdu.hex() for query in asked) == [
        "0200000001",
        "0300000001",
        "0400000001",
        "0400020003",
    ]


def test_a_group_that_is_refused_is_read_one_by_one():
    controller = Controller()
    controller.holding = [200, 1]
    wanted = [PointConfig(name=f"p{at}", register=at) for at in range(3)]
    asked, readings = answered(points.read_points(wanted), controller)
    assert [r.value for r in readings] == [200, 1, None]
    assert isinstance(readings[2].failure, failures.DeviceRefused)
    assert "no such register" in readings[2].failure.sentence
    assert len(asked) == 4


def test_groups_are_no_longer_than_a_request():
    wanted = [PointConfig(name=f"p{at}", register=at) for at in range(130)]
    dialogue = points.read_points(wanted)
    assert next(dialogue).pdu.hex() == "030000007d"


def test_a_write_is_read_back():
    controller = Controller()
    asked, written = answered(points.write_point(SETPOINT, 21.53), controller)
    assert [query.pdu.hex() for query in asked] == ["0300000001", "06000000d7", "0300000001"]
    assert (written.old, written.value, controller.holding[0]) == (20.0, 21.5, 215)
    assert written.note == "21.53 was rounded to 21.5 (steps of 0.1 °C)"


def test_a_float_and_a_coil():
    controller = Controller()
    asked, written = answered(points.write_point(PRESSURE, 1.5), controller)
    assert asked[1].pdu.hex() == "10000a0002043fc00000"
    assert (written.value, written.note) == (1.5, "")
    pump = PointConfig(
        name="pump", register=3, kind=PointKind.COIL, type=NumberType.BOOL, writable=True
    )
    asked, written = answered(points.write_point(pump, 1.0), controller)
    assert asked[1].pdu.hex() == "050003ff00"
    assert written.value is True
    assert controller.coils[3]
    for wrong in ("on", 2, None, math.nan):
        with pytest.raises(failures.BadValue):
            points.check_value(pump, wrong)


class Stubborn(Controller):
    """Says yes and keeps its own value."""

    def _write(self, pdu: bytes) -> bytes:
        return pdu[:5]


def test_a_value_that_is_not_taken_is_told():
    dialogue = points.write_point(SETPOINT, 25)
    with pytest.raises(failures.NotTaken, match="25 was written, but it reads 20 afterwards") as e:
        answered(dialogue, Stubborn())
    assert e.value.old == 20.0


def test_a_silent_slave_is_not_written_to():
    controller = Controller()
    with pytest.raises(failures.NoAnswer):
        answered(points.write_point(SETPOINT, 25), controller, failures_at=(0,))
    assert controller.holding[0] == 200
    with pytest.raises(failures.NoAnswer) as caught:
        answered(points.write_point(SETPOINT, 25), controller, failures_at=(1,))
    assert caught.value.old == 20.0


def test_a_slave_that_refuses_the_write():
    controller = Controller()
    controller.holding = [200]
    with pytest.raises(failures.DeviceRefused) as caught:
        answered(points.write_point(replace(SETPOINT, register=9), 25), controller)
    assert caught.value.exception == 2


def test_failures_travel_as_code_and_sentence():
    for cls in failures._CLASSES:
        error = failures.failure_from_code(cls.code, "a sentence")
        assert type(error) is cls
        assert error.sentence == "a sentence"
        assert 400 <= cls.http_status < 600
    assert type(failures.failure_from_code("future", "x")) is failures.ServiceError
    assert failures.TooBusy().exit_code == 75
    assert failures.OutOfLimits().exit_code == 77
