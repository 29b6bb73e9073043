"""The rules of a channel: which part of an outcome it covers, whether it is notified, and with which digest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Literal, NamedTuple

from dwhctl.alerts.digest import (
    AlertFailure,
    Digest,
    Outcome,
    Reason,
    Recovery,
    StillFailing,
    Subject,
    merged,
)
from dwhctl.alerts.message import first_line
from dwhctl.alerts.state import (
    AlertState,
    Failing,
    FailureKey,
    GoodDays,
    StateChange,
    deduplicate,
    with_notified,
    without_unknown,
)
from dwhctl.core.errors import Missed, is_error
from dwhctl.project.loads import Load, Shard, is_expected
from dwhctl.project.model import Alert, Occasion, Project
from dwhctl.sessions.store import Execute
from dwhctl.sessions.task_states import UnsuccessfulSlice, closed_slices, unsuccessful_slices

#: What failed longer ago, and was not tried again, is not mentioned beside a recovery.
_LOOK_BACK = timedelta(days=30)
#: Work, shard (a report has none) and day; no day for a load without `slice_by`, whose success replaces all its rows.
_Task = tuple[str, str, "date | None"]


@dataclass(frozen=True, slots=True)
class ChannelScope:
    """What a channel covers. Without a sessions database `execute` is None, and only the run counts."""

    project: Project
    alert: Alert
    execute: Execute | None

    def includes(self, kind: Literal["load", "report"], work: str) -> bool:
        """Return whether the channel covers the load or report: without `loads` and `reports` it covers all."""
        alert = self.alert
        if not alert.loads and not alert.reports:
            return True
        return work in (alert.loads if kind == "load" else alert.reports)

    def part_of(self, outcome: Outcome) -> Outcome:
        """Return the part of the outcome that the channel covers."""
        works = {*self.alert.loads, *self.alert.reports}
        items = tuple(item for item in outcome.items if self.includes(item.kind, item.work))
        # A command that was stopped concerns the channels of its loads and reports; all channels if these are unknown.
        stops = tuple(stop for stop in outcome.stops if not works or not stop.works or stop.works & works)
        return replace(outcome, items=items, stops=stops)

    def count_all_done(self, part: Outcome) -> int | None:
        """Count the tasks of the channel on the dates of the run; None when one failed, or no message is wanted.

        After a run of loads the loads count, after one of reports the reports. `part` is what the channel covers.
        """
        # That an earlier run died is no failure of this one.
        stopped = any(not stop.passing for stop in part.stops) or not part.completed
        if "all_success" not in self.alert.when or part.routine or stopped:
            return None
        if any(item.status != "done" for item in part.items):
            return None
        expected = set(self._expected(part))
        done = {self._task(item.work, item.shard, item.day) for item in part.items if item.status == "done"}
        # A shadow run alone loads nothing that a channel covers.
        if not expected & done:
            return None
        missing = expected - done
        if missing and self.execute is None:
            return None
        for work in {work for work, _, _ in missing}:
            missing -= set(self._done(work, part.days[0], part.days[-1]))
        return None if missing else len(expected)

    def _expected(self, part: Outcome) -> Iterator[_Task]:
        kinds = {item.kind for item in part.items}
        if "report" in kinds:
            names = (name for name in self.project.reports if self.includes("report", name))
            yield from ((name, "", day) for name in names for day in part.days)
        for load, shard in self._shards().values() if "load" in kinds else ():
            if load.shadow_of is None:
                days = (day for day in part.days if is_expected(load, shard, day))
                yield from (self._task(load.name, shard.name, day) for day in days)

    def _shards(self) -> dict[tuple[str, str], tuple[Load, Shard]]:
        loads = (load for load in self.project.loads.values() if self.includes("load", load.name))
        return {
            (load.name, shard.name): (load, shard) for load in loads for shard in self.project.shards_of(load)
        }

    def _task(self, work: str, shard: str, day: date | None) -> _Task:
        return work, shard, None if shard and self._is_whole(work) else day

    def _is_whole(self, work: str) -> bool:
        load = self.project.loads.get(work)
        return load is None or load.slice_by is None

    def _done(self, work: str, first: date, last: date) -> Iterator[_Task]:
        assert self.execute is not None
        if work in self.project.reports or not self._is_whole(work):
            rows = closed_slices(self.execute, work, first, last)
            yield from (self._task(work, row.shard, row.day) for row in rows if row.succeeded)
            return
        # A date is only a label here: a later success for it or a newer one clears a failure, as in `report failures`.
        cleared: dict[str, date] = {}
        failing: set[str] = set()
        rows = closed_slices(self.execute, work, first, date.max)
        for row in sorted(rows, key=lambda row: row.id, reverse=True):
            if row.succeeded:
                cleared[row.shard] = max(row.day, cleared.get(row.shard, row.day))
            elif row.day <= last and cleared.get(row.shard, date.min) < row.day:
                failing.add(row.shard)
        yield from (self._task(work, shard, None) for shard in cleared.keys() - failing)

    def still_failing(self, now: datetime) -> tuple[StillFailing, ...]:
        """Return what the channel covers and whose last session failed, as `report failures` does."""
        if self.execute is None:
            return ()
        shards = self._shards()
        found: dict[tuple[str, bool], list[UnsuccessfulSlice]] = {}
        for failed in unsuccessful_slices(self.execute, now - _LOOK_BACK):
            if failed.shard is None:
                counts = failed.load in self.project.reports and self.includes("report", failed.load)
            else:
                covered = shards.get((failed.load, failed.shard))
                counts = covered is not None and is_expected(*covered, failed.day)
            if counts and not (failed.replaced and (failed.shard is None or self._is_whole(failed.load))):
                found.setdefault((failed.load, failed.shard is None), []).append(failed)
        return tuple(
            StillFailing(work, 0 if is_report else len(slices), tuple(sorted({item.day for item in slices})))
            for (work, is_report), slices in sorted(found.items())
        )


#: In place of a shard: the failure is over at its notification, and never recovers.
_PASSED = "(passed)"
#: A failure without a message for so long gets none any more: the crontab's line or the shard is gone.
_FORGET_AFTER = timedelta(days=30)


class Streak(NamedTuple):
    """How many days in a row a task fails, and since which. `newest`: its newest day of all is among them."""

    days: int
    since: date | None
    newest: bool = True


#: The failing streaks of a load's shards, as `report failures` counts them; a shard without one is not in it.
Streaks = Mapping[tuple[str, str], Streak]


@dataclass(frozen=True, slots=True)
class Decision:
    """The digest for a channel, if any; the failures that it reports; what the channel's state loses (`forget`)."""

    digest: Digest | None
    reported: Failing
    forget: frozenset[FailureKey]
    #: Without a message.
    state: AlertState
    now: datetime

    def state_after(self, alert_id: int | None) -> AlertState:
        """Return the channel's state after the digest, which is this row of the outbox."""
        return with_notified(self.state, self.reported, now=self.now, alert_id=alert_id)


