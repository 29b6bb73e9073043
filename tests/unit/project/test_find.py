"""Finding the project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dwhctl.core.errors import ConfigError
from dwhctl.project.find import find_project
from tests.unit.projects import write_project


@pytest.fixture(autouse=True)
def _no_project_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DWHCTL_PROJECT", raising=False)


def test_the_nearest_project_upwards_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path / "sql" / "orders")
    assert find_project(None) == tmp_path


def test_the_option_wins_over_the_variable_and_that_over_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, named, explicit = (write_project(tmp_path / name) for name in ("here", "named", "explicit"))
    monkeypatch.chdir(here)
    monkeypatch.setenv("DWHCTL_PROJECT", str(named))
    assert find_project(None) == named
    assert find_project(Path("../explicit")) == explicit


def test_no_project_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no project here: neither .* make one with: dwhctl init"):
        find_project(None)
    with pytest.raises(
        ConfigError, match=r"--project: .*/nowhere is not a folder; choose a project's folder, or make"
    ):
        find_project(tmp_path / "nowhere")
    monkeypatch.setenv("DWHCTL_PROJECT", str(tmp_path))
    with pytest.raises(ConfigError, match=r"DWHCTL_PROJECT: .* has no config/dwhctl.toml"):
        find_project(None)


def test_a_folder_of_a_project_leads_to_the_project(tmp_path: Path) -> None:
    (tmp_path / "config" / "loads").mkdir(parents=True)
    (tmp_path / "config" / "dwhctl.toml").touch()
    for folder in ("config", "config/loads", "nowhere"):
        with pytest.raises(ConfigError, match=rf"--project: .*/{folder} .*; the project is {tmp_path}$"):
            find_project(tmp_path / folder)


@pytest.mark.parametrize(
    "module", ["project", "project.find", "project.days", "core.secrets", "core.sql", "core.words"]
)
def test_what_every_command_imports_is_light(module: str) -> None:
    heavy = {"pydantic", "jinja2", "pandas", "pyarrow", "duckdb"}
    code = f"import sys, dwhctl.{module}; print(*({heavy!r} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == ""
