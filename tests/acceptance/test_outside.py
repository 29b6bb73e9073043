"""What a tester from outside found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.projects import DAY, EXTRACT, Sandbox

SECRET = "T0kenT0ken42"


@pytest.mark.parametrize("arguments", [(), ("--inline",)], ids=["worker", "inline"])
def test_a_secret_in_a_driver_s_message_is_masked_in_the_session_s_comment(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """The parent renders a secret variable into the SQL; the worker, whose driver quotes it, does not know it."""
    sandbox = Sandbox(
        tmp_path,
        servers={"server_0": ["abakan"]},
        extract=EXTRACT.replace("customer", "{{ var.value.token }}", 1),
    ).write()
    main = tmp_path / "config" / "dwhctl.toml"
    main.write_text(f'{main.read_text()}\n[variables]\ntoken = {{ env = "TOKEN" }}\n')
    sandbox.fill()

    ended = sandbox.run("load", "--date", str(DAY), *arguments, env={"TOKEN": SECRET})

    assert ended.returncode == 1
    assert SECRET not in ended.stdout + ended.stderr
    [session] = sandbox.sessions_newest_first()
    assert session.comment is not None
    assert "********" in session.comment
    assert SECRET not in session.comment


def test_a_column_that_only_one_shard_of_a_group_has_keeps_its_values(tmp_path: Path) -> None:
    """The slice with the new column is staged again beside neighbours that were staged without it."""
    shards = [f"city_{number:02}" for number in range(30)]
    sandbox = Sandbox(
        tmp_path,
        servers={"server_0": shards},
        extract=EXTRACT.replace("id, customer, amount, start_time", "*"),
        load_keys='on_new_column = "add"',
    ).write()
    sandbox.fill(rows=10)
    # Without a history the shards start in the order of the configuration: this one first.
    sandbox.in_shard(shards[0], "ALTER TABLE orders ADD COLUMN tip DECIMAL(9, 2) DEFAULT 1.25")

    report = sandbox.load()

    assert (report.loaded, report.failed) == (30, 0)
    assert sandbox.warehouse(
        "SELECT etl_source, count(*), count(tip), max(tip)::VARCHAR FROM stage.orders GROUP BY ALL ORDER BY ALL"
    ) == [(shard, 10, *((10, "1.25") if shard == shards[0] else (0, None))) for shard in shards]
