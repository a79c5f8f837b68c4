"""The whole of IKEv2 behind a few verbs: SPI lookup, half-open limits, cookies, timers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from agent.ike.settings import IkeSettings

if TYPE_CHECKING:
    from agent.datagram import Path
    from agent.ike.events import Output
    from agent.ike.extension import Extension, Factory
    from agent.ike.pad import Pad, Peer
    from agent.ike.sa import IkeSa
    from agent.wire.message import Message
    from agent.wire.payloads import Payload

Random = Callable[[int], bytes]
OnResponse = Callable[["Message | None", float], None]

__all__ = ["Ike", "IkeSettings", "OnResponse", "Random"]


class Ike:
    """Every IKE SA of this machine.

    Contract for driving it: call one method with `now`, then drain `poll_output()` until None,
    then sleep until `next_timeout()` at most and call `handle_timer`. Data here has no non-ESP
    marker. Nothing raises for what came from the network.
    """

    def __init__(
        self,
        *,
        pad: Pad,
        random: Random,
        settings: IkeSettings | None = None,
        responder_extensions: Sequence[Factory] = (),
        key_exchange: object = None,
    ) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        """The number of established IKE SAs."""
        raise NotImplementedError

    def sa(self, ike_id: int) -> IkeSa | None:
        """The IKE SA that `ike_id` stands for now."""
        raise NotImplementedError

    def receive(self, path: Path, data: bytes, now: float) -> None:
        """A datagram (without marker) arrived on `path`. Never raises."""
        raise NotImplementedError

    def connect(
        self, peer: Peer, path: Path, now: float, extensions: Sequence[Extension] = ()
    ) -> int:
        """Start an IKE SA with `peer` along `path`; returns its ike_id."""
        raise NotImplementedError

    def close(self, ike_id: int, now: float, *, silent: bool = False) -> None:
        """End an IKE SA or an attempt; `silent` sends nothing."""
        raise NotImplementedError

    def request(
        self,
        ike_id: int,
        exchange: int,
        payloads: Sequence[Payload],
        on_response: OnResponse,
        now: float,
    ) -> None:
        """Queue a request; `on_response` gets the decrypted response, or None if there is none."""
        raise NotImplementedError

    def rekey_ike(self, ike_id: int, now: float) -> None:
        """Rekey the IKE SA now."""
        raise NotImplementedError

    def rekey_child(self, spi_in: bytes, now: float) -> None:
        """Rekey the Child SA with our SPI `spi_in` now."""
        raise NotImplementedError

    def delete_child(self, spi_in: bytes, now: float) -> None:
        """Delete the Child SA with our SPI `spi_in`."""
        raise NotImplementedError

    def expire_child(self, spi_in: bytes, hard: bool, now: float) -> None:
        """The data plane reached a limit of octets or packets: rekey (soft) or delete (hard)."""
        raise NotImplementedError

    def set_path(self, ike_id: int, path: Path, now: float) -> None:
        """Send along `path` from now on."""
        raise NotImplementedError

    def check_liveness(self, ike_id: int, now: float) -> None:
        """Send an empty INFORMATIONAL unless an exchange is on its way anyway."""
        raise NotImplementedError

    def seen_inbound(self, ike_id: int, now: float) -> None:
        """Authenticated ESP arrived from this peer: no probe is needed for a while."""
        raise NotImplementedError

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        raise NotImplementedError

    def next_timeout(self) -> float | None:
        """When `handle_timer` is to be called, monotonic seconds."""
        raise NotImplementedError

    def poll_output(self) -> Output | None:
        """The next output, or None."""
        raise NotImplementedError
