"""What the IKE engine says: events (never a key in them), and orders to the data plane.

`ike_id` names an IKE SA over all its rekeyings; it is never used again in this process.
"""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from typing import TYPE_CHECKING

from agent.datagram import Dropped, Transmit
from agent.records import record

if TYPE_CHECKING:
    from agent.crypto.keymat import IkeKeys
    from agent.datagram import Address, Path
    from agent.wire.payloads import Identification
    from agent.wire.redirect import GatewayId, Successor
    from agent.wire.selectors import TrafficSelector


class CloseReason(StrEnum):
    """Why an SA is gone."""

    DELETED = "deleted"  # we asked for it
    ABANDONED = "abandoned"  # we asked for it, and did not tell the peer
    BY_PEER = "by_peer"  # the peer sent a Delete payload
    TIMEOUT = "timeout"  # no answer
    RESTARTED = "restarted"  # the peer proved that it has forgotten the SA (RFC 6290)
    AUTHENTICATION_FAILED = "authentication_failed"
    NO_PROPOSAL_CHOSEN = "no_proposal_chosen"
    TS_UNACCEPTABLE = "ts_unacceptable"
    REPLACED = "replaced"  # by a newer SA with the same peer
    REDIRECTED = "redirected"  # to another gateway (RFC 5685); where to is in `Redirected`
    REKEY_FAILED = "rekey_failed"  # the lifetime ended first
    PROTOCOL_ERROR = "protocol_error"  # somebody does not follow the RFC
    REFUSED = "refused"  # another error notify; its name is the detail
    ABORTED = "aborted"  # before it was established, by us
    IKE_SA_CLOSED = "ike_sa_closed"  # of a Child SA: went with its IKE SA


@record(frozen=True, slots=True, kw_only=True)
class IkeSaEstablished:
    """Both sides have proven who they are. `spis`: SPIi and SPIr, 16 octets.

    `resumed`: with a ticket of an earlier IKE SA (RFC 5723), whose suite it has.
    """

    ike_id: int
    spis: bytes
    peer: str
    remote_id: Identification
    path: Path
    is_initiator: bool
    suite: str
    behind_nat: bool
    remote_behind_nat: bool
    resumed: bool


@record(frozen=True, slots=True, kw_only=True)
class IkeSaRekeyed:
    """The IKE SA has new keys and SPIs; its Child SAs moved along."""

    ike_id: int
    spis: bytes


@record(frozen=True, slots=True, kw_only=True)
class IkeSaUnanswered:
    """A request on an established IKE SA stays without answer; the SA lives on for a while yet.

    `is_disowned`: somebody said of late, unproven, that the peer does not know this SA.
    """

    ike_id: int
    peer: str
    is_disowned: bool


@record(frozen=True, slots=True, kw_only=True)
class ReauthenticationDue:
    """The initial exchanges are to be repeated beside this SA, which soon ends (RFC 4478)."""

    ike_id: int
    peer: str


@record(frozen=True, slots=True, kw_only=True)
class Redirected:
    """We began; the gateway at `original` sends us to `gateway` (RFC 5685).

    Not `proven`: somebody who saw our IKE_SA_INIT says so, and the attempt goes on. Proven: the
    gateway said it in IKE_AUTH, then the IKE SA closes right after this (REDIRECTED), or later
    on, then it lives. `successor`: another key at another port is as good as its own, says a
    mediator of our kind.
    """

    ike_id: int
    peer: str
    gateway: GatewayId
    original: Address
    proven: bool
    successor: Successor | None = None


@record(frozen=True, slots=True, kw_only=True)
class IkeSaClosed:
    """The IKE SA and all its Child SAs are gone, or the attempt to make one failed.

    `detail` is for people: printable, short, may be empty. `peer` is empty for a responder that
    never learnt who called (such attempts are not reported).
    """

    ike_id: int
    peer: str
    reason: CloseReason
    detail: str
    established: bool


@record(frozen=True, slots=True, kw_only=True)
class ChildSaEstablished:
    """A Child SA that is no rekeying. `addresses`: packed virtual addresses that were handed out

    (to us as initiator, by us as responder).
    """

    ike_id: int
    peer: str
    spi_in: bytes
    spi_out: bytes
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    addresses: tuple[bytes, ...]


@record(frozen=True, slots=True, kw_only=True)
class ChildSaRekeyed:
    """A Child SA replaces another one, which goes away by itself."""

    ike_id: int
    old_spi_in: bytes
    spi_in: bytes
    spi_out: bytes


@record(frozen=True, slots=True, kw_only=True)
class ChildSaClosed:
    """A Child SA is gone for good, or was not granted (`spi_in` is then the one that was offered).

    A Child SA that was replaced by rekeying ends without this event.
    """

    ike_id: int
    spi_in: bytes
    reason: CloseReason
    detail: str = ""


@record(frozen=True, slots=True, kw_only=True)
class PathChanged:
    """The IKE SA (and its Child SAs) now goes along `path`."""

    ike_id: int
    path: Path


@record(frozen=True, slots=True, kw_only=True)
class InstallChildSa:
    """Order to the data plane. Keys: (encryption key with salt, integrity key or empty).

    `spi_in` is ours (packets to us carry it), `spi_out` the peer's, 4 octets each.
    `replaces` is the spi_in of the SA that this one rekeys. `use_at_once`: outbound traffic may
    move here now (we initiated the exchange, the peer has it already); otherwise it moves with
    the first packet that arrives on it, or when the old one is removed (RFC 7296 §2.8).
    `yields_to`: the spi_in of the SA that the peer made in the same place and that will stay; this
    one only receives until it is removed (§2.8.1).
    Limits count octets and packets of either direction; soft ones ask for `expire_child`.
    """

    ike_id: int
    peer: str
    spi_in: bytes
    spi_out: bytes
    encr_id: int
    key_bits: int
    integ_id: int
    esn: bool
    keys_in: tuple[bytes, bytes] = field(repr=False)
    keys_out: tuple[bytes, bytes] = field(repr=False)
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    path: Path
    soft_octets: int
    hard_octets: int
    soft_packets: int
    hard_packets: int
    replaces: bytes | None = None
    use_at_once: bool = True
    yields_to: bytes | None = None


@record(frozen=True, slots=True, kw_only=True)
class IkeKeysDerived:
    """An IKE SA has its keys, authenticated or not. For the engine's key log and nobody else.

    `spis`: SPIi and SPIr, 16 octets; `integ_id` 0 with an AEAD.
    """

    spis: bytes
    encr_id: int
    key_bits: int
    integ_id: int
    keys: IkeKeys = field(repr=False)


@record(frozen=True, slots=True, kw_only=True)
class RemoveChildSa:
    """Order to the data plane: forget this pair of SAs and its keys."""

    spi_in: bytes
    spi_out: bytes


Event = (
    IkeSaEstablished
    | IkeSaRekeyed
    | IkeSaUnanswered
    | ReauthenticationDue
    | Redirected
    | IkeSaClosed
    | ChildSaEstablished
    | ChildSaRekeyed
    | ChildSaClosed
    | PathChanged
)
Output = Transmit | Dropped | Event | InstallChildSa | RemoveChildSa | IkeKeysDerived
