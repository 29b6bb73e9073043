"""`dwhctl page`: the state of everything as one HTML file, or over HTTP for a look."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dwhctl.cli.common.ending import exit_codes
from dwhctl.cli.common.options import Settings, with_settings
from dwhctl.cli.common.output import say, tell, write_out
from dwhctl.core.errors import ExitCode, Interrupted, UsageError
from dwhctl.core.words import shown_path

if TYPE_CHECKING:
    from dwhctl.project.model import Project


@exit_codes(ExitCode.FAILED, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
@click.command("page")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write this file, which replaces the old one at once; '-' is stdout. Default: `path` of [page].",
)
@click.option(
    "--serve",
    metavar="[HOST:]PORT",
    help="Show the page over HTTP until Ctrl-C, read only; made anew for each reader. HOST is 127.0.0.1 by default.",
)
@click.option(
    "--allow-remote",
    is_flag=True,
    help="With --serve: accept a HOST that other machines reach. Anyone who reaches it can read names, errors and SQL.",
)
@with_settings
def command(settings: Settings, output: Path | None, serve: str | None, allow_remote: bool) -> ExitCode:
    """Write one HTML page with the state of everything: what fails and why, what is missing, and the commands for it.

    The file is complete in itself: it needs no network and no other file, and can be read without script. With `path`
    in [page] every run writes it at its end, and `watch` too. It reads the sessions table only.

    \b
    Examples:
      dwhctl page --output dwh.html
      dwhctl page --serve 8080
    """
    project = settings.open_project()
    if serve is not None:
        if output is not None:
            raise UsageError("--serve shows the page, --output writes it; give one of them")
        return _serve(project, serve, settings, allow_remote=allow_remote)
    if allow_remote:
        raise UsageError("--allow-remote belongs to --serve")
    path = output or project.page.path
    if path is None:
        raise UsageError('say where to write the page: --output FILE, or path = "FILE" below [page]')
    _write(project, path, settings)
    return ExitCode.DONE


def _write(project: Project, path: Path, settings: Settings) -> None:
    from dwhctl.page.render import page_html, write_page

    if str(path) == "-":
        write_out(page_html(project), end="")
        return
    write_page(project, path)
    if not settings.quiet:
        say(f"written: {shown_path(path, Path.cwd())}")


def _serve(project: Project, address: str, settings: Settings, *, allow_remote: bool) -> ExitCode:
    from dwhctl.core.waiting import caught_signals
    from dwhctl.page.server import parse_address, serving

    host, port = parse_address(address, allow_remote=allow_remote)
    try:
        with caught_signals(), serving(project, host, port) as server:
            if not settings.quiet:
                tell(f"{server.url} shows the page; Ctrl-C ends it")
            server.serve_forever(poll_interval=0.2)
    except Interrupted as stop:
        return stop.exit_code
    return ExitCode.DONE
