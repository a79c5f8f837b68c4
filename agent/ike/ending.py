"""The end of an IKE SA: what is told to whom, and what becomes of the requests that wait.

RFC 7296 §1.4.1 (its Child SAs go with it), §2.8 (an SA that was replaced hands its requests on).
How it comes to that is in `sa`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.ike.events import ChildSaClosed, CloseReason, IkeSaClosed, RemoveChildSa
from agent.ike.states import IkeState

if TYPE_CHECKING:
    from agent.ike.exchange import Task
    from agent.ike.sa import IkeSa


def report(sa: IkeSa, reason: CloseReason, detail: str, now: float) -> None:
    """If this SA is the one in use: its Child SAs, its ike_id and its extensions end here."""
    was_established = sa.state in (IkeState.ESTABLISHED, IkeState.DELETING)
    if not sa.is_current:
        _remove_children(sa)
        return
    for child in (sa.children or {}).values():
        if not child.ends_silently:
            sa.table.emit(
                ChildSaClosed(
                    ike_id=sa.ike_id, spi_in=child.spi_in, reason=CloseReason.IKE_SA_CLOSED
                )
            )
    _remove_children(sa)
    sa.table.unlist(sa)
    if sa.started_by_us or was_established:
        say_closed(sa, reason, detail, established=was_established)
    for extension in sa.extensions:
        extension.on_closed(sa, reason, now)
    sa.extensions = ()


def say_closed(sa: IkeSa, reason: CloseReason, detail: str, *, established: bool) -> None:
    """The event."""
    sa.table.emit(
        IkeSaClosed(
            ike_id=sa.ike_id,
            peer=sa.peer.name if sa.peer else "",
            reason=reason,
            detail=detail,
            established=established,
        )
    )


def _remove_children(sa: IkeSa) -> None:
    for child in (sa.children or {}).values():
        sa.table.emit(RemoveChildSa(spi_in=child.spi_in, spi_out=child.spi_out))
        sa.table.children.forget(child)
    sa.children = None


def drop_rest(sa: IkeSa, now: float) -> None:
    """Nothing that waits will be sent by this SA, and what was to replace it goes with it."""
    collision, sa.collision = sa.collision, None
    if collision is not None and collision.spare.state is IkeState.SPARE:
        if sa.state is IkeState.DELETING:  # the peer may have it in use by now
            collision.spare.delete(CloseReason.REPLACED, "", now)
        else:
            collision.spare.close(CloseReason.REPLACED, "", now)
        sa.table.touch(collision.spare)
    while (task := sa.outgoing.pop()) is not None:
        lose(sa, task, now)


def lose(sa: IkeSa, task: Task, now: float) -> None:
    """A request without an answer goes on with the new SA if there is one."""
    current = sa.table.sa(sa.ike_id)
    if task.portable and current is not None and current is not sa:
        current.submit(task, now)
        sa.table.touch(current)
    else:
        task.on_lost(sa, now)
