"""Reading an HTTP API: the paginators, the login, and every fault of a server, against a real server on loopback."""

from __future__ import annotations

import base64
import gzip
import io
import itertools
import json
import os
import re
import threading
import time
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import trustme
from urllib3.exceptions import InvalidHeader

from dwhctl.core.errors import (
    AttemptError,
    ConnectError,
    LoginRefusedError,
    QueryError,
    SourceBusyError,
    SourceError,
    TlsError,
    ValueRefusedError,
)
from dwhctl.core.http import retry_after
from dwhctl.core.secrets import Secret
from dwhctl.systems.http import client
from dwhctl.systems.http.budget import Budget
from dwhctl.systems.http.keys import RateLimit
from dwhctl.systems.http.source import HttpSource
from tests.servers.http import Api, Asked, Reply, page, pages_of
from tests.support.http import ITEMS, connection, query, rows_of

ID = {"id": "bigint"}
RECORDS = [{"id": number} for number in range(25)]
IDS = [(number,) for number in range(25)]
MISSING_FIELD = "the field is missing; write optional = true for the column if records may lack it"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once."""
    monkeypatch.setattr(client, "_WAIT", lambda _state: 0.01)


@pytest.fixture(autouse=True)
def no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without a token: a server may have the port of an earlier one."""
    monkeypatch.setattr("dwhctl.systems.http.auth._TOKENS", {})


def answered(
    answer: Callable[[Asked], Reply], columns: Any = ID, state: Path | None = None, **endpoint: Any
) -> Any:
    """Read all rows of a server; give them and the requests."""
    with Api(answer) as api:
        rows = rows_of(connection(api.url), query(columns, **endpoint), state)
        return rows, api.requests


def refused(
    answer: Callable[[Asked], Reply], columns: Any = ID, keys: Any = None, **endpoint: Any
) -> AttemptError:
    """Read a server that must fail; give the error."""
    with Api(answer) as api, pytest.raises(AttemptError) as caught:
        rows_of(connection(api.url, **(keys or {})), query(columns, **endpoint))
    return caught.value


# Paginators


def test_cursor() -> None:
    rows, requests = answered(pages_of(RECORDS, 10), **ITEMS)
    assert rows == IDS
    assert [asked.params for asked in requests] == [{}, {"cursor": "10"}, {"cursor": "20"}]


def test_cursor_in_the_body() -> None:
    def answer(asked: Asked) -> Reply:
        at = asked.json["paging"].get("after", 0)
        assert asked.json["day"] == "2020-07-13"
        return page({"items": RECORDS[at : at + 10], "meta": {"next": at + 10, "more": at < 20}})

    paginator = {
        "type": "cursor", "cursor_path": "meta.next", "cursor_body_path": "paging.after", "has_more_path": "meta.more",
    }  # fmt: skip
    rows, _ = answered(
        answer,
        method="POST",
        json={"day": "2020-07-13", "paging": {}},
        data_selector="items",
        paginator=paginator,
    )
    assert rows == IDS


def test_offset_until_the_total_and_until_an_empty_page() -> None:
    def answer(asked: Asked) -> Reply:
        at, limit = int(asked.params["offset"]), int(asked.params["limit"])
        return page({"items": RECORDS[at : at + limit], "total": len(RECORDS)})

    for keys, count in (({"total_path": "total"}, 3), ({}, 4)):
        paginator = {"type": "offset", "limit": 10, **keys}
        rows, requests = answered(answer, data_selector="items", paginator=paginator)
        assert (rows, len(requests)) == (IDS, count)
    shorter = {"type": "offset", "limit": 10, "maximum_offset": 20}
    assert answered(answer, data_selector="items", paginator=shorter)[0] == IDS[:20]


def test_page_number() -> None:
    def answer(asked: Asked) -> Reply:
        at = (int(asked.params["p"]) - 1) * 10
        return page({"items": RECORDS[at : at + 10], "pages": 3})

    for keys, count in (({"total_path": "pages"}, 3), ({}, 4)):
        paginator = {"type": "page_number", "base_page": 1, "page_param": "p", **keys}
        rows, requests = answered(answer, data_selector="items", paginator=paginator)
        assert (rows, len(requests)) == (IDS, count)


def test_links_in_the_body_and_in_headers() -> None:
    def answer(asked: Asked) -> Reply:
        at = int(asked.params.get("at", 0))
        link = f"/calls?at={at + 10}" if at < 20 else ""
        headers = {"Link": f'<{link}>; rel="next"'} if link else {}
        headers |= {"X-Next": str(at + 10)} if link else {}
        document = {"items": RECORDS[at : at + 10], "paging": {"next": link or None}}
        return Reply(200, json.dumps(document).encode(), headers)

    for paginator in (
        {"type": "json_link", "next_url_path": "$.paging.next"},
        {"type": "header_link"},
        {"type": "header_cursor", "cursor_key": "x-next", "cursor_param": "at"},
    ):
        rows, requests = answered(answer, data_selector="$.items[*]", paginator=paginator)
        assert (rows, len(requests)) == (IDS, 3), paginator


