"""The data plane: ESP datagrams in, inner packets out, and the reverse, in batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.datagram import Path, Received, Transmit
    from agent.ipsec.sad import EspSaParameters
    from agent.ipsec.segments import Offload
    from agent.ipsec.spd import Grants

Random = Callable[[int], bytes]


@dataclass(slots=True)
class DataResult:
    """What `DataPlane.receive` made of a batch.

    `writes` goes to `Tun.write` as it is: each element is the list of buffers of one write (with
    virtio-net header where the offload says so). `other` are the datagrams, one each, that are not
    ESP (IKE with its marker, keepalives, rubbish): the engine classifies them.
    """

    writes: list[list[bytes]] = field(default_factory=list)
    other: list[Received] = field(default_factory=list)

    @property
    def packets(self) -> list[bytes]:
        """The inner packets, one each; only without vnet headers (tests, simulations)."""
        return [b"".join(buffers) for buffers in self.writes]


class DataPlane:
    """All Child SAs of this machine."""

    def __init__(self, *, random: Random, offload: Offload | None = None, mtu: int = 1280) -> None:
        self.counters: Counter[str] = Counter()

    def install(self, parameters: EspSaParameters, now: float) -> None:
        """Take a Child SA into use."""
        raise NotImplementedError

    def remove(self, spi_in: bytes) -> None:
        """Forget a Child SA. Nothing happens if it is not there."""
        raise NotImplementedError

    def set_path(self, ike_id: int, path: Path) -> None:
        """Send what belongs to this IKE SA along `path` from now on."""
        raise NotImplementedError

    def set_grants(self, peer: str, grants: Grants | None) -> None:
        """What `peer` may reach; None: nothing but echo and answers."""
        raise NotImplementedError

    def set_path_mtu(self, ike_id: int, mtu: int) -> None:
        """Largest inner packet for the tunnels of this IKE SA; larger ones get packet-too-big."""
        raise NotImplementedError

    def receive(self, batch: Sequence[Received], now: float) -> DataResult:
        """Open a batch of datagrams of any kind."""
        raise NotImplementedError

    def seal(self, packets: Sequence[bytes], now: float) -> list[Transmit]:
        """Seal inner packets read from the TUN device (without vnet header)."""
        raise NotImplementedError

    def answers(self) -> list[list[bytes]]:
        """Packets for our own TUN device that `seal` led to (too big); for Tun.write."""
        raise NotImplementedError

    def expiring(self) -> list[tuple[bytes, bool]]:
        """(spi_in, hard) of SAs that passed a lifetime since the last call."""
        raise NotImplementedError

    def moved(self) -> list[tuple[int, Path]]:
        """(ike_id, path) of peers that were seen at a new place since the last call."""
        raise NotImplementedError

    def active(self) -> Iterable[int]:
        """ike_ids with authenticated inbound traffic since the last call."""
        raise NotImplementedError
