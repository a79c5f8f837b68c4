"""Additional key exchanges: IKE_INTERMEDIATE (RFC 9242), IKE_FOLLOWUP_KE (RFC 9370), ML-KEM.

THREATS 10, 11, 12, 13.
"""

from __future__ import annotations

import random as chances
from dataclasses import replace

import pytest

from agent.crypto.kex import supports_group
from agent.crypto.keymat import derive_ike_keys, mix_ppk, rekeyed_skeyseed
from agent.datagram import Transmit
from agent.ike import followup, intermediate
from agent.ike.create_child_sa import CreateChild
from agent.ike.events import (
    ChildSaRekeyed,
    CloseReason,
    IkeKeysDerived,
    IkeSaClosed,
    IkeSaEstablished,
)
from agent.ike.pad import Ppk
from agent.ike.states import IkeState
from agent.ike.suite import Protection
from agent.wire.codes import ExchangeType, KeyExchangeId, NotifyType
from agent.wire.message import decode_message, encode_message
from agent.wire.payloads import KePayload, NotifyPayload, SaPayload, UnknownPayload
from tests.support.pair import A_TO_B, Pair, established, ike_proposals, make_bare, make_pair
from tests.support.rfc_auth import PRF, check_proofs, conversation

PLAIN = "aes128gcm16-prfsha256-x25519"
HYBRID = PLAIN + "-ke1_mlkem768"
BOTH = (HYBRID, PLAIN)

pytestmark = pytest.mark.skipif(
    not supports_group(KeyExchangeId.ML_KEM_768), reason="this cryptography has no ML-KEM"
)

OPENING = """
    a --> b: IKE_SA_INIT? SA KE No N(INTERMEDIATE_EXCHANGE_SUPPORTED)
    a <-- b: IKE_SA_INIT! SA KE No N(INTERMEDIATE_EXCHANGE_SUPPORTED)
"""
ROUND = """
    a --> b: IKE_INTERMEDIATE? SKF(1/2)
    a --> b: IKE_INTERMEDIATE? SKF(2/2)
    a <-- b: IKE_INTERMEDIATE! KE
"""


def start(ike=BOTH, **options) -> Pair:
    pair = make_pair(ike=ike, **options)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    return pair


def without(pair: Pair, side: str = "b") -> Pair:
    """That side's cryptography package has no ML-KEM."""
    ike = getattr(pair, side).ike
    ike.supports_group = lambda group: group not in (36, 37)
    return pair


def agree(pair: Pair) -> None:
    a, b = pair.a.sa, pair.b.sa
    assert a.established
    assert b.established
    assert a.protection.sk_d == b.protection.sk_d
    ours = {c.spi_in: (c.keys_in, c.keys_out) for c in pair.a.installed.values()}
    theirs = {c.spi_out: (c.keys_out, c.keys_in) for c in pair.b.installed.values()}
    assert ours == theirs


# -- IKE_INTERMEDIATE ----------------------------------------------------------------------------


def test_one_round_of_ml_kem() -> None:
    pair = start(child=True)
    pair.play(OPENING + ROUND)
    pair.play(
        """
        a --> b: IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT) SA TSi TSr
        a <-- b: IKE_AUTH! IDr AUTH SA TSi TSr
        """
    )
    pair.quiet()
    agree(pair)
    for side in (pair.a, pair.b):
        assert side.last(IkeSaEstablished).suite == HYBRID
        assert side.sa.suite.additional_groups == (KeyExchangeId.ML_KEM_768,)


@pytest.mark.parametrize(
    ("text", "rounds"),
    [
        (PLAIN + "-ke1_mlkem1024", 1),
        (PLAIN + "-ke1_mlkem768-ke2_ecp256", 2),
        (PLAIN + "-ke1_ecp256-ke2_mlkem768-ke3_mlkem1024", 3),
        ("aes128-sha256-ecp256-ke1_x25519", 1),
        ("aes256gcm16-prfsha384-mlkem768", 0),
    ],
)
def test_other_and_more_rounds(text: str, rounds: int) -> None:
    pair = start([text], child=True)
    pair.settle()
    agree(pair)
    assert pair.a.sa.outgoing.next_id == 2 + rounds
    assert pair.a.last(IkeSaEstablished).suite == text
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    pair.settle()
    agree(pair)


