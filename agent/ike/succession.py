"""How one IKE SA takes the place of another: RFC 7296 §2.8, §2.8.2, §2.18.

The new SA has its own SPIs, keys and message IDs; name, peer, Child SAs, extensions and waiting
requests it takes over when it is adopted. Who asks whom is in `rekey_ike`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.crypto.keymat import derive_ike_keys, rekeyed_skeyseed
from agent.ike.child import fraction, soft
from agent.ike.events import CloseReason, IkeSaRekeyed
from agent.ike.fragmentation import Fragments
from agent.ike.states import LINGER_SECONDS, IkeState, Step, When
from agent.ike.suite import Protection, keys_derived

if TYPE_CHECKING:
    from agent.ike.sa import IkeSa
    from agent.ike.suite import Suite


class RekeyCollision:
    """The SA that the peer's rekeying made while ours is in flight, and its lower nonce."""

    __slots__ = ("nonce", "spare")

    def __init__(self, spare: IkeSa, nonce: bytes) -> None:
        self.spare = spare
        self.nonce = nonce


def successor(
    old: IkeSa,
    local_spi: bytes,
    remote_spi: bytes,
    suite: Suite,
    nonces: tuple[bytes, bytes],
    shared: bytes,
    *,
    is_initiator: bool,
    additional: bytes = b"",
) -> IkeSa:
    """The new SA with its keys (§2.18), not yet in use."""
    assert old.suite is not None
    assert old.protection is not None
    new = old.table.new_sa(
        IkeState.SPARE,
        old.path,
        local_spi=local_spi,
        is_initiator=is_initiator,
        started_by_us=old.started_by_us,
        ike_id=old.ike_id,
    )
    new.remote_spi = remote_spi
    spis = new.spis
    encr_length, integ_length = suite.key_lengths
    seed = rekeyed_skeyseed(old.suite.prf, old.protection.sk_d, shared, *nonces, additional)
    keys = derive_ike_keys(
        suite.prf,
        seed,
        ni=nonces[0],
        nr=nonces[1],
        spi_i=spis[:8],
        spi_r=spis[8:],
        encr_length=encr_length,
        integ_length=integ_length,
    )
    new.suite = suite
    new.protection = Protection(suite, keys, is_initiator=is_initiator)
    new.table.emit(keys_derived(suite, spis, keys))
    new.peer = old.peer
    new.remote_id = old.remote_id
    new.behind_nat = old.behind_nat
    new.remote_behind_nat = old.remote_behind_nat
    new.established_at = old.established_at
    if old.fragments is not None:
        new.fragments = Fragments()
        new.fragments.limit = old.fragments.limit
    return new


def adopt_spare(sa: IkeSa, now: float) -> None:
    """The peer's rekeying counts, ours is forgotten."""
    collision = sa.collision
    assert collision is not None
    sa.collision = None
    sa.abandon_request(now)  # it is that rekeying, or nothing
    if collision.spare.state is IkeState.SPARE:
        adopt(sa, collision.spare, now)


def adopt(old: IkeSa, new: IkeSa, now: float) -> None:
    """`new` takes the place of `old`, which goes on answering until it is deleted."""
    new.step(Step.ADOPT)
    old.step(Step.REPLACE)
    new.path = old.path
    new.rtt = old.rtt
    new.last_seen = old.last_seen
    new.extensions = old.extensions
    new.children, old.children = old.children, None
    new.timers.stop(When.LINGER)
    for when in (When.REKEY, When.EXPIRE, When.PROBE_AGAIN, When.ANSWER):
        old.timers.stop(when)
    old.timers.set(When.LINGER, now + LINGER_SECONDS)
    # Only the last one lingers: a peer that rekeys on and on and deletes nothing fills no memory.
    before = old.table.predecessors.get(old.ike_id)
    if before is not None and before is not old:
        before.close(CloseReason.REPLACED, "", now)
    old.table.predecessors[old.ike_id] = old
    old.table.replace(old, new)
    arm(new, now)
    old.table.emit(IkeSaRekeyed(ike_id=new.ike_id, spis=new.spis))
    for extension in new.extensions:
        extension.on_rekeyed(old, new, now)
    while (task := old.outgoing.pop()) is not None:
        new.submit(task, now)
    old.table.touch(old)
    old.table.touch(new)


def arm(sa: IkeSa, now: float) -> None:
    """Start the lifetime of an IKE SA."""
    assert sa.peer is not None
    lifetimes = sa.peer.lifetimes
    if lifetimes.ike_seconds:
        part = fraction(sa.table.random)
        sa.timers.set(When.EXPIRE, now + lifetimes.ike_seconds)
        sa.timers.set(When.REKEY, now + soft(lifetimes.ike_seconds, lifetimes, part))
