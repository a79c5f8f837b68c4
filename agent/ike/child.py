"""Child SAs: what is offered, chosen, narrowed, derived and handed to the data plane.

RFC 7296 §1.2, §1.3.1, §2.7, §2.9 (traffic selectors), §2.17 (keys), §2.19 (addresses). Tunnel mode
ESP only; USE_TRANSPORT_MODE, IPCOMP_SUPPORTED and TFC are not echoed, which declines them. Which
message carries it all is in `ike_auth` and `create_child_sa`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.crypto.kex import InvalidKeyExchange
from agent.crypto.keymat import derive_child_keys
from agent.ike.errors import (
    InternalAddressFailure,
    InvalidKePayload,
    InvalidSyntax,
    NoProposalChosen,
    TsUnacceptable,
)
from agent.ike.events import (
    ChildSaClosed,
    ChildSaEstablished,
    ChildSaRekeyed,
    CloseReason,
    InstallChildSa,
    RemoveChildSa,
)
from agent.ike.states import LINGER_SECONDS
from agent.ike.suite import Suite, suite_of
from agent.wire.codes import CfgAttributeType, CfgType, ProtocolId, TransformType
from agent.wire.payloads import (
    CpPayload,
    KePayload,
    NoncePayload,
    SaPayload,
    TsiPayload,
    TsrPayload,
)
from agent.wire.proposals import Proposal, accepted, choose
from agent.wire.selectors import TrafficSelector, narrow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.crypto.kex import KeyExchange
    from agent.ike.pad import ChildPolicy, Lifetimes
    from agent.ike.sa import IkeSa
    from agent.ike.table import Ike
    from agent.wire.message import Message
    from agent.wire.payloads import Payload

NONCE_LENGTH: Final = 32
# Child SAs per IKE SA before a new one is refused: one is in use, the others cover one that the
# peer makes anew while its old one still stands here.
MAX_CHILDREN: Final = 3
_ADDRESS_LENGTH: Final[dict[int, int]] = {
    CfgAttributeType.INTERNAL_IP4_ADDRESS: 4,
    CfgAttributeType.INTERNAL_IP6_ADDRESS: 16,
}


class ChildSa:
    """A pair of ESP SAs. Deadlines in monotonic seconds, None = never.

    `ends_silently`: another one has taken its place, so its end is no event. `replaced_by` is what
    the *peer* made to replace it (needed for collisions), `nonce` the lower one of those of
    its exchange (§2.8.1). Until `settles_at` the peer, who
    asked for it, may not have our response: it would not know what a request is about. Its next
    request says that it has. `farewell` is why it is deleted, if that had to wait.
    """

    __slots__ = (
        "addresses",
        "ends_silently",
        "expire_at",
        "farewell",
        "is_closing",
        "local_ts",
        "nonce",
        "rekey_at",
        "remote_ts",
        "replaced_by",
        "settles_at",
        "spi_in",
        "spi_out",
    )

    def __init__(
        self,
        spi_in: bytes,
        spi_out: bytes,
        local_ts: tuple[TrafficSelector, ...],
        remote_ts: tuple[TrafficSelector, ...],
        addresses: tuple[bytes, ...],
        nonce: bytes,
    ) -> None:
        self.spi_in = spi_in
        self.spi_out = spi_out
        self.local_ts = local_ts
        self.remote_ts = remote_ts
        self.addresses = addresses
        self.nonce = nonce
        self.replaced_by: ChildSa | None = None
        self.is_closing = False
        self.ends_silently = False
        self.settles_at: float | None = None
        self.farewell: tuple[CloseReason, str] | None = None
        self.rekey_at: float | None = None
        self.expire_at: float | None = None

    def next_timeout(self) -> float | None:
        """The earlier deadline."""
        return min((t for t in (self.rekey_at, self.expire_at) if t is not None), default=None)


class Offer:
    """What we proposed as initiator of an exchange and need to understand the answer."""

    __slots__ = ("kex", "local_ts", "nonce", "proposals", "remote_ts", "request", "spi")

    def __init__(
        self,
        spi: bytes,
        proposals: tuple[Proposal, ...],
        local_ts: tuple[TrafficSelector, ...],
        remote_ts: tuple[TrafficSelector, ...],
        request: tuple[int, ...] = (),
    ) -> None:
        self.spi = spi
        self.proposals = proposals
        self.local_ts = local_ts
        self.remote_ts = remote_ts
        self.request = request
        self.nonce = b""
        self.kex: KeyExchange | None = None

    def payloads(self) -> list[Payload]:
        """SA, TSi, TSr and what goes with them; nonce and KE where the exchange has them."""
        payloads: list[Payload] = []
        if self.request:
            attributes = tuple((kind, b"") for kind in self.request)
            payloads.append(CpPayload(CfgType.CFG_REQUEST, attributes))
        payloads.append(SaPayload(self.proposals))
        if self.nonce:
            payloads.append(NoncePayload(self.nonce))
        if self.kex is not None:
            payloads.append(KePayload(self.kex.group, self.kex.public))
        return [*payloads, TsiPayload(self.local_ts), TsrPayload(self.remote_ts)]


def without_ke(proposals: Sequence[Proposal]) -> tuple[Proposal, ...]:
    """For IKE_AUTH, which has no key exchange of its own (RFC 7296 §1.2); each one once."""
    bare = {p.without_key_exchange().transforms: p.without_key_exchange() for p in proposals}
    return tuple(bare.values())


def numbered(proposals: Sequence[Proposal], spi: bytes) -> tuple[Proposal, ...]:
    """As an SA payload offers them: numbered from 1 (RFC 7296 §3.3.1), all with our SPI."""
    return tuple(replace(p, spi=spi, number=i) for i, p in enumerate(proposals, 1))


def first_group(proposals: Sequence[Proposal]) -> int:
    """The key exchange method to guess for the first try, 0 if there is none."""
    for proposal in proposals:
        for transform in proposal.transforms:
            if transform.type == TransformType.KE:
                return int(transform.id)
    return 0


def groups_of(proposals: Sequence[Proposal]) -> set[int]:
    """Every key exchange method that is offered."""
    return {
        int(t.id) for p in proposals for t in p.transforms if t.type == TransformType.KE and t.id
    }


def make_offer(sa: IkeSa, policy: ChildPolicy, *, with_ke: bool) -> Offer:
    """For a new Child SA as `policy` wants it."""
    spi = sa.table.new_child_spi()
    proposals = policy.proposals if with_ke else without_ke(policy.proposals)
    local_ts = policy.local_ts or tuple(
        TrafficSelector.any(_ADDRESS_LENGTH[kind]) for kind in policy.request_addresses
    )
    return Offer(
        spi, numbered(proposals, spi), local_ts, policy.remote_ts, policy.request_addresses
    )


def select(
    message: Message, acceptable: Sequence[Proposal], protocol: int, spi_length: int
) -> tuple[Proposal, Suite]:
    """What is chosen of the peer's proposals. Raises NoProposalChosen, InvalidSyntax."""
    payload = message.first(SaPayload)
    assert payload is not None  # rules.check
    offered = [p for p in payload.proposals if p.protocol == protocol]
    if any(len(p.spi) != spi_length for p in offered):
        raise InvalidSyntax("an SPI of a wrong length")
    chosen = choose(offered, acceptable)
    if chosen is None:
        raise NoProposalChosen
    return chosen, suite_of(replace(chosen, spi=b"", number=1))


