"""`./hearthgate` itself, on a checkout of one file that needs no packages (so no network)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).parents[2] / "hearthgate"
PROJECT = """
[project]
dependencies = []
[project.optional-dependencies]
mqtt = []
qr = []
"""
MAIN = """
import os, sys
print(sys.prefix, *sys.argv[1:], sep="|")
sys.exit(7)
"""


def call(launcher: Path, *words: str, cwd: Path | None = None, **variables: str):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HEARTHGATE_", "PYTHON"))}
    return subprocess.run(
        [launcher, *words],
        cwd=cwd or launcher.parent,
        env={**inherited, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """The launcher of a checkout in a path with spaces, whose first run is over."""
    root = tmp_path_factory.mktemp("a checkout") / "with spaces"
    (root / "agent").mkdir(parents=True)
    (root / "agent/__init__.py").touch()
    (root / "agent/__main__.py").write_text(MAIN)
    (root / "pyproject.toml").write_text(PROJECT)
    shutil.copy(LAUNCHER, root)
    done = call(root / "hearthgate", "first run", "*")
    assert done.returncode == 7, done.stderr
    assert done.stdout == f"{root}/.venv|first run|*\n"
    assert "installing Python packages (once)" in done.stderr
    return root / "hearthgate"


def test_the_second_run_prepares_nothing(prepared):
    done = call(prepared, "status")
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout == f"{prepared.parent}/.venv|status\n"


def test_a_link_finds_the_checkout_and_the_callers_folder_is_not_imported_from(prepared, tmp_path):
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent/__main__.py").write_text("print('the wrong one')")
    (tmp_path / "link").symlink_to(os.path.relpath(prepared, tmp_path))
    done = call(tmp_path / "link", cwd=tmp_path)
    assert done.stdout == f"{prepared.parent}/.venv\n", done.stderr


def test_prepare_only_prints_the_interpreter(prepared):
    done = call(prepared, HEARTHGATE_PREPARE_ONLY="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{prepared.parent}/.venv/bin/python\n"


def test_changed_requirements_are_installed(prepared):
    project = prepared.parent / "pyproject.toml"
    project.write_text(PROJECT + "# changed\n")
    assert "installing Python packages" in call(prepared).stderr
    assert call(prepared).stderr == ""


def test_an_environment_whose_interpreter_is_gone_is_made_anew(prepared):
    python = prepared.parent / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python3.9")
    done = call(prepared)
    assert done.returncode == 7
    assert "making a virtual environment" in done.stderr
    assert call(prepared).stderr == ""


def test_what_cannot_be_installed_has_a_sentence(prepared):
    project = prepared.parent / "pyproject.toml"
    before = project.read_text()
    project.write_text(
        PROJECT.replace("dependencies = []", 'dependencies = ["hearthgate-none"]', 1)
    )
    try:
        done = call(prepared, PIP_NO_INDEX="1", PIP_FIND_LINKS="", PIP_CONFIG_FILE=os.devnull)
        assert done.returncode == 69
        assert "hearthgate: pip could not install the packages" in done.stderr
        assert done.stdout == ""
    finally:
        project.write_text(before)


def test_an_incomplete_checkout_has_a_sentence(prepared, tmp_path):
    shutil.copy(prepared, tmp_path)
    done = call(tmp_path / "hearthgate")
    assert done.returncode == 71
    assert "no pyproject.toml" in done.stderr
