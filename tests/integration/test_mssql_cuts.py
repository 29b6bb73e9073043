"""A connection that breaks in an answer, at the end of a packet or anywhere, never gives a part of a slice."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

import dwhctl.core.errors
from dwhctl.core.errors import AttemptError
from tests.contract.kits_mssql import skip_without_driver
from tests.servers.cutting import CuttingProxy, packet_ends
from tests.servers.tds import TdsServer
from tests.support.mssql_reader import Answer, Reader, reader

DRIVERS = {
    "pymssql": ("pymssql", "msodbcsql18"),
    "odbc": ("mssql-python", "msodbcsql18"),
    "rust": ("mssql-python", "mssql-odbc"),
}
WIDE, EVEN = "SELECT * FROM wide", "SELECT id, v FROM even"
#: Rows and columns.
SIZES = {WIDE: (600, 61), EVEN: (3_000, 2)}


@pytest.fixture(scope="module")
def server() -> Iterator[TdsServer]:
    with TdsServer(databases=("abakan",)) as running:
        names = [f"column_{number}" for number in range(60)]
        columns = ", ".join(f"{name} nvarchar(40)" for name in names)
        cells = ", ".join(f"CONCAT('{name}', value)" for name in names[:3])
        nulls = ", ".join("NULL" for _ in names[3:])
        # Its description is several packets.
        running.execute("abakan", f"CREATE TABLE wide (id int, {columns})")
        running.execute(
            "abakan", f"INSERT INTO wide SELECT value, {cells}, {nulls} FROM GENERATE_SERIES(1, 600)"
        )
        # The metadata are 32 octets and a row is 8, so that every packet ends with a row.
        running.execute("abakan", "CREATE TABLE even (id int NOT NULL, v char(1) NOT NULL)")
        running.execute("abakan", "INSERT INTO even SELECT value, 'x' FROM GENERATE_SERIES(1, 3000)")
        yield running


@pytest.fixture(scope="module")
def readers() -> Iterator[dict[str, Reader]]:
    """A process for each provider, made when it is used."""
    with ExitStack() as stack:

        class Made(dict[str, Reader]):
            def __missing__(self, provider: str) -> Reader:
                self[provider] = stack.enter_context(reader(provider))
                return self[provider]

        yield Made()


def check(server: TdsServer, reads: Reader, driver: str, sql: str, cuts: int | None) -> list[Answer]:
    """Read with every cut, or with so many of each kind: each reading fails, and may be tried again."""
    rng = random.Random(7)
    answers = []
    with CuttingProxy(server.port) as proxy:
        # The first reading of a process asks for code pages, too.
        reads.read(proxy.port, sql, driver=driver)
        whole = reads.read(proxy.port, sql, driver=driver)
        assert (whole.error, whole.rows, whole.columns) == ("", *SIZES[sql])
        ends = packet_ends(proxy.sent)
        assert ends[-1] == len(proxy.sent)
        inside = [rng.randrange(ends[1], ends[-1]) for _ in range(cuts or 60)]
        at_ends = ends[1:-1] if cuts is None else rng.sample(ends[1:-1], cuts)
        for number, cut in enumerate((*at_ends, *inside)):
            proxy.cut_at = cut
            proxy.how = "reset" if number % 4 == 3 else "close"
            got = reads.read(proxy.port, sql, driver=driver)
            where = f"{driver}, cut ({proxy.how}) after {cut} bytes, packets end at {ends}: {got}"
            assert got.error, where
            kind = getattr(dwhctl.core.errors, got.error)
            assert issubclass(kind, AttemptError), where
            assert not kind.permanent, where
            answers.append(got)
    return answers


@pytest.mark.parametrize("sql", SIZES)
@pytest.mark.parametrize("name", DRIVERS)
def test_a_cut_answer_is_never_a_slice(
    name: str, sql: str, server: TdsServer, readers: dict[str, Reader]
) -> None:
    if name != "pymssql":
        skip_without_driver()
    driver, provider = DRIVERS[name]
    check(server, readers[provider], driver, sql, 3)


@pytest.mark.long
@pytest.mark.parametrize("sql", SIZES)
@pytest.mark.parametrize("name", DRIVERS)
def test_every_cut(name: str, sql: str, server: TdsServer, readers: dict[str, Reader]) -> None:
    if name != "pymssql":
        skip_without_driver()
    driver, provider = DRIVERS[name]
    answers = check(server, readers[provider], driver, sql, None)
    if (name, sql) == ("odbc", EVEN):
        # This driver reports no error there: what is under test is the check of dwhctl.
        assert any("the connection was lost after" in answer.text for answer in answers)
