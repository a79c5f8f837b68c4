"""Identities: texts both ways, comparison, and hostile text made safe (THREATS 3)."""

from __future__ import annotations

import pytest

from agent.wire.codes import IdType
from agent.wire.identity import Identification
from agent.wire.text import MAX_TEXT, printable, printable_hex


@pytest.mark.parametrize(
    ("text", "id_type", "data"),
    [
        ("gateway.example.org", IdType.ID_FQDN, b"gateway.example.org"),
        ("alice@example.org", IdType.ID_RFC822_ADDR, b"alice@example.org"),
        ("192.0.2.1", IdType.ID_IPV4_ADDR, bytes([192, 0, 2, 1])),
        ("2001:db8::1", IdType.ID_IPV6_ADDR, bytes.fromhex("20010db8" + "00" * 11 + "01")),
        ("keyid:00ff10", IdType.ID_KEY_ID, b"\x00\xff\x10"),
        ("keyid:" + "ab" * 32, IdType.ID_KEY_ID, b"\xab" * 32),
        ("just-a-name", IdType.ID_FQDN, b"just-a-name"),
    ],
)
def test_texts_both_ways(text, id_type, data):
    identity = Identification.parse(text)
    assert identity == Identification(id_type, data)
    assert identity.text == str(identity) == text


def test_other_spellings():
    assert Identification.parse("@name") == Identification(IdType.ID_FQDN, b"name")
    assert Identification.parse(" name ") == Identification(IdType.ID_FQDN, b"name")
    assert Identification.parse("keyid:#0AFF") == Identification.key_id(b"\x0a\xff")
    assert Identification.parse("keyid:0x0aff") == Identification.key_id(b"\x0a\xff")


@pytest.mark.parametrize(
    "text",
    [
        *("", "  ", "keyid:", "keyid:xyz", "keyid:abc", "keyid:" + "00" * 400, "a" * 400),
        *("a\nb", "caf\u00e9", "C=CH, X=strongSwan, CN=moon", "\x1b[31m"),
    ],
)
def test_what_is_no_identity(text):
    with pytest.raises(ValueError, match=r"no identity|no key ID|distinguished name") as caught:
        Identification.parse(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_matching_ignores_case_of_names_only():
    def name(text: str) -> Identification:
        return Identification.parse(text)

    assert name("Gateway.Example").matches(name("gateway.EXAMPLE"))
    assert name("Gateway.Example").key == name("gateway.EXAMPLE").key
    assert name("Alice@Example").matches(name("alice@example"))
    assert not name("gateway.example").matches(name("other.example"))
    assert not Identification.key_id(b"A").matches(Identification.key_id(b"a"))
    # The same octets under another type are somebody else.
    assert not Identification(IdType.ID_FQDN, b"a@b").matches(name("a@b"))
    # Only ASCII has a case here: these octets are no letters of anything.
    assert not Identification(2, b"\xc4").matches(Identification(2, b"\xe4"))


HOSTILE = [
    b"\n2026-01-01 root logged in",
    b"\x1b[2J\x1b]0;owned\x07",
    b"a\x00b",
    b"$(reboot)`reboot`",
    b"\\n",
    "\u202egro.elpmaxe".encode(),
    b"\xff\xfe\x80",
    b"A" * 65536,
    b"\x00" * 65536,
]


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("id_type", [*range(14), 200])
def test_hostile_identities_print_as_one_short_ascii_line(data, id_type):
    identity = Identification(id_type, data)
    for text in (identity.text, str(identity), f"{identity}"):
        assert text.isascii()
        assert text.isprintable()
        assert len(text) <= MAX_TEXT
    assert repr(identity).isprintable()
    assert len(repr(identity)) <= MAX_TEXT + 20


def test_addresses_of_a_wrong_length_still_have_a_text():
    assert Identification(IdType.ID_IPV4_ADDR, b"\x01").text == "id1:01"
    assert Identification(IdType.ID_IPV6_ADDR, b"").text == "id5:"


def test_printable():
    assert printable(b"plain text $(x)") == "plain text $(x)"
    assert printable(b"a\nb\\c") == "a\\x0ab\\x5cc"
    assert printable("caf\u00e9 \udc80") == "caf\\xc3\\xa9 \\xed\\xb2\\x80"
    assert printable(b"x" * 20, 10) == "xxxxxxx..."
    assert printable(b"x" * 10, 10) == "x" * 10
    assert printable_hex(b"\x01\xff") == "01ff"
    assert printable_hex(bytes(100), 10) == "0000000..."
    assert printable_hex(bytes(5), 10) == "0" * 10
