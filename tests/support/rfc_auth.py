"""AUTH by a pre-shared key, computed once more from datagrams and the keys that are told.

Both of our sides agree even where both are wrong in the same way; this does not. RFC 7296 §2.15,
RFC 9242 §3.3.2. With signatures, and against others: tests/interop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.crypto.algorithms import make_prf
from agent.wire.codes import AuthMethod, ExchangeType, PrfId
from agent.wire.message import decode_message, encode_payloads
from agent.wire.payloads import AuthPayload, Encrypted, IdiPayload, IdrPayload, NoncePayload

if TYPE_CHECKING:
    from agent.crypto.keymat import IkeKeys
    from tests.support.pair import Datagram, Pair

PRF = make_prf(PrfId.PRF_HMAC_SHA2_256)


def conversation(pair: Pair) -> list[Datagram]:
    """Let everything arrive; what was on its way, in its order."""
    pair.drain()
    seen = []
    while pair.pending:
        seen.append(pair.pending[0])
        pair.deliver(pair.pending.pop(0))
    return seen


def check_proofs(pair: Pair, seen: list[Datagram], rounds: list[IkeKeys], psk: bytes) -> None:
    """That both AUTH payloads of `seen`, initial exchanges without fragments, are right.

    `rounds`: the keys of IKE_SA_INIT and of each IKE_INTERMEDIATE, the last with a PPK if any.
    """
    nonces = [decode_message(d.data).first(NoncePayload) for d in seen[:2]]
    assert len(seen) == 2 * (len(rounds) + 1)
    more = _int_auth(pair, seen[2:-2], rounds)
    for at, kind in enumerate((IdiPayload, IdrPayload)):
        proof, nonce = seen[at - 2], nonces[1 - at]
        message = pair.message(proof.sender, proof.data)
        own_id, auth = message.first(kind), message.first(AuthPayload)
        assert message.header.exchange == ExchangeType.IKE_AUTH
        assert own_id is not None
        assert auth is not None
        assert nonce is not None
        sk_p = rounds[-1].sk_pr if at else rounds[-1].sk_pi
        octets = seen[at].data + nonce.data + PRF(sk_p, own_id.encode()) + more
        assert auth.method == AuthMethod.SHARED_KEY_MESSAGE_INTEGRITY_CODE
        assert auth.data == PRF(PRF(psk, b"Key Pad for IKEv2"), octets)


def _int_auth(pair: Pair, seen: list[Datagram], rounds: list[IkeKeys]) -> bytes:
    """IntAuth_iN | IntAuth_rN | message ID of IKE_AUTH; nothing without rounds."""
    if not seen:
        return b""
    macs = [b"", b""]
    for index, datagram in enumerate(seen):
        keys, is_response = rounds[index // 2], index % 2
        message = pair.message(datagram.sender, datagram.data)
        encrypted = decode_message(datagram.data).first(Encrypted)
        assert message.header.exchange == ExchangeType.IKE_INTERMEDIATE
        assert encrypted is not None
        inner = encode_payloads(message.payloads)[1]
        a_and_p = datagram.data[:24] + (32 + len(inner)).to_bytes(4, "big")
        a_and_p += bytes((encrypted.first_inner, 0)) + (4 + len(inner)).to_bytes(2, "big") + inner
        key = keys.sk_pr if is_response else keys.sk_pi
        macs[is_response] = PRF(key, macs[is_response] + a_and_p)
    return macs[0] + macs[1] + (1 + len(seen) // 2).to_bytes(4, "big")
