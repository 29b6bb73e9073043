"""The page as HTML: the template, its pictures, the Content-Security-Policy; and the file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from msgspec import Struct

from dwhctl.core.errors import DwhctlError
from dwhctl.core.files import write_whole
from dwhctl.core.secrets import mask
from dwhctl.core.words import counted, printable, shown_seconds, shown_time
from dwhctl.monitor.coverage import SliceStatus
from dwhctl.monitor.timeline import Lane, Timeline
from dwhctl.page.data import PageContent, read_page
from dwhctl.page.failing import SessionDetails
from dwhctl.page.grid import status_class
from dwhctl.project.days import format_duration
from dwhctl.project.model import Project
from dwhctl.project.names import in_project
from dwhctl.runtime.failures import AGAIN
from dwhctl.sessions import Session
from dwhctl.verify.last import LastVerify

TEMPLATES = Path(__file__).with_name("templates")
#: A web server's user may read the file: it is for everyone who may open the page.
MODE = 0o644
#: Texts of other programs may be of any length.
_LONGEST_TEXT = 600
_LONGEST_SQL = 6_000
_LONGEST_LOG = 1_500
_LONGEST_CELL_SQL = 3_000
#: Characters of logs, and of SQL, in the details of cells.
_MOST_TEXT = 60_000
_WIDTH = 1_000
#: Bars of a timeline that begin this close to each other, in a thousandth of its width, are one.
_CLOSE = 2


class DrawnBar(Struct, frozen=True):
    """A bar of a timeline in thousandths of its width, and the class of its colour."""

    x: int
    width: int
    kind: str


def page_html(project: Project) -> str:
    """Read the sessions and return the page. Raise SessionsError."""
    return render(read_page(project, datetime.now(UTC)))


def write_page(project: Project, path: Path) -> None:
    """Replace the page's file at once: a reader sees the old one or the new. Raise SessionsError and DwhctlError.

    A symbolic link is replaced, not followed: another user may have put it there.
    """
    try:
        if (path.exists() and not path.is_file()) or path.absolute().is_relative_to("/dev"):
            raise DwhctlError(
                f"the page {path} cannot be written: it is not a regular file; give another path"
            )
        if not path.parent.is_dir():
            raise DwhctlError(f"the page {path} cannot be written: make the folder {path.parent} first")
        write_whole(path, page_html(project), MODE)
    except OSError as error:
        raise DwhctlError(f"the page {path} cannot be written: {error.strerror}") from error


def render(page: PageContent) -> str:
    """Return the HTML of a page. Every value is escaped, masked and without control characters."""
    visible.cache_clear()  # a secret may have been read since
    style, script = (_read(name) for name in ("page.css", "page.js"))
    environment = _environment(page)
    html = environment.get_template("page.jinja").render(
        page=page,
        policy=policy(style, script),
        style=Markup(style),  # noqa: S704 - of the package
        script=Markup(script),  # noqa: S704 - of the package
        details=_details(page),
        verify_command=in_project("dwhctl verify --date yesterday", page.project.root),
        again=AGAIN,
    )
    return html.encode("utf-8", "replace").decode()


def policy(style: str, script: str) -> str:
    """Return the Content-Security-Policy: this style, this script, pictures in the file, and nothing else."""
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8").strip()


def _environment(page: PageContent) -> Environment:
    environment = Environment(
        autoescape=True,
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_safe,
    )
    zone = page.project.zone
    environment.filters |= {
        "time": lambda at: "" if at is None else shown_time(at, zone)[:16],
        "ms": lambda at: "" if at is None else int(at.timestamp() * 1000),
        "cut": lambda text, most=_LONGEST_TEXT: cut(text, most),
        "sql": lambda text: cut(text, _LONGEST_SQL),
        "short": format_duration,
        "found": verify_result,
        "age": _age,
        "seconds": lambda seconds: "" if seconds is None else shown_seconds(seconds),
        "bars": drawn_bars,
        "points": trend_points,
        "status": status_class,
    }
    return environment


def _safe(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@lru_cache(maxsize=4096)
def visible(text: str) -> str:
    """Return a text as the page shows it: no secret, and no character that turns or hides other text."""
    return printable(mask(text))


def cut(text: str, most: int) -> str:
    """Return the text, masked first: half a secret would not be found."""
    shown = visible(text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


class _Texts(dict[str, int]):
    """The texts that the script shows, each once, as many as fit."""

    def __init__(self) -> None:
        super().__init__()
        self._left = dict.fromkeys(("log", "sql"), _MOST_TEXT)

    def place(self, text: str, kind: str | None = None) -> int:
        """Return the number of a text; -1 for none, and for one of a kind of which the page holds enough."""
        if text and text not in self and kind is not None:
            self._left[kind] -= len(text)
            if self._left[kind] < 0:
                return -1
        return self.setdefault(text, len(self)) if text else -1


def _details(page: PageContent) -> dict[str, Any]:
    """Return what the script shows of a cell: the sessions, with reason, log and query; each text once."""
    texts = _Texts()
    sessions = {
        str(id_): _detail(page.sessions[id_], of_session, texts, page.project.zone)
        for id_, of_session in page.details.items()
        if page.sessions[id_].shard
    }
    return {
        "root": visible(str(page.project.root)),
        "letters": {status.letter: status.words for status in SliceStatus},
        "sessions": sessions,
        "texts": list(texts),
    }


def _detail(session: Session, details: SessionDetails, texts: _Texts, zone: ZoneInfo) -> list[Any]:
    text = ": ".join(filter(None, (session.error_class, session.comment)))
    ended = shown_time(session.finished, zone)[:19] if session.finished else ""
    return [
        cut(session.run_id, 80),
        session.attempt,
        shown_time(session.started, zone)[:19],
        ended,
        texts.place(cut(text, _LONGEST_TEXT)),
        texts.place(cut("\n".join(details.lines), _LONGEST_LOG), "log"),
        texts.place(visible(details.bounds), "sql"),
        texts.place(cut(details.sql, _LONGEST_CELL_SQL), "sql"),
    ]


def verify_result(last: LastVerify) -> str:
    """Return what `verify` found, as a sentence."""
    counts = [
        (last.equal, f"{last.equal:,} of {last.slices:,} slices equal ({last.rows:,} rows)"),
        (last.different, f"{last.different:,} different"),
        (last.not_compared, f"{last.not_compared:,} not compared"),
        (last.incomplete, f"{last.incomplete:,} incomplete"),
        (last.others, f"{last.others:,} with rows of no day or shard"),
    ]
    return f"{', '.join(text for count, text in counts if count) or 'nothing to compare'}."


def _age(age: timedelta) -> str:
    minutes = max(int(age.total_seconds() // 60), 0)
    for size, noun in ((1440, "day"), (60, "hour")):
        if minutes >= 2 * size:
            return f"{minutes // size} {noun}s"
    return counted(minutes, "minute")


def drawn_bars(lane: Lane, timeline: Timeline) -> list[DrawnBar]:
    """Return a lane's bars; those that are too close to be seen apart are one, with the worst colour."""
    span = max((timeline.end - timeline.start).total_seconds(), 0.001)

    def place(at: datetime) -> int:
        return min(max(int((at - timeline.start).total_seconds() / span * _WIDTH), 0), _WIDTH - 1)

    found: list[DrawnBar] = []
    worst = -1
    for bar in sorted(lane.bars, key=lambda bar: bar.start):
        first, last = place(bar.start), max(place(bar.end), place(bar.start) + 1)
        badness = bar.status.badness
        kind = status_class(bar.status)
        if found and first < found[-1].x + found[-1].width + _CLOSE and last - first <= _CLOSE * 2:
            kept = found.pop()
            kind = kind if badness > worst else kept.kind
            found.append(DrawnBar(kept.x, max(kept.width, last - kept.x), kind))
            worst = max(worst, badness)
        else:
            found.append(DrawnBar(first, last - first, kind))
            worst = badness
    return found


def trend_points(values: Sequence[float]) -> str:
    """Return the points of a line in a picture of 100 by 20, from the oldest value to the last."""
    greatest = max([*values, 0.001])
    step = 100 / max(len(values) - 1, 1)
    pairs = [
        f"{round(place * step)},{round(19 - value / greatest * 18, 1):g}"
        for place, value in enumerate(values)
    ]
    return " ".join(pairs if len(pairs) > 1 else [*pairs, pairs[0].replace("0,", "100,", 1)])
