"""COPY of the server with Vertica's protocol: what is loaded, what is rejected, what is committed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.vertica_kit import ask, connected, fails, load
from tests.servers.vertica import VerticaServer

#: As the vendor's client writes it in executemany.
VENDOR = "ENCLOSED BY '''' ENFORCELENGTH ABORT ON ERROR NO COMMIT"


@pytest.fixture(scope="module")
def running() -> Iterator[VerticaServer]:
    with VerticaServer() as server:
        yield server


@pytest.fixture
def server(running: VerticaServer) -> Iterator[VerticaServer]:
    running.execute(
        "CREATE TABLE t (id INT, name VARCHAR(10)); CREATE TABLE n (id INT NOT NULL, name VARCHAR(10) NOT NULL)"
    )
    yield running
    running.execute("DROP TABLE t; DROP TABLE n; DROP TABLE IF EXISTS v; DROP TABLE IF EXISTS rejects")


@pytest.fixture
def one(server: VerticaServer) -> Iterator[Any]:
    with connected(server) as connection:
        yield connection


def _rows(connection: Any, table: str = "t") -> list[list[Any]]:
    return ask(connection, f"SELECT * FROM {table} ORDER BY 1")


# --- what a record is

_RECORDS: dict[str, tuple[str, list[list[Any]]]] = {
    "a record and one without its end": ("1|a\n2|b", [[1, "a"], [2, "b"]]),
    "empty is NULL": ("1|\n|b\n", [[1, None], [None, "b"]]),
    "enclosed empty is a string": ("1|''\n", [[1, ""]]),
    "an escaped newline": ("1|a\\\nb\n", [[1, "a\nb"]]),
    "the escaped letter n is n": ("1|a\\nb\\N\n", [[1, "anbN"]]),
    "an escaped delimiter": ("1|a\\|b\n", [[1, "a|b"]]),
    "an enclosed delimiter": ("1|'a|b'\n", [[1, "a|b"]]),
    "an enclosed newline": ("1|'a\nb'\n2|c\n", [[1, "a\nb"], [2, "c"]]),
    "an enclosed escaped quote": ("1|'it\\'s'\n", [[1, "it's"]]),
    "a quote within is a letter": ("1|it's\n2|b\n", [[1, "it's"], [2, "b"]]),
    "a carriage return is a letter": ("1|a\rb\n", [[1, "a\rb"]]),
    "blanks around a number": (" 1 |a\n", [[1, "a"]]),
    "an enclosed number": ("'1'|a\n", [[1, "a"]]),
    "an empty line is neither": ("\n1|a\n\n2|b\n", [[1, "a"], [2, "b"]]),
    "the line that ends the data": ("1|a\n\\.\n2|b\n", [[1, "a"]]),
    "an enclosed end is none": ("1|'\\.'\n2|b\n", [[1, "."], [2, "b"]]),
    "an enclosed NULL is a word": ("1|'NULL'\n2|NULL\n", [[1, "NULL"], [2, "NULL"]]),
    "NUL is a character": ("1|a\0b\n", [[1, "a\0b"]]),
    "blanks are kept": ("1|' a '\n2| b \n", [[1, " a "], [2, " b "]]),
}


@pytest.mark.parametrize("case", _RECORDS)
def test_records(one: Any, case: str) -> None:
    data, expected = _RECORDS[case]
    assert load(one, f"COPY t FROM STDIN {VENDOR}", data) == (len(expected), 0)
    assert _rows(one) == expected


_REJECTED: dict[str, str | bytes] = {
    "too few columns": "1\n",
    "too many columns": "1|a|b\n",
    "doubled quotes": "1|'it''s'\n",
    "no end of an enclosed field": "1|'it\n",
    "enclosed empty number": "''|a\n",
    "a fraction": "1.5|a\n",
    "a word": "one|a\n",
    "the reserved integer": "-9223372036854775808|a\n",
    "a wide integer": "9223372036854775808|a\n",
    "octets, not characters": "1|'Привет'\n",
    "no UTF-8": b"1|\xff\n",
}


@pytest.mark.parametrize("case", _REJECTED)
def test_rejected_records(one: Any, case: str) -> None:
    data = _REJECTED[case]
    raw = data if isinstance(data, bytes) else data.encode()
    with fails("22V04", 2035) as caught:
        load(one, f"COPY t FROM STDIN {VENDOR}", b"7|good\n" + raw)
    assert "record 2 " in caught.value.message
    assert _rows(one) == []
    # The other records are loaded when nothing says ABORT ON ERROR.
    plain = "COPY t FROM STDIN ENCLOSED BY '''' ENFORCELENGTH NO COMMIT"
    assert load(one, plain, b"7|good\n" + raw + b"8|good\n")[1] == 1
    assert _rows(one)[0] == [7, "good"]


def test_not_null(one: Any) -> None:
    assert load(one, "COPY n FROM STDIN NO COMMIT", "1|a\n|b\n2|\n") == (1, 2)


def test_without_enforcelength_strings_are_cut(one: Any) -> None:
    assert load(one, "COPY t FROM STDIN NO COMMIT", "1|0123456789abc\n2|Привет\n") == (2, 0)
    assert _rows(one) == [[1, "0123456789"], [2, "Приве"]]


def test_null_by_a_word(one: Any) -> None:
    assert load(
        one, "COPY t FROM STDIN NULL AS 'null' ENCLOSED BY '\"'", '1|NULL\n2|null\n3|"null"\n4|\n'
    ) == (4, 0)
    assert _rows(one) == [[1, None], [2, None], [3, "null"], [4, ""]]


def test_without_escape(one: Any) -> None:
    assert load(one, "COPY t FROM STDIN NO ESCAPE DELIMITER ','", "1,a\\b\n") == (1, 0)
    assert _rows(one) == [[1, "a\\b"]]


def test_another_terminator(one: Any) -> None:
    assert load(
        one, "COPY t FROM STDIN DELIMITER E'\\001' RECORD TERMINATOR E'\\r\\n'", "1\x01a\nb\r\n2\x01c\r\n"
    ) == (2, 0)
    assert _rows(one) == [[1, "a\nb"], [2, "c"]]


_VALUES: dict[str, list[tuple[str, Any]]] = {
    "NUMERIC(6,2)": [("1234.565", Decimal("1234.57")), ("-1", Decimal("-1.00")), ("12345.6", None), ("x", None)],
    "FLOAT": [("Infinity", float("inf")), ("-1.5e3", -1500.0), ("nan", "nan"), ("1,5", None)],
    "BOOLEAN": [("t", True), ("FALSE", False), ("1", True), ("maybe", None)],
    "DATE": [("2020-07-14", date(2020, 7, 14)), ("0001-01-01", date(1, 1, 1)), ("2020-02-30", None)],
    "TIME": [("23:59:59.999999", time(23, 59, 59, 999999)), ("25:00:00", None)],
    "TIMESTAMP": [
        ("2020-07-14 01:02:03.5", datetime.fromisoformat("2020-07-14 01:02:03.5")),
        ("2020-07-14", datetime.fromisoformat("2020-07-14")),
        ("2020-07-14 25:00:00", None),
    ],
    "TIMESTAMPTZ": [
        ("2020-07-14 03:00:00+03", datetime.fromisoformat("2020-07-14 00:00:00+00:00")),
        ("2020-07-14 03:00:00", datetime.fromisoformat("2020-07-14 03:00:00+00:00")),
    ],
    "UUID": [("123E4567-e89b-12d3-a456-426655440a00", UUID("123e4567-e89b-12d3-a456-426655440a00")), ("1", None)],
    "CHAR(4)": [("'ab  '", "ab  "), ("'abcd  '", "abcd"), ("'abcde'", None)],
    "NUMERIC(60,2)": [("1" * 50 + ".125", Decimal("1" * 50 + ".13"))],
}  # fmt: skip


@pytest.mark.parametrize("kind", _VALUES)
def test_values(server: VerticaServer, one: Any, kind: str) -> None:
    server.execute(f"CREATE TABLE v (id INT, a {kind})")
    data = "".join(f"{index}|{text}\n" for index, (text, _) in enumerate(_VALUES[kind]))
    good = [(index, value) for index, (_, value) in enumerate(_VALUES[kind]) if value is not None]
    sql = "COPY v FROM STDIN ENCLOSED BY '''' ENFORCELENGTH"
    assert load(one, sql, data) == (len(good), len(_VALUES[kind]) - len(good))
    found = [(index, "nan" if value != value else value) for index, value in _rows(one, "v")]
    assert found == good


def test_octets(server: VerticaServer, one: Any) -> None:
    server.execute("CREATE TABLE v (id INT, a VARBINARY(5))")
    assert load(one, "COPY v (id, a FORMAT 'hex') FROM STDIN", "1|0x6162636465\n2|00ff\n3|\n4|0g\n") == (3, 1)
    assert load(one, "COPY v (id, a FORMAT 'octal') FROM STDIN", "5|141142\n") == (1, 0)
    assert load(one, "COPY v (id, a) FROM STDIN", "6|a\\\\377\n") == (1, 0)
    assert [row[1] for row in _rows(one, "v")] == [b"abcde", b"\x00\xff", None, b"ab", b"a\xff"]


def test_expressions_and_fillers(one: Any) -> None:
    sql = "COPY t (id, raw FILLER VARCHAR(20), name AS UPPER(raw) || '!') FROM STDIN NO COMMIT"
    assert load(one, sql, "1|abc\n") == (1, 0)
    assert load(one, "COPY t (id, name AS 17) FROM STDIN NO COMMIT", "2\n") == (1, 0)
    assert _rows(one) == [[1, "ABC!"], [2, "17"]]


# --- what is committed


def test_copy_commits_itself_and_what_was_before(server: VerticaServer, one: Any) -> None:
    ask(one, "INSERT INTO n VALUES (1, 'a')")
    assert load(one, "COPY t FROM STDIN", "1|a\n") == (1, 0)
    one.rollback()
    assert (server.execute("SELECT COUNT(*) FROM n"), server.execute("SELECT COUNT(*) FROM t")) == (
        [(1,)],
        [(1,)],
    )


def test_no_commit(server: VerticaServer, one: Any) -> None:
    ask(one, "INSERT INTO n VALUES (1, 'a')")
    assert load(one, "COPY t FROM STDIN NO COMMIT", "1|a\n") == (1, 0)
    assert server.execute("SELECT COUNT(*) FROM t") == [(0,)]
    with fails("22V04"):
        load(one, "COPY t FROM STDIN ABORT ON ERROR NO COMMIT", "2|a\nx|a\n")
    assert _rows(one) == [[1, "a"]]
    one.commit()
    assert server.execute("SELECT COUNT(*) FROM n") == [(1,)]


def test_reject_max_and_rejected_data(one: Any) -> None:
    with fails("22V04"):
        load(one, "COPY t FROM STDIN REJECTMAX 2 NO COMMIT", "1|a\nx|a\ny|a\n2|b\n")
    assert load(one, "COPY t FROM STDIN REJECTED DATA AS TABLE rejects", "1|a\nx|b\n") == (1, 1)
    assert ask(one, "SELECT row_number, rejected_data, rejected_reason LIKE '%integer%' FROM rejects") == [
        [2, "x|b", True]
    ]


# --- the statement

_GOOD = [
    "COPY public.t(id,name) FROM STDIN DELIMITER AS E'\\001' ENCLOSED '\"' ESCAPE E'\\\\' NULL AS '' DIRECT",
    "COPY t FROM STDIN RECORD TERMINATOR E'\\n' NULL '' STREAM NAME 'a b' AUTO REJECTMAX 3",
    "COPY t FROM STDIN GZIP",
]
_BAD = [
    ("COPY t FROM STDIN WITH CSV", "42601"),
    ("COPY t FROM STDIN DELIMITER '||'", "22023"),
    ("COPY t FROM STDIN DELIMITER '\\'", "22023"),
    ("COPY t (id, nosuch) FROM STDIN", "42703"),
    ("COPY nosuch FROM STDIN", "42V01"),
    ("COPY no.such FROM STDIN", "3F000"),
    ("COPY t FROM STDIN ABORT ON ERRORS", "42601"),
]


@pytest.mark.parametrize("sql", _GOOD)
def test_clauses(one: Any, sql: str) -> None:
    if "GZIP" in sql:
        with fails("0A000"):
            load(one, sql, "")
    else:
        assert load(one, sql, "") == (0, 0)


@pytest.mark.parametrize(("sql", "sqlstate"), _BAD)
def test_clauses_that_are_refused(one: Any, sql: str, sqlstate: str) -> None:
    with fails(sqlstate):
        load(one, sql, "1|a\n")
    assert ask(one, "SELECT 1") == [[1]]


def test_an_exception_in_the_source_loads_nothing(one: Any) -> None:
    class Broken(io.RawIOBase):
        asked = 0

        def read(self, size: int = -1) -> bytes:
            self.asked += 1
            if self.asked > 1:
                raise ValueError("broken")
            return b"1|a\n"

    with pytest.raises(Exception, match="broken"):
        load(one, "COPY t FROM STDIN NO COMMIT", Broken())  # type: ignore[arg-type]
    assert _rows(one) == []


# --- both parsers see the same


def _encoded(value: str | None) -> str:
    if value is None:
        return ""
    for special in "\\|\n'":
        value = value.replace(special, "\\" + special)
    return f"'{value}'"


_TEXTS = (
    st.none()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.text("\\|\n'\r.N\0", max_size=6)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(_TEXTS, _TEXTS), min_size=1, max_size=8))
def test_any_text_as_the_vendor_encodes_it(wide: Any, texts: list[tuple[str | None, str | None]]) -> None:
    data = "\n".join(f"{index}|{_encoded(a)}|{_encoded(b)}" for index, (a, b) in enumerate(texts))
    assert load(wide, f"COPY v FROM STDIN {VENDOR}", data) == (len(texts), 0)
    assert [(a, b) for _, a, b in _rows(wide, "v")] == texts
    wide.rollback()


@pytest.fixture
def wide(server: VerticaServer, one: Any) -> Any:
    server.execute("CREATE TABLE v (id INT, a VARCHAR(100), b VARCHAR(100))")
    return one


_PIECES = st.sampled_from(["1", "x", "|", "|", "\n", "\n", "'", "'", "\\", "\r", "\0", "é", "\\.", ""])


@settings(max_examples=300, deadline=None)
@given(st.lists(_PIECES, max_size=30).map("".join))
def test_the_fast_parser_agrees_with_the_exact_one(data: str) -> None:
    from zoneinfo import ZoneInfo

    from tests.servers.vertica.copy_fast import Cutter, FastReader
    from tests.servers.vertica.copy_grammar import Copy, Format
    from tests.servers.vertica.copy_records import Records, fitted
    from tests.servers.vertica.copy_values import Field, Reject, convert
    from tests.servers.vertica.kinds import Kind

    copy = Copy(("t",), format=Format(enclosed="'"))
    fields = [Field(1, "a", Kind("int")), Field(2, "b", Kind("varchar", 10))]
    raw = data.encode()
    end = Cutter(copy.format).cut(raw)
    table = FastReader(copy, fields, "UTC").read(raw[:end]) if end else None
    if table is None:
        return
    records = Records(copy.format)
    expected = []
    for record in records.take(raw[:end], final=True):
        assert record is not None
        try:
            texts = fitted(record, 2, trailing_nulls=False)
            expected.append([convert(f, t, ZoneInfo("UTC")) for f, t in zip(fields, texts, strict=True)])
        except Reject as reject:
            raise AssertionError(data) from reject
    assert [list(row.values()) for row in table.to_pylist()] == expected


def test_a_server_for_benchmarks_counts_the_rows() -> None:
    with VerticaServer() as server:
        server.counts_rows = True
        server.execute("CREATE TABLE t (id INT NOT NULL, name VARCHAR(10))")
        with connected(server) as connection:
            load(connection, "COPY t FROM STDIN DELIMITER ','", "1,one\n2,two\n3,\n")
            load(connection, "COPY t FROM STDIN DELIMITER ','", "")
            assert ask(connection, "SELECT id, name FROM t") == [[1, "one"]] * 3
