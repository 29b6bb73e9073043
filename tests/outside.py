"""The drivers' own tests against the servers of the tests, as a check from outside.

    python -m tests.outside vertica-python          # compare with the pinned list
    python -m tests.outside pymssql --write         # pin what passes now

The tests come from the driver's source distribution on the package index, of the version that is installed.
mssql-python has none there: a commit of its repository has its tests, or the checkout that `DWHCTL_TEST_OUTSIDE` names.
`tests/data/outside/NAME.txt` pins the tests that pass, a line for each.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import requests

_PINNED = Path(__file__).parent / "data" / "outside"
_LONGEST = 900.0
"""Seconds that all tests of a driver may take."""


class Unavailable(Exception):  # noqa: N818 - a reason to skip, no failure
    """The driver's tests cannot be fetched."""


@dataclass(frozen=True)
class Driver:
    """A driver: where its tests are in its source distribution, and what they need."""

    name: str
    server: tuple[str, ...]
    """The module to serve with, and its options."""
    folder: str
    """The folder that holds the tests' package."""
    tests: tuple[str, ...]
    """Files or folders of tests in it."""
    settings: str
    """The prefix of the environment variables that say where the server is."""
    needs: tuple[str, ...] = ()
    """Packages that only its tests import."""
    user: str = ""
    password: str = ""
    database: str = ""
    deselected: dict[str, str] = field(default_factory=dict)
    """Tests that do not run, each with the reason."""
    package: str = ""
    """The package, where it is not called like this check."""
    archive: str = ""
    """Where the tests are when the package index has no source distribution: the archive of a commit."""
    options: tuple[str, ...] = ("--import-mode=importlib",)
    """Options of pytest."""
    variables: dict[str, str] = field(default_factory=dict)
    """More environment variables; `{port}` in them is the server's."""

    @property
    def installed(self) -> str:
        """The version of the package that is installed."""
        return version(self.package or self.name)

    @property
    def pinned(self) -> Path:
        """The file with the tests that pass."""
        return _PINNED / f"{self.name}.txt"


VERTICA = Driver(
    name="vertica-python",
    server=("tests.servers.vertica",),
    folder=".",
    tests=("vertica_python/tests/integration_tests",),
    settings="VP_TEST_",
    needs=("parameterized==0.9.0",),
    user="dbadmin",
    password="Secret_456",
    database="docker",
    deselected={
        "test_connection_cancel_returned_query": "makes 31 million rows by TIMESERIES",
    },
)
PYMSSQL = Driver(
    name="pymssql",
    server=("tests.servers.tds", "--tls"),
    folder=".",
    tests=tuple(
        f"tests/test_{name}.py"
        for name in (
            # Not here: procedures and bulk load, which are sent as RPC and BULK; tests without a server.
            "charset", "connection_as_dict", "context_managers", "datetime", "err_handle", "parameters",
            "pymssql", "queries", "query_parameters", "quote_simple_value", "types", "unicode",
            "user_msghandler",
        )
    ),
    settings="PYMSSQL_TEST_",
    user="sa",
    password="Secret_123",
    database="master",
)  # fmt: skip
#: Newer commits are not to be had where dwhctl is built; the installed package is newer than they.
_MSSQL_COMMIT = "5f4fd1022fc0e2df917e21fe3b473339816946c7"


