"""Without credentials, and with bad intentions: THREATS 1 to 14, 16; RFC 7296 §2.5, §2.6, §2.21."""

from __future__ import annotations

import random

import pytest

from agent.datagram import Address, Dropped, Path, Transmit
from agent.ike.child import MAX_CHILDREN
from agent.ike.cookies import COOKIES_PER_ADDRESS, STRAY_ANSWERS_IN_ALL, Cookies
from agent.ike.events import CloseReason, IkeSaClosed, IkeSaEstablished
from agent.ike.extension import Extension
from agent.ike.sa import IkeSa
from agent.ike.settings import IkeSettings
from agent.ike.states import TRANSITIONS, IkeState, LocalError, Step, after
from agent.wire.codes import ExchangeType, NotifyType
from agent.wire.message import Header, encode_message
from agent.wire.payloads import (
    KePayload,
    NoncePayload,
    NotifyPayload,
    SaPayload,
    UnknownPayload,
)
from tests.support.pair import (
    A_ADDRESS,
    A_TO_B,
    B_ADDRESS,
    Pair,
    Side,
    established,
    ike_proposals,
    make_pair,
    seeded,
)

FROM_A = Path(B_ADDRESS, A_ADDRESS)


def _first_request(spi: bytes = b"attacker", **changes) -> bytes:
    header = Header(
        initiator_spi=spi,
        responder_spi=bytes(8),
        exchange=ExchangeType.IKE_SA_INIT,
        is_initiator=True,
        is_response=False,
        message_id=0,
    )
    payloads = [
        SaPayload(ike_proposals()),
        KePayload(31, b"\x05" * 32),
        NoncePayload(b"n" * 32),
    ]
    return encode_message(header._replace(**changes), payloads)


def _outputs(side: Side) -> list:
    outputs = []
    while (output := side.ike.poll_output()) is not None:
        outputs.append(output)
    return outputs


def _answers(side: Side) -> list[bytes]:
    return [o.data for o in _outputs(side) if isinstance(o, Transmit)]


def _flow() -> tuple[Pair, list[tuple[str, bytes]]]:
    """A connection with a past, and every datagram of that, with who received it."""
    pair = make_pair(child=True)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    seen = []
    pair.drain()

    def run() -> None:
        while pair.pending:
            datagram = pair.pending.pop(0)
            seen.append((pair.other(datagram.sender).name, datagram.data))
            pair.deliver(datagram)

    run()
    pair.a.ike.rekey_child(next(iter(pair.a.installed)), pair.now)
    pair.drain()
    run()
    pair.b.ike.rekey_ike(pair.b.sa.ike_id, pair.now)
    pair.drain()
    run()
    return pair, seen


def test_nothing_but_drops_for_truncated_and_changed_octets() -> None:
    """THREATS 1, 2: at every stage, every message truncated everywhere and one octet changed."""
    chance = random.Random(1)
    pair = make_pair(child=True)
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.drain()
    for _ in range(20):
        if not pair.pending:
            break
        datagram = pair.pending.pop(0)
        receiver = pair.other(datagram.sender)
        data = datagram.data
        bad = [data[:cut] for cut in range(0, len(data), 3)]
        bad += [data + b"\0", data + data, b"", bytes(4) + data]
        for _ in range(200):
            at = chance.randrange(len(data))
            flipped = data[at] ^ (1 << chance.randrange(8))
            bad.append(data[:at] + bytes((flipped,)) + data[at + 1 :])
        first = data[18] == ExchangeType.IKE_SA_INIT
        for octets in bad:
            receiver.ike.receive(datagram.arriving, octets, pair.now)
            outputs = _outputs(receiver)
            if not first:
                # Nothing proven: one drop for each, or a cached answer for what is the same.
                kinds = {type(o) for o in outputs}
                assert kinds <= {Dropped, Transmit}
                sent = sum(len(o.data) for o in outputs if isinstance(o, Transmit))
                assert sent <= len(octets)
        pair.deliver(datagram)
    else:
        pytest.fail("this never ends")
    # An IKE_SA_INIT with a changed octet is somebody else's: it may have been answered, and then
    # the handshake fails by its own signature; but nothing hurts, and a fresh one works.
    pair.sleep(60)
    if len(pair.a.ike) == 0:
        pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
        pair.sleep(10)
    assert pair.a.sa.established
    assert pair.b.sa.established


