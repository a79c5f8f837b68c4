"""What the data plane is told of a Child SA: both directions, and keys (RFC 4301 §4.4.2.1).

Tunnel mode only. Not here: anything that changes while the SA lives (see `esp` and `plane`).
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from agent.records import record

if TYPE_CHECKING:
    from agent.datagram import Path
    from agent.wire.selectors import TrafficSelector

SEQUENCE_LIMIT = 2**32 - 1
"""The last sequence number that may be sent without ESN (RFC 4303 §3.3.3: it never cycles)."""

ESN_LIMIT = 2**64 - 1
"""The same with extended sequence numbers."""


@record(frozen=True, slots=True, kw_only=True)
class EspSaParameters:
    """Both halves of a Child SA.

    `keys_in` and `keys_out` are (encryption key with salt, integrity key); the second is empty for
    AEAD. Lifetimes are octets of inner packets and packets, in either direction: passing a soft one
    is reported once, a hard one stops the SA. `replaces` is the inbound SPI of the SA that this one
    rekeys. `outbound_at_once` is False at the responder of a rekey, which goes on sending on the
    old SA until the new one has brought a packet (RFC 7296 §2.8). `yields_to`: the inbound
    SPI of another one that rekeys the same SA and will stay; this one only receives (RFC 7296
    §2.8.1). `unsummed`: both ends agreed that checksums of plain inner TCP and UDP need not be
    right (see `supers`).
    """

    ike_id: int
    peer: str
    spi_in: bytes
    spi_out: bytes
    encr_id: int
    key_bits: int | None
    integ_id: int | None
    keys_in: tuple[bytes, bytes] = field(repr=False)
    keys_out: tuple[bytes, bytes] = field(repr=False)
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    path: Path
    esn: bool = False
    soft_octets: int = 2**63
    hard_octets: int = 2**63
    soft_packets: int = 2**31
    hard_packets: int = SEQUENCE_LIMIT
    replaces: bytes | None = None
    outbound_at_once: bool = True
    yields_to: bytes | None = None
    unsummed: bool = False
