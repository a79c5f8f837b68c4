"""Which extensions an IKE SA is given, and which of them it keeps once it is established."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.ike import ppk, reauthentication
from agent.ike.fragmentation import FragmentationSupport
from agent.ike.intermediate import IntermediateSupport
from agent.ike.liveness import Liveness
from agent.ike.natd import NatDetection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.ike.crash import Tokens
    from agent.ike.extension import Extension, Factory
    from agent.ike.sa import IkeSa
    from agent.ike.tickets import Tickets
    from agent.wire.message import Message

_FRAGMENTATION: Final = FragmentationSupport()
_INTERMEDIATE: Final = IntermediateSupport()


class Attachment:
    """`always`: made for every IKE SA, besides our own; `responder`: only where the peer began."""

    __slots__ = ("_always", "_natd", "_responder")

    def __init__(
        self,
        random: Callable[[int], bytes],
        *,
        always: Sequence[Factory],
        responder: Sequence[Factory],
        tokens: Tokens | None,
        tickets: Tickets | None = None,
        force_encapsulation: bool,
    ) -> None:
        self._natd = NatDetection(random, force=force_encapsulation)
        self._responder = tuple(responder)
        self._always = (
            ppk.attach,
            reauthentication.attach,
            *always,
            *((tokens.attach,) if tokens is not None else ()),
            *((tickets.attach,) if tickets is not None else ()),
        )

    def begin(self, sa: IkeSa, extensions: Sequence[Extension]) -> None:
        """We begin `sa`, with `extensions` for it alone."""
        self._attach(sa, [*extensions, *_made(self._always, sa, None)])

    def answer(self, sa: IkeSa, message: Message) -> None:
        """The acceptable first request `message` begins `sa`."""
        self._attach(sa, _made((*self._responder, *self._always), sa, message))

    def _attach(self, sa: IkeSa, extensions: Sequence[Extension]) -> None:
        sa.extensions = (self._natd, _INTERMEDIATE, _FRAGMENTATION, *extensions)
        for extension in extensions:
            extension.on_attach(sa)

    def settle(self, sa: IkeSa) -> None:
        """Both sides are proven: what was for the handshake alone goes, liveness comes."""
        assert sa.peer is not None
        live = Liveness(sa.peer.liveness_seconds) if sa.peer.liveness_seconds else None
        done = (self._natd, _INTERMEDIATE)
        sa.extensions = tuple(e for e in (*sa.extensions, live) if e and e not in done)


def _made(factories: Sequence[Factory], sa: IkeSa, message: Message | None) -> list[Extension]:
    made = (factory(sa, message) for factory in factories)
    return [extension for extension in made if extension is not None]
