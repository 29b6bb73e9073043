"""`verify` of one slice of a million rows: how long it takes, and that its process does not grow with the rows."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.support.memory import watched
from tests.support.projects import DAY, Sandbox
from tests.support.wire import Wire, a_wire, needs_faults

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
KEYS = 'retries = 0\nverify_columns = ["customer", "amount"]'
ROWS = 1_000_000


def verified(ground: Sandbox, rows: int) -> float:
    """Verify the one slice in a process of its own; give its peak of memory in MiB."""
    started = time.monotonic()
    process = ground.start("verify", "--date", str(DAY), plain=True)
    with watched(process) as watch:
        out, err = process.communicate(timeout=900)
    print(f"{rows:,} rows: {time.monotonic() - started:.1f} s, {watch}")
    assert (process.returncode, out, err) == (0, f"1 slice: 1 equal ({rows:,} rows)\n", "")
    return watch.parent


def different(ground: Sandbox, rows: int, other: tuple[str, ...]) -> float:
    """Verify the one slice, of which each row differs; give the peak of memory in MiB."""
    started = time.monotonic()
    process = ground.start("verify", *other, "--date", str(DAY), plain=True)
    with watched(process) as watch:
        out, err = process.communicate(timeout=900)
    print(f"{rows:,} rows that differ: {time.monotonic() - started:.1f} s, {watch}")
    print(out)
    assert (process.returncode, "amount: 1 slice, " in out, "e.g. id=" in out) == (1, True, True), out + err
    assert ("rows not counted" in out) == (rows == ROWS and not other)
    return watch.parent


def test_duckdb(tmp_path: Path) -> None:
    peaks = []
    for rows in (1_000, ROWS):
        sandbox = Sandbox(tmp_path / str(rows), {"server_0": ["abakan"]}, load_keys=KEYS).write()
        assert not sandbox.fill(rows).load().failed
        peaks.append(verified(sandbox, rows))
    # DuckDB's own memory in this process is limited to 64 MiB a file, which a million rows fill.
    assert peaks[1] - peaks[0] < 2 * 64 + 40


@pytest.mark.parametrize("against", [False, True])
def test_duckdb_where_every_row_differs(tmp_path: Path, against: bool) -> None:
    """The second look reads a bounded part of the rows, or leaves the work to the warehouse."""
    peaks = []
    for rows in (1_000, ROWS):
        sandbox = Sandbox(tmp_path / str(rows), {"server_0": ["abakan"]}, load_keys=KEYS).write()
        assert not sandbox.fill(rows).load().failed
        other: tuple[str, ...] = ()
        if against:
            sandbox.change_warehouse("CREATE TABLE stage.old AS SELECT * FROM stage.orders")
            other = ("orders", "--against", "stage.old")
        sandbox.change_warehouse("UPDATE stage.orders SET amount = amount + 1")
        peaks.append(different(sandbox, rows, other))
    assert peaks[1] - peaks[0] < 2 * 64 + 60


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_duckdbs_work(tmp_path: Path, sent: signal.Signals) -> None:
    sandbox = Sandbox(tmp_path, {"server_0": ["abakan"]}, load_keys=KEYS).write()
    assert not sandbox.fill(ROWS).load().failed
    code = {signal.SIGINT: 130, signal.SIGTERM: 143}[sent]
    for number in range(6):
        process = sandbox.start("verify", "--date", str(DAY))
        time.sleep(0.8 + 0.2 * number)
        process.send_signal(sent)
        out, err = process.communicate(timeout=20)
        # What was done by then is done.
        assert (process.returncode, err) in ((code, "Error: interrupted\n"), (0, "")), out


@needs_faults
def test_the_wire(tmp_path: Path) -> None:
    peaks = []
    for rows in (1_000, ROWS):
        with a_wire(tmp_path / str(rows), {"mssql_0": ["abakan"]}, load_keys=KEYS) as wire:
            assert isinstance(wire, Wire)
            size = min(rows, 100_000)
            for batch in range(0, rows, size):
                wire.in_shard(
                    "abakan",
                    "INSERT INTO dbo.Orders (id, customer, amount, start_time)"
                    f" SELECT value, CONCAT(N'клиент ', value), CAST(value * 1.01 AS DECIMAL(18, 2)),"
                    f" CAST('{DAY}T12:00:00' AS DATETIME2(3)) FROM GENERATE_SERIES({batch}, {batch + size - 1})",
                )
            assert not wire.load().failed
            peaks.append(verified(wire, rows))
    assert peaks[1] - peaks[0] < 10
