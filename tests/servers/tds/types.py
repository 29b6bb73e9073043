"""SQL Server's types: how they are declared, described and stored here.

Ids, lengths and precisions as in sys.types; https://learn.microsoft.com/sql/t-sql/data-types/data-types-transact-sql
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .errors import error

LATIN = "SQL_Latin1_General_CP1_CI_AS"
CYRILLIC = "Cyrillic_General_CI_AS"
UTF8 = "Latin1_General_100_CI_AS_SC_UTF8"
#: Collation: code page for Python, and the five bytes of MS-TDS 2.2.5.1.2 (LCID and flags, version, sort id).
COLLATIONS: dict[str, tuple[str, bytes]] = {
    LATIN: ("cp1252", bytes.fromhex("0904d00034")),
    "Latin1_General_CI_AS": ("cp1252", bytes.fromhex("0904d00000")),
    "Latin1_General_BIN2": ("cp1252", bytes.fromhex("0904200200")),
    CYRILLIC: ("cp1251", bytes.fromhex("1904d00000")),
    "Thai_CI_AS": ("cp874", bytes.fromhex("1e04d00000")),
    UTF8: ("utf-8", bytes.fromhex("0904d02400")),
    # Flags fBinary2 and fUTF8, version 100.
    "Latin1_General_100_BIN2_UTF8": ("utf-8", bytes.fromhex("0904002600")),
}
_MAX = -1
INTEGERS = ("bit", "tinyint", "smallint", "int", "bigint")
DECIMALS = ("decimal", "numeric", "money", "smallmoney")
FLOATS = ("float", "real")
CODED = ("char", "varchar", "text")
WIDE = ("nchar", "nvarchar", "ntext", "sysname")
TEXTS = (*CODED, *WIDE)
BINARIES = ("binary", "varbinary", "image", "timestamp")
MOMENTS = ("date", "time", "smalldatetime", "datetime", "datetime2", "datetimeoffset")
CLR = ("hierarchyid", "geometry", "geography")
#: Every type from the highest precedence to the lowest: an expression of two types has the first of them.
PRECEDENCE = (
    *CLR, "sql_variant", "xml", "datetimeoffset", "datetime2", "datetime", "smalldatetime", "date", "time", "float",
    "real", "decimal", "numeric", "money", "smallmoney", "bigint", "int", "smallint", "tinyint", "bit", "ntext", "text",
    "image", "timestamp", "uniqueidentifier", "sysname", "nvarchar", "nchar", "varchar", "char", "varbinary", "binary",
)  # fmt: skip
#: system_type_id, user_type_id, max_length, precision; None where it depends on the declaration.
_FACTS: dict[str, tuple[int, int, int | None, int]] = {
    "image": (34, 34, 16, 0),
    "text": (35, 35, 16, 0),
    "uniqueidentifier": (36, 36, 16, 0),
    "date": (40, 40, 3, 10),
    "time": (41, 41, None, 8),
    "datetime2": (42, 42, None, 19),
    "datetimeoffset": (43, 43, None, 26),
    "tinyint": (48, 48, 1, 3),
    "smallint": (52, 52, 2, 5),
    "int": (56, 56, 4, 10),
    "smalldatetime": (58, 58, 4, 16),
    "real": (59, 59, 4, 24),
    "money": (60, 60, 8, 19),
    "datetime": (61, 61, 8, 23),
    "float": (62, 62, 8, 53),
    "sql_variant": (98, 98, 8016, 0),
    "ntext": (99, 99, 16, 0),
    "bit": (104, 104, 1, 1),
    "decimal": (106, 106, None, 0),
    "numeric": (108, 108, None, 0),
    "smallmoney": (122, 122, 4, 10),
    "bigint": (127, 127, 8, 19),
    "geometry": (240, 129, _MAX, 0),
    "geography": (240, 130, _MAX, 0),
    "hierarchyid": (240, 128, 892, 0),
    "varbinary": (165, 165, None, 0),
    "varchar": (167, 167, None, 0),
    "binary": (173, 173, None, 0),
    "char": (175, 175, None, 0),
    "timestamp": (189, 189, 8, 0),
    "nvarchar": (231, 231, None, 0),
    "sysname": (231, 256, 256, 0),
    "nchar": (239, 239, None, 0),
    "xml": (241, 241, _MAX, 0),
}
_SCALES = {"datetime": 3, "money": 4, "smallmoney": 4}
_STORED = {
    "bit": "BOOLEAN",
    "tinyint": "UTINYINT",
    "smallint": "SMALLINT",
    "int": "INTEGER",
    "bigint": "BIGINT",
    "money": "DECIMAL(19,4)",
    "smallmoney": "DECIMAL(10,4)",
    "float": "DOUBLE",
    "real": "FLOAT",
    "date": "DATE",
    "smalldatetime": "TIMESTAMP",
    "datetime": "TIMESTAMP",
    "datetimeoffset": "STRUCT(t BIGINT, o SMALLINT)",
    "uniqueidentifier": "UUID",
    "sql_variant": "STRUCT(b VARCHAR, v VARCHAR)",
    "xml": "VARCHAR",
}
_SYNONYMS = {
    "integer": "int",
    "dec": "decimal",
    "rowversion": "timestamp",
    "character": "char",
    "national character": "nchar",
    "char varying": "varchar",
}


@dataclass(frozen=True)
class SqlType:
    """A declared type. `length` counts what the declaration counts, -1 is max; `collation` is a text's."""

    name: str
    length: int = 0
    precision: int = 0
    scale: int = 0
    collation: str | None = None

    @property
    def declared(self) -> str:
        """The type as system_type_name writes it."""
        if self.name in ("char", "varchar", "nchar", "nvarchar", "binary", "varbinary"):
            return f"{self.name}({'max' if self.length == _MAX else self.length})"
        if self.name in ("decimal", "numeric"):
            return f"{self.name}({self.precision},{self.scale})"
        if self.name in ("time", "datetime2", "datetimeoffset"):
            return f"{self.name}({self.scale})"
        return "nvarchar(128)" if self.name == "sysname" else self.name

    @property
    def is_text(self) -> bool:
        """Whether it holds characters."""
        return self.name in TEXTS

    @property
    def is_number(self) -> bool:
        """Whether one can calculate with it."""
        return self.name in INTEGERS or self.name in DECIMALS or self.name in FLOATS

    @property
    def has_ticks(self) -> bool:
        """Whether it is stored as a count of 100 ns: DuckDB's own types hold six digits."""
        return self.scale == 7 and self.name in ("time", "datetime2")

    @property
    def octets(self) -> int:
        """sys.columns.max_length."""
        fixed = _FACTS[self.name][2]
        if fixed is not None:
            return fixed
        if self.name in ("nchar", "nvarchar"):
            return self.length if self.length == _MAX else 2 * self.length
        if self.name in ("decimal", "numeric"):
            return 5 + 4 * sum(self.precision > step for step in (9, 19, 28))
        if self.name in ("time", "datetime2", "datetimeoffset"):
            return self.time_octets + {"time": 0, "datetime2": 3, "datetimeoffset": 5}[self.name]
        return self.length

    @property
    def time_octets(self) -> int:
        """The bytes of a time of this scale on the wire and on disk."""
        return 3 + (self.scale > 2) + (self.scale > 4)

    @property
    def digits(self) -> tuple[int, int]:
        """sys.columns.precision and scale."""
        precision = self.precision or _FACTS[self.name][3]
        if self.name in ("time", "datetime2", "datetimeoffset"):
            return precision + (self.scale + 1 if self.scale else 0), self.scale
        return precision, _SCALES.get(self.name, self.scale)

    @property
    def ids(self) -> tuple[int, int]:
        """system_type_id and user_type_id."""
        return _FACTS[self.name][:2]

    @property
    def stored(self) -> str:
        """DuckDB's type for it."""
        if self.name in _STORED:
            return _STORED[self.name]
        if self.name in TEXTS:
            return "VARCHAR"
        if self.name in ("decimal", "numeric"):
            return f"DECIMAL({self.precision},{self.scale})"
        if self.has_ticks:
            return "BIGINT"
        return {"time": "TIME", "datetime2": "TIMESTAMP"}.get(self.name, "BLOB")

    @property
    def codec(self) -> str:
        """Python's name of the code page of a char, varchar or text."""
        return COLLATIONS[self.collation or LATIN][0]

    def collated(self, collation: str | None) -> SqlType:
        """The same with this collation, where it holds characters."""
        return replace(self, collation=collation) if self.name in TEXTS else self


