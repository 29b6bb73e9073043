"""`dwhctl report log`: what a run wrote down while it worked."""

from __future__ import annotations

import click

from dwhctl.cli.options import Settings, common_options, pass_settings


@click.command("log")
@click.argument("run", metavar="RUN")
@click.option("--session", type=click.IntRange(1), metavar="ID", help="Only of this session (etl_id).")
@click.option(
    "--level",
    type=click.Choice(("info", "warning", "error")),
    default="info",
    show_default=True,
    help="Only lines of this level, or a worse one.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="As text, or the lines as they are: a JSON object each.",
)
@common_options
@pass_settings
def command(settings: Settings, /, run: str, session: int | None, level: str, form: str) -> None:
    """Show the log of the run RUN. RUN is its id, the beginning of it, or 'last'.

    A run writes its log on its own machine, into logs/ of the state folder. Text shows times in the project's time
    zone, JSON in UTC.

    \b
    Examples:
      dwhctl report log last --level warning
      dwhctl report log 20200714T0600 --session 4711
      dwhctl report log last --format json | jq 'select(.state == "failed")'
    """
    from dwhctl.cli.output import one_line, say, tell
    from dwhctl.errors import StateDirError
    from dwhctl.printable import printable_json
    from dwhctl.runs.log_files import find_log
    from dwhctl.runs.log_reader import is_wanted, read_log, text_of
    from dwhctl.runs.state_dir import StateDir

    project = settings.open_project()
    path = find_log(StateDir(project.state_dir).logs, run)
    shown = 0
    try:
        for line in read_log(path):
            if is_wanted(line, session, level):
                shown += 1
                texts = [line.text] if form == "json" else text_of(line.fields, project.zone)
                for text in texts:
                    say(printable_json(text) if form == "json" else _clean(text))
    except OSError as error:
        raise StateDirError(f"the log {path} cannot be read: {error.strerror}") from error
    if not shown and not settings.quiet:
        tell(f"no such line in the log of {one_line(path.stem)}")


def _clean(text: str) -> str:
    """Keep the indentation of what belongs to the line above."""
    from dwhctl.cli.output import one_line

    return "    " * text.startswith("    ") + one_line(text)
