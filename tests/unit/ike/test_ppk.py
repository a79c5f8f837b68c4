"""Postquantum preshared keys, RFC 8784: every row of its table 1, both sides, and downgrades."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.crypto.algorithms import make_prf
from agent.crypto.keymat import IkeKeys, mix_ppk
from agent.ike.events import CloseReason, IkeKeysDerived, IkeSaClosed, IkeSaEstablished
from agent.ike.pad import Ppk
from agent.ike.ppk import use_of
from agent.ike.settings import IkeSettings
from agent.wire.codes import ExchangeType, NotifyType, PrfId
from agent.wire.message import decode_message, encode_message
from agent.wire.payloads import AuthPayload, IdiPayload, NoncePayload, NotifyPayload
from tests.support.pair import A_TO_B, IKE_PROPOSALS, Pair, make_pair
from tests.support.rfc_auth import PRF, check_proofs, conversation

OPTIONAL = Ppk(id=b"key 1", secret=b"p" * 32, required=False)
REQUIRED = replace(OPTIONAL, required=True)
OTHER = Ppk(id=b"key 2", secret=b"q" * 32, required=False)
WRONG = replace(OPTIONAL, secret=b"q" * 32)

INIT = "IKE_SA_INIT? SA KE No"
AUTH = "IKE_AUTH? IDi IDr AUTH"
WITH = "+ PPK"


def pair_of(
    a: Ppk | None,
    b: Ppk | None,
    *,
    psk: bytes | None = None,
    settings: IkeSettings | None = None,
) -> Pair:
    """What each side has for the other."""
    pair = make_pair(child=True, psk=psk, settings=settings)
    for side, ppk in ((pair.a, a), (pair.b, b)):
        side.book.peers = [replace(side.peer, ppk=ppk)]
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    return pair


def used(pair: Pair) -> bool:
    """Whether both are up, with the same keys, and say the same about the PPK."""
    a, b = pair.a.last(IkeSaEstablished), pair.b.last(IkeSaEstablished)
    assert a.suite == b.suite
    assert pair.a.sa.protection.sk_d == pair.b.sa.protection.sk_d
    (one,), (other,) = pair.a.installed.values(), pair.b.installed.values()
    assert (one.keys_in, one.keys_out) == (other.keys_out, other.keys_in)
    return a.suite.endswith(WITH)


@pytest.mark.parametrize("hash_id", [PrfId.PRF_HMAC_SHA2_256, PrfId.PRF_HMAC_SHA2_512])
def test_keys(hash_id: PrfId) -> None:
    """RFC 8784 §3: for these, SK = prf(PPK, SK' | 0x01); the others stay."""
    prf = make_prf(hash_id)
    n = prf.preferred_key_length
    plain = IkeKeys(
        sk_d=b"d" * n,
        sk_ai=b"1",
        sk_ar=b"2",
        sk_ei=b"3",
        sk_er=b"4",
        sk_pi=b"i" * n,
        sk_pr=b"r" * n,
    )
    mixed = mix_ppk(prf, b"ppk", plain)
    assert mixed == replace(
        plain,
        sk_d=prf(b"ppk", b"d" * n + b"\1"),
        sk_pi=prf(b"ppk", b"i" * n + b"\1"),
        sk_pr=prf(b"ppk", b"r" * n + b"\1"),
    )


def test_required_on_both_sides() -> None:
    pair = pair_of(REQUIRED, REQUIRED)
    pair.play(
        f"""
        a --> b: {INIT} N(USE_PPK)
        a <-- b: IKE_SA_INIT! SA KE No N(USE_PPK)
        a --> b: {AUTH} N(PPK_IDENTITY) N(INITIAL_CONTACT) SA TSi TSr
        a <-- b: IKE_AUTH! IDr AUTH N(PPK_IDENTITY) SA TSi TSr
        """
    )
    assert used(pair)
    assert b"pppp" not in repr(pair.a.peer).encode()


@pytest.mark.parametrize("ppk", [OPTIONAL, REQUIRED], ids=["optional", "required"])
def test_it_is_in_what_is_proven_and_in_the_keys(ppk: Ppk) -> None:
    """Both sides could be wrong in the same way, so it is computed here once more."""
    psk = b"a shared secret"
    pair = pair_of(ppk, ppk, psk=psk)
    seen = conversation(pair)
    plain = pair.a.last(IkeKeysDerived).keys
    mixed = mix_ppk(PRF, ppk.secret, plain)
    check_proofs(pair, seen, [mixed], psk)
    for side in (pair.a, pair.b):
        assert side.sa.protection.sk_d == mixed.sk_d != plain.sk_d
        assert use_of(side.sa).plain is None  # nobody needs it any more


def test_without_it_the_proof_is_as_ever() -> None:
    """NO_PPK_AUTH, and the answer of who takes it: as if there were no PPK."""
    psk = b"a shared secret"
    pair = pair_of(OPTIONAL, OTHER, psk=psk)
    seen = conversation(pair)
    plain = pair.a.last(IkeKeysDerived).keys
    auth = pair.message(pair.a, seen[2].data)
    octets = auth.notify(NotifyType.NO_PPK_AUTH).data
    assert octets != auth.first(AuthPayload).data
    with_it = mix_ppk(PRF, OPTIONAL.secret, plain)
    for keys, data in ((with_it, auth.first(AuthPayload).data), (plain, octets)):
        nonce = decode_message(seen[1].data).first(NoncePayload).data
        own_id = PRF(keys.sk_pi, auth.first(IdiPayload).encode())
        secret = PRF(psk, b"Key Pad for IKEv2")
        assert data == PRF(secret, seen[0].data + nonce + own_id)
    assert not used(pair)
    assert pair.a.sa.protection.sk_d == plain.sk_d


@pytest.mark.parametrize("psk", [None, b"a shared secret"], ids=["ed25519", "psk"])
@pytest.mark.parametrize("b", [OPTIONAL, REQUIRED], ids=["optional", "required"])
def test_optional_for_the_initiator(b: Ppk, psk: bytes | None) -> None:
    pair = pair_of(OPTIONAL, b, psk=psk)
    pair.play(
        f"""
        a --> b: {INIT} N(USE_PPK)
        a <-- b: IKE_SA_INIT! SA KE No N(USE_PPK)
        a --> b: {AUTH} N(PPK_IDENTITY) N(NO_PPK_AUTH) N(INITIAL_CONTACT) SA TSi TSr
        a <-- b: IKE_AUTH! IDr AUTH N(PPK_IDENTITY) SA TSi TSr
        """
    )
    assert used(pair)


def test_a_responder_without_any_goes_on_as_ever() -> None:
    pair = pair_of(OPTIONAL, None)
    pair.play(
        f"""
        a --> b: {INIT} N(USE_PPK)
        a <-- b: IKE_SA_INIT! SA KE No
        a --> b: {AUTH} N(INITIAL_CONTACT) SA TSi TSr
        a <-- b: IKE_AUTH! IDr AUTH SA TSi TSr
        """
    )
    assert not used(pair)


def test_an_initiator_without_any_goes_on_as_ever() -> None:
    pair = pair_of(None, OPTIONAL)
    pair.settle()
    assert not used(pair)
    assert not any("PPK" in line for _, line in pair.sent)


@pytest.mark.parametrize("psk", [None, b"a shared secret"], ids=["ed25519", "psk"])
def test_another_name_falls_back_where_both_allow_it(psk: bytes | None) -> None:
    pair = pair_of(OPTIONAL, OTHER, psk=psk)
    pair.play(
        f"""
        a --> b: {INIT} N(USE_PPK)
        a <-- b: IKE_SA_INIT! SA KE No N(USE_PPK)
        a --> b: {AUTH} N(PPK_IDENTITY) N(NO_PPK_AUTH) N(INITIAL_CONTACT) SA TSi TSr
        a <-- b: IKE_AUTH! IDr AUTH SA TSi TSr
        """
    )
    assert not used(pair)


def test_a_responder_that_has_some_but_not_for_this_peer_falls_back() -> None:
    pair = pair_of(OPTIONAL, None)
    pair.b.book.peers.append(
        replace(pair.b.peer, name="c", remote_id=pair.b.peer.local_id, ppk=OTHER)
    )
    pair.settle()
    assert not used(pair)
    assert any("NO_PPK_AUTH" in line for _, line in pair.sent)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (REQUIRED, OTHER),
        (OPTIONAL, replace(OTHER, required=True)),
        (None, REQUIRED),
        (OPTIONAL, WRONG),
        (REQUIRED, WRONG),
    ],
    ids=["other name", "other name, required there", "none", "wrong", "wrong, required"],
)
def test_refused(a: Ppk | None, b: Ppk) -> None:
    """Table 1: abort. It looks like any other failure of authentication."""
    pair = pair_of(a, b)
    pair.settle()
    assert pair.sent[-1][1] == "a <-- b: IKE_AUTH! N(AUTHENTICATION_FAILED)"
    assert pair.a.last(IkeSaClosed).reason is CloseReason.AUTHENTICATION_FAILED
    assert pair.b.events(IkeSaEstablished) == []
    assert not pair.a.installed


