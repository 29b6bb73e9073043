"""A slice that is the only one of its load: its worker writes into the table, the parent commits. The promises hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from dwhctl.core.errors import AttemptError, ExitCode, StagingError, TargetBusyError
from dwhctl.load.direct import EndOrder, end_in_worker
from dwhctl.runtime.messages import Failure
from dwhctl.systems.base.target import StagingGroup
from dwhctl.systems.postgres.copy_client import CopyClient
from dwhctl.systems.postgres.staging import DirectPostgresStage
from dwhctl.systems.postgres.target import PostgresTarget
from tests.cli_support import dwh
from tests.contract.way import a_slice
from tests.postgres import PostgresServer, any_server
from tests.support.faulty import Faults
from tests.support.postgres_projects import PostgresSandbox
from tests.support.projects import CREATE, DAY, EXTRACT

GROUP = StagingGroup("run", "group", "stage.orders")
POINTS = (
    "direct.delete", "stage.write", "stage.finished", "publish.begin", "publish.fenced", "direct.commit",
    "direct.committed", "publish.committed",
)  # fmt: skip
IN_GATE = ("direct.commit",)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server."""
    with any_server() as running:
        yield running


@pytest.fixture
def made(server: PostgresServer, tmp_path: Path) -> Iterator[Callable[..., PostgresSandbox]]:
    """Make projects of one shard with ten orders."""
    sandboxes: list[PostgresSandbox] = []

    def make(**keys: object) -> PostgresSandbox:
        root = tmp_path / f"project_{len(sandboxes)}"
        keys = {"servers": {"server_0": ["abakan"]}, "max_workers": 1, **keys}
        sandboxes.append(PostgresSandbox(root, server=server, **keys).write().fill(10))  # type: ignore[arg-type]
        return sandboxes[-1]

    yield make
    for sandbox in sandboxes:
        sandbox.drop()


@pytest.fixture
def sandbox(made: Callable[..., PostgresSandbox]) -> PostgresSandbox:
    """A project of one shard."""
    return made()


@pytest.fixture
def no_staging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a staging table is made or dropped."""

    def never(*_args: object) -> None:
        raise AssertionError("a slice was staged")

    monkeypatch.setattr(PostgresTarget, "open_group", never)
    monkeypatch.setattr(PostgresTarget, "drop_group", never)


@pytest.mark.usefixtures("no_staging")
def test_a_slice_that_is_alone_is_written_once_and_replaced_by_a_reload(sandbox: PostgresSandbox) -> None:
    assert sandbox.load().exit_code == ExitCode.DONE
    assert sandbox.target_rows() == sandbox.source_rows()
    sandbox.in_shard("abakan", "DELETE FROM orders WHERE id < 3", "UPDATE orders SET amount = 7 WHERE id = 5")
    assert sandbox.load().exit_code == ExitCode.DONE
    assert sandbox.target_rows() == sandbox.source_rows()
    sandbox.in_shard("abakan", "DELETE FROM orders")
    assert sandbox.load(allow_shrink=True).skipped == 1
    assert sandbox.target_rows() == []


def test_only_a_run_that_was_disturbed_looks_for_what_is_left_of_direct_slices(
    made: Callable[..., PostgresSandbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[str] = []
    monkeypatch.setattr(PostgresTarget, "drop_run", lambda _self, run_id: dropped.append(run_id))
    sandbox = made(load_keys="retries = 0")
    assert sandbox.load().exit_code == ExitCode.DONE
    assert dropped == []
    sandbox.in_shard("abakan", "DELETE FROM orders WHERE id > 1")
    result = sandbox.load()
    assert result.failed == 1
    assert dropped == [result.run_id]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("DELETE FROM orders WHERE id > 2", "ShrunkSourceError"),
        ("INSERT INTO orders SELECT * FROM orders WHERE id = 4", "DoubledKeyError"),
        ("UPDATE orders SET start_time = start_time + INTERVAL '1 day' WHERE id = 4", "OutsideSliceError"),
    ],
)
@pytest.mark.usefixtures("no_staging")
def test_what_is_refused_keeps_the_old_rows(
    made: Callable[..., PostgresSandbox], change: str, reason: str
) -> None:
    sandbox = made(extract=EXTRACT.split("WHERE")[0], load_keys="retries = 0")
    assert sandbox.load().exit_code == ExitCode.DONE
    before = sandbox.target_rows()
    sandbox.in_shard("abakan", change)
    (failed,) = sandbox.load().failures
    assert failed.failure.error_class == reason
    assert sandbox.target_rows() == before
    open_ = sandbox.warehouse("SELECT state FROM pg_stat_activity WHERE state LIKE 'idle in%'")
    assert open_ == [], "no transaction stays open"


def test_readers_see_the_old_rows_until_the_commit(
    sandbox: PostgresSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sandbox.load().exit_code == ExitCode.DONE
    sandbox.in_shard("abakan", "UPDATE orders SET amount = amount + 1")
    before, seen = sandbox.target_rows(), []
    points = ("publish.fenced", "direct.commit")
    monkeypatch.setattr(
        "dwhctl.core.faults.handler",
        lambda point: seen.append(sandbox.target_rows()) if point in points else None,
    )
    assert sandbox.load().exit_code == ExitCode.DONE
    assert seen == [before, before]
    assert sandbox.target_rows() == sandbox.source_rows() != before


@pytest.mark.parametrize("happened", [True, False])
def test_a_commit_whose_answer_is_lost_is_looked_up(
    sandbox: PostgresSandbox, happened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, close = CopyClient.query, CopyClient.close
    lost: list[CopyClient] = []

    def lose(self: CopyClient, sql: str) -> list[tuple[object, ...]]:
        if sql != "COMMIT" or lost:
            return query(self, sql)
        lost.append(self)
        if happened:
            query(self, sql)
        raise StagingError("the answer to COMMIT was lost")

    monkeypatch.setattr(CopyClient, "query", lose)
    monkeypatch.setattr(CopyClient, "close", lambda self: None if self in lost else close(self))
    result = sandbox.load()
    monkeypatch.undo()
    assert (result.exit_code, result.loaded, result.retried) == (ExitCode.DONE, 1, 0 if happened else 1)
    assert sandbox.target_rows() == sandbox.source_rows()
    close(lost[0])


def test_a_slice_of_which_a_batch_was_lost_is_rolled_back(
    sandbox: PostgresSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the target counted is compared with what was read, as of a staged slice."""
    assert sandbox.load().exit_code == ExitCode.DONE
    before = sandbox.target_rows()
    write = DirectPostgresStage.write
    monkeypatch.setattr(
        DirectPostgresStage, "write", lambda self, batches: write(self, islice(batches, 1, None))
    )
    (failed,) = sandbox.load().failures
    assert failed.failure.error_class == "CountsDifferError"
    assert sandbox.target_rows() == before


