"""Projects with past sessions for the page: all well, a server down, an outage, the first day, a dead cron."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import time_machine

from dwhctl.monitor.coverage import grouped
from dwhctl.project.model import Project
from dwhctl.sessions import Closing, NewSession, State, open_store
from dwhctl.sessions.values import is_good
from dwhctl.verify.findings import Check, SliceComparison, SliceFinding
from dwhctl.verify.last import keep_last
from tests.support.projects import Sandbox

#: 07:05 in Moscow, the time zone of the sandbox.
NOW = datetime(2020, 7, 14, 4, 5, tzinfo=UTC)
TODAY = date(2020, 7, 14)
DAYS = [TODAY - timedelta(days=back) for back in range(1, 15)][::-1]
#: What a slice's session ends with, and its comment, by its shard's number and day.
Outcome = Callable[[int, date], tuple[State, str | None]]
LOST = "server_0: the server cannot be reached: connection refused"
_KEYS = 'start_date = 2020-07-01\nschedule = "0 6 * * *"\ndeadline = "07:00"\nretries = 1\n'


def all_well(number: int, day: date) -> tuple[State, str | None]:
    """Every slice is loaded; some have no rows."""
    return (State.SKIPPED if (number + day.day) % 17 == 0 else State.LOADED), None


def server_down(number: int, day: date) -> tuple[State, str | None]:
    """Three shards of the first server fail since three days."""
    if number < 3 and day >= TODAY - timedelta(days=3):
        return State.FAILED, LOST
    return all_well(number, day)


def outage(number: int, day: date) -> tuple[State, str | None]:
    """Every shard fails since three days."""
    return (State.FAILED, LOST) if day >= TODAY - timedelta(days=3) else all_well(number, day)


def make(root: Path, shards: int = 150, servers: int = 10, *, reports: bool = True) -> Sandbox:
    """Write a project with so many shards and, with `reports`, a report that needs all of them."""
    names = [f"city_{number:03}" for number in range(shards)]
    each = -(-shards // servers)
    groups = {f"server_{number}": names[number * each : (number + 1) * each] for number in range(servers)}
    sandbox = Sandbox(root, servers={name: group for name, group in groups.items() if group}, load_keys=_KEYS)
    sandbox.write()
    if reports:
        sandbox.put(
            "config/reports.toml",
            '[reports.city_orders]\nconnection = "warehouse"\nsource = "stage.orders"\ntarget = "reports.orders"\n'
            'needs = [{ load = "orders" }]\ndeadline = "07:00"\n',
        )
    return sandbox


def fill(project: Project, outcome: Outcome = all_well, days: list[date] | None = None) -> None:
    """Write a session of each shard on each day: a run on the morning after it, and the report's after that."""
    shards = [shard for group in project.shard_groups.values() for shard in group]
    with open_store(project.sessions) as store:
        store.prepare()
        for day in days if days is not None else DAYS:
            at = datetime(day.year, day.month, day.day, 3, tzinfo=UTC) + timedelta(days=1)
            run = f"{at:%Y%m%dT%H%M%S}-0a1b2c3d"
            new = [
                NewSession(
                    run,
                    "orders",
                    shard.name,
                    day,
                    1,
                    f"{day}-{number}",
                    at + timedelta(seconds=number),
                    number % 4 + 1,
                )
                for number, shard in enumerate(shards)
            ]
            store.close(list(_closings(store.open(new), new, outcome)))
            if project.reports:
                begun = at + timedelta(minutes=20)
                report = NewSession(
                    f"{begun:%Y%m%dT%H%M%S}-0a1b2c3e", "city_orders", None, day, 1, f"r{day}", begun
                )
                [report_id] = store.open([report])
                store.close([Closing(report_id, State.LOADED, begun + timedelta(seconds=9), 1000)])


def _closings(ids: list[int], sessions: list[NewSession], outcome: Outcome) -> Iterator[Closing]:
    for number, (id_, session) in enumerate(zip(ids, sessions, strict=True)):
        state, comment = outcome(number, session.day)
        rows = 1000 + number if state is State.LOADED else 0 if is_good(state) else None
        ended = session.started + timedelta(seconds=2 + number % 7)
        error = None if is_good(state) else "SourceUnavailableError"
        yield Closing(id_, state, ended, rows, rows, 1000, error, comment, busy_seconds=1.5)


def write_log(project: Project, run_id: str, ids: Iterable[int], text: str = "no route to host") -> None:
    """Write the log of a run: lines that are no news, then the failure of each of these sessions."""
    folder = project.state_dir / "logs"
    folder.mkdir(exist_ok=True)
    lines = [
        {
            "time": "2020-07-13T03:00:01+00:00",
            "level": level,
            "event": event,
            "etl_id": id_,
            "message": message,
        }
        for id_ in ids
        for level, event, message in (
            ("info", "session opened", ""),
            ("error", "attempt failed", f"{text} ({id_})"),
        )
    ]
    (folder / f"{run_id}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def write_logs(project: Project) -> None:
    """Write the logs of all runs of loads."""
    with open_store(project.sessions) as store:
        sessions = store.recent(10_000)
    for run_id, of_run in grouped(sessions, lambda session: session.run_id).items():
        write_log(project, run_id, [session.id for session in of_run if not is_good(session.state)])


def verified(project: Project, *, is_equal: bool) -> None:
    """Keep what `verify` found two hours ago: everything equal, or a shard with a row too few."""
    shards = [shard for group in project.shard_groups.values() for shard in group]
    results = [SliceComparison("orders", shard.name, DAYS[-1], rows=1000) for shard in shards]
    if not is_equal:
        results[7].findings.append(SliceFinding(Check.ROWS, "1,000", "999"))
    with time_machine.travel(NOW - timedelta(hours=2), tick=False):
        keep_last(project, "orders", DAYS[-1:], (), results)