def test_an_initiator_that_requires_it_does_not_prove_itself_without() -> None:
    """§3: MUST abort; as that answer is not proven, it only shortens the wait for a better one."""
    pair = pair_of(REQUIRED, None)
    pair.sleep(10)
    closed = pair.a.last(IkeSaClosed)
    assert closed.reason is CloseReason.AUTHENTICATION_FAILED
    assert "PPK" in closed.detail
    assert not any("IKE_AUTH?" in line for _, line in pair.sent)


@pytest.mark.parametrize("direction", ["request", "response"])
@pytest.mark.parametrize("required", [True, False])
def test_use_ppk_stripped_on_the_way(direction: str, required: bool) -> None:
    """THREATS 13: IKE_SA_INIT is in the signed octets, so no downgrade ends in an SA."""
    ppk = REQUIRED if required else OPTIONAL
    pair = pair_of(ppk, ppk)
    pair.drain()
    for step in ("request", "response"):
        datagram = pair.pending.pop(0)
        if step == direction:
            message = decode_message(datagram.data)
            kept = [
                p
                for p in message.payloads
                if not (isinstance(p, NotifyPayload) and p.type == NotifyType.USE_PPK)
            ]
            datagram.data = encode_message(message.header, kept)
        pair.deliver(datagram)
    pair.sleep(20)
    if required:  # what is no use is not believed: the genuine answer to the repeated request is
        assert used(pair)
    else:
        assert pair.a.events(IkeSaEstablished) == []
        assert pair.b.events(IkeSaEstablished) == []