def declare(name: str, arguments: tuple[int, ...] = (), *, cast: bool = False, ordinal: int = 1) -> SqlType:
    """The type of a declaration; -1 among the arguments is `max`. Raises 2715, 243 in a CAST, for no type."""
    low = _SYNONYMS.get(name.lower(), name.lower())
    if low not in _FACTS:
        raise error(243, name) if cast else error(2715, ordinal, name)
    if low in ("char", "varchar", "nchar", "nvarchar", "binary", "varbinary"):
        length = arguments[0] if arguments else (30 if cast else 1)
        collation = LATIN if low in TEXTS else None
        most = 4000 if low.startswith("n") else 8000
        if length > most or length == 0 or (length == _MAX and not low.startswith(("var", "nvar"))):
            raise error(102, length if length != _MAX else "max")
        return SqlType(low, length, collation=collation)
    if low in ("decimal", "numeric"):
        precision, scale = (*arguments, *(18, 0)[len(arguments) :])[:2]
        if not 1 <= precision <= 38 or not 0 <= scale <= precision:
            raise error(102, precision)
        return SqlType(low, precision=precision, scale=scale)
    if low in ("time", "datetime2", "datetimeoffset"):
        scale = arguments[0] if arguments else 7
        if not 0 <= scale <= 7:
            raise error(102, scale)
        return SqlType(low, scale=scale)
    if low == "float" and arguments and arguments[0] <= 24:
        return SqlType("real")
    return SqlType(low, collation=LATIN if low in TEXTS else None)