@pytest.mark.parametrize(
    "link",
    [
        '</calls?at={}>; rel="last next"',
        '</calls?at=0>; rel="first", </calls?at={}>; title="a, b; rel=x"; rel="next"',
        "</calls?at={}> ; REL = Next",
        ", </calls?at={}&x=1,2;3>; foo; rel='next'",
    ],
)
def test_every_form_of_the_header_link_is_followed(link: str) -> None:
    """A link that is not seen would end the pages too early."""

    def answer(asked: Asked) -> Reply:
        at = int(asked.params.get("at", 0))
        headers = {"Link": link.format(at + 10)} if at < 20 else {"Link": '</calls?at=0>; rel="prev"'}
        return Reply(200, json.dumps(RECORDS[at : at + 10]).encode(), headers)

    assert answered(answer, paginator={"type": "header_link"})[0] == IDS


def test_a_header_link_that_cannot_be_read_is_no_last_page() -> None:
    error = refused(
        lambda _: Reply(200, b"[]", {"Link": "</calls?at=10; rel=next"}), paginator={"type": "header_link"}
    )
    assert type(error) is QueryError
    assert "the header Link of a page cannot be read" in str(error)


def test_a_total_below_the_records_is_not_believed() -> None:
    def answer(asked: Asked) -> Reply:
        at = int(asked.params["offset"])
        return page({"items": RECORDS[at : at + 10], "total": 15})

    paginator = {"type": "offset", "limit": 10, "total_path": "total"}
    error = refused(answer, data_selector="items", paginator=paginator)
    assert "the server counts 15 records, and its pages have 20" in str(error)


def test_an_answer_that_is_cut_is_no_defect_of_ours() -> None:
    error = refused(lambda _: Reply(200, b"[]", {"Content-Length": "100"}, pieces=[b"[]"], closes=True))
    assert type(error) is SourceError
    assert "the connection broke; the answer is not whole" in str(error)


def test_a_field_that_comes_twice_is_refused_and_one_inside_of_null_is_null() -> None:
    """Which of two values is meant, JSON does not say; the last one would be taken in silence."""
    columns = {
        "id": "bigint",
        "name": {"type": "text", "path": "customer.name"},
        "all": {"type": "json", "optional": True},
    }
    for body, problem in (
        (b'[{"id": 1, "id": 2, "customer": null}]', r"row 1, column id .*has the field more than once"),
        (
            b'[{"id": 1, "customer": {"name": "a"}, "customer": {"name": "b"}}]',
            "column name .*more than once",
        ),
        (b'[{"id": 1, "customer": null, "all": {"a": [{"b": 1, "b": 2}]}}]', "column all .*more than once"),
        (b'[{"id": 1, "customer": {}}]', "column name .*missing; write optional = true"),
    ):
        error = refused(lambda _, body=body: Reply(200, body), columns)  # type: ignore[misc]
        assert type(error) is ValueRefusedError
        assert re.search(problem, str(error))
    rows, _ = answered(lambda _: Reply(200, b'[{"id": 1, "x": 1, "x": 2, "customer": null}]'), columns)
    assert rows == [(1, None, None)]


def test_an_answer_may_say_that_there_is_nothing() -> None:
    actions = [{"status_code": 404, "content": "no such account", "action": "ignore"}]
    assert answered(lambda _: page({"error": "no such account"}, 404), response_actions=actions)[0] == []
    error = refused(lambda _: page({"error": "no such path"}, 404), response_actions=actions)
    assert type(error) is QueryError
    assert "the server answered 404" in str(error)
    assert answered(lambda _: Reply(204))[0] == []


def test_csv_with_typed_columns() -> None:
    body = 'id;note;at\n1;;2020-07-13T00:00:00Z\n2;"";\n'.encode("cp1251")
    rows, requests = answered(
        lambda _: Reply(200, body), {"id": "bigint", "note": "text", "at": "timestamptz"},
        format="csv", delimiter=";", encoding="cp1251",
    )  # fmt: skip
    assert [row[:2] for row in rows] == [(1, None), (2, "")]
    assert requests[0].headers["Accept"] == "text/csv"


# Records


def test_fields_by_path_and_optional_ones() -> None:
    records = [
        {"id": 1, "user": {"name": "a"}, "x.y": 5},
        {"id": 2, "user": {"name": None}, "x.y": 6, "note": "n"},
    ]
    columns = {
        "id": "bigint",
        "who": {"type": "text", "path": "user.name"},
        "x": {"type": "integer", "path": "x.y"},
        "note": {"type": "text", "optional": True},
    }
    assert answered(lambda _: page(records), columns)[0] == [(1, "a", 5, None), (2, None, 6, "n")]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (
            {"note": "x"},
            f"row 26, column id (bigint): {MISSING_FIELD}",
        ),
        ({"id": "many"}, "row 26, column id (bigint): the text is no whole number"),
        (
            "text",
            f"row 26, column id (bigint): {MISSING_FIELD}",
        ),
    ],
)
def test_a_record_that_is_not_as_declared_is_refused_by_row_and_column(record: Any, words: str) -> None:
    error = refused(pages_of([*RECORDS, record], 10), **ITEMS)
    assert type(error) is ValueRefusedError
    assert str(error) == words


# Pages that do not end, repeat or leave out


def test_a_cursor_that_comes_again_ends_the_reading() -> None:
    def answer(asked: Asked) -> Reply:
        at = int(asked.params.get("cursor", "0"))
        return page({"items": [{"id": at}], "next": str((at + 1) % 3 or 1)})

    error = refused(answer, **ITEMS)
    assert "comes a second time" in str(error)


