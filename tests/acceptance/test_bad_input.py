"""Bad input costs its own slice only: the session says why, the others are loaded, the next load puts it right."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest

from dwhctl.sessions import Session, State
from tests.cli_support import dwh
from tests.support.projects import DAY, EXTRACT, Sandbox

LATER = DAY + timedelta(days=1)
BAD = "achinsk"
GOOD = ["abakan", "chita"]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """Two servers, three shards of ten rows a day."""
    sandbox = Sandbox(tmp_path / "project", load_keys='retries = 1\nretry_delay = "1s"').write()
    return sandbox.fill()


@pytest.fixture
def command(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs a command in this process."""

    def run(*arguments: object) -> Ended:
        capfd.readouterr()
        code = dwh(*arguments, "--project", sandbox.root)
        return Ended(code, *capfd.readouterr())

    return run


Command = Callable[..., Ended]
LOAD = ("load", "--date", DAY, "--inline")


def attempts(sandbox: Sandbox, shard: str) -> list[Session]:
    """The sessions of a shard's day, newest first."""
    return [one for one in sandbox.sessions_newest_first() if one.shard == shard and one.day == DAY]


def load_with_one_bad(
    sandbox: Sandbox, command: Command, error_class: str, *words: str, tries: int = 1
) -> None:
    """Load, with one bad shard: it fails in words, the others are loaded."""
    ended = command(*LOAD)
    assert ended.code == 1, ended
    sessions = attempts(sandbox, BAD)
    assert [one.state for one in sessions] == [State.FAILED] + [State.UP_FOR_RETRY] * (tries - 1)
    for one in sessions:
        assert (one.error_class, one.successful) == (error_class, False)
        for word in words:
            assert word in str(one.comment)
    assert f"1 slice failed: {error_class}" in ended.out
    assert f"dwhctl load orders --date {DAY} --shard {BAD}" in ended.out
    assert sandbox.target_rows() == sandbox.source_rows([DAY], GOOD)
    assert [attempts(sandbox, shard)[0].state for shard in GOOD] == [State.LOADED] * 2


def load_well(sandbox: Sandbox, command: Command) -> None:
    """The next plain load puts it right."""
    ended = command(*LOAD)
    assert ended.code == 0, ended
    assert sandbox.target_rows() == sandbox.source_rows([DAY])
    assert list((sandbox.root / "state" / "staging").iterdir()) == []


# One shard's data


@dataclass(frozen=True)
class Bad:
    """What is wrong in one shard, how it ends, and how it is mended."""

    name: str
    spoil: Sequence[str]
    mend: Sequence[str]
    error_class: str
    words: Sequence[str]
    columns: dict[str, str] = field(default_factory=dict)


def one_row(
    id_: str = "100", customer: str = "'x'", amount: str = "1", start: str = f"TIMESTAMP '{DAY} 12:00'"
) -> str:
    """A row more."""
    return f"INSERT INTO orders VALUES ({id_}, {customer}, {amount}, {start})"


