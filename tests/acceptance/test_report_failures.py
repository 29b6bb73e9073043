"""`report failures`: nothing that fails is hidden, and the command that it shows really tries it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dwhctl.cli.report import slices as report_failures
from dwhctl.runtime import failures
from dwhctl.runtime.plan import LoadRequest, candidates
from dwhctl.sessions import Closing, NewSession, State, open_store
from tests.cli_support import dwh
from tests.support.projects import CREATE, Sandbox, days_from
from tests.support.reports import Place

Run = Callable[..., int]
KEYS = 'retries = 0\nretry_delay = "0s"'
TODAY = datetime.now(UTC).date()
DAYS = days_from(TODAY - timedelta(days=5), 5)
YESTERDAY = DAYS[-1]
WHOLE = (
    'shards = "cities"\nextract = "whole.sql"\ntarget = "warehouse"\ntable = "stage.whole"\n'
    'create = "whole_create.sql"\nkey = ["id"]\nretries = 0\n'
)


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """Two shards with orders up to today; nothing is loaded yet."""
    servers = {"server_0": ["abakan"], "server_1": ["chita"]}
    create = CREATE.replace("stage.orders (", "{{ load.table }} (")
    sandbox = Sandbox(tmp_path / "project", servers, timezone="UTC", load_keys=KEYS, create=create).write()
    return sandbox.fill(3, [*DAYS, TODAY])


@pytest.fixture
def run(sandbox: Sandbox) -> Run:
    """Run a command in this process on the project."""
    return lambda *words: dwh(*words, "--project", sandbox.root)


def broken(sandbox: Sandbox, shard: str = "chita") -> None:
    sandbox.in_shard(shard, "ALTER TABLE orders RENAME TO hidden")


def mended(sandbox: Sandbox, shard: str = "chita") -> None:
    sandbox.in_shard(shard, "ALTER TABLE hidden RENAME TO orders")


def failing(run: Run, capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, Any]]:
    """Give the rows of JSON; the exit code says the same."""
    capsys.readouterr()
    code = run("report", "failures", "--format", "json", "--exit-code", *options)
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert code == (1 if rows else 0)
    return rows


def try_again(task: dict[str, Any], *more: str) -> int:
    """Run the command of a task, as it is written."""
    program, *words = shlex.split(task["command"])
    assert program == "dwhctl"
    return dwh(*words, *more)


def loaded_since(sandbox: Sandbox, before: int) -> list[tuple[str | None, date]]:
    """Name the slices of the sessions after that id, in order."""
    found = [one for one in sandbox.sessions_newest_first() if one.id > before]
    return [(one.shard, one.day) for one in reversed(found)]


def newest_id(sandbox: Sandbox) -> int:
    return sandbox.sessions_newest_first(1)[0].id


def test_todays_success_does_not_hide_yesterdays_failure(
    sandbox: Sandbox, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.load(YESTERDAY, shards=("abakan",))
    broken(sandbox)
    assert sandbox.load(YESTERDAY).failed == 1
    mended(sandbox)
    assert sandbox.load(TODAY).failed == 0
    [task] = failing(run, capsys)
    assert tuple(task) == report_failures.FAILURES.names
    assert (task["task_name"], task["streak"], task["failed_slices"]) == ("orders__chita", 1, 1)
    assert (task["failed"], task["up_for_retry"], task["since"]) == (1, 0, str(YESTERDAY))
    assert run("report", "failures") == 0
    assert f"try again:\n  {task['command']}\n" in capsys.readouterr().out
    before = newest_id(sandbox)
    assert try_again(task, "--inline") == 0
    assert loaded_since(sandbox, before) == [("chita", YESTERDAY)]
    assert failing(run, capsys) == []


def test_a_complete_slice_whose_reload_failed_is_tried_again(
    sandbox: Sandbox, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of days with good ones between them these are loaded again, and no other."""
    assert sandbox.load(*DAYS).failed == 0
    broken(sandbox)
    wanted = [DAYS[0], DAYS[1], DAYS[3]]
    assert sandbox.load(*wanted, shards=("chita",)).failed == 3
    mended(sandbox)
    assert run("report", "gaps", "--exit-code", "-s", DAYS[0]) == 0
    [task] = failing(run, capsys)
    assert (task["failed_slices"], task["streak"], task["since"]) == (3, 1, str(DAYS[3]))
    before = newest_id(sandbox)
    assert try_again(task, "--inline") == 0
    assert sorted(loaded_since(sandbox, before)) == [("chita", day) for day in wanted]
    assert failing(run, capsys) == []


