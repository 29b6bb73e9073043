"""A digest as the text of a message: the filters of templates, and a template rendered as a page.

A template renders to the channel's HTML, and the plain text is made of that. The package's templates are in
`templates/`; a channel's key `template` is the file of another one. A recovery has a block of its own, `recovered`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import ChoiceLoader, FileSystemLoader, PrefixLoader, nodes
from jinja2.meta import find_referenced_templates
from markupsafe import Markup

from dwhctl.alerts.digest import Digest, Reason, Recovery, RunKind, StillFailing
from dwhctl.core.secrets import mask
from dwhctl.core.words import ACTING, counted, one_line
from dwhctl.project.context import Names, context
from dwhctl.project.model import Alert, Project
from dwhctl.project.problems import source_text
from dwhctl.project.sandbox import TemplateSandbox
from dwhctl.project.templates import new_environment, render_in

TEMPLATES = Path(__file__).parent / "templates"
_NAME, _SUBJECT = 64, 150
#: Renders the template for so many reasons, and shards of each.
Page = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Message:
    """What a channel sends: `html` in the HTML that it understands, `text` the same as plain text."""

    subject: str
    html: str
    text: str

    @classmethod
    def titled(cls, title: str, html: str, text: str) -> Message:
        """Return a message whose subject is the first line of the title."""
        return cls(clipped(first_line(title) or "dwhctl", _SUBJECT), html, text)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a channel answered to a message that it took, as `message 4711`.

    `migrated_to` is the chat's new id, when Telegram gave it one: the configuration should be changed. `refused` lists
    recipients that did not get a mail, each with the server's reason, while others did.
    """

    answer: str
    migrated_to: str | None = None
    refused: tuple[str, ...] = ()


Texts = TypeVar("Texts")
_ACTING = {code: one_line(f".{chr(code)}.")[1:-1] for code in ACTING}
_ACTING |= {ord(space): " " for space in "\t\n\r"}
_ACTING |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd")  # half a character has no UTF-8


def shown(text: str) -> str:
    """Return the text for one line of a message, without secrets, control characters and what is no Unicode."""
    return mask(text).translate(_ACTING).strip()


