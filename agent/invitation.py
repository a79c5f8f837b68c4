"""Invitations: one line that pairs two machines, used once, and what is handed over with it.

ARCHITECTURE decision 2. The line carries a seed; two one-time Ed25519 keys come from it, one to
register at the mediator and one to authenticate to the gateway, which pinned both public halves
and forgot the seed. Inside the authenticated IKE SA the invited machine hands over its lasting
keys in N(HG_ENROLL), each with a signature, so that nobody can enter a key that is not theirs.

    hg1: base64url( role 1 | expires 4 | seed 16 | mediator key 32 | gateway mediation key 32
                    | gateway identity key 32 | length 1, mediator address | length 1, name
                    | length 1, name for the invited | checksum 4 )

Pure. Expiry is decided by whoever knows the time (agent/peers.py).
"""

from __future__ import annotations

import base64
import struct
from dataclasses import field
from enum import IntEnum

from cryptography.hazmat.primitives import hashes, hmac

from agent.crypto.auth import PublicKey, SigningKey
from agent.errors import InputError
from agent.records import record

PREFIX = "hg1:"
SEED_LENGTH = 16
MAX_LINE = 1024  # three strings of 255 octets and the keys stay well below
_FIXED = struct.Struct("!BI16s32s32s32s")
_ROLES = ("reader", "operator", "technician", "owner")
_ENROLL_VERSION = 1
_ENROLL = struct.Struct("!B32s32s64s64s")


@record(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What the line says. Keys are 32 octets; `expires` is seconds since 1970."""

    mediator: str
    mediator_key: bytes
    gateway_mediation: bytes
    gateway_identity: bytes
    name: str
    invited: str
    role: str
    expires: int
    seed: bytes = field(repr=False)

    @property
    def identity(self) -> SigningKey:
        """The one-time key that the gateway authenticates."""
        return _one_time_key(self.seed, b"hearthgate invitation identity")

    @property
    def mediation(self) -> SigningKey:
        """The one-time key that the mediator knows."""
        return _one_time_key(self.seed, b"hearthgate invitation mediation")


def encode_invitation(invitation: Invitation) -> str:
    """The line to hand over, about 220 characters of ASCII."""
    body = _FIXED.pack(
        _ROLES.index(invitation.role),
        invitation.expires,
        invitation.seed,
        invitation.mediator_key,
        invitation.gateway_mediation,
        invitation.gateway_identity,
    )
    for text in (invitation.mediator, invitation.name, invitation.invited):
        octets = text.encode()
        body += bytes((len(octets),)) + octets
    body += _checksum(body)
    return PREFIX + base64.urlsafe_b64encode(body).decode().rstrip("=")


def decode_invitation(line: str) -> Invitation:
    """Read the line. Raises InputError with a sentence for the person who typed it."""
    line = "".join(line.split())
    if not line.startswith(PREFIX):
        raise InputError(f"This is no invitation: it should begin with {PREFIX}")
    if len(line) > MAX_LINE:
        raise InputError("This is no invitation: it is too long.")
    text = line[len(PREFIX) :]
    try:
        body = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if len(body) < _FIXED.size + 7 or body[-4:] != _checksum(body[:-4]):
            raise ValueError
        role, expires, seed, mediator_key, mediation, identity = _FIXED.unpack_from(body)
        mediator, at = _read_text(body, _FIXED.size)
        name, at = _read_text(body, at)
        invited, at = _read_text(body, at)
        if at != len(body) - 4 or role >= len(_ROLES):
            raise ValueError
        if text != base64.urlsafe_b64encode(body).decode().rstrip("="):
            raise ValueError  # the last character has bits to spare
    except (ValueError, IndexError):
        raise InputError(
            "This invitation is damaged: a part is missing or mistyped. Copy the whole line again."
        ) from None
    return Invitation(
        mediator=mediator,
        mediator_key=mediator_key,
        gateway_mediation=mediation,
        gateway_identity=identity,
        name=name,
        invited=invited,
        role=_ROLES[role],
        expires=expires,
        seed=seed,
    )


@record(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """The lasting public keys of the invited machine, 32 octets each."""

    identity: bytes
    mediation: bytes


class EnrolResult(IntEnum):
    """The first octet of N(HG_ENROLLED)."""

    ACCEPTED = 0
    USED = 1  # by other keys
    EXPIRED = 2
    INVALID = 3
    FULL = 4


def encode_enrolment(
    identity: SigningKey, mediation: SigningKey, one_time: bytes, gateway: bytes
) -> bytes:
    """Data of N(HG_ENROLL): both keys, each proven for this invitation and this gateway."""
    said = _enrol_octets(identity.public, mediation.public, one_time, gateway)
    return _ENROLL.pack(
        _ENROLL_VERSION,
        identity.public,
        mediation.public,
        identity.sign(said),
        mediation.sign(said),
    )


def decode_enrolment(data: bytes, one_time: bytes, gateway: bytes) -> Enrolment | None:
    """The keys, or None if the octets are malformed or a proof does not verify."""
    if len(data) != _ENROLL.size or data[0] != _ENROLL_VERSION:
        return None
    _, identity, mediation, by_identity, by_mediation = _ENROLL.unpack(data)
    said = _enrol_octets(identity, mediation, one_time, gateway)
    try:
        proven = PublicKey(identity).verify(said, by_identity) and PublicKey(mediation).verify(
            said, by_mediation
        )
    except ValueError:
        return None
    return Enrolment(identity=identity, mediation=mediation) if proven else None


def _enrol_octets(identity: bytes, mediation: bytes, one_time: bytes, gateway: bytes) -> bytes:
    return b"hearthgate enrolment" + identity + mediation + one_time + gateway


def _one_time_key(seed: bytes, label: bytes) -> SigningKey:
    mac = hmac.HMAC(seed, hashes.SHA256())
    mac.update(label)
    return SigningKey.from_seed(mac.finalize())


def _checksum(body: bytes) -> bytes:
    # Against typing errors only; nothing is trusted for it.
    digest = hashes.Hash(hashes.SHA256())
    digest.update(body)
    return digest.finalize()[:4]


def _read_text(body: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + body[at]
    text = body[at + 1 : end].decode()
    if not text.isprintable():
        raise ValueError
    return text, end