def test_a_backfill_of_long_ago_that_failed_now_is_shown(
    sandbox: Sandbox, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(sandbox)
    long_ago = TODAY - timedelta(days=400)
    sandbox.load(long_ago, long_ago + timedelta(days=1), shards=("chita",))
    mended(sandbox)
    sandbox.load(TODAY)
    [task] = failing(run, capsys, "--days", "1")
    assert (task["failed_slices"], task["streak"], task["since"]) == (2, 2, str(long_ago))
    assert try_again(task, "--inline") == 0
    assert failing(run, capsys) == []


def test_a_load_without_days_is_loaded_whole(
    sandbox: Sandbox, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its dates are labels: a later success clears an earlier failure, whatever its date."""
    sandbox.put("config/loads/whole.toml", WHOLE)
    sandbox.put("sql/whole.sql", "SELECT id, customer, amount, start_time FROM orders")
    sandbox.put("sql/whole_create.sql", CREATE.replace("stage.orders", "stage.whole"))
    broken(sandbox)
    assert sandbox.load(YESTERDAY, loads=("whole",)).failed == 1
    mended(sandbox)
    [task] = failing(run, capsys)
    assert (task["load"], task["shard"], task["failed_slices"]) == ("whole", "chita", 1)
    before = newest_id(sandbox)
    assert try_again(task, "--inline") == 0
    assert loaded_since(sandbox, before) == [("chita", TODAY)]
    assert failing(run, capsys) == []


def test_a_shadow_run_is_tried_again_in_its_table(
    sandbox: Sandbox, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    range_ = ("orders", "-s", DAYS[0], "-e", DAYS[1], "--table", "stage.orders_new", "--inline")
    broken(sandbox)
    assert run("backfill", *range_) == 1
    mended(sandbox)
    [task] = failing(run, capsys)
    assert (task["load"], task["shard"], task["streak"]) == ("orders@stage.orders_new", "chita", 2)
    assert try_again(task, "--inline") == 0
    assert failing(run, capsys) == []
    assert len(sandbox.warehouse("SELECT * FROM stage.orders_new")) == 12


def test_a_report_is_refreshed_again(sandbox: Sandbox, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """It is replaced whole: a later refresh clears an earlier failure, but not that of a newer day."""
    place = Place(sandbox, "BIGINT").make()
    place.execute("ALTER TABLE stage.numbers RENAME TO gone")
    assert len(place.refresh(day=YESTERDAY).failures) == 1
    assert len(place.refresh(day=DAYS[-2]).failures) == 1
    place.execute("ALTER TABLE stage.gone RENAME TO numbers")
    [task] = failing(run, capsys, "--load", "numbers")
    assert (task["shard"], task["failed_slices"], task["streak"]) == (None, 2, 2)
    assert f" --date {YESTERDAY} " in task["command"]
    assert place.refresh(day=DAYS[-2]).failures == []
    [task] = failing(run, capsys)
    assert task["failed_slices"] == 1
    assert try_again(task) == 0
    assert failing(run, capsys) == []


def test_what_is_no_longer_in_the_configuration_is_left_out(
    sandbox: Sandbox, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shard, a load, a report, and a day before a new start date."""
    long_ago = TODAY - timedelta(days=400)
    works = [
        ("orders", "omsk", TODAY), ("old", "chita", TODAY), ("sums", None, TODAY), ("orders", "chita", long_ago)
    ]  # fmt: skip
    with open_store(sandbox.project().sessions) as store:
        store.prepare()
        for number, (load, shard, day) in enumerate(works):
            now = datetime.now(UTC)
            [one] = store.open([NewSession("run", load, shard, day, 1, str(number), now)])
            store.close([Closing(one, State.FAILED, now)])
    sandbox.load_keys += f"\nstart_date = {DAYS[0]}"
    sandbox.write()
    assert failing(run, capsys) == []
    assert run("report", "failures") == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (
        "nothing is failing\nleft out: 4 tasks that are no longer in the configuration; --all shows them\n"
    )
    rows = failing(run, capsys, "--all")
    assert len(rows) == 4
    assert {row["task_name"] for row in rows} == {"orders__omsk", "old__chita", "sums", "orders__chita"}
    assert [row["command"] for row in rows] == [None] * 4
    assert [row["task_name"] for row in failing(run, capsys, "--all", "--shard", "om*")] == ["orders__omsk"]
    assert [row["task_name"] for row in failing(run, capsys, "--all", "--load", "sums")] == ["sums"]


def test_many_shards_are_tried_again_by_one_command(
    sandbox: Sandbox, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """With more shards than are named it goes by --only-failed: also where all these slices are complete."""
    many = [f"city_{number}" for number in range(7)]
    sandbox.servers = {"server_0": ["abakan"], "server_1": ["chita", *many]}
    sandbox.write().fill(2, [YESTERDAY], many)
    assert sandbox.load(YESTERDAY).failed == 0
    for shard in many:
        broken(sandbox, shard)
    assert run("load", "--date", YESTERDAY, "--inline") == 1
    lines = capsys.readouterr().out.splitlines()
    [command] = {line.partition(", then: ")[2] for line in lines if ", then: " in line}
    assert command == f"dwhctl load orders --date {YESTERDAY} --only-failed --project {sandbox.root}"
    assert run("report", "failures") == 0
    assert f"\n  {command}\n" in capsys.readouterr().out
    for shard in many:
        mended(sandbox, shard)
    before = newest_id(sandbox)
    assert run("load", "orders", "--date", YESTERDAY, "--only-failed", "--dry-run") == 0
    assert "would load 7 slices; left out: 2 not failed" in capsys.readouterr().out
    assert run("load", "orders", "--date", YESTERDAY, "--only-failed", "--inline") == 0
    assert sorted(loaded_since(sandbox, before)) == [(shard, YESTERDAY) for shard in many]
    assert failing(run, capsys) == []


def test_an_outage_of_fifty_shards_is_a_line_of_the_table(
    sandbox: Sandbox, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    many = [f"city_{number:02}" for number in range(50)]
    sandbox.servers = {"server_0": ["abakan", "tver"], "server_1": ["chita", *many]}
    sandbox.write()
    began = datetime.now(UTC) - timedelta(hours=1)
    ends: list[tuple[str, date, str]] = [(shard, YESTERDAY, "server_1: refused") for shard in many]
    ends += [("city_07", DAYS[-2], "server_1: refused"), ("abakan", YESTERDAY, "no table")]
    with open_store(sandbox.project().sessions) as store:
        store.prepare()
        for number, (shard, day, comment) in enumerate(ends):
            [one] = store.open([NewSession("run", "orders", shard, day, 1, str(number), began)])
            ended = began + timedelta(seconds=number)
            store.close([Closing(one, State.FAILED, ended, error_class="ConnectError", comment=comment)])
    assert run("report", "failures") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "Error" in line]
    assert len(lines) == 2
    outage, other = (" ".join(line) for line in lines)
    assert outage.startswith(f"orders: 50 shards orders city_07, ... 2 51 0 {DAYS[-2]} ")
    assert outage.endswith("ConnectError: server_1: refused")
    assert other.startswith(f"orders__abakan orders abakan 1 1 0 {YESTERDAY} ")
    assert run("report", "failures", "-v") == 0
    assert capsys.readouterr().out.count("ConnectError") == 51
    assert len(failing(run, capsys)) == 51


def test_before_any_run_nothing_has_failed(sandbox: Sandbox, run: Run) -> None:
    project, request = sandbox.project(), LoadRequest(days=(TODAY,), only_failed=True)
    from dwhctl.load.run import plan_load

    assert len(candidates(project, request).slices) == 2
    assert plan_load(project, request).slices == ()
    assert not (sandbox.root / "state").exists()


def test_the_metrics_look_at_as_many_days() -> None:
    [days] = [option for option in report_failures.failures_command.params if option.name == "days"]
    assert days.default == failures.DAYS
