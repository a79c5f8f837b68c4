"""What ties a mediated IKE SA to its attempt: N(ME_CONNECTID) in IKE_SA_INIT (mediation.md §4)

(signatures).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from agent.ike.extension import Extension
from agent.ike.sa import IkeSa
from agent.wire.message import Message
from agent.wire.payloads import Identification

if TYPE_CHECKING:
    from agent.mediation.client import MediationClient


class ConnectIdExtension(Extension):
    """On both sides of a mediated IKE SA. In `Pad.find_peer` the context holds it."""

    connect_id: bytes
    client: MediationClient | None  # None: the connect ID of an IKE_SA_INIT names no attempt of ours

    @property
    def expected(self) -> Identification | None:
        """The pseudonym behind the connect ID, if its attempt is still running."""
        raise NotImplementedError


def responder_factory(
    clients: Callable[[], Iterable[MediationClient]],
) -> Callable[[IkeSa, Message | None], Extension | None]:
    """For `Ike(responder_extensions=…)`: takes N(ME_CONNECTID) out of an IKE_SA_INIT."""
    raise NotImplementedError