def test_a_run_that_was_reaped_commits_no_more(sandbox: PostgresSandbox, server: PostgresServer) -> None:
    """Its parent was paused between the fence and the order to commit."""
    assert sandbox.load().exit_code == ExitCode.DONE
    connection = server.connection(sandbox.databases["warehouse"], "dwh")
    target = PostgresTarget(connection, timedelta(seconds=20), "dwhctl:run")
    stage = target.write_slice(GROUP, "token", target.columns("stage.orders"), a_slice(), "start_time")
    stage.write(iter([]))
    assert stage.held == 10
    PostgresTarget(connection, timedelta(seconds=20), "dwhctl:later").drop_run("run")
    with pytest.raises(AttemptError):
        stage.commit()
    assert sandbox.target_rows() == sandbox.source_rows()


def test_a_worker_that_was_replaced_has_nothing_to_commit() -> None:
    failure = end_in_worker(EndOrder("another worker's", commit=True))
    assert isinstance(failure, Failure)
    assert not failure.permanent


@pytest.mark.parametrize(
    "protection",
    [
        "ALTER TABLE stage.orders RENAME TO held; CREATE VIEW stage.orders AS SELECT * FROM stage.held",
        "CREATE RULE late AS ON INSERT TO stage.orders WHERE NEW.id = 99 DO NOTHING",
        "ALTER TABLE stage.orders ALTER amount TYPE numeric(50, 20)",
    ],
    ids=["view", "rule", "text"],
)
@pytest.mark.usefixtures("no_staging")
def test_what_copy_cannot_write_goes_through_a_temporary_table(
    made: Callable[..., PostgresSandbox], protection: str
) -> None:
    sandbox = made(create="")
    assert sandbox.load().exit_code == ExitCode.DONE
    sandbox.change_warehouse(protection)
    sandbox.in_shard("abakan", "UPDATE orders SET amount = 12.34", "DELETE FROM orders WHERE id = 9")
    for _ in range(2):
        result = sandbox.load()
        assert result.exit_code == ExitCode.DONE, result.failures
    assert sandbox.target_rows() == sandbox.source_rows()
    assert {row[3] for row in sandbox.target_rows()} == {Decimal("12.34")}


def test_a_padded_etl_source_is_refused(made: Callable[..., PostgresSandbox]) -> None:
    """Its shards came back with blanks at the end, no old row was found, and each reload added all rows once more."""
    sandbox = made(
        create=CREATE.replace("etl_source VARCHAR", "etl_source CHAR(20)"),
        servers={"server_0": ["abakan", "achinsk"]},
    )
    result = sandbox.load()
    assert result.exit_code == ExitCode.FAILED
    assert result.failures[0].failure.message.startswith("stage.orders.etl_source is character(20)")
    assert sandbox.target_rows() == []