def test_random_octets() -> None:
    chance = random.Random(2)
    pair = established(make_pair())
    spis = pair.b.sa.spis
    for _ in range(3000):
        octets = chance.randbytes(chance.choice((0, 1, 3, 27, 28, 29, 60, 200)))
        if chance.random() < 0.5 and len(octets) >= 28:
            exchange, flags = chance.choice((34, 35, 36, 37, 240)), chance.choice((0, 8, 32, 40))
            head = spis + bytes((chance.choice((0, 33, 41, 46)), 0x20, exchange, flags))
            octets = head + chance.randbytes(4) + len(octets).to_bytes(4, "big") + octets[28:]
        pair.b.ike.receive(FROM_A, octets, pair.now)
    outputs = _outputs(pair.b)
    assert sum(isinstance(o, Dropped) for o in outputs) == 3000
    # At most one INVALID_IKE_SPI and one probe, however many there were.
    assert len(outputs) <= 3002
    assert pair.b.sa.established


def test_recorded_datagrams_again_in_any_order() -> None:
    """THREATS 26: replays change nothing."""
    chance = random.Random(3)
    pair, seen = _flow()
    before = (pair.a.sa.spis, pair.b.sa.spis, len(pair.b.installed))
    for _ in range(600):
        name, data = chance.choice(seen)
        side = getattr(pair, name)
        side.ike.receive(A_TO_B if name == "a" else FROM_A, data, pair.now)
        _outputs(side)
    assert before == (pair.a.sa.spis, pair.b.sa.spis, len(pair.b.installed))
    assert pair.b.sa.path == FROM_A


# -- floods --------------------------------------------------------------------------------------


def _flood(pair: Pair, count: int, *, network: int | None = None, step: float = 0.0) -> int:
    """IKE_SA_INIT from many addresses; returns how many were answered with more than a cookie."""
    accepted = 0
    for number in range(count):
        host = bytes((100, number >> 16 & 255, number >> 8 & 255, number & 255))
        if network is not None:
            host = bytes((100, 64, network, number & 255))
        path = Path(B_ADDRESS, Address(host, 1024 + number % 60000))
        request = _first_request(number.to_bytes(8, "big") if number else b"\xff" * 8)
        pair.now += step
        pair.b.ike.receive(path, request, pair.now)
        answers = _answers(pair.b)
        assert sum(map(len, answers)) <= 1.1 * len(request)  # THREATS 8
        accepted += any(len(a) > 100 for a in answers)
    return accepted


def test_cookies_bound_the_half_open() -> None:
    """THREATS 5, 9: whoever does not answer from its address gets no state."""
    pair = established(make_pair(child=True))
    accepted = _flood(pair, 3000)
    assert accepted == IkeSettings().cookie_threshold
    assert len(pair.b.ike.half_open) == accepted
    # An honest peer still gets in, within the round trips of a cookie.
    pair.a.ike.close(pair.a.sa.ike_id, pair.now, silent=True)
    pair.sent.clear()
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.settle()
    assert [line for _, line in pair.sent][1] == "a <-- b: IKE_SA_INIT! N(COOKIE)"
    assert pair.a.sa.established
    # And all is idle again.
    pair.sleep(60)
    assert len(pair.b.ike.half_open) == 0
    assert len(pair.b.ike._by_spi) == 1


def test_one_network_reaches_its_own_threshold_first() -> None:
    pair = make_pair()
    assert _flood(pair, 200, network=7) == IkeSettings().cookie_threshold_net
    assert _flood(pair, 200, network=8) == IkeSettings().cookie_threshold_net


def test_the_oldest_half_open_goes_first() -> None:
    """THREATS 9: with addresses that can receive (no cookies here), there are still limits."""
    settings = IkeSettings(
        cookie_threshold=10**6,
        cookie_threshold_net=10**6,
        half_open_limit=100,
        half_open_limit_net=20,
    )
    pair = established(make_pair(settings=settings))
    assert _flood(pair, 300, network=7) == 300
    assert len(pair.b.ike.half_open) == 20
    assert _flood(pair, 1000) == 1000
    assert len(pair.b.ike.half_open) == 100
    assert len(pair.b.ike._by_spi) == 101
    assert len(pair.b.ike) == 1  # who is established is not touched
    pair.sleep(60)
    assert len(pair.b.ike.half_open) == 0
    assert pair.b.ike.half_open._networks == {}
    assert len(pair.b.ike._schedule) == 0


