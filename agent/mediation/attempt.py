"""One connection attempt, of either direction: from ME_CONNECT to the authenticated IKE SA."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.mediation.checklist import Checklist
    from agent.mediation.endpoints import LocalEndpoint
    from agent.wire.payloads import Identification


class Stage(Enum):
    """Where an attempt stands.

        initiator  ASKED --response--> RELAYED --ME_RESPONSE--> CHECKING --nominated--> CHOSEN
        responder  HELD --head start over--> ANSWERED --acknowledged, or a check--> CHECKING
                   CHECKING --INIT--> CHOSEN

    A lost response of the mediator does no harm: ME_RESPONSE leads to CHECKING from ASKED as well.
    """

    ASKED = auto()
    RELAYED = auto()
    HELD = auto()
    ANSWERED = auto()
    CHECKING = auto()
    CHOSEN = auto()


class Attempt:
    """See the module. `deadline`: when it ends as a failure, whatever its stage.

    `held_until`: when a responder's answer goes out.
    """

    __slots__ = (
        "checklist",
        "connect_id",
        "deadline",
        "held_until",
        "is_initiator",
        "key",
        "local",
        "pseudonym",
        "reported",
        "stage",
    )

    def __init__(
        self,
        *,
        connect_id: bytes,
        pseudonym: Identification,
        is_initiator: bool,
        key: bytes,
        local: tuple[LocalEndpoint, ...],
        deadline: float,
        held_until: float = 0.0,
    ) -> None:
        self.connect_id = connect_id
        self.pseudonym = pseudonym
        self.is_initiator = is_initiator
        self.key = key
        self.local = local
        self.deadline = deadline
        self.held_until = held_until
        self.stage = Stage.ASKED if is_initiator else Stage.HELD
        self.checklist: Checklist | None = None
        self.reported = 0  # number of the pair that was told as path, 0 = none