def test_direct_and_staged_slices_share_one_connection(made: Callable[..., PostgresSandbox]) -> None:
    """A direct slice holds the only slot while the publisher waits for it with a staged group."""
    sandbox = made(servers={"server_0": ["abakan", "achinsk"], "server_1": ["chita"]}, max_workers=2)
    toml = sandbox.root / "config/dwhctl.toml"
    limited = toml.read_text().replace(
        "[connections.warehouse]", "[connections.warehouse]\nmax_connections = 1"
    )
    toml.write_text(limited.replace("server_1 = [", "[shards.one]\nserver_1 = ["))
    load = (sandbox.root / "config/loads/orders.toml").read_text()
    alone = load.replace('"cities"', '"one"').replace('table = "stage.orders"', 'table = "stage.alone"')
    sandbox.put("config/loads/alone.toml", alone.replace("orders/create", "alone/create"))
    sandbox.put("sql/alone/create.sql", sandbox.create.replace("stage.orders", "stage.alone"))
    assert sandbox.load(inline=False).loaded == 3
    rows = sandbox.warehouse("SELECT count(*) FROM stage.alone")
    assert rows == [(10,)]


@pytest.mark.parametrize(
    "point", [pytest.param(point, marks=() if point in IN_GATE else pytest.mark.long) for point in POINTS]
)
@pytest.mark.parametrize("what", ["kill group", pytest.param("kill worker", marks=pytest.mark.long)])
def test_killed_anywhere_it_is_whole_and_put_right(
    sandbox: PostgresSandbox, point: str, what: str, tmp_path: Path
) -> None:
    if what == "kill worker" and point.startswith("publish"):
        pytest.skip("the parent reaches it")
    assert sandbox.load().exit_code == ExitCode.DONE
    sandbox.in_shard("abakan", "UPDATE orders SET amount = amount + 1")
    before, wanted = sandbox.target_rows(), sandbox.source_rows()
    faults = Faults(tmp_path / "faults")
    faults.at(point, what)
    killed = sandbox.run("load", "--date", str(DAY), env=faults.env())
    assert killed.returncode == (-9 if what == "kill group" else 0), killed.stderr
    assert faults.count(point), "the point was reached"
    assert sandbox.target_rows() in (before, wanted)
    done = sandbox.run("load", "--date", str(DAY))
    assert done.returncode == 0, done.stderr
    assert sandbox.target_rows() == wanted


def test_render_shows_what_is_sent(
    sandbox: PostgresSandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rendered(*arguments: str) -> list[str]:
        capsys.readouterr()
        code = dwh("render", "orders", "--date", str(DAY), *arguments, "--project", sandbox.root)
        lines = capsys.readouterr().out.splitlines()
        return lines if code == 0 else []

    assert sandbox.load().exit_code == ExitCode.DONE
    sent: list[str] = []
    translated = CopyClient._translated

    def recorded(self: CopyClient, sql: str, **keys: bool) -> Any:
        sent.extend(sql.split("; "))
        return translated(self, sql, **keys)

    shown = rendered("--part", "direct", "--online")
    monkeypatch.setattr(CopyClient, "_translated", recorded)
    assert sandbox.load().exit_code == ExitCode.DONE
    monkeypatch.undo()
    statements = [line.rstrip(";") for line in shown if not line.startswith("--")]
    assert statements[0] == "BEGIN"
    assert [sql.partition(" ")[0] for sql in statements[1:]] == ["DELETE", "COPY"]
    assert [sql for sql in sent if sql in statements] == statements
    assert shown[-1].startswith("-- COMMIT is a comment here")
    assert any("see --part direct" in line for line in rendered("--part", "publish"))
    assert any(line.startswith("-- direct, of load orders") for line in rendered("--part", "all"))
    load = sandbox.root / "config/loads/orders.toml"
    load.write_text('on_new_column = "add"\n' + load.read_text())
    assert not any("direct" in line for line in rendered("--part", "all"))
    assert rendered("--part", "direct") == []


def test_publications_of_other_days_do_not_wait(sandbox: PostgresSandbox, server: PostgresServer) -> None:
    """Nor does a slice that is written directly wait for a publication; two publications take turns."""
    assert sandbox.load().exit_code == ExitCode.DONE
    connection = server.connection(sandbox.databases["warehouse"], "dwh")
    target = PostgresTarget(connection, timedelta(seconds=2), "dwhctl:run")
    columns, later = target.columns("stage.orders"), a_slice(day=DAY + timedelta(1))
    group = StagingGroup("run", "later", "stage.orders")
    target.open_group(group)
    with target.write_slice(GROUP, "token", columns, a_slice(), "start_time") as stage:
        stage.write(iter([]))
        with target.publication("stage.orders", "start_time", timedelta(seconds=2)) as publication:
            publication.delete([later])
            earlier = a_slice(day=DAY - timedelta(1))
            with target.write_slice(GROUP, "other", columns, earlier, "start_time") as other:
                other.write(iter([]))
            other.discard()
            second = target.publication("stage.orders", "start_time", timedelta(seconds=1))
            with pytest.raises(TargetBusyError), second:
                pass
            publication.commit()
        stage.commit()
    assert sandbox.target_rows() == []
