"""What pymssql's errors mean. The texts are those that pymssql 2.4.6 gave over the wire."""

from __future__ import annotations

import pymssql
import pytest

from dwhctl.core.errors import AttemptError, DatabaseMissingError, QueryError, SourceBusyError, SourceError
from dwhctl.core.secrets import MASKED, remember
from dwhctl.systems.mssql.errors import is_refused_login, read, refused, translate_error, unreached

SEE = (
    "DB-Lib error message 20018, severity {}:\nGeneral SQL Server error: Check messages from the SQL Server\n"
)
FAILED = "DB-Lib error message 20002, severity 9:\nTDS server connection failed (127.0.0.1)\n"
CLOSED = (
    "DB-Lib error message 20009, severity 9:\nUnable to connect: TDS server is unavailable or does not exist"
    " (127.0.0.1)\nNet-Lib error during Connection refused (111)\n"
)
HUNG = (
    "DB-Lib error message 20003, severity 6:\nTDS server connection timed out (127.0.0.1)\n"
    "Operating System error during Operation now in progress (115)\n"
)


def at_login(number: int, text: str) -> pymssql.Error:
    return pymssql.OperationalError((number, text.encode()))


def of_query(number: int, words: str, severity: int = 16) -> pymssql.Error:
    text = f"{words}{SEE.format(severity)}".encode()
    return pymssql.OperationalError(number, text)


@pytest.mark.parametrize(
    ("number", "severity", "kind"),
    [
        *((number, 15, QueryError) for number in (102, 156)),
        *(
            (number, 16, QueryError)
            for number in (207, 208, 241, 242, 245, 8114, 8115, 8134, 4104, 11513, 2812)
        ),
        *((number, 14, QueryError) for number in (229, 230)),
        # A number that nobody wrote down goes by its severity.
        (49999, 16, QueryError),
        (49999, 17, SourceError),
        (49999, 24, SourceError),
        (1205, 13, SourceError),
        (1222, 16, SourceError),
        *((number, 16, SourceError) for number in (3960, 3961, 601, 41302, 40501, 40613, 10928)),
        *((number, 17, SourceError) for number in (701, 802, 8645, 8651)),
        (596, 21, SourceError),
        *((number, 14, SourceBusyError) for number in (921, 922, 924, 927, 952)),
        *((number, 16, DatabaseMissingError) for number in (911, 942, 945)),
        (916, 14, DatabaseMissingError),
    ],
)
def test_an_error_of_a_query(number: int, severity: int, kind: type[AttemptError]) -> None:
    error = translate_error(of_query(number, "Something is\nwrong.", severity))
    assert type(error) is kind
    assert str(error) == f"SQL Server {number}: Something is wrong."


@pytest.mark.parametrize("number", [20003, 20004, 20006, 20017, 20047])
def test_a_broken_connection_is_transient(number: int) -> None:
    error = translate_error(
        pymssql.OperationalError(number, f"DB-Lib error message {number}, severity 9:\nIt is gone\n".encode())
    )
    assert type(error) is SourceError
    assert str(error) == f"SQL Server broke off: It is gone (DB-Library {number})"


def test_a_dead_connection_is_transient() -> None:
    assert type(translate_error(pymssql.InterfaceError("Not connected to any MS SQL server"))) is SourceError


@pytest.mark.parametrize("stale", [0, 18456, 17809])
def test_a_stale_number_at_login_is_not_believed(stale: int) -> None:
    for text, why in (
        (CLOSED, "Connection refused (DB-Library 20009)"),
        (HUNG + FAILED, "no answer within 5 s (DB-Library 20003, 20002)"),
    ):
        said = read(at_login(stale, text))
        assert said.number is None
        assert not said.hidden
        assert not is_refused_login(said)
        assert unreached(said, 5) == why


def test_a_message_that_the_driver_keeps_to_itself_is_known_to_be_hidden() -> None:
    said = read(at_login(18456, SEE.format(14) + FAILED))
    assert said.hidden
    assert said.number is None


def test_a_message_that_is_there_has_its_own_number() -> None:
    said = read(at_login(18456, f"Login failed for user 'sa'.{SEE.format(14)}{FAILED}"))
    assert not said.hidden
    assert is_refused_login(said)
    assert said.words == "Login failed for user 'sa'."
    starting = read(
        at_login(18401, f"Login failed. Reason: Server is in script upgrade mode.{SEE.format(14)}")
    )
    assert not is_refused_login(starting)
    assert unreached(starting, 5).startswith("SQL Server 18401: ")


def test_no_text_holds_a_secret_or_a_second_line() -> None:
    remember("hunter2_x")
    error = translate_error(of_query(207, "Invalid column name\n'hunter2_x'."))
    assert str(error) == f"SQL Server 207: Invalid column name '{MASKED}'."
    said = read(at_login(18456, f"hunter2_x{SEE.format(14)}"))
    shown = str(refused("mssql_0", "server a:1433, database hunter2_x,", "sa", said))
    assert "hunter2_x" not in shown
    assert refused("mssql_0", "server a:1433", "sa", None).connection == "mssql_0"


def test_a_long_message_is_cut() -> None:
    assert len(str(translate_error(of_query(208, "x" * 5000)))) < 500
