"""The kit of HTTP: an API on loopback that answers the suite's SQL; the load declares the columns of the answer."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, unquote

import duckdb
import pyarrow as pa

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import AttemptError, ConnectError, LoginRefusedError, QueryError
from dwhctl.core.sql import replace_binds
from dwhctl.project.connections import Connection
from dwhctl.project.endpoint import CursorPaginator, Endpoint, Request
from dwhctl.project.query import Query
from dwhctl.project.response_columns import ResponseColumn
from dwhctl.systems.base.fingerprint import Fingerprint, Measure, Write
from dwhctl.systems.base.source import Source
from dwhctl.systems.http.source import HttpSource
from dwhctl.systems.http.system import HttpConnection
from tests.contract.kit_base import NASTY_TEXTS, SourceKit, TypeCase
from tests.contract.kits_duckdb import DUCKDB_WORDS, duckdb_literal, duckdb_text
from tests.servers.http import Api, Asked, Reply

_PAGE = 5_000
#: From DuckDB's types to those that a load declares.
_DECLARED = {
    "BOOLEAN": "boolean",
    "SMALLINT": "smallint",
    "INTEGER": "integer",
    "BIGINT": "bigint",
    "HUGEINT": "decimal(38,0)",
    "FLOAT": "real",
    "DOUBLE": "double",
    "VARCHAR": "text",
    "JSON": "text",
    "UUID": "uuid",
    "BLOB": "binary",
    "DATE": "date",
    "TIME": "time",
    "TIMESTAMP": "timestamp",
    "TIMESTAMP WITH TIME ZONE": "timestamptz",
}
_RAW = ("boolean", "smallint", "integer", "bigint", "real", "double", "decimal")
_NO_NUMBERS = {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}


class _Server:
    """Answers SQL by pages of JSON. A cursor is `number:row`; its rows wait in an open result of DuckDB."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[duckdb.DuckDBPyConnection, list[str]]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Reply:
        if asked.method == "GET":
            return Reply(200)
        cursor = asked.params.get("cursor") or self._begin(asked.json)
        db, words = self._open[cursor.partition(":")[0]]
        try:
            rows = db.fetchmany(_PAGE)
        except duckdb.Error as error:
            return Reply(400, str(error).partition("\nLINE ")[0].encode())
        items = ", ".join(_record(row, words) for row in rows)
        number, _, at = cursor.partition(":")
        following = f'"{number}:{int(at) + 1}"' if len(rows) == _PAGE else "null"
        if following == "null":
            self._open.pop(number)[0].close()
        return Reply(200, f'{{"items": [{items}], "next": {following}}}'.encode())

    def _begin(self, body: Any) -> str:
        with self._lock:
            number = str(next(self._numbers))
        db = duckdb.connect(body["file"])
        columns = ", ".join(_as_text(n, word) for n, word in enumerate(body["words"]))
        names = ", ".join(f"c{n}" for n in range(len(body["words"])))
        binds = {name: datetime.fromisoformat(text) for name, text in body["binds"].items()}
        sql = f"SELECT {columns} FROM ({body['sql']}\n) AS asked({names})"
        # With more threads a row in mid-way may fail before the first page is there.
        db.execute("SET threads = 1")
        with suppress(duckdb.Error):  # the page says it
            db.execute(sql, binds or None)
        self._open[number] = (db, body["words"])
        return f"{number}:0"


def _as_text(number: int, word: str) -> str:
    if word == "binary":
        return f"base64(c{number})"
    if word == "timestamptz":
        return f"strftime(c{number} AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ')"
    return f"CAST(c{number} AS VARCHAR)"


def _record(row: Sequence[str | None], words: Sequence[str]) -> str:
    pairs = (f'"c{n}": {_json(value, words[n])}' for n, value in enumerate(row))
    return "{" + ", ".join(pairs) + "}"


def _json(value: str | None, word: str) -> str:
    if value is None:
        return "null"
    if word.startswith(_RAW):
        # DuckDB writes no zero before the point of a DECIMAL(38,38).
        return _NO_NUMBERS.get(value, re.sub(r"^(-?)\.", r"\g<1>0.", value))
    return json.dumps(value, ensure_ascii=False)