def test_a_cursor_that_never_ends_is_limited() -> None:
    numbers = itertools.count(1)
    error = refused(
        lambda _: page({"items": [{"id": (n := next(numbers))}], "next": n}), keys={"max_pages": 20}, **ITEMS
    )
    assert "more than 20 pages" in str(error)
    assert next(numbers) == 21


def test_a_page_that_repeats_is_refused() -> None:
    for paginator in ({"type": "page_number"}, {"type": "offset", "limit": 25}):
        error = refused(lambda _: page(RECORDS), paginator=paginator)
        assert "the same as the one before it" in str(error)
    numbers = itertools.count(1)
    error = refused(lambda _: page({"items": RECORDS, "next": next(numbers)}), **ITEMS)
    assert "the same as the one before it" in str(error)


def test_a_server_that_gives_less_than_the_limit_loses_no_record_in_silence() -> None:
    def answer(asked: Asked) -> Reply:
        at = int(asked.params["offset"])
        return page(RECORDS[at : at + 5])

    error = refused(answer, paginator={"type": "offset", "limit": 10})
    assert "a page in the middle has 5 records, fewer than limit = 10" in str(error)
    total = {"type": "offset", "limit": 100, "total_path": "total"}
    error = refused(lambda _: page({"items": RECORDS, "total": 26}), data_selector="items", paginator=total)
    assert type(error) is SourceError
    assert "counts 26 records, and its pages have 25" in str(error)


def test_a_next_page_on_another_server_gets_neither_login_nor_request() -> None:
    with Api(lambda _: page({"items": []})) as other:
        link = {"type": "json_link", "next_url_path": "next"}
        error = refused(
            lambda _: page({"items": RECORDS, "next": f"{other.url}more"}),
            data_selector="items",
            paginator=link,
        )
    assert "the next page is on another server" in str(error)
    assert other.requests == []


# Refusals, retries and Retry-After


def after(
    times: int, trouble: Callable[[Asked], Reply], answer: Callable[[Asked], Reply]
) -> Callable[[Asked], Reply]:
    """Return a server that is in trouble for some requests of its second page."""
    count = itertools.count(1)
    return lambda asked: trouble(asked) if asked.params and next(count) <= times else answer(asked)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_trouble_in_the_middle_of_the_pages_costs_its_page_only(status: int) -> None:
    rows, requests = answered(after(3, lambda _: Reply(status), pages_of(RECORDS, 10)), **ITEMS)
    assert (rows, len(requests)) == (IDS, 6)


@pytest.mark.parametrize(
    ("status", "kind", "permanent"),
    [
        (400, QueryError, True),
        (404, QueryError, True),
        (401, LoginRefusedError, True),
        (403, LoginRefusedError, True),
        (206, QueryError, True),
        (429, SourceBusyError, False),
        (500, SourceError, False),
    ],
)
def test_what_a_status_means(status: int, kind: type[AttemptError], permanent: bool) -> None:
    error = refused(lambda _: page({"error": "words of the server"}, status))
    assert type(error) is kind
    assert error.permanent is permanent
    assert "connection crm: " in str(error)
    # An answer below 400 holds rows, not an explanation.
    assert ("words of the server" in str(error)) is (status >= 400)


@pytest.mark.parametrize(
    "header", ["1", lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)]
)
def test_retry_after_holds_for_the_connection(header: Any, tmp_path: Path) -> None:
    value = header if isinstance(header, str) else header()
    answer = after(1, lambda _: Reply(429, headers={"Retry-After": value}), pages_of(RECORDS, 10))
    rows, requests = answered(answer, state=tmp_path, **ITEMS)
    assert rows == IDS
    assert requests[2].at - requests[1].at > 0.9


def test_a_long_retry_after_fails_the_attempt_and_every_other_one(tmp_path: Path) -> None:
    with Api(lambda _: Reply(503, headers={"Retry-After": "3600"})) as api:
        for _ in range(2):
            with pytest.raises(SourceBusyError, match=r"wants no request for another 3[56]"):
                rows_of(connection(api.url), query(ID), tmp_path)
    assert len(api.requests) == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("-5", None),
        ("9" * 99, 999999999.0),
    ],
)
def test_retry_after_is_read(text: str, seconds: float | None) -> None:
    assert retry_after(text) == seconds


# Bodies


def raw(*pieces: bytes, pause: float = 0.0, **headers: str) -> Callable[[Asked], Reply]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: Reply(200, b"", named, pieces, pause)


WHOLE = json.dumps(RECORDS).encode()
PACKED = gzip.compress(WHOLE)


@pytest.mark.parametrize(
    "answer",
    [
        raw(WHOLE[:100], Content_Length=str(len(WHOLE))),
        raw(b"64\r\n" + WHOLE[:100] + b"\r\n", Transfer_Encoding="chunked"),
        raw(b"64\r\n" + WHOLE[:50], Transfer_Encoding="chunked"),
        raw(WHOLE[:100], Content_Length="100"),
        raw(WHOLE[:100]),
        raw(PACKED[:40], Content_Length="40", Content_Encoding="gzip"),
        raw(b"no gzip", Content_Length="7", Content_Encoding="gzip"),
    ],
    ids=["length", "chunks", "in a chunk", "JSON", "until it closes", "gzip", "damaged gzip"],
)
def test_a_body_that_ends_early_gives_no_slice(answer: Callable[[Asked], Reply]) -> None:
    error = refused(answer)
    assert type(error) is SourceError, error
    assert not error.permanent


