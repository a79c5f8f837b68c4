"""What a message may contain, as a table: exchange and direction → required, single payloads.

RFC 7296 §1.2 to §1.4, appendix C. A payload of `required` or `once` may stand there once; notifies,
Delete, Vendor ID, CERT and CERTREQ may repeat. Anything else that we know but that does not belong
there is ignored, as unknown payloads without the critical bit are (§2.5). The order of payloads
never matters. A response with an error notify need not have what is required.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from agent.ike.errors import InvalidSyntax
from agent.wire.codes import ExchangeType, is_error_notify
from agent.wire.payloads import (
    AuthPayload,
    CpPayload,
    Encrypted,
    EncryptedFragment,
    IdiPayload,
    IdrPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    SaPayload,
    TsiPayload,
    TsrPayload,
)

if TYPE_CHECKING:
    from agent.wire.message import Message
    from agent.wire.payloads import Payload


class Rule(NamedTuple):
    """Payload classes."""

    required: frozenset[type[Payload]]
    once: frozenset[type[Payload]]


def _rule(required: set[type[Payload]], once: set[type[Payload]] | None = None) -> Rule:
    return Rule(frozenset(required), frozenset(required | (once or set())))


RULES: Final[dict[tuple[int, bool], Rule]] = {
    (ExchangeType.IKE_SA_INIT, False): _rule({SaPayload, KePayload, NoncePayload}),
    (ExchangeType.IKE_SA_INIT, True): _rule({SaPayload, KePayload, NoncePayload}),
    (ExchangeType.IKE_SESSION_RESUME, False): _rule({NoncePayload}),
    (ExchangeType.IKE_SESSION_RESUME, True): _rule({NoncePayload}),
    (ExchangeType.IKE_AUTH, False): _rule(
        {IdiPayload, AuthPayload}, {IdrPayload, SaPayload, TsiPayload, TsrPayload, CpPayload}
    ),
    (ExchangeType.IKE_AUTH, True): _rule(
        {IdrPayload, AuthPayload}, {SaPayload, TsiPayload, TsrPayload, CpPayload}
    ),
    # RFC 9370 §2.2.2 and §2.2.4: one key exchange each.
    (ExchangeType.IKE_INTERMEDIATE, False): _rule({KePayload}),
    (ExchangeType.IKE_INTERMEDIATE, True): _rule({KePayload}),
    (ExchangeType.IKE_FOLLOWUP_KE, False): _rule({KePayload}),
    (ExchangeType.IKE_FOLLOWUP_KE, True): _rule({KePayload}),
    (ExchangeType.CREATE_CHILD_SA, False): _rule(
        {SaPayload, NoncePayload}, {KePayload, TsiPayload, TsrPayload}
    ),
    (ExchangeType.CREATE_CHILD_SA, True): _rule(
        {SaPayload, NoncePayload}, {KePayload, TsiPayload, TsrPayload}
    ),
    (ExchangeType.INFORMATIONAL, False): _rule(set(), {CpPayload}),
    (ExchangeType.INFORMATIONAL, True): _rule(set(), {CpPayload}),
}

# These come together or not at all: a Child SA is negotiated by all three (§1.2, RFC 6023 §4).
_CHILD: Final = (SaPayload, TsiPayload, TsrPayload)
# `decode_payloads` leaves none of these: only IKE_SA_INIT, which has no keys yet, could show one.
_SECRET: Final = (Encrypted, EncryptedFragment)


def error_of(message: Message) -> NotifyPayload | None:
    """The first error notify in `message`."""
    for payload in message.payloads:
        if isinstance(payload, NotifyPayload) and is_error_notify(payload.type):
            return payload
    return None


def check(message: Message) -> None:
    """Raises InvalidSyntax if `message` (decrypted) is not one of its exchange."""
    header = message.header
    rule = RULES.get((header.exchange, header.is_response))
    if rule is None:
        return
    seen: set[type[Payload]] = set()
    for payload in message.payloads:
        kind = type(payload)
        if kind in _SECRET:
            raise InvalidSyntax("encrypted where there are no keys")
        if kind in rule.once and kind in seen:
            raise InvalidSyntax(f"{kind.__name__} twice")
        seen.add(kind)
    if not rule.required <= seen and not (header.is_response and error_of(message)):
        raise InvalidSyntax("a payload is missing")
    if header.exchange == ExchangeType.IKE_AUTH and not header.is_response:
        count = sum(kind in seen for kind in _CHILD)
        if count not in (0, len(_CHILD)):
            raise InvalidSyntax("half of a Child SA")


def nonce_of(message: Message) -> bytes:
    """The nonce of a message that has to have one. Raises InvalidSyntax."""
    nonce = message.first(NoncePayload)
    if nonce is None:
        raise InvalidSyntax("no nonce")
    return nonce.data