NO_ROW = ["DELETE FROM orders WHERE id IN (100, 3000000000) OR start_time IS NULL"]
BADS = [
    Bad(
        "missing table",
        ["ALTER TABLE orders RENAME TO old_orders"],
        ["ALTER TABLE old_orders RENAME TO orders"],
        "QueryError",
        ["orders", "does not exist"],
    ),
    Bad(
        "missing column",
        ["ALTER TABLE orders RENAME amount TO sum"],
        ["ALTER TABLE orders RENAME sum TO amount"],
        "QueryError",
        ["amount", "not found"],
    ),
    Bad(
        "other type",
        ["ALTER TABLE orders ALTER amount TYPE VARCHAR"],
        ["ALTER TABLE orders ALTER amount TYPE DECIMAL(18, 2)"],
        "SchemaDriftError",
        ["amount", "VARCHAR", "DECIMAL(18,2)"],
    ),
    Bad(
        "row of the next day",
        [one_row(start=f"TIMESTAMP '{LATER}'")],
        NO_ROW,
        "OutsideSliceError",
        ["id=100", "start_time", f"{LATER} 00:00:00", f"{DAY} 00:00:00"],
    ),
    Bad(
        "row of the day before",
        [one_row(start=f"TIMESTAMP '{DAY}' - INTERVAL 1 MICROSECOND")],
        NO_ROW,
        "OutsideSliceError",
        ["id=100", "23:59:59.999999"],
    ),
    Bad("row without a day", [one_row(start="NULL")], NO_ROW, "OutsideSliceError", ["id=100", "None"]),
    Bad(
        "key twice",
        [one_row(), one_row(customer="'y'")],
        NO_ROW,
        "DoubledKeyError",
        ["id=100", "twice"],
    ),
    Bad(
        "key is NULL",
        [one_row(id_="NULL")],
        ["DELETE FROM orders WHERE id IS NULL"],
        "ValueRefusedError",
        ["id", "NULL"],
    ),
    Bad(
        "integer too large",
        [one_row(id_="3000000000")],
        NO_ROW,
        "ValueRefusedError",
        ["id", "3000000000", "INTEGER"],
        {"    id BIGINT": "    id INTEGER"},
    ),
    Bad(
        "decimal too large",
        [one_row(amount="12345.67")],
        NO_ROW,
        "ValueRefusedError",
        ["amount", "id=100", "DECIMAL(6,2)"],
        {"amount DECIMAL(18, 2)": "amount DECIMAL(6, 2)"},
    ),
    Bad(
        "decimal too fine",
        [one_row(amount="1.25")],
        NO_ROW,
        "ValueRefusedError",
        ["amount", "id=100", "DECIMAL(18,1)"],
        {"amount DECIMAL(18, 2)": "amount DECIMAL(18, 1)"},
    ),
    Bad(
        "NULL where the target wants a value",
        [one_row(customer="NULL")],
        NO_ROW,
        "ValueRefusedError",
        ["customer", "id=100", "NOT NULL"],
        {"customer VARCHAR": "customer VARCHAR NOT NULL"},
    ),
    Bad(
        "CHECK",
        [one_row(amount="-1")],
        NO_ROW,
        "TargetRefusedError",
        ["CHECK constraint"],
        {"amount DECIMAL(18, 2)": "amount DECIMAL(18, 2) CHECK (amount >= 0)"},
    ),
]


@pytest.mark.parametrize("bad", BADS, ids=lambda bad: bad.name.replace(" ", "-"))
def test_a_bad_shard_costs_its_own_slice(sandbox: Sandbox, command: Command, bad: Bad) -> None:
    for before, after in bad.columns.items():
        sandbox.create = sandbox.create.replace(before, after)
    if bad.error_class == "OutsideSliceError":
        sandbox.extract = "SELECT id, customer, amount, start_time FROM orders"
    sandbox.write()
    plain = (
        "UPDATE orders SET customer = coalesce(customer, ''), amount = round(amount)"
        if bad.columns
        else "SELECT 1"
    )
    for shard in sandbox.shards():
        sandbox.in_shard(shard, plain)
    sandbox.in_shard(BAD, *bad.spoil)
    load_with_one_bad(sandbox, command, bad.error_class, *bad.words)
    sandbox.in_shard(BAD, *bad.mend)
    load_well(sandbox, command)


def test_a_key_twice_in_batches_far_apart(sandbox: Sandbox, command: Command) -> None:
    sandbox.fill(120_000, shards=[BAD])
    sandbox.in_shard(BAD, "UPDATE orders SET id = 11 WHERE id = 119999")
    load_with_one_bad(sandbox, command, "DoubledKeyError", "id=11 ", "twice")
    sandbox.in_shard(
        BAD,
        "UPDATE orders SET id = 119999 WHERE id = 11 AND start_time >"
        " (SELECT min(start_time) + INTERVAL 12 HOUR FROM orders)",
    )
    load_well(sandbox, command)


def test_a_bad_value_far_behind_good_batches(sandbox: Sandbox, command: Command) -> None:
    sandbox.create = sandbox.create.replace("    id BIGINT", "    id INTEGER")
    sandbox.write().fill(120_000, shards=[BAD])
    sandbox.in_shard(BAD, one_row(id_="3000000000"))
    load_with_one_bad(sandbox, command, "ValueRefusedError", "3000000000")
    sandbox.in_shard(BAD, *NO_ROW)
    load_well(sandbox, command)