def confirmed(
    message: Message, sent: Sequence[Proposal], spi_length: int
) -> tuple[Proposal, Suite]:
    """What the responder chose of what we `sent`. Raises InvalidSyntax if it made that up."""
    payload = message.first(SaPayload)
    chosen = accepted(payload.proposals, sent) if payload else None
    if chosen is None or len(chosen.spi) != spi_length:
        raise InvalidSyntax("a proposal that was not offered")
    return chosen, suite_of(replace(chosen, spi=b"", number=1))


def exchange_keys(message: Message, group: int, table: Ike) -> tuple[bytes, KeyExchange | None]:
    """The shared secret with the KE payload of a request, and our half; nothing without a group."""
    if not group:
        return b"", None
    ke = message.first(KePayload)
    if ke is None or ke.group != group:
        raise InvalidKePayload(group)
    kex = table.key_exchange(group)
    return shared_with(kex, ke), kex


def shared_with(kex: KeyExchange, ke: KePayload) -> bytes:
    """The shared secret. Raises InvalidSyntax for a public value that is none (RFC 6989)."""
    try:
        return kex.shared(ke.data)
    except InvalidKeyExchange as error:
        raise InvalidSyntax(str(error)) from None


# -- responder -----------------------------------------------------------------------------------


class Grant:
    """What a responder answers to an offer, before it is installed."""

    __slots__ = ("addresses", "chosen", "kex", "local_ts", "remote_ts", "shared", "suite")

    def __init__(
        self,
        sa: IkeSa,
        policy: ChildPolicy,
        message: Message,
        *,
        with_ke: bool,
        old: ChildSa | None = None,
    ) -> None:
        """Negotiate. With `old`, it is what is rekeyed (§2.9.2: same selectors, no CP)."""
        proposals = policy.proposals if with_ke else without_ke(policy.proposals)
        self.chosen, self.suite = select(message, proposals, ProtocolId.ESP, 4)
        if old is not None:
            self.addresses = old.addresses
            ours, theirs = old.local_ts, old.remote_ts
        else:
            self.addresses = _assigned(policy, message)
            ours = policy.local_ts
            theirs = tuple(TrafficSelector.host(a) for a in self.addresses) or policy.remote_ts
        self.remote_ts = _narrowed(message.first(TsiPayload), theirs)
        self.local_ts = _narrowed(message.first(TsrPayload), ours)
        self.shared, self.kex = exchange_keys(message, self.suite.group, sa.table)

    def install(self, sa: IkeSa, nonces: tuple[bytes, bytes], old: ChildSa | None) -> ChildSa:
        """Install what was granted, under a new SPI of ours."""
        spi = sa.table.new_child_spi()
        child = ChildSa(
            spi, self.chosen.spi, self.local_ts, self.remote_ts, self.addresses, min(nonces)
        )
        install(sa, child, self.suite, nonces, self.shared, is_initiator=False, old=old)
        return child

    def payloads(self, spi: bytes, nonce: bytes, *, with_cp: bool) -> list[Payload]:
        """The Child SA's part of the response."""
        payloads: list[Payload] = []
        if with_cp and self.addresses:
            payloads.append(CpPayload(CfgType.CFG_REPLY, _reply(self.addresses)))
        payloads.append(SaPayload((replace(self.chosen, spi=spi),)))
        if nonce:
            payloads.append(NoncePayload(nonce))
        if self.kex is not None:
            payloads.append(KePayload(self.kex.group, self.kex.public))
        return [*payloads, TsiPayload(self.remote_ts), TsrPayload(self.local_ts)]


