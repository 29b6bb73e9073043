"""Bad configuration costs nothing: exit 2, one message that names file, key or line, and the remedy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli_support import dwh
from tests.support.projects import DAY, Sandbox

LOAD = ("load", "--date", DAY, "--inline")


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """Two servers, three shards of ten rows."""
    return Sandbox(tmp_path / "project").write().fill()


def replace_in(name: str, before: str, after: str) -> Callable[[Sandbox], None]:
    """Change a file of the project."""

    def change(sandbox: Sandbox) -> None:
        text = (sandbox.root / name).read_text()
        assert before in text
        sandbox.put(name, text.replace(before, after))

    return change


def nothing(_sandbox: Sandbox) -> None:
    pass


MAIN, ORDERS_TOML, SQL = "config/dwhctl.toml", "config/loads/orders.toml", "sql/orders/extract.sql"
CONFIG = {
    "unknown key": (
        replace_in(ORDERS_TOML, "slice_by", "slice_bye"),
        (),
        [ORDERS_TOML, "slice_bye", "did you mean 'slice_by'"],
    ),
    "unknown key of the project": (
        replace_in(MAIN, "max_workers", "max_worker"),
        (),
        [MAIN, "max_worker", "did you mean 'max_workers'"],
    ),
    "wrong type": (replace_in(ORDERS_TOML, "retries = 1", 'retries = "one"'), (), [ORDERS_TOML, "retries"]),
    "missing file": (
        lambda sandbox: (sandbox.root / SQL).unlink(),
        (),
        ["orders/extract.sql", ORDERS_TOML],
    ),
    "broken TOML": (replace_in(MAIN, "[sessions]", "[sessions"), (), [MAIN, "line 5"]),
    "undefined variable": (
        replace_in(SQL, ":start", "'{{ datte }}'"),
        (),
        [SQL, "line 3", "datte"],
    ),
    "undefined variable in create": (
        replace_in("sql/orders/create.sql", "BIGINT", "{{ big }}"),
        (),
        ["sql/orders/create.sql", "big"],
    ),
    "unknown bind": (replace_in(SQL, ":start", ":begin"), (), [SQL, ":begin"]),
    "two equal shard names": (
        replace_in(MAIN, "server_1 = ['chita']", "server_1 = ['abakan']"),
        (),
        [MAIN, "abakan", '{ name = "'],
    ),
    "unknown load": (nothing, ("load", "oders", "--date", DAY), ["oders", "did you mean 'orders'"]),
    "unknown shard": (nothing, (*LOAD, "--shard", "abakann"), ["abakann", "did you mean 'abakan'"]),
    "no such date": (nothing, ("load", "--date", "2020-02-30"), ["2020-02-30", "YYYY-MM-DD"]),
    "no such project": (
        lambda sandbox: shutil.rmtree(sandbox.root / "config"),
        (),
        ["config/dwhctl.toml"],
    ),
}


@pytest.mark.parametrize("case", CONFIG)
def test_bad_configuration_touches_nothing(
    sandbox: Sandbox, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    spoil, arguments, words = CONFIG[case]
    spoil(sandbox)
    assert dwh(*(arguments or LOAD), "--project", sandbox.root) == 2
    out, err = capfd.readouterr()
    for word in words:
        assert word in err
    assert "Traceback" not in err
    assert out == ""
    assert not (sandbox.root / "state").exists()
    sandbox.write()
    assert dwh(*LOAD, "--project", sandbox.root) == 0
    assert sandbox.target_rows() == sandbox.source_rows()


def test_every_problem_is_told_at_once(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    replace_in(ORDERS_TOML, "retries = 1", 'retries = "one"')(sandbox)
    replace_in(MAIN, "max_workers", "max_worker")(sandbox)
    assert dwh(*LOAD, "--project", sandbox.root) == 2
    err = capfd.readouterr().err
    assert ORDERS_TOML in err
    assert "max_worker" in err


def test_a_question_mark_in_a_duckdb_path_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a ? b"
    ended = Sandbox(folder).write().run("config", "check")
    assert ended.returncode == 2
    assert "connections.warehouse.path" in ended.stderr
    assert "'?'" in ended.stderr
