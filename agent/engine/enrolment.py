"""Handing over lasting keys inside the IKE SA of an invitation (octets: agent/invitation.py).

N(HG_ENROLL) travels in an INFORMATIONAL request, N(HG_ENROLLED) in its response: private notifies,
sent only where the identity of an invitation has been proven.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.ike.extension import Extension
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.payloads import NotifyPayload

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.ike.sa import IkeSa
    from agent.ike.table import Ike
    from agent.wire.message import Message
    from agent.wire.payloads import Payload


class EnrolmentExtension(Extension):
    """The gateway's side. `on_enrol(peer name, data)` answers, None if this peer may not."""

    __slots__ = ("_on_enrol",)

    def __init__(self, on_enrol: Callable[[str, bytes], bytes | None]) -> None:
        self._on_enrol = on_enrol

    def on_request(self, sa: IkeSa, message: Message, payloads: list[Payload], now: float) -> None:
        """Answer N(HG_ENROLL) of an INFORMATIONAL."""
        if message.header.exchange != ExchangeType.INFORMATIONAL or sa.peer is None:
            return
        notify = message.notify(NotifyType.HG_ENROLL)
        if notify is None or not sa.established:
            return
        answer = self._on_enrol(sa.peer.name, notify.data)
        if answer is not None:
            payloads.append(NotifyPayload(NotifyType.HG_ENROLLED, answer))


def enrol(
    ike: Ike, ike_id: int, data: bytes, answered: Callable[[bytes | None], None], now: float
) -> None:
    """The invited side: ask, and hand the answer's data (or None) to `answered`."""

    def on_response(message: Message | None, now: float) -> None:
        notify = message.notify(NotifyType.HG_ENROLLED) if message is not None else None
        answered(notify.data if notify is not None else None)

    ike.request(
        ike_id,
        ExchangeType.INFORMATIONAL,
        [NotifyPayload(NotifyType.HG_ENROLL, data)],
        on_response,
        now,
    )
