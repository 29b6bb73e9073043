"""Bind parameters and statements are found where they are, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwhctl.core.sql import (
    find_binds,
    first_word,
    replace_binds,
    same_but_comments,
    split_statements,
    unclosed,
)


def names(sql: str) -> list[str]:
    return [bind.name for bind in find_binds(sql)]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("a >= :start AND a < :end", ["start", "end"]),
        ("a>=:start AND(:end)", ["start", "end"]),
        (":start", ["start"]),
        ("a::date, b:: int, :start::date", ["start"]),
        ("'at :start', 'it''s :end' :x", ["x"]),
        ("'12:30:start'", []),
        ('"a :start" "b""c :end" :x', ["x"]),
        ("-- it's :start\n:end", ["end"]),
        ("/* :start /* nested */ :end */ :x", ["x"]),
        ("a - -1 / 2 * :x", ["x"]),
        ("$$ :start $$ :x", ["x"]),
        ("$tag$ :start $$ ' $tag$ :x", ["x"]),
        ("price$ :x $ 3 $1", ["x"]),
        ("N'Москва :start' :x", ["x"]),
        ("E'it\\'s :start' :x", ["x"]),
        ("like'\\' :x", ["x"]),
        ("E'a\\\\' :x", ["x"]),
        ("[weird :start] :x", ["x"]),
        ("[it's] :x", ["x"]),
        ("[dbo].[a]]b :start] :x", ["x"]),
        ("a[:end]", ["end"]),
        ("a[1:n], a[:], a[ :end]", ["end"]),
        ('f(x)[:end], "a"[:end]', ["end", "end"]),
        ("x IN [:start, :end]", ["start", "end"]),
        ("x IN [1, :end]", ["end"]),
        ("['it''s', ':no', :x]", ["x"]),
        ("[[1, 2], [3, 4]] :x", ["x"]),
        ("[[1,2],[3]], b[:x]", ["x"]),
        ("{'a': 1, 'b':c, 'd': :x}", ["x"]),
        ("@v := 3, :x", ["x"]),
        ("a:b, CAST(a AS int):x", []),
        ("'never closed :x", []),
        ("/* never closed :x", []),
        ("[never closed :x", ["x"]),
        (":1 : x", []),
        ("", []),
    ],
)
def test_binds_are_found(sql: str, expected: list[str]) -> None:
    assert names(sql) == expected


def test_a_bind_knows_its_place() -> None:
    sql = "SELECT 1\nWHERE a >= :start"
    (bind,) = find_binds(sql)
    assert sql[bind.start : bind.end] == ":start"
    assert bind.line == 2


def test_binds_are_replaced_in_the_drivers_style() -> None:
    sql = "a >= :start AND b = ':start' AND a < :end -- :end"
    assert (
        replace_binds(sql, lambda name: f"%({name})s")
        == "a >= %(start)s AND b = ':start' AND a < %(end)s -- :end"
    )
    assert replace_binds("SELECT 1", str.upper) == "SELECT 1"


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("a; b", ["a", "b"]),
        ("a;", ["a"]),
        ("a", ["a"]),
        (" ;; \n; a ;", ["a"]),
        ("", []),
        ("-- nothing ; here\n/* ; */", []),
        ("a; -- done\n", ["a"]),
        ("-- first\na;\n-- second\nb", ["-- first\na", "-- second\nb"]),
        ("a ';' b; c", ["a ';' b", "c"]),
        ('a ";" b; c', ['a ";" b', "c"]),
        ("a [;] b; c", ["a [;] b", "c"]),
        ("a -- ;\n b; c", ["a -- ;\n b", "c"]),
        ("a /* ; */ b; c", ["a /* ; */ b", "c"]),
        ("f() AS $$ x; y; $$; c", ["f() AS $$ x; y; $$", "c"]),
        ("[:a, ';', x]; c", ["[:a, ';', x]", "c"]),
    ],
)
def test_statements_are_split(sql: str, expected: list[str]) -> None:
    assert split_statements(sql) == expected


pieces = st.lists(
    st.sampled_from(
        ["'", '"', "[", "]", "--", "\n", "/*", "*/", "$$", "$a$", ":", ":a", ";", "E", "x", " ", "\\", ","]
    )
).map("".join)


@given(pieces | st.text())
def test_no_text_is_lost_or_changed(sql: str) -> None:
    assert replace_binds(sql, lambda name: f":{name}") == sql
    for bind in find_binds(sql):
        assert sql[bind.start : bind.end] == f":{bind.name}"


@given(pieces)
def test_statements_are_the_text_in_order(sql: str) -> None:
    position = 0
    for statement in split_statements(sql):
        assert statement == statement.strip()
        assert statement
        position = sql.index(statement, position) + len(statement)


plain = st.text(alphabet="abc :;-$/*[]'\"\n")


@given(plain)
def test_nothing_within_a_string_is_seen(text: str) -> None:
    quoted = "'" + text.replace("'", "''") + "'"
    assert names(f"SELECT {quoted}, :x") == ["x"]
    assert split_statements(f"SELECT {quoted}; b") == [f"SELECT {quoted}", "b"]


@given(plain)
def test_nothing_within_a_quoted_name_is_seen(text: str) -> None:
    quoted = '"' + text.replace('"', '""') + '"'
    assert names(f"SELECT {quoted}, :x") == ["x"]


@given(st.text(alphabet="abc ;-'\"$"))
def test_nothing_within_a_bracketed_name_is_seen(text: str) -> None:
    sql = f"SELECT [n{text.replace(']', ']]')}], :x"
    assert names(sql) == ["x"]
    assert len(split_statements(sql)) == 1


@given(st.text(alphabet="abc :;-$'\""))
def test_nothing_within_a_comment_is_seen(text: str) -> None:
    assert names(f"SELECT -- {text}\n:x /* {text} */") == ["x"]


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("select 1", "SELECT"),
        ("  (( SELECT 1) )", "SELECT"),
        ("-- SELECT\n/* SELECT */ COPY t TO PROGRAM 'x'", "COPY"),
        ("/* /* */ SELECT */ DELETE FROM t", "DELETE"),
        ("/* */ ( /* */ WITH a AS (SELECT 1) SELECT 1", "WITH"),
        ("/* SELECT", ""),
        ("'SELECT' COPY", ""),
        ('"SELECT" COPY', ""),
        ("$$SELECT$$ COPY", ""),
        ("1 SELECT", ""),
        ("", ""),
    ],
)
def test_the_first_word(sql: str, word: str) -> None:
    assert first_word(sql) == word


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("SELECT 'a", "line 1: a text is not closed; a ' is missing"),
        ("SELECT 'it''s'' FROM x", "line 1: a text is not closed; a ' is missing"),
        ('SELECT 1,\n"a', 'line 2: a quoted name is not closed; a " is missing'),
        ("SELECT /* a /* b */ 1", "line 1: a comment is not closed; a */ is missing"),
        ("SELECT $x$ a $$", "line 1: a text is not closed; a $x$ is missing"),
        ("SELECT (1,\n(2)", "line 1: a ( is not closed"),
        ("SELECT 1)\n", "line 1: a ) closes no bracket"),
        ("SELECT E'it\\'s', 'it''s', '(' AS \"(\", [(], $$'($$ -- '(", None),
        ("SELECT a[1:2], ['x', ')'] /* ( /* ' */ */", None),
        ("", None),
    ],
)
def test_what_is_not_closed(statement: str, problem: str | None) -> None:
    assert unclosed(statement) == problem


def test_every_sql_file_of_the_package_is_closed() -> None:
    root = Path(__file__).parents[3]
    files = [path for folder in ("dwhctl", "sql") for path in (root / folder).rglob("*.sql")]
    assert len(files) > 20
    assert [path for path in files if "{" not in path.read_text() and unclosed(path.read_text())] == []


def test_statements_that_differ_in_comments_only() -> None:
    assert same_but_comments("SELECT 1 -- a", "SELECT 1 -- b")
    assert same_but_comments("SELECT /* 1 */ 2", "SELECT /* 2 */ 2")
    assert not same_but_comments("SELECT '-- a'", "SELECT '-- b'")
