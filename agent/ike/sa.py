"""One IKE SA."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.datagram import Path
    from agent.ike.extension import Extension
    from agent.ike.pad import Peer
    from agent.wire.payloads import Identification


class IkeSa:
    """What extensions may read of an IKE SA."""

    ike_id: int
    is_initiator: bool  # of this very SA: the I flag
    started_by_us: bool  # of the first IKE SA; stays so over rekeyings
    path: Path
    peer: Peer | None
    remote_id: Identification | None  # proven once established
    behind_nat: bool
    remote_behind_nat: bool
    extensions: tuple[Extension, ...]

    @property
    def established(self) -> bool:
        """Whether both sides have proven who they are."""
        raise NotImplementedError
