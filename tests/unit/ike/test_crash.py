"""Quick crash detection, RFC 6290, from both sides: tokens told, tokens shown, tokens forged."""

from __future__ import annotations

import pytest

from agent.datagram import Address, Path, Transmit
from agent.ike.cookies import STRAY_ANSWERS_IN_ALL
from agent.ike.crash import (
    CHECKS_PER_ADDRESS,
    MAX_TOKENS,
    TOKEN_LENGTH,
    TellToken,
    Tokens,
    encode_invalid_spi,
)
from agent.ike.create_child_sa import CreateChild
from agent.ike.events import ChildSaClosed, CloseReason, IkeSaClosed
from agent.ike.table import Ike
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.message import (
    Header,
    decode_header,
    decode_message,
    encode_message,
    encode_payloads,
)
from agent.wire.payloads import NotifyPayload
from tests.support.exchanges import payloads_of, sealed
from tests.support.pair import (
    A_ADDRESS,
    A_TO_B,
    B_ADDRESS,
    Pair,
    Side,
    child_policy,
    established,
    make_pair,
    make_peers,
    make_side,
    seeded,
)

FOREIGN = Address.parse("203.0.113.66", 4500)
SIDES = ["a", "b"]


def tokens_of(name: str) -> Tokens:
    return Tokens(name.encode() * 32)


def pair_of(*, a: bool = True, b: bool = True, child: bool = True, **more) -> Pair:
    """`a` and `b`: whether that side does crash detection."""
    children = (
        child_policy("10.1.0.0/24", "10.2.0.0/24"),
        child_policy("10.2.0.0/24", "10.1.0.0/24"),
    )
    peer_b, peer_a = make_peers(children=children if child else None, **more)
    return Pair(
        make_side("a", A_ADDRESS, [peer_b], tokens=tokens_of("a") if a else None),
        make_side("b", B_ADDRESS, [peer_a], tokens=tokens_of("b") if b else None),
    )


def restart(side: Side) -> None:
    """Everything but the keys is forgotten."""
    side.installed.clear()
    side.ike = Ike(pad=side.book, random=seeded(f"{side.name} again"), tokens=tokens_of(side.name))


def answers(side: Side) -> list[bytes]:
    sent = []
    while (output := side.ike.poll_output()) is not None:
        if isinstance(output, Transmit):
            sent.append(output.data)
    return sent


def shown(side: Side, *tokens: bytes, header: Header | None = None) -> bytes:
    """An unprotected answer to `side` with these tokens."""
    spis = side.sa.spis
    header = header or Header(
        initiator_spi=spis[:8],
        responder_spi=spis[8:],
        exchange=ExchangeType.INFORMATIONAL,
        is_initiator=not side.sa.is_initiator,
        is_response=True,
        message_id=side.sa.outgoing.next_id,
    )
    notifies = [NotifyPayload(NotifyType.QUICK_CRASH_DETECTION, token, 1) for token in tokens]
    return encode_message(header, [NotifyPayload(NotifyType.INVALID_IKE_SPI), *notifies])


def test_told_in_ike_auth_behind_auth() -> None:
    pair = pair_of()
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        a --> b: IKE_AUTH? IDi IDr AUTH N(QUICK_CRASH_DETECTION) N(INITIAL_CONTACT) SA TSi TSr
        a <-- b: IKE_AUTH! IDr AUTH N(QUICK_CRASH_DETECTION) SA TSi TSr
        """
    )
    pair.quiet()


def test_a_responder_does_not_tell_one_that_told_nothing() -> None:
    pair = pair_of(a=False)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        a --> b: IKE_AUTH? IDi IDr AUTH N(INITIAL_CONTACT) SA TSi TSr
        a <-- b: IKE_AUTH! IDr AUTH SA TSi TSr
        """
    )
    pair.b.ike.rekey_ike(pair.b.sa.ike_id, pair.now)
    pair.settle()
    assert not any("QUICK_CRASH" in line for _, line in pair.sent)


