"""`--format json`: one value on stdout whatever happens, as `dwhctl schema` describes it; docs/json.md, its script."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import time_machine
from jsonschema import Draft202012Validator

from dwhctl.cli.schema import commands, schema_of
from dwhctl.core.secrets import Secret
from tests.cli_support import dwh, make_databases, small_project, write
from tests.support import pages
from tests.unit.page.test_page import HOSTILE

PAGE = Path(__file__).parents[2] / "docs/json.md"
DAY = date(2020, 7, 13)
REPORT = """\
[reports.counts]
connection = "dwh"
source = "SELECT etl_source AS city, count(*) AS orders FROM stage.orders GROUP BY 1"
target = "reports.counts"
create = "counts.sql"
needs = [{ load = "orders" }]
wait = "0s"
deadline = "07:00"
"""
COUNTS = (
    "CREATE SCHEMA IF NOT EXISTS reports;\n"
    "CREATE TABLE IF NOT EXISTS reports.counts (city VARCHAR, orders BIGINT);\n"
)
#: What differs from run to run, and what docs/json.md has in its place.
VARYING: dict[str, Any] = {
    "run_id": "20200714T030000-0a1b2c3d",
    "started": "2020-07-14T03:00:00.123456+00:00",
    "finished": "2020-07-14T03:00:02.345678+00:00",
    "seconds": 1.5,
    "estimated_seconds": 12.6,
    "step_seconds": {"connect": 0.041, "extract": 0.012, "stage": 0.018, "publish": 0.043},
}
Shown = Callable[..., Any]


def example_project(root: Path) -> Path:
    """Make the project of the page: three shards with two orders each, the one of the second server out of reach."""
    small_project(root)
    make_databases(root)
    shutil.rmtree(root / "server_1")
    return root


def plain(value: Any, root: Path) -> Any:
    """Return a result without what differs from run to run."""
    if isinstance(value, dict):
        return {key: VARYING.get(key) or plain(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item, root) for item in value]
    return value.replace(str(root), "/srv/warehouse") if isinstance(value, str) else value


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DWHCTL_PROJECT", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shown(root: Path, capsys: pytest.CaptureFixture[str]) -> Shown:
    """Run a command with `--format json`, and return the one value on stdout, checked against the schema."""

    def run(*words: object, code: int = 0) -> Any:
        capsys.readouterr()
        assert dwh(*words, "--format", "json") == code
        return checked(capsys.readouterr().out, words, code)

    return run


def checked(out: str, words: tuple[object, ...], code: int) -> Any:
    """Return the value of a command's output. Fail when it is not one value that its schema describes."""
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]", out)
    value = json.loads(out)  # raises for a second value
    named = [
        " ".join(map(str, words[:count]))
        for count in (2, 1)
        if " ".join(map(str, words[:count])) in commands()
    ]
    Draft202012Validator(schema_of(named[0]), format_checker=Draft202012Validator.FORMAT_CHECKER).validate(
        value
    )
    if isinstance(value, dict):
        assert value["exit_code"] == code
    return value


def with_report(root: Path) -> None:
    write(root, {"config/reports.toml": REPORT, "sql/counts.sql": COUNTS})


def with_channel(root: Path) -> None:
    config = root / "config/dwhctl.toml"
    channel = '\n[alerts.hook]\ntype = "webhook"\nwhen = ["one_failed"]\nurl = "http://127.0.0.1:9/"\n'
    config.write_text(config.read_text() + channel)


# Every command


