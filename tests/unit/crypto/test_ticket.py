"""Tickets by value: sealed, opened, and refused for every octet that is not as it was."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from agent.crypto.algorithms import make_prf
from agent.crypto.keymat import resumed_skeyseed
from agent.crypto.ticket import (
    KEY_SECONDS,
    MAX_KEYS,
    SKEW_SECONDS,
    TICKET_SECONDS,
    InvalidTicket,
    TicketKey,
    TicketState,
    open_ticket,
    rotated,
    seal_ticket,
    tag_of,
)
from agent.wire.codes import AuthMethod, PrfId, ProtocolId
from agent.wire.payloads import Identification
from agent.wire.proposals import Proposal, parse_proposals
from tests.support.pair import seeded

NOW = 1_800_000_000
KEY = TicketKey(id=b"k" * 8, secret=b"s" * 32, since=NOW)
SUITE = parse_proposals(["aes128gcm16-prfsha256-x25519-ke1_mlkem768"], ProtocolId.IKE)[0]
STATE = TicketState(
    sk_d=bytes(range(32)),
    idi=Identification.key_id(b"i" * 32),
    idr=Identification.key_id(b"r" * 32),
    chosen=Proposal(ProtocolId.IKE, b"", SUITE.transforms, 1),
    method=AuthMethod.DIGITAL_SIGNATURE,
    credential=b"c" * 16,
    issued=NOW,
    expires=NOW + TICKET_SECONDS,
)


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


@pytest.mark.parametrize(
    ("prf_id", "name"),
    [
        (PrfId.PRF_HMAC_SHA2_256, "sha256"),
        (PrfId.PRF_HMAC_SHA2_384, "sha384"),
        (PrfId.PRF_HMAC_SHA2_512, "sha512"),
    ],
)
def test_skeyseed_of_a_resumed_sa(prf_id: PrfId, name: str) -> None:
    """RFC 5723 §5.1, from its text: 10 ASCII characters and no NULL in front of the nonces."""
    sk_d, ni, nr = b"d" * 32, b"i" * 32, b"r" * 24
    expected = hmac.new(sk_d, b"\x52\x65\x73\x75\x6d\x70\x74\x69\x6f\x6e" + ni + nr, name).digest()
    assert resumed_skeyseed(make_prf(prf_id), sk_d, ni, nr) == expected


def test_all_of_it_comes_back() -> None:
    ticket = seal_ticket(KEY, STATE, seeded("tickets"))
    assert open_ticket([KEY], ticket, NOW) == STATE
    assert len(ticket) < 320
    for secret in (STATE.sk_d, STATE.idi.data, STATE.idr.data, STATE.credential, KEY.secret):
        assert secret not in ticket
    assert STATE.sk_d.hex() not in repr(STATE)
    assert repr(STATE.sk_d) not in repr(STATE)
    assert repr(KEY.secret) not in repr(KEY)


def test_the_format_by_hand() -> None:
    """As the module says, with the standard library's HMAC and cryptography's AES-GCM."""
    ticket = seal_ticket(KEY, STATE, lambda n: b"\xaa" * n)
    head, salt, sealed = ticket[:12], ticket[12:44], ticket[44:]
    assert head == b"\x01\0\0\0" + b"k" * 8
    material, block = b"", b""
    for count in (1, 2):
        seed = b"hearthgate ticket key" + salt + bytes((count,))
        block = hmac_sha256(KEY.secret, block + seed)
        material += block
    content = AESGCM(material[:32]).decrypt(material[32:44], sealed, head + salt)
    assert salt == hmac_sha256(KEY.secret, b"hearthgate ticket salt" + b"\xaa" * 32 + content)
    assert content[:8] == NOW.to_bytes(8, "big")
    assert content[33:66] == b"\x20" + STATE.sk_d


def test_no_key_and_iv_come_twice() -> None:
    """THREATS 31: a machine whose random source starts over seals other content otherwise."""
    states = [replace(STATE, sk_d=number.to_bytes(32, "big")) for number in range(200)]
    tickets = [seal_ticket(KEY, state, lambda n: bytes(n)) for state in states]
    assert len({ticket[12:44] for ticket in tickets}) == len(tickets)
    # The very same content with the very same random octets is the very same ticket.
    assert seal_ticket(KEY, states[7], lambda n: bytes(n)) == tickets[7]
    # And with a sound source, the same content never looks the same.
    random = seeded("sound")
    assert len({seal_ticket(KEY, STATE, random)[12:44] for _ in range(200)}) == 200


def test_each_octet_counts() -> None:
    ticket = seal_ticket(KEY, STATE, seeded("tickets"))
    for at in range(len(ticket)):
        if at in (1, 2, 3):
            continue
        for bit in (1, 128):
            changed = ticket[:at] + bytes((ticket[at] ^ bit,)) + ticket[at + 1 :]
            with pytest.raises(InvalidTicket):
                open_ticket([KEY], changed, NOW)
    for at in (1, 2, 3):  # reserved, but authenticated
        changed = ticket[:at] + b"\x01" + ticket[at + 1 :]
        with pytest.raises(InvalidTicket):
            open_ticket([KEY], changed, NOW)


def test_cut_and_prolonged() -> None:
    ticket = seal_ticket(KEY, STATE, seeded("tickets"))
    for length in range(len(ticket)):
        with pytest.raises(InvalidTicket):
            open_ticket([KEY], ticket[:length], NOW)
    with pytest.raises(InvalidTicket):
        open_ticket([KEY], ticket + b"\0", NOW)


@given(st.binary(max_size=400))
def test_any_octets(octets: bytes) -> None:
    with pytest.raises(InvalidTicket):
        open_ticket([KEY], b"\x01\0\0\0" + KEY.id + octets, NOW)
    with pytest.raises(InvalidTicket):
        open_ticket([KEY], octets, NOW)


@pytest.mark.parametrize("length", [16, 20, 32, 48, 64])
def test_lengths_of_sk_d(length: int) -> None:
    state = replace(STATE, sk_d=b"d" * length)
    assert open_ticket([KEY], seal_ticket(KEY, state, seeded("x")), NOW) == state


@pytest.mark.parametrize(
    ("wall", "good"),
    [
        (NOW - SKEW_SECONDS - 1, False),
        (NOW - SKEW_SECONDS, True),
        (NOW + TICKET_SECONDS - 1, True),
        (NOW + TICKET_SECONDS, False),
        (NOW + 10 * 365 * 86400, False),
        (0, False),
    ],
)
def test_times(wall: int, good: bool) -> None:
    """THREATS 38: a clock that is years off refuses, and prolongs nothing."""
    ticket = seal_ticket(KEY, STATE, seeded("tickets"))
    if good:
        assert open_ticket([KEY], ticket, wall) == STATE
    else:
        with pytest.raises(InvalidTicket):
            open_ticket([KEY], ticket, wall)


def test_another_key_of_the_same_name() -> None:
    ticket = seal_ticket(KEY, STATE, seeded("tickets"))
    with pytest.raises(InvalidTicket):
        open_ticket([replace(KEY, secret=b"t" * 32)], ticket, NOW)
    with pytest.raises(InvalidTicket):
        open_ticket([], ticket, NOW)


def test_tags_differ() -> None:
    random = seeded("tags")
    assert len({tag_of(seal_ticket(KEY, STATE, random)) for _ in range(50)}) == 50
    assert len(tag_of(seal_ticket(KEY, STATE, random))) == 16
    assert tag_of(b"") == b""


def test_rotation_with_overlap() -> None:
    """Whatever was given is good for its lifetime, and no key is kept for longer than that."""
    random = seeded("ring")
    ring: tuple[TicketKey, ...] = ()
    given_at: dict[bytes, int] = {}
    for wall in range(NOW, NOW + 5 * KEY_SECONDS, 900):
        before, ring = ring, rotated(ring, wall, random)
        assert 1 <= len(ring) <= 2
        assert ring == rotated(ring, wall, random)
        if before and ring[0] != before[0]:
            assert wall - before[0].since >= KEY_SECONDS
        state = replace(STATE, issued=wall, expires=wall + TICKET_SECONDS)
        given_at[seal_ticket(ring[0], state, random)] = wall
        for ticket, at in list(given_at.items()):
            if wall < at + TICKET_SECONDS:
                open_ticket(ring, ticket, wall)
            else:
                del given_at[ticket]
    first = {key.id for key in rotated((), NOW, seeded("ring"))}
    assert first.isdisjoint({key.id for key in ring})


def test_rotation_after_the_clock_jumped() -> None:
    random = seeded("ring")
    ring = rotated((), NOW + 10 * 365 * 86400, random)
    back = rotated(ring, NOW, random)
    assert back[0].since == NOW
    assert ring[0] not in back
    for number in range(20):  # an hour back, again and again
        back = rotated(back, NOW - number * 3600, random)
    assert len(back) <= MAX_KEYS
