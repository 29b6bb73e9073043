"""The rules of the code that a tool can check: sizes, packages and their maps, names, import circles."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import dwhctl

PACKAGE = Path(dwhctl.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = sorted({path.parent for path in MODULES})
MOST_MODULES = 20
MOST_FILES = 248
SMALLEST_LINES = 60
#: Files under 60 lines, and why each of them is a file of its own.
SMALL = {
    "__main__.py": "`python -m dwhctl` needs it",
    "core/faults.py": "the tests set its handler; nothing else may be in it",
    "systems/sqlite/system.py": "every system's folder has one",
}


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _functions(path: Path) -> list[tuple[str, int]]:
    tree = _tree(path)
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
    assert ast.get_docstring(_tree(path)) or not text.strip()


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "dwhctl"


NAMES = {_name(path): path for path in MODULES}


def _imports(tree: ast.AST, *, late: bool) -> Iterator[str]:
    """Yield what a module imports of dwhctl; `late` says whether imports within functions count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.FunctionDef) and not late:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "import by the whole name: the checks of this file read no other"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from _imports(node, late=late)


def _own(imported: str) -> str | None:
    """Name the module that an import is of; None for another distribution's."""
    name = imported.removeprefix("dwhctl.")
    if name == imported:
        return None
    return name if name in NAMES else name.rpartition(".")[0] if name.rpartition(".")[0] in NAMES else None


@cache
def _graph(*, late: bool) -> dict[str, set[str]]:
    return {
        name: {own for found in _imports(_tree(path), late=late) if (own := _own(found))} - {name}
        for name, path in NAMES.items()
    }


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    left = [*graph[start]]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += graph[name]
    return found


def _circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    reached = {name: _reached(graph, name) for name in graph}
    return {
        frozenset({other for other in reached[name] if name in reached[other]})
        for name in graph
        if name in reached[name]
    }


def _room(name: str) -> str:
    """Name the package of a module; a module of the top level counts as a package."""
    return name if NAMES[name].name == "__init__.py" else name.rpartition(".")[0] or name


def test_no_module_imports_itself_through_others() -> None:
    assert _circles(_graph(late=False)) == set()
    assert _circles(_graph(late=True)) == set()


def test_what_a_load_imports_before_its_project_is_little() -> None:
    reached = _reached(_graph(late=False), "load.worker_server")
    assert {_room(name) for name in reached} == {"core"}


def test_no_package_imports_itself_through_others() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for name, imported in _graph(late=True).items():
        graph[_room(name)] |= {_room(other) for other in imported} - {_room(name)}
    assert _circles(graph) == set()


def test_a_package_is_small_and_has_a_map() -> None:
    assert len(MODULES) <= MOST_FILES
    for folder in PACKAGES:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        inner = [path.parent for path in folder.glob("*/__init__.py")]
        assert len(modules) <= MOST_MODULES, folder
        text = ast.get_docstring(_tree(folder / "__init__.py"))
        assert text is not None, folder
        # The root's map names packages; any other names all that is in it.
        named = [path.stem for path in (*modules, *inner) if path.stem != "__main__"]
        assert [name for name in named if f"`{name}`" not in text and f"`{name}.py`" not in text] == [], (
            folder
        )
        assert folder == PACKAGE or "Read in this order" in text, folder


def test_public_classes_have_names_of_their_own() -> None:
    trees = [_tree(path) for path in MODULES]
    names = [node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    counted = Counter(name for name in names if not name.startswith("_"))
    assert [name for name, count in counted.items() if count > 1] == []


def test_a_small_file_has_a_reason() -> None:
    small = {
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if path.name != "__init__.py" and path.read_text().count("\n") < SMALLEST_LINES
    }
    assert small == SMALL.keys()


def test_only_the_sessions_package_executes_its_statements_by_name() -> None:
    """Other packages call the store's methods; the alerts execute their own statements in one transaction."""
    by_name = re.compile(r"store\.(read|transaction)\(\s*f?\"")
    found = [
        path.relative_to(PACKAGE)
        for path in MODULES
        if path.relative_to(PACKAGE).parts[0] not in ("sessions", "alerts")
        and by_name.search(path.read_text())
    ]
    assert found == []


def test_one_function_reads_named_sql() -> None:
    assert [path.name for path in MODULES if "-- name:" in path.read_text()] == ["sql.py"]