def test_the_keys_are_a_chain_as_rfc_9370_says() -> None:
    """§2.2.2: SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr), computed here once more."""
    secrets: list[bytes] = []
    pair = start([PLAIN + "-ke1_mlkem768-ke2_ecp256"])
    made = pair.b.ike._key_exchange

    def spy(group, random, *, answering=False):
        kex = made(group, random, answering=answering)
        shared = kex.shared

        class Spy:
            group = kex.group
            public = property(lambda self: kex.public)

            def shared(self, data):
                secrets.append(shared(data))
                return secrets[-1]

        return Spy()

    pair.b.ike._key_exchange = spy
    pair.drain()
    pair.deliver(pair.pending.pop(0))
    sa = next(iter(pair.b.ike._by_spi.values()))
    hs, suite = sa.handshake, sa.suite
    ni, nr, sk_d = hs.peer_nonce, hs.own_nonce, hs.keys.sk_d
    pair.settle()
    assert len(secrets) == 3
    for secret in secrets[1:]:
        keys = derive_ike_keys(
            suite.prf,
            rekeyed_skeyseed(suite.prf, sk_d, secret, ni, nr),
            ni=ni,
            nr=nr,
            spi_i=sa.spis[:8],
            spi_r=sa.spis[8:],
            encr_length=20,
            integ_length=0,
        )
        sk_d = keys.sk_d
    assert pair.a.sa.protection.sk_d == pair.b.sa.protection.sk_d == sk_d


@pytest.mark.parametrize("lost", range(8))
def test_every_datagram_may_be_lost(lost: int) -> None:
    pair = start(child=True)
    pair.drain()
    for _ in range(lost):
        if pair.pending:
            pair.now += 0.01
            pair.deliver(pair.pending.pop(0))
    if pair.pending:
        pair.pending.pop(0)
    pair.sleep(8)
    agree(pair)
    assert len(pair.a.installed) == 1


def test_a_repeated_round_gets_the_same_answer() -> None:
    pair = start(child=True)
    pair.play(OPENING)
    again = list(pair.pending)
    pair.play(ROUND)
    auth = pair.pending.pop(0)
    for datagram in again:
        pair.deliver(datagram)
    (answer,) = pair.pending  # for the first fragment alone
    assert pair.describe(answer.sender, answer.data).startswith("IKE_INTERMEDIATE!")
    pair.pending = [auth]
    pair.settle()
    agree(pair)


@pytest.mark.parametrize("required", [True, False])
def test_with_a_postquantum_preshared_key_besides(required: bool) -> None:
    """RFC 8784 mixes it in after the last round; IntAuth is under the keys of before."""
    pair = make_pair(ike=[HYBRID], child=True)
    ppk = Ppk(id=b"key", secret=b"p" * 32, required=required)
    for side in (pair.a, pair.b):
        side.book.peers = [replace(side.peer, ppk=ppk)]
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.settle()
    agree(pair)
    assert pair.a.last(IkeSaEstablished).suite.startswith(HYBRID + " +")


# -- falling back, or not ------------------------------------------------------------------------


def test_a_board_without_ml_kem_falls_back() -> None:
    for side in ("a", "b"):
        pair = without(make_pair(ike=BOTH, child=True), side)
        pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
        pair.settle()
        agree(pair)
        assert pair.a.last(IkeSaEstablished).suite == PLAIN
        assert pair.a.sa.outgoing.next_id == 2


def test_a_peer_of_before_falls_back() -> None:
    """One that knows no such transform types and announces nothing takes the other proposal."""
    pair = make_pair(ike=BOTH)
    pair.b.book.proposals = ike_proposals(PLAIN)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No N(INTERMEDIATE_EXCHANGE_SUPPORTED)
        a <-- b: IKE_SA_INIT! SA KE No
        """
    )
    pair.settle()
    agree(pair)


def test_who_requires_it_never_falls_back() -> None:
    """THREATS 13: `proposals` with nothing but ke1_mlkem768 is all it takes."""
    pair = without(make_pair(ike=[HYBRID]))
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No N(INTERMEDIATE_EXCHANGE_SUPPORTED)
        a <-- b: IKE_SA_INIT! N(NO_PROPOSAL_CHOSEN)
        """
    )
    pair.sleep(60)
    assert pair.a.last(IkeSaClosed).reason is CloseReason.NO_PROPOSAL_CHOSEN
    assert not pair.a.events(IkeSaEstablished)


