"""Redirect (RFC 5685): a gateway sends its client to another one, which then is proven likewise.

    IKE_SA_INIT     proves nothing but that somebody saw our nonce. The client tries the other
                    gateway *beside* the attempt there is, once for each attempt; whichever proves
                    itself first is taken (THREATS 13, 14). The gateway keeps no state for it.
    IKE_AUTH        both sides are proven; there is no Child SA, and the client deletes the IKE SA.
    INFORMATIONAL   on a living IKE SA, which the client keeps until the other gateway is reached.

The client is told by the event `Redirected`; whoever drives it connects with `RedirectClient` as
extension and the *same* PAD entry (§3), so the other gateway has to prove what the first one had
to. The one exception: a mediator of our own kind, pinned by its key, may name the key of the
mediator that takes over in N(HG_REDIRECT), under the protection of its IKE SA (`Successor`).
Mediators introduce and carry nothing, and what two peers prove to each other is pinned in the
peers, so this hands on what the first mediator could do itself. A peer is never replaced by it.

Only the original responder redirects (§10). Left out: EAP and several authentications (§6), Mobile
IPv6 (§8). Anycast (§4) is `first_contact` of `Ike` at the gateway, and nothing special at a client.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from agent.crypto.digest import bytes_eq
from agent.ike.errors import Ignored, InvalidSyntax, ProtocolError
from agent.ike.events import CloseReason, Redirected
from agent.ike.extension import Extension
from agent.ike.informational import Request
from agent.ike.rules import nonce_of
from agent.ike.states import FIRST
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.errors import WireError
from agent.wire.payloads import NotifyPayload
from agent.wire.redirect import (
    GatewayId,
    Redirect,
    Successor,
    decode_redirected_from,
    encode_gateway,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agent.datagram import Path
    from agent.ike.extension import Factory
    from agent.ike.sa import IkeSa
    from agent.ike.table import Ike
    from agent.wire.message import Message
    from agent.wire.payloads import Payload

# RFC 5685 §7, with its default values.
MAX_REDIRECTS: Final = 5
REDIRECT_LOOP_DETECT_PERIOD: Final = 300.0


class Redirects:
    """How often one IKE SA setup was redirected lately (§7).

    `refused`: how many in a row were one too many, so that it is told once.
    """

    __slots__ = ("_times", "refused")

    def __init__(self) -> None:
        self._times: list[float] = []
        self.refused = 0

    def admit(self, now: float) -> bool:
        """Note one more; False if it is one too many."""
        self._times = [at for at in self._times if now - at < REDIRECT_LOOP_DETECT_PERIOD]
        if len(self._times) >= MAX_REDIRECTS:
            self.refused += 1
            return False
        self._times.append(now)
        self.refused = 0
        return True


def leads_astray(ip: bytes, original: bytes) -> bool:
    """Whether a gateway at `original` may not send us to `ip`: ourselves, everybody or nobody.

    Loopback and link-local addresses are for those that are there themselves.
    """
    address, first = _address(ip), _address(original)
    if address.is_multicast or address.is_unspecified:
        return True
    if address.version == 4 and (address.is_reserved or address.packed[0] == 0):
        return True  # 0/8 is this host, 240/4 nobody, 255.255.255.255 everybody
    return (address.is_loopback and not first.is_loopback) or (
        address.is_link_local and not first.is_link_local
    )


def _address(ip: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(ip)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


# -- client --------------------------------------------------------------------------------------


class RedirectClient(Extension):
    """Of an IKE SA that we begin; `original` is the address of the gateway that sent us here."""

    __slots__ = ("_followed", "_original")

    def __init__(self, original: bytes | None = None) -> None:
        self._original = original
        self._followed: GatewayId | None = None  # where an unproven redirect led

    def on_request_building(
        self, sa: IkeSa, exchange: ExchangeType | int, payloads: list[Payload]
    ) -> None:
        """See Extension."""
        if exchange not in FIRST:
            return
        if self._original is None:
            payloads.append(NotifyPayload(NotifyType.REDIRECT_SUPPORTED))
        else:
            data = encode_gateway(GatewayId.of_ip(self._original))
            payloads.append(NotifyPayload(NotifyType.REDIRECTED_FROM, data))

    def on_response(
        self, sa: IkeSa, exchange: ExchangeType | int, message: Message, now: float
    ) -> None:
        """See Extension. A redirect in IKE_AUTH ends the IKE SA, with a Delete."""
        if exchange != ExchangeType.IKE_AUTH or message.notify(NotifyType.REDIRECT) is None:
            return
        try:
            event = _proven(sa, message)
        except WireError as error:
            raise InvalidSyntax(f"a redirect that nobody can follow: {error.reason}") from None
        sa.table.emit(event)
        raise ProtocolError(f"to {event.gateway.host}", notify=NotifyType.REDIRECT)

    def on_request(self, sa: IkeSa, message: Message, payloads: list[Payload], now: float) -> None:
        """See Extension. One that is malformed is answered and not followed."""
        if message.notify(NotifyType.REDIRECT) is None:
            return
        if sa.established and message.header.exchange == ExchangeType.INFORMATIONAL:
            try:
                sa.table.emit(_proven(sa, message))
            except WireError:
                return

    def on_unproven(self, sa: IkeSa, data: bytes) -> None:
        """A redirect without any proof. Raises Ignored, WireError."""
        assert sa.handshake is not None
        redirect = Redirect.decode(data, with_nonce=True)
        if not bytes_eq(redirect.nonce, sa.handshake.own_nonce):
            raise Ignored("redirect_nonce")
        if self._followed is not None or redirect.gateway.ip == sa.path.remote.ip:
            raise Ignored("redirect_again")
        self._followed = redirect.gateway
        sa.table.emit(_event(sa, redirect.gateway, None, proven=False))


def on_unproven(sa: IkeSa, message: Message) -> bool:
    """Whether this answer to IKE_SA_INIT is a redirect that is followed. Raises Ignored, WireError.

    The attempt goes on whatever it says.
    """
    notify = message.notify(NotifyType.REDIRECT)
    if notify is None:
        return False
    client = next((e for e in sa.extensions if isinstance(e, RedirectClient)), None)
    if client is None:
        raise Ignored("redirect_unasked")
    client.on_unproven(sa, notify.data)
    return True


def _proven(sa: IkeSa, message: Message) -> Redirected:
    notify, other = message.notify(NotifyType.REDIRECT), message.notify(NotifyType.HG_REDIRECT)
    assert notify is not None
    redirect = Redirect.decode(notify.data, with_nonce=False)
    successor = Successor.decode(other.data) if other is not None else None
    return _event(sa, redirect.gateway, successor, proven=True)


def _event(
    sa: IkeSa, gateway: GatewayId, successor: Successor | None, *, proven: bool
) -> Redirected:
    assert sa.peer is not None
    return Redirected(
        ike_id=sa.ike_id,
        peer=sa.peer.name,
        gateway=gateway,
        original=sa.path.remote,
        proven=proven,
        successor=successor,
    )


def follows(sa: IkeSa) -> bool:
    """Whether we said on this IKE SA, which we began, that redirects are taken."""
    return any(isinstance(e, RedirectClient) for e in sa.extensions)


# -- gateway -------------------------------------------------------------------------------------


def redirection(gateway: GatewayId, successor: Successor | None = None) -> list[Payload]:
    """What is said under the protection of an IKE SA; `successor` to a peer of our kind only."""
    said: list[Payload] = [NotifyPayload(NotifyType.REDIRECT, Redirect(gateway).encode())]
    if successor is not None:
        said.append(NotifyPayload(NotifyType.HG_REDIRECT, successor.encode()))
    return said


class RedirectGateway(Extension):
    """Of a client that takes redirects. `elsewhere`: what it is told in IKE_AUTH, once proven."""

    __slots__ = ("_elsewhere", "_leaves_at")

    def __init__(self, elsewhere: Callable[[IkeSa], Sequence[Payload]]) -> None:
        self._elsewhere = elsewhere
        self._leaves_at: float | None = None

    @property
    def leaves(self) -> bool:
        """Whether it was sent elsewhere in IKE_AUTH: this IKE SA is there to be deleted."""
        return self._leaves_at is not None

    def on_request(self, sa: IkeSa, message: Message, payloads: list[Payload], now: float) -> None:
        """See Extension."""
        if message.header.exchange == ExchangeType.IKE_AUTH and (said := self._elsewhere(sa)):
            payloads += said
            self._leaves_at = now + sa.table.settings.redirect_seconds

    def next_timeout(self) -> float | None:
        """See Extension."""
        return self._leaves_at

    def on_timer(self, sa: IkeSa, now: float) -> None:
        """See Extension."""
        if sa.established:
            sa.delete(CloseReason.REDIRECTED, "it did not delete the SA itself", now)


def gateway_factory(elsewhere: Callable[[IkeSa], Sequence[Payload]]) -> Factory:
    """For every client that says in IKE_SA_INIT that it takes redirects (§3)."""

    def attach(sa: IkeSa, message: Message | None) -> Extension | None:
        return RedirectGateway(elsewhere) if message is not None and takes(message) else None

    return attach


def takes(request: Message) -> bool:
    """Whether an IKE_SA_INIT announces it; REDIRECTED_FROM does too (§9.3)."""
    if request.notify(NotifyType.REDIRECT_SUPPORTED) is not None:
        return True
    came = request.notify(NotifyType.REDIRECTED_FROM)
    if came is None:
        return False
    try:
        decode_redirected_from(came.data)
    except WireError:
        return False
    return True


def at_first(table: Ike, path: Path, request: Message) -> bytes | None:
    """The data of N(REDIRECT) that answers this acceptable IKE_SA_INIT, None: none does."""
    if table.first_contact is None or not takes(request):
        return None
    gateway = table.first_contact(path)
    return Redirect(gateway, nonce_of(request)).encode() if gateway is not None else None


def is_told(payloads: Iterable[Payload]) -> bool:
    """Whether a response redirects: no Child SA comes with it (§6)."""
    return any(isinstance(p, NotifyPayload) and p.type == NotifyType.REDIRECT for p in payloads)


def leaves(sa: IkeSa) -> bool:
    """Whether this IKE SA of a responder was redirected in IKE_AUTH."""
    return any(isinstance(e, RedirectGateway) and e.leaves for e in sa.extensions)


def send_elsewhere(ike: Ike, ike_id: int, said: Sequence[Payload], now: float) -> bool:
    """Redirect an established IKE SA (§5). False if its client does not take it.

    Such an IKE SA stays until the client deletes it: what it left is for it to know.
    """
    sa = ike.sa(ike_id)
    if sa is None or not sa.established or sa.started_by_us:
        return False
    if not any(isinstance(e, RedirectGateway) for e in sa.extensions):
        return False
    sa.submit(Request(ExchangeType.INFORMATIONAL, said, lambda message, at: None), now)
    ike.touch(sa)
    return True
