"""An account of many pages at a rate limit: held over several processes at once, and nothing is half after a kill."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.cli_support import dwh
from tests.servers.http import Api, Asked, Reply, page
from tests.support.faulty import Faults
from tests.support.prefork import DwhctlProcess

MAIN = """\
[project]
timezone = "UTC"

[sessions]
connection = "sessions"

[connections.sessions]
type = "sqlite"
path = "state/sessions.sqlite"

[connections.dwh]
type = "duckdb"
path = "state/dwh.duckdb"

[connections.crm]
type = "http"
base_url = "{url}"
rate_limit = "{rate}"

[shards.accounts]
crm = ["acme"]
"""
LOAD = """\
shards = "accounts"
target = "dwh"
table = "stage.calls"
create = "create.sql"
key = ["id"]
slice_by = "day"
retries = 0
columns = { id = "bigint", day = "date" }

[endpoint]
path = "{{ shard.database }}/calls"
params = { day = "{{ ds }}" }
data_selector = "$.items[*]"
paginator = { type = "cursor", cursor_path = "$.next" }
"""
CREATE = """\
CREATE SCHEMA IF NOT EXISTS stage;
CREATE TABLE IF NOT EXISTS stage.calls (etl_source VARCHAR, etl_id BIGINT, hash_id BIGINT, id BIGINT, day DATE);
"""
DAYS = ("2020-07-13", "2020-07-14", "2020-07-15")


class Many:
    """A server of so many pages of 100 records a day. `trouble` is what every hundredth request gets first."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.refused: set[str] = set()

    def __call__(self, asked: Asked) -> Reply:
        number = int(asked.params.get("cursor", 0))
        if number % 100 == 50 and asked.target not in self.refused:
            self.refused.add(asked.target)
            return Reply(429, headers={"Retry-After": "1"}) if number % 200 == 50 else Reply(500)
        items = [{"id": number * 100 + each, "day": asked.params["day"]} for each in range(100)]
        return page({"items": items, "next": number + 1 if number + 1 < self.pages else None})


def write_project(root: Path, url: str, rate: str) -> None:
    for name, text in (
        ("config/dwhctl.toml", MAIN.format(url=url, rate=rate)),
        ("config/loads/calls.toml", LOAD),
        ("sql/create.sql", CREATE),
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def started(root: Path, day: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command = ("load", "--date", day, "--project", str(root), "--jobs", "1")
    environment = {**os.environ, **(environment or {})}
    return DwhctlProcess(*command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def counts(root: Path) -> list[Any]:
    with closing(duckdb.connect(str(root / "state/dwh.duckdb"), read_only=True)) as db:
        sql = "SELECT day::VARCHAR, count(*), count(DISTINCT id) FROM stage.calls GROUP BY 1 ORDER BY 1"
        return db.execute(sql).fetchall()


def most_in_a_second(api: Api) -> int:
    times = sorted(asked.at for asked in api.requests)
    return max(sum(start <= at < start + 1.0 for at in times) for start in times)


@pytest.fixture
def api() -> Iterator[Api]:
    with Api(Many(30)) as server:
        yield server


#: Where a load that reads pages is killed: before a request, and after a page.
KILL_POINTS = ("http.request", "http.page")


@pytest.mark.parametrize("point", [pytest.param("http.request", marks=pytest.mark.long), "http.page"])
def test_killed_in_the_middle_of_the_pages_nothing_is_half(api: Api, tmp_path: Path, point: str) -> None:
    write_project(tmp_path, api.url, "1000/s")
    assert dwh("load", "--date", DAYS[0], "--project", tmp_path, "--inline") == 0
    assert counts(tmp_path) == [(DAYS[0], 3000, 3000)]
    faults = Faults(tmp_path / "faults.log").at(point, "kill group", nth=17)
    for day in DAYS[:2]:
        with started(tmp_path, day, faults.env()) as process:
            process.communicate(timeout=60)
        assert process.returncode != 0
        # The old rows of the first day are there whole, and none of the second.
        assert counts(tmp_path) == [(DAYS[0], 3000, 3000)]
        faults.log.unlink()
    for day in DAYS[:2]:
        assert dwh("load", "--date", day, "--project", tmp_path, "--inline") == 0
    assert counts(tmp_path) == [(day, 3000, 3000) for day in DAYS[:2]]


@pytest.mark.long
def test_a_hundred_thousand_records_in_a_thousand_pages_over_three_processes(tmp_path: Path) -> None:
    with Api(Many(334)) as api:
        write_project(tmp_path, api.url, "100/s")
        processes = [started(tmp_path, day) for day in DAYS]
        said = [process.communicate(timeout=110)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert counts(tmp_path) == [(day, 33_400, 33_400) for day in DAYS]
    assert len(api.requests) > 1_000
    assert most_in_a_second(api) <= 100
    times = [asked.at for asked in api.requests]
    assert 1_000 / (max(times) - min(times)) > 50  # it is not slow either
