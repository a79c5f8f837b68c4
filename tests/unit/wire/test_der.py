"""DER elements, and names in it: both ways, strict, compared as RFC 5280 §7.1 says."""

from __future__ import annotations

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from agent.wire.codes import IdType
from agent.wire.der import encode_element, encode_oid, read_element, read_elements
from agent.wire.distinguished_name import comparable, encode_name, name_text
from agent.wire.errors import WireError
from agent.wire.identity import Identification
from agent.wire.text import MAX_TEXT


@pytest.mark.parametrize("length", [0, 1, 127, 128, 255, 256, 65535])
def test_lengths_both_ways(length):
    octets = encode_element(0x04, bytes(length))
    element, end = read_element(octets + b"more")
    assert (element.tag, element.content, element.octets) == (4, bytes(length), octets)
    assert end == len(octets)


@pytest.mark.parametrize(
    "octets",
    [
        *("", "04", "0401", "0480", "048100", "04817f" + "00" * 127, "04820080" + "00" * 128),
        *("0482", "048300010000", "0484ffffffff", "1f8100", "3f00", "04ff"),
    ],
)
def test_what_is_not_der(octets):
    """X.690 §10.1: the length in the fewest octets; no tags of several octets."""
    with pytest.raises(WireError):
        read_element(bytes.fromhex(octets))


def test_a_crowd_of_elements_is_refused():
    assert len(read_elements(b"\x05\0" * 64)) == 64
    with pytest.raises(WireError):
        read_elements(b"\x05\0" * 65)
    with pytest.raises(WireError):
        encode_element(4, bytes(65536))


def test_oids():
    """https://www.rfc-editor.org/rfc/rfc7427 appendix A.1.2."""
    assert encode_oid("1.2.840.113549.1.1.11").hex() == "06092a864886f70d01010b"
    assert encode_oid("2.5.4.3").hex() == "0603550403"


@pytest.mark.parametrize(
    "text",
    [
        "C=CH, O=strongSwan, CN=moon",
        "CN=bob",
        "DC=org, DC=example, OU=plant 7, CN=boiler",
        "O=Müller & Co, CN=gateway",
        "O=Example\\, Ltd., CN=a=b",
        "CN=bob, emailAddress=bob@example.org",
    ],
)
def test_names_as_cryptography_writes_them(text):
    der = encode_name(text)
    name = x509.Name.from_rfc4514_string(
        ",".join(reversed([p.strip() for p in text.replace("\\,", "\0").split(",")]))
        .replace("\0", "\\,")
        .replace("emailAddress", "1.2.840.113549.1.9.1"),
    )
    assert comparable(name.public_bytes()) == comparable(der)
    identity = Identification.parse(text)
    assert identity == Identification(IdType.ID_DER_ASN1_DN, der)
    if text.isascii() and "\\" not in text:  # nothing was escaped
        assert identity.text == text


def test_the_same_name_in_other_strings():
    def name(tag: int, value: bytes) -> Identification:
        pair = encode_element(0x30, encode_oid("2.5.4.3"), encode_element(tag, value))
        der = encode_element(0x30, encode_element(0x31, pair))
        return Identification(IdType.ID_DER_ASN1_DN, der)

    bob = Identification.parse("CN=Bob Baker")
    for tag, value in ((0x0C, b"bob baker"), (0x13, b" Bob   Baker "), (0x16, b"BOB BAKER")):
        assert name(tag, value).matches(bob)
        assert name(tag, value).key == bob.key
    # A bit string, another name, another order.
    for tag, value in ((0x03, b"Bob Baker"), (0x0C, b"BobBaker"), (0x0C, b"Bob Baker\0")):
        assert not name(tag, value).matches(bob)
    both = Identification.parse("O=x, CN=bob")
    assert not both.matches(Identification.parse("CN=bob, O=x"))
    assert not both.matches(Identification.parse("CN=bob"))
    assert not bob.matches(Identification(IdType.ID_FQDN, bob.data))


@pytest.mark.parametrize("text", ["CN=", "XX=1", "CN=a,", "CN=a,,O=b", "CN=a, b", "x=y", "=", "CN"])
def test_what_is_no_name(text):
    with pytest.raises(ValueError, match="no distinguished name: write C=CH"):
        encode_name(text)


@given(st.binary(max_size=80) | st.sampled_from([encode_name("C=CH, CN=x")]), st.data())
def test_no_octets_of_a_name_can_harm(data, draw):
    """Whatever comes: a text of one printable line and a key, and no exception."""
    at = draw.draw(st.integers(0, max(0, len(data) - 1)))
    octet = draw.draw(st.integers(0, 255))
    data = data[:at] + bytes((octet,)) + data[at + 1 :]
    identity = Identification(IdType.ID_DER_ASN1_DN, data)
    assert identity.text.isascii()
    assert identity.text.isprintable()
    assert len(identity.text) <= MAX_TEXT
    assert identity.matches(Identification(IdType.ID_DER_ASN1_DN, data))
    assert name_text(data) == identity.text
    assert comparable(comparable(data)) == comparable(data)
