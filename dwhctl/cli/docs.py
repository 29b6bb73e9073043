"""`dwhctl docs`: the documentation in the terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from dwhctl.cli.common.listing import Listing
from dwhctl.cli.common.options import Settings, with_settings
from dwhctl.cli.common.output import say, screen, write_out
from dwhctl.core.errors import DwhctlError, UsageError
from dwhctl.core.words import nearest, one_line

#: Longer lines are tiring to read.
MOST_COLUMNS = 120
#: The subject of a page whose title does not have it.
ABOUT = {"readme": "What dwhctl is, for whom, how to begin, and all commands"}
_FENCE = re.compile(r"^(```|~~~)")
_HEADING = re.compile(r"^(#+) +(.*)")
_LINK = re.compile(r"!?\[([^\]]*)\]\(([^)]*)\)")


def pages() -> dict[str, Path]:
    """Return the pages by name: those of the wheel, or of the checkout that dwhctl is installed from."""
    package = Path(__file__).parents[1]
    checkout = package.parent
    in_checkout = (checkout / "README.md", *(checkout / "docs").glob("*.md"))
    for paths in ((package / "docs").glob("*.md"), in_checkout):
        if found := {path.stem.lower(): path for path in paths if path.is_file()}:
            return dict(sorted(found.items()))
    raise DwhctlError(f"the documentation is not in {package / 'docs'}; install dwhctl again")


def complete_pages(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in pages() if name.startswith(incomplete)]


@click.command("docs")
@click.argument("page", required=False, metavar="[PAGE[#SECTION]]", shell_complete=complete_pages)
@with_settings
def command(_settings: Settings, page: str | None) -> None:
    """Show a page of the documentation, or one section of it; without PAGE, list the pages.

    On a terminal a long page opens in a pager ($PAGER, else less). In a pipe it is Markdown.

    \b
    Examples:
      dwhctl docs
      dwhctl docs alerts
      dwhctl docs alerts#when-nothing-happens
      dwhctl docs reference | grep -n max_shrink
    """
    if page is None:
        _list_pages()
        return
    name, _, section = page.partition("#")
    text = _read(name)
    _show(_section(name, text, section) if section else text)


def _list_pages() -> None:
    rows = [(name, ABOUT.get(name) or _title(path)) for name, path in pages().items()]
    Listing[tuple[str, str]]("page", "about").show(rows)
    say()
    say("Show one with: dwhctl docs PAGE")


def _title(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").rstrip()


def _read(name: str) -> str:
    known = pages()
    # A path in the repository is accepted as well.
    path = known.get(name.lower().removeprefix("docs/").removesuffix(".md"))
    if path is None:
        near = nearest(name, known)
        end = "" if near.endswith("?") else ";"
        raise UsageError(f"there is no page '{one_line(name)}': {near}{end} `dwhctl docs` lists all")
    return path.read_text(encoding="utf-8")


def _section(name: str, text: str, wanted: str) -> str:
    """Return the section whose heading has this anchor, as GitHub makes them. Raise UsageError."""
    lines = text.splitlines(keepends=True)
    heads = headings(lines)
    anchors = {anchor: place for place, (_, _, anchor) in reversed(list(enumerate(heads)))}
    place = anchors.get(wanted.lower())
    if place is None:
        raise UsageError(f"page {name} has no section '{one_line(wanted)}'; {nearest(wanted, anchors)}")
    start, level, _ = heads[place]
    end = next((line for line, depth, _ in heads[place + 1 :] if depth <= level), len(lines))
    return "".join(lines[start:end])


def headings(lines: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return the line, the level and the anchor of each heading."""
    found = []
    in_code = False
    for number, line in enumerate(lines):
        if _FENCE.match(line):
            in_code = not in_code
        elif not in_code and (heading := _HEADING.match(line)):
            found.append((number, len(heading[1]), _anchor(heading[2])))
    return found


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def _show(text: str) -> None:
    size = screen()
    if size is None or os.environ.get("TERM") == "dumb":
        write_out(text, end="")
        return
    columns, lines = size
    rendered = _rendered(text, min(columns, MOST_COLUMNS))
    if rendered.count("\n") > lines - 2 and sys.stdin.isatty():
        click.echo_via_pager(rendered)
    else:
        write_out(rendered, end="", drawn=True)


def _rendered(text: str, columns: int) -> str:
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.theme import Theme

    # rich's own style of code has a black background.
    theme = Theme({"markdown.code": "bold cyan", "markdown.code_block": "cyan"})
    console = Console(file=sys.stdout, width=columns, highlight=False, theme=theme)
    with console.capture() as captured:
        console.print(Markdown(_LINK.sub(_command_of, text), code_theme="ansi_dark", hyperlinks=False))
    return captured.get()


def _command_of(link: re.Match[str]) -> str:
    """Return a link to another page as a command, and a picture as its title."""
    label, target = link.groups()
    if link[0].startswith("!"):
        return f"*(a picture: {label})*"
    if page := re.fullmatch(r"(?:docs/)?([\w-]+)\.md(#.*)?", target):
        return f"{label} (`dwhctl docs {page[1]}{page[2] or ''}`)"
    return link[0] if "://" in target else label