@pytest.mark.parametrize("name", SIDES)
def test_told_again_after_each_rekeying_by_both(name: str) -> None:
    pair = established(pair_of())
    before = len(pair.sent)
    side = getattr(pair, name)
    side.ike.rekey_ike(side.sa.ike_id, pair.now)
    pair.settle()
    told = [line for _, line in pair.sent[before:] if "QUICK_CRASH" in line]
    assert sorted(told) == [
        "a --> b: INFORMATIONAL? N(QUICK_CRASH_DETECTION)",
        "a <-- b: INFORMATIONAL? N(QUICK_CRASH_DETECTION)",
    ]
    restart(pair.other(side))
    side.ike.check_liveness(side.sa.ike_id, pair.now)
    pair.settle()
    assert side.last(IkeSaClosed).reason is CloseReason.RESTARTED


@pytest.mark.parametrize("name", SIDES)
def test_a_restarted_peer_proves_it_in_one_round_trip(name: str) -> None:
    """THREATS 37, and nothing is said to it (§4.5: silently)."""
    pair = established(pair_of())
    side = getattr(pair, name)
    restart(pair.other(side))
    side.ike.check_liveness(side.sa.ike_id, pair.now)
    out, back = ("-->", "<--") if name == "a" else ("<--", "-->")
    pair.play(
        f"""
        a {out} b: INFORMATIONAL?
        a {back} b: INFORMATIONAL! N(INVALID_IKE_SPI) N(QUICK_CRASH_DETECTION)
        """
    )
    pair.quiet()
    closed = side.last(IkeSaClosed)
    assert (closed.reason, closed.established) == (CloseReason.RESTARTED, True)
    assert side.last(ChildSaClosed).reason is CloseReason.IKE_SA_CLOSED
    assert not side.installed
    assert len(side.ike) == 0


def test_from_any_address_and_in_answer_to_any_exchange() -> None:
    """§3: MUST accept from any address; RFC 7296 §1.5: the exchange type is that of the request."""
    pair = established(pair_of())
    restart(pair.b)
    pair.a.submit(CreateChild(), pair.now)
    pair.drain()
    request = pair.pending.pop()
    pair.b.ike.receive(request.arriving, request.data, pair.now)
    (answer,) = answers(pair.b)
    pair.a.ike.receive(Path(A_ADDRESS, FOREIGN), answer, pair.now)
    pair.drain()
    assert pair.a.last(IkeSaClosed).reason is CloseReason.RESTARTED


def test_an_aead_probe_is_long_enough_to_be_answered_with_a_token() -> None:
    """THREATS 8: 1.1 octets out for each that came in, at most."""
    pair = established(pair_of())
    restart(pair.b)
    pair.a.ike.check_liveness(pair.a.sa.ike_id, pair.now)
    pair.drain()
    request = pair.pending.pop()
    pair.b.ike.receive(request.arriving, request.data, pair.now)
    (answer,) = answers(pair.b)
    assert len(answer) <= 1.1 * len(request.data)
    token = decode_message(answer).notify(NotifyType.QUICK_CRASH_DETECTION)
    assert token is not None
    assert (token.protocol, token.spi, len(token.data)) == (1, b"", TOKEN_LENGTH)


@pytest.mark.parametrize("name", SIDES)
def test_the_token_of_a_living_sa_is_never_shown(name: str) -> None:
    """§9.2: whatever flags, SPIs and addresses a request has."""
    pair = established(pair_of())
    side = getattr(pair, name)
    token = tokens_of(name).notify(side.sa.spis).data
    spis, other = side.sa.spis, bytes(range(8))
    pairs = [(spis[:8], spis[8:]), (spis[8:], spis[:8]), (spis[:8], other), (other, spis[8:])]
    pairs += [(spis[8:], other), (other, spis[:8])]
    sent = []
    for initiator, responder in pairs:
        for is_initiator in (True, False):
            for is_response in (True, False):
                for exchange in (35, 36, 37, 38, 43, 240):
                    header = Header(
                        initiator, responder, exchange, is_initiator, is_response, 7, 46
                    )
                    data = encode_message(header, [NotifyPayload(1, bytes(60))])
                    data = data[:16] + b"\x2e" + data[17:]  # it looks protected
                    pair.now += 2  # no rate in the way
                    side.ike.receive(Path(side.address, FOREIGN), data, pair.now)
                    sent += answers(side)
    assert not any(token in data for data in sent)
    assert side.sa.established