def _narrowed(
    payload: TsiPayload | TsrPayload | None, policy: tuple[TrafficSelector, ...]
) -> tuple[TrafficSelector, ...]:
    if payload is None:
        raise InvalidSyntax("no traffic selectors")
    result = narrow(payload.selectors, policy)
    if not result:
        raise TsUnacceptable
    return tuple(result)


def _assigned(policy: ChildPolicy, message: Message) -> tuple[bytes, ...]:
    """The addresses for a CFG_REQUEST; none where none was asked for or none is there to give."""
    request = message.first(CpPayload)
    if request is None or request.cfg_type != CfgType.CFG_REQUEST or not policy.assign:
        return ()
    lengths = {_ADDRESS_LENGTH.get(kind, 0) for kind, _ in request.attributes} - {0}
    found = tuple(a for a in policy.assign if len(a) in lengths)
    if lengths and not found:
        raise InternalAddressFailure
    return found


def _reply(addresses: tuple[bytes, ...]) -> tuple[tuple[int, bytes], ...]:
    return tuple(
        (CfgAttributeType.INTERNAL_IP4_ADDRESS, a)
        if len(a) == 4
        else (CfgAttributeType.INTERNAL_IP6_ADDRESS, a + b"\x80")
        for a in addresses
    )


# -- initiator -----------------------------------------------------------------------------------


