"""NAT detection in IKE_SA_INIT and IKE_SESSION_RESUME (RFC 7296 §2.23).

Each side says what source and destination it believes in, hashed with the SPIs; what does not match
what is seen was translated. With `force`, our source is a random value: the peer then takes us
for one behind NAT, encapsulates ESP in UDP and follows our address, which is also right on a path
of mere firewalls (mediation.md §4). One object serves all IKE SAs: there is no state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.crypto.digest import sha1
from agent.ike.extension import Extension
from agent.ike.states import FIRST
from agent.wire.codes import NotifyType
from agent.wire.payloads import NotifyPayload

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.datagram import Address, Path
    from agent.ike.sa import IkeSa
    from agent.wire.codes import ExchangeType
    from agent.wire.message import Message
    from agent.wire.payloads import Payload


def detection_hash(spis: bytes, address: Address) -> bytes:
    """SHA-1 over SPIi, SPIr (as in the header), address and port."""
    return sha1(spis + address.ip + address.port.to_bytes(2, "big"))


class NatDetection(Extension):
    """Adds and reads the two notifies; sets `behind_nat` and `remote_behind_nat` of the SA."""

    __slots__ = ("_force", "_random")

    def __init__(self, random: Callable[[int], bytes], *, force: bool) -> None:
        self._random = random
        self._force = force

    def on_request_building(
        self, sa: IkeSa, exchange: ExchangeType | int, payloads: list[Payload]
    ) -> None:
        """See Extension."""
        if exchange in FIRST:
            payloads += self._notifies(sa.spis, sa.path)

    def on_request(self, sa: IkeSa, message: Message, payloads: list[Payload], now: float) -> None:
        """See Extension."""
        if message.header.exchange in FIRST and _read(sa, message):
            payloads += self._notifies(sa.spis, sa.path)

    def on_response(
        self, sa: IkeSa, exchange: ExchangeType | int, message: Message, now: float
    ) -> None:
        """See Extension."""
        if exchange in FIRST:
            _read(sa, message)

    def _notifies(self, spis: bytes, path: Path) -> list[Payload]:
        source = self._random(20) if self._force else detection_hash(spis, path.local)
        return [
            NotifyPayload(NotifyType.NAT_DETECTION_SOURCE_IP, source),
            NotifyPayload(
                NotifyType.NAT_DETECTION_DESTINATION_IP, detection_hash(spis, path.remote)
            ),
        ]


def _read(sa: IkeSa, message: Message) -> bool:
    """Compare with what we see; False if the peer does not do NAT detection."""
    sources = message.notifies(NotifyType.NAT_DETECTION_SOURCE_IP)
    destinations = message.notifies(NotifyType.NAT_DETECTION_DESTINATION_IP)
    if not sources or not destinations:
        return False
    header = message.header
    spis = header.initiator_spi + header.responder_spi
    seen = detection_hash(spis, sa.path.remote)
    sa.remote_behind_nat = not any(n.data == seen for n in sources)
    own = detection_hash(spis, sa.path.local)
    sa.behind_nat = not any(n.data == own for n in destinations)
    return True
