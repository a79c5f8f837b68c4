"""Quick crash detection: one who restarted proves at once that an IKE SA is gone (RFC 6290).

    token = prf(secret, "quick crash detection" | SPIi | SPIr), first 16 octets (§5.1)

The secret outlives restarts, so the token that was told under the protection of the IKE SA can be
shown again by who has forgotten everything else. Both sides make and take tokens: in IKE_AUTH (the
responder only to one that sent its own), and in an INFORMATIONAL after each rekeying (§4.3).
A token is shown in the clear only for SPIs of which this machine has neither (§9.2), and as often
as INVALID_IKE_SPI is sent. ESP of no SA is answered INVALID_SPI (RFC 7296 §1.5), which makes the
other side ask, and so see a token.

Two machines with one secret would show each other's tokens (§9.2): mediation servers that share
their keys have secrets of their own, and of other machines no two are meant to have one key.

Left out: rollover of the secret (four tokens are taken, one is made), telling one in the response
of CREATE_CHILD_SA (the INFORMATIONAL serves both sides), a map of SPIs kept on disk (§8.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.crypto.algorithms import make_prf
from agent.crypto.digest import bytes_eq
from agent.ike.cookies import AnswerRate
from agent.ike.exchange import Task
from agent.ike.extension import Extension
from agent.ike.states import FIRST
from agent.wire.codes import ExchangeType, NotifyType, PayloadType, PrfId, ProtocolId
from agent.wire.errors import WireError
from agent.wire.message import Header, decode_message, encode_message
from agent.wire.payloads import AuthPayload, NotifyPayload

if TYPE_CHECKING:
    from agent.datagram import Path
    from agent.ike.sa import IkeSa
    from agent.wire.message import Message
    from agent.wire.payloads import Payload

# §5: 16 to 128 octets. The shortest, so that the answer to an empty request under AES-GCM (57
# octets) is not longer than what may be answered to one who has proven nothing.
TOKEN_LENGTH: Final = 16
MAX_TOKEN: Final = 128
# §4.5: a maker may show as many, and not one more is looked at.
MAX_TOKENS: Final = 4
# §8.1: messages with tokens that are looked at, of one address in a second.
CHECKS_PER_ADDRESS: Final = 8
CHECKS_IN_ALL: Final = 1000

_LABEL: Final = b"quick crash detection"
_PROTECTED: Final = frozenset({PayloadType.SK, PayloadType.SKF})


class Tokens:
    """Makes this machine's tokens and checks those of others. `secret`: 32 octets kept for ever."""

    __slots__ = ("_checks", "_prf", "_secret")

    def __init__(self, secret: bytes) -> None:
        self._prf = make_prf(PrfId.PRF_HMAC_SHA2_256)
        self._secret = secret
        self._checks = AnswerRate(CHECKS_PER_ADDRESS, CHECKS_IN_ALL)

    def notify(self, spis: bytes) -> NotifyPayload:
        """Our token for SPIi | SPIr. In the clear only where no such SA is left here."""
        token = self._prf(self._secret, _LABEL + spis)[:TOKEN_LENGTH]
        return NotifyPayload(NotifyType.QUICK_CRASH_DETECTION, token, ProtocolId.IKE)

    def attach(self, sa: IkeSa, message: Message | None) -> Extension | None:
        """The factory: for every IKE SA, whoever begins."""
        return CrashDetection(self)

    def proves_crash(self, sa: IkeSa, path: Path, data: bytes, now: float) -> bool:
        """Whether the unprotected message `data` shows the token of `sa`. Cannot fail.

        From any address (§3), but no more of them than the rate says.
        """
        theirs = next((e.theirs for e in sa.extensions if isinstance(e, CrashDetection)), b"")
        if not theirs or not self._checks.take(path.remote.ip, now):
            return False
        try:
            shown = decode_message(data).notifies(NotifyType.QUICK_CRASH_DETECTION)
        except WireError:
            return False
        # No short cut: each is compared, in constant time.
        return sum(bytes_eq(theirs, token.data) for token in shown[:MAX_TOKENS]) > 0


class CrashDetection(Extension):
    """The peer's token of the IKE SA in use; `takes`: it has told one, so it is told ours."""

    __slots__ = ("_tokens", "takes", "theirs")

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self.theirs = b""
        self.takes = False

    def on_request_building(
        self, sa: IkeSa, exchange: ExchangeType | int, payloads: list[Payload]
    ) -> None:
        """See Extension."""
        if exchange == ExchangeType.IKE_AUTH:
            self._tell(sa, payloads)

    def on_request(self, sa: IkeSa, message: Message, payloads: list[Payload], now: float) -> None:
        """See Extension."""
        self._take(sa, message)
        if message.header.exchange == ExchangeType.IKE_AUTH and self.takes:
            self._tell(sa, payloads)

    def on_response(
        self, sa: IkeSa, exchange: ExchangeType | int, message: Message, now: float
    ) -> None:
        """See Extension."""
        if exchange not in FIRST:
            self._take(sa, message)

    def on_rekeyed(self, old: IkeSa, new: IkeSa, now: float) -> None:
        """See Extension. A token is good for one pair of SPIs (§5.3)."""
        self.theirs = b""
        if self.takes:
            new.submit(TellToken(self._tokens), now)

    def _tell(self, sa: IkeSa, payloads: list[Payload]) -> None:
        """Behind AUTH, before what belongs to the Child SA (§4.2)."""
        after = [i for i, payload in enumerate(payloads, 1) if isinstance(payload, AuthPayload)]
        payloads.insert(after[0] if after else len(payloads), self._tokens.notify(sa.spis))

    def _take(self, sa: IkeSa, message: Message) -> None:
        """Keep the token of a protected message. One that is too short could be guessed."""
        if message.header.exchange in FIRST or not sa.is_current:
            return
        notify = message.notify(NotifyType.QUICK_CRASH_DETECTION)
        if notify is not None and TOKEN_LENGTH <= len(notify.data) <= MAX_TOKEN:
            self.theirs = notify.data
            self.takes = True


class TellToken(Task):
    """Our token for the SPIs of the SA that carries it (§4.3)."""

    __slots__ = ("_tokens",)
    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def build(self, sa: IkeSa, now: float) -> list[Payload]:
        """See Task."""
        return [self._tokens.notify(sa.spis)]

    def on_response(self, sa: IkeSa, message: Message, now: float) -> None:
        """See Task."""
        for extension in sa.extensions:
            extension.on_response(sa, self.exchange, message, now)


def is_protected(header: Header) -> bool:
    """Whether what was asked with `header` came under an IKE SA: only that is shown a token."""
    return header.next_payload in _PROTECTED


def encode_invalid_spi(spi: bytes) -> bytes:
    """What the sender of ESP under the unknown `spi` is told (RFC 7296 §1.5): the SPIs are zero."""
    header = Header(
        initiator_spi=bytes(8),
        responder_spi=bytes(8),
        exchange=ExchangeType.INFORMATIONAL,
        is_initiator=True,
        is_response=False,
        message_id=0,
    )
    return encode_message(header, [NotifyPayload(NotifyType.INVALID_SPI, spi)])


def decode_invalid_spi(data: bytes) -> bytes | None:
    """The SPI of an unprotected INVALID_SPI, None if `data` is something else. Cannot fail."""
    try:
        message = decode_message(data)
    except WireError:
        return None
    notify = message.notify(NotifyType.INVALID_SPI)
    if message.header.exchange != ExchangeType.INFORMATIONAL or notify is None:
        return None
    return notify.data if len(notify.data) == 4 else None
