"""The same message again: our request that is not answered, our response that was asked for again.

RFC 7296 §2.1, §2.4 (when to give up), RFC 7383 §2.5.2 (smaller fragments after a while). The
intervals are in `settings`, what is in flight in `exchange`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.ike import fragmentation, informational, succession
from agent.ike.errors import Ignored
from agent.ike.events import CloseReason, IkeSaUnanswered
from agent.ike.exchange import MAX_ELSEWHERE, first_interval
from agent.ike.states import IkeState, When

if TYPE_CHECKING:
    from agent.datagram import Path
    from agent.ike.exchange import Incoming
    from agent.ike.sa import IkeSa


def repeat_request(sa: IkeSa, now: float) -> None:
    """Send the request in flight again, or give the IKE SA up."""
    out = sa.outgoing
    if out.task is None:
        return
    settings = sa.table.settings
    short = out.task.is_last or sa.state is IkeState.DELETING
    give_up = out.first_sent + (settings.delete_give_up if short else settings.give_up)
    if now >= give_up:
        _give_up(sa, now)
        return
    doubt(sa, now)
    if out.tries % fragmentation.TRIES_PER_SIZE == 0:
        smaller = fragmentation.cut_smaller(sa, out.plain, out.data)
        if smaller:  # RFC 7383 §2.5.2: with new timers
            out.data = smaller
            out.interval = first_interval(settings, sa.rtt) / settings.back_off
    out.repeat(settings, now)
    sa.timers.set(When.RETRANSMIT, min(now + out.interval, give_up))
    sa.transmit(sa.path, out.data)


def doubt(sa: IkeSa, now: float) -> None:
    """Say so if what is in flight has been for long."""
    out = sa.outgoing
    doubtful = out.task is not None and now >= out.first_sent + sa.table.settings.doubt_seconds
    if doubtful and sa.established and sa.peer is not None:
        disowned = sa.timers.deadline(When.PROBE_AGAIN) is not None
        sa.table.emit(IkeSaUnanswered(ike_id=sa.ike_id, peer=sa.peer.name, is_disowned=disowned))


def _give_up(sa: IkeSa, now: float) -> None:
    """Nobody answers on this SA; perhaps on the one that the peer's own rekeying has made."""
    spare = sa.collision.spare if sa.collision is not None else None
    if sa.state is not IkeState.ESTABLISHED or spare is None or spare.state is not IkeState.SPARE:
        sa.close(CloseReason.TIMEOUT, "no answer", now)
        return
    succession.adopt_spare(sa, now)
    informational.check_liveness(spare, now)
    sa.table.touch(spare)


def count_elsewhere(last: Incoming) -> None:
    """The last request came once more from where the peer is not. Raises Ignored for too many."""
    last.elsewhere += 1
    if last.elsewhere > MAX_ELSEWHERE:
        raise Ignored("repeated_elsewhere")


def answer_again(sa: IkeSa, path: Path) -> None:
    """The last request came once more: so does the response, smaller if that goes on.

    Raises Ignored for one too many from where the peer is not known to be.
    """
    last = sa.incoming
    if path.remote != sa.path.remote:
        count_elsewhere(last)
    last.repeated += 1
    if last.repeated % fragmentation.TRIES_PER_SIZE == 0:
        last.response = fragmentation.cut_smaller(sa, last.plain, last.response) or last.response
    sa.transmit(path, last.response)
