"""Projects with reports, on DuckDB and over the wire: a table of numbers, and a report that shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from dwhctl.refresh.run import RefreshRequest, run_refresh
from dwhctl.runtime.events import Event, RunResult
from dwhctl.sessions import Session
from dwhctl.systems.duckdb import client as engine
from tests.servers.vertica import VerticaServer
from tests.support.projects import DAY, Sandbox
from tests.support.wire import REAL_VERTICA, Wire

DOUBLINGS = 8
ROWS = 2**DOUBLINGS
CREATE = """\
CREATE SCHEMA IF NOT EXISTS reports;
CREATE TABLE IF NOT EXISTS reports.{name} (id {integer} NOT NULL, version {integer}, word VARCHAR(3));
CREATE OR REPLACE VIEW reports.{name}_view AS SELECT word, id, version FROM stage.numbers;
"""
KEYS = 'retries = 1\nretry_delay = "0s"'


@dataclass
class Place:
    """One warehouse with its project. The report `numbers` shows stage.numbers: ROWS rows of one version."""

    sandbox: Sandbox
    integer: str

    def execute(self, *statements: str) -> None:
        """Run statements in the warehouse, as somebody else, and commit."""
        if isinstance(self.sandbox, Wire):
            with closing(self.sandbox._vertica()) as link, closing(link.cursor()) as cursor:
                for statement in (*statements, "COMMIT"):
                    cursor.execute(statement)
                    cursor.fetchall()
            return
        self.sandbox.warehouse_file.parent.mkdir(parents=True, exist_ok=True)
        db = engine.open_file(self.sandbox.warehouse_file, read_only=False, wait=10, config={})
        with closing(db):
            for statement in statements:
                db.execute(statement)

    def fill(self, version: int, rows: int = ROWS) -> None:
        """Give stage.numbers so many rows of a version."""
        self.execute(
            "DELETE FROM stage.numbers",
            f"INSERT INTO stage.numbers SELECT {version}, id, 'abc' FROM stage.ids WHERE id < {rows}",
        )

    def make(self) -> Place:
        """Make stage.numbers, and the project with its report."""
        self.execute(
            "CREATE SCHEMA IF NOT EXISTS stage",
            f"CREATE TABLE stage.numbers (version {self.integer}, id {self.integer}, word VARCHAR(20))",
            f"CREATE TABLE stage.ids (id {self.integer})",
            "INSERT INTO stage.ids VALUES (0)",
            *(f"INSERT INTO stage.ids SELECT id + {2**n} FROM stage.ids" for n in range(DOUBLINGS)),
        )
        self.put({"numbers": KEYS})
        self.fill(1)
        return self

    def put(self, reports: dict[str, str], head: str = "", *, creates: bool = True) -> None:
        """Write reports.toml: the further keys of each report by its name; without `create` its table must be there."""
        text = head
        for name, keys in reports.items():
            create = f'create = "reports/{name}.sql"\n' if creates else ""
            source = "" if "source =" in keys else f'source = "reports.{name}_view"\n'
            text += (
                f'[reports.{name}]\nconnection = "warehouse"\n{source}target = "reports.{name}"\n'
                f"{create}{keys}\n"
            )
            sql = CREATE.replace("{name}", name).replace("{integer}", self.integer)
            self.sandbox.put(f"sql/reports/{name}.sql", sql)
        self.sandbox.put("config/reports.toml", text)

    def refresh(
        self,
        *reports: str,
        day: date = DAY,
        listen: Callable[[Event], None] = lambda event: None,
        **options: Any,
    ) -> RunResult:
        """Refresh in this process."""
        return run_refresh(self.sandbox.project(), RefreshRequest(day, reports, **options), listen)

    def content(self, name: str = "numbers") -> tuple[int, int | None, int | None]:
        """Rows, lowest and highest version of a report."""
        found = self.sandbox.warehouse(f"SELECT COUNT(*), MIN(version), MAX(version) FROM reports.{name}")
        return tuple(found[0]) if found else (0, None, None)

    def sessions(self, name: str = "numbers") -> list[Session]:
        """The sessions of a report, oldest first."""
        return [one for one in reversed(self.sandbox.sessions_newest_first()) if one.load == name]


def whole(version: int) -> tuple[int, int, int]:
    """The content of a report that shows a version."""
    return ROWS, version, version


class _Bare(Wire):
    """Only a warehouse over the wire: no shards, no load."""

    def write(self) -> _Bare:
        """Write the configuration."""
        self.put("config/dwhctl.toml", self._toml().partition("[shards.")[0])
        return self


@contextmanager
def a_place(system: str, root: Path, **keys: Any) -> Iterator[Place]:
    """A warehouse of a system, with stage.numbers of version 1 and a report that was never refreshed."""
    if system == "duckdb":
        yield Place(Sandbox(root, **keys).write(), "BIGINT").make()
        return
    with ExitStack() as stack:
        dwh = None if REAL_VERTICA else stack.enter_context(VerticaServer())
        place = Place(_Bare(root, {}, dwh=dwh, **keys).write(), "INT")
        if REAL_VERTICA:
            drop = [f"DROP SCHEMA IF EXISTS {schema} CASCADE" for schema in ("stage", "reports")]
            place.execute(*drop)
            stack.callback(place.execute, *drop)
        yield place.make()
