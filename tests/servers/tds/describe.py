"""sp_describe_first_result_set: the columns that a batch would answer with, without running it.

https://learn.microsoft.com/sql/relational-databases/system-stored-procedures/sp-describe-first-result-set-transact-sql
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from . import statements
from .compile_query import compile_query
from .convert import Typed
from .errors import error
from .lexer import tokens
from .parse_batch import BatchParser, parse
from .scope import Context, Output
from .syntax import Query
from .syntax_statements import Command, Delete, If, Insert, SetVariable, Update
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
    described = first_columns(session, sql, known, temporary=False)
    return _answered(_COLUMNS, [_row(at, each, session) for at, each in enumerate(described, 1)])


def _answered(
    columns: tuple[tuple[str, SqlType, bool], ...], rows: list[dict[str, object]]
) -> tuple[tuple[Output, ...], pa.RecordBatch]:
    outputs = tuple(Output(name, kind, nullable) for name, kind, nullable in columns)
    arrays = [
        pa.array([row.get(name) for row in rows], _ARROW.get(kind.name, pa.string()))
        for name, kind, _ in columns
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


def first_columns(
    session: Session, sql: str, variables: dict[str, Typed], *, temporary: bool = True
) -> tuple[Output, ...]:
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
            columns = compile_query(command.action, context, None).columns
            if not temporary:
                _no_temporary(context, command)
            return columns
    return ()


def _no_temporary(context: Context, command: Command) -> None:
    """Refuse to describe a statement over a temporary table, which is there only when the batch runs: 11526."""
    if any(table.startswith("#") for _, table in context.tables):
        raise error(11526, command.text)


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


_UNDECLARED: tuple[tuple[str, SqlType, bool], ...] = (
    ("parameter_ordinal", INT, False),
    ("name", SYSNAME, False),
    ("suggested_system_type_id", INT, False),
    ("suggested_system_type_name", nvarchar(256), True),
    ("suggested_max_length", _SMALL, False),
    ("suggested_precision", _TINY, False),
    ("suggested_scale", _TINY, False),
    ("suggested_user_type_id", INT, True),
    ("suggested_user_type_database", SYSNAME, True),
    ("suggested_user_type_schema", SYSNAME, True),
    ("suggested_user_type_name", SYSNAME, True),
    ("suggested_assembly_qualified_type_name", nvarchar(4000), True),
    ("suggested_xml_collection_id", INT, True),
    ("suggested_xml_collection_database", SYSNAME, True),
    ("suggested_xml_collection_schema", SYSNAME, True),
    ("suggested_xml_collection_name", SYSNAME, True),
    ("suggested_is_xml_document", BIT, False),
    ("suggested_is_case_sensitive", BIT, False),
    ("suggested_is_fixed_length_clr_type", BIT, False),
    ("suggested_is_input", BIT, False),
    ("suggested_is_output", BIT, False),
    ("formal_parameter_name", SYSNAME, True),
    ("suggested_tds_type_id", INT, False),
    ("suggested_tds_length", INT, False),
)


def undeclared(session: Session, sql: str, declared: str) -> tuple[tuple[Output, ...], pa.RecordBatch]:
    """The answer of sp_describe_undeclared_parameters: a row for each variable that `declared` does not declare.

    Its type is that of the column that it is stored in or compared with; where there is none: 11501.
    https://learn.microsoft.com/sql/relational-databases/system-stored-procedures/sp-describe-undeclared-parameters-transact-sql
    """
    commands = _flat(parse(sql, quoted_identifier=session.quoted_identifier))
    known = {each.name: each.null for each in parameters(declared)}
    known.update({
        each.action.name: Typed(f"CAST(NULL AS {each.action.type.stored})", each.action.type)
        for each in commands
        if isinstance(each.action, SetVariable) and each.action.type is not None
    })  # fmt: skip
    found = {
        each.value: each.text
        for each in tokens(sql)
        if each.kind == "variable" and not each.value.startswith("@@") and each.value not in known
    }
    deduced: dict[str, SqlType] = {}
    context = session.context()
    context.variables = {
        **known,
        **{name: Typed("NULL", INT, null=True, deduce=partial(deduced.setdefault, name)) for name in found},
    }
    for command in commands:
        action = command.action
        if isinstance(action, Query):
            compile_query(action, context, None)
        elif isinstance(action, Insert | Update | Delete):
            made = statements.compile_change(session, action, context)
            context.tables.add(("", made.table.name))
        _no_temporary(context, command)
    if any(name not in deduced for name in found):
        raise error(11501)
    rows = [_suggested(at, text, deduced[name]) for at, (name, text) in enumerate(found.items(), 1)]
    return _answered(_UNDECLARED, rows)


def _suggested(ordinal: int, name: str, kind: SqlType) -> dict[str, object]:
    precision, scale = kind.digits
    return {
        "parameter_ordinal": ordinal,
        "name": name,
        "suggested_system_type_id": kind.ids[0],
        "suggested_system_type_name": kind.declared,
        "suggested_max_length": kind.octets,
        "suggested_precision": precision,
        "suggested_scale": scale,
        "suggested_is_xml_document": 0,
        "suggested_is_case_sensitive": 0,
        "suggested_is_fixed_length_clr_type": 0,
        "suggested_is_input": 1,
        "suggested_is_output": 0,
        "suggested_tds_type_id": kind.ids[0],
        "suggested_tds_length": 65535 if kind.octets == -1 else kind.octets,
    }
