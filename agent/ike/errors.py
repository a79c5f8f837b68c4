"""Errors of the protocol: what may be answered carries its notify, what may not is `Ignored`.

RFC 7296 §3.10.1. `ProtocolError` is raised while a request of the peer is handled (the answer is
its notify) or while a response is (the exchange failed with it). Neither ever leaves agent.ike.
"""

from __future__ import annotations

from typing import Final

from agent.ike.events import CloseReason
from agent.wire.codes import NotifyType, known


class Ignored(Exception):
    """The datagram is dropped without an answer; `reason` is the counter's word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ProtocolError(Exception):
    """An error with a notify. `fatal`: the IKE SA ends with the answer (RFC 7296 §2.21.3)."""

    notify: int = NotifyType.INVALID_SYNTAX
    fatal = False

    def __init__(
        self,
        detail: str = "",
        *,
        notify: int | None = None,
        data: bytes = b"",
        protocol: int = 0,
        spi: bytes = b"",
    ) -> None:
        super().__init__(detail)
        if notify is not None:
            self.notify = notify
        self.data = data
        self.protocol = protocol
        self.spi = spi


class UnsupportedCritical(ProtocolError):
    """An unknown payload with the critical bit."""

    notify = NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD


class InvalidSyntax(ProtocolError):
    """Malformed, or not what this exchange carries."""

    notify = NotifyType.INVALID_SYNTAX
    fatal = True


class NoProposalChosen(ProtocolError):
    """None of the proposals is acceptable."""

    notify = NotifyType.NO_PROPOSAL_CHOSEN


class InvalidKePayload(ProtocolError):
    """Another key exchange method is wanted; its number is the data."""

    notify = NotifyType.INVALID_KE_PAYLOAD

    def __init__(self, group: int) -> None:
        super().__init__(f"group {group} is wanted", data=group.to_bytes(2, "big"))


class AuthenticationFailed(ProtocolError):
    """Whatever is wrong with an identity or its proof looks the same outside."""

    notify = NotifyType.AUTHENTICATION_FAILED
    fatal = True


class NoAdditionalSas(ProtocolError):
    """This IKE SA takes no more Child SAs."""

    notify = NotifyType.NO_ADDITIONAL_SAS


class InternalAddressFailure(ProtocolError):
    """No address could be assigned."""

    notify = NotifyType.INTERNAL_ADDRESS_FAILURE


class TsUnacceptable(ProtocolError):
    """No offered traffic selector is within the policy."""

    notify = NotifyType.TS_UNACCEPTABLE


class TemporaryFailure(ProtocolError):
    """Not now: another procedure is on its way (RFC 7296 §2.25)."""

    notify = NotifyType.TEMPORARY_FAILURE


class ChildSaNotFound(ProtocolError):
    """The Child SA to be rekeyed is not there; the SPI is copied into the answer."""

    notify = NotifyType.CHILD_SA_NOT_FOUND


class StateNotFound(ProtocolError):
    """The exchange that this one goes on with is not known here (RFC 9370 §2.2.4)."""

    notify = NotifyType.STATE_NOT_FOUND


_REASONS: Final[dict[int, CloseReason]] = {
    NotifyType.NO_PROPOSAL_CHOSEN: CloseReason.NO_PROPOSAL_CHOSEN,
    NotifyType.INVALID_KE_PAYLOAD: CloseReason.NO_PROPOSAL_CHOSEN,
    NotifyType.AUTHENTICATION_FAILED: CloseReason.AUTHENTICATION_FAILED,
    NotifyType.TS_UNACCEPTABLE: CloseReason.TS_UNACCEPTABLE,
    NotifyType.REDIRECT: CloseReason.REDIRECTED,
}


def reason_for(notify: int) -> tuple[CloseReason, str]:
    """Reason and detail for an error notify."""
    name = known(NotifyType, notify)
    detail = name.name if isinstance(name, NotifyType) else f"notify {notify}"
    return _REASONS.get(notify, CloseReason.REFUSED), detail