def test_csv_that_ends_early_gives_no_slice() -> None:
    body = b"id\n1\n2\n3\n"
    error = refused(raw(body[:6], Content_Length="9"), format="csv")
    assert type(error) is SourceError
    packed = gzip.compress(body * 1000, mtime=0)
    error = refused(
        raw(packed[:-9], Content_Length=str(len(packed) - 9), Content_Encoding="gzip"), format="csv"
    )
    assert type(error) is SourceError
    error = refused(raw(body[:6]), format="csv")
    assert "gives no length" in str(error)


def _same(reply: Reply, _asked: Asked) -> Reply:
    return reply


def test_gzip_and_members_of_it_are_unpacked() -> None:
    both = gzip.compress(WHOLE[:100]) + gzip.compress(WHOLE[100:])
    for packed in (PACKED, both):
        reply = Reply(200, packed, {"Content-Encoding": "gzip"})
        rows, requests = answered(partial(_same, reply))
        assert rows == IDS
    assert requests[0].headers["Accept-Encoding"] == "gzip"
    assert "packed with 'br'" in str(refused(lambda _: Reply(200, b"x", {"Content-Encoding": "br"})))


def test_a_bomb_is_ended_at_the_limit() -> None:
    bomb = gzip.compress(bytes(300 * 2**20), 1)
    before = psutil.Process().memory_info().rss
    error = refused(lambda _: Reply(200, bomb, {"Content-Encoding": "gzip"}), keys={"max_body": "20MiB"})
    assert "larger than max_body = '20MiB'" in str(error)
    assert psutil.Process().memory_info().rss - before < 60 * 2**20


def test_a_body_without_an_end_is_ended_at_the_limit() -> None:
    error = refused(lambda _: Reply(200, b"", {}, itertools.repeat(b" " * 65_536)), keys={"max_body": "2MiB"})
    assert "larger than max_body" in str(error)


@pytest.mark.parametrize("promised", [{}, {"Content_Length": "100000"}, {"Transfer_Encoding": "chunked"}])
def test_a_slow_body_has_a_deadline_as_a_whole(promised: dict[str, str]) -> None:
    started = time.monotonic()
    error = refused(
        raw(*[b"1\r\n \r\n"] * 100, pause=0.1, **promised), keys={"answer_timeout": timedelta(seconds=0.5)}
    )
    assert type(error) is SourceError
    assert "no whole answer within 0.5 s" in str(error)
    assert time.monotonic() - started < 3


def test_an_interrupt_ends_a_request_that_hangs() -> None:
    with Api(raw(*[b" "] * 100, pause=0.1)) as api, HttpSource(connection(api.url), None, None) as source:
        threading.Timer(0.3, source.interrupt).start()
        started = time.monotonic()
        with pytest.raises(SourceError, match="interrupted"):
            list(source.batches(query(ID), 10))
    assert time.monotonic() - started < 3


# Logins and redirects


SECRET = "kept-secret-0a1b2c3d"
BASIC = "Basic " + base64.b64encode(f"dwh:{SECRET}".encode()).decode()


def _key(location: str, name: str) -> dict[str, str]:
    return {"type": "api_key", "name": name, "api_key": SECRET, "location": location}


LOGINS: dict[str, tuple[dict[str, str], Callable[[Asked], str], str]] = {
    "bearer": (
        {"type": "bearer", "token": SECRET},
        lambda asked: asked.headers["Authorization"],
        f"Bearer {SECRET}",
    ),
    "basic": (
        {"type": "http_basic", "username": "dwh", "password": SECRET},
        lambda asked: asked.headers["Authorization"],
        BASIC,
    ),
    "header": (_key("header", "X-Key"), lambda asked: asked.headers["X-Key"], SECRET),
    "query": (_key("query", "key"), lambda asked: asked.params["key"], SECRET),
    "cookie": (_key("cookie", "sid"), lambda asked: asked.headers["Cookie"], f"sid={SECRET}"),
}


@pytest.mark.parametrize(("auth", "sent", "expected"), LOGINS.values(), ids=LOGINS)
def test_every_page_logs_in_and_no_other_server_gets_the_login(auth: Any, sent: Any, expected: str) -> None:
    with Api(lambda _: page({"items": [{"id": 25}], "next": None})) as other:

        def answer(asked: Asked) -> Reply:
            assert sent(asked) == expected
            if asked.params.get("cursor") == "20":
                return Reply(302, headers={"Location": f"{other.url}elsewhere"})
            return pages_of(RECORDS, 10)(asked)

        with Api(answer) as api:
            made = connection(api.url, auth=auth, headers={"X-Own": Secret(SECRET)})
            assert rows_of(made, query(ID, **ITEMS)) == [*IDS[:20], (25,)]
    assert len(other.requests) == 1
    assert SECRET not in repr(other.requests)
    assert base64.b64encode(SECRET.encode()).decode()[:12] not in repr(other.requests)


