"""Vertica's types: how a statement, the catalog, the wire and the engine call them."""

from __future__ import annotations

from dataclasses import dataclass

from tests.servers.vertica.lexer import Reader
from tests.servers.vertica.problems import VerticaError

#: Most octets of CHAR, VARCHAR, BINARY and VARBINARY, and of their LONG sisters (docs: "Character Data Types").
MOST_OCTETS = 65_000
MOST_LONG_OCTETS = 32_000_000
#: Beyond it the engine holds a numeric as text: its own decimals end here.
ENGINE_DIGITS = 38

_OIDS = {
    "unknown": 4,
    "boolean": 5,
    "int": 6,
    "float": 7,
    "char": 8,
    "varchar": 9,
    "date": 10,
    "time": 11,
    "timestamp": 12,
    "timestamptz": 13,
    "numeric": 16,
    "varbinary": 17,
    "uuid": 20,
    "long varchar": 115,
    "long varbinary": 116,
    "binary": 117,
}
_ENGINE = {
    "unknown": "VARCHAR",
    "boolean": "BOOLEAN",
    "int": "BIGINT",
    "float": "DOUBLE",
    "char": "VARCHAR",
    "varchar": "VARCHAR",
    "long varchar": "VARCHAR",
    "date": "DATE",
    "time": "TIME",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMPTZ",
    "uuid": "UUID",
    "varbinary": "BLOB",
    "long varbinary": "BLOB",
    "binary": "BLOB",
}
_SIZES = {"boolean": 1, "uuid": 16}


