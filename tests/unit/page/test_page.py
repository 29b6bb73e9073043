"""The page: what it says, its sizes, its escaping, and what a reader may rely on."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import json
import re
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
import time_machine

from dwhctl.core.secrets import Secret
from dwhctl.monitor.coverage import cover, days_until, sessions_of, sliced_tasks
from dwhctl.monitor.freshness import read_slas
from dwhctl.page.data import PageContent, read_page
from dwhctl.page.grid import MOST_ROWS
from dwhctl.page.render import cut, render, trend_points
from dwhctl.page.words import stale_at
from dwhctl.sessions import Closing, NewSession, State, open_store
from dwhctl.verify.findings import Check, SliceComparison, SliceFinding
from dwhctl.verify.last import keep_last, read_last
from dwhctl.verify.run import VerifyRequest, verify
from tests.support import pages
from tests.support.pages import DAYS, NOW, TODAY

HOSTILE = (
    '</script><script>alert(1)</script><img src=x onerror=alert(2)> " onmouseover="alert(3) \' {{ 7 * 7 }} \x1b[31m'
    "red\x1b[0m \u202egnp.exe\u202c \u2066 \x00\x07 <!-- <![CDATA[ &lt; \u2028 " + "x" * 100_000
)
AN_ALERT = (
    "INSERT INTO dwhctl_alerts (created, channel, kind, subject, digest, state, answer, attempts, doubts)"
    " VALUES ('2020-07-14 01:00:00.000000+00:00', ?, 'failed', ?, '{}', 'refused', ?, 1, 0)"
)
#: What acts on a terminal, or turns and hides other text.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class Seen(HTMLParser):
    """The elements of a page with the names of their attributes, and the texts of its scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.values: list[tuple[str, str, str]] = []
        self.raw: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.values += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] in ("script", "style") and data.strip():
            self.raw.append((self.elements[-1][0], data))
        else:
            self.text += data


def page_of(
    root: Path, outcome: pages.Outcome = pages.all_well, days: list[date] | None = None
) -> PageContent:
    project = pages.make(root, shards=12, servers=3).project()
    pages.fill(project, outcome, days)
    return read_page(project, NOW)


def sentences(page: PageContent) -> str:
    return " ".join(page.headline.sentences)


@pytest.fixture(scope="module")
def down(tmp_path_factory: pytest.TempPathFactory) -> PageContent:
    return page_of(tmp_path_factory.mktemp("down"), pages.server_down)


