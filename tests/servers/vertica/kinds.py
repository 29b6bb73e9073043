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
    "interval": 14,
    "timetz": 15,
    "intervalym": 114,
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
    # With its offset, which the engine's own type does not hand out.
    "timetz": "VARCHAR",
    "interval": "INTERVAL",
    "intervalym": "INTERVAL",
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
    #: The range of an interval, "day to second".
    span: str = ""

    @property
    def shown(self) -> str:
        """As v_catalog.columns.data_type has it."""
        if self.name == "numeric":
            return f"numeric({self.precision},{self.scale})"
        if self.span:
            return f"interval {self.span}"
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
        if self.span:
            first, _, last = self.span.partition(" to ")
            names = _FIELDS if self.name == "interval" else _YEAR_FIELDS
            used = names[names.index(first) : names.index(last or first) + 1]
            return sum(_MASKS[name] for name in used) | (self.precision or 0)
        if self.name in _TIMES:
            return -1 if self.precision is None else self.precision
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
_FIELDS = ("day", "hour", "minute", "second")
_YEAR_FIELDS = ("year", "month")
#: Bits of an interval's modifier (client: datatypes.py).
_MASKS = {
    "month": 1 << 17, "year": 1 << 18, "day": 1 << 19, "hour": 1 << 26, "minute": 1 << 27, "second": 1 << 28,
}  # fmt: skip
#: Types whose precision is that of their seconds.
_TIMES = ("time", "timetz", "timestamp", "timestamptz")
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
    "TIMETZ": "timetz",
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
    if word == "INTERVAL":
        return _interval(reader)
    name = _ALIASES.get(word)
    if name is None:
        raise VerticaError("42704", 5108, f'Type "{word.lower()}" does not exist')
    if word == "DOUBLE":
        reader.expect("PRECISION")
    # FLOAT(n) is taken, and without effect.
    precision = _seconds(reader)
    return _zoned(name, reader, precision if name in _TIMES else None)


def _seconds(reader: Reader) -> int | None:
    if not reader.op("("):
        return None
    precision = reader.number()
    reader.expect_op(")")
    return precision


def _interval(reader: Reader) -> Kind:
    """INTERVAL [(p)] [field [TO field]] [(p)] (docs: "INTERVAL"); DAY TO SECOND when no field is given."""
    precision = _seconds(reader)
    first = reader.any_word("YEAR", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND").lower() or "day to second"
    span = first
    if first in ("year", "day", "hour", "minute") and reader.words("TO"):
        names = _YEAR_FIELDS if first == "year" else _FIELDS
        last = reader.any_word(*(each.upper() for each in names[names.index(first) + 1 :])).lower()
        if not last:
            raise reader.fail()
        span = f"{first} to {last}"
    if first in _YEAR_FIELDS:
        return Kind("intervalym", precision=0, span=span)
    given = _seconds(reader) if span.endswith("second") else None
    precision = given if given is not None else precision
    if precision is not None and precision > 6:
        raise VerticaError("22023", 4151, f"INTERVAL precision {precision} is out of range")
    return Kind("interval", precision=6 if precision is None else precision, span=span)


def _zoned(name: str, reader: Reader, precision: int | None) -> Kind:
    if name in ("time", "timestamp"):
        if reader.words("WITH", "TIME", "ZONE") or reader.words("WITH", "TIMEZONE"):
            name += "tz"
        elif not reader.words("WITHOUT", "TIME", "ZONE"):
            reader.words("WITHOUT", "TIMEZONE")
    if precision is not None and precision > 6:
        raise VerticaError("22023", 4151, f"{name.upper()} precision {precision} is out of range")
    return Kind(name, precision=precision)


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
    if text.endswith("]") or text.startswith(("STRUCT", "TUPLE", "MAP")):
        raise VerticaError("0A000", 4213, "ARRAY, SET and ROW are not supported by this test server")
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
    "INTERVAL": Kind("interval", precision=6, span="day to second"),
    "BLOB": Kind("varbinary", MOST_OCTETS),
    '"NULL"': UNKNOWN,
}


#: How a type that sqlglot does not know as the original does goes through it: as a type of the user's.
MARKED = "vertica_kind__"


def marked(kind: Kind) -> str:
    """The name of the user's type for a kind."""
    parts = (kind.name, kind.length, kind.precision, kind.span)
    return MARKED + "__".join("" if part is None else str(part).replace(" ", "_") for part in parts)


def unmarked(name: str) -> Kind:
    """The kind of such a name."""
    kind, length, precision, span = name.removeprefix(MARKED).split("__")
    return Kind(
        kind.replace("_", " "),
        int(length) if length else None,
        int(precision) if precision else None,
        None,
        span.replace("_", " "),
    )
