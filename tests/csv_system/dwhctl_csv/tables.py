"""A table as a CSV file: a header that declares the types, then the rows.

A cell of the header is `<name>:<type>`, then `DEFAULT <literal>`, `NOT NULL`, `UNIQUE` as far as the column has them; a
colon or backslash in a name has a backslash before it. NULL is an empty field without quotes, an empty text is "".
The file is UTF-8. A value is never rounded or cut to fit its type: it is refused by file, column and value.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset as ds

from dwhctl.core.columns import Column, Kind
from dwhctl.core.errors import TargetRefusedError, ValueRefusedError
from dwhctl.core.sql import literal, quote_name
from dwhctl.systems.base.system import SourceType

#: DuckDB's types that a table may have, beside DECIMAL(p,s).
KINDS: dict[str, tuple[Kind, pa.DataType]] = {
    "BOOLEAN": (Kind.BOOLEAN, pa.bool_()),
    "TINYINT": (Kind.INTEGER, pa.int8()),
    "SMALLINT": (Kind.INTEGER, pa.int16()),
    "INTEGER": (Kind.INTEGER, pa.int32()),
    "BIGINT": (Kind.INTEGER, pa.int64()),
    "UTINYINT": (Kind.INTEGER, pa.uint8()),
    "USMALLINT": (Kind.INTEGER, pa.uint16()),
    "UINTEGER": (Kind.INTEGER, pa.uint32()),
    "UBIGINT": (Kind.INTEGER, pa.uint64()),
    "FLOAT": (Kind.FLOAT, pa.float32()),
    "DOUBLE": (Kind.FLOAT, pa.float64()),
    "VARCHAR": (Kind.TEXT, pa.string()),
    "UUID": (Kind.UUID, pa.string()),
    "BLOB": (Kind.BINARY, pa.binary()),
    "DATE": (Kind.DATE, pa.date32()),
    "TIME": (Kind.TIME, pa.time64("us")),
    "TIMESTAMP": (Kind.TIMESTAMP, pa.timestamp("us")),
    "TIMESTAMP_S": (Kind.TIMESTAMP, pa.timestamp("s")),
    "TIMESTAMP_MS": (Kind.TIMESTAMP, pa.timestamp("ms")),
    "TIMESTAMP_NS": (Kind.TIMESTAMP, pa.timestamp("ns")),
    "TIMESTAMP WITH TIME ZONE": (Kind.TIMESTAMPTZ, pa.timestamp("us", tz="UTC")),
}
_SYNONYMS = {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE", "INT": "INTEGER", "TEXT": "VARCHAR"}
_DECIMAL = re.compile(r"DECIMAL\((\d+), ?(\d+)\)")
#: Texts that DuckDB would round, cut or move to become a value of the type.
_WHOLE = {"TIMESTAMP_S": 0, "TIMESTAMP_MS": 3, "TIMESTAMP_NS": 9}
_CELL = re.compile(
    r"(?P<name>(?:[^:\\]|\\.)*):(?P<type>.*?)(?: DEFAULT (?P<default>.*?))?"
    r"(?P<required> NOT NULL)?(?P<unique> UNIQUE)?",
    re.DOTALL,
)
_SIMPLE = r"(?:[+-]?[\w.]+|'(?:[^']|'')*')"
_DEFAULT = re.compile(rf"{_SIMPLE}|CAST\({_SIMPLE} AS [A-Z_ ]+(?:\(\d+, ?\d+\))?\)")
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?", re.ASCII)
_OWN_SCHEMAS = ("information_schema", "pg_catalog", "system", "temp", "memory")
#: The most octets of a row: Arrow reads a file in blocks of this size.
_BLOCK = 4 * 2**20


class TableError(Exception):
    """A table's file, name or declaration is wrong; the message says which."""


def name_problem(table: str) -> str | None:
    """Return why a table can have no file, or None."""
    if not _NAME.fullmatch(table):
        return "it becomes the name of a file: use letters, digits and _, with at most one dot"
    if table.lower().partition(".")[0] in _OWN_SCHEMAS:
        return f"the schema {table.partition('.')[0]} is DuckDB's own; choose another"
    return None


