"""Messages: a digest put into words for a channel.

A template of the package says what stands where; a channel's key `template` names another one. It renders to the
channel's HTML, and the plain text is made of that: both tell the same. A recovery is written as `recovered` says.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import ChoiceLoader, FileSystemLoader, PrefixLoader

from dwhctl.project.context import Names, context
from dwhctl.project.model import EmailAlert
from dwhctl.project.sandbox import TemplateSandbox
from dwhctl.project.templates import new_environment, render_in

from . import mail_html, telegram_html
from .phrases import FILTERS
from .recovered import BLOCK, file_with_block, tells_recoveries_apart
from .wording import clipped, finalized, fit_to_show, listed

if TYPE_CHECKING:
    from dwhctl.project.model import Alert, Project

    from .digest import Digest

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
        html = telegram_html.tidied(page(most))
        if telegram_html.length(html) <= telegram_html.LIMIT:
            break
    html = telegram_html.cut(html)
    text = telegram_html.plain(html)
    return Message(_subject(text), html, text)


def _mail(page: Page) -> Message:
    html = page(_MAIL_SHOWS)
    title, text = mail_html.read(html)
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
