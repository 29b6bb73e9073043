"""The house rules that a tool can check: small functions, small files, light start-up, SQL in the wheel."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import dwhctl

PACKAGE = Path(dwhctl.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def _functions(path: Path) -> list[tuple[str, int]]:
    tree = ast.parse(path.read_text())
    return [
        (f"{path.relative_to(PACKAGE)}:{node.name}", (node.end_lineno or 0) - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_functions_are_short() -> None:
    sizes = [found for path in MODULES for found in _functions(path)]
    assert [found for found in sizes if found[1] > 60] == []
    lengths = sorted(size for _, size in sizes)
    assert lengths[len(lengths) // 2] <= 10
    assert lengths[len(lengths) * 9 // 10] <= 35


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_short_and_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    assert ast.get_docstring(ast.parse(text)) or not text.strip()