def test_a_board_without_ml_kem_says_so_when_it_is_required() -> None:
    pair = without(make_pair(ike=[HYBRID]), "a")
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.drain()
    assert pair.pending == []
    closed = pair.a.last(IkeSaClosed)
    assert closed.reason is CloseReason.NO_PROPOSAL_CHOSEN
    assert "ML-KEM" in closed.detail


def test_a_responder_that_requires_it_of_this_peer_takes_nothing_less() -> None:
    """The suite is chosen before the identity is known: another peer may do without."""
    pair = make_pair(ike=[PLAIN])
    pair.b.book.peers[0] = replace(pair.b.peer, proposals=ike_proposals(HYBRID))
    pair.b.book.proposals = ike_proposals(*BOTH)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.settle()
    assert pair.a.last(IkeSaClosed).reason is CloseReason.AUTHENTICATION_FAILED
    assert not pair.b.events(IkeSaEstablished)


def test_optional_in_one_proposal() -> None:
    text = HYBRID + "-ke1_none"
    for other, groups in ((text, (36,)), (PLAIN, ()), (HYBRID, (36,))):
        pair = make_pair(ike=[text])
        pair.b.book.proposals = ike_proposals(other)
        pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
        pair.settle()
        agree(pair)
        assert pair.a.sa.suite.additional_groups == groups


def _edited(data: bytes, edit) -> bytes:
    message = decode_message(data)
    return encode_message(message.header, [p for p in map(edit, message.payloads) if p])


def _stripped_proposals(payload):
    if isinstance(payload, SaPayload):
        return SaPayload(ike_proposals(PLAIN))
    return payload


def _stripped_support(payload):
    support = NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED
    return None if isinstance(payload, NotifyPayload) and payload.type == support else payload


@pytest.mark.parametrize("edit", [_stripped_proposals, _stripped_support])
def test_what_is_stripped_from_the_request_breaks_the_proof(edit) -> None:
    """THREATS 13: both offer a way without ML-KEM, but not because somebody in between wants it."""
    pair = start()
    pair.drain()
    request = pair.pending.pop(0)
    request.data = _edited(request.data, edit)
    pair.deliver(request)
    pair.settle()
    assert not pair.a.events(IkeSaEstablished)
    assert not pair.b.events(IkeSaEstablished)


def test_support_stripped_from_the_response() -> None:
    pair = start()
    pair.drain()
    pair.deliver(pair.pending.pop(0))
    answer = pair.pending.pop(0)
    answer.data = _edited(answer.data, _stripped_support)
    pair.deliver(answer)
    assert pair.a.drops == ["invalid_response"]
    pair.sleep(60, deliver=False)
    assert not pair.a.events(IkeSaEstablished)


def test_a_forged_answer_leaves_nothing_behind() -> None:
    """THREATS 13: neither rounds nor fragments of it are expected from the true responder."""
    pair = make_pair(ike=BOTH, child=True)
    pair.b.book.proposals = ike_proposals(PLAIN)
    make_bare(pair.b)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.drain()
    pair.deliver(pair.pending.pop(0))
    answer = pair.pending.pop(0)

    def forged(payload):
        (first,) = ike_proposals(HYBRID)
        if isinstance(payload, SaPayload):
            return SaPayload((first,))
        if isinstance(payload, NotifyPayload):
            return NotifyPayload(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED)
        return payload

    pair.a.ike.receive(answer.arriving, _edited(answer.data, forged), pair.now)
    pair.drain()
    assert pair.a.drops == ["invalid_response"]
    pair.deliver(answer)
    pair.settle()
    agree(pair)
    assert pair.a.sa.fragments is None


def test_an_unknown_critical_payload_in_a_round_ends_the_half_open_sa() -> None:
    pair = start()
    _send_round(pair, [KePayload(36, KEY), UnknownPayload(200, True, b"?")])
    (answer,) = pair.pending
    described = pair.describe(pair.b, answer.data)
    assert described == "IKE_INTERMEDIATE! N(UNSUPPORTED_CRITICAL_PAYLOAD)"
    (sa,) = pair.b.ike._by_spi.values()
    assert sa.state is IkeState.REFUSED