def test_each_command_that_works_writes_its_object(root: Path, shown: Shown) -> None:
    example_project(root)
    with_report(root)
    days = ("-s", "2020-07-12", "-e", "2020-07-13")
    plan = shown("backfill", *days, "--dry-run", "-v")
    assert (plan["slices"], len(plan["planned"])) == (6, 6)
    assert shown("load", "--date", DAY, "--dry-run")["planned"] is None
    failed = shown("load", "--date", DAY, "--inline", code=1)
    assert (failed["state"], failed["loaded"], failed["failed"], failed["rows"]) == ("failed", 2, 1, 4)
    [failure] = failed["failures"]
    assert failure["command"] == "dwhctl load orders --date 2020-07-13 --shard chita"
    assert [part["shard"] for part in failure["slices"]] == ["chita"]
    assert [trip["ok"] for trip in shown("connections", "test", code=1)["connections"]].count(False) == 1
    assert shown("watch", code=1)["slas"][0]["command"].startswith("dwhctl refresh-reports counts --date 20")
    [planned] = shown("refresh-reports", "--date", DAY, "--dry-run")["reports"]
    assert (planned["is_ready"], planned["needs"][0]["missing"]) == (False, ["chita"])
    refused = shown("refresh-reports", "--date", DAY, code=1)
    assert [(part["report"], part["state"]) for part in refused["reports"]] == [("counts", "failed")]
    assert refused["failures"][0]["error_class"] == "NotReady"
    make_databases(remade(root))
    filled = shown("backfill", *days, "--only-missing", "--inline")
    assert (filled["state"], filled["slices"], filled["left_out"]["complete"]) == ("done", 4, 2)
    assert shown("backfill", *days, "--only-missing", "--inline")["state"] == "nothing_to_do"
    refreshed = shown("refresh-reports", "--date", DAY)
    assert (refreshed["state"], refreshed["reports"][0]["rows"]) == ("done", 3)
    assert shown("sessions", "prune", "--keep", "400d", "--dry-run")["dry_run"] is True
    assert shown("config", "check")["contents"]["shards"] == 3
    assert shown("config", "check", "--online")["online"] is True


def remade(root: Path) -> Path:
    """Remove the databases of the shards: they are made again."""
    shutil.rmtree(root / "server_0")
    return root


def test_each_listing_has_the_rows_of_its_schema(root: Path, shown: Shown) -> None:
    small_project(root)
    make_databases(root)
    with_report(root)
    with_channel(root)
    load = root / "config/loads/orders.toml"
    load.write_text(f'{load.read_text()}deadline = "07:00"\nschedule = "0 6 * * *"\n')
    (root / "server_1/chita.duckdb").rename(root / "server_1/away")
    assert shown("load", "--date", DAY, "--inline", code=1)["alerts"]
    (root / "server_1/away").rename(root / "server_1/chita.duckdb")
    with closing(sqlite3.connect(root / "state/sessions.sqlite")) as db, db:
        db.execute("UPDATE sessions SET state = 'abandoned' WHERE state = 'failed'")
    days = ("-s", "2020-07-12", "-e", "2020-07-13")
    rows = {
        "connections list": shown("connections", "list"),
        "crontab next": shown("crontab", "next", "--limit", "2"),
        "report grid": shown("report", "grid", "--days", "1"),
        "report gaps": shown("report", "gaps", *days),
        "report sla": shown("report", "sla"),
        "report failures": shown("report", "failures"),
        "report runs": shown("report", "runs"),
        "report sessions": shown("report", "sessions"),
        "report timeline": shown("report", "timeline", "last"),
        "report durations": shown("report", "durations"),
        "report alerts": shown("report", "alerts"),
        "verify": shown("verify", "--date", DAY, "-v"),
        "adopt": shown("adopt", "orders", *days, "--dry-run", code=1),
        "alert-test": shown("alert-test", code=1),
        "alert-test --dry-run": shown("alert-test", "--dry-run"),
    }
    assert [name for name, found in rows.items() if not found] == []


