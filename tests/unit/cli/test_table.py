"""Listings on terminals of every width: no value is broken over two lines, no line is wider than the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from rich.cells import cell_len

from dwhctl.cli.common.ending import run
from dwhctl.cli.common.listing import Listing
from dwhctl.cli.common.table import draw
from dwhctl.cli.main import dwhctl
from dwhctl.core.words import shown_time, use_zone
from dwhctl.sessions import open_store
from dwhctl.sessions.values import Closing, NewSession, State
from tests.support.projects import DAY, Sandbox

WIDTHS = (60, 80, 200)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
#: What is never to be broken, and may be longer than the terminal is wide.
RUN_ID = "20200714T060000-0a1b2c3d"
ROWS = 123_456_789_012
SHARDS = [f"shard_of_a_city_with_a_long_name_{number:03}" for number in range(150)]


@pytest.fixture(autouse=True)
def utc() -> None:
    use_zone(UTC)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Draw on a terminal of a given width and give the lines."""
    import sys

    def draw_at(width: int, work: Callable[[], object]) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("LINES", "50")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        capsys.readouterr()
        work()
        return _ESCAPES.sub("", capsys.readouterr().out).splitlines()

    return draw_at


def broken(lines: list[str], values: list[str]) -> list[str]:
    """Give the values of which only a part stands in some line: their first half ends it."""
    return [
        value
        for value in values
        if not any(value in line for line in lines)
        and any(line.rstrip().endswith(value[: len(value) // 2]) for line in lines)
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_columns_of_a_nasty_listing(screen: Callable[..., list[str]], width: int) -> None:
    at = datetime(2026, 11, 30, 7, 0, 5, tzinfo=UTC)
    row = (
        RUN_ID,
        at,
        SHARDS[0],
        ROWS,
        0.1234,
        date(2026, 11, 30),
        f"on {DAY} {ROWS:,} rows of {RUN_ID} were " + "lost " * 30,
    )
    columns = ("run_id", "started", "shard", "rows", "seconds", "day", "error")
    lines = screen(width, lambda: Listing[object](*columns).show([row] * 3))
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    for value in (RUN_ID, "2026-11-30 07:00:05 +00:00", SHARDS[0], f"{ROWS:,}", "2026-11-30", str(DAY)):
        assert text.count(value) >= 3, value


@pytest.mark.parametrize("width", WIDTHS)
def test_a_query_with_many_columns(screen: Callable[..., list[str]], width: int) -> None:
    names = [f"column_{number}" for number in range(30)]
    cells = [[f"{ROWS + number}" for number in range(30)] for _ in range(2)]
    lines = screen(width, lambda: print(draw(names, cells, [True] * 30)))
    assert max(map(cell_len, lines)) <= width
    assert all(any(value in line for line in lines) for value in cells[0])


@pytest.mark.parametrize("width", WIDTHS)
def test_a_moment_of_a_query_stays_on_one_line(screen: Callable[..., list[str]], width: int) -> None:
    moment = "2026-11-29 00:00:58.123456 +03:00"
    cells = [[moment, "a text of words " * 10, moment]]
    lines = screen(width, lambda: print(draw(["started", "comment", "finished"], cells, [False] * 3)))
    assert "\n".join(lines).count(moment) == 2
    assert max(map(cell_len, lines)) <= width


def test_what_does_not_fit_is_shown_below_each_other(screen: Callable[..., list[str]]) -> None:
    lines = screen(
        60, lambda: Listing[object]("load", "command").show([("orders", "dwhctl load " + "x" * 80)] * 2)
    )
    assert lines == ["load     orders", "command  dwhctl load " + "x" * 80, "", *lines[:2]]


def test_a_listing_without_rows_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    Listing[object]("a", "b").show([], "table", "no run yet")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "no run yet\n")
    Listing[object]("a", "b").show([], "json", "no run yet")
    assert capsys.readouterr().out == "[]\n"


def test_times_have_the_zone_of_the_project_and_its_offset(capsys: pytest.CaptureFixture[str]) -> None:
    from zoneinfo import ZoneInfo

    at = datetime(2026, 11, 30, 4, 0, 5, 999, tzinfo=UTC)
    use_zone(ZoneInfo("Europe/Moscow"))
    assert shown_time(at) == "2026-11-30 07:00:05 +03:00"
    Listing[object]("at").show([(at,)])
    assert "2026-11-30 07:00:05 +03:00" in capsys.readouterr().out
    Listing[object]("at").show([(at.astimezone(ZoneInfo("Asia/Tokyo")),)], "csv")
    assert capsys.readouterr().out == "at\n2026-11-30T04:00:05.000999+00:00\n", "data stays in UTC"


# All listings


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a project of 150 shards with sessions of every state, without any server."""
    root = tmp_path_factory.mktemp("listings")
    sandbox = Sandbox(
        root,
        servers={f"a_server_with_a_long_name_{one}": SHARDS[one * 50 : one * 50 + 50] for one in range(3)},
        load_keys='retries = 1\nschedule = "0 6 * * *"\ndeadline = "07:00"\nmax_age = "1d"\nstart_date = 2020-01-01',
    ).write()
    (root / "state").mkdir(exist_ok=True)
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    now = datetime.now(UTC)
    states = (State.LOADED, State.FAILED, State.SKIPPED, State.UP_FOR_RETRY, State.ABANDONED)
    with (
        closing(open_store(sandbox.project().sessions))
        if False
        else open_store(sandbox.project().sessions) as store
    ):
        store.prepare()
        ids = store.open(
            [
                NewSession(
                    RUN_ID,
                    "orders",
                    shard,
                    yesterday,
                    1,
                    f"{number}",
                    now - timedelta(hours=1),
                    number % 8 + 1,
                )
                for number, shard in enumerate(SHARDS)
            ]
        )
        comment = (
            f"the source has {ROWS:,} rows of {yesterday}; etl_id {ROWS} in /a/long/path/" + "of_folders/" * 9
        )
        store.close(
            [
                Closing(
                    one,
                    states[number % len(states)],
                    now - timedelta(minutes=30),
                    loaded_rows=ROWS if states[number % len(states)] is State.LOADED else None,
                    extracted_rows=ROWS,
                    error_class="SchemaDriftError" if number % len(states) == 1 else None,
                    comment=comment if number % len(states) == 1 else None,
                )
                for number, one in enumerate(ids)
            ]
        )
    return root


LISTINGS = (
    "report runs",
    "report sessions",
    "report sessions --state failed -v",
    "report failures",
    "report grid --days 3",
    "report gaps --days 3",
    "report sla",
    "report durations",
    "report timeline last",
    "report alerts",
    "connections list",
    "crontab next",
    "load --dry-run --date yesterday",
    "load --dry-run --date yesterday -v",
    "backfill orders -s 2020-07-01 -e 2020-07-20 --dry-run",
    "sessions prune --keep 400d --dry-run",
)


@pytest.mark.parametrize("listing", LISTINGS)
def test_no_listing_breaks_a_value(
    screen: Callable[..., list[str]], project: Path, listing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    yesterday = str(datetime.now(UTC).date() - timedelta(days=1))
    whole = [f"{ROWS:,}", str(ROWS), RUN_ID, yesterday, *SHARDS[:5]]
    try:
        for width in WIDTHS:
            lines = screen(width, lambda: run(dwhctl, [*listing.split(), "--project", str(project)]))
            too_wide = [line for line in lines if cell_len(line) > width and "dwhctl " not in line]
            assert too_wide == [], f"at {width} columns"
            assert broken(lines, whole) == [], f"at {width} columns"
            times = [line for line in lines if re.search(r"\d\d:\d\d:\d\d$", line) and "load" not in line]
            assert times == [], f"a time without its offset at {width} columns"
    finally:
        use_zone(UTC)
