"""Repeated authentication (RFC 4478): a proof is good for so long, then the IKE SA is made anew.

The original responder says for how long (AUTH_LIFETIME), and deletes the IKE SA soon after. The
original initiator makes a new one before that (make before break: the older one goes when the new
one is up, as with every second IKE SA of a pair), also where only its own policy wants it. Rekeying
does not prolong it.

Left out: AUTH_LIFETIME sent later in an INFORMATIONAL (received it counts).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.ike.events import CloseReason, ReauthenticationDue
from agent.ike.extension import Extension
from agent.ike.states import FIRST
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.payloads import NotifyPayload

if TYPE_CHECKING:
    from agent.ike.sa import IkeSa
    from agent.wire.message import Message
    from agent.wire.payloads import Payload

# The initiator begins this part of the lifetime before its end, but no more than so many seconds.
MARGIN: Final = 0.1
LONGEST_MARGIN: Final = 60.0
# However short the lifetime is said to be, a peer costs us a handshake no more often (§5).
SHORTEST_SECONDS: Final = 10.0
# While the new IKE SA does not come about, it is asked for again after so many seconds.
AGAIN_SECONDS: Final = 10.0
# What the responder leaves the initiator after the end of the lifetime.
GRACE_SECONDS: Final = 5.0


class Reauthentication(Extension):
    """When this IKE SA has to be made anew (we began it), or is deleted (the peer did)."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at: float | None = None

    def on_request(self, sa: IkeSa, message: Message, payloads: list[Payload], now: float) -> None:
        """See Extension."""
        self._heed(sa, message, now)
        ours = sa.peer.auth_seconds if sa.peer is not None else 0
        if message.header.exchange == ExchangeType.IKE_AUTH and ours:
            data = int(ours).to_bytes(4, "big")
            payloads.append(NotifyPayload(NotifyType.AUTH_LIFETIME, data))
            self._at = now + ours + GRACE_SECONDS

    def on_response(
        self, sa: IkeSa, exchange: ExchangeType | int, message: Message, now: float
    ) -> None:
        """See Extension."""
        if exchange == ExchangeType.IKE_AUTH:
            self._heed(sa, message, now)
            if sa.peer is not None and sa.peer.auth_seconds:
                self._within(sa.peer.auth_seconds, now, now)

    def _heed(self, sa: IkeSa, message: Message, now: float) -> None:
        """What the original responder says, under the protection of the IKE SA."""
        notify = message.notify(NotifyType.AUTH_LIFETIME)
        if notify is None or len(notify.data) != 4 or not sa.started_by_us:
            return
        if message.header.exchange not in FIRST:
            since = sa.established_at if sa.established else now
            self._within(int.from_bytes(notify.data, "big"), since, now)

    def _within(self, seconds: float, since: float, now: float) -> None:
        """The earliest of all that is wanted counts."""
        due = now + seconds - min(seconds * MARGIN, LONGEST_MARGIN)
        due = max(due, since + SHORTEST_SECONDS)
        self._at = due if self._at is None else min(self._at, due)

    def next_timeout(self) -> float | None:
        """See Extension."""
        return self._at

    def on_timer(self, sa: IkeSa, now: float) -> None:
        """See Extension."""
        if not sa.established or sa.peer is None:
            return
        if sa.started_by_us:
            self._at = now + AGAIN_SECONDS
            sa.table.emit(ReauthenticationDue(ike_id=sa.ike_id, peer=sa.peer.name))
        else:
            self._at = None
            sa.delete(CloseReason.REKEY_FAILED, "the authentication was not repeated", now)


def attach(sa: IkeSa, message: Message | None) -> Extension | None:
    """The factory: every IKE SA, as the responder does not know its peer yet."""
    return Reauthentication()
