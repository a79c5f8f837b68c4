"""THREATS 8: octets out are at most 1.1 times octets in for whoever has proven nothing."""

from __future__ import annotations

import pytest

from agent.datagram import Address, Dropped, Path, Received, Transmit
from agent.ike.exchange import MAX_ELSEWHERE
from agent.ike.settings import IkeSettings
from agent.wire.message import Header, decode_message, encode_message
from agent.wire.payloads import Encrypted, EncryptedFragment, NoncePayload, NotifyPayload
from tests.support import damage, feature_scenes
from tests.support.attacker import answers_of, first_request, outputs_of
from tests.support.exchanges import REQUESTS, Scene, payloads_of, sealed
from tests.support.feature_scenes import TICKET_KEY, resuming
from tests.support.pair import B_ADDRESS, make_pair
from tests.unit.engine.machines import Machine

LIMIT = 1.1
FRAGMENTING = 2 * 64  # headers, IV and ICV of two fragments more
SERVER = Path(Address.parse("203.0.113.10", 4500), Address.parse("198.18.0.1", 9999))


def _machine() -> Machine:
    """With all roles that answer strangers: mediator, and quick crash detection."""
    return Machine("m", "203.0.113.10", config='[mediate]\naddress = "203.0.113.10"')


def _out(machine: Machine, data: bytes, now: float, path: Path = SERVER) -> int:
    machine.engine.receive_datagrams([Received(path, data)], now)
    return sum(len(t.data) for t in machine.drain(now))


@pytest.mark.parametrize("port", [500, 4500])
def test_every_kind_of_first_request(port: int) -> None:
    """Good ones, damaged ones, those with the shortest nonce, and each once more."""
    machine = _machine()
    path = Path(Address(SERVER.local.ip, port), SERVER.remote)
    marker = b"" if port == 500 else bytes(4)
    message = decode_message(first_request())
    sa, ke, _ = message.payloads
    short = [sa, ke, NoncePayload(bytes(16))]
    chains = [*damage.chains(message.payloads), *damage.chains(short)]
    now, answered = 1000.0, 0
    for bad in chains:
        head = bytearray(encode_message(message.header, ()) + bad.octets)
        head[16] = bad.first
        head[24:28] = len(head).to_bytes(4, "big")
        for _ in range(2):
            now += 1.0
            out = _out(machine, marker + bytes(head), now, path)
            assert out <= LIMIT * (len(marker) + len(head)), bad.name
            answered += out > 0
    assert answered > 50


def test_every_kind_of_first_request_with_a_ticket() -> None:
    """Good ones, damaged ones, with the shortest nonce; a ticket that is good, and one that isn't.

    tests/unit/ike/test_bad_resume.py::test_requests_that_are_damaged has what is kept of them.
    """
    answered = set()
    for keys in ((TICKET_KEY,), ()):
        pair, true = resuming(0)()
        pair.b.ike._tickets.keys = keys
        message = decode_message(true.data)
        short = [NoncePayload(bytes(16)), *message.payloads[1:2]]
        for bad in (*damage.chains(message.payloads), *damage.chains(short)):
            pair.now += 60.0  # what was kept of the one before is over
            pair.b.ike.handle_timer(pair.now)
            outputs_of(pair.b)
            head = bytearray(encode_message(message.header, ()) + bad.octets)
            head[16] = bad.first
            head[24:28] = len(head).to_bytes(4, "big")
            pair.b.ike.receive(true.arriving, bytes(head), pair.now)
            sent = answers_of(pair.b)
            assert sum(map(len, sent)) <= LIMIT * len(head), bad.name
            answered |= {pair.describe(pair.b, answer) for answer in sent}
    assert answered == {
        "IKE_SESSION_RESUME! No",
        "IKE_SESSION_RESUME! N(TICKET_NACK)",
        "IKE_SESSION_RESUME! N(UNSUPPORTED_CRITICAL_PAYLOAD)",
    }


def test_cookies() -> None:
    pair = make_pair(settings=IkeSettings(cookie_threshold=0))
    pair.b.ike.receive(Path(B_ADDRESS, SERVER.remote), first_request(), pair.now)
    (cookie,) = answers_of(pair.b)
    assert len(cookie) <= LIMIT * len(first_request())


