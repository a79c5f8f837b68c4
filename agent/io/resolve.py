"""Names to addresses without blocking the event loop.

getaddrinfo of the C library in a thread: it knows /etc/hosts, mDNS and whatever else this
machine was told to use. The threads are daemons of our own, not the loop's pool, because a dead
name server holds them for half a minute and must not hold the daemon's end. The order is that of
RFC 6724 with the families taking turns (RFC 8305 section 4); the racing of section 5 belongs to
whoever sends. Left out: SVCB, caching (the resolver of the system does it), link-local scopes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from typing import Final

from agent.datagram import Address
from agent.errors import InputError, TemporaryError, UnavailableError

TIMEOUT_SECONDS: Final = 8.0  # a resolver asks again after 5 s; the second answer still counts
MAX_ADDRESSES: Final = 16  # what a zone's owner may make us try
MAX_THREADS: Final = 4  # lookups that hang; with musl each may take its time
MAX_HOST_OCTETS: Final = 253  # RFC 1035 section 2.3.4, as text

_free = threading.BoundedSemaphore(MAX_THREADS)
_OCTETS: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 16}
_AddressInfo = list[tuple[int, tuple[object, ...]]]


async def resolve(
    host: str, port: int, *, family: int = socket.AF_UNSPEC, seconds: float = TIMEOUT_SECONDS
) -> list[Address]:
    """The addresses of `host` in the order in which to try them; at least one.

    An address literal (brackets allowed) is returned at once. `family` restricts to AF_INET or
    AF_INET6. Raises InputError for what is no name, UnavailableError if the name does not exist
    or has no such address, TemporaryError if no name server answers in `seconds`.
    """
    text = host.strip().removeprefix("[").removesuffix("]")
    literal = _literal(text, port)
    if literal is not None:
        return _usable([literal], host, family)
    name = _encoded(text)
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[_AddressInfo] = loop.create_future()
    if not _free.acquire(blocking=False):
        raise TemporaryError(f"{host} was not looked up: no name server answers earlier questions")
    worker = threading.Thread(
        target=_look_up, args=(name, family, loop, answer), name="resolve", daemon=True
    )
    try:
        worker.start()
    except BaseException:
        _free.release()
        raise
    try:
        async with asyncio.timeout(seconds):
            found = await answer
    except TimeoutError:
        raise TemporaryError(f"No name server answers for {host}: is the network up?") from None
    except socket.gaierror as error:
        raise _explained(host, error) from error
    except (OSError, UnicodeError) as error:
        raise TemporaryError(f"{host} could not be looked up: {error}") from error
    return _usable([_address(sockaddr, port) for _, sockaddr in found], host, family)


def interleave(addresses: list[Address]) -> list[Address]:
    """Families in turns, beginning with that of the first, order within each kept (RFC 8305 §4)."""
    if not addresses:
        return []
    size = len(addresses[0].ip)
    first = [a for a in addresses if len(a.ip) == size]
    other = [a for a in addresses if len(a.ip) != size]
    turns = min(len(first), len(other))
    mixed = [a for pair in zip(first, other, strict=False) for a in pair]
    return mixed + first[turns:] + other[turns:]


def _look_up(
    name: bytes,
    family: int,
    loop: asyncio.AbstractEventLoop,
    answer: asyncio.Future[_AddressInfo],
) -> None:
    """The thread. Its answer is dropped if nobody waits any more."""
    result: _AddressInfo = []
    failure: Exception | None = None
    try:
        found = socket.getaddrinfo(name, None, family, socket.SOCK_DGRAM)
        result = [(entry[0], entry[4]) for entry in found]
    except Exception as error:  # every failure is handed to whoever asked
        failure = error
    finally:
        _free.release()

    def deliver() -> None:
        if answer.done():
            return
        if failure is not None:
            answer.set_exception(failure)
        else:
            answer.set_result(result)

    try:
        loop.call_soon_threadsafe(deliver)
    except RuntimeError:  # the loop is closed: the daemon has ended meanwhile
        return


def _literal(text: str, port: int) -> Address | None:
    try:
        return Address.parse(text.partition("%")[0], port) if "%" not in text else None
    except ValueError:
        return None


def _encoded(text: str) -> bytes:
    """The name as octets: ASCII as it is, else IDNA. Raises InputError."""
    try:
        name = text.encode("ascii") if text.isascii() else text.encode("idna")
    except UnicodeError:
        name = b""
    printable = all(0x21 <= octet <= 0x7E and octet not in b"%/\\\"'<>#@:" for octet in name)
    if not name or len(name) > MAX_HOST_OCTETS or not printable:
        raise InputError(f"{text[:MAX_HOST_OCTETS]!r} is neither a host name nor an address")
    return name


def _address(sockaddr: tuple[object, ...], port: int) -> Address:
    return Address.parse(str(sockaddr[0]).partition("%")[0], port)


def _usable(addresses: list[Address], host: str, family: int) -> list[Address]:
    """In the order to try, without what no peer can have. UnavailableError if none is left."""
    size = _OCTETS.get(family)
    kept: dict[Address, None] = {}
    for address in addresses:
        value = ipaddress.ip_address(address.ip)
        if not (value.is_unspecified or value.is_multicast) and size in (None, len(address.ip)):
            kept[address] = None
    if not kept:
        what = {4: "IPv4 address", 16: "IPv6 address"}.get(size or 0, "usable address")
        raise UnavailableError(f"{host} has no {what}")
    return interleave(list(kept))[:MAX_ADDRESSES]


def _explained(host: str, error: socket.gaierror) -> UnavailableError | TemporaryError:
    if error.errno == socket.EAI_AGAIN:
        return TemporaryError(f"No name server answers for {host}: is the network up?")
    absent = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
    if error.errno in absent:
        return UnavailableError(f"The name {host} does not exist: is it spelled right?")
    return UnavailableError(f"{host} could not be looked up: {error.strerror}")
