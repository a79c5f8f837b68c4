"""Negotiating SAs: what is offered, chosen, narrowed and handed out, for both sides.

RFC 7296 §1.2, §1.3.1, §2.7, §2.9 (traffic selectors), §2.19 (addresses). Tunnel mode ESP only:
USE_TRANSPORT_MODE, IPCOMP_SUPPORTED and TFC are not echoed, which declines them. Which message
carries it all is in `ike_auth`, `create_child_sa` and `rekey_ike`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from agent.crypto.kem import PUBLIC_LENGTHS as KEM_GROUPS
from agent.crypto.kex import InvalidKeyExchange, UnsupportedGroup
from agent.ike.child import ChildSa, install
from agent.ike.errors import (
    InternalAddressFailure,
    InvalidKePayload,
    InvalidSyntax,
    NoProposalChosen,
    TsUnacceptable,
)
from agent.ike.suite import Suite, suite_of
from agent.wire.codes import CfgAttributeType, CfgType, ProtocolId, TransformType
from agent.wire.keywords import ADDITIONAL
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
    from agent.ike.pad import ChildPolicy
    from agent.ike.sa import IkeSa
    from agent.ike.table import Ike
    from agent.wire.message import Message
    from agent.wire.payloads import Payload
    from agent.wire.proposals import Transform

NONCE_LENGTH: Final = 32
_KEY_EXCHANGES: Final = frozenset({TransformType.KE, *ADDITIONAL})
_ADDRESS_LENGTH: Final[dict[int, int]] = {
    CfgAttributeType.INTERNAL_IP4_ADDRESS: 4,
    CfgAttributeType.INTERNAL_IP6_ADDRESS: 16,
}


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


@lru_cache(maxsize=64)  # of our own policies, not of what comes
def without_ke(proposals: tuple[Proposal, ...]) -> tuple[Proposal, ...]:
    """For IKE_AUTH, which has no key exchange of its own (RFC 7296 §1.2); each one once."""
    bare = [p.without_key_exchange() for p in proposals]
    return tuple({p.transforms: p for p in bare}.values())


@lru_cache(maxsize=64)
def without_additional(proposals: tuple[Proposal, ...]) -> tuple[Proposal, ...]:
    """Those that do without additional key exchanges (RFC 9370)."""
    bare = [
        Proposal(p.protocol, p.spi, tuple(t for t in p.transforms if t.type not in ADDITIONAL))
        for p in proposals
        if all(any(not t.id for t in p.of_type(kind)) for kind in p.additional)
    ]
    return tuple({p.transforms: p for p in bare}.values())


@lru_cache(maxsize=64)
def usable(
    proposals: tuple[Proposal, ...], supports: Callable[[int], bool]
) -> tuple[Proposal, ...]:
    """Those that are possible with this cryptography package, which may have no ML-KEM.

    Other methods are not asked for here: to find out imports what implements them.
    """
    found = []
    for p in proposals:
        kept = tuple(t for t in p.transforms if not _is_missing_kem(t, supports))
        if {t.type for t in kept} == {t.type for t in p.transforms}:
            found.append(Proposal(p.protocol, p.spi, kept, p.number))
    return tuple(found)


def _is_missing_kem(transform: Transform, supports: Callable[[int], bool]) -> bool:
    is_kem = transform.id in KEM_GROUPS and transform.type in _KEY_EXCHANGES
    return is_kem and not supports(transform.id)


def numbered(proposals: Sequence[Proposal], spi: bytes) -> tuple[Proposal, ...]:
    """As an SA payload offers them: numbered from 1 (RFC 7296 §3.3.1), all with our SPI."""
    return tuple(
        Proposal(p.protocol, spi, p.transforms, number) for number, p in enumerate(proposals, 1)
    )


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
    spi = sa.table.children.new_spi()
    proposals = sa.child_proposals if with_ke else without_ke(policy.proposals)
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
    if not all(_is_spi(p.spi, spi_length) for p in offered):
        raise InvalidSyntax("an SPI that is none")
    chosen = choose(offered, acceptable)
    if chosen is None:
        raise NoProposalChosen
    return chosen, suite_of(chosen.protocol, chosen.transforms)


def confirmed(
    message: Message, sent: Sequence[Proposal], spi_length: int
) -> tuple[Proposal, Suite]:
    """What the responder chose of what we `sent`. Raises InvalidSyntax if it made that up."""
    payload = message.first(SaPayload)
    chosen = accepted(payload.proposals, sent) if payload else None
    if chosen is None or not _is_spi(chosen.spi, spi_length):
        raise InvalidSyntax("a proposal that was not offered")
    return chosen, suite_of(chosen.protocol, chosen.transforms)


def _is_spi(spi: bytes, length: int) -> bool:
    """Zero is none: of IKE it says "not yet" (RFC 7296 §3.1), in front of ESP it says "IKE"."""
    return len(spi) == length and (any(spi) or not length)


def exchange_keys(message: Message, group: int, table: Ike) -> tuple[bytes, KeyExchange | None]:
    """The shared secret with the KE payload of a request, and our half; nothing without a group."""
    if not group:
        return b"", None
    ke = message.first(KePayload)
    if ke is None or ke.group != group:
        raise InvalidKePayload(group)
    try:
        kex = table.key_exchange(group, answering=True)
    except UnsupportedGroup:  # configured, but this cryptography package does not have it
        raise NoProposalChosen from None
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

    __slots__ = ("addresses", "chosen", "kex", "local_ts", "remote_ts", "shared", "spi", "suite")

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
        proposals = sa.child_proposals if with_ke else without_ke(policy.proposals)
        self.spi = sa.table.children.new_spi()
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
        _check_meeting(self.local_ts, self.remote_ts)
        self.shared, self.kex = exchange_keys(message, self.suite.group, sa.table)

    @property
    def groups(self) -> tuple[int, ...]:
        """The additional key exchanges that follow before it can be installed."""
        return self.suite.additional_groups

    def install(
        self,
        sa: IkeSa,
        nonces: tuple[bytes, bytes],
        old: ChildSa | None,
        additional: bytes = b"",
    ) -> ChildSa:
        """Install what was granted, under a new SPI of ours."""
        child = ChildSa(
            self.spi, self.chosen.spi, self.local_ts, self.remote_ts, self.addresses, min(nonces)
        )
        secrets = (self.shared, additional)
        install(sa, child, self.suite, nonces, secrets, is_initiator=False, old=old)
        return child

    def payloads(self, nonce: bytes, *, with_cp: bool) -> list[Payload]:
        """The Child SA's part of the response."""
        payloads: list[Payload] = []
        if with_cp and self.addresses:
            payloads.append(CpPayload(CfgType.CFG_REPLY, _reply(self.addresses)))
        payloads.append(SaPayload((self.chosen.with_spi(self.spi),)))
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


def _check_meeting(
    local_ts: tuple[TrafficSelector, ...], remote_ts: tuple[TrafficSelector, ...]
) -> None:
    """Raises TsUnacceptable where no packet can be between the two, so that nothing is kept."""
    if not any(ours.meets(theirs) for ours in local_ts for theirs in remote_ts):
        raise TsUnacceptable("selectors that contradict each other")


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
    sa: IkeSa,
    offer: Offer,
    message: Message,
    nonces: tuple[bytes, bytes],
    old: ChildSa | None,
    additional: bytes = b"",
    winner: ChildSa | None = None,
) -> ChildSa:
    """Install what the response grants. Raises ProtocolError if it is not within the offer.

    `winner`: it is there to be closed again, beside this one of the peer's.
    """
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
    _check_meeting(local_ts, remote_ts)
    child = ChildSa(offer.spi, chosen.spi, local_ts, remote_ts, addresses, min(nonces))
    secrets = (shared, additional)
    install(sa, child, suite, nonces, secrets, is_initiator=True, old=old, winner=winner)
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
