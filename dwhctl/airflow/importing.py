"""The import as a whole: files read, pieces made, secrets kept, the configuration written."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dwhctl.airflow.export import AirflowConnection, Export, is_example, read_exports
from dwhctl.airflow.mapping import convert, convert_alert
from dwhctl.airflow.pieces import HALF_A_CHARACTER, Piece, convert_variable, hidden_in, with_references
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
from dwhctl.core.words import looks_secret, may_show, quoted, shown_text
from dwhctl.project.checks import slug
from dwhctl.project.fields import name_problem
from dwhctl.project.files import read_toml
from dwhctl.project.problems import Problems
from dwhctl.project.read import MAIN, read_project

Keeping = Literal["files", "env"]


@dataclass(frozen=True, slots=True)
class ImportOutcome:
    """What became of one thing of the export: added, replaced, unchanged, left out, to complete; or a note on it."""

    kind: str
    airflow_name: str
    name: str
    result: str
    note: str = ""

    def row(self) -> tuple[object, ...]:
        """As a row of the listing."""
        return (self.kind, shown_text(self.airflow_name), shown_text(self.name), self.result, self.note)


@dataclass(slots=True)
class Import:
    """An import that is ready to be written."""

    root: Path
    written: Written
    kept: Kept
    outcomes: list[ImportOutcome] = field(default_factory=list)

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
    """Read the files and say what they become. Touches nothing.

    Raise UsageError for a file that is no export and for names that are taken, ConfigError for a project whose
    configuration would be wrong afterwards.
    """
    text = _configuration(root)
    export = read_exports(files)
    examples = _without_examples(export)
    pieces = list(_pieces(export, root))
    keep = keep_in_files if secrets == "files" else keep_in_environment
    hidden = [each for piece in pieces for each in hidden_in(piece.value)]
    for piece in pieces:
        secret = piece.kind == "variable" and any(True for _ in hidden_in(piece.value))
        told = any(each.text in piece.comment for each in hidden) or looks_secret(piece.comment)
        if secret or told:
            piece.comment = ""  # a description may hold the password
    kept = keep(root, hidden, replace=replace)
    values = [with_references(piece.value, kept.references) for piece in pieces]
    written = write_pieces(text, pieces, values, replace=replace)
    _check(root, written.text)
    found = Import(root, written, kept, examples)
    for piece, result in zip(pieces, written.results, strict=True):
        found.outcomes += _outcomes(piece, result)
    return found


def _without_examples(export: Export) -> list[ImportOutcome]:
    """Drop the examples of a new Airflow from the export. Return one outcome for all of them."""
    names = [name for name, given in export.connections.items() if is_example(given)]
    for name in names:
        del export.connections[name]
    if not names:
        return []
    shown = ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
    note = "examples that Airflow creates, unchanged; to import one of them, rename it in the file"
    return [ImportOutcome("connection", shown, "", LEFT_OUT, note)]


def _configuration(root: Path) -> str:
    problems = Problems(root)
    if read_toml(root / MAIN.file, problems) is None:
        problems.raise_any()
    return read_bytes(root / MAIN.file).decode("utf-8-sig")  # its line ends as they are


def _pieces(export: Export, root: Path) -> Iterator[Piece]:
    known: set[str] = set()
    names = _names(export.connections)
    for origin, given in export.connections.items():
        piece = _of_connection(given, names[origin], root)
        if names[origin] != origin:
            why = name_problem(origin) or "that name is taken"
            piece.note(f"is called {names[origin]} here: {why}; SQL says conn.{names[origin]}")
        known |= {each.text for each in hidden_in(piece.value)}
        yield piece
    # Twice: what is a secret in one variable may stand in another that does not look like one.
    found = [convert_variable(origin, value, known) for origin, value in export.variables.items()]
    known |= {each.text for piece in found for each in hidden_in(piece.value)}
    yield from (convert_variable(origin, value, known) for origin, value in export.variables.items())


def _of_connection(given: AirflowConnection, name: str, root: Path) -> Piece:
    left_out = Piece("connection", given.name, name)
    if not given.is_text():
        left_out.note(HALF_A_CHARACTER)
        return left_out
    piece = convert(given, name, root) or convert_alert(given, name)
    if piece is None:
        piece = left_out
        kind = f"its type is {quoted(given.type)}" if given.type else given.trouble or "it has no type"
        piece.note(
            f"{kind}: dwhctl knows mssql, vertica, postgres, sqlite, duckdb, telegram and smtp; if it is one of"
            " these, correct conn_type in the file"
        )
    return piece


def _names(origins: Collection[str]) -> dict[str, str]:
    """dwhctl's names: those that fit stay, the others are changed until they are free."""
    names = {origin: origin for origin in origins if name_problem(origin) is None}
    for origin in origins:
        if origin in names:
            continue
        wanted = name = slug(origin) if may_show(origin) else "connection"
        number = 1
        while name in names.values():
            number += 1
            name = f"{wanted}_{number}"
        names[origin] = name
    return names


def _outcomes(piece: Piece, result: str) -> Iterator[ImportOutcome]:
    """A line for the piece, and one for each thing to know; a piece that is left out says why in its own."""
    notes = list(piece.notes)
    why = notes.pop(0) if result == LEFT_OUT and notes else ""
    yield ImportOutcome(piece.kind, piece.origin, piece.name, result, why)
    for note in notes:
        yield ImportOutcome(piece.kind, piece.origin, piece.name, "note", note)


def _check(root: Path, text: str) -> None:
    """Raise ConfigError for what is wrong with the project that was not wrong before."""
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
