"""The HTTP surface of a gateway: which devices there are, get and set of points.

    GET /api/devices                     {"devices": [...]}, as far as they were granted
    GET /api/points/DEVICE               {"device": …, "points": [{"point", "value", "unit", …}]}
    GET /api/points/DEVICE/POINT         {"device": …, "point": …, "value": …, "unit": …}
    PUT /api/points/DEVICE/POINT         body {"value": 21.5}; answers with old and read-back value

Errors are {"error": a sentence, "code": a word} with a fitting status. Who asks is known by the
source address, which IPsec has tied to a key; there are no cookies and nothing to log in to. A
browser on the operator's machine must not be made a tool of other sites: a write wants JSON as its
content type and no foreign Origin, and Host must not be somebody's domain (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import json
import logging
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from microdot import Microdot, Request, Response

from agent.bridge import failures

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.bridge.grants import Peer

_log = logging.getLogger("agent.web")


class PointService(Protocol):
    """What the surface stands on: `agent.services.Services`."""

    def peer_at(self, address: str) -> Peer | None:
        """Who has this inner address."""

    def devices(self, peer: Peer) -> list[dict[str, Any]]:
        """What the peer may see."""

    async def get(self, device: str, point: str | None, peer: Peer) -> dict[str, Any]:
        """Raises failures.ServiceError."""

    async def set(self, device: str, point: str, value: object, peer: Peer) -> dict[str, Any]:
        """Raises failures.ServiceError."""


def make_app(service: PointService) -> Microdot:
    """The microdot application; `WebServer` feeds it with requests that are well formed."""
    app: Microdot = Microdot()

    async def list_devices(request: Request) -> Response:
        async def work(peer: Peer) -> dict[str, Any]:
            return {"devices": service.devices(peer)}

        return await _answer(service, request, work)

    async def read_device(request: Request, device: str) -> Response:
        return await _answer(service, request, lambda peer: service.get(device, None, peer))

    async def read_point(request: Request, device: str, point: str) -> Response:
        return await _answer(service, request, lambda peer: service.get(device, point, peer))

    async def write_point(request: Request, device: str, point: str) -> Response:
        async def work(peer: Peer) -> dict[str, Any]:
            _check_origin(request)
            return await service.set(device, point, _value_of(request), peer)

        return await _answer(service, request, work)

    app.get("/api/devices")(list_devices)
    app.get("/api/points/<device>")(read_device)
    app.get("/api/points/<device>/<point>")(read_point)
    app.put("/api/points/<device>/<point>")(write_point)
    for status, text in (
        (400, "the request is not understood"),
        (404, "there is no such page; points are under /api/points/DEVICE/POINT"),
        (405, "this method does not work here: read with GET, write with PUT"),
        (413, "the request is too long"),
        (500, "something went wrong in the gateway; its log says what"),
    ):
        app.errorhandler(status)(_error_page(status, text))
    return app


def _error_page(status: int, text: str) -> Callable[[Request | None], Response]:
    word = {404: "not_found", 405: "bad_method", 413: "too_long", 500: "failed"}.get(status)

    def page(request: Request | None) -> Response:
        return error_response(status, word or "bad_request", text)

    return page


async def _answer(
    service: PointService,
    request: Request,
    work: Callable[[Peer], Awaitable[dict[str, Any]]],
) -> Response:
    """The result of `work`, or its failure, as JSON."""
    try:
        _check_host(request)
        peer = service.peer_at(request.client_addr[0])
        if peer is None:
            raise failures.NotGranted
        return _json(200, await work(peer))
    except failures.ServiceError as error:
        return error_response(error.http_status, error.code, error.sentence)
    except Exception as error:  # a fault of ours must not show the caller more than that
        _log.error("%s %.60r: %r", request.method, request.path, error)
        return error_response(500, "failed", "something went wrong in the gateway")


def error_response(status: int, code: str, sentence: str) -> Response:
    """{"error": sentence, "code": code} with `status`."""
    return _json(status, {"error": sentence, "code": code})


def _json(status: int, body: dict[str, Any]) -> Response:
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    text = json.dumps(body, ensure_ascii=False, allow_nan=False)
    return Response(text, status, headers, _REASONS.get(status, "Error"))


_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    422: "Unprocessable Content",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


def _value_of(request: Request) -> object:
    """The `value` of the JSON body. Raises failures.BadRequest."""
    if (request.content_type or "").split(";")[0].strip().lower() != "application/json":
        raise failures.BadRequest("a value is sent as application/json")
    try:
        body = json.loads((request.body or b"").decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise failures.BadRequest('the body must be JSON such as {"value": 21.5}') from None
    if not isinstance(body, dict) or set(body) != {"value"}:
        raise failures.BadRequest('the body must be JSON such as {"value": 21.5}')
    return body["value"]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are not JSON


def _check_host(request: Request) -> None:
    """Host is an address, or a name without a dot (from the user's own hosts file), or absent."""
    host = str(request.headers.get("Host", ""))
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if "." not in name and not host.startswith("["):
        return
    try:
        ipaddress.ip_address(name)
    except ValueError:
        raise failures.NotGranted("call the gateway by its inner address") from None


def _check_origin(request: Request) -> None:
    origin = str(request.headers.get("Origin", ""))
    if origin and origin != f"http://{request.headers.get('Host', '')}":
        raise failures.NotGranted("another site may not write here")
