"""THREATS 6: the same from neighbours that do not exist: no answer piles up for them."""

from __future__ import annotations

import pytest

from agent.datagram import Address, Path
from agent.ike.cookies import FIRST_ANSWERS_PER_ADDRESS
from agent.ike.settings import IkeSettings
from agent.io.udp import BUFFER
from agent.wire.message import decode_message, encode_message
from agent.wire.payloads import KePayload, SaPayload, UnknownPayload
from tests.support.attacker import FROM_A, answers_of, first_request, flood
from tests.support.pair import (
    B_ADDRESS,
    ike_proposals,
    make_pair,
)


def test_an_address_gets_few_cookies_a_second() -> None:
    """THREATS 6: answers to neighbours that do not exist must not fill the socket's buffer."""
    pair = make_pair()
    flood(pair, 2000)

    def cookies(host: str, count: int) -> int:
        for number in range(count):
            path = Path(B_ADDRESS, Address.parse(host, 2000 + number))
            pair.b.ike.receive(path, first_request(b"\xfe" + number.to_bytes(7, "big")), pair.now)
        return len(answers_of(pair.b))

    pair.now += 1.0
    assert cookies("203.0.113.77", 100) == FIRST_ANSWERS_PER_ADDRESS
    assert cookies("203.0.113.78", 1) == 1
    pair.now += 1.0
    assert cookies("203.0.113.77", 1) == 1


def _changed(*payloads: object) -> bytes:
    message = decode_message(first_request())
    kept = [p for p in message.payloads if type(p) not in {type(new) for new in payloads}]
    return encode_message(message.header, [*kept, *payloads])


STRANGE = ike_proposals("aes256gcm16-prfsha384-ecp384")
LEAVING_NOTHING = {
    "NO_PROPOSAL_CHOSEN": _changed(SaPayload(STRANGE)),
    "INVALID_KE_PAYLOAD": _changed(KePayload(19, bytes(64))),
    "UNSUPPORTED_CRITICAL_PAYLOAD": _changed(UnknownPayload(200, True, bytes(40))),
}


@pytest.mark.parametrize("name", LEAVING_NOTHING)
def test_an_address_gets_few_errors_a_second(name: str) -> None:
    pair = make_pair()
    request = LEAVING_NOTHING[name]
    for second in range(3):
        for number in range(1, 101):
            data = number.to_bytes(8, "big") + request[8:]
            pair.b.ike.receive(FROM_A, data, pair.now + second)
        answers = answers_of(pair.b)
        assert len(answers) == FIRST_ANSWERS_PER_ADDRESS
        assert all(name in pair.describe(pair.b, answer) for answer in answers)


def test_an_address_gets_the_same_answer_few_times_a_second() -> None:
    pair = make_pair()
    for second in range(3):
        for _ in range(100):
            pair.b.ike.receive(FROM_A, first_request(), pair.now + second)
        assert len(answers_of(pair.b)) == FIRST_ANSWERS_PER_ADDRESS + (second == 0)
    assert len(pair.b.ike.half_open) == 1


def test_a_network_of_them_fits_the_buffer_of_the_socket() -> None:
    """10,000 a second from a /24, whatever they ask, for the 3 s in which they are looked for.

    A small datagram occupies 2,304 octets of the buffer at most (sk_buff and its page fragment).
    """
    pair = make_pair()
    requests = [first_request(), *LEAVING_NOTHING.values()]
    sent = 0
    for number in range(30_000):
        host = bytes((192, 0, 2, number % 250))
        spi = (number + 1).to_bytes(8, "big")
        data = spi + requests[number % len(requests)][8:]
        pair.now += 1e-4
        pair.b.ike.receive(Path(B_ADDRESS, Address(host, 500)), data, pair.now)
        sent += len(answers_of(pair.b))
    assert sent * 2304 < 2 * BUFFER  # the kernel doubles what it is asked for
    assert len(pair.b.ike.half_open) <= IkeSettings().cookie_threshold_net