@pytest.mark.parametrize("auth", [each[0] for each in LOGINS.values()], ids=LOGINS)
def test_no_error_holds_a_secret(auth: Any) -> None:
    def echo(asked: Asked) -> Reply:
        return Reply(400, f"you sent {asked.target} {dict(asked.headers)}".encode())

    for answer in (
        echo,
        raw(b"x", Content_Length="9"),
        lambda _: Reply(302, headers={"Location": "ftp://x/"}),
    ):
        with Api(answer) as api, pytest.raises(AttemptError) as caught:
            rows_of(connection(api.url, auth=auth), query(ID))
        words = f"{caught.value!r}"
        assert SECRET not in words
        assert BASIC[6:20] not in words
    closed = connection(f"http://127.0.0.1:{_free_port()}/", auth=auth)
    with pytest.raises(ConnectError) as refusal:
        rows_of(closed, query(ID))
    assert str(refusal.value) == "connection crm: connection refused"


def _free_port() -> int:
    with Api(lambda _: Reply()) as api:
        return api.port


def test_a_redirect_on_the_same_server_keeps_the_login() -> None:
    def answer(asked: Asked) -> Reply:
        assert asked.headers["Authorization"] == f"Bearer {SECRET}"
        return page(RECORDS) if asked.path == "/v2/calls" else Reply(301, headers={"Location": "/v2/calls"})

    with Api(answer) as api:
        made = connection(api.url, auth={"type": "bearer", "token": SECRET})
        assert rows_of(made, query(ID)) == IDS


@pytest.mark.parametrize(
    ("location", "words"),
    [("/calls", "more than 5 redirects"), ("file:///etc/hostname", "no HTTP server"), ("http://[::", "no URL"),
     ("http://crm.example.com/", "without TLS")],
)  # fmt: skip
def test_redirects_that_are_not_followed(location: str, words: str) -> None:
    error = refused(lambda _: Reply(302, headers={"Location": location}))
    assert type(error) is QueryError
    assert words in str(error)
    error = refused(lambda _: Reply(302, headers={"Location": "/x"}), method="POST", json={})
    assert "a redirect of a POST" in str(error)


def test_the_body_of_a_redirect_is_not_read_to_its_end() -> None:
    bomb = gzip.compress(bytes(200 * 2**20), 1)

    def answer(asked: Asked) -> Reply:
        if asked.path == "/v2":
            return page(RECORDS)
        return Reply(302, bomb, {"Location": "/v2", "Content-Encoding": "gzip"})

    tracemalloc.start()
    try:
        assert answered(answer)[0] == IDS
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_oauth2_asks_for_a_token_and_for_another_when_it_is_refused() -> None:
    tokens = itertools.count(1)

    def answer(asked: Asked) -> Reply:
        if asked.path == "/token":
            form = "grant_type=client_credentials&client_id=dwh&client_secret=" + SECRET + "&scope=read"
            assert asked.body.decode() == form
            return page({"access_token": f"token-of-the-hour-{next(tokens)}", "expires_in": 3600})
        # The second token is good from the third page on.
        good = 2 if asked.params.get("cursor") == "20" else 1
        if asked.headers["Authorization"] != f"Bearer token-of-the-hour-{good}":
            return Reply(401)
        return pages_of(RECORDS, 10)(asked)

    with Api(answer) as api:
        auth = {
            "type": "oauth2_client_credentials", "access_token_url": f"{api.url}token", "client_id": "dwh",
            "client_secret": SECRET, "access_token_request_data": {"scope": "read"},
        }  # fmt: skip
        assert rows_of(connection(api.url, auth=auth), query(ID, **ITEMS)) == IDS
    assert sum(asked.path == "/token" for asked in api.requests) == 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (page({"error": "invalid_client"}, 400), LoginRefusedError),
        (page({"error": "invalid_client"}, 401), LoginRefusedError),
        (page({}), LoginRefusedError),
        (Reply(500), SourceError),
        (Reply(200, b"<html>"), SourceError),
    ],
    ids=["400", "401", "no token", "500", "no JSON"],
)
def test_oauth2_refusals(answer: Reply, kind: type[AttemptError]) -> None:
    with Api(lambda _: answer) as api:
        auth = {
            "type": "oauth2_client_credentials",
            "access_token_url": f"{api.url}token",
            "client_id": "dwh",
            "client_secret": SECRET,
        }
        with pytest.raises(AttemptError) as caught:
            rows_of(connection(api.url, auth=auth), query(ID))
    assert type(caught.value) is kind
    assert {asked.path for asked in api.requests} == {"/token"}


def test_the_certificate_is_checked(tmp_path: Path) -> None:
    import ssl

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with Api(lambda _: page(RECORDS), tls=context) as api:
        with pytest.raises(TlsError, match="certificate is not trusted") as caught:
            rows_of(connection(api.url), query(ID))
        assert caught.value.permanent
        assert "ca_file" in str(caught.value)
        assert rows_of(connection(api.url, ca_file=tmp_path / "ca.pem"), query(ID)) == IDS
        # From https to http the request would travel in clear.
        with Api(lambda _: page(RECORDS)) as plain:
            api.answer = lambda _: Reply(302, headers={"Location": plain.url})
            with pytest.raises(QueryError, match="from https to http"):
                rows_of(connection(api.url, ca_file=tmp_path / "ca.pem"), query(ID))
        assert plain.requests == []


def test_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1/")
    rows, requests = answered(lambda _: page(RECORDS))
    assert rows == IDS
    assert "Authorization" not in requests[0].headers


