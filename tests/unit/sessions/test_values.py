"""States, completeness, and the texts and statements of the sessions room."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwhctl.core.sql import named_blocks
from dwhctl.sessions import Closing, LastSession, NewSession, Session, State, is_complete, successful
from dwhctl.sessions.postgres_store import lock_key
from dwhctl.sessions.schema import (
    ADDED,
    COLUMNS,
    SEVEN,
    ExistingColumn,
    indexes,
    misfits,
    missing,
    percent_style,
    read_statements,
)
from dwhctl.sessions.sqlite_store import encode
from dwhctl.sessions.values import cut_comment

NOON = datetime(2020, 7, 13, 12, tzinfo=UTC)
END = datetime(2020, 7, 14, tzinfo=UTC)


def last(state: State, started: datetime = NOON, last_success: datetime | None = None) -> LastSession:
    succeeded = started if state in (State.LOADED, State.SKIPPED) else last_success
    return LastSession("orders", "abakan", date(2020, 7, 13), state, started, None, succeeded)


@pytest.mark.parametrize(
    ("state", "good"),
    [
        (State.RUNNING, None),
        (State.LOADED, True),
        (State.SKIPPED, True),
        (State.UP_FOR_RETRY, False),
        (State.FAILED, False),
        (State.ABANDONED, False),
    ],
)
def test_successful_follows_the_state(state: State, good: bool | None) -> None:
    assert successful(state) is good


def test_a_day_loaded_at_noon_is_not_complete() -> None:
    assert not is_complete(last(State.LOADED), END)
    assert is_complete(last(State.LOADED, END), END)
    assert is_complete(last(State.SKIPPED, END + timedelta(hours=1)), END)


@pytest.mark.parametrize("state", [State.RUNNING, State.UP_FOR_RETRY, State.FAILED, State.ABANDONED])
def test_only_loaded_and_skipped_are_complete(state: State) -> None:
    assert not is_complete(last(state, END), END)
    assert not is_complete(last(state, END), None)


@pytest.mark.parametrize("state", [State.RUNNING, State.UP_FOR_RETRY, State.FAILED, State.ABANDONED])
def test_a_reload_that_fails_or_runs_leaves_a_slice_complete(state: State) -> None:
    assert is_complete(last(state, END + timedelta(hours=9), last_success=END), END)
    assert is_complete(last(state, END, last_success=NOON), None)
    assert not is_complete(last(state, END, last_success=NOON), END)


def test_without_a_session_nothing_is_complete_and_without_an_end_any_time_will_do() -> None:
    assert not is_complete(None, None)
    assert is_complete(last(State.LOADED), None)


def test_times_without_zone_are_refused() -> None:
    naive = NOON.replace(tzinfo=None)
    with pytest.raises(ValueError, match="no time zone"):
        NewSession("r", "orders", "abakan", END.date(), 1, "t", naive)
    with pytest.raises(ValueError, match="no time zone"):
        Closing(1, State.LOADED, naive)
    with pytest.raises(ValueError, match="that is running has no end"):
        Closing(1, State.RUNNING, NOON)
    with pytest.raises(ValueError, match="every other one has"):
        Closing(1, State.FAILED, None)


def test_a_short_comment_stays_and_a_long_one_ends_with_an_ellipsis() -> None:
    assert cut_comment(None) is None
    assert cut_comment("ж" * 500) == "ж" * 500
    assert cut_comment("ж" * 501) == "ж" * 499 + "…"
    assert cut_comment("a\0b\udcff") == "a\ufffdb?"


@pytest.mark.parametrize("sign", ["e\u0301", "👩\u200d👩\u200d👧", "👍🏽", "☀\ufe0f"])
def test_a_comment_is_not_cut_within_a_character(sign: str) -> None:
    for before in range(480, 500):
        cut = cut_comment("x" * before + sign + "y" * 40) or ""
        assert len(cut) <= 500
        assert cut.rstrip("…").strip("xy") in {"", sign}


@given(st.text(max_size=700))
def test_any_comment_fits(text: str) -> None:
    cut = cut_comment(text) or ""
    assert len(cut) <= 500
    assert "\0" not in cut
    assert cut.encode().decode() == cut
    assert len(text) > 500 or cut == text.replace("\0", "\ufffd")


@given(st.datetimes(), st.datetimes(), st.integers(-720, 720))
def test_times_sort_as_their_texts_in_sqlite(one: datetime, two: datetime, minutes: int) -> None:
    first = min(max(one, datetime(2, 1, 1)), datetime(9998, 1, 1)).replace(tzinfo=UTC)  # noqa: DTZ001
    second = min(max(two, datetime(2, 1, 1)), datetime(9998, 1, 1)).replace(tzinfo=UTC)  # noqa: DTZ001
    shift = timedelta(minutes=minutes)
    assert (str(encode(first)) < str(encode(second))) == (first < second)
    assert datetime.fromisoformat(str(encode(first + shift))) == first + shift


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_every_statement_is_there(dialect: str) -> None:
    statements = read_statements(dialect)
    assert {"open", "close", "fail_waiting", "last_sessions", "create_table", "add_columns"} <= set(
        statements
    )
    assert set(indexes(statements)) == {
        "sessions_of_slice", "sessions_by_run", "sessions_closed", "sessions_by_start",
        "sessions_running", "sessions_unsuccessful",
    }  # fmt: skip
    assert all(sql and "$columns" not in sql and "--" not in sql for sql in statements.values())


def test_the_columns_are_those_of_the_table_and_of_session() -> None:
    columns = [name.strip() for name in COLUMNS.split(",")]
    assert columns == [*SEVEN, *ADDED]
    assert [name.replace("slice_date", "day") for name in columns] == list(Session.__struct_fields__)
    for dialect in ("sqlite", "postgres"):
        statements = read_statements(dialect)
        added = re.findall(r"COLUMN (?:IF NOT EXISTS )?(\w+)", statements["add_columns"])
        assert added == list(ADDED)


def test_blocks_lose_their_comments_and_binds_change_their_style() -> None:
    text = "-- a file\n-- name: one\n-- why\nSELECT :a::text, ':', 5 % 2\n-- name: two\nSELECT $columns\n"
    blocks = named_blocks(text)
    assert blocks["two"] == "SELECT $columns"
    assert percent_style(blocks["one"]) == "SELECT %(a)s::text, ':', 5 %% 2"


def test_the_key_of_a_run_never_changes() -> None:
    assert lock_key("run 1") == lock_key("run 1") != lock_key("run 2")
    assert lock_key("20200713T060000-a1b2") == -7964314123877277149
    assert -(2**63) <= lock_key("x") < 2**63


def columns_of(types: dict[str, str]) -> list[ExistingColumn]:
    required = {"id", "task_name", "started"}
    return [
        ExistingColumn(name, kind, name in required, name == "id", name == "id")
        for name, kind in types.items()
    ]


GOOD = {
    "id": "integer",
    "task_name": "character varying(200)",
    "started": "timestamp with time zone",
    "finished": "timestamp with time zone",
    "successful": "boolean",
    "loaded_rows": "bigint",
    "comment": "character varying(500)",
}


def test_the_seven_columns_fit_and_lack_ours() -> None:
    assert misfits(columns_of(GOOD), typed=True) == []
    assert missing(columns_of(GOOD)) == list(ADDED)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"started": "timestamp without time zone"}, "started is timestamp without time zone"),
        ({"comment": "character varying(200)"}, "comment is character varying(200)"),
        ({"task_name": "character varying(64)"}, "task_name is character varying(64)"),
        ({"run_id": "text"}, "run_id is not dwhctl's"),
    ],
)
def test_another_shape_is_told(change: dict[str, str], says: str) -> None:
    [problem] = misfits(columns_of(GOOD | change), typed=True)
    assert says in problem


def test_what_is_not_there_or_must_be_filled_is_told() -> None:
    without = {name: kind for name, kind in GOOD.items() if name != "finished"}
    assert misfits(columns_of(without), typed=True) == ["it has no column finished"]
    more = [*columns_of(GOOD), ExistingColumn("dag", "text", True, False, False)]
    assert misfits(more, typed=False) == ["its column dag may not be empty"]
    bare = [ExistingColumn("id", "integer", True, False, False), *columns_of(GOOD)[1:]]
    assert misfits(bare, typed=True) == [
        "id is not its primary key",
        "its column id has no default that numbers new rows",
    ]