def test_all_well_is_one_look(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert page.headline.mood == "good"
    assert (
        sentences(page) == "12 of 12 slices of 2020-07-13 complete. The report is up to date. Nothing fails."
    )
    assert [report.is_current for report in page.reports] == [True]
    assert page.grid
    assert not page.grid.tables[0].with_gaps


def test_three_shards_fail_with_reason_since_when_and_command(down: PageContent) -> None:
    assert down.headline.mood == "bad"
    assert sentences(down).startswith(
        "9 of 12 slices of 2020-07-13 complete. The report city_orders is not up to date. 3 shards fail, since"
        " 2020-07-11."
    )
    [group] = down.failing
    assert group.shards == ("city_000", "city_001", "city_002")
    assert (group.streak, group.slices, group.since) == (3, 9, date(2020, 7, 11))
    assert group.error == f"SourceUnavailableError: {pages.LOST}"
    assert group.command
    assert group.command.startswith("dwhctl backfill orders -s 2020-07-11 -e 2020-07-13 --shard city_0")
    assert "start_time >= :start" in down.details[group.last].sql
    assert "-- :start = 2020-07-13 00:00:00" in down.details[group.last].bounds
    [gap] = down.gaps
    assert gap.command.startswith("dwhctl backfill orders -s 2020-07-11 -e 2020-07-13 --only-missing --shard")
    assert down.grid
    [table] = down.grid.tables
    assert [line.shard for line in table.with_gaps] == ["city_000", "city_001", "city_002"]
    assert "".join(cell.letter for cell in table.with_gaps[0].cells)[-4:] == "FFF."
    html = render(down)
    for text in (group.command, gap.command, pages.LOST, "city_002"):
        assert text in html
    assert f'id="fail-{group.last}"' in html
    assert f'<a href="#fail-{group.last}">F</a>' in html


def test_an_outage_of_everything_says_so(tmp_path: Path) -> None:
    page = page_of(tmp_path, pages.outage)
    assert sentences(page).startswith(
        "0 of 12 slices of 2020-07-13 complete. The report city_orders is not up to date. 12 shards fail, since"
        " 2020-07-11."
    )
    assert [report.is_current for report in page.reports] == [False]
    assert [need.complete for need in page.reports[0].needs] == [0]


def test_the_first_day_says_what_comes(tmp_path: Path) -> None:
    page = read_page(pages.make(tmp_path, shards=3).project(), NOW)
    assert sentences(page).startswith("Nothing was loaded yet. The first scheduled run starts at 2020-07-14")
    assert page.headline.mood == "warn"
    assert "Nothing fails." in render(page)


def test_a_dead_cron_is_the_first_sentence(tmp_path: Path) -> None:
    page = page_of(tmp_path, days=DAYS[:-3])
    assert page.headline.sentences[0].startswith("No run has started since 2020-07-11")
    assert page.headline.sentences[0].endswith("is cron running?")


def test_a_report_does_not_have_what_was_loaded_after_its_refresh(tmp_path: Path) -> None:
    page = page_of(tmp_path, pages.server_down)
    with open_store(page.project.sessions) as store:
        later = NOW - timedelta(minutes=2)
        [new] = store.open(
            [NewSession("20200714T040300-00000000", "orders", "city_000", DAYS[-1], 1, "again", later)]
        )
        store.close([Closing(new, State.LOADED, NOW, 5)])
    [report] = read_page(page.project, NOW).reports
    assert report.loaded_after == ("city_000",)
    assert not report.is_current
    assert "so not in it: city_000" in render(read_page(page.project, NOW))
    assert report.command.startswith("dwhctl refresh-reports city_orders --date 2020-07-13 --project ")


def test_a_success_that_starts_in_the_future_was_not_loaded_after_a_refresh(tmp_path: Path) -> None:
    """It is of a clock that was ahead, and counts for no day elsewhere either."""
    page = page_of(tmp_path, pages.server_down)
    with open_store(page.project.sessions) as store:
        later = NOW + timedelta(days=30)
        [new] = store.open(
            [NewSession("20200714T040300-00000000", "orders", "city_000", DAYS[-1], 1, "again", later)]
        )
        store.close([Closing(new, State.LOADED, later, 5)])
    [report] = read_page(page.project, NOW).reports
    assert report.loaded_after == ()


def cells_of(page: PageContent) -> dict[int, list[str]]:
    """The reason, the log, the bounds and the query that the script shows of each session."""
    details = json.loads(Seen(render(page)).raw[1][1])
    texts = ["", *details["texts"]]
    return {int(id_): [texts[place + 1] for place in of[4:]] for id_, of in details["sessions"].items()}


def test_each_failing_cell_has_its_log_and_its_query(tmp_path: Path) -> None:
    page = page_of(tmp_path, pages.server_down)
    runs = {session.run_id for session in page.sessions.values()}
    for run_id in runs:
        pages.write_log(
            page.project, run_id, [id_ for id_ in page.sessions if page.sessions[id_].run_id == run_id]
        )
    cells = cells_of(read_page(page.project, NOW))
    assert len(cells) == 9
    for id_, (reason, log, bounds, sql) in cells.items():
        assert reason == f"SourceUnavailableError: {pages.LOST}"
        assert log.endswith(f"no route to host ({id_})")
        assert "session opened" in log
        assert f"-- :start = {page.sessions[id_].day} 00:00:00" in bounds
        assert "start_time >= :start" in sql


def test_cells_without_a_log_here_or_of_a_load_that_is_gone_have_the_rest(tmp_path: Path) -> None:
    project = page_of(tmp_path, pages.server_down).project
    gone = dataclasses.replace(project, shard_groups={"cities": project.shard_groups["cities"][1:]})
    cells = cells_of(read_page(gone, NOW))
    assert {tuple(map(bool, texts)) for texts in cells.values()} >= {(True, False, True, True)}


# What verify found


def a_result(day: date | None, *findings: SliceFinding, shard: str = "city_001") -> SliceComparison:
    return SliceComparison("orders", shard, day, list(findings), 10)


def test_the_last_result_of_verify_is_on_the_page_with_its_age(tmp_path: Path) -> None:
    project = page_of(tmp_path, days=DAYS[-1:]).project
    assert "Nothing was verified on this machine yet" in render(read_page(project, NOW))
    days = [date(2020, 7, 12), date(2020, 7, 13)]
    equal = [a_result(day) for day in days]
    with time_machine.travel(NOW - timedelta(hours=3), tick=False):
        keep_last(project, "orders", days, (), equal)
    html = Seen(render(read_page(project, NOW))).text
    assert "orders 2020-07-12 to 2020-07-13:\n2 of 2 slices equal (20 rows)." in html
    assert "Verified 2020-07-14 04:05, 3 hours before this page." in html
    assert "dwhctl verify" not in html
    found = SliceFinding(Check.ROWS, "10", "9")
    lost = SliceFinding(Check.NOT_COMPARED, None, None, "no route to host")
    unknown = SliceFinding(Check.UNKNOWN_SOURCE, None, "7")
    results = [
        a_result(days[1], found),
        a_result(days[1], lost),
        a_result(None, unknown, shard="old"),
        *equal[:1],
    ]
    keep_last(project, "orders", days[1:], ("city_*",), results)
    [last] = read_page(project, NOW).verified
    html = Seen(render(read_page(project, NOW))).text
    assert not last.is_fine
    assert "orders of 2020-07-13 differs from its sources, by the last verify." in html
    assert (
        "1 of 3 slices equal (10 rows), 1 different, 1 not compared, 1 with rows of no day or shard." in html
    )
    assert "city_001 2020-07-13: rows 10 / 9" in html
    assert f"dwhctl load orders --date 2020-07-13 --shard city_001 --project {project.root}" in html
    assert f"dwhctl verify orders --date 2020-07-13 --shard 'city_*' --project {project.root}" in html


def test_verify_keeps_its_result_and_never_fails_by_it(tmp_path: Path) -> None:
    project = pages.make(tmp_path, shards=3).project()
    request = VerifyRequest((date(2020, 7, 13),))
    verify(project, request)
    assert read_last(project) == (), "without a state folder nothing is made"
    project.state_dir.mkdir()
    verify(project, request)
    [last] = read_last(project)
    assert (last.load, last.incomplete, last.equal, last.is_fine) == ("orders", 3, 0, True)
    path = project.state_dir / "verify" / "orders.json"
    for damaged in (
        "",
        "{",
        path.read_text().replace("2020", "x"),
        path.read_text().replace("orders", "sales"),
    ):
        path.write_text(damaged)
        assert read_last(project) == ()
    shutil.rmtree(path.parent)
    path.parent.write_text("in the way")
    told: list[str] = []
    assert verify(project, request, told.append).is_fine
    assert "the result is not kept for the page" in told[-1]


# Escaping


def test_hostile_texts_change_nothing(tmp_path: Path) -> None:
    plain, hostile = (
        _spoiled(tmp_path / name, text) for name, text in (("plain", "words"), ("bad", HOSTILE))
    )
    seen = Seen(hostile)
    assert seen.elements == Seen(plain).elements
    assert [name for name, _ in seen.raw] == ["style", "script", "script"]
    details = json.loads(seen.raw[1][1])
    assert any("<script>alert(1)</script>" in text for text in details["texts"])
    assert not CONTROL.search(hostile)
    assert "<script>alert(1)</script>" in seen.text
    assert len(hostile.encode()) < len(plain.encode()) + 40_000


def test_a_hostile_text_in_any_field_changes_nothing(tmp_path: Path) -> None:
    """In every column of the sessions database, each in rows of its own; in the logs; in what verify found."""
    page = page_of(tmp_path, pages.server_down)
    project = page.project
    known = {
        *Seen(_spoiled(tmp_path / "known", "words")).elements,
        *Seen(_verified(tmp_path / "seen")).elements,
    }
    with closing(sqlite3.connect(tmp_path / "state" / "sessions.sqlite", isolation_level=None)) as db:
        for _ in range(20):
            db.execute(AN_ALERT, ("telegram", "subject", "answer"))
        for table in ("sessions", "dwhctl_alerts"):
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if not row[5]]
            assert len(columns) > 10
            for place, column in enumerate(columns):
                rows = f"rowid % {len(columns)} = {place}"
                db.execute(f"UPDATE {table} SET {column} = ? WHERE {rows}", (f"{column}: {HOSTILE[:2_000]}",))
    pages.write_log(project, page.sessions[page.failing[0].last].run_id, page.sessions, HOSTILE[:2_000])
    found = SliceFinding(Check.VALUES, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    keep_last(project, "orders", DAYS, (HOSTILE,), [a_result(DAYS[-1], found, shard=HOSTILE)])
    html = render(read_page(project, NOW))
    seen = Seen(html)
    assert set(seen.elements) <= known
    assert [name for name, _ in seen.raw] == ["style", "script", "script"]
    assert not CONTROL.search(html)
    texts = json.loads(seen.raw[1][1])["texts"]
    assert sum("<script>alert(1)</script>" in text for text in texts) > 2
    assert all(f"{name}: </script>" in seen.text for name in ("channel", "subject", "answer"))
    assert len(html) < 200 * 1024


def _verified(root: Path, text: str = "words") -> str:
    project = page_of(root, pages.server_down).project
    keep_last(project, "orders", DAYS, (text,), [a_result(DAYS[-1], SliceFinding(Check.VALUES, text, text))])
    return render(read_page(project, NOW))


def _spoiled(root: Path, text: str) -> str:
    """Return the page after another program has written a text into every field of the sessions that may hold it."""
    project = page_of(root, pages.server_down).project
    with closing(sqlite3.connect(root / "state/sessions.sqlite", isolation_level=None)) as db:
        db.execute(
            "UPDATE sessions SET comment = ?, error_class = ?, host = ?, dwhctl_version = ? WHERE state = 'failed'",
            (text,) * 4,
        )
        db.execute("UPDATE sessions SET run_id = run_id || ? WHERE run_id LIKE '20200710%'", (text,))
        db.execute("UPDATE sessions SET run_id = run_id || ? WHERE run_id LIKE '20200713%'", (text,))
        names = (text, text, f"{text}__{text}")
        db.execute(
            "UPDATE sessions SET load = ?, shard = ?, task_name = ? WHERE run_id LIKE '20200710T03%'", names
        )
        db.execute(AN_ALERT, (text,) * 3)
    return render(read_page(project, NOW))


def test_no_secret_is_shown(tmp_path: Path) -> None:
    secret = "pw-3f9c2a71d0b84e56"
    Secret(secret)
    page = page_of(tmp_path, lambda number, day: (State.FAILED, f"login with {secret} refused"))
    html = render(page)
    assert secret not in html
    assert "login with" in html
    # Cut after it is masked: half a secret would not be found.
    assert secret[:8] not in cut("x" * 590 + secret, 600)


# Complete in itself


def test_the_file_needs_no_other_and_allows_none(down: PageContent) -> None:
    seen = Seen(render(down))
    policy = next(
        value for tag, name, value in seen.values if tag == "meta" and name == "content" and "src" in value
    )
    assert policy.startswith("default-src 'none';")
    hashes = re.findall(r"'(sha256-[^']+)'", policy)
    texts = [text for name, text in seen.raw if not text.startswith("{")]
    assert hashes == [
        f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}" for text in texts
    ]
    assert "unsafe" not in policy
    links = [value for _, name, value in seen.values if name in ("href", "src", "action", "srcset")]
    assert all(value.startswith(("#", "data:image/svg+xml,")) for value in links)
    assert not [
        name for _, names in seen.elements for name in names if name == "style" or name.startswith("on")
    ]
    ids = [value for _, name, value in seen.values if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in links if value.startswith("#")} <= set(ids)


