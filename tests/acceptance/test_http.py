"""An HTTP API as the source of a load: as a user runs it, and as what a user gets wrong."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from itertools import chain, pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pytest

from dwhctl.project.endpoint import Endpoint
from dwhctl.project.response_columns import ResponseColumn
from tests.cli_support import dwh
from tests.servers.http import Api, Asked, Reply, page

REPOSITORY = Path(__file__).parents[2]
MAIN = """\
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
base_url = "{url}api/"
auth = {{ type = "bearer", token = {{ env = "CRM_TOKEN" }} }}
rate_limit = "500/s"

[shards.accounts]
crm = ["acme", {{ name = "two", database = "second co/..", zone = "Asia/Chita" }}]
"""
LOAD = """\
shards = "accounts"
target = "dwh"
table = "stage.calls"
create = "create.sql"
key = ["id"]
slice_by = "called_at"
verify_columns = ["cost"]
retries = 0
columns = { id = "bigint", called_at = "timestamptz", cost = "decimal(12,4)", note = "text" }

[endpoint]
path = "accounts/{{ shard.database }}/calls"
params = { from = "{{ data_interval_start }}", to = "{{ data_interval_end }}" }
data_selector = "$.items[*]"
paginator = { type = "cursor", cursor_path = "$.next" }
"""
CREATE = """\
CREATE SCHEMA IF NOT EXISTS stage;
CREATE TABLE IF NOT EXISTS stage.calls (
    etl_source VARCHAR, etl_id BIGINT, hash_id BIGINT,
    id BIGINT, called_at TIMESTAMPTZ, cost DECIMAL(12, 4), note VARCHAR
);
"""
TOKEN = "a-token-of-the-tests-77"
DATE = ("--date", "2020-07-14")


class Crm:
    """Accounts with calls; a call has a moment of its account's clock."""

    def __init__(self) -> None:
        self.calls: dict[str, list[dict[str, Any]]] = {}
        for account, offset in (("acme", "+03:00"), ("second%20co%2F..", "+09:00")):
            self.calls[account] = [
                {
                    "id": 2**53 + n,
                    "called_at": f"2020-07-14T{n:02}:00:00{offset}",
                    "cost": f"{n}.10",
                    "note": None,
                }
                for n in range(24)
            ]

    def __call__(self, asked: Asked) -> Reply:
        if asked.headers.get("Authorization") != f"Bearer {TOKEN}":
            return page({"error": "who are you"}, 401)
        account = asked.path.split("/")[3] if asked.path.count("/") == 4 else ""
        if account not in self.calls:
            return page({"error": f"nothing at {asked.path}"}, 404)
        start, end = (datetime.fromisoformat(asked.params[name]) for name in ("from", "to"))
        found = [
            one for one in self.calls[account] if start <= datetime.fromisoformat(one["called_at"]) < end
        ]
        at = int(asked.params.get("cursor", 0))
        return page({"items": found[at : at + 10], "next": at + 10 if at + 10 < len(found) else None})


@pytest.fixture
def crm() -> Crm:
    return Crm()


