"""What decoding untrusted octets, or encoding impossible values, may raise.

Everything in `agent.wire` that reads octets of a peer raises `WireError` or a subclass of it and
nothing else. `reason` is one short word for a counter; it never holds text of the peer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.wire.message import Header


class WireError(ValueError):
    """The octets are not what the RFC describes (INVALID_SYNTAX where an answer is allowed)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UnsupportedCriticalPayload(WireError):
    """A payload of a type that nobody here knows has its critical bit set (RFC 7296 §2.5).

    The rest of the message is well-formed. `payload_type` is the data of the notify to answer with.
    """

    def __init__(self, payload_type: int) -> None:
        super().__init__("unsupported_critical_payload")
        self.payload_type = payload_type


class UnsupportedVersion(WireError):
    """The major version is not 2 (RFC 7296 §2.5). `header` is what INVALID_MAJOR_VERSION needs.

    Only a request of a higher version may be answered, IKEv1 (`header.major` 1) never.
    """

    def __init__(self, header: Header) -> None:
        super().__init__("unsupported_version")
        self.header = header
        self.major = header.major
