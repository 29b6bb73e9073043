"""Systems of other packages: what is wrong with one is said by name, and concerns only who uses its type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dwhctl.core.errors import ConfigError
from dwhctl.project.connections import SYSTEMS, ignored_systems, types_for, usable_systems
from dwhctl.project.files import table_of_url
from dwhctl.project.read import read_project
from dwhctl.systems.duckdb.system import SYSTEM as DUCKDB
from tests.support.csv_system import FOLDER, forget, install
from tests.unit.projects import MAIN, problems, write_project

#: Installs a package of that name with these entry points, by type.
Install = Callable[..., None]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    monkeypatch.syspath_prepend(FOLDER)

    def installed(points: dict[str, str] | None, name: str = "dwhctl-csv") -> None:
        monkeypatch.syspath_prepend(install(tmp_path / "site" / name, points, name))
        forget()

    yield installed
    monkeypatch.undo()
    forget()


def using(tmp_path: Path, kind: str) -> Path:
    """A project whose warehouse is of that type."""
    main = MAIN.replace(
        'type = "duckdb"\npath = "state/warehouse', f'type = "{kind}"\npath = "state/warehouse'
    )
    return write_project(tmp_path / "project", main=main)


def test_an_installed_system_is_a_type_like_the_others(package: Install, tmp_path: Path) -> None:
    assert problems(using(tmp_path, "csv")) != []
    package(None)
    assert read_project(tmp_path / "project").connections["dwh"].type == "csv"
    assert types_for("is_target")[-1] == "csv"
    assert table_of_url("csv:state/warehouse") == {"type": "csv", "path": "state/warehouse"}


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("no_such_module:SYSTEM", "of the package broken cannot be imported: ModuleNotFoundError"),
        ("dwhctl_csv.system:NOTHING", "of the package broken cannot be imported: AttributeError"),
        (
            "dwhctl_csv.tables:_NAME",
            "in the package broken, is not an instance of dwhctl.systems.base.system.System",
        ),
        ("dwhctl_csv.system:CsvConnection", "is not an instance of dwhctl.systems.base.system.System"),
        (
            "dwhctl_csv.system:SYSTEM",
            "connections of the type 'csv': the entry point has another name than the type",
        ),
        ("no_keys:SYSTEM", "of the package broken has no `connection`, a class that derives from"),
    ],
)
def test_a_broken_package_concerns_only_who_uses_its_type(
    package: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, said: str
) -> None:
    (tmp_path / "no_keys.py").write_text(
        "from dwhctl.systems.base.system import System\n\nSYSTEM = System()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    package({"odd": target}, "broken")
    with pytest.raises(ConfigError, match="the system odd") as caught:
        read_project(using(tmp_path, "odd"))
    assert said in str(caught.value)
    assert "uninstall" in str(caught.value)
    assert read_project(write_project(tmp_path / "other")).connections["dwh"].type == "duckdb"
    assert "vertica" in types_for("is_target")
    assert "odd" not in dict(usable_systems())
    # A scheme that is not the type's name is looked for in all systems.
    assert table_of_url("postgresql://user@host/db")["type"] == "postgres"


def test_a_package_cannot_replace_a_system_of_dwhctl(package: Install) -> None:
    package({"duckdb": "dwhctl_csv.system:SYSTEM"}, "greedy")
    assert SYSTEMS["duckdb"] is DUCKDB
    assert ignored_systems() == [
        "the package greedy has a system duckdb, as dwhctl itself; the one of the package is ignored"
    ]


def test_two_packages_with_one_system_are_refused_by_name(package: Install, tmp_path: Path) -> None:
    package(None)
    package(None, "another-csv")
    with pytest.raises(ConfigError, match="the system csv is in several packages, another-csv, dwhctl-csv"):
        read_project(using(tmp_path, "csv"))