@pytest.mark.parametrize("name", SIDES)
def test_forged_tokens_cost_a_probe(name: str) -> None:
    """THREATS 14: wrong, short, empty, our own, of other SPIs, the right one as the fifth."""
    pair = established(pair_of())
    side, other = getattr(pair, name), "b" if name == "a" else "a"
    spis = side.sa.spis
    right = tokens_of(other).notify(spis).data
    wrong = bytes(TOKEN_LENGTH)
    for forged in (
        (wrong,),
        (b"",),
        (right[:-1],),
        (right + b"\0",),
        (tokens_of(name).notify(spis).data,),
        (tokens_of(other).notify(spis[8:] + spis[:8]).data,),
        (wrong,) * MAX_TOKENS + (right,),
    ):
        pair.now += 1
        side.ike.receive(Path(side.address, FOREIGN), shown(side, *forged), pair.now)
    header = Header(spis[:8], bytes(8), ExchangeType.INFORMATIONAL, name == "b", True, 0)
    side.ike.receive(Path(side.address, FOREIGN), shown(side, right, header=header), pair.now)
    pair.drain()
    assert len(pair.pending) == 1
    pair.settle()
    assert side.sa.established
    side.ike.receive(Path(side.address, FOREIGN), shown(side, wrong, right), pair.now + 1)
    pair.drain()
    assert side.last(IkeSaClosed).reason is CloseReason.RESTARTED


def test_a_request_with_the_right_token_is_no_answer() -> None:
    pair = established(pair_of())
    spis = pair.a.sa.spis
    right = tokens_of("b").notify(spis).data
    header = Header(spis[:8], spis[8:], ExchangeType.INFORMATIONAL, False, False, 0)
    pair.a.ike.receive(A_TO_B, shown(pair.a, right, header=header), pair.now)
    pair.settle()
    assert pair.a.sa.established


def test_guesses_are_limited() -> None:
    """§8.1: so many in a second of one address; then not even the right one counts."""
    pair = established(pair_of())
    right = tokens_of("b").notify(pair.a.sa.spis).data
    for _ in range(CHECKS_PER_ADDRESS):
        pair.a.ike.receive(A_TO_B, shown(pair.a, bytes(TOKEN_LENGTH)), pair.now)
    pair.a.ike.receive(A_TO_B, shown(pair.a, right), pair.now)
    assert pair.a.sa.established
    pair.a.ike.receive(A_TO_B, shown(pair.a, right), pair.now + 1)
    pair.drain()
    assert pair.a.last(IkeSaClosed).reason is CloseReason.RESTARTED


def test_a_flood_of_unknown_spis() -> None:
    """§8.1, §9.3: no dictionary of tokens can be had, nor an amplifier."""
    side = make_side("b", B_ADDRESS, [], tokens=tokens_of("b"))
    sent = 0
    for number in range(10 * STRAY_ANSWERS_IN_ALL):
        header = Header(number.to_bytes(8, "big"), b"r" * 8, 37, True, False, 1, 46)
        data = bytearray(encode_message(header, [NotifyPayload(1, bytes(60))]))
        data[16] = 46
        path = Path(B_ADDRESS, Address(bytes((10, 0, *number.to_bytes(2, "big"))), 4500))
        side.ike.receive(path, bytes(data), 0.0)
        sent += len(answers(side))
    assert 0 < sent <= STRAY_ANSWERS_IN_ALL


def test_what_is_not_protected_is_shown_no_token() -> None:
    side = make_side("b", B_ADDRESS, [], tokens=tokens_of("b"))
    header = Header(b"i" * 8, b"r" * 8, ExchangeType.INFORMATIONAL, True, False, 1)
    data = encode_message(header, [NotifyPayload(NotifyType.ME_CONNECTID, bytes(60))])
    side.ike.receive(Path(B_ADDRESS, A_ADDRESS), data, 0.0)
    (answer,) = answers(side)
    assert NotifyType.QUICK_CRASH_DETECTION not in {p.type for p in decode_message(answer).payloads}


