"""Read an HTTP API as a shard: pages become record batches of the declared columns."""

from __future__ import annotations

import hashlib
from contextlib import closing
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from dwhctl.core.errors import QueryError, SourceError, TargetRefusedError
from dwhctl.core.faults import reach
from dwhctl.core.files import SpillFolder
from dwhctl.core.sql import quote_name
from dwhctl.systems.base.fingerprint import Dialect, Part, read_fingerprint, source_parts
from dwhctl.systems.base.source import Source
from dwhctl.systems.duckdb import client as engine
from dwhctl.systems.http.client import Client
from dwhctl.systems.http.paginators import FirstPage, Page, Pages, json_paths
from dwhctl.systems.http.records import JsonRecords, csv_records
from dwhctl.systems.http.request import Call, shown, url_of
from dwhctl.systems.http.types import MISSING, TWICE, Converter, declared_columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from dwhctl.core.columns import Column
    from dwhctl.project.endpoint import Endpoint, Request
    from dwhctl.project.query import Query
    from dwhctl.project.response_columns import ResponseColumn
    from dwhctl.systems.base.fingerprint import Fingerprint, Measure, Write
    from dwhctl.systems.http.request import Answer
    from dwhctl.systems.http.system import HttpConnection

_PAGES = frozenset({200, 201, 203})
_NO_CONTENT = 204
_MEASURED_ROWS = 2_048


class HttpSource(Source):
    """One account of an HTTP API. Opening it sends nothing: the first request connects.

    The answer is one state of the account only as far as the API's pages are: `verify` finds what moved between them.
    """

    def __init__(self, connection: HttpConnection, timeout: float | None, state_dir: Path | None) -> None:
        self._connection = connection
        self._state_dir = state_dir
        self._client = Client(connection, timeout, state_dir)

    def columns(self, query: Query) -> Sequence[Column]:
        """Describe the columns that the load declares."""
        return declared_columns(_request(query).columns)

    def batches(self, query: Query, rows: int) -> Iterator[pa.RecordBatch]:
        """Fetch page after page; a page is whole before a row of it is given."""
        return self._read(query, rows, Pages(_request(query).endpoint.paginator, self._connection.max_pages))

    def tried(self, query: Query) -> str | None:
        """Read the first page to its end. Return that nothing in it leads to a second one."""
        first = FirstPage(_request(query).endpoint.paginator, self._connection.max_pages)
        for _ in self._read(query, _MEASURED_ROWS, first):
            pass
        if first.place is None:
            return None
        return (
            f"the first page has records, and nothing at {first.place}, so that a load ends with it; right if there"
            " is one page, else correct the paginator"
        )

    def _read(self, query: Query, rows: int, pages: Pages) -> Iterator[pa.RecordBatch]:
        request = _request(query)
        columns = declared_columns(request.columns)
        converters = list(map(Converter, columns, request.columns.values()))
        schema = pa.schema([pa.field(column.name, column.type) for column in columns])
        endpoint, before = request.endpoint, b""
        call: Call | None = _first(self._connection, request, pages)
        first_row = 1
        while call is not None:
            reach("http.page")
            answer = self._client.fetch(
                endpoint.method,
                call,
                form=endpoint.data is not None,
                accept="text/csv" if endpoint.format == "csv" else "application/json",
                actions=endpoint.response_actions,
            )
            with answer.body:
                records = self._records(endpoint, answer, request)
                seen, count = hashlib.blake2b(digest_size=16), 0
                for part in _grouped(_fields(records, request.columns), rows):
                    batch = _batch(part, converters, schema, first_row + count)
                    count += batch.num_rows
                    seen.update(batch.serialize())
                    yield batch
                if count and seen.digest() == before:
                    raise QueryError(
                        f"a page of {count:,} records is the same as the one before it: the server does not go by the"
                        " paginator's parameters; correct them"
                    )
                before = seen.digest() if count else before
                first_row += count
                if records is None:
                    pages.end()
                    return
                rest = records.rest if isinstance(records, JsonRecords) else None
                call = pages.after(Page(call, count, rest, answer.headers))

    def _records(self, endpoint: Endpoint, answer: Answer, request: Request) -> Iterable[Any] | None:
        """Return the records of an answer, None where there are none and no further page. Raise AttemptError."""
        if answer.meaning(endpoint.response_actions) or answer.status == _NO_CONTENT:
            return None
        if answer.status not in _PAGES:
            raise self._client.refused(answer)
        if endpoint.format == "json":
            return JsonRecords(endpoint, answer.body, answer.size, json_paths(endpoint.paginator))
        if not answer.is_whole:
            raise QueryError(
                "the server gives no length of its CSV, so dwhctl cannot see whether it is whole; make it send"
                " Content-Length, or chunks, or JSON"
            )
        names = {column.path or name: column.optional for name, column in request.columns.items()}
        return csv_records(endpoint, answer.body, names)

    def fingerprint(self, query: Query, measure: Measure) -> Fingerprint:
        """Measure the records in a DuckDB of our own: the API has no engine that could."""
        key, _ = self._parts(query, measure)
        (row,) = self.measured(query, measure, Dialect.fingerprint)
        return read_fingerprint(row, key)

    def measured(self, query: Query, measure: Measure, write: Write) -> Sequence[Sequence[Any]]:
        """Fetch the records into a temporary database, and ask that."""
        key, values = self._parts(query, measure)
        wanted = {column.name.lower() for column in (*measure.key, *measure.values)}
        return self._ask(query, wanted, write(Dialect("duckdb"), "records AS slice", key, values))

    def count_nulls(self, query: Query, column: str) -> int:
        """Count the records in which the column is NULL."""
        sql = f"SELECT count(*) FROM records WHERE {quote_name(column)} IS NULL"
        ((rows,),) = self._ask(query, {column.lower()}, sql)
        return int(rows)

    def _parts(self, query: Query, measure: Measure) -> tuple[list[Part], list[Part]]:
        return source_parts(measure, self.columns(query), lambda column, _: (quote_name(column.name), {}))

    def _ask(self, query: Query, wanted: set[str], sql: str) -> list[tuple[Any, ...]]:
        columns = [column for column in self.columns(query) if column.name.lower() in wanted]
        with closing(SpillFolder(self._state_dir)) as spill:
            path = f"{spill.path}/records.duckdb" if spill.path else ":memory:"
            config: engine.Config = {
                "memory_limit": engine.memory_limit(None, len(columns)),
                "threads": 1,
                "temp_directory": spill.path,
            }
            try:
                with closing(engine.connect(path, config)) as db:
                    _fill(db, columns, self.batches(query, _MEASURED_ROWS))
                    return db.execute(sql).fetchall()
            except duckdb.Error as error:
                raise SourceError(f"the records cannot be measured: {engine.words(error)}") from error

    def version(self) -> str:
        """Ask for `test_path`: an answer that is no refusal shows that server and login work."""
        answer = self._client.fetch("GET", Call(url_of(self._connection, self._connection.test_path)))
        with answer.body:
            if self._connection.test_path and answer.status not in (*_PAGES, _NO_CONTENT):
                raise self._client.refused(answer)
        server = answer.headers.get("Server", "")[:60].strip()
        return f"HTTP {answer.status}{f', {server}' if server else ''}"

    def interrupt(self) -> None:
        """End the request that runs."""
        self._client.interrupt()

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._client.close()


