"""Messages: a digest put into words for a channel.

A template of the package says what stands where; a channel's key `template` names another one. It renders to the
channel's HTML, and the plain text is made of that: both tell the same. A recovery is written as `recovered` says.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import ChoiceLoader, FileSystemLoader, PrefixLoader, nodes
from jinja2.meta import find_referenced_templates

from dwhctl.alerts.channels import FILTERS, clipped, finalized, fit_to_show, listed
from dwhctl.project.context import Names, context
from dwhctl.project.model import EmailAlert
from dwhctl.project.problems import source_text
from dwhctl.project.sandbox import TemplateSandbox
from dwhctl.project.templates import new_environment, render_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dwhctl.alerts.digest import Digest
    from dwhctl.project.model import Alert, Project


_BLOCKS = {
    "p",
    "div",
    "h1",
    "h2",
    "h3",
    "h4",
    "ul",
    "ol",
    "li",
    "table",
    "tr",
    "pre",
    "blockquote",
    "hr",
    "br",
}
_HEADINGS = {"h1", "h2", "h3", "h4"}
_SPACED = {"p", "table", "blockquote"}
_UNSEEN = {"style", "script", "title", "head"}
_SPACES = re.compile(r"[ \t\n\r\f]+")
_EMPTY_LINES = re.compile(r"\n{3,}")


def read(html: str) -> tuple[str, str]:
    """The page's title and its text."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = "\n".join(line.strip(" ") for line in "".join(reader.text).split("\n"))
    return _SPACES.sub(" ", "".join(reader.title)).strip(), _EMPTY_LINES.sub("\n\n", lines).strip()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self.text: list[str] = []
        self._inside: list[str] = []
        self._breaks = 0  # newlines that come before the next text

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag in _BLOCKS:
            self._breaks = max(self._breaks, 2 if tag in _SPACED | _HEADINGS else 1)
        if tag == "li":
            self._write("- ")
        elif tag in {"td", "th"}:
            self._write("  ")
        if tag in _UNSEEN or tag == "pre":
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self._breaks = max(self._breaks, 2 if tag in _SPACED else 1)
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        inside = self._inside[-1] if self._inside else ""
        if inside == "title":
            self.title.append(data)
        elif inside == "pre":
            self._write(data)
        elif inside not in _UNSEEN:
            self._write(_SPACES.sub(" ", data))

    def _write(self, text: str) -> None:
        if self._breaks and not text.isspace():
            self.text.append("\n" * self._breaks)
            self._breaks = 0
        if not self._breaks:
            self.text.append(text)


#: In UTF-16 units after the entities are parsed; Telegram refuses more than 4,096.
LIMIT = 3500
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9-]*)[^>]*>")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|lt|gt|amp|quot);")
_TELEGRAM_EMPTY_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+\n")
#: Room for "... and 12,345 more lines".
_TAIL = 40


def plain(html: str) -> str:
    """The text that Telegram shows."""
    return _ENTITY.sub(lambda entity: unescape(entity[0]), _TAG.sub("", html))


def length(html: str) -> int:
    """The length that Telegram counts, in UTF-16 units."""
    return _units(plain(html))


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def tidied(html: str) -> str:
    """The HTML without the empty lines that conditions of a template leave."""
    lines = "\n".join(line.rstrip() for line in html.split("\n"))
    return _TELEGRAM_EMPTY_LINES.sub("\n\n", lines).strip()


def cut(html: str, limit: int = LIMIT) -> str:
    """The HTML, or as many of its lines as fit, its tags closed and the number of lines left out at its end."""
    if length(html) <= limit:
        return html
    lines = html.split("\n")
    kept, tags = _lines_that_fit(lines, limit - _TAIL)
    if kept == 0:
        return _first_line_cut(lines, limit)
    closing = "".join(f"</{name}>" for name in reversed(tags))
    return "\n".join(lines[:kept]).rstrip() + closing + _more(len(lines) - kept)


def _lines_that_fit(lines: list[str], room: int) -> tuple[int, list[str]]:
    """How many of the lines fit, and the tags that are open after them."""
    tags: list[str] = []
    for number, line in enumerate(lines):
        room -= length(line) + 1
        if room < 0:
            return number, tags
        tags = _open_after(line, tags)
    return len(lines), tags


def _open_after(line: str, tags: list[str]) -> list[str]:
    tags = list(tags)
    for tag in _TAG.finditer(line):
        if not tag[1]:
            tags.append(tag[2].lower())
        elif tags:
            tags.pop()
    return tags


