"""IKE fragmentation (RFC 7383), between the encoding of a message and its transmission.

What is sealed for the wire is one datagram or several; what arrives is put together again. A
fragment is verified before it is kept, so nobody without the keys can fill or spoil a reassembly,
and one exists per IKE SA and direction, bounded in count, octets and time.

Sizes (§2.5.1, §2.5.2): we begin with what fits everywhere in IPv6 and nearly everywhere else. A
request that stays unanswered is cut smaller after a few tries; the responder goes by the largest
datagram of the request, and cuts smaller too when a request keeps coming back. What is known about
a path is forgotten when the path changes.

Kept in one datagram, however long: INFORMATIONAL and ME_CONNECT. strongSwan takes the former in
fragments for a bad connectivity check, and drops the IKE SA over the latter (mediation.md §5). Only
a message with a private notify of ours is cut there, because no other implementation gets one.
Left out: unprotected payloads beside SKF (§2.5.3; no exchange has them), ICMP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from agent.ike.errors import Ignored
from agent.ike.extension import Extension
from agent.ike.states import FIRST, When
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.payloads import EncryptedFragment, NotifyPayload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.datagram import Path
    from agent.ike.sa import IkeSa
    from agent.ike.suite import Protection
    from agent.wire.message import Header, Message
    from agent.wire.payloads import Payload

# Octets of an IKE message in one datagram: 1280 (IPv6) and 576 (IPv4 at its least) less 52 for
# IPv6, UDP and the non-ESP marker; in between what survives two more tunnels around 1280.
SIZES: Final = (1228, 1020, 524)
# So often a message is sent in one size before the next smaller one is tried (§2.5.2).
TRIES_PER_SIZE: Final = 3
# A whole message of 64 kB in the smallest pieces that anybody sends has about so many.
MAX_FRAGMENTS: Final = 144
# Nothing that IKE carries is longer than a datagram could be (THREATS 15).
MAX_OCTETS: Final = 65536
# From whom has proven nothing: chains of certificates and ML-KEM-1024 fit, and a thousand half-open
# SAs hold 16 MB at the very worst.
MAX_UNPROVEN_OCTETS: Final = 16384
# Whoever is still sending after this has given up (§2.6).
REASSEMBLY_SECONDS: Final = 30.0

_WHOLE: Final = frozenset({ExchangeType.INFORMATIONAL, ExchangeType.ME_CONNECT})
_OURS: Final = frozenset({NotifyType.HG_ACCEPTS, NotifyType.HG_ENROLL, NotifyType.HG_ENROLLED})
_SKF_HEADER: Final = 8  # generic header, number, total
_SK_HEADER: Final = 4


class Plain(NamedTuple):
    """A message before encryption, kept as long as it may have to be cut again."""

    header: Header
    first_inner: int
    inner: bytes
    protection: Protection

    def __repr__(self) -> str:
        return f"Plain({len(self.inner)} octets)"


class Opened(NamedTuple):
    """A received message, proven and put together.

    `aad` is what an SK payload has in front of it, as if the message had come whole (RFC 9242
    §3.3.2), lengths and payload type not adjusted; `fingerprint` tells a retransmission; `octets`
    are those of all its datagrams.
    """

    first_inner: int
    inner: bytes
    aad: bytes
    fingerprint: int
    octets: int


class _Reassembly:
    """The fragments of one message so far, each verified."""

    __slots__ = (
        "aad", "arrived", "fingerprint", "first_inner", "largest", "message_id", "octets", "parts",
        "since", "total",
    )  # fmt: skip

    def __init__(self, message_id: int, total: int, now: float) -> None:
        self.message_id = message_id
        self.total = total
        self.since = now
        self.parts: dict[int, bytes] = {}
        self.octets = 0
        self.arrived = 0
        self.largest = 0
        self.first_inner = 0
        self.aad = b""
        self.fingerprint = 0


class Fragments:
    """What an IKE SA keeps where both sides do RFC 7383: the size, one reassembly each way."""

    __slots__ = ("limit", "request", "response")

    def __init__(self) -> None:
        self.limit = SIZES[0]
        self.request: _Reassembly | None = None
        self.response: _Reassembly | None = None

    def smaller(self) -> bool:
        """Go to the next smaller size; False if there is none."""
        for size in SIZES:
            if size < self.limit:
                self.limit = size
                return True
        return False


class FragmentationSupport(Extension):
    """Negotiates it in IKE_SA_INIT (§2.3). One object serves all IKE SAs."""

    __slots__ = ()

    def on_request_building(
        self, sa: IkeSa, exchange: ExchangeType | int, payloads: list[Payload]
    ) -> None:
        """See Extension."""
        if exchange in FIRST:
            payloads.append(NotifyPayload(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED))

    def on_request(self, sa: IkeSa, message: Message, payloads: list[Payload], now: float) -> None:
        """See Extension."""
        if message.header.exchange in FIRST and _read(sa, message):
            payloads.append(NotifyPayload(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED))

    def on_response(
        self, sa: IkeSa, exchange: ExchangeType | int, message: Message, now: float
    ) -> None:
        """See Extension."""
        if exchange in FIRST:
            _read(sa, message)

    def on_path_changed(self, sa: IkeSa, path: Path, now: float) -> None:
        """See Extension."""
        if sa.fragments is not None:
            sa.fragments.limit = SIZES[0]


def _read(sa: IkeSa, message: Message) -> bool:
    announced = message.notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED) is not None
    sa.fragments = Fragments() if announced else None
    return announced


# -- sending -------------------------------------------------------------------------------------


def plain_of(
    sa: IkeSa, header: Header, payloads: Sequence[Payload], first_inner: int, inner: bytes
) -> Plain | None:
    """What to keep of a message that may have to be cut; None if it never is."""
    if sa.fragments is None or sa.protection is None:
        return None
    if len(inner) <= sa.protection.room(SIZES[-1], _SK_HEADER):
        return None
    if header.exchange in _WHOLE and not any(
        isinstance(p, NotifyPayload) and p.type in _OURS for p in payloads
    ):
        return None
    return Plain(header, first_inner, inner, sa.protection)


def cut(sa: IkeSa, plain: Plain) -> tuple[bytes, ...]:
    """The message in as many datagrams as it takes now."""
    assert sa.fragments is not None
    header, first, inner, protection = plain
    random = sa.table.random
    limit = sa.fragments.limit
    size = protection.room(limit, _SKF_HEADER)
    total = -(-len(inner) // size)
    if len(inner) <= protection.room(limit, _SK_HEADER) or total > MAX_FRAGMENTS:
        return (protection.seal_inner(header, first, inner, random),)
    return tuple(
        protection.seal_fragment(
            header, 0 if n else first, n + 1, total, inner[n * size : (n + 1) * size], random
        )
        for n in range(total)
    )


def cut_smaller(sa: IkeSa, plain: Plain | None, datagrams: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The same message in more pieces, after nobody answered; empty if that changes nothing.

    §2.5.2: the total must grow, by which the receiver tells the sets apart.
    """
    if plain is None or sa.fragments is None:
        return ()
    while sa.fragments.smaller():
        pieces = cut(sa, plain)
        if len(pieces) > len(datagrams):
            return pieces
    return ()


