"""Why something failed, as one sentence that says what happened and what to do."""

from __future__ import annotations

from agent.ike.events import CloseReason
from agent.mediation.events import ConnectFailure

_MEDIATOR: dict[CloseReason, str] = {
    CloseReason.TIMEOUT: "the mediation server does not answer; is it running, and does the "
    "network let UDP port 4500 out?",
    CloseReason.AUTHENTICATION_FAILED: "the mediation server did not accept us, or did not prove "
    "the key that is pinned for it; compare the key with what `hearthgate mediate` prints there, "
    "or what strongSwan has for us with `hearthgate peers --own`.",
    CloseReason.NO_PROPOSAL_CHOSEN: "the mediation server accepts none of our cryptographic "
    "proposals; compare `proposals` on both sides.",
    CloseReason.BY_PEER: "the mediation server closed the registration.",
    CloseReason.RESTARTED: "the mediation server was restarted.",
    CloseReason.REDIRECTED: "the mediation server sends us to others, five times in five minutes; "
    "are two of them drained to each other?",
    CloseReason.REPLACED: "another machine registered with the same key; was this board's image "
    "copied? Each machine needs keys of its own.",
}
FLAPPING = (
    "the registration is lost again and again soon after it was made. Another machine may use the "
    "same keys (was this board's image copied?): each needs keys of its own. Or the network is bad."
)
LOOPING = (
    "we are redirected again and again, five times in five minutes: not followed for a while. "
    "Do two gateways (or drained mediation servers) redirect to each other?"
)
REPLACED_OFTEN = (
    "its connection is replaced again and again. Two machines may use the same keys (was a board's "
    "image copied?): pair each anew. Or its network is bad."
)
_PEER: dict[CloseReason, str] = {
    CloseReason.TIMEOUT: "it does not answer any more; its network or power may be gone.",
    CloseReason.AUTHENTICATION_FAILED: "it did not prove the key or pre-shared key that stands "
    "for it here, or does not know ours (any more); if it was reinstalled, pair again with a new "
    "invitation.",
    CloseReason.NO_PROPOSAL_CHOSEN: "both sides have no cryptographic proposal in common; compare "
    "`proposals` and `esp_proposals`.",
    CloseReason.TS_UNACCEPTABLE: "it does not accept the addresses that we want to reach; compare "
    "`local_ts` and `remote_ts`.",
    CloseReason.BY_PEER: "the other side closed the connection.",
    CloseReason.RESTARTED: "the other side was restarted.",
    CloseReason.REPLACED: "a newer connection took its place.",
    CloseReason.REDIRECTED: "it sends us to other gateways, five times in five minutes.",
}
_OTHER: dict[CloseReason, str] = {
    CloseReason.DELETED: "it was closed here, as nobody wants it any more",
    CloseReason.ABANDONED: "it was left here, as our own address changed",
    CloseReason.ABORTED: "the attempt was given up here, as our own address changed",
    CloseReason.REFUSED: "the other side refused it",
    CloseReason.PROTOCOL_ERROR: "the other side does not keep to the protocol; are both of a "
    "current version?",
    CloseReason.REKEY_FAILED: "its lifetime ended before both sides agreed on new keys",
}
_CONNECT: dict[ConnectFailure, str] = {
    ConnectFailure.NOT_REACHABLE: "it is not reachable at the mediation server: it is offline, or "
    "unknown there, or does not let us call it.",
    ConnectFailure.NO_PATH: "no direct path was found: both NAT routers kept every attempt out. "
    "Forwarding UDP port 4500 on one of the routers to the machine behind it helps.",
    ConnectFailure.TIMEOUT: "the call was passed on, but it did not answer in time; see whether it "
    "is registered (`hearthgate status` there).",
    ConnectFailure.MEDIATOR_SILENT: "the mediation server does not answer; it, or the network on "
    "the way, has just gone (`hearthgate doctor` tells).",
    ConnectFailure.REFUSED: "it refused the call.",
    ConnectFailure.NOT_REGISTERED: "the mediation server is not connected at the moment.",
}


def mediator_closed(reason: CloseReason, detail: str) -> str:
    """Why a registration ended."""
    return _sentence(_MEDIATOR, reason, detail)


def peer_closed(reason: CloseReason, detail: str) -> str:
    """Why a connection ended."""
    return _sentence(_PEER, reason, detail)


def connect_failed(reason: ConnectFailure, detail: str = "") -> str:
    """Why the mediated way to a peer failed; `detail` is what is wrong on this side of it."""
    if reason is ConnectFailure.REFUSED and detail:
        return f"the call was not made: {detail}."
    return _CONNECT.get(reason, str(reason.value).replace("_", " "))


def _sentence(table: dict[CloseReason, str], reason: CloseReason, detail: str) -> str:
    known = table.get(reason)
    if known is not None:
        # In capitals it is the notify that the other side sent, which does not say why.
        told = reason is CloseReason.AUTHENTICATION_FAILED and not detail.isupper()
        return f"{known} What was wrong: {detail}." if told and detail else known
    words = _OTHER.get(reason, f"it ended: {str(reason.value).replace('_', ' ')}")
    return f"{words} ({detail})." if detail else f"{words}."
