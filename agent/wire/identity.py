"""Who somebody claims to be: the content of IDi, IDr and IDp (RFC 7296 §3.5).

Texts follow strongSwan where it has a spelling: `user@host` is ID_RFC822_ADDR, an address is
ID_IPV4_ADDR or ID_IPV6_ADDR, `keyid:` and hexadecimal digits ID_KEY_ID, `CN=…` and the like
ID_DER_ASN1_DN, all else ID_FQDN.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from agent.records import record
from agent.wire.codes import IdType
from agent.wire.distinguished_name import comparable, encode_name, looks_like_name, name_text
from agent.wire.text import printable, printable_hex

if TYPE_CHECKING:
    from typing import Self

_KEY_ID_PREFIX = "keyid:"
# Names are at most this long: 255 octets of a domain, 64 of a mailbox and the @ (RFC 1035, 5321).
_MAX_NAME = 320
_IGNORE_CASE = frozenset({IdType.ID_FQDN, IdType.ID_RFC822_ADDR})


@record(frozen=True, slots=True, repr=False)
class Identification:
    """An identity: `id_type` (see `IdType`, others stay int) and its octets as on the wire."""

    id_type: int
    data: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """From what people write in a configuration. Raises ValueError with a sentence."""
        text = text.strip()
        if text.startswith(_KEY_ID_PREFIX):
            return cls(IdType.ID_KEY_ID, _parse_hex(text.removeprefix(_KEY_ID_PREFIX)))
        if len(text) <= _MAX_NAME and text.isprintable() and looks_like_name(text):
            return cls(IdType.ID_DER_ASN1_DN, encode_name(text))
        if not text or len(text) > _MAX_NAME or not text.isascii() or not text.isprintable():
            raise ValueError(
                f"'{printable(text)}' is no identity: a host name, user@host, an address, C=CH,"
                " O=Example, CN=bob, or keyid: and hexadecimal digits, at most"
                f" {_MAX_NAME} plain characters"
            )
        address = _parse_address(text)
        if address is not None:
            four = len(address) == 4
            return cls(IdType.ID_IPV4_ADDR if four else IdType.ID_IPV6_ADDR, address)
        if text.startswith("@"):  # strongSwan: an @ in front forces ID_FQDN
            return cls(IdType.ID_FQDN, text[1:].encode("ascii"))
        return cls(IdType.ID_RFC822_ADDR if "@" in text else IdType.ID_FQDN, text.encode("ascii"))

    @classmethod
    def key_id(cls, data: bytes) -> Self:
        """An ID_KEY_ID of these octets."""
        return cls(IdType.ID_KEY_ID, data)

    @property
    def text(self) -> str:
        """For people: printable ASCII, at most `text.MAX_TEXT` characters. Cannot fail.

        `parse` takes it back as long as nothing was escaped or cut.
        """
        match self.id_type:
            case IdType.ID_IPV4_ADDR if len(self.data) == 4:
                return str(ipaddress.IPv4Address(self.data))
            case IdType.ID_IPV6_ADDR if len(self.data) == 16:
                return str(ipaddress.IPv6Address(self.data))
            case IdType.ID_FQDN | IdType.ID_RFC822_ADDR:
                return printable(self.data)
            case IdType.ID_KEY_ID:
                return printable(_KEY_ID_PREFIX + printable_hex(self.data, 112))
            case IdType.ID_DER_ASN1_DN:
                return name_text(self.data)
            case _:
                return f"id{int(self.id_type)}:" + printable_hex(self.data, 112)

    @property
    def key(self) -> tuple[int, bytes]:
        """What two identities have in common if they match; for hash tables.

        Upper and lower case are the same in ID_FQDN and ID_RFC822_ADDR (ASCII only), and
        distinguished names are compared as RFC 5280 §7.1 says.
        """
        if self.id_type == IdType.ID_DER_ASN1_DN:
            return (int(self.id_type), comparable(self.data))
        if self.id_type in _IGNORE_CASE:
            return (int(self.id_type), self.data.lower())
        return (int(self.id_type), self.data)

    def matches(self, other: Identification) -> bool:
        """Whether both name the same: type and octets, host and mail names ignoring case."""
        return self.key == other.key

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<Identification {self.text}>"


def _parse_hex(text: str) -> bytes:
    digits = text.removeprefix("#").removeprefix("0x")
    try:
        data = bytes.fromhex(digits)
    except ValueError:
        data = b""
    if not data or len(data) > _MAX_NAME:
        raise ValueError(
            f"keyid:{printable(text)} is no key ID: an even number of hexadecimal digits, at most"
            f" {2 * _MAX_NAME}"
        )
    return data


def _parse_address(text: str) -> bytes | None:
    if "%" in text:  # a zone means nothing to the other side
        return None
    try:
        return ipaddress.ip_address(text).packed
    except ValueError:
        return None