def test_ppk_identity_missing_though_it_was_agreed() -> None:
    """§3: the responder MUST fail the negotiation."""
    pair = pair_of(OPTIONAL, OPTIONAL)
    pair.play(
        f"""
        a --> b: {INIT} N(USE_PPK)
        """
    )
    pair.a.book.peers.clear()
    (sa,) = pair.a.ike.sas()
    sa.peer = replace(sa.peer, ppk=None)
    pair.settle()
    assert pair.sent[-1][1] == "a <-- b: IKE_AUTH! N(AUTHENTICATION_FAILED)"


def test_a_responder_that_leaves_it_out_is_not_believed_where_it_is_required() -> None:
    """An answer without PPK_IDENTITY: §3, AUTHENTICATION_FAILED in an INFORMATIONAL."""
    pair = pair_of(OPTIONAL, OTHER)
    pair.play(
        f"""
        a --> b: {INIT} N(USE_PPK)
        a <-- b: IKE_SA_INIT! SA KE No N(USE_PPK)
        a --> b: {AUTH} N(PPK_IDENTITY) N(NO_PPK_AUTH) N(INITIAL_CONTACT) SA TSi TSr
        """
    )
    (sa,) = pair.a.ike.sas()
    sa.peer = replace(sa.peer, ppk=REQUIRED)
    pair.play(
        """
        a <-- b: IKE_AUTH! IDr AUTH SA TSi TSr
        a --> b: INFORMATIONAL? N(AUTHENTICATION_FAILED)
        """
    )
    assert pair.a.last(IkeSaClosed).reason is CloseReason.AUTHENTICATION_FAILED
    assert not pair.a.installed


WITH_EACH = {
    "none": None,
    "optional": OPTIONAL,
    "required": REQUIRED,
    "another name": OTHER,
    "another name, required": replace(OTHER, required=True),
    "another secret": WRONG,
    "another secret, required": replace(WRONG, required=True),
}


@pytest.mark.parametrize("ike", [None, "-ke1_ecp256-ke2_ecp384"], ids=["", "IKE_INTERMEDIATE"])
@pytest.mark.parametrize("a", WITH_EACH)
@pytest.mark.parametrize("b", WITH_EACH)
def test_each_mix(a: str, b: str, ike: str | None) -> None:
    """§3 table 1: never without it where one side requires it, and both sides agree in the end."""
    one, other = WITH_EACH[a], WITH_EACH[b]
    pair = make_pair(child=True, ike=(IKE_PROPOSALS[0] + (ike or ""),))
    for side, ppk in ((pair.a, one), (pair.b, other)):
        side.book.peers = [replace(side.peer, ppk=ppk)]
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.settle()
    pair.sleep(60)
    same_name = one is not None and other is not None and one.id == other.id
    same = same_name and one.secret == other.secret
    required = any(ppk is not None and ppk.required for ppk in (one, other))
    if not same and (required or same_name):  # a name stands for one secret
        assert not pair.a.ike.sas()
        assert not pair.b.ike.sas()
        return
    assert used(pair) == same
    for side in (pair.a, pair.b):
        side.ike.rekey_ike(side.sa.ike_id, pair.now)
        pair.settle()
        side.ike.rekey_child(next(iter(side.installed)), pair.now)
        pair.settle()
        assert used(pair) == same


def test_with_a_cookie() -> None:
    """§3: the repeated request has USE_PPK if the first had."""
    pair = pair_of(REQUIRED, REQUIRED, settings=IkeSettings(cookie_threshold=0))
    pair.play(
        f"""
        a --> b: {INIT} N(USE_PPK)
        a <-- b: IKE_SA_INIT! N(COOKIE)
        a --> b: IKE_SA_INIT? N(COOKIE) SA KE No N(USE_PPK)
        a <-- b: IKE_SA_INIT! SA KE No N(USE_PPK)
        """
    )
    pair.settle()
    assert used(pair)


@pytest.mark.parametrize("name", ["a", "b"])
def test_rekeying_uses_it_no_more(name: str) -> None:
    """§3: only in the initial setup; SK_d carries it on."""
    pair = pair_of(REQUIRED, REQUIRED)
    pair.settle()
    before = len(pair.sent)
    side = getattr(pair, name)
    side.ike.rekey_ike(side.sa.ike_id, pair.now)
    pair.settle()
    (spi,) = side.installed
    side.ike.rekey_child(spi, pair.now)
    pair.settle()
    pair.sleep(60)
    assert used(pair)
    assert not any("PPK" in line for _, line in pair.sent[before:])
    assert ExchangeType.CREATE_CHILD_SA.name in " ".join(line for _, line in pair.sent[before:])
