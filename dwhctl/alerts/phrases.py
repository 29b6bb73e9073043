"""What every channel says in the same words: filters for the templates, each a digest's fact as a phrase."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .digest import RunKind
from .wording import clipped, counted, listed, spanned

if TYPE_CHECKING:
    from .digest import Digest, Reason, Recovery, StillFailing

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