@cache
def _api() -> Api:
    """Start the server of all tests of this process; it ends with it."""
    return Api(_Server()).__enter__()


class _SqlSource(Source):
    """An HTTP source whose queries are the suite's SQL."""

    declares_null = HttpSource.declares_null

    def __init__(self, kit: HttpSourceKit, connection: Connection, database: str, zone: str) -> None:
        assert isinstance(connection, HttpConnection)
        self._inner = HttpSource(connection, None, None)
        self._kit, self._connection, self._database, self._zone = kit, connection, database, zone

    def _ask(self, query: Query) -> Query:
        return self._kit.query(self._connection, self._database, query, self._zone)

    def columns(self, query: Query) -> Sequence[Column]:
        return self._inner.columns(self._ask(query))

    def batches(self, query: Query, rows: int) -> Iterator[pa.RecordBatch]:
        return self._inner.batches(self._ask(query), rows)

    def fingerprint(self, query: Query, measure: Measure) -> Fingerprint:
        return self._inner.fingerprint(self._ask(query), measure)

    def measured(self, query: Query, measure: Measure, write: Write) -> Sequence[Sequence[Any]]:
        return self._inner.measured(self._ask(query), measure, write)

    def count_nulls(self, query: Query, column: str) -> int:
        return self._inner.count_nulls(self._ask(query), column)

    def version(self) -> str:
        return self._inner.version()

    def close(self) -> None:
        self._inner.close()


def _cases() -> tuple[TypeCase, ...]:
    def cast(declared: str, *values: str) -> tuple[str, ...]:
        return tuple(f"CAST('{value}' AS {declared})" for value in values)

    moments = ("2020-07-14 12:34:56.123456", "0001-01-01 00:00:00", "9999-12-31 23:59:59.999999")
    return (
        TypeCase("SMALLINT", Kind.INTEGER, cast("SMALLINT", "-32768", "32767")),
        TypeCase("INTEGER", Kind.INTEGER, cast("INTEGER", "-2147483648", "2147483647")),
        TypeCase("BIGINT", Kind.INTEGER, cast("BIGINT", str(-(2**63)), str(2**63 - 1), "9007199254740993")),
        TypeCase(
            "DECIMAL(38,10)", Kind.DECIMAL, cast("DECIMAL(38,10)", "9" * 28 + "." + "9" * 10, "0", "-0.1")
        ),
        TypeCase("DECIMAL(38,38)", Kind.DECIMAL, cast("DECIMAL(38,38)", "0." + "9" * 38, f"-0.{'0' * 37}1")),
        TypeCase("FLOAT", Kind.FLOAT, cast("FLOAT", "1.1", "nan", "inf", "-inf", "-0.0", "1e-45", "3.4e38")),
        TypeCase("DOUBLE", Kind.FLOAT, cast("DOUBLE", "0.1", "nan", "-inf", "-0.0", "5e-324", "1.7e308")),
        TypeCase("BOOLEAN", Kind.BOOLEAN, cast("BOOLEAN", "true", "false")),
        TypeCase("VARCHAR", Kind.TEXT, tuple(map(duckdb_text, NASTY_TEXTS))),
        TypeCase("UUID", Kind.UUID, cast("UUID", "0" * 8 + "-0000" * 3 + "-" + "0" * 12, "F" * 32)),
        TypeCase("BLOB", Kind.BINARY, ("''::BLOB", "'\\x00\\xFF\\x0A\\x5C'::BLOB", "encode('ё\\.')")),
        TypeCase("DATE", Kind.DATE, cast("DATE", "2020-02-29", "0001-01-01", "9999-12-31")),
        TypeCase("TIME", Kind.TIME, cast("TIME", "00:00:00", "23:59:59.999999")),
        TypeCase("TIMESTAMP", Kind.TIMESTAMP, cast("TIMESTAMP", *moments)),
        TypeCase("TIMESTAMPTZ", Kind.TIMESTAMPTZ, cast("TIMESTAMPTZ", *(f"{one}+00" for one in moments))),
    )


