"""A column that a shard delivered and lacks today is drift with `on_new_column = "add"` too: no value becomes NULL."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from dwhctl.check.online import OnlineCheck
from dwhctl.runtime.events import RunResult
from dwhctl.sessions import open_store
from tests.postgres import PostgresServer
from tests.support.faulty import postgres_sessions
from tests.support.projects import DAY, EXTRACT, Sandbox
from tests.support.wire import EXTRACT as WIRE_EXTRACT
from tests.support.wire import ORDERS, a_wire, needs_faults

EVERYTHING = EXTRACT.replace("id, customer, amount, start_time", "*")
NEXT = DAY + timedelta(days=1)
BAD, OTHER = "abakan", "chita"
AMOUNTS = "SELECT count(amount) FROM stage.orders WHERE etl_source = 'abakan'"


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    sandbox = Sandbox(
        tmp_path,
        servers={"server_0": [BAD], "server_1": [OTHER]},
        extract=EVERYTHING,
        load_keys='retries = 0\non_new_column = "add"',
    )
    return sandbox.write().fill(days=[DAY, NEXT])


def drop_amount(sandbox: Sandbox, shard: str = BAD) -> None:
    sandbox.in_shard(shard, "ALTER TABLE orders DROP COLUMN amount")


def reason(report: RunResult) -> str:
    [failed] = report.failures
    assert (failed.shard, failed.failure.error_class, failed.failure.permanent) == (
        BAD,
        "SchemaDriftError",
        True,
    )
    return failed.failure.message


def forget_columns(sandbox: Sandbox) -> None:
    """Leave the sessions as a version without the table left them."""
    with open_store(sandbox.project().sessions) as store, store.transaction("forgetting", "test") as execute:
        execute("forget_columns", {"load": "orders"})


def test_a_dropped_column_is_refused_and_the_rows_stay(sandbox: Sandbox) -> None:
    assert sandbox.load().failed == 0
    before = sandbox.target_rows()
    drop_amount(sandbox)

    report = sandbox.load()

    for part in ("amount", BAD, "delivered it before", "CAST(NULL AS DECIMAL(18,2)) AS amount"):
        assert part in reason(report)
    assert sandbox.target_rows() == before
    assert report.loaded == 1
    [finding] = OnlineCheck(sandbox.project()).findings()
    assert (finding.where, finding.wrong) == (BAD, True)
    assert "delivered it before" in finding.what


def test_a_day_that_was_never_loaded_is_refused_too(sandbox: Sandbox) -> None:
    assert sandbox.load().failed == 0
    drop_amount(sandbox)
    assert "delivered it before" in reason(sandbox.load(NEXT))


def test_the_remedy_that_the_message_names_works(sandbox: Sandbox) -> None:
    assert sandbox.load().failed == 0
    drop_amount(sandbox)
    sandbox.put(
        "sql/orders/extract.sql",
        EXTRACT.replace(
            "amount,",
            "{% if shard.name == 'abakan' %}CAST(NULL AS DECIMAL(18,2)) AS amount{% else %}amount{% endif %},",
        ),
    )
    report = sandbox.load()
    assert (report.loaded, report.failed, report.filled) == (2, 0, {})
    assert sandbox.warehouse(AMOUNTS) == [(0,)]
    assert list(OnlineCheck(sandbox.project()).findings()) == []


def test_a_column_that_a_shard_never_had_is_null_and_said_once(sandbox: Sandbox) -> None:
    drop_amount(sandbox)
    for _ in range(2):
        report = sandbox.load(DAY, NEXT)
        assert (report.loaded, report.failed) == (4, 0)
        assert report.filled == {("orders", "amount"): {BAD}}
    assert list(OnlineCheck(sandbox.project()).findings()) == []
    ended = sandbox.run("load", "--date", str(DAY), "--inline")
    assert "orders: 1 shard has no column amount: NULL (abakan)" in ended.stdout


def test_after_an_upgrade_the_warehouse_says_what_was_delivered(sandbox: Sandbox) -> None:
    """Nothing is remembered of any shard: one that has values in the warehouse is refused, one that has none is not."""
    assert sandbox.load().failed == 0
    before = sandbox.target_rows()
    sandbox.change_warehouse("ALTER TABLE stage.orders ADD COLUMN discount DECIMAL(5, 1)")
    forget_columns(sandbox)
    drop_amount(sandbox)
    [finding] = OnlineCheck(sandbox.project()).findings()
    assert (finding.where, "delivered it before" in finding.what) == (BAD, True)

    report = sandbox.load(NEXT)

    assert "CAST(NULL AS DECIMAL(18,2)) AS amount" in reason(report)
    assert report.filled == {("orders", "discount"): {OTHER}}
    assert sandbox.target_rows() == sorted(
        [*before, *sandbox.source_rows([NEXT], [OTHER])], key=lambda row: (row[0], row[1], row[4])
    )
    # Nothing of the refused slice was published, so that nothing is remembered of its shard: it is refused again.
    assert "delivered it before" in reason(sandbox.load())


def test_a_slice_that_failed_has_delivered_nothing(sandbox: Sandbox) -> None:
    """The column was described, and its slice refused for another reason: the shard may lack it tomorrow."""
    drop_amount(sandbox)
    assert sandbox.load().failed == 0
    sandbox.in_shard(
        BAD,
        "ALTER TABLE orders ADD COLUMN amount DECIMAL(18, 2) DEFAULT 1",
        "INSERT INTO orders (id, start_time) SELECT id, start_time FROM orders LIMIT 1",
    )
    assert [one.failure.error_class for one in sandbox.load().failures] == ["DoubledKeyError"]
    sandbox.in_shard(
        BAD, "ALTER TABLE orders DROP COLUMN amount", "DELETE FROM orders WHERE customer IS NULL"
    )
    assert sandbox.load(allow_shrink=True).failed == 0


def test_a_shadow_run_knows_what_its_load_knows(sandbox: Sandbox) -> None:
    sandbox.put("sql/orders/create.sql", sandbox.create.replace("stage.orders", "{{ load.table }}"))
    assert sandbox.load().failed == 0
    drop_amount(sandbox)
    shadow = ("load", "orders", "--table", "stage.orders_new", "--date", str(DAY), "--inline")
    ended = sandbox.run(*shadow, "--shard", BAD)
    assert ended.returncode == 1
    assert "delivered it before" in ended.stdout


def test_with_refuse_what_was_delivered_is_remembered_for_add(sandbox: Sandbox) -> None:
    """What a load delivers under `refuse` is not forgotten when the key changes."""
    drop_amount(sandbox)
    assert sandbox.load().failed == 0
    sandbox.in_shard(BAD, "ALTER TABLE orders ADD COLUMN amount DECIMAL(18, 2) DEFAULT 1")
    sandbox.load_keys = "retries = 0"
    assert sandbox.write().load().failed == 0
    sandbox.load_keys = 'retries = 0\non_new_column = "add"'
    drop_amount(sandbox.write())
    assert "delivered it before" in reason(sandbox.load(NEXT))


@needs_faults
def test_over_the_wire_with_sessions_in_postgres(
    tmp_path: Path, postgres_server: PostgresServer, postgres_database: str
) -> None:
    """SQL Server, Vertica and PostgreSQL; the message's CAST, in SQL Server's own words, is what helps."""
    extract = WIRE_EXTRACT.replace("id, customer, amount, start_time", "*")
    with a_wire(
        tmp_path,
        {"mssql_0": [BAD], "mssql_1": [OTHER]},
        extract=extract,
        load_keys='retries = 0\non_new_column = "add"',
        sessions=postgres_sessions(postgres_server, postgres_database),
    ) as wire:
        with_discount = ORDERS.replace("amount", "discount DECIMAL(5, 1), amount")
        wire.in_shard(OTHER, "DROP TABLE dbo.Orders", with_discount)
        assert wire.fill().load().failed == 0
        report = wire.load()
        assert (report.failed, report.filled) == (0, {("orders", "discount"): {BAD}})
        before = wire.target_rows()
        wire.in_shard(
            BAD,
            "DROP TABLE dbo.Orders",
            ORDERS.replace(" amount DECIMAL(18, 2),", ""),
            "INSERT INTO dbo.Orders (id, start_time)"
            f" SELECT value, CAST('{DAY}T00:00:00' AS DATETIME2(3)) FROM GENERATE_SERIES(0, 9)",
        )
        assert "CAST(NULL AS decimal(18,2)) AS amount" in reason(wire.load())
        [finding] = [one for one in OnlineCheck(wire.project()).findings() if one.wrong]
        assert "delivered it before" in finding.what
        forget_columns(wire)
        assert "CAST(NULL AS numeric(18,2)) AS amount" in reason(wire.load())
        [finding] = [one for one in OnlineCheck(wire.project()).findings() if one.wrong]
        assert "delivered it before" in finding.what
        assert wire.target_rows() == before
        remedy = "*{% if shard.name == 'abakan' %}, CAST(NULL AS decimal(18,2)) AS amount{% endif %}"
        wire.put("sql/orders/extract.sql", extract.replace("*", remedy))
        assert wire.load().failed == 0
        assert wire.warehouse(
            f"SELECT COUNT(amount), COUNT(*) FROM {wire.schema}.orders WHERE etl_source = '{BAD}'"
        ) == [(0, 10)]
