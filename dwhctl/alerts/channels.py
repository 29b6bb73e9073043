"""Words and texts for the templates of messages: what every channel needs to be short, safe and readable."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar

from markupsafe import Markup

from dwhctl.alerts.digest import RunKind
from dwhctl.core.secrets import mask
from dwhctl.core.words import ACTING, one_line

if TYPE_CHECKING:
    from dwhctl.alerts.digest import Digest, Reason, Recovery, StillFailing


Facts = TypeVar("Facts")

_REPLACEMENT = "\ufffd"
_ACTING = {code: one_line(f".{chr(code)}.")[1:-1] for code in ACTING}
_ACTING |= {ord(space): " " for space in "\t\n\r"}
_ACTING |= dict.fromkeys(range(0xD800, 0xE000), _REPLACEMENT)  # half a character has no UTF-8


def shown(text: str) -> str:
    """The text fit for one line of a message: no secret, no control character, nothing that is no Unicode."""
    return mask(text).translate(_ACTING).strip()


def fit_to_show(facts: Facts) -> Facts:
    """The digest with every text in it fit for a line."""
    changed: Facts = _each_text(facts, shown)
    return changed


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_each_text(each, change) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(
            value, **{name: _each_text(getattr(value, name), change) for name in names}
        )
    return value


def finalized(value: Any) -> Any:
    """What a template prints: a text without secrets and controls but its lines. Markup stays markup."""
    if isinstance(value, Markup):
        return Markup(mask(value))  # noqa: S704 - masking adds no markup
    if not isinstance(value, str):
        return value
    return "\n".join(mask(line).translate(_ACTING) for line in mask(value).split("\n"))


def counted(number: int, thing: str) -> str:
    """`1 shard`, `2,000 shards`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def clipped(text: str, length: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


def listed(names: Sequence[str], most: int) -> str:
    """`abakan, achinsk ... and 36 more`."""
    # One more than the most is told rather than hidden behind "1 more".
    count = len(names) if len(names) <= most + 1 else most
    more = len(names) - count
    few = ", ".join(clipped(name, 64) for name in names[:count])
    return f"{few} ... and {more:,} more" if more else few


def spanned(days: Sequence[date]) -> str:
    """`2020-07-13`, or `13 days from 2020-07-01 to 2020-07-13`."""
    each = sorted(set(days))
    return str(each[0]) if len(each) == 1 else f"{len(each):,} days from {each[0]} to {each[-1]}"


_NAME = 64
_SIGNS = {"recovered": "🟢", "succeeded": "🟢", "missed": "🟠", "stopped": "⛔", "test": "🔔"}
_ENDS = {"missed": "not in time", "stopped": "did not run"}


def sign(digest: Digest) -> str:
    """A coloured mark, to be seen before anything is read."""
    if digest.subject == "recovered" and _still_bad(digest):
        return "🟠"
    return _SIGNS.get(digest.subject) or ("🔴" if is_bad(digest) else "🟢")


def is_bad(digest: Digest) -> bool:
    """Whether something is not well."""
    failing = bool(digest.reasons) or digest.done < digest.total
    return digest.subject == "stopped" or (failing and digest.subject != "recovered")


def headline(digest: Digest) -> str:
    """`dwh: orders: 38 slices failed`."""
    test = "a test: " if digest.subject == "test" else ""
    return f"{clipped(digest.project, _NAME)}: {test}{_what(digest)}"


def _what(digest: Digest) -> str:
    if digest.subject == "recovered":
        return "; ".join([_recovered(digest), *_still_bad(digest)])
    if not is_bad(digest):
        return _all_well(digest)
    ending = _ENDS.get(digest.subject, "failed")
    if digest.subject == "stopped":
        # With work of its own it is the digest of a later run, which came upon one that had died.
        return f"{clipped(digest.command, 100)} {'did not come to its end' if digest.total else ending}"
    bad = digest.total - digest.done
    how_many = f"{counted(bad, _unit(digest))} " if bad > 0 else ""
    works = f"{_works(digest.reasons)}: " if digest.reasons else ""
    return f"{works}{how_many}{ending}"


def _recovered(digest: Digest) -> str:
    works = f"{_works(digest.recoveries)} recovered"
    shards = {shard for item in digest.recoveries for shard in item.shards}
    return f"{works} on {counted(len(shards), 'shard')}" if len(digest.recoveries) == 1 and shards else works


def _still_bad(digest: Digest) -> list[str]:
    """`6 slices of 2020-07-12 still fail`, after another load's recovery with that load's name; and the reports."""
    if digest.kind == RunKind.WATCH:
        bad = digest.total - digest.done
        return (
            [f"{_works(digest.reasons)}: {counted(bad, _unit(digest))} still not in time"] if bad > 0 else []
        )
    loads = [item for item in digest.still_failing if item.slices]
    reports = [item for item in digest.still_failing if not item.slices]
    parts = []
    if loads:
        slices = sum(item.slices for item in loads)
        is_same = {item.work for item in loads} == {item.work for item in digest.recoveries}
        works = "" if is_same and len(loads) == 1 else f"{_works(loads)}: "
        parts.append(f"{works}{counted(slices, 'slice')} of {_days(loads)} still {_fail(slices)}")
    if reports:
        parts.append(f"{_works(reports)} of {_days(reports)} still {_fail(len(reports))}")
    return parts


def _fail(count: int) -> str:
    return "fails" if count == 1 else "fail"


def _days(items: Iterable[StillFailing]) -> str:
    return spanned([day for item in items for day in item.days])


def still(item: StillFailing) -> str:
    """`orders: 6 slices of 2020-07-12`, `city_orders of 2020-07-12`."""
    work = clipped(item.work, _NAME)
    return (
        f"{work}: {counted(item.slices, 'slice')} of {_days([item])}"
        if item.slices
        else f"{work} of {_days([item])}"
    )


def _all_well(digest: Digest) -> str:
    if not digest.total:
        return "all done"
    count = "" if digest.total == 1 else "all "
    return f"{count}{counted(digest.total, _unit(digest))} {_done_word(digest)}"


def _works(items: Iterable[Reason | Recovery | StillFailing]) -> str:
    return listed(list(dict.fromkeys(item.work for item in items)), 3)


def _unit(digest: Digest) -> str:
    return {RunKind.LOAD: "slice", RunKind.REFRESH: "report", RunKind.WATCH: "task"}[digest.kind]


def _done_word(digest: Digest) -> str:
    return {RunKind.LOAD: "loaded", RunKind.REFRESH: "refreshed", RunKind.WATCH: "in time"}[digest.kind]


def tally(digest: Digest) -> str:
    """`112 of 150 loaded, 2020-07-14`."""
    parts = [f"{digest.done:,} of {digest.total:,} {_done_word(digest)}"] if digest.total else []
    parts += [spanned(digest.days)] if digest.days else []
    return ", ".join(parts)


def who(reason: Reason) -> str:
    """`orders: 38 shards on mssql_1`, `orders: chita on mssql_1`, `city_orders on dwh`."""
    shards = reason.shards
    named = clipped(shards[0], _NAME) if len(shards) == 1 else counted(len(shards), "shard")
    what = f"{clipped(reason.work, _NAME)}: {named}" if shards else clipped(reason.work, _NAME)
    return f"{what} on {clipped(reason.connection, _NAME)}" if reason.connection else what


def streak(reason: Reason, digest: Digest) -> str:
    """`3 days in a row, since 2020-07-12`; in a digest about several days also on which of them."""
    parts = [f"on {spanned(reason.days)}"] if reason.days and len(digest.days) > 1 else []
    parts += [f"{counted(reason.streak, 'day')} in a row"] if reason.streak > 1 else []
    parts += [f"since {reason.since}"] if reason.since else []
    return ", ".join(parts)


def recovery(item: Recovery, most: int) -> str:
    """`orders: abakan, achinsk ... and 36 more`."""
    work = clipped(item.work, _NAME)
    return f"{work}: {listed(item.shards, most)}" if item.shards else work


FILTERS: dict[str, Callable[..., object]] = {
    each.__name__: each
    for each in (
        sign,
        is_bad,
        headline,
        tally,
        who,
        streak,
        recovery,
        still,
        counted,
        clipped,
        listed,
        spanned,
    )
}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a channel waits, in seconds: to connect, for each answer, for all of a message, when told to wait."""

    connect: float = 5.0
    read: float = 10.0
    total: float = 30.0
    longest_wait: float = 60.0


class Departure:
    """Whether a message is on its way: settled once between the thread that sends it and the one that gives it up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = False
        self._given_up = False

    def begin(self) -> None:
        """The message goes out now; TimeoutError when it was given up."""
        with self._lock:
            if self._given_up:
                raise TimeoutError
            self._begun = True

    def give_up(self) -> bool:
        """The message goes out no more; whether it had begun to."""
        with self._lock:
            self._given_up = True
            return self._begun


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a channel answered to a message that it took, as `message 4711`.

    `migrated_to` is the chat's new id, when Telegram gave it one: the configuration should be changed. `refused`
    names recipients of a mail that did not get it, each with the server's reason, while others did.
    """

    answer: str
    migrated_to: str | None = None
    refused: tuple[str, ...] = ()