def test_what_was_loaded_stays_when_the_source_goes_bad(sandbox: Sandbox, command: Command) -> None:
    load_well(sandbox, command)
    held = sandbox.target_rows()
    sandbox.in_shard(BAD, one_row(), one_row())
    assert command(*LOAD).code == 1
    assert sandbox.target_rows() == held
    sandbox.in_shard(BAD, *NO_ROW)
    load_well(sandbox, command)


# One shard's file


def test_a_shards_file_is_gone(sandbox: Sandbox, command: Command) -> None:
    file = sandbox.shard_file(BAD)
    file.rename(file.with_suffix(".away"))
    load_with_one_bad(sandbox, command, "DatabaseMissingError", str(file), "no file")
    file.with_suffix(".away").rename(file)
    load_well(sandbox, command)


def test_a_shards_file_has_a_spoilt_header(sandbox: Sandbox, command: Command) -> None:
    file = sandbox.shard_file(BAD)
    whole = file.read_bytes()
    file.write_bytes(b"not a database " * 100 + whole[1500:])
    load_with_one_bad(sandbox, command, "DatabaseMissingError", str(file), "not a")
    file.write_bytes(whole)
    load_well(sandbox, command)


def test_a_shards_file_is_cut_off(sandbox: Sandbox, command: Command) -> None:
    sandbox.fill(20_000, shards=[BAD])
    file = sandbox.shard_file(BAD)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    ended = command(*LOAD)
    assert ended.code == 1
    assert str(file) in str(attempts(sandbox, BAD)[0].comment)
    assert sandbox.target_rows() == sandbox.source_rows([DAY], GOOD)
    file.write_bytes(whole)
    load_well(sandbox, command)


def test_a_shards_file_is_damaged_in_the_middle(sandbox: Sandbox, command: Command) -> None:
    sandbox.fill(20_000, shards=[BAD])
    file = sandbox.shard_file(BAD)
    with closing(duckdb.connect(str(file), read_only=True)) as db:
        found = db.execute(
            "SELECT block_id FROM pragma_storage_info('orders')"
            " WHERE column_name = 'customer' AND segment_type = 'VARCHAR' AND block_id > 0"
        ).fetchone()
    assert found
    # Three headers of 4 KiB, then blocks of 256 KiB.
    place = 3 * 4096 + found[0] * 262_144 + 1000
    whole = file.read_bytes()
    spoilt = bytes(byte ^ 0xFF for byte in whole[place : place + 100])
    file.write_bytes(whole[:place] + spoilt + whole[place + 100 :])
    load_with_one_bad(sandbox, command, "DatabaseMissingError", str(file), "damaged")
    file.write_bytes(whole)
    load_well(sandbox, command)


def test_an_empty_file_stands_for_a_shard(sandbox: Sandbox, command: Command) -> None:
    file = sandbox.shard_file(BAD)
    whole = file.read_bytes()
    file.write_bytes(b"")
    ended = command(*LOAD)
    assert ended.code == 1
    assert sandbox.target_rows() == sandbox.source_rows([DAY], GOOD)
    assert file.read_bytes() == b"", "a shard is never written to"
    file.write_bytes(whole)
    load_well(sandbox, command)


def test_a_whole_server_is_gone(sandbox: Sandbox, command: Command) -> None:
    folder = sandbox.root / "servers" / "server_0"
    folder.rename(folder.with_name("away"))
    ended = command(*LOAD)
    assert ended.code == 1
    for shard in ("abakan", "achinsk"):
        last = attempts(sandbox, shard)[0]
        assert last.state is State.FAILED
        assert last.error_class in ("ConnectError", "ParkedError")
        assert f"no folder {folder}" in str(last.comment)
    assert attempts(sandbox, "chita")[0].state is State.LOADED
    folder.with_name("away").rename(folder)
    load_well(sandbox, command)


# A shrunk source