def test_ike_auth_without_the_round_is_refused() -> None:
    """THREATS 13: an initiator that goes straight on with the keys of IKE_SA_INIT."""
    pair = start()
    pair.play(OPENING)
    pair.pending.clear()
    sa = pair.a.sa
    sa.outgoing.clear()
    sa.handshake.rounds_due.due = ()
    intermediate.proceed(sa, pair.now)
    pair.play(
        """
        a --> b: IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT)
        a <-- b: IKE_AUTH! N(INVALID_SYNTAX)
        """
    )
    assert not pair.b.events(IkeSaEstablished)
    assert not pair.a.events(IkeSaEstablished)


def test_the_content_of_the_round_is_signed(monkeypatch) -> None:
    """Somebody who has the keys of IKE_SA_INIT (x25519 broken) puts in a round of his own."""
    pair = start()
    record = intermediate.Rounds.record
    tampered = []

    def other(self, prf, keys, octets, *, is_response):
        if not is_response and not tampered:
            tampered.append(octets)
            octets = octets[:-1] + bytes((octets[-1] ^ 1,))
        record(self, prf, keys, octets, is_response=is_response)

    monkeypatch.setattr(intermediate.Rounds, "record", other)
    pair.settle()
    assert tampered
    assert pair.a.last(IkeSaClosed).reason is CloseReason.AUTHENTICATION_FAILED
    assert not pair.b.events(IkeSaEstablished)


def test_int_auth_is_over_the_message_as_it_was_before_encryption() -> None:
    """RFC 9242 §3.3.2: whether it came whole or in fragments; lengths as if in the clear."""
    pair = start()
    seen: list[tuple[bool, bytes]] = []
    record = intermediate.Rounds.record

    def spy(self, prf, keys, octets, *, is_response):
        seen.append((is_response, octets))
        record(self, prf, keys, octets, is_response=is_response)

    intermediate.Rounds.record = spy
    try:
        pair.settle()
    finally:
        intermediate.Rounds.record = record
    assert [r for r, _ in seen] == [False, False, True, True]  # a sends, b gets, b sends, a gets
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]
    request = seen[0][1]
    inner = 8 + 1184
    assert len(request) == 28 + 4 + inner
    assert request[16] == 46
    assert int.from_bytes(request[24:28], "big") == len(request)
    assert int.from_bytes(request[30:32], "big") == 4 + inner
    assert request[28] == 34  # KE


@pytest.mark.parametrize("ppk", [None, Ppk(id=b"x", secret=b"p" * 32)], ids=["", "PPK"])
@pytest.mark.parametrize("rounds", ["-ke1_ecp256", "-ke1_ecp256-ke2_ecp384-ke3_ecp521"])
def test_int_auth_of_each_round(rounds: str, ppk: Ppk | None) -> None:
    """A chain over all rounds of a direction, each under its own keys; computed here once more."""
    psk = b"a shared secret"
    pair = make_pair(psk=psk, ike=(PLAIN + rounds,))
    for side in (pair.a, pair.b):
        side.book.peers = [replace(side.peer, ppk=ppk)]
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    seen = conversation(pair)
    keys = [event.keys for event in pair.a.events(IkeKeysDerived)]
    assert len(keys) == 1 + rounds.count("_")
    if ppk is not None:
        keys[-1] = mix_ppk(PRF, ppk.secret, keys[-1])
    check_proofs(pair, seen, keys, psk)
    assert pair.a.sa.protection.sk_d == keys[-1].sk_d
    agree(pair)


# -- bad input -----------------------------------------------------------------------------------


def _send_round(pair: Pair, payloads: list) -> None:
    """What a does instead of its round."""
    pair.play(OPENING)
    pair.pending.clear()
    sa = pair.a.sa
    header = sa.header(ExchangeType.IKE_INTERMEDIATE, 1, is_response=False)
    data = sa.protection.seal(header, payloads, pair.a.ike.random)
    pair.b.ike.receive(A_TO_B, data, pair.now)
    pair.drain()


KEY = bytes(1184)
BAD_ROUNDS = {
    "something else": [NotifyPayload(54321)],
    "short": [KePayload(36, KEY[:-1])],
    "long": [KePayload(36, KEY + b"\0")],
    "empty": [KePayload(36, b"")],
    "not reduced": [KePayload(36, b"\xff" * 1184)],
    "another group": [KePayload(37, bytes(1568))],
    "the first group": [KePayload(31, bytes(32))],
    "twice": [KePayload(36, KEY), KePayload(36, KEY)],
}