@pytest.mark.parametrize("steps", ["one", pytest.param("all", marks=pytest.mark.long)])
def test_the_demo_writes_its_object(
    steps: str, root: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    from dwhctl.cli.new_project import demo

    if steps == "one":
        monkeypatch.setattr(demo._Demo, "play", lambda self: self._run("config", "check"))
    assert dwh("demo", root / "new", "--format", "json") == 0
    out, err = capfd.readouterr()
    result = checked(out, ("demo",), 0)
    assert result["project"] == str(root / "new")
    assert f"$ {result['commands'][0]['command']}\n" in err
    assert steps == "one" or [part["exit_code"] for part in result["commands"]].count(1) == 1


# Failures


@pytest.mark.parametrize(
    ("words", "code", "error_class"),
    [
        ("load orders --date 2020-07-13 --nope", 2, "UsageError"),
        ("load ordres --date 2020-07-13", 2, "UsageError"),
        ("load --date 2020-07-13 --retries many", 2, "UsageError"),
        ("backfill -s 2020-07-13 -e 2020-07-12", 2, "UsageError"),
        ("refresh-reports", 2, "UsageError"),
        ("connections test nowhere", 2, "UsageError"),
        ("sessions prune --keep 1d", 2, "UsageError"),
        ("report gaps nothing", 2, "UsageError"),
        ("verify", 2, "UsageError"),
        ("alert-test", 2, "UsageError"),
        ("watch --project nowhere", 2, "ConfigError"),
    ],
)
def test_what_could_not_begin_writes_one_error(
    words: str, code: int, error_class: str, root: Path, shown: Shown
) -> None:
    small_project(root)
    error = shown(*words.split(), code=code)["error"]
    assert error["error_class"] == error_class
    assert error["message"] == "\n".join(error["problems"])


def test_every_problem_of_a_configuration_is_in_it(root: Path, shown: Shown) -> None:
    small_project(root, project="[project]\ntimezon = 'UTC'\n[connections.a]\ntype = 'oracle'\n")
    assert len(shown("load", "--date", DAY, code=2)["error"]["problems"]) > 1
    found = shown("config", "check", code=2)
    assert found["project"] is None
    assert any("timezon" in line for line in found["errors"])
    small_project(root, extract="SELECT 1 FROM orders WHERE x = {{ nothing }}")
    found = shown("config", "check", code=2)
    assert found["contents"]["loads"] == 1
    assert any("nothing" in line for line in found["errors"])


def test_a_cluster_that_does_not_answer_is_an_error_of_the_check(
    root: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dwhctl.load.cluster_client.cluster_problem", lambda _: "it has no worker")
    small_project(root)
    make_databases(root)
    executor = '[executor]\ntype = "dask"\nscheduler = "tcp://127.0.0.1:8786"\nshared_state = true\n'
    with (root / "config/dwhctl.toml").open("a") as file:
        file.write(f"\n{executor}")
    assert shown("config", "check", "--online", code=1)["errors"] == ["executor: it has no worker"]


def test_a_held_lock_and_an_interruption(root: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    from dwhctl.cli import load as module
    from dwhctl.runtime.events import Event, SliceClosed

    small_project(root)
    make_databases(root)
    held: list[Any] = []

    def listen(event: Event) -> None:
        if isinstance(event, SliceClosed) and not held:
            held.append(event)
            held.append(shown("load", "--date", DAY, "--inline", "--project", root, code=75))
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(module, "open_progress", lambda _settings: nullcontext(listen))
    monkeypatch.setattr(sys, "argv", ["dwhctl", "load", "--date", "2020-07-13", "--format", "json"])
    result = shown("load", "--date", DAY, "--inline", code=143)
    assert held[1]["error"]["error_class"] == "LockHeldError"
    assert (result["state"], result["slices"]) == ("interrupted", 3)
    assert result["command"] == "dwhctl load --date 2020-07-13 --format json --only-missing"


def test_the_output_is_the_same_with_quiet_and_debug(root: Path, shown: Shown, capsys: Any) -> None:
    example_project(root)
    results = [
        plain(shown("load", "--date", DAY, "--inline", option, code=1), root)
        for option in ("-v", "-q", "--debug")
    ]
    for result in results:
        del result["failures"][0]["slices"][0]["etl_id"]
    assert results[0] == results[1] == results[2]
    assert len(shown("connections", "test", "-q", code=1)["connections"]) == 5


# Hostile texts


def test_hostile_texts_of_the_sessions_change_nothing(root: Path, shown: Shown) -> None:
    project = pages.make(root, shards=6, servers=2).project()
    pages.fill(project, pages.server_down)
    names = ("comment", "error_class", "host", "dwhctl_version", "staged")
    with closing(sqlite3.connect(root / "state/sessions.sqlite")) as db, db:
        db.execute(
            f"UPDATE sessions SET {', '.join(f'{name} = ?' for name in names)} WHERE state = 'failed'",
            [HOSTILE] * len(names),
        )
        db.execute("UPDATE sessions SET run_id = run_id || ? WHERE run_id LIKE '20200714%'", (HOSTILE,))
        db.execute(
            "UPDATE sessions SET load = ?, shard = ?, task_name = ? WHERE run_id LIKE '20200710T03%'",
            (HOSTILE, HOSTILE, f"{HOSTILE}__{HOSTILE}"),
        )
        db.execute(
            "INSERT INTO dwhctl_alerts (created, channel, kind, subject, digest, state, answer, attempts, doubts)"
            " VALUES ('2020-07-14 01:00:00.000000+00:00', ?, 'failed', ?, '{}', 'refused', ?, 1, 0)",
            (HOSTILE,) * 3,
        )
    with time_machine.travel(pages.NOW, tick=False):
        sessions = shown("report", "sessions", "--limit", "1000")
        failed = [row for row in sessions if row["state"] == "failed"]
        assert failed
        assert {row[name] for row in failed for name in names} == {HOSTILE}
        assert {row["load"] for row in sessions} == {"orders", "city_orders", HOSTILE}
        assert f"{HOSTILE}: {HOSTILE}" in {row["last_error"] for row in shown("report", "failures", "--all")}
        assert any(HOSTILE in row["loads"] for row in shown("report", "runs"))
        assert HOSTILE in {row["load"] for row in shown("report", "durations")}
        assert {
            row[name] for row in shown("report", "alerts") for name in ("channel", "subject", "answer")
        } == {HOSTILE}
        assert shown("report", "grid", "--days", "3")
        assert shown("report", "timeline", "last")
        assert shown("watch", code=1)["missed"] > 0


def test_hostile_texts_and_secrets_of_a_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dwhctl.alerts.delivery import Delivery
    from dwhctl.alerts.outbox import DeliveryState
    from dwhctl.cli.common.objects import show_object
    from dwhctl.cli.common.progress import RunWatcher
    from dwhctl.cli.common.results import load_object
    from dwhctl.runtime.events import FailedSlice, RunResult
    from dwhctl.runtime.failures import FailureGroup
    from dwhctl.runtime.messages import Failure

    secret = "pw-3f9c2a71d0b84e56"
    Secret(secret)
    text = f"{HOSTILE} \udc80"  # as of a file's name that is not UTF-8
    failed = FailedSlice(text, text, text, DAY, Failure(text, f"{text}{secret}", permanent=True))
    result = RunResult("run", failed=1, failures=[failed], stopped=text, pings=[text])
    result.groups = [FailureGroup((failed,), text, text, text)]
    result.alerts = [Delivery(text, text, DeliveryState.REFUSED, text)]
    result.filled = {(text, text): {text}}
    show_object(load_object(result, RunWatcher(lambda _: None), "dwhctl load --date today", None))
    out = capsys.readouterr().out
    assert secret not in out
    assert "login" not in out
    value = checked(out, ("load",), 1)
    [failure] = value["failures"]
    assert {failure[name] for name in ("error_class", "connection", "advice", "command")} == {text}
    assert failure["message"] == failure["slices"][0]["message"] == f"{text}********"
    assert failure["slices"][0]["shard"] == value["null_columns"][0]["column"] == value["stopped"] == text
    assert value["command"] == "dwhctl load --date today --only-missing"


# The page


def blocks() -> list[tuple[str, str]]:
    return re.findall(r"^```(sh|json)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_page_are_what_the_commands_write(root: Path, capsys: Any) -> None:
    example_project(root)
    found = blocks()
    compared = 0
    for (language, line), (kind, text) in pairwise(found):
        if (language, kind) == ("sh", "json"):
            dwh(*shlex.split(line)[1:], "--inline")  # starting workers takes longer
            shown = capsys.readouterr().out
            assert plain(json.loads(shown), root) == json.loads(text)
            compared += 1
    assert compared == 3


def needs_jq() -> str:
    found = shutil.which("jq")
    if found is None:
        pytest.skip("jq is not installed (apt-get install jq)")
    return found


def test_the_filters_of_the_page(root: Path) -> None:
    jq = needs_jq()
    results = [text for language, text in blocks() if language == "json"]
    filters = re.findall(r"^dwhctl load .* \| (jq -r '.*')$", PAGE.read_text(), re.MULTILINE)
    answers = {
        subprocess.run(
            [jq, *shlex.split(line)[1:]], input=text, capture_output=True, text=True, check=True
        ).stdout
        for line in filters
        for text in (results[0], results[2])
    }
    assert len(filters) == 3
    message = "connection server_1: there is no folder /srv/warehouse/server_1"
    assert answers == {
        f"{message}: dwhctl load orders --date 2020-07-13 --shard chita\n",
        "chita\n",
        "2 of 3 slices loaded\n",
        "",
        "\n",
        f"{json.loads(results[2])['error']['message']}\n",
    }


def fill(root: Path, program: str, pause: str = "exit 99") -> subprocess.CompletedProcess[str]:
    """Run the page's script with these programs as `dwhctl` and `sleep`."""
    jq = needs_jq()
    [script] = [text for language, text in blocks() if language == "sh" and text.startswith("#!/bin/sh")]
    for name, text in (
        ("fill.sh", script),
        ("dwhctl", f"#!/bin/sh\n{program}\n"),
        ("sleep", f"#!/bin/sh\n{pause}\n"),
    ):
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    path = os.pathsep.join((str(root), str(Path(jq).parent), "/usr/bin", "/bin"))
    command = ["sh", str(root / "fill.sh"), "2020-07-12", "2020-07-13"]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=root, env={**os.environ, "PATH": path, "ATTEMPTS": "3"}
    )


def test_the_script_of_the_page_backfills_until_nothing_is_missing(root: Path, shown: Shown) -> None:
    small_project(root)
    make_databases(root)
    # The second server is out of reach until the script has waited once.
    (root / "server_1").rename(root / "away")
    # Starting workers takes longer than these slices.
    dwhctl = f'exec {shlex.quote(sys.executable)} -m dwhctl "$@" --inline'
    done = fill(root, dwhctl, pause=f'echo "$@" >> slept; mv {root}/away {root}/server_1')
    assert done.returncode == 0, done.stderr
    assert "2 slices: connection server_1: there is no folder" in done.stderr
    assert (root / "slept").read_text() == "300\n"
    assert shown("report", "gaps", "-s", "2020-07-12", "-e", "2020-07-13") == []


def canned(root: Path, **changed: Any) -> str:
    """Return a program that writes the page's result, changed."""
    result = json.loads(next(text for language, text in blocks() if language == "json"))
    (root / "result").write_text(json.dumps(result | changed))
    return f"cat {root}/result"


def test_the_script_stops_where_waiting_does_not_help(root: Path) -> None:
    result = json.loads(next(text for language, text in blocks() if language == "json"))
    permanent = [{**result["failures"][0], "permanent": True, "advice": "correct sql/orders.sql"}]
    done = fill(root, canned(root, failures=permanent))
    assert done.returncode == 1
    assert "1 slices: connection server_1: there is no folder /srv/warehouse/server_1\n" in done.stderr
    assert "  correct sql/orders.sql\n" in done.stderr
    wrong = {
        "exit_code": 2,
        "error": {"error_class": "ConfigError", "message": "wrong", "problems": ["wrong"]},
    }
    (root / "result").write_text(json.dumps(wrong))
    done = fill(root, f"cat {root}/result")
    assert (done.returncode, done.stderr) == (2, "wrong\n")
    assert fill(root, canned(root, state="interrupted", exit_code=130)).returncode == 130
    # A lock is waited for, at most so often.
    held = {
        "exit_code": 75,
        "error": {"error_class": "LockHeldError", "message": "held", "problems": ["held"]},
    }
    (root / "result").write_text(json.dumps(held))
    done = fill(root, f"echo >> tries; cat {root}/result", pause="exit 0")
    assert (done.returncode, (root / "tries").read_text()) == (1, "\n" * 3)
