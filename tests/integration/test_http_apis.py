"""APIs as well-known applications have them, against a real server on loopback."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dwhctl.core.errors import AttemptError, LoginRefusedError, SourceBusyError
from dwhctl.core.secrets import Secret
from dwhctl.project.days import make_slice
from dwhctl.project.read import read_project
from dwhctl.project.templates import render_extract
from dwhctl.systems.http import client
from tests.servers.http import Api, Asked, Reply, page
from tests.support.http import connection, query, rows_of

ID = {"id": "bigint"}
RECORDS = [{"id": number} for number in range(201)]
IDS = [(number,) for number in range(201)]
Answering = Callable[[Asked], Reply]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once, and begin without a token."""
    monkeypatch.setattr(client, "_WAIT", lambda _state: 0.01)
    monkeypatch.setattr("dwhctl.systems.http.auth._TOKENS", {})


def answered(answer: Answering, columns: Any = ID, keys: Any = None, **endpoint: Any) -> Any:
    """Read all rows of a server; give them and the requests."""
    with Api(answer) as api:
        rows = rows_of(connection(api.url, **(keys or {})), query(columns, **endpoint))
        return rows, api.requests


def refused(answer: Answering, columns: Any = ID, keys: Any = None, **endpoint: Any) -> AttemptError:
    """Read a server that must fail; give the error."""
    with pytest.raises(AttemptError) as caught:
        answered(answer, columns, keys, **endpoint)
    return caught.value


def in_turn(*replies: Reply) -> Answering:
    """Answer each request with the next of the replies."""
    left = iter(replies)
    return lambda _asked: next(left)


def always(reply: Reply) -> Answering:
    """Answer each request with the same."""
    return lambda _asked: reply


def test_a_cursor_that_is_the_last_records_id_and_a_day_without_records() -> None:
    # Stripe. What is read out of the records has the body held in memory whole.
    paginator = {"type": "cursor", "cursor_path": "$.data[-1].id", "cursor_param": "starting_after"}

    def charges(asked: Asked) -> Reply:
        at = int(asked.params.get("starting_after", -1)) + 1
        return page({"data": RECORDS[at : at + 100]})

    assert answered(charges, data_selector="$.data[*]", paginator=paginator)[0] == IDS
    for selector in ("$.data[*]", "$.data[?(@.id > 5)]", "$..data[*]"):
        assert answered(lambda _: page({"data": []}), data_selector=selector, paginator=paginator)[0] == []
    error = refused(lambda _: page({"error": "no"}), data_selector="$.data[*]", paginator=paginator)
    assert "nothing at data_selector" in str(error)


def test_offsets_that_begin_with_one_reach_the_last_record() -> None:
    # Yandex Metrica.
    for total in (199, 200, 201):

        def data(asked: Asked, total: int = total) -> Reply:
            at = int(asked.params["offset"]) - 1
            return page({"data": RECORDS[:total][at : at + 100], "total_rows": total})

        paginator = {"type": "offset", "limit": 100, "offset": 1, "total_path": "$.total_rows"}
        assert answered(data, data_selector="$.data[*]", paginator=paginator)[0] == IDS[:total]

    def skips_one(asked: Asked) -> Reply:
        at = int(asked.params["offset"])
        return page({"data": RECORDS[at : at + 100], "total_rows": 201})

    assert answered(skips_one, data_selector="$.data[*]", paginator=paginator)[0] == IDS[1:]


def test_a_page_of_html_is_called_so() -> None:
    error = refused(lambda _: Reply(200, b"<html>Sign in: secret</html>"), data_selector="$.data[*]")
    assert "it is HTML or XML" in str(error)
    assert "secret" not in str(error)


def test_answers_that_mean_to_try_again() -> None:
    # A report in the making (Yandex Direct), the limits of GitHub (403) and of GraphQL (200 with an error).
    busy: list[tuple[Reply, dict[str, Any]]] = [
        (Reply(201), {"status_code": 201}),
        (Reply(202, b"queued"), {"status_code": 202}),
        (
            Reply(403, b'{"message": "API rate limit exceeded"}'),
            {"status_code": 403, "content": "rate limit"},
        ),
        (page({"data": None, "errors": [{"code": "THROTTLED"}]}), {"content": "THROTTLED"}),
    ]
    for reply, action in busy:
        actions = [{**action, "action": "retry"}]
        answer = in_turn(reply, reply, page({"data": RECORDS}))
        rows, requests = answered(answer, data_selector="$.data[*]", response_actions=actions)
        assert (rows, len(requests)) == (IDS, 3)
    error = refused(always(busy[2][0]), response_actions=[{**busy[2][1], "action": "retry"}])
    assert isinstance(error, SourceBusyError)
    assert "answered 403" in str(error)
    assert "rate limit exceeded" in str(error)
    error = refused(always(Reply(403, b"other")), response_actions=[{**busy[2][1], "action": "retry"}])
    assert isinstance(error, LoginRefusedError)


