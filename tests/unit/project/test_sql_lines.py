"""From what a server says of a statement to a line of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from dwhctl.core.errors import TargetRefusedError
from dwhctl.project.query import at_statement, named_line
from dwhctl.project.templates import place_of

SQL = "SELECT id,\n       amuont\nFORM dbo.Orders\nWHERE start_time >= :start\n  AND start_time < :end"


@pytest.mark.parametrize(
    ("message", "told", "line"),
    [
        ("SQL Server 207: Invalid column name 'amuont'.", None, 2),
        ("SQL Server 102: Incorrect syntax near 'FORM'.", 1, 3),
        ('Syntax error at or near "FORM" at character 24 (SQLSTATE 42601, error 4856)', None, 3),
        ("Catalog Error: Table with name dbo.Orders does not exist!", None, 3),
        # Several lines have it: the server's own line decides, but a first line does not.
        ("Incorrect syntax near 'start_time'.", 5, 5),
        ("Incorrect syntax near 'start_time'.", 1, None),
        ("Incorrect syntax near 'start_time'.", None, None),
        # Part of a word is another word, and a proposal is not what is wrong.
        ('Column "amu" does not exist', None, None),
        ('Column "x" does not exist! Did you mean "amuont"?', None, None),
        ("Divide by zero error encountered.", 3, None),
        ("an unclosed ' and \"", 2, None),
    ],
)
def test_a_line_is_told_only_where_it_has_what_the_message_names(
    message: str, told: int | None, line: int | None
) -> None:
    assert named_line(SQL, message, told) == line


@pytest.mark.parametrize(
    ("template", "rendered", "line", "expected"),
    [
        (SQL, SQL, 3, " (line 3)"),
        # A comment of the template is a line of the file; the statement begins after it.
        (f"{{# who wrote it #}}\n\n{SQL}\n", f"\n\n{SQL}\n", 3, " (line 5)"),
        ("SELECT {{ a }}\nFORM {{ b }}\nx", "SELECT 1\nFORM 2\nx", 2, " (line 2)"),
        # A loop that made one line of three, above and below of which lines are as they were.
        (
            "SELECT id\n{% for c in 'abc' %}, {{ c }}\n{% endfor %}\nFORM t",
            "SELECT id\n, a\n, b\n, c\n\nFORM t",
            6,
            " (line 4)",
        ),
        (
            "SELECT id\n{% for c in 'abc' %}, {{ c }}\n{% endfor %}\nFORM t",
            "SELECT id\n, a\n, b\n, c\n\nFORM t",
            3,
            " (line 3 of the SQL that `dwhctl render x` shows)",
        ),
        (SQL, SQL, None, ""),
    ],
)
def test_a_line_goes_back_through_the_rendering_where_that_is_certain(
    tmp_path: Path, template: str, rendered: str, line: int | None, expected: str
) -> None:
    path = tmp_path / "sql" / "extract.sql"
    path.parent.mkdir()
    path.write_text(template)
    found = place_of(path, tmp_path, rendered, rendered.strip(), line, "`dwhctl render x`")
    assert found == f"sql/extract.sql{expected}"


def test_of_a_file_that_is_gone_no_line_is_told(tmp_path: Path) -> None:
    assert place_of(tmp_path / "gone.sql", tmp_path, SQL, SQL, 3) == "gone.sql"


def test_an_error_keeps_its_statement() -> None:
    with pytest.raises(TargetRefusedError) as caught, at_statement(SQL):
        raise TargetRefusedError('Column "amuont" does not exist')
    assert (caught.value.statement, caught.value.line) == (SQL, 2)
