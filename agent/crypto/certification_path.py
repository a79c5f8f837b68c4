"""Whether a certificate is to be believed: RFC 5280 §6, with the rules of RFC 4945 §5 for IKE.

A path leads from the peer's certificate over certificates that came with it to one of the trust
anchors that are configured for this very peer. In it

    each    is within its time, holds nothing critical that is not known here, is signed with an
            algorithm of `signatures` (never SHA-1) by the next one
    a CA    says so (basicConstraints), may sign certificates (keyUsage), keeps its path length, and
            is not limited to other purposes than IKE (extendedKeyUsage)
    the peer's own   may sign (keyUsage digitalSignature or nonRepudiation), is good for IKE
            (extendedKeyUsage ipsecIKE or any, or none), and carries the identity of the ID payload
            as an alternative name of its type or as its whole subject

A clock that cannot be right (a board that was just switched on is in 1970) must neither let in who
is over nor keep everybody out: then the latest time that has certainly passed is what counts, what
ended before it is refused, and what begins after it is not.

Left out: nameConstraints (refused where they stand), certificate policies, and revocation: no CRL,
OCSP or hash-and-URL address is ever fetched (THREATS 17). Anchors are trusted by their name and
key, so what signed them does not matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.crypto.certificates import Certificate, InvalidCertificate, date_text
from agent.crypto.signatures import scheme_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.timers import WallTime
    from agent.wire.payloads import Identification

MAX_PATH: Final = 6
"""Certificates of a path, the peer's and the anchor's included. Three or four are usual."""
MAX_SIGNATURES: Final = 12
"""Signatures that are looked at for one peer: names can be made to fit many ways."""

_IKE: Final = frozenset({"1.3.6.1.5.5.7.3.17", "2.5.29.37.0"})  # id-kp-ipsecIKE, any purpose
_SIGNING: Final = frozenset({"digital_signature", "content_commitment"})  # RFC 4945 §5.1.3.2


def check_certificate(
    certificate: Certificate,
    others: Sequence[Certificate],
    anchors: Sequence[Certificate],
    identity: Identification,
    at: WallTime,
) -> None:
    """Raises InvalidCertificate unless `certificate` proves that its key is `identity`'s.

    `others` are certificates in between, in any order, as the peer sent them.
    """
    if not certificate.names(identity):
        raise InvalidCertificate(f"the certificate of {certificate.name} is not {identity.text}'s")
    problem = (
        signer_problem(certificate)
        or _obstacle_problem(certificate)
        or time_problem(certificate, at)
    )
    if problem:
        raise InvalidCertificate(f"the certificate of {certificate.name} {problem}")
    search = _Search(others, anchors, at)
    if not search.leads_up([certificate]):
        raise InvalidCertificate(search.problem)


def signer_problem(certificate: Certificate) -> str:
    """Why the key of a certificate may not sign for IKE; empty if it may."""
    if certificate.usages is not None and not certificate.usages & _SIGNING:
        return "does not allow signatures (keyUsage)"
    return _purpose_problem(certificate)


def issuer_problem(certificate: Certificate) -> str:
    """Why a certificate may not sign others, as far as it says itself; empty if it may."""
    if not certificate.is_ca:
        return "is not one of a CA (basicConstraints)"
    if certificate.usages is not None and "key_cert_sign" not in certificate.usages:
        return "does not allow to sign certificates (keyUsage)"
    return _purpose_problem(certificate) or _obstacle_problem(certificate)


def time_problem(certificate: Certificate, at: WallTime) -> str:
    """Why a certificate is out of its time; empty if it is not."""
    if at.seconds > certificate.not_after:
        return f"ended on {date_text(certificate.not_after)}"
    if at.is_believed and at.seconds < certificate.not_before:
        return f"begins on {date_text(certificate.not_before)}"
    return ""


def _obstacle_problem(certificate: Certificate) -> str:
    return f"is of no use: {certificate.obstacle}" if certificate.obstacle else ""


def _purpose_problem(certificate: Certificate) -> str:
    if certificate.purposes is not None and not certificate.purposes & _IKE:
        return "is for other purposes than IKE (extendedKeyUsage)"
    return ""


class _Search:
    """Looks for a path, depth first. `problem` is the first thing that was in the way."""

    def __init__(
        self, others: Sequence[Certificate], anchors: Sequence[Certificate], at: WallTime
    ) -> None:
        self._issuers = tuple(dict.fromkeys([*anchors, *others]))
        self._anchors = anchors
        self._at = at
        self._signatures = 0
        self.problem = ""

    def leads_up(self, path: list[Certificate]) -> bool:
        """Whether the last of `path` was issued by an anchor, or by one whose path leads there."""
        last = path[-1]
        for issuer in self._issuers:
            if issuer in path or not issuer.subject.matches(last.issuer):
                continue
            problem = self._link_problem(path, issuer)
            if problem:
                self._note(problem)
            elif issuer in self._anchors or self.leads_up([*path, issuer]):
                return True
        self._note(f"no CA that is trusted here leads to the certificate of {path[0].name}")
        return False

    def _note(self, problem: str) -> None:
        self.problem = self.problem or problem

    def _link_problem(self, path: list[Certificate], issuer: Certificate) -> str:
        """Why `issuer` may not stand above `path`."""
        if len(path) == MAX_PATH - 1 and issuer not in self._anchors:
            return f"more than {MAX_PATH} certificates lead to the one of {path[0].name}"
        problem = issuer_problem(issuer) or time_problem(issuer, self._at)
        # RFC 5280 §4.2.1.9: how many CAs may follow, those not counted that renew themselves.
        between = sum(not certificate.is_self_issued for certificate in path[1:])
        if not problem and issuer.path_length is not None and between > issuer.path_length:
            problem = f"allows {issuer.path_length} more CAs below it, not {between}"
        if problem:
            return f"the certificate of {issuer.name} {problem}"
        return self._signature_problem(path[-1], issuer)

    def _signature_problem(self, certificate: Certificate, issuer: Certificate) -> str:
        if self._signatures == MAX_SIGNATURES:
            return f"too many certificates could lead to the one of {certificate.name}"
        self._signatures += 1
        scheme = scheme_of(certificate.algorithm)
        if scheme is None:
            return f"the certificate of {certificate.name} is signed with an algorithm not in use"
        key = issuer.public_key
        if not key.verify_as(scheme, certificate.signed, certificate.signature):
            return f"the certificate of {certificate.name} was not signed by {issuer.name}"
        return ""
