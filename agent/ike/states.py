"""The states of an IKE SA as a table; what is not in it is illegal.

Theory. An IKE SA is made in one of two ways. The initial exchanges make one from nothing:

    initiator   INIT_SENT --init answered--> AUTH_SENT --proven--> ESTABLISHED
                (IKE_SA_INIT, or IKE_SESSION_RESUME with a ticket of an earlier one)
    responder   (nothing is kept for a COOKIE, §2.6)  HALF_OPEN --proven--> ESTABLISHED
                                                      HALF_OPEN --refused-> REFUSED

and CREATE_CHILD_SA makes one from another (§2.18), whose identity, peer, Child SAs and extensions
it takes over when it is *adopted*. Until then it is SPARE: with two simultaneous rekeyings two of
them exist, of which one is adopted and the other is deleted by who created it (§2.8.2). The SA
that was replaced is REPLACED: it still answers, its Delete is on the way from one side or the
other. REFUSED keeps no keys' worth of trust, only the answer that says so, for retransmissions.
DELETING has sent its Delete and waits for the answer.

Procedures in flight are no states. With a window of 1 each side has at most one request
outstanding (`exchange.Outgoing.task`), so a collision of two procedures is two exchanges that
each side sees in its own order, and §2.25 is written as: what do I answer to *this* request while
*that* task of mine is in flight.

Additional key exchanges (RFC 9370) are rounds within AUTH_SENT and HALF_OPEN; how many are due is
in `intermediate`.

`ACCEPTS` says which requests of the peer a state takes at all. Anything before the proof but
IKE_AUTH and IKE_INTERMEDIATE is dropped unanswered. MINE are those that an extension claims
(ME_CONNECT).
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from agent.wire.codes import ExchangeType


class IkeState(Enum):
    """Where an IKE SA is in its life."""

    INIT_SENT = auto()
    AUTH_SENT = auto()
    HALF_OPEN = auto()
    REFUSED = auto()
    ESTABLISHED = auto()
    SPARE = auto()
    REPLACED = auto()
    DELETING = auto()
    CLOSED = auto()


class Step(Enum):
    """What moves it on."""

    INIT_ANSWERED = auto()
    PROVEN = auto()
    REFUSE = auto()
    ADOPT = auto()
    REPLACE = auto()
    SEND_DELETE = auto()
    CLOSE = auto()


class When(Enum):
    """When to …"""

    RETRANSMIT = auto()  # send the request in flight again, or give up
    ATTEMPT = auto()  # give up the attempt to establish
    HALF_OPEN = auto()  # forget a peer that did not authenticate
    REKEY = auto()  # rekey the IKE SA
    EXPIRE = auto()  # close it, its lifetime is over
    LINGER = auto()  # forget an SA that only answers retransmissions
    PROBE_AGAIN = auto()  # listen to the next unproven hint
    REASSEMBLE = auto()  # forget fragments whose rest does not come
    ANSWER = auto()  # see whether what we sent was answered by anything
    FALL_BACK = auto()  # begin in the other way, with a ticket or without, as nobody answers


# How long an SA that has been replaced or not chosen stays to answer what is still on its way.
LINGER_SECONDS: Final = 30.0
# Unproven hints (INVALID_IKE_SPI) cause at most one probe in so many seconds.
PROBE_SECONDS: Final = 10.0


class LocalError(Exception):
    """A step that the table does not have: an error of this program, not of the peer."""


TRANSITIONS: Final[dict[tuple[IkeState, Step], IkeState]] = {
    (IkeState.INIT_SENT, Step.INIT_ANSWERED): IkeState.AUTH_SENT,
    (IkeState.INIT_SENT, Step.CLOSE): IkeState.CLOSED,
    (IkeState.AUTH_SENT, Step.PROVEN): IkeState.ESTABLISHED,
    # The responder counts us as established when its proof does not convince us.
    (IkeState.AUTH_SENT, Step.SEND_DELETE): IkeState.DELETING,
    (IkeState.AUTH_SENT, Step.CLOSE): IkeState.CLOSED,
    (IkeState.HALF_OPEN, Step.PROVEN): IkeState.ESTABLISHED,
    (IkeState.HALF_OPEN, Step.REFUSE): IkeState.REFUSED,
    (IkeState.HALF_OPEN, Step.CLOSE): IkeState.CLOSED,
    (IkeState.REFUSED, Step.CLOSE): IkeState.CLOSED,
    (IkeState.ESTABLISHED, Step.REPLACE): IkeState.REPLACED,
    (IkeState.ESTABLISHED, Step.SEND_DELETE): IkeState.DELETING,
    (IkeState.ESTABLISHED, Step.CLOSE): IkeState.CLOSED,
    (IkeState.SPARE, Step.ADOPT): IkeState.ESTABLISHED,
    (IkeState.SPARE, Step.SEND_DELETE): IkeState.DELETING,
    (IkeState.SPARE, Step.CLOSE): IkeState.CLOSED,
    (IkeState.REPLACED, Step.SEND_DELETE): IkeState.DELETING,
    (IkeState.REPLACED, Step.CLOSE): IkeState.CLOSED,
    (IkeState.DELETING, Step.CLOSE): IkeState.CLOSED,
}

# What an IKE SA begins with. IKE_SESSION_RESUME is one of these in every respect that RFC 5723 does
# not name (§4.3.2): not encrypted, SPIs and message ID as there, the same notifies.
FIRST: Final = frozenset({ExchangeType.IKE_SA_INIT, ExchangeType.IKE_SESSION_RESUME})

# Exchange types of an extension stand in the table as this one.
MINE: Final = 0

# IKE_SA_INIT and IKE_SESSION_RESUME are among them and no state takes them: they make SAs.
STANDARD: Final = frozenset(
    {
        ExchangeType.IKE_SA_INIT,
        ExchangeType.IKE_SESSION_RESUME,
        ExchangeType.IKE_AUTH,
        ExchangeType.CREATE_CHILD_SA,
        ExchangeType.INFORMATIONAL,
        ExchangeType.IKE_INTERMEDIATE,
        ExchangeType.IKE_FOLLOWUP_KE,
    }
)

_ALL: Final = frozenset(
    {
        ExchangeType.CREATE_CHILD_SA,
        ExchangeType.IKE_FOLLOWUP_KE,
        ExchangeType.INFORMATIONAL,
        MINE,
    }
)

ACCEPTS: Final[dict[IkeState, frozenset[int]]] = {
    IkeState.INIT_SENT: frozenset(),
    IkeState.AUTH_SENT: frozenset(),
    IkeState.HALF_OPEN: frozenset({ExchangeType.IKE_AUTH, ExchangeType.IKE_INTERMEDIATE}),
    IkeState.REFUSED: frozenset(),
    IkeState.ESTABLISHED: _ALL,
    IkeState.SPARE: _ALL,
    IkeState.REPLACED: _ALL,
    IkeState.DELETING: _ALL - {MINE},
    IkeState.CLOSED: frozenset(),
}


def after(state: IkeState, step: Step) -> IkeState:
    """The state that `step` leads to. Raises LocalError if there is none."""
    try:
        return TRANSITIONS[state, step]
    except KeyError:
        raise LocalError(f"{step.name} in {state.name}") from None
