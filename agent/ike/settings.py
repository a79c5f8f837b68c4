"""The figures of the IKE engine, each with its reason."""

from __future__ import annotations

from agent.records import record


@record(frozen=True, slots=True, kw_only=True)
class IkeSettings:
    """Seconds and counts.

    Retransmission (RFC 7296 §2.1, §2.4): the first one after `first_interval` until the round trip
    is measured, then after `rtt_factor` round trips, not below `floor_interval`; each further one
    `back_off` times later, at most `longest_interval` apart. `give_up` seconds after the first
    sending the peer counts as gone (`delete_give_up` where nobody waits for the answer, and after
    an unauthenticated error an attempt still waits `error_grace` for a better answer, §2.21.1).

    Doubt: ESP that is sent and not answered by anything for `answer_seconds` leads to a probe. A
    request without answer for `doubt_seconds` is told as `IkeSaUnanswered`, so that another path
    can be looked for beside the SA. That somebody says (unproven) in the peer's name that it does
    not know the SA shortens nothing (§2.4, §2.21.4).

    Redirect (RFC 5685 §5, §6): who was sent elsewhere in IKE_AUTH deletes the IKE SA within
    `redirect_seconds`, else we do.

    Half-open SAs: `half_open_seconds` after IKE_SA_INIT one that did not authenticate goes. From
    `cookie_threshold` of them on in all, or `cookie_threshold_net` from one /24 or /64, a COOKIE is
    asked for (§2.6); likewise from so many requests in one second on that cost a key exchange and
    led to none. At the limits the oldest goes first: 1024 half-open SAs are about 5 MB.
    """

    first_interval: float = 0.5
    rtt_factor: float = 3.0
    floor_interval: float = 0.1
    back_off: float = 1.8
    longest_interval: float = 10.0
    give_up: float = 40.0
    delete_give_up: float = 8.0
    answer_seconds: float = 2.0
    doubt_seconds: float = 2.5
    error_grace: float = 4.0
    redirect_seconds: float = 10.0
    half_open_seconds: float = 30.0
    cookie_threshold: int = 64
    cookie_threshold_net: int = 16
    half_open_limit: int = 1024
    half_open_limit_net: int = 128
    cookie_rotation: float = 120.0
    force_encapsulation: bool = True
    announce_childless: bool = False