def decide(
    scope: ChannelScope, outcome: Outcome, state: AlertState, streaks: Streaks | None, now: datetime
) -> Decision:
    """Decide with what the channel is notified of the outcome. Without a sessions database the streaks are None."""
    alert, part = scope.alert, scope.part_of(outcome)
    failures = _failures(part)
    failing = {key: _is_newest(key, streaks) for key in failures}
    # A run is about failures, a watch about what is not in time.
    ours = {
        key: notified
        for key, notified in state.items()
        if key.work == part.command or is_error(key.error_class, Missed) == part.missed
    }
    oldest = now - max(_FORGET_AFTER, 2 * alert.repeat_after)
    known = without_unknown(ours, lambda key: _is_known(scope.project, key), oldest)
    change = deduplicate(known, failing, _good_days(part), now=now, repeat_after=alert.repeat_after)
    shown = failures if _wants_failures(alert, part) else {}
    digest = _digest(scope, part, shown, change, streaks or {})
    reported = {key: failing[key] for key in shown} if digest is not None else {}
    return Decision(digest, reported, frozenset(ours) - frozenset(change.state), change.state, now)


def _failures(outcome: Outcome) -> dict[FailureKey, list[AlertFailure]]:
    found: dict[FailureKey, list[AlertFailure]] = {}
    for item, failure in outcome.failed:
        key = FailureKey(item.work, failure.connection, failure.error_class, item.shard, item.day)
        found.setdefault(key, []).append(failure)
    for stop in outcome.stops:
        shard = _PASSED if stop.passing else ""
        key = FailureKey(stop.command, stop.failure.connection, stop.failure.error_class, shard)
        found.setdefault(key, []).append(stop.failure)
    return found


def _is_newest(key: FailureKey, streaks: Streaks | None) -> bool:
    """Return whether no later day of the task succeeded: if one did, only a success of this day ends the failure."""
    if streaks is None or key.day is None or not key.shard:
        return True
    streak = streaks.get(key.task)
    return streak is not None and streak.newest and (streak.since is None or key.day >= streak.since)


