"""IKE_INTERMEDIATE (RFC 9242) and the additional key exchanges in it (RFC 9370 §2.2.1, §2.2.2).

Theory. After IKE_SA_INIT, and before anybody is authenticated, each further key exchange that was
negotiated has one encrypted round trip of its own, large enough for what post-quantum methods send
(in fragments if need be). Each round n gives the keys anew,

    SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr)          then prf+ as ever (RFC 7296 §2.14)

so whoever wants to read what follows has to break every one of them. What protects against somebody
who takes rounds out or changes them is the proof in IKE_AUTH: both sides sign IntAuth too, a chain
of MACs over each message as it was before encryption and fragmentation, under the SK_p of its
round; and the first messages, where the proposals stand, are signed anyway.

    IntAuth_in = prf(SK_pi(n), IntAuth_i(n-1) | A | P)     A: header up to the SK payload's own
    IntAuth    = IntAuth_iN | IntAuth_rN | message ID of IKE_AUTH

Left out: IKE_INTERMEDIATE for anything but a key exchange that is due.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.crypto.keymat import rekeyed_skeyseed
from agent.ike import ike_auth
from agent.ike.errors import InvalidSyntax, reason_for
from agent.ike.exchange import Task
from agent.ike.extension import Extension
from agent.ike.handshake import derive
from agent.ike.negotiation import exchange_keys, shared_with
from agent.ike.rules import error_of
from agent.wire.codes import ExchangeType, NotifyType, PayloadType
from agent.wire.message import HEADER_LENGTH, encrypted_prefix
from agent.wire.payloads import KePayload, NotifyPayload

if TYPE_CHECKING:
    from agent.crypto.algorithms import Prf
    from agent.crypto.keymat import IkeKeys
    from agent.ike.fragmentation import Opened
    from agent.ike.sa import IkeSa, Reply
    from agent.wire.message import Header, Message
    from agent.wire.payloads import Payload

_FIRST_PAYLOAD: Final = 16  # where the header has the type of the first payload
_LENGTH: Final = 24


class Rounds:
    """The rounds of one handshake: which are due, and the MACs over those that were."""

    __slots__ = ("_done", "_macs", "due")

    def __init__(self, due: tuple[int, ...]) -> None:
        self.due = due
        self._done = 0
        self._macs = {False: b"", True: b""}  # of requests and responses

    def record(self, prf: Prf, keys: IkeKeys, octets: bytes, *, is_response: bool) -> None:
        """One more message, A | P, while `keys` are those that protect it."""
        key = keys.sk_pr if is_response else keys.sk_pi
        self._macs[is_response] = prf(key, self._macs[is_response] + octets)

    def finish_one(self) -> None:
        """The round that was due is over."""
        self.due = self.due[1:]
        self._done += 1

    @property
    def int_auth(self) -> bytes:
        """What both sides sign besides. IKE_SA_INIT has message ID 0, each round has one."""
        return self._macs[False] + self._macs[True] + (self._done + 1).to_bytes(4, "big")


class IntermediateSupport(Extension):
    """Announces the exchange where additional key exchanges are offered. Serves all IKE SAs."""

    __slots__ = ()

    def on_request_building(
        self, sa: IkeSa, exchange: ExchangeType | int, payloads: list[Payload]
    ) -> None:
        """See Extension."""
        if exchange == ExchangeType.IKE_SA_INIT and any(p.additional for p in sa.proposals):
            payloads.append(NotifyPayload(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED))

    def on_request(self, sa: IkeSa, message: Message, payloads: list[Payload], now: float) -> None:
        """See Extension. The suite was chosen with regard to what the initiator announced."""
        if message.header.exchange == ExchangeType.IKE_SA_INIT and _expect_rounds(sa):
            payloads.append(NotifyPayload(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED))

    def on_response(
        self, sa: IkeSa, exchange: ExchangeType | int, message: Message, now: float
    ) -> None:
        """See Extension."""
        if exchange == ExchangeType.IKE_SA_INIT and _expect_rounds(sa):
            announced = message.notify(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED)
            if announced is None:
                raise InvalidSyntax("an additional key exchange without IKE_INTERMEDIATE")


def _expect_rounds(sa: IkeSa) -> bool:
    assert sa.suite is not None
    assert sa.handshake is not None
    # Each answer anew: the one before may have been a forgery.
    groups = sa.suite.additional_groups
    sa.handshake.rounds_due = Rounds(groups) if groups else None
    return bool(groups)


def sent(sa: IkeSa, header: Header, first_inner: int, inner: bytes) -> None:
    """A message of ours is about to be sealed."""
    prefix = encrypted_prefix(header, first_inner, len(inner))
    _record(sa, prefix + inner, is_response=header.is_response)


def received(sa: IkeSa, header: Header, opened: Opened) -> None:
    """A message of the peer was opened. Lengths as if nothing were encrypted (RFC 9242 §3.3.2)."""
    aad, inner = opened.aad, opened.inner
    first = aad[_FIRST_PAYLOAD]
    if first == PayloadType.SKF:
        first = PayloadType.SK
    octets = (
        aad[:_FIRST_PAYLOAD]
        + bytes((first,))
        + aad[_FIRST_PAYLOAD + 1 : _LENGTH]
        + (len(aad) + len(inner)).to_bytes(4, "big")
        + aad[HEADER_LENGTH:-2]
        + (4 + len(inner)).to_bytes(2, "big")
        + inner
    )
    _record(sa, octets, is_response=header.is_response)


def _record(sa: IkeSa, octets: bytes, *, is_response: bool) -> None:
    hs = sa.handshake
    assert sa.suite is not None
    if hs is not None and hs.rounds_due is not None and hs.keys is not None:
        hs.rounds_due.record(sa.suite.prf, hs.keys, octets, is_response=is_response)


def _finish_round(sa: IkeSa, shared: bytes) -> None:
    """The keys of the next exchange."""
    hs = sa.handshake
    assert hs is not None
    assert hs.keys is not None
    assert hs.rounds_due is not None
    assert sa.suite is not None
    hs.rounds_due.finish_one()
    nonces = (hs.own_nonce, hs.peer_nonce)
    ni, nr = nonces if sa.is_initiator else nonces[::-1]
    seed = rekeyed_skeyseed(sa.suite.prf, hs.keys.sk_d, shared, ni, nr)
    derive(sa, sa.suite, seed, ni, nr)


# -- initiator -----------------------------------------------------------------------------------


def proceed(sa: IkeSa, now: float) -> None:
    """What comes next after IKE_SA_INIT or a round: another round, or the proof."""
    hs = sa.handshake
    assert hs is not None
    more = hs.rounds_due is not None and hs.rounds_due.due
    sa.submit(IkeIntermediate() if more else ike_auth.IkeAuth(), now)


class IkeIntermediate(Task):
    """One additional key exchange."""

    __slots__ = ()
    exchange = ExchangeType.IKE_INTERMEDIATE

    def build(self, sa: IkeSa, now: float) -> list[Payload]:
        """See Task."""
        hs = sa.handshake
        assert hs is not None
        assert hs.rounds_due is not None
        hs.kex = sa.table.key_exchange(hs.rounds_due.due[0])
        return [KePayload(hs.kex.group, hs.kex.public)]

    def on_response(self, sa: IkeSa, message: Message, now: float) -> None:
        """See Task."""
        hs = sa.handshake
        assert hs is not None
        assert hs.kex is not None
        error, ke = error_of(message), message.first(KePayload)
        if error is not None:
            sa.close(*reason_for(error.type), now)
            return
        if ke is None or ke.group != hs.kex.group:
            raise InvalidSyntax("another key exchange than the one that is due")
        shared = shared_with(hs.kex, ke)
        for extension in sa.extensions:
            extension.on_response(sa, self.exchange, message, now)
        _finish_round(sa, shared)
        proceed(sa, now)


# -- responder -----------------------------------------------------------------------------------


def is_due(sa: IkeSa) -> bool:
    """Whether a round was negotiated and has not been yet."""
    rounds = sa.handshake.rounds_due if sa.handshake is not None else None
    return rounds is not None and bool(rounds.due)


def on_request(sa: IkeSa, message: Message, now: float) -> Reply:
    """The initiator's half of the round that is due. Raises ProtocolError."""
    assert sa.handshake is not None
    rounds = sa.handshake.rounds_due
    assert rounds is not None
    ke = message.first(KePayload)
    if ke is None or ke.group != rounds.due[0]:
        raise InvalidSyntax("not the key exchange that is due")
    shared, kex = exchange_keys(message, rounds.due[0], sa.table)
    assert kex is not None
    payloads: list[Payload] = [KePayload(kex.group, kex.public)]
    for extension in sa.extensions:
        extension.on_request(sa, message, payloads, now)
    return payloads, lambda: _finish_round(sa, shared)