def fit_to_show(value: Texts) -> Texts:
    """Return a digest, or a part of one, with every text in it as `shown` makes it."""
    made: Any = value
    if isinstance(value, str):
        made = shown(value)
    elif isinstance(value, tuple):
        made = tuple(map(fit_to_show, value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        made = dataclasses.replace(value, **{name: fit_to_show(getattr(value, name)) for name in names})
    return made  # type: ignore[no-any-return]


def finalized(value: Any) -> Any:
    """Return what a template prints: a text without secrets and controls but its newlines. Markup stays markup.

    What a digest does not have (`digest.remark`, `reason.since`) is printed as nothing.
    """
    if value is None:
        return ""
    if isinstance(value, Markup):
        return Markup(mask(value))  # noqa: S704 - masking adds no markup
    if not isinstance(value, str):
        return value
    return "\n".join(mask(line).translate(_ACTING) for line in mask(value).split("\n"))


def in_json(value: Any) -> Any:
    """Return what a template prints within a text of JSON, escaped for it. Markup, as of `tojson`, stays markup."""
    shown_value = finalized(value if value is None or isinstance(value, Markup) else str(value))
    if isinstance(shown_value, Markup):
        return shown_value
    return Markup(json.dumps(shown_value, ensure_ascii=False)[1:-1])  # noqa: S704 - escaped for JSON


def first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def clipped(text: str, length: int) -> str:
    """Return the text, or its beginning and an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


def listed(names: Sequence[str], most: int) -> str:
    """Return `abakan, achinsk ... and 36 more`."""
    # One name more than the most is shorter than "... and 1 more".
    count = len(names) if len(names) <= most + 1 else most
    more = len(names) - count
    few = ", ".join(clipped(name, _NAME) for name in names[:count])
    return f"{few} ... and {more:,} more" if more else few


def spanned(days: Sequence[date]) -> str:
    """Return `2020-07-13`, or `13 days from 2020-07-01 to 2020-07-13`."""
    found = sorted(set(days))
    return str(found[0]) if len(found) == 1 else f"{len(found):,} days from {found[0]} to {found[-1]}"


_SIGNS = {"recovered": "🟢", "succeeded": "🟢", "missed": "🟠", "stopped": "⛔", "test": "🔔"}
_ENDS = {"missed": "not in time", "stopped": "did not run"}
_WORDS = {
    RunKind.LOAD: ("slice", "loaded"),
    RunKind.REFRESH: ("report", "refreshed"),
    RunKind.WATCH: ("task", "in time"),
}


def sign(digest: Digest) -> str:
    """Return a coloured mark, which a reader sees before the text."""
    if digest.subject == "recovered" and _still_bad(digest):
        return "🟠"
    return _SIGNS.get(digest.subject) or ("🔴" if is_bad(digest) else "🟢")


def is_bad(digest: Digest) -> bool:
    """Return whether something fails."""
    failing = bool(digest.reasons) or digest.done < digest.total
    return digest.subject == "stopped" or (failing and digest.subject != "recovered")


def headline(digest: Digest) -> str:
    """Return `dwh: orders: 38 slices failed`."""
    test = "a test: " if digest.subject == "test" else ""
    return f"{clipped(digest.project, _NAME)}: {test}{_what(digest)}"


def _what(digest: Digest) -> str:
    if digest.subject == "recovered":
        return "; ".join([_recovered(digest), *_still_bad(digest)])
    unit, done_word = _WORDS[digest.kind]
    if not is_bad(digest):
        if not digest.total:
            return "all done"
        return f"{'all ' if digest.total > 1 else ''}{counted(digest.total, unit)} {done_word}"
    ending = _ENDS.get(digest.subject, "failed")
    if digest.subject == "stopped":
        # With items it is the digest of a later run, which found that this one had died.
        return f"{clipped(digest.command, 100)} {'did not come to its end' if digest.total else ending}"
    bad = digest.total - digest.done
    how_many = f"{counted(bad, unit)} " if bad > 0 else ""
    works = f"{_works(digest.reasons)}: " if digest.reasons else ""
    return f"{works}{how_many}{ending}"


def _recovered(digest: Digest) -> str:
    works = f"{_works(digest.recoveries)} recovered"
    shards = {shard for item in digest.recoveries for shard in item.shards}
    return f"{works} on {counted(len(shards), 'shard')}" if len(digest.recoveries) == 1 and shards else works


def _still_bad(digest: Digest) -> list[str]:
    """Return `6 slices of 2020-07-12 still fail`, with the load's name where another load recovered, and reports."""
    if digest.kind == RunKind.WATCH:
        bad = digest.total - digest.done
        return [f"{_works(digest.reasons)}: {counted(bad, 'task')} still not in time"] if bad > 0 else []
    loads = [item for item in digest.still_failing if item.slices]
    reports = [item for item in digest.still_failing if not item.slices]
    parts: list[tuple[str, list[StillFailing], int]] = []
    if loads:
        slices = sum(item.slices for item in loads)
        is_same = {item.work for item in loads} == {item.work for item in digest.recoveries}
        works = "" if is_same and len(loads) == 1 else f"{_works(loads)}: "
        parts.append((f"{works}{counted(slices, 'slice')}", loads, slices))
    if reports:
        parts.append((_works(reports), reports, len(reports)))
    return [f"{what} of {_days(items)} still fail{'s' if count == 1 else ''}" for what, items, count in parts]


def _days(items: Iterable[StillFailing]) -> str:
    return spanned([day for item in items for day in item.days])


def still(item: StillFailing) -> str:
    """Return `orders: 6 slices of 2020-07-12`, `city_orders of 2020-07-12`."""
    slices = f": {counted(item.slices, 'slice')}" if item.slices else ""
    return f"{clipped(item.work, _NAME)}{slices} of {_days([item])}"


def _works(items: Iterable[Reason | Recovery | StillFailing]) -> str:
    return listed(list(dict.fromkeys(item.work for item in items)), 3)


def tally(digest: Digest) -> str:
    """Return `112 of 150 loaded, 2020-07-14`."""
    done_word = _WORDS[digest.kind][1]
    parts = [f"{digest.done:,} of {digest.total:,} {done_word}"] if digest.total else []
    parts += [spanned(digest.days)] if digest.days else []
    return ", ".join(parts)


def who(reason: Reason) -> str:
    """Return `orders: 38 shards on mssql_1`, `orders: chita on mssql_1`, `city_orders on dwh`."""
    shards = reason.shards
    named = clipped(shards[0], _NAME) if len(shards) == 1 else counted(len(shards), "shard")
    what = f"{clipped(reason.work, _NAME)}: {named}" if shards else clipped(reason.work, _NAME)
    return f"{what} on {clipped(reason.connection, _NAME)}" if reason.connection else what


def streak(reason: Reason, digest: Digest) -> str:
    """Return `3 days in a row, since 2020-07-12`; where the digest is about several days also on which of them."""
    parts = [f"on {spanned(reason.days)}"] if reason.days and len(digest.days) > 1 else []
    parts += [f"{counted(reason.streak, 'day')} in a row"] if reason.streak > 1 else []
    parts += [f"since {reason.since}"] if reason.since else []
    return ", ".join(parts)


def recovery(item: Recovery, most: int) -> str:
    """Return `orders: abakan, achinsk ... and 36 more`."""
    work = clipped(item.work, _NAME)
    return f"{work}: {listed(item.shards, most)}" if item.shards else work


_FILTERS: tuple[Callable[..., object], ...] = (
    *(sign, is_bad, headline, tally, who, streak),
    *(recovery, still, counted, clipped, listed, spanned),
)


BLOCK = "recovered"


def _reads_subject(tree: nodes.Template) -> bool:
    """Return whether a template reads what the message is about, and so has texts for recoveries."""
    return (
        any(name.name == BLOCK and name.ctx == "load" for name in tree.find_all(nodes.Name))
        or any(node.attr == "subject" for node in tree.find_all(nodes.Getattr))
        or any(node.arg == nodes.Const("subject") for node in tree.find_all(nodes.Getitem))
    )


def _has_headline(tree: nodes.Template) -> bool:
    """Return whether a template writes the headline, or `is_bad`: both say of a recovery that it is one."""
    return any(node.name in ("headline", "is_bad") for node in tree.find_all(nodes.Filter))


def _trees(environment: TemplateSandbox, folder: Path, path: Path) -> Iterator[tuple[Path, nodes.Template]]:
    """Yield the template and the files of the folder that it extends or includes, parsed, up to a wrong one."""
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
            return  # rendering raises the error, with its line
        yield file, tree
        left += [
            folder / name for name in find_referenced_templates(tree) if name and (folder / name).is_file()
        ]


def is_json(alert: Alert) -> bool:
    """Return whether the channel's template renders JSON, and not the HTML of chats and mails."""
    return getattr(alert, "service", None) == "json"


def page_of(project: Project, alert: Alert, digest: Digest) -> Page:
    """Return the channel's template for the digest. The page raises ConfigError where the user's template is wrong."""
    digest = fit_to_show(digest)
    folder = project.root / "config" / "alerts"
    environment = _environment(folder, in_json if is_json(alert) else finalized)
    path, only = TEMPLATES / f"{'json' if is_json(alert) else alert.type}.jinja", None
    if alert.template is not None:
        is_recovery = digest.subject == "recovered"
        trees = list(_trees(environment, folder, alert.template))
        blocks = [(file, block.name) for file, tree in trees for block in tree.find_all(nodes.Block)]
        if is_recovery and (found := [file for file, name in blocks if name == BLOCK]):
            path, only = found[0], BLOCK
        elif (
            not is_recovery
            or any(_reads_subject(tree) for _, tree in trees)
            # A program cannot read a document of another form.
            or (is_json(alert) and any(_has_headline(tree) for _, tree in trees))
        ):
            path = alert.template
    works = dict.fromkeys(item.work for item in digest.reasons or digest.recoveries)
    day = max(digest.days, default=datetime.now(project.zone).date())
    names = context(project, day=day) | {
        "digest": digest,
        "channel": alert.name,
        "recovered": digest.subject == "recovered",
        "run_id": digest.run_id or "",
        "dag": Names("dag", {"dag_id": listed(list(works), 3) or digest.project}),
    }

    def page(most: int) -> str:
        given = names | {"most": most}
        return render_in(environment, folder, path, project.root, given, only=only, without=BLOCK)

    return page


@functools.lru_cache(maxsize=8)
def _environment(folder: Path, finalize: Callable[[Any], Any]) -> TemplateSandbox:
    # A template of the user's may take in the package's: {% include "dwhctl/telegram.jinja" %}.
    package = PrefixLoader({"dwhctl": FileSystemLoader(TEMPLATES)})
    environment = new_environment(
        ChoiceLoader([FileSystemLoader(folder), package]), finalize, autoescape=True
    )
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update({function.__name__: function for function in _FILTERS})
    return environment