INT = SqlType("int")
BIGINT = SqlType("bigint")
BIT = SqlType("bit")
FLOAT = SqlType("float")
DATETIME = SqlType("datetime")
SYSNAME = SqlType("sysname", collation=LATIN)


def varchar(length: int) -> SqlType:
    """varchar(length), as long as it may be; -1 is max."""
    return SqlType("varchar", length if length == _MAX else max(1, min(length, 8000)), collation=LATIN)


def nvarchar(length: int) -> SqlType:
    """nvarchar(length), as long as it may be; -1 is max."""
    return SqlType("nvarchar", length if length == _MAX else max(1, min(length, 4000)), collation=LATIN)


def numeric(precision: int, scale: int, name: str = "numeric") -> SqlType:
    """A decimal of a calculated precision: beyond 38 the scale gives way, to 6 at least.

    https://learn.microsoft.com/sql/t-sql/data-types/precision-scale-and-length-transact-sql
    """
    if precision > 38:
        whole = precision - scale
        scale = max(min(scale, 38 - whole), min(scale, 6))
        precision = 38
    return SqlType(name, precision=precision, scale=scale)


def higher(left: SqlType, right: SqlType) -> SqlType:
    """The type of the two with the higher precedence, wide enough for both."""
    first, second = sorted((left, right), key=lambda each: PRECEDENCE.index(each.name))
    if first.name in ("decimal", "numeric"):
        other = as_decimal(second)
        scale = max(first.scale, other.scale)
        whole = max(first.precision - first.scale, other.precision - other.scale)
        return numeric(whole + scale, scale, first.name)
    if first.name in ("datetime2", "datetimeoffset", "time"):
        return replace(first, scale=max(first.scale, second.digits[1] if second.name in MOMENTS else 0))
    if first.length and second.length:
        if _MAX in (first.length, second.length):
            return replace(first, length=_MAX)
        return replace(first, length=max(first.length, second.length))
    return first


def as_decimal(kind: SqlType) -> SqlType:
    """The decimal that an exact number is calculated as."""
    precision, scale = (
        kind.digits if kind.is_number and kind.name not in FLOATS else (kind.precision or 18, kind.scale)
    )
    return SqlType("decimal", precision=precision, scale=scale)
