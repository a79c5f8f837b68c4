"""A client of charon's control socket: the VICI protocol, packets in a stream, messages as dicts.

From strongSwan's published description of the protocol (src/libcharon/plugins/vici/README.md is its
home): a packet is a 4-octet length, a type octet, for requests a name, and a message of nested
sections, lists and values. Values stay text; nothing is interpreted.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

CMD_REQUEST, CMD_RESPONSE, CMD_UNKNOWN = 0, 1, 2
EVENT_REGISTER, EVENT_UNREGISTER, EVENT_CONFIRM, EVENT_UNKNOWN, EVENT = 3, 4, 5, 6, 7
SECTION_START, SECTION_END, KEY_VALUE, LIST_START, LIST_ITEM, LIST_END = 1, 2, 3, 4, 5, 6

Message = dict[str, Any]


class ViciError(Exception):
    """charon said no; the text is its own."""


def encode(message: Message) -> bytes:
    """Values are str (or anything with one), lists or dicts."""
    out = bytearray()
    for key, value in message.items():
        name = _short(key)
        if isinstance(value, dict):
            out += bytes([SECTION_START]) + name + encode(value) + bytes([SECTION_END])
        elif isinstance(value, (list, tuple)):
            out += bytes([LIST_START]) + name
            for item in value:
                out += bytes([LIST_ITEM]) + _long(item)
            out.append(LIST_END)
        else:
            out += bytes([KEY_VALUE]) + name + _long(value)
    return bytes(out)


def _short(text: str) -> bytes:
    raw = text.encode()
    return bytes([len(raw)]) + raw


def _long(value: object) -> bytes:
    raw = value if isinstance(value, bytes) else str(value).encode()
    return struct.pack("!H", len(raw)) + raw


def decode(data: bytes) -> Message:
    """The inverse of `encode`."""
    message, at = _section(data, 0)
    assert at == len(data)
    return message


def _section(data: bytes, at: int) -> tuple[Message, int]:
    message: Message = {}
    while at < len(data):
        kind = data[at]
        at += 1
        if kind == SECTION_END:
            return message, at
        length = data[at]
        key = data[at + 1 : at + 1 + length].decode()
        at += 1 + length
        if kind == SECTION_START:
            message[key], at = _section(data, at)
        elif kind == KEY_VALUE:
            message[key], at = _value(data, at)
        elif kind == LIST_START:
            items = []
            while data[at] == LIST_ITEM:
                item, at = _value(data, at + 1)
                items.append(item)
            at += 1  # LIST_END
            message[key] = items
    return message, at


def _value(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("!H", data, at)
    return data[at + 2 : at + 2 + length].decode(errors="replace"), at + 2 + length


class Vici:
    """One connection to the socket at `path`; a context manager."""

    def __init__(self, path: Path, timeout: float = 30.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Vici:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def request(self, command: str, message: Message | None = None) -> Message:
        """Call `command` and return its answer; raises ViciError if it reports failure."""
        self._send(CMD_REQUEST, _short(command) + encode(message or {}))
        kind, body = self._receive()
        if kind != CMD_RESPONSE:
            raise ViciError(f"{command}: not known")
        answer = decode(body)
        if answer.get("success", "yes") == "no":
            raise ViciError(f"{command}: {answer.get('errmsg', 'failed')}")
        return answer

    def stream(self, command: str, event: str, message: Message | None = None) -> list[Message]:
        """Call a command that answers with events (list-sas → list-sa); returns them all."""
        self._send(EVENT_REGISTER, _short(event))
        assert self._receive()[0] == EVENT_CONFIRM
        self._send(CMD_REQUEST, _short(command) + encode(message or {}))
        found = []
        while True:
            kind, body = self._receive()
            if kind == CMD_RESPONSE:
                return found
            assert kind == EVENT
            found.append(decode(body[1 + body[0] :]))

    def _send(self, kind: int, body: bytes) -> None:
        self._socket.sendall(struct.pack("!IB", 1 + len(body), kind) + body)

    def _receive(self) -> tuple[int, bytes]:
        (length,) = struct.unpack("!I", self._exactly(4))
        data = self._exactly(length)
        return data[0], data[1:]

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._socket.recv(count - len(data))
            if not more:
                raise ViciError("charon has closed its control socket")
            data += more
        return data