def test_retry_after_of_an_answer_that_means_to_try_again() -> None:
    answer = in_turn(Reply(403, headers={"Retry-After": "1"}), page(RECORDS))
    rows, requests = answered(answer, response_actions=[{"status_code": 403, "action": "retry"}])
    assert rows == IDS
    assert requests[1].at - requests[0].at >= 1


def test_a_refusal_may_mean_that_there_are_no_records() -> None:
    for status in (403, 500):
        answer = always(Reply(status, b"the module is not switched on"))
        assert answered(answer, response_actions=[{"status_code": status}])[0] == []
        error = refused(answer, response_actions=[{"content": "not switched on"}])
        assert str(status) in str(error)


def test_a_cursor_that_is_a_list() -> None:
    # Elasticsearch: what the last hit is sorted by, also with a fraction.
    def hits(asked: Asked) -> Reply:
        first, of = asked.json.get("search_after", [-1, None])
        assert of is None or asked.body.endswith(b'"search_after": [%d, 1.50]}' % first)
        found = [{"_source": each, "sort": [each["id"], 1.5]} for each in RECORDS[first + 1 :][:100]]
        body = json.dumps({"hits": {"hits": found}}).replace("1.5]", "1.50]")
        return Reply(200, body.encode())

    paginator = {"type": "cursor", "cursor_path": "$.hits.hits[-1].sort", "cursor_body_path": "search_after"}
    rows, _ = answered(
        hits, {"id": {"type": "bigint", "path": "_source.id"}}, method="POST", json={"size": 100},
        data_selector="$.hits.hits[*]", paginator=paginator,
    )  # fmt: skip
    assert rows == IDS
    paginator = {"type": "cursor", "cursor_path": "$.sort"}
    error = refused(
        always(page({"data": RECORDS, "sort": [1]})), data_selector="$.data[*]", paginator=paginator
    )
    assert "use cursor_body_path for a list" in str(error)


@pytest.mark.parametrize(
    ("paginator", "numbers"),
    [
        ({"type": "offset", "limit": 100, "offset_body_path": "paging.startAt", "limit_body_path": "paging.max"},
         [(0, 100), (100, 100), (200, 100), (300, 100)]),
        ({"type": "page_number", "base_page": 1, "page_body_path": "paging.startAt"},
         [(1, None), (2, None), (3, None), (4, None)]),
    ],
)  # fmt: skip
def test_numbers_of_pages_in_the_body(
    paginator: dict[str, Any], numbers: list[tuple[int, int | None]]
) -> None:
    # Jira's search by POST.
    def issues(asked: Asked) -> Reply:
        assert not asked.params
        number = asked.json["paging"]["startAt"]
        at = number if paginator["type"] == "offset" else (number - 1) * 100
        return page({"issues": RECORDS[at : at + 100]})

    asks: dict[str, Any] = {"method": "POST", "json": {"jql": "x"}, "data_selector": "$.issues[*]"}
    rows, requests = answered(issues, paginator=paginator, **asks)
    assert rows == IDS
    asked = [(each.json["paging"]["startAt"], each.json["paging"].get("max")) for each in requests]
    assert asked == numbers
    for wrong in ({"method": "GET"}, {"json": {"paging": "x"}}, {"json": None, "data": {"a": "x"}}):
        with pytest.raises(ValidationError, match=r"no table|takes no|needs method"):
            query(ID, paginator=paginator, **{**asks, **wrong})


def test_values_in_lists() -> None:
    # Google Analytics.
    rows = [{"dimensionValues": [{"value": "a"}, {"value": "7"}], "metricValues": [{"value": "3"}]}, {}]
    columns = {
        "id": {"type": "bigint", "path": "dimensionValues.1.value", "optional": True},
        "none": {"type": "text", "path": "dimensionValues.2.value", "optional": True},
    }
    assert answered(always(page(rows)), columns)[0] == [(7, None), (None, None)]


def test_oauth2_with_the_login_in_a_header_and_secret_fields() -> None:
    # What Okta and Zoom ask for; the grant of a refresh token.
    def answer(asked: Asked) -> Reply:
        if asked.path == "/token":
            pair = base64.b64decode(asked.headers["Authorization"].removeprefix("Basic ")).decode()
            assert pair == "id%3A1:s%26cret%20value".replace("%20", "+")
            assert asked.body == b"grant_type=refresh_token&refresh_token=long-lived-token"
            return page({"access_token": "token-of-the-hour"})
        return page(RECORDS) if asked.headers["Authorization"] == "Bearer token-of-the-hour" else Reply(401)

    with Api(answer) as api:
        auth = {
            "type": "oauth2_client_credentials", "access_token_url": f"{api.url}token", "client_id": "id:1",
            "client_secret": Secret("s&cret value"), "client_authentication": "header",
            "access_token_request_data": {"grant_type": "refresh_token", "refresh_token": Secret("long-lived-token")},
        }  # fmt: skip
        assert rows_of(connection(api.url, auth=auth), query(ID)) == IDS
        assert "long-lived-token" not in repr(connection(api.url, auth=auth))