@pytest.mark.parametrize("payloads", BAD_ROUNDS.values(), ids=BAD_ROUNDS)
def test_a_bad_round_ends_in_invalid_syntax(payloads: list) -> None:
    """THREATS 12."""
    pair = start()
    _send_round(pair, payloads)
    (answer,) = pair.pending
    assert pair.describe(pair.b, answer.data) == "IKE_INTERMEDIATE! N(INVALID_SYNTAX)"
    (sa,) = pair.b.ike._by_spi.values()
    assert sa.state is IkeState.REFUSED
    pair.settle()
    assert pair.a.last(IkeSaClosed).reason is not CloseReason.TIMEOUT


def _answer_round(*payloads: KePayload | NotifyPayload) -> Pair:
    """What b does instead of its half of the round."""
    pair = start()
    pair.play(OPENING)
    pair.pending.clear()
    (sa,) = pair.b.ike._by_spi.values()
    header = sa.header(ExchangeType.IKE_INTERMEDIATE, 1, is_response=True)
    sealed = sa.protection.seal(header, payloads, pair.b.ike.random)
    pair.a.ike.receive(A_TO_B, sealed, pair.now)
    pair.drain()
    return pair


@pytest.mark.parametrize("data", [b"", bytes(1087), bytes(1089), bytes(1184)])
def test_a_ciphertext_of_a_wrong_length_ends_the_attempt(data: bytes) -> None:
    pair = _answer_round(KePayload(36, data))
    assert pair.a.last(IkeSaClosed).reason is CloseReason.PROTOCOL_ERROR


@pytest.mark.parametrize("group", [0, 31, 35, 37, 65535])
def test_the_right_octets_of_another_method_end_the_attempt(group: int) -> None:
    """What is due was agreed on (RFC 9370 §2.2.2); nothing else is taken for it."""
    pair = _answer_round(KePayload(group, bytes(1088)))
    assert pair.a.last(IkeSaClosed).reason is CloseReason.PROTOCOL_ERROR
    pair.quiet()


@pytest.mark.parametrize(
    ("notify", "reason"),
    [
        (NotifyType.NO_PROPOSAL_CHOSEN, CloseReason.NO_PROPOSAL_CHOSEN),
        (NotifyType.AUTHENTICATION_FAILED, CloseReason.AUTHENTICATION_FAILED),
        (8000, CloseReason.REFUSED),
    ],
)
@pytest.mark.parametrize("beside", [(), (KePayload(36, bytes(1088)),)], ids=["alone", "KE"])
def test_a_round_that_is_answered_with_an_error(notify, reason, beside) -> None:
    """It ends there and says so, whatever else is in the answer (RFC 9242 §3.4)."""
    pair = _answer_round(NotifyPayload(notify), *beside)
    assert pair.a.last(IkeSaClosed).reason is reason
    pair.quiet()


def test_a_ciphertext_that_was_tampered_with_leads_nowhere() -> None:
    """FIPS 203: implicit rejection. Nobody is told; the proof cannot even be read."""
    pair = _answer_round(KePayload(36, bytes(1088)))
    pair.settle()
    assert not pair.b.events(IkeSaEstablished)
    assert not pair.a.events(IkeSaEstablished)


def test_a_round_that_was_not_negotiated_is_dropped() -> None:
    pair = start([PLAIN])
    pair.play("a --> b: IKE_SA_INIT? SA KE No\na <-- b: IKE_SA_INIT! SA KE No")
    pair.pending.clear()
    sa = pair.a.sa
    header = sa.header(ExchangeType.IKE_INTERMEDIATE, 1, is_response=False)
    data = sa.protection.seal(header, [KePayload(36, KEY)], pair.a.ike.random)
    pair.b.ike.receive(A_TO_B, data, pair.now)
    pair.drain()
    assert pair.pending == []
    assert pair.b.drops == ["state"]


def test_after_authentication_there_are_no_rounds() -> None:
    pair = start()
    pair.settle()
    sa = pair.a.sa
    header = sa.header(ExchangeType.IKE_INTERMEDIATE, sa.outgoing.next_id, is_response=False)
    data = sa.protection.seal(header, [KePayload(36, KEY)], pair.a.ike.random)
    pair.b.ike.receive(A_TO_B, data, pair.now)
    pair.drain()
    assert pair.pending == []
    assert pair.b.drops[-1] == "state"


def test_no_method_twice() -> None:
    """RFC 9370 §2.2.2."""
    pair = start([PLAIN + "-ke1_x25519"])
    pair.play(OPENING.splitlines()[1] + "\na <-- b: IKE_SA_INIT! N(NO_PROPOSAL_CHOSEN)")


