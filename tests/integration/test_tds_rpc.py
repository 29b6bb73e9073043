"""The TDS server of the tests: remote procedure calls with parameters, and what it refuses of them."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.contract.kits_mssql import skip_without_driver
from tests.servers.tds import TdsServer
from tests.servers.tds.errors import TdsError
from tests.servers.tds.rpc import BrokenStream, read_requests
from tests.servers.tds.session import Session
from tests.servers.tds.sink import Returned, Sink
from tests.support.mssql_reader import PROVIDER

LATIN = bytes.fromhex("0904d00034")
NULL_INT = b"\x26\x04\x00"


class Kept(Sink):
    """What a call answers: rows, numbers of errors, status, output parameters."""

    def __init__(self) -> None:
        self.answer: list[tuple[object, ...]] = []
        self.names: list[str | None] = []
        self.errors: list[int] = []
        self.returned: dict[str, object] = {}
        self.returns: int | None = None

    def columns(self, columns: Any) -> None:
        self.names = [each.name for each in columns]

    def rows(self, batch: pa.RecordBatch, columns: Any) -> bool:
        self.answer.extend(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        return True

    def done(self, count: int | None = None, *, command: int = 0) -> None:
        pass

    def message(self, message: TdsError) -> None:
        self.errors.append(message.number)

    def status(self, value: int, returned: Any = ()) -> None:
        self.returns = value
        each: Returned
        for each in returned:
            name, typed, session = each
            self.returned[name] = session.ask(f"SELECT {typed.sql}")[0][0]


@pytest.fixture(scope="module")
def server() -> Iterator[TdsServer]:
    with TdsServer(databases=("abakan",)) as running:
        running.execute(
            "abakan", "CREATE TABLE t (id int NOT NULL, v nvarchar(10), at datetime2(3), raw varbinary(8))"
        )
        running.execute(
            "abakan", "INSERT INTO t VALUES (1, N'one', '2024-01-02', 0x01), (2, NULL, NULL, NULL)"
        )
        yield running


@pytest.fixture
def session(server: TdsServer) -> Iterator[Session]:
    with closing(Session(server, 77, "sa", server.database("abakan"))) as made:
        yield made


def text(value: str | None, size: int = 8000) -> bytes:
    if size == 0xFFFF:
        data = (value or "").encode("utf-16-le")
        whole = (
            struct.pack("<Q", len(data))
            + (struct.pack("<I", len(data)) + data if data else b"")
            + b"\0\0\0\0"
        )
        return b"\xe7\xff\xff" + LATIN + (whole if value is not None else b"\xff" * 8)
    head = b"\xe7" + struct.pack("<H", size) + LATIN
    if value is None:
        return head + b"\xff\xff"
    data = value.encode("utf-16-le")
    return head + struct.pack("<H", len(data)) + data


def number(value: int) -> bytes:
    return b"\x26\x04\x04" + struct.pack("<i", value)


def parameter(typed: bytes, name: str = "", *, output: bool = False) -> bytes:
    return bytes([len(name)]) + name.encode("utf-16-le") + bytes([int(output)]) + typed


def request(procedure: str | int, *parameters: bytes) -> bytes:
    if isinstance(procedure, int):
        head = struct.pack("<HH", 0xFFFF, procedure)
    else:
        head = struct.pack("<H", len(procedure)) + procedure.encode("utf-16-le")
    return head + b"\0\0" + b"".join(parameters)


def call(session: Session, procedure: str | int, *parameters: bytes) -> Kept:
    kept = Kept()
    for each in read_requests(request(procedure, *parameters)):
        session.call(each, kept)
    return kept


SQL, EXECUTE, PREPARE, PREPEXEC, UNPREPARE = 10, 12, 11, 13, 15


def prepexec(session: Session, declared: str, sql: str, *values: bytes, handle: bytes = NULL_INT) -> Kept:
    first = (parameter(handle, output=True), parameter(text(declared)), parameter(text(sql)))
    return call(session, PREPEXEC, *first, *map(parameter, values))


def run(session: Session, declared: str, sql: str, *values: bytes) -> Kept:
    first = (parameter(text(sql)), parameter(text(declared, 0xFFFF)))
    return call(session, SQL, *first, *map(parameter, values))


def test_a_prepared_statement_lives_until_it_is_unprepared(session: Session) -> None:
    first = prepexec(session, "@P1 int", "SELECT v FROM t WHERE id = @P1", number(1))
    assert (first.answer, first.returns) == ([("one",)], 0)
    handle = first.returned["@handle"]
    assert isinstance(handle, int)
    again = call(session, EXECUTE, parameter(number(handle)), parameter(number(2)))
    assert again.answer == [(None,)]
    assert call(session, UNPREPARE, parameter(number(handle))).errors == []
    assert call(session, EXECUTE, parameter(number(handle)), parameter(number(2))).errors == [8179]
    assert call(session, UNPREPARE, parameter(number(handle))).errors == [8179]


def test_preparing_anew_ends_the_old_handle(session: Session) -> None:
    old = prepexec(session, "@P1 int", "SELECT @P1", number(1)).returned["@handle"]
    new = prepexec(session, "@P1 int", "SELECT @P1 + 1", number(1), handle=number(int(str(old))))
    assert new.answer == [(2,)]
    assert new.returned["@handle"] != old
    assert call(session, EXECUTE, parameter(number(int(str(old)))), parameter(number(1))).errors == [8179]


def test_another_session_does_not_know_the_handle(server: TdsServer, session: Session) -> None:
    handle = prepexec(session, "@P1 int", "SELECT @P1", number(1)).returned["@handle"]
    with closing(Session(server, 78, "sa", server.database("abakan"))) as other:
        assert call(other, EXECUTE, parameter(number(int(str(handle)))), parameter(number(1))).errors == [
            8179
        ]


@pytest.mark.parametrize(
    ("sql", "errors"),
    [
        ("SELECT * FROM nowhere WHERE a = @P1", [208, 8180]),
        ("SELECT nothing FROM t WHERE id = @P1", [207, 8180]),
        ("SELECT id FROM t WHERE id = @P2", [137, 8180]),
        ("INSERT INTO t (id) VALUES (@P1, 2)", [110, 8180]),
        ("SELECT id FROM t WHERE FROM", [156, 8180]),
        # What happens while it runs is no error of preparing.
        ("SELECT 1 / (@P1 - @P1)", [8134]),
        ("INSERT INTO t (id) VALUES (NULL)", [515]),
        ("SELECT @P1; SELECT * FROM nowhere", [208]),
    ],
)
def test_what_cannot_be_prepared_is_said_twice(session: Session, sql: str, errors: list[int]) -> None:
    assert prepexec(session, "@P1 int", sql, number(1)).errors == errors
    # sp_executesql has nothing to prepare.
    assert run(session, "@P1 int", sql, number(1)).errors == [each for each in errors if each != 8180]


def test_sp_prepare_describes_and_does_not_run(session: Session, server: TdsServer) -> None:
    def prepare(sql: str) -> Kept:
        first = (parameter(NULL_INT, output=True), parameter(text("@P1 int")), parameter(text(sql)))
        return call(session, PREPARE, *first, parameter(number(1)))

    made = prepare("SELECT v AS w FROM t WHERE id = @P1")
    assert (made.names, made.answer) == (["w"], [])
    handle = made.returned["@handle"]
    assert call(session, EXECUTE, parameter(number(int(str(handle)))), parameter(number(1))).answer == [
        ("one",)
    ]
    assert prepare("SELECT * FROM nowhere").errors == [208, 8180]
    prepare("DELETE FROM t WHERE id = @P1")
    assert server.execute("abakan", "SELECT count(*) FROM t") == [(2,)]


@pytest.mark.parametrize(
    ("declared", "values", "error"),
    [
        ("@P1 int", [], 8178),
        ("@P1 int, @P2 int", [number(1)], 8178),
        ("@P1 int", [number(1), number(2)], 8144),
        ("@P1 nosuch", [number(1)], 2715),
        ("P1 int", [number(1)], 102),
        ("@P1 int, @P1 int", [number(1), number(1)], 134),
        ("@P1 int", [text("abc")], 8114),
        ("@P1 tinyint", [number(300)], 8114),
        ("@P1 datetime2(3)", [text("2024-13-01")], 8114),
        ("@P1 datetimeoffset(3)", [text("2023-01-05 21:01:00 +99:99")], 8114),
        ("@P1 uniqueidentifier", [text("abc")], 8114),
        ("@P1 varbinary(8)", [text("abc")], 257),
        ("@P1 date", [number(1)], 206),
    ],
)
def test_parameters_that_do_not_fit_are_refused(
    session: Session, declared: str, values: list[bytes], error: int
) -> None:
    assert run(session, declared, "SELECT 1", *values).errors == [error]


def test_parameters_by_name(session: Session) -> None:
    first = (parameter(text("SELECT @a - @b AS d")), parameter(text("@a int, @b int")))

    def named(*pairs: tuple[str, int]) -> Kept:
        return call(session, SQL, *first, *(parameter(number(value), name) for name, value in pairs))

    assert named(("@b", 1), ("@A", 5)).answer == [(4,)]
    assert named(("@b", 1), ("@c", 5)).errors == [8145]
    assert named(("@b", 1), ("@b", 5)).errors == [8143]


def test_an_output_parameter_comes_back(session: Session) -> None:
    first = (parameter(text("SET @n = @n + 1")), parameter(text("@n int OUTPUT")))
    assert call(session, SQL, *first, parameter(number(4), "@n", output=True)).returned == {"@n": 5}
    assert call(session, SQL, *first, parameter(number(4), "@n")).returned == {}
    plain = (parameter(text("SET @n = @n + 1")), parameter(text("@n int")))
    assert call(session, SQL, *plain, parameter(number(4), "@n", output=True)).errors == [8162]


def test_the_statement_must_be_a_wide_text(session: Session) -> None:
    narrow = b"\xa7" + struct.pack("<H", 100) + LATIN + struct.pack("<H", 8) + b"SELECT 1"
    assert call(session, SQL, parameter(narrow)).errors == [214]
    assert call(session, SQL, parameter(text(None))).errors == [214]
    assert call(session, SQL, parameter(text("SELECT 1"))).answer == [(1,)]
    kept = Kept()
    session.run("EXEC sp_executesql 'SELECT 1'", kept)
    session.run("EXEC('SELECT 2')", kept)
    assert (kept.errors, kept.answer) == ([214], [(2,)])


@pytest.mark.parametrize(
    ("typed", "error"),
    [
        (b"\x26\x03\x03\x01\x00\x00", 8016),
        (b"\x26\x04\x03\x01\x00\x00", 8016),
        (b"\x24\x08\x08" + bytes(8), 8016),
        (b"\x6a\x11\x27\x02\x05\x01\x01\x00\x00\x00", 8016),
        (b"\x6a\x11\x05\x06\x05\x01\x01\x00\x00\x00", 8016),
        (b"\x6a\x05\x02\x00\x05\x01\x64\x00\x00\x00", 8023),
        (b"\x2a\x08\x00", 8016),
        (b"\xe7\x03\x00" + LATIN + b"\x02\x00a\x00", 8016),
        (b"\xe7\x04\x00" + LATIN + b"\x06\x00a\x00b\x00c\x00", 8016),
        (b"\xe7\x41\x1f" + LATIN + b"\x02\x00a\x00", 8016),
        (b"\x6d\x08\x08" + struct.pack("<d", float("nan")), 8023),
        (b"\x6d\x08\x08" + struct.pack("<d", float("inf")), 8023),
        (b"\x28\x03\xdb\xb9\x37", 8023),
        (b"\x29\x00\x03\x80\x51\x01", 8023),
        (b"\x6f\x08\x08" + struct.pack("<iI", -53_691, 0), 8023),
        (b"\x6f\x08\x08" + struct.pack("<iI", 0, 25_920_000), 8023),
        (b"\x2b\x00\x08" + bytes(6) + struct.pack("<h", 841), 8023),
    ],
)
def test_a_value_that_its_type_cannot_have_is_refused(session: Session, typed: bytes, error: int) -> None:
    assert run(session, "@P1 sql_variant", "SELECT 1", typed).errors == [error]
    # What follows the parameter in the message was read all the same.
    assert run(session, "@P1 int, @P2 int", "SELECT 1", typed, number(1)).errors == [error]


@pytest.mark.parametrize("cut", [1, 3, 5, 8, 20, 60])
def test_a_message_that_ends_too_early_ends_the_connection(cut: int) -> None:
    whole = request(SQL, parameter(text("SELECT 1")), parameter(text("@P1 int")), parameter(number(1)))
    with pytest.raises(BrokenStream):
        read_requests(whole[:-cut])


def test_unknown_types_and_procedures_and_too_many_parameters(session: Session) -> None:
    with pytest.raises(TdsError) as caught:
        read_requests(request(SQL, parameter(b"\x99\x01\x01")))
    assert caught.value.number == 8009
    assert call(session, "sp_nothing").errors == [2812]
    assert call(session, 5).errors == [2812]
    declared = ", ".join(f"@P{at} int" for at in range(2099))
    assert run(session, declared, "SELECT 1", *[number(1)] * 2098).errors == [8178]
    assert run(session, declared, "SELECT 1", *[number(1)] * 2099).errors == [8003]


def test_long_values_in_parts(session: Session) -> None:
    long = "я" * 100_000
    assert run(session, "@P1 nvarchar(max)", "SELECT len(@P1), @P1", text(long, 0xFFFF)).answer == [
        (100_000, long)
    ]
    assert run(session, "@P1 nvarchar(max)", "SELECT @P1", text(None, 0xFFFF)).answer == [(None,)]
    assert run(session, "@P1 nvarchar(max)", "SELECT @P1", text("", 0xFFFF)).answer == [("",)]
    # The length may be unknown, and the parts of any size.
    parts = b"\xa5\xff\xff" + struct.pack("<Q", 0xFFFF_FFFF_FFFF_FFFE) + b"\1\0\0\0a\2\0\0\0bc\0\0\0\0"
    assert run(session, "@P1 varbinary(max)", "SELECT @P1", parts).answer == [(b"abc",)]
    # A parameter is cut to its declaration, in silence.
    assert run(session, "@P1 nvarchar(3)", "SELECT @P1", text(long, 0xFFFF)).answer == [("яяя",)]


def test_several_calls_of_a_message_are_all_answered(session: Session) -> None:
    insert = request(SQL, parameter(text("SELECT 1 / @P1")), parameter(text("@P1 int")), parameter(number(0)))
    other = request(SQL, parameter(text("SELECT 7")))
    kept = Kept()
    for each in read_requests(insert + b"\xff" + other):
        session.call(each, kept)
    assert (kept.errors, kept.answer) == ([8134], [(7,)])


def test_application_locks_by_call(session: Session, server: TdsServer) -> None:
    def lock(owner: Session) -> Kept:
        pairs = (
            ("@Resource", "a"),
            ("@LockMode", "Exclusive"),
            ("@LockOwner", "Session"),
            ("@LockTimeout", "0"),
        )
        return call(owner, "sp_getapplock", *(parameter(text(value), name) for name, value in pairs))

    assert lock(session).returns == 0
    with closing(Session(server, 79, "sa", server.database("abakan"))) as other:
        assert lock(other).returns == -1
    wrong = call(session, "sp_releaseapplock", parameter(text("a"), "@nothing"))
    assert wrong.errors == [8145]


def undeclared(session: Session, sql: str, declared: str | None = None) -> Kept:
    more = [parameter(text(declared))] if declared else []
    return call(session, "sp_describe_undeclared_parameters", parameter(text(sql)), *more)


def test_undeclared_parameters_have_the_types_of_their_columns(session: Session) -> None:
    def types(kept: Kept) -> list[tuple[object, ...]]:
        return [(row[1], row[3]) for row in kept.answer]

    wanted = [("@P1", "int"), ("@P2", "nvarchar(10)"), ("@P3", "datetime2(3)"), ("@P4", "varbinary(8)")]
    assert types(undeclared(session, "INSERT INTO t VALUES (@P1, @P2, @P3, @P4)")) == wanted
    assert types(undeclared(session, "SELECT * FROM t WHERE raw = @P1 AND @P2 < at")) == [
        ("@P1", "varbinary(8)"), ("@P2", "datetime2(3)"),
    ]  # fmt: skip
    assert types(undeclared(session, "UPDATE t SET v = @P1 WHERE id = @P2")) == [
        ("@P1", "nvarchar(10)"), ("@P2", "int"),
    ]  # fmt: skip
    assert types(undeclared(session, "DELETE FROM t WHERE id = @P1 AND v = @P2", "@P2 nchar(1)")) == [
        ("@P1", "int")
    ]
    assert undeclared(session, "SELECT @P1").errors == [11501]
    assert undeclared(session, "INSERT INTO nowhere VALUES (@P1)").errors == [208]


def test_a_statement_over_a_temporary_table_is_not_described(session: Session) -> None:
    kept = Kept()
    session.run("CREATE TABLE #w (a varbinary(8))", kept)
    session.run("EXEC sp_describe_first_result_set N'SELECT a FROM t JOIN #w ON a = raw'", kept)
    session.run("EXEC sp_describe_first_result_set N'SELECT id FROM t'", kept)
    assert kept.errors == [11526]
    # Preparing is not describing.
    first = (
        parameter(NULL_INT, output=True),
        parameter(text("@P1 int")),
        parameter(text("SELECT a FROM #w")),
    )
    assert call(session, PREPARE, *first, parameter(number(1))).errors == []
    assert undeclared(session, "INSERT INTO #w VALUES (@P1)").errors == [11526]
    assert undeclared(session, "SELECT * FROM #w WHERE a = @P1").errors == [11526]
    session.run("DROP TABLE #w", kept)


def test_a_reset_session_is_as_after_the_login(session: Session, server: TdsServer) -> None:
    handle = prepexec(session, "@P1 int", "SELECT @P1", number(1)).returned["@handle"]
    kept = Kept()
    session.run(
        "SET LOCK_TIMEOUT 5; SET NOCOUNT ON; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; USE master", kept
    )
    session.run("EXEC sp_getapplock 'r', 'Exclusive', 'Session'; BEGIN TRAN; DELETE FROM abakan.dbo.t", kept)
    assert kept.errors == []
    session.reset(keep_transaction=False)
    session.run("SELECT @@TRANCOUNT, @@LOCK_TIMEOUT, DB_NAME()", kept)
    assert kept.answer[-1] == (0, -1, "abakan")
    assert (session.isolation, session.no_count) == ("READ COMMITTED", False)
    assert server.execute("abakan", "SELECT count(*) FROM t") == [(2,)]
    assert call(session, EXECUTE, parameter(number(int(str(handle)))), parameter(number(1))).errors == [8179]
    with closing(Session(server, 80, "sa", server.database("abakan"))) as other:
        other.run("EXEC sp_getapplock 'r', 'Exclusive', 'Session', 0", kept := Kept())
        assert kept.returns == 0


def test_long_messages_are_cut(session: Session) -> None:
    said: list[str] = []
    kept = Kept()
    kept.message = lambda message: said.append(message.message)  # type: ignore[method-assign]
    session.run("DECLARE @m varchar(max) = REPLICATE(CAST('a' AS varchar(max)), 9000); PRINT @m", kept)
    session.run("DECLARE @m nvarchar(max) = REPLICATE(N'a', 4000); RAISERROR(@m, 16, 1)", kept)
    assert [len(each) for each in said] == [8000, 2047]
    assert said[1].endswith("aaa...")


def test_a_char_in_utf8_has_its_length_in_octets(session: Session) -> None:
    kept = Kept()
    utf8 = "COLLATE Latin1_General_100_CI_AS_SC_UTF8"
    session.run(f"CREATE TABLE utf (id int, c char(6) {utf8}, v varchar(6) {utf8})", kept)
    session.run("INSERT INTO utf VALUES (1, N'яя', N'яяя'), (2, N'a', N'')", kept)
    session.run(
        "SELECT c, v, CAST(c AS char(3)), CAST(v AS varchar(3)), CAST(v AS varchar(8)) FROM utf ORDER BY id",
        kept,
    )
    assert kept.answer == [("яя  ", "яяя", "я ", "я", "яяя"), ("a     ", "", "a  ", "", "")]
    session.run("INSERT INTO utf VALUES (3, N'яяяя', N'')", kept)
    assert kept.errors == [2628]


def test_a_datetimeoffset_of_null_stays_null(session: Session) -> None:
    kept = Kept()
    session.run("CREATE TABLE o (a datetimeoffset(7), b datetimeoffset(3), c nvarchar(40))", kept)
    session.run("INSERT INTO o VALUES (NULL, NULL, NULL)", kept)
    session.run("INSERT INTO o (b, a) SELECT a, b FROM o", kept)
    session.run(
        "SELECT CAST(a AS datetimeoffset(2)), CAST(c AS datetimeoffset), b FROM o WHERE b IS NULL", kept
    )
    assert (kept.errors, kept.answer) == ([], [(None, None, None)] * 2)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("int", "date"), ("int", "datetime2"), ("float", "time"), ("datetime2", "int"), ("date", "bigint"),
        ("datetimeoffset", "float"), ("time", "date"), ("date", "time"),
    ],
)  # fmt: skip
def test_moments_are_no_numbers(session: Session, one: str, other: str) -> None:
    kept = Kept()
    session.run(f"DECLARE @a {one}; SELECT CAST(@a AS {other})", kept)
    session.run(f"CREATE TABLE m (x {other})", kept)
    session.run(f"DECLARE @a {one}; INSERT INTO m VALUES (@a)", kept)
    session.run("DROP TABLE m", kept)
    assert kept.errors == [529, 206]


@pytest.mark.parametrize(("kind", "most"), [("money", "922337203685477.5807"), ("smallmoney", "214748.3647")])
def test_money_has_its_bounds(session: Session, kind: str, most: str) -> None:
    kept = Kept()
    session.run(f"SELECT CAST({most} AS {kind})", kept)
    assert (str(kept.answer[0][0]), kept.errors) == (most, [])
    session.run(f"SELECT CAST({most} + 0.0001 AS {kind})", kept)
    session.run(f"SELECT CAST(-{most} - 0.0002 AS {kind})", kept)
    session.run(f"SELECT TRY_CAST({most} + 0.0001 AS {kind})", kept)
    assert (kept.errors, kept.answer[-1]) == ([8115, 8115], (None,))


def test_a_word_that_begins_a_batch_is_a_procedure_with_arguments(session: Session) -> None:
    said: list[str] = []
    kept = Kept()
    kept.message = lambda message: said.append(f"{message.number}: {message.message}")  # type: ignore[method-assign]
    session.run("SELEC database_id, name FROM sys.databases", kept)
    session.run("SELEC a, 'b'", kept)
    assert said == [
        "156: Incorrect syntax near the keyword 'FROM'.",
        "2812: Could not find stored procedure 'selec'.",
    ]


@pytest.mark.parametrize("way", ["EXEC('{}')", "EXEC sp_executesql N'{}'"])
def test_what_a_batch_inside_sets_ends_with_it(session: Session, way: str) -> None:
    inner = (
        "SET LOCK_TIMEOUT 5; USE master; SET NOCOUNT, XACT_ABORT ON; SET TRANSACTION ISOLATION LEVEL SNAPSHOT"
    )
    kept = Kept()
    session.run(f"{way.format(inner)}; SELECT @@LOCK_TIMEOUT, DB_NAME()", kept)
    assert (kept.errors, kept.answer) == ([], [(-1, "abakan")])
    assert (session.no_count, session.xact_abort, session.isolation) == (False, False, "READ COMMITTED")


@pytest.mark.parametrize("way", ["EXEC('SELECT @x')", "EXEC sp_executesql N'SELECT @x'"])
def test_a_batch_inside_does_not_see_the_variables_outside(session: Session, way: str) -> None:
    kept = Kept()
    session.run(f"DECLARE @x int = 1; {way}", kept)
    assert kept.errors == [137]


@pytest.mark.parametrize("provider", ["", "mssql-odbc"], ids=["odbc", "rust"])
def test_parameters_of_a_real_driver_come_back(provider: str) -> None:
    skip_without_driver()
    with TdsServer(databases=("abakan",)) as fresh:
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.mssql_parameters", str(fresh.port)],
            env={**os.environ, PROVIDER: provider},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    *wrong, pooled, end = done.stdout.splitlines() or ["", done.stderr[-2000:]]
    assert wrong == []
    # The one session, and as it was after its login.
    assert (pooled, end) == ("abakan -1 51", "done"), done.stderr
