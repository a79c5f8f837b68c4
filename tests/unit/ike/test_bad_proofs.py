"""AUTH of every kind, with everything that can be wrong in it, in both directions.

Method 14 with each algorithm of RFC 7427 that is in use, and methods 9 to 11 of RFC 4754. (Method 2
and the payloads around AUTH: test_bad_input.) Whatever is not the very proof is
AUTHENTICATION_FAILED, or INVALID_SYNTAX where it cannot even be read; nobody is established.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.crypto.signatures import SCHEMES, KeyKind
from agent.ike.events import CloseReason, IkeSaClosed, IkeSaEstablished
from agent.wire.codes import AuthMethod, ExchangeType
from agent.wire.payloads import AuthPayload
from tests.support import damage
from tests.support.damage import Kind
from tests.support.exchanges import AUTH, SYNTAX, P, answer_to, payloads_of, sealed
from tests.support.feature_scenes import proven_by

if TYPE_CHECKING:
    from agent.crypto.signatures import Scheme

OLD = {
    KeyKind.P256: AuthMethod.ECDSA_SHA256_P256,
    KeyKind.P384: AuthMethod.ECDSA_SHA384_P384,
    KeyKind.P521: AuthMethod.ECDSA_SHA512_P521,
}
# Each algorithm, and each curve once with its own method.
KINDS: list[tuple[KeyKind, Scheme | None]] = [
    *((kind, scheme) for scheme in SCHEMES for kind in [k for k in KeyKind if scheme.fits(k)][:1]),
    *((kind, None) for kind in OLD),
]


@pytest.mark.parametrize("direction", ["request", "response"])
@pytest.mark.parametrize(
    ("kind", "scheme"), KINDS, ids=[s.name if s else f"method {OLD[k]:d}" for k, s in KINDS]
)
def test_proofs_that_are_damaged(kind, scheme, direction, monkeypatch) -> None:
    monkeypatch.setattr("agent.ike.proof.choose", lambda kind, hashes, like=None: scheme)

    def to_auth():
        return proven_by(kind, old=scheme is None)

    start = to_auth if direction == "request" else answer_to(to_auth)
    pair, true = start()
    (good,) = payloads_of(pair, true)[0].all(AuthPayload)
    assert good.method == (OLD[kind] if scheme is None else AuthMethod.DIGITAL_SIGNATURE)
    assert scheme is None or good.data[1 : 1 + good.data[0]] == scheme.algorithm
    tried = 0
    for bad in damage.chains(payloads_of(pair, true)[0].payloads):
        if bad.payload != P.AUTH or bad.kind not in (Kind.SHORT, Kind.LENGTH, Kind.NONSENSE):
            continue
        pair, true = start()
        receiver = pair.other(true.sender)
        message, cipher = payloads_of(pair, true)
        data = sealed(message, cipher, bad.first, bad.octets)
        receiver.ike.receive(true.arriving, data, pair.now)
        pair.drain()
        said = [pair.describe(d.sender, d.data).partition(" ")[2] for d in pair.pending]
        assert said in ([AUTH], [SYNTAX]), bad.name
        assert not receiver.events(IkeSaEstablished), bad.name
        assert not receiver.installed, bad.name
        assert len(receiver.ike) == 0, bad.name
        reasons = {c.reason for c in receiver.events(IkeSaClosed)}
        assert said == [SYNTAX] or reasons == {CloseReason.AUTHENTICATION_FAILED}, bad.name
        tried += 1
    assert tried > len(good.data)


@pytest.mark.parametrize(
    ("kind", "scheme"), KINDS, ids=[s.name if s else f"method {OLD[k]:d}" for k, s in KINDS]
)
def test_the_undamaged_ones_are_taken(kind, scheme, monkeypatch) -> None:
    """What the other test damages is good: nothing else is refused there."""
    monkeypatch.setattr("agent.ike.proof.choose", lambda kind, hashes, like=None: scheme)
    pair, true = proven_by(kind, old=scheme is None)
    assert payloads_of(pair, true)[0].header.exchange == ExchangeType.IKE_AUTH
    pair.pending.append(true)
    pair.settle()
    assert pair.a.sa.established
    assert pair.b.sa.established