def complete(
    sa: IkeSa, offer: Offer, message: Message, nonces: tuple[bytes, bytes], old: ChildSa | None
) -> ChildSa:
    """Install what the response grants. Raises ProtocolError if it is not within the offer."""
    chosen, suite = confirmed(message, offer.proposals, 4)
    shared = b""
    if suite.group:
        ke = message.first(KePayload)
        if ke is None or offer.kex is None or not ke.group == offer.kex.group == suite.group:
            raise InvalidSyntax("another key exchange than the one that was offered")
        shared = shared_with(offer.kex, ke)
    local_ts = _within(message.first(TsiPayload), offer.local_ts)
    remote_ts = _within(message.first(TsrPayload), offer.remote_ts)
    addresses = old.addresses if old else _received(offer, message)
    if addresses and old is None:
        local_ts = tuple(narrow(local_ts, tuple(TrafficSelector.host(a) for a in addresses)))
        if not local_ts:
            raise TsUnacceptable("the selectors do not hold the assigned address")
    child = ChildSa(offer.spi, chosen.spi, local_ts, remote_ts, addresses, min(nonces))
    install(sa, child, suite, nonces, shared, is_initiator=True, old=old)
    return child


def _within(
    payload: TsiPayload | TsrPayload | None, offered: tuple[TrafficSelector, ...]
) -> tuple[TrafficSelector, ...]:
    """A responder may narrow what was offered and nothing else (RFC 7296 §2.9)."""
    if payload is None or not payload.selectors:
        raise InvalidSyntax("no traffic selectors")
    for selector in payload.selectors:
        if not any(wide.contains(selector) for wide in offered):
            raise TsUnacceptable("selectors beyond those that were offered")
    return tuple(payload.selectors)


def _received(offer: Offer, message: Message) -> tuple[bytes, ...]:
    if not offer.request:
        return ()
    reply = message.first(CpPayload)
    found: list[bytes] = []
    for kind, value in reply.attributes if reply else ():
        length = _ADDRESS_LENGTH.get(kind, 0)
        if kind in offer.request and length and len(value) >= length and len(found) < 2:
            found.append(bytes(value[:length]))
    if not found:
        raise InternalAddressFailure("no address was assigned")
    return tuple(found)


# -- both ----------------------------------------------------------------------------------------


def fraction(random: Callable[[int], bytes]) -> float:
    """From 0 up to 1, for jitter."""
    return int.from_bytes(random(2), "big") / 65536


def soft(limit: float, lifetimes: Lifetimes, part: float) -> float:
    """Where rekeying begins for a hard `limit`; `part` as from `fraction`."""
    return limit * (1.0 - lifetimes.margin - lifetimes.jitter * part)


