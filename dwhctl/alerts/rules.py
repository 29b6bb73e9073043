"""The rules of a channel: which part of an outcome concerns it, whether it is told of it, and in which digest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from dwhctl.alerts.digest import Digest, Reason, Recovery, StillFailing, Subject
from dwhctl.alerts.state import Fact, GoodDays, Memory, StateChange, judge, remember, without_unknown
from dwhctl.core.errors import Missed, is_error
from dwhctl.project.loads import is_expected
from dwhctl.sessions.task_states import unsuccessful_slices
from dwhctl.sessions.values import as_day, as_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dwhctl.alerts.digest import AlertFailure, Item, Outcome, Stop
    from dwhctl.project.model import Alert, Occasion, Project
    from dwhctl.sessions.store import Execute
    from dwhctl.sessions.task_states import UnsuccessfulSlice


#: What failed longer ago, and was not tried again, is not mentioned beside a recovery.
_LOOK_BACK = timedelta(days=30)
#: Work, shard (a report has none) and day; no day for a load without `slice_by`, whose success replaces all its rows.
_Task = tuple[str, str, "date | None"]


def covers(alert: Alert, kind: Literal["load", "report"], work: str) -> bool:
    """Tell whether the channel is for the load or report: without `loads` and `reports` it is for all."""
    if not alert.loads and not alert.reports:
        return True
    return work in (alert.loads if kind == "load" else alert.reports)


@dataclass(frozen=True, slots=True)
class Covered:
    """What the channels of a project cover. Without a sessions database `execute` is None, and only the run counts."""

    project: Project
    execute: Execute | None

    def count_all_done(self, alert: Alert, part: Outcome) -> int | None:
        """Count the tasks that the channel covers on the dates of the run; None when the last attempt at one failed.

        A run of loads is asked about loads, one of reports about reports. `part` is what concerns the channel.
        """
        expected = set(self._expected(alert, part))
        done = {self._task(item.work, item.shard, item.day) for item in part.items if item.ending == "done"}
        # A shadow run alone loads nothing that a channel covers.
        if not expected & done:
            return None
        missing = expected - done
        if missing and self.execute is None:
            return None
        days = _days(part)
        for work in {work for work, _, _ in missing}:
            missing -= set(self._done(work, days[0], days[-1]))
        return None if missing else len(expected)

    def _expected(self, alert: Alert, part: Outcome) -> Iterator[_Task]:
        kinds, days = {item.kind for item in part.items}, _days(part)
        if "report" in kinds:
            names = (name for name in self.project.reports if covers(alert, "report", name))
            yield from ((name, "", day) for name in names for day in days)
        if "load" in kinds:
            for load in self.project.loads.values():
                if load.shadow_of is None and covers(alert, "load", load.name):
                    for shard in self.project.shards_of(load):
                        for day in days:
                            if is_expected(load, shard, day):
                                yield self._task(load.name, shard.name, day)

    def _task(self, work: str, shard: str, day: date | None) -> _Task:
        return work, shard, None if shard and self._is_whole(work) else day

    def _is_whole(self, work: str) -> bool:
        load = self.project.loads.get(work)
        return load is None or load.slice_by is None

    def _done(self, work: str, first: date, last: date) -> Iterator[_Task]:
        """Give the tasks of a load or report whose last closed session succeeded."""
        assert self.execute is not None
        values = {"load": work, "first": first, "last": last}
        for shard, day, is_good in self.execute("closed_slices", values):
            if is_good:
                yield self._task(work, as_text(shard), as_day(day))

    def still_failing(self, alert: Alert, now: datetime) -> tuple[StillFailing, ...]:
        """Return what the channel covers and whose last session failed, as `report failures` would."""
        if self.execute is None:
            return ()
        shards = {
            (load.name, shard.name): shard
            for load in self.project.loads.values()
            if covers(alert, "load", load.name)
            for shard in self.project.shards_of(load)
        }
        found: dict[tuple[str, bool], list[UnsuccessfulSlice]] = {}
        for one in unsuccessful_slices(self.execute("unsuccessful_slices", {"since": now - _LOOK_BACK})):
            if one.shard is None:
                counts = one.load in self.project.reports and covers(alert, "report", one.load)
            else:
                shard = shards.get((one.load, one.shard))
                counts = shard is not None and is_expected(self.project.loads[one.load], shard, one.day)
            if counts and not (one.replaced and (one.shard is None or self._is_whole(one.load))):
                found.setdefault((one.load, one.shard is None), []).append(one)
        return tuple(
            StillFailing(work, 0 if is_report else len(slices), tuple(sorted({one.day for one in slices})))
            for (work, is_report), slices in sorted(found.items())
        )


def _days(part: Outcome) -> list[date]:
    return sorted({item.day for item in part.items if item.day is not None})


#: In place of a shard: a fact that is over when it is told, and never recovers.
_PASSED = "(passed)"
#: What was not told again for so long will not be any more: the crontab's line or the shard is gone.
_FORGET_AFTER = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Streak:
    """How many days in a row a task fails, and since which. `newest`: its newest day of all is among them."""

    days: int
    since: date | None
    newest: bool = True


#: The failing streaks of a load's shards, as `report failures` counts them; a shard without one is not in it.
Streaks = Mapping[tuple[str, str], Streak]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a channel is told of a run: the digest, if any, and what it remembers afterwards.

    `memory` takes the outbox's row of the digest; what is not in it any more stands in `forget`.
    """

    digest: Digest | None
    forget: frozenset[Fact]
    memory: Callable[[int | None], Memory]


