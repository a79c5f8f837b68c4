"""Distinguished names (ID_DER_ASN1_DN): text ↔ DER, and when two of them are the same.

RFC 5280 §4.1.2.4 and §7.1. Texts are in the order of the encoding, as strongSwan and OpenSSL write
them: `C=CH, O=Example, CN=bob`; a backslash stands before a comma that is part of a value. Names
are compared without regard to the type of their strings, to upper and lower case (ASCII) and to
repeated blanks. Left out: several attributes in one RDN and unknown attribute types in texts, the
folding of letters beyond ASCII.
"""

from __future__ import annotations

import re

from agent.wire.der import (
    IA5_STRING,
    OBJECT_IDENTIFIER,
    PRINTABLE_STRING,
    SEQUENCE,
    SET,
    UTF8_STRING,
    Element,
    content_of,
    encode_element,
    encode_oid,
    read_elements,
)
from agent.wire.errors import WireError
from agent.wire.text import printable, printable_hex

_ATTRIBUTES = {
    "C": "2.5.4.6",
    "ST": "2.5.4.8",
    "L": "2.5.4.7",
    "STREET": "2.5.4.9",
    "O": "2.5.4.10",
    "OU": "2.5.4.11",
    "CN": "2.5.4.3",
    "serialNumber": "2.5.4.5",
    "emailAddress": "1.2.840.113549.1.9.1",
    "DC": "0.9.2342.19200300.100.1.25",
    "UID": "0.9.2342.19200300.100.1.1",
}
_OIDS = {name.lower(): encode_oid(oid) for name, oid in _ATTRIBUTES.items()}
_OIDS["e"] = _OIDS["emailaddress"]
_NAMES = {_OIDS[name.lower()]: name for name in _ATTRIBUTES}
_IA5 = frozenset({_OIDS["emailaddress"], _OIDS["dc"]})

_STRINGS = frozenset({UTF8_STRING, PRINTABLE_STRING, IA5_STRING})
_PRINTABLE = re.compile(r"[A-Za-z0-9 '()+,./:=?-]*")
_PART = re.compile(r"((?:[^\\,]|\\.)*)(?:,|$)")
_BEGIN = re.compile(r"\s*([A-Za-z]+)\s*=")
# Attributes of one name; a few levels of an organisation are usual, and each costs an object.
_MAX_ATTRIBUTES = 16


def looks_like_name(text: str) -> bool:
    """Whether `text` is meant as a distinguished name: the = is in no other kind of identity but

    mail addresses, and there hardly after one of our attribute types.
    """
    begin = _BEGIN.match(text)
    return ("=" in text and "@" not in text) or (begin is not None and begin[1].lower() in _OIDS)


def encode_name(text: str) -> bytes:
    """DER of a name as people write it. Raises ValueError with a sentence."""
    parts = _PART.findall(text)[:-1] if not text.endswith(",") else []
    if not 1 <= len(parts) <= _MAX_ATTRIBUTES:
        raise _wrong(text)
    return encode_element(SEQUENCE, *(_encode_attribute(text, part) for part in parts))


def _encode_attribute(text: str, part: str) -> bytes:
    kind, equals, value = part.partition("=")
    oid = _OIDS.get(kind.strip().lower())
    value = re.sub(r"\\(.)", r"\1", value.strip())
    if oid is None or not equals or not value:
        raise _wrong(text)
    if oid in _IA5:
        tag = IA5_STRING
    else:
        tag = PRINTABLE_STRING if _PRINTABLE.fullmatch(value) else UTF8_STRING
    pair = encode_element(SEQUENCE, oid, encode_element(tag, value.encode()))
    return encode_element(SET, pair)


def _wrong(text: str) -> ValueError:
    return ValueError(
        f"'{printable(text)}' is no distinguished name: write C=CH, O=Example, CN=bob, with "
        + ", ".join(_ATTRIBUTES)
    )


def name_text(data: bytes) -> str:
    """For people: printable ASCII on one line. Cannot fail, whatever the octets are."""
    try:
        pairs = [_text(oid, value) for rdn in _rdns(data) for oid, value in rdn]
    except WireError:
        return printable("dn:" + printable_hex(data, 112))
    return printable(", ".join(pairs))


def _text(oid: Element, value: Element) -> str:
    kind = _NAMES.get(oid.octets) or f"oid-{oid.content.hex()}"
    if value.tag not in _STRINGS:
        return f"{kind}=#{value.octets.hex()}"
    shown = value.content.decode("utf-8", "backslashreplace")
    return f"{kind}=" + shown.replace("\\", "\\\\").replace(",", "\\,")


def comparable(data: bytes) -> bytes:
    """The same octets for all names that are the same; `data` itself if it is no name."""
    try:
        rdns = _rdns(data)
    except WireError:
        return data
    return encode_element(
        SEQUENCE,
        *(
            encode_element(
                SET, *sorted(encode_element(SEQUENCE, o.octets, _folded(v)) for o, v in rdn)
            )
            for rdn in rdns
        ),
    )


def _folded(value: Element) -> bytes:
    if value.tag not in _STRINGS:
        return value.octets
    words = value.content.lower().split(b" ")
    return encode_element(UTF8_STRING, b" ".join(word for word in words if word))


def _rdns(data: bytes) -> list[list[tuple[Element, Element]]]:
    """Each RDN with its attribute types and values. Raises WireError."""
    rdns = []
    count = 0
    for rdn in read_elements(content_of(data, SEQUENCE)):
        pairs = []
        for pair in read_elements(content_of(rdn.octets, SET)):
            parts = read_elements(content_of(pair.octets, SEQUENCE))
            if len(parts) != 2 or parts[0].tag != OBJECT_IDENTIFIER:
                raise WireError("distinguished_name")
            pairs.append((parts[0], parts[1]))
        count += len(pairs)
        if not pairs or count > _MAX_ATTRIBUTES:
            raise WireError("distinguished_name")
        rdns.append(pairs)
    return rdns