def test_cookies_are_bound_and_age() -> None:
    """THREATS 7: stolen, stale, changed."""
    cookies = Cookies(seeded("cookies"), rotation=100.0)
    cookie = cookies.make(b"nonce", A_ADDRESS, b"spi", 0.0)
    assert cookies.check(cookie, b"nonce", A_ADDRESS, b"spi", 50.0)
    assert cookies.check(cookie, b"nonce", A_ADDRESS, b"spi", 150.0)  # one rotation later
    assert not cookies.check(cookie, b"nonce", A_ADDRESS, b"spi", 320.0)
    cookie = cookies.make(b"nonce", A_ADDRESS, b"spi", 320.0)
    other = Address(A_ADDRESS.ip, A_ADDRESS.port + 1)
    assert not cookies.check(cookie, b"other", A_ADDRESS, b"spi", 320.0)
    assert not cookies.check(cookie, b"nonce", other, b"spi", 320.0)
    assert not cookies.check(cookie, b"nonce", A_ADDRESS, b"abc", 320.0)
    assert not cookies.check(cookie[:-1], b"nonce", A_ADDRESS, b"spi", 320.0)
    assert not cookies.check(b"", b"nonce", A_ADDRESS, b"spi", 320.0)
    assert not cookies.check(cookie, b"nonce", A_ADDRESS, b"spi", 10_000.0)


# -- what the RFC wants answered, and what not ---------------------------------------------------


def test_unknown_critical_payload_in_the_first_request() -> None:
    """§2.5: rejected, and named."""
    pair = make_pair()
    header = Header(b"attacker", bytes(8), ExchangeType.IKE_SA_INIT, True, False, 0)
    payloads = [
        SaPayload(ike_proposals()),
        KePayload(31, b"\x05" * 32),
        NoncePayload(b"n" * 32),
    ]
    for critical in (False, True):
        unknown = UnknownPayload(200, critical, b"?")
        pair.b.ike.receive(FROM_A, encode_message(header, [*payloads, unknown]), pair.now)
        (answer,) = _answers(pair.b)
        text = pair.describe(pair.b, answer)
        if critical:
            assert text == "IKE_SA_INIT! N(UNSUPPORTED_CRITICAL_PAYLOAD)"
            assert answer[-1] == 200
        else:
            assert text == "IKE_SA_INIT! SA KE No"


def test_unknown_critical_payload_later() -> None:
    """Answered, and the SA stays (§2.21.3 makes only INVALID_SYNTAX fatal)."""
    pair = established(make_pair())
    answers = []
    pair.a.ike.request(
        pair.a.sa.ike_id,
        ExchangeType.INFORMATIONAL,
        [UnknownPayload(200, True, b"?")],
        lambda m, now: answers.append(m),
        pair.now,
    )
    pair.settle()
    notify = answers[0].notify(NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD)
    assert notify is not None
    assert notify.data == bytes((200,))
    assert pair.a.sa.established
    assert pair.b.sa.established


def test_malformed_inside_ends_both() -> None:
    """§2.21.3: INVALID_SYNTAX, and the SA is gone without a Delete."""
    pair = established(make_pair(child=True))
    pair.a.ike.request(
        pair.a.sa.ike_id,
        ExchangeType.CREATE_CHILD_SA,
        [NoncePayload(bytes(32))],  # no SA payload
        lambda m, now: None,
        pair.now,
    )
    pair.play(
        """
        a --> b: CREATE_CHILD_SA? No
        a <-- b: CREATE_CHILD_SA! N(INVALID_SYNTAX)
        """
    )
    pair.quiet()
    for side in (pair.a, pair.b):
        assert side.last(IkeSaClosed).reason is CloseReason.PROTOCOL_ERROR
        assert not side.installed
        assert not side.ike._by_spi


