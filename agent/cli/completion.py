"""Print shell completion: `hearthgate completion bash > /etc/bash_completion.d/hearthgate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.cli import COMMANDS

if TYPE_CHECKING:
    import argparse

_PEER_COMMANDS = "connect disconnect get set grant revoke rekey"

_BASH = """\
_hearthgate() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} command=${{COMP_WORDS[1]}}
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "{commands}" -- "$cur")
    elif [ "$COMP_CWORD" -eq 2 ] && [[ " {peers} " == *" $command "* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(hearthgate peers --json 2>/dev/null |
            sed -n 's/^ *"name": "\\(.*\\)",*$/\\1/p')" -- "$cur")
    else
        mapfile -t COMPREPLY < <(compgen -o default -- "$cur")
    fi
}}
complete -F _hearthgate hearthgate
"""

_ZSH = """\
#compdef hearthgate
_hearthgate() {{
    local -a commands
    commands=({described})
    if (( CURRENT == 2 )); then
        _describe command commands
    elif (( CURRENT == 3 )) && [[ " {peers} " == *" $words[2] "* ]]; then
        compadd -- $(hearthgate peers --json 2>/dev/null |
            sed -n 's/^ *"name": "\\(.*\\)",*$/\\1/p')
    else
        _files
    fi
}}
_hearthgate "$@"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which shell."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(args: argparse.Namespace) -> int:
    """Print it."""
    if args.shell == "bash":
        print(_BASH.format(commands=" ".join(COMMANDS), peers=_PEER_COMMANDS), end="")
    elif args.shell == "zsh":
        described = " ".join(
            "'" + f"{name}:{text}".replace("'", "'\\''") + "'" for name, text in COMMANDS.items()
        )
        print(_ZSH.format(described=described, peers=_PEER_COMMANDS), end="")
    else:
        print("complete -c hearthgate -f")
        for name, text in COMMANDS.items():
            quoted = text.replace("\\", "\\\\").replace("'", "\\'")
            print(f"complete -c hearthgate -n __fish_use_subcommand -a {name} -d '{quoted}'")
    return 0