def test_a_path_stays_below_the_base_url() -> None:
    with Api(lambda _: page(RECORDS)) as api:
        for path in (
            "../admin",
            "a/../../b",
            "http://other.example.com/",
            "//other.example.com/x",
            "a/%2E%2e/b",
        ):
            with pytest.raises(QueryError, match="leads out of base_url"):
                rows_of(connection(f"{api.url}v2/"), query(ID, path))
        assert api.requests == []
        assert rows_of(connection(f"{api.url}v2"), query(ID, "/calls")) == IDS
        assert api.requests[0].path == "/v2/calls"


# The rate limit


def most_in_a_window(times: list[float], seconds: float) -> int:
    return max(sum(start <= at < start + seconds for at in times) for start in times)


def test_the_rate_limit_holds_for_one_process(tmp_path: Path) -> None:
    with Api(pages_of(RECORDS, 1)) as api:
        assert rows_of(connection(api.url, rate_limit="10/s"), query(ID, **ITEMS), tmp_path) == IDS
    times = [asked.at for asked in api.requests]
    assert most_in_a_window(times, 1.0) <= 10
    assert times[-1] - times[0] < 4.0


def test_a_call_of_a_dead_process_counts_for_a_window_more(tmp_path: Path) -> None:
    limit, never = RateLimit(1, 0.5), threading.Event()
    child = os.fork()
    if child == 0:
        Budget("crm", limit, tmp_path, 300, never).begin()
        os._exit(0)
    os.waitpid(child, 0)
    kept = Budget("crm", limit, tmp_path, 300, never, most_wait=0.8)
    started = time.monotonic()
    call = kept.begin()
    assert 0.45 < time.monotonic() - started < 3
    # A call without an answer counts as long as it may take.
    with pytest.raises(SourceBusyError, match="rate_limit"):
        kept.begin()
    kept.end(call)
    kept.begin()
    kept.close()


def test_a_kill_while_the_calls_are_written_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, never = RateLimit(1, 60), threading.Event()
    with closing(Budget("crm", limit, tmp_path, 300, never)) as killed:
        call = killed.begin()

        class Killed(io.FileIO):
            def truncate(self, size: int | None = None) -> int:
                raise KeyboardInterrupt

        killed.close()
        monkeypatch.setattr(killed, "_file", Killed(tmp_path / "rates" / "crm.json", "r+"))
        with pytest.raises(KeyboardInterrupt):
            killed.end(call)
    with (
        closing(Budget("crm", limit, tmp_path, 300, never, most_wait=0.1)) as kept,
        pytest.raises(SourceBusyError, match="rate_limit"),
    ):
        kept.begin()


def test_a_damaged_file_of_the_rate_limit_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "rates").mkdir()
    for content in (b"", b"{", b"[]", b'{"done": ["x"], "open": [], "hold_until": 0}', b"\xff" * 100):
        (tmp_path / "rates" / "crm.json").write_bytes(content)
        kept = Budget("crm", RateLimit(5, 1), tmp_path, 300, threading.Event())
        kept.end(kept.begin())
        kept.close()
        kept_file = json.loads((tmp_path / "rates" / "crm.json").read_bytes())
        assert (len(kept_file["done"]), kept_file["open"]) == (1, [])


# What verify asks


def test_version_and_test_path() -> None:
    with Api(lambda asked: Reply(200 if asked.path == "/status" else 404)) as api:
        for path, words in (("", "HTTP 404, test"), ("status", "HTTP 200, test")):
            with HttpSource(connection(api.url, test_path=path), 10, None) as source:
                assert source.version() == words
        with (
            HttpSource(connection(api.url, test_path="other"), 10, None) as source,
            pytest.raises(QueryError),
        ):
            source.version()


def test_sockets_and_threads_do_not_pile_up() -> None:
    def closing(asked: Asked) -> Reply:
        reply = pages_of(RECORDS, 1)(asked)
        return Reply(reply.status, reply.body, {"Connection": "close"}, closes=True)

    process = psutil.Process()
    with Api(closing) as api, HttpSource(connection(api.url), None, None) as source:
        open_before: list[int] = []
        for _ in source.batches(query(ID, **ITEMS), 100):
            open_before.append(process.num_fds())
    assert max(open_before) - min(open_before) < 10


# Answers that contradict themselves


def by_five(asked: Asked, param: str = "page") -> list[Any]:
    """Return the records of a page; the third one is empty."""
    number = int(asked.params[param]) // (1 if param == "page" else 5)
    return [] if number == 2 else RECORDS[number * 5 : number * 5 + 5]


def nothing_after_ten(asked: Asked) -> Reply:
    at = int(asked.params.get("offset", 0)) + int(asked.params.get("page", 0)) * 5
    return page({"items": RECORDS[at : at + 5], "total": 25, "pages": 5}) if at < 10 else Reply(204)