def _mssql_python(name: str, provider: str) -> Driver:
    return Driver(
        name=name,
        package="mssql-python",
        # Their server has more objects of its own than ten.
        server=("tests.servers.tds", "--database", "outside", "--run", f"outside:{_PINNED / 'mssql-python.sql'}"),
        folder=".",
        tests=tuple(
            f"tests/test_{name}.py"
            for name in (
                # Not here: bulk load, Entra, logging, stress, tests of other servers, spatial types.
                "002_types", "004_cursor", "004_cursor_arrow", "006_exceptions", "015_pyformat_parameters",
                "017_fetchmany_fetchone_interleave", "017_varchar_cp1252_boundary", "019_sql_variant",
                "020_money_smallmoney", "023_execute_path_parity", "024_context_manager_transaction",
            )
        ),
        settings="DWHCTL_OUTSIDE_",
        deselected={**_NO_CATALOG, "test_invalid_surrogate_handling": "waits for hosts that do not exist"},
        # A test that ends its process ends no other.
        options=("-n", "1", "--max-worker-restart", "50"),
        archive=f"https://github.com/microsoft/mssql-python/archive/{_MSSQL_COMMIT}.tar.gz",
        variables={
            "DB_CONNECTION_STRING": "Server=127.0.0.1,{port};Database=outside;UID=sa;PWD=Secret_123;Encrypt=no;"
            "TrustServerCertificate=yes",
            "MSSQL_PYTHON_NATIVE_PROVIDER": provider,
        },
    )  # fmt: skip


#: The procedures behind ODBC's catalog functions (sp_tables and so on): dwhctl reads the views of the catalog.
_NO_CATALOG = dict.fromkeys(
    (
        "test_tables_", "test_columns_", "test_gettypeinfo", "test_procedures_", "test_foreignkeys_",
        "test_primarykeys_", "test_specialcolumns_", "test_rowid_columns", "test_rowver_columns", "test_statistics_",
        "stored_procedure", "geometry",
    ),
    "neither catalog procedures, nor CREATE PROCEDURE, nor geometry",
)  # fmt: skip
MSSQL_ODBC = _mssql_python("mssql-python-odbc", "")
MSSQL_RUST = _mssql_python("mssql-python-rust", "mssql-odbc")
DRIVERS = {driver.name: driver for driver in (VERTICA, PYMSSQL, MSSQL_ODBC, MSSQL_RUST)}


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise Unavailable(f"pip cannot fetch {arguments[-1]}: {done.stderr.strip()[-300:]}")


def fetch(driver: Driver, into: Path) -> Path:
    """Unpack the driver's source distribution; return its folder. The driver is not built."""
    if driver.archive:
        return _fetch_archive(driver, into)
    wanted = f"{driver.name}=={driver.installed}"
    _pip("download", "--no-deps", "--no-binary", ":all:", "--dest", str(into), wanted)
    [archive] = into.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(into, filter="data")
    if driver.needs:
        _pip("install", "--no-deps", "--target", str(into / "needs"), *driver.needs)
    return into / archive.name.removesuffix(".tar.gz") / driver.folder


def _fetch_archive(driver: Driver, into: Path) -> Path:
    if checkout := os.environ.get("DWHCTL_TEST_OUTSIDE"):
        shutil.copytree(Path(checkout) / "tests", into / "source" / "tests")
        return into / "source"
    try:
        answer = requests.get(driver.archive, timeout=60)
        answer.raise_for_status()
    except requests.RequestException as failure:
        raise Unavailable(f"the tests of {driver.name} cannot be fetched: {type(failure).__name__}") from None
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as packed:
        packed.extractall(into, filter="data")
    [home] = into.glob("mssql-python-*")
    return home