class HttpSourceKit(SourceKit):
    """An HTTP API whose engine is DuckDB."""

    name = "http"
    types = _cases()
    refused: ClassVar[Mapping[str, str]] = {}
    fails_midway = "CAST(CASE WHEN i = 150000 THEN 'x' ELSE '1' END AS INTEGER)"
    many = (60_000, 1_000)
    waits = False
    describes = False
    words = DUCKDB_WORDS

    def literal(self, kind: Kind, value: object) -> str:
        return duckdb_literal(kind, value)

    def create_as(self, table: str, select: str) -> tuple[str, ...]:
        return (f"CREATE OR REPLACE TABLE {table} AS {select}",)

    def connection(self, root: Path, wait: float = 5) -> Connection:
        (root / "api").mkdir(exist_ok=True)
        return HttpConnection(name="server_0", base_url=_api().url, headers=_at(root / "api"))

    def run(self, connection: Connection, database: str, *statements: str) -> None:
        with closing(duckdb.connect(str(_file(connection, database)))) as db:
            for statement in statements:
                db.execute(statement)

    def numbers(self, rows: int) -> str:
        return f"(SELECT range AS i FROM range({rows})) AS numbers"

    def busy(self, connection: Connection, database: str) -> AbstractContextManager[None]:
        raise NotImplementedError  # an API says 429, which tests/integration/test_http_source.py tries

    def broken(self, root: Path) -> Iterator[tuple[str, Connection, str, type[AttemptError], str]]:
        with Api(lambda _: Reply(401)) as refusing:
            made = HttpConnection(name="server_0", base_url=refusing.url, headers=_at(root))
            self.run(made, "abakan", "CREATE TABLE t (i BIGINT)")
            yield "a refused login", made, "abakan", LoginRefusedError, "answered 401"
        yield "no server", made, "abakan", ConnectError, "connection refused"

    def query(self, connection: Connection, database: str, query: Query, zone: str = "UTC") -> Query:
        """Declare what the query's answer has, and put the query into a request."""
        file = _file(connection, database)
        sql = replace_binds(query.sql, lambda name: f"${name}")
        try:
            with closing(duckdb.connect(str(file))) as db:
                described = db.execute(f"DESCRIBE {sql}", dict(query.binds) or None).fetchall()
        except duckdb.Error as error:
            raise QueryError(str(error).partition("\nLINE ")[0]) from error
        types = {str(name).lower(): str(declared) for name, declared, *_ in described}
        words = [_declared(str(declared)) for _, declared, *_ in described]
        columns = {
            str(row[0]): ResponseColumn(type=word, path=f"c{n}")
            for n, (row, word) in enumerate(zip(described, words, strict=True))
        }
        is_instant = types.get((query.slice_by or "").lower()) == "TIMESTAMP WITH TIME ZONE"
        binds = query.instants if is_instant and query.instants else query.binds
        body = {
            "file": str(file),
            "sql": sql,
            "words": words,
            "binds": {name: bind.isoformat() for name, bind in binds.items()},
        }
        endpoint = Endpoint(
            method="POST",
            json_={},
            data_selector="$.items[*]",
            paginator=CursorPaginator(cursor_path="$.next"),
        )
        return Query("", {}, query.slice_by, request=Request(endpoint, columns, "query", {}, body))

    def open(self, connection: Connection, database: str = "abakan", zone: str = "UTC") -> Source:
        return _SqlSource(self, connection, database, zone)


def _declared(word: str) -> str:
    return word.lower() if word.startswith("DECIMAL") else _DECLARED[word]


def _at(folder: Path) -> dict[str, str]:
    """Keep in the connection where its databases are."""
    return {"X-Folder": quote(str(folder))}


def _file(connection: Connection, database: str) -> Path:
    assert isinstance(connection, HttpConnection)
    return Path(unquote(connection.headers["X-Folder"])) / f"{database}.duckdb"