def shown_request(connection: HttpConnection, query: Query) -> str:
    """Return the first request of a query."""
    request = _request(query)
    endpoint = request.endpoint
    first = _first(connection, request, Pages(endpoint.paginator, connection.max_pages))
    return shown(connection, endpoint.method, first, form=endpoint.data is not None)


def _first(connection: HttpConnection, request: Request, pages: Pages) -> Call:
    return pages.first(Call(url_of(connection, request.path), request.params, request.body, request.headers))


def _request(query: Query) -> Request:
    if query.request is None:
        raise QueryError("an HTTP source takes an [endpoint] with columns, no SQL")
    return query.request


def _fields(records: Iterable[Any] | None, columns: Mapping[str, ResponseColumn]) -> Iterator[list[Any]]:
    """Return the values of each record's declared columns, MISSING where it has none."""
    paths = [(column.path or name).split(".") if column.path else [name] for name, column in columns.items()]
    optional = [column.optional for column in columns.values()]
    for record in records or ():
        values = [_field(record, path) for path in paths]
        if MISSING in values:
            values = [
                None if each is MISSING and may_lack else each
                for each, may_lack in zip(values, optional, strict=True)
            ]
        yield values


def _field(record: Any, path: Sequence[str]) -> Any:
    value = record
    if isinstance(value, dict) and len(path) > 1 and (whole := ".".join(path)) in value:
        return value[whole]
    for name in path:
        if value is TWICE or (value is None and record is not None):
            return value  # a field of null is NULL
        if isinstance(value, list) and name.isascii() and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        elif not isinstance(value, dict) or name not in value:
            return MISSING
        else:
            value = value[name]
    return value


_MISSING = "the field is missing; write optional = true for the column if records may lack it"


def _grouped(items: Iterator[list[Any]], size: int) -> Iterator[list[list[Any]]]:
    group: list[list[Any]] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _batch(
    part: list[list[Any]], converters: Sequence[Converter], schema: pa.Schema, first_row: int
) -> pa.RecordBatch:
    arrays = []
    for values, converter in zip(zip(*part, strict=True), converters, strict=True):
        if MISSING in values:
            raise converter.refusal(first_row + values.index(MISSING), _MISSING)
        arrays.append(converter(values, first_row))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _fill(
    db: duckdb.DuckDBPyConnection, columns: Sequence[Column], batches: Iterator[pa.RecordBatch]
) -> None:
    try:
        types = {column.name: engine.declaration(column) for column in columns}
    except TargetRefusedError as error:
        raise QueryError(str(error)) from error
    declared = ", ".join(f"{quote_name(name)} {word}" for name, word in types.items())
    db.execute(f"CREATE TABLE records ({declared})")
    for batch in batches:
        db.register("batch", pa.table(batch.select(list(types))))
        db.execute("INSERT INTO records SELECT * FROM batch")
        db.unregister("batch")
