"""Errors by their names: what other processes and tables hold."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import dwhctl
from dwhctl.core.errors import ConnectError, DwhctlError, LoginRefusedError, Missed, SourceError, is_error

SOURCES = sorted(Path(dwhctl.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("ConnectError", (ConnectError,), True),
        ("TlsError", (ConnectError,), True),
        ("ConnectError", (LoginRefusedError, SourceError), False),
        ("DeadlineMissed", (Missed,), True),
        ("OfALaterVersionError", (DwhctlError,), False),
        ("Exception", (DwhctlError,), False),
        (None, (DwhctlError,), False),
    ],
)
def test_an_error_is_of_the_kinds_of_its_class(
    name: str | None, classes: tuple[type[DwhctlError], ...], expected: bool
) -> None:
    assert is_error(name, *classes) is expected


def test_no_names_of_error_classes_are_compared() -> None:
    found = [
        f"{path.name}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare)
        and any(
            isinstance(side, ast.Attribute) and side.attr == "error_class"
            for side in (node.left, *node.comparators)
        )
    ]
    assert found == []