@dataclass(frozen=True, slots=True)
class Declared:
    """A declared column of a table; `type` is DuckDB's name of it, `default` a literal in SQL."""

    name: str
    type: str
    default: str | None = None
    nullable: bool = True
    unique: bool = False

    @property
    def column(self) -> Column | None:
        """The column; None when no Column describes its type."""
        return column(self.name, self.type, nullable=self.nullable)

    @property
    def cell(self) -> str:
        """The cell of the header. Raise TableError for a column that it cannot declare."""
        if "\n" in self.name or "\r" in self.name:
            raise TableError(f"column {self.name!r}: a name cannot have a line break here")
        if self.default is not None and not _DEFAULT.fullmatch(self.default):
            raise TableError(f"column {self.name}: a DEFAULT can only be a literal here")
        name = self.name.replace("\\", "\\\\").replace(":", "\\:")
        return f"{name}:{self._rest}"

    @property
    def ddl(self) -> str:
        """The column for a CREATE TABLE."""
        return f"{quote_name(self.name)} {self._rest}"

    @property
    def _rest(self) -> str:
        default = "" if self.default is None else f" DEFAULT {self.default}"
        return f"{self.type}{default}{'' if self.nullable else ' NOT NULL'}{' UNIQUE' if self.unique else ''}"


def column(name: str, declared: str, *, nullable: bool = True) -> Column | None:
    """Return a column by DuckDB's name of its type; None for a type without a place."""
    if match := _DECIMAL.fullmatch(declared):
        return Column(name, Kind.DECIMAL, pa.decimal128(int(match[1]), int(match[2])), declared, nullable)
    return Column(name, *KINDS[declared], declared, nullable) if declared in KINDS else None


def source_types() -> list[SourceType]:
    """Return the types for dwhctl's type map."""
    known = [column("c", name) for name in ("DECIMAL(18,2)", *KINDS)]
    return [SourceType(one.declared, one, str(one.kind)) for one in known if one is not None]


def declaration(column: Column) -> str:
    """Return the type that holds the column's values. Raise TargetRefusedError when none does."""
    if column.kind is Kind.DECIMAL and column.type.precision <= 38:
        return f"DECIMAL({column.type.precision},{column.type.scale})"
    for name, (kind, arrow) in KINDS.items():
        if kind is column.kind and arrow == column.type:
            return name
    raise TargetRefusedError(f"column {column.name}: no type of a CSV table holds {column.declared}")


class Table:
    """A table's file, open: also when it is replaced meanwhile, its rows are those of this moment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        try:
            self.columns, self._body = _header(path, self._file)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def rows(self) -> ds.Dataset:
        """Return the rows as texts, in columns `c0`, `c1`, ... Raise TableError for a file that is cut off."""
        names = [f"c{number}" for number in range(len(self.columns))]
        schema = pa.schema([(name, pa.string()) for name in names])
        if self._is_without_rows():
            return ds.dataset(schema.empty_table())
        form = ds.CsvFileFormat(
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            read_options=pyarrow.csv.ReadOptions(column_names=names, skip_rows=1, block_size=_BLOCK),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=schema, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
            ),
        )  # fmt: skip
        return ds.dataset(f"/proc/self/fd/{self._file.fileno()}", schema=schema, format=form)

    def _is_without_rows(self) -> bool:
        self._file.seek(0)
        quotes = octets = 0
        while block := self._file.read(_BLOCK):
            quotes += block.count(b'"')
            octets += len(block)
        if quotes % 2:
            # Arrow would take the rest of the file for one value.
            raise TableError(f"{self.path}: a quote is not closed; the file is cut off")
        return octets == self._body

    def select(self, raw: str) -> str:
        """Return the query of the typed rows, from the name of its rows as texts."""
        values = [_value(self.path.name, number, one) for number, one in enumerate(self.columns)]
        return f"SELECT {', '.join(values)} FROM {raw}"

    def described(self) -> Sequence[Column]:
        """Return the columns. Raise TableError for a type without a place."""
        found = []
        for one in self.columns:
            if (described := one.column) is None:
                raise TableError(f"{self.path.name}: column {one.name}: there is no type {one.type} here")
            found.append(described)
        return found


def _header(path: Path, file: io.BufferedReader) -> tuple[tuple[Declared, ...], int]:
    """Return the declared columns, and the number of octets of the header."""
    line = file.readline(_BLOCK)
    try:
        text = line.decode("utf-8-sig")
        cells = next(csv.reader([text.rstrip("\r\n")], strict=True), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: the header cannot be read: {error}") from error
    if not cells:
        raise TableError(f"{path} has no header; its first line is like id:BIGINT,note:VARCHAR")
    found: dict[str, Declared] = {}
    for cell in cells:
        declared = _declared(path, cell)
        if declared.name.lower() in found:
            raise TableError(f"{path}: column {declared.name} occurs twice")
        found[declared.name.lower()] = declared
    return tuple(found.values()), len(line)


def _declared(path: Path, cell: str) -> Declared:
    match = _CELL.fullmatch(cell)
    if match is None or not match["type"].strip():
        raise TableError(f"{path}: the column {cell!r} has no type; write it as {cell}:VARCHAR")
    declared = match["type"].strip().upper()
    declared = _SYNONYMS.get(declared, declared)
    if match["default"] is not None and not _DEFAULT.fullmatch(match["default"]):
        raise TableError(f"{path}: column {cell!r}: a DEFAULT can only be a literal here")
    name = re.sub(r"\\(.)", r"\1", match["name"])
    return Declared(name, declared, match["default"], match["required"] is None, match["unique"] is not None)


def _value(file: str, number: int, declared: Declared) -> str:
    """Return the SQL of a column's value from its text; a text that is no value of the type is an error."""
    text, name = f"c{number}", quote_name(declared.name)
    if declared.type == "VARCHAR":
        return f"{text} AS {name}"
    cast = f"TRY_CAST({text} AS {declared.type})"
    odd = [f"{cast} IS NULL"]
    if (pattern := _pattern(declared.type)) is not None:
        odd.append(f"NOT regexp_full_match({text}, {literal(pattern)})")
    start = literal(f"{file}: column {declared.name}: the value ")
    message = f"{start} || LEFT({text}, 100) || {literal(f' is not of the type {declared.type}')}"
    return f"CASE WHEN {text} IS NOT NULL AND ({' OR '.join(odd)}) THEN error({message}) ELSE {cast} END AS {name}"


