"""A Child SA in use, and the tunnel that stays when Child SAs are rekeyed.

After a rekey both SAs receive; one of them sends (RFC 7296 §2.8): the new one at once at the side
that asked for it, and from its first packet on at the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.crypto.algorithms import make_cipher
from agent.ipsec.esp import InboundEsp, OutboundEsp
from agent.ipsec.sad import ESN_LIMIT, SEQUENCE_LIMIT, EspSaParameters
from agent.ipsec.spd import NOTHING, Grants, OpenedFlows, Verdict, covers, judge

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.datagram import Path
    from agent.ipsec.flow import Flow

VERDICTS = 1024
"""Verdicts kept for an SA. A peer that opens more flows makes us judge more often, no more."""


class EspSa:
    """Both directions of a Child SA with their counters; `hard` once a lifetime has ended."""

    __slots__ = (
        "_hard_packets", "hard", "inbound", "octets_in", "octets_out", "outbound", "packets_in",
        "packets_out", "parameters", "soft", "tunnel", "verdicts",
    )  # fmt: skip

    def __init__(
        self, parameters: EspSaParameters, tunnel: Tunnel, random: Callable[[int], bytes]
    ) -> None:
        p = self.parameters = parameters
        suite = (p.encr_id, p.key_bits, p.integ_id)
        self.tunnel = tunnel
        self.inbound = InboundEsp(p.spi_in, make_cipher(*suite, *p.keys_in), esn=p.esn)
        self.outbound = OutboundEsp(
            p.spi_out, make_cipher(*suite, *p.keys_out), esn=p.esn, random=random
        )
        self.octets_in = self.packets_in = self.octets_out = self.packets_out = 0
        self._hard_packets = min(p.hard_packets, ESN_LIMIT if p.esn else SEQUENCE_LIMIT)
        self.soft = self.hard = False
        self.verdicts: dict[bytes, Verdict] = {}

    @property
    def room(self) -> int:
        """Packets that may still be sent."""
        return 0 if self.hard else self._hard_packets - self.packets_out

    def verdict(self, flow: Flow) -> Verdict | None:
        """What happens to an inbound packet; None where it is outside the SA's selectors."""
        key = flow.key
        verdict = self.verdicts.get(key) if key is not None else None
        if verdict is None:
            if not covers(self.parameters.remote_ts, self.parameters.local_ts, flow):
                return None
            verdict = judge(self.tunnel.grants, flow)
            if key is not None:
                if len(self.verdicts) >= VERDICTS:
                    self.verdicts.clear()
                self.verdicts[key] = verdict
        return verdict

    def expired(self) -> list[bool]:
        """Lifetimes passed since the last call: False for a soft one, True for a hard one."""
        p = self.parameters
        packets = max(self.packets_in, self.packets_out)
        octets = max(self.octets_in, self.octets_out)
        passed: list[bool] = []
        if not self.soft and (packets >= p.soft_packets or octets >= p.soft_octets):
            self.soft = True
            passed.append(False)
        if not self.hard and (packets >= self._hard_packets or octets >= p.hard_octets):
            self.hard = True
            passed.append(True)
        return passed


class Tunnel:
    """What a peer's Child SAs of one negotiation and its rekeys share."""

    __slots__ = (
        "_waiting", "current", "grants", "ike_id", "ipv4", "ipv6", "mtu", "opened", "path", "peer",
        "sas", "unsummed",
    )  # fmt: skip

    def __init__(self, parameters: EspSaParameters, mtu: int) -> None:
        self.ike_id = parameters.ike_id
        self.peer = parameters.peer
        self.path: Path = parameters.path
        self.mtu = mtu
        self.grants: Grants = NOTHING
        self.unsummed = parameters.unsummed
        self.opened = OpenedFlows()
        self.sas: list[EspSa] = []
        """Oldest first."""
        self.current: EspSa | None = None
        """Sends."""
        self._waiting: set[EspSa] = set()
        self.ipv4: list[bytes] = []
        self.ipv6: list[bytes] = []
        """Packets of the batch that is being sealed."""

    def add(self, sa: EspSa, stays: EspSa | None = None) -> None:
        """Take `sa` into use, for sending too if it may; beside one that `stays` it may not."""
        if stays is not None and stays in self.sas:
            self.sas.insert(self.sas.index(stays), sa)
            return
        self.sas.append(sa)
        if sa.parameters.outbound_at_once or self.current is None:
            self.current = sa
        else:
            self._waiting.add(sa)

    def remove(self, sa: EspSa) -> None:
        """Drop `sa`; if it was the one that sends, the newest follows it."""
        self.sas.remove(sa)
        self._waiting.discard(sa)
        if self.current is sa:
            self.current = self.sas[-1] if self.sas else None
            if self.current is not None:
                self._waiting.discard(self.current)

    def on_inbound(self, sa: EspSa) -> bool:
        """An authentic packet came in on `sa`. True if that made it the one that sends."""
        if sa not in self._waiting:
            return False
        self._waiting.clear()
        self.current = sa
        return True

    def is_newest(self, sa: EspSa) -> bool:
        """Whether no newer SA has brought a packet: only such a one may move the endpoint."""
        for other in reversed(self.sas):
            if other is sa:
                return True
            if other.packets_in:
                return False
        return False

    def sender(self) -> EspSa | None:
        """The SA to send on, past those that have ended."""
        if self.current is None or not self.current.hard:
            return self.current
        for sa in reversed(self.sas):
            if not sa.hard:
                return sa
        return None
