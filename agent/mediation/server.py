"""The mediation server: registrations, relaying of ME_CONNECT, callbacks (signatures)."""

from __future__ import annotations

from collections.abc import Callable

from agent.ike.extension import Extension
from agent.ike.sa import IkeSa
from agent.ike.table import Ike
from agent.mediation.events import ServerEvent
from agent.mediation.settings import MediationSettings, Random
from agent.wire.message import Message
from agent.wire.payloads import Identification


class MediationServer:
    """Registrations by pseudonym in a hash table; `allowed(caller, called)` is asked for peers that

    do not send a list of their own (strongSwan).
    """

    def __init__(
        self,
        *,
        random: Random,
        settings: MediationSettings,
        allowed: Callable[[Identification, Identification], bool] | None = None,
    ) -> None:
        raise NotImplementedError

    @property
    def counters(self) -> dict[str, int]:
        """Counts by word: registered, relayed, failed, refused, callbacks …"""
        raise NotImplementedError

    def factory(self, sa: IkeSa, request: Message | None) -> Extension | None:
        """Responder extension factory for `Ike`: an extension if the request asks for mediation."""
        raise NotImplementedError

    def bind(self, ike: Ike) -> None:
        """Requests of this server go through `ike`."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Peers online."""
        raise NotImplementedError

    def handle_timer(self, now: float) -> None:
        """Send what waits (callbacks)."""
        raise NotImplementedError

    def next_timeout(self) -> float | None:
        """When `handle_timer` wants to be called."""
        raise NotImplementedError

    def poll_output(self) -> ServerEvent | None:
        """What happened."""
        raise NotImplementedError
