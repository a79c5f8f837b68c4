"""THREATS 11: proposals that lack, double, invent or overflow: the right notify, and no more."""

from __future__ import annotations

import struct

import pytest

from agent.ike.rules import error_of
from agent.wire.codes import NotifyType
from agent.wire.message import decode_message, encode_message
from agent.wire.payloads import SaPayload
from tests.support.attacker import FROM_A, answers_of, first_request, outputs_of
from tests.support.damage import Raw, chain, raw
from tests.support.exchanges import REQUESTS, payloads_of, sealed
from tests.support.pair import make_pair

ENCR, PRF, INTEG, GROUP, ESN = 1, 2, 3, 4, 5
GCM, SHA256, X25519 = 20, 5, 31
BITS = struct.pack("!HH", 0x800E, 128)

Transform = tuple[int, int, bytes]
WHOLE: list[Transform] = [(ENCR, GCM, BITS), (PRF, SHA256, b""), (GROUP, X25519, b"")]


def proposal(
    *transforms: Transform, number: int = 1, more: bool = False, protocol: int = 1, spi: bytes = b""
) -> bytes:
    octets = b""
    for left, (kind, id_, attributes) in zip(
        range(len(transforms) - 1, -1, -1), transforms, strict=True
    ):
        head = struct.pack("!BxHBxH", 3 if left else 0, 8 + len(attributes), kind, id_)
        octets += head + attributes
    length = 8 + len(spi) + len(octets)
    count = len(transforms)
    head = struct.pack("!BxHBBBB", 2 if more else 0, length, number, protocol, len(spi), count)
    return head + spi + octets


NONE = NotifyType.NO_PROPOSAL_CHOSEN
CASES: dict[str, tuple[bytes, int | None]] = {
    # name: (SA payload, the notify; 0 accepted; None silence)
    "as it should be": (proposal(*WHOLE), 0),
    "no encryption": (proposal(*WHOLE[1:]), NONE),
    "no PRF": (proposal(WHOLE[0], WHOLE[2]), NONE),
    "no key exchange": (proposal(*WHOLE[:2]), NONE),
    "nothing": (proposal(), NONE),
    "integrity beside an AEAD": (proposal(*WHOLE, (INTEG, 12, b"")), NONE),
    "integrity NONE beside an AEAD": (proposal(*WHOLE, (INTEG, 0, b"")), 0),
    "ESN in IKE": (proposal(*WHOLE, (ESN, 0, b"")), NONE),
    "a type that nobody knows": (proposal(*WHOLE, (199, 1, b"")), NONE),
    "each twice": (proposal(*WHOLE, *WHOLE), 0),
    "no key length": (proposal((ENCR, GCM, b""), *WHOLE[1:]), NONE),
    "another key length": (proposal((ENCR, GCM, b"\x80\x0e\0\x81"), *WHOLE[1:]), NONE),
    "a key length twice": (proposal((ENCR, GCM, BITS + BITS), *WHOLE[1:]), NONE),
    "an unknown attribute": (proposal((ENCR, GCM, BITS + b"\x80\x63\0\1"), *WHOLE[1:]), NONE),
    "an unknown attribute beside a good one": (
        proposal((ENCR, GCM, BITS + b"\x80\x63\0\1"), *WHOLE),
        0,
    ),
    "a key length for the PRF": (proposal(WHOLE[0], (PRF, SHA256, BITS), WHOLE[2]), NONE),
    "an attribute past the end": (proposal((ENCR, GCM, b"\0\x0e\xff\xff"), *WHOLE[1:]), None),
    "nine attributes": (proposal((ENCR, GCM, b"\x80\x63\0\1" * 9), *WHOLE[1:]), None),
    "an SPI in the first exchange": (proposal(*WHOLE, spi=b"8 octets"), None),
    "ESP in the first exchange": (proposal(*WHOLE, protocol=3), NONE),
    "protocol 0": (proposal(*WHOLE, protocol=0), NONE),
    "protocol 255": (proposal(*WHOLE, protocol=255), NONE),
    "255 transforms": (proposal(*[(ENCR, 60000 + n % 9, b"") for n in range(252)], *WHOLE), 0),
    "sixty proposals, the last one good": (
        b"".join(proposal((ENCR, 60000, b""), number=n, more=True) for n in range(1, 60))
        + proposal(*WHOLE, number=60),
        0,
    ),
    "1,000 proposals": (
        b"".join(proposal((ENCR, 60000, b""), number=n % 256, more=True) for n in range(1, 1000))
        + proposal(*WHOLE, number=232),
        None,
    ),
    "255 × 255": (
        b"".join(
            proposal(*[(ENCR, 60000, b"")] * 255, number=n, more=n < 255) for n in range(1, 256)
        )[:60000],
        None,
    ),
}
# Groups of private use, what this program uses inside, reserved and forbidden ones.
for group in (0, 1, 2, 5, 22, 24, 35, 1023, 1024, 1027, 1028, 1031, 1040, 32768, 65535):
    CASES[f"group {group}"] = (proposal(*WHOLE[:2], (GROUP, group, b"")), NONE)