def test_other_versions() -> None:
    """§2.5: a higher one is told, at most once a second; a lower one and responses never."""
    pair = make_pair()
    for _ in range(50):
        pair.b.ike.receive(FROM_A, _first_request(major=3), pair.now)
    (answer,) = _answers(pair.b)
    assert pair.describe(pair.b, answer) == "IKE_SA_INIT! N(INVALID_MAJOR_VERSION)"
    pair.b.ike.receive(FROM_A, _first_request(major=1), pair.now + 10)
    pair.b.ike.receive(FROM_A, _first_request(major=4, is_response=True), pair.now + 10)
    assert _answers(pair.b) == []
    pair.b.ike.receive(FROM_A, _first_request(major=3), pair.now + 10)
    assert len(_answers(pair.b)) == 1


def test_unknown_spis() -> None:
    """§2.21.4: a request may be told, rarely; a response and a check of mediation never."""
    pair = make_pair()
    header = Header(b"i" * 8, b"r" * 8, ExchangeType.INFORMATIONAL, True, False, 5)
    data = encode_message(header, [NotifyPayload(NotifyType.ME_CONNECTID, bytes(16))])
    for _ in range(20):
        pair.b.ike.receive(FROM_A, data, pair.now)
    (answer,) = _answers(pair.b)
    assert pair.describe(pair.b, answer) == "INFORMATIONAL! N(INVALID_IKE_SPI)"
    # Other addresses too, but not more than so many all together.
    for number in range(2 * STRAY_ANSWERS_IN_ALL):
        other = Path(B_ADDRESS, Address(b"\xcb\x00" + number.to_bytes(2, "big"), 4500))
        pair.b.ike.receive(other, data, pair.now)
    assert 0.9 * STRAY_ANSWERS_IN_ALL < len(_answers(pair.b)) < STRAY_ANSWERS_IN_ALL
    pair.now += 10
    zero = header._replace(initiator_spi=bytes(8), responder_spi=bytes(8))
    for other in (header._replace(is_response=True), zero):
        payload = NotifyPayload(NotifyType.ME_CONNECTID, bytes(16))
        pair.b.ike.receive(FROM_A, encode_message(other, [payload]), pair.now)
    assert _answers(pair.b) == []
    assert pair.b.ike.next_timeout() is None


# Group, its word, octets of its public values.
GROUPS = [
    (31, "x25519", 32),
    (19, "ecp256", 64),
    (20, "ecp384", 96),
    (21, "ecp521", 132),
    (14, "modp2048", 256),
    (15, "modp3072", 384),
    (16, "modp4096", 512),
]


@pytest.mark.parametrize("bad", ["zeros", "one", "ones", "short", "long", "empty", "another"])
@pytest.mark.parametrize(("group", "word", "size"), GROUPS)
def test_bad_public_values(group: int, word: str, size: int, bad: str) -> None:
    """THREATS 12, for each group: zero, of low order, beyond the prime or off the curve."""
    public = {
        "zeros": bytes(size),
        "one": b"\1" + bytes(31) if word == "x25519" else bytes(size - 1) + b"\1",
        "ones": b"\xff" * size if word != "x25519" else b"\xec" + b"\xff" * 30 + b"\x7f",
        "short": b"\5" * (size - 1),
        "long": b"\5" * (size + 1),
        "empty": b"",
        "another": b"\5" * (100 if word != "x25519" else 64),
    }[bad]
    proposals = ike_proposals(f"aes128gcm16-prfsha256-{word}")
    pair = make_pair(ike=(f"aes128gcm16-prfsha256-{word}",))
    header = Header(b"attacker", bytes(8), ExchangeType.IKE_SA_INIT, True, False, 0)
    payloads = [SaPayload(proposals), KePayload(group, public), NoncePayload(b"n" * 32)]
    pair.b.ike.receive(FROM_A, encode_message(header, payloads), pair.now)
    assert _answers(pair.b) == []
    assert not pair.b.ike._by_spi
    assert not pair.b.ike._current


def test_too_long_for_a_first_request() -> None:
    pair = make_pair()
    header = Header(b"attacker", bytes(8), ExchangeType.IKE_SA_INIT, True, False, 0)
    payloads = [
        SaPayload(ike_proposals()),
        KePayload(31, b"\x05" * 32),
        NoncePayload(b"n" * 32),
        NotifyPayload(NotifyType.COOKIE, bytes(60000)),
    ]
    pair.b.ike.receive(FROM_A, encode_message(header, payloads), pair.now)
    assert _answers(pair.b) == []
    assert not pair.b.ike._by_spi


