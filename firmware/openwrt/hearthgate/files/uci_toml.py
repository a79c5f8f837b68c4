"""UCI -> hearthgate.toml: standard input is `uci export hearthgate`, the argument the file.

Sections become tables: `hearthgate` the top of the file, `mediator`, `device` and `peer` one table
each, `point` a table inside the device that its option `device` names, `mediate` and
`mediated_peer` likewise. UCI knows only text; the tables below say which options are numbers,
truth values or lists. An option that is not known is handed on, so that the daemon names it in
its own error. Exit code 78 (EX_CONFIG) and one line on standard error for what is wrong.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from board.errors import StorageError
from board.storage import write_file

FLAGS = frozenset(
    [
        *("rs485", "writable", "broadcast", "read_only", "virtual_ip", "start", "ppk_required"),
        "psk_both",
    ],
)
NUMBERS = frozenset(
    [
        *("mtu", "listen", "baud", "databits", "stopbits", "register", "slave", "scale", "offset"),
        *("min", "max", "response_timeout", "retries", "pause", "idle_timeout", "connections"),
        *("broker_port", "liveness_seconds", "ike_seconds", "child_seconds", "child_octets"),
        "child_packets",
        "auth_seconds",
    ]
)
NUMBER_LISTS = frozenset(["units"])
MIXED_LISTS = frozenset(["raw_write_registers"])  # numbers and ranges such as "100-119"
TEXT_LISTS = frozenset(
    [
        *("addresses", "proposals", "esp_proposals", "grants", "local_ts", "remote_ts", "assign"),
        *("may_call", "anycast", "ca_files", "local_certificate_files"),
    ]
)
TRUE, FALSE = ("1", "on", "true", "yes", "enabled"), ("0", "off", "false", "no", "disabled")
TABLES = {"mediator": "mediator", "device": "device", "peer": "peer", "mediate": "mediate"}
# Of the init script, not of the daemon.
INIT_OPTIONS = frozenset(["enabled"])

_WORD = re.compile(r"((?:'[^']*'|\\.|[^\s'\\])+)|(\n)|[^\S\n]+")
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?")


class UciError(Exception):
    """Something in /etc/config/hearthgate is wrong."""


@dataclass(slots=True)
class Section:
    """One `config TYPE 'NAME'` with its options; a list is a list, everything else text."""

    type: str
    name: str
    options: dict[str, str | list[str]] = field(default_factory=dict)

    @property
    def table_name(self) -> str:
        """The name of its table: UCI allows no dash in a section's name, `option name` does."""
        name = self.options.get("name", self.name)
        if not isinstance(name, str) or not name:
            raise UciError(f"a section '{self.type}' has no name: add option name")
        return name


def parse_export(text: str) -> list[Section]:
    """The sections of `uci export`. Raises UciError."""
    sections: list[Section] = []
    for words in _lines(text):
        match words:
            case ["package", _]:
                continue
            case ["config", kind, *names] if len(names) <= 1:
                sections.append(Section(kind, names[0] if names else ""))
            case ["option", key, value] if sections:
                sections[-1].options[key] = value
            case ["list", key, value] if sections:
                values = sections[-1].options.setdefault(key, [])
                if not isinstance(values, list):
                    raise UciError(f"'{key}' is an option and a list at once")
                values.append(value)
            case _:
                raise UciError(f"this line is not understood: {' '.join(words)[:80]}")
    return sections


def to_toml(sections: list[Section]) -> str:
    """The configuration file. Raises UciError."""
    lines = ["# Made from /etc/config/hearthgate at every start: change it there."]
    for section in sections:
        if section.type == "hearthgate":
            lines += _values(section, skip=INIT_OPTIONS)
    for section in sections:
        if section.type == "mediate":
            lines += ["", "[mediate]", *_values(section, skip=frozenset(["name"]))]
        elif section.type in TABLES:
            lines += ["", f"[{_path(section.type, section.table_name)}]"]
            lines += _values(section, skip=frozenset(["name"]))
        elif section.type == "mediated_peer":
            lines += ["", f"[{_path('mediate', 'peer', section.table_name)}]"]
            lines += _values(section, skip=frozenset(["name"]))
        elif section.type == "point":
            lines += ["", f"[{_point_path(section, sections)}]"]
            lines += _values(section, skip=frozenset(["name", "device"]))
        elif section.type != "hearthgate":
            raise UciError(f"there are no sections of type '{section.type}'")
    return "\n".join(lines) + "\n"


