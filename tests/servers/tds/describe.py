"""sp_describe_first_result_set: the columns that a batch would answer with, without running it.

https://learn.microsoft.com/sql/relational-databases/system-stored-procedures/sp-describe-first-result-set-transact-sql
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from .compile_query import compile_query
from .convert import Typed
from .errors import error
from .parse_batch import BatchParser, parse
from .scope import Output
from .syntax import Query
from .syntax_statements import Command, If, SetVariable
from .types import BIT, CLR, INT, LATIN, SYSNAME, SqlType, nvarchar

if TYPE_CHECKING:
    from .session import Session

_SMALL, _TINY, _BIG = SqlType("smallint"), SqlType("tinyint"), SqlType("bigint")
_NAME = nvarchar(128)
_ARROW = {
    "bit": pa.uint8(),
    "int": pa.int32(),
    "smallint": pa.int16(),
    "tinyint": pa.uint8(),
    "bigint": pa.int64(),
}
_COLUMNS: tuple[tuple[str, SqlType, bool], ...] = (
    ("is_hidden", BIT, False),
    ("column_ordinal", INT, False),
    ("name", SYSNAME, True),
    ("is_nullable", BIT, False),
    ("system_type_id", INT, False),
    ("system_type_name", nvarchar(256), True),
    ("max_length", _SMALL, False),
    ("precision", _TINY, False),
    ("scale", _TINY, False),
    ("collation_name", SYSNAME, True),
    ("user_type_id", INT, True),
    ("user_type_database", SYSNAME, True),
    ("user_type_schema", SYSNAME, True),
    ("user_type_name", SYSNAME, True),
    ("assembly_qualified_type_name", nvarchar(4000), True),
    ("xml_collection_id", INT, True),
    ("xml_collection_database", SYSNAME, True),
    ("xml_collection_schema", SYSNAME, True),
    ("xml_collection_name", SYSNAME, True),
    ("is_xml_document", BIT, False),
    ("is_case_sensitive", BIT, False),
    ("is_fixed_length_clr_type", BIT, False),
    ("source_server", SYSNAME, True),
    ("source_database", SYSNAME, True),
    ("source_schema", SYSNAME, True),
    ("source_table", SYSNAME, True),
    ("source_column", SYSNAME, True),
    ("is_identity_column", BIT, True),
    ("is_part_of_unique_key", BIT, True),
    ("is_updateable", BIT, True),
    ("is_computed_column", BIT, True),
    ("is_sparse_column_set", BIT, True),
    ("ordinal_in_order_by_list", _SMALL, True),
    ("order_by_is_descending", _SMALL, True),
    ("order_by_list_length", _SMALL, True),
    ("tds_type_id", INT, False),
    ("tds_length", INT, False),
    ("tds_collation_id", INT, True),
    ("tds_collation_sort_id", _TINY, True),
)


def describe(
    session: Session, given: list[tuple[str | None, str | None]]
) -> tuple[tuple[Output, ...], pa.RecordBatch]:
    """The answer of the procedure: a row for each column."""
    sql = next(
        (value for name, value in given if name == "@tsql"),
        given[0][1] if given and not given[0][0] else None,
    )
    if sql is None:
        raise error(201, "sp_describe_first_result_set", "@tsql")
    declared = next((value for name, value in given if name == "@params"), None)
    if declared is None and len(given) > 1 and given[1][0] is None:
        declared = given[1][1]
    known = {each.name: each.null for each in parameters(declared or "")}
    described = first_columns(session, sql, known)
    outputs = tuple(Output(name, kind, nullable) for name, kind, nullable in _COLUMNS)
    rows = [_row(at, each, session) for at, each in enumerate(described, 1)]
    arrays = [
        pa.array([row.get(name) for row in rows], _ARROW.get(kind.name, pa.string()))
        for name, kind, _ in _COLUMNS
    ]
    return outputs, pa.RecordBatch.from_arrays(arrays, names=[f"c{at}" for at in range(len(arrays))])


@dataclass(frozen=True)
class Parameter:
    """A parameter of a statement."""

    name: str
    type: SqlType
    output: bool = False

    @property
    def null(self) -> Typed:
        """NULL in its place."""
        return Typed(f"CAST(NULL AS {self.type.stored})", self.type)


def parameters(declared: str) -> list[Parameter]:
    """The parameters of `@a int, @b datetime2(7) OUTPUT`."""
    if not declared.strip():
        return []
    parser = BatchParser(declared)

    def one() -> Parameter:
        token = parser.take()
        if token.kind != "variable":
            raise token.near()
        parser.word("AS")
        kind = parser.type_name(ordinal=len(found) + 1)
        if any(each.name == token.value for each in found):
            raise error(134, token.text)
        found.append(Parameter(token.value, kind, parser.word("OUTPUT") or parser.word("OUT")))
        return found[-1]

    found: list[Parameter] = []
    parser.listed(one)
    if parser.next.kind != "end":
        raise parser.next.near()
    return found


def first_columns(session: Session, sql: str, variables: dict[str, Typed]) -> tuple[Output, ...]:
    """The columns of the first statement that answers with rows; none where no statement does."""
    commands = _flat(parse(sql, quoted_identifier=session.quoted_identifier))
    known = dict(variables)
    for command in commands:
        if isinstance(command.action, SetVariable) and command.action.type is not None:
            kind = command.action.type
            known[command.action.name] = Typed(f"CAST(NULL AS {kind.stored})", kind)
        if isinstance(command.action, Query):
            context = session.context()
            context.variables = known
            return compile_query(command.action, context, None).columns
    return ()


def _flat(commands: list[Command] | tuple[Command, ...]) -> list[Command]:
    found: list[Command] = []
    for command in commands:
        if isinstance(command.action, If):
            found.extend(_flat((*command.action.then, *command.action.otherwise)))
        else:
            found.append(command)
    return found


def _row(ordinal: int, column: Output, session: Session) -> dict[str, object]:
    kind = column.type
    is_clr = kind.name in CLR
    precision, scale = kind.digits
    system_type, user_type = kind.ids
    return {
        "is_hidden": 0,
        "column_ordinal": ordinal,
        "name": column.name,
        "is_nullable": int(column.nullable),
        "system_type_id": system_type,
        "system_type_name": None if is_clr else kind.declared,
        "max_length": kind.octets,
        "precision": precision,
        "scale": scale,
        "collation_name": (kind.collation or LATIN) if kind.is_text else None,
        "user_type_id": user_type if is_clr or kind.name == "sysname" else None,
        "user_type_database": "master" if is_clr else None,
        "user_type_schema": "sys" if is_clr else None,
        "user_type_name": kind.name if is_clr or kind.name == "sysname" else None,
        "is_xml_document": 0,
        "is_case_sensitive": 0,
        "is_fixed_length_clr_type": 0,
        "is_identity_column": int(column.identity),
        "is_updateable": 1,
        "is_computed_column": 0,
        "is_sparse_column_set": 0,
        "tds_type_id": system_type,
        "tds_length": kind.octets,
        "tds_collation_id": 13632521 if kind.is_text else None,
        "tds_collation_sort_id": 52 if kind.is_text else None,
    }
