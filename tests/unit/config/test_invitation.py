"""The invitation line and what is handed over with it."""

from __future__ import annotations

import base64
import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import InputError
from agent.invitation import (
    MAX_LINE,
    PREFIX,
    Enrolment,
    Invitation,
    decode_enrolment,
    decode_invitation,
    encode_enrolment,
    encode_invitation,
)
from tests.support.pair import key_of

INVITATION = Invitation(
    mediator="med.example.org:4600",
    mediator_key=key_of("mediator").public,
    gateway_mediation=key_of("gateway mediation").public,
    gateway_identity=key_of("gateway").public,
    name="cabin",
    invited="laptop",
    role="operator",
    expires=1_900_000_000,
    seed=bytes(range(16)),
)
ALPHABET = string.ascii_letters + string.digits + "-_"


def test_round_trip():
    line = encode_invitation(INVITATION)
    assert line.startswith(PREFIX)
    assert len(line) < 260
    assert decode_invitation(line) == INVITATION


names = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), max_size=60)


@given(
    mediator=names,
    name=names,
    invited=names,
    role=st.sampled_from(["reader", "operator", "technician", "owner"]),
    expires=st.integers(0, 2**32 - 1),
    seed=st.binary(min_size=16, max_size=16),
)
def test_round_trip_of_anything(mediator, name, invited, role, expires, seed):
    one = replace(
        INVITATION,
        mediator=mediator,
        name=name,
        invited=invited,
        role=role,
        expires=expires,
        seed=seed,
    )
    assert decode_invitation(encode_invitation(one)) == one


def test_a_mail_program_may_break_the_line():
    line = encode_invitation(INVITATION)
    broken = f"  {line[:76]}\r\n{line[76:150]}\n {line[150:]}\n"
    assert decode_invitation(broken) == INVITATION


def test_every_character_changed_is_one_error():
    line = encode_invitation(INVITATION)
    for at in range(len(line)):
        for other in (ALPHABET[(ALPHABET.find(line[at]) + 1) % 64], "*", "é", "="):
            with pytest.raises(InputError):
                decode_invitation(line[:at] + other + line[at + 1 :])


def test_every_value_of_the_last_character():
    line = encode_invitation(INVITATION)
    accepted = [c for c in ALPHABET if _is_accepted(line[:-1] + c)]
    assert accepted == [line[-1]]


def _is_accepted(line: str) -> bool:
    try:
        decode_invitation(line)
    except InputError:
        return False
    return True


def test_truncated_anywhere():
    line = encode_invitation(INVITATION)
    for length in range(len(line)):
        with pytest.raises(InputError) as caught:
            decode_invitation(line[:length])
        assert "damaged" in caught.value.sentence or "no invitation" in caught.value.sentence


@pytest.mark.parametrize("more", ["A", "AAAA", "=", "hg1:", "\x00"])
def test_lengthened(more):
    with pytest.raises(InputError):
        decode_invitation(encode_invitation(INVITATION) + more)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "should begin with hg1:"),
        ("hg2:abcd", "should begin with hg1:"),
        ("hg1:" + "A" * MAX_LINE, "too long"),
        ("hg1:", "damaged"),
    ],
)
def test_what_is_no_invitation(line, said):
    with pytest.raises(InputError, match=said):
        decode_invitation(line)


@pytest.mark.parametrize("at", [0, -1])
def test_checksummed_nonsense(at):
    """The checksum is no protection: whoever makes a line can make one that fits."""
    from agent.invitation import _checksum

    body = bytearray(base64.urlsafe_b64decode(encode_invitation(INVITATION)[4:] + "==")[:-4])
    body[at] = 0xFF  # a role that does not exist; no UTF-8
    whole = bytes(body) + _checksum(bytes(body))
    with pytest.raises(InputError, match="damaged"):
        decode_invitation(PREFIX + base64.urlsafe_b64encode(whole).decode().rstrip("="))


def test_control_characters_are_refused():
    with pytest.raises(InputError, match="damaged"):
        decode_invitation(encode_invitation(replace(INVITATION, name="a\x1b[2J")))


def test_no_secret_in_a_repr():
    assert repr(INVITATION.seed) not in repr(INVITATION)
    assert "seed" not in repr(INVITATION)


def test_one_time_keys_hang_on_the_seed_and_differ():
    other = replace(INVITATION, seed=bytes(16))
    keys = {key.public for i in (INVITATION, other) for key in (i.identity, i.mediation)}
    assert len(keys) == 4
    assert INVITATION.identity.public == replace(INVITATION, name="x").identity.public


# --- enrolment ---------------------------------------------------------------------------------

ONE_TIME = INVITATION.identity.public
GATEWAY = INVITATION.gateway_identity


def enrolment() -> bytes:
    return encode_enrolment(key_of("laptop"), key_of("laptop mediation"), ONE_TIME, GATEWAY)


def test_enrolment_round_trip():
    assert decode_enrolment(enrolment(), ONE_TIME, GATEWAY) == Enrolment(
        identity=key_of("laptop").public, mediation=key_of("laptop mediation").public
    )


def test_each_octet_of_an_enrolment_counts():
    data = enrolment()
    for at in range(len(data)):
        changed = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        assert decode_enrolment(changed, ONE_TIME, GATEWAY) is None, at


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: b""])
def test_wrong_lengths_of_an_enrolment(change):
    assert decode_enrolment(change(enrolment()), ONE_TIME, GATEWAY) is None


def test_an_enrolment_holds_for_one_invitation_and_one_gateway():
    assert decode_enrolment(enrolment(), key_of("another").public, GATEWAY) is None
    assert decode_enrolment(enrolment(), ONE_TIME, key_of("another").public) is None


def test_keys_that_are_not_ones_own_cannot_be_entered():
    """The proof of the identity is made with the identity's own key, of the mediation likewise."""
    honest = bytearray(enrolment())
    thief = encode_enrolment(key_of("thief"), key_of("thief 2"), ONE_TIME, GATEWAY)
    honest[65:129] = thief[65:129]
    assert decode_enrolment(bytes(honest), ONE_TIME, GATEWAY) is None


def test_keys_that_are_no_points_of_the_curve():
    data = enrolment()
    assert decode_enrolment(data[:1] + b"\xff" * 32 + data[33:], ONE_TIME, GATEWAY) is None