@pytest.mark.parametrize(
    ("answer", "paginator", "words"),
    [
        (
            lambda asked: page({"items": by_five(asked), "pages": 5}),
            {"type": "page_number", "total_path": "pages"},
            "the server counts 5 pages, and page 2 is empty",
        ),
        (
            lambda asked: page({"items": by_five(asked), "more": True}),
            {"type": "page_number", "has_more_path": "more"},
            "a page is empty, and says at has_more_path more that there are more",
        ),
        (
            lambda asked: page({"items": by_five(asked, "offset"), "more": True}),
            {"type": "offset", "limit": 5, "has_more_path": "more"},
            "a page is empty, and says at has_more_path more that there are more",
        ),
        (
            lambda asked: page({"items": by_five(asked), "pages": 1}),
            {"type": "page_number", "page": 1, "base_page": 0, "total_path": "pages"},
            "the server counts 1 pages, and page 1 is not the last one",
        ),
        (
            nothing_after_ten,
            {"type": "offset", "limit": 5, "total_path": "total"},
            "counts 25 records, its pages have 10, and the next answer says that there are no records",
        ),
        (
            nothing_after_ten,
            {"type": "page_number", "total_path": "pages"},
            "counts 5 pages, and 3 of them are left, and the next answer says that there are no records",
        ),
        (
            lambda asked: page({"items": by_five(asked), "pages": -1}),
            {"type": "page_number", "total_path": "pages"},
            "the answer has no number at total_path pages",
        ),
    ],
)
def test_pages_that_end_before_what_the_server_counts_are_no_slice(
    answer: Callable[[Asked], Reply], paginator: Any, words: str
) -> None:
    assert words in str(refused(answer, data_selector="items", paginator=paginator))


@pytest.mark.parametrize("end", [{}, {"more": None}])
@pytest.mark.parametrize(
    "paginator",
    [
        {"type": "cursor", "cursor_path": "next", "stop_after_empty_page": True},
        {"type": "offset", "limit": 5},
        {"type": "page_number"},
    ],
    ids=lambda paginator: str(paginator["type"]),
)
def test_an_empty_page_need_not_say_that_it_is_the_last_one(paginator: Any, end: Any) -> None:
    def answer(asked: Asked) -> Reply:
        at = int(asked.params.get("offset", asked.params.get("cursor", 0)))
        at += int(asked.params.get("page", 0)) * 5
        items = RECORDS[at : at + 5]
        return page({"items": items} | ({"more": True, "next": at + 5} if items else end))

    keys: Any = {"data_selector": "items", "paginator": {**paginator, "has_more_path": "more"}}
    assert answered(answer, **keys)[0] == IDS
    assert "neither true nor false" in str(refused(lambda _: page({"items": RECORDS[:5]}), **keys))


@pytest.mark.parametrize("length", ["-1", "unknown"])
def test_csv_of_a_length_that_is_none_is_not_taken_for_whole(length: str) -> None:
    """A broken connection would look like its end."""
    reply = Reply(200, b"id\n1\n2\n", {"Content-Length": length}, closes=True)
    assert "gives no length of its CSV" in str(refused(partial(_same, reply), format="csv"))


@pytest.mark.parametrize("value", [b'"a"b', b'"a\\"b"', b'"a"b\n3,"c'])
def test_csv_with_a_quote_that_is_not_doubled_changes_no_value(value: bytes) -> None:
    body = b"id,note\n1," + value + b"\n2,x\n"
    error = refused(lambda _: Reply(200, body), {"id": "bigint", "note": "text"}, format="csv")
    assert isinstance(error, QueryError)
    assert "a quote in a value must be doubled" in str(error)


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Reply(401, b"no gzip", {"Content-Encoding": "gzip"}), LoginRefusedError),
        (Reply(403, b"cut", {"Content-Length": "100"}, closes=True), LoginRefusedError),
        (Reply(404, b"\x1b", {"Content-Encoding": "br"}), QueryError),
    ],
)
def test_a_status_counts_whatever_its_body_is(refusal: Reply, kind: type[AttemptError]) -> None:
    error = refused(partial(_same, refusal), **ITEMS)
    assert type(error) is kind
    assert f"the server answered {refusal.status}" in str(error)


def test_a_busy_server_whose_answer_is_packed_is_asked_again() -> None:
    packed = Reply(503, b"\x1b", {"Content-Encoding": "br"})
    assert answered(after(1, lambda _: packed, pages_of(RECORDS, 10)), **ITEMS)[0] == IDS


def test_no_content_may_be_called_packed() -> None:
    assert answered(lambda _: Reply(204, b"", {"Content-Encoding": "gzip"}), **ITEMS)[0] == []


@pytest.mark.parametrize("status", [202, 206])
def test_rows_and_tokens_of_an_answer_that_is_no_page_are_not_shown(status: int) -> None:
    reply = Reply(status, b'{"items": [{"id": 1, "name": "Ivanov"}], "access_token": "tok-6271"}')
    error = refused(partial(_same, reply), **ITEMS)
    assert str(error) == f"connection crm: the server answered {status}"
    with Api(partial(_same, reply)) as api:
        auth = {
            "type": "oauth2_client_credentials", "access_token_url": f"{api.url}token", "client_id": "dwh",
            "client_secret": SECRET,
        }  # fmt: skip
        with pytest.raises(AttemptError) as caught:
            rows_of(connection(api.url, auth=auth), query(ID))
    assert str(caught.value) == f"connection crm: access_token_url: the server answered {status}"


def test_slices_of_a_process_share_a_token_until_it_is_refused() -> None:
    """A token for each slice is refused by servers that limit them or keep only the last one."""
    good = ["token-of-the-hour-0"]

    def answer(asked: Asked) -> Reply:
        if asked.path == "/token":
            return page({"access_token": good[0]})
        is_good = asked.headers["Authorization"] == f"Bearer {good[0]}"
        return page({"items": RECORDS}) if is_good else Reply(401)

    with Api(answer) as api:
        auth = {
            "type": "oauth2_client_credentials", "access_token_url": f"{api.url}token", "client_id": "dwh",
            "client_secret": SECRET,
        }  # fmt: skip
        for number, asked_for in ((1, 1), (1, 1), (2, 2), (2, 2)):
            good[0] = f"token-of-the-hour-{number}"
            assert rows_of(connection(api.url, auth=auth), query(ID, **ITEMS)) == IDS
            assert sum(asked.path == "/token" for asked in api.requests) == asked_for
        rows_of(connection(api.url, auth={**auth, "client_id": "other"}), query(ID, **ITEMS))
        assert sum(asked.path == "/token" for asked in api.requests) == 3