def concerns(alert: Alert, outcome: Outcome) -> Outcome:
    """Give the part of the outcome that the channel is there for."""
    if not alert.loads and not alert.reports:
        return outcome
    items = tuple(item for item in outcome.items if covers(alert, item.kind, item.work))
    # A command that did not get to its work concerns those whom its work concerns; or all, if that is not known.
    names = {*alert.loads, *alert.reports}
    stops = tuple(stop for stop in outcome.stops if not stop.works or stop.works & names)
    return replace(outcome, items=items, stops=stops)


def decide(
    covered: Covered,
    alert: Alert,
    outcome: Outcome,
    memory: Memory,
    streaks: Streaks | None,
    now: datetime,
) -> Decision:
    """Decide what the channel is told of the outcome. Without a sessions database the streaks are None."""
    project, part = covered.project, concerns(alert, outcome)
    troubles = _troubles(part)
    failing = {fact: _is_newest(fact, streaks) for fact in troubles}
    oldest = now - max(_FORGET_AFTER, 2 * alert.repeat_after)
    ours = {fact: told for fact, told in memory.items() if _is_about(part, fact)}
    known = without_unknown(ours, lambda fact: _is_known(project, fact), oldest)
    verdict = judge(known, failing, _good_days(part), now=now, repeat_after=alert.repeat_after)
    told = troubles if _is_told_of_failures(alert, part) else {}
    all_done = covered.count_all_done(alert, part) if _may_be_all_success(alert, part) else None
    digest = _digest(project, alert, part, told, verdict, streaks or {}, all_done)
    forget = frozenset(ours) - frozenset(verdict.memory)
    if digest is None:
        return Decision(None, forget, lambda _: verdict.memory)
    shown = {fact: failing[fact] for fact in told}
    return Decision(digest, forget, lambda row: remember(verdict.memory, shown, now=now, alert_id=row))


def _is_about(outcome: Outcome, fact: Fact) -> bool:
    """Tell whether the outcome says anything of the fact: a run tells of failures, a watch of what is not in time."""
    return fact.work == outcome.command or is_error(fact.error_class, Missed) == outcome.missed


#: The troubles behind each fact.
_Troubles = Mapping[Fact, "list[AlertFailure]"]


def _troubles(outcome: Outcome) -> _Troubles:
    found: dict[Fact, list[AlertFailure]] = {}
    for fact, trouble in (*map(_of_item, _failed(outcome)), *map(_of_stop, outcome.stops)):
        found.setdefault(fact, []).append(trouble)
    return found


def _failed(outcome: Outcome) -> list[Item]:
    return [item for item in outcome.items if item.ending == "failed" and item.trouble is not None]


def _of_item(item: Item) -> tuple[Fact, AlertFailure]:
    assert item.trouble is not None
    trouble = item.trouble
    return Fact(item.work, trouble.connection, trouble.error_class, item.shard, item.day), trouble


def _of_stop(stop: Stop) -> tuple[Fact, AlertFailure]:
    trouble = stop.trouble
    shard = _PASSED if stop.passing else ""
    return Fact(stop.command, trouble.connection, trouble.error_class, shard), trouble


def _is_newest(fact: Fact, streaks: Streaks | None) -> bool:
    """Tell whether no later day of the task is well: if one is, only a success of this day ends the failure."""
    if streaks is None or fact.day is None or not fact.shard:
        return True
    streak = streaks.get(fact.task)
    return streak is not None and streak.newest and (streak.since is None or fact.day >= streak.since)


def _good_days(outcome: Outcome) -> GoodDays:
    good: dict[tuple[str, str], set[date | None]] = {}
    for item in outcome.items:
        if item.ending == "done":
            good.setdefault((item.work, item.shard), set()).add(item.day)
    if outcome.completed:
        good.setdefault((outcome.command, ""), set()).add(None)
    return {task: frozenset(days) for task, days in good.items()}


