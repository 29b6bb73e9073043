"""`dwhctl backfill` on the embedded default: plan, order, interruption, and today's load beside it."""

from __future__ import annotations

import re
import resource
import signal
import subprocess
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from dwhctl.core.errors import ExitCode
from dwhctl.sessions import Session, State
from tests.cli_support import dwh
from tests.postgres import PostgresServer
from tests.support.faulty import Faults, held_locks, postgres_sessions, wait_for_end
from tests.support.projects import DAY, Sandbox, days_from

DAYS = days_from(DAY, 4)
RANGE = ("-s", str(DAYS[0]), "-e", str(DAYS[-1]))
WHOLE = 'shards = "cities"\nextract = "orders/whole.sql"\ntarget = "warehouse"\ntable = "stage.whole"\nkey = ["id"]\n'


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """Three shards with orders on four days, nothing loaded yet."""
    return Sandbox(tmp_path / "project").write().fill(5, DAYS)


def slices_of(sessions: list[Session]) -> list[tuple[str, date]]:
    """Name the slices in the order in which their sessions were opened."""
    return [(str(one.shard), one.day) for one in sorted(sessions, key=lambda one: one.id)]


def without_times(text: str) -> str:
    """Take the times out of what a run tells."""
    return re.sub(r"(?m)^\d{4}-\d\d-\d\d \S+ \S+ ", "", text)


def here(sandbox: Sandbox, *arguments: str) -> int:
    """Run a command in this process."""
    return dwh(*arguments, "--inline", "--project", sandbox.root)


# The plan


def test_a_dry_run_prints_the_plan_and_touches_nothing(sandbox: Sandbox) -> None:
    sandbox.load_keys += f"\nstart_date = {DAYS[1]}"
    sandbox.write()
    done = sandbox.run("backfill", *RANGE, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["orders", str(DAYS[1]), str(DAYS[3]), "3", "3", "9"]
    assert lines[2] == "would load 9 slices; left out: 3 before their start date"
    assert lines[3] == "no past durations to tell how long 2 workers will take"
    assert not (sandbox.root / "state").exists()


def test_the_plan_comes_first_and_the_days_in_order(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.load(DAYS[2], shards=("chita",))
    assert here(sandbox, "backfill", *RANGE, "--only-missing") == ExitCode.DONE
    shown = capsys.readouterr()
    told = without_times(shown.err).splitlines()
    assert told[0] == f"plan: orders: {DAYS[0]} to {DAYS[3]}, 4 days, 3 shards, 11 slices"
    assert told[1] == "plan: 11 slices; left out: 1 complete"
    assert re.fullmatch(r"plan: about \d+ s with 2 workers, going by past durations", told[2])
    assert told[3].startswith("started: 11 slices of 1 load from 2 servers")
    assert shown.out.startswith("11 slices loaded, 0 skipped (no rows), 0 failed; 55 rows in ")
    assert sandbox.target_rows() == sandbox.source_rows()
    opened = [day for _, day in slices_of(sandbox.sessions_newest_first())[1:]]
    assert opened[0] == DAYS[0]
    assert opened[-1] == DAYS[-1]


def test_reverse_takes_the_newest_day_first(sandbox: Sandbox) -> None:
    assert here(sandbox, "backfill", "orders", *RANGE, "--shard", "abakan", "--reverse") == ExitCode.DONE
    assert slices_of(sandbox.sessions_newest_first()) == [("abakan", day) for day in reversed(DAYS)]


def test_nothing_missing_is_nothing_to_do(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    sandbox.load(*DAYS)
    assert here(sandbox, "backfill", *RANGE, "--only-missing") == ExitCode.DONE
    shown = capsys.readouterr()
    assert shown.out == "nothing to load; left out: 12 complete\n"
    assert "plan: nothing to load; left out: 12 complete" in shown.err
    assert len(sandbox.sessions_newest_first()) == 12


def test_a_day_loaded_before_its_end_is_missing(sandbox: Sandbox) -> None:
    today = datetime.now(ZoneInfo(sandbox.timezone)).date()  # that of UTC has ended in the evening
    sandbox.fill(3, [today])
    sandbox.load(today, shards=("abakan",))
    range_ = ("-s", str(today), "-e", str(today))
    assert here(sandbox, "backfill", *range_, "--shard", "abakan", "--only-missing") == ExitCode.DONE
    assert len(sandbox.sessions_newest_first()) == 2


# Wrong usage


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("-s", "2020-07-14", "-e", "2020-07-13"), "--end 2020-07-13 lies before --start 2020-07-14: give the first"),
        (("-s", "today", "-e", "2999-01-01"), "--end 2999-01-01 lies in the future: .* give a day up to tomorrow"),
        (("-s", "1920-07-14", "-e", "today"), "a backfill takes 3,651 at most; give a shorter range"),
        (("-s", "2020-7-1", "-e", "today"), "'2020-7-1' is not a day: .*write YYYY-MM-DD, today"),
        (("whole", *RANGE), "load whole has no slice_by: .*: dwhctl load whole --date today"),
        (("ordesr", *RANGE), "there is no load 'ordesr'.*orders"),
    ],
)  # fmt: skip
def test_wrong_usage_is_told_with_its_remedy(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], remedy: str
) -> None:
    put_whole(sandbox)
    assert dwh("backfill", *arguments, "--project", sandbox.root) == ExitCode.USAGE
    assert re.search(remedy, capsys.readouterr().err)
    assert not (sandbox.root / "state").exists()