def test_truncated_at_every_octet() -> None:
    """Every datagram of a hybrid handshake, cut short anywhere, changes nothing."""
    pair = start(child=True)
    pair.drain()
    while pair.pending:
        datagram = pair.pending.pop(0)
        receiver = pair.other(datagram.sender)
        for length in range(0, len(datagram.data), 7):
            receiver.ike.receive(datagram.arriving, datagram.data[:length], pair.now)
            while (output := receiver.ike.poll_output()) is not None:
                assert not isinstance(output, Transmit)
        pair.deliver(datagram)
    agree(pair)


# -- IKE_FOLLOWUP_KE -----------------------------------------------------------------------------

ESP = ("aes128gcm16-x25519-ke1_mlkem768",)
LINK = "N(ADDITIONAL_KEY_EXCHANGE)"
FOLLOWUP = f"""
    a --> b: IKE_FOLLOWUP_KE? KE {LINK}
    a <-- b: IKE_FOLLOWUP_KE! KE
"""


def big(pair: Pair) -> Pair:
    """One datagram each, so that scripts are about something else."""
    for side in (pair.a, pair.b):
        for sa in side.ike.sas():
            sa.fragments.limit = 4000
    return pair


def with_child(**options) -> Pair:
    return big(established(make_pair(child=True, ike=[HYBRID], esp=ESP, **options)))


@pytest.mark.parametrize("by", ["a", "b"])
def test_rekey_ike(by: str) -> None:
    pair = with_child()
    side, arrows = getattr(pair, by), ("-->", "<--") if by == "a" else ("<--", "-->")
    there, back = (f"a {arrow} b:" for arrow in arrows)
    before = pair.a.sa.protection.sk_d
    side.ike.rekey_ike(side.sa.ike_id, pair.now)
    pair.play(
        f"""
        {there} CREATE_CHILD_SA? SA No KE
        {back} CREATE_CHILD_SA! SA No KE {LINK}
        {there} IKE_FOLLOWUP_KE? KE {LINK}
        {back} IKE_FOLLOWUP_KE! KE
        {there} INFORMATIONAL? D(IKE)
        {back} INFORMATIONAL!
        """
    )
    pair.quiet()
    agree(pair)
    assert pair.a.sa.protection.sk_d != before
    assert pair.a.sa.suite.additional_groups == (36,)


@pytest.mark.parametrize("by", ["a", "b"])
def test_rekey_child(by: str) -> None:
    pair = with_child()
    side, arrows = getattr(pair, by), ("-->", "<--") if by == "a" else ("<--", "-->")
    there, back = (f"a {arrow} b:" for arrow in arrows)
    (old,) = side.installed
    side.ike.rekey_child(old, pair.now)
    pair.play(
        f"""
        {there} CREATE_CHILD_SA? N(REKEY_SA) SA No KE TSi TSr
        {back} CREATE_CHILD_SA! SA No KE TSi TSr {LINK}
        {there} IKE_FOLLOWUP_KE? KE {LINK}
        {back} IKE_FOLLOWUP_KE! KE
        {there} INFORMATIONAL? D(ESP)
        {back} INFORMATIONAL! D(ESP)
        """
    )
    pair.quiet()
    agree(pair)
    assert old not in side.installed
    assert len(side.installed) == 1


def test_a_further_child() -> None:
    pair = with_child()
    pair.a.submit(CreateChild(), pair.now)
    pair.play(
        f"""
        a --> b: CREATE_CHILD_SA? SA No KE TSi TSr
        a <-- b: CREATE_CHILD_SA! SA No KE TSi TSr {LINK}
        """
        + FOLLOWUP
    )
    pair.quiet()
    agree(pair)
    assert len(pair.a.installed) == 2


def test_several_follow_ups() -> None:
    text = PLAIN + "-ke1_mlkem768-ke2_ecp256-ke3_mlkem1024"
    pair = big(established(make_pair(ike=[text])))
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    one = f"a --> b: IKE_FOLLOWUP_KE? KE {LINK}\na <-- b: IKE_FOLLOWUP_KE! KE"
    pair.play(
        f"a --> b: CREATE_CHILD_SA? SA No KE\na <-- b: CREATE_CHILD_SA! SA No KE {LINK}\n"
        + f"{one} {LINK}\n{one} {LINK}\n{one}\n"
        + "a --> b: INFORMATIONAL? D(IKE)\na <-- b: INFORMATIONAL!"
    )
    agree(pair)