@pytest.mark.parametrize("length", [0, TOKEN_LENGTH - 1, 129])
def test_a_token_of_a_wrong_length_is_not_kept(length: int) -> None:
    """§5: 16 to 128 octets; a shorter one could be guessed."""
    pair = established(pair_of())
    pair.b.ike.request(
        pair.b.sa.ike_id,
        ExchangeType.INFORMATIONAL,
        [NotifyPayload(NotifyType.QUICK_CRASH_DETECTION, bytes(length), 1)],
        lambda message, now: None,
        pair.now,
    )
    pair.settle()
    pair.a.ike.receive(A_TO_B, shown(pair.a, bytes(length)), pair.now)
    assert pair.a.sa.established
    pair.a.ike.receive(A_TO_B, shown(pair.a, tokens_of("b").notify(pair.a.sa.spis).data), pair.now)
    pair.drain()
    assert pair.a.last(IkeSaClosed).reason is CloseReason.RESTARTED


def test_another_token_for_the_same_sa_replaces_the_old() -> None:
    """§4.4: told in any protected message."""
    pair = established(pair_of())
    pair.b.ike.request(
        pair.b.sa.ike_id,
        ExchangeType.INFORMATIONAL,
        [NotifyPayload(NotifyType.QUICK_CRASH_DETECTION, b"n" * 128, 1)],
        lambda message, now: None,
        pair.now,
    )
    pair.settle()
    pair.a.ike.receive(A_TO_B, shown(pair.a, b"n" * 128), pair.now)
    pair.drain()
    assert pair.a.last(IkeSaClosed).reason is CloseReason.RESTARTED


@pytest.mark.parametrize("name", SIDES)
def test_told_in_the_answer_to_a_rekeying(name: str) -> None:
    """§4.3: there a responder may tell it that has nothing else to tell."""
    pair = established(pair_of())
    side, other = getattr(pair, name), pair.other(getattr(pair, name))
    side.ike.rekey_ike(side.sa.ike_id, pair.now)
    pair.drain()
    pair.deliver(pair.pending.pop(0))
    answer = next(d for d in pair.pending if decode_message(d.data).header.is_response)
    pair.pending.clear()
    message, cipher = payloads_of(pair, answer)
    token = NotifyPayload(NotifyType.QUICK_CRASH_DETECTION, b"n" * 16, 1)
    octets = sealed(message, cipher, *encode_payloads([*message.payloads, token]))
    side.ike.receive(answer.arriving, octets, pair.now)
    pair.drain()
    assert side.sa.spis == other.sa.spis
    side.ike.receive(A_TO_B, shown(side, b"n" * 16), pair.now)
    pair.drain()
    assert side.last(IkeSaClosed).reason is CloseReason.RESTARTED


def test_what_comes_late_on_the_old_sa_is_not_the_token_of_the_new_one() -> None:
    pair = established(pair_of())
    pair.b.submit(TellToken(tokens_of("b")), pair.now)
    pair.drain()
    late = pair.pending.pop(0)
    old = decode_header(late.data).spis
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    pair.play("a --> b: CREATE_CHILD_SA? SA No KE\na <-- b: CREATE_CHILD_SA! SA No KE")
    # The Delete of the old one is not there yet.
    while on_the_new := [d for d in pair.pending if decode_header(d.data).spis != old]:
        pair.pending.remove(on_the_new[0])
        pair.deliver(on_the_new[0])
    pair.deliver(late)
    pair.settle()
    restart(pair.b)
    pair.a.ike.check_liveness(pair.a.sa.ike_id, pair.now)
    pair.settle()
    assert pair.a.last(IkeSaClosed).reason is CloseReason.RESTARTED


# -- ESP that belongs to no SA -------------------------------------------------------------------