def put_whole(sandbox: Sandbox) -> None:
    """Write a load without slices."""
    sandbox.put("config/loads/whole.toml", WHOLE)
    sandbox.put("sql/orders/whole.sql", "SELECT id, customer, amount, start_time FROM orders\n")


def test_a_load_without_days_is_left_out_with_a_notice(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    put_whole(sandbox)
    assert dwh("backfill", *RANGE, "--dry-run", "--project", sandbox.root) == ExitCode.DONE
    shown = capsys.readouterr()
    assert shown.err == "left out: load whole has no slice_by, so it has no days to fill\n"
    assert "would load 12 slices" in shown.out
    (sandbox.root / "config" / "loads" / "orders.toml").unlink()
    assert dwh("backfill", *RANGE, "--dry-run", "--project", sandbox.root) == ExitCode.USAGE
    assert "no load of the project has slice_by" in capsys.readouterr().err


# What failed


def test_the_commands_of_the_summary_load_what_failed(
    sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.shard_file("chita").rename(sandbox.root / "chita")
    assert here(sandbox, "backfill", *RANGE, "--retries", "0") == ExitCode.FAILED
    (command,) = re.findall(r"then: dwhctl (.*)", capsys.readouterr().out)
    assert command.startswith(f"backfill orders -s {DAYS[0]} -e {DAYS[3]} --shard chita --project")
    (sandbox.root / "chita").rename(sandbox.shard_file("chita"))
    assert here(sandbox, *command.partition(" --project")[0].split()) == ExitCode.DONE
    assert "4 slices loaded" in capsys.readouterr().out
    assert sandbox.target_rows() == sandbox.source_rows()


# Beside others


def test_todays_load_runs_beside_a_backfill_that_uses_every_worker(tmp_path: Path) -> None:
    """Cron's load gets its turn at the workers, and at the only connection to each server."""
    today = datetime.now(UTC).date()
    sandbox = Sandbox(
        tmp_path / "project", {"server_0": ["abakan"], "server_1": ["chita"]}, timezone="UTC", max_workers=2
    )
    sandbox.connection_keys = "max_connections = 1"
    sandbox.write().fill(5, [today])
    faults = Faults(tmp_path / "log")
    a_year = ("-s", str(DAY), "-e", str(DAY + timedelta(days=364)))
    backfill = sandbox.start("backfill", *a_year, env=faults.env())
    faults.wait_for("sessions.close.done")
    load = sandbox.run("load", "--date", "today")
    assert backfill.poll() is None, "the backfill is done: this proves nothing"
    faults.wait_for("sessions.close.done", nth=faults.count("sessions.close.done") + 2)
    backfill.send_signal(signal.SIGTERM)
    _, err = wait_for_end(backfill)
    assert backfill.returncode == 143, err
    assert load.returncode == 0, load.stderr
    assert "2 slices loaded" in load.stdout
    assert sandbox.target_rows() == sandbox.source_rows()


def test_only_the_days_that_miss_something_are_locked(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.load(*DAYS[:2])
    faults = Faults(tmp_path / "log").at("stage.write", "pause")
    backfill = sandbox.start("backfill", *RANGE, "--only-missing", env=faults.env())
    faults.wait_for("stage.write")
    beside = sandbox.run("load", "--date", str(DAYS[0]), "--dry-run")
    locked = set(held_locks(sandbox.root / "state" / "locks" / "work"))
    held = sandbox.run("load", "--date", str(DAYS[3]))
    faults.go_on()
    _, err = wait_for_end(backfill)
    assert backfill.returncode == 0, err
    assert beside.returncode == 0
    assert locked == {f"orders.{day}.lock" for day in DAYS[2:]}
    assert held.returncode == 75
    assert f"dwhctl backfill -s {DAYS[0]}" in held.stderr


def test_what_another_run_completed_meanwhile_is_not_repeated(sandbox: Sandbox, tmp_path: Path) -> None:
    faults = Faults(tmp_path / "log").at("stage.write", "pause", until=99)
    load = sandbox.start("load", "--date", str(DAYS[1]), env=faults.env())
    faults.wait_for("stage.write")
    backfill = sandbox.start("backfill", *RANGE, "--only-missing", "--wait", "1m")
    assert backfill.stderr is not None
    assert f"{DAYS[0]} to {DAYS[3]}, 4 days, 3 shards, 12 slices" in backfill.stderr.readline()
    time.sleep(0.5)
    faults.go_on()
    wait_for_end(load)
    out, err = wait_for_end(backfill)
    assert backfill.returncode == 0, err
    assert "9 slices loaded" in out
    assert len(sandbox.sessions_newest_first()) == 12


# Interrupted


@pytest.mark.parametrize(
    "how",
    [*(pytest.param(one, marks=pytest.mark.long) for one in (signal.SIGINT, signal.SIGTERM)), signal.SIGKILL],
)
def test_interrupted_it_is_finished_and_nothing_is_repeated(
    sandbox: Sandbox, tmp_path: Path, how: signal.Signals
) -> None:
    faults = Faults(tmp_path / "log").at("stage.extract", "pause", nth=6, until=99)
    backfill = sandbox.start("backfill", *RANGE, env=faults.env())
    faults.wait_for("stage.extract", nth=6)
    faults.wait_for("sessions.close.done")
    backfill.send_signal(how)
    out, _ = wait_for_end(backfill)
    assert backfill.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[how]
    assert ("the same command with --only-missing loads what is not complete" in out) == (
        how != signal.SIGKILL
    )
    before = sandbox.sessions_newest_first()
    complete = {(one.shard, one.day) for one in before if one.state is State.LOADED}
    assert 0 < len(complete) < 12
    check_rest(sandbox, sandbox.run("backfill", *RANGE, "--only-missing"), before)


def check_rest(sandbox: Sandbox, done: subprocess.CompletedProcess[str], before: list[Session]) -> None:
    """Check that a run has finished the range and loaded no slice that was complete before."""
    assert done.returncode == 0, done.stderr
    assert sandbox.target_rows() == sandbox.source_rows()
    sessions = sandbox.sessions_newest_first()
    known = {one.id for one in before}
    again = {(one.shard, one.day) for one in sessions if one.id not in known}
    complete = {(one.shard, one.day) for one in sessions if one.id in known and one.state is State.LOADED}
    assert not again & complete
    assert len(again | complete) == 12
    assert held_locks(sandbox.root / "state") == []


# Large ones


@pytest.mark.long
def test_more_days_and_loads_than_a_process_usually_has_files(
    tmp_path: Path, postgres_server: PostgresServer, postgres_database: str
) -> None:
    """Three loads and 400 days are 1,200 locks; every file opened after them has a number above 1,024."""
    sandbox = Sandbox(tmp_path / "project", {"server_0": ["abakan"]})
    sandbox.sessions = postgres_sessions(postgres_server, postgres_database)
    sandbox.write().fill(5, [DAY])
    for name in ("items", "notes"):
        text = (
            (sandbox.root / "config/loads/orders.toml").read_text().replace("stage.orders", f"stage.{name}")
        )
        sandbox.put(
            f"config/loads/{name}.toml",
            text.replace("orders/create", name),
        )
        sandbox.put(f"sql/{name}.sql", sandbox.create.replace("stage.orders", f"stage.{name}"))
    faults = Faults(tmp_path / "log")
    last = DAY + timedelta(days=399)
    backfill = sandbox.start(
        "backfill", "-s", str(DAY), "-e", str(last), env=faults.env(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 20_000)),
    )  # fmt: skip
    faults.wait_for("publish.committed", nth=3, seconds=60)
    assert len(list(Path(f"/proc/{backfill.pid}/fd").iterdir())) > 1_200
    backfill.send_signal(signal.SIGTERM)
    out, err = wait_for_end(backfill)
    assert backfill.returncode == 143, err
    assert "3 loads from 1 server" in err
    assert re.match(r"[\d,]+ slices? loaded", out)
    assert sandbox.target_rows() == sandbox.source_rows()
