"""Packets in groups: super-packets for the TUN device, runs of equal size for the socket."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Offload:
    """What the TUN device takes: `vnet` headers at all, and UDP super-packets among them."""

    vnet: bool = False
    udp: bool = False
