"""The data plane: ESP datagrams in, inner packets out, and the reverse, in batches.

RFC 4301 in tunnel mode over UDP. Verdicts, not events: what goes wrong with a packet is a word in
`counters`. What the engine has to act upon is drained by it after each batch: `expiring`, `moved`,
`active`, `answers`.

Inbound: SPI, replay, ICV, padding, next header, selectors and grants of the SA that it came on
(RFC 4301 §5.2), then the TUN device. Outbound: the newest tunnel whose selectors cover the packet.
Left out: bypass and discard policies of one's own (what no tunnel covers is dropped), ECN and DSCP
copying (the outer header belongs to the socket), fragmentation (the answer is packet-too-big).
Both directions in one file, longer than the soft limit: they share the SAs, and a packet that
comes alone would pay for each object that its batch is handed through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.datagram import Path, Received, Transmit
from agent.ipsec import flow as flows
from agent.ipsec import supers
from agent.ipsec.esp import IPV4, IPV6, NO_NEXT_HEADER, PADDING
from agent.ipsec.icmp import packet_too_big
from agent.ipsec.segments import NO_VNET, Coalescer, Offload
from agent.ipsec.spd import NOTHING, Grants, Verdict, covers
from agent.ipsec.supers import VNET
from agent.ipsec.tunnel import EspSa, Tunnel
from agent.wire import ip

if TYPE_CHECKING:
    from agent.ipsec.sad import EspSaParameters

Random = Callable[[int], bytes]

ROUTED_FLOWS = 4096
"""Outbound flows whose tunnel is remembered; more make us look it up more often."""

GENERATION = 60.0
"""Seconds after which flows are looked up anew, so that UDP answers are awaited one to two minutes
after our last packet (RFC 4787 §4.3 wants two minutes of a NAT, most give less)."""

MAX_ANSWERS = 16
"""Packet-too-big made in one batch; the sender of a burst needs one."""


@dataclass(slots=True)
class DataResult:
    """What `DataPlane.receive` made of a batch.

    `writes` goes to `Tun.write` as it is: each element holds the buffers of one write (with
    virtio-net header where the offload says so). `other` are the datagrams, one each, that are not
    ESP of a known SA: IKE with its marker, keepalives, unknown SPIs; the engine classifies them.
    """

    writes: list[list[bytes]] = field(default_factory=list)
    other: list[Received] = field(default_factory=list)

    @property
    def packets(self) -> list[bytes]:
        """The inner packets, one each, where there are no vnet headers (tests, simulations)."""
        return [b"".join(buffers) for buffers in self.writes]


class DataPlane:
    """All Child SAs of this machine. `random` makes the IVs of AES-CBC, `mtu` is the TUN's."""

    def __init__(self, *, random: Random, offload: Offload | None = None, mtu: int = 1280) -> None:
        self.counters: Counter[str] = Counter()
        self._random = random
        self._offload = offload or Offload()
        self._mtu = mtu
        self._sas: dict[bytes, EspSa] = {}
        self._tunnels: dict[Tunnel, None] = {}
        self._by_address: dict[bytes, list[Tunnel]] = {}
        self._wide: list[Tunnel] = []
        self._grants: dict[str, Grants] = {}
        self._past_traffic: dict[str, tuple[int, int]] = {}
        self._routed: dict[bytes, Tunnel] = {}
        self._next_generation = 0.0
        self._expiring: list[tuple[bytes, bool]] = []
        self._moved: dict[int, Path] = {}
        self._active: set[int] = set()
        self._answers: list[list[bytes]] = []
        self.takes_unfinished = False
        """Whether the TUN device had better hand over unfinished packets (see `supers`). Not while
        a peer wants checksums: the kernel is quicker with them."""

    # What the engine tells

    def install(self, parameters: EspSaParameters, now: float) -> None:
        """Take a Child SA into use. Raises ValueError for a suite or keys that do not fit."""
        old = self._sas.get(parameters.replaces) if parameters.replaces is not None else None
        tunnel = old.tunnel if old is not None else Tunnel(parameters, self._mtu)
        sa = EspSa(parameters, tunnel, self._random)
        self.remove(parameters.spi_in)
        tunnel.ike_id, tunnel.peer = parameters.ike_id, parameters.peer
        tunnel.grants = self._grants.get(tunnel.peer, NOTHING)
        tunnel.unsummed = parameters.unsummed
        tunnel.add(sa, self._sas.get(parameters.yields_to or b""))
        self._sas[parameters.spi_in] = sa
        self._tunnels.setdefault(tunnel)
        self._reroute()

    def remove(self, spi_in: bytes) -> None:
        """Forget a Child SA. Nothing happens if it is not there."""
        sa = self._sas.pop(spi_in, None)
        if sa is None:
            return
        sent, received = self._past_traffic.get(sa.tunnel.peer, (0, 0))
        self._past_traffic[sa.tunnel.peer] = (sent + sa.octets_out, received + sa.octets_in)
        sa.tunnel.remove(sa)
        if not sa.tunnel.sas:
            del self._tunnels[sa.tunnel]
        self._reroute()

    def set_path(self, ike_id: int, path: Path) -> None:
        """Send what belongs to this IKE SA along `path` from now on."""
        for tunnel in self._tunnels:
            if tunnel.ike_id == ike_id:
                tunnel.path = path

    def set_path_mtu(self, ike_id: int, mtu: int) -> None:
        """The largest inner packet for this IKE SA's tunnels; larger ones get packet-too-big."""
        for tunnel in self._tunnels:
            if tunnel.ike_id == ike_id:
                tunnel.mtu = mtu

    def set_grants(self, peer: str, grants: Grants | None) -> None:
        """What `peer` may reach; None: echo and answers only. Holds for later SAs too."""
        if grants is None:
            self._grants.pop(peer, None)
            self._past_traffic.pop(peer, None)
        else:
            self._grants[peer] = grants
        for tunnel in self._tunnels:
            if tunnel.peer == peer:
                tunnel.grants = grants or NOTHING
                for sa in tunnel.sas:
                    sa.verdicts.clear()

    def traffic(self, peer: str) -> tuple[int, int]:
        """Octets of inner packets with `peer` in all its tunnels so far: (sent, received)."""
        sent, received = self._past_traffic.get(peer, (0, 0))
        for sa in self._sas.values():
            if sa.tunnel.peer == peer:
                sent, received = sent + sa.octets_out, received + sa.octets_in
        return sent, received

    # What the engine drains

    def answers(self) -> list[list[bytes]]:
        """Packets for our own TUN device that `seal` led to (too big); for Tun.write."""
        answers, self._answers = self._answers, []
        return answers

    def expiring(self) -> list[tuple[bytes, bool]]:
        """(spi_in, hard) of SAs that passed a lifetime since the last call."""
        expiring, self._expiring = self._expiring, []
        return expiring

    def moved(self) -> list[tuple[int, Path]]:
        """(ike_id, path) of peers seen at a new place; their ESP already goes there."""
        moved, self._moved = self._moved, {}
        return list(moved.items())

    def active(self) -> Iterable[int]:
        """ike_ids with authenticated inbound traffic since the last call."""
        active, self._active = self._active, set()
        return active

    # Inbound

    def receive(self, batch: Sequence[Received], now: float) -> DataResult:
        """Open a batch of datagrams of any kind. Cannot fail."""
        if now >= self._next_generation:
            self._begin_generation(now)
        coalescer = Coalescer(self._offload)
        other: list[Received] = []
        foreign: list[Received] = []
        plain: list[list[bytes]] = []
        running: EspSa | None = None
        for datagrams in batch:
            sa = self._sas.get(datagrams.data[:4])
            if sa is not running:
                if running is not None:
                    self._deliver(running, plain, coalescer)
                running, plain = sa, []
            if sa is None:
                self._foreign(datagrams, other, foreign)
            else:
                self._open(sa, datagrams, plain, foreign)
        if running is not None:
            self._deliver(running, plain, coalescer)
        if foreign:
            rest = self.receive(foreign, now)
            return DataResult(coalescer.finish() + rest.writes, other + rest.other)
        return DataResult(coalescer.finish(), other)

    def _foreign(self, datagrams: Received, other: list[Received], foreign: list[Received]) -> None:
        """Datagrams of no SA; the kernel may have put some of an SA behind them."""
        size, data = datagrams.segment, datagrams.data
        if not 0 < size < len(data):
            other.append(datagrams)
            return
        for offset in range(0, len(data), size):
            foreign.append(Received(datagrams.path, data[offset : offset + size]))

    def _open(
        self, sa: EspSa, datagrams: Received, plain: list[list[bytes]], foreign: list[Received]
    ) -> None:
        """Authenticate and decrypt; note what that says about the peer's place."""
        if sa.hard:
            self.counters["expired"] += 1
            return
        inbound, tunnel = sa.inbound, sa.tunnel
        top = inbound.window.top
        opened = inbound.open(datagrams.data, datagrams.segment or len(datagrams.data))
        if inbound.foreign:
            foreign += [Received(datagrams.path, data) for data in inbound.foreign]
            inbound.foreign.clear()
        if inbound.replayed or inbound.forged:
            self.counters["replayed"] += inbound.replayed
            self.counters["forged"] += inbound.forged
            inbound.replayed = inbound.forged = 0
        if not opened:
            return
        plain += opened
        if datagrams.path != tunnel.path and inbound.window.top > top and tunnel.is_newest(sa):
            self._move(tunnel, datagrams.path)
        self._active.add(tunnel.ike_id)

    def _move(self, tunnel: Tunnel, path: Path) -> None:
        """The newest authentic packet came from elsewhere (RFC 7296 §2.23, THREATS 32)."""
        if path.remote == tunnel.path.remote and not any(tunnel.path.local.ip):
            return  # only the kernel's choice of our own address has become visible
        self.set_path(tunnel.ike_id, path)
        self._moved[tunnel.ike_id] = path

    def _deliver(self, sa: EspSa, plain: list[list[bytes]], coalescer: Coalescer) -> None:
        """Check what came out of one SA in a row, and hand it on."""
        if not plain:
            return
        for run in plain:
            sa.packets_in += len(run)
            sa.octets_in += len(run) * len(run[0])
        self._expire(sa)
        if sa.tunnel.on_inbound(sa):
            self._reroute()

        coalescer.vouched = sa.tunnel.unsummed
        for run in plain:
            coalescer.add_run(run, lambda opened: self._check(sa, opened, coalescer))
        coalescer.end_flows()

    def _check(self, sa: EspSa, opened: bytes, coalescer: Coalescer) -> None:
        """Everything about one inner packet."""
        pad, next_header = opened[-2], opened[-1]
        end = len(opened) - 2 - pad
        if end < 0 or opened[end:-2] != PADDING[:pad]:
            self.counters["padding"] += 1
            return
        if next_header == NO_NEXT_HEADER:
            self.counters["dummy"] += 1
            return
        packet = opened[:end]
        key = flows.flow_key(packet)
        if key is not None and sa.verdicts.get(key) is Verdict.ACCEPT:
            length: int | None = ip.length(packet) or 0
        else:
            length = self._judge(sa, packet)
        if length is None:
            return
        if not length or next_header != (IPV6 if packet[0] >> 4 == 6 else IPV4):
            self.counters["malformed"] += 1
            return
        # What follows the inner packet is traffic flow confidentiality (RFC 4303 §2.7).
        coalescer.add(packet[:length], opened[length:], key)

    def _judge(self, sa: EspSa, packet: bytes) -> int | None:
        """The length of an inner packet that may pass; None, and counted, if it may not."""
        flow = flows.read(packet)
        if flow is None:
            self.counters["malformed"] += 1
            return None
        verdict = sa.verdict(flow)
        if verdict is None:
            self.counters["selectors"] += 1
            return None
        if verdict and (
            verdict is Verdict.REFUSE
            or (verdict is Verdict.NO_OPENING and flow.opens)
            or (verdict is Verdict.ANSWER and not sa.tunnel.opened.awaits(flow))
        ):
            self.counters["not_granted"] += 1
            return None
        return flow.length

    # Outbound

    def seal(self, packets: Sequence[bytes], now: float) -> list[Transmit]:
        """Seal inner packets read from the TUN device (see `supers`). Cannot fail."""
        if now >= self._next_generation:
            self._begin_generation(now)
        busy = self._sort(packets)
        transmits: list[Transmit] = []
        for tunnel in busy:
            for next_header, queue in ((IPV6, tunnel.ipv6), (IPV4, tunnel.ipv4)):
                if queue:
                    if max(map(len, queue)) > tunnel.mtu:
                        self._answer(queue, tunnel.mtu)
                    transmits += self._seal_run(tunnel, queue, next_header)
                    queue.clear()
        return transmits

    def _sort(self, packets: Sequence[bytes]) -> Iterable[Tunnel]:
        """Put each packet into its tunnel's queue; returns the tunnels."""
        routed = self._routed
        busy: dict[Tunnel, None] = {}
        last, queue = b"", list[bytes]()
        for packet in filter(None, packets):
            first = packet[0]
            if first >> 4 == 6:
                key = packet[6:44]
            elif first == 0x45:
                key = packet[6:10] + packet[12:24]
            elif first < 0x10:
                self._sort_unfinished(packet, busy)
                last = b""
                continue
            else:
                key = b""
            if key != last or not key:
                tunnel = routed.get(key) or self._route(packet)
                if tunnel is None:
                    continue
                busy[tunnel] = None
                queue = tunnel.ipv6 if first >= 0x60 else tunnel.ipv4
                # Only what `_route` has found to be a plain flow may follow without a look.
                last = key if key in routed else b""
            queue.append(packet)
        return busy

    def _sort_unfinished(self, frame: bytes, busy: dict[Tunnel, None]) -> None:
        """Finish what the kernel has left to us, and put it into its tunnel's queue."""
        head = frame[VNET : VNET + flows.KEY_WITHIN]  # the whole is 64 kB
        tunnel = self._routed.get(flows.flow_key(head) or b"") or self._route(frame[VNET:])
        if tunnel is None:
            return
        packets = supers.finish(frame, summed=not tunnel.unsummed)
        if not packets:
            self.counters["malformed"] += 1
            return
        busy[tunnel] = None
        queue = tunnel.ipv6 if head[0] >= 0x60 else tunnel.ipv4
        queue += packets

    def _seal_run(self, tunnel: Tunnel, packets: list[bytes], next_header: int) -> list[Transmit]:
        """Seal packets of one family for one tunnel, as far as its SA's lifetime goes."""
        sa = tunnel.sender()
        room = 0 if sa is None else sa.room
        if len(packets) > room:
            self.counters["expired"] += len(packets) - room
            del packets[room:]
        if sa is None or not packets:
            return []
        sa.packets_out += len(packets)
        sa.octets_out += sum(map(len, packets))
        transmits = sa.outbound.seal(packets, next_header, tunnel.path)
        self._expire(sa)
        return transmits

    def _route(self, packet: bytes) -> Tunnel | None:
        """The newest tunnel that covers `packet`, remembered for its flow."""
        flow = flows.read(packet)
        if flow is None:
            self.counters["malformed"] += 1
            return None
        for tunnels in (self._by_address.get(flow.destination, ()), self._wide):
            for tunnel in tunnels:
                sa = tunnel.current
                assert sa is not None
                if covers(sa.parameters.local_ts, sa.parameters.remote_ts, flow):
                    tunnel.opened.add(flow)
                    if flow.key is not None:
                        if len(self._routed) >= ROUTED_FLOWS:
                            self._routed.clear()
                        self._routed[flow.key] = tunnel
                    return tunnel
        self.counters["no_tunnel"] += 1
        return None

    def _answer(self, queue: list[bytes], mtu: int) -> None:
        """Take the packets out of `queue` that are larger than `mtu`, and tell their senders."""
        for packet in queue:
            if len(packet) > mtu:
                self.counters["too_big"] += 1
                if len(self._answers) < MAX_ANSWERS and (answer := packet_too_big(packet, mtu)):
                    self._answers.append([NO_VNET, answer] if self._offload.vnet else [answer])
        queue[:] = [packet for packet in queue if len(packet) <= mtu]

    # Both ways

    def _expire(self, sa: EspSa) -> None:
        for hard in sa.expired():
            self._expiring.append((sa.parameters.spi_in, hard))

    def _begin_generation(self, now: float) -> None:
        """Forget verdicts and routes, so that only flows in use are looked up again."""
        self._next_generation = now + GENERATION
        self._routed.clear()
        for tunnel in self._tunnels:
            tunnel.opened.age()
            for sa in tunnel.sas:
                sa.verdicts.clear()

    def _reroute(self) -> None:
        """Index the tunnels by the addresses behind them, the newest first."""
        self.takes_unfinished = bool(self._tunnels) and all(t.unsummed for t in self._tunnels)
        self._routed.clear()
        self._by_address.clear()
        self._wide.clear()
        for tunnel in reversed(self._tunnels):
            assert tunnel.current is not None
            for selector in tunnel.current.parameters.remote_ts:
                if selector.start == selector.end:
                    tunnels = self._by_address.setdefault(selector.start, [])
                else:
                    tunnels = self._wide
                if tunnel not in tunnels:
                    tunnels.append(tunnel)
