"""Sources over HTTP for tests: a connection, a query and what comes of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dwhctl.project.endpoint import Endpoint, Request
from dwhctl.project.query import Query
from dwhctl.project.response_columns import ResponseColumn
from dwhctl.systems.http.source import HttpSource
from dwhctl.systems.http.system import HttpConnection

CURSOR: dict[str, Any] = {"type": "cursor", "cursor_path": "$.next"}
ITEMS: dict[str, Any] = {"data_selector": "$.items[*]", "paginator": CURSOR}


def connection(url: str, **keys: Any) -> HttpConnection:
    """Return a connection as the configuration would."""
    return HttpConnection.model_validate({"name": "crm", "base_url": url, **keys})


def query(columns: Mapping[str, Any], path: str = "calls", **endpoint: Any) -> Query:
    """Return the query of an endpoint that has nothing to render."""
    table = Endpoint.model_validate({"path": path, **endpoint}, by_alias=True)
    declared = {
        name: ResponseColumn.model_validate(each if isinstance(each, dict) else {"type": each})
        for name, each in columns.items()
    }
    body = table.json_ if table.json_ is not None else table.data
    return Query("", {}, request=Request(table, declared, path, table.params, body, table.headers))


def rows_of(
    made: HttpConnection, asked: Query, state: Path | None = None, size: int = 1000
) -> list[tuple[Any, ...]]:
    """Read all rows."""
    with HttpSource(made, None, state) as source:
        batches = list(source.batches(asked, size))
    return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]
