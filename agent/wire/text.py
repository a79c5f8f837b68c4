"""Octets of a peer made safe to print and to log.

Only printable ASCII passes; the rest, and the backslash that escapes it, becomes `\\xNN`. So no
newline can forge a log line, no escape sequence reaches a terminal and no right-to-left mark
turns a name around. The result is one line and never longer than asked for.
"""

from __future__ import annotations

# Longest text of a peer that enters a log line or a status: a key ID of 32 octets in hex with
# its prefix (70) fits, and nobody reads more than that of a name.
MAX_TEXT = 128

_ELLIPSIS = "..."
_ESCAPED = [
    chr(octet) if 0x20 <= octet < 0x7F and octet != 0x5C else f"\\x{octet:02x}"
    for octet in range(256)
]


def printable(data: bytes | str, limit: int = MAX_TEXT) -> str:
    """`data` in at most `limit` characters (3 or more) of printable ASCII. Cannot fail."""
    # An escaped octet is one character at least: what lies beyond the limit cannot show.
    head = data[: limit + 1]
    octets = head.encode("utf-8", "surrogatepass") if isinstance(head, str) else bytes(head)
    text = "".join([_ESCAPED[octet] for octet in octets])
    return text if len(text) <= limit else text[: limit - len(_ELLIPSIS)] + _ELLIPSIS


def printable_hex(data: bytes, limit: int = MAX_TEXT) -> str:
    """`data` as hexadecimal digits in at most `limit` characters. Cannot fail."""
    text = bytes(data[: limit // 2 + 1]).hex()
    return text if len(text) <= limit else text[: limit - len(_ELLIPSIS)] + _ELLIPSIS
