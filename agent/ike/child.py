"""A pair of ESP SAs in its life: derived, handed to the data plane, armed, replaced, removed.

RFC 7296 §2.8, §2.17, §2.25. How one is agreed upon is in `negotiation`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.crypto.keymat import derive_child_keys
from agent.ike.events import (
    ChildSaClosed,
    ChildSaEstablished,
    ChildSaRekeyed,
    CloseReason,
    InstallChildSa,
    RemoveChildSa,
)
from agent.ike.states import LINGER_SECONDS
from agent.wire.codes import NotifyType

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.ike.pad import Lifetimes
    from agent.ike.sa import IkeSa
    from agent.ike.suite import Suite
    from agent.wire.payloads import NotifyPayload
    from agent.wire.selectors import TrafficSelector

# Child SAs per IKE SA before a new one is refused: one is in use, the others cover one that the
# peer makes anew while its old one still stands here.
MAX_CHILDREN: Final = 3
# After TEMPORARY_FAILURE and the like: long enough for what the peer is busy with (§2.25), short
# enough for several tries before a lifetime ends.
RETRY_SECONDS: Final = 10.0
# TEMPORARY_FAILURE for "several minutes" says that the two sides disagree for good (§2.25).
OUT_OF_SYNC_SECONDS: Final = 240.0


class ChildSa:
    """A pair of ESP SAs. Deadlines in monotonic seconds, None = never.

    `ends_silently`: another one has its place (perhaps it has not been decided yet which of two
    new ones), so its end is no event. `replaced_by` is what the *peer* made to replace it (needed
    for collisions), `nonce` the lower one of those of its exchange (§2.8.1). Until `settles_at` the
    peer, who asked for it, may not have our response: it would not know what a request is about.
    Its next request says that it has. `farewell` is why it is deleted, if that had to wait.
    """

    __slots__ = (
        "addresses",
        "ends_silently",
        "expire_at",
        "farewell",
        "is_closing",
        "local_ts",
        "nonce",
        "rekey_at",
        "remote_ts",
        "replaced_by",
        "settles_at",
        "spi_in",
        "spi_out",
    )

    def __init__(
        self,
        spi_in: bytes,
        spi_out: bytes,
        local_ts: tuple[TrafficSelector, ...],
        remote_ts: tuple[TrafficSelector, ...],
        addresses: tuple[bytes, ...],
        nonce: bytes,
    ) -> None:
        self.spi_in = spi_in
        self.spi_out = spi_out
        self.local_ts = local_ts
        self.remote_ts = remote_ts
        self.addresses = addresses
        self.nonce = nonce
        self.replaced_by: ChildSa | None = None
        self.is_closing = False
        self.ends_silently = False
        self.settles_at: float | None = None
        self.farewell: tuple[CloseReason, str] | None = None
        self.rekey_at: float | None = None
        self.expire_at: float | None = None

    def next_timeout(self) -> float | None:
        """The earlier deadline."""
        return min((t for t in (self.rekey_at, self.expire_at) if t is not None), default=None)


def fraction(random: Callable[[int], bytes]) -> float:
    """From 0 up to 1, for jitter."""
    return int.from_bytes(random(2), "big") / 65536


def soft(limit: float, lifetimes: Lifetimes, part: float) -> float:
    """Where rekeying begins for a hard `limit`; `part` as from `fraction`."""
    return limit * (1.0 - lifetimes.margin - lifetimes.jitter * part)


def install(
    sa: IkeSa,
    child: ChildSa,
    suite: Suite,
    nonces: tuple[bytes, bytes],
    secrets: tuple[bytes, bytes],
    *,
    is_initiator: bool,
    old: ChildSa | None,
    winner: ChildSa | None = None,
) -> None:
    """Derive the keys and order the data plane to use them.

    `nonces`: Ni, Nr of the exchange. `secrets`: of its own key exchange and of the additional ones
    together, empty where there was none. `winner`: the peer's, where two rekeyings have met.
    """
    assert sa.peer is not None
    of_initiator, of_responder = _keys(sa, suite, nonces, secrets)
    keys_out, keys_in = (
        (of_initiator, of_responder) if is_initiator else (of_responder, of_initiator)
    )
    lifetimes = sa.peer.lifetimes
    part = fraction(sa.table.random)
    sa.table.children.add(sa, child)
    sa.refused = None
    sa.table.emit(
        InstallChildSa(
            ike_id=sa.ike_id,
            peer=sa.peer.name,
            spi_in=child.spi_in,
            spi_out=child.spi_out,
            encr_id=suite.encr_id,
            key_bits=suite.key_bits,
            integ_id=suite.integ_id,
            esn=suite.esn,
            keys_in=keys_in,
            keys_out=keys_out,
            local_ts=child.local_ts,
            remote_ts=child.remote_ts,
            path=sa.path,
            soft_octets=int(soft(lifetimes.child_octets, lifetimes, part)),
            hard_octets=lifetimes.child_octets,
            soft_packets=int(soft(lifetimes.child_packets, lifetimes, part)),
            hard_packets=lifetimes.child_packets,
            replaces=old.spi_in if old else None,
            use_at_once=is_initiator and winner is None,
            yields_to=winner.spi_in if winner else None,
        )
    )


def _keys(
    sa: IkeSa, suite: Suite, nonces: tuple[bytes, bytes], secrets: tuple[bytes, bytes]
) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]]:
    """Encryption and integrity keys of the initiator and of the responder (RFC 7296 §2.17)."""
    assert sa.protection is not None
    assert sa.suite is not None
    encr_length, integ_length = suite.key_lengths
    keys = derive_child_keys(
        sa.suite.prf,
        sa.protection.sk_d,
        shared=secrets[0],
        ni=nonces[0],
        nr=nonces[1],
        encr_length=encr_length,
        integ_length=integ_length,
        additional=secrets[1],
    )
    return (keys.encr_i, keys.integ_i), (keys.encr_r, keys.integ_r)


def arm(sa: IkeSa, child: ChildSa, now: float) -> None:
    """Start the lifetime of a new Child SA."""
    assert sa.peer is not None
    lifetimes = sa.peer.lifetimes
    if lifetimes.child_seconds:
        child.expire_at = now + lifetimes.child_seconds
        part = fraction(sa.table.random)
        child.rekey_at = now + soft(lifetimes.child_seconds, lifetimes, part)


def announce(sa: IkeSa, child: ChildSa, now: float) -> None:
    """A new Child SA that replaces none is there, unless its IKE SA had to yield at once."""
    if not owns(sa, child):
        return
    arm(sa, child, now)
    assert sa.peer is not None
    sa.table.emit(
        ChildSaEstablished(
            ike_id=sa.ike_id,
            peer=sa.peer.name,
            spi_in=child.spi_in,
            spi_out=child.spi_out,
            local_ts=child.local_ts,
            remote_ts=child.remote_ts,
            addresses=child.addresses,
        )
    )


def replaced(sa: IkeSa, old: ChildSa, new: ChildSa, now: float) -> None:
    """`new` is in use from now on; somebody deletes `old`. Nothing if that was known already."""
    new.ends_silently = False
    if old.ends_silently:
        return
    old.ends_silently = True
    old.rekey_at = None
    old.expire_at = now + LINGER_SECONDS
    sa.table.emit(
        ChildSaRekeyed(
            ike_id=sa.ike_id,
            old_spi_in=old.spi_in,
            spi_in=new.spi_in,
            spi_out=new.spi_out,
        )
    )


def owns(sa: IkeSa, child: ChildSa) -> bool:
    """Whether `child` is (still) one of this IKE SA."""
    return sa.children is not None and sa.children.get(child.spi_in) is child


def remove_child(sa: IkeSa, child: ChildSa, reason: CloseReason, detail: str = "") -> None:
    """Forget a Child SA, here and in the data plane."""
    if sa.children is None or sa.children.pop(child.spi_in, None) is None:
        return
    for other in sa.children.values():
        if other.replaced_by is child:
            other.replaced_by = None
    if not sa.children:
        sa.children = None
    sa.table.children.forget(child)
    sa.table.emit(RemoveChildSa(spi_in=child.spi_in, spi_out=child.spi_out))
    if not child.ends_silently:
        sa.table.emit(
            ChildSaClosed(ike_id=sa.ike_id, spi_in=child.spi_in, reason=reason, detail=detail)
        )


def child_by_spi_out(sa: IkeSa, spi: bytes) -> ChildSa | None:
    """The Child SA that the peer calls `spi`."""
    for child in (sa.children or {}).values():
        if child.spi_out == spi:
            return child
    return None


def out_of_sync(sa: IkeSa, error: NotifyPayload, now: float) -> bool:
    """Whether TEMPORARY_FAILURE has come for too long: then the IKE SA is closed (§2.25)."""
    if error.type != NotifyType.TEMPORARY_FAILURE:
        sa.refused = None
        return False
    first, last = sa.refused or (now, now)
    if now > last + 3 * RETRY_SECONDS:  # that was another matter
        first = now
    sa.refused = (first, now)
    if now < first + OUT_OF_SYNC_SECONDS:
        return False
    detail = "the peer answers TEMPORARY_FAILURE all the time"
    sa.delete(CloseReason.REKEY_FAILED, detail, now)
    return True


def retry_at(sa: IkeSa, now: float) -> float:
    """When to try again; the jitter keeps two sides from colliding for ever."""
    return now + RETRY_SECONDS * (1.0 + fraction(sa.table.random))