def _pattern(declared: str) -> str | None:
    """Return the pattern of the texts that are values of the type without a change, beside what the cast refuses."""
    kind = KINDS.get(declared, (Kind.DECIMAL, None))[0]
    if kind is Kind.INTEGER:
        return r"[+-]?\d+"
    if match := _DECIMAL.fullmatch(declared):
        return rf"[+-]?\d*(\.\d{{0,{match[2]}}}0*)?"
    if kind is Kind.DATE:
        return r"[^:]*"
    fraction = rf"(\.\d{{0,{_WHOLE.get(declared, 6)}}}0*)?"
    if kind is Kind.TIMESTAMPTZ:
        return rf"-?infinity|[^.]*{fraction}(Z|[+-]\d\d(:?\d\d){{0,2}})"
    if kind is Kind.TIME:
        return rf"[^.+Z-]*{fraction}"
    return rf"[^.+Z]*{fraction}" if kind is Kind.TIMESTAMP else None


class Writer:
    """Writes a new file with a header, then rows as texts; `close` makes it durable."""

    def __init__(self, path: Path, columns: Sequence[Declared]) -> None:
        header = io.StringIO(newline="")
        csv.writer(header, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow(one.cell for one in columns)
        self.path = path
        self._columns = columns
        self._rows = 0
        self._file = path.open("wb")
        self._file.write(header.getvalue().encode())
        schema = pa.schema([(one.name, pa.string()) for one in columns])
        options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="all_valid")
        self._writer = pyarrow.csv.CSVWriter(self._file, schema, write_options=options)
        self._schema = schema

    def write(self, texts: pa.RecordBatch) -> None:
        """Write rows. Raise ValueRefusedError for one that could not be read again."""
        widths = pa.array([2 * len(self._columns)] * texts.num_rows, pa.int64())
        for values in texts.columns:
            widths = pc.add(
                widths, pc.multiply(pc.cast(pc.fill_null(pc.binary_length(values), 0), pa.int64()), 2)
            )
        if texts.num_rows and (most := pc.max(widths).as_py()) >= _BLOCK:
            row = self._rows + pc.index(widths, most).as_py() + 1
            raise ValueRefusedError(
                f"{self.path.name}: row {row} of the slice has more than {_BLOCK // 2:,} octets of text, the most of a"
                " row of a CSV file; leave a column out, or cut it in the extract"
            )
        self._rows += texts.num_rows
        self._writer.write(texts.rename_columns(self._schema.names).cast(self._schema))

    def close(self) -> int:
        """Write everything to disk, and return the size."""
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.tell()
        self._file.close()
        return size

    def discard(self) -> None:
        """Remove the file. Idempotent."""
        self._file.close()
        self.path.unlink(missing_ok=True)


def tables_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the names of the folder's tables, and those of its views, with their files."""
    for path in sorted(folder.iterdir()):
        name = path.name.removesuffix(path.suffix)
        if path.suffix in (".csv", ".sql") and name_problem(name) is None and path.is_file():
            yield name, path
