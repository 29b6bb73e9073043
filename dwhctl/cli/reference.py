"""The page docs/reference.md, made from the code: `python -m dwhctl.cli.reference [--check FILE]`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from dwhctl.alerts.message import TEMPLATES
from dwhctl.cli import (
    adopt,
    alert_test,
    connections,
    crontab,
    report_alerts,
    report_durations,
    report_failures,
    report_gaps,
    report_grid,
    report_runs,
    report_sessions,
    report_sla,
    report_timeline,
    sessions,
    verify,
)
from dwhctl.cli.docs import headings
from dwhctl.cli.ending import COMPLETION, EXIT_CODES
from dwhctl.cli.main import dwhctl
from dwhctl.engines import mssql, vertica_types
from dwhctl.errors import ExitCode
from dwhctl.project.reference import config_reference

WIDTH = 100
HEAD = (
    "# Reference: commands, keys, columns, messages, types",
    "",
    "Made from the code by `python -m dwhctl.cli.reference`; do not edit.",
    "",
)
#: The names of the listings' columns, as JSON and CSV write them.
LISTINGS = {
    "alert-test": alert_test.COLUMNS,
    "alert-test --dry-run": alert_test.DRY_RUN_COLUMNS,
    "connections list": connections.LIST_COLUMNS,
    "connections test": connections.TEST_COLUMNS,
    "connections import": connections.IMPORT_COLUMNS,
    "crontab next": crontab.NEXT_COLUMNS,
    "sessions prune": sessions.PRUNE_COLUMNS,
    "report grid": report_grid.COLUMNS,
    "report gaps": report_gaps.COLUMNS,
    "report sla": report_sla.COLUMNS,
    "report timeline": report_timeline.COLUMNS,
    "report failures": report_failures.COLUMNS,
    "report runs": report_runs.COLUMNS,
    "report sessions": report_sessions.COLUMNS,
    "report durations": report_durations.COLUMNS,
    "report alerts": report_alerts.COLUMNS,
    "adopt": adopt.COLUMNS,
    "verify": verify.COLUMNS,
    "verify --against": verify.AGAINST_COLUMNS,
}
ENVIRONMENT = {
    "NO_COLOR": "set to anything: no colours",
    COMPLETION: f'`eval "$({COMPLETION}=bash_source dwhctl)"` in `~/.bashrc` lets the shell complete '
    "commands, options and the project's names; `zsh_source` and `fish_source` likewise",
}


@click.command()
@click.option("--check", "file", type=click.Path(path_type=Path), help="Only say whether FILE is this page.")
def main(file: Path | None) -> ExitCode:
    """Print docs/reference.md."""
    page = reference()
    if file is None:
        click.echo(page, nl=False)
        return ExitCode.DONE
    if file.is_file() and file.read_text(encoding="utf-8") == page:
        return ExitCode.DONE
    remedy = f"write it anew: python -m dwhctl.cli.reference > {file}"
    click.echo(f"{file} is not what the code says; {remedy}", err=True)
    return ExitCode.FAILED


def reference() -> str:
    """Return the whole page: title, contents, sections."""
    body = "\n".join(_lines()).rstrip().splitlines()
    return "\n".join((*HEAD, *_contents(body), "", *body)) + "\n"


def _contents(body: Sequence[str]) -> Iterator[str]:
    """Yield a line for each section, with links to its parts."""
    links: list[list[str]] = []
    for number, level, anchor in headings(body):
        link = f"[{body[number].lstrip('# ')}](#{anchor})"
        if level == 2:
            links.append([link])
        elif level == 3:
            links[-1].append(link)
    for section, *parts in links:
        yield f"- {section}" + (f": {', '.join(parts)}" if parts else "")


def _lines() -> Iterator[str]:
    yield from ("## Commands", "")
    yield from _help_of(dwhctl, click.Context(dwhctl, info_name="dwhctl", terminal_width=WIDTH))
    yield from ("## Exit codes", "", "| code | meaning |", "| --- | --- |")
    yield from (f"| {code.value} | {meaning} |" for code, meaning in EXIT_CODES.items())
    yield from ("", "## Listings", "", "The columns of listings, in the names that JSON and CSV use.", "")
    yield from ("| command | columns |", "| --- | --- |")
    for name, columns in LISTINGS.items():
        yield f"| `dwhctl {name}` | {', '.join(f'`{column}`' for column in columns)} |"
    yield from ("", "## Terminal and shell", "", "| variable | meaning |", "| --- | --- |")
    yield from (f"| `{name}` | {meaning} |" for name, meaning in ENVIRONMENT.items())
    yield from ("", _one_level_down(config_reference()))
    yield from ("### Messages", "", (TEMPLATES / "messages.md").read_text(encoding="utf-8").rstrip())
    yield from (
        "",
        "## Types",
        "",
        "What a source's or a target's type is not in these tables is refused by name.",
        "",
    )
    yield from ("### SQL Server, as a source", "", "| type | arrives as |", "| --- | --- |")
    for row in mssql.TYPES:
        yield f"| `{row.name}` | {row.note if row.kind else _refused(row.note)} |"
    yield from ("", "### Vertica, as a target", "", "| type | holds |", "| --- | --- |")
    yield from (f"| `{name}` | {vertica_types.holds(name)} |" for name in vertica_types.NAMES)


def _refused(remedy: str) -> str:
    instead = f"; instead: `{remedy.format(column='c')}`" if "{column}" in remedy else f": {remedy}"
    return f"refused{instead}"


def _help_of(command: click.Command, context: click.Context) -> Iterator[str]:
    yield from (f"### `{context.command_path}`", "", "```text", command.get_help(context).rstrip(), "```", "")
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            inner = click.Context(child, info_name=name, parent=context, terminal_width=WIDTH)
            yield from _help_of(child, inner)


def _one_level_down(page: str) -> str:
    """Make the page's headings fit under those of this one."""
    return re.sub(r"^#", "##", page, flags=re.MULTILINE)


if __name__ == "__main__":
    raise SystemExit(main(standalone_mode=False))