def test_a_key_as_the_user_without_a_password() -> None:
    # Stripe.
    login = base64.b64encode(b"sk_test_1:").decode()

    def answer(asked: Asked) -> Reply:
        return page(RECORDS if asked.headers["Authorization"] == f"Basic {login}" else {})

    assert answered(answer, keys={"auth": {"type": "http_basic", "username": "sk_test_1"}})[0] == IDS
    secret = {"type": "http_basic", "username": Secret("sk_test_1")}
    assert answered(answer, keys={"auth": secret})[0] == IDS
    error = refused(always(page({"error": "no such key: sk_test_1"}, 401)), keys={"auth": secret})
    assert "sk_test_1" not in str(error)


def test_an_empty_list_that_is_left_out() -> None:
    # Google's APIs.
    answer = always(page({"kind": "calendar#events"}))
    paginator = {"type": "cursor", "cursor_path": "$.nextPageToken"}
    for selector in ("$.items[*]", "$..items[*]"):
        asked = {"data_selector": selector, "paginator": paginator}
        assert "may_lack_records" in str(refused(answer, **asked))
        assert answered(answer, may_lack_records=True, **asked)[0] == []
    cut = refused(always(Reply(200, b"{")), data_selector="$.items[*]", may_lack_records=True)
    assert "is no whole JSON" in str(cut)


PROJECT = """\
[project]
timezone = "Europe/Moscow"
[sessions]
connection = "sessions"
[connections.sessions]
type = "sqlite"
path = "state/sessions.sqlite"
[connections.dwh]
type = "duckdb"
path = "state/dwh.duckdb"
[connections.crm]
type = "http"
base_url = "http://127.0.0.1:1/"
[shards.accounts]
crm = ["acme"]
[variables]
tokens = { acme = "Bearer abcdefgh" }
"""
LOAD = """\
shards = "accounts"
target = "dwh"
table = "stage.calls"
key = ["id"]
columns = { id = "bigint" }
[endpoint]
headers = { Client-Login = "{{ shard.name }}", Authorization = "{{ var.json.tokens[shard.name] }}" }
"""


def test_headers_of_an_endpoint_are_templates(tmp_path: Path) -> None:
    (tmp_path / "config/loads").mkdir(parents=True)
    (tmp_path / "config/dwhctl.toml").write_text(PROJECT)
    (tmp_path / "config/loads/calls.toml").write_text(LOAD)
    project = read_project(tmp_path)
    load = project.loads["calls"]
    (shard,) = project.shards_of(load)
    asked = render_extract(project, load, shard, make_slice(project, load, shard, date(2020, 7, 13)))
    assert asked.request is not None
    assert asked.request.headers == {"Client-Login": "acme", "Authorization": "Bearer abcdefgh"}
    with pytest.raises(ValidationError, match="Authorization holds a secret"):
        query(ID, headers={"Authorization": "Bearer abcdefgh"})


def test_headers_of_an_endpoint_stay_with_their_server() -> None:
    asked = query(
        ID, headers={"Client-Login": "acme"}, data_selector="$.data[*]", paginator={"type": "json_link"}
    )
    with Api(always(page({"data": RECORDS}))) as other:
        away = Reply(302, headers={"Location": other.url})
        with Api(in_turn(page({"data": [], "next": "/calls?page=2"}), away)) as api:
            assert rows_of(connection(api.url), asked) == IDS
        assert [each.headers.get("Client-Login") for each in api.requests] == ["acme", "acme"]
        assert "Client-Login" not in other.requests[0].headers


def test_a_total_with_a_point_and_more_as_a_number() -> None:
    def answer(asked: Asked) -> Reply:
        at = int(asked.params["offset"])
        more = int(at + 100 < len(RECORDS))
        return page({"items": RECORDS[at : at + 100], "total": 201.0, "more": more})

    for keys in ({"total_path": "$.total"}, {"has_more_path": "$.more"}):
        paginator = {"type": "offset", "limit": 100, **keys}
        rows, requests = answered(answer, data_selector="$.items[*]", paginator=paginator)
        assert (rows, len(requests)) == (IDS, 3)
    unclear = always(page({"items": RECORDS[:1], "more": 2}))
    error = refused(
        unclear,
        data_selector="$.items[*]",
        paginator={"type": "offset", "limit": 1, "has_more_path": "$.more"},
    )
    assert "neither true nor false" in str(error)
