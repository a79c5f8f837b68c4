"""Print shell completion: `hearthgate completion bash > /etc/bash_completion.d/hearthgate`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from agent.cli import COMMANDS

if TYPE_CHECKING:
    import argparse

_PEER_COMMANDS = "connect disconnect get set grant revoke rekey"
_FILE_COMMANDS = "check-config export-identity import-identity"
_NAMES = """peers --json 2>/dev/null |
            sed -n 's/^ *"name": "\\(.*\\)",*$/\\1/p'"""

_BASH = """\
_hearthgate() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} first=1 words=
    local -a root=()
    if [ "${{COMP_WORDS[1]}}" = --root ] && [ "$COMP_CWORD" -gt 2 ]; then
        root=(--root "${{COMP_WORDS[2]}}") first=3
    fi
    local command=${{COMP_WORDS[first]}} at=$((COMP_CWORD - first))
    COMPREPLY=()
    if [ "$at" -le 0 ]; then
        words="{commands}"
    elif [[ "$cur" == -* ]]; then
        case $command in
{options}
        esac
    else
        case "$command $previous" in
{values}
            *" --password-file" | *" --keylog")
                mapfile -t COMPREPLY < <(compgen -f -- "$cur")
                return ;;
        esac
        [ -n "$words" ] || case "$command $at" in
{choices}
        esac
        if [ -z "$words" ] && [ "$at" -eq 1 ] && [[ " {peers} " == *" $command "* ]]; then
            words=$("${{COMP_WORDS[0]}}" "${{root[@]}}" {names})
        elif [ -z "$words" ] && [[ " {files} " == *" $command "* ]]; then
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
        fi
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}}
complete -o filenames -F _hearthgate hearthgate
"""

_ZSH = """\
#compdef hearthgate
_hearthgate() {{
    local -a commands
    commands=({described})
    if (( CURRENT == 2 )); then
        _describe command commands
    elif [[ $PREFIX == -* ]]; then
        case $words[2] in
{options}
        esac
    elif (( CURRENT == 3 )) && [[ " {peers} " == *" $words[2] "* ]]; then
        compadd -- $($words[1] {names})
    else
        case "$words[2] $((CURRENT - 2))" in
{choices}
            *) [[ " {files} " == *" $words[2] "* ]] && _files ;;
        esac
    fi
}}
_hearthgate "$@"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which shell."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(args: argparse.Namespace) -> int:
    """Print it."""
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](), end="")
    return 0


def _actions(command: str) -> list[argparse.Action]:
    """The options and words of a command, as argparse knows them."""
    import argparse

    parser = argparse.ArgumentParser()
    importlib.import_module(f"agent.cli.{command.replace('-', '_')}").add_arguments(parser)
    return parser._actions


def _options(command: str) -> list[str]:
    return [name for a in _actions(command) for name in a.option_strings if name.startswith("--")]


def _positional_choices(command: str) -> list[tuple[int, str]]:
    """(position after the command, its words) where only certain words are allowed."""
    words = [a for a in _actions(command) if not a.option_strings]
    return [(at, " ".join(a.choices)) for at, a in enumerate(words, 1) if a.choices]


def _option_choices(command: str) -> list[tuple[str, str]]:
    return [
        (name, " ".join(action.choices))
        for action in _actions(command)
        for name in action.option_strings
        if action.choices
    ]


def _bash() -> str:
    lines: dict[str, list[str]] = {"options": [], "values": [], "choices": []}
    for command in COMMANDS:
        lines["options"].append(f'            {command}) words="{" ".join(_options(command))}" ;;')
        for name, words in _option_choices(command):
            lines["values"].append(f'            "{command} {name}") words="{words}" ;;')
        for at, words in _positional_choices(command):
            lines["choices"].append(f'            "{command} {at}") words="{words}" ;;')
    return _BASH.format(
        commands=" ".join(COMMANDS),
        peers=_PEER_COMMANDS,
        files=_FILE_COMMANDS,
        names=_NAMES,
        **{key: "\n".join(found) for key, found in lines.items()},
    )


def _zsh() -> str:
    return _ZSH.format(
        described=" ".join(_quoted(f"{name}:{text}") for name, text in COMMANDS.items()),
        peers=_PEER_COMMANDS,
        files=_FILE_COMMANDS,
        names=_NAMES,
        options="\n".join(
            f"            {command}) compadd -- {' '.join(_options(command))} ;;"
            for command in COMMANDS
        ),
        choices="\n".join(
            f'            "{command} {at}") compadd -- {words} ;;'
            for command in COMMANDS
            for at, words in _positional_choices(command)
        ),
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish() -> str:
    lines = ["complete -c hearthgate -f"]
    for name, text in COMMANDS.items():
        quoted = text.replace("\\", "\\\\").replace("'", "\\'")
        lines.append(f"complete -c hearthgate -n __fish_use_subcommand -a {name} -d '{quoted}'")
        seen = f"complete -c hearthgate -n '__fish_seen_subcommand_from {name}'"
        lines += [f"{seen} -l {option.removeprefix('--')}" for option in _options(name)]
        lines += [f"{seen} -a '{words}'" for _, words in _positional_choices(name)]
    files = f"complete -c hearthgate -n '__fish_seen_subcommand_from {_FILE_COMMANDS}' -F"
    peers = f"complete -c hearthgate -n '__fish_seen_subcommand_from {_PEER_COMMANDS}'"
    names = (
        '"(hearthgate peers --json 2>/dev/null | string match -rg \'^ *\\"name\\": \\"(.*)\\"\')"'
    )
    return "\n".join([*lines, files, f"{peers} -a {names}"]) + "\n"
