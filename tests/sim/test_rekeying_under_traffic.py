"""THREATS 24 and 25: no packet is lost by a rekeying, whoever begins it, both at once too.

Two of `agent.ike` with a data plane each, on a line that delays everything by 50 ms and loses
nothing. A packet every two milliseconds, in one direction or in both.
"""

from __future__ import annotations

import heapq
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agent.datagram import Path, Received, Transmit
from agent.engine.translate import esp_parameters
from agent.ike.events import ChildSaRekeyed, InstallChildSa, RemoveChildSa
from agent.ipsec import ALL, DataPlane, Grants
from agent.wire.message import decode_header
from tests.support.pair import A_TO_B, Side, child_policy, make_pair, seeded
from tests.unit.ike.test_collisions import PLACES, with_nonces
from tests.unit.ipsec.packets import udp

if TYPE_CHECKING:
    from collections.abc import Callable

DELAY = 0.05
BEGIN, REKEY, END, LATER = 1001.8, 1002.0, 1002.5, 1003.0


class Line:
    """Both ends and what is on its way: (when it arrives, a number, what happens then)."""

    def __init__(self) -> None:
        self.pair = make_pair()
        nets = "10.77.1.0/24", "10.77.2.0/24"
        for side, ends in ((self.pair.a, nets), (self.pair.b, nets[::-1])):
            policy = child_policy(*ends, proposals=("aes128gcm16-x25519",))
            side.book.peers[0] = replace(side.peer, child=policy)
        self.now = self.pair.now
        self.planes: dict[str, DataPlane] = {}
        self.sent = {"a": 0, "b": 0}
        self.got = {"a": 0, "b": 0}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        for side in (self.pair.a, self.pair.b):
            plane = self.planes[side.name] = DataPlane(random=seeded(side.name))
            plane.set_grants("a", Grants(ALL))
            plane.set_grants("b", Grants(ALL))
        self.pair.a.ike.connect(self.pair.a.peer, A_TO_B, self.now)

    def at(self, when: float, verb: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (when, self._count, verb))

    def send(self, name: str) -> None:
        """One packet of the net behind `name`."""
        self.sent[name] += 1
        packet = udp(b"", v4=True, back=name == "b")
        for transmit in self.planes[name].seal([packet], self.now):
            self._carry(getattr(self.pair, name), transmit)

    def _carry(self, sender: Side, transmit: Transmit) -> None:
        receiver = self.pair.other(sender)
        path = Path(transmit.path.remote, transmit.path.local)

        def arrive() -> None:
            result = self.planes[receiver.name].receive([Received(path, transmit.data)], self.now)
            self.got[receiver.name] += len(result.packets)
            for other in result.other:
                if len(other.data) >= 28 and decode_header(other.data):
                    receiver.ike.receive(path, other.data, self.now)

        self.at(self.now + DELAY, arrive)

    def _drain(self) -> None:
        for side in (self.pair.a, self.pair.b):
            plane = self.planes[side.name]
            while (output := side.ike.poll_output()) is not None:
                side.outputs.append(output)
                match output:
                    case Transmit():
                        self._carry(side, output)
                    case InstallChildSa():
                        plane.install(esp_parameters(output, unsummed=False), self.now)
                        side.installed[output.spi_in] = output
                    case RemoveChildSa(spi_in=spi_in):
                        plane.remove(spi_in)
                        del side.installed[spi_in]

    def run(self, until: float) -> None:
        while True:
            self._drain()
            timers = [s.ike.next_timeout() or until for s in (self.pair.a, self.pair.b)]
            self.now = min(*timers, self._due[0][0] if self._due else until)
            if self.now >= until:
                return
            if self._due and self._due[0][0] <= self.now:
                heapq.heappop(self._due)[2]()
            for side in (self.pair.a, self.pair.b):
                side.ike.handle_timer(self.now)

    def rekey(self, name: str) -> None:
        side = getattr(self.pair, name)
        (spi,) = side.installed
        side.ike.rekey_child(spi, self.now)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("after", [-0.045, -0.01, 0.0, 0.01, 0.045, None])
@pytest.mark.parametrize("traffic", ["a", "b", "ab"])
def test_nothing_is_lost(traffic: str, after: float | None, place: str) -> None:
    line = Line()
    line.run(BEGIN)
    ours, theirs, _ = PLACES[place]
    if after is not None:
        with_nonces(line.pair.a, ours)
        with_nonces(line.pair.b, theirs)
        line.at(REKEY + after, lambda: line.rekey("b"))
    line.at(REKEY, lambda: line.rekey("a"))

    def tick() -> None:
        for name in traffic:
            line.send(name)
        if line.now < END:
            line.at(line.now + 0.002, tick)

    line.at(BEGIN, tick)
    line.run(LATER)
    for name, other in (("a", "b"), ("b", "a")):
        assert line.got[other] == line.sent[name]
        side = getattr(line.pair, name)
        assert len(side.events(ChildSaRekeyed)) == 1
        assert len(side.installed) == 1
