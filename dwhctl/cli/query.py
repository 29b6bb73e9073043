"""`dwhctl query`: an ad hoc query over a connection of the project. `dwhctl render`: the SQL of a load or report."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dwhctl.cli.common.ending import exit_codes
from dwhctl.cli.common.options import (
    DATE_HELP,
    Duration,
    Settings,
    complete_connections,
    complete_loads,
    complete_loads_and_reports,
    complete_shards,
    format_option,
    with_settings,
)
from dwhctl.cli.common.output import say, tell, write_out
from dwhctl.core.errors import ExitCode, UsageError
from dwhctl.core.secrets import mask
from dwhctl.core.words import counted, one_line

if TYPE_CHECKING:
    from dwhctl.check.offline import RenderedPart
    from dwhctl.project.loads import Load, Shard
    from dwhctl.project.model import Project
    from dwhctl.query import Part, QueryRequest

# `--help` imports neither the configuration's classes nor the systems.

#: Rows of a table without --limit.
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
    help=f"The most rows, 0 for all; default: {TABLE_ROWS:,} in a table, all in json and csv.",
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
@with_settings
def command(settings: Settings, /, connection: str, **options: Any) -> None:
    """Run SQL over a connection of the project, and show the rows.

    SQL is text, or - for stdin. It is a template like an extract: it may use var, conn, macros, and with --date, --load
    and --shard their variables. `:start` and `:end` are not bound.

    Without --write it is one statement that reads (SELECT, WITH, VALUES, SHOW, EXPLAIN and their like; no COPY). DuckDB
    and SQLite files are opened read only, a DuckDB file without access to other files, servers and extensions;
    PostgreSQL and Vertica run a read-only transaction. SQL Server has none: there it must look like one SELECT, and
    runs in a transaction that is always rolled back. Functions with an effect outside of the transaction are not
    refused: for people who may not write use a database user who may not.

    \b
    Examples:
      dwhctl query dwh "SELECT count(*) FROM stage.orders"
      dwhctl query mssql_0 --shard abakan -f orders/count.sql --date yesterday
      dwhctl query dwh --format csv - < report.sql > report.csv
      dwhctl query etl --write "DELETE FROM notes WHERE id = 7"
    """
    from dwhctl.query import running_query

    project = settings.open_project()
    request = _request(project, connection, **options)
    with running_query(project, request) as parts:
        try:
            _write(settings, parts, options["form"])
        except BrokenPipeError:  # the reader needs no more rows
            if request.write:
                for _ in parts:  # all is written all the same
                    pass


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
    from dwhctl.project.days import resolve_day
    from dwhctl.project.names import find_connection, find_load
    from dwhctl.project.templates import render_file, render_text
    from dwhctl.query import QueryRequest, find_shard

    found = find_connection(project, connection)
    if shard is not None and database is not None:
        raise UsageError("--shard and --database both name a database; give one of them")
    shards = [item for group in project.shard_groups.values() for item in group]
    behind = (item for item in shards if item.connection == found.name)
    chosen = find_shard(project, behind, shard, f"behind {found.name}") if shard is not None else None
    if chosen is not None and found.shard_file(chosen.database) != getattr(found, "path", ...):
        database = chosen.database
    if (sql is None) == (file is None):
        raise UsageError("give the SQL once: as text, as - for stdin, or with -f FILE")
    date = resolve_day(day, project.zone) if day is not None else None
    of_load = find_load(project, load) if load is not None else None
    if file is not None and file != "-":
        text = render_file(project, _found_file(project, file), of_load, date, chosen)
    else:
        given, place = (_stdin(), "stdin") if "-" in (sql, file) else (sql or "", "the SQL")
        text = render_text(project, given, place, of_load, date, chosen)
    rows = limit if limit is not None else (TABLE_ROWS if form == "table" else 0)
    return QueryRequest(found.name, text, database, write, rows or None, wait, timeout)


def _stdin() -> str:
    """Read stdin as UTF-8, whatever the locale. Raise UsageError."""
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
    """Return the path relative to the current folder, else relative to sql/ as in the configuration."""
    there = Path(file).expanduser()
    within = project.root / "sql" / there
    return within if not there.exists() and within.exists() else there.absolute()


def _write(settings: Settings, parts: Iterator[Part], form: str) -> None:
    from dwhctl.cli.common.rows import open_writer
    from dwhctl.query import AnswerEnd, Changed, QueryColumns, Rows

    writer = open_writer(form)
    for part in parts:
        match part:
            case QueryColumns(names):
                writer.begin(names)
            case Rows(rows):
                writer.rows(rows)
            case AnswerEnd(rows, cut):
                writer.end()
                if cut:
                    tell(f"there are more rows than these {rows:,}; --limit 0 shows all")
            case Changed(changed) if not settings.quiet:
                tell("done" if changed is None else f"{counted(changed, 'row')} changed")


_PARTS = ("extract", "ready", "create", "source", "publish", "direct", "all")


@exit_codes(ExitCode.FAILED, ExitCode.INTERRUPTED)
@click.command("render")
@click.argument("name", shell_complete=complete_loads_and_reports)
@click.option(
    "--date", "day", metavar="D", default="yesterday", show_default=True, help=f"The day: {DATE_HELP}"
)
@click.option(
    "--shard", metavar="S", shell_complete=complete_shards, help="A load's shard; default: the first."
)
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice(_PARTS),
    help="What to show, repeatable; default: the extract of a load, all of a report.",
)
@click.option("--create", is_flag=True, help="Short for --part create.")
@click.option("--online", is_flag=True, help="Read the columns of the publish statements from the warehouse.")
@with_settings
def render_command(
    settings: Settings,
    name: str,
    day: str,
    shard: str | None,
    parts: tuple[str, ...],
    create: bool,
    online: bool,
) -> None:
    """Show the SQL of the load or report NAME for the day D as it would run, with its bound values.

    A load has an extract, a ready if it waits for one, a create and what publishes a slice, in PostgreSQL also what
    writes one directly that is the only one of its load in a run; a report has a create, a source and what replaces the
    table's rows. Comments say where each runs. Without --online there is no connection:
    values that only the warehouse knows, or that each attempt chooses, are shown as <...>, and COMMIT as a comment.
    With it, only the query for the columns is run.

    The table of a load without a create is made from the columns that a shard declares: --create asks the first shard
    that can be reached, or that of --shard, and shows the statements.

    \b
    Examples:
      dwhctl render orders --date yesterday --shard abakan
      dwhctl render orders --date yesterday --part publish --online
      dwhctl render orders --create > sql/orders/create.sql
      dwhctl render city_orders --date yesterday
    """
    from dwhctl.project.days import resolve_day

    project = settings.open_project()
    wanted = (*parts, "create") if create else parts
    shown = _shown(project, name, shard, wanted, resolve_day(day, project.zone), online)
    for number, part in enumerate(shown):
        if number:
            say()
        alone = not part.is_sql or (len(shown) == 1 and part.name in ("extract", "ready", "source"))
        _show_sql(part, comments=not settings.quiet, ended=not alone)


def _show_sql(part: RenderedPart, *, comments: bool, ended: bool) -> None:
    def comment(*lines: str) -> None:
        for line in lines if comments else ():
            say(f"-- {one_line(line)}")

    comment(part.about, *part.notes)
    for statement in part.statements[:-1] if part.has_placeholders else part.statements:
        comment(*([statement.about] if statement.about else []), *map(_value, statement.values.items()))
        with suppress(BrokenPipeError):  # the reader needs no more
            write_out(mask(_ended(statement.sql) if ended else statement.sql.rstrip()))
    if part.has_placeholders:
        comment(f"{part.statements[-1].sql} is a comment here, because of the placeholders above")


def _shown(
    project: Project, name: str, shard: str | None, parts: Sequence[str], day: date, online: bool
) -> list[RenderedPart]:
    from dwhctl.check.offline import load_parts, report_parts
    from dwhctl.project.loads import Load
    from dwhctl.project.names import find_load_or_report

    found = find_load_or_report(project, name)
    if isinstance(found, Load):
        kind = "load"
        asked = online or "create" in parts
        rendered = load_parts(
            project,
            found,
            _shards(project, found, shard),
            day,
            online=online,
            describe=asked,
            direct=not {"direct", "all"}.isdisjoint(parts),
        )
        default = ["extract"]
    else:
        if shard is not None:
            raise UsageError(f"{name} is a report, which has no shards; leave --shard out")
        kind, rendered = "report", report_parts(project, found, day, online=online)
        default = list(rendered)
    wanted = list(rendered) if "all" in parts else list(parts) or default
    for part in wanted:
        if part not in rendered:
            raise UsageError(f"{name} is a {kind}, which has no {part}; its parts are {', '.join(rendered)}")
        if part == "create" and found.create is None and part in parts and kind == "report":
            raise UsageError(f"the report {name} has no create; its table has to be there")
    return [render() for part, render in rendered.items() if part in wanted]


def _value(named: tuple[str, object]) -> str:
    """Return a bound value as text: a time as a person writes it, a list as SQL does."""
    name, value = named
    name = name if name.startswith(":") else f"${name}"
    if isinstance(value, datetime):
        value = value.isoformat(sep=" ")
    elif isinstance(value, list):
        texts = ("'" + str(item).replace("'", "''") + "'" for item in value)
        value = f"[{', '.join(texts)}]"
    return f"{name} = {value}"


def _ended(sql: str) -> str:
    """End a statement by a semicolon, which a comment in its last line must not swallow."""
    sql = sql.rstrip()
    return f"{sql}\n;" if "--" in sql.rpartition("\n")[2] else f"{sql};"


def _shards(project: Project, load: Load, name: str | None) -> Sequence[Shard]:
    from dwhctl.query import find_shard

    shards = project.shards_of(load)
    if not shards:
        raise UsageError(f"the shard group '{load.shards}' of the load '{load.name}' is empty")
    return shards if name is None else [find_shard(project, shards, name, f"in the load '{load.name}'")]