def test_lost_follow_ups_are_repeated() -> None:
    pair = with_child()
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    pair.play(
        f"""
        a --> b: CREATE_CHILD_SA? SA No KE
        a <-- b: CREATE_CHILD_SA! SA No KE {LINK}
        a --x b: IKE_FOLLOWUP_KE? KE {LINK}
        """
    )
    pair.tick(pair.a)
    pair.play(f"a --> b: IKE_FOLLOWUP_KE? KE {LINK}\na x-- b: IKE_FOLLOWUP_KE! KE")
    pair.tick(pair.a)
    pair.play(f"a --> b: IKE_FOLLOWUP_KE? KE {LINK}\na <-- b: IKE_FOLLOWUP_KE! KE")
    pair.settle()
    agree(pair)


def test_state_not_found_starts_over() -> None:
    """RFC 9370 §2.2.4: the responder may forget; the rekeying is tried again later."""
    for rekey in ("ike", "child"):
        pair = with_child()
        if rekey == "ike":
            pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
        else:
            pair.a.ike.rekey_child(next(iter(pair.a.installed)), pair.now)
        pair.drain()
        pair.deliver(pair.pending.pop(0))
        pair.b.sa.pending.until = pair.now
        pair.deliver(pair.pending.pop(0))
        pair.play(
            f"""
            a --> b: IKE_FOLLOWUP_KE? KE {LINK}
            a <-- b: IKE_FOLLOWUP_KE! N(STATE_NOT_FOUND)
            """
        )
        pair.quiet()
        agree(pair)
        before = pair.a.sa.spis, set(pair.a.installed)
        pair.sleep(30)
        agree(pair)
        assert (pair.a.sa.spis, set(pair.a.installed)) != before


@pytest.mark.parametrize("rekey", ["ike", "child"])
@pytest.mark.parametrize("seed", range(12))
def test_simultaneous_rekeyings(rekey: str, seed: int) -> None:
    """THREATS 25. Both at once, in any order: exactly one of them is continued."""
    pair = with_child()
    chance = chances.Random(seed)
    for side in (pair.a, pair.b):
        if rekey == "ike":
            side.ike.rekey_ike(side.sa.ike_id, pair.now)
        else:
            side.ike.rekey_child(next(iter(side.installed)), pair.now)
        pair.drain()
    while pair.pending:
        pair.now += 0.01
        pair.deliver(pair.pending.pop(chance.randrange(len(pair.pending))))
    for side in (pair.a, pair.b):
        assert not side.events(IkeSaClosed)
    agree(pair)
    assert len(pair.a.installed) == 1
    if rekey == "child":
        assert len(pair.a.events(ChildSaRekeyed)) == len(pair.b.events(ChildSaRekeyed)) == 1
    pair.sleep(60)
    agree(pair)
    assert pair.a.sa.spis == pair.b.sa.spis
    assert len(pair.a.ike._by_spi) == len(pair.b.ike._by_spi) == 1


def test_a_delete_that_begins_between_the_exchanges_of_a_rekeying() -> None:
    """§2.25.2: the rekeying waits, and the Child SA goes on both sides."""
    pair = with_child()
    pair.b.ike.rekey_ike(pair.b.sa.ike_id, pair.now)
    pair.play(
        f"""
        a <-- b: CREATE_CHILD_SA? SA No KE
        a --> b: CREATE_CHILD_SA! SA No KE {LINK}
        """
    )
    pair.a.delete_child(next(iter(pair.a.installed)), pair.now)
    pair.play(
        f"""
        a <-- b: IKE_FOLLOWUP_KE? KE {LINK}
        a --> b: INFORMATIONAL? D(ESP)
        a <-- b: INFORMATIONAL! D(ESP)
        a --> b: IKE_FOLLOWUP_KE! N(TEMPORARY_FAILURE)
        """
    )
    pair.quiet()
    assert not pair.a.installed
    assert not pair.b.installed
    before = pair.a.sa.spis
    pair.sleep(30)
    agree(pair)
    assert pair.a.sa.spis != before


BAD_FOLLOWUPS = {
    "no link": [KePayload(36, KEY)],
    "no key": [NotifyPayload(NotifyType.ADDITIONAL_KEY_EXCHANGE, b"x" * 8)],
    "not reduced": [KePayload(36, b"\xff" * 1184)],
    "wrong group": [KePayload(37, bytes(1568))],
}