def test_its_size_at_150_shards_and_14_days(tmp_path: Path) -> None:
    project = pages.make(tmp_path).project()
    pages.fill(project, pages.outage)
    sessions = read_page(project, NOW).sessions
    assert len(sessions) == 400
    for run_id in {session.run_id for session in sessions.values()}:
        ids = [id_ for id_, session in sessions.items() if session.run_id == run_id]
        pages.write_log(project, run_id, ids, "the server cannot be reached: connection refused; " * 6)
    html = render(read_page(project, NOW)).encode()
    assert html.count(b"connection refused; the server") > 100
    assert len(html) < 400 * 1024
    assert len(gzip.compress(html)) < 60 * 1024
    assert html.count(b"<td class=") >= 150 * 14


def test_many_shards_are_folded_by_server(tmp_path: Path) -> None:
    shards = MOST_ROWS + 10
    project = pages.make(tmp_path, shards=shards, servers=20).project()
    pages.fill(project, pages.server_down, DAYS[-2:])
    page = read_page(project, NOW)
    assert page.grid
    assert page.grid.is_folded
    servers, with_gaps = page.grid.tables
    lines = [*servers.with_gaps, *servers.without_gaps]
    assert [line.server for line in lines] == ["server_0", *(f"server_{number}" for number in range(1, 20))]
    assert sum(line.shards for line in lines) == shards
    # Twelve earlier days were never tried.
    assert len(with_gaps.with_gaps) == 100
    assert with_gaps.left_out == shards - 100
    assert "dwhctl report grid --no-fold" in render(page)