@pytest.mark.parametrize("first", [0, 33, 41, 46, 53])
@pytest.mark.parametrize("version", [0x20, 0x30])
def test_messages_for_sas_that_are_not_there(first: int, version: int) -> None:
    """Of any length from the shortest on; a token of RFC 6290 only where it fits."""
    now, answered = 1000.0, 0
    machine = _machine()
    for size in range(28, 200):
        now += 1.0
        header = b"i" * 8 + b"r" * 8 + bytes((first, version, 37, 8)) + bytes(4)
        data = bytes(4) + header + size.to_bytes(4, "big") + bytes(size - 28)
        out = _out(machine, data, now)
        assert out <= LIMIT * len(data)
        answered += out > 0
    assert answered


def test_esp_of_no_sa() -> None:
    """The answer has a marker in front that ESP has not."""
    machine = _machine()
    now, answered = 1000.0, 0
    for size in range(1, 200):
        now += 1.0
        out = _out(machine, b"\x99" * size, now)
        assert out <= LIMIT * size, size
        answered += out > 0
    assert answered


def test_checks_of_nobody() -> None:
    machine = _machine()
    header = Header(bytes(8), bytes(8), 37, True, False, 1)
    notifies = [NotifyPayload(40965, b"abcd"), NotifyPayload(40963, bytes(8))]
    data = bytes(4) + encode_message(header, [*notifies, NotifyPayload(40967, bytes(20))])
    assert _out(machine, data, 1000.0) == 0


@pytest.mark.parametrize("scene", [*REQUESTS, *feature_scenes.REQUESTS], ids=lambda s: s.name)
def test_a_caught_request_is_no_tool_against_others(scene: Scene) -> None:
    """Repeated in the name of a victim, a true request is answered there a few times and no more;

    the peer itself gets its answer as often as it asks.
    """
    pair, true = scene.start()
    receiver = pair.other(true.sender)
    pair.deliver(true)
    whole = sum(len(d.data) for d in pair.pending if d.sender is receiver)
    pair.pending.clear()
    victim = Path(true.arriving.local, Address.parse("198.18.0.66", 4500))
    for _ in range(100):
        receiver.ike.receive(victim, true.data, pair.now)
    outputs = list(iter(receiver.ike.poll_output, None))
    assert sum(isinstance(o, Dropped) for o in outputs) == 100 - MAX_ELSEWHERE
    # A long answer comes in fragments after a while (RFC 7383 §2.5.2), which weigh a little more.
    weight = sum(len(o.data) for o in outputs if isinstance(o, Transmit))
    assert MAX_ELSEWHERE * whole <= weight <= MAX_ELSEWHERE * (whole + FRAGMENTING)
    for _ in range(20):
        receiver.ike.receive(true.arriving, true.data, pair.now)
        answers = answers_of(receiver)
        assert whole <= sum(map(len, answers)) <= whole + FRAGMENTING
        for answer in map(decode_message, answers):
            assert answer.first(Encrypted) or answer.first(EncryptedFragment)


UNPROVEN = [
    *REQUESTS[:2],
    *(
        s
        for s in feature_scenes.REQUESTS
        if s.name.startswith("IKE_AUTH") and "certif" not in s.name
    ),
]


@pytest.mark.parametrize("scene", UNPROVEN, ids=lambda s: s.name)
def test_what_is_protected_and_not_proven(scene: Scene) -> None:
    """Whoever made the key exchange has keys and no name yet: the same limit, whatever it sends."""
    pair, true = scene.start()
    answered = 0
    for bad in damage.chains(payloads_of(pair, true)[0].payloads):
        pair, true = scene.start()
        message, cipher = payloads_of(pair, true)
        data = sealed(message, cipher, bad.first, bad.octets)
        pair.b.ike.receive(true.arriving, data, pair.now)
        proven = any(sa.has_proven_peer for sa in pair.b.ike._by_spi.values())
        out = sum(map(len, answers_of(pair.b)))
        assert proven or out <= LIMIT * len(data), bad.name
        answered += out > 0
    assert answered > 100