@pytest.mark.parametrize("payloads", BAD_FOLLOWUPS.values(), ids=BAD_FOLLOWUPS)
def test_a_bad_follow_up_ends_the_ike_sa(payloads: list) -> None:
    pair = with_child()
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    pair.drain()
    pair.deliver(pair.pending.pop(0))
    link = pair.b.sa.pending.link
    if "no link" not in [k for k, v in BAD_FOLLOWUPS.items() if v is payloads]:
        payloads = [
            *[p for p in payloads if isinstance(p, KePayload)],
            NotifyPayload(NotifyType.ADDITIONAL_KEY_EXCHANGE, link),
        ]
    sa = pair.a.sa
    header = sa.header(ExchangeType.IKE_FOLLOWUP_KE, sa.outgoing.next_id + 1, is_response=False)
    data = sa.protection.seal(header, payloads, pair.a.ike.random)
    pair.pending.clear()
    pair.b.ike.receive(A_TO_B, data, pair.now)
    pair.drain()
    (answer,) = pair.pending
    assert pair.describe(pair.b, answer.data) == "IKE_FOLLOWUP_KE! N(INVALID_SYNTAX)"
    assert pair.b.last(IkeSaClosed).reason is CloseReason.PROTOCOL_ERROR


def _follow_up(pair: Pair, link: bytes, message_id: int) -> str:
    """What b answers to a follow-up of a with this link."""
    sa = pair.a.sa
    header = sa.header(ExchangeType.IKE_FOLLOWUP_KE, message_id, is_response=False)
    notify = NotifyPayload(NotifyType.ADDITIONAL_KEY_EXCHANGE, link)
    data = sa.protection.seal(header, [KePayload(36, KEY), notify], pair.a.ike.random)
    pair.pending.clear()
    pair.b.ike.receive(A_TO_B, data, pair.now)
    pair.drain()
    (answer,) = pair.pending
    return pair.describe(pair.b, answer.data)


def test_a_follow_up_out_of_the_blue() -> None:
    pair = with_child()
    said = _follow_up(pair, b"who knows", pair.a.sa.outgoing.next_id)
    assert said == "IKE_FOLLOWUP_KE! N(STATE_NOT_FOUND)"
    agree(pair)


def test_only_the_link_that_was_given_goes_on() -> None:
    """RFC 9370 §2.2.4: it is opaque, and b's; what is pending stays for who has it."""
    pair = with_child()
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    pair.drain()
    pair.deliver(pair.pending.pop(0))
    pending = pair.b.sa.pending
    link, groups = pending.link, pending.groups
    wrong = (b"", link[:-1], link + b"\0", link[:-1] + bytes((link[-1] ^ 1,)), bytes(len(link)))
    for message_id, other in enumerate(wrong, pair.a.sa.outgoing.next_id + 1):
        assert _follow_up(pair, other, message_id) == "IKE_FOLLOWUP_KE! N(STATE_NOT_FOUND)"
        assert pair.b.sa.pending is pending
        assert (pending.link, pending.groups, pending.secrets) == (link, groups, b"")


def test_a_link_leads_on_once() -> None:
    pair = with_child()
    pair.a.ike.rekey_child(next(iter(pair.a.installed)), pair.now)
    pair.drain()
    pair.deliver(pair.pending.pop(0))
    link = pair.b.sa.pending.link
    pair.settle()
    agree(pair)
    assert pair.b.sa.pending is None
    before = dict(pair.b.installed)
    again = _follow_up(pair, link, pair.a.sa.outgoing.next_id)
    assert again == "IKE_FOLLOWUP_KE! N(STATE_NOT_FOUND)"
    assert pair.b.installed == before


def test_what_is_pending_is_forgotten() -> None:
    pair = with_child()
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    pair.drain()
    pair.deliver(pair.pending.pop(0))
    assert followup.pending_of(pair.b.sa, pair.now) is not None
    assert followup.pending_of(pair.b.sa, pair.now + followup.PENDING_SECONDS) is None


def test_protection_shows_no_key() -> None:
    pair = start()
    pair.settle()
    assert isinstance(pair.a.sa.protection, Protection)
    assert pair.a.sa.protection.sk_d.hex() not in repr(pair.a.sa.protection)