def test_esp_of_no_sa_leads_to_the_token() -> None:
    """RFC 7296 §1.5: INVALID_SPI is a hint, the question it leads to is answered with the proof."""
    pair = established(pair_of())
    (spi_out,) = (child.spi_out for child in pair.a.sa.children.values())
    restart(pair.b)
    pair.b.ike.on_unknown_esp(Path(B_ADDRESS, A_ADDRESS), spi_out + bytes(60), pair.now)
    (hint,) = answers(pair.b)
    assert pair.a.ike.on_invalid_spi(A_TO_B, hint, pair.now)
    assert pair.a.sa.established
    pair.play(
        """
        a --> b: INFORMATIONAL?
        a <-- b: INFORMATIONAL! N(INVALID_IKE_SPI) N(QUICK_CRASH_DETECTION)
        """
    )
    assert pair.a.last(IkeSaClosed).reason is CloseReason.RESTARTED


def test_invalid_spi_with_a_token() -> None:
    """§8.2: as good as with the SPIs of the IKE SA."""
    pair = established(pair_of())
    (child,) = pair.a.sa.children.values()
    header = Header(bytes(8), bytes(8), ExchangeType.INFORMATIONAL, True, False, 0)
    token = tokens_of("b").notify(pair.a.sa.spis)
    data = encode_message(header, [NotifyPayload(NotifyType.INVALID_SPI, child.spi_out), token])
    assert pair.a.ike.on_invalid_spi(Path(A_ADDRESS, FOREIGN), data, pair.now)
    pair.drain()
    assert pair.a.last(IkeSaClosed).reason is CloseReason.RESTARTED


def test_a_flood_of_forged_invalid_spi_costs_a_probe() -> None:
    """THREATS 14."""
    pair = established(pair_of())
    (child,) = pair.a.sa.children.values()
    for number in range(500):
        spi = child.spi_out if number % 2 else number.to_bytes(4, "big")
        pair.a.ike.on_invalid_spi(A_TO_B, encode_invalid_spi(spi), pair.now)
        pair.a.ike.on_invalid_spi(A_TO_B, encode_invalid_spi(child.spi_in), pair.now)
    pair.drain()
    assert len(pair.pending) == 1
    pair.settle()
    assert pair.a.sa.established


def test_invalid_spi_for_child_sas_that_came_and_went() -> None:
    """The table of outbound SPIs follows rekeying and deletes, and does not grow."""
    pair = established(pair_of())
    for _ in range(3):
        (old,) = pair.a.sa.children.values()
        pair.a.ike.rekey_child(old.spi_in, pair.now)
        pair.settle()
    pair.sleep(60)
    assert pair.a.ike.children.spis_out == {c.spi_out for c in pair.a.sa.children.values()}
    pair.a.ike.close(pair.a.sa.ike_id, pair.now)
    pair.settle()
    assert not pair.a.ike.children.spis_out
    assert not pair.b.ike.children.spis_out


def test_esp_of_no_sa_in_masses() -> None:
    side = make_side("b", B_ADDRESS, [], tokens=tokens_of("b"))
    for _ in range(100):
        side.ike.on_unknown_esp(Path(B_ADDRESS, A_ADDRESS), b"spi!" + bytes(60), 5.0)
        side.ike.on_unknown_esp(Path(B_ADDRESS, FOREIGN), b"spi!" + bytes(12), 5.0)
    (answer,) = answers(side)
    assert len(answer) <= 64


def test_without_tokens_nothing_changes() -> None:
    """The pairs of all other tests have none: a restarted peer is believed after a while."""
    pair = established(make_pair(child=True))
    pair.a.ike.receive(A_TO_B, shown(pair.a, bytes(TOKEN_LENGTH)), pair.now)
    pair.settle()
    assert pair.a.sa.established


def test_the_token_of_the_old_spis_does_not_end_the_new_sa() -> None:
    """§5.3: it may have been seen by whom the old SA concerned; until the new one is told, none."""
    pair = established(pair_of())
    old = tokens_of("b").notify(pair.a.sa.spis).data
    pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? SA No KE
        a <-- b: CREATE_CHILD_SA! SA No KE
        """
    )
    pair.pending.clear()  # the tokens among them
    sa = pair.a.ike.sas()[0]
    pair.a.ike.receive(A_TO_B, shown(pair.a, old), pair.now)
    assert sa.established