def shrink_command(ended: Ended) -> list[str]:
    """The command that the message prints, as a user would copy it."""
    found = re.search(r"dwhctl (load [^\n]*--allow-shrink)", ended.out)
    assert found, ended.out
    return shlex.split(found[1])


@pytest.fixture
def large(tmp_path: Path, sandbox: Sandbox, command: Command) -> Sandbox:
    """Every slice has 300 rows, and was loaded."""
    sandbox.fill(290)
    load_well(sandbox, command)
    return sandbox


@pytest.mark.parametrize("left", [149, 10, 0])
def test_a_shrunk_source_is_refused_until_it_is_accepted(large: Sandbox, command: Command, left: int) -> None:
    held = large.target_rows()
    large.in_shard(BAD, f"DELETE FROM orders WHERE id >= {left}")
    ended = command(*LOAD)
    assert ended.code == 1
    last = attempts(large, BAD)[0]
    assert (last.state, last.error_class) == (State.FAILED, "ShrunkSourceError")
    for word in (f"{left} rows", "300", "max_shrink = 0.5", f"--shard {BAD} --allow-shrink"):
        assert word in str(last.comment)
    assert large.target_rows() == held
    assert command(*shrink_command(ended), "--inline").code == 0
    assert large.target_rows() == large.source_rows([DAY])
    assert attempts(large, BAD)[0].state is (State.LOADED if left else State.SKIPPED)
    load_well(large, command)


def test_half_is_not_too_little(large: Sandbox, command: Command) -> None:
    large.in_shard(BAD, "DELETE FROM orders WHERE id >= 150")
    load_well(large, command)


def test_a_small_slice_may_shrink_to_nothing(sandbox: Sandbox, command: Command) -> None:
    sandbox.in_shard(BAD, "DELETE FROM orders WHERE id = (SELECT max(id) FROM orders)")
    load_well(sandbox, command)
    sandbox.in_shard(BAD, "DELETE FROM orders")
    load_well(sandbox, command)
    assert attempts(sandbox, BAD)[0].state is State.SKIPPED


# A new column


def with_discount(sandbox: Sandbox, on_new_column: str) -> None:
    sandbox.extract = EXTRACT.replace("id, customer, amount, start_time", "*")
    sandbox.load_keys += f'\non_new_column = "{on_new_column}"'
    sandbox.write().in_shard(
        BAD, "ALTER TABLE orders ADD COLUMN discount DECIMAL(5, 1)", "UPDATE orders SET discount = id / 10"
    )


def test_a_new_column_is_refused_by_name(sandbox: Sandbox, command: Command) -> None:
    with_discount(sandbox, "refuse")
    load_with_one_bad(sandbox, command, "SchemaDriftError", "discount", "DECIMAL(5,1)", "new at the source")
    sandbox.in_shard(BAD, "ALTER TABLE orders DROP COLUMN discount")
    load_well(sandbox, command)


def test_a_new_column_is_added(sandbox: Sandbox, command: Command) -> None:
    load_well(sandbox, command)
    with_discount(sandbox, "add")
    load_well(sandbox, command)
    found = sandbox.warehouse(
        "SELECT etl_source, count(discount), count(*) FROM stage.orders GROUP BY ALL ORDER BY 1"
    )
    assert found == [("abakan", 0, 10), ("achinsk", 10, 10), ("chita", 0, 10)]
    assert sandbox.warehouse("SELECT count(*) FROM stage.orders WHERE discount <> id / 10") == [(0,)]
    load_well(sandbox, command)


def test_a_column_that_is_gone_is_refused_with_refuse_and_filled_with_add(
    sandbox: Sandbox, command: Command
) -> None:
    with_discount(sandbox, "add")
    load_well(sandbox, command)
    sandbox.load_keys = sandbox.load_keys.replace("add", "refuse")
    sandbox.write()
    ended = command(*LOAD)
    assert ended.code == 1
    for shard in GOOD:
        last = attempts(sandbox, shard)[0]
        assert (last.state, last.error_class) == (State.FAILED, "SchemaDriftError")
        assert "discount is missing at the source" in str(last.comment)
    assert sandbox.target_rows() == sandbox.source_rows([DAY])
