"""Agreement of our own ends that inner checksums need not be computed (agent/ipsec/supers.py).

N(HG_INNER_OFFLOAD) in the IKE_AUTH request and response of connections that carry traffic, never
to a mediator. Each end says that its TUN device takes packets whose checksum is still to be made;
what the ICV has vouched for needs no second sum. Holds for the IKE SA and all its rekeys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.ike.extension import Extension
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.payloads import NotifyPayload

if TYPE_CHECKING:
    from agent.ike.events import CloseReason
    from agent.ike.sa import IkeSa
    from agent.wire.message import Message
    from agent.wire.payloads import Payload


class InnerOffload(Extension):
    """One object for all IKE SAs: `agreed` holds the ike_ids of those where both ends said so."""

    __slots__ = ("agreed",)

    def __init__(self) -> None:
        self.agreed: set[int] = set()

    def on_request_building(
        self, sa: IkeSa, exchange: ExchangeType | int, payloads: list[Payload]
    ) -> None:
        """Offer it."""
        if exchange == ExchangeType.IKE_AUTH and _carries(sa):
            payloads.append(NotifyPayload(NotifyType.HG_INNER_OFFLOAD))

    def on_request(self, sa: IkeSa, message: Message, payloads: list[Payload], now: float) -> None:
        """Accept it."""
        if (
            message.header.exchange == ExchangeType.IKE_AUTH
            and message.notify(NotifyType.HG_INNER_OFFLOAD) is not None
            and _carries(sa)
        ):
            self.agreed.add(sa.ike_id)
            payloads.append(NotifyPayload(NotifyType.HG_INNER_OFFLOAD))

    def on_response(
        self, sa: IkeSa, exchange: ExchangeType | int, message: Message, now: float
    ) -> None:
        """It was accepted."""
        if (
            exchange == ExchangeType.IKE_AUTH
            and message.notify(NotifyType.HG_INNER_OFFLOAD) is not None
            and _carries(sa)
        ):
            self.agreed.add(sa.ike_id)

    def on_closed(self, sa: IkeSa, reason: CloseReason, now: float) -> None:
        """Forget it."""
        self.agreed.discard(sa.ike_id)


def _carries(sa: IkeSa) -> bool:
    return sa.peer is not None and sa.peer.child is not None
