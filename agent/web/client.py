"""The other side of the HTTP surface: an operator asks a gateway for devices and points.

One request on one connection, bounded in size and time; the gateway's errors come back as the
classes of `agent.bridge.failures`, so that exit codes are the same at both ends. What the gateway
says is shown on terminals and logged, so it is made plain here.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any, Final, NoReturn

from agent.bridge.failures import failure_from_code
from agent.bridge.plain import plain, plain_text
from agent.errors import UnavailableError

MAX_ANSWER = 1 << 20  # 256 points of some 200 octets each are 50 kB
CONNECT_SECONDS = 10.0
_NOT_UNDERSTOOD: Final = "the gateway's answer is not understood"


async def request_json(
    address: str,
    method: str,
    path: str,
    body: object = None,
    *,
    port: int = 80,
    local_address: str | None = None,
    seconds: float = 65.0,
) -> dict[str, Any]:
    """GET `path` of the gateway at the inner `address`, or PUT {"value": 21.5} to it.

    Texts in the answer are one printable line each; "devices" and "points" at its top, if they are
    there, are lists of objects. Raises the failure that the gateway told, or UnavailableError.
    """
    text = b"" if body is None else json.dumps(body, allow_nan=False).encode()
    host = f"[{address}]" if ":" in address else address
    head = (
        f"{method} {path} HTTP/1.0\r\nHost: {host}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    try:
        async with asyncio.timeout(seconds):
            status, answer = await _exchange(address, port, local_address, head.encode() + text)
    except TimeoutError:
        raise UnavailableError(
            "the gateway does not answer; has it a device that is granted to this machine?"
        ) from None
    except OSError as error:
        # asyncio's own text is `Connect call failed` with the address as a tuple
        reason = os.strerror(error.errno) if error.errno else "no connection"
        raise UnavailableError(f"the gateway's points cannot be reached: {reason}") from None
    if status == 200:
        return answer
    raise failure_from_code(
        str(answer.get("code", "")), plain_text(str(answer.get("error", "failed")))
    )


async def _exchange(
    address: str, port: int, local_address: str | None, request: bytes
) -> tuple[int, dict[str, Any]]:
    local = (local_address, 0) if local_address else None
    async with asyncio.timeout(CONNECT_SECONDS):
        reader, writer = await asyncio.open_connection(address, port, local_addr=local)
    try:
        writer.write(request)
        data = bytearray()
        while len(data) < MAX_ANSWER and (piece := await reader.read(65536)):
            data += piece
    finally:
        writer.transport.abort()
    return _parse(bytes(data))


def _parse(data: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = data.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    try:
        status = int(words[1][:3])
        answer = plain(json.loads(body, parse_constant=_refuse_constant))
    except (IndexError, ValueError, RecursionError):
        raise UnavailableError(_NOT_UNDERSTOOD) from None
    if not isinstance(answer, dict) or not all(
        _are_rows(answer.get(key, [])) for key in ("devices", "points")
    ):
        raise UnavailableError(_NOT_UNDERSTOOD)
    return status, answer


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are not JSON


def _are_rows(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)
