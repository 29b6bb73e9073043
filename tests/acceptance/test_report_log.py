"""`report log`: real runs write down what they do, and leave it behind whatever becomes of them."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from dwhctl.load import extract as stage_slice
from dwhctl.runtime.events import Event, Notice
from dwhctl.runtime.log_reader import last_lines, read_log
from tests.cli_support import dwh
from tests.support.faulty import Faults, tiny_disk, wait_for_end
from tests.support.projects import DAY, Sandbox
from tests.support.reports import a_place

TOKEN = 'hü"t/€ r€=n!'


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """Two shards; `chita` has no table."""
    servers = {"server_0": ["abakan"], "server_1": ["chita"]}
    sandbox = Sandbox(tmp_path / "project", servers, load_keys="retries = 0").write().fill()
    sandbox.in_shard("chita", "DROP TABLE orders")
    return sandbox


def logs_of(sandbox: Sandbox) -> list[Path]:
    """Name the logs, oldest first."""
    return sorted((sandbox.root / "state" / "logs").glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [dict(line.fields) for line in read_log(path)]


@dataclass(frozen=True)
class Shown:
    """Shows what `report log` writes."""

    sandbox: Sandbox
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: object, code: int = 0) -> tuple[str, str]:
        """Give stdout and stderr."""
        self.capsys.readouterr()
        assert dwh("report", "log", *arguments, "--project", self.sandbox.root) == code
        written = self.capsys.readouterr()
        return written.out, written.err


@pytest.fixture
def report_log(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> Shown:
    return Shown(sandbox, capsys)


def forms_of(secret: str) -> Iterator[str]:
    yield from (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    yield from (quote(secret), quote(secret, safe=""), base64.b64encode(secret.encode()).decode()[:8])


def test_a_load_leaves_its_steps_its_failure_and_no_secret(
    sandbox: Sandbox, report_log: Shown, tmp_path: Path
) -> None:
    toml = (sandbox.root / "config" / "dwhctl.toml").read_text()
    sandbox.put("config/dwhctl.toml", f'{toml}\n[variables]\ntoken = {{ env = "A_TOKEN" }}\n')
    extract = (sandbox.root / "sql" / "orders" / "extract.sql").read_text()
    sandbox.put("sql/orders/extract.sql", f"{extract} AND length('{{{{ var.value.token }}}}') > 0")
    sandbox.in_shard(
        "chita", "CREATE TABLE orders (id BIGINT, customer DATE, amount INT, start_time TIMESTAMP)"
    )
    faults = Faults(tmp_path / "faults").at("stage.describe", "warn", until=2)
    done = sandbox.run("load", "--date", str(DAY), env={"A_TOKEN": TOKEN, **faults.env()})
    assert done.returncode == 1, done.stderr
    [path] = logs_of(sandbox)
    lines = lines_of(path)
    started, ended = lines[0], lines[-1]
    assert (started["event"], started["loads"], started["slices"]) == ("run_started", ["orders"], 2)
    assert started["command"].startswith(f"dwhctl load --date {DAY} --project")
    assert (ended["event"], ended["loaded"], ended["failed"], ended["rows"]) == ("run_ended", 1, 1, 10)
    closed = {line["shard"]: line for line in lines if line["event"] == "slice_closed"}
    assert {"connect", "describe", "extract", "stamp", "stage", "publish"} <= closed["abakan"]["steps"].keys()
    assert (closed["chita"]["state"], closed["chita"]["failed_in"]) == ("failed", "describe")
    assert [line["rows"] for line in lines if line["event"] == "slices_published"] == [10]
    ids = {one.shard: one.id for one in sandbox.sessions_newest_first()}
    assert {shard: line["etl_id"] for shard, line in closed.items()} == ids
    said = [(line["etl_id"], line["message"]) for line in lines if line.get("logger") == "a.driver"]
    assert sorted(said) == [(one, "the server says ********") for one in sorted(ids.values())]
    assert all(line["run_id"] == path.stem for line in lines)
    for form in forms_of(TOKEN):
        assert form not in path.read_text()
    shown, _ = report_log(path.stem[:15], "--session", ids["chita"])
    found = last_lines(path, {ids["chita"]}, 2, sandbox.project().zone)[ids["chita"]]
    assert tuple(shown.splitlines()[-2:]) == found


def test_the_digest_has_a_failed_sessions_last_lines(sandbox: Sandbox) -> None:
    sandbox.put("sql/orders/extract.sql", "SELECT nothing FROM nowhere WHERE id = 1")
    report = sandbox.load()
    assert report.outcome is not None
    failures = [item.failure for item in report.outcome.items if item.failure is not None]
    assert len(failures) == len(sandbox.shards())
    for failure in failures:
        (line,) = failure.lines
        for words in ("slice_closed", "failed", failure.error_class, "nowhere"):
            assert words in line


def test_the_error_of_a_secret_in_the_sql_is_masked(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = (sandbox.root / "config" / "dwhctl.toml").read_text()
    sandbox.put("config/dwhctl.toml", f'{toml}\n[variables]\ntoken = {{ env = "A_TOKEN" }}\n')
    monkeypatch.setenv("A_TOKEN", "correct/horse")
    sandbox.put("sql/orders/extract.sql", 'SELECT * FROM "{{ var.value.token }}"')
    report = sandbox.load()
    [path] = logs_of(sandbox)
    assert report.failed == 2
    assert "********" in path.read_text()
    assert "horse" not in path.read_text()


def test_a_killed_run_leaves_whole_lines(sandbox: Sandbox, report_log: Shown, tmp_path: Path) -> None:
    faults = Faults(tmp_path / "faults").at("publish.commit", "kill group")
    process = sandbox.start("load", "--date", str(DAY), env=faults.env())
    wait_for_end(process)
    [path] = logs_of(sandbox)
    events = [line["event"] for line in lines_of(path)]
    assert events[0] == "run_started"
    assert "slice_started" in events
    assert "run_ended" not in events
    with path.open("ab") as file:
        file.write(b'{"time":"2020-07-14T06:00:00.0')  # as a crash of the machine may leave it
    shown, _ = report_log("last", "--format", "json")
    assert [json.loads(line)["event"] for line in shown.splitlines()] == events


def test_a_full_disk_fails_no_load_and_is_told_once(sandbox: Sandbox) -> None:
    notices: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            notices.append(event.text)

    with tiny_disk(sandbox.root / "state" / "logs", "4k"):
        (sandbox.root / "state" / "logs" / "cron.log").write_bytes(b"x" * 4096)
        report = sandbox.load(listen=listen)
    assert (report.loaded, report.failed) == (1, 1)
    assert len(notices) == 1
    assert "cannot be written: No space left on device" in notices[0]


def test_a_defect_and_a_warning_in_a_slice_are_there(
    sandbox: Sandbox, report_log: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **_more: object) -> None:
        logging.getLogger("a.driver").warning("I am about to break")
        raise RuntimeError("broken")

    monkeypatch.setattr(stage_slice, "compare", broken)
    sandbox.load(shards=("abakan",))
    [path] = logs_of(sandbox)
    lines = lines_of(path)
    [closed] = [line for line in lines if line["event"] == "slice_closed"]
    assert "in broken\n" in closed["traceback"]
    assert [line["message"] for line in lines if line.get("logger") == "a.driver"] == ["I am about to break"]
    shown, _ = report_log("last", "--level", "error")
    assert "\n    RuntimeError: broken\n" in shown
    assert "slice_started" not in shown


def test_a_run_of_nothing_has_a_log_too(sandbox: Sandbox, report_log: Shown) -> None:
    assert sandbox.load(shards=("abakan",)).loaded == 1
    assert sandbox.load(shards=("abakan",), only_missing=True).loaded == 0
    first, second = logs_of(sandbox)
    assert [line["event"] for line in lines_of(second)] == ["run_started", "run_ended"]
    assert "there is no log of a run 'nothing'" in report_log("nothing", code=2)[1]
    none = ("", f"no such line in the log of {first.stem}\n")
    assert report_log(first.stem, "--session", "99") == none


def test_a_refresh_is_logged_too(tmp_path: Path) -> None:
    with a_place("duckdb", tmp_path / "project") as place:
        place.refresh()
    [path] = logs_of(place.sandbox)
    lines = lines_of(path)
    assert [line["event"] for line in lines] == [
        "run_started",
        "report_started",
        "report_closed",
        "run_ended",
    ]
    assert (lines[2]["load"], lines[2]["state"], lines[2]["etl_id"]) == ("numbers", "loaded", 1)