def _point_path(point: Section, sections: list[Section]) -> str:
    wanted = point.options.get("device", "")
    for section in sections:
        if section.type == "device" and wanted in (section.name, section.table_name):
            return _path("device", section.table_name, "points", point.table_name)
    raise UciError(f"point '{point.table_name}': there is no device '{wanted}'")


def _values(section: Section, skip: frozenset[str]) -> list[str]:
    lines = []
    for key, value in section.options.items():
        if key in skip:
            continue
        try:
            lines.append(f"{_text(key)} = {_value(section.type, key, value)}")
        except ValueError as error:
            where = f"section '{section.name or section.type}', option {key}"
            raise UciError(f"{where} '{value}': {error}") from None
    return lines


def _value(kind: str, key: str, value: str | list[str]) -> str:
    if key in NUMBER_LISTS | MIXED_LISTS | TEXT_LISTS:
        # An `option` with blanks is how people write a list by habit.
        items = value if isinstance(value, list) else value.split()
        return "[" + ", ".join(_item(key, item) for item in items) + "]"
    if isinstance(value, list):
        raise ValueError("only one value is allowed")
    # `port` is a number at the top of the file and the path of a serial port in a device.
    if key in NUMBERS or (key == "port" and kind == "hearthgate"):
        return _number(value)
    if key in FLAGS:
        return _flag(value)
    return _text(value)


def _item(key: str, item: str) -> str:
    if key in NUMBER_LISTS or (key in MIXED_LISTS and item.isdecimal()):
        return _number(item)
    return _text(item)


def _number(value: str) -> str:
    if not _NUMBER.fullmatch(value):
        raise ValueError("a number is wanted")
    sign, digits = ("-", value[1:]) if value[0] == "-" else ("", value.lstrip("+"))
    whole, point, rest = digits.partition(".")
    return f"{sign}{whole.lstrip('0') or '0'}{point}{rest}"


def _flag(value: str) -> str:
    if value in TRUE:
        return "true"
    if value in FALSE:
        return "false"
    raise ValueError("1 or 0 is wanted")


def _text(value: str) -> str:
    """A TOML basic string; also good as a key."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    plain = "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped)
    return f'"{plain}"'


def _path(*names: str) -> str:
    return ".".join(_text(name) for name in names)


def _lines(text: str) -> list[list[str]]:
    """Words of each line; quotes as uci writes them ('it'\\''s'), newlines inside them kept."""
    lines: list[list[str]] = [[]]
    position = 0
    while position < len(text):
        match = _WORD.match(text, position)
        if match is None:
            raise UciError("a quote is not closed")
        if match[2]:
            lines.append([])
        elif match[1]:
            lines[-1].append(_unquoted(match[1]))
        position = match.end()
    return [line for line in lines if line]


def _unquoted(word: str) -> str:
    parts = re.findall(r"'([^']*)'|\\(.)|([^\s'\\]+)", word)
    return "".join(quoted or escaped or bare for quoted, escaped, bare in parts)


def main(arguments: list[str]) -> int:
    """Read standard input, write the file named by the only argument; the exit code."""
    if len(arguments) != 1:
        print("usage: uci export hearthgate | uci_toml.py FILE", file=sys.stderr)
        return 64
    text = sys.stdin.buffer.read(1024 * 1024).decode("utf-8", "replace")
    try:
        write_file(Path(arguments[0]), to_toml(parse_export(text)).encode())
    except UciError as error:
        print(f"hearthgate: /etc/config/hearthgate: {error}", file=sys.stderr)
        return 78
    except StorageError as error:
        print(f"hearthgate: {error.sentence}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
