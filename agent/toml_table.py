"""Reading TOML tables so that every mistake is told with file, key, value and what is allowed.

Pure: text comes in, values go out. Nothing is ignored silently: a key that nobody asked for is an
error with the nearest known name beside it.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any, TypeVar

from agent.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
_SHOWN = 60  # characters of a wrong value that are repeated in an error
_SECRET = ("psk", "ppk", "password")  # keys whose values never are


def parse_toml(text: str, source: str) -> Table:
    """The whole document as a `Table`. Raises ConfigError with line and column if it is no TOML."""
    try:
        return Table(source, "", tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: this is not valid TOML: {error}.") from None
    except RecursionError:
        raise ConfigError(f"{source}: tables or lists are nested too deeply.") from None
    except ValueError:  # of int(): Python reads no number of more than 4300 digits
        raise ConfigError(f"{source}: a number in this file is too long.") from None


def _toml(value: object, depth: int = 2) -> str:
    """As it stands in the file; without tables, which may hold secrets, and lists of lists."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value}"'
        case list() if depth:
            return "[" + ", ".join(_toml(item, depth - 1) for item in value) + "]"
        case list():
            return "[…]"
        case dict():
            return "{…}"
    try:
        return str(value)
    except ValueError:  # 0xfff… may have more digits than Python prints
        return "a number"


def _shown(value: object) -> str:
    text = _toml(value)
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


class Table:
    """One TOML table; `done()` complains about keys that were never asked for."""

    def __init__(self, source: str, name: str, values: dict[str, Any]) -> None:
        self.source = source
        self.name = name
        self._values = values
        self._known: list[str] = []

    def wrong(self, key: str, allowed: str) -> ConfigError:
        """The error for the value of `key`."""
        if key in _SECRET:
            return self.missing(key, allowed, what="is wrong")
        place = f"[{self.name}] " if self.name else ""
        return ConfigError(
            f"{self.source}: {place}{key} = {_shown(self._values.get(key))}: {allowed}"
        )

    def missing(self, key: str, why: str, what: str = "is missing") -> ConfigError:
        """The error for a key that has to be there, or for another trouble without its value."""
        place = f"[{self.name}] " if self.name else ""
        return ConfigError(f"{self.source}: {place}{key} {what}: {why}")

    def has(self, key: str) -> bool:
        """Whether `key` is given; it counts as known."""
        self._known.append(key)
        return key in self._values

    def _take(self, key: str) -> Any:  # noqa: ANN401  # TOML values are of any type
        self._known.append(key)
        return self._values.get(key)

    def text(self, key: str, default: str = "") -> str:
        """A string."""
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(key, 'a text in quotes is wanted, like "abc".')
        return value

    def required_text(self, key: str, why: str) -> str:
        """A string that must be there and not be empty; `why` says what it is."""
        value = self.text(key)
        if not value:
            raise self.missing(key, why)
        return value

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false is wanted, without quotes.")
        return value

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number within bounds."""
        value = self._take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(key, f"a whole number from {low} to {high} is wanted.")
        return value

    def choice(self, key: str, default: str, allowed: Sequence[str]) -> str:
        """One of a few words."""
        value = self._take(key)
        if value is None:
            return default
        if value not in allowed:
            raise self.wrong(key, "allowed are " + ", ".join(allowed) + ".")
        return str(value)

    def texts(self, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """A list of strings; a single string counts as a list of one."""
        value = self._take(key)
        if value is None:
            return default
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(key, 'a list of texts is wanted, like ["abc", "def"].')
        return tuple(value)

    def parsed(self, key: str, parse: Callable[[str], T], default: T) -> T:
        """A string that `parse` understands; its ValueError is repeated in ours."""
        value = self.text(key)
        if not self.has(key):
            return default
        try:
            return parse(value)
        except ValueError as error:
            raise self.wrong(key, str(error)) from None

    def raw(self) -> dict[str, Any]:
        """Everything, for a reader of its own kind; all keys count as known."""
        self._known.extend(self._values)
        return self._values

    def table(self, key: str) -> Table:
        """A table inside this one, empty if it is not given."""
        value = self._take(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.wrong(key, f"[{self._path(key)}] is a table of its own, not a value.")
        return Table(self.source, self._path(key), value)

    def tables(self, key: str) -> list[tuple[str, Table]]:
        """The named tables `[key.NAME]`, in the order of the file."""
        outer = self.table(key)
        inner = []
        for name in outer.raw():
            if not isinstance(outer._values[name], dict):
                raise outer.wrong(name, f"give it a name: [{key}.NAME], then the keys.")
            inner.append((name, outer.table(name)))
        return inner

    def done(self) -> None:
        """Raises ConfigError for the first key that nobody asked for."""
        for key in self._values:
            if key not in self._known:
                import difflib

                near = difflib.get_close_matches(key, self._known, 1)
                hint = (
                    f'did you mean "{near[0]}"?'
                    if near
                    else "known here are " + ", ".join(dict.fromkeys(self._known)) + "."
                )
                # Without its value: the key may be a misspelt `psk`.
                raise self.missing(_shown(key)[1:-1], hint, what="is an unknown key")

    def _path(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key