@contextmanager
def serving(driver: Driver) -> Iterator[int]:
    """A server as a process of its own; yields its port."""
    server = subprocess.Popen(
        [sys.executable, "-m", *driver.server],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    try:
        assert server.stdin is not None
        assert server.stdout is not None
        yield int(server.stdout.readline())
    finally:
        server.kill()
        server.wait()


def run(driver: Driver, into: Path) -> dict[str, str]:
    """Run the driver's tests; return the outcome of each: passed, skipped, failed or error."""
    home = fetch(driver, into)
    # The package under test is the installed one, not the sources beside the tests.
    report = into / "report.xml"
    with serving(driver) as port, (into / "output.txt").open("w") as output:
        subprocess.run(
            [
                sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", ".", *driver.options,
                "-p", "no:cacheprovider", "-q", "--tb=short", "-W", "ignore", "--timeout=60", "--timeout-method=thread",
                f"--junitxml={report}", *_deselecting(driver), *driver.tests,
            ],
            cwd=home,
            env=_environment(driver, port, into),
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=_LONGEST,
            check=False,
        )  # fmt: skip
    if not report.exists():
        raise AssertionError(
            f"no report of {driver.name}'s tests: {(into / 'output.txt').read_text()[-3000:]}"
        )
    return _outcomes(report)


def _deselecting(driver: Driver) -> list[str]:
    return ["-k", " and ".join(f"not {name}" for name in driver.deselected)] if driver.deselected else []


def _environment(driver: Driver, port: int, into: Path) -> dict[str, str]:
    given = {
        "HOST": "127.0.0.1",
        "SERVER": "127.0.0.1",
        "IPADDRESS": "127.0.0.1",
        "PORT": str(port),
        "USER": driver.user,
        "USERNAME": driver.user,
        "PASSWORD": driver.password,
        "DATABASE": driver.database,
        "LOG_DIR": str(into / "log"),
    }
    return {
        **os.environ,
        **{driver.settings + key: value for key, value in given.items()},
        **{key: value.replace("{port}", str(port)) for key, value in driver.variables.items()},
        "PYTHONPATH": os.pathsep.join([".", str(into / "needs")]),
        "TMPDIR": str(into),
    }


def _outcomes(report: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        kinds = [each.tag for each in case if each.tag in ("failure", "error", "skipped")]
        # A test that passed and whose cleaning up failed is listed twice.
        outcome = kinds[0] if kinds else "passed"
        if found.get(name, "passed") == "passed":
            found[name] = outcome
    return found


def read_pinned(driver: Driver) -> tuple[str, set[str]]:
    """Return the version that is pinned and the tests that pass with it."""
    first, *lines = driver.pinned.read_text(encoding="utf-8").splitlines()
    return first.removeprefix(f"# {driver.name} "), {line for line in lines if line and line[0] != "#"}


def write_pinned(driver: Driver, outcomes: dict[str, str]) -> None:
    """Pin what passed."""
    passed = sorted(name for name, outcome in outcomes.items() if outcome == "passed")
    lines = [f"# {driver.name} {driver.installed}", *passed]
    driver.pinned.write_text("\n".join(lines) + "\n", encoding="utf-8")


def differences(driver: Driver, outcomes: dict[str, str]) -> list[str]:
    """Return what is not as pinned: a line for each test that passes no longer, or newly."""
    pinned, expected = read_pinned(driver)
    if pinned != driver.installed:
        return [f"the list is that of {driver.name} {pinned}, installed is {driver.installed}: write it anew"]
    passed = {name for name, outcome in outcomes.items() if outcome == "passed"}
    return [
        *(
            f"passes no longer ({outcomes.get(name, 'did not run')}): {name}"
            for name in sorted(expected - passed)
        ),
        *(f"passes now, add it to the list: {name}" for name in sorted(passed - expected)),
    ]


def main() -> int:
    """Run a driver's tests; print what differs from the list, or write it."""
    parser = argparse.ArgumentParser(prog="python -m tests.outside")
    parser.add_argument("driver", choices=sorted(DRIVERS))
    parser.add_argument("--write", action="store_true", help="pin what passes now")
    given = parser.parse_args()
    driver = DRIVERS[given.driver]
    with tempfile.TemporaryDirectory(prefix="dwhctl-outside-") as folder:
        outcomes = run(driver, Path(folder))
        counts = {each: list(outcomes.values()).count(each) for each in sorted(set(outcomes.values()))}
        print(driver.name, driver.installed, counts)
        if given.write:
            write_pinned(driver, outcomes)
            return 0
        lines = differences(driver, outcomes)
        print("\n".join(lines))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
