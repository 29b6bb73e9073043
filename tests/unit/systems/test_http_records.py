"""The records of an answer: selectors, streamed JSON, CSV."""

from __future__ import annotations

import io
import json
import time
import tracemalloc
from decimal import Decimal
from typing import Any

import pytest

from dwhctl.core.errors import QueryError, SourceError
from dwhctl.project.endpoint import Endpoint, path_steps
from dwhctl.systems.http import records
from dwhctl.systems.http.paginators import linked
from dwhctl.systems.http.records import JsonRecords, csv_records, find_all
from dwhctl.systems.http.source import _field
from dwhctl.systems.http.types import MISSING


def read(body: str | bytes, selector: str, *paths: str) -> tuple[list[Any], Any]:
    octets = body.encode() if isinstance(body, str) else body
    found = JsonRecords(Endpoint(data_selector=selector), io.BytesIO(octets), len(octets), paths)
    return list(found), found.rest


DOCUMENT = '{"a": 1, "data": {"next": "c", "items": [{"id": 1}, {"id": 2.50}], "n": [1, 2]}, "last": null}'


@pytest.mark.parametrize(
    "selector", ["$.data.items[*]", "data.items", "$.data.items", "$['data']['items'][*]"]
)
def test_records_are_streamed_and_the_rest_is_kept(selector: str) -> None:
    found, rest = read(DOCUMENT, selector, "$.data.next")
    assert found == [{"id": 1}, {"id": Decimal("2.50")}]
    assert rest == {"a": 1, "data": {"next": "c", "n": [1, 2]}, "last": None}
    assert find_all(rest, "$.data.next") == ["c"]


@pytest.mark.parametrize(
    ("body", "selector", "expected"),
    [
        ('[{"id": 1}]', "$", [{"id": 1}]),
        ('[{"id": 1}]', "$[*]", [{"id": 1}]),
        ('{"id": 1}', "$", [{"id": 1}]),
        ('{"items": []}', "$.items[*]", []),
        ('{"items": null}', "$.items[*]", []),
        ('{"groups": [{"rows": [1, 2]}, {"rows": [3]}]}', "$.groups[*].rows[*]", [1, 2, 3]),
        ('{"groups": [{"rows": [1]}, {"other": [3]}]}', "$..rows[*]", [1]),
        ('{"items": [{"k": 1, "ok": true}, {"k": 2, "ok": false}]}', "$.items[?(@.ok == true)]",
         [{"k": 1, "ok": True}]),
        ('\ufeff[1]', "$", [1]),
        ("[12345678901234567890, 1e400]", "$", [12345678901234567890, Decimal("1E+400")]),
    ],
)  # fmt: skip
def test_selectors(body: str, selector: str, expected: list[Any]) -> None:
    assert read(body, selector)[0] == expected


def test_records_at_a_path_that_comes_twice_are_refused() -> None:
    """The rows of both were taken."""
    with pytest.raises(QueryError, match=r"has items of data_selector data\.items more than once"):
        read('{"data": {"items": [{"id": 1}], "items": [{"id": 2}]}}', "data.items")
    assert read('{"data": [{"items": [1]}, {"items": [2]}]}', "data[*].items")[0] == [1, 2]


def test_a_cursor_inside_of_the_records_is_found() -> None:
    found, rest = read('{"items": [{"id": 1}, {"id": 7}]}', "$.items[*]", "$.items[1].id")
    assert len(found) == 2
    assert find_all(rest, "$.items[1].id") == [7]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_wherever_the_file_is_cut_the_records_are_the_same(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_CHUNK", size)
    rows = [{"id": n, "t": 'ё\\"\U0001f600' * n, "n": -1.5e-7, "x": [[], {}, True, None]} for n in range(30)]
    body = json.dumps({"meta": {"total": 1234567}, "items": rows, "next": 12345}, ensure_ascii=False)
    found, rest = read(body, "$.items[*]")
    assert found == json.loads(json.dumps(rows), parse_float=Decimal)
    assert rest == {"meta": {"total": 1234567}, "next": 12345}


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>",
        '{"items": [1, 2',
        '{"items": [1, 2]',
        '{"items": [1, 2]} x',
        '{"items": [1 2]}',
        '{"items": [NaN]}',
        '{"items": [' + "[" * 100_000,
        '{"items": [' + "1" * 5_000 + "]}",
        b'{"items": ["\xff"]}',
        '{"items": ["a\nb"]}',
    ],
)
def test_what_is_no_whole_json_is_told(body: str | bytes) -> None:
    with pytest.raises(SourceError, match="the answer is no whole JSON"):
        read(body, "$.items[*]")


@pytest.mark.parametrize("body", ['{"error": "no such account"}', '{"items": 5}', '"items"', "[]"])
def test_an_answer_without_the_selector_is_no_empty_page(body: str) -> None:
    with pytest.raises(QueryError, match="data_selector"):
        read(body, "$.items[*]")


