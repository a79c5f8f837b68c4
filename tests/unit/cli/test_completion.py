"""The completion scripts: the shells parse them, and bash completes with them."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from agent.cli import COMMANDS, completion, main


def script(shell: str, capsys) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def test_bash_parses(capsys):
    done = subprocess.run(
        ["bash", "-n"], input=script("bash", capsys), text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("hearthgate con", {"connect"}),
        ("hearthgate dis", {"disconnect"}),
        ("hearthgate ", set(COMMANDS)),
        ("hearthgate connect ", {"cabin", "hut"}),
        ("hearthgate get h", {"hut"}),
        ("hearthgate status ", set()),
    ],
)
def test_bash_completes(capsys, tmp_path, words, offered):
    (tmp_path / "hearthgate").write_text(
        "#!/bin/sh\nprintf '[\\n  {\\n    \"name\": \"cabin\",\\n    \"key\": \"x\"\\n  },\\n"
        "  {\\n    \"name\": \"hut\"\\n  }\\n]\\n'\n"
    )  # fmt: skip
    (tmp_path / "hearthgate").chmod(0o755)
    array = " ".join(f"'{w}'" for w in words.split(" "))
    check = (
        f"cd {tmp_path}; PATH={tmp_path}:$PATH; COMP_WORDS=({array}); "
        f"COMP_CWORD={words.count(' ')}; rm hearthgate.none 2>/dev/null; _hearthgate; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script("bash", capsys) + check], text=True, capture_output=True, check=True
    )
    assert done.stderr == ""
    assert set(done.stdout.split()) - {"hearthgate"} == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(capsys, shell):
    text = script(shell, capsys)
    for command in COMMANDS:
        assert command in text
    if shutil.which(shell) is not None:  # not on every machine; bash and these checks are
        done = subprocess.run(
            [shell, "-n"], input=text, text=True, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
    # what stands in single quotes ends there
    assert text.replace("'\\''", "").replace("\\'", "").count("'") % 2 == 0


def test_the_commands_that_take_a_peer_exist():
    assert set(completion._PEER_COMMANDS.split()) <= set(COMMANDS)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("hearthgate --root /x disc", {"disconnect"}),
        ("hearthgate --root /x connect h", {"hut"}),
        ("hearthgate connect cabin --", {"--help", "--forward", "--json"}),
        ("hearthgate grant cabin op", {"operator"}),
        ("hearthgate invite laptop --role t", {"technician"}),
        ("hearthgate completion ", {"bash", "zsh", "fish"}),
        ("hearthgate service re", {"remove"}),
        ("hearthgate get cabin ", set()),
    ],
)
def test_bash_completes_options_and_words(capsys, tmp_path, words, offered):
    """No file names where none are meant."""
    test_bash_completes(capsys, tmp_path, words, offered)
