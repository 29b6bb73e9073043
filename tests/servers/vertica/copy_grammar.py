"""The grammar of COPY ... FROM [LOCAL] STDIN and FROM LOCAL files (docs: "COPY", "DELIMITED (Parser)")."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.servers.vertica.kinds import Kind, read_kind
from tests.servers.vertica.lexer import Reader, Sql
from tests.servers.vertica.problems import VerticaError, unsupported


@dataclass
class Format:
    """How fields are written; a column may have its own for some of it."""

    delimiter: str = "|"
    enclosed: str | None = None
    escape: str | None = "\\"
    null: str = ""
    terminator: str = "\n"


@dataclass
class Item:
    """A place in the column list: a column that is read, one that is computed, or a filler."""

    name: str
    expression: str | None = None
    filler: Kind | None = None
    format: str | None = None
    enforce_length: bool = False
    null: str | None = None


@dataclass
class Copy:
    """A COPY as it was written."""

    path: tuple[str, ...]
    items: list[Item] = field(default_factory=list)
    listed: bool = False
    format: Format = field(default_factory=Format)
    enforce_length: bool = False
    abort_on_error: bool = False
    reject_max: int | None = None
    local: bool = False
    #: Files of the client, as the statement has them; none: STDIN.
    files: list[str] = field(default_factory=list)
    rejected_table: tuple[str, ...] | None = None
    #: Files of the client that take rejected records and the reasons.
    rejected_file: str = ""
    exceptions_file: str = ""
    return_rejected: bool = False
    stream: str | None = None
    no_commit: bool = False
    skip: int = 0
    trailing_nulls: bool = False

    def read_items(self) -> list[Item]:
        """The items whose values stand in the input."""
        return [item for item in self.items if item.expression is None]


def read_copy(sql: Sql) -> Copy:
    """Parse a COPY."""
    reader = Reader(sql)
    reader.expect("COPY")
    copy = Copy(reader.path())
    if reader.op("("):
        copy.listed = True
        _items(reader, copy)
    if reader.words("COLUMN", "OPTION"):
        reader.expect_op("(")
        _column_options(reader, copy)
    reader.expect("FROM")
    copy.local = reader.words("LOCAL")
    if not reader.words("STDIN"):
        if not copy.local:
            raise unsupported("COPY from a file of the server")
        copy.files = [reader.string()]
        while reader.op(","):
            copy.files.append(reader.string())
    if reader.any_word("GZIP", "BZIP", "ZSTD", "LZO"):
        raise unsupported("Compressed input")
    reader.words("UNCOMPRESSED")
    while not reader.ended():
        if not any(option(reader, copy) for option in _OPTIONS):
            raise reader.fail()
    _check(copy)
    return copy


def _items(reader: Reader, copy: Copy) -> None:
    while True:
        item = Item(reader.name())
        if reader.words("AS"):
            item.expression = reader.until("FORMAT", "FILLER", "ENFORCELENGTH", "NULL")
        _item_options(reader, item)
        copy.items.append(item)
        if not reader.op(","):
            break
    reader.expect_op(")")


def _column_options(reader: Reader, copy: Copy) -> None:
    while True:
        name = reader.name()
        item = next((each for each in copy.items if each.name.casefold() == name.casefold()), None)
        if item is None:
            item = Item(name)
            copy.items.append(item)
        _item_options(reader, item)
        if not reader.op(","):
            break
    reader.expect_op(")")


def _item_options(reader: Reader, item: Item) -> None:
    while True:
        if reader.words("FILLER"):
            item.filler = read_kind(reader)
        elif reader.words("FORMAT"):
            item.format = reader.string().lower()
        elif reader.words("ENFORCELENGTH"):
            item.enforce_length = True
        elif reader.words("NULL"):
            reader.words("AS")
            item.null = reader.string()
        elif reader.any_word("DELIMITER", "ENCLOSED", "ESCAPE", "TRIM"):
            raise unsupported("This option for a single column")
        else:
            return


def _character(reader: Reader, least: int) -> str:
    value = reader.string()
    if len(value) != 1 or not least <= ord(value) <= 127:
        raise VerticaError("22023", 2738, f"COPY: a single ASCII character is needed, not {value!r}")
    return value


def _parsing(reader: Reader, copy: Copy) -> bool:
    form = copy.format
    if reader.words("DELIMITER"):
        reader.words("AS")
        form.delimiter = _character(reader, 0)
    elif reader.words("ENCLOSED"):
        reader.words("BY")
        form.enclosed = _character(reader, 1)
    elif reader.words("ESCAPE"):
        reader.words("AS")
        form.escape = _character(reader, 1)
    elif reader.words("NO", "ESCAPE"):
        form.escape = None
    elif reader.words("NULL"):
        reader.words("AS")
        form.null = reader.string()
    elif reader.words("RECORD", "TERMINATOR"):
        form.terminator = reader.string()
    elif reader.words("TRAILING", "NULLCOLS"):
        copy.trailing_nulls = True
    elif reader.words("SKIP"):
        copy.skip = reader.number()
    elif reader.words("TRIM"):
        raise VerticaError("22023", 2739, "COPY: TRIM is for the FIXEDWIDTH parser")
    else:
        return False
    return True


def _handling(reader: Reader, copy: Copy) -> bool:
    if reader.words("ENFORCELENGTH"):
        copy.enforce_length = True
    elif reader.words("ABORT", "ON", "ERROR"):
        copy.abort_on_error = True
    elif reader.words("REJECTMAX"):
        copy.reject_max = reader.number()
    elif reader.words("REJECTED", "DATA"):
        if reader.words("AS", "TABLE"):
            copy.rejected_table = reader.path()
        else:
            copy.rejected_file = reader.string()
    elif reader.words("EXCEPTIONS"):
        copy.exceptions_file = reader.string()
    elif reader.words("RETURNREJECTED"):
        copy.return_rejected = True
    elif reader.words("STREAM", "NAME"):
        copy.stream = reader.string()
    elif reader.words("NO", "COMMIT"):
        copy.no_commit = True
    elif reader.any_word("DIRECT", "AUTO", "TRICKLE"):
        # Taken and without effect since there is no write-optimised store any more (docs: "Load methods").
        pass
    else:
        return False
    return True


_OPTIONS = (_parsing, _handling)


def _check(copy: Copy) -> None:
    form = copy.format
    if copy.return_rejected and (copy.rejected_file or copy.exceptions_file):
        raise VerticaError(
            "0A000",
            2742,
            "COPY LOCAL does not support rejected row numbers with exceptions or rejected data options",
        )
    if not copy.local and (copy.rejected_file or copy.exceptions_file):
        raise unsupported("A file of the server for rejected records")
    if form.delimiter == form.null:
        raise VerticaError("22023", 2737, "COPY: DELIMITER and NULL must differ")
    special = [each for each in (form.delimiter, form.enclosed, form.escape) if each is not None]
    if len(set(special)) != len(special):
        raise VerticaError("22023", 2740, "COPY: DELIMITER, ENCLOSED BY and ESCAPE must differ")
    if not form.terminator:
        raise VerticaError("22023", 2741, "COPY: RECORD TERMINATOR is empty")
    for item in copy.items:
        if item.format not in (None, "hex", "octal"):
            raise unsupported(f"FORMAT '{item.format}'")
