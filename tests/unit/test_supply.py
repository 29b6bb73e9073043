"""The locked packages: all that setup.cfg asks for, one version each, with hashes, from nowhere in particular."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools.config.setupcfg import read_configuration  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
_HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}")
PYTHONS = ("3.11.0", "3.12.0", "3.13.0")


def locked(name: str) -> dict[Requirement, int]:
    """The entries of a lock file, each with the number of its hashes. Any line that is neither is an error."""
    entries: dict[Requirement, int] = {}
    lines = (line.removesuffix(" \\") for line in (ROOT / name).read_text().splitlines())
    for line in lines:
        if _HASH.fullmatch(line):
            entries[next(reversed(entries))] += 1
        elif not line.startswith("#"):
            entries[Requirement(line)] = 0
    return entries


def wanted(test: bool) -> list[Requirement]:
    """What setup.cfg and pyproject.toml ask for."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    lines = [*build, *parser["options"]["install_requires"].split("\n")]
    if test:
        lines += parser["options.extras_require"]["test"].split("\n")
    return [Requirement(line) for line in lines if line]


def versions(name: str, python: str) -> dict[str, str]:
    """The versions that a lock file has for a Python."""
    environment = {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "sys_platform": "linux",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    found: dict[str, str] = {}
    for entry in locked(name):
        if entry.marker is None or entry.marker.evaluate(environment):
            [version] = entry.specifier
            assert (version.operator, entry.url) == ("==", None)
            assert found.setdefault(canonicalize_name(entry.name), version.version) == version.version
    return found


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(("name", "test"), [("constraints.txt", False), ("constraints-test.txt", True)])
def test_every_package_is_locked_to_a_version_that_setup_cfg_allows(
    name: str, test: bool, python: str
) -> None:
    found = versions(name, python)
    for requirement in wanted(test):
        assert requirement.specifier.contains(found[canonicalize_name(requirement.name)]), ".ci/lock"


@pytest.mark.parametrize("python", PYTHONS)
def test_the_tests_run_with_the_versions_that_users_get(python: str) -> None:
    tested = versions("constraints-test.txt", python)
    assert versions("constraints.txt", python).items() <= tested.items()


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-test.txt"])
def test_every_entry_has_hashes_and_no_line_says_where_it_is_from(name: str) -> None:
    assert all(locked(name).values())
    assert "/" not in (ROOT / name).read_text().replace("#    .ci/lock", "")


def test_every_folder_with_files_is_a_package_of_the_wheel() -> None:
    # Otherwise setuptools warns that it "would be ignored", for each folder of templates.
    files = [path for path in (ROOT / "dwhctl").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in files}
    assert "dwhctl.page.templates" in folders
    assert folders <= set(read_configuration(ROOT / "setup.cfg")["options"]["packages"])