def install(
    sa: IkeSa,
    child: ChildSa,
    suite: Suite,
    nonces: tuple[bytes, bytes],
    shared: bytes,
    *,
    is_initiator: bool,
    old: ChildSa | None,
) -> None:
    """Derive the keys and order the data plane to use them. `nonces`: Ni, Nr of the exchange."""
    assert sa.protection is not None
    assert sa.suite is not None
    assert sa.peer is not None
    encr_length, integ_length = suite.key_lengths
    keys = derive_child_keys(
        sa.suite.prf,
        sa.protection.sk_d,
        shared=shared,
        ni=nonces[0],
        nr=nonces[1],
        encr_length=encr_length,
        integ_length=integ_length,
    )
    of_initiator = (keys.encr_i, keys.integ_i)
    of_responder = (keys.encr_r, keys.integ_r)
    keys_out, keys_in = (
        (of_initiator, of_responder) if is_initiator else (of_responder, of_initiator)
    )
    lifetimes = sa.peer.lifetimes
    part = fraction(sa.table.random)
    sa.table.add_child(sa, child)
    sa.table.emit(
        InstallChildSa(
            ike_id=sa.ike_id,
            peer=sa.peer.name,
            spi_in=child.spi_in,
            spi_out=child.spi_out,
            encr_id=suite.encr_id,
            key_bits=suite.key_bits,
            integ_id=suite.integ_id,
            esn=suite.esn,
            keys_in=keys_in,
            keys_out=keys_out,
            local_ts=child.local_ts,
            remote_ts=child.remote_ts,
            path=sa.path,
            soft_octets=int(soft(lifetimes.child_octets, lifetimes, part)),
            hard_octets=lifetimes.child_octets,
            soft_packets=int(soft(lifetimes.child_packets, lifetimes, part)),
            hard_packets=lifetimes.child_packets,
            replaces=old.spi_in if old else None,
            use_at_once=is_initiator,
        )
    )


def arm(sa: IkeSa, child: ChildSa, now: float) -> None:
    """Start the lifetime of a new Child SA."""
    assert sa.peer is not None
    lifetimes = sa.peer.lifetimes
    if lifetimes.child_seconds:
        child.expire_at = now + lifetimes.child_seconds
        part = fraction(sa.table.random)
        child.rekey_at = now + soft(lifetimes.child_seconds, lifetimes, part)


def announce(sa: IkeSa, child: ChildSa, now: float) -> None:
    """A new Child SA that replaces none is there."""
    arm(sa, child, now)
    assert sa.peer is not None
    sa.table.emit(
        ChildSaEstablished(
            ike_id=sa.ike_id,
            peer=sa.peer.name,
            spi_in=child.spi_in,
            spi_out=child.spi_out,
            local_ts=child.local_ts,
            remote_ts=child.remote_ts,
            addresses=child.addresses,
        )
    )


def replaced(sa: IkeSa, old: ChildSa, new: ChildSa, now: float) -> None:
    """`new` is in use from now on; somebody deletes `old`. Nothing if that was known already."""
    if old.ends_silently:
        return
    old.ends_silently = True
    old.rekey_at = None
    old.expire_at = now + LINGER_SECONDS
    sa.table.emit(
        ChildSaRekeyed(
            ike_id=sa.ike_id,
            old_spi_in=old.spi_in,
            old_spi_out=old.spi_out,
            spi_in=new.spi_in,
            spi_out=new.spi_out,
        )
    )


def owns(sa: IkeSa, child: ChildSa) -> bool:
    """Whether `child` is (still) one of this IKE SA."""
    return sa.children is not None and sa.children.get(child.spi_in) is child


def remove_child(sa: IkeSa, child: ChildSa, reason: CloseReason, detail: str = "") -> None:
    """Forget a Child SA, here and in the data plane."""
    if sa.children is None or sa.children.pop(child.spi_in, None) is None:
        return
    if not sa.children:
        sa.children = None
    sa.table.forget_child(child.spi_in)
    sa.table.emit(RemoveChildSa(spi_in=child.spi_in, spi_out=child.spi_out))
    if not child.ends_silently:
        sa.table.emit(
            ChildSaClosed(ike_id=sa.ike_id, spi_in=child.spi_in, reason=reason, detail=detail)
        )


def child_by_spi_out(sa: IkeSa, spi: bytes) -> ChildSa | None:
    """The Child SA that the peer calls `spi`."""
    for child in (sa.children or {}).values():
        if child.spi_out == spi:
            return child
    return None


# After TEMPORARY_FAILURE and the like: long enough for what the peer is busy with (§2.25), short
# enough for several tries before a lifetime ends.
RETRY_SECONDS: Final = 10.0


def retry_at(sa: IkeSa, now: float) -> float:
    """When to try again; the jitter keeps two sides from colliding for ever."""
    return now + RETRY_SECONDS * (1.0 + fraction(sa.table.random))