def _first(body: bytes) -> bytes:
    message = decode_message(first_request())
    parts = [Raw(33, body), *raw(message.payloads[1:])]
    first, octets = chain(parts)
    data = bytearray(encode_message(message.header, ()) + octets)
    data[16] = first
    data[24:28] = len(data).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("name", CASES)
def test_in_the_first_request(name: str) -> None:
    body, notify = CASES[name]
    pair = make_pair()
    pair.b.ike.receive(FROM_A, _first(body), pair.now)
    sent = answers_of(pair.b)
    assert len(sent) == (notify is not None)
    for answer in sent:
        message = decode_message(answer)
        error = error_of(message)
        assert (error.type if error else 0) == notify
        if error is None:  # one proposal, one transform of each type, and its number
            (chosen,) = message.first(SaPayload).proposals
            assert len({t.type for t in chosen.transforms}) == len(chosen.transforms)
            assert {(int(t.type), int(t.id)) for t in chosen.transforms} - {(INTEG, 0)} == {
                (kind, id_) for kind, id_, _ in WHOLE
            }
        else:
            assert message.payloads == (error,)
            assert error.data == b""
    assert len(pair.b.ike._by_spi) == (notify == 0)


IN_CHILD = {
    "no encryption": (proposal((ESN, 0, b""), protocol=3, spi=b"spi!"), NONE),
    "no ESN": (proposal((ENCR, GCM, BITS), protocol=3, spi=b"spi!"), NONE),
    "a group nobody asked for": (
        proposal((ENCR, GCM, BITS), (GROUP, 1040, b""), (ESN, 0, b""), protocol=3, spi=b"spi!"),
        NONE,
    ),
    "AH": (proposal((INTEG, 12, b""), (ESN, 0, b""), protocol=2, spi=b"spi!"), NONE),
    "no SPI": (proposal((ENCR, GCM, BITS), (ESN, 0, b""), protocol=3), NotifyType.INVALID_SYNTAX),
    "an SPI of eight octets": (
        proposal((ENCR, GCM, BITS), (ESN, 0, b""), protocol=3, spi=b"spi!spi!"),
        NotifyType.INVALID_SYNTAX,
    ),
}


@pytest.mark.parametrize("name", IN_CHILD)
def test_in_create_child_sa(name: str) -> None:
    """One protected notify, and the Child SAs are those that were there."""
    body, notify = IN_CHILD[name]
    (scene,) = [s for s in REQUESTS if s.name == "CREATE_CHILD_SA new"]
    pair, true = scene.start()
    message, cipher = payloads_of(pair, true)
    parts = [p._replace(body=body) if p.type == 33 else p for p in raw(message.payloads)]
    before = len(pair.b.installed)
    pair.b.ike.receive(true.arriving, sealed(message, cipher, *chain(parts)), pair.now)
    pair.drain()
    (answer,) = pair.pending
    payloads = pair.message(pair.b, answer.data).payloads
    assert [p.type for p in payloads] == [notify]
    assert len(pair.b.installed) == (0 if notify == NotifyType.INVALID_SYNTAX else before)
    assert not outputs_of(pair.b)
