"""Run a statement that changes tables: in memory, then its tables are written to their files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dwhctl_csv.engine import Engine, put
from dwhctl_csv.tables import Declared, TableError, name_problem

from dwhctl.core.sql import first_word, quote_name, quote_path

_READS = re.compile(r"\b(select|from|table\s+\S+\s*;?\s*$)", re.IGNORECASE)
_CONSTRAINTS = ("NOT NULL", "UNIQUE", "PRIMARY KEY")


def run_statement(engine: Engine, folder: Path, statement: str, schemas: set[str]) -> set[str]:
    """Run one statement in a database that has these schemas, and write what it changed; return its schemas then.

    The tables that it mentions are read into memory.
    """
    for schema in schemas:
        engine.db.execute(f"CREATE SCHEMA IF NOT EXISTS {quote_name(schema)}")
    # A CREATE TABLE IF NOT EXISTS comes before every load: it needs no rows.
    with_rows = first_word(statement) != "CREATE" or _READS.search(statement) is not None
    names = engine.load(statement, with_rows=with_rows)
    before = _objects(engine)
    engine.db.execute(statement)
    after = _objects(engine)
    for name, (number, kind, _) in after.items():
        if problem := name_problem(name):
            raise TableError(f"the {kind} {name} has no place in the folder: {problem}")
        if (
            name not in before
            or before[name][0] != number
            or (with_rows and kind == "table" and name in names)
        ):
            _write(engine, folder, name, *after[name][1:])
    for name in before.keys() - after.keys():
        for suffix in (".csv", ".sql"):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
    found = engine.db.execute("SELECT schema_name FROM duckdb_schemas() WHERE NOT internal").fetchall()
    return {str(name) for (name,) in found} - {"main"}


def _objects(engine: Engine) -> dict[str, tuple[Any, str, str]]:
    """Return number, kind and definition of the tables and views by name; the schema main is left out of a name."""
    rows = engine.db.execute(
        "SELECT schema_name, table_name, table_oid, 'table', '' FROM duckdb_tables() WHERE NOT internal UNION ALL"
        " SELECT schema_name, view_name, view_oid, 'view', sql FROM duckdb_views() WHERE NOT internal AND NOT temporary"
    ).fetchall()
    found = {}
    for schema, name, number, kind, sql in rows:
        full = name if schema == "main" else f"{schema}.{name}"
        found[full.lower()] = (number, str(kind), str(sql))
    return found


def _write(engine: Engine, folder: Path, name: str, kind: str, sql: str) -> None:
    path = folder / f"{name}{'.csv' if kind == 'table' else '.sql'}"
    if kind == "view":
        path.with_name(f".{path.name}.new").write_text(sql, encoding="utf-8")
    else:
        engine.write(path, _declared(engine, name), f"SELECT * FROM {quote_path(name)}")
    put(path)


def _declared(engine: Engine, name: str) -> list[Declared]:
    schema, _, table = name.rpartition(".")
    values = {"schema": schema or "main", "table": table}
    where = "lower(schema_name) = $schema AND lower(table_name) = $table"
    unique: set[str] = set()
    constraints = engine.db.execute(
        f"SELECT constraint_type, constraint_column_names FROM duckdb_constraints() WHERE {where}", values
    ).fetchall()
    for kind, names in constraints:
        if kind not in _CONSTRAINTS or len(names) != 1:
            raise TableError(
                f"{name}: a CSV file can declare NOT NULL, UNIQUE and PRIMARY KEY of one column, not {kind}"
            )
        if kind != "NOT NULL":
            unique.update(names)
    columns = engine.db.execute(
        f"SELECT column_name, data_type, column_default, is_nullable FROM duckdb_columns() WHERE {where}"
        " ORDER BY column_index",
        values,
    ).fetchall()
    return [
        Declared(column, declared, default, bool(nullable), column in unique)
        for column, declared, default, nullable in columns
    ]
