"""The AUTH payloads of both sides: RFC 7296 §2.15, RFC 7427, RFC 8420, RFC 4754.

Who announced SIGNATURE_HASH_ALGORITHMS signs and is signed for as RFC 7427 says, with a hash of the
other side's list; who did not, by the older methods that have SHA-2 (ECDSA). The announcements
stand in the first messages, which both sides sign: whoever takes them out gets no proof accepted.
A peer proves what is configured for it and nothing else, so a pre-shared key never stands in for a
pinned key or a certificate (THREATS 18). After IKE_SESSION_RESUME the proof is that of
`resumption`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.crypto.auth import (
    auth_octets,
    psk_auth,
    scheme_of_auth,
    sign_auth,
    verify_psk_auth,
    verify_signature_auth,
)
from agent.crypto.signatures import choose, legacy_method
from agent.ike import certificates, resumption
from agent.ike.errors import AuthenticationFailed
from agent.ike.pad import PskAuth
from agent.wire.codes import AuthMethod
from agent.wire.payloads import AuthPayload

if TYPE_CHECKING:
    from agent.crypto.signatures import Signer
    from agent.ike.pad import Peer
    from agent.ike.sa import IkeSa
    from agent.wire.message import Message
    from agent.wire.payloads import IdiPayload, IdrPayload


def can_be_given(auth: PskAuth | Signer, hashes: frozenset[int] | None) -> bool:
    """Whether a peer that announced `hashes` takes what we can prove."""
    if isinstance(auth, PskAuth):
        return True
    if hashes is None:
        return legacy_method(auth.kind) is not None
    return choose(auth.kind, hashes) is not None


def give(sa: IkeSa, peer: Peer, own_id: IdiPayload | IdrPayload) -> AuthPayload:
    """Our AUTH payload. Raises AuthenticationFailed where the peer cannot take it."""
    octets = _signed_octets(sa, own_id.body, by_us=True)
    auth, hs = peer.local_auth, sa.handshake
    assert hs is not None
    assert sa.suite is not None
    if hs.resumes is not None:
        return resumption.proof(sa, octets)
    if isinstance(auth, PskAuth):
        data = psk_auth(sa.suite.prf, auth.secret, octets)
        return AuthPayload(AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE, data)
    if hs.peer_hashes is None:
        legacy = auth.sign_legacy(octets)
        if legacy is None:
            raise AuthenticationFailed(f"the peer takes no {auth.kind.value} signatures (RFC 7427)")
        return AuthPayload(*legacy)
    scheme = choose(auth.kind, hs.peer_hashes, hs.peer_scheme)
    if scheme is None:
        raise AuthenticationFailed(f"the peer takes no {auth.kind.value} signatures")
    return AuthPayload(AuthMethod.DIGITAL_SIGNATURE, sign_auth(auth, octets, scheme))


def check(
    sa: IkeSa, peer: Peer, their_id: IdiPayload | IdrPayload, auth: AuthPayload, message: Message
) -> None:
    """Raises AuthenticationFailed unless `auth` of `message` proves what `peer` demands."""
    octets = _signed_octets(sa, their_id.body, by_us=False)
    hs = sa.handshake
    assert hs is not None
    assert sa.suite is not None
    if hs.resumes is not None:
        good = resumption.is_proven(sa, octets, their_id.identity, auth)
    elif isinstance(peer.remote_auth, PskAuth):
        good = auth.method == AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE and verify_psk_auth(
            sa.suite.prf, peer.remote_auth.secret, octets, auth.data
        )
    else:
        key = certificates.proven_key(peer.remote_auth, message, their_id.identity, sa.table.wall)
        if hs.peer_hashes is None:
            good = key.verify_legacy(auth.method, octets, auth.data)
        else:
            good = auth.method == AuthMethod.DIGITAL_SIGNATURE and verify_signature_auth(
                key, octets, auth.data
            )
            hs.peer_scheme = scheme_of_auth(auth.data)
    if not good:
        raise AuthenticationFailed("the proof is wrong")


def _signed_octets(sa: IkeSa, id_body: bytes, *, by_us: bool) -> bytes:
    """The octets that a side signs."""
    hs = sa.handshake
    assert hs is not None
    assert hs.keys is not None
    assert sa.suite is not None
    by_initiator = sa.is_initiator == by_us
    octets = auth_octets(
        hs.own_message if by_us else hs.peer_message,
        hs.peer_nonce if by_us else hs.own_nonce,
        sa.suite.prf,
        hs.keys.sk_pi if by_initiator else hs.keys.sk_pr,
        id_body,
    )
    return octets + hs.rounds_due.int_auth if hs.rounds_due is not None else octets
