"""What can go wrong between a person and a point: one class each, with a code word for programs.

The code travels in the JSON of the gateway; `failure_from_code` makes the same class of it again
at the other end, so that the command's exit code is right there, too.
"""

from __future__ import annotations

from agent.errors import (
    HearthgateError,
    InputError,
    RefusedError,
    TemporaryError,
    UnavailableError,
    UnknownNameError,
)


class ServiceError(HearthgateError):
    """The device could not be asked."""

    code = "failed"
    http_status = 500
    old: float | int | bool | None = None  # what a point read before a write failed


class UnknownDevice(ServiceError, UnknownNameError):
    """There is no device of this name, or it was not granted."""

    code = "unknown_device"
    http_status = 404


class UnknownPoint(ServiceError, UnknownNameError):
    """The device has no point of this name, or it was not granted."""

    code = "unknown_point"
    http_status = 404


class NotGranted(ServiceError, RefusedError):
    """This was not granted; the owner of the gateway can do so with `hearthgate grant`."""

    code = "not_granted"
    http_status = 403


class NotWritable(ServiceError, RefusedError):
    """The point is not writable."""

    code = "not_writable"
    http_status = 403


class OutOfLimits(ServiceError, RefusedError):
    """The value is outside of the point's limits."""

    code = "out_of_limits"
    http_status = 422


class BadValue(ServiceError, InputError):
    """The value is not what the point takes."""

    code = "bad_value"
    http_status = 400


class BadRequest(ServiceError, InputError):
    """The request is not understood."""

    code = "bad_request"
    http_status = 400


class DeviceError(ServiceError, UnavailableError):
    """The device gives no value."""

    code = "device_error"
    http_status = 502


class PortClosed(DeviceError):
    """The serial port is not there: is the adapter plugged in?"""

    code = "port_closed"
    http_status = 503


class NoAnswer(DeviceError):
    """The device does not answer: is it switched on, are unit, baud rate and parity right?"""

    code = "no_answer"
    http_status = 504


class Garbled(DeviceError):
    """What the device answers is garbled: are baud rate, parity and wiring right?"""

    code = "garbled"


class NotANumber(DeviceError):
    """The device holds something that is not a number."""

    code = "not_a_number"


class DeviceRefused(DeviceError):
    """The device refuses."""

    code = "device_refused"

    def __init__(self, text: str = "", exception: int = 0) -> None:
        super().__init__(*([text] if text else []))
        self.exception = exception


class NotTaken(DeviceError):
    """The device took the write, but the value is another one afterwards."""

    code = "not_taken"


class TooBusy(DeviceError, TemporaryError):
    """Too many requests wait for this device; try again."""

    code = "busy"
    http_status = 503
    exit_code = 75


_CLASSES: tuple[type[ServiceError], ...] = (
    UnknownDevice,
    UnknownPoint,
    NotGranted,
    NotWritable,
    OutOfLimits,
    BadValue,
    BadRequest,
    DeviceError,
    PortClosed,
    NoAnswer,
    Garbled,
    NotANumber,
    DeviceRefused,
    NotTaken,
    TooBusy,
)


def failure_from_code(code: str, sentence: str) -> ServiceError:
    """The error that the other end had; an unknown code becomes a plain ServiceError."""
    for cls in _CLASSES:
        if cls.code == code:
            return cls(sentence)
    return ServiceError(sentence)