def test_memory_does_not_grow_with_the_records() -> None:
    body = (
        b'{"items": [' + b",".join(b'{"id": %d, "t": "%s"}' % (n, b"x" * 200) for n in range(50_000)) + b"]}"
    )
    found = iter(JsonRecords(Endpoint(data_selector="$.items[*]"), io.BytesIO(body), len(body), []))
    tracemalloc.start()
    try:
        assert sum(1 for _ in found) == 50_000
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20  # the body has 11 MB
    finally:
        tracemalloc.stop()


def test_a_large_body_is_not_taken_into_memory_for_an_odd_selector() -> None:
    with pytest.raises(QueryError, match="must be held in memory whole"):
        JsonRecords(Endpoint(data_selector="$..items"), io.BytesIO(), 17 * 2**20, [])


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("$", ()),
        ("items", ("items",)),
        ("$.a.b[*]", ("a", "b", "*")),
        ("$['a b'][0].c-d", ("a b", 0, "c-d")),
        ("$..a", None),
        ("$.a[?(@.x)]", None),
        ("a b", None),
        ("$a", None),
    ],
)
def test_plain_paths(path: str, steps: tuple[str | int, ...] | None) -> None:
    assert path_steps(path) == steps


def csv(body: bytes, *names: str, **keys: Any) -> list[dict[str, Any]]:
    optional = {name.removesuffix("?"): name.endswith("?") for name in names}
    return list(csv_records(Endpoint(format="csv", **keys), io.BytesIO(body), optional))


def test_csv_tells_null_from_an_empty_text() -> None:
    body = b'other,id,t\n1,2,\n1,3,""\n1,4,"a ""b"", c\nd"\n1,5,NULL\n'
    assert csv(body, "id", "t") == [
        {"id": "2", "t": None},
        {"id": "3", "t": ""},
        {"id": "4", "t": 'a "b", c\nd'},
        {"id": "5", "t": "NULL"},
    ]
    assert csv("id;t\n1;ё\n".encode("cp1251"), "t", delimiter=";", encoding="cp1251") == [{"t": "ё"}]
    assert csv(b"id,t\n", "id") == []
    assert csv(b"id\n1\n", "id", "t?") == [{"id": "1", "t": None}]


@pytest.mark.parametrize(
    "body", [b"", b"id\n1\n", b"id,t,t\n1,2,3\n", b"id,t\n1,2\n1\n", b"id,t\n1,2,3\n", b"id,t\n1,\xff\n"]
)
def test_csv_that_is_not_what_was_declared_is_refused(body: bytes) -> None:
    with pytest.raises(QueryError, match="CSV") as caught:
        csv(body, "id", "t")
    assert caught.value.permanent


@pytest.mark.parametrize(
    "body",
    [
        b'id,v\n1,"a\n',
        b'id,v\n1,"a ""b""\n2,c\n',
        b'id,v\n"1',
        b'id,v\n1,"' + b"x" * 200_000,
        b'id\n1\n"',
    ],
)
def test_csv_that_ends_within_quotes_is_not_whole(body: bytes) -> None:
    with pytest.raises(SourceError, match="ends within a quoted value"):
        list(csv_records(Endpoint(format="csv"), io.BytesIO(body), {"id": False}))


def test_quotes_within_csv_are_no_end() -> None:
    body = b'id,v\n1,a"b\n2,"a ""q"",\n"\n3,""\n5,"z"'
    found = list(csv_records(Endpoint(format="csv"), io.BytesIO(body), {"id": False, "v": False}))
    assert [record["v"] for record in found] == ['a"b', 'a "q",\n', "", "z"]


@pytest.mark.parametrize("end", ['"', "<", ", <"])
@pytest.mark.parametrize("part", [";a='x'", ";a", "; a = b ", ';a="\\"'])
def test_a_header_link_of_a_hostile_server_is_read_at_once(part: str, end: str) -> None:
    """Each parameter doubled the time: forty of them took days, which no timeout ended."""
    began = time.process_time()
    with pytest.raises(QueryError):
        linked(f"<u>{part * 5_000}{end}", "next")
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("header", "url"),
    [
        ("<u>; rel=next;", "u"),
        ("<u>;; rel=next ; , <v>", "u"),
        ('<u>; rel="next"; rel="prev"', "u"),
        ('<u>; rel="prev"; rel="next"', None),
    ],
)
def test_a_link_of_an_odd_form(header: str, url: str | None) -> None:
    """RFC 8288: empty parameters are passed over, and the first `rel` is meant."""
    assert linked(header, "next") == url


def test_a_record_that_is_null_has_no_fields() -> None:
    """It was a row of NULLs."""
    assert _field(None, ["id"]) is MISSING
    assert _field({"a": None}, ["a", "b"]) is None