@pytest.mark.long
def test_3_000_shards_are_usable(tmp_path: Path) -> None:
    project = pages.make(tmp_path, shards=3_000, servers=60).project()
    pages.fill(project, pages.server_down)
    begun = datetime.now(UTC)
    html = render(read_page(project, NOW)).encode()
    assert datetime.now(UTC) - begun < timedelta(seconds=20)
    assert len(html) < 400 * 1024


# Its age and its charts


@pytest.mark.parametrize(
    ("schedule", "watch", "stale"),
    [
        ("0 6 * * *", None, timedelta(days=2)),
        ("0 */6 * * *", None, timedelta(hours=12)),
        ("0 6 * * *", "*/10 * * * *", timedelta(minutes=20)),
        (None, None, None),
    ],
)
def test_it_is_too_old_after_twice_the_shortest_schedule(
    tmp_path: Path, schedule: str | None, watch: str | None, stale: timedelta | None
) -> None:
    keys = "start_date = 2020-07-01\n"
    keys += f'schedule = "{schedule}"\n' if schedule else ""
    keys += 'deadline = "07:00"\n' if watch else ""
    sandbox = pages.make(tmp_path, shards=2, reports=False)
    sandbox.load_keys = keys
    sandbox.write()
    if watch:
        toml = tmp_path / "config/dwhctl.toml"
        toml.write_text(toml.read_text().replace("[project]\n", f'[project]\nwatch_schedule = "{watch}"\n'))
    made = datetime(2020, 7, 14, 6, 0, tzinfo=UTC)
    found = stale_at(sandbox.project(), made)
    assert (found - made if found else None) == stale