def test_before_authentication() -> None:
    """THREATS 10: with valid SK keys, anything but IKE_AUTH is dropped."""
    pair = make_pair(factories=[lambda sa, message: Claims()])
    pair.a.ike.connect(pair.a.peer, A_TO_B, pair.now)
    pair.play(
        """
        a --> b: IKE_SA_INIT? SA KE No
        a <-- b: IKE_SA_INIT! SA KE No
        """
    )
    (auth,) = pair.pending
    sa = pair.a.sa
    for exchange in (ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL, 240, 43, 99):
        for message_id in (0, 1, 2):
            header = sa.header(exchange, message_id, is_response=False)
            data = sa.protection.seal(header, [], pair.a.ike.random)
            pair.b.ike.receive(FROM_A, data, pair.now)
    outputs = _outputs(pair.b)
    assert {type(o) for o in outputs} == {Dropped}
    assert pair.b.events(IkeSaEstablished) == []
    pair.deliver(auth)
    assert pair.b.sa.established


class Claims(Extension):
    """Claims everything."""

    __slots__ = ()

    def claims_exchange(self, exchange: int) -> bool:
        return True

    def handle_exchange(self, sa, message, now):
        raise AssertionError("not before the proof")


def test_an_exchange_that_nobody_knows() -> None:
    pair = established(make_pair())
    pair.a.ike.request(pair.a.sa.ike_id, 99, [], lambda m, now: None, pair.now)
    pair.settle()
    assert pair.b.last(IkeSaClosed).reason is CloseReason.PROTOCOL_ERROR


def test_the_table_of_states() -> None:
    """What is not in the table is an error of ours; nothing leads out of CLOSED."""
    for state in IkeState:
        for step in Step:
            if (state, step) in TRANSITIONS:
                assert state is not IkeState.CLOSED
            else:
                with pytest.raises(LocalError):
                    after(state, step)
        if state is not IkeState.CLOSED:
            assert after(state, Step.CLOSE) is IkeState.CLOSED


def test_payload_rules() -> None:
    """Twice what may stand once: dropped before the proof, INVALID_SYNTAX after."""
    pair = make_pair()
    header = Header(b"attacker", bytes(8), ExchangeType.IKE_SA_INIT, True, False, 0)
    payloads = [
        SaPayload(ike_proposals()),
        KePayload(31, b"\x05" * 32),
        NoncePayload(b"n" * 32),
    ]
    twice = [payloads + payloads[1:2], payloads + payloads[2:]]
    for bad in (*twice, payloads[1:], payloads[:2], []):
        pair.b.ike.receive(FROM_A, encode_message(header, bad), pair.now)
    assert [o.reason for o in _outputs(pair.b)] == ["invalid_syntax"] * 5
    pair.b.ike.receive(FROM_A, encode_message(header, payloads[::-1]), pair.now)  # any order
    assert len(_answers(pair.b)) == 1


def test_an_address_gets_few_cookies_a_second() -> None:
    """THREATS 6: answers to neighbours that do not exist must not fill the socket's buffer."""
    pair = make_pair()
    _flood(pair, 2000)

    def cookies(host: str, count: int) -> int:
        for number in range(count):
            path = Path(B_ADDRESS, Address.parse(host, 2000 + number))
            pair.b.ike.receive(path, _first_request(b"\xfe" + number.to_bytes(7, "big")), pair.now)
        return len(_answers(pair.b))

    pair.now += 1.0
    assert cookies("203.0.113.77", 100) == COOKIES_PER_ADDRESS
    assert cookies("203.0.113.78", 1) == 1
    pair.now += 1.0
    assert cookies("203.0.113.77", 1) == 1


# -- a peer with credentials ---------------------------------------------------------------------


def test_rekeying_the_ike_sa_without_end_leaves_few_behind() -> None:
    """Each takes the place of the last; whoever never deletes those has two, not thousands."""
    pair = established(make_pair(child=True))
    for _ in range(20):
        pair.a.ike.rekey_ike(pair.a.sa.ike_id, pair.now)
        pair.play(
            """
            a --> b: CREATE_CHILD_SA? SA No KE
            a <-- b: CREATE_CHILD_SA! SA No KE
            a --x b: INFORMATIONAL? D(IKE)
            """
        )
        assert len(pair.b.ike._by_spi) <= 2
    assert len(pair.b.installed) == 1
    assert pair.b.sa.established