@dataclass(frozen=True)
class Kind:
    """A type: `length` in octets, for strings and binaries."""

    name: str
    length: int | None = None
    precision: int | None = None
    scale: int | None = None

    @property
    def shown(self) -> str:
        """As v_catalog.columns.data_type has it."""
        if self.name == "numeric":
            return f"numeric({self.precision},{self.scale})"
        return self.name if self.length is None else f"{self.name}({self.length})"

    @property
    def engine(self) -> str:
        """DuckDB's type for it."""
        if self.name == "numeric":
            fits = self.precision is not None and self.precision <= ENGINE_DIGITS
            return f"DECIMAL({self.precision},{self.scale})" if fits else "VARCHAR"
        return _ENGINE[self.name]

    @property
    def oid(self) -> int:
        """Its number on the wire."""
        return _OIDS[self.name]

    @property
    def modifier(self) -> int:
        """Its modifier on the wire: what vertica_python.datatypes takes precision, scale and length from."""
        if self.name == "numeric" and self.precision is not None and self.scale is not None:
            return ((self.precision << 16) | self.scale) + 4
        return -1 if self.length is None else self.length + 4

    @property
    def size(self) -> int:
        """Its length on the wire: 65,535 says variable."""
        if self.is_text or self.is_binary or self.name in ("numeric", "unknown"):
            return -1
        return _SIZES.get(self.name, 8)

    @property
    def octets(self) -> int:
        """v_catalog.columns.data_type_length."""
        if self.name == "numeric":
            return (((self.precision or 1) // 19) + 1) * 8
        return self.length if self.length is not None else _SIZES.get(self.name, 8)

    @property
    def is_text(self) -> bool:
        """Whether it holds characters."""
        return self.name in ("char", "varchar", "long varchar")

    @property
    def is_binary(self) -> bool:
        """Whether it holds octets."""
        return self.name in ("binary", "varbinary", "long varbinary")


INT = Kind("int")
UNKNOWN = Kind("unknown")
_ALIASES = {
    "INT": "int",
    "INTEGER": "int",
    "BIGINT": "int",
    "SMALLINT": "int",
    "TINYINT": "int",
    "INT8": "int",
    "FLOAT": "float",
    "FLOAT8": "float",
    "REAL": "float",
    "DOUBLE": "float",
    "BOOLEAN": "boolean",
    "BOOL": "boolean",
    "DATE": "date",
    "TIME": "time",
    "TIMESTAMP": "timestamp",
    "DATETIME": "timestamp",
    "SMALLDATETIME": "timestamp",
    "TIMESTAMPTZ": "timestamptz",
    "UUID": "uuid",
}
_STRINGS = {
    "VARCHAR": ("varchar", 80),
    "CHAR": ("char", 1),
    "CHARACTER": ("char", 1),
    "VARBINARY": ("varbinary", 80),
    "BYTEA": ("varbinary", 80),
    "RAW": ("varbinary", 80),
    "BINARY": ("binary", 1),
}
_NUMERICS = {"NUMERIC": (37, 15), "DECIMAL": (37, 15), "NUMBER": (38, 0), "MONEY": (18, 4)}


def read_kind(reader: Reader) -> Kind:
    """Take a type from a statement."""
    if reader.words("LONG"):
        return _long(reader)
    word = reader.name().upper()
    if word in _STRINGS:
        return _string(word, reader)
    if word in _NUMERICS:
        return _numeric(word, reader)
    name = _ALIASES.get(word)
    if name is None:
        raise VerticaError("42704", 5108, f'Type "{word.lower()}" does not exist')
    if word == "DOUBLE":
        reader.expect("PRECISION")
    if reader.op("("):
        # FLOAT(n) and TIMESTAMP(n): taken, and without effect here.
        reader.number()
        reader.expect_op(")")
    return _zoned(name, reader)


def _zoned(name: str, reader: Reader) -> Kind:
    if name in ("time", "timestamp"):
        if reader.words("WITH", "TIME", "ZONE") or reader.words("WITH", "TIMEZONE"):
            name += "tz"
        elif not reader.words("WITHOUT", "TIME", "ZONE"):
            reader.words("WITHOUT", "TIMEZONE")
    if name == "timetz":
        raise VerticaError("0A000", 4213, "TIMETZ is not supported by this test server")
    return Kind(name)


def _long(reader: Reader) -> Kind:
    word = reader.any_word("VARCHAR", "VARBINARY")
    if not word:
        raise reader.fail()
    length = _length(reader, 1_048_576, MOST_LONG_OCTETS)
    return Kind("long " + word.lower(), length)


def _string(word: str, reader: Reader) -> Kind:
    if word == "CHARACTER" and reader.words("VARYING"):
        word = "VARCHAR"
    if word == "BINARY" and reader.words("VARYING"):
        word = "VARBINARY"
    name, default = _STRINGS[word]
    return Kind(name, _length(reader, default, MOST_OCTETS))


def _length(reader: Reader, default: int, most: int) -> int:
    length = default
    if reader.op("("):
        length = reader.number()
        reader.words("OCTETS")
        reader.expect_op(")")
    if not 1 <= length <= most:
        raise VerticaError("22023", 4800, f"Length for type must be between 1 and {most}")
    return length


def _numeric(word: str, reader: Reader) -> Kind:
    precision, scale = _NUMERICS[word]
    if reader.op("("):
        precision, scale = reader.number(), 0
        if reader.op(","):
            scale = reader.number()
        reader.expect_op(")")
    if not (1 <= precision <= 1024 and 0 <= scale <= precision):
        raise VerticaError("22023", 4151, f"NUMERIC precision {precision}, scale {scale} is out of range")
    return Kind("numeric", None, precision, scale)


def of_engine(text: str) -> Kind:
    """The type of an expression, by what DuckDB says it is."""
    if text.startswith("DECIMAL("):
        precision, scale = text[8:-1].split(",")
        return Kind("numeric", None, int(precision), int(scale))
    return _BY_ENGINE.get(text, Kind("varchar", MOST_OCTETS))


_BY_ENGINE = {
    **dict.fromkeys(("BIGINT", "INTEGER", "SMALLINT", "TINYINT", "HUGEINT", "UINTEGER", "UBIGINT"), INT),
    **dict.fromkeys(("USMALLINT", "UTINYINT"), INT),
    "DOUBLE": Kind("float"),
    "FLOAT": Kind("float"),
    "BOOLEAN": Kind("boolean"),
    "DATE": Kind("date"),
    "TIME": Kind("time"),
    "TIMESTAMP": Kind("timestamp"),
    "TIMESTAMP_S": Kind("timestamp"),
    "TIMESTAMP_MS": Kind("timestamp"),
    "TIMESTAMP WITH TIME ZONE": Kind("timestamptz"),
    "UUID": Kind("uuid"),
    "BLOB": Kind("varbinary", MOST_OCTETS),
    '"NULL"': UNKNOWN,
}