def test_a_schedule_of_working_hours_is_not_too_old_in_the_morning(tmp_path: Path) -> None:
    sandbox = pages.make(tmp_path, shards=2, reports=False)
    sandbox.load_keys = 'schedule = "0 8-18 * * *"'
    made = datetime(2020, 7, 14, 18, 5, tzinfo=UTC)
    assert stale_at(sandbox.write().project(), made) == datetime(2020, 7, 15, 9, 0, tzinfo=UTC)


def test_a_trend_is_a_line_from_the_oldest_to_the_last() -> None:
    assert trend_points([1.0, 2.0]) == "0,10 100,1"
    assert trend_points([3.0]) == "0,1 100,1"


def test_deadlines_are_the_same_with_slices_that_were_read_before(tmp_path: Path) -> None:
    page = page_of(tmp_path, pages.server_down)
    project = page.project
    with sessions_of(project) as store:
        known = cover(project, store, sliced_tasks(project, (), ()), days_until(TODAY, 15), NOW)
        assert read_slas(project, store, NOW, known) == read_slas(project, store, NOW)


def test_deadlines_of_a_load_that_never_ran_do_not_depend_on_it(tmp_path: Path) -> None:
    sandbox = pages.make(tmp_path, shards=3, reports=False)
    sandbox.load_keys = 'deadline = "07:00"'
    project = sandbox.write().project()
    known = cover(project, None, sliced_tasks(project, (), ()), days_until(TODAY, 15), NOW)
    [with_known], [alone] = read_slas(project, None, NOW, known), read_slas(project, None, NOW)
    assert with_known.missed == alone.missed != []
