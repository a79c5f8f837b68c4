"""Each threat of the list that this room is about has a file with its number, and tests in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NUMBERS = [*range(1, 19), *range(23, 28)]
REFERENCE = re.compile(r"tests/[\w/]+\.py(?:::(\w+))?")


def _functions(file: Path) -> set[str]:
    return {n.name for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.FunctionDef)}


@pytest.mark.parametrize("number", NUMBERS)
def test_the_number_stands_in_the_name_and_on_top(number: int) -> None:
    (file, *more) = sorted(HERE.glob(f"test_{number:02d}_[a-z]*.py"))
    assert not more
    assert ast.get_docstring(ast.parse(file.read_text())).startswith(f"THREATS {number}: ")
    assert any(name.startswith("test_") for name in _functions(file))


def test_what_is_said_to_be_elsewhere_is_there() -> None:
    found = 0
    for file in HERE.glob("test_*.py"):
        for match in REFERENCE.finditer(file.read_text()):
            path = ROOT / match[0].partition("::")[0]
            assert path.exists(), (file.name, match[0])
            assert match[1] is None or match[1] in _functions(path), (file.name, match[0])
            found += 1
    assert found > 10


def test_no_other_numbers() -> None:
    numbers = {int(m[1]) for f in HERE.glob("*.py") if (m := re.match(r"test_(\d\d)_", f.name))}
    assert numbers == set(NUMBERS)