# -- receiving -----------------------------------------------------------------------------------


def accept(sa: IkeSa, message: Message, data: bytes, now: float) -> Opened | None:
    """A fragment of the message that is due; the whole if it was the last one missing.

    Raises Ignored if it is not to be kept (§2.6).
    """
    fragments, header = sa.fragments, message.header
    fragment = _fragment_of(message)
    if fragments is None or sa.protection is None:
        raise Ignored("fragment")
    if fragment.total > MAX_FRAGMENTS:
        raise Ignored("fragment_count")
    under_way = fragments.response if header.is_response else fragments.request
    if under_way is not None and under_way.message_id != header.message_id:
        under_way = None
    if under_way is not None:
        if fragment.total < under_way.total:
            raise Ignored("fragment_total")
        if fragment.total == under_way.total and fragment.number in under_way.parts:
            raise Ignored("duplicate_fragment")
    inner = sa.protection.open(fragment)
    if under_way is None or fragment.total > under_way.total:
        under_way = _Reassembly(header.message_id, fragment.total, now)
        _keep(fragments, under_way, is_response=header.is_response)
        sa.timers.set(When.REASSEMBLE, now + REASSEMBLY_SECONDS)
    bound = MAX_OCTETS if sa.has_proven_peer else MAX_UNPROVEN_OCTETS
    if under_way.octets + len(inner) > bound:
        _keep(fragments, None, is_response=header.is_response)
        raise Ignored("fragment_octets")
    under_way.octets += len(inner)
    under_way.parts[fragment.number] = inner
    under_way.arrived += len(data)
    under_way.largest = max(under_way.largest, len(data))
    if fragment.number == 1:
        under_way.first_inner = fragment.first_inner
        under_way.aad = fragment.aad[:-_SK_HEADER]
        under_way.fingerprint = hash(data)
    if len(under_way.parts) < under_way.total:
        return None
    _keep(fragments, None, is_response=header.is_response)
    if not header.is_response:
        # What got through in that direction is a good guess for the other one (§2.5.1).
        fragments.limit = min(fragments.limit, max(under_way.largest, SIZES[-1]))
    whole = b"".join(under_way.parts[n] for n in range(1, under_way.total + 1))
    return Opened(
        under_way.first_inner, whole, under_way.aad, under_way.fingerprint, under_way.arrived
    )


def _fragment_of(message: Message) -> EncryptedFragment:
    if len(message.payloads) != 1:
        raise Ignored("beside_fragment")
    (fragment,) = message.payloads
    assert isinstance(fragment, EncryptedFragment)
    return fragment


def _keep(fragments: Fragments, reassembly: _Reassembly | None, *, is_response: bool) -> None:
    if is_response:
        fragments.response = reassembly
    else:
        fragments.request = reassembly


def expire(sa: IkeSa, now: float) -> None:
    """Forget what was never completed."""
    fragments = sa.fragments
    if fragments is None:
        return
    # Added as for the timer: a difference may be rounded to less, and then it fires for ever.
    if fragments.request is not None and fragments.request.since + REASSEMBLY_SECONDS <= now:
        fragments.request = None
    if fragments.response is not None and fragments.response.since + REASSEMBLY_SECONDS <= now:
        fragments.response = None
    rest = [r.since for r in (fragments.request, fragments.response) if r is not None]
    if rest:
        sa.timers.set(When.REASSEMBLE, min(rest) + REASSEMBLY_SECONDS)


def repeats(sa: IkeSa, message: Message, data: bytes) -> bool:
    """Whether this is the first fragment of the request that was answered last, cut anew.

    (The very octets of before are known without looking into them.) The answer is cut to the size
    that the initiator tries now.
    """
    fragment = _fragment_of(message)
    answered = sa.incoming
    if sa.fragments is None or fragment.number != 1 or not answered.response:
        return False
    protection = answered.plain.protection if answered.plain is not None else sa.protection
    if protection is None:
        return False
    protection.open(fragment)  # raises Ignored
    if answered.plain is not None and len(data) < sa.fragments.limit:
        sa.fragments.limit = max(len(data), SIZES[-1])
        pieces = cut(sa, answered.plain)
        if len(pieces) > len(answered.response):
            answered.response = pieces
    return True