@pytest.mark.parametrize("lasts", [{"expires_in": "0.002"}, {}])
def test_a_token_that_has_expired_for_a_server_that_answers_403_is_asked_for_again(lasts: Any) -> None:
    """The text is the time of the token; without it the attempt after the refused one has another token."""
    given = 0

    def answer(asked: Asked) -> Reply:
        nonlocal given
        if asked.path == "/token":
            given += 1
            return page({"access_token": f"token-of-the-hour-{given}", **lasts})
        is_good = asked.headers["Authorization"].endswith(f"-{wanted}")
        return page({"items": RECORDS}) if is_good else Reply(403)

    with Api(answer) as api:
        auth = {
            "type": "oauth2_client_credentials", "access_token_url": f"{api.url}token", "client_id": "dwh",
            "client_secret": SECRET,
        }  # fmt: skip
        wanted = 1
        assert rows_of(connection(api.url, auth=auth), query(ID, **ITEMS)) == IDS
        wanted = 2
        if not lasts:
            with pytest.raises(LoginRefusedError):
                rows_of(connection(api.url, auth=auth), query(ID, **ITEMS))
        time.sleep(0.01)
        assert rows_of(connection(api.url, auth=auth), query(ID, **ITEMS)) == IDS


def test_a_token_that_is_201_created_is_a_token() -> None:
    def answer(asked: Asked) -> Reply:
        if asked.path == "/token":
            return page({"access_token": "token-of-the-hour"}, 201)
        return Reply(401) if "token-of" not in asked.headers["Authorization"] else page({"items": RECORDS})

    with Api(answer) as api:
        auth = {
            "type": "oauth2_client_credentials", "access_token_url": f"{api.url}token", "client_id": "dwh",
            "client_secret": SECRET,
        }  # fmt: skip
        assert rows_of(connection(api.url, auth=auth), query(ID, **ITEMS)) == IDS


def test_a_date_of_retry_after_without_a_zone_is_of_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
        assert 95 < (retry_after(later.removesuffix(" GMT")) or 0) <= 100
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("number", [b"1.5", b"1e5", b"1e+5", b"1E-5"])
@pytest.mark.parametrize("read", [1, 2, 3])
def test_a_number_may_stand_where_one_piece_of_the_body_ends(number: bytes, read: int) -> None:
    before = b'{"items": [{"id": 1}], "pad": "%s", "took": '
    body = before % (b"x" * (256 * 1024 - len(before) + 2 - read)) + number + b"}"
    assert answered(lambda _: Reply(200, body), **ITEMS)[0] == [(1,)]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"items": [{"id": 1, "x": 1e99999999999999999999}]}', "a number whose exponent is too large"),
        ('{"items": [{"id": 1, "x": "é"}]}'.encode("latin-1"), "it is not UTF-8"),
        (b'{"items": [{"id": 1}]}\n{"items": []}\n', "of several documents (NDJSON) none is read"),
    ],
)
def test_json_that_cannot_be_read_is_said_in_words(body: bytes, words: str) -> None:
    error = refused(lambda _: Reply(200, body), **ITEMS)
    assert type(error) is SourceError
    assert words in str(error)


def test_a_token_that_no_header_can_hold_is_no_defect_and_is_not_shown() -> None:
    keys = {"auth": {"type": "bearer", "token": Secret("пароль-6271")}}
    error = refused(pages_of(RECORDS, 10), keys=keys, **ITEMS)
    assert isinstance(error, QueryError)
    assert "correct base_url, headers or auth" in str(error)
    assert "6271" not in str(error)


def test_a_link_of_another_scheme_says_which() -> None:
    error = refused(
        lambda _: page({"items": RECORDS, "next": "https://127.0.0.1/calls?p=2"}),
        data_selector="items",
        paginator={"type": "json_link"},
    )
    assert "another server (https://127.0.0.1:443)" in str(error)


@pytest.mark.parametrize("endpoint", [{"data_selector": "items"}, {"format": "csv"}])
def test_chunks_that_end_early_are_a_broken_connection(endpoint: Any) -> None:
    """It was called a defect of dwhctl."""
    cut = Reply(headers={"Transfer-Encoding": "chunked"}, pieces=[b"5\r\nid\n1\n\r\n"])
    error = refused(partial(_same, cut), **endpoint)
    assert (type(error), "the connection broke" in str(error)) == (SourceError, True)
    assert "defect" not in str(error)


def test_two_lengths_that_differ_are_a_fault_of_the_answer() -> None:
    """It was called a header of the request. From a server urllib3 leaves the socket of such an answer to Python."""
    said = requests.exceptions.InvalidHeader(InvalidHeader("Content-Length contained multiple values"))
    with closing(client.Client(connection("http://127.0.0.1:9/"), None, None)) as asked:
        error = asked._translated(said)
    assert (type(error), "the answer has a header" in str(error)) == (QueryError, True)