def _good_days(outcome: Outcome) -> GoodDays:
    good: dict[tuple[str, str], set[date | None]] = {}
    for item in outcome.items:
        if item.status == "done":
            good.setdefault((item.work, item.shard), set()).add(item.day)
    if outcome.completed:
        good.setdefault((outcome.command, ""), set()).add(None)
    return {task: frozenset(days) for task, days in good.items()}


def _is_known(project: Project, key: FailureKey) -> bool:
    load = project.loads.get(key.work)
    return load is None or not key.shard or any(key.shard == shard.name for shard in project.shards_of(load))


def _digest(
    scope: ChannelScope,
    part: Outcome,
    failures: Mapping[FailureKey, list[AlertFailure]],
    change: StateChange,
    streaks: Streaks,
) -> Digest | None:
    alert = scope.alert
    all_done = scope.count_all_done(part)
    subject = _subject(alert, part, change, is_failing=bool(failures), is_all_done=all_done is not None)
    if subject is None:
        return None
    # What no channel has taken yet is not unchanged.
    is_delivered = all(change.state[key].delivered for key in failures if key in change.state)
    is_unchanged = bool(failures) and subject != "recovered" and not change.new and is_delivered
    return Digest(
        subject=subject,
        project=scope.project.root.name,
        command=part.stops[0].command if subject == "stopped" else part.command,
        kind=part.kind,
        run_id=part.run_id,
        days=part.days,
        done=all_done or sum(item.status == "done" for item in part.items),
        total=all_done or len(part.items),
        reasons=_reasons(failures, streaks),
        recoveries=merged(Recovery(key.work, (key.shard,) if key.shard else ()) for key in change.announced),
        missing=part.missing,
        look=part.look if failures or subject == "done" else None,
        remark="unchanged since the last message" if is_unchanged else None,
    )


def _wants_failures(alert: Alert, part: Outcome) -> bool:
    occasion: Occasion = "sla_miss" if part.missed else "one_failed"
    # A channel for missed deadlines is also notified that these cannot be checked.
    return "all_done" in alert.when or occasion in alert.when or (part.routine and "sla_miss" in alert.when)


def _subject(
    alert: Alert, part: Outcome, change: StateChange, *, is_failing: bool, is_all_done: bool
) -> Subject | None:
    always = "all_done" in alert.when and not part.routine
    if is_failing and (always or change.new or change.due):
        return "missed" if part.missed else "failed" if part.failed else "stopped"
    if is_all_done:
        # With the recoveries, if there are any: a run that repairs the last one sends one message.
        return "succeeded"
    if change.announced:
        return "recovered"
    return "done" if part.items and always else None


def _reasons(failures: Mapping[FailureKey, list[AlertFailure]], streaks: Streaks) -> tuple[Reason, ...]:
    groups: dict[tuple[str, str, str], list[FailureKey]] = {}
    for key, found in failures.items():
        connection = "" if found[0].of_work else key.connection
        groups.setdefault((key.work, connection, key.error_class), []).append(key)
    reasons = [_reason(keys, failures, streaks) for keys in groups.values()]
    return tuple(
        sorted(reasons, key=lambda item: (-len(item.shards), item.work, item.connection, item.error_class))
    )


def _reason(
    keys: Iterable[FailureKey], failures: Mapping[FailureKey, list[AlertFailure]], streaks: Streaks
) -> Reason:
    keys = sorted(keys, key=lambda key: (key.shard, key.day or date.min, key.connection))
    found = [failure for key in keys for failure in failures[key]]
    known = [streaks[key.task] for key in keys if key.task in streaks]
    first = keys[0]
    return Reason(
        work=first.work,
        connection=first.connection if len({key.connection for key in keys}) == 1 else "",
        error_class=first.error_class,
        message=Counter(first_line(failure.message) for failure in found).most_common(1)[0][0],
        shards=tuple(dict.fromkeys(key.shard for key in keys if key.shard not in ("", _PASSED))),
        days=tuple(sorted({key.day for key in keys if key.day})),
        streak=max((streak.days for streak in known), default=0),
        since=min((streak.since for streak in known if streak.since), default=None),
        advice=next((failure.advice for failure in found if failure.advice), ""),
        remedy=next((failure.remedy for failure in found if failure.remedy), ""),
        last_lines=next((failure.lines for failure in found if failure.lines), ()),
    )