@pytest.fixture
def api(crm: Crm) -> Iterator[Api]:
    with Api(crm) as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, api: Api, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRM_TOKEN", TOKEN)
    for name, text in (
        ("config/dwhctl.toml", MAIN.format(url=api.url)),
        ("config/loads/calls.toml", LOAD),
        ("sql/create.sql", CREATE),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def rows(
    project: Path, sql: str = "SELECT etl_source, count(*) FROM stage.calls GROUP BY 1 ORDER BY 1"
) -> list[Any]:
    with closing(duckdb.connect(str(project / "state/dwh.duckdb"), read_only=True)) as db:
        return db.execute(sql).fetchall()


def test_a_day_is_loaded_verified_and_loaded_again(
    project: Path, api: Api, crm: Crm, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dwh("config", "check", "--project", project) == 0
    assert dwh("load", *DATE, "--project", project, "--inline") == 0
    assert rows(project) == [("acme", 24), ("two", 24)]
    assert rows(project, "SELECT min(id), max(id), sum(cost)::VARCHAR FROM stage.calls") == [
        (2**53, 2**53 + 23, "556.8000")
    ]
    assert dwh("verify", *DATE, "--project", project) == 0
    # The bounds of the second shard are those of its own clock.
    starts = {asked.params["from"] for asked in api.requests if "second" in asked.path}
    assert starts == {"2020-07-14T00:00:00+09:00"}
    crm.calls["acme"][3]["cost"] = "99.9999"
    del crm.calls["acme"][0]
    capsys.readouterr()
    assert dwh("verify", *DATE, "--project", project, "--format", "json") == 1
    found = json.loads(capsys.readouterr().out)
    assert {one["shard"] for one in found} == {"acme"}
    assert dwh("load", *DATE, "--project", project, "--inline") == 0
    assert rows(project) == [("acme", 23), ("two", 24)]
    assert dwh("verify", *DATE, "--project", project) == 0
    assert not list((project / "state" / "spill").iterdir())


def test_a_day_in_parts_is_asked_for_by_time(
    project: Path, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "config/loads/calls.toml"
    path.write_text(f"split = 3\n{path.read_text()}")
    assert dwh("config", "check", "--project", project) == 0
    assert dwh("load", *DATE, "--project", project, "--inline") == 0
    assert rows(project) == [("acme", 24), ("two", 24)]
    asked = {(one.params["from"], one.params["to"]) for one in api.requests if "second" in one.path}
    hours = ["14T00", "14T08", "14T16", "15T00"]
    moments = [f"2020-07-{hour}:00:00+09:00" for hour in hours]
    assert asked == set(pairwise(moments))
    assert dwh("verify", *DATE, "--project", project) == 0

    path.write_text(path.read_text().replace(', to = "{{ data_interval_end }}"', ""))
    capsys.readouterr()
    assert dwh("load", *DATE, "--project", project, "--inline") == 2
    said = capsys.readouterr().err
    assert (
        "split: cuts by time, and params do not have {{ data_interval_end }}: each part would have all"
        in said
    )
    path.write_text(f'split_by = "id"\n{path.read_text()}')
    assert dwh("config", "check", "--project", project) == 2
    assert "split_by: is a column of an SQL source" in capsys.readouterr().err


def test_one_bad_account_costs_itself_only(
    project: Path, crm: Crm, capsys: pytest.CaptureFixture[str]
) -> None:
    crm.calls["acme"][20]["cost"] = "1.23456"
    assert dwh("load", *DATE, "--project", project, "--inline") == 1
    assert rows(project) == [("two", 24)]
    said = capsys.readouterr().err
    assert "row 21, column cost (decimal(12,4)): the number has more than 4 digits after the point" in said

    del crm.calls["acme"]
    assert dwh("load", *DATE, "--project", project, "--inline") == 1
    assert "the server answered 404" in capsys.readouterr().err


def test_a_refused_login_is_told_and_no_secret(
    project: Path, monkeypatch: pytest.MonkeyPatch, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CRM_TOKEN", "another-token-of-the-tests")
    assert dwh("load", *DATE, "--project", project, "--jobs", "1") == 1
    said = "".join(capsys.readouterr())
    assert "the server answered 401" in said
    assert "another-token" not in said
    assert dwh("connections", "test", "crm", "--project", project) == 1


def test_values_of_toml_in_a_body_are_json(
    project: Path, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "config/loads/calls.toml"
    body = 'method = "POST"\njson = { day = 2020-07-14, at = 2020-07-14T01:02:03Z, n = [1, 1.5, true], t = "{{ ds }}" }'
    path.write_text(path.read_text().replace("[endpoint]", f"[endpoint]\n{body}"))
    assert dwh("render", "calls", *DATE, "--project", project, "--quiet") == 0
    shown = capsys.readouterr().out.splitlines()
    assert json.loads(shown[-1]) == {
        "day": "2020-07-14",
        "at": "2020-07-14T01:02:03+00:00",
        "n": [1, 1.5, True],
        "t": "2020-07-14",
    }


def test_what_commands_show_of_it(project: Path, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert dwh("render", "calls", *DATE, "--shard", "two", "--project", project, "--quiet") == 0
    shown = capsys.readouterr().out
    assert shown == (
        f"GET {api.url}api/accounts/second%20co%2F../calls?from=2020-07-14T00%3A00%3A00%2B09%3A00"
        "&to=2020-07-15T00%3A00%3A00%2B09%3A00\nAuthorization: Bearer ********\n"
    )
    assert dwh("connections", "list", "--project", project, "--format", "json") == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert listed["crm"]["address"] == f"{api.url}api/"
    assert TOKEN not in repr(listed)
    assert dwh("connections", "test", "--project", project, "--format", "json") == 0
    trips = json.loads(capsys.readouterr().out)["connections"]
    tried = [one for one in trips if one["connection"] == "crm"]
    assert [(one["ok"], one["version"]) for one in tried] == [(True, "HTTP 404, test")]
    assert dwh("query", "crm", "SELECT 1", "--project", project) == 2
    assert "is an HTTP API, which takes no SQL" in capsys.readouterr().err
    assert dwh("config", "check", "--online", "--project", project) == 0


def of_yesterday(crm: Crm) -> None:
    yesterday = str(datetime.now(ZoneInfo("Europe/Moscow")).date() - timedelta(days=1))
    for call in chain.from_iterable(crm.calls.values()):
        call["called_at"] = call["called_at"].replace("2020-07-14", yesterday)


@pytest.mark.parametrize(
    ("paginator", "place"),
    [
        ('{ type = "cursor", cursor_path = "$.nxet" }', "cursor_path $.nxet"),
        ('{ type = "json_link", next_url_path = "$.links.next" }', "next_url_path $.links.next"),
        ('{ type = "header_cursor", cursor_key = "X-Nxet" }', "the header of cursor_key X-Nxet"),
        ('{ type = "header_link" }', "the relation of links_next_key next in the header Link"),
        ('{ type = "cursor", cursor_path = "$.next" }', ""),
        ('{ type = "offset", limit = 10, limit_param = "n", offset_param = "cursor" }', ""),
    ],
)
def test_a_page_that_leads_nowhere_gets_a_note(
    project: Path, api: Api, crm: Crm, capsys: pytest.CaptureFixture[str], paginator: str, place: str
) -> None:
    load = project / "config/loads/calls.toml"
    load.write_text(LOAD.replace('{ type = "cursor", cursor_path = "$.next" }', paginator))
    crm.calls["second%20co%2F.."] = []
    of_yesterday(crm)
    assert dwh("config", "check", "--online", "--project", project, "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    notes = [note for note in found["notes"] if "first page" in note]
    note = (
        f"acme: calls: the first page has records, and nothing at {place}, so that a load ends with it; right if"
        " there is one page, else correct the paginator"
    )
    assert notes == ([note] if place else [])
    assert (len(api.requests), found["errors"]) == (2, [])


def test_a_mistyped_total_is_found_before_the_first_load(
    project: Path, crm: Crm, capsys: pytest.CaptureFixture[str]
) -> None:
    load = project / "config/loads/calls.toml"
    of_yesterday(crm)
    load.write_text(
        LOAD.replace(
            '{ type = "cursor", cursor_path = "$.next"', '{ type = "page_number", total_path = "$.nxet"'
        )
    )
    assert dwh("config", "check", "--online", "--project", project, "--format", "json") == 1
    assert "the answer has no number at total_path $.nxet" in json.loads(capsys.readouterr().out)["errors"][0]


def test_the_examples_of_the_page_load(project: Path, api: Api, crm: Crm) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (REPOSITORY / "docs/http.md").read_text(), re.DOTALL)
    connection, load, columns, paginators = blocks
    main = (project / "config/dwhctl.toml").read_text()
    ours = main[: main.index("[connections.crm]")]
    (project / "config/dwhctl.toml").write_text(
        ours + connection.replace("https://crm.example.com/api/v2/", f"{api.url}api/")
    )
    (project / "config/loads/calls.toml").write_text(load.replace("calls/create.sql", "create.sql"))
    (project / "sql/create.sql").write_text(
        "CREATE SCHEMA IF NOT EXISTS stage; CREATE TABLE IF NOT EXISTS stage.calls (etl_source VARCHAR, etl_id BIGINT,"
        " hash_id BIGINT, id BIGINT, called_at TIMESTAMPTZ, seconds INTEGER, cost DECIMAL(12, 2), customer VARCHAR,"
        " note VARCHAR)"
    )
    call = {
        "id": 1,
        "called_at": "2020-07-14T03:00:00Z",
        "seconds": 5,
        "cost": 1.5,
        "customer": {"name": "n"},
    }
    crm.calls = {"acme": [call], "4711": [call]}
    assert dwh("config", "check", "--project", project) == 0
    assert dwh("load", *DATE, "--project", project, "--inline") == 0
    assert rows(project) == [("acme", 1), ("north", 1)]
    for line in paginators.splitlines():
        Endpoint.model_validate({"method": "POST", **tomllib.loads(line)})
    for column in tomllib.loads(columns)["columns"].values():
        ResponseColumn.model_validate(column)


def check(project: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert dwh("config", "check", "--project", project) == 2
    return "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[endpoint]\n", "[params]\n", 'calls.toml: endpoint: is missing; add [endpoint] with path = "orders"'),
        ('path = "acc', 'paht = "acc', "calls.toml: endpoint.paht: unknown key; did you mean 'path'?"),
        ('"cursor", cursor_path', '"curser", cursor_path', "endpoint.paginator.type: expected one of"),
        ('type = "cursor", cursor_path', "cursor_path", "endpoint.paginator.type: is missing"),
        ("cursor_path", "cursor_pat", "endpoint.paginator.cursor_pat: unknown key; did you mean 'cursor_path'?"),
        ('id = "bigint"', 'id = "bigit"', "columns.id.type: 'bigit' is no type of a column; did you mean 'bigint'?"),
        ('id = "bigint"', 'nr = "bigint"', "calls.toml: key: columns has no 'id'"),
        ('called_at = "timestamptz", ', "", "calls.toml: slice_by: columns has no 'called_at'"),
        ('"decimal(12,4)"', '"decimal(40,4)"', "a decimal has 1 to 38 digits"),
        ('note = "text"', 'hash_id = "text"', "columns.hash_id: is a service field"),
        ('"$.items[*]"', '"$.items[?"', "'$.items[?' is no JSONPath"),
        ("{{ shard.database }}", "{{ shard.databas }}", "'shard.databas' is undefined"),
        ("{{ data_interval_start }}", "{{ data_interval_strat }}", "endpoint.params.from: 'data_interval_strat' is"),
        ('create = "create.sql"', 'create = "create.sql"\nextract = "create.sql"', "extract: is SQL, and the shards"),
        ('params = { from = "{{ data_interval_start }}", to = "{{ data_interval_end }}" }\n', "",
         "returns the same records for every day"),
    ],
)  # fmt: skip
def test_mistakes_in_a_load_are_told_by_file_and_key(
    project: Path, old: str, new: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "config/loads/calls.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert words in check(project, capsys)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"bearer"', '"baerer"', "connections.crm.auth.type: expected one of"),
        ("token = ", "tokken = ", "connections.crm.auth.tokken: unknown key; did you mean 'token'?"),
        ('"500/s"', '"fast"', "connections.crm.rate_limit: <4 characters, not shown> is no rate"),
        ("http://127.0.0.1", "http://crm.example.com", "travel in clear"),
        ("http://127.0.0.1", "http://user:hunter22@127.0.0.1", "holds a login"),
        ("api/", "api?key=hunter22", "has a '?' or '#'"),
        ("http://127", "htp://127", "is no URL of a server"),
        ("base_url", "base_ulr", "connections.crm.base_ulr: unknown key; did you mean 'base_url'?"),
        ("rate_limit =", 'ca_file = "nowhere.pem"\nrate_limit =', "ca_file: the file <11 characters, not"),
        ("rate_limit =", 'max_body = "much"\nrate_limit =', "max_body: <4 characters, not shown> is no size"),
        (
            "rate_limit =",
            'headers = { Host = "x" }\nrate_limit =',
            "headers: <4 characters, not shown> is written by",
        ),
    ],
)
def test_mistakes_in_a_connection_are_told_by_key(
    project: Path, old: str, new: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "config/dwhctl.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    said = check(project, capsys)
    assert words in said
    assert "hunter22" not in said


def test_keys_of_http_on_other_sources(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = project / "config/dwhctl.toml"
    path.write_text(path.read_text().replace("crm = [", "dwh = ["))
    said = check(project, capsys)
    assert "calls.toml: extract: is missing" in said
    assert "calls.toml: endpoint: is for HTTP sources, and the shards are of type duckdb; drop it" in said


@pytest.mark.parametrize("name", ["auth", "auth.token.reveal()", "headers['X-Key']"])
def test_a_template_gets_no_login(project: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    load, main = project / "config/loads/calls.toml", project / "config/dwhctl.toml"
    load.write_text(load.read_text().replace("{{ shard.database }}", f"{{{{ conn.crm.{name} }}}}"))
    headers = 'headers = { X-Key = { env = "CRM_TOKEN" } }'
    main.write_text(main.read_text().replace("rate_limit =", f"{headers}\nrate_limit ="))
    said = check(project, capsys)
    assert "is refused" in said
    assert TOKEN not in said


def test_a_connection_of_the_environment(
    project: Path, api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = api.url.removeprefix("http://")
    monkeypatch.setenv("DWHCTL_CONN_CRM", f"http://dwh:p%40ss-word-77@{address}api/?rate_limit=5/s")
    assert dwh("render", "calls", *DATE, "--project", project, "--quiet") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"GET {api.url}api/accounts/acme/calls?")
    assert shown.endswith("\nAuthorization: Basic ********\n")
    monkeypatch.setenv("DWHCTL_CONN_CRM", "https://crm.example.com/a@b")
    assert "the URL has an '@' after its server" in check(project, capsys)


def test_a_literal_secret_deep_in_a_connection_is_told_and_masked(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "config/dwhctl.toml"
    path.write_text(path.read_text().replace('{ env = "CRM_TOKEN" }', f'"{TOKEN}"'))
    assert dwh("config", "check", "--project", project) == 0
    said = "".join(capsys.readouterr())
    assert "connections.crm.auth.token: the secret itself is in the file" in said
    assert TOKEN not in said
