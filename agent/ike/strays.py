"""What comes outside of every IKE SA: messages and ESP of none, other versions, unproven hints.

RFC 7296 §1.5, §2.5, §2.21.4, RFC 6290. Nobody has proven anything here: each answer is rare, is no
longer than what may go to such a sender, and leaves nothing behind; a hint leads to a question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.datagram import Dropped, Transmit
from agent.ike import crash
from agent.ike.cookies import STRAY_ANSWERS_IN_ALL, STRAY_ANSWERS_PER_ADDRESS, AnswerRate
from agent.ike.errors import Ignored
from agent.ike.events import CloseReason
from agent.ike.ike_sa_init import MAX_AMPLIFICATION
from agent.ike.states import FIRST
from agent.wire.codes import NotifyType
from agent.wire.message import MAJOR_VERSION, NO_SPI, Header, encode_message
from agent.wire.payloads import NotifyPayload

if TYPE_CHECKING:
    from agent.datagram import Path
    from agent.ike.sa import IkeSa
    from agent.ike.table import Ike
    from agent.wire.payloads import Payload

# Answers to another major version, in a second: nobody needs it twice.
_VERSION_ANSWERS: Final = 1
# What our answer to ESP has in front of it and ESP has not (RFC 3948 §2.2).
_MARKER: Final = 4


class Strays:
    """Answers and heeds what belongs to no IKE SA. `tokens`: with them a crash can be proven."""

    __slots__ = ("_esp_rate", "_rate", "_table", "_tokens", "_version_rate")

    def __init__(self, table: Ike, tokens: crash.Tokens | None) -> None:
        self._table = table
        self._tokens = tokens
        self._version_rate = AnswerRate(_VERSION_ANSWERS, _VERSION_ANSWERS)
        self._rate = AnswerRate(STRAY_ANSWERS_PER_ADDRESS, STRAY_ANSWERS_IN_ALL)
        self._esp_rate = AnswerRate(STRAY_ANSWERS_PER_ADDRESS, STRAY_ANSWERS_IN_ALL)

    def on_other_version(self, path: Path, header: Header, data: bytes, now: float) -> None:
        """RFC 7296 §2.5: a higher major version is told that 2 is what we have. Raises Ignored."""
        if header.major < MAJOR_VERSION or header.is_response:
            raise Ignored("version")
        if self._version_rate.take(path.remote.ip, now):
            self._answer(path, header, data, NotifyType.INVALID_MAJOR_VERSION)
        raise Ignored("version")

    def on_unknown_spi(self, path: Path, header: Header, data: bytes, now: float) -> None:
        """RFC 7296 §2.21.4: nobody here has this SPI, the sender may be glad to know.

        Neither of the two SPIs may be in use here. Raises Ignored.
        """
        if not header.is_response and header.exchange not in FIRST:
            known = NO_SPI not in (header.initiator_spi, header.responder_spi)
            if known and self._rate.take(path.remote.ip, now):
                self._answer(path, header, data, NotifyType.INVALID_IKE_SPI)
        raise Ignored("unknown_spi")

    def on_unknown_esp(self, path: Path, data: bytes, now: float) -> None:
        """ESP that belongs to no SA came along `path`: say so, rarely (RFC 7296 §1.5)."""
        octets = crash.encode_invalid_spi(data[:4])
        fits = len(octets) + _MARKER <= MAX_AMPLIFICATION * len(data)
        if fits and self._esp_rate.take(path.remote.ip, now):
            self._table.emit(Transmit(path, octets))

    def on_invalid_spi(self, path: Path, data: bytes, now: float) -> bool:
        """Perhaps an unprotected INVALID_SPI, in which IKE SPIs mean nothing. Whether it was."""
        spi = crash.decode_invalid_spi(data)
        if spi is None:
            return False
        sa = self._table.children.user_of(spi)
        if sa is not None:
            self.on_hint(sa, path, data, now)
            self._table.touch(sa)
        self._table.emit(Dropped("not_encrypted"))
        return True

    def on_hint(self, sa: IkeSa, path: Path, data: bytes, now: float) -> None:
        """Without a proof (RFC 6290) it leads to a question and no more."""
        if self._tokens is not None and self._tokens.proves_crash(sa, path, data, now):
            sa.close(CloseReason.RESTARTED, "", now)
        else:
            sa.hint(now)

    def _answer(self, path: Path, header: Header, data: bytes, notify: int) -> None:
        """No more octets than may go to whom has proven nothing."""
        answer = Header(
            initiator_spi=header.initiator_spi,
            responder_spi=header.responder_spi,
            exchange=header.exchange,
            is_initiator=not header.is_initiator,
            is_response=True,
            message_id=header.message_id,
        )
        payloads: list[Payload] = [NotifyPayload(notify)]
        if notify == NotifyType.INVALID_IKE_SPI and self._tokens and crash.is_protected(header):
            # Neither SPI is in use here, so nobody's living SA ends by it.
            payloads.append(self._tokens.notify(header.initiator_spi + header.responder_spi))
        while payloads:
            octets = encode_message(answer, payloads)
            if len(octets) <= MAX_AMPLIFICATION * len(data):
                self._table.emit(Transmit(path, octets))
                return
            payloads.pop()


def is_hint(sa: IkeSa, header: Header) -> bool:
    """An unprotected answer from one who has forgotten us, or a forgery (§1.5, §2.21.4)."""
    if not header.is_response or header.exchange in FIRST:
        return False
    theirs = header.initiator_spi + header.responder_spi == sa.spis
    return theirs and sa.established and header.next_payload == NotifyPayload.TYPE
