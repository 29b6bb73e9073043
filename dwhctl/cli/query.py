"""`dwhctl query`: an ad hoc query over a connection of the project."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dwhctl.cli.ending import exit_codes
from dwhctl.cli.options import (
    DATE_HELP,
    Duration,
    Settings,
    common_options,
    complete_connections,
    complete_loads,
    complete_shards,
    format_option,
    pass_settings,
)
from dwhctl.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta

    from dwhctl.project.model import Project, Shard
    from dwhctl.runs.query import Part, QueryRequest

#: Rows of a table that nobody asked to be longer.
TABLE_ROWS = 1_000
_MOST_STDIN = 16 * 2**20


@exit_codes(ExitCode.FAILED, ExitCode.LOCK_HELD, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
@click.command("query")
@click.argument("connection", shell_complete=complete_connections)
@click.argument("sql", required=False)
@click.option("-f", "--file", metavar="FILE", help="Read the SQL from a file; - is stdin.")
@click.option("--write", is_flag=True, help="Let the statements write; several are one transaction.")
@click.option("--database", metavar="NAME", help="A database behind the connection instead of its own.")
@click.option(
    "--shard",
    metavar="S",
    shell_complete=complete_shards,
    help="The database of a shard; `shard` in the SQL.",
)
@click.option("--date", "day", metavar="D", help=f"The day of `ds` and its like in the SQL: {DATE_HELP}")
@click.option(
    "--load", metavar="LOAD", shell_complete=complete_loads, help="The load of `params` in the SQL."
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"No more rows than these, 0 for all; default: {TABLE_ROWS:,} in a table, all in json and csv.",
)
@click.option(
    "--timeout", type=Duration(), metavar="DURATION", help="End the query after so long, such as 5m."
)
@click.option(
    "--wait",
    type=Duration(),
    default="0s",
    metavar="DURATION",
    help="Wait so long for a slot of the connection, such as 5m.",
)
@format_option
@common_options
@pass_settings
def command(settings: Settings, /, connection: str, **asked: Any) -> None:
    """Run SQL over a connection of the project, and show the rows.

    SQL is text, or - for stdin. It is a template like an extract: it may name var, conn, macros, and with --date,
    --load and --shard what these bring. `:start` and `:end` are not bound.

    Without --write it is one statement that reads (SELECT, WITH, VALUES, SHOW, EXPLAIN and their like; no COPY). DuckDB
    and SQLite files are opened read only, a DuckDB file without access to other files, servers and extensions;
    PostgreSQL and Vertica run a read-only transaction. SQL Server has none: there it must look like one SELECT, and
    runs in a transaction that is always rolled back. Functions with an effect outside of the transaction are not
    refused: give people who may not write a user who may not.

    \b
    Examples:
      dwhctl query dwh "SELECT count(*) FROM stage.orders"
      dwhctl query mssql_0 --shard abakan -f orders/count.sql --date yesterday
      dwhctl query dwh --format csv - < report.sql > report.csv
      dwhctl query etl --write "DELETE FROM notes WHERE id = 7"
    """
    project = settings.open_project()
    _show(settings, project, _request(project, connection, **asked), asked["form"])


def _request(
    project: Project,
    connection: str,
    *,
    sql: str | None,
    file: str | None,
    shard: str | None,
    database: str | None,
    day: str | None,
    load: str | None,
    limit: int | None,
    form: str,
    write: bool,
    timeout: timedelta | None,
    wait: timedelta,
) -> QueryRequest:
    from dwhctl.errors import UsageError
    from dwhctl.project.names import find_connection
    from dwhctl.runs.query import QueryRequest, find_shard

    name = find_connection(project, connection).name
    if shard is not None and database is not None:
        raise UsageError("--shard and --database both name a database; give one of them")
    found = find_shard(project, name, shard) if shard is not None else None
    if found is not None and not _is_one_file(project, name):
        database = found.database
    text = _rendered(project, sql, file, found, day, load)
    rows = limit if limit is not None else (TABLE_ROWS if form == "table" else 0)
    return QueryRequest(name, text, database, write, rows or None, wait, timeout)


def _is_one_file(project: Project, connection: str) -> bool:
    from dwhctl.project.connections import DuckdbConnection

    found = project.connections[connection]
    return isinstance(found, DuckdbConnection) and not found.is_folder


def _rendered(
    project: Project,
    sql: str | None,
    file: str | None,
    shard: Shard | None,
    day: str | None,
    load: str | None,
) -> str:
    from dwhctl.errors import UsageError
    from dwhctl.project.names import find_load
    from dwhctl.project.slices import resolve_day
    from dwhctl.project.templates import render_file, render_text

    if (sql is None) == (file is None):
        raise UsageError("give the SQL once: as text, as - for stdin, or with -f FILE")
    date = resolve_day(day, project.zone) if day is not None else None
    of_load = find_load(project, load) if load is not None else None
    if file is not None and file != "-":
        return render_file(project, _found_file(project, file), of_load, date, shard)
    text = _stdin() if "-" in (sql, file) else sql or ""
    return render_text(project, text, "stdin" if "-" in (sql, file) else "the SQL", of_load, date, shard)


def _stdin() -> str:
    """Read stdin as UTF-8, whatever the locale. Raise UsageError."""
    from dwhctl.errors import UsageError

    octets = (
        sys.stdin.buffer.read(_MOST_STDIN + 1) if hasattr(sys.stdin, "buffer") else sys.stdin.read().encode()
    )
    if len(octets) > _MOST_STDIN:
        raise UsageError(f"stdin: there are more than {_MOST_STDIN:,} bytes of SQL")
    try:
        return octets.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError("stdin: not UTF-8; give the SQL in the encoding UTF-8") from None


def _found_file(project: Project, file: str) -> Path:
    """The file as the shell sees it, else as the configuration would: relative to sql/."""
    there = Path(file).expanduser()
    within = project.root / "sql" / there
    return within if not there.exists() and within.exists() else there.absolute()


def _show(settings: Settings, project: Project, request: QueryRequest, form: str) -> None:
    from dwhctl.runs.query import running_query

    with running_query(project, request) as parts:
        try:
            _write(settings, parts, form)
        except BrokenPipeError:  # the reader has seen enough
            if request.write:
                for _ in parts:  # what is to be written is written
                    pass


def _write(settings: Settings, parts: Iterator[Part], form: str) -> None:
    from dwhctl.cli.output import counted, tell
    from dwhctl.cli.rows import open_writer
    from dwhctl.runs.query import AnswerEnd, Changed, Columns, Rows

    writer = open_writer(form)
    for part in parts:
        match part:
            case Columns(names):
                writer.begin(names)
            case Rows(rows):
                writer.rows(rows)
            case AnswerEnd(rows, cut):
                writer.end()
                if cut:
                    tell(f"there are more rows than these {rows:,}; --limit 0 shows all")
            case Changed(changed) if not settings.quiet:
                tell("done" if changed is None else f"{counted(changed, 'row')} changed")