def _first_line_cut(lines: list[str], limit: int) -> str:
    """The beginning of a first line that alone is too long, without its tags."""
    # A character takes at most two units.
    text, room = plain(lines[0]), limit - _TAIL - 1
    while _units(text) > room:
        text = text[: len(text) - max(1, (_units(text) - room) // 2)]
    return escape(text) + "…" + (_more(len(lines) - 1) if len(lines) > 1 else "")


def _more(count: int) -> str:
    return f"\n... and {count:,} more line{'' if count == 1 else 's'}"


BLOCK = "recovered"


def file_with_block(environment: TemplateSandbox, folder: Path, path: Path) -> Path | None:
    """Return the file that holds the block: the template, or what it extends or includes; None without one."""
    for file, tree in _trees(environment, folder, path):
        if any(block.name == BLOCK for block in tree.find_all(nodes.Block)):
            return file
    return None


def tells_recoveries_apart(environment: TemplateSandbox, folder: Path, path: Path) -> bool:
    """Return whether the template, or a file that it takes in, reads what the message is about."""
    return any(_reads_it(tree) for _, tree in _trees(environment, folder, path))


def _reads_it(tree: nodes.Template) -> bool:
    return (
        any(name.name == BLOCK and name.ctx == "load" for name in tree.find_all(nodes.Name))
        or any(one.attr == "subject" for one in tree.find_all(nodes.Getattr))
        or any(one.arg == nodes.Const("subject") for one in tree.find_all(nodes.Getitem))
    )


def _trees(environment: TemplateSandbox, folder: Path, path: Path) -> Iterator[tuple[Path, nodes.Template]]:
    """Give the template and the files of the folder that it takes in, parsed; a wrong one ends it."""
    left, seen = [path], set()
    while left:
        file = left.pop(0)
        if file in seen:
            continue
        seen.add(file)
        try:
            with environment.bounded():
                tree = environment.parse(source_text(file, folder), filename=str(file))
        except Exception:
            return  # whoever renders it gets the error, with its line
        yield file, tree
        left += [
            folder / name for name in find_referenced_templates(tree) if name and (folder / name).is_file()
        ]


TEMPLATES = Path(__file__).parent / "templates"
#: How many reasons a message tells, and shards of each; where that is too long, fewer.
_TELEGRAM_SHOWS = (8, 5, 3, 1)
_MAIL_SHOWS = 60
_SUBJECT_LENGTH = 150

#: Renders the template for so many reasons, and shards of each.
Page = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Message:
    """What a channel sends: `html` in the HTML that it understands, `text` with the same facts without any."""

    subject: str
    html: str
    text: str


def render(project: Project, alert: Alert, digest: Digest) -> Message:
    """Put the digest into words for the channel. Raise ConfigError for a template of the user's that is wrong."""
    page = _page_of(project, alert, fit_to_show(digest))
    return _mail(page) if isinstance(alert, EmailAlert) else _telegram(page)


def _telegram(page: Page) -> Message:
    html = ""
    for most in _TELEGRAM_SHOWS:
        html = tidied(page(most))
        if length(html) <= LIMIT:
            break
    html = cut(html)
    text = plain(html)
    return Message(_subject(text), html, text)


def _mail(page: Page) -> Message:
    html = page(_MAIL_SHOWS)
    title, text = read(html)
    return Message(_subject(title or text), html, text)


def _subject(text: str) -> str:
    lines = text.split("\n")
    return clipped(next((line.strip() for line in lines if line.strip()), "dwhctl"), _SUBJECT_LENGTH)


def _page_of(project: Project, alert: Alert, digest: Digest) -> Page:
    folder = project.root / "config" / "alerts"
    environment = _environment(folder)
    names = _names(project, alert, digest)
    path, only = TEMPLATES / f"{alert.type}.jinja", None
    if alert.template is not None:
        with_block = file_with_block(environment, folder, alert.template)
        if digest.subject != "recovered" or tells_recoveries_apart(environment, folder, alert.template):
            path = alert.template
        if digest.subject == "recovered" and with_block is not None:
            path, only = with_block, BLOCK

    def page(most: int) -> str:
        given = names | {"most": most}
        return render_in(environment, folder, path, project.root, given, only=only, without=BLOCK)

    return page


def _names(project: Project, alert: Alert, digest: Digest) -> dict[str, Any]:
    """Give what a template may name: as SQL does, for the newest day of the digest, and the digest."""
    day = max(digest.days, default=datetime.now(project.zone).date())
    works = dict.fromkeys(one.work for one in digest.reasons or digest.recoveries)
    return context(project, day=day) | {
        "digest": digest,
        "channel": alert.name,
        "recovered": digest.subject == "recovered",
        "run_id": digest.run_id or "",
        "dag": Names("dag", {"dag_id": listed(list(works), 3) or digest.project}),
    }


@functools.lru_cache(maxsize=8)
def _environment(folder: Path) -> TemplateSandbox:
    # A template of the user's may take in the package's: {% include "dwhctl/telegram.jinja" %}.
    package = PrefixLoader({"dwhctl": FileSystemLoader(TEMPLATES)})
    environment = new_environment(
        ChoiceLoader([FileSystemLoader(folder), package]), finalized, autoescape=True
    )
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update(FILTERS)
    return environment
