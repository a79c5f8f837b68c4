"""CERT and CERTREQ: what a side shows and asks for. RFC 7296 §3.6, §3.7, RFC 7670, RFC 4945 §3.

An initiator asks in IKE_AUTH, knowing whom it calls; a responder asks in IKE_SA_INIT for the trust
anchors of all its peers, as far as they fit into an answer to somebody who has proven nothing. A
side that has certificates shows them whether or not it was asked for these, as it has no others; a
raw public key is shown where it was asked for.

What comes in band counts only towards what is configured for the peer: certificates if trust
anchors are, a raw public key if its hash is. Otherwise they are not even read. Nothing is fetched
from anywhere: HTTP_CERT_LOOKUP_SUPPORTED is never sent, and hash-and-URL is refused (THREATS 17).
Left out: CRLs, OCSP, PKCS #7, attribute certificates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from agent.crypto.digest import bytes_eq, sha256
from agent.crypto.keys import InvalidKey, PublicKey
from agent.ike.errors import AuthenticationFailed
from agent.ike.pad import AnyKeyAuth, CertificateAuth, KeyAuth, PskAuth
from agent.wire.codes import CertEncoding
from agent.wire.payloads import CertPayload, CertreqPayload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agent.crypto.signatures import Verifier
    from agent.ike.pad import Peer, RemoteAuth
    from agent.ike.sa import IkeSa
    from agent.timers import WallTime
    from agent.wire.message import Message
    from agent.wire.payloads import Identification

# CERT payloads that are looked at in one message: a path has six at most, its anchor included.
MAX_CERTIFICATES: Final = 8
AUTHORITY_LENGTH: Final = 20  # octets that name a CA in CERTREQ
_CERTREQ_HEAD: Final = 5  # generic header and encoding

_ELSEWHERE: Final = frozenset(
    {CertEncoding.HASH_AND_URL_X509, CertEncoding.HASH_AND_URL_X509_BUNDLE}
)


# -- asking --------------------------------------------------------------------------------------


def asked_of(sa: IkeSa, peer: Peer) -> tuple[CertreqPayload, ...]:
    """What we ask of `peer` in IKE_AUTH; a resumed SA needs none (RFC 5723 §4.3.3)."""
    hs = sa.handshake
    assert hs is not None
    return requests([peer.remote_auth]) if hs.resumes is None else ()


def requests(auths: Iterable[RemoteAuth]) -> tuple[CertreqPayload, ...]:
    """The CERTREQs for those who have to prove one of `auths`."""
    authorities: dict[bytes, None] = {}
    raw = False
    for auth in auths:
        if isinstance(auth, CertificateAuth):
            authorities.update({anchor.authority: None for anchor in auth.anchors})
        raw = raw or (isinstance(auth, AnyKeyAuth) and auth.key is None)
    asked = []
    if raw:  # first, as it is short and the CAs take all the room there is
        asked.append(CertreqPayload(CertEncoding.RAW_PUBLIC_KEY, b""))  # RFC 7670 §3: empty
    if authorities:
        asked.append(CertreqPayload(CertEncoding.X509_SIGNATURE, b"".join(authorities)))
    return tuple(asked)


def that_fit(asked: tuple[CertreqPayload, ...], room: int) -> tuple[CertreqPayload, ...]:
    """As much of `asked` as `room` octets hold.

    A CERTREQ without any CA is none that everybody reads, so it has one at least or is left out.
    """
    fitting = []
    for payload in asked:
        room -= _CERTREQ_HEAD
        count = min(room, len(payload.data)) // AUTHORITY_LENGTH
        if room < 0 or (payload.data and not count):
            break
        data = payload.data[: count * AUTHORITY_LENGTH]
        room -= len(data)
        fitting.append(CertreqPayload(payload.encoding, data))
    return tuple(fitting)


def asked_in(message: Message) -> frozenset[int]:
    """The encodings that the CERTREQs of a peer name."""
    return frozenset(payload.encoding for payload in message.all(CertreqPayload))


# -- showing -------------------------------------------------------------------------------------


def shown(sa: IkeSa, peer: Peer) -> tuple[CertPayload, ...]:
    """Our CERT payloads, our own certificate first (RFC 7296 §3.6)."""
    hs, auth = sa.handshake, peer.local_auth
    assert hs is not None
    if hs.resumes is not None:
        return ()
    if peer.certificates:
        return tuple(CertPayload(CertEncoding.X509_SIGNATURE, der) for der in peer.certificates)
    if isinstance(auth, PskAuth) or CertEncoding.RAW_PUBLIC_KEY not in hs.asked:
        return ()
    return (CertPayload(CertEncoding.RAW_PUBLIC_KEY, auth.spki),)


# -- believing -----------------------------------------------------------------------------------


def proven_key(
    auth: KeyAuth | AnyKeyAuth | CertificateAuth,
    message: Message,
    identity: Identification,
    wall: Callable[[], WallTime],
) -> Verifier:
    """The key that `identity` has to sign with. Raises AuthenticationFailed."""
    match auth:
        case KeyAuth(public=public):
            try:
                # A pseudonym is somebody's claim of a key: its octets may be none.
                return PublicKey(public)
            except InvalidKey as error:
                raise AuthenticationFailed(str(error)) from None
        case AnyKeyAuth():
            return auth.key if auth.key is not None else _raw_key(auth.sha256, message)
        case CertificateAuth():
            return _certified_key(auth, message, identity, wall())
        case _:
            assert_never(auth)


def _raw_key(pinned: bytes, message: Message) -> Verifier:
    """The key in band whose hash is `pinned`."""
    from agent.crypto.public_keys import AnyPublicKey  # 2 MB, where such a key is configured

    for spki in _shown_by(message, CertEncoding.RAW_PUBLIC_KEY):
        if bytes_eq(sha256(spki), pinned):
            try:
                return AnyPublicKey(spki)
            except InvalidKey as error:
                raise AuthenticationFailed(str(error)) from None
    raise AuthenticationFailed("the peer did not show the raw public key that is pinned")


def _certified_key(
    auth: CertificateAuth, message: Message, identity: Identification, at: WallTime
) -> Verifier:
    from agent.crypto.certificates import InvalidCertificate, read_certificate
    from agent.crypto.certification_path import check_certificate

    octets = _shown_by(message, CertEncoding.X509_SIGNATURE)
    if not octets:
        raise AuthenticationFailed("the peer showed no certificate")
    try:
        certificate = read_certificate(octets[0])
    except InvalidCertificate as error:
        raise AuthenticationFailed(f"the peer's certificate: {error}") from None
    others = []
    for der in octets[1:]:
        try:
            others.append(read_certificate(der))
        except InvalidCertificate:
            continue  # there may be another way up
    try:
        check_certificate(certificate, others, auth.anchors, identity, at)
    except InvalidCertificate as error:
        raise AuthenticationFailed(str(error)) from None
    return certificate.public_key


def _shown_by(message: Message, encoding: CertEncoding) -> list[bytes]:
    """What stands in the CERT payloads of one encoding. Raises AuthenticationFailed."""
    payloads = message.all(CertPayload)
    if len(payloads) > MAX_CERTIFICATES:
        raise AuthenticationFailed(f"more than {MAX_CERTIFICATES} certificates")
    if any(payload.encoding in _ELSEWHERE for payload in payloads):
        raise AuthenticationFailed("a certificate is elsewhere (hash and URL); none is fetched")
    return [payload.data for payload in payloads if payload.encoding == encoding]
