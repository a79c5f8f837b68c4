"""Texts that somebody else chose, made harmless for terminals, log lines and files.

What is not printable (control characters, escape sequences, line breaks, marks that turn the
direction of writing) becomes U+FFFD; signs of units and letters of any language stay, unlike in
`wire.text`, whose octets say nothing to people anyway.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, Final

MAX_TEXT: Final = 300  # characters: a sentence
_INSTEAD: Final = "\ufffd"


def plain_text(text: str, limit: int = MAX_TEXT) -> str:
    """`text` in one line of at most `limit` characters. Cannot fail."""
    cut = text[:limit]
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else _INSTEAD for c in cut)


def plain(value: Any) -> Any:  # noqa: ANN401  # any JSON value
    """`value` with all its texts, keys too, made plain.

    Raises RecursionError where it is deep, and ValueError for a number that JSON does not have.
    """
    match value:
        case float() if not isfinite(value):  # 1e999 is read as such
            raise ValueError(value)
        case str():
            return plain_text(value)
        case list():
            return [plain(item) for item in value]
        case dict():
            return {plain_text(key): plain(item) for key, item in value.items()}
    return value
