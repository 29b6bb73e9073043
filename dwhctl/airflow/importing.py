"""The whole import: read the files, map their entries, store the secrets, write the configuration."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from dwhctl.airflow.export import AirflowConnection, Export, is_example, read_exports
from dwhctl.airflow.mapping import convert, convert_alert
from dwhctl.airflow.pieces import HALF_A_CHARACTER, Hidden, Piece, convert_variable, hidden_in
from dwhctl.airflow.writing import (
    LEFT_OUT,
    Kept,
    Written,
    keep_in_environment,
    keep_in_files,
    write_pieces,
    write_secrets,
)
from dwhctl.core.errors import ConfigError, UsageError
from dwhctl.core.files import read_bytes, write_whole
from dwhctl.core.words import first_of, looks_secret, may_show, quoted, shown_text
from dwhctl.project.checks import free_name, slug
from dwhctl.project.fields import map_leaves, name_problem
from dwhctl.project.files import read_toml
from dwhctl.project.problems import MAIN, Problems
from dwhctl.project.read import read_project

Keeping = Literal["files", "env"]


class ImportOutcome(Struct, frozen=True):
    """The result for an entry of the export: added, replaced, unchanged, left out, to complete; or a note on it."""

    kind: str
    airflow_name: str
    name: str
    result: str
    note: str = ""

    def row(self) -> tuple[object, ...]:
        return (self.kind, shown_text(self.airflow_name), shown_text(self.name), self.result, self.note)


@dataclass(slots=True)
class Import:
    """An import that is ready to be written."""

    root: Path
    written: Written
    kept: Kept
    outcomes: list[ImportOutcome]

    def write(self) -> None:
        """Write the secrets, then the configuration that refers to them. Raise UsageError."""
        write_secrets(self.root, self.kept.texts)
        if not self.written.changed:
            return
        path = (self.root / MAIN.file).resolve()
        try:
            write_whole(path, self.written.text, path.stat().st_mode & 0o777)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}; give this user access") from None


def prepare_import(root: Path, files: list[Path], *, secrets: Keeping, replace: bool) -> Import:
    """Return what the files become, without writing anything.

    Raise UsageError for a file that is not an export and for names that are taken, ConfigError if the configuration
    would have problems afterwards.
    """
    problems = Problems(root)
    read_toml(root / MAIN.file, problems)
    problems.raise_any()
    text = read_bytes(root / MAIN.file).decode("utf-8-sig")  # with its line ends
    export = read_exports(files)
    outcomes = _without_examples(export)
    pieces = list(_pieces(export, root))
    keep = keep_in_files if secrets == "files" else keep_in_environment
    hidden = [secret for piece in pieces for secret in hidden_in(piece.value)]
    kept = keep(root, hidden, replace=replace)

    def refer(leaf: Any) -> Any:
        return kept.references[leaf] if isinstance(leaf, Hidden) else leaf

    for piece in pieces:
        is_secret = piece.kind == "variable" and hidden_in(piece.value)
        if is_secret or looks_secret(piece.comment) or any(secret.text in piece.comment for secret in hidden):
            piece.comment = ""  # a description may contain the password
        piece.value = map_leaves(refer, piece.value)
    written = write_pieces(text, pieces, replace=replace)
    _check(root, written.text)
    for piece in pieces:
        outcomes += _outcomes(piece)
    return Import(root, written, kept, outcomes)


def _without_examples(export: Export) -> list[ImportOutcome]:
    """Drop the examples of a new Airflow from the export. Return one outcome for all of them."""
    names = [name for name, given in export.connections.items() if is_example(given)]
    for name in names:
        del export.connections[name]
    if not names:
        return []
    note = "examples that Airflow creates, unchanged; to import one of them, rename it in the file"
    return [ImportOutcome("connection", first_of(names, 2), "", LEFT_OUT, note)]


def _pieces(export: Export, root: Path) -> Iterator[Piece]:
    known: set[str] = set()
    names = _names(export.connections)
    for origin, given in export.connections.items():
        piece = _connection(given, names[origin], root)
        if names[origin] != origin:
            why = name_problem(origin) or "that name is taken"
            piece.note(f"is called {names[origin]} here: {why}; SQL says conn.{names[origin]}")
        known |= {secret.text for secret in hidden_in(piece.value)}
        yield piece
    # Twice: a secret of one variable may be part of another that does not look like a secret.
    found = [convert_variable(origin, value, known) for origin, value in export.variables.items()]
    known |= {secret.text for piece in found for secret in hidden_in(piece.value)}
    yield from (convert_variable(origin, value, known) for origin, value in export.variables.items())


def _connection(given: AirflowConnection, name: str, root: Path) -> Piece:
    left_out = Piece("connection", given.name, name)
    if not given.is_text():
        left_out.note(HALF_A_CHARACTER)
        return left_out
    if piece := convert(given, name, root) or convert_alert(given, name):
        return piece
    kind = f"its type is {quoted(given.type)}" if given.type else given.problem or "it has no type"
    left_out.note(
        f"{kind}: dwhctl knows mssql, vertica, postgres, sqlite, duckdb, telegram and smtp; if it is one of"
        " these, correct conn_type in the file"
    )
    return left_out


def _names(origins: Collection[str]) -> dict[str, str]:
    """Return dwhctl's names: valid names are kept, the others become valid and free."""
    names = {origin: origin for origin in origins if name_problem(origin) is None}
    for origin in origins:
        if origin not in names:
            wanted = slug(origin) if may_show(origin) else "connection"
            names[origin] = free_name(wanted, names.values())
    return names


def _outcomes(piece: Piece) -> Iterator[ImportOutcome]:
    """Yield an outcome for the piece and one for each note; that of a piece left out has the first note."""
    notes = list(piece.notes)
    why = notes.pop(0) if piece.result == LEFT_OUT and notes else ""
    yield ImportOutcome(piece.kind, piece.origin, piece.name, piece.result, why)
    for note in notes:
        yield ImportOutcome(piece.kind, piece.origin, piece.name, "note", note)


def _check(root: Path, text: str) -> None:
    """Raise ConfigError for the problems that the project did not have before."""
    with tempfile.TemporaryDirectory(prefix="dwhctl_import_") as folder:
        copy = Path(folder)
        (copy / "config").mkdir()
        for path in [*root.iterdir(), *(root / "config").iterdir()]:
            place = copy / path.relative_to(root)
            if not place.exists() and path.relative_to(root) != Path(MAIN.file):
                place.symlink_to(path)
        (copy / MAIN.file).write_bytes(text.encode())
        before = _problems(root)
        new = [line for line in _problems(copy) if line not in before]
    if new:
        raise ConfigError("\n".join(new))


def _problems(root: Path) -> list[str]:
    try:
        read_project(root)
    except ConfigError as error:
        return str(error).splitlines()
    return []
