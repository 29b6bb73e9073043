"""What `config check` looks at beyond the files themselves: every template rendered, every secret read."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dwhctl.alerts.channels import open_channel
from dwhctl.alerts.message import render
from dwhctl.alerts.sample import sample_digests
from dwhctl.errors import ConfigError
from dwhctl.project.masking import SHORTEST
from dwhctl.project.model import Alert, Load, Project, Report
from dwhctl.project.report_sql import report_sql
from dwhctl.project.slices import make_slice, resolve_day
from dwhctl.project.sql import find_binds, same_but_comments, split_statements
from dwhctl.project.templates import render_extract, render_file, render_text
from dwhctl.project.words import shown_path
from dwhctl.sources import extract_problem
from dwhctl.targets import statement_problem, table_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import date

    from dwhctl.project.model import Connection, Shard
    from dwhctl.project.templates import Query


def unreadable_secrets(project: Project) -> list[str]:
    """Say which secrets cannot be read here; where the loads run they may be there."""
    problems = []
    for secret in project.secrets():
        try:
            secret.reveal()
        except ConfigError as error:
            problems.append(str(error))
    return problems


def short_secrets(project: Project) -> list[str]:
    """Say which secrets are so short that they may be any word, so that masks cannot hide them everywhere."""
    problems = []
    for secret in project.secrets():
        with suppress(ConfigError):
            if len(secret.reveal()) < SHORTEST:
                problems.append(
                    f"{secret.place}: the secret has fewer than {SHORTEST} characters: messages hide it only where they"
                    " say that a password follows; choose a longer one"
                )
    return problems


def template_problems(project: Project) -> list[str]:
    """Render every template for yesterday and every shard; say once what is wrong with each."""
    day = resolve_day("yesterday", project.zone)
    found: dict[str, None] = {}
    for load in project.loads.values():
        found.update(dict.fromkeys(_of_load(project, load, day)))
    for report in project.reports.values():
        found.update(dict.fromkeys(_of_report(project, report, day)))
    unreadable = unreadable_secrets(project)
    for alert in project.alerts.values():
        problems = (each for each in _of_alert(project, alert, day) if each not in unreadable)
        found.update(dict.fromkeys(problems))
    return list(found)


def _of_load(project: Project, load: Load, day: date) -> Iterator[str]:
    shown = shown_path(load.extract, project.root)
    for shard in project.shards_of(load):
        try:
            query = render_extract(project, load, shard, make_slice(project, load, shard, day))
            if problem := extract_problem(project.connections[shard.connection], query.sql):
                yield f"{shown}: {problem}"
            elif load.slice_by is not None and not query.binds:
                yield from _same_every_day(project, load, shard, day, query)
        except ConfigError as error:
            yield from str(error).splitlines()
    target = project.connections[load.target]
    if problem := table_problem(target, load.table):
        yield f"config/loads/{load.name}.toml: table: {problem}"
    if load.create is not None:
        yield from _of_create(project, load, load.create, target, day)


def _same_every_day(project: Project, load: Load, shard: Shard, day: date, query: Query) -> Iterator[str]:
    before = make_slice(project, load, shard, day - timedelta(days=1))
    if same_but_comments(render_extract(project, load, shard, before).sql, query.sql):
        yield (
            f"{shown_path(load.extract, project.root)}: gives the same rows for every day, and a slice takes the rows"
            f" of its day only; write WHERE {load.slice_by} >= :start AND {load.slice_by} < :end, or drop slice_by"
        )


def _of_create(
    project: Project, work: Load | Report, create: Path, target: Connection, day: date
) -> Iterator[str]:
    shown = shown_path(create, project.root)
    try:
        statements = split_statements(render_file(project, create, work, day))
    except ConfigError as error:
        yield from str(error).splitlines()
        return
    if not statements:
        yield f"{shown}: holds no statement; write a CREATE TABLE IF NOT EXISTS"
    for statement in statements:
        if binds := find_binds(statement):
            yield f"{shown}: ':{binds[0].name}' is bound to nothing in a create; write the date as '{{{{ ds }}}}'"
        elif problem := statement_problem(target, statement):
            yield f"{shown}: {problem}"


def _of_report(project: Project, report: Report, day: date) -> Iterator[str]:
    target = project.connections[report.connection]
    if problem := table_problem(target, report.target):
        yield f"config/reports.toml: reports.{report.name}.target: {problem}"
    try:
        source = report_sql(project, report, day).source
        if source.is_query and (problem := statement_problem(target, source.text)):
            place = f"config/reports.toml: reports.{report.name}.source"
            if isinstance(report.source, Path):
                place = shown_path(report.source, project.root)
            yield f"{place}: {problem}"
    except ConfigError as error:
        yield from str(error).splitlines()
    if report.create is not None:
        yield from _of_create(project, report, report.create, target, day)


def _of_alert(project: Project, alert: Alert, day: date) -> Iterator[str]:
    yield from _of_texts(project, alert)
    attempts: list[Callable[[], object]] = [
        partial(open_channel, project, alert),
        *(partial(render, project, alert, digest) for digest in sample_digests(project, day)),
    ]
    problems: dict[str, None] = {}
    for attempt in attempts:
        try:
            attempt()
        except ConfigError as error:
            problems |= dict.fromkeys(str(error).splitlines())
    yield from problems


def _of_texts(project: Project, alert: Alert) -> Iterator[str]:
    for name, field in type(alert).model_fields.items():
        value = getattr(alert, name)
        texts = value if isinstance(value, tuple) else (value,)
        for text in texts:
            if isinstance(text, str) and "{" in text:
                place = f"config/dwhctl.toml: alerts.{alert.name}.{field.alias or name}"
                try:
                    render_text(project, text, place)
                except ConfigError as error:
                    yield from str(error).splitlines()