def _is_known(project: Project, fact: Fact) -> bool:
    load = project.loads.get(fact.work)
    return load is None or not fact.shard or any(fact.shard == one.name for one in project.shards_of(load))


# The digest


def _digest(
    project: Project,
    alert: Alert,
    part: Outcome,
    troubles: _Troubles,
    verdict: StateChange,
    streaks: Streaks,
    all_done: int | None,
) -> Digest | None:
    subject = _subject(alert, part, verdict, is_failing=bool(troubles), is_all_done=all_done is not None)
    if subject is None:
        return None
    # What no channel has taken yet is not unchanged.
    known = all(verdict.memory[fact].heard for fact in troubles if fact in verdict.memory)
    again = bool(troubles) and subject != "recovered" and not verdict.news and known
    return Digest(
        subject=subject,
        project=project.root.name,
        command=part.stops[0].command if subject == "stopped" else part.command,
        kind=part.kind,
        run_id=part.run_id,
        days=tuple(sorted({item.day for item in part.items if item.day})),
        done=all_done or sum(item.ending == "done" for item in part.items),
        total=all_done or len(part.items),
        reasons=_reasons(troubles, streaks),
        recoveries=_recoveries(verdict.heard),
        missing=part.missing,
        look=part.look if troubles or subject == "done" else None,
        remark="unchanged since it was last told" if again else None,
    )


def _is_told_of_failures(alert: Alert, part: Outcome) -> bool:
    occasion: Occasion = "sla_miss" if part.missed else "one_failed"
    # Who waits to hear of missed deadlines hears that nobody can look for them.
    return "all_done" in alert.when or occasion in alert.when or (part.routine and "sla_miss" in alert.when)


def _may_be_all_success(alert: Alert, part: Outcome) -> bool:
    if "all_success" not in alert.when or part.routine or part.stops or not part.completed:
        return False
    return bool(part.items) and all(item.ending == "done" for item in part.items)


def _subject(
    alert: Alert, part: Outcome, verdict: StateChange, *, is_failing: bool, is_all_done: bool
) -> Subject | None:
    """Name what the digest is about; None when the channel is told nothing."""
    always = "all_done" in alert.when and not part.routine
    if is_failing and (always or verdict.news or verdict.due):
        return "missed" if part.missed else "failed" if _failed(part) else "stopped"
    if is_all_done:
        # With the recoveries, if there are any: the run that repairs the last one sends one message.
        return "succeeded"
    if verdict.heard:
        return "recovered"
    return "done" if part.items and always else None


def _reasons(troubles: _Troubles, streaks: Streaks) -> tuple[Reason, ...]:
    groups: dict[tuple[str, str, str], list[Fact]] = {}
    for fact, found in troubles.items():
        of_work = found[0].of_work
        groups.setdefault((fact.work, "" if of_work else fact.connection, fact.error_class), []).append(fact)
    reasons = [_reason(facts, troubles, streaks) for facts in groups.values()]
    return tuple(
        sorted(reasons, key=lambda one: (-len(one.shards), one.work, one.connection, one.error_class))
    )


def _reason(facts: Iterable[Fact], troubles: _Troubles, streaks: Streaks) -> Reason:
    facts = sorted(facts, key=lambda fact: (fact.shard, fact.day or date.min, fact.connection))
    found = [one for fact in facts for one in troubles[fact]]
    messages = Counter(_first_line(one.message) for one in found)
    known = [streaks[fact.task] for fact in facts if fact.task in streaks]
    first = facts[0]
    return Reason(
        work=first.work,
        connection=first.connection if len({fact.connection for fact in facts}) == 1 else "",
        error_class=first.error_class,
        message=messages.most_common(1)[0][0],
        shards=tuple(dict.fromkeys(fact.shard for fact in facts if fact.shard not in ("", _PASSED))),
        days=tuple(sorted({fact.day for fact in facts if fact.day})),
        streak=max((one.days for one in known), default=0),
        since=min((one.since for one in known if one.since), default=None),
        advice=next((one.advice for one in found if one.advice), ""),
        remedy=next((one.remedy for one in found if one.remedy), ""),
        last_lines=next((one.lines for one in found if one.lines), ()),
    )


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _recoveries(facts: Iterable[Fact]) -> tuple[Recovery, ...]:
    shards: dict[str, set[str]] = {}
    for fact in facts:
        shards.setdefault(fact.work, set()).update({fact.shard} - {""})
    return tuple(Recovery(work, tuple(sorted(names))) for work, names in sorted(shards.items()))
