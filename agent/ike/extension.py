"""A feature that spans exchanges is one object with build and process hooks.

One object per IKE SA and extension; when the IKE SA is rekeyed the same object goes on with the
new one. Hooks that handle a request may raise `ProtocolError`: the answer is then its notify.
Nothing here may block, keep `sa` for longer than the call (it is replaced by rekeying; `sa.ike_id`
stays) or trust anything before `on_established`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.datagram import Path
    from agent.ike.events import CloseReason
    from agent.ike.sa import IkeSa
    from agent.wire.codes import ExchangeType
    from agent.wire.message import Message
    from agent.wire.payloads import Payload


class Extension:
    """Hooks that do nothing; a feature overrides those that it needs."""

    __slots__ = ()

    def on_attach(self, sa: IkeSa) -> None:
        """The extension was added to a new IKE SA (not again when that is rekeyed)."""

    def on_request_building(
        self, sa: IkeSa, exchange: ExchangeType | int, payloads: list[Payload]
    ) -> None:
        """A request of ours is being built; add to `payloads`.

        Called again for each IKE_SA_INIT that is repeated with a COOKIE or another KE, and not
        again for retransmissions.
        """

    def on_request(self, sa: IkeSa, message: Message, payloads: list[Payload], now: float) -> None:
        """A request of the peer (decrypted) was accepted; add to `payloads` of the response.

        For IKE_SA_INIT, IKE_AUTH and INFORMATIONAL that deletes no IKE SA. In IKE_AUTH this comes
        after the proof was checked (`sa.remote_id` is proven).
        """

    def on_response(
        self, sa: IkeSa, exchange: ExchangeType | int, message: Message, now: float
    ) -> None:
        """The response to a request of ours, decrypted and (after IKE_SA_INIT) proven.

        Not of deletes and CREATE_CHILD_SA, which belong to the core, but of one that has rekeyed
        the IKE SA: there after `on_rekeyed`, with the new one.
        `ProtocolError` fails the exchange, and the IKE SA too before it is established.
        """

    def claims_exchange(self, exchange: int) -> bool:
        """Whether requests of this exchange type, unknown to RFC 7296, are handled here."""
        return False

    def handle_exchange(self, sa: IkeSa, message: Message, now: float) -> list[Payload]:
        """Handle a request of a claimed exchange type; returns the payloads of the response."""
        return []

    def on_established(self, sa: IkeSa, now: float) -> None:
        """The first IKE SA is established; as responder, its response has been sent."""

    def on_rekeyed(self, old: IkeSa, new: IkeSa, now: float) -> None:
        """`new` took the place of `old`, whose ike_id it has."""

    def on_path_changed(self, sa: IkeSa, path: Path, now: float) -> None:
        """The peer is now reached along `path`."""

    def on_closed(self, sa: IkeSa, reason: CloseReason, now: float) -> None:
        """The IKE SA is gone (or was never established); the last call."""

    def next_timeout(self) -> float | None:
        """When `on_timer` wants to be called (monotonic seconds), asked after each other hook."""
        return None

    def on_timer(self, sa: IkeSa, now: float) -> None:
        """`next_timeout` has come."""


Factory = Callable[["IkeSa", "Message | None"], "Extension | None"]