def test_rekeying_the_child_sa_without_end_is_refused_at_last() -> None:
    """It is for whoever asked for a rekeying to delete the old one. This one does not."""
    pair = established(make_pair(child=True))
    for _ in range(30):
        pair.a.ike.rekey_child(next(reversed(pair.a.sa.children or {})), pair.now)
        pair.drain()
        while pair.pending:
            datagram = pair.pending.pop(0)
            if "D(ESP)" in pair.describe(datagram.sender, datagram.data):
                pair.a.sa.outgoing.clear()
            else:
                pair.deliver(datagram)
        assert len(pair.b.sa.children or ()) <= 2 * MAX_CHILDREN
    assert len(pair.b.installed) == 2 * MAX_CHILDREN
    assert pair.b.sa.established


def _hint(pair: Pair) -> bytes:
    """Somebody says in b's name that it does not know a's SA."""
    sa = pair.a.sa
    header = Header(sa.spis[:8], sa.spis[8:], ExchangeType.INFORMATIONAL, False, True, 7)
    return encode_message(header, [NotifyPayload(NotifyType.INVALID_IKE_SPI)])


def test_a_hint_shortens_the_wait_for_one_who_is_gone() -> None:
    """§2.21.4, THREATS 37: asked several times more, then given up."""
    pair = established(make_pair())
    pair.a.ike.check_liveness(pair.a.sa.ike_id, pair.now)
    pair.sleep(10, deliver=False)
    pair.sent.clear()
    started = pair.now
    pair.a.ike.receive(Path(A_ADDRESS, B_ADDRESS), _hint(pair), pair.now)
    pair.sleep(3, deliver=False)
    asked = [at - started for at, line in pair.sent if "INFORMATIONAL?" in line]
    assert len(asked) >= 3
    assert max(asked) < 1.5
    assert pair.a.last(IkeSaClosed).reason is CloseReason.TIMEOUT


def test_a_forged_hint_does_no_harm_to_one_who_lives() -> None:
    """THREATS 14: however many come, at most one probe in ten seconds, and the SA stays."""
    pair = established(make_pair())
    for _ in range(200):
        pair.a.ike.receive(Path(A_ADDRESS, B_ADDRESS), _hint(pair), pair.now)
        pair.sleep(0.1)
    assert pair.a.sa.established
    assert sum("--> b: INFORMATIONAL?" in line for _, line in pair.sent) <= 3


def test_a_request_in_flight_goes_out_again_on_a_new_path() -> None:
    """THREATS 36: what was sent to the old mapping is not waited for."""
    pair = established(make_pair())
    pair.b.ike.check_liveness(pair.b.sa.ike_id, pair.now)
    pair.drain()
    pair.pending.clear()
    pair.sleep(5, deliver=False)
    elsewhere = Path(A_ADDRESS._replace(port=9999), B_ADDRESS)
    pair.b.ike.set_path(pair.b.sa.ike_id, Path(B_ADDRESS, elsewhere.local), pair.now)
    pair.sent.clear()
    pair.tick(pair.b)
    (again,) = pair.pending
    assert again.path.remote == elsewhere.local


def test_a_mistake_with_one_sa_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = established(make_pair(liveness=5.0))
    sas = list(pair.b.ike._by_spi.values())
    pair.b.ike.connect(pair.b.peer, Path(B_ADDRESS, A_ADDRESS), pair.now)
    due = pair.now + 50
    for sa in [*sas, *pair.b.ike._by_spi.values()]:
        pair.b.ike._schedule.set(sa, pair.now)
    handle, failed = IkeSa.handle_timer, []

    def fail_once(self: IkeSa, now: float) -> None:
        if not failed:
            failed.append(self)
            raise RuntimeError("a mistake")
        handle(self, now)

    monkeypatch.setattr(IkeSa, "handle_timer", fail_once)
    with pytest.raises(RuntimeError):
        pair.b.ike.handle_timer(due)
    assert len(pair.b.ike._schedule) == 2
